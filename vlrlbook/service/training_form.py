"""What a request for training may set: names, ranges and choices; types, defaults and help are chapter 05's.

Not in the form, and so not to be set by strangers: paths, addresses, module names, `output_dir`,
`trust_remote_code`, keys. Written by hand, not exported from a notebook."""
from dataclasses import fields as dataclass_fields
from typing import Any, NamedTuple

from ..settings import GRPOSettings, by_task, presets, settings_help

__all__ = ["tiny_models", "hub_models", "FormField", "form_fields", "also_called", "not_offered", "said_here",
           "labels", "chapter_05", "request_form"]

# The models that a server of each size trains: a path or another name of the Hub would be code of strangers.
tiny_models = ["tiny-qwen2_5_vl", "tiny-qwen2_vl", "tiny-qwen3_vl", "tiny-qwen3_5", "tiny-gemma3",
               "tiny-aria"]
hub_models = ["Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2-VL-2B-Instruct",
              "Qwen/Qwen3-VL-2B-Instruct", "rhymes-ai/Aria"]


class FormField(NamedTuple):
    "One name that a request may use, and the values that it may have"
    setting: str  # the name in chapter 05's `GRPOSettings`
    minimum: float | None = None  # smallest number; None for what is no number
    maximum: float | None = None  # largest number: what more would cost is never wanted by anybody
    choices: list | dict | None = None  # the only values there are; a dict has a list for each size of server


# The names are the counting system's. group in a request → name in that group → field
form_fields = {
    "training_config": {
        "model": FormField("model", choices={"tiny": tiny_models, "gpu": hub_models}),
        "num_epochs": FormField("num_epochs", 1, 1000),
        "max_steps": FormField("max_steps", 1, 1_000_000),
        "learning_rate": FormField("lr", 1e-8, 1.0),
        "batch_size": FormField("batch_size", 1, 1024),
        "gradient_accumulation_steps": FormField("gradient_accumulation_steps", 1, 1024),
        "num_generations": FormField("num_generations", 2, 64),
        "temperature": FormField("temperature", 0.01, 5.0),
        "top_p": FormField("top_p", 0.01, 1.0),
        "top_k": FormField("top_k", 0, 1_000_000),
        "min_p": FormField("min_p", 0.0, 1.0),
        "use_4bit": FormField("use_4bit"),
        "max_image_size": FormField("max_image_size", 28, 4096),
        "system_prompt": FormField("system_prompt"),
        "seed": FormField("seed", 0, 2**32 - 1),  # NumPy takes no larger one
        "max_completion_length": FormField("max_completion_length", 1, 4096),
        # A list and no free text: chapter 05 takes `module:function` too, which would run any code there is.
        "reward_function": FormField("reward", choices=["counting", "0.8*verbatim + 0.2*counting",
                                                        "0.9*counting + 0.1*format"]),
        "loss_type": FormField("loss_type", choices=["grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo"]),
        "beta": FormField("beta", 0.0, 10.0),
        "epsilon": FormField("epsilon", 0.01, 1.0),
        "epsilon_high": FormField("epsilon_high", 0.01, 100.0),
        "importance_sampling_level": FormField("importance_sampling_level", choices=["token", "sequence"]),
        "scale_rewards": FormField("scale_rewards", choices=["group", "batch", "none"]),
        "when_cut": FormField("when_cut", choices=["paid", "masked"]),
        "lr_scheduler_type": FormField(
            "lr_scheduler_type", choices=["linear", "cosine", "constant", "constant_with_warmup"]),
        "warmup_steps": FormField("warmup_steps", 0, 100_000),
        "optim": FormField(
            "optim", choices=["adamw_torch_fused", "adamw_torch", "adamw_8bit", "adafactor", "sgd"]),
        "weight_decay": FormField("weight_decay", 0.0, 1.0),
        "max_grad_norm": FormField("max_grad_norm", 0.0, 1000.0),
        "gradient_checkpointing": FormField("gradient_checkpointing"),
        "refill": FormField("refill", 0, 16),
        "eval_samples": FormField("eval_samples", 1, 100_000),
        "eval_answers": FormField("eval_answers", 1, 64),
        "eval_steps": FormField("eval_steps", 0, 100_000),
        "warm_steps": FormField("warm_steps", 1, 10_000),
        "logging_steps": FormField("logging_steps", 1, 10_000),
        "save_steps": FormField("save_steps", 0, 100_000)},
    "lora_config": {
        "r": FormField("lora_r", 1, 1024),
        "lora_alpha": FormField("lora_alpha", 1, 8192),
        "lora_dropout": FormField("lora_dropout", 0.0, 0.95),
        "lora_vision": FormField("lora_vision")}}

# What the page calls a field, where its name in words would not say it to somebody who never trained a model
labels = {
    "num_epochs": "Passes over the data",
    "max_steps": "Training steps",
    "batch_size": "Answers at a time",
    "gradient_accumulation_steps": "Times before each step",
    "num_generations": "Answers to each question",
    "temperature": "How varied the answers are",
    "top_p": "Words considered, by share",
    "top_k": "Words considered, by number",
    "min_p": "Words considered, by likelihood",
    "use_4bit": "Save memory (4-bit weights)",
    "max_image_size": "Largest picture side",
    "system_prompt": "What the system says first",
    "seed": "Number that fixes chance",
    "max_completion_length": "Longest answer",
    "reward_function": "What is rewarded",
    "loss_type": "Form of the loss",
    "beta": "Hold to the first model (KL)",
    "epsilon": "Largest change of a step (clip)",
    "epsilon_high": "Largest change upwards",
    "importance_sampling_level": "What the clip looks at",
    "scale_rewards": "How rewards are scaled",
    "when_cut": "Answers that were cut off",
    "optim": "Optimizer",
    "weight_decay": "Weight decay",
    "max_grad_norm": "Longest gradient",
    "gradient_checkpointing": "Save memory (compute twice)",
    "eval_steps": "Steps between looks at new pictures",
    "lora_vision": "Train the eyes too",
    "lr_scheduler_type": "How the learning rate goes down",
    "warmup_steps": "Steps until the full learning rate",
    "refill": "Rounds to replace silent groups",
    "eval_samples": "Pictures to measure on",
    "eval_answers": "Answers to each of them",
    "warm_steps": "Steps of the start before",
    "logging_steps": "Steps between two points of a curve",
    "save_steps": "Steps between two checkpoints",
    "r": "Size of the adapter (rank)",
    "lora_alpha": "Strength of the adapter",
    "lora_dropout": "Share left out at random"}

# Names that clients of other libraries write → the form's name for the same setting
also_called = {"num_train_epochs": "num_epochs", "lr": "learning_rate", "alpha": "lora_alpha",
               "dropout": "lora_dropout", "lora_r": "r"}

# Settings of chapter 05 that a client may well look for, and why a request cannot have them: an upload is a
# counting set, and its results, its page and its questions to a finished run are those of counting.
_by_command = ("this service trains task counting on counting ZIPs; "
               "other tasks run with `vlrlbook grpo --task`")
not_offered = {"task": _by_command,
               "max_looks": f"the tool zoom belongs to task zoom, and {_by_command}"}

# Settings for which a request has fewer choices than chapter 05, whose help text would promise too much here
said_here = {"model": "Which model is trained",
             "reward": "What an answer is paid for: chapter 02's staircase, the truth to the letter with a "
                       "fifth of the staircase, or nine tenths of the staircase and a tenth for the form"}


def chapter_05(
) -> dict:  # parameters: name → (type, default, help); presets and by_task as chapter 05 has them
    """Return what chapter 05 defines about its settings: types, defaults, help, and values of the presets.

    They are read from its code, so that the form holds no copy that could go out of date."""
    help_texts = settings_help(GRPOSettings)  # name → the comment behind the setting
    parameters = {}
    for field in dataclass_fields(GRPOSettings):
        kind: Any = field.type  # a class: no annotation there is a text
        parameters[field.name] = (kind.__name__, field.default, help_texts[field.name])
    return dict(parameters=parameters, presets=presets, by_task=by_task)


def request_form(
    size: str = "tiny",  # tiny or gpu: the models that the server trains
) -> dict:  # group → list of {name, type, default, minimum, maximum, choices, help}
    """Return the fields that a request for training may set, as GET /settings shows them.

    The groups are training_config and lora_config. Defaults are those of the preset for `size`."""
    # Its `parameters` (types, defaults, help), and the values of its presets: by size, and by task and size.
    chapter = chapter_05()
    # This service trains the task counting, whose own values win over those of the size.
    preset = chapter["presets"][size] | chapter["by_task"]["counting"][size]
    # A run's length is given by max_steps or by num_epochs: the form shows the one that the preset uses, and
    # leaves the other empty. A max_steps below 0 means: by num_epochs.
    if preset["max_steps"] < 0:
        preset = preset | dict(max_steps=None)
    elif preset["max_steps"] > 0:
        preset = preset | dict(num_epochs=None)
    form = {}
    for group, fields in form_fields.items():
        form[group] = []
        for name, field in fields.items():
            form[group].append(_shown_field(name, field, size, preset, chapter["parameters"]))
    return form


def _shown_field(name, field, size, preset, parameters):
    """Return one field of the form as a client sees it.

    `field` is a `FormField`; `parameters` are chapter 05's: setting → (type, default, help)."""
    type_name, default, help_text = parameters[field.setting]
    choices = field.choices
    if isinstance(choices, dict):  # a list for each size of server
        choices = choices[size]
    return dict(
        name=name,
        label=labels.get(name) or name.replace("_", " ").capitalize(),
        type=type_name,
        # Chapter 05's own default is None for each setting that the presets define.
        default=preset.get(field.setting, default),
        minimum=field.minimum,
        maximum=field.maximum,
        choices=choices,
        # A few settings have fewer choices here than in chapter 05, and so a help text of their own.
        help=said_here.get(field.setting, help_text))

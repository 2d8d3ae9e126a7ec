"""What a request for training may set: names, ranges and choices; types, defaults and help are chapter 05's.

Each task of chapter 05 has a form of its own, with its defaults, its rewards and the data that it can have.
Not in the form, and so not to be set by strangers: paths, addresses, module names, `output_dir`,
`trust_remote_code`, keys. Written by hand, not exported from a notebook."""
from dataclasses import fields as dataclass_fields
from typing import Any, NamedTuple

from ..settings import GRPOSettings, by_task, presets, settings_help

__all__ = ["tiny_models", "hub_models", "reward_choices", "task_labels", "kind_of_task", "FormField",
           "form_fields", "also_called", "said_here", "labels", "chapter_05", "request_form", "tasks_of",
           "choices_of"]

# The models that a server of each size trains: a path or another name of the Hub would be code of strangers.
tiny_models = ["tiny-qwen2_5_vl", "tiny-qwen2_vl", "tiny-qwen3_vl", "tiny-qwen3_5", "tiny-gemma3",
               "tiny-aria"]
hub_models = ["Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2-VL-2B-Instruct",
              "Qwen/Qwen3-VL-2B-Instruct", "rhymes-ai/Aria"]

# What task zoom cannot train: TRL 1.16 hands a tool's picture to Qwen's families only.
_models_without_zoom = ("tiny-gemma3", "tiny-aria", "rhymes-ai/Aria")

# Task → the rewards that can be chosen for it. A list and no free text: chapter 05 takes `module:function`
# too, which would run any code there is. What is left out would train something else than the task's own
# marks measure, such as `point` (a point in place of a box) or `looks` (a call that nobody needed).
reward_choices = {
    "counting": ["counting", "0.8*verbatim + 0.2*counting", "0.9*counting + 0.1*format"],
    "vqa": ["vqa", "accuracy", "0.9*f1 + 0.1*format", "0.9*anls + 0.1*format"],
    "pointing": ["pointing", "0.9*pointing + 0.1*box_format"],
    "zoom": ["zoom"]}

# What the page calls a task
task_labels = {
    "counting": "Counting: how many?",
    "vqa": "Questions: yes, no, a word",
    "pointing": "Pointing: where? (boxes)",
    "zoom": "Zoom: how many, looking twice"}

# Task → the kind of upload that it trains on, a key of `archive.zip_kinds`; None: on drawn pictures alone.
# Rows of VQA have no picture or several, options, several accepted answers: more than a ZIP's table can hold.
kind_of_task = {"counting": "counting", "vqa": None, "pointing": "pointing", "zoom": "counting"}


class FormField(NamedTuple):
    "One name that a request may use, and the values that it may have"
    setting: str  # the name in chapter 05's `GRPOSettings`
    minimum: float | None = None  # smallest number; None for what is no number
    maximum: float | None = None  # largest number: what more would cost is never wanted by anybody
    # The only values there are; a dict has a list for each size of server, or for each task.
    choices: list | dict | None = None
    tasks: tuple | None = None  # that have this field; None: all


# The names are the counting system's. group in a request → name in that group → field
form_fields = {
    "training_config": {
        "task": FormField("task", choices=list(by_task)),
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
        "max_looks": FormField("max_looks", 0, 3, tasks=("zoom",)),  # a card has three colours for looks
        "reward_function": FormField("reward", choices=reward_choices),
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
    "task": "What it learns",
    "max_looks": "Second looks in an answer",
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

# Settings for which a request has fewer choices than chapter 05, whose help text would promise too much here
said_here: dict = {"model": "Which model is trained",
             # By task, since each has other choices.
             "reward": {
                 "counting": "What an answer is paid for: chapter 02's staircase, the truth to the letter "
                             "with a fifth of the staircase, or nine tenths of the staircase and a tenth for "
                             "the form",
                 "vqa": "What an answer is paid for: the right answer with a tenth for the form (vqa), the "
                        "right answer alone, or words (f1) or letters (anls) in common with it",
                 "pointing": "What an answer is paid for: the overlap of its boxes with the true ones (IoU), "
                             "or nine tenths of it and a tenth for the form",
                 "zoom": "What an answer is paid for: the right count, to the letter, less a tenth for each "
                         "look"}}


def chapter_05(
) -> dict:  # parameters: name → (type, default, help); presets: size → values; by_task: task → size → values
    """Return what `settings` defines of a GRPO run: types, defaults, help, and values of the presets.

    They are read from its code, so that the form for a training request repeats none of them."""
    help_texts = settings_help(GRPOSettings)  # name → the comment behind the setting
    parameters = {}
    for field in dataclass_fields(GRPOSettings):
        kind: Any = field.type  # a class such as float; `Any`: for mypy it might also be a string
        parameters[field.name] = (kind.__name__, field.default, help_texts[field.name])
    return dict(parameters=parameters, presets=presets, by_task=by_task)


def request_form(
    size: str = "tiny",  # tiny or gpu: the models that the server trains
    task: str = "counting",  # what is trained: counting, vqa, pointing or zoom
) -> dict:  # group → list of {name, type, default, minimum, maximum, choices, help and more}
    """Return the fields that a request for training may set, as GET /settings shows them.

    The groups are training_config and lora_config. Defaults are those of the preset for `size` and `task`."""
    chapter = chapter_05()  # dict of presets, by_task, and parameters: setting → (type, default, help)
    preset = _preset_of(chapter, size, task)
    form = {}
    for group, fields in form_fields.items():
        form[group] = []
        for name, field in fields.items():
            if task in tasks_of(field):
                form[group].append(_shown_field(name, field, size, preset, chapter["parameters"]))
    return form


def tasks_of(
    field: FormField,  # of `form_fields`
) -> tuple:  # such as ("zoom",)
    "Return the tasks that have a field"
    return field.tasks or tuple(by_task)


def choices_of(
    field: FormField,  # of `form_fields`
    size: str,  # tiny or gpu: the models that the server trains
    task: str,  # counting, vqa, pointing or zoom
) -> list | None:
    "Return the values that a field may have on a server of this size and for this task; None: it has a range"
    choices = field.choices
    if isinstance(choices, dict):  # a list for each task, or for each size of server
        choices = choices[task] if task in choices else choices[size]
    if field.setting == "model" and task == "zoom":
        # `or []` is for mypy alone: this field always has choices.
        choices = [model for model in choices or [] if model not in _models_without_zoom]
    return choices


def _preset_of(
    chapter,  # GRPO's values: presets, size → {setting: value}; by_task, task → size → {setting: value}
    size,  # tiny or gpu: the models that the server trains
    task,  # counting, vqa, pointing or zoom
):
    "The values that settings have for a size of server and a task, where a request gives none"
    # The task's own values win over those of the size.
    preset = chapter["presets"][size] | chapter["by_task"][task][size] | dict(task=task)
    # A preset sets the length of a run by max_steps or, where that is -1, by num_epochs. The form shows only
    # the one that it uses. (`GRPOSettings` refuses 0 steps, so no preset has them.)
    unused = "num_epochs" if preset["max_steps"] > 0 else "max_steps"
    return preset | {unused: None}


def _shown_field(
    name,  # of the field, such as learning_rate
    field,  # `FormField`: the setting of `GRPOSettings` (chapter 05), such as lr, its limits or its choices
    size,  # tiny or gpu: the models that the server trains
    preset,  # setting → value for this size and a task; `task` is one of the settings
    parameters,  # of `GRPOSettings`: setting → (type, default, help)
):
    "Return one field of the form as a client sees it, a dict"
    type_name, default_of_chapter, help_of_chapter = parameters[field.setting]
    task = preset["task"]
    return dict(
        name=name,
        label=labels.get(name) or name.replace("_", " ").capitalize(),
        type=type_name,
        # `default_of_chapter` is for settings that are in no preset; for the others it is None.
        default=preset.get(field.setting, default_of_chapter),
        minimum=field.minimum,
        maximum=field.maximum,
        choices=choices_of(field, size, task),
        # Words for the page in place of the values: a task's value, such as vqa, explains nothing.
        choice_labels=task_labels if name == "task" else None,
        help=_help_text(field.setting, task, help_of_chapter))


def _help_text(setting, task, help_of_chapter):
    "The help text of a setting for a task: from `said_here` or, if that has none, `help_of_chapter`"
    # `said_here`: texts of settings for which the service offers fewer choices than `GRPOSettings`, whose
    # help would promise too much.
    help_text = said_here.get(setting, help_of_chapter)
    return help_text[task] if isinstance(help_text, dict) else help_text  # a dict: task → text

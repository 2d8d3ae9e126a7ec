"""A GRPO run's settings as TRL's GRPOConfig, and which columns of TRL's log are kept under which name.

Chapter 05 builds its trainer with them. Read in TRL 1.16 and transformers 5.17 to 5.24. Written by hand, not
exported from a notebook."""
from dataclasses import fields

import torch

from .models import vision_marker_ids
from .settings import GRPOSettings, SettingsError, is_first_process, nearest, whole_groups
from .training import check_schedule

__all__ = ["same_in_trl", "logged_as", "grpo_config", "check_transformers_words", "check_optimizer",
           "checkpointing_name", "end_tokens"]

# Names that TRL's GRPOConfig and `GRPOSettings` share.
same_in_trl = (
    "output_dir", "max_steps", "num_generations", "max_completion_length", "temperature", "top_p", "top_k",
    "min_p", "loss_type", "beta", "epsilon", "epsilon_high", "importance_sampling_level", "scale_rewards",
    "use_bias_correction_kl", "num_iterations", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay",
    "max_grad_norm", "seed", "logging_steps", "use_vllm", "vllm_mode", "vllm_server_base_url",
    "vllm_gpu_memory_utilization", "vllm_tensor_parallel_size", "vllm_max_model_length")

# TRL's name of a logged number → ours.
logged_as = {
    "reward": "reward", "silent": "silent", "silent_left": "silent_left", "extra_answers": "extra_answers",
    "reward_std": "reward_std", "loss": "loss", "kl": "kl", "entropy": "entropy", "grad_norm": "grad_norm",
    # with vLLM: training's probabilities by the engine's
    "sampling/importance_sampling_ratio/mean": "ratio",
    "tools/call_frequency": "calls", "tools/failure_frequency": "calls_refused",
    "completions/mean_length": "length", "completions/clipped_ratio": "cut",
    "clip_ratio/region_mean": "clipped", "learning_rate": "lr", "step_time": "seconds_per_step"}

NEVER = -100.0  # added to the logit of a token that vLLM must not sample: its probability is practically 0


def grpo_config(
    settings: GRPOSettings,  # a checked object
    processor,  # of the model: it knows the tokens that mark a picture, which must not be sampled
):  # trl.GRPOConfig
    "TRL's configuration from ours; SettingsError for an optimizer or a schedule that transformers lacks"
    from trl import GRPOConfig
    s, cuda = settings, torch.cuda.is_available()
    check_transformers_words(s)
    options: dict = {name: getattr(s, name) for name in same_in_trl}  # those with the same name in TRL
    # None, where the user has not chosen: on a GPU only
    checkpointing = cuda if s.gradient_checkpointing is None else s.gradient_checkpointing
    options[checkpointing_name(GRPOConfig)] = checkpointing  # the name depends on transformers' release
    if s.max_looks:
        # One more than calls are allowed: the model reads why a call too many is refused, and can answer.
        options["max_tool_calling_iterations"] = s.max_looks + 1
    return GRPOConfig(
        **options,
        **_renamed_options(s),
        disable_tqdm=True,
        bf16=cuda,
        use_cpu=not cuda,
        # TRL 1.16 gathers pictures from all processes: one that has none does not take part, and the others
        # wait for it.
        log_multimodal=False,
        generation_kwargs=_no_picture_marks(s, processor))


def _renamed_options(s):
    "The settings (`GRPOSettings`) that have another name in TRL's configuration, as a dict with its names"
    # Answers in a forward pass, and forward passes in a step. With shared prompts a pass gets whole groups
    # where possible: the prompt of a group in two passes would be read twice (chapter 07).
    batch_size, accumulation = whole_groups(s)
    return dict(
        learning_rate=s.lr,
        num_train_epochs=s.num_epochs,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        save_strategy="steps" if s.save_steps else "no",
        save_steps=s.save_steps or 500,  # for 0, no checkpoints: transformers' default, then not read
        save_total_limit=2,  # the two latest checkpoints are kept
        report_to=[] if s.report_to == "none" else [s.report_to],
        vllm_enable_sleep_mode=s.vllm_sleep_level > 0)


def _no_picture_marks(settings, processor):
    """Options of generation, by which no token that marks a picture is sampled.

    vLLM's are {"logit_bias": {id: -100}} for each token, transformers' {"suppress_tokens": [ids]}."""
    # After one the model would look for a picture that is not there.
    markers = vision_marker_ids(processor)
    return {"logit_bias": {i: NEVER for i in markers}} if settings.use_vllm else {"suppress_tokens": markers}


def check_transformers_words(
    settings: GRPOSettings,  # a checked object
    tells: bool = True,  # print a line if the warm-up is as long as the run; False: a later call does so
):
    """Raise SettingsError if transformers does not know the optimizer or the schedule of the learning rate

    Also if it cannot make the schedule. For use before a model is loaded: transformers itself refuses these
    only afterwards."""
    from transformers.training_args import OptimizerNames
    optimizers = [str(member.value) for member in OptimizerNames]
    if settings.optim not in optimizers:
        raise SettingsError(f"optim = {settings.optim!r}{nearest(settings.optim, optimizers)}")
    check_schedule(settings.lr_scheduler_type)
    if tells:
        _tell_long_warmup(settings)


def _tell_long_warmup(settings):
    "Print a line where a run ends before its learning rate has come to the full one"
    # No error: a run that began so can be resumed, and a few steps of a longer run may only be tried out.
    warmup, steps = settings.warmup_steps, settings.max_steps
    # These two have no warm-up. `steps` is -1 where the rows and num_epochs decide.
    has_warmup = settings.lr_scheduler_type not in ("constant", "reduce_lr_on_plateau")
    if has_warmup and is_first_process() and 0 < steps <= warmup:
        print(f"warmup_steps = {warmup} with max_steps = {steps}: the run ends before the learning rate is "
              f"lr = {settings.lr:g}")


def check_optimizer(
    arguments,  # `transformers.TrainingArguments`, such as from `grpo_config`
):
    "Raise SettingsError if transformers cannot make the optimizer here, such as for want of a package"
    from transformers import Trainer
    # In 5.17 to 5.24 a static method: the optimizer's class and its arguments. It imports what the optimizer
    # needs, which transformers itself does when the training begins.
    try:
        Trainer.get_optimizer_cls_and_kwargs(arguments)
    except (ImportError, ValueError) as error:
        name = getattr(arguments.optim, "value", arguments.optim)
        on_one_line = " ".join(str(error).split())
        raise SettingsError(f"optim = {str(name)!r} cannot be made here: {on_one_line}") from error


def checkpointing_name(
    config_class,  # a dataclass of training arguments
) -> str:  # "activation_checkpointing" or "gradient_checkpointing"
    "Name that the installed transformers has for gradient checkpointing (recomputing layers to save memory)"
    # transformers 5.24 renamed it; the old name still works, with a warning, and will go in 6
    names = {f.name for f in fields(config_class)}
    return "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"


def end_tokens(
    model,  # with its generation config
    processor,  # of the model
) -> set:  # of token ids
    "Tokens that end an answer; an answer that was cut at the length limit ends with none of them"
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = ends if isinstance(ends, (list, tuple)) else [ends]
    return {token for token in (*ends, processor.tokenizer.eos_token_id) if token is not None}

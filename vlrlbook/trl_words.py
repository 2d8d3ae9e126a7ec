"""A GRPO run's settings as TRL's GRPOConfig, and which columns of TRL's log are kept under which name.

Chapter 05 builds its trainer with them. Read in TRL 1.16 and transformers 5.17 to 5.24. Written by hand, not
exported from a notebook."""
from dataclasses import fields

import torch

from .models import vision_marker_ids
from .settings import GRPOSettings, SettingsError, nearest, whole_groups

__all__ = ["same_in_trl", "logged_as", "grpo_config", "check_transformers_words", "checkpointing_name",
           "end_tokens"]

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
    # Answers in a forward pass, and forward passes in a step: as set, or regrouped into whole groups.
    # A group must not be cut in two by a micro-batch, or its prompt would be read twice (chapter 07).
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
):
    "Raise SettingsError if transformers does not know the optimizer or the schedule of the learning rate"
    from transformers import SchedulerType
    from transformers.training_args import OptimizerNames
    # Here, before the model is loaded; transformers would refuse them only afterwards.
    for name, enum in (("optim", OptimizerNames), ("lr_scheduler_type", SchedulerType)):
        value = getattr(settings, name)
        valid_values = [str(member.value) for member in enum]
        if value not in valid_values:
            raise SettingsError(f"{name} = {value!r}{nearest(value, valid_values)}")


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

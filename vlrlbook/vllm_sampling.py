"""Corrections between TRL's trainer and vLLM, which samples for it: prompts in the form that vLLM expects,
pictures of the size that training uses, a check that both read the same prompt, and a warning where their
probabilities differ.

Written by hand, not exported from a notebook. Read in TRL 1.16 (vllm_generation.py) and vLLM 0.24."""
import json
import math
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from typing import Any

from transformers import TrainerCallback

from .core import warn_loudly
from .settings import SettingsError
from .training import BeforeGRPOTrainer

__all__ = ["ratio_bounds", "unexpanded", "picture_runs", "picture_size", "EnginePrompts", "PicturesForVLLM",
           "RatioWatch"]

# The ratio is a token's probability in training divided by that in vLLM, on average. It should be 1 but for
# rounding. Outside of these bounds the two read different prompts or have different weights, and the loss,
# which is multiplied by the ratio, means nothing.
ratio_bounds = (0.8, 1.25)
_logged_ratio = "sampling/importance_sampling_ratio/mean" # TRL's name


def picture_runs(
    ids: list, # tokens of a prompt in which pictures are expanded
    image_token: int, # that stands for a part of a picture
) -> list: # how many tokens each picture has
    "How many tokens each picture of a prompt takes: the lengths of unbroken runs of the picture token"
    # chat templates put other tokens between two pictures, so each is a run of its own
    return [len(list(run)) for token, run in groupby(ids) if token == image_token]


def unexpanded(
    ids: list, # tokens of a prompt in which pictures are expanded
    image_token: int, # that stands for a part of a picture
    pictures: int, # how many there are
) -> list: # the same with one token for each picture
    """Undo what the processor did: put one token in the place of each picture's run of tokens.

    vLLM expands pictures itself, so it needs the prompt as it was before. SettingsError if the runs of two
    pictures touch: then there are fewer runs than pictures."""
    runs = picture_runs(ids, image_token)
    if len(runs) != pictures:
        raise SettingsError(f"use_vllm: a prompt has {len(runs)} runs of picture tokens and {pictures} "
                            "pictures; a chat template has to put something between two pictures")
    prompt = []
    for token, run in groupby(ids):  # runs of equal tokens
        prompt += [token] if token == image_token else list(run)
    return prompt


def picture_size(
    processor, # of any family
) -> dict: # keyword arguments of its image processor
    "The size limits that training gives a picture, as vLLM's argument `mm_processor_kwargs` takes them"
    images = processor.image_processor
    if hasattr(images, "max_image_size"): # Aria
        return dict(max_image_size=images.max_image_size)
    # `size` holds shortest_edge and longest_edge for Qwen, height and width for Gemma 3. The names that a
    # family does not use are None, and must not be handed to vLLM.
    return dict(size={name: value for name, value in dict(images.size).items() if value is not None})


class EnginePrompts:
    """Replaces vLLM's `generate` where TRL calls it.

    It hands vLLM prompts in which pictures are not expanded, and raises SettingsError where vLLM then reads
    other tokens than training does."""

    def __init__(self,
        generate, # of `vllm.LLM`
        processor, # of the model, as training uses it
    ):
        self.generate = generate
        self.image_token = processor.image_token_id
        self.size = picture_size(processor) # size limits as a dict, sent as `mm_processor_kwargs`

    def __call__(self, prompts, *args, **kwargs):
        "Answers to `prompts`, dicts with prompt_token_ids and, if there are pictures, multi_modal_data"
        outputs = self.generate([self._for_vllm(prompt) for prompt in prompts], *args, **kwargs)
        for prompt, output in zip(prompts, outputs, strict=True):
            self._check_same_tokens(prompt["prompt_token_ids"], list(output.prompt_token_ids))
        return outputs

    def _for_vllm(self, prompt):
        """A prompt as vLLM expects it: one token for each picture, and training's limits of a picture's size.

        `prompt` is a dict of TRL's: prompt_token_ids, with a run of many tokens for each picture, and
        multi_modal_data = {"image": a picture or a list of them}. One without pictures stays as it is."""
        pictures = (prompt.get("multi_modal_data") or {}).get("image")
        if pictures is None:
            return prompt
        count = len(pictures) if isinstance(pictures, list) else 1
        # One token for each run, since vLLM expands it again; for the same number of tokens it needs `size`.
        ids = unexpanded(prompt["prompt_token_ids"], self.image_token, count)
        return prompt | dict(prompt_token_ids=ids, mm_processor_kwargs=self.size)

    def _check_same_tokens(self, training_ids, vllm_ids):
        "Raise SettingsError if vLLM read a prompt as other tokens (a list of ids) than training does"
        if list(training_ids) == vllm_ids:
            return
        of_training = picture_runs(training_ids, self.image_token)  # tokens of each picture
        of_vllm = picture_runs(vllm_ids, self.image_token)
        if of_training != of_vllm:  # the usual cause: other size limits of pictures
            what = f"picture tokens {of_training} and {of_vllm}"
        else:
            what = f"{len(training_ids)} and {len(vllm_ids)} tokens"
        raise SettingsError(f"use_vllm: training and vLLM have read one prompt as {what}, so the answers "
                            "belong to another prompt; has the model's directory another processor?")


class PicturesForVLLM(BeforeGRPOTrainer):
    """Mixin before TRL's GRPOTrainer that makes vLLM read the same prompts and pictures as training.

    It must stand behind any mixin that samples without vLLM. TRL 1.16 hands vLLM prompts whose pictures are
    expanded already, and vLLM expands them once more (16 tokens become 31), so the answers belong to a broken
    prompt and get almost no weight in the loss. If a later TRL hands over prompts that are not expanded, the
    check in `EnginePrompts` stops the first batch, and that class can be removed."""
    vllm_sleep_level = 0  # of a run's settings: 0 stays awake, 1 or 2 frees the GPU while training computes

    def __init__(self, *args, **kwargs):
        "Overrides TRL's (1.16): make the trainer, then replace methods of the vLLM engine that it has made"
        # TRL makes the engine in this block, and does not tell it the model's number type.
        with _engine_dtype_of(kwargs.get("model")):
            super().__init__(*args, **kwargs)
        if not self.use_vllm:  # transformers samples, and no engine was made
            return
        engine: Any = self.vllm_generation
        if engine.mode == "colocate":  # vLLM in this process, on the same GPU
            # Hands vLLM pictures as it expects them, and checks that it reads the tokens that training reads.
            engine.llm.generate = EnginePrompts(engine.llm.generate, self.processing_class)
            # TRL always asks for level 2, which drops the weights; the setting may say 1, which keeps them.
            engine.llm.sleep = _sleep_at_level(engine.llm.sleep, self.vllm_sleep_level)
            # New weights make the picture features that vLLM has cached wrong.
            engine.sync_weights = _clearing_picture_features(engine.sync_weights, engine.llm)
        else:  # a vLLM server, whose picture features are checked to have as many tokens as in training
            engine._place_features = _with_picture_check(engine._place_features, self.processing_class)
        self.add_callback(RatioWatch())  # warns if training and vLLM give tokens different probabilities

    def _generate_single_turn(self, prompt_ids, images, *args, **kwargs):
        """Overrides TRL's (1.16): sample an answer to each prompt; `images` has a list of pictures a row.

        A row without pictures must be None: TRL's code for vLLM reads element 0 of any list."""
        if self.use_vllm and images is not None:
            images = [row or None for row in images]
            images = images if any(images) else None  # None: no row has a picture
        return super()._generate_single_turn(prompt_ids, images, *args, **kwargs)


def _sleep_at_level(sleep, level):
    """vLLM's `sleep` as a function that ignores the level it is called with and uses this one.

    Asleep, vLLM frees the GPU for training: level 1 moves its weights to the CPU, level 2 drops them."""
    def asleep(*args, **kwargs):
        return sleep(level=level)
    return asleep


@contextmanager
def _engine_dtype_of(model):
    "Within a `with` block, a vLLM engine that TRL makes gets the number type of `model`, such as float32"
    # `model`: loaded, or its name; then nothing is changed.
    # TRL 1.16 passes no dtype, and vLLM 0.24 then takes 16 bits for a float32 model, which changes its
    # probabilities (on average training's are 0.94 times those of vLLM).
    import trl.generation.vllm_generation as generation
    engine = getattr(generation, "LLM", None) # absent without vLLM
    if engine is None or not hasattr(model, "dtype"):
        yield
        return
    # A dtype that a later TRL passes itself replaces this one.
    generation.LLM = partial(engine, dtype=str(model.dtype).removeprefix("torch."))
    try:
        yield
    finally:
        generation.LLM = engine


def _clearing_picture_features(sync_weights, llm):
    """Wrap TRL's `sync_weights`, which copies weights to vLLM: clear vLLM's cache of picture features, too.

    The vision tower may have been trained, so features that it computed with old weights are wrong."""
    def sync():
        sync_weights()
        # TRL 1.16 resets only the cache of prompts. Features are kept in another, under the picture's hash.
        llm.llm_engine.engine_core.reset_encoder_cache()
    return sync


def _with_picture_check(
    place_features,  # TRL's method (1.16): finds the places in a prompt to which a server's features belong
    processor,  # of the model, as training uses it
):  # a method that is called in the same way
    "Wrap `place_features`: SettingsError if the server gave a picture another number of tokens than training"
    def place(features, prompt_ids):
        "Compare the number of tokens of each picture, then call `place_features`"
        if features is not None:  # None: a prompt without pictures
            _check_server_tokens(features, prompt_ids, processor)
        return place_features(features, prompt_ids)
    return place


def _check_server_tokens(features, prompt_ids, processor):
    "Raise SettingsError if a vLLM server's `features` of pictures have other lengths than training's prompt"
    # the number of tokens of each picture, such as [16, 64]
    of_server = [placeholder["length"] for placeholder in features["mm_placeholders"]["image"]]
    of_training = picture_runs(prompt_ids, processor.image_token_id)
    if of_server != of_training:
        # A server's limits of a picture's size can only be set where it is started.
        size = picture_size(processor)
        raise SettingsError(f"use_vllm: training reads the pictures of a prompt as {of_training} "
                            f"tokens, the server as {of_server}; start it with "
                            f"--mm-processor-kwargs '{json.dumps(size)}'")


class RatioWatch(TrainerCallback):
    """Warns where training's probabilities are not near those of vLLM, which sampled the answers.

    It watches the mean ratio of the two that TRL logs: the first step outside of `ratio_bounds` is reported
    at once, and the whole run's mean at the end."""

    def __init__(self):
        self.ratios = []  # of the steps so far
        self.has_warned = False

    def on_log(self, args, state, control, logs=None, **kwargs):
        "Keep the mean ratio of training's probabilities to vLLM's; warn at the first outside of 0.8 to 1.25"
        ratio = (logs or {}).get(_logged_ratio)
        if ratio is None:  # a row that is not of a training step
            return
        self.ratios.append(ratio)
        if not self.has_warned and _is_out_of_bounds(ratio):
            self.has_warned = True
            self._warn(state, f"at step {state.global_step} the ratio", ratio)

    def on_train_end(self, args, state, control, **kwargs):
        "Called at the end of a run: warn if the mean of all steps' ratios is outside of 0.8 to 1.25"
        if self.ratios:
            mean = math.fsum(self.ratios) / len(self.ratios)
            if _is_out_of_bounds(mean):
                self._warn(state, "over the whole run the ratio", mean)

    def _warn(self, state, when, ratio):
        "One loud warning, by the first process only; `when` begins its sentence: \"at step 7 the ratio\""
        if state.is_world_process_zero:
            low, high = ratio_bounds
            warn_loudly(f"use_vllm: {when} of training's probabilities to vLLM's is {ratio:.3g}, outside "
                        f"{low} to {high}. It multiplies the loss, so this run learns little or the wrong "
                        "thing; column `ratio` of run_log.csv has it step by step")


def _is_out_of_bounds(ratio):
    "Whether a mean ratio lies outside of 0.8 to 1.25; also True for NaN, which compares as False"
    low, high = ratio_bounds
    return not low <= ratio <= high

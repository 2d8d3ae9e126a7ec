"""What stands between TRL's trainer and vLLM: prompts as vLLM wants them, pictures of the size that training
sees, a comparison of what both have read, and a watch over the ratio of their probabilities.

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

# Between sampling and training a probability may differ by rounding. Beyond these bounds the two have read
# different things, or different weights, and the loss that is multiplied with the ratio means nothing.
ratio_bounds = (0.8, 1.25)
_logged_ratio = "sampling/importance_sampling_ratio/mean" # TRL's name


def picture_runs(
    ids: list, # tokens of a prompt in which pictures are expanded
    image_token: int, # that stands for a part of a picture
) -> list: # how many tokens each picture has
    "Lengths of the runs of picture tokens"
    return [len(list(run)) for token, run in groupby(ids) if token == image_token]


def unexpanded(
    ids: list, # tokens of a prompt in which pictures are expanded
    image_token: int, # that stands for a part of a picture
    pictures: int, # how many there are
) -> list: # the same with one token for each picture
    "A prompt as it was before the processor put a picture's tokens into it: vLLM does that itself"
    runs = picture_runs(ids, image_token)
    if len(runs) != pictures:
        raise SettingsError(f"use_vllm: a prompt has {len(runs)} runs of picture tokens and {pictures} "
                            "pictures; a chat template has to put something between two pictures")
    out = []
    for token, run in groupby(ids):
        out += [token] if token == image_token else list(run)
    return out


def picture_size(
    processor, # of any family
) -> dict: # keyword arguments of its image processor
    "The pixel budget that training gives a picture, in the words of vLLM's `mm_processor_kwargs`"
    images = processor.image_processor
    if hasattr(images, "max_image_size"): # Aria
        return dict(max_image_size=images.max_image_size)
    # Qwen's processors know a shortest and a longest edge, Gemma 3's one height and width; names without a
    # value are not for vLLM
    return dict(size={name: value for name, value in dict(images.size).items() if value is not None})


class EnginePrompts:
    "vLLM's `generate` as TRL calls it, given prompts as vLLM wants them; what it has read is compared"

    def __init__(self,
        generate, # of `vllm.LLM`
        processor, # of the model, as training uses it
    ):
        self.generate = generate
        self.image_token = processor.image_token_id
        self.size = picture_size(processor)

    def __call__(self, prompts, *args, **kwargs):
        # TRL 1.16 hands over dicts with prompt_token_ids and, where there are pictures, multi_modal_data.
        outputs = self.generate([self._for_vllm(row) for row in prompts], *args, **kwargs)
        for row, output in zip(prompts, outputs, strict=True):
            self._compare(row["prompt_token_ids"], list(output.prompt_token_ids))
        return outputs

    def _for_vllm(self, row):
        "A prompt with one token for each picture; a prompt without pictures as it is"
        pictures = (row.get("multi_modal_data") or {}).get("image")
        if pictures is None:
            return row
        count = len(pictures) if isinstance(pictures, list) else 1
        ids = unexpanded(row["prompt_token_ids"], self.image_token, count)
        return row | dict(prompt_token_ids=ids, mm_processor_kwargs=self.size)

    def _compare(self, ours, theirs):
        "Stop where vLLM has read another prompt than training will"
        if list(ours) == theirs:
            return
        here, there = picture_runs(ours, self.image_token), picture_runs(theirs, self.image_token)
        # The lengths of picture runs tell most: another pixel budget. Else the texts differ.
        what = f"picture tokens {here} and {there}"
        if here == there:
            what = f"{len(ours)} and {len(theirs)} tokens"
        raise SettingsError(f"use_vllm: training and vLLM have read one prompt as {what}, so the answers "
                            "belong to another prompt; has the model's directory another processor?")


class PicturesForVLLM(BeforeGRPOTrainer):
    """Mixin before TRL's GRPOTrainer, behind whatever samples in its own way: vLLM reads what training reads

    TRL 1.16 hands vLLM prompts whose pictures are expanded already, and vLLM expands them once more (16
    tokens become 31): answers to a broken prompt, which the ratio then weighs with nearly nothing. If a later
    TRL hands over unexpanded prompts, the comparison stops the first batch, and `EnginePrompts` can go."""
    vllm_sleep_level = 0

    def __init__(self, *args, **kwargs):
        with _dtype_of(kwargs.get("model")):
            super().__init__(*args, **kwargs)
        if not self.use_vllm:
            return
        engine: Any = self.vllm_generation
        if engine.mode == "colocate":
            engine.llm.generate = EnginePrompts(engine.llm.generate, self.processing_class)
            # TRL writes level 2, which throws the weights away; 1 keeps them in the machine's memory.
            engine.llm.sleep = _at_level(engine.llm.sleep, self.vllm_sleep_level)
            engine.sync_weights = _and_forget_pictures(engine.sync_weights, engine.llm)
        else:
            engine._place_features = _compared(engine._place_features, self.processing_class)
        self.add_callback(RatioWatch())

    def _generate_single_turn(self, prompt_ids, images, *args, **kwargs):
        "As TRL's; a row without pictures is None to it, where an empty list would be asked for its first one"
        if self.use_vllm and images is not None:
            images = [row or None for row in images]
            images = images if any(images) else None
        return super()._generate_single_turn(prompt_ids, images, *args, **kwargs)


def _at_level(sleep, level):
    "vLLM's `sleep` at the level of our settings, whatever level it is called with"
    def asleep(*args, **kwargs):
        return sleep(level=level)
    return asleep


@contextmanager
def _dtype_of(model):
    "While a trainer is made, TRL's engine gets the model's number type"
    # TRL 1.16 lets vLLM choose, and vLLM 0.24 takes 16 bits for weights of 32: the ratio is then 0.94, not 1.
    # If a later TRL passes a dtype itself, its own wins over this one.
    import trl.generation.vllm_generation as generation
    engine = getattr(generation, "LLM", None) # absent without vLLM
    if engine is None or not hasattr(model, "dtype"):
        yield
        return
    generation.LLM = partial(engine, dtype=str(model.dtype).removeprefix("torch."))
    try:
        yield
    finally:
        generation.LLM = engine


def _and_forget_pictures(sync_weights, llm):
    "TRL's `sync_weights`; afterwards vLLM looks at every picture again, for the tower may have been trained"
    def sync():
        sync_weights()
        # TRL resets the cache of prompts alone. What the tower saw is kept under the picture's hash.
        llm.llm_engine.engine_core.reset_encoder_cache()
    return sync


def _compared(place_features, processor):
    "TRL's `_place_features` of a server, which must have cut its pictures as training does"
    def place(features, prompt_ids):
        if features is not None:
            # of each picture: where its tokens begin in the prompt, and how many they are
            there = [found["length"] for found in features["mm_placeholders"]["image"]]
            here = picture_runs(prompt_ids, processor.image_token_id)
            if there != here:
                size = picture_size(processor)
                raise SettingsError(f"use_vllm: training reads the pictures of a prompt as {here} tokens, "
                                    f"the server as {there}; start it with "
                                    f"--mm-processor-kwargs '{json.dumps(size)}'")
        return place_features(features, prompt_ids)
    return place


class RatioWatch(TrainerCallback):
    "Says loudly where the ratio of training's probabilities to vLLM's is not near 1: at once, and at the end"

    def __init__(self):
        self.ratios, self.said = [], False

    def on_log(self, args, state, control, logs=None, **kwargs):
        ratio = (logs or {}).get(_logged_ratio)
        if ratio is None:
            return
        self.ratios.append(ratio)
        if not self.said and _is_off(ratio):
            self.said = True
            self._say(state, f"at step {state.global_step} the ratio", ratio)

    def on_train_end(self, args, state, control, **kwargs):
        if self.ratios:
            mean = math.fsum(self.ratios) / len(self.ratios)
            if _is_off(mean):
                self._say(state, "over the whole run the ratio", mean)

    def _say(self, state, when, ratio):
        "One loud sentence, by the first process"
        if state.is_world_process_zero:
            low, high = ratio_bounds
            warn_loudly(f"use_vllm: {when} of training's probabilities to vLLM's is {ratio:.3g}, outside "
                        f"{low} to {high}. It multiplies the loss, so this run learns little or the wrong "
                        "thing; column `ratio` of run_log.csv has it step by step")


def _is_off(ratio):
    "Whether a mean ratio lies outside the bounds; a ratio that is no number does"
    low, high = ratio_bounds
    return not low <= ratio <= high

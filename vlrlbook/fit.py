"""Will a GRPO run fit into memory? Its parts in GB before it starts, without weights and without a GPU.

A training step runs on PyTorch's fake tensors, which have shapes and no numbers, through real layers of
transformers, PEFT and TRL, and the bytes that are held at once are counted. Only models of a few layers run
so: every layer takes the same, so the rest is multiplied. Written by hand, not exported from a notebook."""
import copy
import gc
import json
import os
import subprocess
import sys
import tempfile
import weakref
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import trl.trainer.utils
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from . import shared_prompt
from .chapters import own_python
from .core import Sample, Table
from .data import drawn_questions, encode, synthetic_counting, to_dataset
from .grpo import make_trainer
from .judge import load_judge_settings
from .models import add_lora, limit_pixels, twin_config, twin_processor
from .settings import GRPOSettings, SettingsError, nearest, read_settings, trained_rewards, whole_groups
from .shared_prompt import SharedPrompt, cache_keyword, prompt_positions, replaced_methods
from .shared_prompt import use_grouped_attention

__all__ = ["published", "cards", "Run", "run_of", "model_config", "memory_of_step", "reward_weights",
           "will_fit", "fit_tables", "real_model", "real_steps", "measured_mb", "twin_run", "counted_step",
           "counted_mb", "not_counted"]

GiB = 2**30
# GB by which a card is sold → GiB that PyTorch finds on the smallest card of that name, and which card it is.
# What is sold as GB is less than as many GiB, and ECC and the driver take a part of it. As error messages of
# PyTorch ("total capacity of 44.40 GiB") and nvidia-smi tell it, rounded down; not measured here.
_at_hand = {16: (14.5, "T4"), 24: (22.0, "L4"), 48: (44.4, "L40"), 80: (79.1, "H100"), 141: (139.5, "H200")}
cards = tuple(_at_hand)  # GB of the cards that people rent
# Left free on a card for what is not counted: the CUDA context, workspaces of kernels, holes between tensors.
# An assumption, not a measurement.
_left_free_gb = 1.0

# Shapes of the checkpoints that the service offers, from their config.json, so that no hub is needed:
# hub id → (class of transformers, whether input and output embeddings are tied, text, vision).
_qwen_text = dict(vocab_size=151936, max_position_embeddings=128000, rms_norm_eps=1e-6)
_qwen_rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
_tower_2_5 = dict(depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, patch_size=14,
                  window_size=112, fullatt_block_indexes=[7, 15, 23, 31])
published: dict = {
    "Qwen/Qwen2.5-VL-3B-Instruct": ("Qwen2_5_VLConfig", True, dict(
        _qwen_text, hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16,
        num_key_value_heads=2, rope_parameters=_qwen_rope), dict(_tower_2_5, out_hidden_size=2048)),
    "Qwen/Qwen2.5-VL-7B-Instruct": ("Qwen2_5_VLConfig", False, dict(
        _qwen_text | dict(vocab_size=152064), hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
        num_attention_heads=28, num_key_value_heads=4, rope_parameters=_qwen_rope),
        dict(_tower_2_5, out_hidden_size=3584)),
    "Qwen/Qwen2-VL-2B-Instruct": ("Qwen2VLConfig", True, dict(
        _qwen_text, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
        num_key_value_heads=2, rope_parameters=_qwen_rope),
        dict(depth=32, embed_dim=1280, hidden_size=1536, num_heads=16, mlp_ratio=4, patch_size=14)),
    "Qwen/Qwen3-VL-2B-Instruct": ("Qwen3VLConfig", True, dict(
        _qwen_text, hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, rope_parameters=dict(
            _qwen_rope, rope_theta=5e6, mrope_section=[24, 20, 20], mrope_interleaved=True)),
        dict(depth=24, hidden_size=1024, intermediate_size=4096, num_heads=16, patch_size=16,
             out_hidden_size=2048, num_position_embeddings=2304, deepstack_visual_indexes=[5, 11, 17])),
}

not_counted = (
    "the CUDA context, workspaces of kernels, holes between tensors (a GB of the card is left free for them)",
    "vLLM, when it samples: it takes its own share of the card (vllm_gpu_memory_utilization)",
    "what a model that is the reward holds while it reads answers, beside its weights",
    "the held-out pictures before and after (eval_batch_size at a time)",
    "gradients and weights of other processes: a run on several GPUs is counted as one of them",
)


# What a run is made of

@dataclass
class Run:
    "All that decides a run's memory"
    settings: GRPOSettings  # checked
    config: Any  # transformers configuration of the whole model
    # of one prompt: input_ids and mm_token_type_ids [1, P], image_grid_thw [pictures, 3], and as `patches`
    # the shape of pixel_values: (patches of all pictures, numbers of a patch)
    prompt: dict
    gpu: bool  # computed in bfloat16, with kernels of a GPU; otherwise float32 and those of a CPU

    @property
    def dtype(self) -> torch.dtype:
        "Number type of the weights: bfloat16 on a GPU under an adapter, float32 where all of them train"
        return torch.bfloat16 if self.gpu and self.settings.use_lora else torch.float32

    @property
    def C(self) -> int:
        "Tokens of an answer at most"
        return self.settings.max_completion_length

    @property
    def P(self) -> int:
        "Tokens of the prompt, pictures included"
        return self.prompt["input_ids"].shape[1]

    @cached_property  # a model may be built for it, as shapes without memory
    def rewards(self) -> float:
        "Bytes of the weights of models that are rewards"
        return reward_weights(self.settings)

    @property
    def recomputes(self) -> bool:
        "Whether gradient checkpointing is on: layers are computed again in backward, to save memory"
        wanted = self.settings.gradient_checkpointing
        # PEFT (0.21) switches it on whenever it prepares a 4-bit model, whatever the settings say.
        return self.settings.use_4bit or (self.gpu if wanted is None else wanted)


def model_config(
    name: str,  # hub id, directory, or `tiny-` and a family (a small model with random weights)
):  # a transformers configuration
    "Configuration (shapes) of a model: from this package if the checkpoint is known, else from its files"
    import transformers
    if name.startswith("tiny-"):
        family = name.removeprefix("tiny-")
        return twin_config(family, twin_processor(family).tokenizer)  # the vocabulary is the tokenizer's
    if name in published:  # the table of known checkpoints, by hub id
        return _published_config(name)
    try:
        return transformers.AutoConfig.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError) as error:
        valid_names = [*published, "tiny-qwen2_5_vl"]
        hint = nearest(name, valid_names)  # ": did you mean …?", or all names
        raise SettingsError(f"model = {name!r}: no config.json of it is on this machine{hint}") from error


def _published_config(name):
    "The transformers configuration of a known checkpoint by its hub id, such as Qwen/Qwen2.5-VL-3B-Instruct"
    import transformers
    # `tied`: whether input and output embeddings are one tensor; `text`, `vision`: dicts with the settings of
    # the language model and of the vision tower
    class_name, tied, text, vision = published[name]
    # Ids of special tokens, the same in all checkpoints of the table.
    ids = dict(image_token_id=151655, video_token_id=151656, vision_start_token_id=151652,
               vision_end_token_id=151653)
    return getattr(transformers, class_name)(
        text_config=dict(text), vision_config=dict(vision), tie_word_embeddings=tied, **ids)


def run_of(
    settings: GRPOSettings,  # a checked object
    config=None,  # a transformers configuration; None: that of `settings.model`
    prompt_tokens: int = None,  # of text in a prompt; None: as many as a drawn question of the task has
    pictures: int = 1,  # of a prompt, each of the largest size
    gpu: bool = None,  # count for a GPU; None: for all but tiny models, whose names begin with `tiny-`
) -> Run:
    "The `Run` of some settings, ready to be counted; SettingsError for a model family that cannot be counted"
    config = model_config(settings.model) if config is None else config
    _check_countable(settings, config.model_type)
    # `size` names the preset: "tiny" for a tiny model, which trains on a CPU, else "gpu".
    gpu = settings.size == "gpu" if gpu is None else gpu
    prompt = _prompt(settings, config, prompt_tokens, pictures)
    return Run(settings, config, prompt, gpu)


def _check_countable(
    settings,  # `GRPOSettings`; the model's name is for the message, `max_looks` is of calls of a tool
    family,  # `model_type` of the model's configuration, such as qwen3_vl
):
    "Raise SettingsError if a run's memory cannot be counted: in most model families, and with a tool"
    if family not in ("qwen2_vl", "qwen2_5_vl"):
        # In the other families the values of tensors decide what is computed (which of Aria's experts, which
        # of Qwen3-VL's positions), and fake tensors have no values.
        countable = "memory is counted for Qwen2-VL and Qwen2.5-VL"
        raise SettingsError(f"model = {settings.model!r}: {countable}, this is a {family}")
    if settings.max_looks:  # the tool `zoom` adds pictures to an answer
        raise SettingsError("max_looks: memory is counted for one picture before the answer, not for those "
                            "inside it; max_looks=0 counts the rest")


def _prompt(
    settings,  # `GRPOSettings`
    config,  # of the model
    text_tokens,  # at least so many tokens beside those of pictures; None: those of a drawn question
    pictures,  # how many, each of the largest size
):  # input_ids and mm_token_type_ids [1, P], image_grid_thw [pictures, 3], and `patches`, a shape
    "The longest prompt that a run is counted with, as the tensors that a processor would make of it"
    # A tiny model's processor, so that nothing is downloaded. It cuts pictures as the real one does.
    processor = twin_processor(config.model_type)
    limit_pixels(processor, settings.max_image_size)
    encoded = encode(processor, [_largest_sample(settings, pictures)])
    is_picture = encoded["input_ids"] == processor.image_token_id
    # [1, P]: the model's own id for a picture's tokens, and 1 for all text, of which some may be added
    ids = _placeholder_ids(is_picture, config.image_token_id, text_tokens)
    token_types = (ids == config.image_token_id).long()  # 1 for a picture's tokens
    # (patches of all pictures, numbers of a patch): pixels are counted by their shape, so it is enough
    patches = tuple(encoded["pixel_values"].shape)
    return dict(input_ids=ids, mm_token_type_ids=token_types, image_grid_thw=encoded["image_grid_thw"],
                patches=patches)


def _placeholder_ids(is_picture, picture_id, text_tokens):
    """Ids [1, P] of a prompt: `picture_id` where `is_picture` [1, P], and 1 for every other token.

    Which words a prompt has changes no memory. `text_tokens`: at least so many of text; None: as they are."""
    ids = torch.where(is_picture, picture_id, 1)
    if text_tokens is not None:  # text is added in front; a prompt is never made shorter
        missing = max(0, text_tokens - int((~is_picture).sum()))
        ids = torch.cat([torch.ones(1, missing, dtype=ids.dtype), ids], 1)
    return ids


def _largest_sample(settings, pictures):
    "A question of the run's task (`Sample`) with `pictures` black pictures of the largest size it allows"
    from PIL import Image
    # Memory depends on the question by its length alone, which is nearly the same for all that are drawn for a
    # task. The questions of `drawn_questions` are longer than those of counting: they say how to answer.
    draw = synthetic_counting if settings.task == "counting" else drawn_questions
    drawn = draw(1, seed=0)[0]
    side = settings.max_image_size
    picture = Image.new("RGB", (side, side))
    turns = [("system", settings.system_prompt)] if settings.system_prompt else []
    return Sample(drawn.question, drawn.answer, [picture] * pictures, settings.task, row=0, turns=turns)


# Tensors without numbers

class _Counter(TorchDispatchMode):
    """Within `with counter:`, counts the bytes of tensors that are made and still held.

    `now` is what is held at the moment, `peak` the most that was held at once."""
    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.held = {}  # a storage's address -> its bytes

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        "Overrides PyTorch's: every operation passes here, and the tensors that it returns are counted"
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())  # to `now`, until the storage is freed
        self.peak = max(self.peak, self.now)
        return result

    def _add(self, storage):
        "Count the bytes of a tensor's storage until it is freed"
        address = storage._cdata  # identifies the storage, also that of a fake tensor
        if address in self.held:  # address → bytes
            return  # the tensor is a view of one that is counted already
        self.held[address] = storage.nbytes()
        self.now += storage.nbytes()  # bytes held at the moment
        weakref.finalize(storage, self._drop, address)  # `_drop` subtracts them when the storage is freed

    def _drop(self, address):
        "A storage was freed: subtract its bytes"
        self.now -= self.held.pop(address, 0)

    def leave_out(self, tensors):
        "Do not count these tensors: they existed before the block"
        for tensor in tensors:
            # A storage in `held` is known, so it is not added later; its entry here says 0 bytes.
            self.held[tensor.untyped_storage()._cdata] = 0


def _faked(
    model,  # changed in place, and returned
    mode,  # PyTorch's `FakeTensorMode`: tensors made within it have shapes and no numbers
):
    "Replace every weight and buffer of a model by a fake tensor of the same shape; tied weights stay tied"
    fakes = {}  # id of a real tensor → its fake: a weight that two modules share gets one fake
    for module in model.modules():
        # the dictionaries in which a module keeps its weights and buffers are changed in place
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is None:
                    continue
                if id(tensor) not in fakes:
                    fakes[id(tensor)] = _fake_tensor(tensor, mode)
                own[name] = fakes[id(tensor)]
    return model


def _fake_tensor(tensor, mode):
    "A fake tensor of the same shape as a real one; a weight (`Parameter`) gets a fake weight"
    with mode:  # a `FakeTensorMode`: tensors that are made within it have a shape and no numbers
        empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
    is_weight = isinstance(tensor, torch.nn.Parameter)
    return torch.nn.Parameter(empty, tensor.requires_grad) if is_weight else empty


class _FusedAttention(torch.autograd.Function):
    """Stands in for a GPU's fused attention kernel: it computes nothing and holds the same tensors.

    Those are the inputs, the output and one float32 for each query. The scores are never held as a whole."""
    @staticmethod
    def forward(ctx, query, key, value):
        "An empty output; what the kernel would keep for backward is kept"
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        log_sums = query.new_empty(query.shape[:-1], dtype=torch.float32)  # of the softmax, one a query
        ctx.save_for_backward(query, key, value, out, log_sums)
        return out

    @staticmethod
    def backward(ctx, grad):
        "Empty gradients of query, key and value, of their shapes"
        query, key, value = ctx.saved_tensors[:3]
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _attention_of_a_gpu(query, key, value, *args, **kwargs):
    """Replaces `scaled_dot_product_attention` while a GPU's memory is counted: an empty output [..., size].

    `_FusedAttention` holds the tensors that a GPU's kernel holds, whatever the mask and the options are."""
    # Under autocast a GPU casts these inputs; here everything runs "on the CPU", with fake tensors.
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    return _FusedAttention.apply(query.to(dtype), key.to(dtype), value.to(dtype))


def _dropout_of_a_gpu(x, p=0.5, training=True, inplace=False):
    "Replaces `dropout` while a GPU's memory is counted: its mask takes a byte a number, a CPU's a float"
    return torch.native_dropout(x, p, True)[0] if training and p else x


def _kernels(run):
    """Functions and constants to replace while a `Run` is counted: (module, name) → what stands in its place.

    Such as (torch.nn.functional, "dropout") → a function that takes the memory of a GPU's dropout."""
    # TRL's buffer holds the logits of `_chunk_words` (32,768) words. A smaller vocabulary never writes to its
    # end, which then takes no memory on a real machine; so only the part that is written is counted.
    words = min(_chunk_words, run.config.get_text_config().vocab_size)
    replacements = {(trl.trainer.utils, "_CHUNKED_LOGPROB_CHUNK_SIZE"): words}
    if run.gpu:  # a GPU's memory is wanted
        # The count runs on a CPU. These stand-ins hold the tensors that a GPU's kernels would hold.
        functional, attention = torch.nn.functional, "scaled_dot_product_attention"
        replacements[functional, "dropout"] = _dropout_of_a_gpu
        replacements[functional, attention] = _attention_of_a_gpu
        replacements[shared_prompt, attention] = _attention_of_a_gpu  # that module's own name for it
    return replacements


# TRL 1.16 computes log-probs from logits of so many words of the vocabulary at a time, and of at most so many
# tokens (`_CHUNKED_LOGPROB_CHUNK_SIZE` of trl.trainer.utils, `TOKEN_CHUNK_SIZE` of
# trl.kernels.chunked_logprob).
_chunk_words, _chunk_tokens = 32768, 4096


class _FusedHead(torch.autograd.Function):
    """Stands in for TRL's fused head on a GPU (hidden states → log-probs), to measure memory.

    Nothing is computed. It holds a chunk of the logits at a time, and in backward gradients in float32."""
    @staticmethod
    def forward(ctx, hidden, weight):
        "hidden [tokens, size], weight [words, size] → empty log-probs [tokens]"
        ctx.save_for_backward(hidden, weight)
        _FusedHead.chunk(hidden, weight)  # held for a moment, so that it counts for the peak
        return hidden.new_empty(len(hidden), dtype=torch.float32)

    @staticmethod
    def chunk(hidden, weight):
        "What is held at once: logits of 4096 tokens at most over 32,768 words, and these words' weight"
        dtype = torch.get_autocast_dtype("cpu")  # bfloat16; fake tensors lie "on the CPU"
        part = weight[:_chunk_words].to(dtype)  # of the words that TRL takes at a time
        return hidden.new_empty(min(len(hidden), _chunk_tokens), len(part), dtype=dtype), part

    @staticmethod
    def backward(ctx, grad):
        """Take as much memory as TRL's backward: gradients of the same sizes and dtypes, but all zero.

        TRL sums both gradients in float32, while a chunk of logits is held, and then casts them to the types
        of `hidden` and `weight`."""
        hidden, weight = ctx.saved_tensors
        hidden_grad = hidden.new_zeros(hidden.shape, dtype=torch.float32)
        weight_grad = None
        if ctx.needs_input_grad[1]:  # the weight trains
            weight_grad = weight.new_zeros(weight.shape, dtype=torch.float32)
        chunk = _FusedHead.chunk(hidden, weight)  # (logits, a part of the weight): held, never read
        if weight_grad is not None:
            weight_grad = weight_grad.to(weight.dtype)
        del chunk
        return hidden_grad.to(hidden.dtype), weight_grad


def _fuse_head(model):
    """Replace a model's `forward` by one that takes as much memory as TRL's fused head on a GPU.

    TRL's own head needs a GPU. This one runs on any machine, and its log-probs have no meaning."""
    plain_forward = model.forward

    def forward(*args, fused_lm_head=False, labels=None, **kwargs):
        "With `fused_lm_head`, as TRL calls it: log-probs (here without meaning) in place of logits"
        if not fused_lm_head:
            return plain_forward(*args, **kwargs)
        # The last position predicts nothing that is scored, so it is cut off.
        hidden = model.base_model(*args, use_cache=False, **kwargs).last_hidden_state[:, :-1]
        targets = labels[:, 1:]  # each position predicts the next token
        logps = _empty_logps(hidden, targets, model.get_output_embeddings().weight)
        # TRL's entropy has the same shape, and no gradient.
        return SimpleNamespace(log_probs=logps, entropy=logps.detach())

    model.forward = forward


def _empty_logps(hidden, targets, weight):
    """Log-probs [rows, T - 1] without meaning, through which backward can run.

    `hidden` is [rows, T - 1, size], `targets` [rows, T - 1], and `weight` [words, size] that of the head."""
    # Only the answers' tokens are scored; -100 is the label of all others.
    scored_places = (targets != -100).flatten().nonzero()[:, 0]
    scored_hidden = hidden.flatten(0, 1)[scored_places]
    logps = _FusedHead.apply(scored_hidden, weight)  # takes as much memory as TRL's kernel
    # back to [rows, T - 1], with 0 where nothing was scored
    return logps.new_zeros(targets.numel()).index_put((scored_places,), logps).view(len(targets), -1)


# A model of a few layers

@dataclass
class _Small:
    "A model of few layers, prepared for training, and the bytes that it takes"
    model: object  # of fake tensors, with its adapter
    core: object  # the same model without the adapter
    weights: float  # bytes of all weights
    trained: float  # bytes of the weights that train
    state: float  # bytes of the optimizer's state
    largest: int  # how many numbers the largest 4-bit weight has; 0 without 4-bit weights


def _small(
    run,  # `Run`
    layers,  # of the language model
    blocks,  # of the vision tower
    mode,  # `FakeTensorMode`
):  # `_Small`
    """A run's model with fewer layers, as fake tensors, and how many bytes its weights and optimizer take

    It is quick to step through; the whole model's memory is reckoned from several of these (`_Counted`)."""
    # the model without its adapter, with it, and `id()`s of the weights that are stored in 4 bits
    core, model, quantised = _meta_model(run, layers, blocks)
    sizes = _byte_counts(run.settings, model, quantised)  # the fields of `_Small` that are numbers
    _faked(model, mode)  # in place, so that `core`, which shares the weights, has fake ones, too
    return _Small(model=model.train(), core=core, **sizes)


def _meta_model(run, layers, blocks):
    """A run's model with fewer `layers` of text and `blocks` of vision, on PyTorch's meta device.

    Returns (core, model, ids): the model without an adapter; the same with its adapter, if the run has one;
    the `id()`s of the weights that are stored in 4 bits."""
    from transformers import AutoModelForImageTextToText
    settings = run.settings
    with torch.device("meta"):  # shapes without memory
        config = _shortened(run.config, layers, blocks)
        core = AutoModelForImageTextToText.from_config(config, dtype=run.dtype)
        # sdpa in the place of flash-attn, which needs a GPU: there sdpa's kernel holds as much.
        core.set_attn_implementation("eager" if settings.attention == "eager" else "sdpa")
        quantised = _cast_for_4bit(core) if settings.use_4bit else set()  # the ids
        model = _with_adapter(core, settings) if settings.use_lora else core
    if settings.use_4bit:
        for weight in model.parameters():
            if weight.requires_grad:
                # TRL 1.16 casts an adapter on 4-bit weights to bfloat16.
                weight.data = weight.data.to(torch.bfloat16)
    return core, model, quantised


def _byte_counts(
    settings,  # `GRPOSettings`; beta is the weight of the KL term, which needs a reference model
    model,  # with its adapter, if the run has one
    quantised,  # `id()`s of the weights in 4 bits
):
    """The numbers of `_Small` as a dict: weights, trained, state, largest.

    Bytes of all weights, of those that train and of the optimizer's state; and how many numbers the largest
    4-bit weight has."""
    parameters = list(model.parameters())
    trained = [w for w in parameters if w.requires_grad]
    weights = sum(_weight_bytes(w, id(w) in quantised) for w in parameters)
    if settings.beta and not settings.use_lora:
        # The reference model is a second copy, which TRL 1.16 loads in float32 too. With an adapter none is
        # needed: it is this model with its adapter switched off.
        weights *= 2
    return dict(
        weights=weights,
        trained=sum(_weight_bytes(w, id(w) in quantised) for w in trained),
        state=sum(w.numel() * _state_bytes(settings.optim, w.element_size()) for w in trained),
        # for the buffer into which bitsandbytes unpacks one 4-bit weight at a time
        largest=max((w.numel() for w in parameters if id(w) in quantised), default=0))


def _with_adapter(model, settings):
    "A model with a new LoRA adapter of the size that the run's settings (`GRPOSettings`) say"
    s = settings
    return add_lora(model, s.lora_r, s.lora_alpha, s.lora_dropout, s.lora_vision)


def _shortened(config, layers, blocks):
    """A copy of a model's configuration with fewer `layers` of text and `blocks` of the vision tower.

    Lists that hold something for each layer are shortened, too."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        # one entry for each layer; the list is repeated where it is too short
        text.layer_types = [text.layer_types[i % len(text.layer_types)] for i in range(layers)]
    _shorten_tower(config.vision_config, blocks)
    return config


def _shorten_tower(vision, blocks):
    "Change a vision tower's configuration in place, so that it has so many blocks"
    vision.depth = blocks
    if hasattr(vision, "fullatt_block_indexes"):
        # The blocks that see the whole picture, and not only windows of it. In real towers the last one does.
        vision.fullatt_block_indexes = [blocks - 1]
    if hasattr(vision, "deepstack_visual_indexes"):
        # The blocks whose features go into layers of text: as many as before, now the first ones.
        vision.deepstack_visual_indexes = list(range(len(vision.deepstack_visual_indexes)))


def _cast_for_4bit(model):
    """Cast all weights to float32 in place, as PEFT (0.21) does, but those that bitsandbytes would quantise.

    Those are the weights of linear layers, without the head. They stay as they are, and the set of their
    `id()`s is returned, so that the caller can count their bytes in 4 bits."""
    head = model.get_output_embeddings()
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    quantised = {id(m.weight) for m in linears}
    for weight in model.parameters():
        if id(weight) not in quantised:
            weight.data = weight.data.float()
    return quantised


def _state_bytes(optim, size):
    "Bytes of optimizer state for one trained number, which itself takes `size` bytes"
    if optim in ("sgd", "adafactor"):
        return 0  # adafactor keeps only a row and a column for each matrix
    if "8bit" in optim:
        return 2  # two moments of a byte each
    return 2 * size  # the two moments of Adam and the optimizers like it


# A step

class _Scorer(SharedPrompt):
    "The trainer's method that scores answers with shared prompts, usable without a trainer"
    def __init__(self, autocast):  # makes the context in which `_group_logps` runs the model
        self.accelerator = SimpleNamespace(unwrap_model=lambda model: model, autocast=autocast)

    def logps(self, *args):
        "Log-probs [rows, C] of whole groups; the arguments are those of `SharedTraining._group_logps`"
        return self._group_logps(*args)[0]


def _autocast(run):
    "A context manager: bfloat16 autocast where a run is counted for a GPU, else nothing"
    return torch.autocast("cpu", torch.bfloat16) if run.gpu else nullcontext()


@contextmanager
def _counting(
    run,  # `Run`
    small,  # `_Small`: its `model` of few layers runs in the block, instead of the whole one, to save time
    inputs=(),  # tensors that the model gets
):  # yields a `_Counter`, whose `peak` holds bytes
    "Within the block, count the tensors that are made, without the model's weights and its inputs"
    counter = _Counter()
    counter.leave_out([*small.model.parameters(), *small.model.buffers(), *inputs])
    # `_kernels`: stand-ins for functions while the block lasts. The count runs on a CPU; if a GPU's memory is
    # wanted (`run.gpu`), they hold the tensors that its kernels would hold.
    with replaced_methods(_kernels(run)), counter:
        yield counter


def _batch(
    run,  # `Run`: P tokens of a prompt, C tokens of an answer at most
    rows,  # each the same prompt with its own pictures
    mode,  # `FakeTensorMode`: tensors made within it have shapes and no numbers
    answers,  # whether an answer of full length follows each prompt
):  # ids and mask [rows, P or P + C]; pixel_values, image_grid_thw and mm_token_type_ids as a dict
    "Model inputs for `rows` copies of the run's prompt: text as real tensors, pixels as a fake one"
    prompt = run.prompt
    C = run.C if answers else 0
    ids = _with_answers(prompt["input_ids"], rows, C, token=1)  # any token of text will do
    token_types = _with_answers(prompt["mm_token_type_ids"], rows, C, token=0)  # 0: text
    mask = torch.ones_like(ids)
    if answers and rows > 1:  # a single row needs no padding
        # In real batches answers have different lengths. So one token of the first row counts as padding:
        # then the model builds an attention mask [rows, 1, T, T], T = P + C, which takes memory.
        mask[0, -1] = 0
    patches, numbers = prompt["patches"]  # of one row: how many patches, and how many numbers each has
    with mode:
        pixels = torch.empty(rows * patches, numbers)
    grid = prompt["image_grid_thw"].repeat(rows, 1)  # [rows · pictures, 3]
    return ids, mask, dict(pixel_values=pixels, image_grid_thw=grid, mm_token_type_ids=token_types)


def _with_answers(prompt, rows, C, token):
    "Ids or types of a prompt, [1, P] → [rows, P + C]: in each row the prompt, and behind it C times `token`"
    answers = torch.full((rows, C), token, dtype=torch.long)
    return torch.cat([prompt.expand(rows, -1), answers], 1)


def _trained_step(
    run,  # `Run`
    small,  # `_Small`: `model` is the model of few layers, `core` the same without its adapter
    rows,  # answers in one forward pass
    shared,  # whether each prompt is read once for its group
    mode,  # `FakeTensorMode`: the batch's pixels get a shape and no numbers
):  # bytes
    "Most bytes that one forward and backward pass holds at once, without weights and optimizer state"
    _prepare_training(run, small)  # the model gets TRL's head, which returns log-probs and no logits
    for weight in small.model.parameters():
        weight.grad = None  # of an earlier count
    batch = _batch(run, rows, mode, answers=True)  # ids and mask [rows, P + C], and a dict of pixels
    return _shared_pass(run, small, batch) if shared else _stock_pass(run, small, batch)


def _stock_pass(
    run,  # `Run`: its prompt has P tokens
    small,  # `_Small`: its `model` has few layers, and TRL's head, which returns log-probs
    batch,  # ids and mask [rows, P + C] of prompts and answers, and a dict of pixel_values and the like
):
    "Most bytes that a forward and backward pass of stock TRL holds: it reads the prompt of each row anew"
    ids, mask, fields = batch
    labels = ids.clone()
    labels[:, :run.P] = -100  # prompts are not scored
    text = dict(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    # Pixels and the like were there before the pass, so they are not counted.
    with _counting(run, small, inputs=fields.values()) as counter:
        with _autocast(run):
            logps = small.model(**text, **fields).log_probs
        logps.sum().backward()
    return counter.peak


def _shared_pass(
    run,  # `Run`: P tokens of a prompt, C of an answer at most, groups of G answers
    small,  # `_Small`: `model` is the model of few layers, `core` the same without its adapter
    batch,  # ids and mask [rows, P + C] of whole groups, and a dict of pixel_values and the like
):
    "Most bytes that a forward and backward pass holds in which each prompt is read once for its group"
    core, G = small.core, run.settings.num_generations
    ids, mask, fields = batch
    use_grouped_attention(small.model)  # attention that lets the G answers read one copy of their prompt
    fields = _fields_of_groups(fields, G, run.P)  # of one prompt a group
    features = []
    # `visual`: the vision tower's name in the two families that are counted
    tower_trains = any(w.requires_grad for w in core.model.visual.parameters())
    if not tower_trains:
        # As in a real run, the tower does not run within the step: its features were remembered before.
        features = _remember(core, fields)

    # Inputs and features were there before, so they are not counted: `peak` is of what is made in the block.
    with _counting(run, small, inputs=[*fields.values(), *features]) as counter:
        scorer = _Scorer(autocast=lambda: _autocast(run))  # stands for the trainer: the same `_group_logps`
        logps = scorer.logps(small.model, ids, mask, fields, run.C, G)
        logps.sum().backward()
    vars(core.model).pop("get_image_features", None)  # undo `_remember`, which put a function over it
    return counter.peak


def _fields_of_groups(
    fields,  # of all rows: pixel_values [patches, numbers], image_grid_thw, mm_token_type_ids [rows, P + C]
    G,  # answers of a group, all to the same prompt
    P,  # tokens of a prompt
):
    "The same fields for the prompts alone, one for each group; mm_token_type_ids become [groups, P]"
    # All rows have the same prompt and as many patches, so the first 1/G of each field will do.
    fields = {name: value[:len(value) // G] for name, value in fields.items()}
    fields["mm_token_type_ids"] = fields["mm_token_type_ids"][:, :P]
    return fields


def _prepare_training(run, small):
    """Prepare a model of few layers (`_Small`) for a training step whose memory is counted.

    It gets TRL's fused head, which returns log-probs and no whole logits, and gradient checkpointing if the
    run has it."""
    from trl.trainer.utils import add_fused_lm_head
    core = small.core  # the model without its adapter
    vars(core).pop("forward", None)  # remove the head of an earlier call: it replaces the object's `forward`
    if run.gpu:  # counted for a GPU, where TRL's own head would start GPU kernels; the count needs no GPU
        _fuse_head(core)  # takes as much memory
    else:
        add_fused_lm_head(core, outputs=("log_probs", "entropy"))
    if run.recomputes:
        # Random states are not preserved: they cannot be read under fake tensors, and take little memory.
        core.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        if run.settings.use_lora:  # as TRL 1.16 does for an adapter
            small.model.enable_input_require_grads()


def _remember(core, fields):
    """Compute the features of pictures once, and let the model use these instead of running its vision tower.

    `shared_prompt.PictureMemory` does so in a real run. `core`: the model without its adapter. Returns the
    features' tensors, so that the caller, which counts memory, can leave them out."""
    with torch.no_grad():
        features = core.model.get_image_features(fields["pixel_values"], fields["image_grid_thw"])

    def remembered(*args, **kwargs):
        return features

    core.model.get_image_features = remembered
    # A `ModelOutput`, whose fields are tensors, or tuples of them.
    return [tensor for tensor in tree_leaves(dict(features)) if torch.is_tensor(tensor)]


def _prefill(
    run,  # `Run`
    small,  # `_Small`: `model` is the model of few layers, `core` the same without its adapter
    rows,  # prompts that are read together
    mode,  # `FakeTensorMode`
):  # (most bytes at once, bytes of the cache)
    "Memory of reading prompts into a cache, as sampling does before the first token"
    # Undo `_prepare_training`, if it was here before: the fused head in place of `forward`, checkpointing.
    vars(small.core).pop("forward", None)
    small.core.gradient_checkpointing_disable()
    ids, mask, fields = _batch(run, rows, mode, answers=False)  # [rows, P], and a dict of pixels
    positions = prompt_positions(small.model, ids, mask, fields)
    # Only the last position's logits are kept: they give the first token of an answer.
    fields |= dict(position_ids=positions, use_cache=True, logits_to_keep=1)
    # Inputs, above all pixels, were there before, so they are not counted.
    inputs = [value for value in fields.values() if torch.is_tensor(value)]
    with torch.no_grad(), _counting(run, small, inputs) as counter, _autocast(run):
        out = small.model(input_ids=ids, attention_mask=mask, **fields)
    cache_layers = getattr(out, cache_keyword(small.model)).layers  # named past_key_values or cache
    cache_bytes = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache_layers)
    return counter.peak, cache_bytes


def _logits(
    run,  # `Run`
    small,  # `_Small`: `model` is the model of few layers, `core` the same without its adapter
    rows,  # answers in one forward pass
    shared,  # whether each prompt is read once for its group
    mode,  # `FakeTensorMode`
):  # bytes
    "Most bytes that the vocabulary head holds at once, from hidden states to log-probs and in backward"
    # [words, size]; as large as in the whole model, since `small` lacks layers only; fake, without numbers
    weight = small.core.get_output_embeddings().weight
    tokens = _scored_tokens(run, rows, shared)  # how many the head gets
    with mode:  # fake tensors: shapes without numbers
        # In the weights' type, as the embeddings: a layer adds its result to its input, which keeps its type
        # under autocast.
        hidden = torch.empty(tokens, weight.shape[1], dtype=run.dtype)
        targets = torch.empty(tokens, dtype=torch.long)
    hidden.requires_grad_()
    with _counting(run, small) as counter, _autocast(run):
        # `_others`: on a CPU the entropy. It has a name, so that it is held during backward, too.
        logps, *_others = _head_outputs(run, hidden, targets, weight)
        logps.sum().backward()
    weight.grad = None  # so that the next count does not find it
    return counter.peak


def _scored_tokens(
    run,  # `Run`: P tokens of a prompt, C of an answer at most; `gpu` if it is counted for a GPU
    rows,  # answers in one forward pass
    shared,  # whether each prompt is read once for its group, in a pass of its own
):
    "How many tokens the vocabulary head scores: prompts and answers, or the answers alone"
    # On a GPU TRL 1.16 scores only tokens with a label: the C of each answer. On a CPU it scores all of a row
    # but its first, which nothing predicts: P + C - 1. With shared prompts the head gets answers alone.
    scores_prompts = not run.gpu and not shared
    return rows * (run.P + run.C - 1) if scores_prompts else rows * run.C


def _head_outputs(run, hidden, targets, weight):
    """What the run's vocabulary head returns: log-probs [tokens], on a CPU with TRL's other outputs behind.

    Called on tensors without content, since only what a step would keep in memory is counted. `hidden` is
    [tokens, size], `targets` [tokens], `weight` [words, size]; `run.gpu`: True where a GPU is counted for."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction
    if run.gpu:
        return (_FusedHead.apply(hidden, weight),)  # keeps for backward what TRL's kernel keeps on a GPU
    chunk_words = min(_chunk_words, len(weight))
    # Logits as they are: neither scaled nor capped. `outputs`: beside the log-probs.
    bias, temperature, softcapping, scale, outputs = None, 1.0, None, 1.0, ("entropy",)
    # TRL's own head; it takes no arguments by name.
    return ChunkedLogProbFunction.apply(
        hidden, weight, bias, targets, temperature, chunk_words, softcapping, scale, outputs)


# The whole model

class _Counted:
    """How many bytes a run takes, with stock TRL or with shared prompts, computed from models of few layers.

    `parts` is a list of (small model, factor): a number of bytes of the whole model is the sum of factor ·
    bytes of the small model."""
    def __init__(self,
        run,  # `Run`
        shared,  # whether each prompt is read once for its group
    ):
        self.run, self.shared = run, shared
        # Within this mode tensors have shapes and no numbers; real ones, such as token ids, may be mixed in.
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.measured = {}  # ("training" or "reading", rows) → what was measured on each small model
        # (small model, factor): bytes of the whole model are the sum of factor · bytes of the small one
        self.parts = []
        for layers, blocks, factor in _sizes_to_build(run, shared):
            self.parts.append((_small(run, layers, blocks, self.mode), factor))

    def of_model(self, name):
        "Bytes of the whole model's weights, its `trained` weights or its optimizer `state`, by that name"
        return sum(factor * getattr(small, name) for small, factor in self.parts)

    def training(self, rows):
        "Most bytes that a forward and backward pass of `rows` answers holds at once, beside weights"
        def measure(small):  # a model of few layers → its bytes
            return _trained_step(self.run, small, rows, self.shared, self.mode)
        return self._of_whole_model(self._of_small_models(("training", rows), measure))

    def reading(self, rows):
        "Reading `rows` prompts into a cache: (most bytes at once, bytes of the cache)"
        def measure(small):  # a model of few layers → its two numbers
            return _prefill(self.run, small, rows, self.mode)
        # Two tuples, with a number for each small model. ("reading", rows): the key to remember them by.
        peaks, caches = zip(*self._of_small_models(("reading", rows), measure))
        return self._of_whole_model(peaks), self._of_whole_model(caches)

    def _of_whole_model(self, values):
        "A number of the whole model, the sum of factor · value; `values` has one for each small model"
        return sum(factor * value for value, (_, factor) in zip(values, self.parts))

    def _of_small_models(self, key, measure):
        "What `measure` returns for each small model, a list; remembered by `key`, so measured once"
        if key not in self.measured:
            self.measured[key] = [measure(small) for small, _ in self.parts]
        return self.measured[key]


def _sizes_to_build(
    run,  # `Run`; its `config` says how many layers and blocks the whole model has
    shared,  # whether each prompt is read once for its group
):
    """Which small models stand for a run's whole model: a list of (layers of text, blocks of vision, factor).

    A number of bytes of the whole model is the sum of factor · bytes of the small model."""
    layers, blocks = run.config.get_text_config().num_hidden_layers, run.config.vision_config.depth
    min_layers, min_blocks = _smallest_size(run, shared)
    more_layers, more_blocks = layers - min_layers, blocks - min_blocks
    if more_layers <= 2 and more_blocks <= 2:  # so small a model is built as a whole
        return [(layers, blocks, 1)]
    # All layers take the same, and so do all blocks. So three models are enough: the smallest one, one with
    # a layer more, one with a block more.
    # whole = smallest + more_layers · (layer_more - smallest) + more_blocks · (block_more - smallest)
    # The factors are those of this sum, collected for each model.
    return [
        (min_layers, min_blocks, 1 - more_layers - more_blocks),
        (min_layers + 1, min_blocks, more_layers),
        (min_layers, min_blocks + 1, more_blocks),
    ]


def _smallest_size(
    run,  # `Run`; `recomputes`: gradient checkpointing is on
    shared,  # whether each prompt is read once for its group, into a cache
):
    "The smallest model whose memory grows as the whole one's: (layers of text, blocks of the vision tower)"
    # In Qwen3-VL some blocks also feed a layer of text each (DeepStack): so many layers must be there.
    deepstack_blocks = getattr(run.config.vision_config, "deepstack_visual_indexes", None) or ()
    smallest = max(2, len(deepstack_blocks))
    if shared and run.recomputes:
        # With gradient checkpointing the prompt's cache, of which each layer has a part, decides how much a
        # step holds at most. With very few layers it is small, and something else decides. Four are enough:
        # tests/test_fit.py compares the result with a whole model.
        return max(smallest, 4), smallest
    return smallest, smallest


def memory_of_step(
    counted: _Counted,  # a run, with stock TRL or with shared prompts; `mode`: its `FakeTensorMode`
    rows: int,  # answers in one forward pass
    passes: int,  # forward passes before an optimizer step
) -> dict:  # part: bytes; `training`, `sampling` and `most` are what is held at once
    "Memory of one optimizer step by its parts"
    run = counted.run
    # `of_model`: bytes that the whole model takes, here for all weights and for the optimizer's state
    parts = dict(weights=counted.of_model("weights"), optimizer=counted.of_model("state"))
    small, _factor = counted.parts[0]  # a `_Small` of few layers; its head is the whole model's
    parts["logits"] = _logits(run, small, rows, counted.shared, counted.mode)
    in_training = _training_peak(counted, rows, passes)
    # What remains of the peak: activations and gradients, and a 4-bit weight that is unpacked. Not below 0:
    # logits are counted in a pass of their own, which may come out slightly larger than the peak.
    parts["activations"] = max(0, in_training - parts["logits"])
    parts["pictures"] = _picture_bytes(counted, rows * passes)  # of all answers of a step
    parts["cache"], in_sampling = _sampling_bytes(counted, rows * passes)  # the second includes the first
    parts["rewards"] = run.rewards  # weights of models that are rewards
    if run.settings.use_vllm:
        parts["cache"] = in_sampling = 0  # vLLM's own share of the card holds it

    held = parts["weights"] + parts["optimizer"] + parts["pictures"] + parts["rewards"]
    parts |= dict(training=held + in_training, sampling=held + in_sampling)
    return parts | dict(most=max(parts["training"], parts["sampling"]))


def _training_peak(counted, rows, passes):
    """Most bytes that a forward and backward pass of `rows` answers holds beside weights and optimizer state.

    These are logits, activations and gradients. `counted`: `_Counted`; `passes`: forward passes of a step."""
    peak = counted.training(rows)
    # bitsandbytes unpacks one 4-bit weight at a time, to 2 bytes a number. `largest`: how many numbers the
    # largest one has, 0 if there is none; the same in all models of few layers, so the first is taken.
    small, _factor = counted.parts[0]
    peak += 2 * small.largest
    # From the second pass on, gradients of earlier passes are held already: as large as the trained weights.
    peak += counted.of_model("trained") if passes > 1 else 0
    return peak


def _prompts_of(counted, rows):
    "How many prompts are read for `rows` answers: one for each, or where `counted` shares them one a group"
    return rows // counted.run.settings.num_generations if counted.shared else rows


def _picture_bytes(
    counted,  # `_Counted`; `shared` is True where each prompt is read once for its group
    rows,  # answers of a whole step
):
    "Bytes of the pictures of a step, which are held all the time"
    run = counted.run
    patches, numbers = run.prompt["patches"]  # of all pictures of a prompt; numbers of a patch
    size = _prompts_of(counted, rows) * patches * numbers * 4  # float32, as the processor makes them
    if counted.shared:
        # features of a frozen vision tower that are kept from epoch to epoch
        size += run.settings.picture_memory_mb * 2**20
    return size


def _sampling_bytes(
    counted,  # `_Counted`; `shared` is True where each prompt is read once for its group
    rows,  # answers that are sampled together
):
    "Memory while answers are sampled: (bytes of the full cache, most bytes at once, cache included)"
    run, prompts = counted.run, _prompts_of(counted, rows)
    # Most bytes at once while the prompts are read, and those of their cache.
    reading, prompt_cache = counted.reading(prompts)
    if counted.shared:
        # The prompts' cache stays. Beside it each answer has a row of its own: a copy of its prompt, and from
        # the beginning the space for a whole answer.
        token_bytes = prompt_cache / prompts / run.P  # of one token in the cache
        cache = prompt_cache + token_bytes * rows * (run.P + run.C)
    else:
        # The cache has a row for each answer, which grows from the P tokens of the prompt to P + C.
        cache = prompt_cache * (run.P + run.C) / run.P
    # The most is held either while the prompts are read, or at the last token.
    return cache, max(reading, cache + _last_token_bytes(counted, rows))


def reward_weights(
    settings: GRPOSettings,  # whose reward may be a trained model, or a judge that is loaded here
) -> float:  # bytes; 0 where the reward is a rule, or a judge behind an endpoint
    "What the weights of models that are rewards take: they lie beside the policy during the whole run"
    total = 0.0
    for kind, folder in trained_rewards(settings.reward):  # such as ("reward_model", "runs/03/model")
        if kind != "judge":
            total += _bytes_of_trained(Path(folder))
            continue
        judge = load_judge_settings(folder)
        if judge.endpoint is None:  # else another program holds the model
            total += _bytes_of_model(judge.model, judge.use_4bit)
            total += _bytes_of_files(Path(judge.adapter)) if judge.adapter else 0
    return total


def _bytes_of_trained(folder):
    "Weights of a reward model or a reward classifier in its folder; of one that is an adapter its base, too"
    # as a rule one file or none; a classifier's lies in a folder of its own
    adapter_files = list(folder.rglob("adapter_config.json"))
    if not adapter_files:
        return _bytes_of_files(folder)
    base = _base_of_trained(folder, adapter_files[0])
    # A reward model keeps its base without the vocabulary head, a classifier with it.
    with_head = not (folder / "reward_model.json").is_file()
    return _bytes_of_files(folder) + _bytes_of_model(base, use_4bit=False, with_head=with_head)


def _base_of_trained(
    folder,  # of a reward model or a reward classifier that is an adapter
    adapter_file,  # its adapter_config.json
):
    "Hub id or folder of the model under the adapter; SettingsError if no file names one"
    # In the order in which both loaders look; older classifiers noted no base down.
    places = [(folder / "reward_model.json", "base"), (folder / "classifier.json", "base"),
              (adapter_file, "base_model_name_or_path")]
    for path, key in places:
        base = json.loads(path.read_text(encoding="utf-8")).get(key) if path.is_file() else None
        if base:
            return base
    raise SettingsError(f"{folder}: no file there names the model that its adapter was trained on "
                        f"(expected base_model_name_or_path in {adapter_file.name})")


def _bytes_of_files(folder):
    "Size of all weights in a folder and the folders in it"
    endings = (".safetensors", ".bin", ".pt")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in endings)


def _bytes_of_model(
    name,  # hub id, directory, or `tiny-` and a family
    use_4bit,  # whether its linear layers are stored in 4 bits
    with_head=True,  # False: without the vocabulary head, unless it shares the input embedding's weight
):
    "Weights of a model by its name, from its shapes alone and in the number type of its checkpoint"
    from transformers import AutoModelForImageTextToText
    config = model_config(name)
    # A tiny random model is float32. Known checkpoints are bfloat16, and others say it in their config.
    dtype = torch.float32 if name.startswith("tiny-") else (config.dtype or torch.bfloat16)
    with torch.device("meta"):  # shapes without memory
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
        in_4bit = _cast_for_4bit(model) if use_4bit else set()  # ids of weights
    kept = model if with_head else model.model  # `.model`: all but the head, so with the input embedding
    return sum(_weight_bytes(weight, id(weight) in in_4bit) for weight in kept.parameters())


def _weight_bytes(weight, is_4bit):
    "Bytes of one weight: in the number type that it has or, if `is_4bit`, as bitsandbytes would store it"
    # NF4: half a byte for each number, a byte of scale for 64 of them, and 4 bytes for 256 scales (the scales
    # are quantised, too)
    return weight.numel() * (0.5 + 1 / 64 + 4 / (64 * 256) if is_4bit else weight.element_size())


def _last_token_bytes(
    counted,  # `_Counted`; `shared` is True where prompts are read once a group. `run`: P + C tokens a row
    rows,  # answers that are sampled together
):  # bytes
    "What is held for a moment while the last token of each answer is sampled; the cache is not counted"
    run, text = counted.run, counted.run.config.get_text_config()
    if counted.shared and not run.gpu:
        of_layer = 0  # `shared_prompt.grouped_attention` copies no keys and values on a CPU
    else:
        # Several query heads share one head of keys and values. Attention copies these (hence 2 ·) for every
        # query head, in one layer at a time.
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        # Bytes of a number, 2 or 4, as in keys: their rotary positions are computed in the weights' type.
        number_bytes = run.dtype.itemsize
        cached_tokens = rows * (run.P + run.C)  # also if prompts are shared: each row has a copy of its own
        of_layer = 2 * cached_tokens * text.num_attention_heads * size * number_bytes
    # The scores of all words: 4 copies, while they are changed (temperature, top-k) and drawn from.
    copies, float32_bytes = 4, 4
    return of_layer + copies * rows * text.vocab_size * float32_bytes


def will_fit(
    settings: GRPOSettings,  # a checked object
    prompt_tokens: int = None,  # of text in a prompt; None: as many as a drawn question of the task has
    pictures: int = 1,  # of a prompt, each of the largest size
    sizes: tuple = cards,  # GB of the cards that are asked about; another than these is counted as GiB
) -> dict:  # `run` (what was counted), `ways` (a row for stock and for shared), `cards` (a row for each size)
    "Memory in GB that a run will take, with stock TRL and with shared prompts, and which cards it fits on"
    run = run_of(settings, prompt_tokens=prompt_tokens, pictures=pictures)
    usable = [_usable_bytes(run, size) for size in sizes]  # bytes of each card that the run may take
    ways = []  # a row for "stock", and one for "shared" where prompts can be shared
    largest_groups = {}  # "stock" or "shared" → for each card the most groups that one pass may hold
    for way, counted in _counted_ways(run).items():
        row = _row_of_way(way, counted)  # memory by part in GB
        if row is not None:  # else a pass holds no whole groups, so prompts cannot be shared
            ways.append(row)
            largest_groups[way] = _largest_groups(counted, usable)

    rows_of_cards = []
    for number, size in enumerate(sizes):
        groups = {way: of_cards[number] for way, of_cards in largest_groups.items()}
        rows_of_cards.append(dict(gb=size) | _row_of_card(ways, usable[number], groups))
    return dict(run=_facts_of(run), ways=ways, cards=rows_of_cards)


def _counted_ways(run):
    """A dict of `_Counted` objects, which count a run's bytes, by how prompts are read: "stock" and "shared".

    Stock TRL reads a prompt for each answer; shared, it is read once for the answers of its group."""
    counted = {"stock": _Counted(run, shared=False)}
    if run.settings.attention in ("auto", "sdpa"):  # with other attention prompts cannot be shared
        counted["shared"] = _Counted(run, shared=True)
    return counted


def _row_of_way(way, counted):
    """How a run is cut into passes, and its memory in GB by part; None where prompts cannot be shared.

    `way` is "stock" or "shared", `counted` the `_Counted` for it."""
    settings = counted.run.settings
    # Answers in a forward pass, and forward passes in a step. With shared prompts a pass holds whole
    # groups, if the step does.
    rows, passes = whole_groups(replace(settings, shared_prompt=way == "shared"))
    if way == "shared" and rows % settings.num_generations:
        return None  # a pass holds no whole groups
    parts = memory_of_step(counted, rows, passes)  # part → bytes; "most" is the peak
    gigabytes = {part: size / GiB for part, size in parts.items()}
    return dict(way=way, rows=rows, passes=passes) | gigabytes


def _row_of_card(
    ways,  # dicts: `way` is "stock" or "shared", `most` the GB that the run takes at its peak
    usable,  # bytes of the card that a run may take
    groups,  # way → how many groups of answers would fit into one pass
):
    """Whether a run fits on a card as it is set, and how many groups would fit into one pass, for each way.

    Such as dict(stock_fits=False, stock_groups=3, shared_fits=True, shared_groups=9)."""
    row = {}
    for row_of_way in ways:
        way = row_of_way["way"]
        row[f"{way}_fits"] = row_of_way["most"] * GiB <= usable
        row[f"{way}_groups"] = groups[way]
    return row


def _facts_of(run):
    "What was counted (a `Run`), for people: model, tokens, answers of a group (G), number type"
    return dict(model=run.settings.model, prompt_tokens=run.P, answer_tokens=run.C,
                G=run.settings.num_generations, recomputes=run.recomputes,
                number_type=_number_type(run))


def _number_type(run):
    "In which numbers a `Run` computes, for people; where its weights are of another type, theirs too"
    if run.gpu and run.dtype == torch.float32:
        return "bfloat16 (weights float32)"
    return "bfloat16" if run.gpu else "float32"


def _usable_bytes(run, size):
    "How many bytes of a card that is sold as `size` GB a `Run` may take: less with vLLM on the same card"
    # GiB that PyTorch finds on it, such as 22.0 where 24 GB are sold; any other size counts in full
    at_hand, _ = _at_hand.get(size, (size, ""))
    share = 1.0  # of the card
    if run.settings.use_vllm and run.settings.vllm_mode == "colocate":
        share -= run.settings.vllm_gpu_memory_utilization  # vLLM's engine lies on the same card
    return (at_hand * share - _left_free_gb) * GiB  # a GB stays free for what is not counted


def _largest_groups(
    counted,  # `_Counted`, from which `memory_of_step` computes the bytes of any number of answers
    limits,  # bytes, a number for each card
):  # a list of numbers of groups, 0 where not even one fits
    "The most groups that fit under each limit when a step is a single forward pass"
    G = counted.run.settings.num_generations
    # Memory grows by the same amount with each group, so counting one and two groups is enough. Only TRL's
    # buffer of logits stops growing at 4096 tokens (`_chunk_tokens`): the result may then be too small.
    one_group, two_groups = (memory_of_step(counted, groups * G, passes=1) for groups in (1, 2))
    return [_groups_within(limit, one_group, two_groups) for limit in limits]


def _groups_within(
    limit,  # bytes of a card
    one_group,  # bytes that are held in `training` and in `sampling`, if a step has one group of answers
    two_groups,  # the same with two groups
):
    "How many groups of answers fit into `limit` bytes, if each more takes what the second one takes"
    fits = []  # how many groups fit in training, and in sampling
    for part in ("training", "sampling"):
        of_each_more = two_groups[part] - one_group[part]
        more_groups = (limit - one_group[part]) // of_each_more  # below 0 if not even one group fits
        fits.append(int(1 + more_groups))
    return max(0, min(fits))


def fit_tables(
    found: dict,  # from `will_fit`: facts of the `run`, and a list of dicts each for `ways` and `cards`
) -> list:  # two `Table`s, which a notebook shows: GB of the run by part, and what fits on each card
    "The result of `will_fit` as tables for people"
    return [_table_of_parts(found["run"], found["ways"]), _table_of_cards(found)]


def _table_of_parts(
    run,  # facts as a dict: model, prompt_tokens, answer_tokens, number_type, recomputes
    ways,  # dicts: `way` ("stock" or "shared"), `rows` of a pass, `passes` of a step, and GB by part
):
    "A `Table` of a run's memory in GB by part, a row for each way in which prompts are read"
    parts = ["weights", "optimizer", "activations", "logits", "cache", "training", "sampling", "most"]
    if ways[0]["rewards"]:  # weights of models that are rewards
        parts.insert(1, "rewards")
    rows = []
    for way in ways:
        sizes = {part: f"{way[part]:.2f}" for part in parts}
        rows.append({"prompts": way["way"], "in one pass": way["rows"], "passes": way["passes"]} | sizes)
    kept = "computed twice" if run["recomputes"] else "kept"
    tokens = f"{run['prompt_tokens']} tokens of prompt, {run['answer_tokens']} of an answer at most"
    caption = (f"GB. {run['model']}: {tokens}, {run['number_type']}, layers {kept}. "
               "training and sampling: held at once, weights and optimizer included")
    return Table(rows, caption)


def _table_of_cards(found):
    """A `Table` of what fits on each card, a row for each of `found["cards"]`.

    `found` is the result of `will_fit`: `run` (with G, answers of a group), `cards`, and `ways` of reading
    prompts, by the names "stock" and "shared"."""
    rows = []
    for card in found["cards"]:  # gb, and for each way such as "stock": stock_fits, stock_groups
        row = {"GB of the card": card["gb"]}
        for way in found["ways"]:
            name = way["way"]
            # as set: the run with its settings as they are
            row[f"{name}: as set"] = "fits" if card[f"{name}_fits"] else "does not fit"
            groups = card[f"{name}_groups"]  # the most that fit into one pass
            batch = f"{groups} × {found['run']['G']}" if groups else "not one group"
            row[f"{name}: largest step of one pass"] = batch
        rows.append(row)
    # a sentence such as " Counted with … of 24 GB 22.0 GiB (L4).", or an empty text
    usable_sizes = _told_at_hand(found["cards"])
    # not_counted: this module's tuple of texts about memory that is in no number above
    caption = f"groups × answers.{usable_sizes} Not counted: " + "; ".join(not_counted)
    return Table(rows, caption)


def _told_at_hand(rows_of_cards):
    """A sentence for the caption of a table of cards: how many GiB of each a program can really use

    Such as ` Counted with what the smallest card of a name has: of 24 GB 22.0 GiB (L4).`, where 24 GB is what
    the card is sold as. It begins with a space, since it follows another sentence; "" if nothing is known."""
    sizes = []
    for card in rows_of_cards:  # a dict each; `gb`: GB by which the card is sold, such as 24
        if card["gb"] in _at_hand:
            at_hand, name = _at_hand[card["gb"]]  # GiB that PyTorch finds, and on which card
            sizes.append(f"of {card['gb']} GB {at_hand} GiB ({name})")
    return f" Counted with what the smallest card of a name has: {', '.join(sizes)}." if sizes else ""


# Real steps, to compare with

def real_model(
    run: Run,  # the model is built with all its layers
):  # model (on the GPU where there is one), processor
    "The run's model with random weights, and a processor, without any download"
    from transformers import AutoModelForImageTextToText
    # A tiny model's processor. It cuts pictures as the real one does, but has a small tokenizer: the model is
    # told that tokenizer's ids of picture tokens.
    processor = twin_processor(run.config.model_type)
    limit_pixels(processor, run.settings.max_image_size)
    config = _with_ids_of(processor, run.config)
    on_gpu = torch.cuda.is_available()
    torch.manual_seed(0)  # the same weights in every run
    with torch.device("cuda" if on_gpu else "cpu"):
        dtype = run.dtype if on_gpu else torch.float32
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    # No token ends an answer, so that every answer gets the full length that was counted.
    model.generation_config.update(eos_token_id=None, pad_token_id=processor.tokenizer.pad_token_id)
    return model, processor


def _with_ids_of(processor, config):
    """A copy of a model's configuration with a processor's ids for pictures.

    The model finds a picture's place by them, and a small tokenizer has other ids than the checkpoint's."""
    config = copy.deepcopy(config)
    config.image_token_id = processor.image_token_id
    config.vision_start_token_id = processor.tokenizer.convert_tokens_to_ids("<|vision_start|>")
    return config


def real_steps(
    run: Run,  # what was counted
    model,  # with random weights
    processor,  # of the model
    steps: int = 2,  # the first one makes the optimizer's state at its end, so the second needs most memory
):  # the trainer, when it has trained
    "Train real steps of a run on drawn pictures of the largest size, so that its memory can be measured"
    settings = run.settings
    if settings.use_lora:
        model = _with_adapter(model, settings)
    samples = _drawn_samples(steps * settings.prompts_per_step, settings.max_image_size)
    # The run's settings, but few steps on drawn pictures (data=None), without checkpoints or reports. As a
    # dict, since mypy refuses None for `data`, declared as a str.
    changed: dict = dict(max_steps=steps, save_steps=0, logging_steps=1, report_to="none", data=None)
    short = replace(settings, **changed)
    trainer = make_trainer(short, model, processor, to_dataset(samples))
    trainer.eos_token_ids = [-1]  # no token has this id, so no answer ends early
    trainer.generation_config.eos_token_id = None
    trainer.train()
    return trainer


def _drawn_samples(count, side):
    "So many counting samples with drawn pictures of `side` × `side` pixels"
    samples = []
    for number, drawn in enumerate(synthetic_counting(count)):
        picture = drawn.images[0].resize((side, side))
        # Questions of two lengths, so that prompts are padded and an attention mask is made.
        question = drawn.question if number % 2 else drawn.question.removesuffix("?")
        samples.append(Sample(question, drawn.answer, [picture], "counting", number))
    return samples


def measured_mb(
    settings: dict,  # of the run
    shape: dict,  # `width`, `depth` and `vocabulary` of a tiny Qwen2.5-VL with random weights
) -> float:  # MB
    """Most memory that a real run of a tiny model takes on a CPU, without that of the libraries.

    The run happens in a new process: this module's own `__main__`, which prints the number."""
    # So glibc returns freed blocks of 128 KB or more to the system at once; else they would be counted, too.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(128 << 10)}
    command = [*own_python(), "-m", "vlrlbook.fit", json.dumps(settings), json.dumps(shape)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"the measured steps failed: {done.stderr[-2000:]}")
    return float(done.stdout.split("MB")[-1])  # the last line is such as "MB 123.4"


def twin_run(
    settings: dict,  # of the run
    shape: dict,  # `width`, `depth` and `vocabulary`
) -> Run:  # on a CPU
    """A `Run` for a tiny model (twin) of a given shape: an untrained Qwen2.5-VL of few and narrow layers.

    It is so small that its memory can be measured, too, and compared with what is counted."""
    config = twin_config("qwen2_5_vl", twin_processor("qwen2_5_vl").tokenizer, shape["width"], shape["depth"])
    # more words than its tokenizer has, so that logits weigh more in the sum
    config.get_text_config().vocab_size = shape["vocabulary"]
    return run_of(read_settings(GRPOSettings, settings), config, gpu=False)


def counted_step(
    run: Run,  # its settings say whether prompts are shared
) -> dict:  # from `memory_of_step`
    "Memory in bytes of one optimizer step of a run, by its parts"
    rows, passes = whole_groups(run.settings)  # answers in a forward pass, forward passes in a step
    # Prompts are shared if that is set and possible: with these attention functions, and in whole groups.
    wanted = run.settings.shared_prompt and run.settings.attention in ("auto", "sdpa")
    shared = wanted and rows % run.settings.num_generations == 0
    return memory_of_step(_Counted(run, shared), rows, passes)


def counted_mb(
    settings: dict,  # of the run
    shape: dict,  # `width`, `depth` and `vocabulary` of a tiny Qwen2.5-VL with random weights
) -> float:  # MB at once
    "Most memory that a run of a tiny model takes on a CPU: counted here, where `measured_mb` measures it"
    return counted_step(twin_run(settings, shape))["most"] / 2**20


def _measure_here(
    settings,  # a dict, by the names of `GRPOSettings`
    shape,  # `width`, `depth` and `vocabulary` of a tiny model
):
    """MB that a run adds to this process at its peak.

    A very small run goes first, so that all libraries are loaded and not counted."""
    with tempfile.TemporaryDirectory() as folder:
        small_shape = dict(width=64, depth=1, vocabulary=shape["vocabulary"])
        for run_shape in (small_shape, shape):  # only the second one's numbers are returned
            run = twin_run(settings | dict(output_dir=folder), run_shape)
            gc.collect()
            Path("/proc/self/clear_refs").write_text("5")  # resets the kernel's peak, VmHWM (proc(5))
            before = _proc_mb("VmRSS")  # memory in use now
            real_steps(run, *real_model(run))  # trains a model with random weights
            peak = _proc_mb("VmHWM")
    return peak - before


def _proc_mb(name):
    "A number of this process's memory in MB, by its name in /proc/self/status, such as VmRSS"
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(name))  # such as "VmRSS:   123456 kB"
    kilobytes = int(line.split()[1])
    return kilobytes / 2**10


if __name__ == "__main__":  # what `measured_mb` starts
    print("MB", _measure_here(json.loads(sys.argv[1]), json.loads(sys.argv[2])))

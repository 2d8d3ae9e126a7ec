"""Will a GRPO run fit? GB of its parts before it starts, without weights and without a GPU.

A training step is done with tensors that have shapes and no numbers (PyTorch's fake tensors), on real layers
of transformers, PEFT and TRL, and what is held at once is counted. Few layers are done so, since one layer
takes what the next one takes; the rest is multiplied. Written by hand, not exported from a notebook."""
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
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import trl.trainer.utils
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from . import shared_prompt
from .core import Sample, Table
from .data import drawn_questions, encode, synthetic_counting, to_dataset
from .grpo import make_trainer
from .models import add_lora, limit_pixels, twin_config, twin_processor
from .settings import GRPOSettings, SettingsError, nearest, read_settings, whole_groups
from .shared_prompt import SharedPrompt, cache_keyword, prompt_positions, replaced_methods
from .shared_prompt import use_grouped_attention

__all__ = ["published", "cards", "Run", "run_of", "model_config", "memory_of_step", "will_fit", "fit_tables",
           "real_model", "real_steps", "measured_mb", "twin_run", "counted_step", "counted_mb",
           "not_counted"]

GiB = 2**30
cards = (16, 24, 48, 80, 141)  # GB of the cards that people rent
# Left free on a card for what is not counted: the CUDA context, workspaces of kernels, holes between tensors.
# An assumption, not a measurement.
_left_free_gb = 1.0

# Shapes of the checkpoints that the service offers, from their config.json, so that no hub is needed.
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
    "a reward model, when it is the reward",
    "the held-out pictures before and after (eval_batch_size at a time)",
    "gradients and weights of other processes: a run on several GPUs is counted as one of them",
)


# What a run is made of

@dataclass
class Run:
    "All that decides a run's memory"
    settings: GRPOSettings  # checked
    config: Any  # transformers configuration of the whole model
    # of one row: input_ids and mm_token_type_ids [1, P], image_grid_thw [pictures, 3], patches (n, size)
    prompt: dict
    gpu: bool  # bfloat16 and kernels of a GPU; otherwise float32 and those of a CPU

    @property
    def C(self) -> int:
        "Tokens of an answer at most"
        return self.settings.max_completion_length

    @property
    def P(self) -> int:
        "Tokens of the prompt, pictures included"
        return self.prompt["input_ids"].shape[1]

    @property
    def recomputes(self) -> bool:
        "Whether layers are computed again on the way back"
        wanted = self.settings.gradient_checkpointing
        # PEFT (0.21) switches it on whenever it prepares a 4-bit model, whatever the settings say.
        return self.settings.use_4bit or (self.gpu if wanted is None else wanted)


def model_config(
    name: str,  # hub id, directory, or a tiny twin
):  # a transformers configuration
    "Shapes of a model; those of known checkpoints are in the package, others are read from their directory"
    import transformers
    if name.startswith("tiny-"):
        family = name.removeprefix("tiny-")
        return twin_config(family, twin_processor(family).tokenizer)
    if name in published:
        class_name, tied, text, vision = published[name]
        ids = dict(image_token_id=151655, video_token_id=151656, vision_start_token_id=151652,
                   vision_end_token_id=151653)
        return getattr(transformers, class_name)(
            text_config=dict(text), vision_config=dict(vision), tie_word_embeddings=tied, **ids)
    try:
        return transformers.AutoConfig.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError) as error:
        known = [*published, "tiny-qwen2_5_vl"]
        missing = f"model = {name!r}: no config.json of it is on this machine{nearest(name, known)}"
        raise SettingsError(missing) from error


def run_of(
    settings: GRPOSettings,  # a checked object
    config=None,  # a transformers configuration; None: that of `settings.model`
    prompt_tokens: int = None,  # of text in a prompt; None: as many as a drawn question of the task has
    pictures: int = 1,  # of a prompt, each of the largest size
    gpu: bool = None,  # count for a GPU; None: for all but tiny twins
) -> Run:
    "Settings with the shapes that they lead to; SettingsError for a family whose step cannot be counted"
    config = model_config(settings.model) if config is None else config
    family = config.model_type
    if family not in ("qwen2_vl", "qwen2_5_vl"):
        # Aria's experts are chosen by numbers and Qwen3-VL's first layers by a mask: fake tensors have neither.
        known = "memory is counted for Qwen2-VL and Qwen2.5-VL"
        raise SettingsError(f"model = {settings.model!r}: {known}, this is a {family}")
    if settings.max_looks:
        raise SettingsError("max_looks: memory is counted for one picture before the answer, not for those inside it; "
                            "max_looks=0 counts the rest")
    gpu = settings.size == "gpu" if gpu is None else gpu
    return Run(settings, config, _prompt(settings, config, prompt_tokens, pictures), gpu)


def _prompt(settings, config, text_tokens, pictures):
    "One prompt as tensors, with pictures of the largest size; its words are those of a drawn question"
    from PIL import Image
    processor = twin_processor(config.model_type)
    limit_pixels(processor, settings.max_image_size)
    drawn = (synthetic_counting if settings.task == "counting" else drawn_questions)(1, seed=0)[0]
    side = settings.max_image_size
    picture = Image.new("RGB", (side, side))
    sample = Sample(drawn.question, drawn.answer, [picture] * pictures, settings.task, 0)
    found = encode(processor, [sample])
    ids = found["input_ids"]
    seen = ids == processor.image_token_id
    # Which words they are does not matter, but where the pictures are does.
    ids = torch.where(seen, config.image_token_id, 1)
    if text_tokens is not None:
        more = max(0, text_tokens - int((~seen).sum()))
        ids = torch.cat([torch.ones(1, more, dtype=ids.dtype), ids], 1)
    kinds = (ids == config.image_token_id).long()
    return dict(input_ids=ids, mm_token_type_ids=kinds, image_grid_thw=found["image_grid_thw"],
                patches=tuple(found["pixel_values"].shape))


# Tensors without numbers

class _Counter(TorchDispatchMode):
    "Bytes of all tensors that are made within the block and still held; `peak` is the most at once"
    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.held = {}  # a storage's address -> its bytes

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        return result

    def _add(self, storage):
        if storage._cdata in self.held:
            return  # a view of what is known
        self.held[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        weakref.finalize(storage, self._drop, storage._cdata)

    def _drop(self, address):
        self.now -= self.held.pop(address, 0)

    def know(self, tensors):
        "These were there before: they are counted by others"
        for tensor in tensors:
            self.held[tensor.untyped_storage()._cdata] = 0


def _faked(model, mode):
    "Put a fake tensor of the same shape in the place of every weight and buffer; tied ones stay tied"
    made = {}

    def fake(tensor):
        if id(tensor) not in made:
            with mode:
                empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            is_weight = isinstance(tensor, torch.nn.Parameter)
            made[id(tensor)] = torch.nn.Parameter(empty, tensor.requires_grad) if is_weight else empty
        return made[id(tensor)]

    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is not None:
                    own[name] = fake(tensor)
    return model


class _FusedAttention(torch.autograd.Function):
    "What a fused attention kernel of a GPU holds: inputs, output and a number for each query; no scores"
    @staticmethod
    def forward(ctx, query, key, value):
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx, grad):
        query, key, value = ctx.saved_tensors[:3]
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _attention_of_a_gpu(query, key, value, *args, **kwargs):
    "`scaled_dot_product_attention` as a GPU's kernels hold it, whatever the mask"
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    return _FusedAttention.apply(query.to(dtype), key.to(dtype), value.to(dtype))


def _dropout_of_a_gpu(x, p=0.5, training=True, inplace=False):
    "`dropout` that keeps a byte for each number; a CPU keeps a float"
    return torch.native_dropout(x, p, True)[0] if training and p else x


def _kernels(run):
    "What stands in the place of other functions while a run is counted: (module, name) -> function or value"
    # TRL asks for a whole piece of the vocabulary where there are fewer words; the system gives memory for
    # what is written to, and no more.
    piece = min(_vocabulary_piece, run.config.get_text_config().vocab_size)
    instead = {(trl.trainer.utils, "_CHUNKED_LOGPROB_CHUNK_SIZE"): piece}
    if run.gpu:
        functional, name = torch.nn.functional, "scaled_dot_product_attention"
        instead |= {(functional, "dropout"): _dropout_of_a_gpu, (functional, name): _attention_of_a_gpu,
                    (shared_prompt, name): _attention_of_a_gpu}
    return instead


# TRL 1.16 takes the vocabulary in pieces of this width, and at most so many tokens at a time
# (`_CHUNKED_LOGPROB_CHUNK_SIZE` of trl.trainer.utils, `TOKEN_CHUNK_SIZE` of trl.kernels.chunked_logprob).
_vocabulary_piece, _most_tokens = 32768, 4096


class _FusedHead(torch.autograd.Function):
    "What TRL's fused head holds on a GPU: a piece of the logits, and on the way back the gradient in float32"
    @staticmethod
    def forward(ctx, hidden, weight):
        ctx.save_for_backward(hidden, weight)
        _FusedHead.piece(hidden, weight)
        return hidden.new_empty(len(hidden), dtype=torch.float32)

    @staticmethod
    def piece(hidden, weight):
        "Logits of some tokens over a part of the vocabulary"
        dtype = torch.get_autocast_dtype("cpu")
        part = weight[:_vocabulary_piece].to(dtype)
        return hidden.new_empty(min(len(hidden), _most_tokens), len(part), dtype=dtype), part

    @staticmethod
    def backward(ctx, grad):
        hidden, weight = ctx.saved_tensors
        total = hidden.new_zeros(hidden.shape, dtype=torch.float32)
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = weight.new_zeros(weight.shape, dtype=torch.float32).to(weight.dtype)
        pieces = _FusedHead.piece(hidden, weight)
        del pieces
        return total.to(hidden.dtype), of_weight


def _fuse_head(model):
    "Give a model TRL's fused head as it is on a GPU: only tokens of answers meet the vocabulary"
    plain = model.forward

    def forward(*args, fused_lm_head=False, labels=None, **kwargs):
        if not fused_lm_head:
            return plain(*args, **kwargs)
        hidden = model.base_model(*args, use_cache=False, **kwargs).last_hidden_state[:, :-1]
        places = (labels[:, 1:] != -100).flatten().nonzero()[:, 0]
        logps = _FusedHead.apply(hidden.flatten(0, 1)[places], model.get_output_embeddings().weight)
        spread = logps.new_zeros(labels[:, 1:].numel()).index_put((places,), logps).view(len(labels), -1)
        return SimpleNamespace(log_probs=spread, entropy=spread.detach())

    model.forward = forward


# A model of a few layers

@dataclass
class _Small:
    "A model of few layers with all that is done to it before training"
    model: object  # fake, with its adapter
    core: object  # the same without the adapter
    weights: float  # bytes of all weights
    trained: float  # bytes of the weights that train
    state: float  # bytes of the optimizer's state
    largest: int  # numbers in the largest 4-bit weight


def _small(run, layers, blocks, mode):
    "The model of a run with so many layers and blocks of the tower"
    from transformers import AutoModelForImageTextToText
    settings = run.settings
    with torch.device("meta"):
        dtype = torch.bfloat16 if run.gpu else torch.float32
        core = AutoModelForImageTextToText.from_config(_shortened(run.config, layers, blocks), dtype=dtype)
        core.set_attn_implementation("eager" if settings.attention == "eager" else "sdpa")
        quantised = _quantise(core) if settings.use_4bit else set()
        model = core
        if settings.use_lora:
            model = _with_adapter(core, settings)
    own = dict(model.named_parameters())
    if settings.use_4bit:
        for weight in own.values():
            if weight.requires_grad:
                # TRL 1.16 does so with an adapter on 4-bit weights.
                weight.data = weight.data.to(torch.bfloat16)
    size = {id(w): w.numel() * w.element_size() for w in own.values()}
    # NF4: half a byte a number, a byte of scale for 64, and 4 bytes for 256 of those (double quantisation)
    four_bit = 0.5 + 1 / 64 + 4 / (64 * 256)
    size |= {id(w): w.numel() * four_bit for w in own.values() if id(w) in quantised}
    trained = [w for w in own.values() if w.requires_grad]
    largest = max((w.numel() for w in own.values() if id(w) in quantised), default=0)
    weights, bytes_trained = sum(size.values()), sum(size[id(w)] for w in trained)
    if settings.beta and not settings.use_lora:
        weights *= 2  # the reference model; with an adapter it is the same model without it
    state = sum(w.numel() * _state_bytes(settings.optim, w.element_size()) for w in trained)
    _faked(model, mode)
    return _Small(model.train(), core, weights, bytes_trained, state, largest)


def _with_adapter(model, settings):
    "A model with the adapter of a run"
    s = settings
    return add_lora(model, s.lora_r, s.lora_alpha, s.lora_dropout, s.lora_vision)


def _shortened(config, layers, blocks):
    "A configuration with fewer layers, whose last block of the tower sees the whole picture"
    config = copy.deepcopy(config)
    text, vision = config.get_text_config(), config.vision_config
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = [text.layer_types[i % len(text.layer_types)] for i in range(layers)]
    vision.depth = blocks
    if hasattr(vision, "fullatt_block_indexes"):
        vision.fullatt_block_indexes = [blocks - 1]
    if hasattr(vision, "deepstack_visual_indexes"):
        vision.deepstack_visual_indexes = list(range(len(vision.deepstack_visual_indexes)))
    return config


def _quantise(model):
    "ids of the weights that bitsandbytes would hold in 4 bit; others become float32, as PEFT (0.21) has it"
    head = model.get_output_embeddings()
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    quantised = {id(m.weight) for m in linears}
    for weight in model.parameters():
        if id(weight) not in quantised:
            weight.data = weight.data.float()
    return quantised


def _state_bytes(optim, size):
    "Bytes that an optimizer keeps of a number that takes `size`"
    if optim in ("sgd", "adafactor"):
        return 0  # adafactor keeps a row and a column of each matrix
    if "8bit" in optim:
        return 2
    return 2 * size  # the two moments of Adam and its kin


# A step

class _Scorer(SharedPrompt):
    "The part of our trainer that reads a prompt once for a group, without a trainer around it"
    def __init__(self, autocast):
        self.accelerator = SimpleNamespace(unwrap_model=lambda model: model, autocast=autocast)

    def logps(self, *args):
        "Log-probs of whole groups"
        return self._group_logps(*args)[0]


def _autocast(run):
    "bfloat16 where a GPU would compute in it"
    return torch.autocast("cpu", torch.bfloat16) if run.gpu else nullcontext()


@contextmanager
def _counting(run, small, given=()):
    "A counter that knows the model and what it is given, with the kernels of the run's device"
    counter = _Counter()
    counter.know([*small.model.parameters(), *small.model.buffers(), *given])
    with replaced_methods(_kernels(run)), counter:
        yield counter


def _batch(run, rows, mode, answers):
    "Rows of the run's prompt, with or without answers behind it: text fields [rows, …], picture fields"
    prompt, C = run.prompt, run.C if answers else 0
    ids = torch.cat([prompt["input_ids"].expand(rows, -1), torch.ones(rows, C, dtype=torch.long)], 1)
    no_kinds = torch.zeros(rows, C, dtype=torch.long)
    kinds = torch.cat([prompt["mm_token_type_ids"].expand(rows, -1), no_kinds], 1)
    mask = torch.ones_like(ids)
    if answers and rows > 1:
        mask[0, -1] = 0  # answers of unequal length: without any padding no mask would be made
    with mode:
        pixels = torch.empty(rows * prompt["patches"][0], prompt["patches"][1])
    grid = prompt["image_grid_thw"].repeat(rows, 1)
    return ids, mask, dict(pixel_values=pixels, image_grid_thw=grid, mm_token_type_ids=kinds)


def _trained_step(run, small, rows, shared, mode):
    "Most bytes at once that one forward and backward of `rows` answers adds to weights and state"
    core, settings = small.core, run.settings
    _prepare_training(run, small)
    G = settings.num_generations
    ids, mask, fields = _batch(run, rows, mode, answers=True)
    for weight in small.model.parameters():
        weight.grad = None
    labels = ids.clone()
    labels[:, :run.P] = -100
    remembered = []
    if shared:
        use_grouped_attention(small.model)
        fields = {name: value[:len(value) // G] for name, value in fields.items()}
        fields["mm_token_type_ids"] = fields["mm_token_type_ids"][:, :run.P]
        if not any(w.requires_grad for w in core.model.visual.parameters()):
            remembered = _remember(core, fields)
    with _counting(run, small, [*fields.values(), *remembered]) as counter:
        if shared:
            scorer = _Scorer(lambda: _autocast(run))
            logps = scorer.logps(small.model, ids, mask, fields, run.C, G)
        else:
            with _autocast(run):
                given = dict(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
                logps = small.model(**given, **fields).log_probs
        logps.sum().backward()
    vars(core.model).pop("get_image_features", None)
    return counter.peak


def _prepare_training(run, small):
    "Gradient checkpointing and the fused head, as TRL puts them on"
    from trl.trainer.utils import add_fused_lm_head
    core = small.core
    vars(core).pop("forward", None)
    if run.gpu:
        _fuse_head(core)
    else:
        add_fused_lm_head(core, outputs=("log_probs", "entropy"))
    if run.recomputes:
        # Random states are no tensors of the step, and fake ones cannot be asked for.
        core.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        if run.settings.use_lora:
            small.model.enable_input_require_grads()


def _remember(core, fields):
    "Let a frozen tower's features be known, as `shared_prompt.PictureMemory` knows them; their tensors"
    with torch.no_grad():
        seen = core.model.get_image_features(fields["pixel_values"], fields["image_grid_thw"])

    def remembered(*args, **kwargs):
        return seen

    core.model.get_image_features = remembered
    return [tensor for tensor in tree_leaves(dict(seen)) if torch.is_tensor(tensor)]


def _prefill(run, small, rows, mode):
    "Bytes while prompts are read before sampling, at once and in the cache that stays"
    vars(small.core).pop("forward", None)
    small.core.gradient_checkpointing_disable()
    ids, mask, fields = _batch(run, rows, mode, answers=False)
    positions = prompt_positions(small.model, ids, mask, fields)
    fields |= dict(position_ids=positions, use_cache=True, logits_to_keep=1)
    given = [value for value in fields.values() if torch.is_tensor(value)]
    with torch.no_grad(), _counting(run, small, given) as counter, _autocast(run):
        out = small.model(input_ids=ids, attention_mask=mask, **fields)
    kept = getattr(out, cache_keyword(small.model)).layers
    return counter.peak, sum(layer.keys.nbytes + layer.values.nbytes for layer in kept)


def _logits(run, small, rows, shared, mode):
    "Bytes of the logits in the loss at once, there and back"
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction
    weight = small.core.get_output_embeddings().weight
    G, C = run.settings.num_generations, run.C
    # A GPU takes the answers' tokens alone; elsewhere TRL 1.16 scores every position.
    all_positions = rows * C if shared else rows * (run.P + C - 1)
    tokens = rows * C if run.gpu else all_positions
    with mode:
        hidden = torch.empty(tokens, weight.shape[1], dtype=torch.bfloat16 if run.gpu else torch.float32)
        words = torch.empty(tokens, dtype=torch.long)
    hidden.requires_grad_()
    with _counting(run, small) as counter, _autocast(run):
        if run.gpu:
            logps = _FusedHead.apply(hidden, weight)
        else:
            piece = min(_vocabulary_piece, len(weight))
            given = (hidden, weight, None, words, 1.0, piece, None, 1.0, ("entropy",))
            logps = ChunkedLogProbFunction.apply(*given)[0]
        logps.sum().backward()
    weight.grad = None
    return counter.peak


# The whole model

class _Counted:
    "Bytes of a run's parts, one way: the stock trainer's or with shared prompts"
    def __init__(self, run, shared):
        self.run, self.shared, self.mode = run, shared, FakeTensorMode(allow_non_fake_inputs=True)
        self.known = {}
        text, vision = run.config.get_text_config(), run.config.vision_config
        # Qwen3-VL hands what its first blocks saw to as many first layers, so fewer cannot be built.
        least = max(2, len(getattr(vision, "deepstack_visual_indexes", None) or ()))
        # With checkpointing a prompt's cache grows by each layer and outgrows what one layer needs at once: where
        # few layers are built, another moment of the step is the highest. From four on it is the same (7 measured).
        few = max(least, 4) if shared and run.recomputes else least
        more, deeper = text.num_hidden_layers - few, vision.depth - least
        if more <= 2 and deeper <= 2:
            self.parts = [(_small(run, text.num_hidden_layers, vision.depth, self.mode), 1)]
        else:
            # Each layer takes what the next one takes: base + more · (a layer) + deeper · (a block).
            sizes = [(few, least, 1 - more - deeper), (few + 1, least, more), (few, least + 1, deeper)]
            self.parts = []
            for layers, blocks, factor in sizes:
                self.parts.append((_small(run, layers, blocks, self.mode), factor))

    def of_model(self, name):
        "An attribute of `_Small` for the whole model; the largest weight is no sum"
        return sum(factor * getattr(small, name) for small, factor in self.parts)

    def training(self, rows):
        "Most bytes at once that a forward and backward of `rows` answers adds"
        def measure(small):
            return _trained_step(self.run, small, rows, self.shared, self.mode)
        return self._whole(("training", rows), measure)

    def reading(self, rows):
        "Bytes while `rows` prompts are read: at once, and in the cache that stays"
        def measure(small):
            return _prefill(self.run, small, rows, self.mode)
        found = self._parts_of(("reading", rows), measure)
        return tuple(sum(factor * pair[i] for pair, (_, factor) in zip(found, self.parts)) for i in (0, 1))

    def _whole(self, key, measure):
        found = self._parts_of(key, measure)
        return sum(factor * value for value, (_, factor) in zip(found, self.parts))

    def _parts_of(self, key, measure):
        if key not in self.known:
            self.known[key] = [measure(small) for small, _ in self.parts]
        return self.known[key]


def memory_of_step(
    counted: _Counted,  # a run, one way
    rows: int,  # answers in one forward pass
    passes: int,  # forward passes before an optimizer step
) -> dict:  # part: bytes; `training`, `sampling` and `most` are what is held at once
    "Memory of one optimizer step by its parts"
    run, small = counted.run, counted.parts[0][0]
    G, all_rows = run.settings.num_generations, rows * passes
    prompts = all_rows // G if counted.shared else all_rows
    found = dict(weights=counted.of_model("weights"), optimizer=counted.of_model("state"))
    found["logits"] = _logits(run, small, rows, counted.shared, counted.mode)
    added = counted.training(rows)
    # bitsandbytes unpacks one weight at a time to the number type in which it computes.
    added += 2 * small.largest
    # From the second pass on, the gradients of those before are held from the beginning.
    added += counted.of_model("trained") if passes > 1 else 0
    found["activations"] = max(0, added - found["logits"])
    patches, size = run.prompt["patches"]
    found["pictures"] = prompts * patches * size * 4  # float32, as the processor makes them
    if counted.shared:
        found["pictures"] += run.settings.picture_memory_mb * 2**20  # features that are kept from epoch to epoch
    reading, cache = counted.reading(prompts)
    found["cache"] = cache * (run.P + run.C) / run.P
    if counted.shared:
        # The prompts' cache stays beside the wide one, which has room for every answer from the beginning.
        found["cache"] = cache + cache / prompts / run.P * all_rows * (run.P + run.C)
    sampled = max(reading, found["cache"] + _of_one_token(counted, cache, all_rows))
    held = found["weights"] + found["optimizer"] + found["pictures"]
    if run.settings.use_vllm:
        found["cache"] = sampled = 0  # vLLM's own share of the card holds it
    found |= dict(training=held + added, sampling=held + sampled)
    return found | dict(most=max(found["training"], found["sampling"]))


def _of_one_token(counted, cache, rows):
    "Bytes that sampling one more token adds for a moment"
    run, text = counted.run, counted.run.config.get_text_config()
    numbers = 4 if not run.gpu else 2
    seen = rows * (run.P + run.C)
    if counted.shared and not run.gpu:
        layer = 0  # on a CPU heads share their keys: see `shared_prompt.grouped_attention`
    else:
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        # keys and values, repeated for every head
        layer = 2 * seen * text.num_attention_heads * size * numbers
    return layer + 4 * rows * text.vocab_size * 4  # scores of all words, as they are changed and drawn from


def will_fit(
    settings: GRPOSettings,  # a checked object
    prompt_tokens: int = None,  # of text in a prompt; None: as many as a drawn question of the task has
    pictures: int = 1,  # of a prompt, each of the largest size
    sizes: tuple = cards,  # GB of the cards that are asked about
) -> dict:  # `run` (what was counted), `ways` (a row for stock and for shared), `cards` (a row for each size)
    "GB of a run before it starts, with copied and with shared prompts, and what fits on a card"
    run = run_of(settings, None, prompt_tokens, pictures)
    counted = {"stock": _Counted(run, False)}
    if settings.attention in ("auto", "sdpa"):
        counted["shared"] = _Counted(run, True)  # other attention functions cannot share a prompt
    ways, largest = [], {}
    for way, one in counted.items():
        plan = replace(settings, shared_prompt=way == "shared")
        rows, passes = whole_groups(plan)
        # Groups cannot be shared where a pass holds no whole ones.
        if way == "shared" and rows % settings.num_generations:
            continue
        found = memory_of_step(one, rows, passes)
        gigabytes = {part: size / GiB for part, size in found.items()}
        ways.append(dict(way=way, rows=rows, passes=passes) | gigabytes)
        largest[way] = _largest_groups(one, [_room(run, size) for size in sizes])
    rows_of_cards = []
    for number, size in enumerate(sizes):
        row = dict(gb=size)
        for way in ways:
            name = way["way"]
            row[f"{name}_fits"] = way["most"] * GiB <= _room(run, size)
            row[f"{name}_groups"] = largest[name][number]
        rows_of_cards.append(row)
    words = dict(model=settings.model, prompt_tokens=run.P, answer_tokens=run.C, G=settings.num_generations,
                 recomputes=run.recomputes, number_type="bfloat16" if run.gpu else "float32")
    return dict(run=words, ways=ways, cards=rows_of_cards)


def _room(run, size):
    "Bytes of a card that a run may take"
    share = 1.0
    if run.settings.use_vllm and run.settings.vllm_mode == "colocate":
        share -= run.settings.vllm_gpu_memory_utilization
    return (size * share - _left_free_gb) * GiB


def _largest_groups(counted, rooms):
    "For each room in bytes: the most groups that one pass may hold, with a step of that one pass"
    G = counted.run.settings.num_generations
    found = []
    # What a group adds is the same for each: two counts give a line. (TRL's pieces of the vocabulary have a
    # largest size, so that the line may say a group too few for a large batch.) Training and sampling each have
    # a line, since the steeper one need not be the higher one for two groups.
    one, two = (memory_of_step(counted, groups * G, 1) for groups in (1, 2))
    for room in rooms:
        fits = []
        for part in ("training", "sampling"):
            fits.append(int(1 + (room - one[part]) // (two[part] - one[part])))
        found.append(max(0, min(fits)))
    return found


def fit_tables(
    found: dict,  # from `will_fit`
) -> list:  # two tables that show themselves
    "What `will_fit` found, for people"
    run = found["run"]
    parts = ("weights", "optimizer", "activations", "logits", "cache", "training", "sampling", "most")
    rows = []
    for way in found["ways"]:
        sizes = {part: f"{way[part]:.2f}" for part in parts}
        rows.append({"prompts": way["way"], "in one pass": way["rows"], "passes": way["passes"]} | sizes)
    kept = "computed twice" if run["recomputes"] else "kept"
    tokens = f"{run['prompt_tokens']} tokens of prompt, {run['answer_tokens']} of an answer at most"
    words = (f"GB. {run['model']}: {tokens}, {run['number_type']}, layers {kept}. "
             "training and sampling: held at once, weights and optimizer included")
    seen = []
    for card in found["cards"]:
        row = {"GB of the card": card["gb"]}
        for way in found["ways"]:
            name, groups = way["way"], card[f"{way['way']}_groups"]
            row[f"{name}: as set"] = "fits" if card[f"{name}_fits"] else "does not fit"
            batch = f"{groups} × {run['G']}" if groups else "not one group"
            row[f"{name}: largest step of one pass"] = batch
        seen.append(row)
    return [Table(rows, words), Table(seen, "groups × answers. Not counted: " + "; ".join(not_counted))]


# Real steps, to compare with

def real_model(
    run: Run,  # its configuration gets the ids of the twins' tokenizer
):  # model with random weights on the GPU where there is one, processor
    "The run's model with random weights, and a twin's processor, which knows pictures as the real one does"
    from transformers import AutoModelForImageTextToText
    processor = twin_processor(run.config.model_type)
    limit_pixels(processor, run.settings.max_image_size)
    tokenizer = processor.tokenizer
    config = copy.deepcopy(run.config)
    config.image_token_id = processor.image_token_id
    config.vision_start_token_id = tokenizer.convert_tokens_to_ids("<|vision_start|>")
    on_gpu = torch.cuda.is_available()
    torch.manual_seed(0)
    with torch.device("cuda" if on_gpu else "cpu"):
        dtype = torch.bfloat16 if on_gpu else torch.float32
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    # No token ends an answer: every answer takes the room that was counted for it.
    model.generation_config.update(eos_token_id=None, pad_token_id=tokenizer.pad_token_id)
    return model, processor


def real_steps(
    run: Run,  # what was counted
    model,  # with random weights
    processor,  # of the model
    steps: int = 2,  # the optimizer's state is there from the second step on
):  # the trainer, when it has trained
    "Real training steps of a run on drawn pictures of the largest size"
    settings = run.settings
    if settings.use_lora:
        model = _with_adapter(model, settings)
    side = settings.max_image_size
    samples = []
    for number, drawn in enumerate(synthetic_counting(steps * settings.prompts_per_step)):
        picture = drawn.images[0].resize((side, side))
        # Two lengths of questions, so that prompts are padded and a mask is made.
        question = drawn.question if number % 2 else drawn.question.removesuffix("?")
        samples.append(Sample(question, drawn.answer, [picture], "counting", number))
    changed: dict = dict(max_steps=steps, save_steps=0, logging_steps=1, report_to="none", data=None)
    own = replace(settings, **changed)
    trainer = make_trainer(own, model, processor, to_dataset(samples))
    trainer.eos_token_ids = [-1]  # no token
    trainer.generation_config.eos_token_id = None
    trainer.train()
    return trainer


def measured_mb(
    settings: dict,  # of the run
    shape: dict,  # `width`, `depth` and `vocabulary` of a Qwen2.5-VL twin
) -> float:  # MB of weights, optimizer and steps at once, libraries left out
    "Real steps of a twin on a CPU, in a process of its own"
    # glibc is asked to give back at once what is larger than 128 KB: else much of the mark is holes.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(128 << 10)}
    command = [sys.executable, "-m", "vlrlbook.fit", json.dumps(settings), json.dumps(shape)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"the measured steps failed: {done.stderr[-2000:]}")
    return float(done.stdout.split("MB")[-1])


def twin_run(
    settings: dict,  # of the run
    shape: dict,  # `width`, `depth` and `vocabulary`
) -> Run:  # on a CPU
    "A run of a Qwen2.5-VL twin of any width"
    config = twin_config("qwen2_5_vl", twin_processor("qwen2_5_vl").tokenizer, shape["width"], shape["depth"])
    config.get_text_config().vocab_size = shape["vocabulary"]
    return run_of(read_settings(GRPOSettings, settings), config, gpu=False)


def counted_step(
    run: Run,  # its settings say whether prompts are shared
) -> dict:  # from `memory_of_step`
    "Memory of a step of a run as its settings have it"
    rows, passes = whole_groups(run.settings)
    shared = run.settings.shared_prompt and run.settings.attention in ("auto", "sdpa")
    return memory_of_step(_Counted(run, shared and rows % run.settings.num_generations == 0), rows, passes)


def counted_mb(
    settings: dict,  # of the run
    shape: dict,  # `width`, `depth` and `vocabulary` of a Qwen2.5-VL twin
) -> float:  # MB at once
    "What `measured_mb` measures, counted"
    return counted_step(twin_run(settings, shape))["most"] / 2**20


def _measure_here(settings, shape):
    "MB that a run adds to this process, once a smaller run has brought all libraries in"
    with tempfile.TemporaryDirectory() as folder:
        small = dict(width=64, depth=1, vocabulary=shape["vocabulary"])
        for each in (small, shape):
            run = twin_run(settings | dict(output_dir=folder), each)
            gc.collect()
            Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the old mark (proc(5))
            before = _proc_mb("VmRSS")
            real_steps(run, *real_model(run))
            most = _proc_mb("VmHWM")
    return most - before


def _proc_mb(name):
    "A line of /proc/self/status, which the kernel writes in KB, as MB"
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 2**10


if __name__ == "__main__":  # what `measured_mb` starts
    print("MB", _measure_here(json.loads(sys.argv[1]), json.loads(sys.argv[2])))

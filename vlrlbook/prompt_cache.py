"""A prompt is read once, into a cache that keeps the graph; widened, a group's answers go on from it.

Nothing here knows how a layer works. The prompt goes through the model's own forward, and what its layers
put into their cache stays there with its history for the way back. A second cache hands that out to every
answer of the group, and the answers go through the model's own forward too. So it serves every layer that
transformers has a cache for: attention, attention through a window (Gemma 3), and layers without attention,
which keep one matrix however long the text is (Qwen3.5). Read in transformers 5.17. Written by hand."""
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

try:
    from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
    from transformers.cache_utils import LinearAttentionLayer
    cannot_cache = None  # why nothing can be read into a cache with this release of transformers
except ImportError as error:  # transformers has moved them: everything goes the plain way
    cannot_cache = f"transformers has moved what it leans on ({error})"
    Cache = DynamicLayer = LinearAttentionLayer = object  # type: ignore[assignment,misc]  # unused then

__all__ = ["tested_families", "empty_cache", "widened", "read_prompt",
           "answer_rows", "cache_under_checkpointing"]

# Others may work; nobody has compared them with the plain way.
tested_families = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "gemma3", "aria")


# The prompt's side

class _PromptKeys(DynamicLayer):
    """Keys and values of a prompt, as its forward made them.

    The layer never says that it holds something. With gradient checkpointing the prompt's forward runs again
    on the way back, and must then find what it found the first time: nothing before it."""
    keys = None
    values = None

    def update(self, key_states, value_states, *args, **kwargs):
        "Keep the first keys and values [B, heads, P, size] that come, with their graph"
        if self.keys is None:
            self.keys, self.values = key_states, value_states
        self.is_initialized = True
        return key_states, value_states

    def get_seq_length(self):
        return 0

    def get_mask_sizes(self, query_length):
        # (how many keys the mask covers, the place of the first): the prompt's own tokens only
        return query_length, 0


class _PromptStates(LinearAttentionLayer):
    "The state of a layer without attention, after a prompt; as above, it never says that it holds something"

    def update_conv_state(self, conv_states, state_idx=0, conv_kernel_size=None, **kwargs):
        "Keep the last columns of [B, channels, P] that the convolution needs to go on"
        width = conv_kernel_size or conv_states.shape[-1]
        # A prompt may be shorter than the kernel: zeros stand before it, as before any sequence.
        missing = max(0, width - conv_states.shape[-1])
        if self.conv_states[state_idx] is None:
            self.conv_states[state_idx] = pad(conv_states, (missing, 0))[..., -width:]
        return conv_states

    def update_recurrent_state(self, recurrent_states, state_idx=0, **kwargs):
        "Keep the matrix of each head [B, heads, size, size]; transformers' own layer would copy it in place"
        if self.recurrent_states[state_idx] is None:
            self.recurrent_states[state_idx] = recurrent_states
        return recurrent_states


def empty_cache(
    config,  # of the model
):  # a transformers Cache
    "An empty cache for one prompt a group; NotImplementedError where a layer keeps what is not known here"
    layers: list = []
    for number, layer in enumerate(DynamicCache(config=config).layers):
        # A window is kept whole: the mask that the model makes leaves out what lies before it.
        if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer):
            layers.append(_PromptKeys())
        elif type(layer) is LinearAttentionLayer:
            layers.append(_PromptStates(layer.number_of_states))
        else:
            kept = type(layer).__name__
            raise NotImplementedError(f"layer {number} keeps a {kept}, which cannot be widened yet")
    return Cache(layers=layers)


# The answers' side

class _AnswerKeys(DynamicLayer):
    "The prompt's keys and values before each answer's own"

    def __init__(self, prompt, G, room):
        super().__init__()
        self.prompt, self.G, self.is_initialized = prompt, G, True
        self.length = prompt.keys.shape[2]  # tokens so far, the prompt's among them
        # A token at a time, there is room for all of them from the beginning, and nothing is copied again.
        self.rooms = [self._with_room(x, room) for x in (prompt.keys, prompt.values)] if room else None

    def _with_room(self, states, room):
        rows, heads, length, size = states.shape
        whole = states.new_empty(rows * self.G, heads, length + room, size)
        whole[:, :, :length] = states.repeat_interleave(self.G, 0)
        return whole

    def _behind_prompt(self, of_prompt, own):
        rows, heads, length, size = of_prompt.shape
        # Through `expand` the gradients of all G answers add up in the one prompt.
        wide = of_prompt[:, None].expand(rows, self.G, heads, length, size)
        return torch.cat([wide.flatten(0, 1), own], 2)

    def update(self, key_states, value_states, *args, **kwargs):
        "Keys and values [B·G, heads, P + n, size] with those of n new tokens"
        if self.rooms is None:  # all answers at once: nothing is kept, so it may run again on the way back
            keys = self._behind_prompt(self.prompt.keys, key_states)
            return keys, self._behind_prompt(self.prompt.values, value_states)
        begin = self.length
        self.length += key_states.shape[2]
        for room, new in zip(self.rooms, (key_states, value_states)):
            room[:, :, begin:self.length] = new
        return tuple(room[:, :, :self.length] for room in self.rooms)

    def get_seq_length(self):
        return self.length

    def get_mask_sizes(self, query_length):
        return self.length + query_length, 0


class _AnswerStates(LinearAttentionLayer):
    "A copy of the prompt's state for each answer"

    def __init__(self, prompt, G, room):
        super().__init__(prompt.number_of_states)
        self.goes_on = room > 0  # a token at a time: each finds what the one before it left
        # transformers goes on from a state only where `has_previous_state` says that there is one
        for number in range(prompt.number_of_states):
            self.conv_states[number] = _repeated(prompt.conv_states[number], G)
            self.recurrent_states[number] = _repeated(prompt.recurrent_states[number], G)
            self.has_previous_state[number] = True

    def update_conv_state(self, conv_states, state_idx=0, conv_kernel_size=None, **kwargs):
        "What the convolution sees: the columns before the answer, and its own"
        before: Any = self.conv_states[state_idx]
        whole = torch.cat([before, conv_states], -1)
        if self.goes_on:
            self.conv_states[state_idx] = whole[..., -before.shape[-1]:]
        return whole

    def update_recurrent_state(self, recurrent_states, state_idx=0, **kwargs):
        "The matrix after the new tokens"
        if self.goes_on:
            self.recurrent_states[state_idx] = recurrent_states
        return recurrent_states


def _repeated(states, G):
    "A row for each answer; a layer may have no state of one kind"
    return None if states is None else states.repeat_interleave(G, 0)


def widened(
    cache,  # from `empty_cache`, after its prompts were read
    G: int,  # answers to each prompt
    room: int = 0,  # answers are sampled, of at most so many tokens; 0: they are read, all tokens at once
):  # a transformers Cache of B·G rows
    "What the answers go on from"
    layers: list = []
    for layer in cache.layers:
        kind = _AnswerKeys if isinstance(layer, _PromptKeys) else _AnswerStates
        layers.append(kind(layer, G, room))
    return Cache(layers=layers)


# Through the model

def read_prompt(
    backbone,  # the inner model, without a vocabulary head
    cache_name: str,  # of its argument: `past_key_values`, or `cache` from transformers 5.24 on
    ids: torch.Tensor,  # [B, n]
    mask: torch.Tensor,  # [B, n]
    positions: torch.Tensor,  # of the tokens, as the model takes them
    fields: dict,  # what belongs to the pictures; kinds of tokens [B, n] among it
) -> tuple:  # hidden states [B, n, hidden], the cache
    "Prompts, each read once"
    given = fields | {cache_name: empty_cache(backbone.config)}
    with cache_under_checkpointing(backbone):
        out = backbone(input_ids=ids, attention_mask=mask, position_ids=positions, **given)
    return out.last_hidden_state, given[cache_name]


def answer_rows(
    prompt_ids: torch.Tensor,  # [B·G, P], padded on the left; groups of equal rows
    completion_ids: torch.Tensor,  # [B·G, C], padded on the right
    completion_mask: torch.Tensor,  # [B·G, C]
) -> tuple:  # ids and labels [B·G, C + 1]
    """What is read behind the cache: the prompt's last token, and the answer.

    The prompt's last token predicts the first of every answer, so it stands in front of each."""
    last = prompt_ids[:, -1:]
    # -100 is the label that a loss leaves out: padding, and the token that was not sampled.
    said = completion_ids.masked_fill(completion_mask == 0, -100)
    return torch.cat([last, completion_ids], 1), torch.cat([torch.full_like(last, -100), said], 1)


@contextmanager
def cache_under_checkpointing(
    backbone,  # the inner model
):
    "Within the block, layers under gradient checkpointing get their cache, and are computed again with it"
    # transformers 5.17 takes the cache away in GradientCheckpointingLayer.__call__, since its own caches grow
    # at every run. Ours do not: the same layers are checkpointed from here while transformers' switch is off.
    layers = []
    if backbone.training:
        for layer in backbone.language_model.modules():
            if getattr(layer, "gradient_checkpointing", False):
                layers.append(layer)
    for layer in layers:
        layer.gradient_checkpointing = False
        if _is_decoder_layer(layer):
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = True
            if _is_decoder_layer(layer):
                del layer.forward


def _is_decoder_layer(layer):
    "Whether this is what checkpointing computes again, and not a model that only knows whether it is on"
    from transformers.modeling_layers import GradientCheckpointingLayer
    return isinstance(layer, GradientCheckpointingLayer)

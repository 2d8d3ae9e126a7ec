"""Caches with which a prompt is read once, and all answers of its group continue from it, gradients included.

Nothing here knows how a layer works. The prompt goes through the model's own forward, and what its layers
put into their cache stays there together with its autograd graph. A second cache gives that to every answer
of the group, and the answers go through the model's own forward too. So it serves every layer that
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
except ImportError as error:  # transformers has moved these classes: prompts are then not shared
    cannot_cache = f"transformers has moved what it leans on ({error})"
    Cache = DynamicLayer = LinearAttentionLayer = object  # type: ignore[assignment,misc]  # unused then

__all__ = ["tested_families", "empty_cache", "widened", "read_prompt",
           "answer_rows", "cache_under_checkpointing"]

# Values of `config.model_type`. Others may work; nobody has compared them with unshared prompts.
tested_families = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "gemma3", "aria")


# The prompt's side

class _PromptKeys(DynamicLayer):
    """Keys and values of one attention layer for the prompts, kept with their autograd graph.

    The layer always reports a length of 0, as if it were empty. With gradient checkpointing the prompt's
    forward runs a second time during backward, and must then see the same cache as the first time: an empty
    one."""
    keys = None
    values = None

    def update(self, key_states, value_states, *args, **kwargs):
        """Overrides transformers' (5.17): keep the first keys and values [B, heads, P, size] that come.

        Returns what it is given. A later call is the same forward, recomputed by gradient checkpointing, so
        its values are not kept."""
        if self.keys is None:  # the first call
            self.keys, self.values = key_states, value_states
        self.is_initialized = True  # tells transformers that this layer holds keys and values
        return key_states, value_states

    def get_seq_length(self):
        "Overrides transformers' (5.17), which returns the tokens in the cache; 0, as if it were empty"
        return 0

    def get_mask_sizes(self, query_length):
        "Overrides transformers' (5.17): (keys that the mask covers, place of the first)"
        return query_length, 0  # the prompt's own tokens only: none lie before them


class _PromptStates(LinearAttentionLayer):
    """States of one layer without attention after the prompts, kept with their autograd graph.

    Such a layer has a convolution state and a recurrent state (a matrix for each head). `has_previous_state`
    is never set, so the layer seems empty: with gradient checkpointing the prompt's forward runs a second
    time during backward, and must then see the same cache as the first time."""

    def update_conv_state(self, conv_states, state_idx=0, conv_kernel_size=None, **kwargs):
        "Overrides transformers' (5.17): keep the last columns of [B, channels, P] that the convolution needs"
        width = conv_kernel_size or conv_states.shape[-1]  # how many columns the convolution needs
        # A prompt may be shorter than the kernel: it is then padded with zeros on the left, as any sequence
        # is.
        missing = max(0, width - conv_states.shape[-1])
        # Only the first time: gradient checkpointing runs the prompt's forward again during backward.
        if self.conv_states[state_idx] is None:
            self.conv_states[state_idx] = pad(conv_states, (missing, 0))[..., -width:]
        return conv_states

    def update_recurrent_state(self, recurrent_states, state_idx=0, **kwargs):
        """Overrides transformers' (5.17), which copies in place and so breaks the autograd graph.

        Keeps the prompts' final states [B, heads, size, size], and returns what it is given."""
        # Only the first time: gradient checkpointing runs the prompt's forward again during backward.
        if self.recurrent_states[state_idx] is None:
            self.recurrent_states[state_idx] = recurrent_states
        return recurrent_states


def empty_cache(
    config,  # of the model
):  # a transformers Cache
    """An empty cache, into which prompts are read, one row each; `widened` repeats each row for its answers.

    Raises NotImplementedError where a layer keeps a cache that `widened` does not know."""
    layers: list = []
    # transformers' own cache says of which kind each layer of the model is.
    for number, layer in enumerate(DynamicCache(config=config).layers):
        # Attention. With a sliding window all keys are kept, too: the model's own mask leaves out those
        # before the window.
        if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer):
            layers.append(_PromptKeys())
        elif type(layer) is LinearAttentionLayer:  # keeps states of a fixed size instead of keys
            layers.append(_PromptStates(layer.number_of_states))  # one for each convolution, mostly 1
        else:
            cache_kind = type(layer).__name__
            raise NotImplementedError(f"layer {number} keeps a {cache_kind}, which cannot be widened yet")
    return Cache(layers=layers)


# The answers' side

class _AnswerKeys(DynamicLayer):
    """Keys and values of one attention layer for B·G answers: those of the prompt, then each answer's own.

    It works in one of two ways. Sampling (`room` > 0): tokens come one by one and are kept in buffers that
    have space for `room` of them. Training (`room` = 0): all tokens of an answer come in one forward and
    nothing is kept, so that gradient checkpointing may run that forward again."""

    def __init__(self,
        prompt,  # `_PromptKeys` of the same layer, filled
        G,  # answers to each prompt
        room,  # tokens of an answer that the buffers have space for; 0: training, there are no buffers
    ):
        super().__init__()
        self.prompt, self.G = prompt, G
        self.is_initialized = True  # tells transformers that this layer holds keys and values already
        self.length = prompt.keys.shape[2]  # tokens so far, the prompt's among them
        # (keys, values) in sampling, allocated once, so that a new token copies nothing; None in training
        self.buffers: list | None = None
        if room:
            self.buffers = [self._with_room(prompt.keys, room), self._with_room(prompt.values, room)]

    def _with_room(self, states, room):
        "A buffer [B·G, heads, P + room, size] that begins with a prompt's keys or values [B, heads, P, size]"
        rows, heads, length, size = states.shape
        # room: tokens of an answer, still to come. Each prompt's states are copied into its G answers' rows.
        buffer = states.new_empty(rows * self.G, heads, length + room, size)
        buffer[:, :, :length] = states.repeat_interleave(self.G, 0)
        return buffer

    def _concatenated(self, of_prompt, own):
        "Keys or values of the prompts [B, heads, P, size] before those of the answers [B·G, heads, n, size]"
        rows, heads, length, size = of_prompt.shape
        # `expand` copies nothing, and in backward it sums the gradients of all G answers into the one prompt.
        wide = of_prompt[:, None].expand(rows, self.G, heads, length, size)
        return torch.cat([wide.flatten(0, 1), own], 2)

    def update(self, key_states, value_states, *args, **kwargs):
        """Overrides transformers' (5.17): add keys and values of n new tokens, each [B·G, heads, n, size].

        Returns the keys and the values of all tokens so far, those of the prompt first."""
        if self.buffers is None:  # training: nothing is kept, so gradient checkpointing may call this again
            keys = self._concatenated(self.prompt.keys, key_states)
            values = self._concatenated(self.prompt.values, value_states)
            return keys, values
        # Sampling: the buffers begin with the prompt, so the new tokens are written behind the earlier ones.
        begin = self.length
        self.length += key_states.shape[2]
        keys, values = self.buffers
        keys[:, :, begin:self.length] = key_states
        values[:, :, begin:self.length] = value_states
        return keys[:, :, :self.length], values[:, :, :self.length]

    def get_seq_length(self):
        "Overrides transformers' (5.17): how many tokens the model has read before, the prompt's among them"
        return self.length

    def get_mask_sizes(self, query_length):
        "Overrides transformers' (5.17): (keys that the mask covers, place of the first)"
        return self.length + query_length, 0  # all tokens so far, and the `query_length` new ones


class _AnswerStates(LinearAttentionLayer):
    "States of one layer without attention for B·G answers; at first each is a copy of its prompt's state"

    def __init__(self,
        prompt,  # `_PromptStates` of the same layer, filled
        G,  # answers to each prompt
        room,  # more than 0: sampling, a token at a time; 0: training, all tokens of an answer at once
    ):
        super().__init__(prompt.number_of_states)
        self.keeps_new_states = room > 0  # in sampling each token needs the state that the one before it left
        # One state for each convolution of the layer; most models have one.
        for number in range(prompt.number_of_states):
            # The last columns of the convolution's input, and a matrix that sums up all tokens before.
            # `_repeated`: each row G times; None, for a part that the layer lacks, stays None.
            self.conv_states[number] = _repeated(prompt.conv_states[number], G)
            self.recurrent_states[number] = _repeated(prompt.recurrent_states[number], G)
            # Without this flag transformers would begin at zero instead of continuing from the state.
            self.has_previous_state[number] = True

    def update_conv_state(self, conv_states, state_idx=0, conv_kernel_size=None, **kwargs):
        """Overrides transformers' (5.17): return the convolution's input, the kept columns and the new ones.

        `conv_states`: the new columns [B·G, channels, n]. Kept are as many as the convolution looks back."""
        kept: Any = self.conv_states[state_idx]
        whole = torch.cat([kept, conv_states], -1)
        # In sampling the last columns are kept for the next token. In training all tokens of an answer come
        # at once, and nothing changes, so that gradient checkpointing may call this again.
        if self.keeps_new_states:
            self.conv_states[state_idx] = whole[..., -kept.shape[-1]:]
        return whole

    def update_recurrent_state(self, recurrent_states, state_idx=0, **kwargs):
        "Overrides transformers' (5.17): take the matrices after the new tokens [B·G, heads, size, size]"
        # In sampling the next token continues from them; in training all tokens of an answer come at once.
        if self.keeps_new_states:
            self.recurrent_states[state_idx] = recurrent_states
        return recurrent_states


def _repeated(states, G):
    "States [B, …] as [B·G, …], each row G times; None stays None, since a layer may lack one kind of state"
    return None if states is None else states.repeat_interleave(G, 0)


def widened(
    cache,  # from `empty_cache`, after its prompts were read
    G: int,  # answers to each prompt
    room: int = 0,  # to sample answers of at most so many tokens; 0: to train on answers that are there
):  # a transformers Cache of B·G rows
    "A cache from which each prompt's G answers continue, made of the cache into which the prompts were read"
    layers: list = []
    for layer in cache.layers:
        # attention keeps keys and values, a layer without attention keeps states
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
    fields: dict,  # the model's picture inputs (pixel_values, …) and token types [B, n]
) -> tuple:  # hidden states [B, n, hidden], and the filled cache
    "Run B different prompts through the model once, and keep keys and values in a cache, with gradients"
    inputs = fields | {cache_name: empty_cache(backbone.config)}  # the model fills this cache
    # Inside this `with` the layers use the cache; with gradient checkpointing transformers would remove it.
    with cache_under_checkpointing(backbone):
        out = backbone(input_ids=ids, attention_mask=mask, position_ids=positions, **inputs)
    return out.last_hidden_state, inputs[cache_name]


def answer_rows(
    prompt_ids: torch.Tensor,  # [B·G, P], padded on the left; groups of equal rows
    completion_ids: torch.Tensor,  # [B·G, C], padded on the right
    completion_mask: torch.Tensor,  # [B·G, C]
) -> tuple:  # ids and labels [B·G, C + 1]
    """Model inputs and labels for the answers, whose prompts are in the cache already.

    The prompt's last token predicts the first token of every answer, so it is not read with the prompt but
    put in front of each answer."""
    last = prompt_ids[:, -1:]
    # -100 is the label that a loss leaves out: for padding, and for the prompt's token, which was not
    # sampled.
    answer_labels = completion_ids.masked_fill(completion_mask == 0, -100)
    labels = torch.cat([torch.full_like(last, -100), answer_labels], 1)
    return torch.cat([last, completion_ids], 1), labels


@contextmanager
def cache_under_checkpointing(
    backbone,  # the inner model
):
    "Within the block, the model's layers use a cache although gradient checkpointing is on"
    # A layer that transformers (5.17) checkpoints gets no cache: GradientCheckpointingLayer.__call__ takes it
    # away. So within the block transformers' checkpointing is off, and `checkpoint` is called from here. If
    # the attribute `gradient_checkpointing` were renamed, nothing would be found here to switch off.
    switched_on = []
    if backbone.training:
        for module in backbone.language_model.modules():
            if getattr(module, "gradient_checkpointing", False):
                switched_on.append(module)
    # The model around the layers has the attribute, too, but only layers are recomputed.
    layers = [module for module in switched_on if _is_decoder_layer(module)]

    for module in switched_on:
        module.gradient_checkpointing = False
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for module in switched_on:
            module.gradient_checkpointing = True
        for layer in layers:
            del layer.forward  # from now on the method of its class is called again


def _is_decoder_layer(layer):
    "Whether gradient checkpointing recomputes this module; False for the model around the layers"
    # transformers' class of all layers that are recomputed in backward, to save memory
    from transformers.modeling_layers import GradientCheckpointingLayer
    return isinstance(layer, GradientCheckpointingLayer)

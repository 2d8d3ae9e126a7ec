"""Checkpoints of the reward system's older script: one .pt file with backbone, score head and more.

Such a file has other names for the same weights (`backbone.model.layers…`, a head at `reward_head.0` and
`reward_head.3`), and may be a pickle that runs code. Here it is read as tensors or not at all, and its
weights get the names of chapter 03's model. Written by hand, not exported from a notebook."""
import argparse
import pickle
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .archive import DataError

__all__ = ["OldCheckpoint", "is_old_checkpoint", "read_old_checkpoint", "backbone_weights"]

ENDINGS = (".pt", ".pth", ".bin")
# A checkpoint is a dict. Scripts keep the weights under one of these keys,
STATE_KEYS = ("model_state_dict", "state_dict", "model", "module")
# and their settings under one of these.
SETTINGS_KEYS = ("config", "args", "hparams", "model_config")

# Types of plain data that training scripts keep beside their weights. Unpickling them runs no script's code.
HARMLESS: list = [argparse.Namespace, np.dtype, np.ndarray,
                  type(np.dtype("float64")), type(np.dtype("float32")), type(np.dtype("int64")),
                  np.float64(0).__reduce__()[0]]


@dataclass
class OldCheckpoint:
    "What `read_old_checkpoint` has read from a file of the older script"
    name: str # of the file, for messages
    weights: dict # name in the file → tensor, without the head's
    head: dict # name → tensor: 0.weight, 0.bias, 2.weight and 2.bias, as chapter 03's head calls them
    settings: dict # the script's own settings; empty if it saved none


def is_old_checkpoint(
    path: str | Path, # file or folder
) -> bool:
    "True for a checkpoint file of the older script, or a folder with a single one and no model of ours"
    return _checkpoint_file(path) is not None


def read_old_checkpoint(
    path: str | Path, # a .pt, .pth or .bin file, or a folder with one
) -> OldCheckpoint:
    """Read weights and settings of a checkpoint of the older script.

    A DataError for a file that would run code, or whose score head does not have two layers."""
    file = _checkpoint_file(path)
    if file is None:
        raise DataError("reward_model.checkpoint", "no .pt file there", entry=str(path))
    contents = _load_tensors(file) # mostly a dict with weights, optimizer, settings and more
    state = _state_of(contents, file) # name → tensor, wherever the weights lie in `contents`
    if any("lora_" in name for name in state):
        message = "holds a LoRA adapter beside its base; merge it (merge_and_unload) and save again"
        raise DataError("reward_model.checkpoint", message, entry=file.name)
    prefix, head = _head_of(state, file) # prefix: how the names of the head begin, such as "reward_head."
    weights = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    return OldCheckpoint(file.name, weights, head, _settings_of(contents))


def backbone_weights(
    checkpoint: OldCheckpoint, # read
    wanted: dict, # state dict of the backbone that they are for
) -> dict: # the names of `wanted`, with the tensors of the checkpoint
    """The checkpoint's weights under the names that the backbone uses.

    A DataError if a weight is missing or has another shape."""
    # transformers has renamed these layers since then, so names are compared in a form that has not changed.
    old_tensors = {_common_name(name): tensor for name, tensor in checkpoint.weights.items()}
    fitting, problems = {}, []
    for name, tensor in wanted.items():
        old = old_tensors.get(_common_name(name))
        problem = _misfit(name, tensor, old)
        if old is None or problem:  # a missing one is also a problem; mypy cannot know it
            problems.append(problem)
        else:
            fitting[name] = old.to(tensor.dtype)
    if problems:
        count = f"{len(problems)} of {len(wanted)} weights do not fit"
        message = f"is of another model: {count}; first: {problems[0]}"
        raise DataError("reward_model.checkpoint", message, entry=checkpoint.name)
    return fitting


def _misfit(
    name, # of a weight, such as visual.patch_embed.proj.weight
    wanted, # its tensor in the model
    old, # the tensor that shall replace it; None: the checkpoint has none
):
    "Why a tensor of a checkpoint cannot replace a weight, as a text; None if it can"
    if old is None:
        return f"no {name}"
    if old.shape != wanted.shape:
        return f"{name} is {tuple(old.shape)}, expected {tuple(wanted.shape)}"
    return None


def _checkpoint_file(path):
    """The older script's checkpoint file that `path` means, or None if there is none.

    `path` is the file itself, or a folder that holds one such file and no model of ours."""
    if not path:
        return None
    path = Path(path)
    if path.is_file():
        return path if path.suffix in ENDINGS else None # .pt, .pth or .bin
    return _only_file_with_ending(path) if path.is_dir() else None


def _only_file_with_ending(folder):
    "The single .pt, .pth or .bin file in a folder; None if there are none or several, or a model of ours"
    is_our_model = (folder / "reward_model.json").exists() # saved by `VLRewardModel`
    # A folder of transformers also holds files with these endings, such as training_args.bin.
    is_of_transformers = any(folder.glob("*.safetensors"))
    if is_our_model or is_of_transformers:
        return None
    files = [file for file in sorted(folder.iterdir()) if file.suffix in ENDINGS]
    return files[0] if len(files) == 1 else None # of several, the user has to name one


def _load_tensors(file):
    """The contents of a .pt file (mostly a dict), read so that no code in it can run.

    A file that holds more than tensors and plain data is a DataError."""
    try:
        # With weights_only torch's unpickler makes tensors and the types in HARMLESS, and refuses all else.
        # So a file from a stranger can be opened.
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        first_line = str(error).splitlines()[0][:160]
        message = f"cannot be read as tensors, and anything more could run code ({first_line})"
        raise DataError("reward_model.checkpoint", message, entry=file.name) from error


def _state_of(contents, file):
    """The weights in a checkpoint's contents (any object, mostly a dict) as {name: tensor}.

    A DataError if there are none; `file` is for its message."""
    tensors = {}
    for name, value in _dict_of_weights(contents).items():
        if isinstance(value, torch.Tensor): # beside them may stand the number of the epoch and the like
            # DataParallel, for several GPUs, puts "module." before each name.
            tensors[str(name).removeprefix("module.")] = value
    if not tensors:
        raise DataError("reward_model.checkpoint", "there are no weights in it", entry=file.name)
    return tensors


def _dict_of_weights(contents):
    "The dict in a checkpoint's contents that should hold the weights; {} if the contents are no dict"
    if not isinstance(contents, dict):
        return {}
    for key in STATE_KEYS:
        if isinstance(contents.get(key), dict):
            return contents[key]
    return contents # some scripts save only the weights, without a dict around them


def _head_of(state, file):
    """Find the score head among the weights of a checkpoint, `state` ({name: tensor}).

    Returns (prefix, head): how the head's names begin, such as "reward_head.", and its tensors under the
    names of chapter 03's head: 0.weight, 0.bias, 2.weight, 2.bias. `file` is for the message of an error."""
    prefix = _prefix_of_head(state, file)
    numbers = _layer_numbers(state, prefix) # such as [0, 3]
    if len(numbers) != 2:
        message = f"a head of {len(numbers)} layers ({prefix}…), expected two"
        raise DataError("reward_model.checkpoint", message, entry=file.name)
    head = {}
    # 0 and 2: the layers of a reward model's head, a Sequential with an activation, 1, between them
    for our_number, old_number in zip((0, 2), numbers):
        for part in ("weight", "bias"):
            name = f"{prefix}{old_number}.{part}"
            if name not in state:
                raise DataError("reward_model.checkpoint", f"no {name}", entry=file.name)
            head[f"{our_number}.{part}"] = state[name]
    return prefix, head


def _layer_numbers(state, prefix):
    "Numbers of the head's layers that have weights: [0, 3] for reward_head.0.weight, reward_head.3.bias …"
    in_head = [name.removeprefix(prefix) for name in state if name.startswith(prefix)] # such as 3.weight
    # Numbers in a Sequential. An activation and maybe a dropout, which have no weights, stand in between.
    layers = {name.split(".")[0] for name in in_head}
    return sorted(int(layer) for layer in layers if layer.isdecimal())


def _prefix_of_head(state, file):
    """How the names of the score head's tensors begin, such as "reward_head.", in `state` ({name: tensor}).

    The head is found by its last layer: no other layer has a single output, the score."""
    numbered = [name for name in state if re.search(r"\.\d+\.weight$", name)] # such as reward_head.3.weight
    # The weight of a layer with a single output has the shape [1, hidden].
    last_layers = [name for name in numbered if state[name].ndim == 2 and len(state[name]) == 1]
    if len(last_layers) != 1:
        expected = "expected the one at the end of a score head"
        message = f"{len(last_layers)} layers with a single output, {expected}"
        raise DataError("reward_model.checkpoint", message, entry=file.name)
    return re.sub(r"\d+\.weight$", "", last_layers[0]) # of "reward_head.3.weight" what stands before 3


def _settings_of(contents):
    "The settings that the older script saved in a checkpoint, as a dict; {} if its `contents` have none"
    for key in SETTINGS_KEYS:  # such as "config" and "args"
        settings = contents.get(key) if isinstance(contents, dict) else None
        if isinstance(settings, argparse.Namespace):
            return vars(settings)
        if isinstance(settings, dict):
            return settings
    return {}


def _common_name(name):
    """A name for a weight that is the same in all versions of transformers.

    Versions differ in what they put before it: model.layers.0…, language_model.layers.0… and so on."""
    # The names inside the vision tower begin with `visual.` everywhere, whatever stands in front of it.
    if "visual." in name:
        return name[name.index("visual."):]
    inner_name = _name_in_language_model.search(name) # from layers, embed_tokens or the last norm on
    return f"language_model.{inner_name[1]}" if inner_name else name


_name_in_language_model = re.compile(r"""(
    layers\.\d+\..*         # a tensor of a layer
    | embed_tokens\.weight  # the embedding
    | (?<!\w)norm\.weight   # the last norm; a layer's norms are longer words, such as input_layernorm
    )$""", re.VERBOSE)

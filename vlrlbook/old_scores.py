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
# Under which of these keys scripts keep the weights, beside optimizer and epoch.
STATE_KEYS = ("model_state_dict", "state_dict", "model", "module")
SETTINGS_KEYS = ("config", "args", "hparams", "model_config")

# Plain data that training scripts keep beside their weights: to load these runs none of their code.
HARMLESS: list = [argparse.Namespace, np.dtype, np.ndarray,
                  type(np.dtype("float64")), type(np.dtype("float32")), type(np.dtype("int64")),
                  np.float64(0).__reduce__()[0]]


@dataclass
class OldCheckpoint:
    "What was found in the file"
    name: str # of the file, for messages
    weights: dict # name in the file → tensor, the head's left out
    head: dict # 0.weight, 0.bias, 2.weight, 2.bias, as chapter 03's head calls them
    settings: dict # what the script kept of its own settings; empty where it kept none


def is_old_checkpoint(
    path: str | Path, # file or folder
) -> bool:
    "Whether this is a file of the older script, or a folder that holds a single one and no model of ours"
    return _file_of(path) is not None


def read_old_checkpoint(
    path: str | Path, # a .pt, .pth or .bin file, or a folder with one
) -> OldCheckpoint:
    "Weights and settings of a checkpoint; one that would run code, or has no head of two layers, is refused"
    file = _file_of(path)
    if file is None:
        raise DataError("reward_model.checkpoint", "no .pt file there", entry=str(path))
    kept = _load_tensors(file)
    state = _state_of(kept, file)
    for name in state:
        if "lora_" in name:
            told = "holds a LoRA adapter beside its base; merge it (merge_and_unload) and save again"
            raise DataError("reward_model.checkpoint", told, entry=file.name)
    prefix, head = _head_of(state, file) # such as "reward_head.", whichever name the script gave it
    rest = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    return OldCheckpoint(file.name, rest, head, _settings_of(kept))


def backbone_weights(
    checkpoint: OldCheckpoint, # read
    wanted: dict, # state dict of the backbone that they are for
) -> dict: # the same names, tensors of the checkpoint
    "Its weights under the backbone's own names; one that is missing or of another shape is an error"
    # Both sides' names are brought to one form: transformers has renamed these layers since then.
    found = {_canonical(name): tensor for name, tensor in checkpoint.weights.items()}
    fitting, wrong = {}, []
    for name, tensor in wanted.items():
        theirs = found.get(_canonical(name))
        if theirs is None:
            wrong.append(f"no {name}")
        elif theirs.shape != tensor.shape:
            wrong.append(f"{name} is {tuple(theirs.shape)}, expected {tuple(tensor.shape)}")
        else:
            fitting[name] = theirs.to(tensor.dtype)
    if wrong:
        told = f"is of another model: {len(wrong)} of {len(wanted)} weights do not fit; first: {wrong[0]}"
        raise DataError("reward_model.checkpoint", told, entry=checkpoint.name)
    return fitting


def _file_of(path):
    "The one file of a path, or None"
    if not path:
        return None
    path = Path(path)
    if path.is_file():
        return path if path.suffix in ENDINGS else None
    if not path.is_dir() or (path / "reward_model.json").exists():
        return None
    # transformers' own checkpoints hold files of these endings too, beside a safetensors file
    if any(path.glob("*.safetensors")):
        return None
    files = [file for file in sorted(path.iterdir()) if file.suffix in ENDINGS]
    # of several nobody can tell which is meant: the user has to name the file
    return files[0] if len(files) == 1 else None


def _load_tensors(file):
    "What the file holds, read without running anything of it"
    try:
        # weights_only: torch's own unpickler, which makes tensors and what is on its list, and calls nothing
        # else. So neither does a file from a stranger.
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        first = str(error).splitlines()[0][:160]
        told = f"cannot be read as tensors, and anything more could run code ({first})"
        raise DataError("reward_model.checkpoint", told, entry=file.name) from error


def _state_of(kept, file):
    "The weights by name, without the prefix of a model that was spread over several GPUs"
    state = kept # some scripts save the weights alone, without a dict around them
    for key in STATE_KEYS:
        if isinstance(kept, dict) and isinstance(kept.get(key), dict):
            state = kept[key]
            break
    tensors = {}
    if isinstance(state, dict):
        tensors = {str(k).removeprefix("module."): v for k, v in state.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise DataError("reward_model.checkpoint", "there are no weights in it", entry=file.name)
    return tensors


def _head_of(state, file):
    "(prefix of the head's names, its two layers as 0 and 2): the layers end in the only weight of one row"
    numbered = [name for name in state if re.search(r"\.\d+\.weight$", name)]
    # a score is one number, so the last layer's weight is [1, hidden]
    last = [name for name in numbered if state[name].ndim == 2 and len(state[name]) == 1]
    if len(last) != 1:
        told = f"{len(last)} layers with a single output, expected the one at the end of a score head"
        raise DataError("reward_model.checkpoint", told, entry=file.name)
    prefix = re.sub(r"\d+\.weight$", "", last[0])
    # Between the layers stand an activation and maybe a dropout, so the second one's number varies.
    numbers = sorted({int(n[len(prefix):].split(".")[0]) for n in state if n.startswith(prefix)})
    if len(numbers) != 2:
        told = f"a head of {len(numbers)} layers ({prefix}…), expected two"
        raise DataError("reward_model.checkpoint", told, entry=file.name)
    head = {} # chapter 03's head has its layers at 0 and 2 of a Sequential
    for ours, theirs in zip((0, 2), numbers):
        for part in ("weight", "bias"):
            name = f"{prefix}{theirs}.{part}"
            if name not in state:
                raise DataError("reward_model.checkpoint", f"no {name}", entry=file.name)
            head[f"{ours}.{part}"] = state[name]
    return prefix, head


def _settings_of(kept):
    "The script's own settings as a dict, where it kept them"
    for key in SETTINGS_KEYS:
        found = kept.get(key) if isinstance(kept, dict) else None
        if isinstance(found, argparse.Namespace):
            return vars(found)
        if isinstance(found, dict):
            return found
    return {}


def _canonical(name):
    "One name for a weight, whichever version of transformers or wrapper has written it"
    # The tower's own layers are called `visual.` everywhere, the wrappers before them differ.
    if "visual." in name:
        return name[name.index("visual."):]
    text = re.search(r"(layers\.\d+\..*|embed_tokens\.weight|(?<![\w])norm\.weight)$", name)
    return f"language_model.{text[1]}" if text else name

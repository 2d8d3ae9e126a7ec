"""The files of a model directory: changed weights put in the place of old ones while all else stays byte for
byte, and the words that transformers 4 reads.

Written by hand, not exported from a notebook. No torch when imported."""
import fnmatch
import json
import re
import shutil
import struct
from pathlib import Path

from .folders import new_folder, write_json
from .settings import SettingsError, nearest

__all__ = ["other_weights", "copy_descriptions", "read_header", "stored_dtype", "replace_weights",
           "config_with_dtype", "only_for_transformers_5", "for_transformers_4", "export_for_transformers_4",
           "known_to_transformers_4"]

# Weights in forms that nobody here writes. Beside merged weights a copy would be the old model.
other_weights = ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.h5", "*.msgpack",
                 "*.onnx", "*.onnx_data", "*.npz", "*.mlmodel", "*.tflite")
# What a training run leaves in the folder of its model, and what says that a folder is whole.
_of_a_run = ("checkpoint-*", "earlier-*", "manifest.json")

# safetensors' name of a number type → torch's name
_torch_names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_safetensors_names = {name: short for short, name in _torch_names.items()}

_header_length = struct.Struct("<Q") # a safetensors file begins with the length of its JSON header
_header_alignment = 8 # bytes; the safetensors library pads the header to it
_copied_at_once = 16 * 2**20 # bytes


# Copying

def copy_descriptions(
    source: str | Path, # a model directory
    target: str | Path, # directory that is there
    leave: tuple = (), # patterns of names that stay behind too
) -> list: # names of files that were left out: weights in other forms
    "Copy every file of a model but its weights, byte for byte; not hidden files, checkpoints, a manifest"
    source, target = Path(source), Path(target)
    left_out = []
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        stays = any(_matches(part, (".*", *_of_a_run, *leave)) for part in inside.parts)
        if stays or path.is_dir() or path.suffix == ".safetensors":
            continue
        if _matches(path.name, other_weights):
            left_out.append(inside.as_posix())
            continue
        if path.name.endswith(".safetensors.index.json"): # goes with the weights
            continue
        (target / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / inside) # follows links, such as those of the hub's cache
    return left_out


def _matches(name, patterns):
    "Whether the name of a file or folder fits one of some patterns such as *.csv"
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


# Weights

def read_header(
    path: str | Path, # a safetensors file
) -> tuple: # tensor → {dtype, shape, data_offsets}, and __metadata__; bytes before the numbers
    "The table at the beginning of a safetensors file"
    with open(path, "rb") as f:
        (length,) = _header_length.unpack(f.read(_header_length.size))
        return json.loads(f.read(length)), _header_length.size + length


def stored_dtype(
    folder: str | Path, # a model directory
) -> str | None: # torch's name of the floating type of most bytes; None without safetensors
    "The number type of a model's weights, as its files have it: a config may say nothing, or something else"
    sizes = {}
    for path in Path(folder).glob("*.safetensors"):
        for name, about in read_header(path)[0].items():
            if name != "__metadata__" and about["dtype"] in _torch_names:
                first, end = about["data_offsets"]
                sizes[about["dtype"]] = sizes.get(about["dtype"], 0) + end - first
    return _torch_names[max(sizes, key=sizes.__getitem__)] if sizes else None


def replace_weights(
    source: str | Path, # a model directory with safetensors files
    target: str | Path, # directory that is there
    changed: dict, # name in the files → tensor
    dtype: str = None, # torch's name of the type of all floating tensors; None keeps each one's own
) -> int: # tensors that were replaced
    """Copy the weight files of a model with some tensors replaced, and every other byte as it is

    Names, files and order stay. A changed tensor that no file holds, or of another shape, is an error that
    names it; so are numbers that are not finite."""
    source, target = Path(source), Path(target)
    files = sorted(source.glob("*.safetensors"))
    held = {} # tensor → its entry in the header of whichever file has it
    for path in files:
        for name, about in read_header(path)[0].items():
            held[name] = about
    for name, tensor in changed.items():
        if name not in held:
            raise ValueError(f"{source.name}: no weight file holds {name!r}{nearest(name, list(held))}")
        if list(tensor.shape) != held[name]["shape"] or held[name]["dtype"] not in _torch_names:
            there = f"{held[name]['dtype']} {held[name]['shape']}"
            raise ValueError(f"{source.name}: {name!r} is stored as {there}, its new numbers are "
                             f"{list(tensor.shape)}: quantised weights cannot take an adapter in")
    # Everything was checked: no file is begun for an adapter that does not fit.
    for path in files:
        _rewrite(path, target / path.name, changed, dtype)
    _copy_index(source, target, dtype)
    return len(changed)


def _rewrite(source, target, changed, dtype):
    "One weight file with some tensors replaced, a tensor in memory at a time"
    import torch
    header, begin = read_header(source)
    names = [name for name in header if name != "__metadata__"]
    names.sort(key=_place_of(header)) # as they lie in the file
    types, converted = {}, False # types: tensor → safetensors' name of its type in the new file
    for name in names:
        short = header[name]["dtype"]
        types[name] = _safetensors_names[dtype] if dtype and short in _torch_names else short
        converted = converted or types[name] != short
    with open(source, "rb") as old, open(target, "wb") as new:
        # Where no number type changes, no size does, and the old header is right to the byte.
        new.write(_new_header(header, names, types) if converted else old.read(begin))
        for name in names:
            first, end = header[name]["data_offsets"]
            old.seek(begin + first)
            if name not in changed and types[name] == header[name]["dtype"]:
                _copy_bytes(old, new, end - first)
                continue
            tensor = changed.get(name)
            if tensor is None:
                flat = torch.frombuffer(bytearray(old.read(end - first)),
                                        dtype=getattr(torch, _torch_names[header[name]["dtype"]]))
                tensor = flat.reshape(header[name]["shape"])
            new.write(_as_bytes(name, tensor, getattr(torch, _torch_names[types[name]])))


def _place_of(header):
    "A function from a tensor's name to the place of its first byte"
    def place(name):
        return header[name]["data_offsets"]
    return place


def _copy_bytes(old, new, count):
    "Copy so many bytes from one open file to the other"
    while count:
        piece = old.read(min(count, _copied_at_once))
        if not piece:
            raise ValueError(f"{old.name}: ends before its header says")
        new.write(piece)
        count -= len(piece)


def _as_bytes(name, tensor, dtype):
    "The numbers of a tensor in a number type; those that it cannot hold are an error"
    import torch
    tensor = tensor.detach().cpu()
    # float32 holds numbers up to 3e38, float16 up to 65504: the larger ones become infinite on the way.
    out = tensor.to(dtype).contiguous()
    if not out.isfinite().all():
        fault = "holds numbers that are not finite"
        if tensor.isfinite().all():
            fault = f"has numbers up to {tensor.abs().max().item():.3g}, too large for {dtype}"
        raise ValueError(f"{name}: {fault}")
    # numpy has no bfloat16, so the numbers are handed over as plain bytes
    return memoryview(out.view(-1).view(torch.uint8).numpy())


def _new_header(header, names, types):
    "The bytes before the numbers of a file whose tensors have other number types"
    width = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
    table = {"__metadata__": header["__metadata__"]} if "__metadata__" in header else {}
    end = 0
    for name in names:
        about = header[name]
        first, last = about["data_offsets"]
        size = last - first
        if types[name] != about["dtype"]:
            size = size // width[about["dtype"]] * width[types[name]]
        table[name] = dict(dtype=types[name], shape=about["shape"], data_offsets=[end, end + size])
        end += size
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _header_alignment)
    return _header_length.pack(len(text)) + text


def _copy_index(source, target, dtype):
    "The table of which file holds what; as it is, unless sizes have changed"
    for path in source.glob("*.safetensors.index.json"):
        if dtype is None:
            shutil.copyfile(path, target / path.name)
            continue
        index = json.loads(path.read_text(encoding="utf-8"))
        total = 0
        for file in target.glob("*.safetensors"):
            header, _ = read_header(file)
            ends = [about["data_offsets"][1] for name, about in header.items() if name != "__metadata__"]
            total += max(ends, default=0)
        index["metadata"] = index.get("metadata", {}) | dict(total_size=total)
        write_json(target / path.name, index)


# Configs

_dtype_keys = ("dtype", "torch_dtype") # transformers 5 writes the first, older ones the second

def config_with_dtype(
    config: dict, # config.json of a model
    dtype: str, # torch's name
) -> dict: # a new one
    "A config that names `dtype` wherever it named a number type, in itself and in its parts"
    out = {}
    for key, value in config.items():
        if isinstance(value, dict): # the config of a tower
            value = value | {name: dtype for name in _dtype_keys if name in value}
        out[key] = value
    named = [name for name in _dtype_keys if name in config]
    return out | dict.fromkeys(named or ["dtype"], dtype)


# For transformers 4

# Families that transformers 4.57 has too; model_type in config.json.
known_to_transformers_4 = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "aria")
# Class of tokenizers that transformers 5 has and 4 has not → the same thing in 4.
_tokenizer_classes: dict = {"TokenizersBackend": "PreTrainedTokenizerFast"}
# Families whose config in 4.57 answers for its text part in everything but the model's kind.
_named_by_their_text = ("qwen2_vl", "qwen2_5_vl")
# What transformers 4.57 takes where a vision config says nothing: its rotary tables have this base built in.
_rope_theta_of_towers = 10000.0


def only_for_transformers_5(
    folder: str | Path, # a model directory
) -> list: # sentences; empty: transformers 4 reads it
    "What in a model directory transformers 4 cannot read, or reads as something else"
    found = []
    config = _read_json(Path(folder) / "config.json")
    parts = {"config.json": config, "config.json, text_config": config.get("text_config") or {}}
    for where, part in parts.items():
        if "rope_parameters" in part and "rope_theta" not in part:
            found.append(f"{where}: rope_parameters without rope_theta, "
                         "and transformers 4 would take its own default")
    text = config.get("text_config")
    if text and config.get("tie_word_embeddings") and not text.get("tie_word_embeddings"):
        found.append("config.json: tie_word_embeddings is true at the top alone, "
                     "where transformers 4 does not look")
    tokenizer = _read_json(Path(folder) / "tokenizer_config.json")
    if tokenizer.get("tokenizer_class") in _tokenizer_classes:
        found.append(f"tokenizer_config.json: tokenizer_class {tokenizer['tokenizer_class']}, "
                     "which transformers 4 does not have")
    if isinstance(tokenizer.get("extra_special_tokens"), list):
        found.append("tokenizer_config.json: extra_special_tokens is a list, "
                     "where transformers 4 wants names")
    return found


def for_transformers_4(
    folder: str | Path, # a model directory of this package, written to in place
):
    "Rewrite config, tokenizer and processor of a directory as transformers 4.57 reads them; 5 reads them too"
    folder = Path(folder)
    config = _read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in known_to_transformers_4:
        raise SettingsError(f"{folder.name}: config.json says model_type {kind!r}, which transformers 4.57 "
                            f"does not know{nearest(str(kind), list(known_to_transformers_4))}")
    write_json(folder / "config.json", _config_for_4(config))
    tokenizer = _read_json(folder / "tokenizer_config.json")
    if tokenizer:
        write_json(folder / "tokenizer_config.json", _tokenizer_for_4(tokenizer))
    processor = _read_json(folder / "processor_config.json")
    # 5 keeps the parts in one file, 4 a file for each.
    files = {"image_processor": "preprocessor_config.json",
             "video_processor": "video_preprocessor_config.json"}
    for part, name in files.items():
        if part in processor:
            whole = {"processor_class": processor["processor_class"]} | processor[part]
            write_json(folder / name, whole)
    if processor:
        alone = {key: value for key, value in processor.items() if key not in files}
        write_json(folder / "processor_config.json", alone)


def export_for_transformers_4(
    model: str | Path, # a model directory
    output_path: str | Path, # new directory
) -> Path: # the new directory
    "A copy of a model directory that transformers 4.57 and engines on it can load; weights stay as they are"
    model = Path(model)
    if not (model / "config.json").is_file():
        raise FileNotFoundError(f"{model}: no config.json there, so this is no model directory")
    with new_folder(output_path, existing="none") as aside:
        left_out = copy_descriptions(model, aside)
        weights = [*model.glob("*.safetensors"), *model.glob("*.safetensors.index.json")]
        if not weights:
            there = ", ".join(left_out) or "descriptions"
            raise FileNotFoundError(f"{model}: no safetensors there, only {there}")
        for path in weights:
            shutil.copyfile(path, aside / path.name)
        if only_for_transformers_5(model):
            for_transformers_4(aside)
    return Path(output_path)


def _read_json(path):
    "The content of a JSON file; an empty dict where there is none"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _config_for_4(config):
    "config.json in the words of transformers 4: rope_theta and rope_scaling for rope_parameters"
    out = {}
    for key, value in config.items():
        if key == "vision_config":
            value = _tower_for_4(value)
        elif isinstance(value, dict) and key != "rope_parameters":
            value = _config_for_4(value)
        if key == "rope_parameters" and value is not None:
            out |= _rope_for_4(value, config.get("model_type"))
        else:
            out[key] = value
    tied = out.get("tie_word_embeddings")
    if tied is not None and isinstance(out.get("text_config"), dict):
        # 5 looks at the top, 4.57 at the text part, and then leaves the head of a tied model untrained.
        out["text_config"] = out["text_config"] | dict(tie_word_embeddings=tied)
    named = out.get("architectures")
    asks_the_text = config.get("model_type") in _named_by_their_text
    if named and asks_the_text and isinstance(out.get("text_config"), dict):
        # EasyR1 asks the loaded config for it, and there 4.57 hands the question on to the text part.
        out["text_config"] = out["text_config"] | dict(architectures=named)
    return _with_both_dtypes(out)


def _with_both_dtypes(config):
    "A config that says its number type under the name of transformers 5 and under that of 4, if it says one"
    said = {name: config[name] for name in _dtype_keys if name in config}
    return config | dict.fromkeys(_dtype_keys, next(iter(said.values()))) if said else config


def _rope_for_4(parameters, owner):
    "rope_theta and rope_scaling from rope_parameters"
    if "rope_theta" not in parameters:
        raise SettingsError(f"config.json, {owner}: rope_parameters = {parameters} hold no rope_theta, or "
                            "differ from layer to layer, which transformers 4.57 has no words for")
    scaling = {key: value for key, value in parameters.items() if key != "rope_theta"}
    # The plain kind without anything else is what 4 means by null.
    plain = scaling in ({}, {"rope_type": "default"})
    return dict(rope_theta=parameters["rope_theta"], rope_scaling=None if plain else scaling)


def _tower_for_4(config):
    "The vision config without what transformers 4 has built in"
    config = _with_both_dtypes(config)
    theta = (config.get("rope_parameters") or {}).get("rope_theta", _rope_theta_of_towers)
    if theta != _rope_theta_of_towers:
        raise SettingsError(f"config.json: vision_config has rope_theta = {theta}, and transformers 4.57 "
                            f"always takes {_rope_theta_of_towers:g}")
    return {key: value for key, value in config.items() if key != "rope_parameters"}


def _tokenizer_for_4(config):
    "tokenizer_config.json in the words of transformers 4"
    out = {key: value for key, value in config.items() if key not in ("backend", "extra_special_tokens")}
    name = out.get("tokenizer_class")
    out["tokenizer_class"] = _tokenizer_classes.get(name, name)
    extra = config.get("extra_special_tokens")
    if isinstance(extra, list) and extra: # 5's word for what 4 calls additional
        out["additional_special_tokens"] = extra
    named = dict(extra) if isinstance(extra, dict) else {}
    # 5 writes the marks of pictures beside the settings, 4 looks for them under this one.
    usual = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}
    for key, value in config.items():
        if re.fullmatch(r"\w+_token", key) and key not in usual and isinstance(value, str):
            named[key] = value
    if named:
        out["extra_special_tokens"] = named
    return out

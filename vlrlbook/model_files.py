"""The files of a model directory: weights are replaced while every other byte stays, configs are rewritten
so that transformers 4 can read them, and what a generation_config.json adds to sampling is set aside.

Written by hand, not exported from a notebook. No torch when imported."""
import copy
import fnmatch
import json
import re
import shutil
from pathlib import Path

from .folders import header_length, new_file, new_folder, read_header, write_json
from .settings import SettingsError, is_first_process, nearest

__all__ = ["other_weights", "copy_descriptions", "weight_files", "read_header", "stored_dtype",
           "replace_weights",
           "config_with_dtype", "only_for_transformers_5", "for_transformers_4", "export_for_transformers_4",
           "check_family_for_4", "known_to_transformers_4", "without_own_sampling", "keep_own_sampling"]

# Weights in formats that this package does not write. A copy of them beside merged weights would be the
# weights of the old model.
other_weights = ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.h5", "*.msgpack",
                 "*.onnx", "*.onnx_data", "*.npz", "*.mlmodel", "*.tflite")
# What a training run leaves in its folder beside the model: checkpoints, older runs, and the list of its
# files.
_files_of_a_run = ("checkpoint-*", "earlier-*", "manifest.json")

# safetensors' name of a number type → torch's name
_torch_names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_safetensors_names = {name: short for short, name in _torch_names.items()}

_header_alignment = 8 # bytes; the safetensors library pads the header to a multiple of it
_copied_at_once = 16 * 2**20 # bytes of a file that are in memory while it is copied


# Copying

def copy_descriptions(
    source: str | Path, # a model directory
    target: str | Path, # directory that is there
    leave: tuple = (), # more names or patterns, such as *.csv, that are not copied
) -> list: # names of weight files that were left out because nobody here writes their format
    """Copy every file of a model except its weights, byte for byte; return weight files of unknown formats

    Hidden files, checkpoints and a run's manifest.json are not copied either."""
    source, target = Path(source), Path(target)
    left_out = []
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        if path.is_dir() or path.suffix == ".safetensors" or _is_excluded(inside, leave):
            continue
        if _matches(path.name, other_weights): # patterns such as *.bin
            left_out.append(inside.as_posix())
        elif not path.name.endswith(".safetensors.index.json"): # which belongs to the weight files
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / inside) # follows links, such as those of the hub's cache
    return left_out


def _is_excluded(inside, leave):
    """Whether a path inside a model directory is hidden, of a training run, or fits the patterns `leave`

    `inside`: a `Path` relative to it, such as checkpoint-40/config.json; `leave`: such as ("*.csv",)."""
    patterns = (".*", *_files_of_a_run, *leave)
    return any(_matches(part, patterns) for part in inside.parts) # also by a folder around the file


def _matches(name, patterns):
    "Return True if the name of a file or folder fits any of some patterns such as *.csv"
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


# Weights

def weight_files(
    folder: str | Path, # a model directory
) -> list: # of paths, sorted
    "Return the safetensors files of a model, without hidden ones, such as macOS's ._model.safetensors"
    return [path for path in sorted(Path(folder).glob("*.safetensors")) if not path.name.startswith(".")]


def stored_dtype(
    folder: str | Path, # a model directory
) -> str | None: # such as bfloat16; None without safetensors
    """Return the number type that most bytes of a model's weights have, as torch calls it

    It is read from the weight files: a config may name no type, or another one."""
    sizes = {} # safetensors' name of a floating type, such as BF16 → bytes of all tensors of that type
    for path in weight_files(folder):
        header, _ = read_header(path) # tensor → {dtype, shape, data_offsets}
        for name, about in header.items():
            if name != "__metadata__" and about["dtype"] in _torch_names: # has the floating types only
                first, end = about["data_offsets"]
                sizes[about["dtype"]] = sizes.get(about["dtype"], 0) + end - first
    if not sizes:
        return None
    return _torch_names[max(sizes, key=sizes.__getitem__)]


def replace_weights(
    source: str | Path, # a model directory with safetensors files
    target: str | Path, # directory that is there
    changed: dict, # name in the files → tensor
    dtype: str = None, # torch's name of the type of all floating tensors; None keeps each one's own
) -> int: # tensors that were replaced
    """Copy the weight files of a model with some tensors replaced

    With `dtype` all floating tensors are converted; without it all other bytes stay as they are. ValueError
    names a changed tensor that no file holds or that has another shape; then nothing was written. It also
    names a tensor whose new numbers are not finite; then `target` may hold some of the files."""
    source, target = Path(source), Path(target)
    files = weight_files(source)
    _check_replaceable(files, changed, source.name)
    for path in files:
        _rewrite(path, target / path.name, changed, dtype) # checks that the new numbers are finite
    # The table that says which file holds which tensor; with `dtype` its total size is another one.
    _copy_index(source, target, dtype)
    return len(changed)


def _check_replaceable(
    files, # paths of a model's safetensors files
    changed, # name of a tensor → its new numbers
    model, # name of the model, for the message
):
    "Raise ValueError unless each tensor of `changed` is in one of the files, of floats and of the same shape"
    stored = {} # tensor → {dtype, shape, data_offsets}, over all files
    for path in files:
        header, _ = read_header(path) # _: where the tensors' bytes begin
        stored.update(header)
    stored.pop("__metadata__", None) # what safetensors may hold besides
    for name, tensor in changed.items():
        if name not in stored:
            suggestion = nearest(name, list(stored)) # ": did you mean …?", or a list of all
            raise ValueError(f"{model}: no weight file holds {name!r}{suggestion}")
        shape, stored_type = stored[name]["shape"], stored[name]["dtype"] # such as [640, 128] and BF16
        is_quantised = stored_type not in _torch_names # not one of the floating types F64, F32, F16, BF16
        if is_quantised or list(tensor.shape) != shape:
            # Quantised numbers are packed, so their shape differs, too.
            reason = "quantised weights cannot take an adapter in" if is_quantised else "the shapes differ"
            raise ValueError(
                f"{model}: {name!r} is stored as {stored_type} {shape}, its new numbers are "
                f"{list(tensor.shape)}: {reason}")


def _rewrite(
    source, # path of a safetensors file
    target, # path of the new one
    changed, # name → tensor, also of tensors in other files
    dtype, # torch's name of the type of all floating tensors; None keeps each one's own
):
    "Copy one weight file with some tensors replaced; one tensor at a time is in memory"
    header, begin = read_header(source) # begin: place of the first number, behind the header
    names = _names_by_place(header) # the order in which the numbers lie in the file, so it is read once
    types = _new_types(header, names, dtype) # tensor → its type in the new file, such as BF16
    is_converted = any(types[name] != header[name]["dtype"] for name in names)
    with open(source, "rb") as old, open(target, "wb") as new:
        # If no number type changes, no size changes either, and the old header is copied.
        new.write(_new_header(header, names, types) if is_converted else old.read(begin))
        for name in names:
            entry = header[name] # dtype, shape, data_offsets
            first, end = entry["data_offsets"]
            old.seek(begin + first)
            if name not in changed and types[name] == entry["dtype"]:
                _copy_bytes(old, new, end - first)
            else: # surely floating: only such a tensor gets a new type or passed `_check_replaceable`
                tensor = changed.get(name)
                tensor = _read_tensor(old, entry) if tensor is None else tensor # None: a new type only
                new.write(_as_bytes(name, tensor, types[name]))


def _new_types(
    header, # of the old file: tensor → {dtype, shape, data_offsets}
    names, # of its tensors
    dtype, # torch's name of the new type, such as bfloat16; None: every tensor keeps its own
):
    """Return the type of each tensor in a new file: tensor → safetensors' name of the type, such as BF16

    Floating tensors get the new type. All others, such as whole numbers, keep their own."""
    types = {}
    for name in names:
        old_type = header[name]["dtype"]
        is_floating = old_type in _torch_names # else whole numbers, or quantised
        types[name] = _safetensors_names[dtype] if dtype and is_floating else old_type
    return types


def _read_tensor(file, entry):
    "Read a floating tensor at the current place of an open file; `entry`: its dtype, shape and data_offsets"
    import torch
    first, end = entry["data_offsets"] # bytes, of which only the number is used here
    dtype = getattr(torch, _torch_names[entry["dtype"]]) # such as BF16 → torch.bfloat16
    numbers = torch.frombuffer(bytearray(file.read(end - first)), dtype=dtype)
    return numbers.reshape(entry["shape"])


def _names_by_place(header):
    """Return the names of a file's tensors in the order in which their numbers lie in the file

    `header`: tensor → {dtype, shape, data_offsets}, and __metadata__, which is no tensor."""
    names = [name for name in header if name != "__metadata__"]
    return sorted(names, key=lambda name: header[name]["data_offsets"]) # [first byte, byte behind the last]


def _copy_bytes(old, new, count):
    "Copy `count` bytes from the open file `old` to the open file `new`, a piece at a time"
    while count:
        piece = old.read(min(count, _copied_at_once)) # at most 16 MiB in memory
        if not piece:
            raise ValueError(f"{old.name}: ends before its header says")
        new.write(piece)
        count -= len(piece)


def _as_bytes(name, tensor, new_type):
    "Return a tensor's numbers as bytes of a type such as BF16; ValueError if one is infinite or NaN in it"
    # `name` is for the message. Infinite numbers would make a model that computes nothing but NaN.
    import torch
    dtype = getattr(torch, _torch_names[new_type])
    tensor = tensor.detach().cpu()
    # float32 holds numbers up to 3e38, float16 up to 65504: larger ones become infinite here.
    converted = tensor.to(dtype).contiguous()
    if not converted.isfinite().all():
        fault = "holds numbers that are not finite"
        if tensor.isfinite().all():
            fault = f"has numbers up to {tensor.abs().max().item():.3g}, too large for {dtype}"
        raise ValueError(f"{name}: {fault}")

    # numpy has no bfloat16, so the numbers are handed over as plain bytes
    return memoryview(converted.view(-1).view(torch.uint8).numpy())


def _new_header(
    header, # of the old file: tensor → {dtype, shape, data_offsets}
    names, # of the tensors, in the order in which they lie in the file
    types, # tensor → its new type, such as BF16
):
    """Return the header of a safetensors file in which some tensors get another number type, as bytes

    A tensor of another type has another size, so all places after it move."""
    table = {"__metadata__": header["__metadata__"]} if "__metadata__" in header else {}
    end = 0
    for name in names:
        size = _new_size(header[name], types[name])
        # [first byte, byte behind the last], counted from the end of the header
        table[name] = dict(dtype=types[name], shape=header[name]["shape"], data_offsets=[end, end + size])
        end += size

    text = json.dumps(table, separators=(",", ":")).encode()
    # the format wants the header padded with blanks to a multiple of 8 bytes
    text += b" " * (-len(text) % _header_alignment)
    return header_length.pack(len(text)) + text


def _new_size(entry, new_type):
    "Return the bytes of a tensor in another number type, such as BF16; `entry`: its dtype and data_offsets"
    first, last = entry["data_offsets"]
    size = last - first
    if new_type == entry["dtype"]: # also a type that is not in the table below, such as I64
        return size
    bytes_per_number = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
    return size // bytes_per_number[entry["dtype"]] * bytes_per_number[new_type]


def _copy_index(
    source, # directory of the old model
    target, # directory of the new one, which has its weight files already
    dtype, # name of the new type of all floating tensors; None: no tensor's size has changed
):
    """Copy the table (index) that says which weight file holds which tensor, if the model has one

    A new number type changes the sizes of tensors, so the total size in the table is computed again."""
    for path in _index_files(source):
        if dtype is None:
            shutil.copyfile(path, target / path.name)
            continue
        index = json.loads(path.read_text(encoding="utf-8"))
        index["metadata"] = index.get("metadata", {}) | dict(total_size=_total_size(target))
        write_json(target / path.name, index)


def _index_files(folder):
    "Return the tables that say which weight file of a model holds which tensor: none or one, no hidden ones"
    return [path for path in folder.glob("*.safetensors.index.json") if not path.name.startswith(".")]


def _total_size(folder):
    "Return the bytes of all tensors in the safetensors files of a folder"
    total = 0
    for file in weight_files(folder):
        header, _ = read_header(file) # _: where the tensors' bytes begin
        # a tensor's data_offsets are its first byte and the byte behind its last
        ends = [about["data_offsets"][1] for name, about in header.items() if name != "__metadata__"]
        total += max(ends, default=0)
    return total


# Configs

_dtype_keys = ("dtype", "torch_dtype") # transformers 5 writes the first, older ones the second

def config_with_dtype(
    config: dict, # config.json of a model
    dtype: str, # torch's name
) -> dict: # a new one
    "Return a config that names `dtype` wherever it named a number type, also in the configs inside it"
    # `_dtype_keys`: dtype and torch_dtype
    out = {}
    for key, value in config.items():
        if isinstance(value, dict): # such as vision_config or text_config
            value = value | {name: dtype for name in _dtype_keys if name in value}
        out[key] = value
    # a config that named no type gets one
    present_keys = [name for name in _dtype_keys if name in config] or ["dtype"]
    return out | dict.fromkeys(present_keys, dtype)


# For transformers 4

# Families whose files this package rewrites for transformers 4.57; model_type in config.json. Gemma 3, which
# 4.57 has too, is not among them: its rotary positions are described for each kind of layer.
known_to_transformers_4 = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "aria")
# A class of tokenizers that only transformers 5 has → its counterpart in 4.
_tokenizer_classes: dict = {"TokenizersBackend": "PreTrainedTokenizerFast"}
# Families whose config in 4.57 looks up every attribute, except model_type, in its text_config.
_read_from_text_config = ("qwen2_vl", "qwen2_5_vl")
# The base of rotary positions in vision towers, which transformers 4.57 has built in and reads from no
# config.
_vision_rope_theta = 10000.0


def only_for_transformers_5(
    folder: str | Path, # a model directory
) -> list: # of sentences
    """Return what in a model directory transformers 4 cannot read or would misread

    An empty list means that transformers 4 reads it. Each sentence names a file and what is wrong in it."""
    config = _read_json(Path(folder) / "config.json")
    tokenizer = _read_json(Path(folder) / "tokenizer_config.json")
    return _problems_of_config(config) + _problems_of_tokenizer(tokenizer)


def _problems_of_config(config):
    "List what transformers 4 would misread in the content of a config.json, as sentences"
    problems = []
    # the config and, in a vision-language model, the config of its language model
    parts = {"config.json": config, "config.json, text_config": config.get("text_config") or {}}
    for where, part in parts.items():
        if "rope_parameters" in part and "rope_theta" not in part:
            # rope: rotary positions, which transformers 5 describes in one dict, 4 in two entries
            problems.append(f"{where}: rope_parameters without rope_theta, "
                            "and transformers 4 would take its own default")
    text = config.get("text_config") # where transformers 4 looks; unset there, the output head stays random
    if text and config.get("tie_word_embeddings") and not text.get("tie_word_embeddings"):
        problems.append("config.json: tie_word_embeddings is true at the top alone, "
                        "where transformers 4 does not look")
    return problems


def _problems_of_tokenizer(tokenizer):
    "List what transformers 4 cannot read in the content of a tokenizer_config.json, as sentences"
    problems = []
    if tokenizer.get("tokenizer_class") in _tokenizer_classes: # those that only transformers 5 has
        problems.append(f"tokenizer_config.json: tokenizer_class {tokenizer['tokenizer_class']}, "
                        "which transformers 4 does not have")
    # A dict is read by both: name, such as image_token → token.
    if isinstance(tokenizer.get("extra_special_tokens"), list):
        problems.append("tokenizer_config.json: extra_special_tokens is a list, "
                        "where transformers 4 wants names")
    return problems


def for_transformers_4(
    folder: str | Path, # a model directory of this package, written to in place
):
    """Rewrite config, tokenizer and processor of a model directory so that transformers 4.57 can read them

    transformers 5 still reads them too."""
    folder = Path(folder)
    config = _read_json(folder / "config.json")
    check_family_for_4(config.get("model_type"), folder.name) # SettingsError for another family
    write_json(folder / "config.json", _config_for_4(config))
    tokenizer = _read_json(folder / "tokenizer_config.json") # {} if there is no such file
    if tokenizer:
        write_json(folder / "tokenizer_config.json", _tokenizer_for_4(tokenizer))
    _split_processor_file(folder) # 4 wants a file for each part: preprocessor_config.json, …


def check_family_for_4(
    family: str | None, # model_type in config.json, such as qwen2_vl; None if it names none
    name: str, # of the model, for the message
):
    "Raise SettingsError unless this package can rewrite a model of this family for transformers 4"
    if family not in known_to_transformers_4:
        families = ", ".join(known_to_transformers_4)
        raise SettingsError(f"{name}: its model_type is {family!r}, and this package writes only {families} "
                            "for transformers 4")


def _split_processor_file(folder):
    """Give each part of a processor a file of its own, as transformers 4 reads it

    transformers 5 keeps all parts in processor_config.json."""
    processor = _read_json(folder / "processor_config.json") # {} if there is no such file
    if not processor: # there is no processor, or each part has a file of its own already
        return
    file_of_part = {"image_processor": "preprocessor_config.json",
                    "video_processor": "video_preprocessor_config.json"}
    parts = [part for part in file_of_part if isinstance(processor.get(part), dict)]  # null is none
    if parts and "processor_class" not in processor:
        raise SettingsError(f"{folder.name}: processor_config.json names no processor_class, which "
                            "transformers 4.57 looks for in the file of each part")
    for part in parts:
        # Each file must say which class all parts belong to.
        content = {"processor_class": processor["processor_class"]} | processor[part]
        write_json(folder / file_of_part[part], content)
    rest = {key: value for key, value in processor.items() if key not in parts}
    write_json(folder / "processor_config.json", rest)


def export_for_transformers_4(
    model: str | Path, # a model directory
    output_path: str | Path, # new directory
) -> Path: # the new directory
    """Copy a model directory into a form that transformers 4.57, and engines built on it, can load

    The weights are copied as they are."""
    model = Path(model)
    if not (model / "config.json").is_file():
        raise FileNotFoundError(f"{model}: no config.json there, so this is no model directory")
    is_rewritten = bool(only_for_transformers_5(model)) # it lists what transformers 4 cannot read
    if is_rewritten: # checked before gigabytes are copied
        check_family_for_4(_read_json(model / "config.json").get("model_type"), model.name)
    # aside: a hidden folder, renamed to output_path when the block ends
    with new_folder(output_path, existing="none") as aside:
        _copy_model(model, aside)
        if is_rewritten:
            for_transformers_4(aside)
    return Path(output_path)


def _copy_model(model, target):
    "Copy a model directory, byte for byte; FileNotFoundError if it has no safetensors files"
    # all but weights (and the table of weight files); returns names of weight files in other formats
    left_out = copy_descriptions(model, target)
    weights = [*weight_files(model), *_index_files(model)] # the table belongs to these files
    if not weights:
        other_files = ", ".join(left_out) or "descriptions"
        raise FileNotFoundError(f"{model}: no safetensors there, only {other_files}")
    for path in weights:
        shutil.copyfile(path, target / path.name)


def _read_json(path):
    "Return the content of a JSON file; {} if there is no such file"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _config_for_4(config):
    """Return config.json of transformers 5, or a config inside it, a dict, as transformers 4 reads it

    Above all, `rope_parameters` (of rotary positions) become `rope_theta` and `rope_scaling`."""
    out = {}
    for key, value in config.items():
        if key == "rope_parameters" and value is not None:
            out |= _rope_for_4(value, config.get("model_type")) # rope_theta and rope_scaling
        elif key == "vision_config" and isinstance(value, dict): # null stays null
            out[key] = _vision_config_for_4(value)
        elif isinstance(value, dict):
            # Such as text_config. Other dicts, such as id2label, have none of these keys and stay unchanged.
            out[key] = _config_for_4(value)
        else:
            out[key] = value

    if isinstance(out.get("text_config"), dict):
        # 4 looks for some values of the top, such as tie_word_embeddings, in text_config alone.
        out["text_config"] = out["text_config"] | _copied_to_text_config(out)
    return _with_both_dtypes(out) # the number type as `dtype` and as `torch_dtype`


def _copied_to_text_config(config):
    "Return the values at the top of a config that transformers 4.57 reads in its text_config instead"
    copied = {} # added to the text_config by the caller
    # Whether input and output embeddings are one tensor. If this is missing in text_config, 4.57 leaves the
    # output head with random weights.
    if config.get("tie_word_embeddings") is not None:
        copied["tie_word_embeddings"] = config["tie_word_embeddings"]
    # EasyR1 reads `architectures` of the loaded config, which in these families means its text_config.
    if config.get("architectures") and config.get("model_type") in _read_from_text_config:
        copied["architectures"] = config["architectures"]
    return copied


def _with_both_dtypes(config):
    """Return a config with its number type under two names, if it has one

    transformers 5 reads `dtype`, and 4 reads `torch_dtype`."""
    stored_types = [config[name] for name in _dtype_keys if name in config] # of `dtype` first
    if not stored_types:
        return config
    return config | dict.fromkeys(_dtype_keys, stored_types[0])  # that of `dtype` wins, if both are there


def _rope_for_4(
    parameters, # rope_parameters: how rotary positions are computed
    owner, # model_type of the config that they stand in, for the message
):
    """Return {rope_theta, rope_scaling} of transformers 4, made of `rope_parameters` of transformers 5

    {"rope_type": "default", "rope_theta": 1e6} → {"rope_theta": 1e6, "rope_scaling": None}."""
    if "rope_theta" not in parameters:
        raise SettingsError(f"config.json, {owner}: rope_parameters = {parameters} hold no rope_theta, or "
                            "differ from layer to layer, which transformers 4.57 has no words for")
    scaling = {key: value for key, value in parameters.items() if key != "rope_theta"}
    # transformers 4 writes null where positions are not scaled
    if scaling in ({}, {"rope_type": "default"}):
        scaling = None
    return dict(rope_theta=parameters["rope_theta"], rope_scaling=scaling)


def _vision_config_for_4(config):
    """Return the vision config as transformers 4 reads it, without `rope_parameters`

    transformers 4 has a fixed base of rotary positions there; SettingsError if the config has another one."""
    config = _with_both_dtypes(config) # number type under the names of transformers 4 and 5
    rope_parameters = config.get("rope_parameters") or {}
    theta = rope_parameters.get("rope_theta", _vision_rope_theta) # 10000 if the config does not say it
    if theta != _vision_rope_theta:
        raise SettingsError(f"config.json: vision_config has rope_theta = {theta}, and transformers 4.57 "
                            f"always takes {_vision_rope_theta:g}")
    return {key: value for key, value in config.items() if key != "rope_parameters"}


def _tokenizer_for_4(config):
    "Return the content of transformers 5's tokenizer_config.json, a dict, as transformers 4 reads it"
    # `backend` is new in transformers 5; `extra_special_tokens` is set again below, in 4's form.
    out = {key: value for key, value in config.items() if key not in ("backend", "extra_special_tokens")}
    name = out.get("tokenizer_class")
    if name is not None:
        out["tokenizer_class"] = _tokenizer_classes.get(name, name) # a class that 4 lacks → its counterpart

    extra = config.get("extra_special_tokens")
    if isinstance(extra, list) and extra: # a list is called `additional_special_tokens` in transformers 4
        out["additional_special_tokens"] = extra
    named_tokens = _named_tokens(config) # name, such as image_token → token
    if named_tokens:
        out["extra_special_tokens"] = named_tokens
    return out


def _named_tokens(config):
    """Return the special tokens of a family in tokenizer_config.json: name, such as image_token → token

    transformers 5 writes them beside the other settings; 4 looks for them in `extra_special_tokens`."""
    extra = config.get("extra_special_tokens")
    named_tokens = dict(extra) if isinstance(extra, dict) else {} # a list has no names
    # These stay beside the other settings in 4 as well.
    usual = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}
    for key, value in config.items():
        if re.fullmatch(r"\w+_token", key) and key not in usual and isinstance(value, str):
            named_tokens[key] = value
    return named_tokens


# Sampling

# What stays of a model's generation config. Its special tokens, and how the same numbers are computed:
_stays = {"bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "use_cache",
          "cache_implementation", "cache_config", "max_cache_len", "compile_config", "disable_compile",
          "transformers_version", "_from_model_config"}
# Whoever asks a model here gives these a value, which wins over the model's: they are taken out without a
# word, since contradictions among them (a temperature without do_sample) would keep a model from being saved.
_always_given = {"max_new_tokens", "max_length", "do_sample", "temperature", "top_k", "top_p",
                 "repetition_penalty", "suppress_tokens"}


def without_own_sampling(
    model, # of transformers or PEFT, as loaded; changed in place, and returned
    name: str, # of the model, for the printed line
):
    """Take out of a model's generation config what would change its answers beside the settings of a run.

    Such as min_p, min_new_tokens or num_beams. TRL, transformers and the shared prompt each use only some of
    them, so that a run would measure other answers than it trains on. A printed line names those that had an
    effect. `keep_own_sampling` writes the whole config into the folder of a trained model."""
    core = model.get_base_model() if hasattr(model, "get_base_model") else model # under an adapter
    own = getattr(core, "generation_config", None)
    if own is None: # a model that generates nothing
        return model
    # Value of each key that transformers knows (read in 5.17 to 5.24); it does not read any other key.
    defaults = type(own)().to_dict()
    # _stays: special tokens, and how the same numbers are computed, such as the cache
    named = [key for key in defaults if key not in _stays and getattr(own, key, None) is not None]
    # _always_given: temperature and the like, for which every run has a value of its own
    with_effect = [key for key in named if key not in _always_given and _has_effect(own, key)]
    shown = [f"{key} = {getattr(own, key)!r}" for key in with_effect]
    if named:
        core.own_generation_config = own # for `keep_own_sampling`
        core.generation_config = copy.deepcopy(own)
        for key in named:
            setattr(core.generation_config, key, defaults[key])
    if shown and is_first_process():
        print(f"{Path(name).name}: its generation_config.json sets {', '.join(shown)}, which is left out: "
              "answers are sampled as the settings say")
    return model


def _has_effect(config, key):
    "Whether a value in a generation config, not None, changes anything: it is no default and not empty"
    value = getattr(config, key)
    # A private method of GenerationConfig in 5.17 to 5.24: the values that it takes for None, such as 1 for
    # num_beams. The table beside it has further ones that change nothing; the method's win.
    defaults = getattr(config, "_get_default_generation_params", dict)()
    neutral = {"min_length": 0, "num_return_sequences": 1, "num_beam_groups": 1, "typical_p": 1.0,
               "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "length_penalty": 1.0, "diversity_penalty": 0.0,
               "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_p": 0.0} | defaults
    is_empty = value is False or value in ("", [], {}, ())
    return not is_empty and value != neutral.get(key)


def keep_own_sampling(
    model, # a whole model that was saved into `folder`
    folder: str | Path, # of its files
):
    """Write the generation config that a model was loaded with into the folder of its files

    `without_own_sampling` took its sampling out for the run; who uses the model later is to have it."""
    own = getattr(model, "own_generation_config", None) # None: nothing was taken out
    if own is None:
        return
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"): # a trainer may have changed them
        setattr(own, key, getattr(model.generation_config, key))
    # Not `save_pretrained`, which refuses a config that it finds contradictory: others may have written it.
    with new_file(Path(folder) / "generation_config.json") as aside:
        own.to_json_file(aside)

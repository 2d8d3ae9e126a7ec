"""Settings that check themselves: read from a command line, a notebook or a form, completed by presets, and
refused with one message that names everything that is wrong. And `GRPOSettings`, which the page of chapter
05, the command and the service share.

Written by hand, not exported from a notebook. No torch: a server and `--help` must start without it."""
import ast
import difflib
import importlib.util
import inspect
import json
import linecache
import math
import os
import re
import sys
import typing
from dataclasses import asdict, dataclass, fields
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import ClassVar

from .folders import read_header, write_whole

__all__ = ["SettingsError", "nearest", "as_type", "finite_number", "read_settings", "flag_names",
           "named_options", "names_since", "settings_help", "size_by_model", "Settings", "is_first_process",
           "answers_a_step",
           "whole_groups_problem", "largest_batch", "drawn_rows_of_an_epoch", "presets", "by_task",
           "GRPOSettings", "settings_of_run", "settings_of_adapter", "reward_terms", "trained_rewards",
           "reward_without_paths", "untrained_reward", "whole_groups", "service_settings",
           "save_settings", "names_and_values", "strict_yaml", "load_settings"]


class SettingsError(ValueError):
    "A setting that does not exist, has the wrong type, or cannot go with another"


def nearest(
    name: str, # the unknown name
    known: list, # the names that exist
) -> str:
    """Return the end of an error message about an unknown name

    It is `: did you mean 'lr'?` where a known name is similar, else a list of all known names."""
    # 0.5 instead of difflib's 0.6, so that it guesses more often: a wrong guess is better than a long list.
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close and len(name) > 2:
        close = [k for k in known if name in k] # difflib does not find "05_grpo" for "grpo"
    if close:
        return f": did you mean {close[0]!r}?"
    return f" (there are: {', '.join(known)})"


# One value

def as_type(
    name: str, # for the message
    value, # a value of the type, or its text
    kind, # annotation: int, float, bool, str or dict, also `int | None`
): # value of that type
    """Convert `value` to the type `kind`; SettingsError where it does not fit

    "5e-5" becomes a float and "true" a bool, but 2.5 is not taken for an int."""
    kinds = typing.get_args(kind) or (kind,) # the types of a union such as `int | None`, or the one type
    takes_none = type(None) in kinds # a text "none" then means None, else it is a text like others
    if value is None or (takes_none and isinstance(value, str) and value.lower() == "none"):
        return None # `read_settings`, which knows the default, refuses a None that is not allowed
    candidates = [k for k in kinds if k is not type(None)]
    # The first type that fits is taken: `int | float` makes an int of "2".
    for candidate in candidates:
        if _fits(value, candidate):
            return _converted(value, candidate)
    expected = " or ".join(k.__name__ for k in candidates)
    raise SettingsError(f"{name} = {value!r}: expected {expected}")


def _fits(value, kind):
    """Return True if `value` has the type `kind`, or is a text or number that can only mean that type

    `kind` is bool, str, dict, list, int or float. For int "2" and 2.0 fit, 2.5 and True do not."""
    if kind is bool:
        return isinstance(value, bool) or str(value).strip().lower() in ("true", "false")
    if kind is str:
        return isinstance(value, (str, bool)) # papermill turns the text "true" into a bool
    if kind in (dict, list):
        return isinstance(value, kind)
    # In Python a bool is an int too (True == 1), but True for a number is a mistake.
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return False
    if finite_number(value) is None: # a text that is no number, NaN or an infinity
        return False
    return kind is float or _whole_number(value) is not None # 2.0 fits an int, 2.5 does not


def _converted(value, kind):
    """Convert `value` to the type `kind`: bool, str, dict, list, int or float

    The caller has checked that it fits: such as "true" for bool, "5e-5" for float, 2.0 for int."""
    if kind is bool:
        return str(value).strip().lower() == "true"
    if kind is str:
        return value if isinstance(value, str) else str(value).lower() # a bool as it was written: "true"
    if kind in (dict, list):
        return value
    return _whole_number(value) if kind is int else finite_number(value)


def _whole_number(value):
    """Return a finite number or its text as an int, None where it is not whole: "1e2" → 100, "2.5" → None

    By Decimal, which is exact: float() would turn the seed 2**53 + 1 into 2**53."""
    try:
        exact = Decimal(value)
    except InvalidOperation: # its exponent is too small, as in "1e-9999999999999999999": float() reads 0
        return None
    return int(exact) if exact == exact.to_integral_value() else None


def finite_number(
    text, # a number or its text
) -> float | None: # None for what is no number, and for NaN and infinities
    "Return `text` as a float; None if it is no number, or NaN or infinite"
    try:
        number = float(text)
    except (ValueError, OverflowError): # a whole number of over 308 digits is no float
        return None
    # float() also reads "nan" and "inf". NaN would pass range checks: every comparison with it is False.
    return number if math.isfinite(number) else None


# All values

def read_settings(
    cls: type, # a dataclass; it may have `aliases`, a dict of other names, and `check(self)`
    given: dict, # name → value
    where: str = "settings", # begins each message
): # an instance of `cls`
    """Make checked settings of names and values

    One SettingsError names all unknown names and wrong types. Then the rules of `cls.check` are applied."""
    values, problems = _typed_values(cls, given)
    if problems:
        raise SettingsError(f"{where}: " + "; ".join(problems))
    # Rules come last: they compare settings with one another, so all types must be right.
    settings = cls(**values)
    if hasattr(settings, "check"):
        settings.check()
    return settings


# Settings of all classes that hold the path of a file or folder. `model` is none of them, since it may be the
# name of one on the hub; a `~` in it is replaced where the model is loaded.
_paths = {"data", "image_dir", "adapter", "head", "output_dir", "ckpt_dir", "data_dir", "resume", "predictions",
          "train_data", "eval_data", "test_data", "labelled_set", "questions", "reward_model", "lora_model"}


def _typed_values(
    cls, # a dataclass of settings; it may have `aliases`, other names of some of them
    given, # name → value, as the user wrote them, such as {"learning_rate": "5e-5"}
):
    """Return (name of a setting → value of its type, messages about all that is wrong in `given`)

    Such as ({"lr": 5e-05}, ["there is no 'epoch': did you mean 'num_epochs'?"])."""
    defaults = {f.name: f.default for f in fields(cls)}
    kinds = typing.get_type_hints(cls) # name → type
    values, problems = {}, []
    for written, value in given.items(): # written: the name as the user wrote it
        name, value = _canonical_name(cls, written, value) # such as lr for learning_rate
        if name in defaults:
            # such as when_cut, which takes "paid" or 0
            is_text_or_number = name in getattr(cls, "texts_or_numbers", ())
            # The text "none" means None where that is the default, except in settings with a word "none".
            none_is_none = defaults[name] is None and name not in getattr(cls, "with_word_none", ())
            value = _meant(value, none_is_none, is_text_or_number)
            # `~` in a path: on a command line the shell has replaced it, in a file of settings nobody has.
            if name in _paths and isinstance(value, str): value = os.path.expanduser(value)
        if name not in defaults:
            problems.append(_unknown(written, _all_names(cls)))
        elif name in values: # under its own name and under another: we cannot tell which is meant
            problems.append(f"{name!r} is given twice (as {written!r} too)")
        elif value is None and not _takes_none(defaults[name], kinds[name]):
            problems.append(f"{written} = None: expected {kinds[name].__name__}")
        else:
            try:
                values[name] = as_type(written, value, kinds[name])
            except SettingsError as error:
                problems.append(str(error))
    return values, problems


def _meant(value, none_is_none, is_text_or_number):
    """Return what a user means by the `value` of a setting

    `none_is_none`: the text "none" means None, as messages write that default. `is_text_or_number`: the
    setting takes a word or a number, as when_cut takes "paid" or 0; its numbers become texts, so that 0 and
    "0" are the same."""
    if none_is_none and isinstance(value, str) and value.strip().lower() == "none":
        return None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return str(value) if is_text_or_number and is_number else value


def _canonical_name(cls, written, value):
    """Return (name of the setting, its value), where a user may have `written` another name

    A name that is unknown comes back as it is.
    cls.aliases: such as {"learning_rate": "lr"}. cls.stand_ins: other names whose values are translated too,
    such as {"mask_truncated_completions": ("when_cut", {"true": "masked", "false": "paid"})}."""
    stand_ins = getattr(cls, "stand_ins", {})
    if written not in stand_ins:
        return getattr(cls, "aliases", {}).get(written, written), value
    name, translations = stand_ins[written]
    return name, translations.get(str(value).strip().lower(), value)


def _all_names(cls):
    "List the names of all settings of a class, then their other names"
    own_names = [f.name for f in fields(cls)]
    return [*own_names, *getattr(cls, "aliases", {}), *getattr(cls, "stand_ins", {})]


def _takes_none(default, kind):
    "Whether a setting may be None: its default is None (a preset fills it in), or its type `int | None`"
    return default is None or type(None) in typing.get_args(kind)


def _unknown(name, known):
    "Return the message about a name that is no setting; never with its value, which may be a secret key"
    if re.search(r"(^|_)(api_?key|key|token|password|secret)$", name.lower()):
        return (f"{name}: a key is never taken from a command line, a page or a file; "
                "set it in the environment (WANDB_API_KEY, HF_TOKEN)")
    suggestion = nearest(name, known) # ": did you mean …?", or a list of all `known` names
    return f"there is no {name!r}{suggestion}"


def flag_names(
    cls: type, # a dataclass of settings
) -> set: # names
    """Return the names, and the other names, of all settings that are true or false

    On a command line such a name can stand without a value, and then means "true"."""
    types = typing.get_type_hints(cls) # name → type
    names = {f.name for f in fields(cls) if types[f.name] is bool}
    aliases = {alias for alias, name in getattr(cls, "aliases", {}).items() if name in names}
    # An alias whose values are translated, such as
    # {"mask_truncated_completions": ("when_cut", {"true": "masked", "false": "paid"})}.
    stand_ins = getattr(cls, "stand_ins", {})
    translated = {alias for alias, (_, translations) in stand_ins.items() if "true" in translations}
    return names | aliases | translated


def named_options(
    rest: list, # of a command line
    flags: set | frozenset = frozenset(), # names that may stand without a value
) -> dict: # name → text
    """Read `--name value` and `--name=value` from a command line; SettingsError for anything else

    - and _ in a name mean the same. A name in `flags` can stand without a value, and is then "true".
    Messages repeat no value, since it may be a secret key."""
    options, last_option = {}, "the start"
    words = list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise SettingsError("expected --name value pairs, found a value without a name "
                                f"after {last_option}")
        last_option, equals, value = word.partition("=")
        name = last_option[2:].replace("-", "_").lower()
        options[name] = value if equals else _value_behind(last_option, words, name in flags)
    return options


def _value_behind(option, words, is_flag):
    """Take the value of an option such as --lr from the `words` behind it, a list, and return it

    A flag without a value is "true"; SettingsError for another option without one."""
    if words and not words[0].startswith("--"): # options begin with --, so -1 is a value
        return words.pop(0)
    if is_flag:
        return "true"
    raise SettingsError(f"expected --name value pairs, found {option} without a value")


def names_since(
    before, # what was there before the parameters cell: `dict(globals())`, or its names alone as a frozenset
    names: dict, # `globals()` just after it
) -> dict: # name → value
    """Return the public names that a notebook's parameters cell, or papermill after it, has set

    A name counts if it is new, if `before` has another value for it, or if it is assigned in a cell between:
    where an earlier cell says mask = 1, a user's `-p mask 1` leaves the value as it was."""
    set_names = {}
    assigned = _assigned_since_before(names.get("In")) # In: IPython's list of the cells that were run
    for name, value in names.items():
        is_public = not name.startswith("_") and name != "before" # notebooks keep `before` in a variable
        is_new = name not in before
        # `is not`: != of two arrays, which a notebook may hold, is an array and no bool
        has_new_value = isinstance(before, dict) and not is_new and before[name] is not value
        if is_public and (is_new or has_new_value or name in assigned):
            set_names[name] = value
    return set_names


def _assigned_since_before(
    cells, # IPython's `In`: the texts of all cells so far, the last one being that which runs; else None
):
    """Return the names that are assigned in the cells between that with `before = …` and the last one

    For `names_since`, which cannot see by values alone what was set: if an earlier cell says mask = 1, then
    `-p mask 1` changes nothing. An empty set outside a notebook."""
    assigned = set()
    for cell in reversed(cells[:-1] if isinstance(cells, list) else []):
        # With an earlier `names_since(` the parameters cell was run again: only its last run counts.
        if re.search(r"^before\s*=", cell, re.MULTILINE) or "names_since(" in cell:
            return assigned
        assigned |= _assigned_in(cell)
    return set() # `before` stands in no cell


def _assigned_in(cell):
    "Return the names that the statements of a cell's text assign, such as {\"lr\"} for `lr: float = 5e-5`"
    try:
        statements = ast.parse(cell).body
    except SyntaxError: # such a cell has set nothing
        return set()
    assigned = set()
    for statement in statements:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.AnnAssign) and statement.value: # `lr: float` alone sets nothing
            targets = [statement.target]
        assigned |= {target.id for target in targets if isinstance(target, ast.Name)}
    return assigned


def settings_help(
    cls: type, # a dataclass whose source can be read
) -> dict: # field name → the comment behind it
    """Return the help text of each setting, read from the comments in the source of `cls`

    A line of the source is `    lr: float = None # Learning rate`. If the comment goes on in the next line,
    that line begins with # and three blanks."""
    field_line = re.compile(r"^\s+(\w+): [^#]*?#\s*(.+?)\s*$")
    continuation = re.compile(r"^\s+# {3}(\S.*?)\s*$")
    texts, name = {}, None # name: of the last setting
    for line in _source(cls).splitlines():
        if name and (more := continuation.match(line)):
            texts[name] += f" {more[1]}"
        elif field := field_line.match(line):
            name = field[1] # group 1 of the pattern; group 2 is the comment
            texts[name] = field[2]
    return texts


def _source(cls):
    "Return the source of `cls`; for a class typed into a notebook, that of the cell with its methods"
    try:
        return inspect.getsource(cls)
    except OSError:
        pass # a class of a notebook has no file
    # IPython keeps the text of each cell in linecache, under the file name in the code of its functions.
    for member in vars(cls).values():
        function = member.fget if isinstance(member, property) else member
        code = getattr(function, "__code__", None)
        cell = "".join(linecache.getlines(code.co_filename)) if code else ""
        # Methods that @dataclass has made, such as __init__, come from no cell: it is "" for them.
        if f"class {cls.__name__}" in cell:
            return cell
    return ""


# A class of settings

# The largest `hidden_size` of a model that is taken for a tiny twin. Those of vlrlbook have 128, the
# smallest real model that is supported has 1536.
WIDEST_TWIN = 512


def size_by_model(
    model: str | None, # hub id, directory or the name of a tiny model, such as tiny-qwen2_5_vl
) -> str: # tiny or gpu
    """Return the preset for a model: "tiny" for a tiny model of vlrlbook (a twin), "gpu" for any other

    A twin is known by a name that begins with tiny-, or in a directory by the width of its hidden states."""
    if not model or model.startswith("tiny-"):
        return "tiny"
    folder = Path(model) # a hub id is no folder: `_read_object` then returns {}
    # The size of an adapter or a reward head is that of its base model.
    for name, base_key in (("adapter_config.json", "base_model_name_or_path"), ("reward_model.json", "base")):
        base_model = _read_object(folder / name).get(base_key)
        if base_model and base_model != model: # else endless recursion
            return size_by_model(base_model)
    width = _hidden_size(folder) # of the hidden states; None for a hub id
    return "tiny" if isinstance(width, int) and width <= WIDEST_TWIN else "gpu"


def _hidden_size(folder):
    "Return the hidden size of the language model in a folder, from its config.json; None without one"
    config = _read_object(folder / "config.json")
    text_config = config.get("text_config") or config # the language model's part of the config
    return text_config.get("hidden_size")


def _read_object(path):
    "Read a JSON object from a file; return {} if the file is missing, unreadable or holds something else"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


class Settings:
    "Base class of settings with a preset for each `size`: fills in what is None and checks the rules"
    # A subclass is a dataclass that defines `presets` and `rules`, and may define `filled_in` and
    # `wanted_model`. `read_settings` calls `check`, and reads two more attributes of the subclass:
    #   aliases    another name → the setting, such as {"learning_rate": "lr"}
    #   stand_ins  another name whose values are translated too → (the setting, {value in lower case: the
    #              setting's}), such as {"mask_truncated_completions": ("when_cut", {"true": "masked"})}
    presets: ClassVar[dict] = {} # size → {name: value that replaces None}
    if typing.TYPE_CHECKING: # fields of every subclass
        size: str
        model: str

    def check(self):
        "Fill in the settings that are None, then raise one SettingsError that names every broken rule"
        if self.size is None:
            self.size = size_by_model(self.wanted_model())
            if self.size == "gpu":
                _say_size(self.wanted_model()) # prints that the model has decided it
        self.must_be("size", self.presets) # raises at once: without a known size nothing can be filled in
        for name, value in self.filled_in().items(): # name → value, mostly of the preset for this size
            if getattr(self, name) is None:
                setattr(self, name, value)
        # All in one message, so that nobody has to start a job on a cluster once for each mistake.
        problems = [text for is_broken, text in self.rules() if is_broken]
        # An empty text comes from a variable of the shell that was not set. Not all classes have all three.
        for name in ("model", "output_dir", "ckpt_dir"):
            if getattr(self, name, None) == "": problems.append(f"{name} is empty")
        seed = getattr(self, "seed", 0)
        if seed >= 2**32: # NumPy's generators take no larger one
            problems.append(f"seed = {seed}: expected less than 2**32")
        if problems:
            raise SettingsError("; ".join(problems))

    def wanted_model(self) -> str | None:
        "The model that the user has named, or None; `check` chooses the preset by it"
        return self.model

    def filled_in(self) -> dict: # name → value
        "Return the values for settings that are None"
        return self.presets[self.size]

    def rules(self): # yields (whether it is broken, what to say then)
        "Yield (is broken, message) for each rule; `size` is valid and presets are filled in by then"
        return []

    def must_be(self,
        name: str, # of a field
        known, # the values that it may have
    ):
        "Raise SettingsError, with the nearest known value, if a field has none of the known values"
        value = getattr(self, name)
        if value not in known:
            suggestion = nearest(str(value), list(known)) # ": did you mean …?", or a list of all
            raise SettingsError(f"{name} = {value!r}{suggestion}")


def is_first_process() -> bool: # True also where there is only one
    "Tell whether this is the first process of a run, which prints what all of them would say"
    # torchrun and accelerate give each process its number in RANK
    return os.environ.get("RANK", "0") == "0"


def _say_size(model):
    "Print that the model, no tiny one, has decided the preset \"gpu\"; only in the first process of a run"
    if is_first_process():
        print(f"size = gpu, since model = {model!r} is no tiny twin; write size to choose it yourself",
              file=sys.stderr)


# Batches. A group is the G answers to one prompt; an optimizer step needs whole groups.

def answers_a_step(
    batch_size: int, # answers in one forward pass of a device
    accumulation: int, # forward passes before an optimizer step
    processes: int = 1, # of the run
) -> int:
    "Return the number of answers in one optimizer step, over all processes"
    return batch_size * accumulation * processes


def whole_groups_problem(
    answers: int, # in one optimizer step
    G: int, # num_generations, answers of a group
    product: str, # for the message: what was multiplied, such as "batch_size × processes"
) -> str: # empty where a step holds whole groups
    """Return the message about a step that would hold only a part of a group, or ""

    A group is the G answers to one prompt. The message names the nearest number of answers that would fit."""
    # a G below 1 breaks a rule of its own, and nothing can be a multiple of it
    if G < 1 or answers % G == 0:
        return ""
    closest = max(1, round(answers / G)) * G # at least one group
    return f"{product} = {answers} answers a step, no multiple of num_generations = {G}; nearest: {closest}"


def largest_batch(
    rows: int, # prompts to train on
    G: int, # num_generations
    accumulation: int, # forward passes before an optimizer step
    processes: int = 1, # of the run
    whole_on_each: bool = False, # each process must hold whole groups; `refill` needs that
) -> int | None: # None where even the smallest step is too large
    "Return the largest batch_size with whole groups in a step and at most `rows` prompts"
    passes = accumulation * processes # in one step, over all processes
    most_answers = rows * G # in one step, G to each prompt
    for batch_size in range(most_answers // passes, 0, -1): # the largest first
        step_is_whole = batch_size * passes % G == 0 # all processes together hold whole groups
        process_is_whole = batch_size * accumulation % G == 0 # and each of them does
        if step_is_whole and (process_is_whole or not whole_on_each):
            return batch_size
    return None


# GRPO

# Rows that are drawn where a run counts epochs and not steps: drawn pictures have no natural number.
drawn_rows_of_an_epoch = 2000

# size → {setting: its value where None was given}, for all tasks
presets = {
    # a twin of a million parameters, whose whole run takes minutes on a CPU
    "tiny": dict(
        model="tiny-qwen2_5_vl", lr=5e-5, num_epochs=1, max_steps=200, batch_size=64,
        gradient_accumulation_steps=1, temperature=1.0, refill=0, lora_r=16, lora_alpha=512, max_looks=0,
        lora_vision=False, use_4bit=False, max_image_size=112, scale_rewards="group",
        eval_samples=500, eval_batch_size=125),
    # the counting system's own defaults
    "gpu": dict(
        model="Qwen/Qwen2.5-VL-3B-Instruct", lr=5e-5, num_epochs=50, max_steps=-1, batch_size=1,
        gradient_accumulation_steps=8, temperature=0.2, refill=0, lora_r=64, lora_alpha=128, max_looks=0,
        lora_vision=False, use_4bit=True, max_image_size=512, scale_rewards="group",
        eval_samples=200, eval_batch_size=8)}

# task → size → {setting: value}, which counts more than the value in `presets`. In vqa the answers, with a
# thought and an answer in tags, are longer than a sentence, and a twin needs more steps to learn them.
by_task: dict = {
    "counting": {
        # chosen by its worst seed (nbs/logs/05_search.csv, 05_runs.csv): silent groups refilled, the eyes too
        "tiny": dict(reward="0.8*verbatim + 0.2*counting", max_completion_length=8, warm_steps=280,
                     max_steps=400, refill=3, lora_alpha=1024, lora_vision=True),
        "gpu": dict(reward="counting", max_completion_length=64, warm_steps=280)},
    "vqa": {
        "tiny": dict(reward="vqa", max_completion_length=24, warm_steps=400),
        "gpu": dict(reward="vqa", max_completion_length=512, warm_steps=400)},
    "pointing": {
        # Small pictures, of 2 x 2 image tokens, since the long answers already take most of a run's time.
        # Chosen by runs of one seed (nbs/logs/05_pointing_search.csv), then by the worst of four
        # (05_pointing_runs.csv).
        "tiny": dict(reward="pointing", max_completion_length=18, warm_steps=180, max_steps=600, lr=1e-4,
                     lora_vision=True, max_image_size=56, eval_samples=200, eval_batch_size=100),
        "gpu": dict(reward="0.9*pointing + 0.1*box_format", max_completion_length=128, warm_steps=400)},
    "zoom": {
        # A call, the crop's tokens and the answer are counted together as one answer's length. Advantages
        # are not divided: in a group of right answers the price of a call is all that differs, and divided
        # by the spread it would count as much as a right answer does elsewhere. Then all calls die out
        # (nbs/logs/05b_zoom.csv).
        "tiny": dict(reward="zoom", max_completion_length=96, warm_steps=450, max_steps=240, max_looks=1,
                     lr=2e-5, scale_rewards="none", lora_alpha=1024, lora_vision=True, max_image_size=112,
                     eval_samples=200, eval_batch_size=50),
        "gpu": dict(reward="zoom", max_completion_length=1024, warm_steps=400, max_looks=1,
                    scale_rewards="none")}}

# Setting → the words that it takes. TRL and transformers would refuse others too, but only after the model is
# loaded.
_allowed_words: dict = {
    "loss_type": ["grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo"],
    "importance_sampling_level": ["token", "sequence"],
    "scale_rewards": ["group", "batch", "none"],
    "attention": ["auto", "sdpa", "eager", "flash_attention_2"],
    "vllm_mode": ["colocate", "server"],
    "report_to": ["none", "tensorboard", "wandb", "trackio"]}


@dataclass
class GRPOSettings(Settings):
    "Settings of a GRPO run; chapter 05's parameters cell holds the same names, types, defaults and comments"
    size: str = None # tiny: a million parameters on a CPU; gpu: Qwen2.5-VL-3B with the counting system's
    #   defaults; None: by model
    model: str = None # Hub id, directory, or tiny- and one of qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_5,
    #   gemma3, aria
    adapter: str = None # Directory of an existing LoRA adapter to go on training
    task: str = "counting" # counting: how many; vqa: radiology, an answer in tags;
    #   pointing: where, a box; zoom: how many, with a tool
    data: str = None # Counting ZIP (or what was unpacked from one), or rows (.jsonl, .json, .csv, .tsv,
    #   .parquet); None draws pictures
    image_dir: str = None # Where the picture paths of VQA rows begin; None: beside the file
    keys: str = None # Which column of VQA rows holds what: pairs with an equals sign between; None: by its
    #   name
    skip_bad_rows: bool = False # Leave bad VQA rows out and list them; False stops at the first
    system_prompt: str = None # What the system's turn says before every question; a row's own stays as it is;
    #   None: there is no such turn
    output_dir: str = "runs/05_grpo" # Where the adapter, the logs and the results go
    lr: float = None # Learning rate of the policy (5e-5; tiny pointing 1e-4, zoom 2e-5)
    num_epochs: int = None # Passes over the data (gpu 50); max_steps wins
    max_steps: int = None # Optimizer steps (tiny: counting 400, vqa 200, pointing 600, zoom 240)
    batch_size: int = None # Answers in one forward pass of a device (tiny 64, gpu 1)
    gradient_accumulation_steps: int = None # Forward passes before an optimizer step (tiny 1, gpu 8)
    num_generations: int = 8 # G, answers to each prompt
    max_completion_length: int = None # Most tokens of an answer (tiny, gpu: counting 8, 64; vqa 24, 512;
    #   pointing 18, 128; zoom 96, 1024)
    max_looks: int = None # Calls of the tool in one answer, at most (zoom 1, else 0: there is no tool)
    temperature: float = None # Of sampling (tiny 1.0, gpu 0.2)
    top_p: float = 1.0 # Of sampling: the likeliest tokens up to this share of probability; 1.0 takes all
    top_k: int = 0 # Of sampling: so many of the likeliest tokens; 0 takes all
    min_p: float = None # Of sampling: tokens of at least this share of the likeliest one's probability; None
    #   takes all
    reward: str = None # A name of page 02, module:function, reward_model:folder, aloha:folder, judge:file,
    #   or a sum: 0.9*counting + 0.1*format
    when_cut: str = "paid" # What an answer cut at the token limit earns in training: paid (as it reads),
    #   masked (not counted), or a number
    refill: int = None # Rounds of new prompts in place of silent groups, at most (tiny counting 3, else 0:
    #   keep them)
    shared_prompt: bool = True # Read each prompt and its picture once a group (chapter 07), where that is
    #   exact
    picture_memory_mb: int = 0 # MB for what a frozen vision tower saw, kept from epoch to epoch; 0 keeps it
    #   for one step
    loss_type: str = "dapo" # TRL's name of the loss: grpo, dapo, dr_grpo, bnpo, cispo, sapo
    beta: float = 0.0 # Weight of the KL term; 0 needs no reference model
    epsilon: float = 0.2 # Clip range of the probability ratio
    epsilon_high: float = None # Clip range upwards where it is another (DAPO: 0.28); with cispo the largest
    #   ratio (5.0)
    importance_sampling_level: str = "token" # Whose ratio is clipped: each token's, or the whole answer's
    #   (sequence, as GSPO)
    scale_rewards: str = None # By whose spread advantages are divided: group, batch, or none, as in Dr. GRPO
    #   (group; zoom none)
    use_bias_correction_kl: bool = True # The KL term is weighed with the ratio, as in DeepSeek-V3.2; false as
    #   in the first GRPO
    num_iterations: int = 1 # Optimizer passes over each batch of answers
    lr_scheduler_type: str = "linear" # Any of transformers' schedules
    warmup_steps: int = 0 # Steps until the full learning rate
    optim: str = "adamw_torch_fused" # Any of transformers' optimizers, such as adamw_8bit (needs
    #   bitsandbytes)
    weight_decay: float = 0.0 # Share of each weight that the optimizer takes away, times lr
    max_grad_norm: float = 1.0 # Longest gradient; a longer one is scaled to it; 0 leaves all as they are
    gradient_checkpointing: bool = None # Compute activations again on the way back, which saves memory; None:
    #   on a GPU
    use_lora: bool = True # False trains all weights
    lora_r: int = None # Rank of the adapter (tiny 16, gpu 64)
    lora_alpha: int = None # Its scale times its rank (tiny: counting, zoom 1024, else 512; gpu 128)
    lora_dropout: float = 0.05 # Dropout on the adapter's input
    lora_vision: bool = None # The adapter reaches the vision tower too (tiny counting, pointing and zoom
    #   true, else false)
    use_4bit: bool = None # 4-bit weights under the adapter; needs CUDA and bitsandbytes (tiny false, gpu
    #   true)
    attention: str = "auto" # auto, sdpa, eager or flash_attention_2; prompts are shared with sdpa only
    max_image_size: int = None # Pictures have at most this many pixels squared (tiny 112, pointing 56;
    #   gpu 512)
    use_vllm: bool = False # Generate with vLLM (extra gpu)
    vllm_mode: str = "colocate" # colocate: in the training process; server: a `trl vllm-serve` that runs
    #   already
    vllm_server_base_url: str = None # Where that server is (http://localhost:8000)
    vllm_gpu_memory_utilization: float = 0.3 # Share of a GPU that a colocated vLLM may take
    vllm_tensor_parallel_size: int = 1 # GPUs over which a colocated vLLM is spread
    vllm_max_model_length: int = None # Tokens of prompt and answer that a colocated vLLM makes room for;
    #   None: as the model allows
    vllm_sleep_level: int = 0 # While training computes, a colocated vLLM: 0 stays awake, 1 moves its weights
    #   to the CPU, 2 drops them
    seed: int = 43 # Of pictures, sampling and dropout
    eval_samples: int = None # Held-out pictures, before and after (tiny 500, pointing, zoom 200; gpu 200)
    eval_answers: int = 4 # Sampled answers to each of them
    eval_batch_size: int = None # Pictures in one batch of the evaluation (tiny 125, pointing 100, zoom 50; gpu
    #   8)
    eval_steps: int = 0 # Steps between looks at the held-out pictures during the run (eval/reward in
    #   run_log.csv, as they read); 0: none
    warm_steps: int = None # Supervised steps that give an untrained twin its start (counting 280, vqa 400,
    #   pointing 180, zoom 450)
    logging_steps: int = 5 # Steps between rows of run_log.csv
    save_steps: int = 40 # Steps between checkpoints; 0 keeps none
    keep_completions: bool = False # Every answer of the run with its reward as a row of completions.jsonl
    report_to: str = "none" # none, tensorboard, wandb or trackio
    hub_model_id: str = None # Repository that the result is pushed to; the token is read from the environment
    resume: str = "" # true: go on from the newest checkpoint in output_dir; or a checkpoint's directory

    aliases: ClassVar[dict] = {"learning_rate": "lr", "num_train_epochs": "num_epochs", "r": "lora_r",
                               "alpha": "lora_alpha", "dropout": "lora_dropout", "reward_function": "reward",
                               "per_device_train_batch_size": "batch_size",
                               "attn_implementation": "attention", "optimizer": "optim",
                               "warm_up_steps": "warmup_steps"}
    # Another name whose values are translated too: mask_truncated_completions=true means when_cut=masked. It
    # is TRL's and DAPO's name for leaving answers out of the loss that were cut at the token limit.
    stand_ins: ClassVar[dict] = {
        "mask_truncated_completions": ("when_cut", {"true": "masked", "false": "paid"})}
    # These take a word or a number, which a file may write as a number.
    texts_or_numbers: ClassVar[tuple] = ("when_cut",)
    # The word none is a value of these, although their default is None, which a preset fills in.
    with_word_none: ClassVar[tuple] = ("scale_rewards",)
    presets: ClassVar[dict] = presets

    def filled_in(self):
        "Return the values for settings that are None, by `size` and `task`, or as a given adapter has them"
        self.must_be("task", by_task) # raises SettingsError for an unknown task
        of_adapter = settings_of_adapter(self.adapter) # {} without one
        # This one has a default, and is never None: a value that differs from it was chosen.
        if self.lora_dropout == GRPOSettings.lora_dropout:
            self.lora_dropout = of_adapter.get("lora_dropout", self.lora_dropout)
        # `|`: where several have a value, the last one's is taken
        values = presets[self.size] | by_task[self.task][self.size] | of_adapter
        # num_epochs that somebody has set wins over a preset's max_steps; -1: by num_epochs
        is_by_epochs = self.num_epochs is not None and self.max_steps is None
        return values | {"max_steps": -1} if is_by_epochs else values

    @property
    def processes(self) -> int:
        "The number of processes of this run, which torchrun and accelerate put into WORLD_SIZE"
        return int(os.environ.get("WORLD_SIZE", 1))

    @property
    def prompts_per_step(self) -> int:
        "The number of different prompts in one optimizer step, over all processes"
        answers = answers_a_step(self.batch_size, self.gradient_accumulation_steps, self.processes)
        return answers // self.num_generations

    def rules(self):
        "Yield (is broken, message) for each rule that the settings of a run must keep"
        yield from self._range_rules()
        yield from self._batch_rules()
        yield from self._exclusion_rules()
        yield from self._name_rules()
        yield from self._system_rules()
        yield from self._file_rules()

    def _range_rules(self):
        "Yield (is wrong, message) for each number that must lie in a range, whether it does or not"
        positive = ("lr", "num_epochs", "batch_size", "gradient_accumulation_steps", "max_completion_length",
                    "temperature", "lora_r", "lora_alpha", "max_image_size", "epsilon", "num_iterations",
                    "logging_steps", "eval_samples", "eval_answers", "eval_batch_size", "warm_steps")
        for name in positive:
            yield getattr(self, name) <= 0, f"{name} = {getattr(self, name)}: expected more than 0"
        # In these 0 is a value like others (seed), switches something off, or (warmup_steps) starts with the
        # full learning rate.
        not_negative = ("seed", "save_steps", "warmup_steps", "beta", "refill", "eval_steps", "top_k",
                        "weight_decay", "max_grad_norm", "max_looks")
        for name in not_negative:
            yield getattr(self, name) < 0, f"{name} = {getattr(self, name)}: expected 0 or more"
        yield from self._interval_rules()
        yield from self._clip_rules()
        yield from self._vllm_rules()

    def _interval_rules(self):
        "Yield (is wrong, message) for numbers whose range has two ends or a gap"
        yield self.max_steps == 0, "max_steps = 0: expected more than 0, or -1 to go by num_epochs"
        yield not 0 <= self.lora_dropout < 1, f"lora_dropout = {self.lora_dropout}: expected 0 up to 1"
        yield not 0 < self.top_p <= 1, f"top_p = {self.top_p}: expected more than 0, up to 1"
        # None: sampling leaves no token out by min_p
        yield self.min_p is not None and not 0 <= self.min_p <= 1, f"min_p = {self.min_p}: expected 0 to 1"

    def _clip_rules(self):
        """Yield (is wrong, message) for the clip range of the probability ratio

        The ratio: how many times likelier a token is now than when it was sampled."""
        high = self.epsilon_high # None: the range upwards is `epsilon`
        yield high is not None and high <= 0, f"epsilon_high = {high}: expected more than 0"
        # CISPO clips the ratio at epsilon_high, other losses at 1 + epsilon_high. At first every ratio is 1.
        yield self.loss_type == "cispo" and (high is None or high <= 1), (
            f"loss_type = cispo with epsilon_high = {high}: there it is the largest ratio, 5.0 for example; "
            "at 1 or less every token would be held back")

    def _vllm_rules(self):
        "Yield (is wrong, message) for the numbers of vLLM, which generates the answers if use_vllm is set"
        share = self.vllm_gpu_memory_utilization
        yield not 0 < share <= 1, f"vllm_gpu_memory_utilization = {share}: expected more than 0, up to 1"
        longest = self.vllm_max_model_length # tokens of prompt and answer together
        yield longest is not None and longest <= self.max_completion_length, (
            f"vllm_max_model_length = {longest}: no room for a prompt beside max_completion_length = "
            f"{self.max_completion_length}")
        # What vLLM does with its weights while training computes: 0 keeps, 1 moves to the CPU, 2 drops them.
        level = self.vllm_sleep_level
        yield level not in (0, 1, 2), f"vllm_sleep_level = {level}: expected 0, 1 or 2"

    def _batch_rules(self):
        "Yield (is wrong, message) for the sizes of batches: a step must hold whole groups of answers"
        G = self.num_generations # answers in a group, all to the same prompt
        accumulation = self.gradient_accumulation_steps
        yield G < 2, f"num_generations = {G}: a group needs at least 2 answers"
        # the message if the answers of a step are no multiple of G, else an empty text
        answers = answers_a_step(self.batch_size, accumulation, self.processes)
        problem = whole_groups_problem(answers, G, "batch_size × gradient_accumulation_steps × processes")
        yield bool(problem), problem
        # `refill` replaces groups within a process, which must then hold whole ones; without it a group may
        # be spread over processes.
        answers_of_process = answers_a_step(self.batch_size, accumulation)
        product = "refill: batch_size × gradient_accumulation_steps of one process"
        refill_problem = whole_groups_problem(answers_of_process, G, product)
        yield bool(self.refill and refill_problem), refill_problem
        yield from self._checkpoint_rules() # no checkpoint within a batch

    def _checkpoint_rules(self):
        "Yield (is wrong, message) for `save_steps`: a checkpoint must lie between batches"
        # TRL takes num_iterations steps on one batch of answers, which a checkpoint does not hold.
        is_valid = self.num_iterations > 0 # another rule refuses other numbers; 0 would divide by zero below
        splits_a_batch = is_valid and self.save_steps % self.num_iterations != 0
        yield splits_a_batch, (
            f"save_steps = {self.save_steps}: a checkpoint between the {self.num_iterations} passes over a "
            "batch cannot be resumed exactly; a multiple of num_iterations was expected")

    def _exclusion_rules(self):
        "Yield (is wrong, message) for settings that exclude one another, or cannot work on this machine"
        yield self.use_4bit and not self.use_lora, (
            "use_4bit with use_lora false: 4-bit weights cannot be trained themselves")
        yield self.use_4bit and self.model.startswith("tiny-"), (
            "use_4bit with a tiny twin: nothing to be saved")
        yield bool(self.adapter) and not self.use_lora, (
            "adapter with use_lora false: there is an adapter but it may not train")
        for name, value in settings_of_adapter(self.adapter).items():
            # It trains as it was made; another number here would only be written down as if it had trained.
            yield getattr(self, name) != value, (
                f"{name} = {getattr(self, name)!r}: the adapter that goes on training has {value!r}, and "
                f"keeps it; leave {name} out, or adapter, to train a new one")
        yield from self._tool_rules()
        # find_spec looks for vLLM without importing it, which would take seconds.
        missing = self.use_vllm and not importlib.util.find_spec("vllm")
        yield missing, "use_vllm: vLLM is not installed (pip install 'vlrlbook[gpu]')"

    def _tool_rules(self):
        "Yield (is wrong, message) for the zoom tool, which the model may call while it answers"
        has_tool = self.max_looks > 0
        yield has_tool and self.task != "zoom", (
            f"max_looks = {self.max_looks} with task = {self.task}: the tool belongs to task zoom")
        # TRL 1.16 hands a tool's pictures on to vLLM, but vlrlbook has no test of that.
        yield has_tool and self.use_vllm, (
            "use_vllm with max_looks: pictures that a tool gives are not tested there")
        # TRL's loop of tool calls cannot give pictures to these two families (why: vlrlbook/zoom_turns.py).
        # Their tiny models are known by name; real ones are refused when they are loaded.
        unable = self.model in ("tiny-gemma3", "tiny-aria")
        yield has_tool and unable, (
            f"max_looks with model = {self.model}: TRL 1.16 hands a tool's picture to Qwen's families only")

    def _name_rules(self):
        "Yield (is wrong, message) for settings that take one of a few words, or (`when_cut`) a number"
        for name, allowed in _allowed_words.items(): # such as vllm_mode → [colocate, server]
            word = getattr(self, name)
            suggestion = nearest(word, allowed) # ": did you mean …?", or a list of all
            yield word not in allowed, f"{name} = {word!r}{suggestion}"
        if self.when_cut not in ("paid", "masked"):
            # It is a text also where it stands for a number, the reward of an answer cut at the token limit.
            message = f"when_cut = {self.when_cut!r}: expected paid, masked or a number"
            yield not is_number(self.when_cut), message

    def _system_rules(self):
        "Yield (is wrong, message) for the text of the system turn, which stands before every question"
        prompt = self.system_prompt
        yield prompt is not None and not prompt.strip(), "system_prompt is empty: expected a text, or none"
        # `<image>` would be replaced by a picture, and the marks of the chat template would end the turn.
        for mark in ("<image>", "<|im_start|>", "<|im_end|>"):
            yield prompt is not None and mark in prompt, f"system_prompt holds {mark}: expected plain text"

    def _file_rules(self):
        "Yield (is wrong, message) for files and folders that must exist before anything is loaded"
        for name in ("data", "adapter"): # an empty text is a variable of the shell that was not set
            yield getattr(self, name) == "", f"{name} is empty: expected a path, or none"
        if self.image_dir:
            yield not Path(self.image_dir).is_dir(), f"image_dir = {self.image_dir!r}: no such directory"
        if self.data:
            data = Path(self.data)
            # a folder into which a counting ZIP was unpacked; a file rows.jsonl is written when that is done
            is_unpacked_zip = (data / "rows.jsonl").is_file()
            yield not (data.is_file() or is_unpacked_zip), f"data = {self.data!r}: no such file"
        if self.adapter:
            has_config = (Path(self.adapter) / "adapter_config.json").exists()
            yield not has_config, f"adapter = {self.adapter!r}: no adapter_config.json there"
        # trained models in the reward, such as ("reward_model", "runs/judge/model")
        for kind, folder in trained_rewards(self.reward):
            problem = untrained_reward(kind, folder) # a message, or None
            yield bool(problem), f"reward = {self.reward!r}, {kind}:{folder}: {problem}"


def settings_of_run(
    folder: str | Path | None, # of a run, or the name of a model; None: there is none
) -> dict: # name → value; empty where the folder holds none
    """Return the settings of the run that made a folder, from the file that it wrote beside its model

    SettingsError where that file is damaged."""
    path = Path(folder or "", "training_args.json") # every training of chapter 05 writes it
    if not folder or not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error: # no JSON, or no UTF-8
        raise SettingsError(f"{path}: cannot be read ({str(error)[:200]})") from error
    settings = content.get("settings") if isinstance(content, dict) else None
    return settings if isinstance(settings, dict) else {} # another program's file of that name holds none


def settings_of_adapter(
    folder: str | None, # directory of a LoRA adapter; None: there is none
) -> dict: # name → value; empty where the files do not tell
    "Return the settings that the files of an adapter decide: lora_r, lora_alpha, lora_dropout, lora_vision"
    if not folder:
        return {}
    config = _read_object(Path(folder) / "adapter_config.json") # {} if there is none; a rule then says so
    settings: dict = {}
    for name, ours in (("r", "lora_r"), ("lora_alpha", "lora_alpha"), ("lora_dropout", "lora_dropout")):
        value = config.get(name)
        # An alpha of 0, or none, is refused when the adapter is loaded, with the reason.
        is_told = isinstance(value, (int, float)) and (value > 0 or name == "lora_dropout")
        if is_told:
            settings[ours] = value
    layers = _layers_of_adapter(Path(folder) / "adapter_model.safetensors")
    if layers: # the tower is called `visual` in Qwen's models, `vision_tower` in Gemma 3 and Aria
        tower = re.compile(r"(^|\.)(visual|vision_tower)\.")
        settings["lora_vision"] = any(tower.search(name) for name in layers)
    return settings


def _layers_of_adapter(path):
    "Return the names of the weights in an adapter's file; empty if it is missing or cannot be read"
    # Not target_modules of its config: PEFT shortens them to endings, which both towers may have.
    try:
        names, _ = read_header(path)
    except (OSError, ValueError): # loading it will say what is wrong
        return []
    return [name for name in names if name != "__metadata__"]


# Files by which the folder of a trained reward is known: its kind, the name before the colon -> a folder
# with any of these files can be used. The last three of `aloha` were written by an older script, see chapter
# 04.
_files_of_trained_reward = {
    "reward_model": ("reward_model.json",),
    "aloha": ("classifier.json", "classifier.safetensors", "classifier.pt", "classifier.bin"),
    "judge": (),  # no folder: a file of settings, which says where its model is
}


# What stands behind a + that begins a term: perhaps a weight and `*`, then a name, perhaps with a colon. No
# reward ends as a judge's file does: "judge.yaml" behind a + is the rest of the file's name.
_begins_a_term = re.compile(r"\s*([^*:/]*\*\s*)?(?![\w.-]*\.ya?ml\s*$)[A-Za-z_][\w.]*\s*(:|$)")


def reward_terms(
    reward: str, # such as "0.5*reward_model:runs/judge/model + counting"
) -> list: # of (weight as a text, name): ("0.5", "reward_model:runs/judge/model"), ("", "counting")
    """Return the terms of a reward, which is a weighted sum of names or a single name

    The path of a trained model may hold + and * itself: "reward_model:runs/c++/model" is one term."""
    terms: list = []
    for piece in reward.split("+"):
        # The + belongs to a path if the term before it is a trained reward, whose name ends with a path, and
        # what follows does not look like a term.
        if terms and _is_trained(terms[-1][1]) and not _begins_a_term.match(piece):
            weight, name = terms.pop()
            terms.append((weight, f"{name}+{piece}"))
        else:
            terms.append(_weight_and_name(piece))
    return [(weight.strip(), name.strip()) for weight, name in terms]


def _is_trained(name):
    "Return whether a name in a reward names a trained model or a judge, such as `aloha:runs/x/classifier`"
    kind, colon, _path = name.strip().partition(":")
    return bool(colon) and kind in _files_of_trained_reward # reward_model, aloha and judge


def _weight_and_name(term):
    """Return what stands before the last * of a term, and behind it: "2*counting" → ("2", "counting")

    A * behind the colon of a trained reward belongs to its path."""
    before_path, colon, path = term.partition(":")
    weight, _star, kind = before_path.rpartition("*") # kind: such as reward_model, if the reward is trained
    if _is_trained(kind + colon):
        return weight, f"{kind}:{path}"
    weight, _star, name = term.rpartition("*")
    return weight, name


def trained_rewards(
    reward: str | None, # such as "0.5*reward_model:runs/judge/model + 0.5*counting"
) -> list: # of (kind, folder), in the order in which they stand there
    """Return the trained models that a reward names: ("reward_model", "runs/judge/model") and so on

    A judge is named by a file of settings, which then stands in the folder's place."""
    named = []
    for _weight, name in reward_terms(reward or ""): # None names none
        # "reward_model:FOLDER" or "module:function": the table of trained rewards tells them apart.
        if _is_trained(name):
            kind, _colon, folder = name.partition(":")
            named.append((kind, folder))
    return named


def reward_without_paths(
    reward: str, # as in `trained_rewards`; None is returned as it is, since it names no trained model
) -> str:
    """Return a reward as it may be shown to others: paths of trained models become names of their runs

    "reward_model:/data/judge/model" becomes "reward_model:judge"."""
    longest_first = sorted(trained_rewards(reward), key=lambda named: len(named[1]), reverse=True)
    # kind: the name before the colon, such as reward_model. One path may be the beginning of another.
    for kind, folder in longest_first:
        path = Path(folder)
        # Every run keeps its model in a subfolder `model` or `classifier`; the folder above names the run.
        run_name = path.parent.name if path.name in ("model", "classifier") else path.name
        # `run_name` is empty if the reward names a folder `model` without the one above it
        shown = f"{kind}:{run_name or path.name}"
        reward = reward.replace(f"{kind}:{folder}", shown)
    return reward


def untrained_reward(
    chapter: str, # kind of the reward, the name before the colon: reward_model, aloha or judge
    folder: str, # what stands behind the colon of a reward such as reward_model:folder; of a judge its file
) -> str | None: # a message
    """Return why a folder cannot be used as a trained reward, or None if it can

    If the folder of a run is named, the message suggests its model's folder. The model is not loaded."""
    if chapter == "judge":
        return _no_judge(Path(folder)) # a message, or None
    path = Path(folder)
    # An empty text is never accepted: as a path it would be the current folder.
    if folder and _holds_model(path, chapter):
        return None
    # If the folder is that of a whole run: the folders in which the run may have left its model.
    with_model = [place for place in _model_places(path) if _holds_model(place, chapter)]
    if with_model:
        suggestion = f"{chapter}:{with_model[0]}"
        return f"the model lies in a folder of that run: did you mean {suggestion!r}?"
    if not path.is_dir():
        return "there is no such folder"
    # the first file in the table is the one that the chapter itself writes
    expected_file, number = _files_of_trained_reward[chapter][0], _chapter_of[chapter]
    return f"no {expected_file} there, so this is no model that chapter {number} has trained"


def _holds_model(path, kind):
    """Return True if a folder holds one of the files by which a trained reward is known

    `kind` is reward_model (known by reward_model.json) or aloha (classifier.json and three others)."""
    return any((path / name).is_file() for name in _files_of_trained_reward[kind])


def _model_places(run):
    "List the folders in which a run, by its output folder, may have left a trained reward, as paths"
    places = [run / "model", run / "classifier"]
    results = _read_object(run / "results.json") # {} if there is no such file
    for key in ("model", "ckpt_dir"): # where chapter 03 and chapter 04 write the model's folder
        if isinstance(results.get(key), str):
            places.append(Path(results[key]))
    return places


def _no_judge(file):
    "Return why a file (a `Path`) cannot hold a judge's settings, or None; the file is not opened"
    if file.suffix not in (".yaml", ".yml", ".json"):
        return "expected a .yaml or .json file of a judge's settings"
    if file.is_file():
        return None
    similar_files = sorted(str(file.with_name(p.name)) for p in file.parent.glob(f"*{file.suffix}"))
    return "there is no such file" + (nearest(str(file), similar_files) if similar_files else "")


_chapter_of = {"reward_model": "03", "aloha": "04"} # reward -> number of the chapter that trains it


def is_number(
    text: str, # of a setting that is a word or a number
) -> bool:
    "Return True if a text is a finite number"
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False


def whole_groups(
    settings: GRPOSettings, # a checked object
) -> tuple: # of two numbers
    """Return (answers in a forward pass, forward passes in a step), with a whole group in a pass if possible

    The step holds as many answers as before. With `shared_prompt` the G answers of a group share the memory
    of their prompt, so a pass over all of them costs little more memory than one answer."""
    batch_size, accumulation = settings.batch_size, settings.gradient_accumulation_steps
    G = settings.num_generations
    answers = answers_a_step(batch_size, accumulation) # of one process
    pass_is_whole = batch_size % G == 0
    groups_are_spread = answers % G != 0 # over several processes
    if not settings.shared_prompt or pass_is_whole or groups_are_spread:
        return batch_size, accumulation
    return G, answers // G


def service_settings(
    training_config: dict, # by the names of the counting system, which vlrlbook rebuilds
    lora_config: dict = None, # r, lora_alpha or alpha, lora_dropout or dropout
    **more, # settings that the caller decides, such as data and output_dir
) -> GRPOSettings: # checked
    """Make settings of the two JSON objects that a client of the counting system sends to start a training

    Names may be aliases, such as learning_rate for lr. SettingsError for an unknown name."""
    given = {**training_config, **(lora_config or {}), **more}
    return read_settings(GRPOSettings, given, where="training_config")


def save_settings(
    settings: GRPOSettings, # a checked object
    path: str | Path, # a .yaml file
):
    "Write settings to a YAML file for `accelerate launch -m vlrlbook.grpo --config`"
    import yaml
    # None is left out: when the file is read, a preset or the default fills it in again.
    values = {name: value for name, value in asdict(settings).items() if value is not None}
    write_whole(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def load_settings(
    path: str | Path, # a .yaml or .json file
    **more, # settings that win over the file's
) -> GRPOSettings: # checked
    "Read settings from a file and check them; SettingsError names everything that is wrong"
    wins = {_canonical_name(GRPOSettings, name, value)[0] for name, value in more.items()}
    # The file may have one of them under another name, such as learning_rate for lr.
    given = {}
    for name, value in names_and_values(path).items():
        if _canonical_name(GRPOSettings, name, value)[0] not in wins: given[name] = value
    return read_settings(GRPOSettings, given | more, where=Path(path).name)


def names_and_values(
    path: str | Path, # a .yaml or .json file
) -> dict: # name → value, not checked
    """Read a file of settings as a dict

    SettingsError if it cannot be read, holds no names and values, or names a setting twice."""
    import yaml
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        # Most JSON is YAML too, but not with tabs before a line.
        content = _strict_json(text) if path.suffix.lower() == ".json" else strict_yaml(text)
    except (OSError, ValueError, yaml.YAMLError) as error: # ValueError: JSON, and bytes that are no UTF-8
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise SettingsError(f"{path.name}: cannot be read ({reason})") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path.name}: expected names and values, found {type(content).__name__}")
    return content


def _strict_json(text):
    "Parse JSON; ValueError if a name stands twice in an object, of which `json` would keep the last"
    def as_dict(pairs): # of one object: (name, value), in the order of the text
        names = [name for name, _ in pairs]
        for name in names:
            if names.count(name) > 1: raise ValueError(f"the name {name!r} stands twice")
        return dict(pairs)
    return json.loads(text, object_pairs_hook=as_dict)


def strict_yaml(
    text: str, # a YAML document
    loader=None, # PyYAML's SafeLoader, or a subclass that reads numbers and texts in another way; None: it
): # its content, such as a dict
    "Parse YAML; yaml.YAMLError, with line and column, if it is none or if a key stands twice in a mapping"
    import yaml
    return yaml.load(text, _strict_loader(loader or yaml.SafeLoader))


@cache
def _strict_loader(loader):
    "A subclass of a loader of PyYAML that raises YAMLError for a key that stands twice in a mapping"
    import yaml
    class StrictLoader(loader): # type: ignore[valid-type,misc]  # mypy knows no base that is an argument
        def construct_mapping(self, node, deep=False):
            "Make a dict of a mapping's node; YAMLError if a key stands twice"
            # Overrides SafeConstructor.construct_mapping (read in PyYAML 6.0), which keeps the last of two
            # equal keys. `node.value`: a list of (key node, value node). The key <<, a merge, is left to it.
            keys = set()
            for key_node, _value in node.value:
                if key_node.tag == _merge_tag: continue
                # As text, so that 1 and "1" are one key, too, and a key that is a list can be compared;
                # `super` refuses such a key below.
                key = str(self.construct_object(key_node))
                # `start_mark` prints as "  in FILE, line N, column N", with the spaces in front.
                if key in keys: raise yaml.YAMLError(f"the key {key!r} stands twice{key_node.start_mark}")
                keys.add(key)
            return super().construct_mapping(node, deep)
    return StrictLoader


# PyYAML's mark of the key <<, which copies the keys of another mapping into this one.
_merge_tag = "tag:yaml.org,2002:merge"

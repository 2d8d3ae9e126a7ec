"""Settings that check themselves: read from a command line, a notebook or a form, completed by presets,
refused with all that is wrong with them in one message. And `GRPOSettings`, which the page of chapter 05, the
command and the service share.

Written by hand, not exported from a notebook. No torch: a server and `--help` must start without it."""
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
from pathlib import Path
from typing import ClassVar

from .folders import write_whole

__all__ = ["SettingsError", "nearest", "as_type", "finite_number", "read_settings", "flag_names",
           "named_options", "names_since", "settings_help", "size_by_model", "Settings", "answers_a_step",
           "whole_groups_problem", "largest_batch", "presets", "by_task", "GRPOSettings", "trained_rewards",
           "reward_without_paths", "untrained_reward", "whole_groups", "service_settings", "save_settings",
           "names_and_values", "load_settings"]


class SettingsError(ValueError):
    "A setting that does not exist, has the wrong type, or cannot go with another"


def nearest(
    name: str, # what was written
    known: list, # what there is
) -> str: # ": did you mean …?" or the list of all
    "The end of an error message: the nearest known name, or all of them"
    # Below difflib's own 0.6: a guess too many is better than the list of all names.
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close and len(name) > 2:
        close = [k for k in known if name in k] # "grpo" for "05_grpo" is too far for difflib
    if close:
        return f": did you mean {close[0]!r}?"
    return f" (there are: {', '.join(known)})"


# One value

def as_type(
    name: str, # for the message
    value, # what was given: a value of the type, or its text
    kind, # annotation: int, float, bool, str or dict, also `int | None`
): # value of that type
    "`value` as `kind`: \"5e-5\" becomes a float, \"true\" a bool; 2.5 is no int"
    kinds = typing.get_args(kind) or (kind,)
    takes_none = type(None) in kinds
    if value is None or (takes_none and isinstance(value, str) and value.lower() == "none"):
        return None # a None that was not asked for is `read_settings`' to refuse: it knows the default
    # In the order of the annotation: `int | float` makes an int of "2".
    for one in kinds:
        if one is not type(None) and _fits(value, one):
            return _converted(value, one)
    wanted = " or ".join(k.__name__ for k in kinds if k is not type(None))
    raise SettingsError(f"{name} = {value!r}: expected {wanted}")


def _fits(value, kind):
    "Whether `value`, or what its text says, is of the type `kind` and of no other meaning"
    if kind is bool:
        return isinstance(value, bool) or str(value).strip().lower() in ("true", "false")
    if kind is str:
        return isinstance(value, (str, bool)) # papermill makes a bool of the text "true"
    if kind in (dict, list):
        return isinstance(value, kind)
    # Python's True is the number 1; as a setting it is a mistake.
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return False
    number = finite_number(value)
    if number is None:
        return False
    return kind is float or number == int(number) # "2.0" is an int, 2.5 is none


def _converted(value, kind):
    "`value` as `kind`, which `_fits` has found to be possible"
    if kind is bool:
        return str(value).strip().lower() == "true"
    if kind is str:
        return value if isinstance(value, str) else str(value).lower()
    if kind in (dict, list):
        return value
    return kind(finite_number(value))


def finite_number(
    text, # a number or its text
) -> float | None: # None for what is no number, and for NaN and infinities
    "`text` as a finite float"
    try:
        number = float(text)
    except ValueError:
        return None
    # float() reads "nan" and "inf" too, and NaN is on neither side of any bound.
    return number if math.isfinite(number) else None


# All values

def read_settings(
    cls: type, # a dataclass; it may have `aliases`, a dict of other names, and `check(self)`
    given: dict, # name → value
    where: str = "settings", # begins each message
): # an instance of `cls`
    "`given` as checked settings; unknown names and wrong types stop at once, all of them in one message"
    known = {f.name: f.default for f in fields(cls)} # name → default
    kinds = typing.get_type_hints(cls)
    aliases = getattr(cls, "aliases", {})
    stand_ins = getattr(cls, "stand_ins", {})
    values, wrong = {}, []
    for written, value in given.items():
        name = aliases.get(written, written)
        if written in stand_ins: # another name that has values of its own: both are translated
            name, meanings = stand_ins[written]
            value = meanings.get(str(value).strip().lower(), value)
        if name not in known:
            wrong.append(_unknown(written, [*known, *aliases, *stand_ins]))
            continue
        if name in values: # under its own name and an alias: neither is better than the other
            wrong.append(f"{name!r} is given twice (as {written!r} too)")
            continue
        # None is a value where the type or the default says so: it leaves the choice to a preset.
        takes_none = known[name] is None or type(None) in typing.get_args(kinds[name])
        if value is None and not takes_none:
            wrong.append(f"{written} = None: expected {kinds[name].__name__}")
            continue
        try:
            values[name] = as_type(written, value, kinds[name])
        except SettingsError as error:
            wrong.append(str(error))
    if wrong:
        raise SettingsError(f"{where}: " + "; ".join(wrong))
    # Only now: rules compare settings with one another, and would complain of a value that was refused above.
    settings = cls(**values)
    if hasattr(settings, "check"):
        settings.check()
    return settings


def _unknown(name, known):
    "What to say of a name that is no setting; never its value, which may be a key"
    if re.search(r"(^|_)(api_?key|key|token|password|secret)$", name.lower()):
        return (f"{name}: a key is never taken from a command line, a page or a file; "
                "set it in the environment (WANDB_API_KEY, HF_TOKEN)")
    return f"there is no {name!r}{nearest(name, known)}"


def flag_names(
    cls: type, # a dataclass of settings
) -> set: # names that may stand on a command line without a value, which then is "true"
    "The settings that are true or false, under all of their names"
    kinds = typing.get_type_hints(cls)
    flags = {f.name for f in fields(cls) if kinds[f.name] is bool}
    others = {other for other, name in getattr(cls, "aliases", {}).items() if name in flags}
    # another name → (name, {its text: value}); one that knows "true" can stand alone, too
    meanings_of = getattr(cls, "stand_ins", {})
    stand_ins = {other for other, (_, meanings) in meanings_of.items() if "true" in meanings}
    return flags | others | stand_ins


def named_options(
    rest: list, # of a command line
    flags: set | frozenset = frozenset(), # names that may stand without a value
) -> dict: # name → text
    "`--name value` and `--name=value`, - and _ meaning the same; anything else is a `SettingsError`"
    # No message repeats a value: it may be a key that somebody has put on the command line.
    options, last = {}, "the start" # `last`: the option before, by which a message says where
    words = list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise SettingsError(f"expected --name value pairs, found a value without a name after {last}")
        last, equals, value = word.partition("=")
        name = last[2:].replace("-", "_").lower()
        if not equals:
            # A negative number begins with one dash only, so it is a value.
            follows = bool(words) and not words[0].startswith("--")
            if follows:
                value = words.pop(0)
            elif name in flags:
                value = "true"
            else:
                raise SettingsError(f"expected --name value pairs, found {last} without a value")
        options[name] = value
    return options


def names_since(
    before, # what was there before the parameters cell: `dict(globals())`, or its names alone as a frozenset
    names: dict, # `globals()` just after it
) -> dict: # name → value
    """Every public name that the parameters cell, or papermill after it, has set

    With a dict as `before` also those that were there and were set anew."""
    # A page that has lessons before its parameters has names of its own by then. A misspelled `-p mask 1`
    # sets one of them anew: it must be refused like any other name that is no setting.
    found = {}
    for name, value in names.items():
        if name.startswith("_") or name == "before":
            continue
        if name in before and (not isinstance(before, dict) or before[name] is value):
            continue
        found[name] = value
    return found


def settings_help(
    cls: type, # a dataclass whose source can be read
) -> dict: # field name → the comment behind it
    "Help text of each field of `cls`, from the comments in its source"
    field_line = re.compile(r"^\s+(\w+): [^#]*?#\s*(.+?)\s*$")
    # A comment that is too long for its line goes on below it, three blanks behind the mark.
    more_of_it = re.compile(r"^\s+# {3}(\S.*?)\s*$")
    texts, name = {}, None
    for line in _source(cls).splitlines():
        if name and (more := more_of_it.match(line)):
            texts[name] += f" {more[1]}"
        elif field := field_line.match(line):
            name = field[1]
            texts[name] = field[2]
    return texts


def _source(cls):
    "Source of `cls`; for a class typed into a notebook, the cell that holds its methods"
    try:
        return inspect.getsource(cls)
    except OSError:
        pass # a class of a notebook has no file; IPython keeps its cells in linecache
    for member in vars(cls).values():
        function = member.fget if isinstance(member, property) else member
        code = getattr(function, "__code__", None)
        text = "".join(linecache.getlines(code.co_filename)) if code else ""
        # A dataclass has methods of its own making too, whose code lies in no file.
        if f"class {cls.__name__}" in text:
            return text
    return ""


# A class of settings

# The twins' hidden states are 128 wide, those of the smallest real model that is supported 1536.
WIDEST_TWIN = 512


def size_by_model(
    model: str | None, # hub id, directory or the name of a twin
) -> str: # tiny or gpu
    "The preset that fits a model: tiny for a twin, by its name or saved in a directory, gpu for any other"
    if not model or model.startswith("tiny-"):
        return "tiny"
    folder = Path(model)
    for name, base in (("adapter_config.json", "base_model_name_or_path"), ("reward_model.json", "base")):
        # An adapter, or a head above one, is as large as what it stands on.
        below = _read_object(folder / name).get(base)
        if below and below != model:
            return size_by_model(below)
    config = _read_object(folder / "config.json")
    width = (config.get("text_config") or config).get("hidden_size")
    return "tiny" if isinstance(width, int) and width <= WIDEST_TWIN else "gpu"


def _read_object(path):
    "A JSON object; an empty one where there is no such file or nothing in it that can be read"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class Settings:
    """Base of a dataclass of settings with a preset for each `size`

    It fills in what is None and refuses what cannot be."""
    # A subclass gives `presets` and `rules`, and may give `filled_in` and `wanted_model`. `read_settings`
    # calls `check`, and reads two more of its attributes: `aliases` (another name → name) and `stand_ins`
    # (another name → (name, {its text in lower case: value})).
    presets: ClassVar[dict] = {} # size → {name: value where None was given}
    if typing.TYPE_CHECKING: # fields of every subclass
        size: str
        model: str

    def check(self):
        "Fill in what was not given, then raise one SettingsError with every rule that is broken"
        if self.size is None:
            self.size = size_by_model(self.wanted_model())
            if self.size == "gpu":
                _say_size(self.wanted_model())
        self.must_be("size", self.presets) # at once: without a known size nothing can be filled in
        for name, value in self.filled_in().items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        # All of them in one message: a run on a cluster should not be started once for each mistake.
        problems = [text for is_broken, text in self.rules() if is_broken]
        if problems:
            raise SettingsError("; ".join(problems))

    def wanted_model(self) -> str | None:
        "The model that was written, before presets fill in one"
        return self.model

    def filled_in(self) -> dict: # name → value
        "What stands where nothing was given"
        return self.presets[self.size]

    def rules(self): # yields (whether it is broken, what to say then)
        "The rules of this class; `size` is known and everything is filled in"
        return []

    def must_be(self,
        name: str, # of a field
        known, # the values that it may have
    ):
        "Raise SettingsError, with the nearest value, where a field has none of the known ones"
        value = getattr(self, name)
        if value not in known:
            raise SettingsError(f"{name} = {value!r}{nearest(str(value), list(known))}")


def _say_size(model):
    "Say that a model has chosen the preset, in the first process of a run only"
    # torchrun and accelerate number processes in RANK
    if os.environ.get("RANK", "0") == "0":
        print(f"size = gpu, since model = {model!r} is no tiny twin; write size to choose it yourself",
              file=sys.stderr)


# Batches: a group is the G answers to one prompt, and a step takes whole groups only

def answers_a_step(
    batch_size: int, # answers in one forward pass of a device
    accumulation: int, # forward passes before an optimizer step
    processes: int = 1, # of the run
) -> int:
    "Answers in one optimizer step, all processes together"
    return batch_size * accumulation * processes


def whole_groups_problem(
    answers: int, # of a step
    G: int, # num_generations
    product: str, # how the message calls what makes them up, such as "batch_size × processes"
) -> str: # empty where a step holds whole groups
    "What is wrong with a step that cuts a group in two, with the nearest number that does not"
    if G < 1 or answers % G == 0:
        return ""
    closest = max(1, round(answers / G)) * G # at least one group
    return f"{product} = {answers} answers a step, no multiple of num_generations = {G}; nearest: {closest}"


def largest_batch(
    rows: int, # prompts to train on
    G: int, # num_generations
    accumulation: int, # forward passes before an optimizer step
    processes: int = 1, # of the run
    whole_on_each: bool = False, # each process must hold whole groups of its own, as refilling wants
) -> int | None: # None where even the smallest step is too large
    "The largest batch_size whose step takes whole groups and no more prompts than there are"
    passes = accumulation * processes
    # From above: the first that fits is the largest. A step must not want more prompts than there are rows.
    for batch_size in range(rows * G // passes, 0, -1):
        fits = batch_size * passes % G == 0
        if whole_on_each:
            fits = fits and batch_size * accumulation % G == 0
        if fits:
            return batch_size
    return None


# GRPO

# size → what stands where nothing was given, whatever the task
presets = {
    # a twin of a million parameters, whose whole run takes minutes on a CPU
    "tiny": dict(
        model="tiny-qwen2_5_vl", lr=5e-5, num_epochs=1, max_steps=200, batch_size=64,
        gradient_accumulation_steps=1, temperature=1.0, refill=0, lora_r=16, lora_alpha=512, max_looks=0,
        lora_vision=False, use_4bit=False, max_image_size=112,
        eval_samples=500, eval_batch_size=125),
    # the counting system's own defaults
    "gpu": dict(
        model="Qwen/Qwen2.5-VL-3B-Instruct", lr=5e-5, num_epochs=50, max_steps=-1, batch_size=1,
        gradient_accumulation_steps=8, temperature=0.2, refill=0, lora_r=64, lora_alpha=128, max_looks=0,
        lora_vision=False, use_4bit=True, max_image_size=512,
        eval_samples=200, eval_batch_size=8)}

# task → size → what this task sets otherwise, or alone. A thought and an answer in tags are longer than a
# sentence, and take the twin longer to learn.
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
        # A first guess that no finished run stands behind yet (nbs/logs/05_pointing_search.csv): small
        # pictures, of 2 x 2 image tokens, since the long answers already take most of a run's time.
        "tiny": dict(reward="pointing", max_completion_length=18, warm_steps=240, max_steps=100,
                     lora_vision=True, max_image_size=56, eval_samples=200, eval_batch_size=100),
        "gpu": dict(reward="0.9*pointing + 0.1*box_format", max_completion_length=128, warm_steps=400)},
    "zoom": {
        # A first guess that no finished run stands behind yet. A call, the crop's tokens and the answer are
        # counted together as one answer's length.
        "tiny": dict(reward="zoom", max_completion_length=96, warm_steps=200, max_steps=150, max_looks=1,
                     lora_alpha=1024, lora_vision=True, max_image_size=56, eval_samples=200, eval_batch_size=50),
        "gpu": dict(reward="zoom", max_completion_length=1024, warm_steps=400, max_looks=1)}}


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
    lr: float = None # Learning rate of the policy (5e-5)
    num_epochs: int = None # Passes over the data (gpu 50); max_steps wins
    max_steps: int = None # Optimizer steps (tiny: counting 400, vqa 200, pointing 100, zoom 150)
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
    when_cut: str = "paid" # What an answer cut at the token limit earns: paid (as it reads), masked (it does
    #   not count), or a number
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
    scale_rewards: str = "group" # By whose spread advantages are divided: group, batch, or none (Dr. GRPO)
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
    max_image_size: int = None # Pictures have at most this many pixels squared (tiny 112, pointing, zoom 56;
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
    eval_steps: int = 0 # Steps between looks at the held-out pictures during the run (held_out in
    #   run_log.csv); 0 looks before and after
    warm_steps: int = None # Supervised steps that give an untrained twin its start (counting 280, vqa 400,
    #   pointing 240, zoom 200)
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
    # TRL's and DAPO's word for leaving out what was cut
    stand_ins: ClassVar[dict] = {
        "mask_truncated_completions": ("when_cut", {"true": "masked", "false": "paid"})}
    presets: ClassVar[dict] = presets

    def filled_in(self):
        "What `size` and `task` decide"
        self.must_be("task", by_task)
        # the task's word counts more
        return presets[self.size] | by_task[self.task][self.size]

    @property
    def processes(self) -> int:
        "Processes of this run, as torchrun and accelerate tell each of them"
        return int(os.environ.get("WORLD_SIZE", 1))

    @property
    def prompts_per_step(self) -> int:
        "Different prompts in one optimizer step, all processes together"
        answers = answers_a_step(self.batch_size, self.gradient_accumulation_steps, self.processes)
        return answers // self.num_generations

    def rules(self):
        "Ranges, then batches, then what excludes something else, then names and files"
        yield from self._range_rules()
        yield from self._batch_rules()
        yield from self._exclusion_rules()
        yield from self._name_rules()
        yield from self._system_rules()
        yield from self._file_rules()

    def _range_rules(self):
        "Numbers on their own"
        positive = ("lr", "num_epochs", "batch_size", "gradient_accumulation_steps", "max_completion_length",
                    "temperature", "lora_r", "lora_alpha", "max_image_size", "epsilon", "num_iterations",
                    "logging_steps", "eval_samples", "eval_answers", "eval_batch_size", "warm_steps")
        for name in positive:
            yield getattr(self, name) <= 0, f"{name} = {getattr(self, name)}: expected more than 0"
        # In these 0 means something: it switches off, or starts at once.
        not_negative = ("seed", "save_steps", "warmup_steps", "beta", "refill", "eval_steps", "top_k",
                        "weight_decay", "max_grad_norm", "max_looks")
        for name in not_negative:
            yield getattr(self, name) < 0, f"{name} = {getattr(self, name)}: expected 0 or more"
        yield self.max_steps == 0, "max_steps = 0: expected more than 0, or -1 to go by num_epochs"
        yield not 0 <= self.lora_dropout < 1, f"lora_dropout = {self.lora_dropout}: expected 0 up to 1"
        yield not 0 < self.top_p <= 1, f"top_p = {self.top_p}: expected more than 0, up to 1"
        yield self.min_p is not None and not 0 <= self.min_p <= 1, f"min_p = {self.min_p}: expected 0 to 1"
        # Above 1 + epsilon_high the ratio is clipped; CISPO clips it at epsilon_high itself.
        high = self.epsilon_high
        yield high is not None and high <= 0, f"epsilon_high = {high}: expected more than 0"
        yield self.loss_type == "cispo" and (high is None or high <= 1), (
            f"loss_type = cispo with epsilon_high = {high}: there it is the largest ratio, 5.0 for example; "
            "at 1 or less every token would be held back")
        share = self.vllm_gpu_memory_utilization
        yield not 0 < share <= 1, f"vllm_gpu_memory_utilization = {share}: expected more than 0, up to 1"
        longest, level = self.vllm_max_model_length, self.vllm_sleep_level
        yield longest is not None and longest <= self.max_completion_length, (
            f"vllm_max_model_length = {longest}: no room for a prompt beside max_completion_length = "
            f"{self.max_completion_length}")
        yield level not in (0, 1, 2), f"vllm_sleep_level = {level}: expected 0, 1 or 2"

    def _batch_rules(self):
        "Steps of whole groups, and checkpoints between batches"
        G, accumulation = self.num_generations, self.gradient_accumulation_steps
        yield G < 2, f"num_generations = {G}: a group needs at least 2 answers"
        of_a_process = answers_a_step(self.batch_size, accumulation)
        answers = answers_a_step(self.batch_size, accumulation, self.processes)
        cut = whole_groups_problem(answers, G, "batch_size × gradient_accumulation_steps × processes")
        yield bool(cut), cut
        # new prompts take the place of silent groups on each process by itself
        product = "refill: batch_size × gradient_accumulation_steps of one process"
        cut = whole_groups_problem(of_a_process, G, product)
        yield bool(self.refill and cut), cut
        # TRL keeps a batch of answers for num_iterations steps, and no checkpoint holds that batch.
        between = self.num_iterations > 0 and self.save_steps % self.num_iterations != 0
        yield between, (f"save_steps = {self.save_steps}: a checkpoint between the {self.num_iterations} "
                        "passes over a batch cannot be resumed exactly; a multiple of num_iterations was "
                        "expected")

    def _exclusion_rules(self):
        "Settings that cannot go together, or not here"
        yield self.use_4bit and not self.use_lora, (
            "use_4bit with use_lora false: 4-bit weights cannot be trained themselves")
        yield self.use_4bit and self.model.startswith("tiny-"), (
            "use_4bit with a tiny twin: nothing to be saved")
        yield bool(self.adapter) and not self.use_lora, (
            "adapter with use_lora false: there is an adapter but it may not train")
        looks = self.max_looks > 0
        yield looks and self.task != "zoom", (
            f"max_looks = {self.max_looks} with task = {self.task}: the tool belongs to task zoom")
        # TRL 1.16 hands a tool's pictures on to vLLM, but how our prompts get there is not tested with them.
        yield looks and self.use_vllm, "use_vllm with max_looks: pictures that a tool gives are not tested there"
        # What of TRL's loop is missing for these two stands in zoom_turns.
        unable = self.model in ("tiny-gemma3", "tiny-aria")
        yield looks and unable, (
            f"max_looks with model = {self.model}: TRL 1.16 hands a tool's picture to Qwen's families only")
        # Looked for and not imported: vLLM takes seconds to import, and this is a check.
        missing = self.use_vllm and not importlib.util.find_spec("vllm")
        yield missing, "use_vllm: vLLM is not installed (pip install 'vlrlbook[gpu]')"

    def _name_rules(self):
        "Words of which there are a few"
        # Words of TRL, or of transformers (`attention`, `report_to`): refused here before a model is loaded.
        known_words = {"loss_type": ["grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo"],
                       "importance_sampling_level": ["token", "sequence"],
                       "scale_rewards": ["group", "batch", "none"],
                       "attention": ["auto", "sdpa", "eager", "flash_attention_2"],
                       "vllm_mode": ["colocate", "server"],
                       "report_to": ["none", "tensorboard", "wandb", "trackio"]}
        for name, known in known_words.items():
            word = getattr(self, name)
            yield word not in known, f"{name} = {word!r}{nearest(word, known)}"
        if self.when_cut not in ("paid", "masked"):
            # a number is what such an answer is paid
            message = f"when_cut = {self.when_cut!r}: expected paid, masked or a number"
            yield not is_number(self.when_cut), message

    def _system_rules(self):
        "What a system turn may hold"
        said = self.system_prompt
        yield said is not None and not said.strip(), "system_prompt is empty: expected a text, or none"
        # A picture stands where its mark is, and marks of the chat template would end the turn.
        for mark in ("<image>", "<|im_start|>", "<|im_end|>"):
            yield said is not None and mark in said, f"system_prompt holds {mark}: expected plain text"

    def _file_rules(self):
        "Files that must be there before anything is loaded"
        if self.image_dir:
            yield not Path(self.image_dir).is_dir(), f"image_dir = {self.image_dir!r}: no such directory"
        if self.data:
            data = Path(self.data)
            # a folder is one that was unpacked from a ZIP before, such as a service's upload
            there = data.is_file() or (data / "rows.jsonl").is_file()
            yield not there, f"data = {self.data!r}: no such file"
        if self.adapter:
            there = (Path(self.adapter) / "adapter_config.json").exists()
            yield not there, f"adapter = {self.adapter!r}: no adapter_config.json there"
        for chapter, folder in trained_rewards(self.reward):
            wrong = untrained_reward(chapter, folder)
            yield bool(wrong), f"reward = {self.reward!r}, {chapter}:{folder}: {wrong}"


# What the folder of a trained model holds that may pay for answers: the chapter's name in a reward -> any of
# these. The last three of the second are the heads of an older script, see chapter 04.
_pays_with = {
    "reward_model": ("reward_model.json",),
    "aloha": ("classifier.json", "classifier.safetensors", "classifier.pt", "classifier.bin"),
    "judge": (),  # no folder: a file of settings, which says where its model is
}


def trained_rewards(
    reward: str | None, # such as "0.5*reward_model:runs/judge/model + 0.5*counting"
) -> list: # of (chapter, folder), in the order in which they stand there
    "The models that a reward names; of a judge its file stands in the folder's place"
    named = []
    for term in (reward or "").split("+"):
        # "0.5*reward_model:DIR": behind the weight, the chapter before the first colon. `module:function` too
        # has a colon, and its module is no key of the table.
        chapter, colon, folder = term.rpartition("*")[2].strip().partition(":")
        if colon and chapter in _pays_with:
            named.append((chapter, folder))
    return named


def reward_without_paths(
    reward: str, # as in `trained_rewards`; None stays None
) -> str: # such as "reward_model:judge_20250102-030405"
    "A reward as it may be shown to others: of a trained model's folder the name alone"
    for chapter, folder in trained_rewards(reward):
        path = Path(folder)
        # a run keeps its model in a folder that is called so in all of them
        named = path.parent.name if path.name in ("model", "classifier") else path.name
        # `named` is empty for a folder `model` that is written without the one above it
        shown = f"{chapter}:{named or path.name}"
        reward = reward.replace(f"{chapter}:{folder}", shown)
    return reward


def untrained_reward(
    chapter: str, # reward_model, aloha or judge
    folder: str, # that a reward names; of a judge its file
) -> str | None: # what is wrong with it
    """Why a folder cannot pay for answers, with the folder that was meant where that can be told

    The model itself is not loaded."""
    if chapter == "judge":
        return _no_judge(Path(folder))
    def holds(path):
        return any((path / name).is_file() for name in _pays_with[chapter])
    path = Path(folder)
    if folder and holds(path):
        return None
    # A run keeps its model in a folder of its own, and its results say where; people name the run.
    candidates = [path / "model", path / "classifier"]
    latest = _read_object(path / "results.json")
    candidates += [Path(latest[name]) for name in ("model", "ckpt_dir") if isinstance(latest.get(name), str)]
    meant = [candidate for candidate in candidates if holds(candidate)]
    if meant:
        return f"the model lies in a folder of that run: did you mean {f'{chapter}:{meant[0]}'!r}?"
    if not path.is_dir():
        return "there is no such folder"
    return (f"no {_pays_with[chapter][0]} there, so this is no model that chapter {_chapter_of[chapter]} "
            "has trained")


def _no_judge(file):
    "Why a file cannot be a judge's settings, as far as its name tells; None where it can"
    if file.suffix not in (".yaml", ".yml", ".json"):
        return "expected a .yaml or .json file of a judge's settings"
    if file.is_file():
        return None
    there = sorted(str(file.with_name(p.name)) for p in file.parent.glob(f"*{file.suffix}"))
    return "there is no such file" + (nearest(str(file), there) if there else "")


_chapter_of = {"reward_model": "03", "aloha": "04"}


def is_number(
    text: str, # of a setting that is a word or a number
) -> bool: # whether it is a finite number
    "Whether a text is a number"
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False


def whole_groups(
    settings: GRPOSettings, # a checked object
) -> tuple: # answers in one forward pass, forward passes in a step
    "Micro-batches that hold whole groups, so that a prompt can be shared"
    # With `shared_prompt` a prompt is read once for a group, and the G answers go on from it. That costs
    # little more memory than one answer with its prompt, so fewer and larger passes fit.
    batch_size, accumulation = settings.batch_size, settings.gradient_accumulation_steps
    G, answers = settings.num_generations, answers_a_step(batch_size, accumulation)
    # Where groups are spread over processes, one of them holds no whole group: its passes stay as they are.
    as_they_are = not settings.shared_prompt or batch_size % G == 0 or answers % G != 0
    return (batch_size, accumulation) if as_they_are else (G, answers // G)


def service_settings(
    training_config: dict, # the counting system's names, such as learning_rate
    lora_config: dict = None, # r, lora_alpha or alpha, lora_dropout or dropout
    **more, # settings that the caller decides, such as data and output_dir
) -> GRPOSettings: # checked
    "The counting system's two JSON objects as settings; a name that is not known stops with the nearest"
    return read_settings(GRPOSettings, {**training_config, **(lora_config or {}), **more}, "training_config")


def save_settings(
    settings: GRPOSettings, # a checked object
    path: str | Path, # a .yaml file
):
    "Write settings for `accelerate launch -m vlrlbook.grpo --config`"
    import yaml
    # None is left out: reading the file, a preset or a default gives it again.
    given = {name: value for name, value in asdict(settings).items() if value is not None}
    write_whole(path, yaml.safe_dump(given, sort_keys=False, allow_unicode=True))


def load_settings(
    path: str | Path, # a .yaml or .json file
    **more, # settings that win over the file's
) -> GRPOSettings: # checked
    "Settings from a file"
    return read_settings(GRPOSettings, {**names_and_values(path), **more}, Path(path).name)


def names_and_values(
    path: str | Path, # a .yaml or .json file
) -> dict: # as they stand there, not checked
    "What a file of settings holds; SettingsError where it holds no names and values"
    import yaml
    name = Path(path).name
    try:
        # JSON is YAML too, so one reader serves both.
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = f"{type(error).__name__}: {str(error)[:200]}"
        raise SettingsError(f"{name}: cannot be read ({said})") from error
    if not isinstance(found, dict):
        raise SettingsError(f"{name}: expected names and values, found {type(found).__name__}")
    return found

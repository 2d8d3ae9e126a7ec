"""Settings of a reward model's run: their names, what `size` fills in, and which values are refused.

Chapter 03 shows them at work; its parameters cell holds the fields of the class once more, for papermill.
Written by hand, not exported from a notebook."""
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .models import vision_marks
from .old_scores import is_old_checkpoint
from .settings import Settings, SettingsError, nearest

__all__ = ["presets", "activation_names", "judge_template", "RewardModelSettings"]

# The activations that a score head can have; chapter 03 has torch's layer for each of them.
activation_names = ("silu", "tanh", "none")

presets = {
    "tiny": dict(
        model="tiny-qwen2_vl", lr=1e-3, num_epochs=4, batch_size=32, lm_weight=1.0, bf16=False,
        max_image_size=112, num_workers=0, eval_batch_size=128),
    # The reward system's own defaults.
    "gpu": dict(
        model="Qwen/Qwen2-VL-2B-Instruct", lr=1e-5, num_epochs=10, batch_size=8, lm_weight=0.0, bf16=True,
        max_image_size=512, num_workers=4, eval_batch_size=16)}


# The prompt around a question

def judge_template(
    written: str | None,  # file of a template, or the template itself
) -> str | None:
    """The template of a judge's prompt, written in jinja; None if there is none.

    Raises SettingsError if it has other variables than {{ content }}, the question, or holds a picture's
    token, such as <image>."""
    if not written:
        return None
    text = _template_text(written)  # reads the file, if `written` is the name of one
    _check_variables(text)
    # `vision_marks`: tokens such as <|image_pad|>, which processors put in a picture's place
    if any(token in text for token in ("<image>", *vision_marks)):
        raise SettingsError("prompt_template: holds the mark of a picture; pictures come with the question")
    return text


def _check_variables(template):
    "Raise a SettingsError unless {{ content }}, the question, is the only variable of a jinja template"
    variables = _variables_of(template)  # a set of names
    if variables != {"content"}:
        # A text without a brace was probably meant as the name of a file, which does not exist.
        if "{" in template:
            problem = f"found {', '.join(sorted(variables)) or 'no name'}"
        else:
            problem = f"{template[:60]!r} is no file, and no template either"
        expected = "expected {{ content }} where the question goes, and no other name"
        raise SettingsError(f"prompt_template: {expected}; {problem}")


def _variables_of(template):
    "The set of names that a jinja template reads, such as content; a SettingsError if it is no jinja"
    from jinja2 import TemplateSyntaxError, meta
    from jinja2.sandbox import SandboxedEnvironment
    try:
        return meta.find_undeclared_variables(SandboxedEnvironment().parse(template))
    except TemplateSyntaxError as error:
        message = f"prompt_template, line {error.lineno}: {error.message}"
        raise SettingsError(message) from error


def _template_text(written):
    "The text of a template: what the file of the name `written` holds, or `written` itself"
    # A text with a brace is the template itself. It is not looked up as a file, because the operating system
    # raises for a name that is as long as a whole template.
    if "{" in written or not Path(written).is_file():
        return written
    # utf-8-sig: without the mark that some editors on Windows put before the first line
    return Path(written).read_text(encoding="utf-8-sig")


# The settings

_above_zero = (
    "lr", "num_epochs", "batch_size", "gradient_accumulation_steps", "max_grad_norm", "margin",
    "lora_r", "lora_alpha", "max_image_size", "save_total_limit", "drawn_rows", "eval_rows",
    "eval_batch_size", "logging_steps")
_zero_or_more = (
    "weight_decay", "centring", "lm_weight", "num_workers", "early_stopping_patience", "seed", "log_samples")
_possible_words = {
    "loss_type": ["bt", "hinge"],
    "activation": list(activation_names),
    "report_to": ["none", "tensorboard", "wandb"],
}


@dataclass
class RewardModelSettings(Settings):
    "A reward model's run; chapter 03's parameters cell holds the same names, types, defaults and comments"
    size: str = None  # tiny: a million parameters on a CPU; gpu: Qwen2-VL-2B with the reward system's
    #   defaults; None: by model
    model: str = None  # Hub id, directory, tiny-qwen2_vl and its kin, or a reward model to go on training
    train_data: str = None  # Preference rows (.jsonl, .json, .parquet); None draws discs
    eval_data: str = None  # Rows that decide when to stop; None holds out a tenth of the pictures
    test_data: str = None  # Rows for the final figures, judged whole; None holds out another tenth
    image_dir: str = None  # Where picture paths begin; None: beside the file
    keys: str = None  # Which column holds what: pairs with an equals sign between; None: by its name
    skip_bad_rows: bool = False  # List bad rows and go on, instead of stopping at the first
    prompt_template: str = None  # What stands around each question: jinja with {{ content }}, as a file or a
    #   text; None: nothing
    output_dir: str = "runs/03_reward_model"  # Gets a directory for each run
    experiment_name: str = "reward_model"  # Begins the name of that directory; a timestamp ends it
    lr: float = None  # Learning rate (tiny 1e-3, gpu 1e-5)
    num_epochs: int = None  # Passes over the rows (tiny 4, gpu 10)
    batch_size: int = None  # Pairs in one forward pass of a device (tiny 32, gpu 8)
    gradient_accumulation_steps: int = 1  # Forward passes before an optimizer step
    weight_decay: float = 0.01  # Of AdamW
    max_grad_norm: float = 1.0  # Longer gradients are scaled down to it
    warmup_ratio: float = 0.1  # Share of the steps until the full learning rate
    use_scheduler: bool = True  # Cosine decay; false keeps the learning rate after the warm-up
    score_min: float = -5.0  # Lowest score
    score_max: float = 5.0  # Highest score
    activation: str = "silu"  # Between the head's two layers: silu, tanh or none
    loss_type: str = "bt"  # bt (Bradley-Terry) or hinge
    use_margin_loss: bool = False  # Ask for a gap between the scores, a row's own margin where it has one
    margin: float = 0.5  # That gap
    centring: float = 0.0  # Weight of the mean square of score sums; keeps scores around 0
    lm_weight: float = None  # Weight of saying the better answer as well as scoring it (tiny 1, gpu 0)
    use_lora: bool = False  # Train an adapter and the head instead of all weights
    lora_r: int = 16  # Rank of the adapter
    lora_alpha: int = 32  # Its scale times its rank
    lora_dropout: float = 0.05  # Dropout on the adapter's input
    bf16: bool = None  # Arithmetic in bfloat16, on a GPU (tiny false, gpu true)
    attention: str = "auto"  # auto, flash_attention_2 (needs use_lora), sdpa or eager
    max_image_size: int = None  # Pictures have at most this many pixels squared (tiny 112, gpu 512)
    num_workers: int = None  # Processes that prepare batches (tiny 0, gpu 4)
    early_stopping_patience: int = 3  # Epochs without a better pair accuracy before it stops; 0 never
    save_total_limit: int = 2  # Checkpoints kept, one an epoch; the best one always
    drawn_rows: int = 4000  # Rows drawn for training where there is no train_data
    eval_rows: int = 500  # Most rows that are held out or drawn, for the evaluation and for the final test; a
    #   named file is taken whole
    eval_batch_size: int = None  # Answers in one batch when nothing is learned (tiny 128, gpu 16)
    seed: int = 42  # Of rows, weights and order
    logging_steps: int = 5  # Steps between rows of run_log.csv
    log_samples: int = 4  # Rows whose scores are written to samples.jsonl after each epoch
    report_to: str = "none"  # none (run_log.csv only), tensorboard or wandb
    wandb_project: str = None  # Project of Weights & Biases; the key is read from WANDB_API_KEY
    resume: str = ""  # true: go on from the newest checkpoint of this experiment; or a checkpoint's directory
    load_weights_only: bool = False  # With resume: take the weights, begin a new run

    # Other names of a setting, most of them the reward system's → ours.
    aliases: ClassVar[dict] = {
        "learning_rate": "lr",
        "num_train_epochs": "num_epochs",
        "per_device_train_batch_size": "batch_size",
        "r": "lora_r",
        "centering": "centring",
        "base_model_name": "model",
        "model_name": "model",
        "model_path": "model",
        "base_model": "model",
        "train_data_path": "train_data",
        "val_data_path": "eval_data",
        "val_data": "eval_data",
        "eval_data_path": "eval_data",
        "test_data_path": "test_data",
        "image_root": "image_dir",
        "image_folder": "image_dir",
        "resume_from_checkpoint": "resume",
        "checkpoint_path": "resume",
        "max_gradient_norm": "max_grad_norm",
        "patience": "early_stopping_patience",
        "project": "wandb_project",
    }
    # Settings of the reward system that have other values than ours. Its use_wandb = true becomes our
    # report_to = "wandb". Its name → (our setting, {its value as a text in lower case: our value}).
    stand_ins: ClassVar[dict] = {
        "use_flash_attention": ("attention", {"true": "flash_attention_2", "false": "auto"}),
        "use_flash_attn": ("attention", {"true": "flash_attention_2", "false": "auto"}),
        "use_wandb": ("report_to", {"true": "wandb", "false": "none"}),
        "use_tensorboard": ("report_to", {"true": "tensorboard", "false": "none"}),
        "log_samples": ("log_samples", {"true": 4, "false": 0}),
    }
    presets: ClassVar[dict] = presets

    def filled_in(self):
        """Values for settings that were not given, from the preset of `size`: {name: value}.

        Also sets `self.named`, {"max_image_size"} if the user has given that setting, else empty. A saved
        model keeps the size of its pictures unless another is given."""
        self.named = {name for name in ("max_image_size",) if getattr(self, name) is not None}
        return super().filled_in()

    def rules(self):
        "Yields (is broken, error message) for every rule; `Settings.check` raises with those that are broken"
        yield from self._range_rules()
        yield from self._score_rules()
        yield from self._name_rules()
        yield from self._file_rules()
        yield from self._resume_rules()
        try:
            judge_template(self.prompt_template)
        except SettingsError as error:
            yield True, str(error)

    def _range_rules(self):
        """Yields (is broken, error message) for each rule about the range of a number.

        The message is yielded even where the rule holds; whoever collects them then ignores it."""
        for name in _above_zero:
            value = getattr(self, name)
            yield value <= 0, f"{name} = {value}: expected more than 0"
        for name in _zero_or_more:  # 0 turns these off, or is the first seed
            value = getattr(self, name)
            yield value < 0, f"{name} = {value}: expected 0 or more"
        for name in ("warmup_ratio", "lora_dropout"):  # shares; with 1 nothing would be learnt
            value = getattr(self, name)
            yield not 0 <= value < 1, f"{name} = {value}: expected 0 up to 1"

    def _score_rules(self):
        "Yields (is broken, error message) for each rule about the scores' range and the margin between them"
        low, high = self.score_min, self.score_max
        yield low >= high, f"score_min = {low} is not below score_max = {high}"
        # Without a margin the hinge loss is 0 for two equal scores, so that a run would learn nothing.
        is_hinge_without_margin = self.loss_type == "hinge" and not self.use_margin_loss
        message = "without a margin it is satisfied by equal scores"
        yield is_hinge_without_margin, f"loss_type hinge needs use_margin_loss: {message}"
        # Scores are squashed into their range, so two scores never lie as far apart as the range is wide.
        is_too_wide = self.use_margin_loss and self.margin >= high - low
        too_wide = f"no two scores between {low} and {high} are that far apart"
        yield is_too_wide, f"margin = {self.margin}: {too_wide}"

    def _name_rules(self):
        "Yields (is broken, error message) for each rule about a word or a name"
        for name, possible in _possible_words.items():
            word = getattr(self, name)
            # nearest: ": did you mean …?", or a list of the possible words
            yield word not in possible, f"{name} = {word!r}{nearest(word, possible)}"
        library = self.report_to
        # find_spec: None for a library that is not installed; it imports nothing.
        is_missing = library != "none" and not importlib.util.find_spec(library)
        yield is_missing, f"report_to = {library!r}: it is not installed (pip install {library})"
        # It begins the name of the run's directory: with a slash in it, that would lie elsewhere.
        is_plain = self.experiment_name and Path(self.experiment_name).name == self.experiment_name
        yield not is_plain, f"experiment_name = {self.experiment_name!r}: expected a plain name"

    def _file_rules(self):
        "Yields (is broken, error message) for each rule about data files, checked before anything is loaded"
        for name in ("train_data", "eval_data", "test_data"):
            path = getattr(self, name)  # None: the rows are drawn, or held out
            is_missing = bool(path) and not Path(path).is_file()
            yield is_missing, f"{name} = {path!r}: no such file"
        is_missing = bool(self.image_dir) and not Path(self.image_dir).is_dir()
        yield is_missing, f"image_dir = {self.image_dir!r}: no such directory"

    def _resume_rules(self):
        """Yields (is broken, error message) for each rule about the checkpoint that a run begins with.

        `resume` is empty or false (none), true (the newest), or the directory or file of a checkpoint."""
        is_new_run = self.resume.lower() in ("", "false")
        message = "load_weights_only without resume: there is nothing to load from"
        yield self.load_weights_only and is_new_run, message
        # A file of the older script does not hold the state of our optimizer, so no run can go on from it.
        goes_on_from_old = is_old_checkpoint(self.resume) and not self.load_weights_only
        only_weights = "of another trainer only weights can be taken (load_weights_only)"
        yield goes_on_from_old, f"resume = {self.resume!r}: an older script's file; {only_weights}"

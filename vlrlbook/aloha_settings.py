"""Settings of chapter 04's classifier of robot films: what a run can be given, what each size fills in, the
variables that users of the older script have in their shells, and the rules that refuse what cannot be.

The parameters cell of chapter 04 holds the same names, types, defaults and comments; a test compares the two.
Written by hand, not exported from a notebook. Neither torch nor LeRobot is needed."""
import importlib.util
import math
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .data import aloha_cameras
from .film_labels import readings
from .settings import Settings, SettingsError, as_type, is_first_process, nearest

__all__ = ["DRAWN", "DRAWN_FILMS", "SIMULATED", "MOST_FILMS", "video_backends", "presets", "environment", "OLD_HEADS",
           "is_classifier", "beside_classifier", "AlohaSettings"]

DRAWN = "local/synthetic_aloha"  # name of a data set whose films are drawn when a run asks for them
DRAWN_FILMS = 90  # how many films are drawn if the setting `episodes` does not say it
SIMULATED = "local/aloha_transfer_cube"  # 96 films of the ALOHA simulator, which come with vlrlbook
MOST_FILMS = 2_000_000  # a data set has fewer films: the largest that are known have about a million
video_backends = ["torchcodec", "pyav"]  # those that LeRobot reads films with

# Size → the values of settings that were not given. A tiny model is trained whole, on a CPU, in minutes. The
# size gpu has the defaults of the older script, so that its users get the run that they know.
presets = {
    "tiny": dict(
        model="tiny-qwen3_vl",
        finetune_mode="full",
        batch_size=32,
        lr=1e-3,
        epochs=10,
        max_steps=400,
        warmup_steps=30,
        eval_steps=50,
        repo_id=SIMULATED,
        max_image_size=112,
        shift=6,
    ),
    "gpu": dict(
        model="Qwen/Qwen3-VL-2B-Instruct",
        finetune_mode="lora",
        batch_size=2,
        lr=1e-4,
        epochs=10,
        max_steps=50,
        warmup_steps=0,
        eval_steps=25,
        repo_id="lerobot/realworld_aloha_success_bhc",
        max_image_size=512,
        ckpt_dir="checkpoints/qwen3_reward",
        shift=0,
    ),
}

# Setting → environment variable from which the older script read it. A parameter wins over the variable.
environment = {
    "mode": "MODE",
    "model": "QWEN3VL_MODEL",
    "finetune_mode": "FINETUNE_MODE",
    "num_classes": "NUM_CLASSES",
    "max_train_samples": "MAX_TRAIN_SAMPLES",
    "batch_size": "BATCH_SIZE",
    "lr": "LR",
    "epochs": "EPOCHS",
    "max_steps": "MAX_STEPS",
    "ckpt_dir": "CKPT_DIR",
}

# The older script saves the adapter (or the model) and the processor into one folder, and the head beside
# them under one of these names.
OLD_HEADS = ("classifier.safetensors", "classifier.pt", "classifier.bin")


def is_classifier(
    path: str | Path,  # any directory, or one that is not there
) -> bool:
    "True if `load_classifier` can load this directory: one that it saved, or one of the older script"
    return any((Path(path) / name).exists() for name in ("classifier.json", *OLD_HEADS))


# What `save_classifier` writes into a classifier's folder, and what LeRobot may have put there besides
_own_names = {"classifier.json", "config.json", "head.safetensors", "manifest.json", "model", "adapter",
              "train_config.json", "policy_preprocessor.json", "policy_postprocessor.json"}


def beside_classifier(
    path: str | Path,  # any directory, or one that is not there
) -> list:  # names, sorted; empty: a new classifier may take the place of the whole directory
    """What is in a directory that is no part of a classifier, and would be lost if a new one replaced it.

    Hidden files do not count, such as those of a file browser."""
    path = Path(path)
    if not path.is_dir():
        return [path.name] if path.exists() else []  # a file
    inside = [entry for entry in sorted(path.iterdir()) if not entry.name.startswith(".")]
    if (path / "classifier.json").exists():
        return [entry.name for entry in inside if entry.name not in _own_names]
    if is_classifier(path):  # the older script's: its files have many names, but lie in no folder
        return [entry.name for entry in inside if entry.is_dir()]
    return [entry.name for entry in inside]


# Names of settings for `AlohaSettings._number_rules`: more than 0, at least 0, and from 0 to below 1
_positive = ("batch_size", "gradient_accumulation_steps", "lr", "epochs", "lora_r", "lora_alpha",
             "eval_steps", "logging_steps", "max_image_size", "max_grad_norm", "frames", "tolerance_s")
_not_negative = ("seed", "shift", "warmup_steps", "weight_decay", "patience", "num_workers")
_shares = ("lora_dropout", "val_share", "test_share", "flip", "colour_jitter")

# Setting → the words that it may have, for `AlohaSettings._name_rules`
_possible_words = {
    "mode": ["train", "analyze", "chat", "predict"],
    "finetune_mode": ["lora", "full"],
    "zero_labels": ["first", "drop"],
    "precision": ["auto", "bf16", "float32"],
    "label_as": readings,
    "report_to": ["none", "tensorboard", "wandb", "trackio"],
}


def _say_steps_win(max_steps):
    "Print that the preset's number of steps ends a run before its epochs do; only in the first process"
    # As in the older script, whose MAX_STEPS wins over its EPOCHS.
    if is_first_process():
        print(f"epochs has no effect: the run has max_steps = {max_steps}, the preset's; "
              "write max_steps -1 to go by epochs", file=sys.stderr)


@dataclass
class AlohaSettings(Settings):
    "Settings of a classifier run; the parameters cell of chapter 04 holds the same, with the same comments"
    size: str = None  # tiny: a million parameters on a CPU; gpu: Qwen3-VL-2B with the defaults of its
        #   users; None: by model
    mode: str = None  # train, analyze, predict or chat (train)
    model: str = None  # Hub id, directory, or tiny-qwen3_vl and the other twins
    finetune_mode: str = None  # lora or full (tiny full, gpu lora)
    num_classes: int = None  # Bins; None reads them from the first row
    max_train_samples: int = None  # At most this many training frames; None or -1 takes all
    batch_size: int = None  # Frames in one forward pass of a device (tiny 32, gpu 2)
    gradient_accumulation_steps: int = 1  # Forward passes before an optimizer step
    lr: float = None  # Learning rate (tiny 1e-3, gpu 1e-4)
    epochs: int = None  # Passes over the training frames (10); max_steps wins
    max_steps: int = None  # Optimizer steps (tiny 400, gpu 50); -1 goes by epochs
    ckpt_dir: str = None  # Where the classifier goes (gpu checkpoints/qwen3_reward, tiny inside output_dir)
    output_dir: str = "runs/04_aloha"  # Where logs, predictions and results go
    repo_id: str = None  # Name of the LeRobot data set (gpu lerobot/realworld_aloha_success_bhc, tiny the
        #   simulator's)
    data: str = None  # Its folder; None: LeRobot's cache, or the films that this book has
    cameras: str = ",".join(aloha_cameras)  # In order
    moments: str = None  # Earlier moments to show before each frame, such as first,-2,-1 (seconds back);
        #   None: the frame alone
    revision: str = None  # Branch, tag or commit of a data set on the hub
    video_backend: str = None  # torchcodec or pyav; None: the first that works here
    tolerance_s: float = 1e-4  # Seconds that a frame of a video may lie beside its timestamp
    label: str = "reward_bins"  # Column that holds the bins
    label_as: str = "auto"  # How to read it: vector, integer, success (0, 1), progress (0 to 1, cut into
        #   bins), regress (0 to 1); or auto
    zero_labels: str = "first"  # A label that is all zeros: first (bin 0) or drop
    episodes: int | str = None  # Drawn films: how many (90); films of a data set: which, such as [0,2] or
        #   0-9 (all)
    frames: int = 16  # Moments of each drawn film
    val_share: float = 0.15  # Share of the films that validation looks at
    test_share: float = 0.2  # Share of the films that only the last table sees
    adapter: str = None  # Directory of a LoRA adapter to go on training
    head: str = None  # File of a head to start from, .safetensors or .pt
    lora_r: int = 16  # Rank of the adapter
    lora_alpha: int = 32  # Its scale times its rank
    lora_dropout: float = 0.05  # Dropout on the adapter's input
    weight_decay: float = 0.01  # AdamW's
    max_grad_norm: float = 1.0  # Gradients are clipped to this length
    warmup_steps: int = None  # Steps until the full learning rate (tiny 30, gpu 0)
    lr_scheduler_type: str = "linear"  # Any of transformers' schedules
    class_weights: bool = False  # Weigh rare bins up in the loss
    flip: float = 0.0  # Share of training frames seen in a mirror, where left and right can be exchanged
    shift: int = None  # While training each picture is moved by at most this many pixels (tiny 6, gpu 0)
    colour_jitter: float = 0.0  # Brightness, contrast and saturation vary by this share
    dtype: str = "auto"  # Of the weights: auto, float32, bfloat16 or float16
    precision: str = "auto"  # Of the products while training: auto (bf16 on a GPU), bf16 or float32
    max_image_size: int = None  # Pictures have at most this many pixels squared (tiny 112, gpu 512)
    eval_steps: int = None  # Steps between validations and checkpoints (tiny 50, gpu 25)
    patience: int = 0  # Stop after this many validations without a better macro-F1; 0 never stops
    num_workers: int = 0  # Processes that read frames
    labelled_set: str = None  # In mode predict: new folder for a copy of the data set with the predicted
        #   rewards as columns
    seed: int = 43  # Of films, splits, weights of the head and augmentation
    logging_steps: int = 5  # Steps between rows of run_log.csv
    report_to: str = "none"  # none, tensorboard, wandb or trackio
    resume: str = ""  # true: go on from the newest checkpoint in output_dir; or a checkpoint's directory
    questions: str = None  # File of lines for chat; None reads the terminal

    # Names that other scripts use → ours
    aliases: ClassVar[dict] = {
        "qwen3vl_model": "model",
        "num_epochs": "epochs",
        "num_train_epochs": "epochs",
        "learning_rate": "lr",
        "root": "data",
        "r": "lora_r",
        "num_train_samples": "max_train_samples",
        "delta_timestamps": "moments",
    }
    presets: ClassVar[dict] = presets

    def wanted_model(self):
        "The model that `model` or its environment variable names, before a preset fills one in"
        return self.model or self.from_environment().get("model")

    def from_environment(self) -> dict:  # name → value
        """The values of settings that were not given but have an environment variable, such as LR for `lr`.

        A variable that is empty or holds the word None counts as not set."""
        values = {}
        for name, variable in environment.items():  # such as "lr", "LR"
            text = os.environ.get(variable, "").strip()
            # A setting that was given as a parameter wins over its variable, which is then ignored.
            if text and text.lower() != "none" and getattr(self, name) is None:
                field_type = type(self).__annotations__[name]
                values[name] = as_type(variable, text, field_type)  # a SettingsError that names the variable
        return values

    def filled_in(self):
        """Values for settings that were not given: environment variables first, then the preset of `size`.

        Returns {name: value}. Also sets `self.named`: which of model and ckpt_dir the user has chosen."""
        defaults = self._defaults()
        variables = self.from_environment()  # name → value, only of settings that were not given
        # A ckpt_dir that the user has chosen must exist in mode chat; one that a preset names need not.
        self.named = {name for name in ("model", "ckpt_dir") if getattr(self, name) or name in variables}
        for name in ("mode", "finetune_mode"):  # settings that are one of a few words
            if name in variables:  # the older script's variables may hold TRAIN and LoRA
                variables[name] = variables[name].lower()
        # -1 is the older script's word for all frames, as a parameter or in the variable. Here it is None,
        # which stays None, since no preset has this setting.
        if self.max_train_samples == -1 or variables.get("max_train_samples") == -1:
            self.max_train_samples = None
            variables.pop("max_train_samples", None)
        has_epochs = self.epochs is not None or "epochs" in variables
        has_steps = self.max_steps is not None or "max_steps" in variables
        if has_epochs and not has_steps:  # then the preset's max_steps ends the run, and epochs has no effect
            _say_steps_win(defaults["max_steps"])
        return defaults | variables

    def _defaults(self):
        """What a setting becomes if it is still None: {name: value}.

        The values are those of the preset of `size`, and some that depend on other settings."""
        # The preset wins over these two: gpu has a ckpt_dir of its own.
        defaults = {"mode": "train", "ckpt_dir": f"{self.output_dir}/classifier"} | presets[self.size]
        if self.data and Path(self.data, "meta", "info.json").exists():
            # A user's own films get the name of their folder, not that of the preset's data set.
            defaults["repo_id"] = f"local/{Path(self.data).resolve().name}"
        # DRAWN: name of the data set whose films are drawn by this program; a folder in `data` wins over it
        films_are_drawn = not self.data and (self.repo_id or defaults["repo_id"]) == DRAWN
        if films_are_drawn:
            defaults["episodes"] = DRAWN_FILMS
        return defaults

    def rules(self):
        "Yields (is broken, error message) for every rule; `Settings.check` raises with those that are broken"
        yield from self._number_rules()
        yield from self._film_rules()
        yield from self._training_rules()
        yield from self._name_rules()
        yield from self._file_rules()

    def _number_rules(self):
        "Yields (is broken, error message) for numbers that must be above 0, at least 0, or from 0 to below 1"
        for name in _positive:  # batch_size, lr, epochs and others
            yield getattr(self, name) <= 0, f"{name} = {getattr(self, name)}: expected more than 0"
        not_negative = _not_negative  # seed, warmup_steps, patience and others
        if self.max_train_samples is not None:  # None takes all frames
            not_negative += ("max_train_samples",)
        for name in not_negative:
            yield getattr(self, name) < 0, f"{name} = {getattr(self, name)}: expected 0 or more"
        for name in _shares:  # val_share, lora_dropout, flip and others; 1 would leave nothing
            yield not 0 <= getattr(self, name) < 1, f"{name} = {getattr(self, name)}: expected 0 up to 1"

    def _film_rules(self):
        "Yields (is broken, error message) for each rule about the number of films and of frames"
        held_out = self.val_share + self.test_share  # share of the films
        # more than a tenth of the films must be left for training
        yield held_out >= 0.9, f"val_share + test_share = {held_out:g}: too little is left to train on"
        # DRAWN: name of the data set whose films are drawn, with as many frames as `frames` says
        is_drawn = not self.data and self.repo_id == DRAWN
        sets_frames = self.frames != type(self).frames  # another number than the default
        yield sets_frames and not is_drawn, f"frames = {self.frames}: of drawn films only (repo_id {DRAWN})"

    def _training_rules(self):
        "Yields (is broken, error message) for each rule about training, `episodes` and `moments`"
        # 0 would train nothing, and -1 means that `epochs` says how long
        yield self.max_steps == 0, "max_steps = 0: expected more than 0, or -1 to go by epochs"
        # None: as many bins as the labels name; one bin leaves nothing to tell apart
        has_too_few = self.num_classes is not None and self.num_classes < 2
        yield has_too_few, f"num_classes = {self.num_classes}: expected 2 or more"
        stops_without_validation = bool(self.patience) and not self.val_share
        yield stops_without_validation, "patience with val_share 0: early stopping needs films to look at"
        # Both raise SettingsError if `episodes` or `moments` cannot be read; what they return is not needed.
        for read_setting in (self.chosen_films, self.earlier_moments):
            try:
                read_setting()
            except SettingsError as error:
                yield True, str(error)
        has_no_classes = self.label_as == "regress"  # a label is a number from 0 to 1
        yield self.class_weights and has_no_classes, (
            "class_weights with label_as regress: "
            "a place between two marks is of no class that could be weighed")

    def _name_rules(self):
        "Yields (is broken, error message) for each setting that must be one of a few words"
        for name, possible in _possible_words.items():  # such as "mode", ["train", "analyze", …]
            word = getattr(self, name)
            # nearest: ": did you mean …?", or a list of the possible words
            yield word not in possible, f"{name} = {word!r}{nearest(word, possible)}"
        backend = self.video_backend
        # None: the first that can be imported
        yield backend not in (None, *video_backends), (
            f"video_backend = {backend!r}{nearest(str(backend), video_backends)}")
        is_missing = self.report_to == "tensorboard" and not importlib.util.find_spec("tensorboard")
        yield is_missing, "report_to = 'tensorboard': it is not installed (pip install tensorboard)"

    def _file_rules(self):
        "Yields (is broken, error message) for each rule about folders that must exist, or must not"
        if self.labelled_set:
            is_taken = Path(self.labelled_set).exists()  # a new folder for a copy with the predicted rewards
            yield is_taken, f"labelled_set = {self.labelled_set!r}: is there already, and is not written over"
            # of films that are drawn `episodes` is only how many
            films_are_drawn = not self.data and self.repo_id == DRAWN
            picks_films = not films_are_drawn and self.episodes is not None
            yield picks_films, "labelled_set with episodes: a copy holds all films, so all must be judged"
        # With size gpu or a revision `data` may be empty: the data set is downloaded into it.
        if self.data and self.size == "tiny" and not self.revision:
            yield not Path(self.data, "meta", "info.json").exists(), (
                f"data = {self.data!r}: no meta/info.json there, so this is no LeRobot data set")
        if self.mode == "train":
            yield from self._rules_of_new_classifier()
        if not is_classifier(self.ckpt_dir):  # no folder of a trained classifier: predict and chat need one
            yield from self._rules_without_classifier()

    def _rules_of_new_classifier(self):
        """Yields (is broken, error message) for training, which replaces the folder `ckpt_dir` as a whole.

        Before anything is trained: at the end the user's other files there would be lost."""
        # beside_classifier: names in the folder that are no part of a classifier
        others = beside_classifier(self.ckpt_dir)
        shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        yield bool(others), (
            f"ckpt_dir = {self.ckpt_dir!r}: holds {shown}, and the new classifier would replace the whole "
            "folder; expected a new or empty folder, or one with a classifier alone")
        new_folder = Path(self.ckpt_dir).resolve()
        for name in ("output_dir", "data"):
            path = getattr(self, name)  # None: the data set lies elsewhere
            # also a folder above it: the run's log and checkpoints would go with it
            is_inside = bool(path) and Path(path).resolve().is_relative_to(new_folder)
            yield is_inside, (
                f"ckpt_dir = {self.ckpt_dir!r}: is, or holds, {name} = {path!r}, and the new classifier "
                "would replace the whole folder; expected a folder of its own")

    def _rules_without_classifier(self):
        """Yields (is broken, error message) for modes that need a classifier; only called if there is none.

        self.named: a set, "model" and "ckpt_dir" if the user has set them, and not the preset."""
        missing = f"there is no classifier in ckpt_dir = {self.ckpt_dir!r}"
        yield self.mode == "predict", f"mode = 'predict': {missing}; train one first"
        # Chat does without a classifier, unless the user has chosen one.
        yield self.mode == "chat" and "ckpt_dir" in self.named, (
            f"mode = 'chat': {missing}; leave it out to talk with the model alone")

    def chosen_films(self) -> list | None:  # numbers of films; None: all, or films that are drawn
        """The numbers of the films that `episodes` names, such as [0,2,5] or 0-2.

        If films are drawn, `episodes` is how many: then the setting becomes an int, and None is returned."""
        if self.episodes is None:
            return None
        text = str(self.episodes).strip()
        films_are_drawn = not self.data and self.repo_id == DRAWN
        if films_are_drawn:
            self.episodes = self._films_to_draw(text)
            return None

        # A single number could mean that film, or so many films: the user has to say which.
        if text.isdecimal():
            n = self._film_number(text)
            raise SettingsError(f"episodes = {n}: of a data set it names films, as LeRobot's does; "
                                f"[{n}] for that film, 0-{max(n - 1, 0)} for the first {n}")
        films = set()
        for part in text.strip("[]()").split(","):
            films |= set(self._films_of_part(part))  # a range
        return sorted(films)

    def _films_of_part(self,
        part,  # what stands between two commas of `episodes`: such as "3", or "3-5" for 3, 4 and 5
    ):
        "The films that one part of `episodes` names, as a range of their numbers; else a SettingsError"
        # one whole number, or two with a hyphen between; spaces may stand around them
        first_and_last = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if not first_and_last:
            raise self._films_error("expected numbers of films, such as [0,2,5] or 0-9")
        first = self._film_number(first_and_last[1])
        # Of a single number: the same film.
        last = first if first_and_last[2] is None else self._film_number(first_and_last[2])
        if last < first:
            raise self._films_error(f"{first}-{last} holds no film; "
                                    f"expected the smaller number first, {last}-{first}")
        return range(first, last + 1)

    def _film_number(self,
        digits,  # text of decimal digits, of any length
    ):
        "A number in `episodes` as an int; a SettingsError if no data set has so many films"
        # Each named film becomes an item of a list, which must fit into memory. Python's `int` raises for
        # more than 4,300 digits, so that their number is looked at first.
        significant = digits.lstrip("0")
        if len(significant) > len(str(MOST_FILMS)) or int(significant or 0) >= MOST_FILMS:
            raise self._films_error(f"no data set has so many films; expected numbers below {MOST_FILMS}")
        return int(significant or 0)  # the text of zero has no other digit than 0

    def _films_error(self,
        wanted,  # the end of the message: what is wrong, and what was expected
    ):
        "A SettingsError about the setting `episodes`, which is shown with at most about a hundred characters"
        given = repr(self.episodes)
        shown = given if len(given) <= 100 else f"{given[:60]}… ({len(given)} characters)"
        return SettingsError(f"episodes = {shown}: {wanted}")

    def _films_to_draw(self,
        text,  # of the setting `episodes`, without the spaces around it, such as "90"
    ):
        "How many films to draw, from the text of `episodes`; a SettingsError if it is no number above 0"
        count = self._film_number(text) if text.isdecimal() else 0
        if count == 0:
            raise self._films_error("expected how many films to draw")
        return count

    def earlier_moments(self) -> list:  # the word first, and seconds below 0, in the order they are shown
        """Earlier moments to show before each frame: the setting `moments`, such as first,-2,-1, as a list.

        The word first is the film's first frame; a number is seconds before the frame."""
        earlier = []
        for word in str(self.moments or "").strip("[] ").split(","):
            word = word.strip(" '\"")
            if word in ("", "0", "0.0", "now"):
                continue  # the present frame is always shown, so that it need not be named
            # _seconds_before: the word as a number; a SettingsError if it is none below 0
            earlier.append(word if word == "first" else self._seconds_before(word))
        return earlier

    def _seconds_before(self,
        word,  # what stands between two commas of `moments`, such as "-2"
    ):
        "A word of `moments` as seconds, a float below 0; anything else is a SettingsError"
        try:
            seconds = float(word)
        except ValueError:
            seconds = math.nan  # no number
        # Also refuses NaN, which compares as False. A million seconds are longer than any film.
        if not -1e6 < seconds < 0:
            wanted = "expected first, and seconds below 0 such as -1.5"
            raise SettingsError(f"moments = {self.moments!r}: {wanted}")
        return seconds

    @property
    def camera_names(self) -> list:
        "The names in `cameras`, a text with commas between them, as a list"
        return [camera.strip() for camera in self.cameras.split(",")]

"""What the three trainers of the book share: complete checkpoints, a log that is cut back when a run resumes
from an earlier one, and stopping on request.

The GRPO trainer (TRL's), the reward model's and the classifier's (transformers') all put
`CommittedCheckpoints` before their own class and `RunLogCallback` among their callbacks. The last section of
chapter 00a shows what that is good for: a checkpoint that lost half its weights is passed over, by name.
Written by hand."""
import json
import os
import shutil
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerState

from .core import RunLog, progress_bar
from .folders import checkpoint_folders, checkpoint_step, damage, move_earlier_run, move_newer_checkpoints
from .folders import new_file, new_folder, newest_whole_checkpoint, surplus_checkpoints, write_json
from .settings import SettingsError, is_first_process, nearest, settings_of_run

__all__ = ["NotANumber", "CommittedCheckpoints", "check_schedule", "find_checkpoint", "same_run",
           "refuse_other_files", "resume_log", "RunLogCallback", "Interrupted", "StopWhenAsked"]

# What a mixin is mixed into: a type checker looks there for what the mixin takes from `self` and `super()`.
if TYPE_CHECKING:
    from transformers import Trainer
    from trl import GRPOTrainer

    # Once they are made, the fields that may be None to a type checker never are.
    class BeforeTrainer(Trainer):
        args: Any
        model: Any

    class BeforeGRPOTrainer(GRPOTrainer):
        model: Any
        args: Any
        num_generations: int
        train_dataset: Any
        environments: Any
        _buffered_inputs: Any
else:
    BeforeTrainer = BeforeGRPOTrainer = object

begun_with = "begun_with.json"  # in a run's folder: the settings with which it began
log_name = "run_log.csv"  # in a run's folder: a row for each logged step
content_of = "content of "  # in begun_with.json: begins the names of digits that stand for what files hold
# Patterns of the files that tell of a run's way up to its checkpoints: a run that goes on needs them.
_record = (begun_with, log_name, "completions*.jsonl", "pictures.json")


class NotANumber(ValueError):
    "A gradient or a weight is infinite or NaN: the run stops before it is used or saved"


class CommittedCheckpoints(BeforeTrainer):
    """Mixin before a transformers Trainer: a checkpoint appears complete, with a manifest, or not at all.

    transformers' own Trainer (read in 5.17 to 5.24) writes a checkpoint straight under its final name,
    takes the highest number for the newest one even if that folder is empty, and deletes the oldest by
    file time. It also goes on training with a gradient that is NaN, and saves the weights that come of it.
    Four of its methods are overridden; each says what would break if it moved."""

    _aside: Path | None = None  # the hidden folder in which a checkpoint is written; None between checkpoints

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(StopAtNaN())  # raises NotANumber before a NaN gradient is used

    def _get_output_dir(self, trial):
        "Return the folder into which Trainer writes checkpoints: the hidden one while one is being saved"
        # Trainer calls this to learn where a checkpoint's folder goes. If it stopped doing so, checkpoints
        # would be written under their final names, and `new_folder` in `_save_checkpoint` would raise an
        # error because it finds nothing in the hidden folder.
        return str(self._aside or super()._get_output_dir(trial))

    def _save_checkpoint(self, model, trial):
        "Save a checkpoint so that it appears complete and with a manifest, or not at all"
        # Trainer's own method writes into `_get_output_dir()/checkpoint-N`: here into `.saving/checkpoint-N`,
        # which `committed` renames at the end. If Trainer stopped calling this method, checkpoints would be
        # written straight under their final names.
        run = Path(super()._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        aside = run / ".saving"  # a fixed name, so that every process knows it
        self._check_weights(model)  # NotANumber where a weight is infinite or NaN
        # The first process makes and renames the folder; the others only write into it.
        is_first = self.is_world_process_zero()
        committed: Any = _committed(run / name, aside) if is_first else nullcontext()
        with committed:
            self.accelerator.wait_for_everyone()  # until the folder is there, and empty
            self._aside = aside  # what `_get_output_dir` returns while it is set
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._aside = None
            self.accelerator.wait_for_everyone()  # until every part is written
            # Trainer may have noted the best checkpoint under `.saving`, also in trainer_state.json.
            self._correct_best_path(run)
            if is_first:
                self.state.save_to_json(str(aside / name / "trainer_state.json"))
        if is_first:
            self._remove_old_checkpoints(run)  # beyond save_total_limit
        self.accelerator.wait_for_everyone()

    def _correct_best_path(self, run):
        """Let the path of the best checkpoint, which may still lead into `.saving`, lead into the folder `run`

        It is noted whole, so that it holds for a resume from any working directory."""
        # Checkpoints are written in the hidden folder `.saving` and renamed into that of the run afterwards.
        # Another path is that of a resumed run, and its best checkpoint may lie in another folder.
        best = self.state.best_model_checkpoint
        if best and Path(best).parent.name == ".saving":
            in_run = run / Path(best).name
            self.state.best_model_checkpoint = str(in_run.resolve())

    def _check_weights(self, model):
        """Raise NotANumber, in all processes, if any process has a trained weight that is infinite or NaN

        No run could go on from a checkpoint with such weights."""
        bad = _not_finite((name, p) for name, p in model.named_parameters() if p.requires_grad)  # names

        bad_count = torch.tensor([float(len(bad))], device=self.accelerator.device)
        if self.accelerator.gather(bad_count).max() > 0:
            # `bad` is empty in a process whose own weights are good
            first_bad = f" (first: {bad[0]})" if bad else ""
            fault = f"{len(bad) or 'some'} weights are not numbers{first_bad}; nothing is saved of them"
            advice = _way_back(self.args)  # from which checkpoint to go on, with which settings
            raise NotANumber(f"step {self.state.global_step}: {fault}. {advice}")

    def _remove_old_checkpoints(self, run):
        "Delete the oldest checkpoints beyond `save_total_limit`, by step number and not by file time"
        # `run`: the folder with all of them. The best one is kept, however old it is.
        best = self.state.best_model_checkpoint
        for old in surplus_checkpoints(run, self.args.save_total_limit, best):
            shutil.rmtree(old)

    def _load_from_checkpoint(self, checkpoint, model=None):
        "Load a checkpoint's weights, also those of the adapter that trains where there is a second one"
        # With beta > 0 TRL keeps the reference model as a second adapter, in a subfolder of the checkpoint.
        # transformers' Trainer then loads only that one. The adapter that trains lies in the checkpoint's
        # folder itself, and is loaded here. If a later Trainer does it, too, it is merely loaded twice.
        super()._load_from_checkpoint(checkpoint, model)
        model = self.model if model is None else model
        has_second_adapter = any(Path(checkpoint).glob("*/adapter_config.json"))
        if has_second_adapter: # active_adapters[0]: the name of the one that trains
            model.load_adapter(checkpoint, model.active_adapters[0], is_trainable=True)

    # Trainer's further arguments, `trial` and `ignore_keys_for_eval`, can be given by keyword only.
    def train(self, resume_from_checkpoint=None, **kwargs):  # type: ignore[override]  # another signature
        """Train as transformers' Trainer does, but first move checkpoints of other runs aside.

        Those are the ones with a higher number than `resume_from_checkpoint`, or all if nothing is
        resumed. A run that has reached its last step takes no further one, and ends as it would have ended:
        with its best weights where `load_best_model_at_end` asks for them, else with its last."""
        if self.is_world_process_zero():
            self._make_the_folder_its_own(resume_from_checkpoint)
        self.accelerator.wait_for_everyone()
        self.remove_callback(BestOfResumed)  # of an earlier call of `train`
        if resume_from_checkpoint:  # step, epoch and max_steps, which the lines below read
            self.state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / "trainer_state.json"))
            self._find_best(resume_from_checkpoint)
        if not resume_from_checkpoint or not self._is_finished():
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

        print(f"nothing left to train: {Path(resume_from_checkpoint).name} is this run's last step")
        # Code that runs after a training, such as saving, expects the trained weights and an optimizer.
        self._load_from_checkpoint(resume_from_checkpoint)
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint:
            self._load_best_model()  # transformers' Trainer's, or `PairTrainer`'s own: loads that path
        self.create_optimizer_and_scheduler(self.state.max_steps)

    def _find_best(self, checkpoint):
        """Note in `self.state`, read from `checkpoint`, where the best checkpoint is now

        Where a run was to end with its best weights and they are gone, that is said, and the state has no
        best step and score any more: the next evaluation is the first one to compare with."""
        noted = self.state.best_model_checkpoint  # None without validation
        if not noted:
            return
        best = _place_of_best(noted, checkpoint, self.args.output_dir)
        self.state.best_model_checkpoint = best
        if best is None and self.args.load_best_model_at_end:
            if self.is_world_process_zero():
                then = "these are the last ones" if self._is_finished() else "the best are looked for anew"
                print(f"the best weights were those of {Path(noted).name}, which is not there: {then}")
            self.state.best_global_step = None
            self.state.best_metric = None
        self.add_callback(BestOfResumed(self.state, noted))

    def _make_the_folder_its_own(self, checkpoint):
        """Move other runs' checkpoints in the folder aside, and cut the log back to the step of `checkpoint`

        `checkpoint`: path of the one from which the run goes on, or None. Called in the first process."""
        folder = Path(self.args.output_dir)
        if checkpoint:
            # Checkpoints of later steps are of another run, or of steps that are now taken again.
            move_newer_checkpoints(folder, checkpoint_step(checkpoint))
        elif checkpoint_folders(folder):  # there are none where `same_run` was called: it has moved them
            move_earlier_run(folder, _files_like(folder, _record))  # with its settings, log, answers
        # The log's file gets the rows up to the checkpoint, and is deleted where there are none.
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, RunLogCallback):
                callback.write()

    def _is_finished(self):
        """Return True if `self.state`, read from a checkpoint, is at the last step of the run

        transformers' Trainer would take one step too many from there."""
        if self.args.max_steps > 0:  # else the length of the run is given in epochs
            return self.state.global_step >= self.args.max_steps
        return self.state.epoch >= self.args.num_train_epochs


def _place_of_best(
    noted,  # path of the best checkpoint, as trainer_state.json has it
    checkpoint,  # path of the one from which the run goes on
    folder,  # into which it writes
):
    """Return where the best checkpoint of a resumed run is now, as a whole path; None if it is gone.

    `noted` may be relative to another working directory, and the run's folder may have been moved since. So
    the best one is looked for beside `checkpoint`, then in the folder of its run, then at `noted`."""
    noted, beside = Path(noted), Path(checkpoint).parent
    for place in (beside, _folder_of_run(checkpoint, folder), noted.parent):
        best = place / noted.name
        if best.is_dir():
            return str(best.resolve())
    return None


def _committed(checkpoint, aside):
    """Return a context manager that makes the folder `aside`, and at the end renames the checkpoint in it

    run/.saving/checkpoint-40 becomes run/checkpoint-40 (`checkpoint`), with a manifest of its files. `aside`,
    here run/.saving, is deleted at the end, and after an error."""
    return new_folder(
        checkpoint,
        existing="any",  # a checkpoint of that name is replaced
        mode=None,  # permissions stay as Trainer has set them
        aside=aside,
        part=checkpoint.name)  # the folder in `aside` that is renamed; Trainer makes it


def _not_finite(named_tensors):
    "Return the names of tensors, of (name, tensor) pairs, that hold an infinite value or NaN"
    return [name for name, tensor in named_tensors if not torch.isfinite(tensor).all()]


def _way_back(args):
    """Return advice for a run that met NaN: the checkpoint to go on from, and settings to change

    `args`: transformers' TrainingArguments, of which output_dir and learning_rate are read."""
    path, _ = newest_whole_checkpoint(args.output_dir)  # None if there is no complete one
    start = f"{path.name} is whole: go on from it" if path else "There is no checkpoint before it: begin"
    # In brackets: the learning rate of this run, to compare with.
    return f"{start} with a smaller learning rate (lr = {args.learning_rate:g}) or more warmup_steps"


class StopAtNaN(TrainerCallback):
    "Trainer callback: raises `NotANumber` if a gradient is infinite or NaN, before the optimizer uses it"
    # transformers calls this after gradient clipping and before the step (read in 5.17 to 5.24). If it
    # stopped doing so, bad weights would still be noticed before each checkpoint. With DeepSpeed `p.grad` is
    # None for every weight, so nothing is checked here.

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        "Called before the optimizer's step: raise NotANumber if a gradient is infinite or NaN"
        # None: a frozen weight
        gradients = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
        bad = _not_finite(gradients)  # names of weights
        if bad:
            extent = f"in {len(bad)} of {len(gradients)} weights (first: {bad[0]})"
            fault = f"the gradient is not a number, {extent}; the step is not taken"
            advice = _way_back(args)  # from which checkpoint to go on, with which settings
            raise NotANumber(f"step {state.global_step + 1}: {fault}. {advice}")


class BestOfResumed(TrainerCallback):
    """Trainer callback: gives a resumed run its best checkpoint back before the first step

    transformers' Trainer (read in 5.17 to 5.24) reads trainer_state.json again when it resumes, and forgets
    the best checkpoint where the path noted there leads nowhere, as from another working directory. Then the
    run would end with its last weights, under the score of the best."""

    def __init__(self,
        state: TrainerState,  # with the best checkpoint, step and score that the run is to have
        noted: str,  # path of the best checkpoint in trainer_state.json
    ):
        "Keep what the resumed run is to know of its best checkpoint"
        self.path = state.best_model_checkpoint
        self.step = state.best_global_step
        self.score = state.best_metric
        self.noted = noted

    def on_train_begin(self, args, state, control, **kwargs):
        "Called when the training begins, after Trainer has read the state: correct what it says of the best"
        # transformers has just logged that it ignores the best one, which is not so.
        is_found_again = self.path and not Path(self.noted).is_dir()
        if is_found_again and state.is_world_process_zero:
            print(f"the best checkpoint so far is at {self.path}, and is kept")
        state.best_model_checkpoint = self.path
        state.best_global_step = self.step
        state.best_metric = self.score


# Going on after a stop

# Schedules that change the learning rate by what an evaluation of transformers' own found. Without one
# TrainingArguments refuses them (read in transformers 5.17 to 5.24).
_by_evaluation = ("reduce_lr_on_plateau", "greedy")


def check_schedule(
    name: str,  # lr_scheduler_type
    evaluates: bool = False,  # whether the run has evaluations of transformers' own
):
    "Raise SettingsError where transformers does not know a schedule, or cannot make it for a run here"
    from transformers import SchedulerType
    known = [str(member.value) for member in SchedulerType]
    is_known = name in known
    problem = _schedule_problem(name, evaluates) if is_known else None  # a text, or None if it can be made
    if is_known and problem is None:
        return
    usable = [other for other in known if _schedule_problem(other, evaluates) is None]
    if is_known:
        advice = f": {problem}; expected one of {', '.join(usable)}"
    else:
        advice = nearest(name, usable)  # ": did you mean …?", or a list of all
    raise SettingsError(f"lr_scheduler_type = {name!r}{advice}")


def _schedule_problem(name, evaluates):
    "Return why a schedule that transformers knows cannot be made for a run here, as a text; None if it can"
    from transformers import get_scheduler
    if name in _by_evaluation and not evaluates:
        return "it goes by transformers' own evaluations, and this run has none"
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)  # of one number, to try it on
    try:
        get_scheduler(name, optimizer, num_warmup_steps=1, num_training_steps=10)
    except (TypeError, ValueError) as error:  # it has arguments without a default: no setting gives them
        return f"it needs what no setting gives ({error})"
    return None


def find_checkpoint(
    output_dir: str | Path,  # of the run
    resume: str,  # "" or false: begin anew; true: the newest good checkpoint; else a checkpoint's directory
) -> str | None:  # path of a checkpoint that is as its manifest says
    """Return the checkpoint that the setting `resume` means, or None to begin anew

    A damaged checkpoint is named and passed over. If none can be used, SettingsError is raised: a run that
    was to go on must never silently begin anew. A run that begins anew where an earlier one left checkpoints
    is told so, since it may be that `resume` was forgotten."""
    if resume.lower() in ("", "false"):
        checkpoints = checkpoint_folders(output_dir)
        if checkpoints and not resume and is_first_process():  # "false" was chosen, "" may be forgotten
            print(f"{output_dir} holds an earlier run, up to {checkpoints[-1].name}: resume = true would go "
                  "on from it; this run begins anew, and moves it aside when the training begins")
        return None
    if resume.lower() == "true":
        return _newest_checkpoint(output_dir)
    # `damage` compares a checkpoint with its manifest, and returns a message or None
    problem = damage(resume) if Path(resume).is_dir() else "there is no such directory"
    if problem:
        raise SettingsError(f"resume = {resume!r}: {problem}")
    return resume


def _newest_checkpoint(output_dir):
    "Return the path of the newest whole checkpoint of a run as text; SettingsError if there is none"
    path, problems = newest_whole_checkpoint(output_dir)  # problems: of newer, damaged ones
    if path is None and not problems:
        way_out = _moved_aside(output_dir)  # "; an earlier run was moved aside, and resume = …", or ""
        raise SettingsError(f"resume: there is no checkpoint in {output_dir}{way_out}")
    if path is None:
        raise SettingsError(f"resume: no checkpoint in {output_dir} is whole: {'; '.join(problems)}")
    for problem in problems:
        print(f"resume: passed over {problem}")
    return str(path)


def _moved_aside(output_dir):
    "Return the end of an error message: the checkpoint of a run moved aside that can be resumed, or \"\""
    newest_first = sorted(Path(output_dir).glob("earlier-*"), key=os.path.getmtime, reverse=True)
    for folder in newest_first:
        path, _ = newest_whole_checkpoint(folder)  # None if there is no complete one
        if path:
            return f"; an earlier run was moved aside, and resume = {str(path)!r} goes on with it"
    return ""


def same_run(
    settings,  # a checked dataclass of settings
    checkpoint: str | None,  # where the run goes on, or None
    free: set | frozenset = frozenset(),  # settings that may differ, such as number of steps, what is logged
    folder: str | Path | None = None,  # of the run; None: its output_dir
    weights_by: str = "adapter = … goes on from its weights",  # for the error: how a new run gets the weights
    leaves: tuple = (),  # patterns of the files, but for weights, that such a run leaves in its folder
    weights: tuple = (),  # patterns of what a later run may begin with: weights, and files beside them
    compare_only: bool = False,  # True, for an early call: only compare; the files wait for a second call
    **more,  # what else must be the same, such as a fingerprint of the data
):
    """Save the settings of a new run in begun_with.json; check that a resumed run still has the same.

    What another run has left in the folder is moved aside: checkpoints, log, settings, `leaves`, `weights`.
    Then a checkpoint always lies beside the settings that its run began with. SettingsError names settings
    that differ: another learning rate, for example, would have no effect, since the optimizer comes from the
    checkpoint. The number of processes must be the same, too: `batch_size` is that of one process."""
    more["processes"] = int(os.environ.get("WORLD_SIZE", 1))  # set by torchrun and accelerate
    now = {name: value for name, value in (asdict(settings) | more).items() if name not in free}
    if checkpoint is not None:
        _check_unchanged(checkpoint, now, weights_by)  # SettingsError if something has changed
    if compare_only:
        return
    folder = Path(folder or settings.output_dir)
    if checkpoint is None:  # a new run
        _move_other_run(settings, folder, leaves, weights)
        write_json(folder / begun_with, now)
    elif _folder_of_run(checkpoint, folder) != folder:  # its settings and log lie beside the checkpoint
        _move_other_run(settings, folder, leaves, weights)
        _copy_record(Path(checkpoint).parent, folder)  # so that the run goes on in `folder` with them


def _check_unchanged(
    checkpoint,  # path of the one from which the run goes on
    now,  # name → value of its settings, and of what else must be the same
    weights_by,  # ends the message: how a new run gets these weights, "adapter = … goes on from its weights"
):
    "Raise SettingsError if the run of a checkpoint began with other settings than `now`, a dict"
    then = _settings_at_begin(checkpoint)
    changed = _changed_settings(then, now)  # names that both dicts have
    if changed:
        changes = "; ".join(f"{name} = {then[name]!r} then, {now[name]!r} now" for name in sorted(changed))
        # _way_out: what else can be done if the content of a file has changed, such as a reward's; else ""
        raise SettingsError(
            f"resume: a run goes on as it began, and this one began otherwise: {changes}. Give what was "
            f"given then, or begin anew in another output_dir ({weights_by}){_way_out(changed)}")


def _way_out(changed):
    "Return what else a user can do where files have changed, some of the names `changed`; else an empty text"
    if not any(name.startswith(content_of) for name in changed):
        return ""
    # Such as a reward that raised an exception for one answer, and was mended.
    return (f"; where the changed files mean the same for this run, take the lines {content_of!r}… out of "
            f"{begun_with} beside the checkpoint")


def _folder_of_run(
    checkpoint,  # where a run goes on
    folder,  # into which it writes
):
    "Return the folder with the log and settings of a checkpoint's run: the one that it lies in, or `folder`"
    beside = Path(checkpoint).parent
    if beside.resolve() == Path(folder).resolve():
        return Path(folder)
    # Beside a checkpoint that was copied to another place neither file lies: its run's are those in `folder`.
    # But a checkpoint in folder/earlier-1 was moved there since `folder` now holds the files of another run.
    has_record = (beside / begun_with).is_file() or (beside / log_name).is_file()
    was_moved_aside = beside.resolve().parent == Path(folder).resolve()
    return beside if has_record or was_moved_aside else Path(folder)


def _move_other_run(
    settings,  # of the run that begins or goes on here
    folder,  # of that run
    leaves,  # patterns of the files, but for weights, that such a run leaves in its folder
    weights,  # patterns of what a later run may begin with
):
    "Move what another run has left in a folder aside; a copy stays of the weights that `settings` name"
    if not _holds_run(folder):  # files of such names may be a user's own
        return
    weight_paths = _files_like(folder, weights)
    # The new run reads those that its settings name. named: a set of all their texts, taken for paths.
    named = _named_paths(settings)
    if folder.resolve() in named:  # as in adapter = runs/05_grpo, or model
        needed = weight_paths
    else:  # a setting may name one of the paths, or a file in one that is a folder
        named |= {path.parent for path in named}
        needed = [path for path in weight_paths if path.resolve() in named]
    other_paths = _files_like(folder, (*_record, *leaves))  # _record: settings, log, answers, pictures
    move_earlier_run(folder, other_paths + weight_paths, needed)  # copies those of `needed`


def _holds_run(folder):
    "Return True if a folder holds signs of a run: its log or settings, checkpoints, or runs moved aside"
    has_record = (folder / begun_with).exists() or (folder / log_name).exists()
    if has_record or checkpoint_folders(folder) or any(folder.glob("earlier-[0-9]*")):
        return True
    # Of a run of which only the model was kept, or copied, the settings lie beside the weights.
    return bool(settings_of_run(folder))


def refuse_other_files(
    output_dir: str | Path,  # where a run is to write; it need not be there
    patterns: tuple,  # of what such a run leaves, such as results.json or tokenizer*
):
    """Raise SettingsError where a folder that is no run's holds files that a run would write over

    Called before anything is loaded. What an earlier run has left is no reason: it is moved aside."""
    folder = Path(output_dir)
    others = [path.name for path in _files_like(folder, (*patterns, *_record))]
    if not others or _holds_run(folder):
        return
    shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
    raise SettingsError(
        f"output_dir = {str(output_dir)!r}: holds {shown}, which this run would write over, and there is no "
        "earlier run; expected a folder of its own")


def _named_paths(settings):
    """Return every text of some settings as a resolved path: a set, in which to look up a weight file's path

    A text that is not meant as a path does no harm there. `output_dir` and `resume` are left out: they say
    where the run is, not what it begins with."""
    named = set()
    for name, value in asdict(settings).items():
        is_text = isinstance(value, str) and value.isprintable()  # no path holds a line break or a NUL
        if is_text and value and name not in ("output_dir", "resume"):
            named.add(Path(value).resolve())
    return named


def _files_like(folder, patterns):
    "Return the paths in a folder that any of some patterns, such as completions*.jsonl, match, sorted"
    paths: set = set()
    for pattern in patterns:
        paths.update(folder.glob(pattern))
    return sorted(paths)


def _copy_record(source, target):
    "Copy log, settings, answers and pictures of a run from its folder into that in which it goes on"
    for path in _files_like(source, _record):
        with new_file(target / path.name) as aside:
            shutil.copyfile(path, aside)


def _settings_at_begin(checkpoint):
    "Return the settings with which the run of a checkpoint began; {}, and a line printed, if nobody knows"
    try:
        return json.loads((Path(checkpoint).parent / begun_with).read_text(encoding="utf-8"))
    except FileNotFoundError:
        print(f"resume: there is no {begun_with}, so nobody can tell whether it began with these settings")
        return {}


def _changed_settings(then, now):
    """List the names of settings whose values differ between two dicts, name → value

    `then` was read from a JSON file, so a tuple of `now` is a list there. Names of only one are left out."""
    changed = []
    for name, value in now.items():
        if name not in then:  # a setting that is newer than the run
            continue
        value_as_in_file = json.loads(json.dumps(value))  # with lists for tuples
        if value_as_in_file != then[name]:
            changed.append(name)
    return changed


def resume_log(
    path: str | Path,  # run_log.csv
    checkpoint: str | None,  # where the run goes on, or None
) -> RunLog:  # it holds the rows up to the checkpoint's step and nothing else
    """Return the log of a run that begins, or that goes on from a checkpoint

    The file is written when the training begins, or with the first new row: until then a run may be called
    off, and the rows that it would replace must still be there. Of a checkpoint in another folder the log
    beside it is read."""
    path, rows = Path(path), []
    if checkpoint:
        kept = _folder_of_run(checkpoint, path.parent) / path.name
        logged = RunLog.read(kept).rows if kept.exists() else []
        # Rows after the checkpoint are dropped: the run will take those steps again, and with both sets of
        # rows its curve would run backwards.
        last = checkpoint_step(checkpoint)
        rows = [row for row in logged if row["step"] <= last]
    return RunLog(path, rows)


# While it runs

class RunLogCallback(TrainerCallback):
    "Trainer callback of the first process: shows a progress bar, copies the trainer's log into a `RunLog`"

    def __init__(self,
        log: RunLog,  # gets a row per logged step
        names: dict,  # the trainer's name of a column -> ours; other columns are left out
        desc: str = "training",  # text before the progress bar
        prefix: str = None,  # columns that begin with it are kept as they are; None: only those of `names`
    ):
        "Prepare to copy some columns of the trainer's log into `log`"
        self.log, self.names, self.desc, self.prefix = log, names, desc, prefix
        self.bar = None  # the progress bar; made when training begins, in the first process only

    def write(self):
        "Let the log's file hold the log's rows and nothing else, such as rows after the checkpoint"
        if self.log.rows:
            self.log.save()
        elif self.log.path is not None:  # nothing of an earlier run may stand in the file
            self.log.path.unlink(missing_ok=True)

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.bar = progress_bar(total=state.max_steps, initial=state.global_step, desc=self.desc)

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update()

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()

    def on_log(self, args, state, control, logs=None, **kwargs):
        "Called when the trainer logs: add a row to our log, under our names, in the first process only"
        if not state.is_world_process_zero:
            return
        row = self._row_of(logs)
        if not row:  # the trainer has logged none of our columns, as at the end of a run
            return
        self.log.append({"step": state.global_step} | row)
        if self.bar is not None:  # None before training begins
            # the first two numbers of the row, shown behind the bar
            self.bar.set_postfix({name: f"{row[name]:.3f}" for name in list(row)[:2]})

    def _row_of(self, logs):
        "The numbers of `logs` that are kept: under our names, and those with the prefix under their own"
        # names: such as theirs "learning_rate" → ours "lr"; prefix: such as "part/", or None
        row = {ours: logs[theirs] for theirs, ours in self.names.items() if logs.get(theirs) is not None}
        for name, value in logs.items():
            if self.prefix and name.startswith(self.prefix):
                row[name] = value
        return row


class Interrupted(RuntimeError):
    "The run was asked to stop, and saved a checkpoint before it did"


class StopWhenAsked(TrainerCallback):
    """Trainer callback that saves a checkpoint and raises `Interrupted` when it is asked to

    It is asked through a file, whose path is in the environment variable VLRLBOOK_STOP: it is read after
    each step, and a text that begins with `interrupt` means stop. The training service uses this to get
    the machine back without losing the work that was done."""

    asked = False  # True from the step after which the request was read until its checkpoint is saved

    def __init__(self,
        every: int,  # stop only at multiples of so many steps: TRL takes them on one batch of answers
    ):
        self.every = every

    def on_step_end(self, args, state, control, **kwargs):
        """Called after each step: ask for a checkpoint if the file named by VLRLBOOK_STOP says interrupt

        It is the lock file of a job of the training service. Once the checkpoint is saved, `on_save` stops
        the run. A run in several processes does not ask."""
        path = os.environ.get("VLRLBOOK_STOP", "")
        self.asked = False
        # Several processes might read the request at different steps, and then wait for each other forever.
        if path and args.world_size == 1:
            # TRL takes `every` steps on the answers that it has sampled for a batch, and no checkpoint holds
            # them: a run that went on from a step in between would sample others.
            # The request stays in the file, and is read again after the batch's last step.
            is_batch_done = state.global_step % self.every == 0
            self.asked = is_batch_done and Path(path).read_text().startswith("interrupt")
        # True makes transformers save a checkpoint now, and call on_save. Others may have asked for one, too.
        control.should_save |= self.asked

    def on_save(self, args, state, control, **kwargs):
        "Called when a checkpoint was saved: raise Interrupted if it was saved because of the request"
        if self.asked:  # set by on_step_end
            raise Interrupted(f"asked to stop; checkpoint-{state.global_step} is saved")

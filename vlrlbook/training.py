"""What the three trainers of the book share: checkpoints that are whole, a log that goes back with them,
stopping.

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
from .folders import checkpoint_step, damage, move_newer_checkpoints, new_folder, newest_whole_checkpoint
from .folders import surplus_checkpoints, write_json
from .settings import SettingsError

__all__ = ["NotANumber", "CommittedCheckpoints", "find_checkpoint", "same_run", "resume_log",
           "RunLogCallback", "Interrupted", "StopWhenAsked"]

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


class NotANumber(ValueError):
    "A gradient or a weight is infinite or NaN: the run stops before it is used or saved"


class CommittedCheckpoints(BeforeTrainer):
    """Mixin before a transformers Trainer: a checkpoint appears whole, with a manifest, or not at all.

    As released (read in transformers 5.17 to 5.24), the Trainer writes a checkpoint straight under its final
    name, takes the highest number for the last one even when that folder is empty, and deletes the oldest by
    file time; and it goes on with a gradient that is not a number, and saves what comes of it. Four of its
    methods are overridden; each says what would break if it moved."""

    _aside: Path | None = None  # while a checkpoint is written: the folder that it is written into

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(StopAtNaN())

    def _get_output_dir(self, trial):
        # Trainer asks this method where the folder of a checkpoint goes. If it stops asking, checkpoints are
        # written under their final names again, and `new_folder` below raises because nothing was written
        # aside.
        return str(self._aside or super()._get_output_dir(trial))

    def _save_checkpoint(self, model, trial):
        # Trainer writes into `_get_output_dir()/checkpoint-N`. Each process of a run writes its part there,
        # so `.saving` is a name that all know; the first process makes it and commits what is in it.
        run, name = Path(super()._get_output_dir(trial)), f"checkpoint-{self.state.global_step}"
        self._check_weights(model)
        first, aside = self.is_world_process_zero(), run / ".saving"
        if first:
            whole_or_nothing = new_folder(run / name, existing="any", mode=None, aside=aside, part=name)
        else:
            whole_or_nothing = nullcontext()
        with whole_or_nothing:  # on a full disk what was half written goes, and the checkpoint before stays
            self.accelerator.wait_for_everyone()  # until the folder is there, and empty
            self._aside = aside
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._aside = None
            self.accelerator.wait_for_everyone()  # until every part is written
            # The state names the best checkpoint by its path, which was below `.saving` a moment ago.
            best = self.state.best_model_checkpoint
            if best:
                self.state.best_model_checkpoint = str(run / Path(best).name)
            if first:
                self.state.save_to_json(str(aside / name / "trainer_state.json"))
        if first:
            self._remove_old_checkpoints(run)
        self.accelerator.wait_for_everyone()

    def _check_weights(self, model):
        "NotANumber where a weight that trains is infinite or NaN, on any process: no run could go on from it"
        bad = _not_finite((name, p) for name, p in model.named_parameters() if p.requires_grad)
        here = torch.tensor([float(len(bad))], device=self.accelerator.device)
        if self.accelerator.gather(here).max() > 0:
            where = f" (first: {bad[0]})" if bad else ""
            what = f"{len(bad) or 'some'} weights are not numbers{where}; nothing is saved of them"
            raise NotANumber(f"step {self.state.global_step}: {what}. {_way_back(self.args)}")

    def _remove_old_checkpoints(self, run):
        "Keep as many as `save_total_limit` says, by step number: file times change when a folder is copied"
        best = self.state.best_model_checkpoint
        for old in surplus_checkpoints(run, self.args.save_total_limit, best):
            shutil.rmtree(old)

    def _load_from_checkpoint(self, checkpoint, model=None):
        # As released, a checkpoint with a second adapter (the reference that TRL keeps with beta > 0) loads
        # that one and leaves the one that trains at its start. If Trainer mends this, the weights are merely
        # loaded twice.
        super()._load_from_checkpoint(checkpoint, model)
        model = self.model if model is None else model
        has_second_adapter = any(Path(checkpoint).glob("*/adapter_config.json"))
        if has_second_adapter:
            model.load_adapter(checkpoint, model.active_adapters[0], is_trainable=True)

    def train(self, resume_from_checkpoint=None, **kwargs):  # type: ignore[override]  # with names only
        "Train; checkpoints that are not this run's own past are moved aside; a finished run takes no step"
        last = checkpoint_step(resume_from_checkpoint) if resume_from_checkpoint else -1
        if self.is_world_process_zero():
            move_newer_checkpoints(self.args.output_dir, last)
        self.accelerator.wait_for_everyone()
        if not resume_from_checkpoint or not self._is_finished(resume_from_checkpoint):
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        print(f"nothing left to train: {Path(resume_from_checkpoint).name} is this run's last step")
        # What follows a training, such as saving, needs the weights and an optimizer, as after any other run.
        self._load_from_checkpoint(resume_from_checkpoint)
        self.create_optimizer_and_scheduler(self.state.max_steps)

    def _is_finished(self, checkpoint):
        "Whether a checkpoint is at the last step asked for; as released, Trainer would take one more"
        self.state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        if self.args.max_steps > 0:
            return self.state.global_step >= self.args.max_steps
        return self.state.epoch >= self.args.num_train_epochs


def _not_finite(named):
    "Names of the tensors that hold an infinite value or NaN"
    return [name for name, tensor in named if not torch.isfinite(tensor).all()]


def _way_back(args):
    "What to do after a run has left the numbers"
    path, _ = newest_whole_checkpoint(args.output_dir)
    begin = f"{path.name} is whole: go on from it" if path else "There is no checkpoint before it: begin"
    return f"{begin} with a smaller learning rate (lr = {args.learning_rate:g}) or more warmup_steps"


class StopAtNaN(TrainerCallback):
    "Raises `NotANumber` where a gradient is infinite or NaN, before the optimizer uses it"
    # transformers calls this after clipping and before the step (read in 5.17 to 5.24); if it stops, the
    # weights are still looked at before each checkpoint. DeepSpeed keeps gradients to itself: None here.

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        gradients = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
        bad = _not_finite(gradients)
        if bad:
            where = f"in {len(bad)} of {len(gradients)} weights (first: {bad[0]})"
            what = f"the gradient is not a number, {where}; the step is not taken"
            raise NotANumber(f"step {state.global_step + 1}: {what}. {_way_back(args)}")


# Going on after a stop

def find_checkpoint(
    output_dir: str | Path,  # of the run
    resume: str,  # "" or false: begin; true: the newest whole checkpoint there; else a checkpoint's directory
) -> str | None:  # a checkpoint that equals its manifest, or None to begin
    """What `resume` means. A damaged checkpoint is named and the one before it is taken.

    None that can be used is a `SettingsError`: a run that was to go on must never silently begin anew."""
    if resume.lower() in ("", "false"):
        return None
    if resume.lower() != "true":
        problem = damage(resume) if Path(resume).is_dir() else "there is no such directory"
        if problem:
            raise SettingsError(f"resume = {resume!r}: {problem}")
        return resume
    path, problems = newest_whole_checkpoint(output_dir)
    if path is None and not problems:
        raise SettingsError(f"resume: there is no checkpoint in {output_dir}")
    if path is None:
        raise SettingsError(f"resume: no checkpoint in {output_dir} is whole: {'; '.join(problems)}")
    for problem in problems:
        print(f"resume: passed over {problem}")
    return str(path)


def same_run(
    settings,  # a checked dataclass of settings
    checkpoint: str | None,  # where the run goes on, or None
    free: set | frozenset = frozenset(),  # names that may differ: where things go, what is looked at
    folder: str | Path | None = None,  # of the run that begins; None: its output_dir
    weights_by: str = "adapter = … goes on from its weights",  # how a new run would take the weights of this one
    **more,  # what else must be the same, such as a fingerprint of the data
):
    """Keep the settings with which a run begins; a SettingsError where one goes on with others.

    The optimizer, its schedule and the order of the data come from the checkpoint, so another learning rate
    or batch would be written into every file and used by none."""
    now = {name: value for name, value in (asdict(settings) | more).items() if name not in free}
    path = Path(folder or settings.output_dir) / begun_with
    if checkpoint is None:
        write_json(path, now)
        return
    path = Path(checkpoint).parent / begun_with
    try:
        then = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        print(f"resume: there is no {begun_with}, so nobody can tell whether it began with these settings")
        return
    # a setting that is new since then has its default
    others = {name for name in now if name in then and json.loads(json.dumps(now[name])) != then[name]}
    if others:
        told = "; ".join(f"{name} = {then[name]!r} then, {now[name]!r} now" for name in sorted(others))
        raise SettingsError(
            f"resume: a run goes on as it began, and this one began otherwise: {told}. Give what was given "
            f"then, or begin anew in another output_dir ({weights_by})")


def resume_log(
    path: str | Path,  # run_log.csv
    checkpoint: str | None,  # where the run goes on, or None
) -> RunLog:  # its file holds the rows up to the checkpoint's step and nothing else
    "The log of a run that begins, or goes on"
    path, rows = Path(path), []
    if checkpoint and path.exists():
        # Rows after the checkpoint belong to a past that did not happen; a curve with them would run
        # backwards.
        rows = [row for row in RunLog.read(path).rows if row["step"] <= checkpoint_step(checkpoint)]
    log = RunLog(path, rows)
    if rows:
        log.save()
    else:
        path.unlink(missing_ok=True)
    return log


# While it runs

class RunLogCallback(TrainerCallback):
    "A progress bar, and the trainer's log in a `RunLog` under our names; the first process alone writes"

    def __init__(self,
        log: RunLog,  # gets a row per logged step
        names: dict,  # the trainer's name -> ours; other columns are left out
        desc: str = "training",  # before the bar
        prefix: str = None,  # columns that begin with it are kept as they are
    ):
        self.log, self.names, self.desc, self.prefix = log, names, desc, prefix
        self.bar = None  # from the begin to the end of training

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
        if not state.is_world_process_zero:
            return
        row = {ours: logs[theirs] for theirs, ours in self.names.items() if logs.get(theirs) is not None}
        for name, value in logs.items():
            if self.prefix and name.startswith(self.prefix):
                row[name] = value
        if not row:
            return
        self.log.append({"step": state.global_step} | row)
        if self.bar is not None:
            self.bar.set_postfix({name: f"{row[name]:.3f}" for name in list(row)[:2]})


class Interrupted(RuntimeError):
    "The run was asked to stop, and saved a checkpoint before it did"


class StopWhenAsked(TrainerCallback):
    """Look, after each step, into the file that the environment's VLRLBOOK_STOP names.

    Where it begins with `interrupt`, a checkpoint is saved and `Interrupted` is raised: who watches from
    outside, such as the training service, gets the machine back without a loss of work."""

    asked = False  # set between the step and the checkpoint that it leads to

    def __init__(self,
        every: int,  # steps between which a checkpoint would not be exact: TRL reuses a batch so many times
    ):
        self.every = every

    def on_step_end(self, args, state, control, **kwargs):
        path = os.environ.get("VLRLBOOK_STOP", "")
        # Several processes might read the file at different steps, and would then wait for each other
        # forever.
        may_stop = bool(path) and args.world_size == 1 and state.global_step % self.every == 0
        self.asked = may_stop and Path(path).read_text().startswith("interrupt")
        control.should_save |= self.asked

    def on_save(self, args, state, control, **kwargs):
        if self.asked:
            raise Interrupted(f"asked to stop; checkpoint-{state.global_step} is saved")

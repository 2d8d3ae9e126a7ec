"""What a GRPO run records while it trains: a group of answers of its first, middle and last step; answers to
the same held-out pictures at these three times; and, where the settings ask for it, every answer with its
reward, and the reward on pictures that it does not train on.

Written by hand, not exported from a notebook."""
import json
import os
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from statistics import stdev

from transformers import TrainerCallback

from .answers import generate_answers, predict, sampled_by
from .archive import DataError
from .core import Rollout, RolloutGroup, RunLog, mean_of, thumbnail_url
from .folders import write_json, write_whole
from .pointing import with_boxes_drawn
from .readers.turns import on_one_line
from .rewards import advantages, checked_on_batch, is_right, load_reward
from .zoom import Eye, with_looks_drawn
from .zoom_turns import eye_for

__all__ = ["Completions", "HeldOutReward", "Recorder", "SamePictures", "scaled_advantages", "chosen_pictures",
           "note_on_cut", "told_together"]

# Pixels of the longer side of a picture in a file for the web page or the report. A picture of task zoom has
# what was looked at beside it, in a third of its height, which would be too small to be seen.
THUMBNAIL, THUMBNAIL_WITH_LOOKS = 160, 400


def told_together(
    recorders: list,  # called with (texts, parts, samples, state), see `rewards.for_trl`
):  # one recorder, or None where there is none
    "Combine several recorders into one, since `rewards.for_trl` takes only one"
    if not recorders:
        return None
    def call_all(*arguments):
        for recorder in recorders:
            recorder(*arguments)
    return call_all


class Completions:
    "A recorder that appends each answer as a row to completions.jsonl; each process has a file of its own"

    def __init__(self,
        output_dir: str | Path,  # of the run
    ):
        rank = int(os.environ.get("RANK", 0))  # number of this process
        name = f"completions.{rank}.jsonl" if rank else "completions.jsonl"
        self.path = Path(output_dir) / name
        self.is_cleaned = False  # whether rows that an earlier attempt left have been removed

    def __call__(self,
        texts,  # the answers of a batch
        parts,  # a dict for each answer: part of its reward, such as overall → number
        samples,  # the `Sample` that each answer belongs to
        state,  # transformers' `TrainerState`
    ):
        "Append a line of JSON to the file for each answer of a batch"
        if not self.is_cleaned:
            self._remove_later_rows(state.global_step)  # of an earlier attempt at this run; sets `is_cleaned`
        step = state.global_step + 1  # `global_step` counts finished steps
        with open(self.path, "a", encoding="utf-8") as file:
            for text, part, sample in zip(texts, parts, samples, strict=True):
                # `row` is the sample's number in the data, by which a reader finds its picture
                line = dict(step=step, row=sample.row, question=sample.question, truth=sample.answer)
                line |= dict(answer=text) | part
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _remove_later_rows(self,
        steps_done,  # optimizer steps: 0, or those up to the checkpoint from which the run is resumed
    ):
        "Remove the rows of steps that this run will do itself: all rows, or those behind the checkpoint"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_resumed = steps_done > 0 and self.path.exists()
        lines = _lines_with_steps(self.path) if is_resumed else []
        write_whole(self.path, "".join(line + "\n" for line, step in lines if step <= steps_done))
        self.is_cleaned = True  # last: while the file is damaged, each attempt must say so


def _lines_with_steps(path):
    """The lines of a file of completions as (text, step), without a last one that a killed run left half done

    `DataError` for any other line that is no row: nobody would learn that answers are missing."""
    # As bytes, since a kill may cut within a character. Not `splitlines`: it would also split at characters
    # that JSON allows inside a text, such as U+2028.
    lines = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines, 1):
        step = _step_of(line)
        has_line_break = number < len(lines)  # the last item is empty, or was cut
        if step is not None:
            found.append((line.decode(), step))
        elif line.strip() and has_line_break:
            message = "no row of JSON with a step; mend or remove this line, and resume again"
            raise DataError("json.syntax", message, row=number, entry=path.name)
    return found


def _step_of(line):
    "The optimizer step of a row of completions, whose line is given as bytes; None if it is no whole row"
    try:
        step = json.loads(line.decode())["step"]
    except (ValueError, TypeError, KeyError):  # ValueError: no JSON, or half a character
        return None
    return step if isinstance(step, int) else None


def note_on_cut(
    when_cut: str,  # the run's setting: paid, masked or a number
) -> str | None:  # a sentence; None for paid, since there is no difference
    "Say that answers cut at the token limit get another reward in training than when a run is measured"
    # Measuring has only their texts, which do not tell whether they were cut: they count as any other.
    if when_cut == "paid":
        return None
    in_training = "leaves them out" if when_cut == "masked" else f"pays them {when_cut}"
    return ("eval/reward and the mean reward before and after pay answers cut at the token limit as they "
            f"read; training {in_training} (when_cut = {when_cut})")


class HeldOutReward(TrainerCallback):
    """Every `eval_steps` steps, samples an answer to each held-out picture and logs their mean reward.

    Each answer is paid as it reads, also one that was cut, whatever `when_cut` says: see `note_on_cut`."""

    def __init__(self,
        processor,  # of the model
        samples: list,  # held-out `Sample`s
        settings,  # `GRPOSettings`, checked: reward, eval_steps, and how to ask
        log: RunLog,  # of the run
    ):
        "Load the reward of the run; nothing is asked yet"
        self.processor, self.samples, self.settings, self.log = processor, samples, settings, log
        self.reward = checked_on_batch(load_reward(settings.reward))  # (texts, samples) → a dict of parts for each

    def on_step_end(self, args, state, control, model=None, **kwargs):
        "Override TrainerCallback's, called after each step: every `eval_steps` steps ask, and log the reward"
        # Only the first process asks, so it must hold all weights.
        if state.global_step % self.settings.eval_steps or not state.is_world_process_zero:
            return
        s = self.settings
        # Sampled as in training, so that both curves of the reward can be compared. Only answers cut at the
        # token limit may get another reward here (`note_on_cut`).
        sampling = {name: getattr(s, name) for name in sampled_by}
        answers = generate_answers(model, self.processor, self.samples, batch_size=s.eval_batch_size,
                                   max_new_tokens=s.max_completion_length,
                                   looks=s.max_looks,  # most calls of the tool `zoom` in one answer
                                   **sampling)
        parts = self.reward([texts[0] for texts in answers], self.samples)  # one text for each sample
        mean = sum(part["overall"] for part in parts) / len(parts)
        self.log.append({"step": state.global_step, "eval/reward": mean})


class Recorder:
    """A recorder that keeps three groups of answers: of the first, the middle and the latest batch.

    It also writes the latest logged batch into a file, for the web page."""

    def __init__(self,
        group_size: int,  # G
        path: str | Path | None = None,  # JSON file of the latest logged batch, with pictures; None: no file
        every: int = 1,  # steps from one writing of the file to the next
        most: int = 4,  # groups in the file
        eye: Eye = None,  # how the model sees pictures, from `zoom_turns.eye_for`; None but for task zoom
        scale: str = "group",  # the run's `scale_rewards`, see `scaled_advantages`
        when_cut="paid",  # the run's setting; "masked": a cut answer is left out, so it has no advantage
    ):
        "Keep no group yet; `path`, `every` and `most` are for the file that the web page reads"
        self.group_size, self.path, self.every, self.most, self.eye = group_size, path, every, most, eye
        self.scale, self.masks_cut = scale, when_cut == "masked"
        self.kept = {}  # "1 first", "2 middle", "3 last" → a `RolloutGroup` of that batch, see `_slot`

    def __call__(self,
        texts,  # the answers of a batch: whole groups, one after the other
        parts,  # a dict for each answer: part of its reward, such as overall → number
        samples,  # the `Sample` that each answer belongs to
        state,  # transformers' `TrainerState`: global_step counts finished steps
    ):
        "Record a batch of answers: keep one group of it, and write the file for the web page"
        step, last_step = state.global_step, state.max_steps
        groups = self._groups(texts, parts, samples, title=f"step {step + 1} of {last_step}")
        # Prefer a group with advantages: where all answers earn the same, there is nothing to show.
        with_advantages = [g for g in groups if any(rollout.advantage for rollout in g.rollouts)]
        chosen = with_advantages if with_advantages else groups
        # "1 first", "2 middle" (first batch of the second half), or "3 last" (any other: a later one replaces
        # the one before it)
        slot = self._slot(step, last_step)
        self.kept[slot] = chosen[0]

        is_logged = (step + 1) % self.every == 0
        if self.path and is_logged:  # path: of the file for the web page; None: none is written
            shown = [self._as_dict(group) for group in groups[:self.most]]  # most: groups in the file
            write_json(self.path, dict(step=step + 1, total_steps=last_step, groups=shown))

    def _groups(self,
        texts,  # the answers of a batch: whole groups, one after the other
        parts,  # a dict for each answer: part of its reward → number; `overall` is the reward itself
        samples,  # the `Sample` that each answer belongs to; a group has one
        title,  # of each group, such as "step 3 of 100"
    ):
        "The answers of a batch as a list of `RolloutGroup`s"
        G = self.group_size
        # None for a cut answer that training leaves out (masks_cut). Only then all dicts surely have `cut`.
        paid = [None if self.masks_cut and part["cut"] else part["overall"] for part in parts]
        batch_advantages = scaled_advantages(paid, G, self.scale)
        groups = []
        for i in range(0, len(texts), G):
            rows = slice(i, i + G)  # of the group
            groups.append(self._group(texts[rows], parts[rows], batch_advantages[rows], samples[i], title))
        return groups

    def _slot(self,
        step,  # finished steps, from 0
        last_step,  # steps of the whole run
    ):
        """Key in `kept` for the group of this step.

        The first step, then the first from the middle on, have keys of their own. All others share "3 last",
        where each replaces the one before it."""
        if not self.kept:  # no group yet
            return "1 first"
        if "2 middle" not in self.kept and 2 * step >= last_step:
            return "2 middle"
        return "3 last"

    def _group(self, texts, parts, group_advantages, sample, title):
        "The answers to one sample, with rewards and advantages, as a `RolloutGroup`"
        rollouts = []
        for text, part, advantage in zip(texts, parts, group_advantages):  # part: a dict of numbers
            rollouts.append(Rollout(on_one_line(text), part, advantage))
        shown = _drawn(sample, texts, self.eye)  # the sample with boxes or looks drawn on its picture
        return RolloutGroup(shown, rollouts, title=title)

    def _as_dict(self, group):
        "A group for the file: question, right answer, answers, and the first picture as a data URL"
        sample = group.sample
        answers = [asdict(rollout) for rollout in group.rollouts]
        return dict(row=sample.row, question=sample.question, truth=sample.answer, image=_data_url(sample),
                    answers=answers)

    def rows(self) -> list:
        "The kept groups as plain dictionaries, pictures left out"
        rows = []
        for slot, group in sorted(self.kept.items()):
            _, when = slot.split()  # such as "1 first": the number is for sorting
            sample = group.sample
            rollouts = [asdict(rollout) for rollout in group.rollouts]
            rows.append(dict(when=when, title=group.title, question=sample.question, answer=sample.answer,
                             row=sample.row, rollouts=rollouts))
        return rows


def scaled_advantages(
    rewards: list,  # of whole groups, one after the other; None for an answer that is left out
    group_size: int,  # G
    scale: str = "group",  # group, batch or none: the run's setting
) -> list:  # same length; 0 for what is left out
    """The advantages of a batch as TRL (1.16) computes them under `scale_rewards`

    A reward less the mean of its group, divided by the standard deviation of group or batch, or undivided."""
    groups = [rewards[i:i + group_size] for i in range(0, len(rewards), group_size)]
    if scale == "group":
        return list(chain(*map(advantages, groups)))
    centred = list(chain(*map(_centred, groups)))
    if scale == "none":
        return centred
    counted = [reward for reward in rewards if reward is not None]
    # 1e-4 as in TRL, so that nothing is divided by 0
    deviation = (stdev(counted) if len(counted) > 1 else 0.0) + 1e-4
    return [value / deviation for value in centred]


def _centred(group):
    "The rewards of one group less their mean; 0 for one that is left out: [1, 0, None] → [0.5, -0.5, 0]"
    counted = [reward for reward in group if reward is not None]
    mean = mean_of(counted) if counted else 0.0
    return [0.0 if reward is None else reward - mean for reward in group]


def chosen_pictures(
    samples: list,  # held-out `Sample`s
    most: int = 4,  # how many are chosen
) -> list:  # their places in `samples`
    """Choose the pictures that `SamePictures` asks about: the first samples with different right answers.

    They are fixed before a run, so that none is picked because its answers look good."""
    places = {}  # right answer → place of the first sample that has it
    for i, sample in enumerate(samples):
        places.setdefault(sample.answer, i)
    return list(places.values())[:most]


class SamePictures(TrainerCallback):
    """Asks about the same few held-out pictures before, in the middle of and after a run, and writes a file.

    Random states are as before afterwards, so that the training does not depend on it."""

    def __init__(self,
        processor,  # of the model
        samples: list,  # held-out `Sample`s
        settings,  # `GRPOSettings`, checked: how to ask
        path: str | Path,  # JSON file that grows with the run
        resumed: bool = False,  # keep the stages that are in the file already; flips come after the training
    ):
        "Choose the pictures; nothing is asked yet"
        self.processor, self.samples, self.settings, self.path = processor, samples, settings, Path(path)
        self.places = chosen_pictures(samples)  # indices of the chosen pictures in `samples`
        self.eye = eye_for(settings)  # how the model sees pictures; None but for task zoom
        self.stages = {}  # first, middle or last → a dict with the answers at that time, from `keep`
        self.flips = []  # pictures whose answer became right or wrong, from `keep_flips`
        if resumed and self.path.exists():
            kept = json.loads(self.path.read_text())
            self.stages = {stage["when"]: stage for stage in kept["stages"]}

    def keep(self,
        when: str,  # first, middle or last
        step: int,  # optimizer steps taken
        answers: dict,  # from `predict`: on the chosen pictures, in their order
    ):
        "Add the answers of one stage to the file"
        self.stages[when] = dict(when=when, step=step, **answers)
        in_order = ("first", "middle", "last")
        stages = [self.stages[name] for name in in_order if name in self.stages]
        # `places`: the chosen pictures' places in `samples`
        pictures = [_pictured(self.samples[i]) for i in self.places]
        # `flips`: pictures whose answer became right or wrong; empty until `keep_flips` has chosen them
        write_json(self.path, dict(pictures=pictures, stages=stages, flips=self.flips))

    def of_all(self,
        answers: dict,  # from `predict`, on all held-out pictures
    ) -> dict:  # of the same form, for the chosen pictures
        "Pick the answers to the chosen pictures out of the answers to all"
        return {how: [texts[i] for i in self.places] for how, texts in answers.items()}

    def keep_flips(self,
        before: dict,  # from `predict`, on all samples: `greedy` has a list of one text for each
        after: dict,  # the same after training
        most: int = 4,  # of each kind
    ):
        "Choose for the report the first pictures whose greedy answer became right, and that became wrong"
        became_right, became_wrong = [], []
        greedy = zip(self.samples, before["greedy"], after["greedy"])
        for sample, (text_before, *_), (text_after, *_) in greedy:  # the first text of each list
            was_right = bool(is_right(text_before, sample.answer, sample.task))
            now_right = bool(is_right(text_after, sample.answer, sample.task))
            flips = became_right if now_right else became_wrong
            if was_right != now_right and len(flips) < most:
                flips.append(self._flip(sample, text_before, text_after, now_right))
        self.flips = became_right + became_wrong

    def _flip(self,
        sample,  # `Sample` whose answer became right or wrong
        text_before,  # the greedy answer before training
        text_after,  # and after it
        became_right,  # False: it became wrong
    ):
        "A dict for the report: question, right answer, the two answers, and the picture"
        # On the picture stand the boxes or crops of both answers.
        shown = _pictured(sample, [text_before, text_after], self.eye)
        return shown | dict(before=text_before, after=text_after, became_right=became_right)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        "Override TrainerCallback's, called after each step: in the middle of the run ask about the pictures"
        # Once, at the first step from the middle on: a resumed run may begin behind the exact middle.
        before_the_middle = 2 * state.global_step < state.max_steps
        has_asked = "middle" in self.stages  # `stages`: first, middle or last → the answers then
        if not state.is_world_process_zero or has_asked or before_the_middle:
            return
        asked = [self.samples[i] for i in self.places]  # the few chosen pictures
        self.keep("middle", state.global_step, predict(model, self.processor, asked, self.settings))


def _drawn(
    sample,  # `Sample`
    answers,  # texts of the model
    eye,  # `Eye`: how the model sees pictures; None but for task zoom
):
    """A sample as a card of the page or the report shows it, with what its task needs drawn on its picture.

    Task pointing: boxes of the right answer and of `answers`. Task zoom: the parts that were looked at,
    framed and enlarged. The other tasks: the sample itself."""
    return with_looks_drawn(with_boxes_drawn(sample, answers), answers, eye)


def _pictured(
    sample,  # `Sample`
    answers=(),  # texts of the model, whose boxes or looks are drawn on the picture
    eye=None,  # `Eye`: how the model sees pictures; None but for task zoom
):
    "A sample as a dict for a JSON file: row, question, answer, and the first picture as a data URL"
    image = _data_url(_drawn(sample, answers, eye))
    return dict(row=sample.row, question=sample.question, answer=sample.answer, image=image)


def _data_url(sample):
    "The first picture of a sample, made small, as a data URL; None where it has none"
    if not sample.images:
        return None
    # In task zoom the parts that were looked at stand beside the picture, so it must be larger.
    side = THUMBNAIL_WITH_LOOKS if sample.task == "zoom" else THUMBNAIL
    return thumbnail_url(sample.images[0], side)

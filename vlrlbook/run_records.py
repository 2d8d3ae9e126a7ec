"""What a GRPO run keeps while it goes: a group of its first, middle and last step, the same held-out pictures
at three times, and if it is asked to, every answer with what it earned, and what the policy earns on pictures
that it does not train on.

Written by hand, not exported from a notebook."""
import json
import os
from dataclasses import asdict
from pathlib import Path

from transformers import TrainerCallback

from .answers import generate_answers, predict
from .core import Rollout, RolloutGroup, RunLog, thumbnail
from .folders import write_json, write_whole
from .pointing import with_boxes_drawn
from .readers.turns import on_one_line
from .rewards import advantages, is_right, load_reward, on_batch
from .zoom import Eye, with_looks_drawn
from .zoom_turns import eye_for

__all__ = ["Completions", "HeldOutReward", "Recorder", "SamePictures", "chosen_pictures", "told_together"]

THUMBNAIL = 160  # pixels of the longer side of a picture in a file for the web page or the report


def told_together(
    recorders: list,  # called with (texts, parts, samples, state), see `rewards.for_trl`
):  # one recorder, or None where there is none
    "Several recorders as one"
    if not recorders:
        return None
    def recorded(*batch):
        for recorder in recorders:
            recorder(*batch)
    return recorded


class Completions:
    "A recorder that writes each answer as a row of completions.jsonl; each process has a file of its own"

    def __init__(self,
        output_dir: str | Path,  # of the run
    ):
        rank = int(os.environ.get("RANK", 0))
        name = f"completions.{rank}.jsonl" if rank else "completions.jsonl"
        self.path = Path(output_dir) / name
        self.begun = False  # whether the file holds nothing but this run's own past

    def __call__(self, texts, parts, samples, state):
        if not self.begun:
            self._begin(state.global_step)
        step = state.global_step + 1  # the one that these answers are for
        with open(self.path, "a", encoding="utf-8") as file:
            for text, part, sample in zip(texts, parts, samples, strict=True):
                # the picture is known by its row
                row = dict(step=step, row=sample.row, question=sample.question, truth=sample.answer)
                row |= dict(answer=text) | part
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _begin(self, done):
        "Leave the rows of the steps before a checkpoint; those after it belong to a past that did not happen"
        self.begun = True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        goes_on = done > 0 and self.path.exists()
        lines = self.path.read_text(encoding="utf-8").splitlines() if goes_on else []
        whole = [line for line in lines if line.endswith("}")]  # a kill may have torn the last one
        kept = [line for line in whole if json.loads(line)["step"] <= done]
        write_whole(self.path, "".join(line + "\n" for line in kept))


class HeldOutReward(TrainerCallback):
    "Every so many steps a sampled answer to each held-out picture; their mean reward is `eval/reward`"

    def __init__(self,
        processor,  # of the model
        samples: list,  # held-out `Sample`s
        settings,  # `GRPOSettings`, checked: reward, eval_steps, and how to ask
        log: RunLog,  # of the run
    ):
        self.processor, self.samples, self.settings, self.log = processor, samples, settings, log
        self.reward = on_batch(load_reward(settings.reward))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        # The first process asks; where the weights lie on several, none can ask alone.
        if state.global_step % self.settings.eval_steps or not state.is_world_process_zero:
            return
        s = self.settings
        answers = generate_answers(model, self.processor, self.samples, temperature=s.temperature,
                                   max_new_tokens=s.max_completion_length, batch_size=s.eval_batch_size,
                                   looks=s.max_looks)
        parts = self.reward([texts[0] for texts in answers], self.samples)
        mean = sum(part["overall"] for part in parts) / len(parts)
        self.log.append({"step": state.global_step, "eval/reward": mean})


class Recorder:
    "Keeps a group of the first, the middle and the latest batch; a file shows the latest logged batch"

    def __init__(self,
        group_size: int,  # G
        path: str | Path | None = None,  # JSON file of the latest logged batch, with pictures; None: no file
        every: int = 1,  # steps between two writings
        most: int = 4,  # groups in the file
        eye: Eye = None,  # of a model that looks twice, see `zoom_turns.eye_for`
    ):
        self.group_size, self.path, self.every, self.most, self.eye = group_size, path, every, most, eye
        self.kept = {}  # "1 first", "2 middle", "3 last" → `RolloutGroup`

    def __call__(self, texts, parts, samples, state):
        step, last, G = state.global_step, state.max_steps, self.group_size
        title = f"step {step + 1} of {last}"
        groups = []
        for i in range(0, len(texts), G):
            groups.append(self._group(texts[i:i + G], parts[i:i + G], samples[i], title))
        # Eight equal answers have nothing to show, so a group with a signal is taken where there is one.
        teaching = [g for g in groups if any(rollout.advantage for rollout in g.rollouts)]
        chosen = teaching if teaching else groups
        self.kept[self._slot(step, last)] = chosen[0]
        is_logged = (step + 1) % self.every == 0
        if self.path and is_logged:
            shown = [self._shown(group) for group in groups[:self.most]]
            write_json(self.path, dict(step=step + 1, total_steps=last, groups=shown))

    def _slot(self, step, last):
        "Which of the three kept groups this step gives; the last one is replaced until the run ends"
        if not self.kept:
            return "1 first"
        if "2 middle" not in self.kept and 2 * step >= last:
            return "2 middle"
        return "3 last"

    def _group(self, texts, parts, sample, title):
        scaled = advantages([p["overall"] for p in parts])
        said = [on_one_line(text) for text in texts]
        rollouts = [Rollout(*row) for row in zip(said, parts, scaled)]
        return RolloutGroup(_drawn(sample, texts, self.eye), rollouts, title=title)

    def _shown(self, group):
        "A group with its first picture as a data URL"
        sample = group.sample
        answers = [asdict(rollout) for rollout in group.rollouts]
        return dict(question=sample.question, truth=sample.answer, image=_data_url(sample), answers=answers)

    def rows(self) -> list:
        "The kept groups as plain dictionaries, pictures left out"
        rows = []
        for slot, group in sorted(self.kept.items()):
            _, when = slot.split()
            sample = group.sample
            row = dict(when=when, title=group.title, question=sample.question, answer=sample.answer)
            row["row"] = sample.row
            row["rollouts"] = [asdict(rollout) for rollout in group.rollouts]
            rows.append(row)
        return rows


def chosen_pictures(
    samples: list,  # held-out `Sample`s
    most: int = 4,  # of them
) -> list:  # their places
    "The first samples with different truths: settled before a run, so that none is picked for its answers"
    places = {}
    for i, sample in enumerate(samples):
        places.setdefault(sample.answer, i)
    return list(places.values())[:most]


class SamePictures(TrainerCallback):
    "The same held-out pictures at the first, middle and last step, in a file; random states stay the same"

    def __init__(self,
        processor,  # of the model
        samples: list,  # held-out `Sample`s
        settings,  # `GRPOSettings`, checked: how to ask
        path: str | Path,  # JSON file that grows with the run
        resumed: bool = False,  # go on with what an earlier attempt wrote
    ):
        self.processor, self.samples, self.settings, self.path = processor, samples, settings, Path(path)
        self.places, self.eye = chosen_pictures(samples), eye_for(settings)
        self.stages = {}  # first, middle or last → what was said
        self.flips = []
        if resumed and self.path.exists():
            kept = json.loads(self.path.read_text())
            self.stages = {stage["when"]: stage for stage in kept["stages"]}

    def keep(self,
        when: str,  # first, middle or last
        step: int,  # optimizer steps taken
        answers: dict,  # from `predict`: on the chosen pictures, in their order
    ):
        "Write what was said at one stage"
        self.stages[when] = dict(when=when, step=step, **answers)
        in_order = ("first", "middle", "last")
        stages = [self.stages[name] for name in in_order if name in self.stages]
        pictures = [_pictured(self.samples[i]) for i in self.places]
        write_json(self.path, dict(pictures=pictures, stages=stages, flips=self.flips))

    def of_all(self,
        answers: dict,  # from `predict`, on all held-out pictures
    ) -> dict:  # of the chosen ones
        "The answers to the chosen pictures"
        return {how: [texts[i] for i in self.places] for how, texts in answers.items()}

    def keep_flips(self,
        before: dict,  # from `predict`
        after: dict,  # from `predict`
        most: int = 4,  # of either kind
    ):
        "The first pictures that became right and the first that became wrong, for the report"
        became_right, became_wrong = [], []
        for sample, (early, *_), (late, *_) in zip(self.samples, before["greedy"], after["greedy"]):
            was = bool(is_right(early, sample.answer, sample.task))
            now = bool(is_right(late, sample.answer, sample.task))
            kept = became_right if now else became_wrong
            if was != now and len(kept) < most:
                flip = dict(before=early, after=late, became_right=now)
                kept.append(_pictured(sample, [early, late], self.eye) | flip)
        self.flips = became_right + became_wrong

    def on_step_end(self, args, state, control, model=None, **kwargs):
        # one look at or behind the middle; a run that is resumed behind it may have had none
        before_the_middle = 2 * state.global_step < state.max_steps
        if not state.is_world_process_zero or "middle" in self.stages or before_the_middle:
            return
        asked = [self.samples[i] for i in self.places]
        self.keep("middle", state.global_step, predict(model, self.processor, asked, self.settings))


def _drawn(sample, answers, eye):
    "A sample as a card shows it: truth and answers of boxes on the picture, looks and what they gave beside it"
    return with_looks_drawn(with_boxes_drawn(sample, answers), answers, eye)


def _pictured(sample, answers=(), eye=None):
    "A sample with its first picture as a data URL; what answers say of it is drawn on it"
    image = _data_url(_drawn(sample, answers, eye))
    return dict(row=sample.row, question=sample.question, answer=sample.answer, image=image)


def _data_url(sample):
    "The first picture of a sample, small, as a data URL; None where it has none"
    if not sample.images:
        return None
    # `thumbnail` gives an <img> tag; its first quoted text is the address
    return thumbnail(sample.images[0], THUMBNAIL).split('"')[1]

"""What a GRPO run keeps while it goes, if it is asked to: every answer with what it earned, and what the
policy earns on pictures that it does not train on.

Written by hand, not exported from a notebook."""
import hashlib
import json
import os
from pathlib import Path

from transformers import TrainerCallback

from .answers import generate_answers
from .core import RunLog
from .folders import manifest_name, write_whole
from .rewards import load_reward, on_batch
from .settings import trained_rewards

__all__ = ["Completions", "HeldOutReward", "judges_of", "told_together"]


def judges_of(
    reward: str,  # the setting
) -> list:  # a dict for each trained model in it; empty where a rule alone pays
    "Which trained models paid for a run: enough to tell one from another, and how good each was said to be"
    return [_judge(chapter, Path(folder)) for chapter, folder in trained_rewards(reward)]


def _judge(chapter, folder):
    "What is known of a trained model from the files beside it; nothing is loaded"
    # A run of chapter 03 keeps its model in a folder of that name, which tells nobody apart.
    run = folder.resolve().parent if folder.name == "model" else folder.resolve()
    known = dict(kind=chapter, name=run.name, fingerprint=_fingerprint(folder))
    about = _object_in(folder / "reward_model.json")
    if about.get("base"):
        known["base"] = Path(about["base"]).name
    results = _object_in(run / "results.json")
    for name in ("pair_accuracy", "accuracy", "macro_f1", "ci95", "n", "commit"):
        if name in results:
            known[name] = results[name]
    return known


def _fingerprint(folder):
    "16 characters that change with any byte of a committed folder; None where it has no manifest"
    try:
        return hashlib.sha256((folder / manifest_name).read_bytes()).hexdigest()[:16]
    except FileNotFoundError:
        return None


def _object_in(path):
    "A JSON object; an empty one where there is no such file, or something else in it"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


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
                                   max_new_tokens=s.max_completion_length, batch_size=s.eval_batch_size)
        parts = self.reward([texts[0] for texts in answers], self.samples)
        mean = sum(part["overall"] for part in parts) / len(parts)
        self.log.append({"step": state.global_step, "eval/reward": mean})

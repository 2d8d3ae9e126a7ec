"""The race of chapter 07: whole training steps of stock TRL and of the shared prompt, in turns, on the same
twin.

Time, memory and equality are measured here; what is measured lies below, in `shared_prompt` and `grpo`. Both
sides get the same untrained weights, prompts and adapter, and every answer goes to its full length, so that
they do the same work. Written by hand."""
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from .core import Sample
from .data import encode, synthetic_counting, to_dataset
from .grpo import GRPOSettings, make_trainer
from .models import add_lora, families, limit_pixels, tiny_twin
from .settings import SettingsError, nearest, read_settings
from .shared_prompt import copied, replaced_methods, token_bound

__all__ = ["profiles", "RaceSettings", "run_race", "where_time_goes", "step_memory"]

# What a prompt shows and how long its answers are: `side` in pixels (0: no picture), `C` in tokens
profiles = {
    "counting": dict(side=512, C=16),
    "reasoning": dict(side=512, C=256),
    "text": dict(side=0, C=64),
}
_group, _prompts = 8, 2  # answers to a prompt, and prompts of a step, where nothing else is said
_rank, _alpha = 16, 32  # of the adapter: the main job's
_no_token = -1  # a token id that no answer holds, so that none ends early
_parts = {  # a method of TRL's trainer (1.16) -> the part of a step that it is
    "_generate_single_turn": "sampling",
    "_generate_and_score_completions": "scoring",
    "training_step": "optimizing",
}


@dataclass
class RaceSettings:
    "Settings of the race; the parameters cell of chapter 07 holds the same names, types and comments"
    profile: str = "counting" # counting (short answers), reasoning (256 tokens) or text (no picture)
    width: int = 512 # Hidden size of the twin that races; 128 is the smallest
    depth: int = 4 # Its layers
    family: str = "qwen2_5_vl" # Whose twin races
    rounds: int = 3 # Steps of each side that are timed, alternating, after one to warm up
    race: bool = False # Run the race here; false shows the stored one
    output_dir: str = "runs/07_shared_prompt" # Where results.json goes

    def check(self):
        "Refuse what cannot be"
        if self.profile not in profiles:
            raise SettingsError(f"profile = {self.profile!r}{nearest(self.profile, list(profiles))}")
        if self.width < 128 or self.width % 32:
            raise SettingsError(f"width = {self.width}: expected a multiple of 32, 128 or more")
        if min(self.depth, self.rounds) < 1:
            raise SettingsError(f"depth = {self.depth}, rounds = {self.rounds}: expected 1 or more")
        if self.family not in families:
            raise SettingsError(f"family = {self.family!r}{nearest(self.family, list(families))}")


def run_race(
    settings: RaceSettings,  # a checked object
    G: int = _group,  # answers to a prompt
    prompts: int = _prompts,  # of a step
    build=None,  # (settings, shared, G, prompts) → a trainer with `prompt_tokens`; None: that of the twins
) -> dict:  # a row of results.json; seconds and MB, medians over the rounds
    "Time and memory of whole steps, stock TRL and shared in turns, and how far their numbers differ"
    build = build or _racer
    sides = {"stock": build(settings, False, G, prompts), "shared": build(settings, True, G, prompts)}
    times = {name: [] for name in sides}
    for turn in range(settings.rounds + 1):
        # In turns, so that a machine that slows down slows both. The first step of each only warms up.
        for name, trainer in sides.items():
            spent = _timed_step(trainer)
            if turn > 0:
                times[name].append(spent)
    P, C = sides["shared"].prompt_tokens, profiles[settings.profile]["C"]
    row: dict = dict(profile=settings.profile, family=settings.family)
    row |= dict(width=settings.width, depth=settings.depth, G=G, prompts=prompts, P=P, C=C)
    for name in sides:
        for part in ("seconds", "sampling", "scoring", "optimizing", "processor"):
            row[f"{name}_{part}"] = median(spent[part] for spent in times[name])
    row |= dict(ratio=row["stock_seconds"] / row["shared_seconds"], bound=token_bound(P, C, G))
    row["processor_ratio"] = row["stock_processor"] / row["shared_processor"]
    for name in sides:
        seconds = [spent["seconds"] for spent in times[name]]
        row[f"{name}_spread"] = (max(seconds) - min(seconds)) / median(seconds)
    row["rounds"] = settings.rounds
    for name, trainer in sides.items():
        # Without a GPU memory is measured on a twin in a process of its own, not on what somebody else has built.
        can_measure = build is _racer or torch.cuda.is_available()
        row[f"{name}_memory_mb"] = step_memory(settings, name == "shared", trainer) if can_measure else None
    return row | _equality(sides["shared"], G)


def _racer(settings, shared, G, prompts):
    "A trainer on an untrained wide twin; both sides get the same weights, prompts and seeds"
    side, C = profiles[settings.profile].values()
    model, processor = tiny_twin(settings.family, width=settings.width, depth=settings.depth)
    if side:
        limit_pixels(processor, side)
    samples = _questions(side, 4 * prompts)
    own = read_settings(GRPOSettings, dict(
        batch_size=G * prompts, num_generations=G, max_steps=1, max_completion_length=C, shared_prompt=shared,
        lora_r=_rank, lora_alpha=_alpha, lora_dropout=0.0, save_steps=0, logging_steps=1,
        output_dir="runs/07_race"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)  # the adapter's first weights too
    model = add_lora(model.to(device), _rank, _alpha, 0.0)
    model.generation_config.eos_token_id = None
    trainer = make_trainer(own, model, processor, to_dataset(samples))
    # Three places know where an answer ends; all must forget it, or sides would do unequal work.
    trainer.eos_token_ids = [_no_token]
    trainer.generation_config.eos_token_id = None
    trainer.prompt_tokens = encode(processor, samples[:1])["input_ids"].shape[1]
    return trainer


def _questions(side, n):
    "`n` questions about pictures of `side` pixels; with 0 longer ones without a picture"
    question = "How many discs are there?" + ("" if side else " Think about it." * 10)
    samples = []
    for number, drawn in enumerate(synthetic_counting(n)):
        images = [drawn.images[0].resize((side, side))] if side else []
        samples.append(Sample(question, drawn.answer, images, "counting", number))
    return samples


# Time

def _timed_step(trainer):
    """Seconds of one `training_step` and of its parts; `processor` are those that this process computed.

    On a machine that others use, the processor's seconds say more than the clock's."""
    spent = {}
    begun = time.process_time()
    places = [(trainer, method, _always(part)) for method, part in _parts.items()]
    with _stopwatches(places, spent):
        trainer.train()
    # The methods lie within each other: a step scores, and scoring samples.
    spent["optimizing"] -= spent["scoring"]
    spent["scoring"] -= spent["sampling"]
    spent["seconds"] = sum(spent.values())
    return spent | dict(processor=time.process_time() - begun)


@contextmanager
def _stopwatches(places, spent):
    """Within the block, methods add their seconds to `spent`.

    `places` is a list of (owner, method, name): `name` makes the key in `spent` from the call's arguments."""
    clocked = {}
    for owner, method, name in places:
        clocked[owner, method] = _clocked(getattr(owner, method), spent, name)
    with replaced_methods(clocked):
        yield


def _clocked(function, spent, name):
    "`function` that adds its seconds to `spent`, under what `name` makes of its arguments"
    def clocked(*args, **kwargs):
        key, begun = name(*args, **kwargs), time.perf_counter()
        result = function(*args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # a GPU only queues its work: without this nothing seems to take time
        spent[key] = spent.get(key, 0.0) + time.perf_counter() - begun
        return result
    return clocked


def _always(part):
    "A `name` for `_stopwatches` that is the same for every call"
    def name(*args, **kwargs):
        return part
    return name


def _language_model_part(*args, inputs_embeds=None, **kwargs):
    "What the language model is doing, by its arguments: with gradient it trains, one token wide it samples"
    if torch.is_grad_enabled():
        return "training, forward"
    return "sampling, a token at a time" if inputs_embeds.shape[1] == 1 else "reading the prompts"


def where_time_goes(
    settings: RaceSettings,  # a checked object
    steps: int = 3,  # timed, after one to warm up
) -> dict:  # part: seconds a step, medians
    "A shared step by its parts"
    trainer = _racer(settings, True, _group, _prompts)
    core = trainer.model.get_base_model().model
    tower = core.visual if hasattr(core, "visual") else core.vision_tower
    places = [
        (tower, "forward", _always("vision tower")),
        (core.language_model, "forward", _language_model_part),
        (trainer, "training_step", _always("whole")),
        (trainer.accelerator, "backward", _always("training, backward")),
    ]
    found = []
    for turn in range(steps + 1):
        spent = {}
        with _stopwatches(places, spent):
            trainer.train()
        if turn > 0:
            found.append(spent)
    parts = {part: median(spent.get(part, 0.0) for spent in found) for part in found[0]}
    whole = parts.pop("whole")
    return parts | {"everything else": whole - sum(parts.values())}


# Equality

def _equality(trainer, G):
    "Largest difference of a log-prob and relative difference of the gradient, both paths on one batch"
    trainer.model.eval()  # dropout would differ between any two forwards
    trainer.num_generations_eval = G
    rows = []
    for prompt in range(2):
        rows += [trainer.train_dataset[prompt] for _ in range(G)]
    batch = trainer._generate_and_score_completions(rows)
    # Untrained answers may all earn the same, and advantages of zero would make any two gradients equal.
    batch["advantages"] = torch.randn(len(rows), device=batch["advantages"].device)
    plain_batch = copied(batch, G)
    gap = trainer.shared_gap(plain_batch, G)
    shared = _gradient(trainer, batch, True)
    plain = _gradient(trainer, plain_batch, False)
    relative = ((shared - plain).norm() / plain.norm()).item()
    return dict(max_logprob_difference=gap, relative_gradient_difference=relative)


def _gradient(trainer, batch, shared):
    "All gradients of the loss on one batch, as one vector"
    trainer.sharing, trainer.current_gradient_accumulation_steps = shared, 1
    trainer.model.zero_grad()
    trainer._compute_loss(trainer.model, batch).backward()
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


# Memory

def step_memory(
    settings: RaceSettings,  # a checked object
    shared: bool,  # which side
    trainer=None,  # that side's, for a GPU; None: one is built
) -> float:  # MB
    "The most memory that one step adds: on a GPU as torch counts it, else in a process of its own, on a twin"
    if torch.cuda.is_available():
        trainer = trainer or _racer(settings, shared, _group, _prompts)
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        trainer.train()
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    # A process of its own, since one that has once held much seldom gives it back. glibc is asked to give
    # back at once what is larger than 128 KB (its own first value, held): else much of the mark is holes
    # between tensors.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(128 << 10)}
    command = [sys.executable, "-m", "vlrlbook.race", json.dumps(vars(settings)), json.dumps(shared)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.split("MB")[-1])


def _memory_added_here(settings, shared):
    "MB that a step adds to this process: the highest mark less what was held before"
    trainer = _racer(settings, shared, _group, _prompts)
    Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the old mark (proc(5))
    held = _proc_mb("VmRSS")
    trainer.train()
    return _proc_mb("VmHWM") - held


def _proc_mb(name):
    "A line of /proc/self/status, which the kernel writes in KB, as MB"
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 2**10


if __name__ == "__main__":  # what `step_memory` starts
    print("MB", _memory_added_here(RaceSettings(**json.loads(sys.argv[1])), json.loads(sys.argv[2])))

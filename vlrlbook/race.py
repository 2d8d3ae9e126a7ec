"""The race of chapter 07: training steps of stock TRL against those with shared prompts, on the same tiny
model.

Time, memory and equality are measured here; what is measured is in `shared_prompt` and `grpo`. Both sides get
the same untrained weights, prompts and adapter, and every answer goes to its full length, so that they do the
same work. Written by hand."""
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

from .chapters import own_python
from .core import Sample
from .data import encode, synthetic_counting, to_dataset
from .grpo import GRPOSettings, make_trainer
from .models import add_lora, families, limit_pixels, size_problem, tiny_twin
from .settings import SettingsError, nearest, read_settings
from .shared_prompt import copied, replaced_methods, token_bound

__all__ = ["profiles", "RaceSettings", "run_race", "where_time_goes", "step_memory"]

# What a prompt shows and how long its answers are: `side` in pixels (0: no picture), `C` in tokens
profiles = {
    "counting": dict(side=512, C=16),
    "reasoning": dict(side=512, C=256),
    "text": dict(side=0, C=64),
}
_answers_a_prompt, _prompts_a_step = 8, 2  # defaults of the race; chapter 05 takes 8 answers, too
_lora_rank, _lora_alpha = 16, 32  # of the adapter, the same on both sides
_no_token = -1  # a token id that no answer holds, so that none ends early
_method_parts = {  # a method of TRL's trainer (1.16) -> the part of a step that it does
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
        "Raise SettingsError, with what would be valid, for the first setting with an impossible value"
        if self.profile not in profiles:
            raise SettingsError(f"profile = {self.profile!r}{nearest(self.profile, list(profiles))}")
        # 64: two attention heads of 32, of which a twin has an even number. The lower end is its default width.
        if self.width < 128 or self.width % 64:
            raise SettingsError(f"width = {self.width}: expected a multiple of 64, 128 or more")
        if min(self.depth, self.rounds) < 1:
            raise SettingsError(f"depth = {self.depth}, rounds = {self.rounds}: expected 1 or more")
        if self.family not in families:
            raise SettingsError(f"family = {self.family!r}{nearest(self.family, list(families))}")
        if problem := size_problem(self.family, self.width, self.depth):
            raise SettingsError(problem)


def run_race(
    settings: RaceSettings,  # a checked object
    G: int = _answers_a_prompt,  # answers to a prompt
    prompts: int = _prompts_a_step,  # of a step
    build=None,  # (settings, shared, G, prompts) → trainer with `prompt_tokens`; None: that of a tiny model
) -> dict:  # a row of results.json; seconds and MB, medians over the rounds
    """Measure time and memory of whole training steps of two sides, and how far their numbers differ.

    "stock" is TRL as it is, which reads a prompt again for each of its G answers. "shared" is our trainer,
    which reads it once for all of them."""
    build = build or _twin_trainer
    # name of the side → its trainer; the third argument says whether prompts are shared
    sides = {"stock": build(settings, False, G, prompts), "shared": build(settings, True, G, prompts)}
    P, C = sides["shared"].prompt_tokens, profiles[settings.profile]["C"]  # tokens of prompt and of answer
    row: dict = dict(profile=settings.profile, family=settings.family, width=settings.width,
                     depth=settings.depth, G=G, prompts=prompts, P=P, C=C)
    # `token_bound`: how many times fewer tokens the shared side reads, so it cannot be faster than that
    row |= _time_columns(_times_of(sides, settings.rounds), bound=token_bound(P, C, G))
    row["rounds"] = settings.rounds
    # Without a GPU `step_memory` measures in another process, which cannot use the caller's `build`.
    can_measure = build is _twin_trainer or torch.cuda.is_available()
    for name, trainer in sides.items():
        row[f"{name}_memory_mb"] = step_memory(settings, name == "shared", trainer) if can_measure else None
    return row | _differences(sides["shared"], G)  # of log-probs and gradients, with and without sharing


def _time_columns(
    times,  # "stock" and "shared" → a dict for each step: seconds of it, its parts and the processor
    bound,  # how many times faster the tokens that sharing saves allow a step to be, at most
):
    "The columns of a race's row about time: medians of both sides, their ratios, how far the rounds differ"
    columns = {}
    for name, steps in times.items():
        for part in ("seconds", "sampling", "scoring", "optimizing", "processor"):
            columns[f"{name}_{part}"] = median(step[part] for step in steps)
    # How many times faster sharing was, and the most that the saved tokens allow.
    columns |= dict(ratio=columns["stock_seconds"] / columns["shared_seconds"], bound=bound)
    columns["processor_ratio"] = columns["stock_processor"] / columns["shared_processor"]
    for name, steps in times.items():
        # The range of the rounds, as a share of their median
        seconds = [step["seconds"] for step in steps]
        columns[f"{name}_spread"] = (max(seconds) - min(seconds)) / median(seconds)
    return columns


def _times_of(
    sides,  # name of the side → its trainer
    rounds,  # steps of each side that are timed, after one to warm up
):
    """Time the training steps of all sides; return a dict: name of the side → a dict for each of its steps.

    The dict of a step has seconds for each of: sampling, scoring, optimizing, seconds (their sum), processor
    (CPU time). The sides take turns, so that a machine that slows down slows all of them."""
    times = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, trainer in sides.items():
            seconds_of = _timed_step(trainer)  # part → seconds
            if turn > 0:  # the first step only warms up
                times[name].append(seconds_of)
    return times


def _twin_trainer(
    settings,  # `RaceSettings`
    shared,  # True: each prompt is read once for all its answers; False: for each answer, as in stock TRL
    G,  # answers to a prompt
    prompts,  # of a step
):  # a GRPO trainer with `prompt_tokens`, the tokens of its first prompt
    """Build a trainer of one step for a tiny random model (a twin).

    Each call makes the same weights and questions."""
    model, processor = _twin_with_adapter(settings)
    # A step needs `prompts` questions and `_differences` two: four times `prompts` is enough for both.
    samples = _questions(profiles[settings.profile]["side"], 4 * prompts)
    run_settings = _settings_of_step(settings.profile, shared, G, prompts)
    # No token may end an answer early, so that all steps do the same work. Three places hold such tokens: the
    # settings for generating of model and trainer, and a list of the trainer's.
    model.generation_config.eos_token_id = None
    trainer = make_trainer(run_settings, model, processor, to_dataset(samples))
    trainer.eos_token_ids = [_no_token]
    trainer.generation_config.eos_token_id = None
    trainer.prompt_tokens = encode(processor, samples[:1])["input_ids"].shape[1]
    return trainer


def _twin_with_adapter(
    settings,  # `RaceSettings`: family, width and depth of the model; profile, what its prompts show
):
    "(a tiny random model with a LoRA adapter, on the GPU if there is one; its processor)"
    model, processor = tiny_twin(settings.family, width=settings.width, depth=settings.depth)
    picture_side = profiles[settings.profile]["side"]  # in pixels; 0: the profile has no pictures
    if picture_side:
        limit_pixels(processor, picture_side)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)  # so that the adapter's first weights, which are random too, are always the same
    return add_lora(model.to(device), _lora_rank, _lora_alpha, 0.0), processor


def _settings_of_step(
    profile,  # counting, reasoning or text: decides how long the answers are
    shared,  # True: each prompt is read once for all its answers; False: for each answer, as in stock TRL
    G,  # answers to a prompt
    prompts,  # of a step
):
    "The `GRPOSettings` of a run of one step; what both sides of the race must have alike is fixed"
    # No dropout, since it is random, and no checkpoints, which would take time.
    return read_settings(GRPOSettings, dict(
        batch_size=G * prompts, num_generations=G, max_steps=1, max_completion_length=profiles[profile]["C"],
        shared_prompt=shared, lora_r=_lora_rank, lora_alpha=_lora_alpha, lora_dropout=0.0, save_steps=0,
        logging_steps=1, output_dir="runs/07_race"))


def _questions(
    side,  # of the square pictures, in pixels; 0: no pictures
    n,  # questions
):
    "A list of `Sample`: questions about a picture; longer ones without, so that there is a prompt to share"
    question = "How many discs are there?" + ("" if side else " Think about it." * 10)
    samples = []
    for number, drawn in enumerate(synthetic_counting(n)):
        images = [drawn.images[0].resize((side, side))] if side else []
        samples.append(Sample(question, drawn.answer, images, "counting", number))
    return samples


# Time

def _timed_step(
    trainer,  # a GRPO trainer whose settings end a run after one step
):
    """Train one step; return a dict of `sampling`, `scoring`, `optimizing`, `seconds` and `processor`.

    `seconds` is the sum of the three before it, which are parts of the step. `processor` is the CPU time of
    this process. On a machine that others use, it says more than the clock."""
    seconds_of = {}
    cpu_start = time.process_time()
    # a method of TRL's trainer → the part that it does: "sampling", "scoring" or "optimizing". `_time_calls`
    # calls a function to learn the part of a call; that of `_always` says the same of every call.
    timed = [(trainer, method, _always(part)) for method, part in _method_parts.items()]
    with _time_calls(timed, seconds_of):
        trainer.train()  # a single step, since its `max_steps` is 1
    # The three methods call each other, and the outer one's time includes the inner one's: `training_step`
    # scores, and scoring samples.
    seconds_of["optimizing"] -= seconds_of["scoring"]
    seconds_of["scoring"] -= seconds_of["sampling"]
    seconds_of["seconds"] = sum(seconds_of.values())
    return seconds_of | dict(processor=time.process_time() - cpu_start)


@contextmanager
def _time_calls(
    timed,  # list of (object, name of its method, part_of): part_of(*args, **kwargs) names the part of a call
    seconds_of,  # dict, part → seconds; gets the times
):
    "Measure all calls of some methods within a `with` block; their seconds by part go to `seconds_of`"
    replacements = {}
    for owner, method, part_of in timed:
        replacements[owner, method] = _timed(getattr(owner, method), seconds_of, part_of)
    with replaced_methods(replacements):  # puts the methods back at the end of the block
        yield


def _timed(
    function,  # whose calls are timed
    seconds_of,  # dict, part of a step → seconds; changed by each call
    part_of,  # called with the arguments of a call: which part the call belongs to, such as "sampling"
):
    "Wrap a function, so that the seconds of each call are added to those of the part that it belongs to"
    def timed(*args, **kwargs):
        "Call `function`; add the seconds that it takes to those of its part in the dict `seconds_of`"
        part = part_of(*args, **kwargs)
        start = time.perf_counter()
        result = function(*args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # a GPU only queues its work: without this nothing seems to take time
        seconds_of[part] = seconds_of.get(part, 0.0) + time.perf_counter() - start
        return result
    return timed


def _always(part):
    "Make a function that returns `part` whatever it gets: for a method all of whose calls do the same part"
    def part_of(*args, **kwargs):
        return part
    return part_of


def _language_model_part(
    *args,
    inputs_embeds=None,  # [rows, tokens, hidden]: what the model reads in this call
    **kwargs,
):
    """Which part of a training step a call of the language model belongs to, told from its arguments.

    With gradients it trains. Without, it samples where the input is one token long, since the earlier ones
    are in the cache, and reads the prompts where it is longer."""
    if torch.is_grad_enabled():
        return "training, forward"
    return "sampling, a token at a time" if inputs_embeds.shape[1] == 1 else "reading the prompts"


def where_time_goes(
    settings: RaceSettings,  # a checked object
    steps: int = 3,  # timed, after one to warm up
) -> dict:  # part: seconds a step, medians
    "How long each part of a training step with shared prompts takes: vision tower, prompts, sampling, …"
    trainer = _twin_trainer(settings, shared=True, G=_answers_a_prompt, prompts=_prompts_a_step)
    timed = _methods_to_time(trainer)
    timed_steps = []  # for each step a dict: part → seconds
    for turn in range(steps + 1):
        seconds_of = {}
        with _time_calls(timed, seconds_of):
            trainer.train()  # a single step in each call, since its `max_steps` is 1
        if turn > 0:  # the first step only warms up
            timed_steps.append(seconds_of)

    # A part that a step lacks took no time in it.
    parts = {part: median(step.get(part, 0.0) for step in timed_steps) for part in timed_steps[0]}
    whole = parts.pop("whole")  # within it lie all the others, one after another
    return parts | {"everything else": whole - sum(parts.values())}


def _methods_to_time(
    trainer,  # of a model with a LoRA adapter
):
    "What is timed of a training step: (object, name of its method, function that names a call's part) each"
    # the model below the adapter and below the head that makes tokens: vision tower and language model
    core = trainer.model.get_base_model().model
    # the vision tower: the first is Qwen's name of it, the second that of other families
    tower = core.visual if hasattr(core, "visual") else core.vision_tower
    return [
        (tower, "forward", _always("vision tower")),
        # by its arguments: "training, forward", "reading the prompts" or "sampling, a token at a time"
        (core.language_model, "forward", _language_model_part),
        (trainer, "training_step", _always("whole")),  # the others lie within it, one after another
        (trainer.accelerator, "backward", _always("training, backward")),
    ]


# Equality

def _differences(
    trainer,  # of the side with shared prompts
    G,  # answers to a prompt
):
    """Compare log-probs and gradients with and without shared prompts, on groups of G answers.

    Returns a dict: the largest difference of a log-prob in one group, and the relative difference of the
    gradient of two groups."""
    trainer.model.eval()  # without dropout, which is random in each forward
    batch = _scored_groups(trainer, G)
    plain_batch = copied(batch, G)  # with the pictures copied to every row, as stock TRL has it
    # the largest difference of a log-prob; `shared_gap` reads the first group in both ways
    gap = trainer.shared_gap(plain_batch, G)
    shared = _gradient(trainer, batch, shared=True)
    plain = _gradient(trainer, plain_batch, shared=False)
    relative = ((shared - plain).norm() / plain.norm()).item()
    return dict(max_logprob_difference=gap, relative_gradient_difference=relative)


def _scored_groups(
    trainer,  # whose data set has two prompts or more
    G,  # answers to a prompt
):
    "A batch of TRL's with 2 groups of G answers to a trainer's first two prompts, and random advantages"
    # the group size that TRL uses for a model that does not train; the trainer keeps it
    trainer.num_generations_eval = G
    rows = []
    for prompt in range(2):
        rows += [trainer.train_dataset[prompt] for _ in range(G)]
    batch = trainer._generate_and_score_completions(rows)  # TRL's method: answers, rewards, log-probs
    # Random: if all answers earned the same, advantages of zero would make any two gradients equal.
    batch["advantages"] = torch.randn(len(rows), device=batch["advantages"].device)
    return batch


def _gradient(
    trainer,  # with our switch `sharing`
    batch,  # of TRL's, a dict: tokens of prompts and answers, log-probs, advantages, pictures
    shared,  # True: each prompt is read once for all its answers; False: for each answer
):
    "All gradients of the loss on one batch, as one vector; the trainer's `sharing` stays as `shared` says"
    trainer.sharing = shared
    trainer.current_gradient_accumulation_steps = 1  # TRL's loss reads it, and only `train` would set it
    trainer.model.zero_grad()
    trainer._compute_loss(trainer.model, batch).backward()
    # None: a frozen weight
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


# Memory

def step_memory(
    settings: RaceSettings,  # a checked object
    shared: bool,  # True: a prompt is read once for all its answers; False: for each, as stock TRL does
    trainer=None,  # reads prompts as `shared` says; used on a GPU only; None: one is built
) -> float:  # MB
    "Most memory that one training step adds: on a GPU as torch counts it, else measured in another process"
    if not torch.cuda.is_available():
        return _memory_added_elsewhere(settings, shared)
    # `_twin_trainer`: the trainer of a small model with random weights
    trainer = trainer or _twin_trainer(settings, shared, _answers_a_prompt, _prompts_a_step)
    bytes_before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    trainer.train()
    return (torch.cuda.max_memory_allocated() - bytes_before) / 2**20


def _memory_added_elsewhere(
    settings,  # `RaceSettings`
    shared,  # True: each prompt is read once for all its answers; False: for each answer
):
    "MB that a training step adds, measured in a new process, since this one may hold memory it does not use"
    # The variable makes glibc return freed blocks of 128 KB or more at once, so that they are not counted.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(128 << 10)}
    # The process runs this module as a program: it measures in itself, and prints the number.
    command = [*own_python(), "-m", "vlrlbook.race", json.dumps(vars(settings)), json.dumps(shared)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.split("MB")[-1])  # the last line is such as "MB 123.4"


def _memory_added_here(
    settings,  # `RaceSettings`
    shared,  # True: each prompt is read once for all its answers; False: for each answer
):
    "MB that a training step adds to this process: the highest memory use during it, minus that before it"
    trainer = _twin_trainer(settings, shared, _answers_a_prompt, _prompts_a_step)
    Path("/proc/self/clear_refs").write_text("5")  # resets the kernel's peak, VmHWM (proc(5))
    mb_before = _proc_mb("VmRSS")  # memory in use now
    trainer.train()
    return _proc_mb("VmHWM") - mb_before


def _proc_mb(name):
    "A number of this process's memory in MB, by its name in /proc/self/status, such as VmRSS"
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(name))  # such as "VmRSS:   123456 kB"
    kilobytes = int(line.split()[1])
    return kilobytes / 2**10


if __name__ == "__main__":  # what `step_memory` starts
    print("MB", _memory_added_here(RaceSettings(**json.loads(sys.argv[1])), json.loads(sys.argv[2])))

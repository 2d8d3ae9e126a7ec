"""The rows of a GRPO run: drawn or read, split by picture, tried under the run's reward; and what a run will
take, counted before it starts.

Chapter 05 tells of it. Written by hand, not exported from a notebook."""
from dataclasses import replace

from .data import drawn_questions, picture_key, read_task_rows, split_by_picture, synthetic_counting
from .data import to_dataset, with_good_truths, with_system_turn
from .pointing import drawn_for, in_scale_of
from .rewards import check_reward, load_reward
from .settings import GRPOSettings, SettingsError, largest_batch, whole_groups
from .zoom import synthetic_zoom

__all__ = ["held_out_seed", "frozen_seed", "drawn_apart", "load_data", "cost"]

held_out_seed = 2**20  # of the pictures on which chapter 05 measures a run, where they are drawn
frozen_seed = 2**21  # of those on which chapter 06 does
FAR_AWAY = 2**32  # further than any seed that a run is given
ROWS_WITHOUT_STEPS = 2000  # drawn for a run that counts epochs, not steps


def drawn_apart(
    draw,  # (n, seed) → list of `Sample`, such as `synthetic_counting`
    n: int,  # samples
    seed: int,  # same seed, same samples
    others: list,  # of `Sample`, whose pictures must not come
) -> list:  # n samples, none with a picture of `others`
    "Drawn samples for training; one whose picture stands among `others` gives its place to a newly drawn one"
    # A picture of one disc comes twice by chance, the sooner the longer a run; and a run may be given any
    # seed, that of the held-out set too. All that do not meet stay as they were drawn.
    taken = set().union(*map(_keys, others))
    samples = draw(n, seed=seed)
    places, round_number = list(range(n)), 0
    while True:
        places = [i for i in places if taken & _keys(samples[i])]
        if not places:
            return samples
        round_number += 1
        fresh = draw(len(places), seed=seed + round_number * FAR_AWAY)
        for i, sample in zip(places, fresh):
            samples[i] = replace(sample, row=samples[i].row)


def _keys(sample):
    "What tells the pictures of a sample from others"
    return set(map(picture_key, sample.images))


def load_data(
    settings: GRPOSettings,  # a checked object
):  # training and held-out data set, report of what was kept and left out or None
    "Drawn pictures, or a file split by picture; the reward and every truth under it are tried before a step"
    # The reward comes first: a name that is wrong should cost no second.
    reward = load_reward(settings.reward)
    if settings.data is None:
        train, held = _drawn(settings)
        report = None
        check_reward_of_run(reward, settings.reward, train["answer"][0])
    else:
        train, held, report = _read(settings, reward)
    if settings.system_prompt:
        own = set(getattr(report, "own_system", ()))  # rows with words of the system already
        train, held = (with_system_turn(part, settings.system_prompt, own) for part in (train, held))
    if len(train) < settings.prompts_per_step:
        wanted = settings.prompts_per_step
        few = f"{len(train)} training rows are fewer than the {wanted} prompts of a step"
        advice = batch_that_fits(settings, len(train))
        raise SettingsError(f"{few}: {advice}")
    return train, held, report


def _drawn(settings):
    "Training and held-out data set of drawn pictures; no picture is in both, nor in chapter 06's frozen set"
    draw = _drawing(settings)
    steps = settings.max_steps
    n = steps * settings.prompts_per_step if steps > 0 else ROWS_WITHOUT_STEPS
    held_out = draw(settings.eval_samples, seed=held_out_seed)
    frozen = draw(settings.eval_samples, seed=frozen_seed)
    train = drawn_apart(draw, n, settings.seed, held_out + frozen)
    return to_dataset(train), to_dataset(held_out)


def _drawing(settings):
    "What draws the pictures of a task: (n, seed) → samples"
    if settings.task == "pointing":
        return drawn_for(settings.model, settings.max_image_size)
    if settings.task == "zoom":
        return synthetic_zoom
    return synthetic_counting if settings.task == "counting" else drawn_questions


def _read(settings, reward):
    "Training and held-out data set of a file, and the report of what was kept and left out"
    s = settings
    dataset, report = read_task_rows(s.data, s.task, s.image_dir, s.keys, s.skip_bad_rows)
    if s.task == "pointing":
        # a file holds pixels of its pictures; the model sees them in another size, or writes another scale
        dataset = in_scale_of(dataset, s.model, s.max_image_size)
    check_reward_of_run(reward, s.reward, dataset["answer"][0])
    dataset = with_good_truths(dataset, reward, s.skip_bad_rows, report)
    train, held = split_by_picture(dataset, seed=s.seed)
    return train, held.select(range(min(s.eval_samples, len(held)))), report


def batch_that_fits(
    settings: GRPOSettings,  # a checked object
    rows: int,  # of the training set
) -> str:
    "What to do about a step that wants more prompts than there are rows"
    accumulation = settings.gradient_accumulation_steps
    whole_on_each = bool(settings.refill)
    fits = largest_batch(rows, settings.num_generations, accumulation, settings.processes, whole_on_each)
    if fits is None:
        return "fewer gradient_accumulation_steps or processes would do"
    return f"batch_size of at most {fits} would do"


def check_reward_of_run(
    reward,  # (completion, answer) → parts, or a batched one
    name: str,  # as the settings say it
    answer: str,  # a truth that the reward can be asked about
):
    "SettingsError for a reward that raises or returns no numbers on any of chapter 02's hostile texts"
    # Slowness is no reason to refuse a run: a judge that is asked over a network is slow.
    problems = check_reward(reward, answer, milliseconds=float("inf"))
    if problems:
        more = f" ({len(problems)} such texts)" if problems[1:] else ""
        raise SettingsError(f"reward = {name!r}: {problems[0]}{more}")


def cost(
    settings: GRPOSettings,  # a checked object
    model,  # the policy
    checked,  # from `data.preflight`
    rows: int,  # of the training set
) -> dict:  # what the run will take
    "Tokens, answers and memory of a run; memory leaves out activations, which depend on the kernels"
    s, longest_answer = settings, settings.max_completion_length
    steps = s.max_steps if s.max_steps > 0 else rows * s.num_epochs // s.prompts_per_step
    config = model.config.get_text_config()
    weights = list(model.parameters())
    trained = sum(p.numel() for p in weights if p.requires_grad)
    weight_bytes = sum(p.numel() * p.element_size() for p in weights)
    # All answers of a step are sampled at once, those of a micro-batch go through the loss together.
    batch_size, accumulation = whole_groups(s)
    tokens = (checked.prompt_tokens + longest_answer) * batch_size * accumulation
    cached_bytes = _cached(config) * weights[0].element_size()  # of a token
    optimizer = 12 * trained  # 4 bytes of gradient, 8 of AdamW's two moments
    logits = 2 * 4 * batch_size * longest_answer * config.vocab_size  # float32, twice: with their log-softmax
    return {
        "optimizer steps": steps,
        "answers to sample": steps * s.prompts_per_step * s.num_generations,
        "tokens of the longest prompt": checked.prompt_tokens,
        "of them pictures": checked.image_tokens,
        "answer tokens at most": longest_answer,
        "parameters that train": trained,
        "MB of weights": _megabytes(weight_bytes),
        "MB of gradients and AdamW's state": _megabytes(optimizer),
        "MB of the cache while sampling": _megabytes(tokens * cached_bytes),
        "MB of logits in the loss": _megabytes(logits),
    }


def _megabytes(size):
    "Bytes as whole MB"
    return round(size / 2**20)


def _cached(config):
    "Numbers that the cache keeps of a token: a key and a value in every layer"
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head

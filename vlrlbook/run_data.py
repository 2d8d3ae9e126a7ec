"""The rows of a GRPO run: drawn or read, split by picture, tried under the run's reward; and what a run will
take, counted before it starts.

Chapter 05 tells of it. Written by hand, not exported from a notebook."""
from dataclasses import replace

from .data import drawn_questions, picture_key, read_task_rows, rows_by_chance, split_by_picture
from .data import synthetic_counting, to_dataset, with_good_truths, with_system_turn
from .pointing import drawn_for, in_scale_of
from .rewards import check_reward, load_reward
from .settings import GRPOSettings, SettingsError, drawn_rows_of_an_epoch, largest_batch, whole_groups
from .zoom import synthetic_zoom

__all__ = ["held_out_seed", "frozen_seed", "drawn_apart", "load_data", "cost"]

# Seeds of drawn pictures that are kept apart from training; large, so that no user chooses them by chance.
held_out_seed = 2**20  # of the held-out pictures on which chapter 05 evaluates a run
frozen_seed = 2**21  # of the pictures on which chapter 06 evaluates all runs
SEED_STEP = 2**32  # added to a seed for each new draw; larger than any seed that a user gives


def drawn_apart(
    draw,  # (n, seed) → list of `Sample`, such as `synthetic_counting`
    n: int,  # number of samples
    seed: int,  # same seed, same samples
    others: list,  # of `Sample`, whose pictures must not be drawn
) -> list:  # n samples, none with a picture of `others`
    """Draw samples for training whose pictures are none of `others`, such as the held-out ones.

    A sample that has such a picture is replaced by one that is drawn anew; all others stay as they were."""
    # Equal pictures occur: simple ones repeat by chance, and a user may choose the seed of `others`.
    taken = set().union(*map(_picture_keys, others))  # hashes of their pictures
    samples = draw(n, seed=seed)

    indices = list(range(n))  # of the samples that were drawn last
    attempt = 0  # how often samples were drawn anew
    while True:
        indices = [i for i in indices if taken & _picture_keys(samples[i])]  # those to be drawn anew
        if not indices:
            return samples
        attempt += 1
        fresh = draw(len(indices), seed=seed + attempt * SEED_STEP)  # a seed that no user gives
        for i, sample in zip(indices, fresh):
            samples[i] = replace(sample, row=samples[i].row)


def _picture_keys(sample):
    "The set of hashes of a sample's pictures"
    return set(map(picture_key, sample.images))


def load_data(
    settings: GRPOSettings,  # checked
):  # training data set, held-out data set, report of the file's rows (None if pictures were drawn)
    """Load the rows of a GRPO run: drawn pictures, or a file that is split by picture.

    The reward is tried on hostile texts, and on all true answers of a file: a bad one stops the run here,
    before a model is loaded."""
    reward = load_reward(settings.reward)  # first of all, so that a wrong name is an error at once
    if settings.data is None:
        train, held = _drawn(settings)
        report = None
        # SettingsError if the reward fails at one of the hostile texts. Any true answer will do for them.
        check_reward_of_run(reward, settings.reward, answer=train["answer"][0])
    else:
        train, held, report = _read(settings, reward)  # tries the reward, too

    if settings.system_prompt:
        # Rows that keep a system text of their own, by the file's row numbers, which the column `row` still
        # holds. Only the report of a file lists them.
        own = set(getattr(report, "own_system", ()))
        train = with_system_turn(train, settings.system_prompt, own)
        held = with_system_turn(held, settings.system_prompt, own)
    _check_row_count(settings, len(train))
    return train, held, report


def _check_row_count(settings, rows):
    "Raise SettingsError if so many training rows are too few for one step of the run"
    wanted = settings.prompts_per_step
    if rows < wanted:
        few = f"{rows} training rows are fewer than the {wanted} prompts of a step"
        advice = batch_that_fits(settings, rows)  # such as a smaller batch_size
        raise SettingsError(f"{few}: {advice}")


def _drawn(
    settings,  # `GRPOSettings`, checked, without a file of data
):
    """Draw the pictures of a run; returns its training data set and its held-out data set.

    No training picture is held out, or belongs to the frozen set of evaluations (chapter 06)."""
    draw = _drawing_function(settings)  # (n, seed) → list of `Sample`
    steps = settings.max_steps
    # Without a number of steps (-1) the run takes a number of epochs over as many rows as are drawn here.
    n = steps * settings.prompts_per_step if steps > 0 else drawn_rows_of_an_epoch
    held_out = draw(settings.eval_samples, seed=held_out_seed)
    frozen = draw(settings.eval_samples, seed=frozen_seed)  # as an evaluation with this eval_samples does
    train = drawn_apart(draw, n, settings.seed, held_out + frozen)
    return to_dataset(train), to_dataset(held_out)


def _drawing_function(settings):
    "The function (n, seed) → list of `Sample` that draws the pictures and questions of the run's task"
    # The coordinates of a true answer depend on the model: pixels of the resized picture, or thousandths.
    if settings.task == "pointing":
        return drawn_for(settings.model, settings.max_image_size)
    if settings.task == "zoom":
        return synthetic_zoom
    return synthetic_counting if settings.task == "counting" else drawn_questions


def _read(
    settings,  # `GRPOSettings`, checked, with a file of data
    reward,  # (completion, answer) → dict of its parts, or a batched one that scores lists of completions
):
    """Read the file of a run and split it by picture.

    Returns the training data set, the held-out data set and the report of what was kept and left out."""
    s = settings
    dataset, report = read_task_rows(s.data, s.task, s.image_dir, s.keys, s.skip_bad_rows)

    if s.task == "pointing":
        # From pixels of the file's pictures to the numbers that this model writes for the resized pictures.
        dataset = in_scale_of(dataset, s.model, s.max_image_size)

    # SettingsError if the reward fails at one of the hostile texts. Any true answer will do for them.
    check_reward_of_run(reward, s.reward, answer=dataset["answer"][0])
    # DataError for a row whose true answer earns nothing; with `skip_bad_rows` it is left out.
    dataset = with_good_truths(dataset, reward, s.skip_bad_rows, report)

    # Rows with the same picture stay together, so that no held-out picture was trained on.
    train, held = split_by_picture(dataset, seed=s.seed)
    # The file may be sorted by its answers, so those that are measured are chosen by chance.
    return train, rows_by_chance(held, s.eval_samples, s.seed), report


def batch_that_fits(
    settings: GRPOSettings,  # checked
    rows: int,  # number of training rows
) -> str:  # the end of an error message
    "Advice for a run whose step takes more prompts than there are training rows: a smaller batch_size"
    batch_size = largest_batch(
        rows,
        settings.num_generations,
        settings.gradient_accumulation_steps,
        settings.processes,
        # With `refill` each process replaces whole groups of answers, so no group may be spread over several.
        whole_on_each=bool(settings.refill),
    )
    if batch_size is None:
        return "fewer gradient_accumulation_steps or processes would do"
    return f"batch_size of at most {batch_size} would do"


def check_reward_of_run(
    reward,  # (completion, answer) → dict of its parts, or a batched one that scores lists of completions
    name: str,  # of the reward in the settings, for the message
    answer: str,  # a true answer of the data, with which the reward is called
):
    "Raise `SettingsError` if a reward raises or returns no numbers for one of chapter 02's hostile texts"
    # No limit on the time: a reward may ask a judge over a network.
    problems = check_reward(reward, answer, milliseconds=float("inf"))  # one message for each text that fails
    if problems:
        more = f" ({len(problems)} such texts)" if len(problems) > 1 else ""
        raise SettingsError(f"reward = {name!r}: {problems[0]}{more}")


def cost(
    settings: GRPOSettings,  # checked
    model,  # the model that is trained
    checked,  # from `data.preflight`: tokens of the longest prompt and of its pictures
    rows: int,  # number of training rows
) -> dict:  # what is counted, in words → how many
    "Estimate steps, answers, tokens and memory of a run; without activations, which depend on the kernels"
    s, longest_answer = settings, settings.max_completion_length
    # max_steps = -1: num_epochs decides. An epoch leaves out the prompts that do not fill a step (TRL's
    # sampler), and takes num_iterations steps with the answers to each batch of prompts.
    steps_of_epochs = rows // s.prompts_per_step * s.num_iterations * s.num_epochs
    steps = s.max_steps if s.max_steps > 0 else steps_of_epochs
    batches_of_answers = -(-steps // s.num_iterations)  # rounded up
    counts = {
        "optimizer steps": steps,
        "answers to sample": batches_of_answers * s.prompts_per_step * s.num_generations,
        "tokens of the longest prompt": checked.prompt_tokens,
        "of them pictures": checked.image_tokens,
        "answer tokens at most": longest_answer,
    }
    longest_row = checked.prompt_tokens + longest_answer  # tokens of a prompt and its answer, at most
    return counts | _cost_of_weights(model) | _cost_of_tokens(settings, model, longest_row)


def _cost_of_weights(model):
    "Count the parameters of a model that train, and the memory of weights and optimizer: words → number"
    weights = list(model.parameters())
    trained = sum(p.numel() for p in weights if p.requires_grad)
    weight_bytes = sum(p.numel() * p.element_size() for p in weights)
    # Frozen weights, as all but the adapter's with LoRA, have neither gradient nor moments.
    optimizer_bytes = 12 * trained  # float32: 4 bytes of gradient, 8 of AdamW's two moments
    return {
        "parameters that train": trained,
        "MB of weights": _megabytes(weight_bytes),
        "MB of gradients and AdamW's state": _megabytes(optimizer_bytes),
    }


def _cost_of_tokens(
    settings,  # `GRPOSettings`, checked
    model,  # the model that is trained
    longest_row,  # tokens of a prompt and its answer, at most
):  # dict: words → MB
    "Estimate the memory that grows with the tokens: the cache while answers are sampled, logits in the loss"
    config = model.config.get_text_config()  # of the language model, without the part that sees
    answers_per_pass, passes = whole_groups(settings)  # answers in a forward pass, forward passes in a step
    # All answers of a step are sampled at once, so the key-value cache holds the tokens of all passes.
    cached_tokens = longest_row * answers_per_pass * passes
    bytes_per_number = next(iter(model.parameters())).element_size()
    bytes_per_token = _cached_numbers(config) * bytes_per_number
    # 4 bytes (float32) for each number of two tensors: the logits and their log-softmax
    logits_bytes = 2 * 4 * answers_per_pass * settings.max_completion_length * config.vocab_size
    return {
        "MB of the cache while sampling": _megabytes(cached_tokens * bytes_per_token),
        "MB of logits in the loss": _megabytes(logits_bytes),
    }


def _megabytes(size):
    "A number of bytes in MB, rounded"
    return round(size / 2**20)


def _cached_numbers(
    config,  # of a language model in transformers: its numbers of layers and heads
):
    "How many numbers the key-value cache holds for one token: a key and a value for each head in each layer"
    # Not every configuration states the size of a head; then it is the usual one.
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head_size

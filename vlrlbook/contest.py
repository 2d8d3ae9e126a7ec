"""A contest of a class: each student writes a reward, trains the same model on the same pictures with it, and
hands in one small file (`contest_files`).

Only the reward differs between two students. The model is measured on chapter 06's frozen pictures, which are
drawn from a seed and never trained on by GRPO, before and after, with both controls. `standings` marks and
ranks the files. Written by hand."""
import inspect
import tempfile
from contextlib import contextmanager
from numbers import Real
from pathlib import Path

from .contest_files import ContestError, Entry, Rules, entry_name, entry_text, fingerprint, frozen_pictures
from .core import RunLog, run_facts
from .data import picture_key
from .folders import write_whole
from .rewards import check_reward, known_rewards

__all__ = ["as_reward", "checked_reward", "reward_of_file", "enter"]

longest_source = 6000  # characters of a reward that the file keeps
_example = "A photo of 3 discs"
# The reward

def as_reward(
    function,  # (completion, truth) → a number, or a dict of numbers with `overall`
):  # (completion, truth) → dict with `overall`
    "A student's function as the book's rewards are; what it returns is looked at each time"
    named = getattr(function, "__name__", "your reward")

    def reward(completion, answer):
        try:
            paid = function(completion, answer)
        except Exception as error:  # whatever a student's function raises is said with the answer
            said = f"{type(error).__name__}: {error}".strip()
            where = f"for the answer {completion[:60]!r}"
            raise ContestError(f"{named} stops with {said[:120]} {where}") from error
        # a number alone is a whole reward: a first attempt need not know of parts
        if isinstance(paid, Real):
            paid = dict(overall=float(paid))
        if not isinstance(paid, dict) or not isinstance(paid.get("overall"), Real):
            wanted = "it must return a number, or a dict of numbers with 'overall'"
            raise ContestError(f"{named} returns {str(paid)[:40]!r} ({type(paid).__name__}) for the answer "
                               f"{completion[:60]!r}; {wanted}")
        return paid

    return reward


def checked_reward(
    function,  # as for `as_reward`
):  # (completion, truth) → dict with `overall`
    "The same, after it was tried on right, empty and hostile answers; ContestError says what is wrong first"
    if not callable(function):
        shown = f"{str(function)[:40]!r} ({type(function).__name__})"
        raise ContestError(f"the reward is {shown}; it must be a function of (completion, truth)")
    reward = as_reward(function)
    # first an answer as a student would try it, so that the first complaint is about that
    reward(_example, _example)
    problems = check_reward(reward, _example)
    if problems:
        raise ContestError(f"{getattr(function, '__name__', 'your reward')} cannot train yet: {problems[0]}")
    return reward


def reward_of_file(
    spec: str,  # "mine.py:short_and_right"
):  # the function
    "A student's function from a file, for a machine that runs it in the student's place"
    # the last colon: a path on some systems has one of its own
    path, _, wanted = spec.rpartition(":")
    if not path.endswith(".py") or not Path(path).is_file():
        raise ContestError(f"{spec!r} names no reward: expected an existing file and a function, "
                           "as in mine.py:my_reward")
    names = {"__name__": Path(path).stem}
    try:
        # compiled under its own path, so that a traceback and `inspect` find its lines
        exec(compile(Path(path).read_text(encoding="utf-8"), path, "exec"), names)
    except Exception as error:  # a student's file may fail in any way
        raise ContestError(f"{Path(path).name} cannot be read: {type(error).__name__}: {error}") from error
    if not callable(names.get(wanted)):
        raise ContestError(f"{Path(path).name} has no function {wanted!r}")
    return names[wanted]


def _source_of(function):
    "The lines of a function, or a word where they cannot be found"
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        return "(the source could not be found)"
    return source if len(source) <= longest_source else source[:longest_source] + "\n… (cut)"


@contextmanager
def _known_as(name, reward):
    "A reward under a name that settings can hold, for as long as a block lasts"
    known_rewards[name] = reward
    try:
        yield name
    finally:
        del known_rewards[name]


# Taking part

def enter(
    name: str,  # of the student or the group, as the page will show it
    reward,  # a function of (completion, truth)
    folder: str | Path = "contest",  # where the small file goes
    rules: Rules = Rules(),  # of the class
    again: bool = False,  # write over an earlier file of the same name
) -> Entry:
    "Train with a reward, ask the frozen pictures before and after, and write the file to hand in"
    path = Path(folder) / entry_name(name)
    if path.exists() and not again:
        raise ContestError(f"{path} is there already: choose another name, or again=True to write over it")
    checked = checked_reward(reward)
    # the adapter is not handed in: the answers tell what it learned
    with tempfile.TemporaryDirectory() as run:
        entry = _measured(name.strip(), _source_of(reward), checked, rules, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, entry_text(entry))
    return entry


def _measured(name, source, reward, rules, folder):
    "The entry of one student, whose adapter stays in `folder`"
    import time
    from .evaluation import compare
    started = time.time()
    with _known_as("of_the_contest", reward) as known:
        base, log = _trained(known, rules, folder)
    frozen = frozen_pictures(rules)
    rows = compare(base, folder, frozen, answers=rules.answers, max_new_tokens=8, batch_size=125,
                   max_image_size=112)
    # asked in order of length, kept in order of drawing
    rows.sort(key=lambda row: row["row"])
    facts = run_facts() | dict(seconds=round(time.time() - started))
    return Entry(name, source, rules, fingerprint(rules), rows, log.rows, facts)


def _refuse_frozen(train, rules):
    "Raise ContestError where a class's seed draws a frozen picture for the training"
    from .evaluation import sample_at
    # a picture is known by its pixels
    frozen = {picture_key(sample.images[0]) for sample in frozen_pictures(rules)}
    trained = {picture_key(sample_at(train, row).images[0]) for row in range(len(train))}
    shared = len(frozen & trained)
    if shared:
        raise ContestError(f"seed {rules.seed} draws {shared} of the frozen pictures for the training: "
                           "agree on another seed")


def _trained(reward, rules, folder):
    "Directory of the model before training, and the log; the adapter goes into `folder`"
    from .core import set_seed
    from .grpo import load_policy, make_trainer
    from .run_data import load_data
    from .run_files import save_run
    from .settings import GRPOSettings, read_settings
    from .warm_twins import warm_start
    # chapter 05's small preset, and held-out pictures of its own are not asked
    settings = read_settings(GRPOSettings, dict(
        reward=reward, max_steps=rules.steps, warm_steps=rules.warm_steps, seed=rules.seed, output_dir=folder,
        save_steps=0, eval_samples=1, logging_steps=max(1, min(5, rules.steps // 4))))
    set_seed(settings.seed)
    train, _, _ = load_data(settings)
    _refuse_frozen(train, rules)
    model, processor = load_policy(settings)
    log = RunLog()
    trainer = make_trainer(settings, model, processor, train, log=log)
    trainer.train()
    save_run(trainer, processor, settings)
    return warm_start(settings.model.removeprefix("tiny-"), settings.warm_steps), log

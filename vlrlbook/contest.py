"""A contest of a class: each student writes a reward, trains the same model on the same pictures with it, and
hands in one small file.

Only the reward differs between two students. The model is measured on chapter 06's frozen pictures, which are
drawn from a seed and were never trained on, before and after, with both controls. The file keeps the answers
and no marks: `standings` marks them again, with truths that it draws itself. Written by hand."""
import inspect
import json
import re
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from numbers import Real
from pathlib import Path

from .core import RunLog, run_facts
from .folders import write_whole
from .rewards import check_reward, known_rewards

__all__ = ["ContestError", "Rules", "Entry", "as_reward", "checked_reward", "reward_of_file", "frozen_pictures",
           "fingerprint", "enter", "read_entry", "stored_entry", "entry_name"]

form = 1  # of the file; a later form of it gets another number
most_bytes = 5_000_000  # of a file that is read: one of 500 pictures has about a tenth of it
longest_name = 40  # characters
longest_source = 6000  # characters of a reward that the file keeps
_example = "A photo of 3 discs"
_columns = tuple(f"{when}_{how}" for when in ("before", "after")
                 for how in ("greedy", "sampled", "no_picture", "shuffled"))


class ContestError(ValueError):
    "A reward, a name or a file that cannot take part; the message is one sentence for the student"


@dataclass(frozen=True)
class Rules:
    "What all students of a class share. Results of different rules are never ranked together"
    steps: int = 400  # of GRPO
    pictures: int = 500  # frozen ones, asked before and after
    answers: int = 2  # sampled to each picture
    seed: int = 43  # of the training; its pictures share none with the frozen ones
    warm_steps: int = 280  # of the supervised start


@dataclass
class Entry:
    "What one student hands in"
    name: str  # of the student or the group
    reward: str  # its source, to be read; it is never run again
    rules: Rules  # under which it was made
    pictures: str  # fingerprint of the frozen pictures
    rows: list  # a dict per picture: question, answer, picture, and a list of texts per column
    log: list  # rows of the run's log
    facts: dict  # device, versions, commit, seconds

    def run_log(self) -> RunLog:
        "The log of the training, which shows itself as four panels"
        return RunLog(rows=self.log)


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
            raise ContestError(f"{named} stops with {said[:120]} for the answer {completion[:60]!r}") from error
        if isinstance(paid, Real):
            paid = dict(overall=float(paid))
        if not isinstance(paid, dict) or not isinstance(paid.get("overall"), Real):
            raise ContestError(f"{named} returns {str(paid)[:40]!r} ({type(paid).__name__}) for the answer "
                               f"{completion[:60]!r}; it must return a number, or a dict of numbers with 'overall'")
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
    reward(_example, _example)
    problems = check_reward(reward, _example)
    if problems:
        raise ContestError(f"{getattr(function, '__name__', 'your reward')} cannot train yet: {problems[0]}")
    return reward


def reward_of_file(
    spec: str,  # "mine.py:short_and_right"
):  # the function
    "A student's function from a file, for a machine that runs it in the student's place"
    path, _, wanted = spec.rpartition(":")
    if not path.endswith(".py") or not Path(path).is_file():
        raise ContestError(f"{spec!r} names no reward: expected an existing file and a function, as in mine.py:my_reward")
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


# The pictures

def frozen_pictures(
    rules: Rules,  # of the class
) -> list:  # of `Sample`
    "Chapter 06's frozen pictures: the same for everybody, from a seed that nothing else draws from"
    from .data import synthetic_counting
    from .evaluation import frozen_seed
    return synthetic_counting(rules.pictures, seed=frozen_seed)


def fingerprint(
    rules: Rules,  # of the class
) -> str:  # 16 hex digits
    "What tells the frozen pictures of two machines apart, by their questions, truths and pixels"
    from .evaluation import frozen_key
    return frozen_key(frozen_pictures(rules))


# Taking part

def entry_name(
    name: str,  # as a student wrote it
) -> str:  # a file's name
    "A file name that every system takes; ContestError where the name is empty or too long"
    if not isinstance(name, str) or not name.strip() or len(name) > longest_name or not name.isprintable():
        raise ContestError(f"the name {str(name)[:60]!r} cannot be used: one line of 1 to {longest_name} characters, please")
    plain = re.sub(r"[^\w-]+", "-", name.strip().lower()).strip("-")
    return f"{plain or 'student'}.json"


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
    with tempfile.TemporaryDirectory() as run:
        entry = _measured(name.strip(), _source_of(reward), checked, rules, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, _as_text(entry))
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
    rows.sort(key=lambda row: row["row"])
    facts = run_facts() | dict(seconds=round(time.time() - started))
    return Entry(name, source, rules, fingerprint(rules), rows, log.rows, facts)


def _trained(reward, rules, folder):
    "Directory of the model before training, and the log; the adapter goes into `folder`"
    from .core import set_seed
    from .grpo import load_policy, make_trainer
    from .run_data import load_data
    from .run_files import save_run
    from .settings import GRPOSettings, read_settings
    from .warm_twins import warm_start
    settings = read_settings(GRPOSettings, dict(
        reward=reward, max_steps=rules.steps, warm_steps=rules.warm_steps, seed=rules.seed, output_dir=folder,
        save_steps=0, eval_samples=1, logging_steps=max(1, min(5, rules.steps // 4))))
    set_seed(settings.seed)
    train, _, _ = load_data(settings)
    model, processor = load_policy(settings)
    log = RunLog()
    trainer = make_trainer(settings, model, processor, train, log=log)
    trainer.train()
    save_run(trainer, processor, settings)
    return warm_start(settings.model.removeprefix("tiny-"), settings.warm_steps), log


# The file

def _as_text(entry):
    "An entry as its file holds it: each text once, and for each answer the text's place"
    place = {}
    answers = {}
    for column in _columns:
        answers[column] = [[place.setdefault(text, len(place)) for text in row[column]] for row in entry.rows]
    log = [{key: float(f"{value:.5g}") for key, value in row.items()} for row in entry.log]
    held = dict(name=entry.name, form=form, reward=entry.reward, rules=asdict(entry.rules),
                pictures=entry.pictures, facts=entry.facts, log=log, texts=list(place), answers=answers)
    # one line a field: a name can be changed with any editor
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in held.items()]
    return "{" + ",\n".join(lines) + "}\n"


def read_entry(
    path: str | Path,  # a file that `enter` wrote
) -> Entry:
    "A student's file, its truths drawn anew; ContestError says in one sentence why it cannot be used"
    path = Path(path)
    if path.stat().st_size > most_bytes:
        raise ContestError(f"{path.name} is larger than {most_bytes // 1_000_000} MB and is no file of the contest")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # JSON's own, those of UTF-8, and a million brackets
        raise ContestError(f"{path.name} is damaged: it cannot be read as JSON; copy it again, or run it again") from error
    if not isinstance(held, dict) or "form" not in held:
        raise ContestError(f"{path.name} is no file of the contest")
    if held["form"] != form:
        raise ContestError(f"{path.name} was written by another version of the book (form {held['form']!r}, here {form})")
    try:
        return _entry_of(held)
    except ContestError as error:
        raise ContestError(f"{path.name}: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ContestError(f"{path.name} is damaged: a field is missing or has another form than `enter` writes") from error


def _entry_of(held):
    "An entry of what a file holds; anything but the right form raises"
    rules = _rules_of(held["rules"])
    entry_name(held["name"])
    texts, answers = held["texts"], held["answers"]
    if not all(isinstance(text, str) for text in texts) or set(answers) != set(_columns):
        raise ValueError("texts")
    rows = [dict(question=s.question, answer=s.answer, picture=_key_of(s)) for s in frozen_pictures(rules)]
    for column, places in answers.items():
        if len(places) != len(rows):
            raise ContestError(f"it answers {len(places)} pictures, its rules say {len(rows)}")
        for row, own in zip(rows, places):
            wanted = rules.answers if column.endswith("sampled") else 1
            if len(own) != wanted or not all(type(i) is int and 0 <= i < len(texts) for i in own):
                raise ValueError("places")
            row[column] = [texts[i] for i in own]
    log = [{str(key): float(value) for key, value in row.items()} for row in held["log"]]
    return Entry(held["name"].strip(), str(held["reward"]), rules, str(held["pictures"]), rows, log, dict(held["facts"]))


def _rules_of(held):
    "Rules from a file: whole numbers that a class could have agreed on"
    values = {field.name: held[field.name] for field in fields(Rules)}
    highest = dict(pictures=2000, answers=16)
    for name, value in values.items():
        lowest = 0 if name in ("seed", "warm_steps") else 1
        if type(value) is not int or not lowest <= value <= highest.get(name, 10**7):
            raise ContestError(f"its rule {name} = {str(value)[:20]} is out of range")
    return Rules(**values)


def _key_of(sample):
    "The fingerprint of a sample's picture"
    from .data import picture_key
    return picture_key(sample.images[0])


def stored_entry(
    name: str = "the_books_reward",  # or likes_three, which collapsed, or near_is_nearly_right
) -> Entry:
    "A run that was made before and stands in the package: for a laptop on which training fails"
    from .core import book_file
    return read_entry(book_file(f"logs/contest_{name}.json"))

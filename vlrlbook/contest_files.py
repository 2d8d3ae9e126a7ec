"""The file that a student hands in: the source of a reward, the rules, a log, and answers without marks.

Truths are never in it: whoever reads a file draws the frozen pictures again, from the same seed. A file that
is damaged, or is none, raises one sentence. Written by hand."""
import json
import re
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

from .core import RunLog

__all__ = ["ContestError", "Rules", "Entry", "frozen_pictures", "fingerprint", "entry_name", "entry_text",
           "read_entry", "stored_entry"]

form = 1  # of the file; a later form of it gets another number
most_bytes = 5_000_000  # of a file that is read: one of 500 pictures has about a tenth of it
longest_name = 40  # characters
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


def entry_name(
    name: str,  # as a student wrote it
) -> str:  # a file's name
    "A file name that every system takes; ContestError where the name is empty or too long"
    if not isinstance(name, str) or not name.strip() or len(name) > longest_name or not name.isprintable():
        raise ContestError(f"the name {str(name)[:60]!r} cannot be used: "
                           f"one line of 1 to {longest_name} characters, please")
    # dots and slashes go, so that no name leads out of the folder
    plain = re.sub(r"[^\w-]+", "-", name.strip().lower()).strip("-")
    return f"{plain or 'student'}.json"


# The file

def entry_text(
    entry: Entry,  # to be handed in
) -> str:
    "An entry as its file holds it: each text once, and for each answer the text's place"
    place = {}  # text → its number; most answers are repeats
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
    # a stranger's file: its size is looked at before its content
    if path.stat().st_size > most_bytes:
        most = f"{most_bytes // 1_000_000} MB"
        raise ContestError(f"{path.name} is larger than {most} and is no file of the contest")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # JSON's own, those of UTF-8, and a million brackets
        raise ContestError(f"{path.name} is damaged: it cannot be read as JSON; "
                           "copy it again, or run it again") from error
    if not isinstance(held, dict) or "form" not in held:
        raise ContestError(f"{path.name} is no file of the contest")
    if held["form"] != form:
        other = str(held["form"])[:20]
        raise ContestError(f"{path.name} was written by another version of the book: form {other}, not {form}")
    try:
        return _entry_of(held)
    except ContestError as error:
        raise ContestError(f"{path.name}: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ContestError(f"{path.name} is damaged: a field is missing or has another form "
                           "than `enter` writes") from error


def _entry_of(held):
    "An entry of what a file holds; anything but the right form raises"
    rules = _rules_of(held["rules"])
    entry_name(held["name"])
    # truths are drawn here, and what a file may say of them is not read
    texts, answers = held["texts"], held["answers"]
    if not all(isinstance(text, str) for text in texts) or set(answers) != set(_columns):
        raise ValueError("texts")
    rows = [dict(truth) for truth in _truths(rules)]
    for column, places in answers.items():
        if len(places) != len(rows):
            raise ContestError(f"it answers {len(places)} pictures, its rules say {len(rows)}")
        for row, own in zip(rows, places):
            wanted = rules.answers if column.endswith("sampled") else 1
            if len(own) != wanted or not all(type(i) is int and 0 <= i < len(texts) for i in own):
                raise ValueError("places")
            row[column] = [texts[i] for i in own]
    log = [{str(key): float(value) for key, value in row.items()} for row in held["log"]]
    return Entry(held["name"].strip(), str(held["reward"]), rules, str(held["pictures"]), rows, log,
                 dict(held["facts"]))


def _rules_of(held):
    "Rules from a file: whole numbers that a class could have agreed on"
    values = {field.name: held[field.name] for field in fields(Rules)}
    highest = dict(pictures=2000, answers=16)
    for name, value in values.items():
        # True is an int to Python, and no number of steps
        lowest = 0 if name in ("seed", "warm_steps") else 1
        if type(value) is not int or not lowest <= value <= highest.get(name, 10**7):
            raise ContestError(f"its rule {name} = {str(value)[:20]} is out of range")
    return Rules(**values)


@cache
def _truths(rules):
    "Question, answer and fingerprint of each frozen picture; a class's files have the same, drawn once"
    from .data import picture_key
    truths = []
    for sample in frozen_pictures(rules):
        key = picture_key(sample.images[0])
        truths.append(dict(question=sample.question, answer=sample.answer, picture=key))
    return truths


def stored_entry(
    name: str = "the_books_reward",  # or likes_three, which collapsed
) -> Entry:
    "A run that was made before and stands in the package: for a laptop on which training fails"
    from .core import book_file
    return read_entry(book_file(f"logs/contest_{name}.json"))

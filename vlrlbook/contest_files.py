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

form = 1  # version of the file format; a later format gets another number
most_bytes = 5_000_000  # larger files are not read; a file about 500 pictures has about a tenth of this
longest_name = 40  # characters, so that a name fits into a row of the results page
# before_greedy, before_sampled, ..., after_shuffled. Greedy: the model's most probable answer. Sampled: drawn
# at random. The other two show if the model looks: it is asked without the picture, or with another one.
_columns = tuple(f"{when}_{how}" for when in ("before", "after")
                 for how in ("greedy", "sampled", "no_picture", "shuffled"))


class ContestError(ValueError):
    "A reward, a name or a file that cannot take part; the message is one sentence for the student"


@dataclass(frozen=True)
class Rules:
    """The settings that all students of a class share.

    Only results that were made under the same rules are ranked together."""
    steps: int = 400  # of GRPO training
    pictures: int = 500  # number of frozen pictures, about which the model is asked before and after
    answers: int = 2  # number of answers that are sampled for each picture
    seed: int = 43  # of the training; this one draws no frozen picture for it
    warm_steps: int = 280  # of supervised training, before GRPO


@dataclass
class Entry:
    "What one student hands in: a reward, the log of the training with it, and the model's answers"
    name: str  # of the student or the group
    reward: str  # source of the reward, for people to read; it is never run again
    rules: Rules  # under which the model was trained and asked
    pictures: str  # fingerprint of the frozen pictures, as `fingerprint` returns it
    # a dict for each frozen picture: question, answer (the truth), picture (hash of its pixels), and a list
    # of the model's answers for each of before_greedy, before_sampled, ..., after_shuffled
    rows: list
    log: list  # rows of the training's log, each a dict of numbers such as step and reward
    facts: dict  # about the run: device, versions, commit, seconds

    def run_log(self) -> RunLog:
        "Return the log of the training; a notebook shows it as four plots"
        return RunLog(rows=self.log)


# The pictures

def frozen_pictures(
    rules: Rules,  # that a class of students shares; only the number of pictures is used
) -> list:  # of `Sample`: picture, question and true answer
    """Draw the frozen pictures, which measure every model and are used for no training.

    They are drawn from a fixed seed, so they are the same on every machine."""
    from .data import synthetic_counting
    from .evaluation import frozen_seed  # seed of evaluations (chapter 06), from which nothing else is drawn
    return synthetic_counting(rules.pictures, seed=frozen_seed)


def fingerprint(
    rules: Rules,  # that a class of students shares; only the number of pictures is used
) -> str:  # 16 hex digits
    """Hash the questions, true answers and pixels of the frozen pictures.

    Two machines that draw other pictures, because of other library versions, get different fingerprints."""
    from .evaluation import frozen_key
    return frozen_key(frozen_pictures(rules))


def entry_name(
    name: str,  # of a student or a group, as it was typed
) -> str:  # such as "ada-lovelace.json"
    """Turn a student's name into a file name that every operating system accepts.

    ContestError tells the student if the name is empty, too long or of several lines."""
    if not isinstance(name, str) or not name.strip() or len(name) > longest_name or not name.isprintable():
        raise ContestError(f"the name {str(name)[:60]!r} cannot be used: "
                           f"one line of 1 to {longest_name} characters, please")
    # only letters, digits, "_" and "-" stay: with dots or slashes a name could lead out of the folder
    stem = re.sub(r"[^\w-]+", "-", name.strip().lower()).strip("-")
    # a name such as "!!!" leaves nothing
    return f"{stem or 'student'}.json"


# The file

def entry_text(
    entry: Entry,  # to be handed in
) -> str:  # JSON
    """Return the text of the file that a student hands in.

    Most answers are repeats. So the field `texts` lists each different text once, and `answers` holds, for
    each column and picture, the places of its answers in that list, such as {"before_greedy": [[0], [3]]}."""
    texts, answers = _without_repeats(entry.rows)
    # five digits are enough for the curves
    log = [{key: float(f"{value:.5g}") for key, value in row.items()} for row in entry.log]
    # `form` is the version of the file format
    content = dict(name=entry.name, form=form, reward=entry.reward, rules=asdict(entry.rules),
                   pictures=entry.pictures, facts=entry.facts, log=log, texts=texts, answers=answers)
    # each field on a line of its own, with the name first: a teacher can change it in any editor
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items()]
    return "{" + ",\n".join(lines) + "}\n"


def _without_repeats(
    rows,  # dicts, one for each picture: in columns such as before_greedy a list of texts
):
    """The texts of all rows without repeats, and for each column and picture their places in that list.

    Two rows with before_greedy ["3"] and ["3"] → ["3"], {"before_greedy": [[0], [0]], …}."""
    place_of_text = {}  # text → its place in `texts`, in the order in which the texts first occur
    answers = {}
    for column in _columns:  # before_greedy, before_sampled, ..., after_shuffled
        answers[column] = []
        for row in rows:
            # a new text gets the next number
            places = [place_of_text.setdefault(text, len(place_of_text)) for text in row[column]]
            answers[column].append(places)
    return list(place_of_text), answers


def read_entry(
    path: str | Path,  # a file that `enter` wrote
) -> Entry:
    """Read the file that a student handed in.

    The true answers are not read from it: they are drawn again, so that nobody can change them. If the file
    cannot be used, ContestError says in one sentence why."""
    path = Path(path)
    content = _json_of(path)
    _refuse_other_form(content, path.name)
    try:
        # a field that is missing or has another form raises any of the errors below
        return _entry_of(content)
    except ContestError as error:
        raise ContestError(f"{path.name}: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ContestError(f"{path.name} is damaged: a field is missing or has another form "
                           "than `enter` writes") from error


def _json_of(path):
    "What a student's file holds as JSON; ContestError if it is too large or damaged"
    # the file may be anything, so its size is checked before it is read
    if path.stat().st_size > most_bytes:
        most = f"{most_bytes // 1_000_000} MB"
        raise ContestError(f"{path.name} is larger than {most} and is no file of the contest")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    # ValueError: no JSON, or no UTF-8. RecursionError: thousands of brackets inside each other.
    except (ValueError, RecursionError) as error:
        raise ContestError(f"{path.name} is damaged: it cannot be read as JSON; "
                           "copy it again, or run it again") from error


def _refuse_other_form(content, file_name):
    """Raise ContestError unless parsed JSON is a contest's file in this version of its format.

    Such a file is an object whose field `form` holds the version's number; `form` below is this version's."""
    if not isinstance(content, dict) or "form" not in content:
        raise ContestError(f"{file_name} is no file of the contest")
    if content["form"] != form:
        other = str(content["form"])[:20]
        writer = "another version of the book"
        raise ContestError(f"{file_name} was written by {writer}: form {other}, not {form}")


def _entry_of(content):
    """Build an Entry from the dict that `entry_text` wrote as JSON, and check it on the way.

    A ContestError has a sentence for the student. Any other exception means that the file is damaged: a field
    is missing or has another form."""
    rules = _rules_of(content["rules"])  # ContestError if a value is out of its range
    entry_name(content["name"])  # makes a file name of it: ContestError if the student's name cannot be used
    rows = _rows_of(content["texts"], content["answers"], rules)
    log = [{str(key): float(value) for key, value in row.items()} for row in content["log"]]
    # `pictures`: the fingerprint in the file, by which `standings` refuses an entry about other pictures
    return Entry(name=content["name"].strip(), reward=str(content["reward"]), rules=rules,
                 pictures=str(content["pictures"]), rows=rows, log=log, facts=dict(content["facts"]))


def _rows_of(
    texts,  # each different answer once: ["A photo of 3 discs", "3"]
    answers,  # places in that list, by column and picture: {"before_greedy": [[0], [1]], …}
    rules,  # Rules of the students' class: pictures (how many), answers (samples of each)
):
    """Build the rows of an Entry: a dict for each picture, with its answers in columns.

    Question, true answer and picture are drawn again, not read from the file, which a student may change."""
    if not all(isinstance(text, str) for text in texts) or set(answers) != set(_columns):
        raise ValueError("texts")  # `read_entry` tells the student that the file is damaged
    rows = [dict(truth) for truth in _truths(rules)]  # copies: what `_truths` returns is shared by all files
    for column, places_of_pictures in answers.items():
        if len(places_of_pictures) != len(rows):
            raise ContestError(f"it answers {len(places_of_pictures)} pictures, its rules say {len(rows)}")
        # only sampled columns have several answers to a picture
        answer_count = rules.answers if column.endswith("sampled") else 1
        for row, places in zip(rows, places_of_pictures):
            row[column] = _texts_at(places, texts, answer_count)
    return rows


def _texts_at(
    places,  # from a student's file, so perhaps no ints or beyond the list
    texts,  # all different answers of the file
    answer_count,  # how many places there must be
):
    "The answers to one picture: [2, 0] → [texts[2], texts[0]]; ValueError for a wrong place or number"
    # `type` and not `isinstance`, since True is an int to Python
    are_valid = all(type(place) is int and 0 <= place < len(texts) for place in places)
    if len(places) != answer_count or not are_valid:
        raise ValueError("places")
    return [texts[place] for place in places]


def _rules_of(
    values_in_file,  # dict: steps, pictures, answers, seed, warm_steps; whatever a student has written there
):
    "Build Rules from the dict that a file holds; ContestError if a value is no whole number in its range"
    values = {field.name: values_in_file[field.name] for field in fields(Rules)}
    # a file must not make the reader draw pictures or look up answers for hours; for the other rules, which
    # cost the reader nothing, 10**7 below only stops nonsense
    highest = dict(pictures=2000, answers=16)
    for name, value in values.items():
        # a training may have no supervised start; the other counts make no sense below 1
        lowest = 0 if name in ("seed", "warm_steps") else 1
        # `type` and not `isinstance`, since True is an int to Python
        if type(value) is not int or not lowest <= value <= highest.get(name, 10**7):
            raise ContestError(f"its rule {name} = {str(value)[:20]} is out of range")
    return Rules(**values)


@cache  # all files of a class have the same rules, so the pictures are drawn once
def _truths(rules):
    """Return a dict for each test picture: question, answer (the truth), picture (hash of its pixels)

    The pictures are *frozen*: drawn by a fixed seed, so the same for everybody, as many as the rules say. The
    result is kept for the next file (`cache`), so nobody may change it."""
    from .data import picture_key
    truths = []
    for sample in frozen_pictures(rules):
        key = picture_key(sample.images[0])
        truths.append(dict(question=sample.question, answer=sample.answer, picture=key))
    return truths


def stored_entry(
    name: str = "the_books_reward",  # or "likes_three": a run that collapsed to one answer for everything
) -> Entry:
    "Read a finished run that is stored in the package, for a student whose laptop cannot train"
    from .core import book_file
    return read_entry(book_file(f"logs/contest_{name}.json"))

"""One question about pictures with its truth, out of a row of any form that public sets have.

Read are flat rows, chats, and the forms of TRL, EasyR1, verl, ms-swift, LLaMA-Factory, VQA-RAD, SLAKE,
PMC-VQA, OmniMedVQA, ScienceQA and MMBench; chapter 01 shows such rows and what becomes of them. Written by
hand."""
import json
import re
from dataclasses import dataclass, field

from ..archive import DataError, control_token
from ..readers.tokens import final_answer
from .chat import is_turns, read_turns
from .columns import Columns, empty_columns, plain_name
from .marks import marked_question
from .options import chosen_option, option_places, row_options, whole_number, with_options
from .shown import pictures_shown, unread_columns
from .values import as_list, listed, row_text

__all__ = ["VQARow", "Habits", "file_habits", "read_vqa_row"]

_system_note = "the system's turn stands in front of the question"


@dataclass
class VQARow:
    "A question, its truth and its pictures, and what was done to the row on the way"
    question: str  # an `<image>` for each picture, or none at all where there is no picture
    answer: str  # the truth; several accepted ones are a JSON list of texts
    pictures: list  # paths as they were written (text) and encoded pictures (bytes)
    needs_white: list = field(default_factory=list)  # for each picture that was opened: must it be converted?
    notes: list = field(default_factory=list)  # sentences, the same for all rows to which the same was done
    unread: list = field(default_factory=list)  # names of columns that mean nothing here

    @property
    def has_system(self) -> bool:
        "Whether the row has a turn of the system of its own, which stands in front of the question"
        return _system_note in self.notes


def read_vqa_row(
    row: dict,  # of any of the forms
    number: int = None,  # its line, for messages
    keys: dict = None,  # role → column, from `read_keys`
    habits: "Habits" = None,  # of the row's file; None: the row stands alone
) -> VQARow:
    "One row read; whatever is missing or would be lost is a `DataError` with a code"
    if not isinstance(row, dict):
        raise DataError("vqa.row", f"a {type(row).__name__}, expected an object", row=number)
    if habits is None:
        # of a row alone nobody knows which columns its file fills, so a blank column stays the one that counts
        habits = Habits(places=file_habits([(number, row)], keys).places)
    columns, notes = Columns(row, keys, number, habits.empty), []
    _refuse_videos(columns)
    question, reply, turn_pictures = _question(columns, notes)
    answer = _answer(columns, reply, notes)
    options = row_options(columns)
    if options:
        question = with_options(question, options, columns, notes)
        raw = _raw_answer(columns) if reply is None else answer
        answer = chosen_option(raw, answer, options, habits.places, columns, notes)
    elif answer in tuple("ABCDEFGH") and not _lists_options.search(question):
        notes.append("the answer is a letter, and no options are known")
    pictures = pictures_shown(columns, turn_pictures, notes, "vqa")
    question = marked_question(question, len(pictures), "vqa.marks", notes, number)
    if pictures and "<image>" not in question:
        question = "<image>" * len(pictures) + " " + question
    token = control_token(question)
    if token:
        message = f"the question holds {token}, a control token of the models: the text is damaged"
        raise DataError("vqa.tokens", message, row=number)
    if not question.replace("<image>", "").strip():
        raise DataError("vqa.empty", "question or answer is empty", row=number)
    return VQARow(question, answer, pictures, notes=notes, unread=unread_columns(columns))


# A question that lists options itself, such as "… A. yes B. no"
_lists_options = re.compile(r"(?<![A-Za-z])\(?A\s*[).:].*(?<![A-Za-z])\(?B\s*[).:]", re.DOTALL)


@dataclass
class Habits:
    "What only a whole file can tell about its rows"
    empty: frozenset = frozenset()  # columns that hold nothing in any row: another one may play their role
    places: str | int | None = "text"  # what answers that are numbers stand for, from `option_places`


def file_habits(
    rows: list,  # of (number, row)
    keys: dict = None,  # role → column, from `read_keys`
) -> Habits:
    "Which columns of a file are empty throughout, and how it counts options"
    empty, answers = empty_columns([row for _, row in rows]), []
    for number, row in rows:
        if isinstance(row, dict):
            columns = Columns(row, keys, number, empty)
            raw = _raw_answer(columns)
            if whole_number(raw) is None:
                continue
            try:
                options = row_options(columns)
            except DataError:
                continue  # said when the row itself is read
            if options:
                answers.append((raw, options))
    return Habits(empty, option_places(answers))


def _raw_answer(columns):
    "The answer as the row holds it; None where there is none"
    name = columns.name_of("answer")
    return None if name is None else columns.row[name]


def _refuse_videos(columns):
    "Videos are refused by name: a row without them would be another question"
    name = columns.name_of("video")
    if name and columns.row[name] not in ("", []):
        message = f"column {name!r} holds a video: only pictures are read, save its frames"
        raise DataError("row.video", message, row=columns.number)


# Question

def _question(columns, notes):
    "Question, the chat's reply or None, pictures that stand in the chat"
    # A chat wins over a question column: LLaVA's and ms-swift's rows hold the question in the chat.
    chat = columns.name_of("chat")
    if chat is None and columns.has("chat") and not columns.has("question"):
        raise DataError("vqa.chat", "messages must be a list of turns", row=columns.number)
    question = columns.name_of("question") if chat is None else None
    if chat is None and question is not None and is_turns(columns.row[question]):
        chat = question  # TRL's and verl's `prompt` is a chat
    if chat is not None:
        return _of_chat(columns, columns.row[chat], notes)
    if question is None:
        raise DataError("vqa.fields", f"no question and answer in {columns.there()}", row=columns.number)
    text = row_text(columns.row[question], question, columns.number)
    if question.casefold() == "instruction":  # Alpaca's form
        more = columns.get("input")
        if isinstance(more, str) and more.strip():
            text = f"{text}\n{more.strip()}"
    system = columns.get("system")
    if isinstance(system, str) and system.strip():
        text = _after_system(system, text, notes)
    return text, None, []


def _of_chat(columns, turns, notes):
    "Question, reply and pictures of a chat with one turn of the user and at most one of the assistant"
    turns = read_turns(turns, columns.number)
    systems = [turn.text for turn in turns if turn.role == "system"]
    said = [turn for turn in turns if turn.role != "system"]
    names = [turn.role for turn in said]
    if names not in (["user", "assistant"], ["user"]):
        message = f"turns {names}, expected one of the user and one of the assistant"
        raise DataError("vqa.chat", message, row=columns.number)
    if len(said) == 1 and columns.name_of("answer") is None:
        message = f"turns {names} and no column with an answer, expected one of the assistant"
        raise DataError("vqa.chat", message, row=columns.number)
    if len(said) == 2 and said[1].pictures:
        raise DataError("vqa.chat", "the reply holds a picture", row=columns.number)
    question = said[0].text.strip()
    for system in systems:
        if system.strip():
            question = _after_system(system, question, notes)
    return question, said[1].text if len(said) == 2 else None, said[0].pictures


def _after_system(system, question, notes):
    "A question with what the system said in front: so it stands in every engine's prompt alike"
    notes.append(_system_note)
    return f"{system.strip()}\n\n{question}"


# Answer

def _answer(columns, reply, notes):
    "The truth: a column's or, in a chat, the reply; several accepted ones as a JSON list"
    name = columns.name_of("answer")
    if name is None and reply is None:
        if columns.has("answer"):
            raise DataError("vqa.empty", "the answer is empty", row=columns.number)
        raise DataError("vqa.fields", f"no question and answer in {columns.there()}", row=columns.number)
    if name is None:
        return _one_truth(reply, "the reply", columns.number, notes)
    if reply is not None:
        notes.append(f"column {name!r} is the truth; the chat's reply is not read")
    value = columns.row[name]
    if isinstance(value, str):
        # a table that was written as CSV holds lists as texts
        value = _written_list(value) or value
    if isinstance(value, dict) and "ground_truth" in value:
        value = value["ground_truth"]  # verl's reward_model
    several = as_list(value)
    if several is None:
        return _one_truth(value, name, columns.number, notes)
    return _several(several, name, columns, notes)


def _written_list(text):
    "The list of texts, or verl's dict, that a text writes; None for any other text, such as a point [3, 4]"
    value = listed(text)
    if isinstance(value, dict):
        return value if "ground_truth" in value else None
    texts = isinstance(value, list) and value and all(isinstance(one, (str, dict)) for one in value)
    return value if texts else None


# Names that say of a list that any of its answers is right
_any_of = ("answers", "groundtruth", "gtanswer", "goldanswer", "rewardmodel")


def _several(values, name, columns, notes):
    "Several accepted truths as the JSON list that rewards read; one that is left alone is a text"
    number, texts = columns.number, []
    for value in values:
        # annotators may differ; any of their answers is right
        if isinstance(value, dict):  # VQA v2: {"answer": …, "answer_confidence": …}
            value = value.get("answer")
        if value is None:
            raise DataError("vqa.empty", f"one of the answers in {name!r} is empty", row=number)
        if not isinstance(value, str):
            kind = type(value).__name__
            message = f"{name!r} is a list with a {kind}: a box, or a point? Write the answer as a text"
            raise DataError("vqa.empty", message, row=number)
        texts.append(_one_truth(value, name, number, notes))
    if not texts:
        raise DataError("vqa.empty", f"{name!r} is a list without answers", row=number)
    different = list({text.casefold(): text for text in reversed(texts)}.values())[::-1]
    if len(different) == 1:
        return different[0]
    if plain_name(name) not in _any_of and not columns.keys.get("any"):
        # "name all of them" and "any of them will do" look alike, and pay otherwise
        cure = f"if any of them is right, say --keys answers={name}"
        message = f"{name!r} is a list of {len(different)} answers: {cure}"
        raise DataError("vqa.answers", message, row=number)
    notes.append("several answers are accepted, any of which is right")
    return json.dumps(different, ensure_ascii=False)


def _one_truth(value, name, number, notes):
    "One truth as one line of text, without the tags of a thought and of an answer"
    text = row_text(value, name, number)
    if "<answer>" in text or "</think>" in text or "\\boxed{" in text:
        said = final_answer(text)
        notes.append("only what stands in the answer's tags (or box) is the truth")
        text = said
    elif "<think>" in text:
        raise DataError("vqa.empty", f"{name!r} is a thought that does not end", row=number)
    text = "\n".join(" ".join(line.split()) for line in text.split("\n")).strip()  # VQA-RAD has tabs
    if not text:
        raise DataError("vqa.empty", "question or answer is empty", row=number)
    return text

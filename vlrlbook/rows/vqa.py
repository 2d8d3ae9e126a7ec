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
from .options import Places, chosen_option, numbered_answer, option_places, row_options, whole_number
from .options import listed_choice, with_options
from .shown import belonging_columns, is_said, pictures_shown, unread_columns
from .values import ClassName, as_list, listed, refuse_half_characters, row_text

__all__ = ["VQARow", "Habits", "file_habits", "read_vqa_row"]

# Added to the notes of a row that came with a system turn; `VQARow.has_system` looks for it there
_system_note = "the system's turn stands in front of the question"


@dataclass
class VQARow:
    "A question, its true answer and its pictures, and notes about what was changed when the row was read"
    question: str  # with an `<image>` for each picture
    answer: str  # the true answer; several accepted ones are a JSON list of texts
    pictures: list  # paths (text) as the row writes them, and encoded pictures (bytes)
    # True or False for each picture, after it was opened: whether `pictures.as_meant` must convert it, to put
    # transparency on white or to scale greys of more than 8 bits
    needs_white: list = field(default_factory=list)
    notes: list = field(default_factory=list)  # sentences; rows that were changed alike have the same one
    unread: list = field(default_factory=list)  # names of columns that were not used

    @property
    def has_system(self) -> bool:
        "True if the row came with a system turn, whose text is now the beginning of the question"
        return _system_note in self.notes


def read_vqa_row(
    row: dict,  # in any of the known forms
    number: int = None,  # the row's line in its file, for messages
    keys: dict = None,  # role, such as "answer" → name of its column, from `read_keys`
    habits: "Habits" = None,  # what only the row's whole file shows; None: there is only this row
) -> VQARow:
    "Read one row of a question with its answer; `DataError` if something is missing or would be lost"
    if not isinstance(row, dict):
        raise DataError("vqa.row", f"a {type(row).__name__}, expected an object", row=number)
    if habits is None:
        # One row may show whether answers count options from 0 or 1 (`places`), but not which columns are
        # empty in all rows, so `empty` stays empty.
        habits = Habits(places=file_habits([(number, row)], keys).places)

    return _row_of_columns(Columns(row, keys, number, habits.empty), habits.places)


def _row_of_columns(
    columns,  # `Columns` of the row: finds a column by its role, such as "answer", whatever its name is
    places,  # `Places`: what the answer 2 means in the row's file, an option's text or its place
):
    "The `VQARow` (question, answer, pictures) that a row's columns hold; `DataError` if they hold none"
    notes = []  # sentences about what was changed; the calls below add to them
    _refuse_videos(columns)  # first, since a row with a video may seem to lack pictures
    # Of a chat: the assistant's turn (else None), and the pictures that stand in the turns (else none).
    question, reply, turn_pictures = _question(columns, notes)
    answer = _answer(columns, reply, notes)  # a text
    options = row_options(columns)  # texts; empty if the question has none
    if options:
        question = with_options(question, options, columns, notes)  # added, if it does not list them
        # As the column holds it, a number or a text, since `places` was found from such values. A chat with a
        # reply may have no such column: then the text.
        raw_answer = _raw_answer(columns) if reply is None else answer
        answer = chosen_option(raw_answer, answer, options, places, columns, notes)  # its letter or text
    else:
        answer = listed_choice(answer, question, notes)
    pictures = pictures_shown(columns, turn_pictures, notes, kind="vqa")  # paths and bytes
    question = _question_with_marks(question, len(pictures), notes, columns.number)
    for name in belonging_columns(columns):  # columns not read whose names sound like it, such as `hint`
        cure = f"if so, say --keys system={name}"
        notes.append(f"column {name!r} may belong to the question and is not read: {cure}")
    return VQARow(question, answer, pictures, notes=notes, unread=unread_columns(columns))


def _question_with_marks(
    question,  # text with marks of pictures in any form, such as <|image_1|>, or without marks
    picture_count,  # pictures that the row shows
    notes,  # gets a sentence if marks are left as words of the question
    number,  # of the row, for an error
):
    """A question with an `<image>` for each of its pictures, in front where it marks none.

    Raises `DataError` for a wrong number of marks, a model's control token or a question without a text."""
    question = marked_question(question, picture_count, "vqa.marks", notes, number)  # any mark → `<image>`
    if picture_count and "<image>" not in question:
        question = "<image>" * picture_count + " " + question
    _check_question(question, number)
    return question


def _check_question(question, number):
    "Raise `DataError` if a question, with `<image>` for each picture, has a control token or no text"
    refuse_half_characters(question, "the question", number)
    token = control_token(question)  # the first one, such as <|im_end|>, or None
    if token:
        message = f"the question holds {token}, a control token of the models: the text is damaged"
        raise DataError("vqa.tokens", message, row=number)
    if not question.replace("<image>", "").strip():
        raise DataError("vqa.empty", "question or answer is empty", row=number)


@dataclass
class Habits:
    "What only a whole file shows, and what is needed to read each of its rows"
    empty: frozenset = frozenset()  # columns without a value in any row, which are passed over
    places: Places = Places()  # what a number as an answer means in rows with options: a place or a text


def file_habits(
    rows: list,  # of (row number, row)
    keys: dict = None,  # role → column, from `read_keys`
) -> Habits:
    """Which columns of a file are empty in all rows, and whether answers count their options from 0 or 1.

    Of the options red, blue the answer 2 shows that places are counted from 1; one row alone may not."""
    empty = empty_columns([row for _, row in rows])
    numbered_answers = []  # of `NumberedAnswer`
    for number, row in rows:
        if isinstance(row, dict):  # other rows are refused when they are read
            answer = _numbered_answer(Columns(row, keys, number, empty))
            if answer is not None:
                numbered_answers.append(answer)
    return Habits(empty, option_places(numbered_answers))


def _numbered_answer(columns):
    "The `NumberedAnswer` of a row, from its `Columns`; None if its answer is no number, or it has no options"
    raw_answer = _raw_answer(columns)  # as the row holds it: a text, a number or None
    if whole_number(raw_answer) is None:
        return None
    try:
        return numbered_answer(raw_answer, row_options(columns), columns)
    # Options that cannot be read raise again when the whole row is read, and are reported then.
    except DataError:
        return None


def _raw_answer(columns):
    "The value of the answer's column as the row holds it; None if there is none"
    name = columns.name_of("answer")  # None if no column with a name for answers has a value
    return None if name is None else columns.row[name]


def _refuse_videos(columns):
    "Raise `DataError` if the row has a video, since only pictures can be read"
    name = columns.name_of("video")  # None if no column with a name for videos has a value
    if name and columns.row[name] not in ("", []):
        message = f"column {name!r} holds a video: only pictures are read, save its frames"
        raise DataError("row.video", message, row=columns.number)


# Question

def _question(columns, notes):
    """Read the question of a row from its `Columns`; `notes` gets a sentence if there is a system's text.

    Returns the question as text, the assistant's reply if the row is a chat that has one (else None), and the
    list of pictures that stand in the chat."""
    # `name_of`: name of the column with this role and a value, or None; `has`: is there one, even without a
    # value? A chat holds the question, so it comes first.
    chat_name = columns.name_of("chat")
    if chat_name is not None:
        return _question_of_chat(columns, columns.row[chat_name], notes)
    # An empty chat column is no error where a column of questions can be read instead.
    if columns.has("chat") and not columns.has("question"):
        raise DataError("vqa.chat", "messages must be a list of turns", row=columns.number)

    question_name = columns.name_of("question")
    if question_name is None:
        raise DataError("vqa.fields", f"no question and answer in {columns.there()}", row=columns.number)
    if is_turns(columns.row[question_name]):  # in rows of TRL and verl the column `prompt` is a chat
        return _question_of_chat(columns, columns.row[question_name], notes)
    return _question_of_text(columns, question_name, notes), None, []  # the row is no chat


def _question_of_text(
    columns,  # `Columns` of the row: `row` holds the values by name, `get` gives one by its role
    name,  # of the column with the question
    notes,  # gets a sentence if a system's text is put in front
):
    "The question of a row that is no chat: the system's text, the question, an Alpaca row's input"
    question = row_text(columns.row[name], name, columns.number)
    if name.casefold() == "instruction":  # Alpaca's form: a row has an instruction, and an input for it
        input_text = columns.get("input")
        if isinstance(input_text, str) and input_text.strip():
            question = f"{question}\n{input_text.strip()}"
    system = columns.get("system")  # the value of the column of this role, or None
    if is_said(system):  # a text, and not an empty one
        question = _with_system_in_front(system, question, notes)
    return question


def _question_of_chat(
    columns,  # `Columns` of the row
    chat,  # the value of the row's column with the turns
    notes,  # gets a sentence if there is a system turn, whose text is put before the question
):
    """Read a chat with one turn of the user and at most one of the assistant.

    Returns the question, the assistant's reply or None, and the pictures of the user's turn."""
    all_turns = read_turns(chat, columns.number)  # a `Turn` each, with role, text and pictures
    turns = [turn for turn in all_turns if turn.role != "system"]
    _check_turns(turns, columns)  # `DataError` unless it is the user's, then perhaps the assistant's
    question = turns[0].text.strip()
    system_texts = [turn.text.strip() for turn in all_turns if turn.role == "system"]
    beside = columns.get("system")  # LLaMA-Factory's form has it in a column beside the turns
    if is_said(beside) and beside.strip() not in system_texts:
        system_texts.insert(0, beside.strip())
    for text in reversed(system_texts):  # each is put in front of those that come after it
        if text:
            question = _with_system_in_front(text, question, notes)  # the text, an empty line, the question
    reply = turns[1].text if len(turns) == 2 else None
    return question, reply, turns[0].pictures


def _check_turns(
    turns,  # of a chat, without the system's; each has role, text and pictures
    columns,  # `Columns` of the row
):
    """Raise `DataError` unless the turns are one of the user, then one of the assistant with the answer.

    The assistant's may be missing if the answer stands in a column."""
    names = [turn.role for turn in turns]
    if names not in (["user", "assistant"], ["user"]):
        message = f"turns {names}, expected one of the user and one of the assistant"
        raise DataError("vqa.chat", message, row=columns.number)
    has_reply = len(turns) == 2
    if not has_reply and columns.name_of("answer") is None:  # None: no column with an answer
        message = f"turns {names} and no column with an answer, expected one of the assistant"
        raise DataError("vqa.chat", message, row=columns.number)
    if has_reply and turns[1].pictures:
        raise DataError("vqa.chat", "the reply holds a picture", row=columns.number)


def _with_system_in_front(system, question, notes):
    """The system's text and the question as one text, since programs treat a turn of the system differently.

    `notes` gets a sentence about it."""
    notes.append(_system_note)
    return f"{system.strip()}\n\n{question}"


# Answer

def _answer(
    columns,  # `Columns` of the row
    reply,  # text of the assistant's turn, if the row is a chat that has one; else None
    notes,  # gets sentences about what was changed or not read
):
    """Read the true answer of a row, as a text, from its column or, if there is none, from the chat's reply.

    Several accepted answers are a JSON list in the text, such as ["yes", "it is"]."""
    name = columns.name_of("answer")  # None if no column with a name for answers has a value
    if name is None and reply is None:
        if columns.has("answer"):  # there is such a column, without a value
            raise DataError("vqa.empty", "the answer is empty", row=columns.number)
        # `there`: the names of the columns that the row has
        raise DataError("vqa.fields", f"no question and answer in {columns.there()}", row=columns.number)
    if name is None:
        return _one_truth(reply, "the reply", columns.number, notes)
    if reply is not None:
        notes.append(f"column {name!r} is the truth; the chat's reply is not read")
    return _answer_of_column(name, columns, notes)


def _answer_of_column(
    name,  # of the column with the answer
    columns,  # `Columns` of the row; its `row` is the dict
    notes,  # gets sentences about what was changed
):
    "The true answer in a column, as a text; several accepted answers are a JSON list in it"
    value = columns.row[name]
    elements = value if isinstance(value, list) else [value]
    if any(isinstance(element, ClassName) for element in elements):
        notes.append("the answer is a class label: its name is read, not its number")
    if isinstance(value, str):
        value = _written_list(value) or value  # the list or dict that is written as a text, such as in a CSV
    if isinstance(value, dict) and "ground_truth" in value:
        value = value["ground_truth"]  # verl's column reward_model is {"ground_truth": …, "style": …}
    several = as_list(value)  # a list of accepted answers; None for a single value
    if several is None:
        return _one_truth(value, name, columns.number, notes)
    return _accepted_answers(several, name, columns, notes)


def _written_list(text):
    """Parse an answer that writes a list of texts or of dicts, or a dict with `ground_truth`.

    None for any other text: an answer such as [3, 4] is a point or a box, and stays a text."""
    value = listed(text)  # reads JSON, Python and NumPy; None where the text is neither list nor dict
    if isinstance(value, dict):
        return value if "ground_truth" in value else None
    if not isinstance(value, list) or not value:
        return None
    has_answers = all(isinstance(element, (str, dict)) for element in value)
    return value if has_answers else None


# Names of columns, without marks and capitals, whose list holds alternatives: any of its answers is right
_any_is_right = ("answers", "groundtruth", "gtanswer", "goldanswer", "rewardmodel")


def _accepted_answers(
    values,  # the column's list, for example of several annotators: texts, or dicts {"answer": …} of VQA v2
    name,  # of the column
    columns,  # `Columns` of the row
    notes,  # gets a sentence if several answers are accepted
):
    """Read a list of answers, any of which is right; `DataError` where it may mean that all must be named.

    Returns a JSON list as a text, which rewards can read; a single answer is returned as it is."""
    texts = [_listed_answer(value, name, columns.number, notes) for value in values]
    if not texts:
        raise DataError("vqa.empty", f"{name!r} is a list without answers", row=columns.number)

    different = _without_repeats(texts)
    if len(different) == 1:
        return different[0]
    # In other columns a list may mean that an answer must name all of them, so the user has to decide:
    # by `--keys answers=column`, which sets the key "any", too (`answer=column` does not).
    user_accepts_any = columns.keys.get("any")
    # What `convert-vqa` and the exports write: this very text, in rows of these columns.
    has_own_columns = {"prompt", "answer", "images"} <= columns.row.keys()
    is_own_form = has_own_columns and columns.row[name] == json.dumps(different, ensure_ascii=False)
    if plain_name(name) not in _any_is_right and not user_accepts_any and not is_own_form:
        cure = f"if any of them is right, say --keys answers={name}"
        message = f"{name!r} is a list of {len(different)} answers: {cure}"
        raise DataError("vqa.answers", message, row=columns.number)
    notes.append("several answers are accepted, any of which is right")
    return json.dumps(different, ensure_ascii=False)


def _without_repeats(texts):
    'The texts in their order, of those that differ only by case the first: Yes, no, yes → Yes, no'
    by_folded = {}  # case-folded text → the first that is written so
    for text in texts:
        by_folded.setdefault(text.casefold(), text)
    return list(by_folded.values())


def _listed_answer(value, name, number, notes):
    """Read one answer of the list in the column `name`, a text or a dict {"answer": …} of VQA v2, as text.

    `number` (of the row) is for an error; `notes` gets a sentence if the answer stood in tags."""
    if isinstance(value, dict):
        value = value.get("answer")
    if value is None:
        raise DataError("vqa.empty", f"one of the answers in {name!r} is empty", row=number)
    # Of numbers, [3, 4] is more likely one point than two accepted answers.
    if not isinstance(value, str):
        kind = type(value).__name__
        message = f"{name!r} is a list with a {kind}: a box, or a point? Write the answer as a text"
        raise DataError("vqa.empty", message, row=number)
    return _one_truth(value, name, number, notes)


# In front of, or around, what a model's answer says in the end; GLM-4.5V's box is the last
_marks_of_answers = "<answer>", "</think>", "\\boxed{", "<|begin_of_box|>"


def _one_truth(value, name, number, notes):
    """Read one true answer as text: without the tags <think>, <answer> and \\boxed, and with single spaces.

    So "<think>two and one</think> <answer>3</answer>" becomes "3". `name` (of the column) and `number` (of
    the row) are for errors; `notes` gets a sentence about tags."""
    text = _without_end_of_turn(row_text(value, name, number), notes)
    if any(mark in text for mark in _marks_of_answers):
        text = final_answer(text)  # what stands in the tags or the box
        notes.append("only what stands in the answer's tags (or box) is the truth")
    elif "<think>" in text:
        raise DataError("vqa.empty", f"{name!r} is a thought that does not end", row=number)
    text = _without_solution(text, notes)

    # Tabs and double spaces become single spaces (VQA-RAD has some); line breaks stay.
    text = "\n".join(" ".join(line.split()) for line in text.split("\n")).strip()
    if not text:
        raise DataError("vqa.empty", "question or answer is empty", row=number)
    token = control_token(text)  # the first one, such as <|im_end|>, or None
    if token:  # no model's answer holds it, so the truth could not be earned
        message = f"{name!r} holds {token}, a control token of the models: the text is damaged"
        raise DataError("vqa.tokens", message, row=number)
    return text


# The end of a text that names its result: "So the final answer is: 4.", "Answer: B", "**Final Answer:** B"
_sentence_begins = r"(?:^|\n|(?<=[.!?,])[ \t])[#*> \t]{0,9}(?:(?:so|thus|hence|therefore),?[ \t]+)?"
_result_name = r"(?:the[ \t]+)?(?:(?:final|correct|right)[ \t]+)?answer"
_with_colon = (rf"(?:{_result_name}|(?:the[ \t]+)?(?:correct|right)[ \t]+(?:option|choice))"
               r"(?:[ \t]+is)?[* \t]{0,4}:[* \t\n]{0,9}")
# without a colon the result must be short, since a sentence may go on: "The answer is on the left of the page."
_with_is = (r"(?:the[ \t]+answer|(?:the[ \t]+)?(?:final|correct|right)[ \t]+(?:answer|option|choice))"
            r"[ \t]+is\s+")
_heading = r"(?<=[#* \t])answer[* \t]{0,4}\n[* \t]{0,4}"  # ### Final Answer, and the result below it
_short = r"(?![^\n]*\bbecause\b)[^\s]+(?:(?<![.!?])[ \t][^\s]+){0,3}"  # up to four words of one sentence
_result = re.compile(
    rf"(?i){_sentence_begins}(?:(?:{_with_colon}|(?:the[ \t]+)?(?:final[ \t]+)?{_heading})([^\s*][^\n]*)"
    rf"|{_with_is}({_short}))$")
_abbreviation = re.compile(r"\w\.\w\.$")  # U.S.


def _without_solution(text, notes):
    "A truth without the worked solution or the sentence around it; `notes` gets a sentence about it"
    text = text.strip()
    short = final_answer(text)  # behind #### or in <CONCLUSION>
    result = _result.search(short.rstrip("* \t\n"))  # two groups, of which one has matched
    if result:
        short = (result[1] or result[2]).strip("* \t")
        if not _abbreviation.search(short):
            short = short.removesuffix(".").strip("* \t")
    if short != text:
        notes.append("only the conclusion of a worked solution is the truth")
    return short


# With which models of several families end what they say; other tools leave it in the text
_ends_of_turn = r"<\|(?:im_end|endoftext|eot_id|end|end_of_text)\|>|<end_of_turn>|<eos>"
_end_of_turn = re.compile(rf"(?:(?:{_ends_of_turn})\s*)+$")


def _without_end_of_turn(text, notes):
    "An answer without the tokens behind it that end a model's turn; `notes` gets a sentence about them"
    shortened = _end_of_turn.sub("", text).rstrip()
    if "<s>" not in text:  # else it is a mark of HTML
        shortened = shortened.removesuffix("</s>").rstrip()
    if shortened != text:
        notes.append("a token that ends a model's turn stood behind the answer and is no part of it")
    return shortened

"""Two or more answers to one question about pictures, ranked, out of a row of any form that public sets have.

Read are ranked rows (the reward model's own), chosen and rejected as texts or turns (TRL, RLAIF-V, RLHF-V,
LLaMA-Factory, ms-swift), with pictures in every form that VQA rows may have. Instead of ranks, or beside
them, a row may say how many people preferred which answer. Written by hand."""
import json
from dataclasses import dataclass, field
from itertools import combinations
from typing import NoReturn, TypeGuard

from ..archive import DataError, control_token
from .chat import is_turns, read_turns
from ..settings import is_number as is_number_text
from .columns import Columns, empty_columns, is_nothing, plain_name
from .marks import marked_question
from .shown import pictures_shown, unread_columns
from .values import as_list, listed

__all__ = ["PreferenceRow", "read_preference_row"]


@dataclass
class _Question:
    "The question that the answers of a row are given to, and the turns of the chat before it"
    text: str  # of the question
    # Of all turns, in their order: paths, bytes, and None for a part that only marks the place of a picture
    pictures: list = field(default_factory=list)
    earlier_turns: list = field(default_factory=list)  # (role, text)


@dataclass
class PreferenceRow:
    "A question, two or more answers with a rank each (0 is best), and its pictures"
    id: str
    query: str  # the question, an `<image>` for each picture, or none: then the pictures stand in front
    response: list  # the answers, texts as the row writes them
    human_ranking: list  # a number for each response; equal ranks are a tie
    pictures: list  # paths (text) as the row writes them, and encoded pictures (bytes)
    margin: float | None = None  # by how much the score of the better answer should be higher
    group: str = ""  # under which a report counts the row
    turns: list = field(default_factory=list)  # (role, text) of the turns before the query
    votes: list | None = None  # how many people, or which share of them, preferred each response
    # For each picture, once it was opened: must it be converted, to put transparency on white or scale greys?
    needs_white: list = field(default_factory=list)
    notes: list = field(default_factory=list)  # sentences about what was changed when the row was read
    unread: list = field(default_factory=list)  # names of columns that were not used


def read_preference_row(
    row: dict,  # in any of the known forms
    number: int = None,  # the row's line in its file, for messages
    keys: dict = None,  # role → column, from `read_keys`
    empty: frozenset = None,  # columns without a value in any row of the file; None: there is only this row
) -> PreferenceRow:
    "Read one row of a question with ranked answers; `DataError` if something is missing or would be lost"
    if not isinstance(row, dict):
        raise DataError("preference.row", f"expected an object, found {str(row)[:80]!r}", row=number)
    if empty is None:
        empty = empty_columns([row])
    row = _unfolded(row, keys, number)  # RLHF-V writes a row into one text; any other is unchanged
    # Finds a column by its role, whatever its name is, and remembers which columns were read.
    columns = Columns(row, keys, number, empty)

    video = columns.name_of("video")
    if video and columns.row[video] not in ("", []):
        raise DataError("row.video", f"column {video!r} holds a video: only pictures are read", row=number)

    # A rejected answer makes the row a pair. A column `chosen` alone does not: it may mean something else.
    is_pair = columns.name_of("rejected") is not None
    # `_pair` reads chosen and rejected, `_ranked` two or more answers with ranks. Both return the same: the
    # `_Question`, the answers, a rank for each (0 is best), and how many people preferred each, or None.
    question, response, ranks, votes = _pair(columns) if is_pair else _ranked(columns)

    notes = []  # sentences about what was changed; the next two calls add to them
    pictures = pictures_shown(columns, question.pictures, notes, "preference")
    # Each picture's mark, whatever its form, becomes `<image>`. `turns`: (role, text) of each turn before the
    # question, empty unless the row is a chat; `query`: the question itself.
    turns, query = _marked(question, len(pictures), notes, number)

    group, identifier = columns.get("group"), columns.get("id")
    return PreferenceRow(
        id=str(number if identifier is None else identifier),
        query=query,
        response=response,
        human_ranking=ranks,
        pictures=pictures,
        margin=_margin(columns),  # a number from 0, or None
        group="" if group is None else str(group),
        turns=turns,
        votes=votes,
        notes=notes,
        unread=unread_columns(columns),  # last: it lists what none of the calls above has read
    )


def _unfolded(
    row,  # a dict
    keys,  # role → column, where the user has said which column holds what; may be None
    number,  # of the row
):
    """A row of RLHF-V with the columns that its column `text` holds; any other row unchanged.

    That `text` is a JSON object with question, chosen and rejected."""
    columns = Columns(row, keys, number)  # finds a column by its role, whatever its name is
    text = columns.get("text")
    if columns.has("rejected") or not isinstance(text, str) or not text.lstrip().startswith("{"):
        return row

    try:
        inside = json.loads(text)
    except (ValueError, RecursionError):  # no JSON: the row is refused later, for the columns that it lacks
        return row

    text_name = columns.name_of("text")  # such as "text", "Text", or what `keys` says
    other_columns = {name: value for name, value in row.items() if name != text_name}
    return other_columns | inside


def _raise_error(number, code, message) -> NoReturn:
    "Raise a `DataError` about the row with this number; \"preference.\" is put in front of the code"
    raise DataError(f"preference.{code}", message, row=number)


# Ranked answers

def _ranked(columns):
    "Read a row that ranks its answers; returns its `_Question`, the answers, their ranks, and votes or None"
    responses = _responses(columns)
    votes = _votes(columns, len(responses))  # for each answer how many people preferred it, or None
    ranks = _ranks(columns, responses, votes)
    _check_votes(columns, ranks, votes)
    return _ranked_question(columns), responses, ranks, votes


def _responses(columns):
    "The answers of a row as a list; `DataError` unless they are two or more texts, none of them empty"
    value = columns.get("response")  # of the column for answers, whatever its name is; None if there is none
    responses = as_list(value)
    if not responses or len(responses) < 2 or not all(map(_is_filled_text, responses)):
        # Without a column of answers the message names those that there are, so that a misspelt one is seen.
        names = columns.there() or "nothing"
        problem = f"the row has {names}" if value is None else f"found {str(value)[:80]!r}"
        message = f"expected two or more texts (or chosen and rejected), {problem}"
        _raise_error(columns.number, "response", message)
    return responses


def _ranks(
    columns,  # `Columns` of the row: role, such as "ranking", → the column that has it
    response,  # the answers
    votes,  # for each answer how many people preferred it; or None
):
    "The rank of each answer, smaller for a better one: from the row's column or, without it, from the votes"
    # Of the column human_ranking, ranking, rank or ranks, or of one that the user has named; None without it.
    ranks = as_list(columns.get("ranking"))
    if ranks is None and votes:
        # The rank is the number of answers with more votes, so equal votes give equal ranks.
        ranks = [sum(other > own for other in votes) for own in votes]
    if not ranks or len(ranks) != len(response):
        _raise_error(columns.number, "ranks", f"{len(response)} responses but ranks {ranks!r}")
    if not all(_is_finite_number(rank) for rank in ranks):
        _raise_error(columns.number, "ranks", f"ranks must be numbers, found {ranks!r}")
    return ranks


def _ranked_question(columns):
    "The `_Question` of a row that ranks its answers, from a column that holds a text or the turns of a chat"
    # Name of the row's column for the question or for a chat, whatever it is called.
    name = columns.name_of("question") or columns.name_of("chat")
    query = columns.row[name] if name is not None else None
    if is_turns(query):
        turns = read_turns(query, columns.number, "preference.query")
        return _question_of_turns(turns, columns.number)  # the last turn is the question

    if query is not None and not isinstance(query, str):
        _raise_error(columns.number, "query", f"query is a {type(query).__name__}, expected a text")
    if not query or not query.strip():
        _raise_error(columns.number, "query", "query is empty")
    return _Question(query)


def _is_filled_text(value):
    "True for a text that is not only white space"
    return isinstance(value, str) and bool(value.strip())


_largest_number = 1e15  # of a rank, votes or a margin; far larger ints cannot be converted to a float


def _is_finite_number(value) -> TypeGuard[float]:
    "True for a finite int or float below 1e15; bools, which are ints in Python, are no numbers here"
    is_int_or_float = isinstance(value, (int, float)) and not isinstance(value, bool)
    is_nan = value != value
    return is_int_or_float and not is_nan and abs(value) < _largest_number


# Several people, one row

def _votes(
    columns,  # `Columns` of the row
    answers,  # how many answers the row has
):
    """The votes of a row: for each answer, how many people preferred it, or which share of them.

    None if the row has no votes; `DataError` if they are no votes for so many answers."""
    # From the columns with these roles; None if there is no such column, or no value in it.
    value, probability = columns.get("votes"), columns.get("probability")
    votes = None
    if value is not None:
        # a CSV holds a list as a text that writes it
        votes = as_list(listed(value) if isinstance(value, str) else value)
        if votes is None:
            _raise_error(columns.number, "votes", f"expected {answers} numbers from 0, found {value!r}"[:160])

    if votes is not None and probability is not None:
        _raise_error(columns.number, "votes", "votes and a probability: expected one of them")
    if probability is not None:
        return _shares(columns, probability, answers)  # of the first answer and of the second
    if votes is None:
        return None

    if len(votes) != answers or not all(_is_finite_number(vote) and vote >= 0 for vote in votes):
        _raise_error(columns.number, "votes", f"expected {answers} numbers from 0, found {votes!r}"[:160])
    if not any(votes):
        _raise_error(columns.number, "votes", "nobody has voted: all votes are 0")
    return [float(vote) for vote in votes]


def _shares(
    columns,  # `Columns` of the row
    probability,  # that the first of two answers is preferred, as the row holds it
    answers,  # how many answers the row has; must be two
):
    "Votes from a probability: the share of people that prefer the first answer, and that of the second"
    if isinstance(probability, str) and is_number_text(probability):  # a CSV holds numbers as texts
        probability = float(probability)
    if answers != 2:
        message = f"a probability among {answers} answers; expected votes, one for each"
        _raise_error(columns.number, "votes", message)
    if not (_is_finite_number(probability) and 0 <= probability <= 1):
        meaning = "the probability that the first answer is preferred"
        _raise_error(columns.number, "votes", f"{meaning}: expected 0 to 1, found {probability!r}"[:160])
    return [float(probability), 1 - float(probability)]


def _check_votes(columns, ranks, votes):
    "Raise `DataError` if an answer has a better rank, which is a smaller number, than one with more votes"
    if votes is None:
        return
    for i, j in combinations(range(len(votes)), 2):
        # Positive if the answer with the larger, so worse, rank has more votes.
        # Equal ranks with unequal votes are allowed: the makers of a file may call a narrow result a tie.
        if (ranks[i] - ranks[j]) * (votes[i] - votes[j]) > 0:
            message = f"ranks {ranks!r} prefer another answer than votes {votes!r}"
            _raise_error(columns.number, "votes", message[:160])


# Chosen and rejected

def _pair(columns):
    """Read a row with a chosen and a rejected answer.

    Returns its `_Question` (text, pictures, earlier turns), [chosen, rejected], their ranks
    [0, 1], of which 0 is the better, and their votes or None."""
    number = columns.number  # of the row, for messages
    rejected_name = columns.name_of("rejected")  # of the column, which has other names in some data sets
    rejected, chosen = columns.row[rejected_name], columns.get("chosen")
    prompt_turns = _prompt_turns(columns)  # of the prompt's own column; empty if that holds a plain text

    # `question_turns`: all turns before the answers, from whatever column.
    if chosen is None:
        # The form of ms-swift: the chat ends with the chosen answer; only the rejected one has a column.
        if not prompt_turns or prompt_turns[-1].role != "assistant":
            _raise_error(number, "response", f"{rejected_name!r} without a chosen answer")
        *prompt_turns, answer_turn = prompt_turns  # the prompt's turns are those before the answer
        chosen, question_turns = answer_turn.text, prompt_turns
    elif is_turns(chosen):
        # The answer is a chat of its own, which may begin with the question's turns.
        question_turns, chosen = _question_and_answer(chosen, prompt_turns, number)
    else:
        question_turns = prompt_turns

    if is_turns(rejected):
        rejected_turns, rejected = _question_and_answer(rejected, prompt_turns, number)
        if _contents(rejected_turns) != _contents(question_turns):  # the texts and pictures of turns
            _raise_error(number, "query", "chosen and rejected are answers to different questions")

    # `_answer_text`: the text, also where it is wrapped in a turn or a list.
    responses = [_answer_text(chosen, "chosen", number), _answer_text(rejected, rejected_name, number)]
    _refuse_labels(responses, columns)  # "A" and "B" that only name other columns
    ranks, votes = [0, 1], _votes(columns, len(responses))
    _check_votes(columns, ranks, votes)  # `DataError` if more people preferred the rejected answer

    # The question: the last of the turns or, without turns, the column for questions.
    if question_turns:
        return _question_of_turns(question_turns, number), responses, ranks, votes

    query = columns.get("question")
    if not isinstance(query, str) or not query.strip():
        _raise_error(number, "query", f"no question: the row has {columns.there()}")
    input_text = columns.get("input")  # the form of Alpaca: an instruction, and an input for it
    if _is_filled_text(input_text):
        query = f"{query}\n{input_text.strip()}"
    return _Question(query), responses, ranks, votes


def _refuse_labels(responses, columns):
    """Raise `DataError` if chosen and rejected are no answers but labels of other columns, "A" and "B".

    They are taken for labels if each is one character and another column is named like one of answers."""
    prefixes = ("response", "answera", "answerb")
    answer_columns = [name for name in columns.row if plain_name(name).startswith(prefixes)]
    if answer_columns and all(len(text.strip()) == 1 for text in responses):
        labels = f"labels ({', '.join(responses)}) of the answers in {answer_columns[0]!r}"
        _raise_error(columns.number, "response", f"chosen and rejected are {labels}")


def _prompt_turns(columns):
    "The turns of a row's prompt, which is a chat in either of two columns; empty if the prompt is a text"
    name = columns.name_of("chat")  # of a column such as messages or conversations
    if name is not None:
        return read_turns(columns.row[name], columns.number, "preference.query")
    name = columns.name_of("question")
    if name is not None and is_turns(columns.row[name]):
        return read_turns(columns.row[name], columns.number, "preference.query")
    return []


def _question_and_answer(value, prompt_turns, number):
    """Read an answer that is written as a chat; returns the turns before it, and its text.

    `value` holds only the answer's turn, as in TRL's rows with a prompt, or the question's turns, too.
    `prompt_turns` are those of the prompt's own column, empty if there is none. `number`: of the row."""
    *own_turns, answer_turn = read_turns(value, number, "preference.response")
    if answer_turn.role != "assistant":
        _raise_error(number, "response", f"an answer that ends with a turn of the {answer_turn.role}")
    if answer_turn.pictures:
        _raise_error(number, "response", "an answer holds a picture: only texts are judged")

    if own_turns and prompt_turns:
        # The question stands twice. The prompt's turns are kept, since only they may hold a system turn.
        if _user_contents(own_turns) != _user_contents(prompt_turns):
            _raise_error(number, "query", "the answers' own question is not that of the prompt")
        return prompt_turns, answer_turn.text
    return own_turns or prompt_turns, answer_turn.text


def _contents(turns):
    "The texts and pictures of turns, by which two chats are compared"
    return [(turn.text, turn.pictures) for turn in turns]


def _user_contents(turns):
    "The texts and pictures of the user's turns, to compare two chats of which one may lack a system turn"
    return _contents([turn for turn in turns if turn.role == "user"])


def _answer_text(
    value,  # of the answer's column: a text, a turn or a list of one text
    name,  # of the column, for a message
    number,  # of the row, for a message
):
    "The text of an answer, unchanged"
    # Some sets wrap the text in a turn or a list.
    if isinstance(value, dict):  # LLaMA-Factory: {"from": "gpt", "value": …}
        value = value.get("value", value.get("content"))
    if isinstance(value, (list, tuple)) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]

    if is_nothing(value) or (isinstance(value, str) and not value.strip()):
        _raise_error(number, "response", f"{name!r} is empty")
    if not isinstance(value, str):
        _raise_error(number, "response", f"{name!r} is a {type(value).__name__}, expected a text")
    return value


def _question_of_turns(turns, number):
    """The `_Question` of a chat's turns (a list of `Turn`), of which the last is the question.

    The system's text is put in front of the first turn. Raises `DataError`, with the `number` of the row, if
    user and assistant do not alternate, from a first to a last turn of the user."""
    talk = [turn for turn in turns if turn.role != "system"]
    roles = [turn.role for turn in talk]
    expected = ["user" if i % 2 == 0 else "assistant" for i in range(len(talk))]
    if roles != expected or len(talk) % 2 == 0:
        order = "expected turns of the user and the assistant by turns, the first and the last the user's"
        _raise_error(number, "query", f"turns {roles} before the answer; {order}"[:300])

    # talk[1::2]: the turns of the assistant
    if any(turn.pictures for turn in talk[1::2]):
        _raise_error(number, "query", "a turn of the assistant holds a picture: only the user's may")

    system_texts = [turn.text.strip() for turn in turns if turn.role == "system"]
    texts = [turn.text.strip() for turn in talk]
    # Reward models are given no system turn, so its text becomes the beginning of the user's first turn.
    texts[0] = "\n\n".join([*filter(None, system_texts), texts[0]])
    # A single turn may hold nothing but a picture, if the system's text, now in front of it, asks about it.
    if not texts[-1].replace("<image>", "").strip():
        _raise_error(number, "query", "query is empty")

    pictures = []
    for turn in talk:
        pictures += turn.pictures
    earlier_turns = list(zip(roles[:-1], texts[:-1]))
    return _Question(texts[-1], pictures, earlier_turns)


# Marks, tokens, margin

_turn_separator = "\0"  # stands in no text that is meant to be read


def _marked(
    question,  # `_Question`
    pictures,  # how many the row shows
    notes,  # gets a sentence about marks that are left as they are
    number,  # of the row, for an error
):
    """Replace all marks of pictures by `<image>`; returns the earlier turns, (role, text), and the query.

    Raises `DataError` for marks that do not fit the pictures, and for control tokens of the models."""
    texts = [text for _, text in question.earlier_turns] + [question.text]
    # All turns as one text, since their marks together must fit the pictures, and may be numbered throughout.
    whole = _turn_separator.join(texts)
    # One separator fewer than there are texts was put in; any more stand in the texts themselves.
    if len(texts) > 1 and whole.count(_turn_separator) >= len(texts):
        raise DataError("preference.query", "a turn holds a NUL character: the text is damaged", row=number)

    whole = marked_question(whole, pictures, "preference.marks", notes, number)
    # A single text is not split: a NUL in it would be its own.
    marked_texts = whole.split(_turn_separator) if len(texts) > 1 else [whole]

    query = marked_texts.pop()
    if not query.replace("<image>", "").strip():
        raise DataError("preference.query", "query is empty", row=number)
    token = control_token(whole)
    if token:
        message = f"the query holds {token}, a control token of the models: the text is damaged"
        raise DataError("preference.tokens", message, row=number)

    turns = [(role, text) for (role, _), text in zip(question.earlier_turns, marked_texts)]
    return turns, query


def _margin(columns):
    "By how much the score of the better answer should be higher, as the row says it; None if it does not"
    # Not `columns.get`, which treats NaN as no value: here NaN is an error of the file that must be reported.
    margin_names = [name for name in columns.row if plain_name(name) == "margin"]
    name = columns.keys.get("margin") or next(iter(margin_names), None)
    margin = None
    if name is not None:
        margin = columns.row.get(name)
        columns.read.add(name)  # so that it is not listed among the columns that were not read

    if isinstance(margin, str) and is_number_text(margin):  # a CSV holds numbers as texts
        margin = float(margin)
    if margin is not None and not (_is_finite_number(margin) and margin >= 0):
        _raise_error(columns.number, "margin", f"expected a number from 0, found {margin!r}"[:120])
    return margin

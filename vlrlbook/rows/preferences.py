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
from ..settings import is_number
from .columns import Columns, empty_columns, is_nothing, plain_name
from .marks import marked_question
from .shown import pictures_shown, unread_columns
from .values import as_list, listed

__all__ = ["PreferenceRow", "read_preference_row"]


@dataclass
class _Question:
    "What was asked, in one turn or at the end of several"
    text: str  # of the last turn
    pictures: list = field(default_factory=list)  # that stand in turns, in their order
    before: list = field(default_factory=list)  # (role, text) of the turns before it


@dataclass
class PreferenceRow:
    "A question, two or more answers with a rank each (0 is best), and its pictures"
    id: str
    query: str  # an `<image>` for each picture, or none: then the pictures stand in front
    response: list  # texts, as they were written
    human_ranking: list  # numbers, one for each response; equal ranks are a tie
    pictures: list  # paths as they were written and encoded pictures
    margin: float | None = None  # gap between the scores that the row asks for
    group: str = ""  # what the row counts under in a report
    turns: list = field(default_factory=list)  # (role, text) of what was said before the query
    votes: list | None = None  # how many people, or which share of them, preferred each response
    needs_white: list = field(default_factory=list)  # for each picture that was opened: must it be converted?
    notes: list = field(default_factory=list)  # sentences about what was done to the row
    unread: list = field(default_factory=list)  # names of columns that mean nothing here


def read_preference_row(
    row: dict,  # of any of the forms
    number: int = None,  # its line, for messages
    keys: dict = None,  # role → column, from `read_keys`
    empty: frozenset = None,  # columns that hold nothing in the whole file; None: the row stands alone
) -> PreferenceRow:
    "One row read; whatever is missing or would be lost is a `DataError` with a code"
    if not isinstance(row, dict):
        raise DataError("preference.row", f"expected an object, found {str(row)[:80]!r}", row=number)
    if empty is None:
        empty = empty_columns([row])
    # `columns` finds a column under all its names, and keeps which ones were read.
    columns = Columns(_unfolded(row, keys, number), keys, number, empty)
    video = columns.name_of("video")
    if video and columns.row[video] not in ("", []):
        raise DataError("row.video", f"column {video!r} holds a video: only pictures are read", row=number)
    # a rejected answer makes a pair; `chosen` alone may be a column of something else
    paired = columns.name_of("rejected") is not None
    question, response, ranks, votes = _pair(columns) if paired else _ranked(columns)
    notes = []  # filled by the next two
    pictures = pictures_shown(columns, question.pictures, notes, "preference")
    turns, query = _marked(question, len(pictures), notes, number)
    margin, group = _margin(columns), columns.get("group")
    identifier = columns.get("id")
    return PreferenceRow(
        id=str(number if identifier is None else identifier), query=query, response=response,
        human_ranking=ranks, pictures=pictures, margin=margin, group="" if group is None else str(group),
        turns=turns, votes=votes, notes=notes, unread=unread_columns(columns))


def _unfolded(row, keys, number):
    "The row with RLHF-V's `text`, a JSON object with question, chosen and rejected, taken apart"
    columns = Columns(row, keys, number)
    text = columns.get("text")
    if columns.has("rejected") or not isinstance(text, str) or not text.lstrip().startswith("{"):
        return row
    try:
        inside = json.loads(text)
    except (ValueError, RecursionError):  # only a text with a brace: the row is refused for what it lacks
        return row
    folded = columns.name_of("text")
    return {name: value for name, value in row.items() if name != folded} | inside


def _refuse(columns, code, message) -> NoReturn:
    "Raise a `DataError` of this row"
    raise DataError(f"preference.{code}", message, row=columns.number)


# Ranked answers

def _ranked(columns):
    "Question, answers, ranks and votes of a row in the reward model's own form"
    response = _responses(columns)
    votes = _votes(columns, len(response))
    ranks = _ranks(columns, response, votes)
    _check_votes(columns, ranks, votes)
    return _ranked_question(columns), response, ranks, votes


def _responses(columns):
    "Two or more answers, all of them texts with something in it"
    written = columns.get("response")
    response = as_list(written)
    if not response or len(response) < 2 or not all(map(_is_filled_text, response)):
        # the columns are named where there is no answer, so that a misspelt one is seen
        there = columns.there() or "nothing"
        shown = f"the row has {there}" if written is None else f"found {str(written)[:80]!r}"
        _refuse(columns, "response", f"expected two or more texts (or chosen and rejected), {shown}")
    return response


def _ranks(columns, response, votes):
    "A number for each answer, 0 for the best: as the row says it, else by the votes"
    ranks = as_list(columns.get("ranking"))
    if ranks is None and votes:
        # so many answers have more votes; equal votes make equal ranks
        ranks = [sum(other > own for other in votes) for own in votes]
    if not ranks or len(ranks) != len(response):
        _refuse(columns, "ranks", f"{len(response)} responses but ranks {ranks!r}")
    if not all(_is_number(rank) for rank in ranks):
        _refuse(columns, "ranks", f"ranks must be numbers, found {ranks!r}")
    return ranks


def _ranked_question(columns):
    "The question of a row with ranks: a text, or the turns of a chat"
    name = columns.name_of("question") or columns.name_of("chat")
    query = columns.row[name] if name is not None else None
    if is_turns(query):  # the system's turn goes in front of the question, as in VQA rows
        return _asked(read_turns(query, columns.number, "preference.query"), columns)
    if query is not None and not isinstance(query, str):
        _refuse(columns, "query", f"query is a {type(query).__name__}, expected a text")
    if not query or not query.strip():
        _refuse(columns, "query", "query is empty")
    return _Question(query)


def _is_filled_text(value):
    "Whether a value is a text with something in it"
    return isinstance(value, str) and bool(value.strip())


_largest_number = 1e15  # of a rank or a margin; an int of 400 digits is no float


def _is_number(value) -> TypeGuard[float]:
    "Whether a value is a finite number; True and False are none"
    a_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return a_number and value == value and abs(value) < _largest_number


# Several people, one row

def _votes(columns, answers):
    "How many preferred each answer, or which share of them; None where the row does not say"
    written, probability = columns.get("votes"), columns.get("probability")
    votes = None
    if written is not None:
        # a CSV holds a list as text
        votes = as_list(listed(written) if isinstance(written, str) else written)
        if votes is None:
            _refuse(columns, "votes", f"expected {answers} numbers from 0, found {written!r}"[:160])
    if votes is not None and probability is not None:
        _refuse(columns, "votes", "votes and a probability: expected one of them")
    if probability is not None:
        return _shares(columns, probability, answers)
    if votes is None:
        return None
    if len(votes) != answers or not all(_is_number(vote) and vote >= 0 for vote in votes):
        _refuse(columns, "votes", f"expected {answers} numbers from 0, found {votes!r}"[:160])
    if not any(votes):
        _refuse(columns, "votes", "nobody has voted: all votes are 0")
    return [float(vote) for vote in votes]


def _shares(columns, probability, answers):
    "The probability that the first of two answers is preferred, as a share for each"
    if isinstance(probability, str) and is_number(probability):  # of a CSV
        probability = float(probability)
    if answers != 2:
        _refuse(columns, "votes", f"a probability among {answers} answers; expected votes, one for each")
    if not (_is_number(probability) and 0 <= probability <= 1):
        meaning = "the probability that the first answer is preferred"
        _refuse(columns, "votes", f"{meaning}: expected 0 to 1, found {probability!r}"[:160])
    return [float(probability), 1 - float(probability)]


def _check_votes(columns, ranks, votes):
    "Refuse ranks that say the opposite of the votes beside them"
    if votes is None:
        return
    for i, j in combinations(range(len(votes)), 2):
        # equal ranks beside unequal votes are a rule of whoever made the file, and no contradiction
        if (ranks[i] - ranks[j]) * (votes[i] - votes[j]) > 0:
            message = f"ranks {ranks!r} prefer another answer than votes {votes!r}"
            _refuse(columns, "votes", message[:160])


# Chosen and rejected

def _pair(columns):
    "Question, [chosen, rejected], their ranks and votes"
    rejected_name = columns.name_of("rejected")
    rejected, chosen = columns.row[rejected_name], columns.get("chosen")
    prompt = _prompt_turns(columns)
    turns = prompt  # those of the question, wherever it stands
    if chosen is None:
        # ms-swift: the chat's last turn is the chosen answer, and the rejected one stands beside it
        if not prompt or prompt[-1].role != "assistant":
            _refuse(columns, "response", f"{rejected_name!r} without a chosen answer")
        chosen, turns = prompt[-1].text, prompt[:-1]
        prompt = turns
    elif is_turns(chosen):
        # the question may stand in front of the answer, inside the answer's own chat
        turns, chosen = _split(chosen, prompt, columns)
    if is_turns(rejected):
        rejected_turns, rejected = _split(rejected, prompt, columns)
        if _shown(rejected_turns) != _shown(turns):
            _refuse(columns, "query", "chosen and rejected are answers to different questions")
    responses = [_answer_text(chosen, "chosen", columns), _answer_text(rejected, rejected_name, columns)]
    _refuse_labels(responses, columns)
    votes = _votes(columns, len(responses))
    _check_votes(columns, [0, 1], votes)
    if turns:
        return _asked(turns, columns), responses, [0, 1], votes
    query = columns.get("question")
    if not isinstance(query, str) or not query.strip():
        _refuse(columns, "query", f"no question: the row has {columns.there()}")
    more = columns.get("input")  # Alpaca's form
    if _is_filled_text(more):
        query = f"{query}\n{more.strip()}"
    return _Question(query), responses, [0, 1], votes


def _refuse_labels(responses, columns):
    "Refuse \"A\" and \"B\" as answers where they name the columns that hold them"
    columns_of_answers = ("response", "answera", "answerb")
    beside = [name for name in columns.row if plain_name(name).startswith(columns_of_answers)]
    if beside and all(len(text.strip()) == 1 for text in responses):
        labels = f"labels ({', '.join(responses)}) of the answers in {beside[0]!r}"
        _refuse(columns, "response", f"chosen and rejected are {labels}")


def _prompt_turns(columns):
    "Turns of the question: a chat column's, or a prompt's that is a chat; empty where it is plain text"
    name = columns.name_of("chat")
    if name is not None:
        return read_turns(columns.row[name], columns.number, "preference.query")
    name = columns.name_of("question")
    if name is not None and is_turns(columns.row[name]):
        return read_turns(columns.row[name], columns.number, "preference.query")
    return []


def _split(value, before, columns):
    "Turns of the question and the answer, of an answer that is a chat; `before` stand in another column"
    turns = read_turns(value, columns.number, "preference.response")
    if turns[-1].role != "assistant":
        _refuse(columns, "response", f"an answer that ends with a turn of the {turns[-1].role}")
    if turns[-1].pictures:
        _refuse(columns, "response", "an answer holds a picture: only texts are judged")
    # TRL: with a prompt column the answer is one turn; without, the whole chat stands in both answers
    own = turns[:-1]
    if own and before:
        if _shown_by_user(own) != _shown_by_user(before):
            _refuse(columns, "query", "the answers' own question is not that of the prompt")
        return before, turns[-1].text  # with what the system said there
    return own or before, turns[-1].text


def _shown(turns):
    "Texts and pictures of turns, to compare two chats by"
    return [(turn.text, turn.pictures) for turn in turns]


def _shown_by_user(turns):
    "Texts and pictures of the user's turns: a prompt column may hold the system's turn, and the answer not"
    return _shown([turn for turn in turns if turn.role == "user"])


def _answer_text(value, name, columns):
    "An answer as text, as it was written"
    if isinstance(value, dict):  # LLaMA-Factory: {"from": "gpt", "value": …}
        value = value.get("value", value.get("content"))
    if isinstance(value, (list, tuple)) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if is_nothing(value) or (isinstance(value, str) and not value.strip()):
        _refuse(columns, "response", f"{name!r} is empty")
    if not isinstance(value, str):
        _refuse(columns, "response", f"{name!r} is a {type(value).__name__}, expected a text")
    return value


def _asked(turns, columns):
    "The question of a chat, the turns before it, and its pictures; what the system said stands in front"
    talk = [turn for turn in turns if turn.role != "system"]
    roles = [turn.role for turn in talk]
    # one turn of the user, or a talk that begins and ends with one
    expected = ["user" if place % 2 == 0 else "assistant" for place in range(len(talk))]
    if roles != expected or len(talk) % 2 == 0:
        order = "expected turns of the user and the assistant by turns, the first and the last the user's"
        _refuse(columns, "query", f"turns {roles} before the answer; {order}"[:300])
    if any(turn.pictures for turn in talk[1::2]):
        _refuse(columns, "query", "a turn of the assistant holds a picture: only the user's may")
    systems = [turn.text.strip() for turn in turns if turn.role == "system"]
    texts = [turn.text.strip() for turn in talk]
    # A reward model has no turn of the system: its words come before the first question.
    texts[0] = "\n\n".join([*filter(None, systems), texts[0]])
    if not texts[-1].replace("<image>", "").strip():
        _refuse(columns, "query", "query is empty")
    pictures = []
    for turn in talk:
        pictures += turn.pictures
    earlier = list(zip(roles[:-1], texts[:-1]))
    return _Question(texts[-1], pictures, earlier)


# Marks, tokens, margin

_between_turns = "\0"  # in no text of a chat that is meant to be read


def _marked(question, pictures, notes, number):
    "(turns before, query) with this book's marks, and no control token in them, before a model is loaded"
    texts = [text for _, text in question.before] + [question.text]
    # together, since the pictures of all turns are counted, and their marks may be numbered through
    whole = _between_turns.join(texts)
    if len(texts) > 1 and whole.count(_between_turns) >= len(texts):
        raise DataError("preference.query", "a turn holds a NUL character: the text is damaged", row=number)
    whole = marked_question(whole, pictures, "preference.marks", notes, number)
    # a single text may hold a NUL of its own, which stays in it
    marked = whole.split(_between_turns) if len(texts) > 1 else [whole]
    query = marked.pop()
    if not query.replace("<image>", "").strip():
        raise DataError("preference.query", "query is empty", row=number)
    token = control_token(whole)
    if token:
        message = f"the query holds {token}, a control token of the models: the text is damaged"
        raise DataError("preference.tokens", message, row=number)
    turns = [(role, text) for (role, _), text in zip(question.before, marked)]
    return turns, query


def _margin(columns):
    "The margin that the row asks for, or None"
    # by its own lookup: a NaN counts as nothing elsewhere, and here it would be a gap that nobody asked for
    named_so = [name for name in columns.row if plain_name(name) == "margin"]
    name = columns.keys.get("margin") or next(iter(named_so), None)
    margin = None if name is None else columns.row.get(name)
    columns.read.add(name)  # so that it is not listed among the columns that mean nothing here
    if isinstance(margin, str):  # of a CSV
        margin = float(margin) if is_number(margin) else margin
    if margin is not None and not (_is_number(margin) and margin >= 0):
        _refuse(columns, "margin", f"expected a number from 0, found {margin!r}"[:120])
    return margin

"""Two or more answers to one question about pictures, ranked, out of a row of any form that public sets have.

Read are ranked rows (the reward model's own), chosen and rejected as texts or turns (TRL, RLAIF-V, RLHF-V,
LLaMA-Factory, ms-swift), with pictures in every form that VQA rows may have. Instead of ranks, or beside
them, a row may say how many people preferred which answer. Written by hand."""
import json
from dataclasses import dataclass, field
from itertools import combinations
from typing import NoReturn

from ..archive import DataError, control_token
from .chat import is_turns, read_turns
from ..settings import is_number as is_number_text
from .columns import Columns, empty_columns, holds_pictures, is_nothing, plain_name
from .marks import marked_question
from .shown import is_said, pictures_shown, unread_columns
from .values import as_list, is_finite_number, listed, refuse_half_characters

__all__ = ["PreferenceRow", "read_preference_row"]


@dataclass
class _Question:
    "The question that the answers of a row are given to, and the turns of the chat before it"
    text: str  # of the question
    # Of all turns, in their order: paths, bytes, and None for a part that only marks the place of a picture
    pictures: list = field(default_factory=list)
    earlier_turns: list = field(default_factory=list)  # (role, text)
    notes: list = field(default_factory=list)  # sentences about columns that were joined to the question


@dataclass
class PreferenceRow:
    "A question, two or more answers with a rank each (the smallest is best), and its pictures"
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
    empty: frozenset = None,  # columns to ignore, empty in all rows of the file; None: those of this row
) -> PreferenceRow:
    "Read one row of a question with ranked answers; `DataError` if something is missing or would be lost"
    if not isinstance(row, dict):
        raise DataError("preference.row", f"expected an object, found {str(row)[:80]!r}", row=number)
    if empty is None:
        empty = empty_columns([row])
    row = _with_columns_of_text(row, keys, number)  # RLHF-V writes a row into one text; others are unchanged
    # Finds a column by its role, whatever its name is, and remembers which columns were read.
    return _row_of_columns(Columns(row, keys, number, empty))


def _row_of_columns(columns):
    "The `PreferenceRow` (question, ranked answers, pictures) that a row's `Columns` hold; else a `DataError`"
    question, response, ranks, votes = _question_and_answers(columns)  # votes: None where nobody voted
    notes = list(question.notes)  # sentences about what was changed; the next two calls add to them
    pictures = pictures_shown(columns, question.pictures, notes, "preference")  # error codes begin so
    # `turns`: (role, text) of each turn before the question; `query`: the question, with `<image>` for marks
    turns, query = _with_image_marks(question, len(pictures), notes, columns.number)
    _refuse_half_characters(query, turns, response, columns.number)
    group, identifier = columns.get("group"), columns.get("id")
    row = PreferenceRow(
        id=str(columns.number if identifier is None else identifier), query=query, response=response,
        human_ranking=ranks, pictures=pictures, margin=_margin(columns),
        group="" if group is None else str(group), turns=turns, votes=votes, notes=notes)
    row.unread = unread_columns(columns)  # last: it lists what none of the calls above has read
    return row


def _refuse_half_characters(query, turns, responses, number):
    "Raise `DataError` if the question, an earlier turn (role, text) or an answer holds a lone surrogate"
    refuse_half_characters(query, "the question", number, "preference.query")
    for role, text in turns:
        refuse_half_characters(text, f"a turn of the {role}", number, "preference.query")
    for response in responses:
        refuse_half_characters(response, "an answer", number, "preference.response")


def _question_and_answers(columns):
    """A row's `_Question`, its answers, their ranks (the smallest is best), and their votes or None.

    `columns` are the row's `Columns`: `name_of` gives the name of the column that has a role and a value, or
    None."""
    video = columns.name_of("video")
    if video and columns.row[video] not in ("", []):  # a row without a video may have these
        message = f"column {video!r} holds a video: only pictures are read"
        raise DataError("row.video", message, row=columns.number)
    # A rejected answer makes the row a pair. A column `chosen` alone does not: it may mean something else.
    is_pair = columns.name_of("rejected") is not None
    return _pair(columns) if is_pair else _ranked(columns)


def _with_columns_of_text(
    row,  # a dict
    keys,  # role → column, where the user has said which column holds what; may be None
    number,  # of the row
):
    """Return a row of RLHF-V with the columns that its column `text` holds; any other row unchanged.

    In RLHF-V `text` is a JSON object with question, chosen and rejected."""
    columns = Columns(row, keys, number)  # finds a column by its role, whatever its name is
    text = columns.get("text")  # the value, or None
    looks_like_json = isinstance(text, str) and text.lstrip().startswith("{")
    if columns.has("rejected") or not looks_like_json:
        return row
    try:
        inside = json.loads(text)
    except (ValueError, RecursionError):  # no JSON: the row is refused later, for the columns that it lacks
        return row
    other_columns = dict(row)  # a copy, since the caller's row must not lose a column
    del other_columns[columns.name_of("text")]  # its name is "text", "Text", or what `keys` says
    return other_columns | inside


def _raise_error(number, code, message) -> NoReturn:
    "Raise a `DataError` about the row with this number; \"preference.\" is put in front of the code"
    raise DataError(f"preference.{code}", message, row=number)


# Ranked answers

def _ranked(columns):
    """Read a row that ranks its answers, or whose votes rank them, from its `Columns`.

    Returns its `_Question`, the answers (texts), their ranks (the smallest is best), and votes or None."""
    responses = _responses(columns)
    votes = _votes(columns, len(responses))  # for each answer how many people preferred it, or None
    ranks = _ranks(columns, responses, votes)
    _check_votes(columns, ranks, votes)  # `DataError` if more people preferred an answer of a worse rank
    return _ranked_question(columns), responses, ranks, votes


def _responses(columns):
    "The answers in a row's `Columns` as a list; `DataError` unless they are two or more texts, none empty"
    # A role: the column may be called response, answers, completions …; None if there is none.
    value = columns.get("response")
    responses = as_list(listed(value) if isinstance(value, str) else value)  # a CSV holds the list as a text
    if not responses or len(responses) < 2 or not all(map(_is_filled_text, responses)):
        # Without a column of answers the message names those that there are, so that a misspelt one is seen.
        names = columns.there() or "nothing"  # one text, with commas
        problem = f"the row has {names}" if value is None else f"found {str(value)[:80]!r}"
        message = f"expected two or more texts (or chosen and rejected), {problem}"
        _raise_error(columns.number, "response", message)
    return responses


def _ranks(
    columns,  # `Columns` of the row: role, such as "ranking", → the column that has it
    response,  # the answers
    votes,  # for each answer how many people preferred it; or None
):
    """The rank of each answer, smaller for a better one, from the row's column or else from the votes.

    Votes of 5, 1 and 5 give the ranks 0, 2 and 0. `DataError` if there are neither, or not one for each."""
    # From a column such as human_ranking or rank, or the one that the user has named; None without one.
    value = columns.get("ranking")
    ranks = as_list(listed(value) if isinstance(value, str) else value)  # a CSV holds the list as a text
    if ranks is None and votes:
        # The rank is the number of answers with more votes, so equal votes give equal ranks.
        ranks = [sum(other > own for other in votes) for own in votes]
    if value is None and not votes:
        message = f"{len(response)} responses but ranks None; the row has {columns.there()}"
        _raise_error(columns.number, "ranks", message)
    if not ranks or len(ranks) != len(response):
        given = value if ranks is None else ranks  # as the row holds it, such as 1 or "first"
        cure = f"; expected a list of {len(response)} numbers" if ranks is None else ""
        message = f"{len(response)} responses but ranks {given!r}"[:160]
        _raise_error(columns.number, "ranks", f"{message}{cure}")
    if not all(is_finite_number(rank) for rank in ranks):
        _raise_error(columns.number, "ranks", f"ranks must be numbers, found {ranks!r}")
    _refuse_scores(ranks, columns.number)
    return ranks


def _refuse_scores(ranks, number):
    """Raise `DataError` about row `number` if its ranks must be scores, of which the highest is the best.

    Read as ranks, scores of 0.9 and 0.1 would prefer the worse answer. Ranks are whole numbers, or the mean of
    the places that a tie shares: 1.5 and 1.5."""
    for rank in ranks:
        is_half = 2 * rank == int(2 * rank)  # as the mean of a tie's places is
        if rank != int(rank) and (not is_half or ranks.count(rank) == 1):
            cure = "write 0 for the best answer, 1 for the next; shares of people go into `votes`"
            message = f"ranks are whole numbers, found {ranks!r}, as scores are"[:100]
            _raise_error(number, "ranks", f"{message}; {cure}")


def _ranked_question(columns):
    "The `_Question` in a row's `Columns`, from a column that holds a text or the turns of a chat"
    # Name of the row's column for the question or for a chat, whatever it is called.
    name = columns.name_of("question") or columns.name_of("chat")
    query = columns.row[name] if name is not None else None
    if is_turns(query):  # a list of dicts with role and content, or from and value
        turns = read_turns(query, columns.number, "preference.query")
        return _question_of_turns(turns, columns)  # the last turn is the question

    if query is not None and not isinstance(query, str):
        _raise_error(columns.number, "query", f"query is a {type(query).__name__}, expected a text")
    if not query or not query.strip():
        _raise_error(columns.number, "query", "query is empty")
    return _with_system_in_front(_with_input(query, columns), columns)


def _is_filled_text(value):
    "True for a text that is not only white space"
    return isinstance(value, str) and bool(value.strip())


# Several people, one row

def _votes(
    columns,  # `Columns` of the row
    answer_count,  # how many answers the row has
):
    """The votes of a row: for each answer, how many people preferred it, or which share of them.

    None if the row has no votes; `DataError` if they are no votes for so many answers."""
    value, probability = columns.get("votes"), columns.get("probability")  # None: no such column, or no value
    if value is None:
        # A probability is the share of people who prefer the first of two: 0.8 gives the votes [0.8, 0.2].
        return None if probability is None else _shares(columns, probability, answer_count)

    # A CSV holds the list as a text.
    votes = as_list(listed(value) if isinstance(value, str) else value)
    if votes is None:
        message = f"expected {answer_count} numbers from 0, found {value!r}"
        _raise_error(columns.number, "votes", message[:160])
    if probability is not None:  # the two could contradict each other
        _raise_error(columns.number, "votes", "votes and a probability: expected one of them")
    return _checked_votes(votes, answer_count, columns.number)


def _checked_votes(votes, answer_count, number):
    """A list of votes as floats: for each answer how many people, or which share of them, preferred it.

    A `DataError` about row `number` unless there is one for each answer, from 0 on, and not all are 0."""
    if len(votes) != answer_count or not all(is_finite_number(vote) and vote >= 0 for vote in votes):
        _raise_error(number, "votes", f"expected {answer_count} numbers from 0, found {votes!r}"[:160])
    if not any(votes):
        _raise_error(number, "votes", "nobody has voted: all votes are 0")
    return [float(vote) for vote in votes]


def _shares(
    columns,  # `Columns` of the row
    probability,  # that the first of two answers is preferred, as the row holds it
    answer_count,  # how many answers the row has; must be two
):
    "The shares of people that prefer the first and the second answer, from a probability: 0.8 → [0.8, 0.2]"
    if isinstance(probability, str) and is_number_text(probability):  # a CSV holds numbers as texts
        probability = float(probability)
    if answer_count != 2:
        message = f"a probability among {answer_count} answers; expected votes, one for each"
        _raise_error(columns.number, "votes", message)
    if not (is_finite_number(probability) and 0 <= probability <= 1):
        meaning = "the probability that the first answer is preferred"
        _raise_error(columns.number, "votes", f"{meaning}: expected 0 to 1, found {probability!r}"[:160])
    return [float(probability), 1 - float(probability)]


def _check_votes(
    columns,  # `Columns` of the row, for its number
    ranks,  # a number for each answer, the smallest is the best
    votes,  # how many people preferred each answer; None: there is nothing to check
):
    "Raise `DataError` if an answer with more votes than another has a worse rank"
    if votes is None:
        return
    for i, j in combinations(range(len(votes)), 2):
        rank_difference = ranks[i] - ranks[j]
        vote_difference = votes[i] - votes[j]
        # More votes need a smaller rank, or an equal one: a file may call a narrow result a tie.
        if rank_difference * vote_difference > 0:
            message = f"ranks {ranks!r} prefer another answer than votes {votes!r}"
            _raise_error(columns.number, "votes", message[:160])


# Chosen and rejected

def _pair(columns):
    """Read a row with a chosen and a rejected answer from its `Columns`.

    Returns its `_Question`, [chosen, rejected], their ranks [0, 1] (0 is best), and their votes or None."""
    number = columns.number  # of the row, for messages
    rejected_name = columns.name_of("rejected")  # of the column, which has other names in some data sets
    question_turns, chosen, rejected = _chosen_and_rejected(columns, rejected_name)
    responses = [_answer_text(chosen, "chosen", number), _answer_text(rejected, rejected_name, number)]
    _refuse_labels(responses, columns)  # `DataError` for "A" and "B", which only name answers
    ranks, votes = [0, 1], _votes(columns, len(responses))
    _check_votes(columns, ranks, votes)  # `DataError` if more people preferred the rejected answer
    # Turns if the row is a chat; else the question is a plain text in a column.
    if question_turns:
        question = _question_of_turns(question_turns, columns)
    else:
        question = _with_system_in_front(_text_question(columns), columns)
    return question, responses, ranks, votes


def _chosen_and_rejected(columns, rejected_name):
    """Read the two answers of a row; returns all turns before them (may be none), chosen and rejected.

    An answer is the value of its column or, if that is a chat, the text of the last turn. `columns` are the
    row's `Columns`, `rejected_name` is the name of the one with the rejected answer."""
    number = columns.number  # of the row, for messages
    rejected, chosen = columns.row[rejected_name], columns.get("chosen")
    # The turns of the prompt, [] if it is a plain text; and the answer with which it ends, or None.
    prompt_turns, reply = _prompt_and_reply(_prompt_turns(columns), number)
    if chosen is None:
        # ms-swift has a column for the rejected answer only; the chosen one is the last turn of the prompt.
        if reply is None:
            _raise_error(number, "response", f"{rejected_name!r} without a chosen answer")
        chosen = reply
    # The turns before each answer: from the answer's own chat if it is one, else those of the prompt.
    chosen_turns, chosen = _question_and_answer(chosen, prompt_turns, number)
    rejected_turns, rejected = _question_and_answer(rejected, prompt_turns, number)
    _refuse_other_reply(reply, chosen, number)  # `DataError` if the prompt ends with another answer
    # Only answers to one question can be compared. `_contents`: (text, pictures) of each turn. An answer
    # without turns is taken to answer the other one's question.
    if chosen_turns and rejected_turns and _contents(rejected_turns) != _contents(chosen_turns):
        _raise_error(number, "query", "chosen and rejected are answers to different questions")
    question_turns = chosen_turns or rejected_turns
    if question_turns and not prompt_turns:  # the question comes from the answers' chats
        _refuse_other_prompt(columns, question_turns)  # a prompt that is a plain text must say the same
    return question_turns, chosen, rejected


def _prompt_and_reply(turns, number):
    """Split a chat that may end with an answer: returns the `Turn`s before the answer, and the answer's text.

    If the last turn is not the assistant's, there is no answer: all turns are returned, and None. `DataError`
    about row `number` if the answer holds a picture."""
    if not turns or turns[-1].role != "assistant":
        return turns, None
    *prompt_turns, answer_turn = turns
    return prompt_turns, _text_of_answer(answer_turn, number)


def _text_of_answer(turn, number):
    "The text of an answer that is a `Turn`; a `DataError` about row `number` if it holds a picture"
    if turn.pictures:
        _raise_error(number, "response", "an answer holds a picture: only texts are judged")
    return turn.text


def _refuse_other_reply(
    reply,  # the answer at the end of the prompt; None: there is none
    chosen,  # the chosen answer, as `_answer_text` takes it
    number,  # of the row, for a message
):
    "Raise `DataError` if the prompt ends with an answer that is not the chosen one"
    # UltraFeedback has such a column: `messages` is the chat with the chosen answer once more.
    if reply is not None and reply.strip() != _answer_text(chosen, "chosen", number).strip():
        _raise_error(number, "query", f"the prompt ends with another answer than chosen: {reply[:60]!r}")


def _refuse_other_prompt(
    columns,  # `Columns` of the row
    turns,  # the question and the turns before it, from the answers' own chats
):
    "Raise `DataError` if the row's column for the question says something else than its answers' chats"
    name, value = columns.name_of("question"), columns.get("question")
    if value is None or value == [] or (isinstance(value, str) and not value.strip()):
        return
    if not isinstance(value, str):
        message = f"{name!r} is a {type(value).__name__}, expected a text or a chat"
        _raise_error(columns.number, "query", message)
    prompt = _text_question(columns).text
    user_texts = [turn.text for turn in turns if turn.role == "user"]
    # Of a chat with several turns UltraFeedback's `prompt` is the user's first, that of others the last.
    possible = user_texts[:1] + user_texts[-1:]
    if not any(_is_same_question(prompt, text) for text in possible):
        last = f"ask {user_texts[-1][:60]!r}" if user_texts else "ask nothing"
        in_chats = f"the answers' chats {last}"
        _raise_error(columns.number, "query", f"{name!r} is {prompt[:60]!r}, but {in_chats}")


def _is_same_question(
    prompt,  # a plain text
    asked,  # text of a turn, with `<image>` in the place of each picture
):
    "True if a prompt says what a turn says, spaces aside; the prompt may lack the marks of pictures"
    # Not the other way round: the chat's turn is used, so that a mark in the prompt alone would be lost.
    without_marks = asked.replace("<image>", " ").split()
    return prompt.split() in (asked.split(), without_marks)


def _text_question(columns):
    "The `_Question` in a row's `Columns` if it is a plain text there; else a `DataError`"
    query = columns.get("question")
    if not isinstance(query, str) or not query.strip():
        # `there`: the names of the row's columns, so that the user sees a misspelt one.
        _raise_error(columns.number, "query", f"no question: the row has {columns.there()}")
    return _with_input(query, columns)


def _with_input(query, columns):
    "The `_Question` of a plain text and, behind it, what the row's `Columns` hold as its input"
    input_text = columns.get("input")  # the form of Alpaca: an instruction, and an input for it
    if not is_said(input_text) or holds_pictures(input_text):
        columns.read.discard(columns.name_of("input"))  # so that it is reported as unread
        return _Question(query)
    note = f"column {columns.name_of('input')!r} stands behind the question"
    return _Question(f"{query}\n{input_text.strip()}", notes=[note])


def _with_system_in_front(question, columns):
    "A `_Question` that is no chat with the text of the system's column, if the row has one, in front"
    name, text = columns.name_of("system"), columns.get("system")
    if not is_said(text) or holds_pictures(text):
        columns.read.discard(name)  # so that a list, a number or a picture's name is reported as unread
        return question
    text = text.replace("<image>", "")  # the pictures belong to the question
    note = f"the system's text, column {name!r}, stands in front of the question"
    return _Question(f"{text.strip()}\n\n{question.text}", question.pictures, notes=[*question.notes, note])


def _refuse_labels(responses, columns):
    """Raise `DataError` if chosen and rejected are labels such as "A" and "B" instead of answers.

    Single characters count as labels if the row has columns for answers, such as response_a or answer_b.
    `responses` are the two texts, `columns` the row's `Columns`."""
    # As `plain_name` writes a column's name: letters and digits alone, so that answer_b is answerb.
    prefixes = ("response", "answera", "answerb")
    answer_columns = [name for name in columns.row if plain_name(name).startswith(prefixes)]
    are_single_characters = all(len(text.strip()) == 1 for text in responses)
    if answer_columns and are_single_characters:
        labels = f"labels ({', '.join(responses)}) of the answers in {answer_columns[0]!r}"
        _raise_error(columns.number, "response", f"chosen and rejected are {labels}")


def _prompt_turns(columns):
    """The `Turn`s of a row's prompt: of its column for chats, or of its column for the question.

    Empty if the prompt is a plain text. `columns` are the row's `Columns`."""
    name = columns.name_of("chat")  # of a column such as messages or conversations
    if name is not None:
        return read_turns(columns.row[name], columns.number, "preference.query")
    name = columns.name_of("question")
    if name is not None and is_turns(columns.row[name]):
        return read_turns(columns.row[name], columns.number, "preference.query")
    return []


def _question_and_answer(value, prompt_turns, number):
    """Read an answer, which may be written as a chat; return the turns before it, and the answer.

    `value` is the answer's column: a chat, which may begin with the question's turns, or the answer itself.
    `prompt_turns` are the turns of the row's prompt, or an empty list; `number` is the row's number."""
    if not is_turns(value):
        return prompt_turns, value
    *own_turns, answer_turn = read_turns(value, number, "preference.response")
    if answer_turn.role != "assistant":
        _raise_error(number, "response", f"an answer that ends with a turn of the {answer_turn.role}")
    answer = _text_of_answer(answer_turn, number)
    if own_turns and prompt_turns:  # both hold the question
        return _same_question(prompt_turns, own_turns, number), answer
    return own_turns or prompt_turns, answer


def _same_question(
    prompt_turns,  # `Turn`s of the row's prompt
    own_turns,  # those before the answer, in the answer's own chat
    number,  # of the row, for an error
):
    "The turns of a prompt that an answer's chat repeats, with the system's of either; else a `DataError`"
    prompt_system, prompt_dialogue = _system_and_dialogue(prompt_turns)
    own_system, own_dialogue = _system_and_dialogue(own_turns)
    if _contents(prompt_dialogue) != _contents(own_dialogue):
        _raise_error(number, "query", "the answers' own question is not that of the prompt")
    # Often only one of both has the system's turn.
    if prompt_system and own_system and _contents(prompt_system) != _contents(own_system):
        _raise_error(number, "query", "the answers' own system turn is not that of the prompt")
    return prompt_turns if prompt_system else own_turns


def _system_and_dialogue(turns):
    "Split turns into a list of those of the system, and a list of all others"
    system = [turn for turn in turns if turn.role == "system"]
    return system, [turn for turn in turns if turn.role != "system"]


def _contents(turns):
    "The texts and pictures of turns, by which two chats are compared"
    return [(turn.text, turn.pictures) for turn in turns]


def _answer_text(
    value,  # of the answer's column: a text, a turn or a list of one text
    name,  # of the column, for a message
    number,  # of the row, for a message
):
    "The text of an answer, unchanged"
    # Some sets wrap the text in a turn or a list. It is not stripped: models learn it as it was written.
    if isinstance(value, dict):  # LLaMA-Factory: {"from": "gpt", "value": …}
        value = value.get("value", value.get("content"))
    if isinstance(value, (list, tuple)) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]

    if is_nothing(value) or (isinstance(value, str) and not value.strip()):
        _raise_error(number, "response", f"{name!r} is empty")
    if not isinstance(value, str):
        _raise_error(number, "response", f"{name!r} is a {type(value).__name__}, expected a text")
    return value


def _question_of_turns(turns, columns):
    """The `_Question` of a chat's turns (a list of `Turn`), of which the last is the question.

    Apart from system turns, user and assistant must alternate, and the first and the last turn must be the
    user's; else a `DataError` names the row. `columns` are the row's `Columns`: LLaMA-Factory's form has the
    system's text in a column beside the turns."""
    number = columns.number
    dialogue = [turn for turn in turns if turn.role != "system"]
    _check_dialogue(dialogue, number)  # raises that error
    texts = [turn.text.strip() for turn in dialogue]  # one at least
    # Reward models are given no system turn, so its text becomes the beginning of the user's first turn.
    system_texts, notes = _system_texts(turns), []
    name, beside = columns.name_of("system"), columns.get("system")
    if not is_said(beside):
        columns.read.discard(name)  # so that a list or a number is reported as unread
    elif beside.strip() not in system_texts:
        system_texts.insert(0, beside.strip())
        notes.append(f"the system's text, column {name!r}, stands in front of the question")
    texts[0] = "\n\n".join([*system_texts, texts[0]])
    # Checked only now: the system's text may be the question, and the user's turn nothing but a picture.
    if not texts[-1].replace("<image>", "").strip():
        _raise_error(number, "query", "query is empty")

    pictures = []
    for turn in dialogue:
        pictures += turn.pictures
    *earlier_texts, query = texts  # not `turn.text`: the first of `texts` may begin with the system's
    earlier_turns = [(turn.role, text) for turn, text in zip(dialogue, earlier_texts)]
    return _Question(query, pictures, earlier_turns, notes)


def _system_texts(turns):
    "The texts of the system's turns, without empty ones"
    texts = [turn.text.strip() for turn in turns if turn.role == "system"]
    return [text for text in texts if text]


def _check_dialogue(turns, number):
    """Raise `DataError` about row `number` unless user and assistant alternate, from user to user.

    `turns` are `Turn`s without those of the system. Only the user's may hold pictures."""
    roles = [turn.role for turn in turns]
    expected = ["user" if i % 2 == 0 else "assistant" for i in range(len(turns))]
    if roles != expected or len(turns) % 2 == 0:  # an even number ends with the assistant, or is none
        order = "expected turns of the user and the assistant by turns, the first and the last the user's"
        _raise_error(number, "query", f"turns {roles} before the answer; {order}"[:300])
    assistant_turns = turns[1::2]
    if any(turn.pictures for turn in assistant_turns):
        _raise_error(number, "query", "a turn of the assistant holds a picture: only the user's may")


# Marks, tokens, margin

_turn_separator = "\0"  # stands in no text that is meant to be read


def _with_image_marks(
    question,  # `_Question`: its text, and the earlier turns as (role, text)
    pictures,  # how many the row shows
    notes,  # gets a sentence about marks that are left as they are
    number,  # of the row, for an error
):
    """Replace all marks of pictures by `<image>`; return the earlier turns, as (role, text), and the query.

    Raises `DataError` for marks that do not fit the pictures, and for control tokens of the models."""
    texts = [text for _, text in question.earlier_turns] + [question.text]
    # The marks of all turns are counted together, so the turns are joined to one text and split again.
    joined = _joined_texts(texts, number)  # with a NUL between any two
    marked = marked_question(joined, pictures, "preference.marks", notes, number)
    # A single text is not split: it may hold a NUL of its own.
    marked_texts = marked.split(_turn_separator) if len(texts) > 1 else [marked]
    *earlier_texts, query = marked_texts
    if not query.replace("<image>", "").strip():
        _raise_error(number, "query", "query is empty")
    _refuse_control_tokens(marked, number)
    turns = [(role, text) for (role, _), text in zip(question.earlier_turns, earlier_texts)]
    return turns, query


def _refuse_control_tokens(text, number):
    "Raise `DataError` if a text holds a control token of a model, such as <|im_end|>"
    token = control_token(text)  # the first one, or None
    if token:
        message = f"the query holds {token}, a control token of the models: the text is damaged"
        _raise_error(number, "tokens", message)


def _joined_texts(texts, number):
    """Join the texts of a row's turns into one, with a NUL between any two.

    `_with_image_marks` counts the marks of pictures in it, and then splits it at the NULs. So one of several
    texts must not hold a NUL of its own: that is a `DataError` about row `number`."""
    joined = _turn_separator.join(texts)
    added_separators = len(texts) - 1
    if len(texts) > 1 and joined.count(_turn_separator) > added_separators:
        _raise_error(number, "query", "a turn holds a NUL character: the text is damaged")
    return joined


def _margin(columns):
    """The margin in a row's `Columns`, by which the better answer's score should be higher; None without one

    The `Columns` note that its column was read."""
    # Not `columns.get`: it treats NaN as no value, but a margin of NaN must be reported as an error.
    name = columns.keys.get("margin")  # the column that the user has named
    if not name:
        # plain_name: letters and digits alone, in lower case, so that "Margin" is found, too
        name = next((name for name in columns.row if plain_name(name) == "margin"), None)
    if name is None:
        return None
    margin = columns.row.get(name)  # None if the user has named a column that this row lacks
    columns.read.add(name)  # so that it is not reported as unused
    if isinstance(margin, str) and is_number_text(margin):  # a CSV holds numbers as texts
        margin = float(margin)
    if margin is not None and not (is_finite_number(margin) and margin >= 0):
        _raise_error(columns.number, "margin", f"expected a number from 0, found {margin!r}"[:120])
    return margin

"""The options of a question with several choices: where a row holds them, and which one its answer names.

An answer may be an option's letter, its text, both, or its place. Places are counted from 0 in some sets and
from 1 in others, so a whole file is asked how it counts (`option_places`); a row alone cannot tell. Whatever
stays uncertain is an error: a shifted truth would be trained without a sign. Written by hand."""
import re
from typing import NoReturn

from ..archive import DataError
from .columns import is_nothing
from .values import as_list, listed, row_text

__all__ = ["row_options", "with_options", "chosen_option", "option_places", "whole_number"]

_letters = "ABCDEFGHIJ"  # of options; no public data set has more than ten
# Names of columns that hold a single option: option_A, Choice B, opa, option1
_lettered_column = re.compile(r"(?:option|choice|opt|op)[\s_]*([a-j])", re.IGNORECASE)
_numbered_column = re.compile(r"(?:option|choice|opt)[\s_]*(\d)", re.IGNORECASE)
_letter_in_front = re.compile(r"\s*\(?([A-Ja-j])\s*[).:]\s*(?=\S)")  # "B. dog", "(b) dog"
_letter_alone = re.compile(r"(?:option|choice|answer)?\s*\(?([A-J])\s*[).:]?|([a-j])", re.IGNORECASE)  # "(B)"
_several_letters = re.compile(r"[A-J](?:\s*(?:,|;|&|and)?\s*[A-J])+")  # "A, C", "A and C", "AC"
_no_options = ("", "[]", "{}", "none", "null", "nan", "n/a")  # texts for a row without options


def row_options(
    columns,  # `Columns` of the row
) -> list:  # texts in the order of their letters, without letters in front; empty if there are none
    "The options of a row, from one column that holds all of them or from a column for each"
    texts = _option_texts(columns)  # an empty text for a missing option
    while texts and not texts[-1]:
        texts.pop()  # where some rows have two options and others four, the last columns may be empty
    if not texts:
        return []
    if "" in texts:
        _raise_error(columns, f"option {_letters[texts.index('')]} is empty and a later one is not")
    if not 2 <= len(texts) <= len(_letters):
        _raise_error(columns, f"{len(texts)} options, expected 2 to {len(_letters)}")
    return _without_letters(texts)  # "A. cat" becomes "cat"


def _option_texts(columns):
    """The options of a row as texts, an empty one for a missing option; an empty list if the row has none.

    `columns` are the row's `Columns`, which find a column by its role."""
    name = columns.name_of("options")  # of a column such as options or choices; None if there is none
    if name is not None:
        values = _of_one_column(columns.row[name], columns.number)  # a list
    else:
        values = _of_columns(columns)  # from option_A, option_B, …; empty if there are none
    texts = []
    for value in values:
        text = "" if is_nothing(value) else row_text(value, "an option", columns.number, "vqa.options")
        texts.append(text)
    return texts


def _raise_error(columns, message) -> NoReturn:
    "Raise a `DataError` about the options of this row, from its `Columns`"
    raise DataError("vqa.options", message, row=columns.number)


def _of_one_column(values, number):
    """The options that one column holds, as a list.

    `values` may be a text, a dict, a list or an array. `number` is the row's, for an error."""
    if isinstance(values, str):
        values = _of_text(values)  # a list or a dict
    if isinstance(values, dict):
        return _of_dict(values)
    options = as_list(values)  # None if it is neither a list nor an array
    if options is None:
        raise DataError("vqa.options", f"options are a {type(values).__name__}, expected a list", row=number)
    return options


def _of_text(text):
    """The options that a text holds: "cat; dog" → ["cat", " dog"], split at line breaks, semicolons or bars.

    A text that writes a list or a dict gives this list or dict; "none" and the like give []."""
    if text.strip().casefold() in _no_options:
        return []
    parsed = listed(text)  # None if the text writes neither a list nor a dict
    if parsed is not None:
        return parsed
    for separator in "\n;|":  # no comma, which may stand inside an option
        if separator in text:
            return text.split(separator)
    return [text]


def _of_dict(values):
    """The options of a dict such as {"A": …, "B": …}, or {"text": […]} as in the data set ARC, as a list"""
    texts = as_list(values.get("text"))  # None if there is no list
    if texts is not None:
        return texts
    by_letter = {str(key).strip().upper(): value for key, value in values.items()}
    is_by_letter = len(by_letter) == len(values)  # not "a" beside "A": then one option would be lost
    if is_by_letter and set(by_letter) <= set(_letters):
        # From A to J, with None for a missing option; the caller drops those at the end.
        return [by_letter.get(letter) for letter in _letters]
    return list(values.values())


def _of_columns(columns):
    """The options of a row that has a column for each: option_A, Choice B, …, or A, B, …, or option1, ….

    `columns` are the row's `Columns`. Returns ten values, A to J, None for a missing column; the caller drops
    those at the end. Empty if fewer than two columns are filled."""
    name_of_letter = {}  # letter → name of its column
    for name in columns.row:
        letter = _letter_of_column(str(name).strip())
        if letter:
            name_of_letter[letter] = name

    values = {letter: columns.row[name] for letter, name in name_of_letter.items()}
    filled = [value for value in values.values() if not is_nothing(value)]  # neither None nor NaN
    if len(filled) < 2:  # a single column such as A is something else
        return []
    columns.read.update(name_of_letter.values())  # so that they are not reported as unread
    return [values.get(letter) for letter in _letters]


def _letter_of_column(name):
    "The letter of the option that a column holds, by its name: option_B, option2 → B; None if it holds none"
    lettered = _lettered_column.fullmatch(name)  # option_A, Choice B
    if lettered:
        return lettered[1].upper()
    if name in tuple(_letters):  # A, B, as in the data set MMBench
        return name
    numbered = _numbered_column.fullmatch(name)  # option1, which is A
    if numbered and 1 <= int(numbered[1]) <= len(_letters):
        return _letters[int(numbered[1]) - 1]
    return None


def _without_letters(texts):
    """Options without their letters: "A. cat" and "B. dog" become "cat" and "dog", in the letters' order.

    Nothing is changed unless every option begins with a letter, and these are A, B, … without a gap."""
    matches: list = [_letter_in_front.match(text) for text in texts]
    if not all(matches):
        return texts  # then "E. coli" is no option with a letter but a name
    letters = [match[1].upper() for match in matches]
    if sorted(letters) != list(_letters[:len(texts)]):
        return texts  # such as "E. coli", "S. aureus", "C. difficile"

    text_of_letter = {}
    for letter, text, match in zip(letters, texts, matches):
        text_of_letter[letter] = text[match.end():]
    return [text_of_letter[letter] for letter in sorted(text_of_letter)]


# In the question

def with_options(
    question: str,  # as the row holds it
    options: list,  # from `row_options`
    columns,  # `Columns` of the row
    notes: list,  # gets a sentence if the options are added
) -> str:  # the question, with a line for each option if it does not list them itself
    "Add the options to a question, since without them nobody could answer it"
    letters = list(_letters[:len(options)])
    letters_in_question = [_letter_of(option, question) for option in options]  # None if it is not listed
    if letters_in_question == letters:
        return question  # many sets write the options into the question as well
    if all(letters_in_question) and sorted(letters_in_question) == letters:
        _raise_error(columns, "the question lists the same options under other letters")

    notes.append("the options stand under the question")
    option_lines = [f"{letter}. {text}" for letter, text in zip(letters, options)]
    return "\n".join([question, *option_lines])


def _letter_of(option, question):
    "The letter under which a question lists an option: B for \"dog\" in \"… A. cat B. dog\"; else None"
    # A letter that ends no word, in brackets or not, one of ). or :, then the option as a whole word.
    pattern = rf"(?<![A-Za-z])\(?([A-J])\s*[).:]\s*{re.escape(option)}(?!\w)"
    match = re.search(pattern, question, re.IGNORECASE)
    return match[1].upper() if match else None


# The answer

def option_places(
    answers: list,  # (answer as the row holds it, options of its row), of all rows of a file or of one row
) -> str | int | None:  # "text", 0, 1, or None for unknown
    """What a number means as an answer in a file of multiple choice questions.

    "text": it is an option's text. 0 or 1: it is the position of an option, and the first option has this
    number. None: it is a position, but the rows do not show from where they count."""
    numbers = [(whole_number(answer), options) for answer, options in answers]
    numbered = [(number, options) for number, options in numbers if number is not None]
    if all(str(number) in options for number, options in numbered):
        return "text"  # also if no answer is a number

    # Of four options, 0 can only be the first counted from 0, and 4 only the last counted from 1.
    counts_from_zero = any(number == 0 for number, _ in numbered)
    counts_from_one = any(number == len(options) for number, options in numbered)
    if counts_from_zero == counts_from_one:
        return None  # the numbers show neither, or contradict each other
    return 0 if counts_from_zero else 1


def whole_number(
    value,  # an answer as a row holds it
) -> int | None:
    "A whole number from an int, a float such as 2.0, or a text of one or two digits; None for anything else"
    if isinstance(value, bool):  # a bool is an int in Python
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"\d{1,2}", value.strip()):
        return int(value)
    return value if isinstance(value, int) else None


def chosen_option(
    raw,  # the answer as the row holds it: a text or a number
    answer: str,  # the same as text
    options: list,  # from `row_options`
    places,  # what a number means: "text": it is an option's text; 0 or 1: an option's position, counted from
        # there; None: a position, but nobody knows from where it is counted
    columns,  # `Columns` of the row
    notes: list,  # gets a sentence if a number became a letter
) -> str:  # a letter, several letters ("A, C"), or an option's text
    "Find the option that an answer names; `DataError` if it names none, or if that is not certain"
    number = whole_number(raw)
    if number is not None and places != "text":  # a position; `_option_index` refuses it if `places` is None
        return _letters[_option_index(number, places, options, columns, notes)]
    return _option_of_text(answer, options, columns)


def _option_of_text(
    answer,  # a text, such as dog, (B), B. dog or A and C
    options,  # from `row_options`
    columns,  # `Columns` of the row, for an error
):
    """The option that a text names: a letter ("B"), several ("A, C"), or the text, if it is an option's own.

    `DataError` if it names none for certain."""
    letters = _letters[:len(options)]
    texts = [option.casefold() for option in options]
    if answer.casefold() in texts:  # before the letters: an option's text may be a letter itself
        return answer
    letter = _lone_letter(answer)  # B of "(b)"; None for other answers
    if letter and letter in letters:
        return letter
    in_front = _letter_in_front.match(answer)  # such as "B. dog"
    if in_front and in_front[1].upper() in letters:
        return _letter_with_text(answer, in_front, texts, columns)  # `DataError` if the text is another's
    several = _listed_letters(answer)  # of "A, C" or "A and C"
    if several and set(several) <= set(letters):
        return ", ".join(several)
    _raise_error(columns, f"the answer {answer[:60]!r} is none of the {len(options)} options")


def _lone_letter(answer):
    "The letter, A to J, of an answer that is nothing else, such as (b) or Option B; None for other answers"
    match = _letter_alone.fullmatch(answer.strip())
    # The pattern has two groups, of which one has matched.
    return (match[1] or match[2]).upper() if match else None


def _listed_letters(answer):
    "The letters, A to J, of an answer that is two or more of them, such as AC or A and C; else an empty list"
    is_list = _several_letters.fullmatch(answer.strip())  # only capitals: "bad" is a word, no list
    return re.findall("[A-J]", answer) if is_list else []


def _option_index(
    number,  # the answer
    first,  # number of the first option: 0, 1, or None if the file does not show which
    options,  # of the row
    columns,  # `Columns` of the row, for an error
    notes,  # gets a sentence about what was done
):
    """Index from 0 of the option that a number names by its position: 2, counted from 1, is index 1.

    `DataError` if there is no such option, or if nobody knows from where it counts."""
    if first is None:
        _raise_error(columns, f"the answer {number} is an option's place, counted from 0 or from 1: "
                              "write its letter or text")
    index = number - first
    if not 0 <= index < len(options):
        _raise_error(columns, f"the answer {number} is no place among {len(options)} options "
                              f"(counted from {first})")
    notes.append(f"the answer is an option's place (from {first}) and became its letter")
    return index


def _letter_with_text(
    answer,  # such as "B. dog"
    in_front,  # regex match of "B. ", the letter (group 1) and what separates it from the text
    texts,  # of the options, in lower case
    columns,  # `Columns` of the row, for an error
):
    "The letter of an answer that is a letter with a text; `DataError` if the text is not that of this option"
    letter = in_front[1].upper()
    text = answer[in_front.end():].strip().casefold()
    if texts[_letters.index(letter)] == text:
        return letter
    _raise_error(columns, f"the answer {answer[:60]!r} has the letter of one option and the text of another")

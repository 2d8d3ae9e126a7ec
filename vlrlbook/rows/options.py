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

_letters = "ABCDEFGHIJ"  # of options; more than ten were seen nowhere
# Columns of single options: option_A, Choice B, opa, option1
_lettered_column = re.compile(r"(?:option|choice|opt|op)[\s_]*([a-j])", re.IGNORECASE)
_numbered_column = re.compile(r"(?:option|choice|opt)[\s_]*(\d)", re.IGNORECASE)
_letter_in_front = re.compile(r"\s*\(?([A-Ja-j])\s*[).:]\s*(?=\S)")
_letter_alone = re.compile(r"(?:option|choice|answer)?\s*\(?([A-J])\s*[).:]?|([a-j])", re.IGNORECASE)
_several_letters = re.compile(r"[A-J](?:\s*(?:,|;|&|and)?\s*[A-J])+")
_nothing = ("", "[]", "{}", "none", "null", "nan", "n/a")


def row_options(
    columns,  # `Columns` of the row
) -> list:  # texts in the order of their letters, without letters in front; empty where there are none
    "The options of a row, of one column or of a column each"
    name = columns.name_of("options")
    values = _of_one_column(columns.row[name], columns.number) if name is not None else _of_columns(columns)
    texts = []
    for value in values:
        text = "" if is_nothing(value) else row_text(value, "an option", columns.number, "vqa.options")
        texts.append(text)
    while texts and not texts[-1]:
        texts.pop()  # sets with two to four options leave the last ones empty
    if not texts:
        return []
    if "" in texts:
        _refuse(columns, f"option {_letters[texts.index('')]} is empty and a later one is not")
    if not 2 <= len(texts) <= len(_letters):
        _refuse(columns, f"{len(texts)} options, expected 2 to {len(_letters)}")
    return _without_letters(texts, columns)


def _refuse(columns, message) -> NoReturn:
    "A `DataError` about the options of this row"
    raise DataError("vqa.options", message, row=columns.number)


def _of_one_column(values, number):
    "The options of one column as a list: from a list, a dict, or a text that writes one of these"
    if isinstance(values, str):
        if values.strip().casefold() in _nothing:
            return []
        separator = next((mark for mark in "\n;|" if mark in values), "\n")
        written = listed(values)
        values = values.split(separator) if written is None else written
    if isinstance(values, dict):
        if as_list(values.get("text")) is not None:  # ARC: {"text": […], "label": ["A", …]}
            return as_list(values["text"])
        by_letter = {str(key).strip().upper(): value for key, value in values.items()}
        if set(by_letter) <= set(_letters):  # in the order of the letters, however the dict is ordered
            return [by_letter.get(letter) for letter in _letters]
        return list(values.values())
    found = as_list(values)
    if found is None:
        raise DataError("vqa.options", f"options are a {type(values).__name__}, expected a list", row=number)
    return found


def _of_columns(columns):
    "Values of the columns option_A, Choice B, … or A, B, … or option1, …, by their letters"
    found = {}  # letter → column
    for name in columns.row:
        word = str(name).strip()
        lettered, numbered = _lettered_column.fullmatch(word), _numbered_column.fullmatch(word)
        if lettered:
            found[lettered[1].upper()] = name
        elif word in tuple(_letters):  # MMBench
            found[word] = name
        elif numbered and 1 <= int(numbered[1]) <= len(_letters):
            found[_letters[int(numbered[1]) - 1]] = name
    filled = {letter for letter, name in found.items() if not is_nothing(columns.row[name])}
    if len(filled) < 2:
        return []
    columns.read.update(found.values())
    return [columns.row[found[letter]] if letter in found else None for letter in _letters]


def _without_letters(texts, columns):
    "The texts without letters in front, where each bears one; in the order of those letters"
    marks: list = [_letter_in_front.match(text) for text in texts]
    if not all(marks):
        return texts  # "E. coli" among options without letters is a name
    letters = [mark[1].upper() for mark in marks]
    if sorted(letters) != list(_letters[:len(texts)]):
        return texts  # "E. coli", "S. aureus", "C. difficile": no letters of options either
    bare = {letter: text[mark.end():] for letter, text, mark in zip(letters, texts, marks)}
    return [bare[letter] for letter in sorted(bare)]


# In the question

def with_options(
    question: str,  # as the row holds it
    options: list,  # from `row_options`
    columns,  # `Columns` of the row
    notes: list,  # gets a sentence if they are added
) -> str:  # the question, under which the options stand if it does not list them itself
    "The question with its options: without them nobody could answer it"
    listed_as = [_letter_of(option, question) for option in options]
    own = list(_letters[:len(options)])
    if listed_as == own:
        return question  # many sets write the options into the question as well
    if all(listed_as) and sorted(listed_as) == own:
        _refuse(columns, "the question lists the same options under other letters")
    notes.append("the options stand under the question")
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in zip(own, options))])


def _letter_of(option, question):
    "The letter under which a question lists an option; None where it does not"
    letter_in_front = rf"(?<![A-Za-z])\(?([A-J])\s*[).:]\s*{re.escape(option)}(?!\w)"
    found = re.search(letter_in_front, question, re.IGNORECASE)
    return found[1].upper() if found else None


# The answer

def option_places(
    answers: list,  # (raw answer, its row's options) of a whole file, or of one row
) -> str | int | None:  # "text": numbers are options' texts; 0 or 1: places from there; None: unknown
    "What a number stands for where the answers of a file are numbers"
    numbered = []
    for answer, options in answers:
        place = whole_number(answer)
        if place is not None:
            numbered.append((place, len(options), str(place) in options))
    if not numbered or all(is_text for _, _, is_text in numbered):
        return "text"
    from_zero = any(place == 0 for place, _, _ in numbered)
    from_one = any(place == count for place, count, _ in numbered)
    if from_zero == from_one:
        return None  # neither end was seen, or both: a file that counts in two ways
    return 0 if from_zero else 1


def whole_number(
    value,  # an answer as a row holds it
) -> int | None:
    "A whole number from an int, a float without fraction or digits; None for anything else"
    if isinstance(value, bool):
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
    places,  # from `option_places`
    columns,  # `Columns` of the row
    notes: list,  # gets a sentence if a place became a letter
) -> str:  # a letter, letters, or an option's text
    "Which option an answer names; one that names none, or none for certain, is a `DataError`"
    letters = _letters[:len(options)]
    place = whole_number(raw)
    if place is not None and places != "text":
        if places is None:
            unknown = "an option's place, counted from 0 or from 1: write its letter or text"
            _refuse(columns, f"the answer {place} is {unknown}")
        if not 0 <= place - places < len(options):
            among = f"no place among {len(options)} options (counted from {places})"
            _refuse(columns, f"the answer {place} is {among}")
        notes.append(f"the answer is an option's place (from {places}) and became its letter")
        return letters[place - places]
    texts = [option.casefold() for option in options]
    if answer.casefold() in texts:
        return answer
    alone = _letter_alone.fullmatch(answer.strip())
    if alone and (alone[1] or alone[2]).upper() in letters:
        return (alone[1] or alone[2]).upper()
    marked = _letter_in_front.match(answer)
    if marked and marked[1].upper() in letters:
        return _letter_and_text(answer, marked, texts, columns)
    if _several_letters.fullmatch(answer.strip()):
        named = re.findall("[A-J]", re.sub("and", ",", answer))
        if set(named) <= set(letters):
            return ", ".join(named)
    _refuse(columns, f"the answer {answer[:60]!r} is none of the {len(options)} options")


def _letter_and_text(answer, marked, texts, columns):
    "The letter of an answer such as \"B. dog\", once both say the same option"
    letter = marked[1].upper()
    if texts[_letters.index(letter)] == answer[marked.end():].strip().casefold():
        return letter
    _refuse(columns, f"the answer {answer[:60]!r} has the letter of one option and the text of another")

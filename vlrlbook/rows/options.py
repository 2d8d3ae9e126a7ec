"""The options of a question with several choices: where a row holds them, and which one its answer names.

An answer may be an option's letter, its text, both, or its place. Places are counted from 0 in some sets and
from 1 in others, so a whole file is asked how it counts (`option_places`); a row alone cannot tell. Whatever
stays uncertain is an error: a shifted truth would be trained without a sign. Written by hand."""
import re
from dataclasses import dataclass
from typing import NoReturn

from ..archive import DataError
from .columns import is_nothing
from .values import as_list, listed, row_text

__all__ = ["row_options", "with_options", "chosen_option", "listed_choice", "option_places",
           "whole_number", "Places", "NumberedAnswer", "numbered_answer"]

_letters = "ABCDEFGHIJ"  # of options; no public data set has more than ten
# Names of columns that hold a single option: option_A, Choice B, opa, option1
_lettered_column = re.compile(r"(?:option|choice|opt|op)[\s_]*([a-j])", re.IGNORECASE)
_numbered_column = re.compile(r"(?:option|choice|opt)[\s_]*(\d{1,2})", re.IGNORECASE)
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
    """The options of a dict such as {"A": …, "B": …} or {"0": …, "1": …}, or {"text": […]} as in the data set
    ARC, as a list"""
    texts = as_list(values.get("text"))  # None if there is no list
    if texts is not None:
        return texts
    numbers = _numbers_of(values)
    if numbers is not None:
        by_number = dict(zip(numbers, values.values()))
        return [by_number[number] for number in sorted(by_number)]
    by_letter = {str(key).strip().upper(): value for key, value in values.items()}
    is_by_letter = len(by_letter) == len(values)  # not "a" beside "A": then one option would be lost
    if is_by_letter and set(by_letter) <= set(_letters):
        # From A to J, with None for a missing option; the caller drops those at the end.
        return [by_letter.get(letter) for letter in _letters]
    return list(values.values())


def _numbers_of(names):
    "Names of options as different whole numbers, in their order; None if one of them is no number"
    numbers = [whole_number(name) for name in names]
    are_numbers = None not in numbers and len(set(numbers)) == len(numbers)
    return numbers if numbers and are_numbers else None


def _own_numbers(columns, count):
    """The numbers that the row itself gives its `count` options, in their order: [0, 1, 2]; None without any.

    Such numbers are the keys of {"0": …, "1": …}, the labels of {"text": […], "label": ["1", "2"]} (the data
    set ARC), and those of columns option0, option1, …. Columns that begin with option1 do not count: some
    sets that have them count answers from 0 all the same."""
    name = columns.name_of("options")  # the column that holds all options; None: each has a column
    if name is None:
        return list(range(count)) if _counts_from_zero(columns) else None  # True: there is an option0
    values = columns.row[name]
    values = _of_text(values) if isinstance(values, str) else values
    if not isinstance(values, dict):
        return None
    labels = as_list(values.get("label"))  # of ARC, beside its list `text`
    if as_list(values.get("text")) is not None:
        numbers = _numbers_of(labels or [])  # None unless all are different whole numbers
        return numbers if numbers is not None and len(numbers) == count else None
    numbers = _numbers_of(values)
    if numbers is None:
        return None
    # sorted, as `_of_dict` sorts the options; [:count], since empty options at the end have been dropped
    return sorted(numbers)[:count]


def _of_columns(columns):
    """The options of a row that has a column for each: option_A, Choice B, …, or A, B, …, or option1, ….

    `columns` are the row's `Columns`. Returns ten values, A to J, None for a missing column; the caller drops
    those at the end. Empty if fewer than two columns are filled."""
    name_of_letter = {}  # letter → name of its column
    first = 0 if _counts_from_zero(columns) else 1  # number of the first option: is there a column option0?
    for name in columns.row:
        # B for option_B or B, and for option2 (option1 if the first is option0); None for other columns
        letter = _letter_of_column(str(name).strip(), first)
        if letter:
            name_of_letter[letter] = name

    values = {letter: columns.row[name] for letter, name in name_of_letter.items()}
    filled = [value for value in values.values() if not is_nothing(value)]  # neither None nor NaN
    if len(filled) < 2:  # a single column such as A is something else
        return []
    _refuse_column_beyond(columns, first)  # `DataError` for an eleventh option, such as option11
    columns.read.update(name_of_letter.values())  # so that they are not reported as unread
    return _without_nan_at_end([values.get(letter) for letter in _letters])


def _without_nan_at_end(values):
    """The values of option A to J, with None for the last ones where they are the text "nan".

    MMBench as lmms-lab publishes it holds this text for an option that a row does not have. Two options stay
    at least. "NaN" may be an answer, and so may a "nan" that stands before another option."""
    values = list(values)
    for place in range(len(values) - 1, 1, -1):
        if isinstance(values[place], str) and values[place].strip() == "nan":
            values[place] = None
        elif not is_nothing(values[place]):
            break
    return values


def _has_nan_column(columns, count):
    """Whether the row has an option with the text "nan", which was left out.

    Options are left out at the end only: they are those behind the row's `count` options."""
    if columns.name_of("options") is not None:  # one column holds all options
        return False
    first = 0 if _counts_from_zero(columns) else 1  # number of the first option: is there a column option0?
    for name, value in columns.row.items():
        letter = _letter_of_column(str(name).strip(), first)
        if letter and letter in _letters[count:] and isinstance(value, str) and value.strip() == "nan":
            return True
    return False


def _refuse_column_beyond(columns, first):
    "Raise `DataError` for a numbered column with a value behind the tenth option, such as option11"
    for name, value in columns.row.items():
        number = _column_number(name)
        if number is not None and number - first >= len(_letters) and not is_nothing(value):
            _raise_error(columns, f"column {name!r} is one option too many, expected 2 to {len(_letters)}")


def _counts_from_zero(columns):
    "Whether the row has a column option0 or choice 0, which is option A; not one that is empty in all rows"
    return any(_column_number(name) == 0 and name not in columns.empty for name in columns.row)


def _column_number(name):
    "The number of a column that holds a single option: option2 → 2; None for any other column"
    numbered = _numbered_column.fullmatch(str(name).strip())
    return None if numbered is None else int(numbered[1])


def _letter_of_column(name, first):
    """The letter of the option that a column holds, by its name: option_B → B; None if it holds none.

    option2 is B if numbered columns count from `first` = 1, and C if they count from 0."""
    lettered = _lettered_column.fullmatch(name)  # option_A, Choice B
    if lettered:
        return lettered[1].upper()
    if name in tuple(_letters):  # A, B, as in the data set MMBench
        return name
    number = _column_number(name)  # 1 of option1
    if number is not None and 0 <= number - first < len(_letters):
        return _letters[number - first]
    return None


def _without_letters(texts):
    """Options without their letters: "A. cat" and "B. dog" become "cat" and "dog", in the letters' order.

    Nothing is changed unless every option begins with a letter, and these are A, B, … without a gap."""
    letters = _letters_in_front(texts)
    if letters is None:
        return texts
    text_of_letter = {}
    for letter, text in zip(letters, texts):
        text_of_letter[letter] = _letter_in_front.sub("", text, count=1)
    return [text_of_letter[letter] for letter in sorted(text_of_letter)]


def _letters_in_front(texts):
    """The letters with which all options begin, in their order; None unless these are A, B, … without a gap.

    So "E. coli", "S. aureus", "C. difficile" are names, and no options with letters."""
    matches = [_letter_in_front.match(text) for text in texts]
    letters = [match[1].upper() for match in matches if match]
    return letters if sorted(letters) == list(_letters[:len(texts)]) else None


def _are_reordered(columns):
    "Whether the row's options begin with letters that are in another order, such as B. dog, A. cat"
    letters = _letters_in_front([text for text in _option_texts(columns) if text])
    return letters is not None and letters != sorted(letters)


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
    if _has_nan_column(columns, len(options)):
        notes.append('options whose text is "nan" are left out')
    option_lines = [f"{letter}. {text}" for letter, text in zip(letters, options)]
    return "\n".join([question, *option_lines])


def _letter_of(option, question):
    "The letter under which a question lists an option: B for \"dog\" in \"… A. cat B. dog\"; else None"
    # A letter that ends no word, in brackets or not, one of ). or :, then the option as a whole word.
    pattern = rf"(?<![A-Za-z])\(?([A-J])\s*[).:]\s*{re.escape(option)}(?!\w)"
    match = re.search(pattern, question, re.IGNORECASE)
    return match[1].upper() if match else None


# The answer

@dataclass(frozen=True)
class Places:
    "What a number means as an answer in the rows of one file: an option's place, or its text"
    first: int | None = None  # the number of the first option, 0 or 1; None: the rows do not show it
    # True: a number that is the text of one of its row's options means that option; False: it is a place like
    # all others; None: the rows do not show it
    are_texts: bool | None = True


@dataclass(frozen=True)
class NumberedAnswer:
    "An answer that is a whole number, beside the options of its row"
    number: int
    options: list  # texts, from `row_options`
    keys: list | None  # the number of each option, where the row itself numbers them; else None

    @property
    def text(self) -> str | None:
        "The option whose text is this number, as the row writes it; None if there is none, or more than one"
        text = str(self.number)
        return text if text in self.options else _option_of_number(text, self.options)

    @property
    def can_be_place(self) -> bool:
        "Whether the number can be an option's place: one of `keys`, or else counted from 0 or from 1"
        if self.keys is not None:  # the numbers that the row itself gives its options
            return self.number in self.keys
        return self.number in range(len(self.options) + 1)  # of four options: 0 to 3, or 1 to 4

    @property
    def among_numbers(self) -> bool:
        "Whether one of the options is a number, so that the answer can be an option's text"
        return any(_as_number(option) is not None for option in self.options)


def numbered_answer(
    raw,  # the answer as the row holds it
    options: list,  # from `row_options`
    columns,  # `Columns` of the row
) -> NumberedAnswer | None:
    "The answer of a row, if it is a whole number and the row has options; else None"
    number = whole_number(raw)
    if number is None or not options:
        return None
    return NumberedAnswer(number, options, _own_numbers(columns, len(options)))


_few = 6  # one row in so many
_few_of_a_small_file = 4  # where fewer than three rows speak, which may be slips
_most_slips = 2


def option_places(
    answers: list,  # of `NumberedAnswer`, those of all rows of a file or of one row
) -> Places:
    """What a number means as an answer in a file of multiple choice questions: an option's text or place.

    The answer 3 beside the options 2, 3, 4 may be the second option's text, or the third place. Rows that
    allow one reading only decide for the file. A number that is neither a text nor a possible place of its
    row's options is wrong, and decides nothing."""
    # The evidence. `text`: the option that is this number; `among_numbers`: one of the options is a number.
    only_places = [answer for answer in answers if answer.text is None and answer.can_be_place]
    # dog, cat and the answer 1: a place, but no sign of what a number means where options are numbers
    beside_words = [answer for answer in only_places if not answer.among_numbers]
    # 2, 3, 4 and the answer 1: a place, although the options are numbers
    against_texts = [answer for answer in only_places if answer.among_numbers]
    number_rows = sum(answer.among_numbers for answer in answers)
    # 20, 30, 40 and the answer 30: a text
    has_only_text = any(answer.text is not None and not answer.can_be_place for answer in answers)

    # A few rows are simply wrong: at least one in 6 (`_few`) must be against texts. One in 5 would be too
    # strict: of answers to the options 1 to 5, counted from 0, only 0, a fifth of them, is no text.
    are_many = len(against_texts) * _few >= max(1, number_rows)
    # If only one or two are, these may be slips: then it takes one in 4, so that one wrong row beside four
    # right ones does not shift their truths. It is no slip if rows of words show that numbers are places.
    may_be_slips = len(against_texts) <= _most_slips and not beside_words
    are_enough = len(against_texts) * (_few_of_a_small_file if may_be_slips else _few) >= number_rows

    if are_many:
        # None, not known: the rows contradict each other, or too few of them are against texts
        are_texts = None if has_only_text or not are_enough else False
    elif has_only_text or not (beside_words or against_texts):
        are_texts = True  # also if no answer is a number
    else:
        are_texts = None
    # The rows that may show whether places are counted from 0 or from 1.
    counted = [answer for answer in answers if answer.can_be_place] if are_texts is False else beside_words
    return Places(_first_place(counted), are_texts)


def _first_place(
    places,  # list of `NumberedAnswer` whose numbers are places
):
    "The number of the first option, 0 or 1; None if the answers show neither, or contradict each other"
    places = [answer for answer in places if answer.keys is None]  # the others count by themselves
    # Of four options, 0 can only be the first counted from 0, and 4 only the last counted from 1.
    counts_from_zero = any(answer.number == 0 for answer in places)
    counts_from_one = any(answer.number == len(answer.options) for answer in places)
    if counts_from_zero == counts_from_one:
        return None
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


def _as_number(text):
    "The number that a text writes, in the digits of any script; None for any other text"
    return float(text) if re.fullmatch(r"[+-]?\d+(?:\.\d+)?", text.strip()) else None


def _option_of_number(text, options):
    "The one option that writes the same number as a text: 3.0 for 3; None if there is none, or several"
    number = _as_number(text)
    if number is None:
        return None
    same = [option for option in options if _as_number(option) == number]
    return same[0] if len(same) == 1 else None


def chosen_option(
    raw,  # the answer as the row holds it: a text or a number
    answer: str,  # the same as text
    options: list,  # from `row_options`
    places: Places,  # what a number means in the row's file: an option's text, or its place from 0 or from 1
    columns,  # `Columns` of the row
    notes: list,  # gets a sentence if a number became a letter
) -> str:  # a letter, several letters ("A, C"), or an option's text
    "Find the option that an answer names; `DataError` if it names none, or if that is not certain"
    numbered = numbered_answer(raw, options, columns)  # None if the answer is no whole number
    # can_be_place: with four options the number is 0 to 4, or one of the numbers that the row gives them
    if numbered is None or not numbered.can_be_place:
        return _option_of_text(answer, options, columns, notes)  # `DataError` if it names no option
    # The options are numbers, such as 2, 3, 4, and in this file the answer 3 means the text "3", not a place.
    if places.are_texts and numbered.among_numbers:
        return _option_of_text(answer, options, columns, notes)
    index = _option_index(numbered, places, columns)  # from 0; `DataError` if the place is not certain
    notes.append(_place_note(numbered, places))
    return _letters[index]


def _option_of_text(
    answer,  # a text, such as dog, (B), B. dog or A and C
    options,  # from `row_options`
    columns,  # `Columns` of the row, for an error
    notes,  # gets a sentence if it is an option's text, beside which a model's letter earns nothing
):
    """The option that a text names: a letter ("B"), several ("A, C"), or the text, if it is an option's own.

    `DataError` if it names none for certain."""
    letters = _letters[:len(options)]
    texts = [option.casefold() for option in options]
    if answer.casefold() in texts:  # before the letters: an option's text may be a letter itself
        _refuse_other_option(answer, texts, columns)
        own_text = answer
    else:
        own_text = _option_of_number(answer, options)  # such as "3.0" for the answer 3; None if it is none
    if own_text is not None:
        if own_text.upper() not in tuple(letters):
            notes.append("the answer is an option's text: its letter earns nothing")
        return own_text
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


def _refuse_other_option(
    answer,  # an option's text
    texts,  # of all options, in lower case
    columns,  # `Columns` of the row, for an error
):
    "Raise `DataError` if an option's text is another option's letter, too, as A beside the options B, A, C"
    letter = answer.strip().upper()
    place_of_letter = _letters.find(letter) if len(letter) == 1 else -1
    if 0 <= place_of_letter < len(texts) and texts[place_of_letter] != answer.casefold():
        in_full = f"{_letters[texts.index(answer.casefold())]}. {answer}"
        _raise_error(columns, f"the answer {answer!r} is one option's text and another's letter: "
                              f"write which one is meant, such as {in_full!r}")


def _lone_letter(answer):
    "The letter, A to J, of an answer that is nothing else, such as (b) or Option B; None for other answers"
    match = _letter_alone.fullmatch(answer.strip())
    # The pattern has two groups, of which one has matched.
    return (match[1] or match[2]).upper() if match else None


# A question that lists options itself, such as "… A. yes B. no"
_lists_options = re.compile(r"(?<![A-Za-z])\(?A\s*[).:].*(?<![A-Za-z])\(?B\s*[).:]", re.DOTALL)


def listed_choice(
    answer: str,  # of a row without columns of options
    question: str,  # which may list options itself
    notes: list,  # gets a sentence if the answer is shortened, or is a letter of unknown options
) -> str:  # the letter of an option that the question lists; any other answer as it is
    'The letter B for "(B)" or "B. dog", where the question itself lists an option B, or one "B. dog"'
    if not _lists_options.search(question):
        if answer in tuple("ABCDEFGH"):  # no error, since the options may stand in the picture
            notes.append("the answer is a letter, and no options are known")
        return answer
    letter = _lone_letter(answer)
    in_front = _letter_in_front.match(answer)
    if letter is None and in_front:
        text = answer[in_front.end():].rstrip(".")
        letter = in_front[1].upper() if _letter_of(text, question) == in_front[1].upper() else None
    if letter is None or letter == answer:
        return answer
    notes.append("the answer is an option's letter with more: the letter is the truth")
    return letter


def _listed_letters(answer):
    "The letters, A to J, of an answer that is two or more of them, such as AC or A and C; else an empty list"
    is_list = _several_letters.fullmatch(answer.strip())  # only capitals: "bad" is a word, no list
    return re.findall("[A-J]", answer) if is_list else []


def _option_index(
    numbered,  # `NumberedAnswer`, which can be a place
    places,  # `Places` of the file
    columns,  # `Columns` of the row, for an error
):
    """Index from 0 of the option that a number names by its place: 2, counted from 1, is index 1.

    `DataError` if there is no such option, or nobody knows from where it counts or whether it is a text."""
    number, options = numbered.number, numbered.options
    index = _index_of_place(numbered, places.first)  # None: it may be counted from 0 or from 1
    text = numbered.text  # the option that writes this number, such as "3"; None if there is none
    # False, not None: the rows of the file show that a number is a place.
    may_be_text = text is not None and places.are_texts is not False
    # Both readings may lead to the same option, as the answer 2 beside the options 1, 2, 3, counted from 1.
    # The slice is [] for an index outside, where options[index] would raise.
    is_same_option = index is not None and options[index:index + 1] == [text]
    if may_be_text and not is_same_option:
        _raise_error(columns, f"the answer {number} is one option's text and may be another's place: "
                              "write its letter")
    if index is None:
        _raise_error(columns, f"the answer {number} is an option's place, counted from 0 or from 1: "
                              "write its letter or text")
    if not 0 <= index < len(options):
        _raise_error(columns, f"the answer {number} is no place among {len(options)} options "
                              f"(counted from {places.first})")
    # The row has "B. dog", "A. cat", and `options` has cat, dog: nobody knows in which of the two orders a
    # place counts. (The row's own numbers of its options, `numbered.keys`, are in the row's order.)
    if _are_reordered(columns):
        _raise_error(columns, f"the answer {number} is a place among options whose letters are not in order: "
                              "write its letter")
    return index


def _index_of_place(numbered, first):
    "Index from 0 of a `NumberedAnswer` by the row's own numbers, else counted from `first`; None if unknown"
    if numbered.keys is not None:
        return numbered.keys.index(numbered.number)
    return None if first is None else numbered.number - first


def _place_note(numbered, places):
    "The note about an answer that was a place and became a letter"
    if numbered.keys is not None:
        return "the answer is an option's own number in its row and became its letter"
    return f"the answer is an option's place (from {places.first}) and became its letter"


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

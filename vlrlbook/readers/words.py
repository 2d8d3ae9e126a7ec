"""Answers compared as words and as lists, whatever their spelling; and what kind of truth a truth is.

Written by hand."""
import re
import unicodedata
from functools import lru_cache

from .choices import truth_letters
from .counts import read_number
from .tokens import is_number, margin, plain_text, tens, tokens_of, units, unwrapped

__all__ = ["normalise_answer", "answer_words", "answer_items", "same_words", "same_items", "answer_kind",
           "truth_number"]

_most_normalised = 4000  # characters
_articles = ("a", "an", "the")


def normalise_answer(
    text,  # an answer, also a number
) -> str:  # words separated by one space
    "Lower case, NFKC, single number words as digits, no articles or punctuation; after the VQA challenge"
    plain = unicodedata.normalize("NFKC", str(text)[:_most_normalised]).lower()
    plain = re.sub(r"['’`]", "", plain)
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", plain)
    # every mark but a decimal point and the signs of a quantity
    plain = re.sub(r"(?<!\d)\.|\.(?!\d)|[^\w.%+<>=]|_", " ", plain)
    words = []
    for word in plain.split():
        # single number words only: this form is compared with the challenge's own
        if word not in _articles:
            words.append(str(units.get(word, tens.get(word, word))))
    return " ".join(words)


# Words

_kept_marks = {"%", "+", "<", ">", "=", "≥", "≤", "°"}
# only of Latin letters: in other scripts a combining mark is a vowel
_accents = re.compile("(?<=[a-zA-Z])[\u0300-\u036f]+")


def answer_words(
    text,  # an answer, also a number
    synonyms=None,  # phrase → preferred phrase, both in any spelling
    keep_articles: bool = False,  # "a" may be a name: hepatitis A
) -> list:  # of words and numbers, in one spelling
    "The words of an answer as they are compared: 3.0 is 3, percent is %, Ménière is meniere, no articles"
    plain = plain_text(str(text), from_start=True)
    if not plain.isascii():
        apart = unicodedata.normalize("NFKD", plain)
        plain = unicodedata.normalize("NFKC", _accents.sub("", apart))
    words, tokens = [], tokens_of(unwrapped(plain))
    for i in range(margin, len(tokens) - margin):
        words += _compared(tokens, i, keep_articles)
    return _with_synonyms(words, synonyms) if synonyms else words


# behind a number: 3 centimetres are 3 cm, 50 percent are 50%
_unit_names = {
    "percent": "%", "pct": "%", "minutes": "min", "minute": "min", "mins": "min", "hours": "h", "hour": "h",
    "centimeter": "cm", "centimeters": "cm", "centimetre": "cm", "centimetres": "cm", "millimeter": "mm",
    "millimeters": "mm", "millimetre": "mm", "millimetres": "mm", "meter": "m", "meters": "m", "metre": "m",
    "metres": "m", "milliliter": "ml", "milliliters": "ml", "millilitre": "ml", "millilitres": "ml",
    "gram": "g", "grams": "g", "kilogram": "kg", "kilograms": "kg"}


def _compared(tokens, i, keep_articles):
    "The words that token `i` stands for when answers are compared; none for an article or a comma"
    token = tokens[i]
    if is_number(token):
        return _compared_number(token)
    if token.text == "/":
        # 1/2 is not 1 2
        joins = is_number(tokens[i - 1]) and is_number(tokens[i + 1])
        return ["/"] if joins else []
    if token.kind in ("mark", "line"):
        return [token.text] if token.text in _kept_marks else []
    if token.text in _unit_names:
        # 20 minutes, 20-minutes
        joined = tokens[i - 1].text in ("-", "\n")
        quantity = tokens[i - 2] if joined else tokens[i - 1]
        if is_number(quantity):
            return [_unit_names[token.text]]
    if token.text not in _articles:
        return [token.text.replace("'", "")]
    return [token.text] if keep_articles or _is_letter_name(tokens, i) else []


def _compared_number(token):
    "A number in digits; `a couple` and `half a dozen` stay words, since `single` may lack its article"
    if token.text[0] in "ah":
        return [word for word in token.text.split() if word not in ("a", "of")]
    if token.value is None:
        return [token.text]
    if token.value == int(token.value):
        return [str(int(token.value))]
    return [repr(token.value)]


def _is_letter_name(tokens, i):
    "Whether an A is part of a name: the last word (grade A), or a capital among words (hepatitis A virus)"
    token, before, following = tokens[i], tokens[i - 1], tokens[i + 1]
    if token.text != "a":
        return False
    if following.kind not in ("word", "number", "han"):
        return True
    return token.raw == "A" and before.kind == "word"


def _compiled(pairs):
    "A table of synonyms as it is looked up: spelt phrase → words, and the most words of a phrase"
    table, longest = {}, 0
    for phrase, preferred in pairs:
        said = answer_words(phrase)
        table[_spelt(said)] = answer_words(preferred)
        # xray in the table is x ray, two words, in the text
        longest = max(longest, len(said) + 1)
    return table, longest


# a table of a thousand phrases takes longer to compile than a reward may take
_table_of = lru_cache(maxsize=8)(_compiled)


def _with_synonyms(words, synonyms):
    "Words with each phrase of the table replaced by its preferred one, the longest phrases first"
    table, longest = _table_of(tuple(synonyms.items()))
    replaced, at = [], 0
    while at < len(words):
        phrase = words[at:at + longest]
        while phrase and _spelt(phrase) not in table:
            phrase = phrase[:-1]
        replaced += table[_spelt(phrase)] if phrase else [words[at]]
        at += max(1, len(phrase))
    return replaced


def _spelt(words):
    "Words as one string: X-ray, xray and x ray are the same, but 1 2 is not 12"
    spelt = ""
    for word in words:
        if spelt[-1:].isdigit() and word[:1].isdigit():
            spelt += " "
        spelt += word
    return spelt


# A right answer in a short sentence

# what may stand before it: the answer is, it is most likely, the image shows
_lead_in = set(
    "answer final correct best my is are was were it its i think believe would say be this that these "
    "those they here so therefore thus hence shown image picture photo figure scan shows show depicts "
    "there appears appear seems seem to most likely probably clearly in we see can be a an the "
    "about approximately roughly around 是 答案 为".split())
_most_lead_in = 12  # words
_stated_answer = re.compile(r"(?i)\banswer(?:\s+is\b|\s*:)")
# a full stop ends the stated answer where a space follows: 2.5 goes on
_ends_sentence = re.compile(r"[.;!?]\s|\n")
_reason = re.compile(r"(?i)\b(?:because|since|due to)\b")


def _candidates(text, truth):
    "The parts of an answer that may be the whole of it: all, the stated answer, and each before its reason"
    shown, stated_at = [text], [found.end() for found in _stated_answer.finditer(text)]
    if stated_at:
        stated = text[stated_at[-1]:].strip()
        shown.append(_ends_sentence.split(stated, maxsplit=1)[0])
    for part in list(shown):
        shown.append(_reason.split(part, maxsplit=1)[0])
    # a part much longer than the truth and a lead-in says more than the truth
    longest = 3 * len(truth) + 200
    return [part for part in dict.fromkeys(shown) if len(part) <= longest]


def _without_lead_in(words):
    "The words, then the words less the first, and so on as long as the first may lead in"
    yield words
    for skipped, word in enumerate(words[:_most_lead_in], 1):
        if word not in _lead_in:
            return
        yield words[skipped:]


def same_words(
    text: str,  # an answer, without tags
    truth: str,  # what the data set says
    synonyms=None,  # as `answer_words` takes it
) -> bool:  # whatever the spelling
    "Whether an answer says the words of the truth, alone or in a short sentence"
    wanted = _spelt(answer_words(truth, synonyms))
    if not wanted:
        # a truth of marks alone, such as "?", is compared as it is
        return text.strip() == truth.strip()
    with_articles = _spelt(answer_words(truth, keep_articles=True))
    for part in _candidates(text[:_most_normalised], truth):
        # hepatitis a virus: without its case the name can only be told by the truth
        if _spelt(answer_words(part, keep_articles=True)) == with_articles:
            return True
        words = answer_words(part, synonyms)
        if any(_spelt(rest) == wanted for rest in _without_lead_in(words)):
            return True
    return False


# Lists

_separators = re.compile(r"(?i)(?<!\d),|,(?!\d{3}(?!\d))|[;&\n、；]|\band\b|[和及与]")
_most_items = 100  # of a list that are compared


def answer_items(
    text: str,  # an answer or a truth
    synonyms=None,  # as `answer_words` takes it
) -> list:  # of texts in one spelling
    "The parts of a list: between commas, semicolons, line breaks, `and`, `&`"
    parts = _separators.split(plain_text(str(text), from_start=True))
    spelt = [_spelt(answer_words(part, synonyms)) for part in parts[:_most_items]]
    return [item for item in spelt if item]


def same_items(
    text: str,  # an answer, without tags
    truth: str,  # what the data set says: a list
    synonyms=None,  # as `answer_words` takes it
) -> bool:  # in any order; all of them and no other
    "Whether an answer names the parts of a list"
    wanted = set(answer_items(truth, synonyms))
    for part in _candidates(text[:_most_normalised], truth):
        first, *rest = _separators.split(plain_text(part, from_start=True))
        others = set(answer_items(";".join(rest), synonyms))
        # the first part of a sentence carries its beginning: "the answer is liver" and "spleen"
        for words in _without_lead_in(answer_words(first, synonyms)):
            named = others | {_spelt(words)} if words else others
            if named == wanted:
                return True
    return False


# Kinds of truth

def answer_kind(
    truth: str,  # what the data set says
) -> str:  # yes/no, letter, number, list or text
    "How an answer to this truth is to be compared"
    if answer_words(truth) in (["yes"], ["no"]):
        return "yes/no"
    if str(truth).strip(" 。.") in ("是", "否", "是的", "不是"):
        return "yes/no"
    if truth_letters(truth):
        return "letter"
    if truth_number(truth) is not None:
        return "number"
    return "list" if len(answer_items(truth)) > 1 else "text"


def truth_number(
    truth: str,  # what the data set says
) -> float | None:  # None where the truth is more than a number
    "The number that a truth is: -2.5, .5, +3, 1,200, twenty-one, 1/2"
    tokens = tokens_of(unwrapped(plain_text(str(truth))))
    inner = tokens[margin:-margin]
    # "(4)." is 4
    inner = [token for token in inner if token.text not in ("(", ")", ".", '"')]
    if len(inner) == 1:
        return inner[0].value
    # a fraction is two numbers and a slash
    is_fraction = len(inner) == 3 and inner[1].text == "/"
    return read_number(str(truth)) if is_fraction else None

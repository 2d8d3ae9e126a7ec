"""Answers compared as words and as lists, whatever their spelling; and what kind of truth a truth is.

Written by hand."""
import re
import unicodedata
from functools import lru_cache

from .choices import truth_letters
from .counts import is_minus_word, is_plus_or_minus, read_number
from .tokens import combining_marks, is_number, length_names, margin, plain_text, tens, tokens_of, units, unwrapped

__all__ = ["normalise_answer", "answer_words", "answer_items", "same_words", "same_items", "in_one_form",
           "answer_kind", "truth_number"]

_most_normalised = 4000  # characters
_articles = ("a", "an", "the")
# a vowel sign of Hindi or Thai is no mark but part of its word
_dropped_by_challenge = re.compile(rf"(?<!\d)\.|\.(?!\d)|[^\w.%+<>={combining_marks}]|_")


def normalise_answer(
    text,  # an answer, also a number
) -> str:  # words separated by one space
    """An answer in the form in which the VQA challenge compares answers

    Lower case, Unicode's NFKC form, number words of one word as digits, no articles, no punctuation."""
    # cut, since a model may write any length, and an answer must be read in milliseconds
    plain = unicodedata.normalize("NFKC", str(text)[:_most_normalised]).lower()
    without_apostrophes = re.sub(r"['’`]", "", plain)
    # once more: an accent that stood behind an apostrophe is now behind a letter, and becomes one with it
    plain = unicodedata.normalize("NFKC", without_apostrophes)
    # the comma between thousands: 1,200 becomes 1200
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", plain)
    # all marks but a decimal point and % + < > = become spaces: x-ray is x ray, but also -5 is 5
    plain = _dropped_by_challenge.sub(" ", plain)
    words = [word for word in plain.split() if word not in _articles]
    # like the challenge, only number words of one word: "twenty one" becomes "20 1"
    return " ".join(str(units.get(word, tens.get(word, word))) for word in words)


# Words

# which change what a number, a formula or a name says; not ~, | and →, with which people write sentences
_kept_marks = set("%+<>=≥≤≠°√^±∓÷∪∩∈∉⊂⊃⊆⊇∧∨¬∞∝⊥∥∑∏∫↑↓♯♭−")
# a minus that touches one of them is its sign, as it is before a single letter
_greek_names = {unicodedata.name(letter).split()[-1].lower() for letter in "αβγδεζηθικλμνξοπρστυφχψω"}
_mathematical_words = {"sin", "cos", "tan", "log", "ln", "sqrt", "frac"} | _greek_names
_longest_with_sign = 3  # letters of a name that may end in a minus, such as O-, AB- and HER2-
# behind which a hyphen says that a word goes on
_prefixes = set(
    "pre re sub mid low un dis mis non bi tri uni co de di ex in im il ir en em pro con per out up off bio "
    "geo neo iso epi sur".split())
_same_signs = {"♯": "#"}  # mark → the one that is written for it, too
_notes = set("abcdefg")  # of music
# of Latin letters, of Cyrillic vowels the stress, and the points of Hebrew and Arabic, which most texts leave
# out; in other scripts a combining mark is a vowel that makes another word
_accents = re.compile(
    "(?<=[a-zA-Z])[\u0300-\u036f]+|(?<=[аеиоуыэюяіїєАЕИОУЫЭЮЯІЇЄ])\u0301"
    "|[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u0652\u0656-\u065f\u0670]")


def answer_words(
    text,  # an answer, also a number
    synonyms=None,  # phrase → preferred phrase, both in any spelling
    keep_articles: bool = False,  # "a" may be a name: hepatitis A
) -> list:  # of words and numbers, in one spelling
    "The words of an answer as they are compared: 3 for 3.0, % for percent, meniere for Ménière, no articles"
    # Cut, to save time, but with enough for the 2,000 characters that `plain_text` keeps of what is left.
    beginning = str(text)[:2 * _longest_compared]
    without_notes = _note_number.sub("", beginning)  # Revenue¹, with the number of a footnote: Revenue
    with_powers = _raised_letters.sub("^n", without_notes)  # xⁿ becomes x^n
    # each sign in one form; from_start: the first 2,000 characters; keep_powers: 5² becomes 5^2
    plain = plain_text(with_powers, from_start=True, keep_powers=True)
    if "^" in plain:
        plain = _without_typesetting(plain)  # Ca^{2+} and 3^{rd} become Ca2+ and 3rd
    plain = _root_of_number.sub(r"√\1", plain)
    # 6\sqrt{2}+6 and 6\sqrt{2} - 6: the sign between two terms becomes a word of its own, however it is spaced
    plain = _plus_between.sub(r"\1 + ", plain)
    plain = _minus_between.sub(r"\1 − ", plain)
    if "||" in plain and plain.count("|") == 2:  # the only two: the sign of parallel lines, not |x||y|
        plain = plain.replace("||", "∥")
    if not plain.isascii():
        with_minus = _dash_at_end.sub("-", plain)  # O–, with a dash at the end, becomes O-
        plain = _without_accents(with_minus)  # meniere for ménière
        plain = _lone_greek.sub(_name_of_greek, plain)  # 2πr and 2\pi r are one
        plain = plain.translate(_signs_as_words)  # ∠ABC, \angle ABC and angle ABC are one
    tokens = tokens_of(unwrapped(plain))  # unwrapped: without Markdown and LaTeX, **B** becomes B
    words = []
    # all tokens but the 8 empty edge tokens (`margin`) that `tokens_of` adds at both ends
    for i in range(margin, len(tokens) - margin):
        words += _words_of_token(tokens, i, keep_articles)  # mostly one word; none for a comma
    return _with_synonyms(words, synonyms) if synonyms else words


_longest_compared = 2000  # characters that `plain_text` leaves of an answer
_raised_letters = re.compile("(?<=[^\\W_])ⁿ(?![\\w⁺⁻])")  # xⁿ is x^n
# the number of a footnote: Revenue¹; not behind a function, or a unit as in feet² and metres²
_note_number = re.compile(
    "(?i)(?<=[^\\W\\d_]{4})(?<!sinh|cosh|tanh|eter|etre|ters|tres|feet|foot|inch|ches|yard|ards|mile|iles)"
    "(?<!cond|onds)[⁰¹²³⁴-⁹]+(?!\\w)")
# a dash in place of a minus, behind a name at the end: O–
_dash_at_end = re.compile(r"(?<=\w)[–—](?=\s*(?:[.)\n]|$))")
# What stands around LaTeX's ^: Ca$^{2+}$, 3^{\text{rd}}, \text{m}^{2}
_around_caret = re.compile(r"[}$]{0,3}\^(?:[\s{$]|\\(?:text|mathrm|textrm|rm|mbox)\b){0,6}")
# H^+, Ca^2+, O^2-; not x^2+1 and e^-x
_charge = re.compile(r"\^(\d?)([+-])(?=\s?\}|(?!\w|\s?[\d({\\√∞]|\s\w\b))")
_raised_ending = re.compile(r"(?<=[^\W_])\^(?=(?:st|nd|rd|th)\b)")
_raised_behind_unit = re.compile(rf"(?i)(?<![^\W\d_])({length_names})\s?\^(?=[23]\b)")
_isotope = re.compile(r"(?<![\w)\]}])\^(\d{1,3}m?)\s?\}?(?=[A-Z])")  # ^{14}C; not x^{14}C
_transposed = re.compile(r"(?<=[A-Zuvwxyz)\]])\^(?:T|\\top)\b")
# a note, a mark of trade or an abbreviation: liver^{a}; a function or a name of few letters has a power
_raised_behind_word = re.compile(
    r"(?<![^\W\d_])(?!sinh|cosh|tanh|sqrt|frac)([^\W\d_]{4,40})\^|(?<=\bN)\^(?=o\b)")


def _without_typesetting(
    text,  # with ^ in it
):
    """A text without the ^ that only raises what follows: Ca2+ for Ca^{2+}, 3rd for 3^{rd}, m2 for m^2

    In x^2, 10^-3 and e^x, where it is a power, it stays."""
    # First all that LaTeX writes beside a ^: Ca$^{2+} becomes Ca^2+. A brace further behind may stay: the
    # caller drops it.
    text = _around_caret.sub("^", text)
    text = _charge.sub(_charge_behind, text)  # Ca^2+ becomes Ca2+
    text = _raised_ending.sub("", text)  # 3^rd becomes 3rd
    text = _raised_behind_unit.sub(r"\1", text)  # m^2 becomes m2
    text = _isotope.sub(r"\1", text)  # ^14C becomes 14C
    text = _transposed.sub("T", text)  # A^T, a matrix turned round, becomes AT
    return _raised_behind_word.sub(r"\1", text)  # liver^a, with the letter of a footnote, becomes livera


# What may follow a sign between two terms: a number, a bracket, a root, a variable
_term_behind = r"(?:[ \t]|\\[,;:! ])*(?=[\d.({\\√π∞]|[^\W\d_](?![^\W_]))"
# Behind a number, a variable or a bracket; not behind a name such as HER2 or Na
_plus_between = re.compile(r"((?<![^\W\d_])[^\W_]|[)\]}°!])[ \t]*\+" + _term_behind)
# Behind a root, a power or a fraction: elsewhere a hyphen may join names, as in B-12, \text{L4}-\text{L5} and
# 2020-01-05. The minus is written with its own sign, since a hyphen between words says nothing.
_minus_between = re.compile(
    r"(√ ?\d{1,9}|\^ ?(?:\d{1,9}|[a-zA-Z](?![a-zA-Z]))\s?\}?|\\frac[^-+\n]{1,40}\})(?:[ \t]|\\[,;:! ])*[-–—]"
    + _term_behind)
_root_of_number = re.compile(r"(?:\\?sqrt|√)[ \t]*[({]?[ \t]*(\d{1,9})[ \t]*[)}]?")  # \sqrt{2}, sqrt(2), √2
# else they would be dropped
_signs_as_words = str.maketrans({"∠": " angle ", "△": " triangle ", "→": " to "})
# a Greek letter that is a sign, and no part of a Greek word
_lone_greek = re.compile("(?<![\u0370-\u03ff\u1f00-\u1fff])[α-ωΑ-ΡΣ-Ω](?![\u0370-\u03ff\u1f00-\u1fff])")


def _name_of_greek(match):  # of one Greek letter
    "Its name, apart from letters and digits around it: pi r for πr, beta-2 for β-2; ς is a sigma, too"
    name = unicodedata.name(match[0]).split()[-1].lower()
    before, behind = match.string[:match.start()][-1:], match.string[match.end():][:1]
    # no space before a hyphen, which would make -2 of β-2
    return " " * before.isalnum() + name + " " * behind.isalnum()


def _charge_behind(
    match,  # of ^, perhaps a digit, and + or -
):
    "The replacement for a raised charge: its digit and its sign, behind a space where a digit is before"
    is_behind_digit = match.string[match.start() - 1:match.start()].isdigit()
    # SO4 2-, not SO42-
    return (" " if is_behind_digit and match[1] else "") + match[1] + match[2]


def _without_accents(text):
    """A text without accents that may be left out: meniere for ménière; other scripts keep their marks

    So it is with Latin letters, the stress of Cyrillic ones, and the points of Hebrew and Arabic."""
    # NFKD splits é into e and an accent, which is removed; NFKC joins what is left
    letters_and_accents = unicodedata.normalize("NFKD", text)
    return unicodedata.normalize("NFKC", _accents.sub("", letters_and_accents))


# behind a number: 3 centimetres are 3 cm, 50 percent are 50%
_unit_names = {
    "percent": "%", "pct": "%", "minutes": "min", "minute": "min", "mins": "min", "hours": "h", "hour": "h",
    "centimeter": "cm", "centimeters": "cm", "centimetre": "cm", "centimetres": "cm", "millimeter": "mm",
    "millimeters": "mm", "millimetre": "mm", "millimetres": "mm", "meter": "m", "meters": "m", "metre": "m",
    "metres": "m", "milliliter": "ml", "milliliters": "ml", "millilitre": "ml", "millilitres": "ml",
    "gram": "g", "grams": "g", "kilogram": "kg", "kilograms": "kg"}


def _words_of_token(
    tokens,  # of a text: .text is in lower case; .kind is number, word, han (Chinese), mark, line or edge
    i,  # place of a token among them
    keep_articles,  # False: a, an and the are left out
):
    "The list of words that token `i` stands for when answers are compared; empty for an article or a comma"
    # `tokens` begins and ends with 8 empty edge tokens (`margin`), so that neighbours are always there
    token = tokens[i]
    if is_number(token):
        words = _words_of_number(token)  # mostly one word: its digits
        # is_minus_word: the token before is the word `minus`
        return ["-" + words[0], *words[1:]] if is_minus_word(tokens, i - 1) else words
    # `plus or minus`, plus-minus and plus/minus: their `minus` becomes ±, and the one or two tokens before it
    # are left out
    if is_plus_or_minus(tokens, i):  # token i is such a `minus`
        return ["±"]
    is_minus_next = any(is_plus_or_minus(tokens, place) for place in (i + 1, i + 2))
    if is_minus_next and token.text in ("plus", "or", "-", "/"):
        return []
    if is_minus_word(tokens, i):
        return []  # minus 5 is -5: the number has the sign
    if token.kind in ("mark", "line"):
        # % + < > = always change what is said; other marks in some places only, such as / in 1/2
        is_kept = token.text in _kept_marks and not _is_tick(tokens, i)
        sign = _same_signs.get(token.text, token.text)  # F♯ is F#
        return [sign] if is_kept or _is_telling_mark(tokens, i) else []
    if token.text == "sqrt":
        return ["√"]
    if token.text in _unit_names and _is_behind_number(tokens, i):
        return [_unit_names[token.text]]  # in its short form
    if token.text == "of" and tokens[i - 1].text in ("couple", "pair"):
        return []  # a pair of lungs, a pair lungs: the tokenizer takes the `of` for a part of `a pair of`
    if token.text in _articles and not keep_articles and not _is_letter_name(tokens, i):
        return []
    return [token.text.replace("'", "")]  # dont for don't, as many write it


def _is_telling_mark(
    tokens,  # of a text: .text is in lower case; .glued: no space before; .kind is word, number, mark …
    i,  # place of a mark among them
):
    "Whether a mark that is ignored in most places has a meaning here, as in 1/2, -x, O-, 5! and C#"
    # `tokens` begins and ends with 8 empty edge tokens (`margin`), so that neighbours are always there
    mark, before, following = tokens[i], tokens[i - 1], tokens[i + 1]
    if mark.text == "/":
        # kept in a fraction: 1/2 is not 1 2
        return is_number(before) and is_number(following)
    if mark.text == "!":
        return mark.glued and (is_number(before) or _is_letter(before))  # 5! is 120
    if mark.text == "#":
        # A sharp belongs to the letter before it: C#, `C # minor`.
        belongs_to_letter = _is_letter(before) and (mark.glued or not following.glued)
        # In P#1 and `unit a #5` the # only says that a number follows; C#4 is a note (`_notes`: a to g).
        touches_note = mark.glued and before.text in _notes
        announces_number = is_number(following) and not touches_note
        return belongs_to_letter and not announces_number
    return mark.text == "-" and (_is_sign_before(tokens, i) or _is_sign_behind(tokens, i))


def _is_tick(
    tokens,  # of a text: .text is in lower case; .glued: no space before; .kind is word, number, mark …
    i,  # place of a mark
):
    "Whether a mark is a root sign that serves as a tick: a space and a plain word follow, as in `√ correct`"
    following = tokens[i + 1]
    if tokens[i].text != "√" or following.glued:
        return False
    # not `√ x`, the root of a variable, and not `√ sin x`
    is_long_word = following.kind == "word" and not _is_letter(following)
    is_word = is_long_word or following.kind == "han"
    return is_word and following.text not in _mathematical_words


def _is_letter(token):  # .kind: number, word, han (Chinese), mark, line or edge; .text: in lower case
    "Whether a token is a single letter, such as the name of a variable or of a note"
    return token.kind == "word" and len(token.text) == 1


def _is_sign_before(
    tokens,  # of a text: .text is in lower case; .glued: no space before; .kind is word, number, mark …
    i,  # place of a hyphen
):
    "Whether a hyphen is the sign of what follows, as in -x, -√2, -sin x and -(x+1), not a bullet or X-ray"
    # `tokens` begins and ends with 8 empty edge tokens (`margin`), so that neighbours are always there
    hyphen, before, following = tokens[i], tokens[i - 1], tokens[i + 1]
    is_behind_value = before.kind in ("word", "number", "han") or before.text in (")", "]", "%", "-")
    if hyphen.glued and is_behind_value:  # X-ray, 3-2
        return False
    if not following.glued:  # a bullet
        return False
    # What stands behind a bracket, or behind LaTeX's backslash, decides: -(x+1) and -\sqrt, not -(see below).
    place = i + 2 if following.text in ("(", "\\") else i + 1
    following, behind = tokens[place], tokens[place + 1]
    is_formula = following.text in ("√", "∞") or following.text in _mathematical_words
    # -θ, not TNF -alpha and the bullet of -Beta blockers
    is_in_a_name = before.kind == "word" or behind.kind == "word" and len(behind.text) > 1
    if following.text in _greek_names and is_in_a_name:
        return False
    return is_formula or is_number(following) or _is_letter(following)


def _is_sign_behind(
    tokens,  # of a text: .text is in lower case; .glued: no space before; .kind is word, number, mark …
    i,  # place of a hyphen
):
    "Whether a hyphen is the sign of what stands before it, as in O- and HER2-, not that of pre- and post-"
    hyphen, before, following = tokens[i], tokens[i - 1], tokens[i + 1]
    # at the end of the text, a line, a sentence or a bracket
    is_at_end = following.kind in ("edge", "line") or following.text in (".", ")")
    if not hyphen.glued or not is_at_end:
        return False
    if before.kind == "word":  # O- and AB-; longer names, and prefixes such as pre-, have no sign
        return len(before.text) <= _longest_with_sign and before.text not in _prefixes
    # a number at the end of a name, as in HER2-; not 5-
    return is_number(before) and before.glued and tokens[i - 2].kind == "word"


# A sign of money stands with its number. $ alone is also a mark of LaTeX.
_money = re.compile(r"[€£¥₹₩₽₺₫฿₪₴₦]|\$(?=\s?\d)|(?<=\d)\$")
_dollar = "\\$"  # as LaTeX writes the sign of money
# $12$, $5 \text{ €}$, m$^2$: no space within, no digit behind, so that $5 and $10 are money (as in Pandoc)
_formula = re.compile(r"(?<!\\)(?:(?<!\d)\$|\$(?=[\^_]))(?!\s)((?:\\\$|[^$\n]){1,200}?)(?<![\s\\])\$(?!\d)")


def _money_of(text):
    "The signs of money in a text, a set; the two dollar signs around a formula of LaTeX are none"
    signs = set(_money.findall(_formula.sub(r" \1 ", text)))
    if _dollar in text:
        signs.add("$")
    # in \$5 the dollar is found behind its backslash, too: the same sign
    return signs


def _names_other_money(
    text,  # an answer
    truth,  # what the data set says
):
    "Whether two texts have different signs of money, as $5 and €5; one that names none may mean any"
    named, true_one = _money_of(text), _money_of(truth)
    return bool(named and true_one) and named != true_one


def _is_behind_number(
    tokens,  # of a text, with 8 empty edge tokens before the first one
    i,  # place of a word such as `minutes`
):
    "Whether token `i` stands behind a number: 20 minutes, 20-minutes, 20⏎minutes (⏎: a line break)"
    has_mark_between = tokens[i - 1].text in ("-", "\n")
    return is_number(tokens[i - 2] if has_mark_between else tokens[i - 1])


def _words_of_number(
    token,  # .text: in lower case, such as "3.0", "twenty" or "half a dozen"; .value: 3.0, 20.0 or 6.0
):
    """The list of words that a number token stands for when answers are compared: mostly one, its digits

    The `a` before a number changes nothing: `a thousand` and `thousand` are 1000, `half a dozen` is 6. But `a
    single`, `a couple` and `a pair` become `single` and so on, not 1 or 2: without its `a` such a word is no
    number to the tokenizer, and both spellings must be equal."""
    words = token.text.split()
    if words[0] == "a" and words[1] in ("single", "couple", "pair"):
        # read again without the `a`, since a number may follow: `a couple hundred`
        return answer_words(" ".join(words[1:]))
    if token.value is None:  # not read: a version or a code, such as 2.5.1, or `a hundred million`
        return [word for word in words if word != "a"]
    if token.value == int(token.value):
        return [str(int(token.value))]  # 3.0 is written 3
    return [repr(token.value)]  # 2.5 for 2.50


def _is_letter_name(
    tokens,  # of a text: .text is in lower case, .raw as written, .kind is word, number, han (Chinese) …
    i,  # place of a token
):
    """Whether token `i` is an `a` that is part of a name and no article

    So it is as the last word (grade A), and as a capital behind a word (hepatitis A virus)."""
    # `tokens` begins and ends with 8 empty edge tokens (`margin`), so that neighbours are always there
    token, before, following = tokens[i], tokens[i - 1], tokens[i + 1]
    if token.text != "a":
        return False
    if following.kind not in ("word", "number", "han"):  # before a mark or the end: no article
        return True
    return token.raw == "A" and before.kind == "word"


def _synonym_table(
    pairs,  # tuple of (phrase, preferred phrase), such as (("heart attack", "myocardial infarction"),)
):
    """Prepare synonyms for looking them up: returns (table, the most words that a phrase in a text may have)

    The table has each phrase as one string without spaces, and the list of words that it is replaced by, such
    as "heartattack" → ["myocardial", "infarction"]."""
    table, longest = {}, 0
    for phrase, preferred in pairs:
        phrase_words = answer_words(phrase)
        table[_joined_words(phrase_words)] = answer_words(preferred)
        # one more, since `xray` in the table may be `x ray`, two words, in a text
        longest = max(longest, len(phrase_words) + 1)
    return table, longest


# a table of a thousand phrases takes longer to compile than a reward may take
_table_of = lru_cache(maxsize=8)(_synonym_table)


def _with_synonyms(
    words,  # of an answer, such as ["a", "heart", "attack"]
    synonyms,  # dict, phrase → preferred phrase, in any spelling
):
    """A list of words in which each phrase from the table of synonyms is replaced by its preferred phrase

    Where several phrases begin at one word, the longest is replaced."""
    # table: phrase as one string without spaces → the words of its preferred phrase. longest: how many words
    # the longest phrase has. `_table_of` is cached, so its argument is a tuple, which can be hashed.
    table, longest = _table_of(tuple(synonyms.items()))
    replaced, at = [], 0
    while at < len(words):
        phrase = _longest_known_phrase(words[at:at + longest], table)
        if phrase:
            replaced += table[_joined_words(phrase)]
            at += len(phrase)
        else:
            replaced.append(words[at])
            at += 1
    return replaced


def _longest_known_phrase(
    words,  # the next ones of an answer, as many as the longest phrase may have
    table,  # its keys: phrases as one string without spaces, such as "heartattack"
):
    "The longest beginning of a list of words that is a phrase of the table; empty where none is"
    while words and _joined_words(words) not in table:  # _joined_words: as one string, as in the table
        words = words[:-1]
    return words


def _joined_words(words):  # list of texts, such as ["x", "ray"]
    """Words as one string without spaces, in which X-ray, xray and x ray are the same

    Between two numbers a space stays: 1 2 is not 12."""
    joined = ""
    for word in words:
        if joined[-1:].isdigit() and word[:1].isdigit():
            joined += " "
        joined += word
    return joined


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


# a point, a list or an interval: (2, 3), [0, 4), \left(0, 4\right], $(2, 3)$
_whole_in_brackets = re.compile(r"[\s$*]*\\?(?:left)?[\[(][^\[\]()]*?\\?(?:right)?[\])][\s.$*]*")
_pair_of_brackets = re.compile(r"([\[(])[^\[\]()]*,[^\[\]()]*([\])])")
_mixed_brackets = ("(", "]"), ("[", ")")
# what stands in a point beside numbers: a variable, π, a root, a fraction, a sign, a power
_in_a_point = re.compile(r"(?:\d+(?:\.\d+)?|\b[a-z]\b|\b(?:pi|sqrt|frac|infty)\b|[-−+√∞^/ ])+")


def _has_other_brackets(
    part,  # of an answer
    truth,  # what the data set says
):
    "Whether two texts hold intervals of other ends, as (0, 4] and [0, 4); mixed brackets tell an interval"
    own = _pair_of_brackets.findall(part)  # such as [("(", "]")]
    true_ones = _pair_of_brackets.findall(truth)
    has_interval = any(pair in _mixed_brackets for pair in own + true_ones)
    return has_interval and len(own) == len(true_ones) and own != true_ones


_choice_in_front = re.compile(r"^([\s*$]*)(?:\([A-J]\)|[A-J][).:])\s+(?=\S)")  # B. dog, (B) dog
# (- 2, 3) and x = - 5: a minus that stands apart from its number, as Geometry3K writes it
_minus_apart = re.compile(r"((?:(?<![=-])=|[(\[{<≤≥])[ \t]*)[-−–][ \t]+(?=[\d.√\\∞({]|[a-z](?![a-z]))")
_minus_behind_comma = re.compile(r"(?<=,)[ \t]*[-−–][ \t]+(?=[\d.√\\∞({]|[a-z](?![a-z]))")
_angle_in_front = re.compile(r"^[\s$]*(?:∠|\\angle\b)[ \t]*")
_angle_or_triangle = re.compile(r"(?i)∠|△|angle")
_spaced_point = re.compile(r"[\[(][^\[\]()]*,\s[^\[\]()]*[\])]")
_comma_without_space = re.compile(r",(?=[^\s}])")
# a minus that stands apart from what it is before, in front, in bold, or behind `is` or a colon
_minus_in_front = re.compile(r"((?:^|[$*:]|\bis\b)[ \t]*)[-−–][ \t]+(?=[\d.√\\(]|[a-z](?![a-z]))")


def in_one_form(
    answer: str,  # without tags
    truth: str,  # what the data set says
) -> tuple:  # (answer, truth)
    """An answer and its truth, written alike where a way of writing changes what is read.

    (10,200) beside (10, 200) is a point, and no 10,200. A truth "- 5" is -5, and so is such an answer beside a
    truth with a minus: else it is a bullet and a 5. Where a truth is ∠1, an answer may leave the sign out."""
    if "\n" not in truth:
        truth = _minus_apart.sub(r"\1-", _minus_in_front.sub(r"\1-", truth))
    if any(sign in truth for sign in "-−–=") and "\n" not in answer:
        answer = _minus_apart.sub(r"\1-", _minus_in_front.sub(r"\1-", answer))
    if not _angle_or_triangle.search(answer):
        truth = _angle_in_front.sub("", truth)
    if not _whole_in_brackets.fullmatch(truth):
        return answer, truth
    answer, truth = (_minus_behind_comma.sub("-", text) for text in (answer, truth))
    # Where both have a space behind the comma, or none has, they are alike: (1,200) may be a number.
    if bool(_spaced_point.search(answer)) != bool(_spaced_point.search(truth)):
        answer = _pair_of_brackets.sub(_with_space_behind_commas, answer)
        truth = _pair_of_brackets.sub(_with_space_behind_commas, truth)
    return answer, truth


def _with_space_behind_commas(point):  # match of a pair of brackets with a comma between
    "The replacement for a point: (10, 200) for (10,200)"
    return _comma_without_space.sub(", ", point[0])


def _possible_answers(
    text,  # an answer, such as "The answer is liver because it is large."
    truth,  # what the data set says, such as "liver"
):
    """The parts of a text that may be the answer alone, so that each is compared with the truth

    The whole text; the sentence behind the last `the answer is`; of both what stands before `because` or the
    like; all without the letter of an option in front, if the truth has none: dog of "B. dog". Parts that are
    too long for this truth are left out, and so are intervals with other ends, and all parts where the text
    names another currency."""
    if _names_other_money(text, truth):
        return []
    if "!" not in truth:  # in "It is room 5!" it is no factorial
        text = text.replace("!", ".")
    parts = [text]
    drops_choice = not _choice_in_front.match(truth)  # "B. dog" says dog, and the letter that it had
    if drops_choice:
        parts.append(_choice_in_front.sub(r"\1", text))
    statement_ends = [match.end() for match in _stated_answer.finditer(text)]  # of `the answer is`
    if statement_ends:
        behind_last = text[statement_ends[-1]:].strip()
        if drops_choice:
            behind_last = _choice_in_front.sub(r"\1", behind_last)
        # up to a line break, or to a full stop or the like with a space behind it, which 2.5 does not have
        stated_sentence = _ends_sentence.split(behind_last, maxsplit=1)[0]
        parts.append(stated_sentence)
    for part in list(parts):
        before_reason = _reason.split(part, maxsplit=1)[0]
        parts.append(before_reason)
    # room for another spelling and words such as "the image shows"; a longer part says more than the truth
    longest = 3 * len(truth) + 200
    short_parts = [part for part in dict.fromkeys(parts) if len(part) <= longest]  # each once, in this order
    return [part for part in short_parts if not _has_other_brackets(part, truth)]


def _without_lead_in(
    words,  # of an answer, such as ["image", "shows", "liver"]
):
    """Yield the list of words, then without its first word, without its first two, and so on

    Only words that may stand before an answer, such as `the image shows`, are left out, at most 12."""
    yield words
    for skipped, word in enumerate(words[:_most_lead_in], 1):
        if word not in _lead_in:  # the answer itself begins here: what follows is only a part of it
            return
        yield words[skipped:]


def same_words(
    text: str,  # an answer, without tags
    truth: str,  # what the data set says
    synonyms=None,  # as `answer_words` takes it
) -> bool:  # True if the words are the same, whatever their spelling
    "Whether an answer says the words of the truth, alone or in a short sentence such as `it shows a liver`"
    true_words = _joined_words(answer_words(truth, synonyms))  # one string: "x ray" and "xray" are the same
    if not true_words:
        # a truth of marks alone, such as "?", is compared as it is
        return text.strip() == truth.strip()
    truth_with_articles = _joined_words(answer_words(truth, keep_articles=True))
    # the text (its beginning, to save time), and parts of it such as what follows `the answer is`
    for part in _possible_answers(text[:_most_normalised], truth):
        # with articles kept: the `a` of "hepatitis a virus" is a name that looks like an article
        if _joined_words(answer_words(part, keep_articles=True)) == truth_with_articles:
            return True
        if _ends_in_words(part, true_words, synonyms):
            return True
    return False


def _ends_in_words(
    part,  # of an answer
    true_words,  # of the truth, as one string without spaces
    synonyms,  # dict, phrase → preferred phrase, or None
):
    "Whether a text is the true words, perhaps behind words such as `the image shows`; articles do not count"
    words = answer_words(part, synonyms)  # without articles
    # e.g. image shows liver; shows liver; liver
    return any(_joined_words(rest) == true_words for rest in _without_lead_in(words))


# Lists

_separators = re.compile(r"(?i)(?<!\d),|,(?!\d{3}(?!\d))|[;&\n、；]|\band\b|[和及与]")
_most_items = 100  # of a list that are compared


def answer_items(
    text: str,  # an answer or a truth
    synonyms=None,  # as `answer_words` takes it
) -> list:  # of texts, the words of each item as one string
    "The items of a list: the parts of a text between commas, semicolons, line breaks, `and`, `&`"
    # each sign in one form; from_start: the first 2,000 characters; keep_powers: 5² becomes 5^2
    plain = plain_text(str(text), from_start=True, keep_powers=True)
    parts = _separators.split(plain)
    items = [_joined_words(answer_words(part, synonyms)) for part in parts[:_most_items]]
    return [item for item in items if item]  # a part of marks alone is no item


def same_items(
    text: str,  # an answer, without tags
    truth: str,  # what the data set says: a list
    synonyms=None,  # as `answer_words` takes it
) -> bool:  # True if it names all of them, in any order, and no other
    "Whether an answer names the items of the list that is the truth"
    true_items = answer_items(truth, synonyms)
    # the text (its beginning, to save time), and parts of it such as what follows `the answer is`
    parts = _possible_answers(text[:_most_normalised], truth)
    is_ordered = _is_sequence(truth, true_items)
    return any(_names_items(part, true_items, synonyms, is_ordered) for part in parts)


def _is_sequence(
    truth,  # what the data set says
    items,  # its items, texts
):
    "Whether a truth is a point, an interval or a sequence, in which the order counts: (2, 3), (x, y), (π, 0)"
    return all(map(_in_a_point.fullmatch, items)) and bool(_whole_in_brackets.fullmatch(truth))


def _names_items(
    part,  # of an answer
    true_items,  # list of texts, the words of each item as one string, such as ["liver", "xray"]
    synonyms,  # dict, phrase → preferred phrase, or None
    is_ordered,  # True: all of them as often and in the same order, as in (2, 3); else in any order
):
    "Whether a text lists the true items and no other, perhaps behind words such as `the answer is`"
    # split at commas, semicolons, line breaks, `and`, `&`
    first, *rest = _separators.split(plain_text(part, from_start=True, keep_powers=True))
    other_items = answer_items(";".join(rest), synonyms)
    # the first item may be "the answer is liver": try it whole, then without more and more first words
    for words in _without_lead_in(answer_words(first, synonyms)):
        named = ([_joined_words(words)] if words else []) + other_items  # marks alone are no item
        if named == true_items or (not is_ordered and set(named) == set(true_items)):
            return True
    return False


# Kinds of truth

def answer_kind(
    truth: str,  # what the data set says
) -> str:  # yes/no, letter, number, list or text
    "The kind of a truth, which decides how an answer is compared with it"
    if answer_words(truth) in (["yes"], ["no"]):
        return "yes/no"
    # yes and no in Chinese
    if str(truth).strip(" 。.") in ("是", "否", "是的", "不是"):
        return "yes/no"
    # `truth_letters` and `truth_number` find nothing in a truth that says more than letters or a number
    if truth_letters(truth):
        return "letter"
    if truth_number(truth) is not None:
        return "number"
    return "list" if len(answer_items(truth)) > 1 else "text"


def truth_number(
    truth: str,  # what the data set says
) -> float | None:  # None where the truth is more than a number
    "The value of a truth that is one number and nothing else, such as -2.5, .5, 1,200, twenty-one or 1/2"
    tokens = tokens_of(unwrapped(plain_text(str(truth))))  # unwrapped: **4** and $4$ become 4
    tokens = tokens[margin:-margin]  # without the 8 empty edge tokens that `tokens_of` adds at each end
    # brackets, full stops and quotation marks do not count: "(4)." is 4
    tokens = [token for token in tokens if token.text not in ("(", ")", ".", '"')]
    if len(tokens) == 1:
        return tokens[0].value  # None if the one token is no number
    if len(tokens) != 3:  # a fourth token says more than a number: `1/2 cm`, `1/2%`
        return None
    # 1/2, which `read_number` reads as 0.5; `km/2` is no number
    is_fraction = is_number(tokens[0]) and tokens[1].text == "/" and is_number(tokens[2])
    return read_number(str(truth)) if is_fraction else None

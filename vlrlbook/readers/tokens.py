"""The part of a completion that is its answer, cut into tokens; what a numeral of several words is worth.

Written by hand. A text is read at both ends and at most 2,000 characters and 300 tokens of it, so that the
time that a reward takes stops growing with the length of what a model writes."""
import re
import unicodedata
from typing import NamedTuple

__all__ = ["units", "tens", "chinese", "Token", "edge", "margin", "answer_text", "final_answer", "is_cut",
           "plain_text", "unwrapped", "tokens_of", "is_number"]

_most_characters = 2000  # of a text that are read
_from_the_beginning = 700  # of them where the text is longer: "B, because …" says its answer first
_most_tokens = 300  # of a text that are read
margin = 8  # edge tokens on both sides, so that no rule has to ask whether there is a neighbour


# Which part is the answer

def answer_text(
    text: str,  # a completion
) -> str | None:  # None when there is no complete answer tag
    "What stands in the last `<answer>…</answer>`, over any number of lines"
    end = text.rfind("</answer>")
    if end < 0:
        return None
    start = text.rfind("<answer>", 0, end)
    return text[start + len("<answer>"):end].strip() if start >= 0 else None


def final_answer(
    completion: str,  # what the model wrote, or a truth
) -> str:  # the part that is an answer; empty where all of it is thought
    "What follows the last `</think>`; of that the last answer tag's content, and of that the last box's"
    end_of_thought = completion.rfind("</think>")
    rest = completion
    if end_of_thought >= 0:
        # a chat template may itself have opened the thought: then the completion holds only the closing tag
        rest = completion[end_of_thought + len("</think>"):]
    # a thought that was begun and not ended is no answer, however much it sounds like one
    rest = rest.partition("<think>")[0]
    said = answer_text(rest)
    if said is None:
        # one tag of the two is missing where the text was cut, or where the template opened the answer
        said = rest.rpartition("<answer>")[2].partition("</answer>")[0].strip()
    boxed = _boxed(said)
    return said if boxed is None else boxed


def _boxed(text):
    "Content of the last complete LaTeX box, or None"
    opening = "\\boxed{"
    start = text.rfind(opening)
    if start < 0:
        return None
    begin, depth = start + len(opening), 1
    # an answer in a box is short; the bound keeps a text of braces from being walked through
    for end in range(begin, min(len(text), begin + _most_characters)):
        if text[end] == "{":
            depth += 1
        if text[end] == "}":
            depth -= 1
        if depth == 0:
            return text[begin:end].strip()
    return None


def is_cut(
    completion: str,  # what the model wrote
) -> bool:  # a thought or an answer that was begun and not ended
    "Whether a text stops inside its own tags, as one does that met the token limit"
    for name in ("think", "answer"):
        opened = completion.rfind(f"<{name}>")
        if opened > completion.rfind(f"</{name}>"):
            return True
    return False


# One spelling

# NFKC would write 2½ as 21/2 and 5² as 52, so these are set apart first
_fractions = re.compile("[\u00bc-\u00be\u2150-\u215e]")
_raised = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")
_same_marks = str.maketrans({
    "\u2019": "'", "\u2018": "'", "`": "'", "\u2212": "-", "\u2010": "-", "\u2011": "-",
    "\u2044": "/", "\u00d7": " x ",
    "\u201c": '"', "\u201d": '"', "\ufe0f": "", "\u20e3": "", "\u200b": "", "\U0001f51f": "10"})
# \boxed{\text{B}}, $B$, **B** and `B` are B
_latex = re.compile(
    r"\\(?:boxed|fbox|text|textbf|textit|mathrm|mathbf|mbox|left|right|displaystyle)\b|\\[()\[\]]")
# $5 is money and 3*4 a product: a sign that touches a number is no frame
# 7_apples, __bold__; but a single one behind a digit at an end joins nothing: 5_ is a name that was cut
_underscores_around = re.compile(r"(?<!\w)_([^\s_]{1,40})_(?!\w)")
_underscore = re.compile(r"__+|_(?=[^\W_])|(?<!\d)_")
_dollars_around = re.compile(r"\$([^\s$]{1,40})\$")
_frames = re.compile(r"\*\*|[*](?!\s*\d)|(?<!\d)[*]|\$(?!\d)|[{}]")


def plain_text(
    text: str,  # an answer
    from_start: bool = False,  # of a long text: its first 2,000 characters, else its beginning and its end
) -> str:  # one spelling for marks, digits and widths; case is kept
    "A text in Unicode's plain forms (NFKC), with one hyphen, one apostrophe, and no raised digits"
    text = text[:_most_characters] if from_start else _both_ends(text)
    text = _fractions.sub(_set_apart, _raised.sub("^", text))
    plain = unicodedata.normalize("NFKC", text)
    # a few characters stand for whole phrases in NFKC, so the length is bounded once more
    plain = plain[:_most_characters] if from_start else _both_ends(plain)
    plain = _underscores_around.sub(r" \1 ", plain.translate(_same_marks))
    return _underscore.sub(" ", plain)


def _both_ends(text):
    "A text, or the beginning and the end of a long one, cut between words where it has any"
    if len(text) <= _most_characters:
        return text
    beginning = text[:_from_the_beginning]
    end = text[_from_the_beginning - _most_characters:]
    # half of a number would be another number; but a text without spaces has no better place to cut
    if " " in beginning:
        beginning = beginning.rpartition(" ")[0]
    if " " in end:
        end = end.partition(" ")[2]
    return f"{beginning}\n{end}"


def _set_apart(found):
    "A fraction of one character with a space before it"
    return " " + unicodedata.normalize("NFKC", found[0])


def unwrapped(
    text: str,  # from `plain_text`
) -> str:  # without the signs of LaTeX and Markdown that only frame it
    "A text without its frames: bold, boxes, mathematics"
    if "\\" in text:
        text = _latex.sub(" ", text)
    text = _dollars_around.sub(r" \1 ", text)
    return _frames.sub(" ", text)


# Tokens

class Token(NamedTuple):
    "A piece of a text"

    kind: str  # number, word, han (one Chinese character or one phrase), mark, line, or edge
    text: str  # in lower case
    raw: str  # as written
    glued: bool  # no space before it
    value: float | None = None  # of a number: what it is worth; None where this reader cannot hold it


edge = Token("edge", "", "", False)
_cjk = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_numerals = "零〇一二两兩三四五六七八九十百千万亿萬億壹贰叁肆伍陆柒捌玖拾佰廿卅俩倆仨"
# Chinese phrases in which a numeral counts nothing; a longer one stands before one that it begins with
_phrases = (
    "第一次|百分之|分之|三角形|三角|四边形|四方|四周|四处|四面|八方|五颜六色|七上八下|乱七八糟|三明治|三轮车|二维码|"
    "一共有|一共|一起|一样|一樣|一些|一点|一點|一下|一般|一定|一直|一切|一旦|一致|一部分|一边|一邊|一侧|一側|一旁|"
    "一方面|一半|一堆|一群|一排|一组|一組|一系列|一番|一眼|一会|一时|一方|一向|一律|一路|一无|唯一|统一|統一|之一|万一|"
    "萬一|逐一|十分|千万|万物|万分|总共有|总共|總共|共有|合计|总计|总数|答案")
_thousands = r"\d{1,3}(?:,\d{3}){1,3}(?![\d,]|\.\d+\.)|\d{1,3}(?:[ ']\d{3}){1,3}(?! ?\d)"
_sign = r"(?:(?<![\w.)\]%])[-+])?"  # behind a word, a number or a bracket it is a hyphen
_token = re.compile(
    rf"(?P<line>\n)|(?P<han>{_phrases})|(?P<numeral>[{_numerals}]{{1,12}})|(?P<one>[{_cjk}])"
    rf"|(?P<number>{_sign}(?:{_thousands}|\d+)(?:\.\d+){{0,3}}|{_sign}(?<![\w.])\.\d+)"
    rf"|(?P<word>[^\W\d_{_cjk}]+(?:'[^\W\d_{_cjk}]+)?)|(?P<mark>\S)")


def tokens_of(
    text: str,  # from `plain_text`
) -> list:  # of `Token`, eight edges on both sides, numbers of several words joined
    "A text cut into numbers, words, Chinese characters and marks"
    pieces = list(_token.finditer(text))
    if len(pieces) > _most_tokens:
        third = _most_tokens // 3
        pieces = pieces[:third] + pieces[-2 * third:]
    found, end = [edge] * margin, -1
    for piece in pieces:
        found.append(_token_of(piece, piece.start() == end))
        end = piece.end()
    found += [edge] * margin
    return _with_numerals(found)


def _token_of(piece, glued):
    "The token of one match"
    kind, raw = piece.lastgroup, piece[0]
    if kind == "number":
        return Token("number", raw, raw, glued, _digits_value(raw))
    if kind == "numeral":
        return Token("number", raw, raw, glued, _chinese_value(raw))
    return Token("han" if kind == "one" else kind, raw.lower(), raw, glued)


def is_number(
    token: Token,  # of `tokens_of`
) -> bool:  # in digits or in words
    "Whether a token is a number"
    return token.kind == "number"


# What a number is worth

_small = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen")
units = {word: i for i, word in enumerate(_small.split())} | {"dozen": 12}
_tens = "twenty thirty forty fifty sixty seventy eighty ninety"
tens = {word: 10 * i for i, word in enumerate(_tens.split(), 2)}
chinese = {character: i for i, character in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2, "兩": 2}
_chinese_digits = chinese | {character: i for i, character in enumerate("壹贰叁肆伍陆柒捌玖", 1)}
_chinese_words = {"俩": 2, "倆": 2, "仨": 3}
_chinese_scales = {"十": 10, "拾": 10, "百": 100, "佰": 100, "千": 1000}
_most_in_words = 9999  # ten thousand and more must be written in digits, in English and in Chinese
_most_digits = 12  # of a count; a longer row of digits is a code
_too_many = {"million", "millions", "billion", "trillion", "lakh", "crore"}
_scales = {"hundred": 100, "thousand": 1000}


def _digits_value(raw):
    "Worth of a number in digits; None for a version (2.5.1), a code (007), or more than 12 digits"
    plain = raw.lstrip("+-")
    for separator in (",", " ", "'"):
        plain = plain.replace(separator, "")
    whole, _, fraction = plain.partition(".")
    if "." in fraction or len(whole) > _most_digits:
        return None
    if len(whole) > 2 and whole.startswith("0"):
        return None
    value = float(plain[:2 * _most_digits])
    return -value if raw.startswith("-") else value


def _chinese_value(run):
    "Worth of a Chinese numeral below ten thousand; None for 三四 (three or four) and what is no numeral"
    if run in _chinese_words:
        return float(_chinese_words[run])
    run = run.replace("廿", "二十").replace("卅", "三十")
    known = _chinese_digits.keys() | _chinese_scales.keys()
    if not known.issuperset(run):
        return None
    if _chinese_scales.keys().isdisjoint(run):
        return _digit_by_digit(run)
    total, digit, scale = 0, None, 10_000
    for character in run:
        if character in _chinese_digits:
            # two digits side by side, as in 三四十 or 十三四, are "three or four": no count
            if digit:
                return None
            digit = _chinese_digits[character]
            continue
        if _chinese_scales[character] >= scale:
            return None
        scale = _chinese_scales[character]
        # 十二 is said without the one
        total += scale * (1 if digit is None else digit)
        digit = None
    # 一百二 is said for 一百二十, but 一百零二 and 十二 mean what they say
    if scale >= 100 and "零" not in run and "〇" not in run:
        digit = (digit or 0) * scale // 10
    return float(total + (digit or 0))


def _digit_by_digit(run):
    "Worth of digits read one after the other; two that follow each other, as in 三四, are an estimate"
    digits = [_chinese_digits[character] for character in run]
    if len(digits) == 2 and digits[0] > 0:
        # 三五个 is three to five
        if digits[1] - digits[0] in (1, 2):
            return None
    return float("".join(map(str, digits)))


# Numbers of several words

_number_words = {*units, *tens, *_scales}
_begins_numeral = _number_words | {"a", "half", "半"}
_sets = {"打": 12, "双": 2, "雙": 2, "对": 2, "對": 2}


def _with_numerals(tokens):
    "The tokens, with `two hundred and six`, `half a dozen` and their like as one number each"
    joined, i = [], 0
    while i < len(tokens):
        token = tokens[i]
        after = i
        if token.kind == "number" or token.text in _begins_numeral:
            value, after = _numeral(tokens, i)
        if after == i:
            joined.append(token)
            i += 1
            continue
        said = " ".join(one.text for one in tokens[i:after])
        joined.append(Token("number", said, said, token.glued, value))
        i = after
    return joined


def _numeral(tokens, i):
    "Worth of the numeral that begins at token `i`, and the token after it; that is `i` where none begins"
    if tokens[i].kind == "number":
        value, after = tokens[i].value, i + 1
    else:
        value, after = _begun_with_word(tokens, i)
        if after == i:
            return None, i
    begun = after
    # the words that may still follow: hundred after digits, units after tens, dozens after anything
    while value is not None:
        at = _next_word(tokens, after, value)
        word = tokens[at].text
        if word == "dozens":
            # two dozens are 24; dozens alone are no number
            word = "dozen"
        if word in _too_many:
            # more than this reader holds is none, rather than a wrong one
            return None, at + 1
        if word in _sets and tokens[i].raw[-1] in _numerals:
            return _chinese_set(tokens, i, at)
        if word not in _number_words or tokens[at].kind != "word":
            break
        longer = _with_word(value, word)
        if longer is None:
            break
        value, after = longer, at + 1
    if tokens[i].kind == "number" and after == begun:
        # a number in digits alone is a token already
        return None, i
    return (value if value <= _most_in_words else None), after


def _next_word(tokens, at, value):
    "Place of the word that may lengthen a numeral: behind a hyphen, and behind `and` after hundreds"
    at = _behind_hyphen(tokens, at)
    hundreds = value > 0 and value % 100 == 0
    if tokens[at].text != "and" or not hundreds:
        return at
    behind = _behind_hyphen(tokens, at + 1)
    word = tokens[behind].text
    return behind if word in units or word in tens else at


def _behind_hyphen(tokens, at):
    "The place behind a hyphen that joins two words, or the same place"
    hyphen, following = tokens[at], tokens[at + 1]
    joins = hyphen.text == "-" and hyphen.glued
    return at + 1 if joins and following.glued else at


def _chinese_set(tokens, i, at):
    "Worth of 两打 (two dozen) or 一双 (a pair), whose measure word stands at `at`, and the token after it"
    value, word = tokens[i].value, tokens[at].text
    if word == "打":
        # 打开 means to open
        opens = tokens[at + 1].text == "开"
        return (None, i) if opens else (value * _sets[word], at + 1)
    # two pairs of shoes may be two or four, so only one pair is two
    return (2.0, at + 1) if value == 1 else (None, i)


def _begun_with_word(tokens, i):
    "Worth of the first word or words of a numeral, and the token after them; `i` where they are no numeral"
    word = tokens[i].text
    if word in units or word in tens:
        return float(units.get(word, tens.get(word, 0))), i + 1
    second, third = tokens[i + 1].text, tokens[i + 2].text
    if word in ("half", "半"):
        # half a dozen, half-dozen, 半打; any other half is a fraction
        at = i + 2 if second in ("a", "-") else i + 1
        return (6.0, at + 1) if tokens[at].text in ("dozen", "打") else (None, i)
    if word == "a":
        return _begun_with_article(i, second, third)
    return float(_scales[word]), i + 1


def _begun_with_article(i, second, third):
    "Worth of `a dozen`, `a hundred`, `a couple of`, `a single`, and the token after it"
    if second == "single":
        return 1.0, i + 2
    if second in ("couple", "pair"):
        # a couple of apples, a couple dozen
        return 2.0, i + 3 if third == "of" else i + 2
    if second in ("dozen", "hundred", "thousand"):
        return 1.0, i + 1
    return None, i


def _with_word(value, word):
    "Worth after one more number word, or None where the word begins another number"
    if word == "dozen":
        return value * 12
    below_thousand = value % 1000
    if word == "hundred":
        return value + 99 * below_thousand if 0 < below_thousand < 100 else None
    if word == "thousand":
        return value * 1000 if 0 < value < 1000 else None
    if value < 20:
        return None
    added = units[word] if word in units else tens[word]
    if value % 100 == 0:
        return value + added
    # after twenty come one to nine
    follows_tens = value % 100 >= 20 and value % 10 == 0
    return value + added if follows_tens and 0 < added < 10 else None

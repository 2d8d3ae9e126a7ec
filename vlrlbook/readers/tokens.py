"""The part of a completion that is its answer, cut into tokens; what a numeral of several words is worth.

Written by hand. A text is read at both ends and at most 2,000 characters and 300 tokens of it, so that the
time that a reward takes stops growing with the length of what a model writes."""
import re
import unicodedata
from typing import NamedTuple

__all__ = ["units", "tens", "chinese", "Token", "edge", "margin", "combining_marks", "answer_text",
           "final_answer", "is_cut", "plain_text", "unwrapped", "tokens_of", "is_number", "length_names"]

_most_characters = 2000  # of a text that are read
_from_the_beginning = 700  # of them where the text is longer: "B, because …" says its answer first
_most_tokens = 300  # of a text that are read
margin = 8  # edge tokens on both sides, so that no rule has to ask whether there is a neighbour


# Which part is the answer

def answer_text(
    text: str,  # a completion
) -> str | None:  # None when there is no complete answer tag
    "The text inside the last `<answer>…</answer>` of a completion, which may go over several lines"
    end = text.rfind("</answer>")
    if end < 0:
        return None
    start = text.rfind("<answer>", 0, end)  # the nearest one before it
    return text[start + len("<answer>"):end].strip() if start >= 0 else None


def final_answer(
    completion: str,  # what the model wrote, or a truth
) -> str:  # the part that is an answer; empty where all of it is thought
    """The part of a completion that is its answer

    It is what follows the last `</think>`; of that the content of the last answer tag, if there is one; and
    of that the content of the last box, if there is one: LaTeX's `\\boxed{…}`, or that of GLM's tokens. Of a
    solution in LLaVA-CoT's form it is the `<CONCLUSION>`, in GSM8K's what follows `####` in the last line."""
    behind_thought = _behind_thought(completion)
    answer = answer_text(behind_thought)  # None without a complete pair of answer tags
    if answer is None:
        # one tag of the two is missing where the text was cut, or where the template opened the answer
        behind_opening = behind_thought.rpartition("<answer>")[2]
        answer = behind_opening.partition("</answer>")[0].strip()
    if "<|begin_of_box|>" in answer:  # GLM-4.5V's own box
        return answer.rpartition("<|begin_of_box|>")[2].partition("<|end_of_box|>")[0].strip()
    boxed = _boxed(answer)  # None without a box
    if boxed is not None:
        return boxed
    concluded = _conclusion.search(answer)
    if concluded:
        answer = concluded[1].strip()
    hashed = _hashed_result.search(answer)
    return hashed[1] if hashed else answer


# The last of LLaVA-CoT's four sections
_conclusion = re.compile(r"(?is)<CONCLUSION>((?:(?!<CONCLUSION>).)*?)(?:</CONCLUSION>[\s.]*)?$")
# The last line of GSM8K's solutions, #### 5: a number, with a unit or not, or a letter, since a report may
# have headings, too
_hashed_result = re.compile(
    r"(?:^|\n)[ \t]*####[ \t]*([-$]{0,2}\d[\d.,:/%]*(?: ?\w{1,4})?|\(?[A-J]\)?)[\s.]*$")


def _behind_thought(
    completion,  # what a model wrote, such as "<think>I see 2 and 1.</think> 3"
):
    """The part of a completion that is no thought: what follows the last `</think>`

    A `<think>` that is never closed, as in a completion that was cut, begins a thought up to the end."""
    end_of_thought = completion.rfind("</think>")
    # the opening tag is not looked for: it may stand in the prompt, where a chat template wrote it
    rest = completion[end_of_thought + len("</think>"):] if end_of_thought >= 0 else completion
    return rest.partition("<think>")[0]


def _boxed(text):
    "The content of the last `\\boxed{…}` of a text, in which models write a final answer; None without one"
    opening = "\\boxed{"
    start = text.rfind(opening)
    if start < 0:
        return None
    begin, depth = start + len(opening), 1
    # search for the brace that closes the box, past pairs such as those of \text{B}; an answer is short, so
    # at most 2,000 characters (`_most_characters`) are walked through
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
) -> bool:  # True for a thought or an answer that was begun and not ended
    "Whether a text stops inside its own tags, as one does that was cut at the token limit"
    # `rfind` is -1 for a tag that is not there, so a text without tags is not cut
    for name in ("think", "answer"):
        opened = completion.rfind(f"<{name}>")
        if opened > completion.rfind(f"</{name}>"):
            return True
    return False


# One spelling

# NFKC would write 2½ as 21/2 and 5² as 52, so these are set apart first
_fractions = re.compile("[\u00bc-\u00be\u2150-\u215e]")
_raised = re.compile("[\u207a\u207b]?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")
_same_marks = str.maketrans({
    "\u2019": "'", "\u2018": "'", "`": "'", "\u2212": "-", "\u2010": "-", "\u2011": "-",
    "\u2044": "/", "\u00d7": " x ",
    "\u201c": '"', "\u201d": '"', "\ufe0f": "", "\u20e3": "", "\u200b": "", "\U0001f51f": "10"})
# 30^\circ, 30^{\circ} and 30\degree are 30°
_degrees = re.compile(r"\^[\s{]{0,3}\\circ\b\s?\}?|\\degree\b")
# \frac{1}{2}, \frac{10}{3} and \frac12: one of numbers alone
_latex_fraction = re.compile(
    r"(\d)?\\frac\s*(?:\{\s*(\d[\d.]*)\s*\}\s*\{\s*(\d[\d.]*)\s*\}|(\d)(\d))")
# what LaTeX calls a sign, and the sign; Greek letters stay words, as `answer_words` writes π as pi
_latex_signs = {
    "leqslant": "≤", "leq": "≤", "le": "≤", "geqslant": "≥", "geq": "≥", "ge": "≥", "neq": "≠", "ne": "≠",
    "infty": "∞", "pm": "±", "mp": "∓", "times": " x ", "div": "÷", "cdot": "·", "angle": "∠",
    "triangle": "△", "perp": "⊥", "parallel": "∥", "cup": "∪", "cap": "∩", "in": "∈", "subset": "⊂",
    "rightarrow": "→", "to": "→", "dfrac": r"\frac", "tfrac": r"\frac"}
_latex_sign = re.compile(rf"\\({'|'.join(_latex_signs)})(?![a-zA-Z])")
_latex_thousands = re.compile(r"(?<=\d)\{,\}(?=\d{3}(?!\d))")  # 1{,}200
# \boxed{\text{B}}, $B$, **B** and `B` are B
_latex = re.compile(
    r"\\(?:boxed|fbox|text|textbf|textit|mathrm|mathbf|mbox|left|right|displaystyle)\b|\\[()\[\]]")
# 7_apples, __bold__; but a single one behind a digit at an end joins nothing: 5_ is a name that was cut
_underscores_around = re.compile(r"(?<!\w)_([^\s_]{1,40})_(?!\w)")
_underscore = re.compile(r"__+|_(?=[^\W_])|(?<!\d)_")
_dollars_around = re.compile(r"\$([^\s$]{1,40})\$")
# $5 is money and 3*4 a product: a sign that touches a number is no frame
_frames = re.compile(r"\*\*|[*](?!\s*\d)|(?<!\d)[*]|\$(?!\d)|[{}]")


def plain_text(
    text: str,  # an answer
    from_start: bool = False,  # of a long text: its first 2,000 characters, else its beginning and its end
    keep_powers: bool = False,  # write 5² as 5^2, else as 5^, so that no 2 is read as a number
) -> str:  # of about 2,000 characters at most; upper and lower case are kept
    """A text in one spelling, so that the readers need to know each sign in one form only

    Full-width and similar characters become plain ones (Unicode's NFKC), every hyphen becomes "-", every
    apostrophe "'", a raised digit "^", and underscores that join words become spaces."""
    text = text[:_most_characters] if from_start else _both_ends(text)
    # These two come before NFKC, which would write 5² as 52 and 2½ as 21/2.
    text = _raised.sub(_power if keep_powers else "^", text)
    text = _fractions.sub(_set_apart, text)  # 2½ → 2 1/2
    plain = unicodedata.normalize("NFKC", text)
    # cut once more, since NFKC writes some characters as several
    plain = plain[:_most_characters] if from_start else _both_ends(plain)
    plain = plain.translate(_same_marks)  # hyphens, apostrophes, quotation marks, ×
    plain = _latex_thousands.sub(",", plain)
    if "\\" in plain:  # LaTeX
        plain = _latex_sign.sub(lambda match: _latex_signs[match[1]], plain)  # x \leq 3 → x ≤ 3
        plain = _degrees.sub("°", plain)  # 30^\circ → 30°
        plain = _latex_fraction.sub(_one_line_fraction, plain)  # \frac{1}{2} → 1/2
    plain = _underscores_around.sub(r" \1 ", plain)  # _bold_, as Markdown writes it
    return _underscore.sub(" ", plain)  # the other underscores


def _both_ends(text):
    """At most 2,000 characters of a text: of a longer one its beginning and its end, a line break between

    The middle is left out, since an answer mostly stands at one of the ends. The text is cut at spaces where
    there are any."""
    if len(text) <= _most_characters:  # 2,000, of which 700 are for the beginning
        return text
    beginning = text[:_from_the_beginning]
    from_the_end = _most_characters - _from_the_beginning
    end = text[-from_the_end:]
    # drop a word that may be cut in two: half of a number would be another number
    if " " in beginning:
        beginning = beginning.rpartition(" ")[0]
    if " " in end:
        end = end.partition(" ")[2]
    return f"{beginning}\n{end}"  # the line break comes on top of the 2,000


def _power(
    match,  # of raised digits, perhaps with a sign, such as ⁻³
):
    "The replacement for raised digits: ^ and the plain digits, such as ^-3 for ⁻³"
    return "^" + unicodedata.normalize("NFKC", match[0]).translate(_same_marks)


def _set_apart(
    match,  # of one character that is a fraction, such as ½
):
    "The replacement for a fraction of one character: a space and the plain form, such as ` 1/2` for ½"
    # the space keeps 2½ from becoming 21/2; NFKC is Unicode's plain form
    return " " + unicodedata.normalize("NFKC", match[0])


def _one_line_fraction(
    match,  # of LaTeX's \frac with two numbers, and of the digit before it
):
    r"The fraction as people write it in a line: 1/2 for \frac{1}{2}, and 2 1/2, not 21/2, for 2\frac12"
    whole = f"{match[1]} " if match[1] else ""
    return f"{whole}{match[2] or match[4]}/{match[3] or match[5]}"


def unwrapped(
    text: str,  # from `plain_text`
) -> str:  # with a space for each sign that was removed
    "A text without the marks of LaTeX and Markdown around its words: `**B**`, `$B$`, `\\text{B}` become B"
    if "\\" in text:
        text = _latex.sub(" ", text)  # commands such as \text
    # pairs come first: $7$ becomes 7, but a single $ before a digit is money, which the next line leaves
    text = _dollars_around.sub(r" \1 ", text)
    return _frames.sub(" ", text)  # braces; asterisks except in 3*4; dollar signs except in $5


# Tokens

class Token(NamedTuple):
    "A piece of a text"

    kind: str  # number, word, han (one Chinese character or one phrase), mark, line, or edge
    text: str  # in lower case
    raw: str  # as written
    glued: bool  # it touches the token before it: no space between
    value: float | None = None  # of a number: its value; None where this reader cannot tell it, as for 2.5.1


edge = Token("edge", "", "", False)
_cjk = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_numerals = "零〇一二两兩三四五六七八九十百千万亿萬億壹贰叁肆伍陆柒捌玖拾佰廿卅俩倆仨"
# Chinese phrases in which a numeral counts nothing; a longer one stands before one that it begins with
_phrases = (
    "第一次|百分之|分之|三角形|三角|四边形|四方|四周|四处|四面|八方|五颜六色|七上八下|乱七八糟|三明治|三轮车|二维码|"
    "一共有|一共|一起|一样|一樣|一些|一点|一點|一下|一般|一定|一直|一切|一旦|一致|一部分|一边|一邊|一侧|一側|一旁|"
    "一方面|一半|一堆|一群|一排|一组|一組|一系列|一番|一眼|一会|一时|一方|一向|一律|一路|一无|唯一|统一|統一|之一|万一|"
    "萬一|逐一|十分|千万|万物|万分|总共有|总共|總共|共有|合计|总计|总数|答案|"
    # 半 is half, and 三个半苹果 are three and a half; but it begins words, too: translucent, semicircle, radius
    "半(?:透明|透光|导体|導體|成品|自动|自動|人[马馬]|[圆圓径徑球岛島身袖裸蹲跪坐躺卧死熟生空满滿开開闭閉掩遮露埋截]|"
    "[边邊环環柱挂掛数數新旧舊湿濕])")
_thousands = r"\d{1,3}(?:,\d{3}){1,3}(?![\d,]|\.\d+\.)|\d{1,3}(?:[ ']\d{3}){1,3}(?! ?\d)"
# Signs that are written over, under or behind a letter and belong to it, such as the vowels of Hindi, Tamil
# and Thai (Unicode's categories Mn and Mc; UAX 29, its rule for words, breaks none before one). `\w` lacks
# them. Looked for where scripts have them: to look at all of Unicode at each start would take too long.
_blocks_with_marks = (*range(0x300, 0x1e00), *range(0xa660, 0xac00), *range(0x11000, 0x11900))
combining_marks = "".join(
    character for character in map(chr, _blocks_with_marks)
    if unicodedata.category(character) in ("Mn", "Mc"))
_letter = rf"[^\W\d_{_cjk}]"
_letters = rf"{_letter}+(?:[{combining_marks}]+{_letter}*)*"
_sign = r"(?:(?<![\w.)\]%])[-+])?"  # behind a word, a number or a bracket it is a hyphen
_token = re.compile(
    rf"(?P<line>\n)|(?P<han>{_phrases})|(?P<numeral>[{_numerals}]{{1,12}})|(?P<character>[{_cjk}])"
    rf"|(?P<number>{_sign}(?:{_thousands}|\d+)(?:\.\d+){{0,3}}|{_sign}(?<![\w.])\.\d+)"
    rf"|(?P<word>{_letters}(?:'{_letters})?)|(?P<mark>\S)")


def tokens_of(
    text: str,  # from `plain_text`
) -> list:  # of `Token`, with 8 empty edge tokens (`margin`) before and behind
    """Cut a text into tokens: numbers, words, Chinese characters and marks

    A number of several words, such as `two hundred and six`, becomes one token. The edge tokens at both ends
    let a rule look at neighbours without asking whether there are any."""
    tokens, end_of_last = [edge] * margin, -1
    for match in _matches_read(text):
        tokens.append(_token_of(match, glued=match.start() == end_of_last))
        end_of_last = match.end()
    tokens += [edge] * margin
    return _with_numerals(tokens)  # makes one token of a number of several words


def _matches_read(text):
    "The tokens of a text as matches of a pattern, at most 300: of more than that the first and the last ones"
    matches = list(_token.finditer(text))  # `_token`: a number, a word, a mark …
    if len(matches) <= _most_tokens:
        return matches
    # more of the end is kept than of the beginning: most answers come last
    third = _most_tokens // 3
    return matches[:third] + matches[-2 * third:]


def _token_of(
    match,  # of a pattern with a named group for each kind: line, han, number, word, mark …
    glued,  # True: no space stands between this token and the one before
):
    """The `Token` for one match: kind, text in lower case, text as written, glued, value of a number

    The name of the group is the kind, with two exceptions. `numeral`, a number in Chinese characters such as
    三十, is a "number"; `character`, any other single Chinese character, is "han", as phrases are."""
    group, raw = match.lastgroup, match[0]  # the group that matched, and the text as written
    if group == "number":
        return Token("number", text=raw, raw=raw, glued=glued, value=_digits_value(raw))
    if group == "numeral":
        return Token("number", text=raw, raw=raw, glued=glued, value=_chinese_value(raw))
    kind = "han" if group == "character" else group
    return Token(kind, text=raw.lower(), raw=raw, glued=glued)


# units of length, and of what is divided by a second: with ^2 or ^3 behind them they measure areas and more
length_names = (
    "m|cm|mm|km|dm|nm|µm|μm|ft|in|yd|mi|met(?:er|re)s?|feet|foot|inch(?:es)?|yards?|miles?|(?<=/)s|(?<=/)sec")


def is_number(
    token: Token,  # of `tokens_of`
) -> bool:  # True for a number in digits or in words
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


def _digits_value(
    raw,  # as written, such as "-1,200.5" or "1 200"
):
    "The value of a number in digits; None for a version (2.5.1), a code (007), or more than 12 digits"
    digits = raw.lstrip("+-")
    for thousands_separator in (",", " ", "'"):
        digits = digits.replace(thousands_separator, "")
    whole, _, fraction = digits.partition(".")
    if "." in fraction or len(whole) > _most_digits:
        return None
    # 007 is a code, but 05 is a 5 that was filled up to two digits
    if len(whole) > 2 and whole.startswith("0"):
        return None
    # There may be any number of decimal places; a float holds no more digits than the first 24 characters.
    value = float(digits[:2 * _most_digits])
    return -value if raw.startswith("-") else value


def _chinese_value(
    numeral,  # Chinese characters that can stand in a number, such as 二十五 (25)
):
    "The value of a Chinese numeral below ten thousand; None for 三四 (three or four) and what is no numeral"
    if numeral in _chinese_words:  # 俩 and 仨, "two of them" and "three of them"
        return float(_chinese_words[numeral])
    numeral = numeral.replace("廿", "二十").replace("卅", "三十")  # one character for twenty, and for thirty
    # the digits 0 to 9, and the scales 十 (10), 百 (100) and 千 (1000)
    readable_characters = _chinese_digits.keys() | _chinese_scales.keys()
    if not readable_characters.issuperset(numeral):
        return None  # such as 万, ten thousand
    if _chinese_scales.keys().isdisjoint(numeral):  # digits alone
        return _digit_by_digit(numeral)  # 二五 is 25; None for 三四, an estimate
    return _digits_with_scales(numeral)


def _digits_with_scales(numeral):
    """The value of Chinese digits with 十 (10), 百 (100) or 千 (1000), such as 三百二十 for 320

    None for an estimate such as 十三四 (thirteen or fourteen), and where a scale follows a smaller or equal
    one, as in 十百."""
    total = 0
    waiting = None  # the digit that waits for its scale: in 三百 (300), 三 is read first
    last_scale = 10_000  # above every scale
    for character in numeral:
        if character in _chinese_digits:
            # Two digits side by side are an estimate, unless the first one is a zero: 一百零二 (102).
            if waiting:  # neither None nor 0
                return None
            waiting = _chinese_digits[character]
            continue
        scale = _chinese_scales[character]
        if scale >= last_scale:
            return None
        total += scale * (1 if waiting is None else waiting)  # 十二 (twelve) begins without a digit: 1 ten
        last_scale, waiting = scale, None
    # a digit behind the last scale: 2 in 一百零二 (102), but 20 in 一百二 (120)
    return float(total + _worth_of_last_digit(numeral, waiting or 0, last_scale))


def _worth_of_last_digit(
    numeral,  # the whole numeral, such as 一百二
    digit,  # its last digit, 2 there; 0 if it ends with a scale
    scale,  # the last of 十 (10), 百 (100) and 千 (1000) before that digit: 100 there
):
    "What the last digit of a Chinese numeral adds, if no scale follows it"
    has_zero = "零" in numeral or "〇" in numeral
    if scale >= 100 and not has_zero:
        # 一百二 is short for 一百二十 (120), and 一千二 is 1200; but 一百零二 is 102
        return digit * (scale // 10)
    return digit


def _digit_by_digit(numeral):
    "The value of Chinese digits in a row, such as 二五 for 25; None for an estimate such as 三四, three or four"
    digits = [_chinese_digits[character] for character in numeral]
    if len(digits) == 2 and digits[0] > 0:
        # two digits that differ by 1 or 2 are an estimate, as in 三五个: three to five
        if digits[1] - digits[0] in (1, 2):
            return None
    return float("".join(map(str, digits)))


# Numbers of several words

_number_words = {*units, *tens, *_scales}
_begins_numeral = _number_words | {"a", "half", "半"}
# Chinese measure words that count by sets: 打 is a dozen; 双 and 对 are a pair
_set_sizes = {"打": 12, "双": 2, "雙": 2, "对": 2, "對": 2}


def _with_numerals(
    tokens,  # list of `Token`: kind (word, mark, edge …), text in lower case, glued (no space before)
):
    "A copy of the tokens in which each number of several words, such as `half a dozen`, is one number token"
    joined, i = [], 0
    while i < len(tokens):
        token = tokens[i]
        # What the numeral at `i` is worth (None: too large, as 3 million), and the place behind it; that is
        # `i` itself where no numeral of several words begins.
        value, after = None, i
        if token.kind == "number" or token.text in _begins_numeral:  # such as two, hundred, a, half
            value, after = _numeral(tokens, i)
        if after == i:
            joined.append(token)
            i += 1
            continue
        numeral_text = " ".join(part.text for part in tokens[i:after])
        joined.append(Token("number", numeral_text, numeral_text, token.glued, value))
        i = after
    return joined


def _numeral(
    tokens,  # list of `Token`: kind (word, mark, edge …), text in lower case, raw as written, value
    i,  # place where a number may begin
):
    """Read the number of several words that begins at token `i`: returns (its value, the place behind it)

    `two hundred and six apples` → (206.0, i + 4). Without such a number: (None, i), and token `i` stays as it
    is. None with a place behind `i`: a number that is too large for this reader, such as `3 million`."""
    first = tokens[i]
    is_number_already = first.kind == "number"
    value, after = (first.value, i + 1) if is_number_already else _begun_with_word(tokens, i)
    if value is None:
        return None, i
    is_chinese = first.raw[-1] in _numerals  # such as 两; a number has all its characters of one script
    # Add each word that may follow: `hundred` after 2, `six` after twenty, `dozen` after any number.
    while True:
        at = _next_word(tokens, after, value)  # place of the next word, behind a hyphen or an `and`
        following = tokens[at]  # an edge token behind the end of the text
        if following.text in _too_many:  # such as `million`
            return None, at + 1
        # Chinese measure words, such as 打: 两打 is two dozen. After other digits (3 打) they are not read.
        if following.text in _set_sizes and is_chinese:
            return _chinese_set(tokens, i, at)
        longer_value = _longer_value(value, following)
        if longer_value is None:
            break
        value, after = longer_value, at + 1
    if is_number_already and after == i + 1:  # no word was added to the number
        return None, i
    return (value if value <= _most_in_words else None), after


def _longer_value(
    value,  # of the words so far, such as 20.0
    token,  # the next `Token`, such as "six"
):
    "The value of a numeral with one more token, 26.0 there; None where the token does not belong to it"
    word = "dozen" if token.text == "dozens" else token.text  # "two dozens"
    is_number_word = token.kind == "word" and word in _number_words
    return _with_word(value, word) if is_number_word else None


def _next_word(
    tokens,  # list of `Token`, words and marks: text in lower case
    at,  # place behind the numeral's words so far
    value,  # of these words, such as 200.0
):
    """The place of the word that may continue a numeral

    It is `at`, or the place behind a hyphen (twenty-one), or behind an `and` that follows hundreds (two
    hundred and six). In `two and three` the `and` joins two numbers, and the place is `at`."""
    # `tokens` begins and ends with 8 empty edge tokens (`margin`), so that neighbours are always there
    at = _behind_hyphen(tokens, at)  # the same place where there is no hyphen
    is_hundreds = value > 0 and value % 100 == 0
    if tokens[at].text != "and" or not is_hundreds:
        return at
    behind_and = _behind_hyphen(tokens, at + 1)  # as in two-hundred-and-six
    word = tokens[behind_and].text
    # units: zero to nineteen, and dozen; tens: twenty to ninety
    return behind_and if word in units or word in tens else at


def _behind_hyphen(
    tokens,  # list of `Token`, words and marks: text in lower case, glued (no space before)
    at,  # place of one of them
):
    "`at + 1` where token `at` is a hyphen without spaces on either side, as in twenty-one; else `at`"
    # there is a next one: `tokens` ends with 8 empty edge tokens; `glued`: no space before the token
    hyphen, following = tokens[at], tokens[at + 1]
    joins = hyphen.text == "-" and hyphen.glued
    return at + 1 if joins and following.glued else at


def _chinese_set(
    tokens,  # list of `Token`, words and marks: text in lower case, value
    i,  # place of the number
    at,  # place of the measure word behind it
):
    """Read a number of sets such as 两打 (two dozen) or 一双 (a pair): returns (value, the place behind it)

    The number is token `i`, the measure word token `at`. (None, i) where it is no number of sets: the place
    `i` tells the caller to leave the number as it is."""
    # the measure words are 打, a dozen, and 双 or 对, a pair
    value, word = tokens[i].value, tokens[at].text
    if word == "打":
        # 打开 is the verb "to open"; a next token is always there, an empty one behind the end of the text
        is_verb = tokens[at + 1].text == "开"
        return (None, i) if is_verb else (value * _set_sizes[word], at + 1)
    # two pairs of shoes may be two or four, so only "one pair" is read, as 2
    return (2.0, at + 1) if value == 1 else (None, i)


def _begun_with_word(
    tokens,  # list of `Token`, words and marks: text in lower case
    i,  # place of the first word
):
    """Read the first words of a numeral that begins with a word: returns (value, the place behind them)

    Token `i` must be a number word, hundred or thousand, `a`, `half` or 半 (half). `twenty` → (20.0, i + 1),
    `a couple of` → (2.0, i + 3). (None, i) where no numeral begins, as with the `a` of `a dog`."""
    word = tokens[i].text
    if word in units:
        return float(units[word]), i + 1
    if word in tens:
        return float(tens[word]), i + 1
    if word in ("half", "半"):
        return _half_dozen(tokens, i)  # 6 for half a dozen; (None, i) for any other half
    if word == "a":
        # i + 1 and i + 2 exist: `tokens` ends with 8 empty edge tokens
        return _begun_with_article(i, second=tokens[i + 1].text, third=tokens[i + 2].text)
    return float(_scales[word]), i + 1  # "hundred" or "thousand" without a number before it


def _half_dozen(
    tokens,  # list of `Token`, words and marks: text in lower case
    i,  # place of a half or 半
):
    "(6, the place behind it) for half a dozen, half-dozen or 半打 at token `i`; (None, i) for any other half"
    # `tokens` begins and ends with 8 empty edge tokens, so that neighbours are always there
    dozen_at = i + 2 if tokens[i + 1].text in ("a", "-") else i + 1
    is_half_dozen = tokens[dozen_at].text in ("dozen", "打")
    return (6.0, dozen_at + 1) if is_half_dozen else (None, i)


def _begun_with_article(
    i,  # place of the token `a`
    second,  # the word behind it
    third,  # the word behind that
):
    """Read a numeral that begins with `a`: returns (value, the place behind what was read), or (None, i)

    `a single` → (1.0, i + 2), `a couple of` → (2.0, i + 3), `a dozen` → (1.0, i + 1), `a dog` → (None, i)."""
    if second == "single":
        return 1.0, i + 2
    if second in ("couple", "pair"):
        # "a couple of apples", "a couple dozen"
        return 2.0, i + 3 if third == "of" else i + 2
    if second in ("dozen", "hundred", "thousand"):
        # only the article is read, as 1: the caller multiplies by the word behind it
        return 1.0, i + 1
    return None, i


def _with_word(
    value,  # of the words so far, such as 3.0
    word,  # dozen, hundred, thousand, or a number below 100, such as six or twenty
):
    "The value of a numeral with one more word, 300.0 for hundred; None where the word begins another number"
    if word == "dozen":
        return value * 12
    if word == "hundred":
        # only what is said since the last thousand is multiplied: it must be 1 to 99
        below_thousand = value % 1000
        if not 0 < below_thousand < 100:
            return None
        # 3002 ("three thousand two") becomes 3200: the 2 counts once already, so 99 times 2 are added.
        return value + 99 * below_thousand
    if word == "thousand":
        return value * 1000 if 0 < value < 1000 else None
    # units: word → 0 to 19, beside dozen, which was read above; tens: word → 20, 30 … 90
    return _with_unit_or_ten(value, units[word] if word in units else tens[word])


def _with_unit_or_ten(
    value,  # of the words so far
    added,  # what the next word is worth, below 100
):
    "The value of twenty and six (26) or two hundred and forty (240) together; None where they do not join"
    if value < 20:  # "three six" are two numbers
        return None
    if value % 100 == 0:  # behind a hundred or a thousand anything below 100 may follow
        return value + added
    # after twenty, thirty … only one to nine may follow
    ends_in_tens = value % 100 >= 20 and value % 10 == 0
    return value + added if ends_in_tens and 0 < added < 10 else None

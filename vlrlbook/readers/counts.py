"""What each number of a text is, and which of them is the count.

Written by hand. A number in a text is not yet a count: it may be a percentage, a size, a date, a share. Each
rule below looks at a number and its neighbours and says whether it claims the number; `number_roles` asks
them in the order of `_rules`, and the first that claims it names its role. A number that none claims is a
count. Then `_chosen_count` goes through the ways in which a text marks its conclusion."""
import math
import re
from typing import NamedTuple

from .tokens import Token, chinese, edge, final_answer, is_number, length_names, margin
from .tokens import plain_text, tens, tokens_of, unwrapped

__all__ = ["Near", "number_roles", "explain_count", "read_count", "read_number", "behind_correction",
           "is_minus_word", "is_plus_or_minus"]

_most_numbers = 40  # of a text that are looked at, the last ones: every rule is asked of each


class Near(NamedTuple):
    "A number and the tokens around it"

    tokens: list  # all of the text: numbers, words, marks
    place: int  # of the number among them
    third_before: Token  # this and the next ones: edge tokens where the text has none there
    second_before: Token
    before: Token
    number: Token
    after: Token
    second_after: Token
    third_after: Token

    def seven_before(self) -> list:
        "The seven tokens before the number, the nearest last; edge tokens where the text has not so many"
        return self.tokens[self.place - 7:self.place]


def _is_clause_border(token):  # .kind: number, word, han (Chinese), mark, line or edge
    "Whether a token is no word and no number: a mark such as a comma, a line break, the edge of the text"
    return token.kind in ("mark", "line", "edge")


def _is_line_border(token):  # .kind: number, word, han (Chinese), mark, line or edge
    "Whether a token is a line break, or an edge token, which stands beyond the first and the last line"
    return token.kind in ("line", "edge")


# Rules: what is no count at all

_before_pronoun = set(
    "no each every any some the this that last which another either other same next neither former "
    "latter wrong right first second".split())
_after_pronoun = set(
    "another may seems can could would might must should by sees thing side hand way day more of at "
    "knows has".split())
_describing_words = set(
    "red green blue yellow orange purple black white pink brown grey gray big small large little left "
    "right top bottom middle tall short bright dark same other first second third last".split())


_not_even_one = ("也没", "都没", "也沒", "都沒", "也不")


def _is_pronoun(near: Near):  # a number token and its neighbours; .text: in lower case
    """Whether the number is the pronoun `one`, as in one of them, no one, the green one, one can see

    一 and 1 are none, except in a Chinese phrase for "not even one"."""
    if near.number.text in ("一", "1"):
        # 一个也没有, 一只狗都没有: 也没, 都没 or 也不 stands in the five tokens behind the 一
        next_tokens = near.tokens[near.place + 1:near.place + 6]
        following = "".join(token.text for token in next_tokens)
        return any(phrase in following for phrase in _not_even_one)
    if near.number.text != "one":
        return False
    # before it: no, each, the, this, which …; behind it: another, can, of, has …
    if near.before.text in _before_pronoun or near.after.text in _after_pronoun:
        return True
    # "the red one", but not "a red one": that is one thing, and `a` is none of `_before_pronoun`
    described = near.before.text in _describing_words
    return described and near.second_before.text in _before_pronoun


_negators = set(
    "not neither never without isn't aren't wasn't weren't don't doesn't didn't won't haven't "
    "hasn't nor isnt arent dont".split())
_chinese_negators = ("没有", "沒有", "不是", "并非", "並非")
# what may stand between "not" and the number that it denies
_between_negator_and_number = set(
    "exactly just only a the there see have contain show count find be any all even really quite has : "
    "\" 有 是 到".split()) | {"a single"}
_reach_of_negator = 5  # tokens


def _is_denied(near: Near):  # a number token and its neighbours
    "Whether the text denies the number, and so says what the count is not: not 5, rather than 5, 不是5个"
    return _is_negated(near.tokens, near.place)


def _is_negated(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    i,  # place of a number, or of a word such as `any`
):
    """Whether `not`, or a word like it, stands before token `i` with only small words such as `the` between

    `not more than 5` does not deny 5: `than` is no such word."""
    # backwards over at most 5 tokens; further away `not` denies something else. Edge tokens end the search.
    for at in range(i - 1, i - 1 - _reach_of_negator, -1):
        # two tokens joined: a Chinese character is a token, and 没有 and 不是 have two
        word, two_words = tokens[at].text, tokens[at - 1].text + tokens[at].text
        if word in _negators or two_words in _chinese_negators:  # such as `not` and `without`
            return True
        # rather than, instead of, no longer: joined above without a space
        if two_words in ("ratherthan", "insteadof", "nolonger"):
            return True
        if word not in _between_negator_and_number:  # small words such as `the` and `exactly`
            return False
    return False


def _is_not_whole(
    near: Near,  # a number token and its neighbours; .text: in lower case; .glued: no space before it
):
    """Whether the number is no whole number of things: 2.5, -3, 3 1/2, 三个半

    Also one whose value cannot be read (None), such as v2.5.1."""
    value = near.number.value
    if value is None or value < 0:
        return True
    # in "3 thousands" the 3 is only a part of the number
    if value != int(value) or near.after.text == "thousands":
        return True
    # 10^3, and 5², which `plain_text` writes 5^
    if near.after.text == "^" or near.before.text == "^":
        return True
    if _has_decimals_or_half_in_words(near):
        return True
    # a mixed number such as 3 1/2: a number and a slash follow; `glued`: no space before the token
    number_follows = is_number(near.after) and not near.after.glued
    return number_follows and near.second_after.text == "/"


def _has_decimals_or_half_in_words(near: Near):  # a number token and its neighbours; .text: in lower case
    "Whether the number is part of 三点五 (3.5), 三个半 (three and a half) or `three and a half`"
    if near.after.text == "点" and is_number(near.second_after):
        return True
    if near.before.text == "点" and is_number(near.second_before):
        return True
    # behind the number or its measure word, as in 三个半; 半透明 (translucent) and the like are other tokens
    if near.after.text == "半" or near.after.kind == "han" and near.second_after.text == "半":
        return True
    return near.after.text == "and" and near.third_after.text == "half"


_percent_signs = {"%", "‰", "percent", "pct", "percentage", "成"}


def _is_percentage(near: Near):  # a number token and its neighbours; .text: in lower case
    "Whether the number is a percentage, as in 95%, 95 percent, 百分之九十五"
    if near.after.text in _percent_signs:  # %, percent, or 成, a tenth
        return True
    # before the number: 百分之, "of a hundred parts", or 分之, as in 三分之二, two thirds; each is one token
    if near.before.text in ("百分之", "分之"):
        return True
    return near.after.text == "per" and near.second_after.text == "cent"


_ordinal_words = set("first second third fourth fifth sixth seventh eighth ninth tenth".split())


def _is_ordinal(
    near: Near,  # a number token and its neighbours; .text: in lower case; .glued: no space before it
):
    "Whether the number is an ordinal and says which one, not how many: 3rd, twenty-first, 第三, 星期三"
    # 第 makes a number an ordinal, and 星期三, 礼拜三 and 周三 are weekdays
    if near.before.text in ("第", "期", "拜"):
        return True
    if near.before.text == "周" and near.number.text in chinese:  # the digits 一 to 九
        return True
    # 3rd; `glued`: no space before the token
    if near.after.glued and near.after.text in ("st", "nd", "rd", "th"):
        return True
    # twenty-first to ninety-ninth: the number token is only the tens
    if near.number.text not in tens:  # twenty, thirty, … ninety
        return False
    word = near.second_after if near.after.text == "-" else near.after
    return word.text in _ordinal_words


def _is_size(near: Near):  # a number token and its neighbours
    "Whether the number is one side of a size, as in 512x512, 3 by 4, 2 * 3"
    # `_is_times(sign, the number behind it)`: whether the sign multiplies, as x, * and `by` do
    if is_number(near.second_after) and _is_times(near.after, near.second_after):
        return True
    return is_number(near.second_before) and _is_times(near.before, near.number)


def _is_times(
    sign,  # token between two numbers
    behind,  # token of the second number
):
    "Whether a sign multiplies by the number `behind` it: 3 * 4 and 3*4, but not 5* 3"
    if sign.text not in _multiplication_signs:  # x, ×, * and `by`
        return False
    # `glued`: no space before the token; a multiplication has spaces on both sides, or on neither
    if sign.glued != behind.glued:
        return False
    if sign.raw == "X" and not sign.glued:
        # Neither 512 nor 512 in "512 X 512", a size, is a count. In "5 X 5" the X is taken for a letter between
        # two counts: an untrained small model babbles such texts.
        return len(behind.raw) > 1
    return True


_multiplication_signs = {"x", "×", "*", "by"}
_months = set(
    "january february march april may june july august september october november december jan feb mar "
    "apr jun jul aug sep sept oct nov dec".split())


def _is_month(token):  # .text: in lower case; .raw: as written
    "Whether a token is a month; `may` and `march` are also verbs, so only a capital makes them one"
    return token.text in _months and token.raw[0].isupper()


def _is_date_or_time(
    near: Near,  # a number token and its neighbours; .text: in lower case; .glued: no space before it
):
    "Whether the number is part of a date or a time, as in 12 May 2023, 10:30, 3 a.m., in 2019"
    if _is_beside_month(near):
        return True
    # in 10:30 no space stands before the second number, which `glued` says; "of 2019: 2 red" is no time
    if near.after.text == ":" and is_number(near.second_after) and near.second_after.glued:
        return True
    if near.before.text == ":" and is_number(near.second_before) and near.number.glued:
        return True
    # 下午三点 is three in the afternoon: the last character of the part of the day, then 点, o'clock
    if near.before.text in ("午", "上", "晨") and near.after.text in ("点", "點"):
        return True
    # 10 a.m.
    if near.after.text in ("a", "p") and near.second_after.text == "." and near.third_after.text == "m":
        return True
    return _is_year(near)


def _is_beside_month(near: Near):  # a number token and its neighbours; .text: in lower case
    "Whether the number stands beside a month, as both do in May 12, 2023"
    if _is_month(near.before) or _is_month(near.after):
        return True
    is_behind_day = near.before.text == "," and is_number(near.second_before)
    return is_behind_day and _is_month(near.third_before)


_before_year = {"in", "during", "until", "of", "from", "by", "before", "after", "("}


def _is_year(
    near: Near,  # a number token and its neighbours. Of a token:
        #   .text is in lower case, .raw as written, .kind is word, number or mark
):
    "Whether the number is a year: 1900 to 2099 behind a word such as `in`, with no word behind it"
    digits = near.number.raw
    if len(digits) != 4 or not digits.isdecimal():
        return False
    # a year stands behind in, until, of, ( …; "in 2019 cells" counts the cells, the word behind it
    if near.after.kind == "word" or near.before.text not in _before_year:
        return False
    if near.before.text == "of" and near.second_before.text in ("total", "number", "count", "sum"):
        return False  # a total of 2000
    return 1900 <= int(digits) < 2100


_units_of_measure = set(
    "time times € £ ¥ 円 次 mm cm dm m km um nm inch inches ft feet foot yard yards mile miles px "
    "pixel pixels pt dpi mb gb kb tb g kg mg ug lb lbs oz ton tons gram grams kilogram kilograms "
    "pound pounds ounce ounces l ml dl cc liter liters litre litres meter meters metre metres "
    "centimeter centimeters centimetre centimetres millimeter millimeters millimetre millimetres "
    "kilometer kilometers kilometre kilometres s sec secs second seconds min mins minute minutes h "
    "hr hrs hour hours day days week weeks month months year years decade decades century am pm a.m "
    "p.m o'clock hz khz mhz ghz w kw v kv degree degrees usd eur dollar dollars euro euros cent "
    "cents yuan rmb gy msv hu bpm mmhg fps kcal cal mph kmh tesla ° ℃ 米 克 元 岁 歲 度 秒 年 月 日 号 號 时 時 天 "
    "厘 毫 升 斤 吨 倍 折 楼".split())
_two_character_units = {
    "公斤", "千克", "公里", "公分", "小时", "小時", "分钟", "分鐘", "点钟", "點鐘", "点半", "周岁", "像素", "美元", "欧元", "块钱"}


def _is_measure(
    near: Near,  # a number token and its neighbours. Of a token:
        #   .text is in lower case, .kind is word, number or mark, .glued: no space before it
):
    "Whether the number is a measure, an amount with a unit and no count: 5 cm, 3 hours, 30°, $5, 5米"
    if near.before.text in ("$", "€", "£", "¥"):
        return True
    # each Chinese character is a token: 公斤 (kilogram) and 小时 (hour) are two
    if near.after.text + near.second_after.text in _two_character_units:
        return True
    if near.after.text not in _units_of_measure:  # such as cm, kg, hours, °
        return False
    # a unit of one letter must touch its number (5m) or have a power (5 m²): else it is taken for a letter
    is_one_letter = near.after.kind == "word" and len(near.after.text) == 1
    return near.after.glued or not is_one_letter or near.second_after.text == "^"


# a number behind one of these belongs to a name: step 3, figure 2, GPT 4
_label_words = set(
    "figure fig image img picture frame page step panel slide version ver model id room chapter section "
    "level grade stage type gpt qwen llama gemini claude yolo rtx iphone covid channel option patient "
    "case year since dated copyright number ©".split())
# and behind one of these, or its colon, it is another quantity than the count
_quantity_words = {
    "confidence", "probability", "certainty", "score", "likelihood", "temperature", "width", "height", "size",
    "age", "aged", "id", "resolution"}


def _is_name(near: Near):  # a number token and its neighbours
    "Whether the number is part of a name or an adjective: GPT-4, x3, 4K, 3D, step 3, room no. 5, 5-star"
    return _is_glued_to_name(near) or _is_adjective(near) or _is_behind_label(near)


def _is_glued_to_name(
    near: Near,  # a number token and its neighbours. Of a token:
        #   .text is in lower case, .kind is word, number or mark, .glued: no space before it
):
    "Whether the number touches a letter or a word that makes it part of a name: x3, GPT-4, 3D, fig.5, 5_"
    if _is_one_letter(near.after):  # one that is glued to the number: 3D, but not "3 D"
        return True
    # "5_" is the beginning of a file name or the like that was cut
    if near.after.text == "_" and near.after.glued:
        return True
    if not near.number.glued:
        return False
    if near.before.text in ("-", ".") and near.before.glued:  # GPT-4, fig.5
        return near.second_before.kind == "word"
    return near.before.kind == "word"  # x3


def _is_adjective(
    near: Near,  # a number token and its neighbours. Of a token:
        #   .text is in lower case, .kind is word, number or mark, .glued: no space before it
):
    "Whether the number begins an adjective with a hyphen, such as 5-star or three-legged"
    if near.after.text != "-" or not near.after.glued:
        return False
    word = near.second_after
    if word.kind != "word" or not word.glued:
        return False
    # "7-apples" counts apples: a plural is no adjective
    return not word.text.endswith("s")


def _is_behind_label(
    near: Near,  # a number token and its neighbours; .text: in lower case; .kind: word, number, mark …
):
    "Whether a label before the number says what it is instead of a count: step 3, room no. 5, confidence: 97"
    label = near.before.text
    # step 3, page 3, GPT 4; confidence 97, score 97, age 97
    if label == "#" or label in _label_words | _quantity_words:
        return True
    if label == ".":
        if near.second_before.text == "no":
            # "room no. 5" is a label, but a text that begins "No. 5 apples" answers a question
            return near.third_before.kind == "word"
        return near.second_before.text == "fig"
    # page 5 of 10: the 10 is no count either
    if label == "of" and is_number(near.second_before) and near.third_before.text in _label_words:
        return True
    # confidence: 97, "confidence is 97": the name of the quantity stands before the sign
    if label in (":", "=", "is", "of"):
        return _word_before(near) in _quantity_words
    return False


def _is_one_letter(token):  # .glued: no space before it; .text: in lower case
    "Whether a token is a single Latin letter that touches the token before it, as in 3D, 40x"
    is_letter = token.kind == "word" and len(token.text) == 1
    return is_letter and token.glued and token.text.isascii()


def _word_before(
    near: Near,  # a number token behind one of these signs, and its neighbours; .kind: word, number, mark …
):
    """The word before the `:`, `=`, `is` or `of` in front of the number: `confidence` in `confidence: 97`

    It is empty where there is no word. A quotation mark may stand between, as in `"confidence": 97`."""
    for token in (near.second_before, near.third_before):
        if token.kind == "word":
            return token.text
    return ""


_range_joiners = {"to", "–", "—", "~", "-", "/", "到", "至", "或"}
_fraction_words = set(
    "half halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths seventh "
    "sevenths eighth eighths tenth tenths hundredth hundredths".split())


def _is_range_or_fraction(
    near: Near,  # a number token and its neighbours; .text: in lower case; .raw: as written
):
    "Whether the number is part of a range, a fraction or an estimate: 3-4, between 3 and 4, two thirds, 十几"
    if _is_joined(near):  # 3-4, 1/2, between 3 and 4
        return True
    # 三分之一 is a third; 十几 and 二十多 are ten and some, twenty and some
    if near.after.text in ("分之", "几", "幾", "多", "余"):
        return True
    # 几十 is several tens, 半百 is half a hundred
    if near.before.text in ("几", "幾", "半"):
        return True
    # 十来个 is ten or so
    if near.after.text in ("来", "來") and near.number.raw[-1] in "十百":
        return True
    # several dozen, a few hundred: an estimate
    if near.number.text in ("dozen", "hundred", "thousand"):
        return near.before.text in ("several", "few", "many", "some")
    # two thirds, two-thirds: one word behind the number, or behind its hyphen
    denominator = near.second_after if near.after.text == "-" else near.after
    return denominator.text in _fraction_words


def _is_joined(near: Near):  # a number token and its neighbours; .text: in lower case
    "Whether the number is joined with another to a range or a fraction: 3-4, 3 to 4, between 3 and 4, 1/2"
    # `_range_joiners`: `to`, hyphens, `/`, 到; a slip is a typing error such as "5to 5", which joins nothing
    if near.after.text in _range_joiners and is_number(near.second_after):
        return not _is_slip(near.after)
    if near.before.text in _range_joiners and is_number(near.second_before):
        return not _is_slip(near.before)
    if near.before.text == "between" and near.after.text == "and":
        return is_number(near.second_after)
    if near.before.text == "and" and is_number(near.second_before):
        return near.third_before.text == "between"
    return False


def _is_slip(token):  # the one between two numbers; .glued: no space before it
    "Whether a word that would join two numbers touches the first, as in `5to 5`: then it is a typing error"
    return token.kind == "word" and token.glued


def _is_alternative(near: Near):  # a number token and its neighbours
    "Whether the text offers another number instead of this one, and so no answer: 3, 4 or 5; 5, maybe 6"
    return _has_alternative(near, step=1) or _has_alternative(near, step=-1)


def _has_alternative(
    near,  # a number token (.number), its .place among all .tokens of the text
    step,  # 1: search the tokens after it; -1: those before it
):
    """Whether another number stands on one side of the number in `near`, with `or` or `maybe` between them

    Between two numbers there may also be commas and one word, as in `5 apples, 6 pears or 7`; anything else
    ends the search."""
    saw_or = False
    saw_word = False  # since the last number that was met
    # these places exist: `tokens_of` adds 8 empty edge tokens (`margin`) at each end
    for distance in range(1, margin + 1):
        token = near.tokens[near.place + step * distance]
        if _means_or(token):  # `or`, `maybe`, `perhaps`
            saw_or = True
        elif is_number(token):
            if saw_or:
                return True
            saw_word = False
        elif token.kind == "word" and not saw_word:
            saw_word = True  # what the number counts; a second word would begin another statement
        elif token.text != ",":
            return False
    return False


def _means_or(token):  # .glued: no space before it; .text: in lower case
    "Whether a token offers another number: `or`, `maybe`; not the `or` of `5or 5`, a typing error"
    is_or = token.text == "or" and not token.glued  # `glued`: no space before it
    return is_or or token.text in ("maybe", "perhaps", "possibly")


def _is_number_code(near: Near):  # a number token and its neighbours; .raw: as written
    "Whether the number is part of a code of long numbers side by side, such as a telephone's: 555 123 4567"
    # of three digits or more: "12 10" may be two counts
    def is_long(token):
        return is_number(token) and len(token.raw) > 2 and token.raw.isdecimal()
    # two long numbers side by side: this one and its neighbour, or both on one side of it
    if is_long(near.before):
        return is_long(near.number) or is_long(near.second_before)
    if is_long(near.after):
        return is_long(near.number) or is_long(near.second_after)
    return False


# Rules: what may be the count where the text holds no better one

_words_of_a_whole = {"them", "these", "those", "which", "whom", "the", "us", "all", "its"}
_ends_share_clause = {",", ".", ";", "\n", "", "。"}


def _is_share(near: Near):  # a number token and its neighbours
    "Whether the number counts only a part of the things: two of them, of which 1, 3 each, out of 7, 其中2个"
    return _is_share_by_what_follows(near) or _is_share_by_what_precedes(near)


def _is_share_by_what_follows(near: Near):  # a number token and its neighbours; .text: in lower case
    "Whether the words behind the number say that it counts a part of the things: two of them, 3 each"
    following, second = near.after.text, near.second_after.text
    # two of them, of these, of which, of the
    if following == "of" and second in _words_of_a_whole:
        return True
    if following in ("each", "apiece", "per", "之一"):
        return True
    # 3 in each, 2 on every
    if following in ("in", "on", "for") and second in ("each", "every"):
        return True
    # "One is flying" or "and two are red", at the beginning of a clause
    if following in ("is", "are", "was", "were", "has", "have"):
        return _is_clause_border(near.before) or near.before.text == "and"
    return False


def _is_share_by_what_precedes(near: Near):  # a number token and its neighbours; .text: in lower case
    "Whether the words before the number say that it counts a part of the things: of which 1, including 2"
    before, second = near.before.text, near.second_before.text
    # 中 is the end of 其中, "of which"
    if before in ("including", "remaining", "other", "additional", "extra", "whom", "which", "中"):
        return True
    # "of them 2"
    if before == "them" and second in ("of", "among"):
        return True
    # "some of the 5"
    if before == "the" and second == "of":
        return True
    # "3 out of 7" and "3 of 7": the 7 is the whole and no part. It is called a share all the same, since a
    # share is only taken where there is no count, and here the 3 is one.
    if before == "of" and (second == "out" or is_number(near.second_before)):
        return True
    # "6 birds, one flying": the whole was counted just before
    if near.number.text == "one" and before == "," and any(map(is_number, near.seven_before())):
        return True
    return _is_behind_each(near)  # each has 3, every plate holds 2


def _is_behind_each(near: Near):  # a number token and its neighbours; .text: in lower case
    "Whether `each` or the like stands in the four tokens before the number, in its clause: each has 3"
    for token in reversed(near.seven_before()[-4:]):  # the four before the number, the nearest first
        if token.text in _ends_share_clause:  # a comma, a full stop, a line break, the text's beginning
            return False
        if token.text in ("each", "every", "per", "每"):
            return True
    return False


_places = {
    "in", "on", "at", "across", "into", "onto", "inside", "behind", "beside", "among", "from", "atop",
    "在", "从"}


def _is_place(near: Near):  # a number token and its neighbours; .text: in lower case
    "Whether the number counts the places where the things are, as in on 2 plates, in the two rows"
    # `_places`: in, on, at, across …; a word such as `the` may stand between
    if near.before.text in ("the", "these", "those", "its", "their", "both"):
        return near.second_before.text in _places
    return near.before.text in _places


def _is_behind_name(
    near: Near,  # a number token and its neighbours; .raw: as written; .kind: word, number, mark …
):
    """Whether the number stands behind a proper name, as in a Boeing 747, on Route 66

    A word with a capital is taken for a name where the word before it is in lower case, so that no sentence
    begins between them."""
    if near.before.kind != "word" or near.second_before.kind != "word":
        return False
    word, word_before = near.before.raw, near.second_before.raw
    # a single letter, such as "I", is no name
    if len(word) == 1 or not word_before.islower():
        return False
    return word[0].isupper()


def _is_superseded(near: Near):  # a number token and its neighbours; .text: in lower case
    "Whether the number is a first guess that the text then gives up: at first I saw 8, I thought 8"
    words = set()  # of the number's own clause: in "at first I saw 8, now 9" the 9 is no first guess
    for token in reversed(near.seven_before()):  # the nearest first
        if _is_clause_border(token):  # a mark, a line break, the beginning of the text
            break
        words.add(token.text)
    if words & {"initially", "originally", "thought"}:
        return True
    # "at first", "I first saw"
    return "first" in words and bool(words & {"at", "i"})


_rules = (  # (role that the rule gives a number, function of a `Near`), in the order in which they are asked
    # no counts at all; the surer ones first
    ("pronoun", _is_pronoun), ("denied", _is_denied), ("not whole", _is_not_whole),
    ("percentage", _is_percentage), ("ordinal", _is_ordinal), ("size", _is_size),
    ("date or time", _is_date_or_time), ("range or fraction", _is_range_or_fraction),
    ("alternative", _is_alternative), ("measure", _is_measure), ("name", _is_name),
    ("number code", _is_number_code),
    # `_roles_of_second_choice`: counts that are taken where there is no better one
    ("share", _is_share), ("place", _is_place), ("behind a name", _is_behind_name),
    ("superseded", _is_superseded))
# roles of numbers that are counts where the text holds no better one
_roles_of_second_choice = {"share", "place", "behind a name", "superseded", "in brackets"}


def number_roles(
    tokens: list,  # from `tokens_of`
) -> dict:  # place of each number among the tokens → its role
    """What each number of a text is: count, in brackets, list number, or what a rule says, such as share

    The first rule that fits decides. Of a long text only the last 40 numbers are looked at."""
    roles = _roles_before_rules(tokens)  # "count" or "in brackets", which stay where no rule fits
    roles = {i: roles[i] for i in list(roles)[-_most_numbers:]}  # the last ones, since places ascend
    list_numbers = _list_numbers(tokens)  # places of those that number a list's items
    for i in roles:
        if i in list_numbers:
            roles[i] = "list number"
            continue
        # The number and three tokens on each side, which exist: `tokens_of` adds 8 empty ones at each end.
        near = Near(tokens, i, *tokens[i - 3:i + 4])
        fitting_roles = (role for role, rule in _rules if rule(near))  # rules are asked until one fits
        roles[i] = next(fitting_roles, roles[i])
    return roles


def _roles_before_rules(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
):
    "The role of each number before rules are asked, by its place: `count`, or `in brackets` inside of ( )"
    roles, open_brackets = {}, 0
    for i, token in enumerate(tokens):
        if is_number(token):
            roles[i] = "in brackets" if open_brackets else "count"
        elif token.text == "(":
            open_brackets += 1
        elif token.text == ")":
            open_brackets = max(0, open_brackets - 1)  # not below 0: a text may have a ) too many
    return roles


def _list_numbers(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
):
    "The places of the tokens that number the items of a list: 1., 2., 3. at the beginning of lines"
    places, next_number = set(), 1
    for i in range(margin, len(tokens) - margin):  # all but the 8 empty edge tokens at each end
        # the numbers must be 1, 2, 3 in this order: "5. red" alone numbers nothing
        if tokens[i].value == next_number and _begins_item(tokens, i, is_first=next_number == 1):
            places.add(i)
            next_number += 1
    return places


def _begins_item(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    i,  # place of a number
    is_first,  # True where it would be the first item of its list
):
    "Whether the number at token `i` begins an item of a list, the first one or a later one: 1. red, 2) blue"
    before, _number, sign = tokens[i - 1:i + 2]
    begins_line = _is_line_border(before)
    # In "1) red 2) blue" the second item stands in the line of the first. "(2)" is a number in brackets.
    is_within_line = sign.text == ")" and not is_first and before.text != "("
    has_sign = sign.text in (".", ")", "、") and sign.glued  # `glued`: no space before it
    # "3." at the end of a line is a count and a full stop
    has_content = not _is_line_border(tokens[i + 2])
    return (begins_line or is_within_line) and has_sign and has_content


# None of them

# "no idea" and "any number" speak of the answer and not of things
_meta_nouns = set(
    "number numbers idea doubt way answer information image picture photo clue count question problem "
    "reason chance need longer matter sense means evidence more fewer less further clear other".split())


def _is_meta_noun(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    i,  # place of the token behind `no`, `any` or the like
):
    """Whether token `i`, or the one behind it, is a noun such as `idea` or `number`

    Such nouns speak of the answer: `no idea` or `any number` says nothing of the things that are counted. The
    noun is the second token where an adjective stands before it."""
    return tokens[i].text in _meta_nouns or tokens[i + 1].text in _meta_nouns


def _says_none(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
):
    "Whether a text says that there are none of the things: no apples, none, not any, isn't one, 没有苹果"
    return any(_says_none_at(tokens, i) for i in range(margin, len(tokens) - margin))


def _says_none_at(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    i,  # place of a token
):
    "Whether token `i` is the word by which a text says that there are none: `none`, the `no` of `no apples`"
    # `tokens` begins and ends with 8 empty edge tokens (`margin`), so that neighbours are always there
    word, following = tokens[i].text, tokens[i + 1]
    if word in ("none", "nil", "nought", "naught"):
        return True
    if word == "nothing":
        # "nothing to count", "nothing more" do not say that there is nothing
        return following.text not in ("to", "more")
    if word == "no":
        return _is_no_before_thing(tokens, i)
    if word in ("any", "one", "a single"):  # "a single" is one token
        return _is_denied_any(tokens, i)
    return _says_none_in_chinese(tokens, i)


def _is_denied_any(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    i,  # place of `any`, `one` or `a single`
):
    "Whether `any`, `one` or `a single` at token `i` is denied: not any apples, I can't see a single apple"
    # "not any number" says nothing of the things; `_is_meta_noun`: a noun such as `number` or `idea`
    if _is_meta_noun(tokens, i + 1):
        return False
    # can't, any verb, any. Not for `one`: "I can't see one of them" says only that one is hidden.
    is_unseen = tokens[i].text != "one" and tokens[i - 2].text in ("can't", "cannot", "couldn't")
    return is_unseen or _is_negated(tokens, i)  # `_is_negated`: a word such as `not` stands before


# number, way, answer, certainty: nouns that speak of the answer and not of the things
_chinese_meta_nouns = ("数字", "办法", "答案", "把握")


def _is_no_before_thing(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    i,  # place of the token `no`
):
    "Whether the `no` at token `i` stands before a thing that is missing: no apples, but not: No, no idea"
    if tokens[i + 1].kind != "word":  # "No, …", "No." and the like answer something else
        return False
    # `_is_meta_noun`: a noun such as `idea` or `doubt`, or an adjective and such a noun
    return not _is_meta_noun(tokens, i + 1)


def _says_none_in_chinese(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    i,  # place of a token
):
    """Whether the `not` at token `i`, 没, 不 or 无, says that there are none: 没有苹果, 没看到, 看不到, 不存在, 无

    The tokens of a Chinese text are single characters, most of them."""
    # `tokens` begins and ends with 8 empty edge tokens (`margin`), so that neighbours are always there
    word, second, third = (token.text for token in tokens[i:i + 3])
    if word in ("没", "沒"):
        return _says_none_behind_mei(tokens, i)
    if word == "不":
        # 看不到 and 看不见: cannot see
        if tokens[i - 1].text == "看":
            return second in ("到", "见")
        return second + third == "存在"  # 不存在: do not exist
    # 无苹果; behind another character ("han") it may be a part of a word, as in 毫无
    return word in ("无", "無") and tokens[i - 1].kind != "han"


def _says_none_behind_mei(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    i,  # place of the token 没
):
    "Whether the 没 (not) at token `i` begins a phrase for there are none: 没有苹果, 没看到, not 没有办法"
    second, third, fourth = (token.text for token in tokens[i + 1:i + 4])
    # 没看到, 没见, 没发现: did not see; but 没看清 (did not see clearly) says nothing of the things
    if second in ("看", "见", "发"):
        return third != "清"
    if second != "有":
        return False
    if is_number(tokens[i + 2]):
        # 没有一个 is "not one"; 没有5个 only denies the 5
        return third == "一"
    # 没有办法, there is no way: a noun such as 办法 is none of the things that are counted
    return third + fourth not in _chinese_meta_nouns


# The phrase that names the count: a photo of 3 apples

_picture_words = set(
    "photo photos photograph picture image drawing illustration painting snapshot pic".split())
_words_before_count = set(
    "exactly about approximately roughly around only just over nearly almost at least most some up to "
    "the all these no not more fewer less than under total of precisely any : approx ca ~ ≈ > < = \"".split())
_group_nouns = set(
    "few lot group bunch number set collection variety crowd handful pile stack cluster series herd "
    "flock many range mix mixture couple pair pairs bit team family swarm array row rows total".split())
_words_behind_phrase = set(
    "on in at and or next beside behind near under above is are was were that which but while".split())
_words_before_content = {"of", "with", "containing", "holding", "showing", "featuring", "including", "full"}
_dimension_names = {"2d", "3d", "4d", "4k", "8k", "3g", "4g", "5g"}
_longest_phrase = 7  # tokens between an article and the number that wins over it


def _count_after_picture(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    roles,  # place of each number among them → its role, such as "count", "share" or "size"
):
    "The count in the last phrase such as `a photo of 3 apples`, or None"
    for i in range(len(tokens) - margin - 1, margin, -1):  # backwards, to the text's second token
        if tokens[i].text != "of" or tokens[i - 1].text not in _picture_words:
            continue  # no `photo of`, `image of` or the like
        at = _behind_words_before_count(tokens, i + 1)  # behind `about`, `exactly` …: a number, `a` or `no`
        if tokens[at].text == "no":
            # "a photo of no dogs" states 0. "a photo of no idea" states nothing, and ends the search.
            return 0 if _is_no_before_thing(tokens, at) else None
        count = _count_of_phrase(tokens, roles, at)  # the number there, or 1 for "a"; None without either
        if count is not None:
            return count
    return None


def _behind_words_before_count(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    at,  # place of a token
):
    """The place behind words such as `about` or `exactly`, if token `at` and those after it are such words

    The `no` of `no more than 5` is such a word, but not the `no` of `no dogs`."""
    # Such words are about, exactly, at least, no more than, the. The edge tokens at the end are none, so this
    # stops there.
    while tokens[at].text in _words_before_count:
        if tokens[at].text == "no" and tokens[at + 1].text not in _words_before_count:
            break
        at += 1
    return at


def _count_of_phrase(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    roles,  # place of each number among them → its role, such as "count", "share" or "size"
    at,  # place of the token at which the phrase begins
):
    "The count in the phrase that begins at token `at`: its number, or 1 for `a` or `an`; None without either"
    if is_number(tokens[at]):
        return _count_of_number(tokens, roles, at)  # None where its role is no count
    return _count_behind_article(tokens, roles, at) if tokens[at].text in ("a", "an") else None


def _count_behind_article(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    roles,  # place of each number among them → its role, such as "count", "share" or "size"
    article,  # place of the token `a` or `an`
):
    """The count in the phrase whose `a` or `an` is token `article`: a number behind it, or else 1

    None for a group, as in `a few apples` or `a group of people`, and where the number is no count."""
    has_group_noun = False
    for i in range(article + 1, article + _longest_phrase):  # the next 6 tokens
        if is_number(tokens[i]):
            # The number counts, and not the article: in "a group of 5 people", and as a share in "a bowl with
            # 5 of them". With another role it counts no things, as the measure in "a bag of 5 kg".
            counts_things = roles.get(i) in ("count", "share")
            return int(tokens[i].value) if counts_things else None  # 2.5 has the role `not whole`
        if _ends_phrase(tokens, i):  # at a mark, at `on`, `and` and the like, at the `of` of "of fruit"
            break
        if tokens[i].text in _group_nouns:  # few, lot, group, bunch, pair …
            has_group_noun = True
    return None if has_group_noun else 1


def _ends_phrase(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    i,  # place of a token in the phrase
):
    """Whether a phrase that began with `a`, in which a number is looked for, ends before token `i`

    `a bowl of fruit` ends before `of`; `a bowl of 5` and `a bowl of about 5` go on, to the number."""
    token, following = tokens[i], tokens[i + 1]
    if _is_clause_border(token) or token.text in _words_behind_phrase:  # such as `on` and `and`
        return True
    is_before_content = token.text in _words_before_content  # of, with, containing
    number_may_come = is_number(following) or following.text in _words_before_count  # about, exactly
    return is_before_content and not number_may_come


def _count_of_number(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    roles,  # place of each number among them → its role, such as "count", "share" or "size"
    at,  # place of the number
):
    """The value of the number at token `at`, behind words such as `photo of`, if it counts things; else None

    A measure is a count here: in `a photo of 5 feet` it counts feet."""
    number, role = tokens[at], roles.get(at)
    if role == "name":  # the number touches a letter or a word
        is_count = _is_mistyped_count(number, tokens[at + 1])  # "5c discs", but not "3D glasses"
    else:
        # the weaker roles share, place, behind a name, superseded and in brackets count here, too
        is_count = role in ("count", "measure") or role in _roles_of_second_choice
    if not is_count or number.value is None:
        return None
    return int(number.value)  # a whole number: 2.5 has the role `not whole`


def _is_mistyped_count(
    number,  # its token
    following,  # the token behind it
):
    """Whether a number that touches a letter is a count and a typing error: 5c discs, but not 3D glasses

    It has the role `name` at first, like every number that may be a part of a name: x5, GPT-4."""
    # `glued`: no space before the token
    touches_letters = following.glued and following.kind == "word"
    # such as 2d, 3d, 4k, 5g; `text` is in lower case
    is_dimension = number.text + following.text in _dimension_names
    # a number that is glued itself belongs to the name before it, as in x5c
    return touches_letters and not number.glued and not is_dimension


# The count that is marked as the answer

_words_before_answer = {
    "answer", "altogether", "total", "一共", "一共有", "总共", "总共有", "總共", "共", "共有", "合计", "总计", "总数", "答案"}
_words_that_need_a_sign = {"count", "number", "sum", "result", "conclusion"}
_correction_words = {"wait", "actually", "correction", "sorry", "oops", "recount", "recounting"}
_ends_clause = {",", ".", ";", "!", "?", "。", "；", "\n", "("}
_ends_of_sentence = {".", ";", "!", "?", "。", "；", "\n"}
_words_before_sum = {"and", "plus", "+", "is", "was", "=", "makes", "equals"}  # a total of 2 and 3: 5
_reach_of_answer = 24  # tokens behind "answer" in which its number stands


def _stated_counts(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    roles,  # place of each number among them → its role, such as "count", "share" or "size"
):
    "The places of the counts that the text marks as its answer: `answer: 5`, `5 in total`, `一共有5`"
    places = []
    for i in range(margin, len(tokens) - margin):  # all but the 8 empty edge tokens at each end
        place = _count_stated_by(tokens, roles, i)
        if place is not None:
            places.append(place)
    return places


def _count_stated_by(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    roles,  # place of each number among them → its role, such as "count", "share" or "size"
    i,  # place of the word
):
    "The place of the count that the word at token `i`, such as `total`, marks as the answer, or None"
    word = tokens[i].text
    if word == "all" and tokens[i - 1].text == "in":  # "in all" means "in total"
        word = "total"
    if word in ("total", "altogether"):
        place = _count_before_total(tokens, roles, i)  # "5 in total"; None where no count stands there
        if place is not None:
            return place
    if word in _words_before_answer:  # answer, total, altogether, 一共 …
        return _last_count_of_clause(tokens, roles, i)  # "answer 5", "total: 5"
    if word in _words_that_need_a_sign:  # count, number, sum, result, conclusion
        return _last_count_behind_sign(tokens, roles, i)  # "count: 5", but not "count 5"
    return None


def _count_before_total(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    roles,  # place of each number among them → its role, such as "count", "share" or "size"
    i,  # place of `total` or `altogether`
):
    "The place of the count at most three tokens before the `total` at token `i`: `5 in total`; or None"
    place = _count_close_before(tokens, roles, i)
    if place is None or tokens[i + 1].text != ":":
        return place
    # In "5 in total: 2 left, 3 right" the counts behind the colon are parts, and their sum is the total. In
    # "2 and 3 in total: 5" they are the total, and the 3 before it is none.
    values_behind = [tokens[at].value for at, role in roles.items() if at > i and role == "count"]
    sum_behind = sum(value for value in values_behind if value is not None)  # None: not read, as of 2.5.1
    return place if tokens[place].value == sum_behind else None


def _count_close_before(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    roles,  # place of each number among them → its role, such as "count", "share" or "size"
    i,  # place of a token such as `total`
):
    "The place of the nearest count among the three tokens before token `i`, in the same clause; or None"
    # `tokens` begins and ends with 8 empty edge tokens (`margin`), so that neighbours are always there
    for at in (i - 1, i - 2, i - 3):
        if tokens[at].text in _ends_clause:  # a comma, a full stop, a line break, an opening bracket …
            return None
        if roles.get(at) == "count":
            return at
    return None


def _last_count_of_clause(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    roles,  # place of each number among them → its role, such as "count", "share" or "size"
    i,  # place of the word such as `answer`
):
    "The place of the last count in the clause behind a word such as `answer` at token `i`, or None"
    last_count = None  # its place
    for at in range(i + 1, i + _reach_of_answer):  # in the next 23 tokens
        token = tokens[at]
        if token.kind == "edge":
            break
        if token.text in _ends_clause:  # a comma, a full stop, a line break, an opening bracket …
            # "the answer is (5)", or "Answer:" on a line of its own: the count may still come
            if last_count is not None or not _may_precede_count(token, distance=at - i):
                break
        # Also roles that are only a second choice elsewhere: "the answer is 5 of them" (share), "the total is
        # in 5 rows" (place).
        if roles.get(at) in ("count", "in brackets", "place", "share"):
            last_count = at
    if last_count is None:
        return None
    # "a total of 7: 3 cubes, 4 spheres": the 7, and not the 3, which is the last count of this clause
    total = _total_in_sentence(tokens, roles, i)
    if total is not None:
        return total
    # None where the text is still counting, as in "the total: 1, 2, 3": a comma and a number follow
    return None if _counts_up(tokens, last_count) else last_count


def _total_in_sentence(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    roles,  # place of each number among them → its role, such as "count", "share" or "size"
    i,  # place of the word such as `answer` or `total`
):
    """The place of a total that its parts follow, such as the 5 in `total: 5, 2 red and 3 green`; or None

    It is the first number behind token `i`, if the later ones of the sentence add up to it. Behind `a total
    of` it is the total even if they do not, unless it begins a sum, as in "a total of 2 and 3 is 5"."""
    places = []  # of the numbers in the sentence
    for at in range(i + 1, len(tokens) - margin):
        if tokens[at].text in _ends_of_sentence:
            break
        is_part = roles.get(at) in ("count", "share")
        if is_part and tokens[at].value is not None:  # None: cannot be read, as of 2.5.1
            places.append(at)
    if len(places) < 2:
        return None
    first, second = places[:2]
    total, *parts = [tokens[at].value for at in places]  # decimals among them, where a truth is one
    # at least two parts: in "5, then 5" the second is no part of the first
    if len(parts) > 1 and total > 0 and math.isclose(total, sum(parts)):
        return first
    words_between = {token.text for token in tokens[first + 1:second]}
    sum_follows = bool(words_between & _words_before_sum)  # and, plus, is, = …
    is_a_total_of = tokens[i - 1].text == "a" and tokens[i + 1].text == "of"
    return first if is_a_total_of and not sum_follows else None


def _counts_up(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    place,  # of the last number in its clause
):
    "Whether another number follows the one at `place`, as in `let me count: 1, 2, 3`: nothing is stated yet"
    return tokens[place + 1].text == "," and is_number(tokens[place + 2])


def _may_precede_count(
    token,  # a comma, a full stop, a line break, a bracket or the like
    distance,  # number of tokens from a word such as `answer` to it
):
    """Whether a token that ends a clause may stand between a word such as `answer` and its count

    An opening bracket may, as in `the answer is (5)`, and a line break close behind the word, as in `Answer:`
    on a line of its own."""
    # 3: between the word and the line break there may be a colon and one more mark
    return token.text == "(" or (token.kind == "line" and distance <= 3)


def _last_count_behind_sign(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    roles,  # place of each number among them → its role, such as "count", "share" or "size"
    i,  # place of the word such as `count`
):
    """The place of the count behind a word such as `count` or `number` at token `i` and a sign, or None

    The sign is `:`, `=`, `is` or `was`: `count: 5`, `the number of apples is 5`, not `I count 1, 2, 3`."""
    # `number` itself may name a thing, such as number 5: only `number of` speaks of a count
    if tokens[i].text == "number" and tokens[i + 1].text != "of":
        return None
    place = _last_count_of_clause(tokens, roles, i)
    if place is None:  # no number, or one that others follow, as in "count: 1, 2, 3"
        return None
    words_between = {token.text for token in tokens[i + 1:place]}
    return place if words_between & {":", "=", "is", "was"} else None


def _is_correction(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    i,  # place of a token
):
    "Whether token `i` takes back what was said before it: `wait`, `actually`, or `No,` that begins a clause"
    # `tokens` begins and ends with 8 empty edge tokens (`margin`), so that neighbours are always there
    word, following = tokens[i].text, tokens[i + 1].text
    if word != "no":
        return word in _correction_words
    if following not in (",", ".", ":"):  # "no apples" takes nothing back
        return False
    return _is_clause_border(tokens[i - 1])


def behind_correction(
    tokens: list,  # from `tokens_of`
) -> list:  # of tokens, with 8 empty edge tokens before and behind; empty where nothing is corrected
    "The tokens behind the last word by which a text corrects itself, such as `wait`, `actually` or `No,`"
    # backwards to the second word: the first has nothing before it that it could take back
    for i in range(len(tokens) - margin - 1, margin, -1):
        if _is_correction(tokens, i):
            return [edge] * margin + tokens[i + 1:]
    return []


def _after_correction(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    places,  # of counts, ascending
):
    "Leave out the counts before the last correction, such as `wait`, that a count follows; else keep all"
    for i in range(len(tokens) - margin - 1, margin - 1, -1):  # backwards, without the empty edge tokens
        count_follows = bool(places) and places[-1] > i  # else the counts before it would not be replaced
        if count_follows and _is_correction(tokens, i):
            return [place for place in places if place > i]
    return places


def _total_before_parts(values):  # of a text's counts, in their order, such as [5, 2, 3]
    "The first value that is the sum of all values behind it, two at least, as in 5: 2 red, 3 green; or None"
    sum_of_rest = sum(values)
    for value in values[:-2]:  # at least two parts: in "5, then 5" the second is no part of the first
        sum_of_rest -= value
        if value == sum_of_rest and value > 0:
            return value
    return None


def _chosen_count(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    roles,  # place of each number among them → its role, such as "count", "share" or "size"
):
    """The one count that a text states, chosen among its numbers, or None

    The first of these that the text holds:
      1. the number in a phrase such as `a photo of 3 apples`
      2. the last count that a word such as `answer` or `total` marks
      3. a total before its parts, or else the last count
      4. 0, where the text says that there are none
      5. the last number with a weaker role, such as `share`
      6. 1, for `there is a …`"""
    count = _count_after_picture(tokens, roles)  # 1
    if count is None:
        count = _concluding_count(tokens, roles)  # 2 and 3
    if count is not None:
        return count
    if _says_none(tokens):
        return 0
    # share ("2 of them"), place ("on 2 plates"), behind a name, superseded ("at first 8"), in brackets
    weaker = [place for place, role in roles.items() if role in _roles_of_second_choice]
    if weaker:
        # The last one: people reason first and conclude last. It is whole: 2.5 has the role `not whole`.
        return int(tokens[weaker[-1]].value)
    return _one_thing(tokens, roles)  # None without such a phrase


def _concluding_count(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    roles,  # place of each number among them → its role, such as "count", "share" or "size"
):
    """The last count marked as the answer; else a total before its parts; else the last count; or None

    Counts before a correction such as `wait` or `No,` are passed over. All numbers with the roles that are
    looked at are whole: 2.5 has the role `not whole`."""
    counts = [place for place, role in roles.items() if role == "count"]  # places of them
    counts = _after_correction(tokens, counts)
    first = counts[0] if counts else 0  # numbers before this place are passed over, whatever their role
    # those that a word such as `answer` or `total` marks
    stated = [place for place in _stated_counts(tokens, roles) if place >= first]
    if stated:
        return int(tokens[stated[-1]].value)
    if not counts:
        return None
    # with the shares, since a part may be one: "5 apples: 2 of them red, 3 green"
    candidates = [place for place, role in roles.items() if role in ("count", "share") and place >= first]
    total = _total_before_parts([int(tokens[place].value) for place in candidates])
    # the last count: people reason first and conclude last
    return int(tokens[counts[-1]].value) if total is None else total


def _one_thing(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    roles,  # place of each number among them → its role, such as "count", "share" or "size"
):
    "The count in `there is an apple` or `there's a dog`: 1, or a number in place of the article; or None"
    for i in range(margin, len(tokens) - margin):  # all but the 8 empty edge tokens at each end
        at = i + 1  # the place behind "there's", or behind "there is"
        if tokens[i].text == "there" and tokens[at].text in ("is", "was"):
            at = i + 2
        elif tokens[i].text != "there's":
            continue
        # not for "there is a problem", which speaks of the answer: token `at` is the article
        if not _is_meta_noun(tokens, at + 1):
            return _count_of_phrase(tokens, roles, at)
    return None


# Readers

def read_count(
    text: str,  # a completion or a truth
) -> int | None:  # None when no count can be read
    "The number of things that the answer in `text` states, in digits or words, English or Chinese"
    # of the answer alone, in one spelling, without LaTeX and Markdown
    tokens = tokens_of(unwrapped(plain_text(final_answer(text))))
    return _chosen_count(tokens, number_roles(tokens))


def explain_count(
    text: str,  # a completion or a truth
) -> list:  # of {number (as written), worth (its value), role}, a row for each number of the answer
    "How each number of an answer was understood: a table for people, to see why a count was read as it was"
    # the same tokens as `read_count` reads
    tokens = tokens_of(unwrapped(plain_text(final_answer(text))))
    rows = []
    for place, role in number_roles(tokens).items():
        token, worth = tokens[place], tokens[place].value
        if worth is not None and worth == int(worth):
            worth = int(worth)
        rows.append(dict(number=token.raw, worth=worth, role=role))
    return rows


# a size, a date or a name is not what was asked for; a measure and a decimal may be
_roles_read_as_numbers = {"count", "measure", "not whole", "share", "place", "in brackets"}


# 12 cm^2, 12 \text{ cm}^{2}, 9.8 m/s^2, 3 units^2
_power_of_unit = re.compile(
    rf"(?i)(?<![^\W\d_])(units?|{length_names})\s?\}}?\$?\s?\^\s?\{{?\s?[23]\b")


def read_number(
    text: str,  # an answer, without tags
) -> float | None:  # None where it holds no number, or several different ones
    "The one number of a text, which may have a unit, a sign or decimals: 2.5 cm, -3, twenty-one, 1/2"
    one_spelling = plain_text(text)  # each sign in one form only
    if "^" in one_spelling:
        one_spelling = _power_of_unit.sub(r"\1^", one_spelling)  # 12 cm^2: the 2 is no number of the text
    tokens = tokens_of(unwrapped(one_spelling))  # without the marks of Markdown and LaTeX around words
    fraction = _lone_fraction(tokens)  # None unless the text holds one fraction and no other number
    if fraction is not None:
        return fraction
    roles = number_roles(tokens)  # place of a number → what it is, such as "count" or "measure"
    # a number in several tokens, such as 2 1/2, 10^3, 1.5e3 or 10π, is not read
    if _holds_part_of_number(tokens, roles) or any(_is_scientific(tokens, place) for place in roles):
        return None
    if any(_is_times_pi(tokens, place) for place in roles):
        return None
    # All but sizes, dates and names. Each is called a count, since `_stated_counts` passes over a measure.
    candidates = {place: "count" for place, role in roles.items() if role in _roles_read_as_numbers}
    # [place of the last number that is marked as the answer, as by `answer:`]; [] without such a mark
    last_marked = _stated_counts(tokens, candidates)[-1:]
    # Without a mark all of them are looked at, and must have the same value.
    values = {_signed_value(tokens, place) for place in last_marked or candidates}
    if len(values) == 1:
        return values.pop()
    is_none = not roles and _says_none(tokens)  # "there are no nodules"
    return 0.0 if is_none else None


# words for a minus: the first ones always, the others only where they describe no noun (HIV negative)
_minus_words = {"minus"}
_describing_minus_words = {"negative", "负", "負"}
_before_describing_minus = set(
    "is are was be equals equal to of about answer it a by at 是 为 為 答案".split())


def is_minus_word(
    tokens: list,  # of `tokens_of`, with 8 empty edge tokens before and behind
    i: int,  # place of a token
) -> bool:  # True for the `minus` of `minus 5`
    "Whether token `i` is a word that gives the number behind it a minus sign, and subtracts nothing"
    word, before, number = tokens[i], tokens[i - 1], tokens[i + 1]
    if word.text not in _minus_words and word.text not in _describing_minus_words:
        return False
    if not is_number(number) or number.raw[:1] in ("-", "+"):
        return False
    if word.text in _minus_words:  # `minus`
        if is_plus_or_minus(tokens, i):
            return False
        # in "7 minus 2" and "x minus 2" something is subtracted
        is_variable = before.kind == "word" and len(before.text) == 1
        return not (is_number(before) or is_variable or before.text in (")", "]"))
    # `negative` and its like: a sign in "is negative 5" and at the beginning, but not in "HIV negative 5"
    return before.kind in ("edge", "mark", "line") or before.text in _before_describing_minus


def is_plus_or_minus(
    tokens: list,  # of `tokens_of`, with 8 empty edge tokens before and behind
    i: int,  # place of a token
) -> bool:  # True for the `minus` of `plus or minus 5`
    "Whether token `i` is the `minus` of `plus or minus`, plus-minus or plus/minus, which is ±"
    if tokens[i].text not in _minus_words:
        return False
    before = tokens[i - 1].text
    return before == "plus" or before in ("or", "-", "/") and tokens[i - 2].text == "plus"


_roots = {"√", "sqrt"}
_marks_of_another_number = _roots | {"±", "∓"}


def _signed_value(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    place,  # of a number
):
    """The value of a number, less than 0 behind a word such as `minus`

    None where it cannot be read, and for a part of another number: of a root, √2 or 3√2, or behind ±"""
    value = tokens[place].value
    # before it the root may have a bracket, sqrt(2), and behind it LaTeX's backslash, 3\sqrt{2}
    before = tokens[place - 2] if tokens[place - 1].text == "(" else tokens[place - 1]
    following = tokens[place + 2] if tokens[place + 1].text == "\\" else tokens[place + 1]
    if before.text in _marks_of_another_number or following.text in _roots:
        return None
    if is_plus_or_minus(tokens, place - 1):
        return None
    return -value if value and is_minus_word(tokens, place - 1) else value


def _is_scientific(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    place,  # of a number
):
    """Whether a number goes on with an exponent, as 1.5e3 and 1.5E-3 do

    `read_number` refuses such an answer: its tokens are 1.5, e and 3, and 1.5 would be wrong."""
    e = tokens[place + 1]
    power_at = place + 3 if tokens[place + 2].text in ("-", "+") else place + 2
    power = tokens[power_at]
    # glued: no space before a token; in "5 e 3" the e is a word
    is_joined = e.glued and tokens[place + 2].glued and power.glued
    return e.text == "e" and is_joined and is_number(power)


def _holds_part_of_number(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    roles,  # place of each number among them → its role, such as "count", "share" or "size"
):
    "Whether a number of a text is written in several tokens, such as 2 1/2 or 10^3, which is not read"
    # "not whole" is the role of 2.5 and -3, which can be read, and of the 2 of 2 1/2, whose value is whole
    not_whole = [place for place, role in roles.items() if role == "not whole"]
    return any(_is_whole(tokens[place].value) for place in not_whole)


def _is_times_pi(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
    place,  # of a number
):
    "Whether a number is multiplied by π: 10π, 10 pi, and LaTeX's 10\\pi; pi is no unit"
    following = tokens[place + 2] if tokens[place + 1].text == "\\" else tokens[place + 1]
    return following.text in ("π", "pi")


def _is_whole(value):  # a float; None where it could not be read, as of 2.5.1
    "Whether a value is a whole number and not negative, as that of the 2 in 2 1/2, unlike 2.5 and -3"
    return value is not None and value >= 0 and value == int(value)


def _lone_fraction(
    tokens,  # numbers, words and marks of a text, with 8 empty edge tokens (`margin`) before and behind
):
    "The value of a fraction such as 1/2 where a text holds these two numbers and no other, or None"
    places = [i for i, token in enumerate(tokens) if is_number(token)]
    if len(places) != 2:
        return None
    numerator, denominator = (tokens[place] for place in places)
    if tokens[places[0] + 1].text != "/" or places[1] != places[0] + 2:
        return None
    # a denominator of 0 has no value
    if numerator.value is None or not denominator.value:
        return None
    return numerator.value / denominator.value

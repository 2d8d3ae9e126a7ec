"""What each number of a text is, and which of them is the count.

Written by hand. A number in a text is not yet a count: it may be a percentage, a size, a date, a share. Each
rule below looks at a number and its neighbours and says whether it claims the number; `number_roles` asks
them in the order of `_rules`, and the first that claims it names its role. A number that none claims is a
count. Then `_chosen_count` goes through the ways in which a text marks its conclusion."""
from typing import NamedTuple

from .tokens import Token, chinese, edge, final_answer, is_number, margin
from .tokens import plain_text, tens, tokens_of, unwrapped

__all__ = ["Near", "number_roles", "explain_count", "read_count", "read_number", "behind_correction"]

_most_numbers = 40  # of a text that are looked at, the last ones: every rule is asked of each


class Near(NamedTuple):
    "A number and the tokens around it"

    tokens: list  # all of the text
    place: int  # of the number among them
    third_before: Token
    second_before: Token
    before: Token
    number: Token
    after: Token
    second_after: Token
    third_after: Token


# Rules: what is no count at all

_before_pronoun = set(
    "no each every any some the this that last which another either other same next neither former "
    "latter wrong right first second".split())
_after_pronoun = set(
    "another may seems can could would might must should by sees thing side hand way day more of at "
    "knows has".split())
_describing = set(
    "red green blue yellow orange purple black white pink brown grey gray big small large little left "
    "right top bottom middle tall short bright dark same other first second third last".split())


_not_even_one = ("也没", "都没", "也沒", "都沒", "也不")


def _is_pronoun(near):
    "one of them, no one, the green one, one can see: a word that stands for a thing"
    if near.number.text in ("一", "1"):
        # 一个也没有, 一只狗都没有: not even one
        nearby = near.tokens[near.place + 1:near.place + 6]
        following = "".join(token.text for token in nearby)
        return any(phrase in following for phrase in _not_even_one)
    if near.number.text != "one":
        return False
    if near.before.text in _before_pronoun or near.after.text in _after_pronoun:
        return True
    # "the red one", but not "a red one": that is one thing
    described = near.before.text in _describing
    return described and near.second_before.text in _before_pronoun


_negators = set(
    "not neither never without isn't aren't wasn't weren't don't doesn't didn't won't haven't "
    "hasn't nor isnt arent dont".split())
_chinese_negators = ("没有", "沒有", "不是", "并非", "並非")
# what may stand between "not" and the number that it denies
_after_negator = set(
    "exactly just only a the there see have contain show count find be any all even really quite has : "
    "\" 有 是 到".split()) | {"a single"}
_reach_of_negator = 5  # tokens


def _is_denied(near):
    "not 5, isn't 5, rather than 5, 不是5个: it says what the count is not"
    return _negated(near.tokens, near.place)


def _negated(tokens, i):
    "Whether `not`, or a word like it, reaches token `i`; `not more than 5` does not deny 5"
    for at in range(i - 1, i - 1 - _reach_of_negator, -1):
        word, two = tokens[at].text, tokens[at - 1].text + tokens[at].text
        if word in _negators or two in _chinese_negators:
            return True
        if two in ("ratherthan", "insteadof", "nolonger"):
            return True
        if word not in _after_negator:
            return False
    return False


def _is_not_whole(near):
    "2.5, -3, 3 1/2, 三个半, v2.5.1: no number of whole things, or more than this reader holds"
    value = near.number.value
    if value is None or value < 0:
        return True
    if value != int(value) or near.after.text == "thousands":
        return True
    # 10^3, and 5² as `plain_text` writes it
    if near.after.text == "^" or near.before.text == "^":
        return True
    # 三点五 is 3.5
    if near.after.text == "点" and is_number(near.second_after):
        return True
    if near.before.text == "点" and is_number(near.second_before):
        return True
    if near.after.text == "半" or near.second_after.text == "半":
        return True
    if near.after.text == "and" and near.third_after.text == "half":
        return True
    # a mixed number such as 3 1/2
    mixed = is_number(near.after) and not near.after.glued
    return mixed and near.second_after.text == "/"


_percent_signs = {"%", "‰", "percent", "pct", "percentage", "成"}


def _is_percentage(near):
    "95%, 95 percent, 百分之九十五: how sure, or how much"
    if near.after.text in _percent_signs:
        return True
    if near.before.text in ("百分之", "分之"):
        return True
    return near.after.text == "per" and near.second_after.text == "cent"


_ordinal_words = set("first second third fourth fifth sixth seventh eighth ninth tenth".split())


def _is_ordinal(near):
    "3rd, twenty-first, 第三, 星期三: which one, not how many"
    # 第 makes a number an ordinal, and 星期三, 礼拜三 and 周三 are weekdays
    if near.before.text in ("第", "期", "拜"):
        return True
    if near.before.text == "周" and near.number.text in chinese:
        return True
    if near.after.glued and near.after.text in ("st", "nd", "rd", "th"):
        return True
    # twenty-first to ninety-ninth
    if near.number.text not in tens:
        return False
    word = near.second_after if near.after.text == "-" else near.after
    return word.text in _ordinal_words


def _is_size(near):
    "512x512, 3 by 4, 2 * 3: the sides of something"
    if is_number(near.second_after) and _is_times(near.after, near.second_after):
        return True
    return is_number(near.second_before) and _is_times(near.before, near.number)


def _is_times(sign, behind):
    "Whether a sign multiplies: 3 * 4 and 3*4, but not 5* 3"
    if sign.text not in _times or sign.glued != behind.glued:
        return False
    if sign.raw == "X" and not sign.glued:
        # "512 X 512" is a size; the babble of a small model, "5 X 5", is not
        return len(behind.raw) > 1
    return True


_times = {"x", "×", "*", "by"}
_months = set(
    "january february march april may june july august september october november december jan feb mar "
    "apr jun jul aug sep sept oct nov dec".split())


def _is_month(token):
    "Whether a token is a month; `may` and `march` are also verbs, so only a capital makes them one"
    return token.text in _months and token.raw[0].isupper()


def _is_date_or_time(near):
    "12 May 2023, 10:30, 3 pm, in 2019: when"
    if _is_month(near.before) or _is_month(near.after):
        return True
    if near.before.text == "," and is_number(near.second_before):
        # May 12, 2023
        if _is_month(near.third_before):
            return True
    if near.after.text == ":" and is_number(near.second_after):
        return near.second_after.glued
    if near.before.text == ":" and is_number(near.second_before):
        return near.number.glued
    if near.before.text in ("午", "上", "晨") and near.after.text in ("点", "點"):
        return True
    if near.after.text in ("a", "p") and near.third_after.text == "m":
        # 10 a.m.
        return near.second_after.text == "."
    return _is_year(near)


_before_year = {"in", "during", "until", "of", "from", "by", "before", "after", "("}


def _is_year(near):
    "in 2019: four digits behind one of a few words, and before no thing"
    digits = near.number.raw
    if len(digits) != 4 or not digits.isdecimal():
        return False
    if near.after.kind == "word" or near.before.text not in _before_year:
        return False
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


def _is_measure(near):
    "5 cm, 3 hours, 30°, $5, 5米: an amount of something that is not counted"
    if near.before.text in ("$", "€", "£", "¥"):
        return True
    if near.after.text + near.second_after.text in _two_character_units:
        return True
    if near.after.text not in _units_of_measure:
        return False
    # "5 s" and "5 m" are letters; a unit of one letter touches its number, or has a power, as in 5 m²
    one_letter = near.after.kind == "word" and len(near.after.text) == 1
    return near.after.glued or not one_letter or near.second_after.text == "^"


# a number behind one of these belongs to a name: step 3, figure 2, GPT 4
_named = set(
    "figure fig image img picture frame page step panel slide version ver model id room chapter section "
    "level grade stage type gpt qwen llama gemini claude yolo rtx iphone covid channel option patient "
    "case year since dated copyright number ©".split())
# and behind one of these, or its colon, it is another quantity than the count
_estimated = {
    "confidence", "probability", "certainty", "score", "likelihood", "temperature", "width", "height", "size",
    "age", "aged", "id", "resolution"}


def _is_name(near):
    "GPT-4, x3, 4K, 3D, step 3, room no. 5, 5-star: part of a name or of an adjective"
    return _is_glued_to_name(near) or _is_adjective(near) or _is_behind_label(near)


def _is_glued_to_name(near):
    "x3, GPT-4, 3D"
    if _is_one_letter(near.after):
        return True
    if near.after.text == "_" and near.after.glued:
        # the beginning of a name that is cut: 5_
        return True
    if not near.number.glued:
        return False
    if near.before.text in ("-", ".") and near.before.glued:
        return near.second_before.kind == "word"
    return near.before.kind == "word"


def _is_adjective(near):
    "5-star, three-legged, but 7-apples"
    if near.after.text != "-" or not near.after.glued:
        return False
    word = near.second_after
    if word.kind != "word" or not word.glued:
        return False
    return not word.text.endswith("s")


def _is_behind_label(near):
    "step 3, room no. 5, page 5 of 10, confidence: 97"
    label = near.before.text
    if label == "#" or label in _named | _estimated:
        return True
    if label == ".":
        if near.second_before.text == "no":
            # "No. 5 apples" answers
            return near.third_before.kind == "word"
        return near.second_before.text == "fig"
    if label == "of" and is_number(near.second_before):
        return near.third_before.text in _named
    if label in (":", "=", "is", "of"):
        return _word_before(near) in _estimated
    return False


def _is_one_letter(token):
    "Whether a token is a single letter that touches what stands before it: 3D, 40x"
    single = token.kind == "word" and len(token.text) == 1
    return single and token.glued and token.text.isascii()


def _word_before(near):
    "The last word before the mark that stands before a number; `\"confidence\": 97` has a quote between"
    for token in (near.second_before, near.third_before):
        if token.kind == "word":
            return token.text
    return ""


_to = {"to", "–", "—", "~", "-", "/", "到", "至", "或"}
_fraction_words = set(
    "half halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths seventh "
    "sevenths eighth eighths tenth tenths hundredth hundredths".split())


def _is_range_or_fraction(near):
    "3-4, between 3 and 4, 1/2, two thirds, 555-1234, 十几: more than one number, or part of one"
    if _is_joined(near):
        return True
    # 三分之一; 十几 and 二十多 are ten and some, twenty and some
    if near.after.text in ("分之", "几", "幾", "多", "余"):
        return True
    if near.before.text in ("几", "幾", "半"):
        return True
    if near.after.text in ("来", "來") and near.number.raw[-1] in "十百":
        return True
    if near.number.raw in ("dozen", "hundred", "thousand"):
        return near.before.text in ("several", "few", "many", "some")
    part = near.second_after if near.after.text == "-" else near.after
    return part.text in _fraction_words


def _is_joined(near):
    "3-4, 3 to 4, between 3 and 4: another number stands behind a sign or a word that joins two"
    if near.after.text in _to and is_number(near.second_after):
        return not _is_slip(near.after)
    if near.before.text in _to and is_number(near.second_before):
        return not _is_slip(near.before)
    if near.before.text == "between" and near.after.text == "and":
        return is_number(near.second_after)
    if near.before.text == "and" and is_number(near.second_before):
        return near.third_before.text == "between"
    return False


def _is_slip(token):
    "Whether a joining word is a slip of the pen, as in `5to 5`"
    return token.kind == "word" and token.glued


def _is_alternative(near):
    "3, 4 or 5; 5 apples or 6; 5, maybe 6: two numbers are no answer"
    return _has_other(near, 1) or _has_other(near, -1)


def _has_other(near, step):
    "Whether an `or` or a `maybe` and another number stand on one side"
    doubted, words = False, 0
    for distance in range(1, margin + 1):
        token = near.tokens[near.place + step * distance]
        if token.text in ("maybe", "perhaps", "possibly"):
            doubted = True
        elif token.text == "or" and not token.glued:
            # not the slip of "5or 5"
            doubted = True
        elif is_number(token):
            if doubted:
                return True
            words = 0
        elif token.kind == "word" and words == 0:
            words = 1
        elif token.text != ",":
            return False
    return False


def _is_number_code(near):
    "555 123 4567: long numbers side by side"
    def is_long(token):
        return is_number(token) and len(token.raw) > 2 and token.raw.isdecimal()
    if is_long(near.before):
        return is_long(near.number) or is_long(near.second_before)
    if is_long(near.after):
        return is_long(near.number) or is_long(near.second_after)
    return False


# Rules: what may be the count where the text holds no better one

_of_them = {"them", "these", "those", "which", "whom", "the", "us", "all", "its"}
_ends_share = {",", ".", ";", "\n", "", "。"}


def _is_share(near):
    "two of them, of which 1, including 2, 3 each, out of 7, 其中2个: some of what is counted"
    return _is_share_by_what_follows(near) or _is_share_by_what_precedes(near)


def _is_share_by_what_follows(near):
    "two of them, 3 each, one is red"
    following, second = near.after.text, near.second_after.text
    if following == "of" and second in _of_them:
        return True
    if following in ("each", "apiece", "per", "之一"):
        return True
    if following in ("in", "on", "for") and second in ("each", "every"):
        return True
    # "One is flying", "two are red"
    if following in ("is", "are", "was", "were", "has", "have"):
        return near.before.kind in ("mark", "line", "edge") or near.before.text == "and"
    return False


def _is_share_by_what_precedes(near):
    "of which 1, including 2, each has 3, 6 birds, one flying"
    before, second = near.before.text, near.second_before.text
    if before in ("including", "remaining", "other", "additional", "extra", "whom", "which", "中"):
        return True
    if before == "them" and second in ("of", "among"):
        return True
    if before == "the" and second == "of":
        return True
    if before == "of" and (second == "out" or is_number(near.second_before)):
        return True
    earlier = near.tokens[near.place - 7:near.place]
    if near.number.text == "one" and before == "," and any(map(is_number, earlier)):
        return True
    # "each has 3", within the same clause
    for token in reversed(earlier[-4:]):
        if token.text in _ends_share:
            return False
        if token.text in ("each", "every", "per", "每"):
            return True
    return False


_places = {
    "in", "on", "at", "across", "into", "onto", "inside", "behind", "beside", "among", "from", "atop",
    "在", "从"}


def _is_place(near):
    "on 2 plates, in the two rows: where the things are"
    if near.before.text in ("the", "these", "those", "its", "their", "both"):
        return near.second_before.text in _places
    return near.before.text in _places


def _is_behind_name(near):
    "a Boeing 747, on Route 66: a capital in the middle of a sentence begins a name, most often"
    if near.before.kind != "word" or near.second_before.kind != "word":
        return False
    name, earlier = near.before.raw, near.second_before.raw
    # "I" is a word of its own
    if len(name) == 1 or not earlier.islower():
        return False
    return name[0].isupper()


def _is_superseded(near):
    "at first I saw 8, I thought 8: what was believed before"
    words = set()
    # only words of the same clause: "at first I saw 8, now 9" takes back the 8 alone
    for token in reversed(near.tokens[near.place - 7:near.place]):
        if token.kind in ("mark", "line", "edge"):
            break
        words.add(token.text)
    if words & {"initially", "originally", "thought"}:
        return True
    return "first" in words and bool(words & {"at", "i"})


_rules = (
    # no counts at all; the surer ones first
    ("pronoun", _is_pronoun), ("denied", _is_denied), ("not whole", _is_not_whole),
    ("percentage", _is_percentage), ("ordinal", _is_ordinal), ("size", _is_size),
    ("date or time", _is_date_or_time), ("range or fraction", _is_range_or_fraction),
    ("alternative", _is_alternative), ("measure", _is_measure), ("name", _is_name),
    ("number code", _is_number_code),
    # counts where there is no better one
    ("share", _is_share), ("place", _is_place), ("behind a name", _is_behind_name),
    ("superseded", _is_superseded))
_second_choice = {"share", "place", "behind a name", "superseded", "in brackets"}


def number_roles(
    tokens: list,  # from `tokens_of`
) -> dict:  # place of each number → `count`, or the name of the rule that claims it
    "What each number of a text is"
    unclaimed, depth = {}, 0
    for i, token in enumerate(tokens):
        if is_number(token):
            unclaimed[i] = "in brackets" if depth else "count"
        elif token.text == "(":
            depth += 1
        elif token.text == ")":
            depth = max(0, depth - 1)
    list_numbers = _list_numbers(tokens)
    roles = {}
    for i in list(unclaimed)[-_most_numbers:]:
        if i in list_numbers:
            roles[i] = "list number"
            continue
        near = Near(tokens, i, *tokens[i - 3:i + 4])
        claims = (name for name, claim in _rules if claim(near))
        roles[i] = next(claims, unclaimed[i])
    return roles


def _list_numbers(tokens):
    "Places of the numbers 1., 2., 3. that begin lines"
    places, wanted = set(), 1
    for i in range(margin, len(tokens) - margin):
        token, mark = tokens[i], tokens[i + 1]
        begins = tokens[i - 1].kind in ("line", "edge")
        if mark.text == ")" and wanted > 1 and tokens[i - 1].text != "(":
            # 1) red 2) blue, in one line
            begins = True
        if not begins or token.value != wanted:
            continue
        # "3." at the end of a text is a count
        if mark.glued and mark.text in (".", ")", "、") and tokens[i + 2].kind not in ("line", "edge"):
            places.add(i)
            wanted += 1
    return places


# None of them

# "no idea" and "any number" speak of the answer and not of things
_meta_nouns = set(
    "number numbers idea doubt way answer information image picture photo clue count question problem "
    "reason chance need longer matter sense means evidence more fewer less further clear other".split())


def _is_meta(tokens, i):
    "Whether the noun at token `i`, or behind one adjective, is none of the things that are counted"
    return tokens[i].text in _meta_nouns or tokens[i + 1].text in _meta_nouns


def _says_none(tokens):
    "Whether the text says that there are none: no apples, none, not any, isn't one, 没有苹果"
    return any(_says_none_at(tokens, i) for i in range(margin, len(tokens) - margin))


def _says_none_at(tokens, i):
    "Whether token `i` is the word that says it"
    word, following = tokens[i].text, tokens[i + 1]
    if word in ("none", "nil", "nought", "naught"):
        return True
    if word == "nothing":
        return following.text not in ("to", "more")
    if word == "no":
        return _names_nothing(tokens, i)
    if word in ("any", "one", "a single"):
        # "I can't see any apples" says so; "I can't see any number" does not
        unseen = word != "one" and tokens[i - 2].text in ("can't", "cannot", "couldn't")
        denied = unseen or _negated(tokens, i)
        return denied and not _is_meta(tokens, i + 1)
    return _says_none_in_chinese(tokens, i)


_not_things = ("数字", "办法", "答案", "把握")


def _names_nothing(tokens, i):
    "Whether the `no` at token `i` stands before a thing that is missing: no apples, but not: No, no idea"
    if tokens[i + 1].kind != "word":
        return False
    return not _is_meta(tokens, i + 1)


def _says_none_in_chinese(tokens, i):
    "没有苹果, 没看到, 无, 不存在; 没有办法 says nothing of things"
    word, second, third = (token.text for token in tokens[i:i + 3])
    if word in ("没", "沒"):
        if second in ("看", "见", "发"):
            return third != "清"
        if second != "有":
            return False
        if is_number(tokens[i + 2]):
            # 没有5个 denies a count and gives none
            return third == "一"
        return third + tokens[i + 3].text not in _not_things
    if word == "不":
        if tokens[i - 1].text == "看":
            return second in ("到", "见")
        return second + third == "存在"
    return word in ("无", "無") and tokens[i - 1].kind != "han"


# The phrase that names the count: a photo of 3 apples

_pictures = set("photo photos photograph picture image drawing illustration painting snapshot pic".split())
_vague = set(
    "exactly about approximately roughly around only just over nearly almost at least most some up to "
    "the all these no not more fewer less than under total of precisely any : approx ca ~ ≈ > < = \"".split())
_collective = set(
    "few lot group bunch number set collection variety crowd handful pile stack cluster series herd "
    "flock many range mix mixture couple pair pairs bit team family swarm array row rows total".split())
_ends_phrase = set(
    "on in at and or next beside behind near under above is are was were that which but while".split())
_holds = {"of", "with", "containing", "holding", "showing", "featuring", "including", "full"}
_dimensions = {"2d", "3d", "4d", "4k", "8k", "3g", "4g", "5g"}
_longest_phrase = 7  # tokens between an article and the number that wins over it


def _count_after_picture(tokens, roles):
    "The count that the last `photo of …` names, or None"
    for i in range(len(tokens) - margin - 1, margin, -1):
        if tokens[i].text != "of" or tokens[i - 1].text not in _pictures:
            continue
        at = i + 1
        while tokens[at].text in _vague:
            # "no dogs" is a count; "no more than 5 dogs" is five of them
            if tokens[at].text == "no" and tokens[at + 1].text not in _vague:
                return 0 if _names_nothing(tokens, at) else None
            at += 1
        found = _count_of_phrase(tokens, roles, at)
        if found is not None:
            return found
    return None


def _count_of_phrase(tokens, roles, at):
    "The count of the things named from token `at` on: a number, or one for an article"
    if is_number(tokens[at]):
        return _count_that_is_named(tokens, roles, at)
    if tokens[at].text not in ("a", "an"):
        return None
    indefinite = False
    for i in range(at + 1, at + _longest_phrase):
        token, following = tokens[i], tokens[i + 1]
        if is_number(token):
            # a group of 5 people: the number wins over the article
            return int(token.value) if roles.get(i) in ("count", "share") else None
        if token.kind in ("mark", "line", "edge") or token.text in _ends_phrase:
            break
        if token.text in _collective:
            indefinite = True
        if token.text in _holds and not is_number(following):
            # "a bowl of about 5": the number is still to come
            if following.text not in _vague:
                break
    return None if indefinite else 1


def _count_that_is_named(tokens, roles, at):
    "The count of a number that stands right behind `photo of`; measures and places are things there"
    number, following = tokens[at], tokens[at + 1]
    role = roles.get(at)
    if role == "name":
        # "photo of 5c discs" is a slip of the pen, "photo of 3D glasses" is not
        slip = following.glued and following.kind == "word"
        good = slip and not number.glued
        if number.text + following.text in _dimensions:
            good = False
    else:
        good = role in ("count", "measure") or role in _second_choice
    if not good or number.value is None:
        return None
    return int(number.value)


# The count that is marked as the answer

_stated = {"answer", "altogether", "total", "一共", "一共有", "总共", "总共有", "總共", "共", "共有", "合计", "总计", "总数",
           "答案"}
_stated_with_sign = {"count", "number", "sum", "result", "conclusion"}
_corrections = {"wait", "actually", "correction", "sorry", "oops", "recount", "recounting"}
_ends_clause = {",", ".", ";", "!", "?", "。", "；", "\n", "("}
_reach_of_answer = 24  # tokens behind "answer" in which its number stands


def _stated_counts(tokens, roles):
    "Places of the counts that the text marks as its answer: `answer: 5`, `5 in total`, `一共有5`"
    places = []
    for i in range(margin, len(tokens) - margin):
        word = tokens[i].text
        if word == "all" and tokens[i - 1].text == "in":
            word = "total"
        place = None
        if word in ("total", "altogether"):
            place = _count_before_total(tokens, roles, i)
        if place is None and word in _stated:
            place = _count_behind(tokens, roles, i)
        if word in _stated_with_sign:
            place = _count_behind_sign(tokens, roles, i)
        if place is not None:
            places.append(place)
    return places


def _count_before_total(tokens, roles, i):
    "Place of the 5 in `5 in total`, or None"
    place = None
    for at in (i - 1, i - 2, i - 3):
        if tokens[at].text in _ends_clause:
            break
        if roles.get(at) == "count":
            place = at
            break
    if place is None or tokens[i + 1].text != ":":
        return place
    # "5 in total: 2 left, 3 right" tells the parts; "2 here and 3 there, in total: 5" the sum
    parts = [tokens[at].value for at, role in roles.items() if at > i and role == "count"]
    return place if tokens[place].value == sum(parts) else None


def _count_behind(tokens, roles, i):
    "Place of the last count of the clause that a word like `answer` at token `i` begins, or None"
    place = None
    for at in range(i + 1, i + _reach_of_answer):
        token = tokens[at]
        if token.kind == "edge":
            break
        if token.text in _ends_clause:
            # "Answer:" may stand on a line of its own, and "the answer is (5)" has only brackets
            passed = token.text == "(" or (token.kind == "line" and at < i + 4)
            if place is not None or not passed:
                break
        if roles.get(at) in ("count", "in brackets", "place", "share"):
            place = at
    if place is not None and tokens[place + 1].text == "," and is_number(tokens[place + 2]):
        # "let me count: 1, 2, 3" counts up and states nothing yet
        return None
    return place


def _count_behind_sign(tokens, roles, i):
    "The same for `count: 5` and `the number of apples is 5`; `I count 1, 2, 3` and `number 5` state nothing"
    if tokens[i].text == "number" and tokens[i + 1].text != "of":
        return None
    place = _count_behind(tokens, roles, i)
    if place is None:
        return None
    signs = {token.text for token in tokens[i + 1:place]}
    return place if signs & {":", "=", "is", "was"} else None


def _corrects(tokens, i):
    "Whether token `i` takes back what was said before it"
    word, following = tokens[i].text, tokens[i + 1].text
    if word != "no":
        return word in _corrections
    if following not in (",", ".", ":"):
        return False
    return tokens[i - 1].kind in ("mark", "line", "edge")


def behind_correction(
    tokens: list,  # from `tokens_of`
) -> list:  # of tokens, with edges; empty where nothing is corrected
    "What follows the last `wait`, `actually` or `No,` of a text"
    for i in range(len(tokens) - margin - 1, margin, -1):
        if _corrects(tokens, i):
            return [edge] * margin + tokens[i + 1:]
    return []


def _after_correction(tokens, places):
    "The counts behind the last correction; all of them where nothing is corrected"
    for i in range(len(tokens) - margin - 1, margin - 1, -1):
        if places and places[-1] > i and _corrects(tokens, i):
            return [place for place in places if place > i]
    return places


def _total_before_parts(values):
    "A value that is the sum of two or more that follow it, or None"
    rest = sum(values)
    for value in values[:-2]:
        rest -= value
        if value == rest and value > 0:
            return value
    return None


def _chosen_count(tokens, roles):
    "The count among the numbers of a text, or None; chapter 02 has the table of these steps"
    pictured = _count_after_picture(tokens, roles)
    if pictured is not None:
        return pictured
    counts = [place for place, role in roles.items() if role == "count"]
    counts = _after_correction(tokens, counts)
    first = counts[0] if counts else 0
    # an answer that was stated and then corrected is stated no more
    stated = [place for place in _stated_counts(tokens, roles) if place >= first]
    if stated:
        return int(tokens[stated[-1]].value)
    if counts:
        told = [place for place, role in roles.items() if role in ("count", "share") and place >= first]
        total = _total_before_parts([int(tokens[place].value) for place in told])
        # people reason first and conclude last
        return int(tokens[counts[-1]].value) if total is None else total
    if _says_none(tokens):
        return 0
    others = [place for place, role in roles.items() if role in _second_choice]
    if others:
        return int(tokens[others[-1]].value)
    return _one_thing(tokens, roles)


def _one_thing(tokens, roles):
    "1 where the text says `there is an apple`, else None"
    for i in range(margin, len(tokens) - margin):
        at = i + 1
        if tokens[i].text == "there" and tokens[at].text in ("is", "was"):
            at = i + 2
        elif tokens[i].text != "there's":
            continue
        if not _is_meta(tokens, at + 1):
            return _count_of_phrase(tokens, roles, at)
    return None


# Readers

def read_count(
    text: str,  # a completion or a truth
) -> int | None:  # None when no count can be read
    "The count that `text` states"
    tokens = tokens_of(unwrapped(plain_text(final_answer(text))))
    return _chosen_count(tokens, number_roles(tokens))


def explain_count(
    text: str,  # a completion or a truth
) -> list:  # of {number, worth, role}, a row for each number of the answer
    "How each number of an answer was understood"
    tokens = tokens_of(unwrapped(plain_text(final_answer(text))))
    rows = []
    for place, role in number_roles(tokens).items():
        token, worth = tokens[place], tokens[place].value
        if worth is not None and worth == int(worth):
            worth = int(worth)
        rows.append(dict(number=token.raw, worth=worth, role=role))
    return rows


# a size, a date or a name is not what was asked for; a measure and a decimal may be
_kept_for_numbers = {"count", "measure", "not whole", "share", "place", "in brackets"}


def read_number(
    text: str,  # an answer, without tags
) -> float | None:  # None where it holds no number, or several different ones
    "The one number of a text, whatever its unit: 2.5, -3, twenty-one, 1/2"
    tokens = tokens_of(unwrapped(plain_text(text)))
    fraction = _lone_fraction(tokens)
    if fraction is not None:
        return fraction
    roles, kept = number_roles(tokens), {}
    for place, role in roles.items():
        if role == "not whole" and _is_part(tokens[place].value):
            return None
        if role in _kept_for_numbers:
            kept[place] = "count"
    places = _stated_counts(tokens, kept)[-1:] or list(kept)
    values = {tokens[place].value for place in places}
    if len(values) == 1:
        return values.pop()
    # "there are no nodules" is 0
    return 0.0 if not roles and _says_none(tokens) else None


def _is_part(value):
    "Whether a number that is not whole is so for what follows it: the 2 of 2 1/2, the 10 of 10^3"
    return value is not None and value >= 0 and value == int(value)


def _lone_fraction(tokens):
    "Worth of the only two numbers of a text where a slash joins them, as in 1/2, or None"
    places = [i for i, token in enumerate(tokens) if is_number(token)]
    if len(places) != 2:
        return None
    above, below = (tokens[place] for place in places)
    if tokens[places[0] + 1].text != "/" or places[1] != places[0] + 2:
        return None
    if above.value is None or not below.value:
        return None
    return above.value / below.value

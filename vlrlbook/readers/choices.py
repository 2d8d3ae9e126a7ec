"""The letter of a choice, and yes and no: what an answer takes for its side.

Written by hand. Each way of naming a letter or a side is a function; the first that finds one decides."""
from .counts import behind_correction
from .tokens import margin, plain_text, tokens_of, unwrapped

__all__ = ["choice_letters", "choice_letter", "truth_letters", "yes_or_no"]

_letters = set("abcdefghij")
_answer_words = {"answer", "answers", "ans", "答案", "conclusion"}


# One letter

_before_letter = set(
    "is are was would should must be likely probably most option choice letter the therefore clearly "
    "definitely as correct final that it it's its a an : = - – > → ( [ 】 ] . , \" ' 是 为 应 该 选 项".split())
_after_letter = set("because since as is and or due it seems looks would was but over not were are".split())
_between_letters = set(", / & and or ; + 、 和 ) ] ( [".split())
_denials = {"not", "isn't"}
_no_words = ("mark", "line", "edge")  # kinds of tokens


def _letter_at(tokens, i):
    "The choice that token `i` names; an empty text for an article, a pronoun, the first letter of a word"
    token, following = tokens[i], tokens[i + 1]
    if token.text not in _letters or token.kind != "word":
        return ""
    if following.kind == "number" and following.glued:
        # C3 is a vertebra
        return ""
    if token.raw.islower():
        return _small_letter_at(tokens, i)
    if following.kind != "word" or _is_enclosed(tokens, i):
        return token.raw
    if following.text in _after_letter and token.text != "i":
        return token.raw
    # "A small mass" begins with an article, and "I see" with a pronoun
    return "" if token.text in ("a", "i") else token.raw


def _small_letter_at(tokens, i):
    "The choice of a small letter: only where nothing else can be meant, as in (d), b., answer is c"
    before, following = tokens[i - 1], tokens[i + 1]
    if _is_enclosed(tokens, i):
        return tokens[i].raw.upper()
    begins = before.kind in _no_words or before.text in ("is", "option", "answer", "choice")
    ends = following.kind in _no_words or following.text in ("because", "since", "as", "but")
    if not begins or not ends:
        return ""
    return tokens[i].raw.upper()


def _is_enclosed(tokens, i):
    "Whether token `i` stands in brackets or quotes"
    opened = tokens[i - 1].text in ("(", "[", '"', "'")
    return opened and tokens[i + 1].text in (")", "]", '"', "'")


def _letter_list(tokens, i):
    "The letters that stand side by side from token `i` on, and the place after them: A, C and D"
    letters, after = set(), i
    while True:
        at = after
        while letters and tokens[at].text in _between_letters:
            at += 1
        letter = _letter_at(tokens, at)
        # B. Axial: what follows the letter is its option
        if not letter or (letters and at == after):
            return letters, after
        letters.add(letter)
        after = at + 1


# Ways of naming it

def _letters_after(tokens, words):
    "The letters behind the last of the marking `words` that has some"
    found = set()
    for i in range(margin, len(tokens) - margin):
        if tokens[i].text in words:
            found = _letters_behind(tokens, i + 1) or found
    return found


def _letters_behind(tokens, at):
    "The letters behind small words from token `at` on; `not A but B` names B"
    denied, last = False, at + 12
    while at < last and not _letter_at(tokens, at):
        word = tokens[at].text
        if word in _denials:
            denied = True
        elif word not in _before_letter and word != "but":
            return set()
        at += 1
        if denied and _letter_at(tokens, at):
            # what is denied is passed over; what follows "but" may be meant
            at = _letter_list(tokens, at)[1]
            denied = False
    return _letter_list(tokens, at)[0]


_confirming = {"correct", "answer", "right", "best"}


def _confirmed_letter(tokens):
    "The letter of `B is correct` or `(B) is the best answer`"
    for i in range(margin, len(tokens) - margin):
        if tokens[i].text != "is":
            continue
        named, said = i - 1, i + 1
        if tokens[said].text == "the":
            said += 1
        if tokens[named].text in (")", '"'):
            named -= 1
        letter = _letter_at(tokens, named)
        if not letter or tokens[said].text not in _confirming:
            continue
        # "A and B is correct" names two
        if tokens[named - 1].text not in ("and", "or"):
            return {letter}
    return set()


_marks_at_beginning = {"(", "[", '"', "'", "-", "#", ",", ":", "\n"}


def _leading_letters(tokens):
    "The letters that the text begins with: B., (B) yes, B because …, A, C"
    at = margin
    while tokens[at].text in _marks_at_beginning:
        at += 1
    letters, after = _letter_list(tokens, at)
    following, second = tokens[after], tokens[after + 1]
    # T-cells is a name; a letter and its option have a space between
    if following.text in ("-", "'") and following.glued and second.glued:
        return set()
    if following.text == "." and second.text in _species:
        return set()
    if following.kind == "word" and following.text not in _after_letter:
        return set()
    if following.text in ("is", "are") and second.text in ("wrong", "incorrect", "false", "not"):
        return set()
    return letters


# E. coli is a name too
_species = {"coli", "difficile", "pylori", "influenzae", "elegans", "faecalis"}
_before_lone_letter = {
    "is", "it's", "be", "with", "say", "for", "so", "therefore", "thus", "hence", "a", "no", "\n"}


def _lone_letter(tokens):
    "The only letter that is named in brackets, or behind `it is` at the end of a sentence"
    named = set()
    for i in range(margin, len(tokens) - margin):
        letter = _letter_at(tokens, i)
        if not letter:
            continue
        before, following = tokens[i - 1].text, tokens[i + 1]
        if before == ",":
            # "Therefore, B"
            before = tokens[i - 2].text
        said = before in _before_lone_letter and following.kind != "word"
        enclosed = before in ("(", "[") and following.text in (")", "]")
        # "it can't be A"
        denied = any(token.text in _denies_side for token in tokens[i - 3:i])
        if denied:
            continue
        if said or enclosed:
            named.add(letter)
    return named


_option_words = {
    "option", "choice", "choose", "chose", "pick", "select", "selected", "think", "选", "选择", "letter"}


def _named_letters(tokens):
    "The letters that the first of the ways finds"
    return (_letters_after(tokens, _answer_words) or _confirmed_letter(tokens) or _leading_letters(tokens)
            or _letters_after(tokens, _option_words) or _lone_letter(tokens))


def choice_letters(
    text: str,  # an answer, without tags
) -> frozenset:  # of capital letters A to J; empty where it names none
    "The choices that an answer names: stated, at its beginning, behind `option`, or as the only letter"
    alone = truth_letters(text)
    if alone:
        return alone
    tokens = tokens_of(unwrapped(plain_text(text)))
    words = [token.raw for token in tokens if token.kind == "word"]
    if len(words) == 1:
        word = words[0]
        # AC is A and C, but "dad" is a word
        if word.isupper() and len(word) < 6 and _letters.issuperset(word.lower()):
            return frozenset(word)
    # "A. Actually, it is B": what is said behind the correction counts, if it names a letter
    behind = behind_correction(tokens)
    named = _named_letters(behind) if behind else set()
    return frozenset(named or _named_letters(tokens))


def choice_letter(
    text: str,  # an answer, without tags
) -> str | None:  # A to J; None where it names none, or several
    "The one choice that an answer names"
    letters = choice_letters(text)
    return min(letters) if len(letters) == 1 else None


_marks_of_letters = set("()[].,:;/&\"'")


def truth_letters(
    truth: str,  # what the data set says
) -> frozenset:  # of capital letters; empty where it is no choice
    "The letters of a truth that is nothing but one choice or several: B, (d), A., A, C"
    tokens = tokens_of(unwrapped(plain_text(str(truth))))[margin:-margin]
    letters = set()
    for token in tokens:
        if token.kind == "mark":
            if token.text not in _marks_of_letters:
                return frozenset()
        elif token.text in _letters:
            letters.add(token.raw.upper())
        elif token.text not in ("and", "or", "\n"):
            return frozenset()
    return frozenset(letters)


# Yes and no

_sides = dict.fromkeys(("yes", "yeah", "yep", "yup"), "yes") | dict.fromkeys(("no", "nope", "nah"), "no")
_chinese_sides = dict.fromkeys("是对對有", "yes") | dict.fromkeys("否不没沒无無", "no")
# answers that are a side without its word, where nothing else is said
_whole_yes = ("y", "of course", "absolutely", "definitely", "certainly", "indeed", "i think so")
_whole_no = (
    "n", "of course not", "absolutely not", "definitely not", "certainly not", "probably not", "not at all",
    "i don't think so", "i think not")
_whole_sides = dict.fromkeys(_whole_yes, "yes") | dict.fromkeys(_whole_no, "no")
_denies_side = {
    "not", "cannot", "can't", "don't", "neither", "nor", "either", "both", "isn't", "wouldn't", "never"}
# behind a "no" that is an answer; any other word behind it is the thing that is missing
_after_side = set(
    "because since as and or but it there the this that these those he she i we they not is are so its "
    "it's there's i'm in on at for to from with you yes yeah no nope".split())
# "no idea" and "no doubt" say nothing of what was asked
_no_answer = set(
    "idea doubt way answer question problem matter clue one means comment need longer more less fewer "
    "information conclusion difference".split())
_before_side = set("is : = - would be a clearly definitely probably the \" ' (".split())


def _how_said(tokens, i):
    "How a yes or no at token `i` is said: stated, bare, missing (a `no` before its noun), or not at all"
    if _is_one_of_two(tokens, i) or _is_denied_side(tokens, i):
        return ""
    following, second = tokens[i + 1], tokens[i + 2]
    is_noun = following.kind in ("word", "number")
    if following.text in _after_side:
        is_noun = False
    if tokens[i].text == "no" and is_noun:
        if following.text in _no_answer or second.text in _no_answer:
            return ""
        return "missing"
    at = i - 1
    while tokens[at].text in _before_side:
        at -= 1
    return "stated" if tokens[at].text in _answer_words else "bare"


def _is_one_of_two(tokens, i):
    "Whether both sides are named together: yes or no, yes and no, yes/no"
    together = ("or", "and", "/", "nor")
    if tokens[i + 1].text in together and tokens[i + 2].text in _sides:
        return True
    return tokens[i - 1].text in together and tokens[i - 2].text in _sides


def _is_denied_side(tokens, i):
    "Whether a `not` reaches a side: not yes, I cannot say yes"
    for before in (tokens[i - 1], tokens[i - 2], tokens[i - 3]):
        if before.kind in ("mark", "line", "edge") or before.text == "but":
            return False
        if before.text in _denies_side:
            return True
    return False


def yes_or_no(
    text: str,  # an answer, without tags
) -> str | None:  # yes, no, or None where it says neither or both
    "The side that an answer takes: the stated one, else its first word, else the only one of the two in it"
    tokens = tokens_of(unwrapped(plain_text(text)))
    words = [i for i, token in enumerate(tokens) if token.kind not in _no_words]
    if not words:
        return None
    whole = " ".join(tokens[i].text for i in words)
    if whole in _whole_sides:
        return _whole_sides[whole]
    said = {"stated": [], "bare": [], "missing": [], "": []}
    for i in words:
        if tokens[i].text in _sides:
            said[_how_said(tokens, i)].append(i)
    if said["stated"]:
        last = said["stated"][-1]
        return _sides[tokens[last].text]
    if words[0] in said["missing"]:
        # "No abnormality" takes the side no, since it is the first word
        said["bare"].insert(0, words[0])
    if said["bare"]:
        return _side_of_bare(tokens, said["bare"])
    if said["missing"] or _says_there_is_not(tokens):
        return "no"
    # "I have no idea" is neither side in any language
    return None if said[""] else _chinese_side(tokens, words[0])


def _side_of_bare(tokens, places):
    "The side of the words that answer; of two different ones the last, if the first was taken back"
    sides = [_sides[tokens[i].text] for i in places]
    if len(set(sides)) == 1:
        return sides[0]
    # "no, wait: yes" is yes; "no, yes" is nothing
    for token in tokens[places[0]:places[-1]]:
        if token.text in _takes_back:
            return sides[-1]
    return None


_of_knowing = {"enough", "much", "sufficient", "clear"}
_takes_back = {"wait", "actually", "correction", "sorry", "oops"}


def _says_there_is_not(tokens):
    "Whether a text says `there is not` or `there aren't`, of things and not of what one can know"
    for i in range(margin, len(tokens) - margin):
        first, second, third, fourth = (token.text for token in tokens[i:i + 4])
        if first != "there":
            continue
        denies = second in ("isn't", "aren't", "wasn't")
        if second in ("is", "are"):
            denies = third == "not"
        # "there is not enough information"
        if denies and not _of_knowing & {third, fourth}:
            return True
    return False


def _chinese_side(tokens, first):
    "The side of an answer that begins with 是, 有, 不 or 没, and neither asks nor doubts"
    word, following = tokens[first].text, tokens[first + 1].text
    if word in ("是", "有") and following in ("否", "不", "没"):
        return None
    if word == "不" and following in ("确", "清", "知", "能"):
        return None
    return _chinese_sides.get(word)

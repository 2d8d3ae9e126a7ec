"""The letter of a choice, and yes and no: what an answer takes for its side.

Written by hand. Each way of naming a letter or a side is a function; the first that finds one decides."""
from .counts import behind_correction
from .tokens import margin, plain_text, tokens_of, unwrapped

__all__ = ["choice_letters", "choice_letter", "truth_letters", "yes_or_no"]

_letters_of_choices = set("abcdefghij")
_answer_words = {"answer", "answers", "ans", "答案", "conclusion"}


# One letter

_before_letter = set(
    "is are was would should must be likely probably most option choice letter the therefore clearly "
    "definitely as correct final that it it's its a an : = - – > → ( [ 】 ] . , \" ' 是 为 应 该 选 项".split())
# behind a capital A, these show that it is a choice and no article
_after_letter = set("because since as is and or due it seems looks would was but over not were are".split())
_between_letters = set(", / & and or ; + 、 和 ) ] ( [".split())
_denials = {"not", "isn't"}
_kinds_without_words = ("mark", "line", "edge")  # kinds of tokens that are no words


def _letter_at(tokens, i):
    """The choice, A to J, that token `i` names; an empty text where it names none

    A single letter may also be an article (`a`), a pronoun (`I`) or a part of a name (`C3`)."""
    # `tokens` begins and ends with `margin` (8) edge tokens, so that neighbours are always there
    token, following = tokens[i], tokens[i + 1]
    if token.text not in _letters_of_choices or token.kind != "word":
        return ""
    # `glued`: no space before the token. C3 is a vertebra.
    if following.kind == "number" and following.glued:
        return ""
    # `raw` is the token as written; `text` is in lower case
    if token.raw.islower():
        return _small_letter_at(tokens, i)  # stricter: "a" is mostly an article
    if following.kind != "word" or _is_enclosed(tokens, i):  # "B." or "(B)"
        return token.raw
    # any other letter than A and I is a choice, whatever word follows
    if token.text not in ("a", "i"):
        return token.raw
    # "A is right" and "A because …" name a choice, but "A small mass" begins with an article; I is a pronoun
    # before any word, as in "I would"
    return "A" if token.text == "a" and following.text in _after_letter else ""


def _small_letter_at(tokens, i):
    """The choice, as a capital, that the lower-case letter at token `i` names; an empty text if it names none

    It names one only where nothing else can be meant: in brackets as in (d), or with no word on either side
    but a few such as `is` and `because`, as in `b.` or `answer is c`."""
    # `tokens` begins and ends with `margin` (8) edge tokens, so that neighbours are always there
    before, following = tokens[i - 1], tokens[i + 1]
    if _is_enclosed(tokens, i):
        return tokens[i].raw.upper()
    may_begin = before.kind in _kinds_without_words or before.text in ("is", "option", "answer", "choice")
    may_end = following.kind in _kinds_without_words or following.text in ("because", "since", "as", "but")
    if not may_begin or not may_end:
        return ""
    return tokens[i].raw.upper()


def _is_enclosed(tokens, i):
    "Whether token `i` stands in brackets or quotation marks"
    is_opened = tokens[i - 1].text in ("(", "[", '"', "'")
    return is_opened and tokens[i + 1].text in (")", "]", '"', "'")


def _letter_list(tokens, i):
    """Read a list of choices such as `A, C and D` at token `i`: returns (set of letters, place behind it)

    Where no choice stands at token `i`, the set is empty and the place is `i`."""
    letters, after = set(), i
    while True:
        at = after
        while letters and tokens[at].text in _between_letters:
            at += 1
        letter = _letter_at(tokens, at)  # "" where token `at` names no choice
        # without a comma or the like between, the next letter is no part of the list
        if not letter or (letters and at == after):
            return letters, after
        letters.add(letter)
        after = at + 1


# Ways of naming it

def _letters_after(tokens, words):
    """The set of choices behind one of `words`, such as `answer` or `option`; empty where there are none

    Of several such words the last one counts that has choices behind it."""
    letters = set()
    for i in range(margin, len(tokens) - margin):  # all but the edge tokens at both ends
        if tokens[i].text in words:
            letters = _letters_behind(tokens, i + 1) or letters
    return letters


def _letters_behind(tokens, at):
    """The set of choices that follow from token `at` on, behind small words such as `is most likely`

    A denied choice is left out: `not A but B` names B. Any other word ends the search, so that `answer` in a
    sentence about something else names no choice."""
    # The choice is looked for in the next 12 tokens: more small words than that never stand in between. The
    # text may end before: behind it stand edge tokens, which are no small words and end the search.
    is_denied, end = False, at + 12
    while True:
        # the choices of a list such as `A, C` that begins here, empty where none does; the place behind it
        letters, after = _letter_list(tokens, at)
        if letters and not is_denied:
            return letters
        if letters:
            # "not A but B": go on behind the A
            at, is_denied = after, False
            continue
        if at >= end:
            return set()
        word = tokens[at].text
        if word in _denials:
            is_denied = True
        # neither a small word nor the `but` of "not A but B"
        elif word not in _before_letter and word != "but":
            return set()
        at += 1


_confirming_words = {"correct", "answer", "right", "best"}


def _confirmed_letter(tokens):
    "The choice in `B is correct` or `(B) is the best answer`, as a set of one letter; empty if there is none"
    for i in range(margin, len(tokens) - margin):  # all but the edge tokens at both ends
        if tokens[i].text != "is":
            continue
        letter_place, adjective_place = i - 1, i + 1
        if tokens[adjective_place].text == "the":
            adjective_place += 1
        if tokens[letter_place].text in (")", '"'):
            letter_place -= 1
        letter = _letter_at(tokens, letter_place)  # "" where that token names no choice
        if not letter or tokens[adjective_place].text not in _confirming_words:
            continue
        # "A and B is correct" names two choices and is left to the other ways
        if tokens[letter_place - 1].text not in ("and", "or"):
            return {letter}
    return set()


_marks_at_beginning = {"(", "[", '"', "'", "-", "#", ",", ":", "\n"}


def _leading_letters(tokens):
    "The set of choices that the text begins with, as in `B.`, `(B) yes`, `B because …` or `A, C`; else empty"
    at = margin  # the first token of the text: so many edge tokens stand before it
    while tokens[at].text in _marks_at_beginning:
        at += 1
    letters, after = _letter_list(tokens, at)  # an empty set where no choice stands there
    following, second = tokens[after], tokens[after + 1]
    # a hyphen without spaces makes a name, as in B-cells; `glued`: no space before the token
    if following.text in ("-", "'") and following.glued and second.glued:
        return set()
    # E. coli is a name, too
    if following.text == "." and second.text in _species_names:
        return set()
    # "A small mass": a word behind the letter makes it the beginning of a sentence; not so `because` or `is`
    if following.kind == "word" and following.text not in _after_letter:
        return set()
    if following.text in ("is", "are") and second.text in ("wrong", "incorrect", "false", "not"):
        return set()
    return letters


# second words of the names of bacteria and others, such as E. coli
_species_names = {"coli", "difficile", "pylori", "influenzae", "elegans", "faecalis"}
_before_lone_letter = {
    "is", "it's", "be", "with", "say", "for", "so", "therefore", "thus", "hence", "a", "no", "\n"}


def _lone_letter(tokens):
    """The set of choices that are named by themselves in a text, as in `the first (B)` or `so it is B.`

    They stand in brackets, or behind a word such as `is` and before no word. A letter behind `not` and the
    like is left out."""
    named = set()
    for i in range(margin, len(tokens) - margin):  # all but the edge tokens at both ends
        letter = _letter_at(tokens, i)  # "" where that token names no choice
        if not letter:
            continue
        before, following = tokens[i - 1].text, tokens[i + 1]
        if before == ",":
            # "Therefore, B": look at the word before the comma
            before = tokens[i - 2].text
        is_stated = before in _before_lone_letter and following.kind != "word"
        is_in_brackets = before in ("(", "[") and following.text in (")", "]")
        # "it can't be A"
        is_denied = any(token.text in _denying_words for token in tokens[i - 3:i])
        if is_denied:
            continue
        if is_stated or is_in_brackets:
            named.add(letter)
    return named


_option_words = {
    "option", "choice", "choose", "chose", "pick", "select", "selected", "think", "选", "选择", "letter"}


def _named_letters(tokens):
    """The set of choices that a text names, read in the first of five ways that finds any

    Behind `answer`; in `B is correct`; at the beginning; behind `option` and the like; anywhere by itself."""
    return (_letters_after(tokens, _answer_words) or _confirmed_letter(tokens) or _leading_letters(tokens)
            or _letters_after(tokens, _option_words) or _lone_letter(tokens))


def choice_letters(
    text: str,  # an answer, without tags
) -> frozenset:  # of capital letters A to J; empty where it names none
    "The choices that an answer to a multiple-choice question names: B, (b), the answer is C, A and D"
    # `B` or `A, C`: nothing but single letters, with marks between them; empty for any other text
    letters_alone = truth_letters(text)
    if letters_alone:
        return letters_alone

    tokens = tokens_of(unwrapped(plain_text(text)))  # in one spelling, without Markdown
    words = [token.raw for token in tokens if token.kind == "word"]
    if len(words) == 1:
        word = words[0]
        # several letters written as one word: AC is A and C, but "dad", or more than five letters, is a word
        if word.isupper() and len(word) < 6 and _letters_of_choices.issuperset(word.lower()):
            return frozenset(word)

    # "A. Actually, it is B": what follows the correction counts, if it names a choice
    tokens_behind = behind_correction(tokens)  # empty where nothing is corrected
    # `_named_letters` tries the ways in which a sentence names a choice
    named = _named_letters(tokens_behind) if tokens_behind else set()
    return frozenset(named or _named_letters(tokens))


def choice_letter(
    text: str,  # an answer, without tags
) -> str | None:  # A to J; None where it names none, or several
    "The choice that an answer to a multiple-choice question names, where it names exactly one"
    letters = choice_letters(text)
    return min(letters) if len(letters) == 1 else None


_marks_of_letters = set("()[].,:;/&\"'")


def truth_letters(
    truth: str,  # what the data set says
) -> frozenset:  # of capital letters A to J; empty where the text holds anything but choices
    "The letters of a truth that is nothing but one choice or several, such as `B`, `(d)`, `A.` or `A, C`"
    # in one spelling, without Markdown and LaTeX (**B** becomes B), and without the edge tokens at both ends
    tokens = tokens_of(unwrapped(plain_text(str(truth))))[margin:-margin]
    letters = set()  # capitals; `text` is a token in lower case, `raw` as written
    for token in tokens:
        if token.kind == "mark":
            if token.text not in _marks_of_letters:
                return frozenset()
        elif token.text in _letters_of_choices:
            letters.add(token.raw.upper())
        elif token.text not in ("and", "or", "\n"):
            return frozenset()
    return frozenset(letters)


# Yes and no

_words_for_yes, _words_for_no = ("yes", "yeah", "yep", "yup"), ("no", "nope", "nah")
_side_of_word = dict.fromkeys(_words_for_yes, "yes") | dict.fromkeys(_words_for_no, "no")
_side_of_chinese_word = dict.fromkeys("是对對有", "yes") | dict.fromkeys("否不没沒无無", "no")
# answers that are a side without its word, where nothing else is said
_whole_yes = ("y", "of course", "absolutely", "definitely", "certainly", "indeed", "i think so")
_whole_no = (
    "n", "of course not", "absolutely not", "definitely not", "certainly not", "probably not", "not at all",
    "i don't think so", "i think not")
_side_of_whole_text = dict.fromkeys(_whole_yes, "yes") | dict.fromkeys(_whole_no, "no")
_denying_words = {
    "not", "cannot", "can't", "don't", "neither", "nor", "either", "both", "isn't", "wouldn't", "never"}
# behind a "no" that is an answer; any other word behind it is the thing that is missing
_after_answering_no = set(
    "because since as and or but it there the this that these those he she i we they not is are so its "
    "it's there's i'm in on at for to from with you yes yeah no nope".split())
# "no idea" and "no doubt" say nothing of what was asked
_nouns_without_answer = set(
    "idea doubt way answer question problem matter clue one means comment need longer more less fewer "
    "information conclusion difference".split())
# small words that may stand between `answer` and its yes or no
_before_yes_or_no = set("is : = - would be a clearly definitely probably the \" ' (".split())


def _how_said(tokens, i):
    """In what way the yes or no at token `i` is said

    Returns `stated`: behind a word such as `answer`; `missing`: a `no` before a noun, such as `no fracture`;
    `bare`: any other that answers; an empty text: it answers nothing, as in `yes or no` or `no idea`."""
    if _is_one_of_two(tokens, i) or _is_denied_yes_or_no(tokens, i):  # "yes or no", "I cannot say yes"
        return ""
    # `tokens` begins and ends with `margin` (8) edge tokens, so that neighbours are always there
    following, second = tokens[i + 1], tokens[i + 2]
    # a word behind a "no" is taken for a noun, except words such as `because` and `it`
    is_noun = following.kind in ("word", "number")
    if following.text in _after_answering_no:
        is_noun = False
    if tokens[i].text == "no" and is_noun:
        # "no idea", "no clear answer"
        if following.text in _nouns_without_answer or second.text in _nouns_without_answer:
            return ""
        return "missing"
    # back over small words: in "the answer is: no" to `answer`
    at = i - 1
    while tokens[at].text in _before_yes_or_no:
        at -= 1
    return "stated" if tokens[at].text in _answer_words else "bare"


def _is_one_of_two(tokens, i):
    "Whether the yes or no at token `i` stands together with the other: yes or no, yes and no, yes/no"
    # `tokens` begins and ends with `margin` (8) edge tokens, so that neighbours are always there
    together = ("or", "and", "/", "nor")
    if tokens[i + 1].text in together and tokens[i + 2].text in _side_of_word:
        return True
    return tokens[i - 1].text in together and tokens[i - 2].text in _side_of_word


def _is_denied_yes_or_no(tokens, i):
    "Whether `not` or the like stands in the three tokens before a yes or no at token `i`: I cannot say yes"
    # `tokens` begins and ends with `margin` (8) edge tokens, so that neighbours are always there
    for before in (tokens[i - 1], tokens[i - 2], tokens[i - 3]):
        # a mark, a new line or a `but` begins another clause, which the `not` does not reach
        if before.kind in ("mark", "line", "edge") or before.text == "but":
            return False
        if before.text in _denying_words:
            return True
    return False


def yes_or_no(
    text: str,  # an answer, without tags
) -> str | None:  # yes, no, or None where it says neither or both
    """Whether an answer says yes or no

    What is stated behind a word such as `answer` counts first; else every other yes or no that answers, which
    must agree; else a missing thing, as in `no fracture` or `there is not`, is a no."""
    tokens = tokens_of(unwrapped(plain_text(text)))  # in one spelling, without Markdown
    words = [i for i, token in enumerate(tokens) if token.kind not in _kinds_without_words]
    if not words:
        return None
    whole_text = " ".join(tokens[i].text for i in words)
    if whole_text in _side_of_whole_text:  # such as "of course not"
        return _side_of_whole_text[whole_text]

    # the way in which a yes or no is said, as `_how_said` names it → places of such tokens
    places = {
        "stated": [],  # behind a word such as `answer`
        "bare": [],  # any other that answers
        "missing": [],  # a no before a noun, such as "no fracture"
        "": [],  # answers nothing, as in "yes or no" or "no idea"
    }
    for i in words:
        if tokens[i].text in _side_of_word:
            places[_how_said(tokens, i)].append(i)

    if places["stated"]:
        last = places["stated"][-1]
        return _side_of_word[tokens[last].text]
    if words[0] in places["missing"]:
        # "No abnormality": as the first word a no answers like a bare one
        places["bare"].insert(0, words[0])
    if places["bare"]:
        return _side_of_bare(tokens, places["bare"])  # None where they do not agree
    if places["missing"] or _says_there_is_not(tokens):
        return "no"
    # the side of a Chinese answer by its first word; not tried after "I have no idea"
    return None if places[""] else _chinese_side(tokens, words[0])


def _side_of_bare(tokens, places):
    """The side, yes or no, that the tokens at `places` (each a yes or a no) take together

    Of two different sides the last one counts if a word between takes the first back; else None."""
    sides = [_side_of_word[tokens[i].text] for i in places]
    if len(set(sides)) == 1:
        return sides[0]
    # "no, wait: yes" is yes; "no, yes" is neither
    for token in tokens[places[0]:places[-1]]:
        if token.text in _words_that_take_back:
            return sides[-1]
    return None


_words_about_knowledge = {"enough", "much", "sufficient", "clear"}
_words_that_take_back = {"wait", "actually", "correction", "sorry", "oops"}


def _says_there_is_not(tokens):
    "Whether a text says that something is not there, as in `there is not` or `there aren't`"
    for i in range(margin, len(tokens) - margin):  # all but the edge tokens at both ends
        first, second, third, fourth = (token.text for token in tokens[i:i + 4])
        if first != "there":
            continue
        is_denied = second in ("isn't", "aren't", "wasn't")
        if second in ("is", "are"):
            is_denied = third == "not"
        # "there is not enough information" speaks of what one can know, not of the thing
        if is_denied and not _words_about_knowledge & {third, fourth}:
            return True
    return False


def _chinese_side(tokens, first):
    "The side, yes or no, of an answer whose first word, token `first`, is 是, 有, 不, 没 or the like; else None"
    word, following = tokens[first].text, tokens[first + 1].text
    # 是否, 是不是 and 有没有 ask "whether"
    if word in ("是", "有") and following in ("否", "不", "没"):
        return None
    # 不确定, 不清楚, 不知道, 不能: not sure, not clear, do not know, cannot
    if word == "不" and following in ("确", "清", "知", "能"):
        return None
    return _side_of_chinese_word.get(word)

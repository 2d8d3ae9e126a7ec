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


def _letter_at(
    tokens,  # list of `Token`: kind, text in lower case, raw as written, glued (no space before)
    i,  # place of one of them
):
    """The choice, A to J, that token `i` names; an empty text where it names none

    A single letter may also be an article (`a`), a pronoun (`I`) or a part of a name (`C3`)."""
    # `tokens` ends with 8 empty edge tokens, so that there is always a next one
    token, following = tokens[i], tokens[i + 1]
    if token.text not in _letters_of_choices or token.kind != "word":  # not a letter a to j
        return ""
    is_name = following.kind == "number" and following.glued  # such as C3
    if is_name:
        return ""
    if token.raw.islower():
        return _small_letter_at(tokens, i)
    return _capital_letter_at(tokens, i)


def _capital_letter_at(
    tokens,  # list of `Token`: kind (word, mark, edge …), text in lower case, raw as written
    i,  # place of a capital letter A to J
):
    "The choice that the capital letter at token `i` names; an empty text for an article or a pronoun"
    letter, following = tokens[i].raw, tokens[i + 1]  # at the end of the text: an empty edge token
    stands_alone = following.kind != "word" or _is_enclosed(tokens, i)  # "B." or "(B)"
    if stands_alone or letter not in ("A", "I"):
        return letter
    # "I would": before a word, I is always a pronoun
    if letter == "I":
        return ""
    # "A is right" names a choice; in "A small mass" it is an article. The words that show it: is, because …
    return "A" if following.text in _after_letter else ""


def _small_letter_at(
    tokens,  # list of `Token`: kind (word, mark, edge …), text in lower case, raw as written
    i,  # place of a small letter a to j
):
    """The choice, as a capital, that the lower-case letter at token `i` names; an empty text if it names none

    It is a choice in brackets, as in `(d)`, or if it has no other neighbours than marks and a few words, as
    in `b.` or `answer is c`. Anywhere else it may be an article."""
    before, following = tokens[i - 1], tokens[i + 1]  # edge tokens at the ends of the text
    # the kinds without words are a mark, a line break, and the edge of the text
    fits_before = before.kind in _kinds_without_words or before.text in ("is", "option", "answer", "choice")
    fits_after = following.kind in _kinds_without_words or following.text in ("because", "since", "as", "but")
    is_choice = _is_enclosed(tokens, i) or (fits_before and fits_after)
    return tokens[i].raw.upper() if is_choice else ""


def _is_enclosed(tokens, i):
    "Whether token `i` stands in brackets or quotation marks"
    is_opened = tokens[i - 1].text in ("(", "[", '"', "'")
    return is_opened and tokens[i + 1].text in (")", "]", '"', "'")


def _letter_list(
    tokens,  # list of `Token`, words and marks: text in lower case
    i,  # place where the list may begin
):
    """Read a list of choices such as `A, C and D` at token `i`: returns (set of letters, place behind it)

    `A, C and D` → ({A, C, D}, i + 5). Where no choice stands at token `i`: (empty set, i). Letters without a
    comma, `and` or the like between them are no list: the first one counts alone."""
    letters, end = set(), i  # the letters read so far, and the place behind the last of them
    while True:
        place = end  # of the next letter, once the separators before it are skipped
        while letters and tokens[place].text in _between_letters:  # a comma, `and` and the like
            place += 1
        lacks_separator = bool(letters) and place == end
        letter = _letter_at(tokens, place)  # "" where this token names no choice
        if not letter or lacks_separator:
            return letters, end
        letters.add(letter)
        end = place + 1


# Ways of naming it

def _letters_after(
    tokens,  # list of `Token`, words and marks: text in lower case
    words,  # a set, in lower case, such as {"answer", "conclusion"}
):
    """The set of choices that follow one of some words, as B in `the answer is B`; empty if there are none

    If choices follow several of these words, only the last ones count."""
    letters = set()
    for i in range(margin, len(tokens) - margin):  # without the 8 empty edge tokens at each end
        if tokens[i].text in words:
            # small words such as `is` may stand between
            letters = _letters_behind(tokens, i + 1) or letters
    return letters


def _letters_behind(
    tokens,  # list of `Token`, words and marks: text in lower case
    place,  # where the search begins
):
    """The set of choices that follow from token `place` on, after small words such as `is most likely`

    A denied choice is left out: `not A but B` names B. Any word that is not a small one ends the search."""
    search_end = place + 12  # no phrase before a choice has more small words
    is_denied = False
    while True:
        letters, end = _letter_list(tokens, place)  # choices such as `A, C` at this place, and where they end
        if letters:
            if not is_denied:
                return letters
            place, is_denied = end, False  # "not A but B": go on behind the A
            continue
        word = tokens[place].text  # "" at the end of the text, which ends the search
        # denials: not, isn't; words before a letter: is, most, likely, `:` and the like
        is_small_word = word in _denials or word in _before_letter or word == "but"
        if place >= search_end or not is_small_word:
            return set()
        if word in _denials:
            is_denied = True
        place += 1


_confirming_words = {"correct", "answer", "right", "best"}


def _confirmed_letter(
    tokens,  # list of `Token`, words and marks: text in lower case
):
    "The choice in `B is correct` or `(B) is the best answer`, as a set of one letter; empty if there is none"
    # without the 8 empty edge tokens at each end, so that all neighbours below exist
    for i in range(margin, len(tokens) - margin):
        if tokens[i].text != "is":
            continue
        # one place further where a `the` follows, or a bracket or quotation mark closes before `is`
        adjective_place = i + 2 if tokens[i + 1].text == "the" else i + 1
        letter_place = i - 2 if tokens[i - 1].text in (")", '"') else i - 1
        letter = _letter_at(tokens, letter_place)  # "" where that token names no choice
        is_confirmed = tokens[adjective_place].text in _confirming_words
        # the place before the letter, or before its opening bracket or quotation mark
        before = letter_place - 2 if tokens[letter_place - 1].text in ("(", '"') else letter_place - 1
        is_one_of_two = tokens[before].text in ("and", "or")  # "A and B is correct", "(A) and (B) is"
        if letter and is_confirmed and not is_one_of_two:
            return {letter}
    return set()


_marks_at_beginning = {"(", "[", '"', "'", "-", "#", ",", ":", "\n"}


def _leading_letters(
    tokens,  # list of `Token`, words and marks: text in lower case
):
    "The set of choices that the text begins with, as in `B.`, `(B) yes`, `B because …` or `A, C`; else empty"
    place = margin  # the text begins behind 8 empty edge tokens
    # brackets, quotation marks, dashes and the like may stand before a letter
    while tokens[place].text in _marks_at_beginning:
        place += 1
    letters, end = _letter_list(tokens, place)  # an empty set where no choice stands there
    return set() if _is_more_than_a_letter(tokens, end) else letters


def _is_more_than_a_letter(
    tokens,  # list of `Token`: kind (word, mark, edge …), text in lower case, glued (no space before)
    end,  # place behind a letter with which the text begins
):
    "Whether what follows a letter shows that it was no answer: B-cells, E. coli, A small mass, B is wrong"
    following, second = tokens[end], tokens[end + 1]  # empty edge tokens, where the text ends here
    # B-cells; `glued`: no space before the token
    is_compound = following.text in ("-", "'") and following.glued and second.glued
    is_species = following.text == "." and second.text in _species_names  # E. coli
    # "A small mass", but not "A because", "A is" and the like
    is_sentence = following.kind == "word" and following.text not in _after_letter
    is_denied = following.text in ("is", "are") and second.text in ("wrong", "incorrect", "false", "not")
    return is_compound or is_species or is_sentence or is_denied


# second words of the names of bacteria and others, such as E. coli
_species_names = {"coli", "difficile", "pylori", "influenzae", "elegans", "faecalis"}
_before_lone_letter = {
    "is", "it's", "be", "with", "say", "for", "so", "therefore", "thus", "hence", "a", "no", "\n"}


def _letters_anywhere(
    tokens,  # list of `Token`, words and marks: text in lower case
):
    """The set of choices that a text names anywhere, as in `the first (B)` or `so it is B.`

    A choice counts in brackets, or alone behind a word such as `is`; not if one of the three tokens before it
    is `not`, `can't`, `either` or the like."""
    named = set()
    for i in range(margin, len(tokens) - margin):  # without the 8 empty edge tokens at each end
        letter = _letter_at(tokens, i)  # "" where that token names no choice
        # "it can't be A"; the 8 empty edge tokens before the text make sure that there are three
        is_denied = any(token.text in _denying_words for token in tokens[i - 3:i])
        if letter and not is_denied and _is_stated_or_in_brackets(tokens, i):
            named.add(letter)
    return named


def _is_stated_or_in_brackets(
    tokens,  # list of `Token`: kind (word, mark, edge …), text in lower case
    i,  # place of a letter
):
    "Whether token `i` stands in brackets, or between a word such as `is` and something that is no word"
    before, following = tokens[i - 1].text, tokens[i + 1]
    if before == ",":
        before = tokens[i - 2].text  # the word before the comma, as in "Therefore, B"; "" if there is none
    # is, so, therefore, a line break and the like
    is_stated = before in _before_lone_letter and following.kind != "word"
    return is_stated or (before in ("(", "[") and following.text in (")", "]"))


_option_words = {
    "option", "choice", "choose", "chose", "pick", "select", "selected", "think", "选", "选择", "letter"}


def _named_letters(
    tokens,  # list of `Token`: a text cut into words, numbers and marks
):
    """The set of choices, capital letters, that a text names; empty if it names none

    Of five ways the first that finds any counts: behind `answer`; in `B is correct`; at the beginning; behind
    `option` and the like; anywhere by itself."""
    return (_letters_after(tokens, _answer_words) or _confirmed_letter(tokens) or _leading_letters(tokens)
            or _letters_after(tokens, _option_words) or _letters_anywhere(tokens))


def choice_letters(
    text: str,  # an answer, without tags
) -> frozenset:  # of capital letters A to J; empty where it names none
    "The choices that an answer to a multiple-choice question names: B, (b), the answer is C, A and D"
    letters_alone = truth_letters(text)  # of a text such as `B` or `A, C`; empty if it says anything else
    if letters_alone:
        return letters_alone
    tokens = tokens_of(unwrapped(plain_text(text)))  # in one spelling, without Markdown
    words = [token.raw for token in tokens if token.kind == "word"]
    if len(words) == 1 and _is_row_of_letters(words[0]):  # AC: A and C; capitals only
        return frozenset(words[0])
    # "A. Actually, it is B": what follows the correction counts, if it names a choice
    tokens_behind = behind_correction(tokens)  # empty where nothing is corrected
    named = _named_letters(tokens_behind) if tokens_behind else set()
    return frozenset(named or _named_letters(tokens))


def _is_row_of_letters(word):
    "Whether a word is a row of choices: AC means A and C, but `dad` in small letters is a word"
    # at most five letters, each a choice (A to J): longer ones are words or abbreviations
    return word.isupper() and len(word) < 6 and _letters_of_choices.issuperset(word.lower())


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
    tokens = tokens_of(unwrapped(plain_text(str(truth))))  # without Markdown and LaTeX: **B** becomes B
    letters = set()  # capitals
    for token in tokens[margin:-margin]:  # without the empty edge tokens that `tokens_of` adds at both ends
        if token.kind == "mark":
            if token.text not in _marks_of_letters:  # brackets, commas and the like may stand in a list
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


def _answer_kind_at(
    tokens,  # list of `Token`: kind (word, mark, edge …), text in lower case
    i,  # place of a yes or a no (or yeah, nope …)
):
    """What kind of answer a yes or no is: "stated", "missing", "bare" or ""

    `stated`: behind a word such as `answer`. `missing`: a `no` before a noun, as in `no fracture`. `bare`: a
    plain yes or no, as in `yes, it is`. Empty: it answers nothing, as in `yes or no` or `no idea`."""
    if _is_one_of_two(tokens, i) or _is_denied_yes_or_no(tokens, i):  # "yes or no", "I cannot say yes"
        return ""
    following, second = tokens[i + 1], tokens[i + 2]  # empty edge tokens, where the text ends here
    is_word = following.kind in ("word", "number")
    # _after_answering_no: `because`, `it` and other words behind a "no" that is an answer. Any other word, or
    # a number, is the thing that is missing, or begins its name.
    is_before_noun = is_word and following.text not in _after_answering_no
    if tokens[i].text == "no" and is_before_noun:
        # _nouns_without_answer: idea, doubt, answer and the like, as in "no idea" and "no clear answer"
        says_nothing = {following.text, second.text} & _nouns_without_answer
        return "" if says_nothing else "missing"
    return "stated" if _is_behind_answer(tokens, i) else "bare"


def _is_behind_answer(
    tokens,  # list of `Token`, words and marks: text in lower case
    i,  # place of a yes or a no
):
    "Whether only small words stand between token `i` and a word such as `answer`: the answer is: no"
    place = i - 1
    while tokens[place].text in _before_yes_or_no:  # is, `:`, would, the … An edge token ends the loop.
        place -= 1
    return tokens[place].text in _answer_words  # answer, ans, 答案, conclusion


def _is_one_of_two(
    tokens,  # list of `Token`, words and marks: text in lower case
    i,  # place of a yes or a no
):
    "Whether the yes or no at token `i` stands together with the other: yes or no, yes and no, yes/no"
    # `tokens` begins and ends with 8 empty edge tokens, so that neighbours are always there
    together = ("or", "and", "/", "nor")
    # `_side_of_word` has yes, yeah, no, nope and the like
    if tokens[i + 1].text in together and tokens[i + 2].text in _side_of_word:
        return True
    return tokens[i - 1].text in together and tokens[i - 2].text in _side_of_word


def _is_denied_yes_or_no(
    tokens,  # list of `Token`: kind (word, mark, edge …), text in lower case
    i,  # place of a yes or a no
):
    "Whether `not` or the like stands in the three tokens before a yes or no at token `i`: I cannot say yes"
    # `tokens` begins with 8 empty edge tokens, so that there are three; the nearest comes first
    for before in (tokens[i - 1], tokens[i - 2], tokens[i - 3]):
        # a mark, a new line or a `but` begins another clause, which the `not` does not reach
        if before.kind in ("mark", "line", "edge") or before.text == "but":
            return False
        if before.text in _denying_words:  # not, cannot, neither, both (yes and no), never …
            return True
    return False


def yes_or_no(
    text: str,  # an answer, without tags
) -> str | None:  # yes, no, or None where it says neither or both
    """Whether an answer says yes or no

    The last yes or no behind a word such as `answer` decides. Without one, all plain ones must agree, or the
    last one must be a correction: `no, wait: yes`. Without these, `no fracture`, `there is not` and the like
    mean no."""
    tokens = tokens_of(unwrapped(plain_text(text)))  # in one spelling, without Markdown
    words = [i for i, token in enumerate(tokens) if token.kind not in _kinds_without_words]
    if not words:
        return None
    whole_text = " ".join(tokens[i].text for i in words)
    if whole_text in _side_of_whole_text:  # such as "of course not"
        return _side_of_whole_text[whole_text]
    return _side_of_statements(tokens, words)  # yes, no or None


def _side_of_statements(
    tokens,  # list of `Token`, words and marks: text in lower case
    words,  # places in it of the text's words, without marks; at least one
):
    """Whether a text as a whole says yes or no; None for neither

    The surest kind that it has decides: a stated one (`the answer is no`), else bare ones (`no, it is`), if
    they agree, else a `no` before what is missing (`no fracture`)."""
    # kind (stated, bare, missing) → places of yes and no; "": what is no answer, as in `no idea`, `yes or no`
    places = _places_by_kind(tokens, words)
    if places["stated"]:
        last = places["stated"][-1]
        return _side_of_word[tokens[last].text]
    if words[0] in places["missing"]:  # "No abnormality": a no at the beginning counts as a bare one, too
        places["bare"].insert(0, words[0])
    if places["bare"]:
        return _side_of_bare(tokens, places["bare"])  # None where they do not agree
    if places["missing"] or _says_there_is_not(tokens):
        return "no"
    # `no idea` and `yes or no` leave it open. Without them, a Chinese answer may begin with its side.
    return None if places[""] else _chinese_side(tokens, words[0])


def _places_by_kind(
    tokens,  # list of `Token`, words and marks: text in lower case
    words,  # places in it of the text's words
):
    """The places of each yes and no by the kind of answer that it is

    The kinds: stated (`the answer is no`), bare (`no, it is`), missing (`no fracture`), and an empty text for
    what is no answer (`yes or no`, `no idea`)."""
    places = {"stated": [], "bare": [], "missing": [], "": []}
    for i in words:
        if tokens[i].text in _side_of_word:
            places[_answer_kind_at(tokens, i)].append(i)
    return places


def _side_of_bare(
    tokens,  # list of `Token`, words and marks: text in lower case
    places,  # of some of them, each a yes or a no, in their order; at least one
):
    """Yes or no, if the tokens at these places agree; else None

    If they differ and a word such as `wait` stands between them, the last one counts."""
    sides = [_side_of_word[tokens[i].text] for i in places]
    if len(set(sides)) == 1:
        return sides[0]
    # "no, wait: yes" is yes; "no, yes" is neither. From the first place to the last:
    for token in tokens[places[0]:places[-1]]:
        if token.text in _correcting_words:
            return sides[-1]
    return None


_words_about_knowledge = {"enough", "much", "sufficient", "clear"}
_correcting_words = {"wait", "actually", "correction", "sorry", "oops"}


def _says_there_is_not(
    tokens,  # list of `Token`, words and marks: text in lower case
):
    "Whether a text says that something is not there, as in `there is not` or `there aren't`"
    for i in range(margin, len(tokens) - margin):  # without the 8 empty edge tokens at each end
        if tokens[i].text != "there":
            continue
        verb, second, third = (token.text for token in tokens[i + 1:i + 4])
        is_denied = verb in ("isn't", "aren't", "wasn't") or (verb in ("is", "are") and second == "not")
        # "there is not enough information" says nothing about the thing itself (enough, much, clear …)
        if is_denied and not _words_about_knowledge & {second, third}:
            return True
    return False


def _chinese_side(
    tokens,  # list of `Token`; a Chinese character is a token of its own, but for a few phrases
    first,  # place of the text's first word
):
    "The side of an answer that begins with 是 or 有 (yes), 不 or 没 (no), or the like; None for any other"
    word, following = tokens[first].text, tokens[first + 1].text  # "" behind the end of the text
    # 是否, 是不是 and 有没有 ask "whether"
    if word in ("是", "有") and following in ("否", "不", "没"):
        return None
    # 不确定, 不清楚, 不知道, 不能: not sure, not clear, do not know, cannot
    if word == "不" and following in ("确", "清", "知", "能"):
        return None
    return _side_of_chinese_word.get(word)

"""A judge as a reward: a vision-language model is asked about each answer, and its grade is what the answer
earns.

The model is loaded here, or stands behind a chat endpoint (`chat_endpoint`). What it is asked comes from a
template, and of what it says only a last line in a stated form counts. Page 03a tells of it. Written by hand,
not exported from a notebook. No torch until a model is loaded here."""
import hashlib
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from weakref import WeakValueDictionary

from .chat_endpoint import Endpoint, Reply, address_problem, data_url, is_on_this_machine
from .core import Sample, mean_of, warn_loudly
from .metrics import kappa, share_ci, spearman
from .rewards import accepted_answers, on_batch
from .settings import SettingsError, names_and_values, nearest, read_settings

__all__ = ["template_fields", "templates", "JudgeError", "JudgeSettings", "load_judge_settings",
           "check_template", "fill_template", "Grade", "read_grade_form", "as_shown", "Judge", "as_reward", "about_judge",
           "agreement", "compared"]


class JudgeError(RuntimeError):
    "An answer that could not be judged: by which judge, what was expected, what came"


# What is asked

template_fields = ("question", "answer", "completion")  # the sample's question and truth; what is judged

_of_both = """Question about the picture: {question}
True answer: {answer}

Somebody answered:
{completion}

"""
# What is asked where nothing else is said, for the two kinds of grade. The completion stands before the task,
# so that the last words are ours.
templates = {
    "yes/no": _of_both + "Does this answer mean the same as the true answer? What it says about itself does "
              "not count. Reply with one line: {grade}",
    "range": _of_both + "How right is this answer? What it says about itself does not count. "
             "Reply with one line: {grade}"}


@dataclass
class JudgeSettings:
    "Who judges, what it is asked, and how its grade is read"
    endpoint: str = None  # Address of a chat endpoint up to /v1; None: the model is loaded here
    model: str = None  # As the endpoint calls it; else a hub id, a directory, or tiny- and a family
    adapter: str = None  # Directory of a LoRA adapter to put on a model that is loaded here
    use_4bit: bool = False  # 4-bit weights of a model that is loaded here; needs CUDA and bitsandbytes
    template: str = None  # What is asked: a text, or a file beside this one, with {question}, {answer} (the
    #   truth) and {completion}; None: as the grade needs it
    grade: str = "yes/no"  # Form of the reply's last line: yes/no, 0..10, or either behind a word, as in
    #   Score: 0..10
    unreadable: str = "error"  # What a reply without a grade does: error stops; a number from 0 to 1 is paid,
    #   counted and logged
    show_pictures: bool = True  # The judge sees the pictures
    max_image_size: int = None  # Pictures have at most this many pixels squared; None: as they are
    longest: int = 4000  # Characters of an answer that are shown: its last ones, since they hold the answer
    max_tokens: int = 16  # Most tokens of a reply; one that is cut there has no grade
    temperature: float = 0.0  # Of the reply; 0 is greedy
    seed: int = 0  # Of a reply that is sampled
    batch_size: int = 16  # Answers at a time, of a model that is loaded here
    at_once: int = 8  # Requests at a time, of an endpoint
    timeout: float = 60.0  # Seconds without a byte after which a request has failed
    retries: int = 4  # More tries of a request that may pass: no connection, no reply, 408, 429, 500 on
    first_wait: float = 0.5  # Seconds before the second try; doubled before each further one
    other_host: bool = False  # The endpoint is another machine, to which pictures and truths may go
    key_from: str = None  # Environment variable with the endpoint's key; None: it wants none
    remembered: int = 100_000  # Judgements that are kept, so that equal answers are judged once; 0: none

    def check(self):
        "One SettingsError with all that is wrong"
        problems = [text for is_broken, text in self._rules() if is_broken]
        if problems:
            raise SettingsError("; ".join(problems))
        grade = read_grade_form(self.grade)
        self.template = self.template or _template_of(grade)
        check_template(self.template)

    def _rules(self):
        "(whether it is broken, what to say then)"
        yield not self.model, "model is missing: whom to ask"
        if self.endpoint:
            problem = address_problem(self.endpoint)
            yield bool(problem), f"endpoint = {self.endpoint!r}: {problem}"
            away = not problem and not self.other_host and not is_on_this_machine(self.endpoint)
            yield away, (f"endpoint = {self.endpoint!r}: pictures, questions and truths would leave this "
                         "machine; write other_host: true if they may")
            yield bool(self.adapter), "adapter with an endpoint: the endpoint has its own weights"
            key_is_missing = bool(self.key_from) and self.key_from not in os.environ
            yield key_is_missing, f"key_from = {self.key_from!r}: there is no such environment variable"
        for name in ("longest", "max_tokens", "batch_size", "at_once", "timeout"):
            yield getattr(self, name) <= 0, f"{name} = {getattr(self, name)}: expected more than 0"
        for name in ("retries", "first_wait", "temperature", "seed", "remembered"):
            yield getattr(self, name) < 0, f"{name} = {getattr(self, name)}: expected 0 or more"
        too_small = self.max_image_size is not None and self.max_image_size <= 0
        yield too_small, f"max_image_size = {self.max_image_size}: expected more than 0"
        if self.unreadable != "error":
            fits = re.fullmatch(r"0|1|0?\.\d+|[01]\.0*", self.unreadable)
            yield not fits, f"unreadable = {self.unreadable!r}: expected error, or a number from 0 to 1"


def load_judge_settings(
    path: str | Path,  # a .yaml or .json file
    **more,  # settings that win over the file's
) -> JudgeSettings:  # checked; a template that the file names is read
    "A judge's settings from its file"
    path = Path(path)
    given = {**names_and_values(path), **more}
    paid = given.get("unreadable")
    if isinstance(paid, (int, float)) and not isinstance(paid, bool):
        given["unreadable"] = str(paid)  # the setting is a word or a number, so it is a text
    template = given.get("template")
    # A text has at least the field for the answer, a file's name has no brace.
    if isinstance(template, str) and "{" not in template:
        given["template"] = _template_file(path, template)
    return read_settings(JudgeSettings, given, path.name)


def _template_file(path, name):
    "Text of a template that lies beside the judge's file"
    try:
        return (path.parent / name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        there = sorted(p.name for p in path.parent.iterdir() if p.is_file())
        why = type(error).__name__
        raise SettingsError(f"{path.name}: template = {name!r} holds no field such as {{completion}}, and as "
                            f"a file it cannot be read ({why}){nearest(name, there)}") from error


def check_template(
    template: str,  # with fields in braces
):
    "SettingsError for a field that does not exist, or a template that does not show what is to be judged"
    names = []
    try:
        for _, name, form, conversion in Formatter().parse(template):
            if name is not None:
                names.append(name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else ""))
    except ValueError as error:
        raise SettingsError(f"template: {error}; a brace that is meant is written twice") from error
    for name in names:
        if name not in template_fields:
            # Never looked up as an attribute or an index: a template is a text, and no program.
            hint = nearest(name, list(template_fields))
            raise SettingsError(f"template: there is no field {{{name}}}{hint}; a brace that is meant is "
                                "written twice")
    if "completion" not in names:
        raise SettingsError("template: {completion} is missing, so no answer would be judged")


def fill_template(
    template: str,  # that `check_template` finds nothing in
    **values: str,  # a text for each of `template_fields`
) -> str:
    "The template with its fields filled in, once: braces inside a value are only text"
    pieces = []
    for text, name, _, _ in Formatter().parse(template):
        pieces += [text, values[name] if name else ""]
    return "".join(pieces)


def _template_of(grade):
    "The template for a form of grades"
    kind = "yes/no" if grade.is_yes_no else "range"
    return templates[kind].replace("{grade}", grade.example)


# How the grade is read

@dataclass(frozen=True)
class Grade:
    "The form of a reply's last line"
    word: str = ""  # before a colon, such as Score; empty: the line is the grade alone
    low: float = 0.0  # what earns 0
    high: float = 1.0  # what earns 1
    is_yes_no: bool = True  # yes earns 1 and no 0; else a number

    @property
    def example(self) -> str:
        "How the line looks, for a template and for an error"
        before = f"{self.word}: " if self.word else ""
        if self.is_yes_no:
            return f"{before}yes, or {before}no"
        return f"{before}N, where N is a number from {self.low:g} to {self.high:g}"

    def read(self,
        reply: str,  # all that the judge said
    ) -> tuple:  # the grade from 0 to 1, or None; what is wrong then
        "The grade in a reply: exactly one line has the form, it is the last, and its number is in the range"
        # A judge that reasons may weigh several grades in its thought.
        said = reply.rpartition("</think>")[2]
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        matches = [self._pattern.fullmatch(line) for line in lines]
        if not matches or not matches[-1]:
            return None, f"its last line is not {self.example}"
        if sum(match is not None for match in matches) > 1:
            # Which of them is the judge's own, and which did it repeat from the answer?
            return None, "more than one line has the form of a grade"
        value = matches[-1]["grade"].lower()
        if self.is_yes_no:
            return float(value == "yes"), ""
        if not self.low <= float(value) <= self.high:
            return None, f"{value} is not between {self.low:g} and {self.high:g}"
        return (float(value) - self.low) / (self.high - self.low), ""

    @property
    def _pattern(self):
        "The line as a pattern; capitals are free, and one full stop at the end"
        before = re.escape(self.word) + r":[ \t]*" if self.word else ""
        number = r"-?[0-9]{1,9}(?:\.[0-9]{1,9})?"  # [0-9]: \d would take the digits of other scripts
        value = "yes|no" if self.is_yes_no else number
        return re.compile(rf"{before}(?P<grade>{value})\.?", re.IGNORECASE)


def read_grade_form(
    text: str,  # yes/no, LOW..HIGH, or either behind a word and a colon
) -> Grade:
    "The form of grades that a setting states"
    number = r"-?[0-9]+(?:\.[0-9]+)?"
    form = rf"(?:(?P<word>[^\W\d_][\w ]*):\s*)?(?:(?P<yes>yes/no)|(?P<low>{number})\.\.(?P<high>{number}))"
    match = re.fullmatch(form, text.strip())
    if not match:
        raise SettingsError(f"grade = {text!r}: expected yes/no, a range such as 0..10, or either behind a "
                            "word, as in Score: 0..10")
    word = match["word"] or ""
    if match["yes"]:
        return Grade(word)
    low, high = float(match["low"]), float(match["high"])
    if low >= high:
        raise SettingsError(f"grade = {text!r}: the range ends at {high:g}, which is not above {low:g}")
    return Grade(word, low, high, is_yes_no=False)


# One answer as it is asked about

# What chat templates take for their own words, if a server reads them in a text: <|im_end|>, </s>,
# <end_of_turn>, [/INST] and the like. Also the places of pictures, which a text must not move.
_control_words = (
    r"<(?=\||\uff5c|<SYS)",  # \uff5c is the wide bar of DeepSeek's
    r"<(?=/?(?:s|bos|eos|pad|unk|image|img|video|image_soft_token|(?:start|end)_of_\w+|fim_\w+)>)",
    r"\[(?=/?(?:INST|SYSTEM_PROMPT|IMG)\])")
_control = re.compile("|".join(_control_words))


def as_shown(
    text: str,  # a question, a truth or a completion
) -> str:  # text without anything that a chat template could take for its own
    "A text whose control words are broken up by a space, so that they are read and not obeyed"
    # Half a surrogate pair, which a model's bytes may end in, is no text to a server or a tokenizer.
    whole = text.encode("utf-8", errors="replace").decode()
    return _control.sub(r"\g<0> ", whole)


def _question_shown(sample):
    "The question with what was said before it; a mark of a picture becomes its number"
    spoken = [f"{role}: {text}" for role, text in sample.turns] + [sample.question]
    pieces = "\n".join(spoken).split("<image>")
    shown = pieces[0]
    for number, piece in enumerate(pieces[1:], 1):
        # Pictures stand before the text, in this order; of one alone it need not be said which it is.
        mark = f"[picture {number}]" if len(sample.images) > 1 else ""
        shown += mark + piece
    return as_shown(shown).strip()


@dataclass
class _Asked:
    "What a judge is asked about one answer"
    text: str  # the template, filled in
    images: list  # PIL images
    key: bytes  # equal for equal questions, truths, completions and pictures


# Who answers

class _LocalModel:
    "A model that is loaded here and stays as it is"

    def __init__(self, settings):
        # Only here, since it takes torch: a judge behind an endpoint needs none.
        from .models import load_vlm
        from .trl_words import end_tokens
        s = settings
        loading = dict(adapter=s.adapter, use_4bit=s.use_4bit, max_image_size=s.max_image_size)
        self.settings = settings
        self.model, self.processor = load_vlm(s.model, **loading)
        self.model.requires_grad_(False)
        self.ends = end_tokens(self.model, self.processor)
        # The first batch may compile and fetch things; what takes longer than this is no judge to train by.
        self.patience = 600.0

    def replies(self, asked):
        "Yield a `Reply` for each, batch by batch"
        from .answers import generate_ids
        from .reward_model import as_text
        s, decode = self.settings, self.processor.tokenizer.decode
        for begin in range(0, len(asked), s.batch_size):
            chunk = asked[begin:begin + s.batch_size]
            # `as_text` knows this tokenizer's own control tokens, of which `as_shown` can only guess.
            samples = [Sample(as_text(self.processor, one.text), "", one.images) for one in chunk]
            how = dict(temperature=s.temperature, max_new_tokens=s.max_tokens, seed=s.seed)
            found = generate_ids(self.model, self.processor, samples, batch_size=len(chunk), **how)
            for prompt_tokens, (ids,) in found:
                ends = [place for place, token in enumerate(ids) if token in self.ends]
                said = ids[:ends[0]] if ends else ids
                yield Reply(decode(said, skip_special_tokens=True), bool(ends), prompt_tokens, len(said))


class _RemoteModel:
    "A model behind a chat endpoint, asked by several threads"

    def __init__(self, settings):
        s = settings
        key = os.environ[s.key_from] if s.key_from else None
        self.settings = settings
        self.endpoint = Endpoint(s.endpoint, s.model, s.timeout, s.retries, s.first_wait, key)
        self.patience = self.endpoint.patience + 5.0

    def replies(self, asked):
        "Yield a `Reply` for each in their order, whichever comes first"
        s = self.settings
        options = dict(max_tokens=s.max_tokens, temperature=s.temperature, seed=s.seed)
        executor = ThreadPoolExecutor(s.at_once)
        try:
            futures = [executor.submit(self._reply, one, options) for one in asked]
            for future in futures:
                yield future.result()
        finally:
            # After an error nobody asks any further; what is on its way comes to its end.
            executor.shutdown(cancel_futures=True)

    def _reply(self, one, options):
        "Ask about one answer"
        urls = [data_url(image, self.settings.max_image_size) for image in one.images]
        return self.endpoint.ask(one.text, urls, **options)


# The judge

class Judge:
    "A batched reward: (completions, samples) → a dict for each, with `overall`, `grade` and `judged`"
    batched = True  # `rewards.on_batch` hands it whole batches, with their samples

    def __init__(self,
        settings: JudgeSettings,  # checked
        name: str = "judge",  # for messages
    ):
        self.settings, self.name = settings, name
        self.grade = read_grade_form(settings.grade)
        self.speaker = _RemoteModel(settings) if settings.endpoint else _LocalModel(settings)
        self.patience = self.speaker.patience  # seconds that a batch of one may take, for `check_reward`
        self.known = {}  # key of an answer → its parts, the oldest first
        self.warned = set()  # what was said once and is not said again
        # Sums over all that was asked. Tokens are None from the first reply on that does not say them.
        self.facts: dict = dict(judgements=0, from_memory=0, unreadable=0, retries=0, seconds=0.0,
                                prompt_tokens=0, completion_tokens=0)

    def __call__(self,
        completions: list,  # texts
        samples: list,  # a `Sample` for each
    ) -> list:  # a dict for each, in their order
        "What each answer earns; JudgeError or EndpointError where one cannot be judged"
        asked = [self._asked(text, sample) for text, sample in zip(completions, samples, strict=True)]
        new = {one.key: one for one in asked if one.key not in self.known}
        self.facts["from_memory"] += len(asked) - len(new)
        started = time.perf_counter()
        try:
            for key, reply in zip(new, self.speaker.replies(list(new.values()))):
                # Each at once: what was judged before another one fails is not judged again.
                self.known[key] = self._parts(reply, new[key])
        finally:
            self.facts["seconds"] += time.perf_counter() - started
        parts = [dict(self.known[one.key]) for one in asked]
        self._forget(len(self.known) - self.settings.remembered)
        return parts

    def _forget(self, number):
        "Let the oldest judgements go"
        if number > 0:
            for key in list(self.known)[:number]:
                del self.known[key]

    def cost(self) -> dict:  # judgements, seconds and tokens of each; tokens None where nobody says them
        "What a judgement has taken on average; what came from memory is not counted"
        n = self.facts["judgements"]
        found = dict(judgements=n)
        for name in ("seconds", "prompt_tokens", "completion_tokens"):
            total = self.facts[name]
            found[name] = None if total is None or not n else total / n
        return found

    def _asked(self, completion, sample):
        "What is asked about one answer"
        if len(completion) > self.settings.longest:
            self._say_once("long", f"answers of more than {self.settings.longest} characters are shown from "
                                   "their end")
        shown = dict(
            question=_question_shown(sample),
            answer=as_shown(" or ".join(accepted_answers(sample.answer))),
            completion=as_shown(completion[-self.settings.longest:]))
        text = fill_template(self.settings.template, **shown)
        images = sample.images if self.settings.show_pictures else []
        return _Asked(text, images, _key(shown, images))

    def _parts(self, reply, asked):
        "What an answer earns after this reply"
        self._count(reply)
        grade, fault = self.grade.read(reply.text) if reply.is_whole else (None, "it was cut")
        if grade is not None:
            return dict(overall=grade, grade=grade, judged=1.0)
        problem = f"{self._address}: expected {self.grade.example}; came {reply.text[:200]!r}: {fault}"
        if self.settings.unreadable == "error":
            raise JudgeError(problem)
        paid = float(self.settings.unreadable)
        self.facts["unreadable"] += 1
        self._say_once("unreadable", f"{problem}. Such answers earn {paid:g} and are counted")
        return dict(overall=paid, grade=paid, judged=0.0)

    @property
    def _address(self):
        "Who this judge is, for an error"
        model, endpoint = self.settings.model, self.settings.endpoint
        if endpoint:
            return f"{self.name}, {model} at {endpoint}"
        # Where a directory lies is nobody's business; a hub id is told whole.
        return f"{self.name}, {Path(model).name if Path(model).is_dir() else model}"

    def _count(self, reply):
        "Add a reply to the sums"
        facts = self.facts
        facts["judgements"] += 1
        facts["retries"] += reply.tries - 1
        for name in ("prompt_tokens", "completion_tokens"):
            more, sum_so_far = getattr(reply, name), facts[name]
            facts[name] = None if more is None or sum_so_far is None else sum_so_far + more

    def _say_once(self, what, text):
        "One loud line for each kind of trouble, however often it comes"
        if what not in self.warned:
            self.warned.add(what)
            warn_loudly(f"judge {self.name}: {text}")


def _key(shown, images):
    "What tells one judgement from another: the texts as they are shown, and the pixels"
    from .data import picture_key
    content = [shown[name] for name in template_fields] + [picture_key(image) for image in images]
    return hashlib.sha256(repr(content).encode(errors="surrogatepass")).digest()


# As a reward of a run

# A run asks for its reward several times. Weakly held: once nobody uses a judge any more, its memory is free.
_judges = WeakValueDictionary()  # (file, its settings as text) → `Judge`


def as_reward(
    path: str | Path,  # a judge's .yaml or .json file
) -> Judge:
    "The judge of a file as a reward, `judge:FILE`; one that somebody holds already is the same one"
    settings = load_judge_settings(path)
    key = str(Path(path).resolve()), repr(settings)
    judge = _judges.get(key)
    if judge is None:
        judge = Judge(settings, Path(path).name)
        _judges[key] = judge
    return judge


def about_judge(
    path: str | Path,  # a judge's file
) -> dict:  # kind, name, fingerprint, base, grade
    "What a run's results say of a judge that paid for it: enough to tell one from another, and no address"
    settings = load_judge_settings(path)
    content = [settings.model, settings.adapter, settings.template, settings.grade, settings.unreadable]
    fingerprint = hashlib.sha256(repr(content).encode()).hexdigest()[:12]
    return dict(kind="judge", name=Path(path).stem, fingerprint=fingerprint, base=Path(settings.model).name,
                grade=settings.grade)


# How far it agrees

def agreement(
    pay: list,  # what each answer earns, 0 to 1
    right: list,  # whether each is right, by the rule
) -> dict:  # n, passes, agrees, its interval, kappa, correlation, wrong that pass, right that fail
    "How far a reward agrees with the rule on the same answers; an answer passes that earns 0.5 or more"
    right = [bool(value) for value in right]
    passed = [value >= 0.5 for value in pay]
    same = [a == b for a, b in zip(passed, right, strict=True)]
    of_wrong = [p for p, r in zip(passed, right) if not r]
    of_right = [p for p, r in zip(passed, right) if r]
    low, high = share_ci(same)
    return dict(
        n=len(same), passes=mean_of(passed), agrees=mean_of(same), low=low, high=high,
        kappa=kappa(passed, right), correlation=spearman(pay, [float(r) for r in right]),
        wrong_passed=mean_of(of_wrong) if of_wrong else None,
        right_failed=1 - mean_of(of_right) if of_right else None)


def compared(
    rewards: dict,  # name → reward of any kind; the first one's seconds are the unit of the last column
    completions: list,  # texts
    samples: list,  # a `Sample` for each
    right: list,  # whether each is right
) -> tuple:  # a row for each reward, for a table; name → what each answer earned
    "Agreement and cost of several rewards on the same answers, asked one after the other"
    rows, paid = [], {}
    for name, reward in rewards.items():
        started = time.perf_counter()
        parts = on_batch(reward)(completions, samples)
        seconds = (time.perf_counter() - started) / len(completions)
        paid[name] = [part["overall"] for part in parts]
        found = agreement(paid[name], right)
        unit = rows[0]["ms an answer"] / 1000 if rows else seconds
        rows.append({
            "reward": name, "agrees": f"{found['agrees']:.3f} ({found['low']:.3f} to {found['high']:.3f})",
            "kappa": found["kappa"], "correlation": found["correlation"],
            "wrong that pass": found["wrong_passed"], "right that fail": found["right_failed"],
            "ms an answer": 1000 * seconds, "times the first": f"{seconds / unit:,.0f}",
            "tokens an answer": _tokens(reward, completions, samples)})
    return rows, paid


def _tokens(reward, completions, samples):
    "Tokens that a model reads and writes for an answer, on average; 0 for a rule, None where nobody says it"
    if isinstance(reward, Judge):
        cost = reward.cost()
        counts = cost["prompt_tokens"], cost["completion_tokens"]
        return None if None in counts else round(sum(counts))
    model = getattr(reward, "model", None)
    if model is None:
        return 0
    from .reward_model import encode_answers
    total = 0
    for begin in range(0, len(completions), 64):
        part = slice(begin, begin + 64)
        batch = encode_answers(model.processor, samples[part], completions[part])
        total += int(batch["attention_mask"].sum())
    return round(total / len(completions))

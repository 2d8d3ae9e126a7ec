"""What a newcomer meets first: the exercises of "Why it learns" tell right from nearly right, the glossary knows the words, each page ends
with what to read, in one form."""
import json
import re

import pytest
from conftest import NOTEBOOKS, ROOT

PAGE = json.loads((ROOT / "nbs/000_why_it_learns.ipynb").read_text(encoding="utf-8"))["cells"]
GLOSSARY = (ROOT / "nbs/glossary.md").read_text(encoding="utf-8")


def source(cell): return "".join(cell["source"])
def text_of(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join(source(c) for c in cells if c["cell_type"] == "markdown")


def check_of(name):
    "The cell behind the exercise that defines `name`"
    place = next(i for i, c in enumerate(PAGE) if f"def {name}(" in source(c) and "exercise" in c["metadata"].get("tags", []))
    return source(PAGE[place]), source(PAGE[place + 1])


NEARLY = { # solutions that a student may well write, each wrong in one point, and a word of what is said about it
    "others_as_baseline": [("lambda R: [r - sum(R) / len(R) for r in R]", "own reward out"),
                           ("lambda R: [r - (sum(R) - r) / len(R) for r in R]", "divided by four"),
                           ("lambda R: [(sum(R) - r) / (len(R) - 1) - r for r in R]", "expected")],
    "my_entropy": [("lambda p: sum(x * __import__('math').log(x) for x in p if x)", "sign"),
                   ("lambda p: -sum(x * __import__('math').log2(x) for x in p if x)", "bits"),
                   ("lambda p: -sum(x * __import__('math').log(x) for x in p if x) / len(p)", "mean"),
                   ("lambda p: -sum(x * __import__('math').log(x) for x in p)", "adds nothing")],
    "still_learns": [("lambda r, A, epsilon=0.2: bool(A) and abs(r - 1) < epsilon", "come back"),
                     ("lambda r, A, epsilon=0.2: r < 1 + epsilon if A >= 0 else r > 1 - epsilon", "no slope|without"),
                     ("lambda r, A, epsilon=0.2: bool(A) and (r < 1.2 if A > 0 else r > 0.8)", "epsilon says"),
                     ("lambda r, A, epsilon=0.2: r < 1 + epsilon", "stops")]}


@pytest.mark.parametrize("name, wrong, told", [(n, w, t) for n, pairs in NEARLY.items() for w, t in pairs])
def test_nearly_right_is_wrong(name, wrong, told):
    _, check = check_of(name)
    names = {name: eval(wrong)}
    with pytest.raises(AssertionError, match=told): exec(check, names)


@pytest.mark.parametrize("name", NEARLY)
def test_right_is_right(name):
    exercise, check = check_of(name)
    names = {}
    exec(exercise, names)
    exec(check, names)


TERMS = """advantage baseline clip critic entropy group objective policy ratio reference reward rollout temperature DAPO GRPO GSPO LoRA PPO
QLoRA REINFORCE RLOO TRL vLLM EasyR1 verl peft accelerate papermill LeRobot""".split()
TERMS += ["KL divergence", "policy gradient", "Dr. GRPO", "Bradley–Terry", "Prefix Grouper", "silent group", "reward model", "tiny twin"]


def test_the_glossary_knows_the_words():
    rows = dict(re.findall(r"^\| ([^|$]+?) \| ([^|]+) \|$", GLOSSARY, re.M))
    assert not [t for t in TERMS if t not in rows]
    assert all(len(meaning) > 30 and meaning.rstrip().endswith(".") for term, meaning in rows.items() if term in TERMS)


def test_words_that_the_first_page_marks_stand_in_the_glossary():
    "A bold word on the page is a term at its first use"
    bold = {w.lower() for w in re.findall(r"\*\*([A-Za-z][A-Za-z ]*)\*\*", text_of(NOTEBOOKS[0]))} - {"try"}
    assert len(bold) >= 12
    assert not [w for w in bold if not re.search(rf"^\| (?:[^|]*, )?{w}\b", GLOSSARY, re.M | re.I)]


def test_symbols_of_the_first_page_stand_in_the_glossary():
    used = set(re.findall(r"\\(theta|pi|rho|varepsilon|beta|nabla|mathbb)\b", text_of(NOTEBOOKS[0])))
    table = GLOSSARY.split("## Symbols")[1]
    assert len(used) == 7 and not [s for s in used if f"\\{s}" not in table]


def test_mathematics_can_be_drawn():
    "Each formula of each page, as the site draws it"
    latex2mathml = pytest.importorskip("docutils.utils.math.latex2mathml")
    formulas = 0
    for text in [*map(text_of, NOTEBOOKS), GLOSSARY]:
        text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
        for block, inline in re.findall(r"\$\$(.+?)\$\$|(?<![\\$])\$(?=\S)([^$\n]+?)(?<=\S)\$(?!\d)", text, re.S):
            assert "<math" in latex2mathml.tex2mathml((block or inline).strip(), as_block=bool(block))
            formulas += 1
            # Chromium does not draw the accents of docutils' MathML: a mean written as R with a bar became the reward itself.
            assert not re.search(r"\\(bar|hat|tilde|overline|vec|dot)\b", block or inline)
    assert formulas > 60


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_each_page_ends_with_what_to_read(path):
    "A line for each paper or program: who (year), a title that is a link, what for; the year is that of arXiv's number"
    head, _, section = text_of(path).rpartition("## Further reading\n")
    assert head and "[glossary](glossary.md)" in section
    lines = [line for line in section.splitlines() if line.startswith("- ")]
    assert len(lines) >= 2
    for line in lines:
        assert re.fullmatch(r"- .*\[[^]]+\]\(https://[^)\s]+\): .+\.", line), line
        if "arxiv.org" in line or "doi.org" in line: assert re.match(r"- .+ \((1[89]|20)\d\d\), \[", line), line
        if "arxiv.org" in line:
            year, number = re.search(r"\(20(\d\d)\), \[[^]]+\]\(https://arxiv\.org/abs/(\d\d)\d\d\.\d{4,5}\)", line).groups()
            assert year == number, line


def test_a_paper_has_one_title():
    found = {}
    for path in NOTEBOOKS:
        for title, link in re.findall(r"\[([^]]+)\]\((https://(?:arxiv|doi)[^)]+)\)", text_of(path).rpartition("## Further reading")[2]):
            assert found.setdefault(link, title) == title, link
    assert len(found) >= 30

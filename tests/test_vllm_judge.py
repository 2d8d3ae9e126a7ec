"""A judge behind the server of a real vLLM: `vllm serve`, with a twin that was taught to judge. `make test-vllm` makes the
environment that this needs; elsewhere it skips. What needs no vLLM is tested in test_judge.py."""
import importlib.util
import json
import random
import threading
from dataclasses import replace

import pytest
import yaml
from support.judge_twin import COLOURS, QUESTION, TEMPLATE, claim, cup, looked_at, own_logprobs, said, teach
from support.vllm_server import vllm_server
from test_judge import HOSTILE
from vlrlbook.chat_endpoint import EndpointError
from vlrlbook.core import RunLog, read_settings
from vlrlbook.judge import Judge, JudgeError, JudgeSettings, as_reward

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("vllm"), reason="vLLM is not installed here: run `make test-vllm`")

NAME, KEY = "twin-judge", "sk-of-this-test"
# 300 characters at most, else the longest of the hostile answers is too long for 512 tokens; nothing is remembered, so that every
# judgement is asked for
HOW = dict(template=TEMPLATE, max_tokens=4, longest=300, remembered=0, timeout=120.0, first_wait=0.1)
WORDS = [claim(colour) for colour in COLOURS]


@pytest.fixture(scope="module")
def twin(tmp_path_factory): return teach("qwen2_5_vl", tmp_path_factory.mktemp("judge") / "twin")


@pytest.fixture(scope="module")
def server(twin, tmp_path_factory):
    "The twin's server, as page 03a starts one, and with a key"
    with vllm_server(twin, tmp_path_factory.mktemp("server"), "--served-model-name", NAME, "--api-key", KEY,
                     "--generation-config", "vllm") as server: yield server
    assert not server.lives(), "no process of it is left"


@pytest.fixture(autouse=True)
def key(monkeypatch): monkeypatch.setenv("JUDGE_KEY", KEY)


def far(server, **more):
    return Judge(read_settings(JudgeSettings, HOW | dict(endpoint=server.address, model=NAME, key_from="JUDGE_KEY") | more))


def near(folder, **more): return Judge(read_settings(JudgeSettings, HOW | dict(model=str(folder)) | more))


def in_whole_characters(reply):
    """A reply without the half of a character at which it was cut: vLLM leaves that half out, transformers writes U+FFFD for it.
    Seen with a twin's babble in one reply of 187; what is cut has no grade"""
    return reply if reply.is_whole else replace(reply, text=reply.text.rstrip("\ufffd"))


def test_the_server_replies_as_the_model_loaded_here(server, twin):
    "Text for text, cut or not, and in the same number of tokens: pictures of all sizes, hostile answers"
    texts, samples = WORDS + HOSTILE, looked_at()
    ours, theirs = ([in_whole_characters(reply) for reply in said(judge, texts, samples)] for judge in (near(twin), far(server)))
    assert len(ours) == len(texts) * len(samples) > 180 and theirs == ours
    assert {reply.text for reply in ours} >= {"yes", "no"}


def test_the_picture_arrives(server, twin):
    "The same words about another picture are another grade; without pictures the judge cannot know"
    judge = far(server)
    for colour in COLOURS:
        for shown in COLOURS: assert judge([claim(colour)], [cup(shown)])[0] == dict(overall=float(colour == shown), judged=1.0,
                                                                                    grade=float(colour == shown))
    blind = [[reply.text for reply in said(far(server, show_pictures=False), WORDS, [cup(shown)])] for shown in COLOURS]
    assert blind[0] == blind[1] == blind[2]


def test_its_probabilities_are_ours(server, twin):
    "So it has read the same tokens and the same pixels: another shade of the same colour moves them, for both alike"
    from vlrlbook.models import load_vlm
    model, processor = load_vlm(str(twin))
    rng, seen, text = random.Random(1), set(), TEMPLATE.replace("{completion}", claim("red"))
    for colour in COLOURS:
        for sample in (cup(colour), cup(colour, (84, 56), rng)):
            reply, theirs = server.logprobs(NAME, text, sample.images[0], KEY)
            assert theirs == pytest.approx(own_logprobs(model, processor, text, sample.images[0], reply), abs=1e-3)
            seen.add(round(theirs[0], 6))
    assert len(seen) == 6


def test_many_requests_at_once(server):
    "Eight are on their way, the grades come back in their order, and are those of one after another"
    texts = [f"{claim(colour)} {n}" for n in range(16) for colour in COLOURS]
    samples = [cup(colour) for _ in range(16) for colour in random.Random(2).sample(list(COLOURS), 3)]
    judge, counts, lock = far(server, at_once=8, unreadable="0"), dict(now=0, most=0), threading.Lock()
    inner = judge.speaker.endpoint.ask
    def counted(*words, **options):
        with lock: counts.update(now=counts["now"] + 1, most=max(counts["most"], counts["now"] + 1))
        try: return inner(*words, **options)
        finally:
            with lock: counts["now"] -= 1
    judge.speaker.endpoint.ask = counted
    together = judge(texts, samples)
    assert counts["most"] == 8 and judge.facts["judgements"] == 48 and judge.facts["retries"] == 0
    one_by_one = far(server, at_once=1, unreadable="0")
    assert [one_by_one([text], [sample])[0] for text, sample in zip(texts, samples)] == together
    assert len({part["overall"] for part in together}) == 2


def test_tokens_are_counted_alike(server, twin):
    costs = []
    for judge in (far(server), near(twin)):
        judge(WORDS, [cup("red")] * 3)
        cost = judge.cost()
        costs.append((cost["judgements"], cost["prompt_tokens"], cost["completion_tokens"]))
    assert costs[0] == costs[1] and costs[0][2] == pytest.approx(7 / 3) # y, es, end; no, end; no, end


# what goes wrong

def refusal(judge, text=WORDS[0]):
    "What the error says that stops a run"
    with pytest.raises(EndpointError) as refused: judge([text], [cup("red")])
    assert KEY not in str(refused.value)
    return str(refused.value)


def test_a_model_that_is_not_served_is_told_with_those_that_are(server):
    assert refusal(far(server, model="twin-juge")).endswith(
        f"came status 404: The model `twin-juge` does not exist. (asked once); served there: {NAME}")
    without_v1 = refusal(far(server, endpoint=server.address.removesuffix("/v1")))
    assert "status 404: Not Found (asked once); " in without_v1
    assert without_v1.endswith("/models is not there either: expected an address such as http://localhost:8000/v1")


def test_a_request_that_is_too_long_is_told_in_the_servers_words(server):
    told = refusal(far(server, longest=4000), "three discs " * 300)
    assert "status 400: This model's maximum context length is 512 tokens. However, you requested 4 output tokens" in told
    assert told.endswith("Please reduce the length of the input prompt or the number of requested output tokens. "
                         "(parameter=input_tokens, value=509) (asked once)")
    assert "max_tokens=600 cannot be greater than max_model_len" in refusal(far(server, max_tokens=600))


def test_a_key_is_wanted(server, monkeypatch):
    assert refusal(far(server, key_from=None)).endswith("came status 401: Unauthorized (asked once)")
    monkeypatch.setenv("ANOTHER_KEY", "sk-another")
    assert refusal(far(server, key_from="ANOTHER_KEY")).endswith("came status 401: Unauthorized (asked once)")
    assert far(server)(WORDS[:1], [cup("red")])[0]["overall"] == 1.0


# Asked this, the twin says "The cup is red", or green, or blue, with equal chances: it was taught so
OPEN = dict(template=f"{QUESTION}{{completion}}", max_tokens=8)


def answers(server, **more): return tuple(reply.text for reply in said(far(server, **OPEN | more), [""], looked_at()[:9]))


def test_temperature_and_seed_are_heeded(server):
    """The same seed says the same, other seeds do not, and without a temperature the seed is of no matter. All requests have the
    one seed, so the replies to nine cups resemble one another: of six seeds some say the same to all"""
    hot = [answers(server, temperature=1.0, seed=seed) for seed in range(6)]
    assert len(set(hot)) >= 3 and [answers(server, temperature=1.0, seed=seed) for seed in range(6)] == hot
    assert answers(server, seed=1) == answers(server, seed=2)
    assert "status 400: temperature must be in [0, 2], got 3.0." in refusal(far(server, temperature=3.0))


def test_a_reply_that_is_cut_has_no_grade(server, twin):
    "Two tokens are room for *no* and its end, and not for *yes*, which is then on its way to anything: at the server as here"
    for judge in (far(server, max_tokens=2), near(twin, max_tokens=2)):
        assert judge(WORDS[1:2], [cup("red")])[0]["overall"] == 0.0
        with pytest.raises(JudgeError, match="came 'yes': it was cut"): judge(WORDS[:1], [cup("red")])
    paid = far(server, max_tokens=2, unreadable="0.25")(WORDS[:2], [cup("red")] * 2)
    assert [(part["overall"], part["judged"]) for part in paid] == [(0.25, 0.0), (0.0, 1.0)]


# a run that it pays

def test_grpo_is_paid_what_the_judge_says_when_asked_alone(server, twin, tmp_path):
    "Two steps of chapter 05 by the reward `judge:FILE`; then each of its answers by itself, at the server and here"
    from vlrlbook.data import to_dataset
    from vlrlbook.grpo import GRPOSettings, load_policy, make_trainer
    path = tmp_path / "judge.yaml"
    path.write_text(yaml.safe_dump(HOW | dict(endpoint=server.address, model=NAME, key_from="JUDGE_KEY", unreadable=0)))
    samples = [cup(colour, size) for size in ((56, 56), (84, 56)) for colour in COLOURS]
    for row, sample in enumerate(samples): sample.row, sample.task = row, "counting"
    settings = read_settings(GRPOSettings, dict(
        model=str(twin), reward=f"judge:{path}", max_steps=2, batch_size=12, num_generations=4, max_completion_length=8, lr=1e-4,
        logging_steps=1, save_steps=0, refill=0, keep_completions=True, output_dir=str(tmp_path / "run")))
    log, (model, processor) = RunLog(), load_policy(settings)
    make_trainer(settings, model, processor, to_dataset(samples), log=log).train()
    rows = [json.loads(line) for line in (tmp_path / "run/completions.jsonl").read_text().splitlines()]
    assert len(rows) == 24 and {row["question"] for row in rows} == {QUESTION} and len(log) == 2
    assert {row["overall"] for row in rows} == {0.0, 1.0}, "groups that teach something"
    for judge in (far(server, unreadable="0"), near(twin, unreadable="0")):
        assert [judge([row["answer"]], [samples[row["row"]]])[0]["overall"] for row in rows] == [row["overall"] for row in rows]
    for step in (1, 2):
        paid = [row["overall"] for row in rows if row["step"] == step]
        assert log.rows[step - 1]["reward"] == pytest.approx(sum(paid) / len(paid))
        assert log.rows[step - 1]["grad_norm"] > 0
    assert as_reward(path)(WORDS[:1], [samples[0]])[0]["overall"] == 1.0


# a judge that thinks, served with the defaults

@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    "A twin whose grade comes behind a thought; its generation config names top-k, as those of Qwen2-VL and Qwen3-VL do"
    folder = teach("qwen3_vl", tmp_path_factory.mktemp("thinker") / "twin", thinks=True)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(do_sample=True, top_k=1)))
    return folder


@pytest.fixture(scope="module")
def thinking(thinker, tmp_path_factory):
    with vllm_server(thinker, tmp_path_factory.mktemp("thinking"), "--served-model-name", NAME, "--reasoning-parser", "qwen3") as server:
        yield server
    assert not server.lives()


def test_a_thought_is_no_grade(thinking, thinker):
    "vLLM takes the thought out of the reply; here it stands in the text and is passed over: the grades are the same"
    samples, how = looked_at()[:9], dict(max_tokens=24, key_from=None)
    theirs, ours = (judge(WORDS * 9, [sample for sample in samples for _ in WORDS]) for judge in
                    (far(thinking, **how), near(thinker, max_tokens=24)))
    assert theirs == ours and [part["overall"] for part in ours] == [float(text == sample.answer) for sample in samples for text in WORDS]
    assert {reply.text.strip() for reply in said(far(thinking, **how), WORDS, samples)} == {"yes", "no"}
    assert all(reply.text.startswith("<think>") for reply in said(near(thinker, max_tokens=24), WORDS, samples))


def test_a_thought_that_is_cut_has_no_grade(thinking):
    "Its content is null: no grade, and not the end of a run that pays such replies"
    with pytest.raises(JudgeError, match="came '': it was cut"): far(thinking, key_from=None)(WORDS[:1], [cup("red")])
    lenient = far(thinking, key_from=None, unreadable="0.5")
    assert [part["judged"] for part in lenient(WORDS, [cup("red")] * 3)] == [0.0] * 3 and lenient.facts["unreadable"] == 3


def test_a_server_samples_as_the_models_own_config_says(thinking):
    """Without `--generation-config vllm` the model's folder says what a request leaves open: with its top-k of 1 a temperature
    changes nothing. Page 03a says so"""
    hot = {answers(thinking, key_from=None, temperature=1.0, seed=seed) for seed in range(6)}
    assert hot == {answers(thinking, key_from=None)}


def test_a_server_that_is_stopped_in_the_middle(thinking):
    "Tried again, then one clear error; what was judged before is kept. The last test that needs this server"
    judge = far(thinking, key_from=None, max_tokens=24, retries=5, remembered=1000, unreadable="0", at_once=4)
    texts, count = [f"{claim(colour)} {n}" for n in range(200) for colour in COLOURS], judge._count
    def counted(reply):
        count(reply)
        if judge.facts["judgements"] == 10: thinking.stop()
    judge._count = counted
    with pytest.raises(EndpointError) as stopped: judge(texts, [cup("red")] * len(texts))
    assert str(stopped.value).startswith(f"{thinking.address}/chat/completions: expected a chat completion, came no reply: ")
    assert str(stopped.value).endswith("(asked 6 times)")
    assert 10 <= len(judge.known) < len(texts) and not thinking.lives()
    again = judge(texts[:10], [cup("red")] * 10)
    assert len(again) == 10 and judge.facts["from_memory"] == 10

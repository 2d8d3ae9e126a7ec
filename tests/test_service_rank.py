"""POST /rank: a reward model behind the service's doors puts answers in order; without one the address says so."""
import base64
import json

import pytest
import torch
from support.service import (CODES_MET_IN, Served, client, nothing_stays, png, refused, seen)  # fixtures too
from vlrlbook.core import SettingsError, read_settings
from vlrlbook.models import tiny_twin
from vlrlbook.reward_model import VLRewardModel, rank_answers
from vlrlbook.service import Problem, ServiceSettings
from vlrlbook.service.rank_handlers import read_rank_request

ANSWERS = ["A photo of 3 discs", "A photo of 4 discs", "no <|im_end|>"]


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    "Folder of a tiny reward model that tells answers apart"
    twin, processor = tiny_twin("qwen2_vl")
    torch.manual_seed(1)
    made = VLRewardModel(twin.model, processor, base="tiny-qwen2_vl", calibration=dict(temperature=2.0, pairs=40)).eval()
    torch.nn.init.normal_(made.head[2].weight, std=0.5)
    folder = tmp_path_factory.mktemp("judge") / "model"
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(judge, tmp_path_factory):
    served = Served(tmp_path_factory.mktemp("ranking"), "--reward_model", str(judge))
    yield served
    served.stop()


def rank(c, **body): return c.post("/rank", json=dict(question="How many discs?", answers=ANSWERS) | body)


def test_answers_come_back_in_order(server, judge):
    picture = png(64)
    wanted = rank_answers(VLRewardModel.from_pretrained(judge, "cpu"), picture, "How many discs?", ANSWERS)
    encoded = base64.b64encode(picture).decode()
    for image in (encoded, "data:image/png;base64," + encoded):
        said = rank(server, image=image)
        assert said.status_code == 200, said.text
        found = said.json()
        assert (found["calibrated"], found["temperature"]) == (True, 2.0)
        assert [row["answer"] for row in found["ranked"]] == [row["answer"] for row in wanted]
        for row, own in zip(found["ranked"], wanted):
            assert row["score"] == pytest.approx(own["score"], abs=1e-4) and row["chance"] == pytest.approx(own["chance"], abs=1e-4)
    blind = rank(server).json()["ranked"]
    assert [row["score"] for row in blind] != pytest.approx([row["score"] for row in found["ranked"]], abs=1e-4)


def test_the_doors_are_the_same(server):
    refused(server.post("/rank", json={}, headers={"authorization": "Bearer wrong"}), "door.token")
    refused(server.post("/rank", json={}, headers={"origin": "http://evil.example"}), "door.origin")
    refused(server.post("/rank", data="{}", headers={"content-type": "text/plain"}), "body.type")
    refused(server.post("/rank", data="{", headers={"content-type": "application/json"}), "json.syntax")
    refused(server.post("/rank?fast=1", json={}), "query.unknown")
    # a picture larger than a request may be is not read to its end
    refused(rank(server, image="A" * (13 << 20)), "body.size")
    assert rank(server).status_code == 200


@pytest.mark.parametrize("wrong, told", [
    (dict(image="no base64!"), ""), (dict(image=base64.b64encode(b"no picture").decode()), ""),
    (dict(question="<|image_pad|> what?"), "query holds")])
def test_what_the_model_refuses_is_told(server, wrong, told):
    assert told in refused(rank(server, **wrong), "rank.request")["detail"]
    assert rank(server).status_code == 200 # and the next one is served


@pytest.mark.parametrize("body, told", [
    (dict(), "question"), (dict(question=" ", answers=["a"]), "question"), (dict(question="a" * 8001, answers=["a"]), "question"),
    (dict(question="?"), "answers"), (dict(question="?", answers=[]), "answers"), (dict(question="?", answers=["a"] * 65), "answers"),
    (dict(question="?", answers=["a", 3]), "number 2"), (dict(question="?", answers=["a", " "]), "number 2"),
    (dict(question="?", answers="a"), "answers"), (dict(question="?", answers=["a"], image=3), "image"),
    (dict(question="?", answers=["a"], images="x"), "did you mean 'image'")])
def test_requests_that_cannot_be_are_refused(body, told):
    with pytest.raises(Problem, match=told) as problem: read_rank_request(body)
    assert problem.value.code == "rank.request"


def test_without_a_model_there_is_no_ranking(client):
    refused(rank(client()), "rank.none")
    with pytest.raises(SettingsError, match="this is no reward model"): read_settings(ServiceSettings, dict(reward_model="nowhere"))


def test_too_many_wait_their_turn(client, judge):
    c = client(reward_model=str(judge))
    c.service.rank_side.waiting = c.service.settings.uploads_at_once
    assert refused(rank(c), "rank.busy") and rank(c).headers["retry-after"]


def test_a_model_that_cannot_be_loaded_is_told_and_tried_again(tmp_path, judge):
    "The process dies; the server does not, and answers again when the model is whole"
    import shutil
    broken = tmp_path / "model"
    shutil.copytree(judge, broken)
    (broken / "head.safetensors").rename(broken / "away")
    served = Served(tmp_path, "--reward_model", str(broken))
    try:
        refused(rank(served), "rank.failed")
        assert "head.safetensors" in (tmp_path / "serve.log").read_text()
        (broken / "away").rename(broken / "head.safetensors")
        assert rank(served).status_code == 200
        # its process is killed between two requests: the next one starts another
        import psutil
        child = next(p for p in psutil.Process(served.process.pid).children() if "serve_judge" in " ".join(p.cmdline()))
        child.kill()
        child.wait(10)
        assert rank(served).status_code in (200, 503) and rank(served).status_code == 200
    finally: served.stop()
    assert not any(str(broken) in (p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))


def test_a_line_that_is_too_long_is_told_as_such():
    "Not as a process that was too slow"
    import asyncio
    from types import SimpleNamespace
    from vlrlbook.service.judge_process import Judge
    async def read():
        judge, stdout = Judge("nowhere"), asyncio.StreamReader(limit=100)
        stdout.feed_data(b"x" * 1000)
        judge.child = SimpleNamespace(stdout=stdout, returncode=0)
        await judge._read_line(5)
    with pytest.raises(Problem, match="longer than any ranking"): asyncio.run(read())


def test_every_code_of_rank_was_met():
    "The last test: each code that this file is to meet was answered somewhere above"
    assert CODES_MET_IN["rank"] - seen == set()

"""Rows as they come, runs that go wrong, and the settings that people use: GRPO on files with and without pictures in a row."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from PIL import Image, ImageDraw
from vlrlbook.core import RunLog, SettingsError, read_settings
from vlrlbook.data import DataError, load_vqa, preflight
from vlrlbook.grpo import GRPOSettings, grpo_config, load_data, load_policy, make_trainer, push, run
from vlrlbook.run_files import check_output_dir
from vlrlbook.run_records import Completions
from vlrlbook.training import NotANumber

PICTURES = {
    "mixed": lambda i: [[], [i], [i, i + 1]][i % 3],  # a third each with none, one and two
    "third": lambda i: [i] if i % 3 else [],
    "one": lambda i: [i],
}
SHORT = dict(task="vqa", warm_steps=5, batch_size=16, num_generations=4, max_steps=2, eval_samples=8, logging_steps=1, save_steps=2,
             lr=1e-3, max_completion_length=8, reward="test_trainers:by_length", temperature=1.0)


def by_length(completion, answer): return dict(overall=float(len(completion) % 5) + 0.1 * (answer.lower() in completion.lower()))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "Rows of each kind, 36 in a file"
    folder = tmp_path_factory.mktemp("rows")
    for i in range(37):
        picture = Image.new("RGB", (100 + 7 * (i % 9), 60 + 11 * (i % 11)), "white")
        ImageDraw.Draw(picture).ellipse([30, 15, 60 + i % 3, 45], fill=("red", "blue", "green")[i % 3])
        picture.save(folder / f"{i}.png")
    for name, of_row in PICTURES.items():
        rows = []
        for i in range(36):
            question = "<image>" * len(of_row(i)) + f" Is there a red disc {i}?"
            rows.append(dict(question=question.strip(), answer="yes" if i % 2 else "no", images=[f"{k}.png" for k in of_row(i)]))
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def trained(files, out, kind="one", **more):
    settings = read_settings(GRPOSettings, SHORT | dict(data=str(files / f"{kind}.jsonl"), output_dir=str(out)) | more)
    return run(settings, measure=False)


# ---- rows as they come

@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "qwen3_5", "gemma3"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("seed", [1, 3])
def test_rows_with_and_without_pictures_meet_in_a_batch(files, tmp_path, family, shared, seed):
    "With seed 3 the first group of the first batch is text alone and another has pictures"
    found = trained(files, tmp_path, "mixed", model=f"tiny-{family}", seed=seed, shared_prompt=shared)
    assert found["steps"] == 2 and found["shared_prompt"] == ("on" if shared else "off: shared_prompt is false")
    log = RunLog.read(tmp_path / "run_log.csv")
    assert len(log) == 2 and all(row["grad_norm"] > 0 for row in log.rows)


def test_a_mixed_run_with_a_reference_goes_on(files, tmp_path):
    trained(files, tmp_path, "mixed", model="tiny-qwen3_vl", beta=0.04)
    found = trained(files, tmp_path, "mixed", model="tiny-qwen3_vl", beta=0.04, max_steps=4, resume="true")
    assert found["steps"] == 4
    lines = (tmp_path / "run_log.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines[1:]] == ["1", "2", "3", "4"], "one way of writing a step"


def test_two_processes_of_which_one_has_no_picture(files, tmp_path):
    "In some steps a process has text alone; it must not wait for the other's pictures"
    settings = SHORT | dict(data=files / "third.jsonl", output_dir=tmp_path, batch_size=4, max_steps=4, save_steps=0, seed=1)
    options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "vlrlbook.grpo", *options]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(RunLog.read(tmp_path / "run_log.csv")) == 4


def test_a_picture_without_a_size_is_named(tmp_path):
    Image.new("RGB", (20, 5000), "white").save(tmp_path / "thin.png")
    Image.new("RGB", (40, 50), "white").save(tmp_path / "good.png")
    rows = [dict(question=f"<image>Is there a disc {i}?", answer="no", images=[["good.png", "thin.png"][i == 2]]) for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="row 3.*20 × 5000"): load_vqa(tmp_path / "rows.jsonl")


def test_a_picture_that_only_the_processor_refuses_is_listed_with_its_row():
    "A set that was not made by our readers"
    from vlrlbook.core import Sample
    from vlrlbook.data import to_dataset
    from vlrlbook.models import twin_processor
    def rows(size): return to_dataset([Sample("Is there a disc?", "no", [Image.new("RGB", size)], "vqa", row=7)])
    processor = twin_processor("qwen2_5_vl")
    for train, held in (((20, 5000), (40, 50)), ((40, 50), (20, 5000))):
        problems = preflight(rows(train), processor, rows(held)).problems
        assert [(p["row"], p["code"]) for p in problems] == [(7, "image.shape")] and "20 x 5000" in problems[0]["message"]


# ---- when it goes wrong

def test_a_gradient_that_is_no_number_stops_the_run_before_a_checkpoint(files, tmp_path):
    with pytest.raises(NotANumber, match=r"step 2: the gradient is not a number.*no checkpoint.*lr = 1e\+06"):
        trained(files, tmp_path, lr=1e6, max_steps=6, save_steps=2)
    assert not list(tmp_path.glob("checkpoint-*"))
    with pytest.raises(SettingsError, match="there is no checkpoint"): trained(files, tmp_path, lr=1e6, max_steps=6, resume="true")


def test_weights_that_are_no_numbers_are_not_saved(files, tmp_path):
    "However they came about; what was saved before stays, and is named"
    trained(files, tmp_path)
    given = dict(data=str(files / "one.jsonl"), output_dir=str(tmp_path), max_steps=4, resume="true")
    settings = read_settings(GRPOSettings, SHORT | given)
    train = load_data(settings)[0]
    trainer = make_trainer(settings, *load_policy(settings), train)
    def spoil(**inputs):
        if trainer.state.global_step == 3:
            with torch.no_grad(): next(p for p in trainer.model.parameters() if p.requires_grad).fill_(float("nan"))
    trainer._check_weights, check = lambda model: (spoil(), check(model)), trainer._check_weights
    trainer.state.global_step = 3
    with pytest.raises(NotANumber, match="1 weights are not numbers .*checkpoint-2 is whole: go on from it"):
        trainer._save_checkpoint(trainer.model, None)
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"] and not (tmp_path / ".saving").exists()


@pytest.mark.parametrize("other, told", [(dict(lr=1e-6), "lr = 0.001 then, 1e-06 now"), (dict(lora_r=4), "lora_r = 16 then, 4 now"),
                                         (dict(batch_size=8), "batch_size = 16 then, 8 now"), (dict(data="third"), "rows_of_data")])
def test_a_run_does_not_go_on_with_other_settings(files, tmp_path, other, told):
    trained(files, tmp_path)
    before = (tmp_path / "run_log.csv").read_bytes()
    kind = other.pop("data", "one")
    with pytest.raises(SettingsError, match=told): trained(files, tmp_path, kind, max_steps=4, resume="true", **other)
    assert (tmp_path / "run_log.csv").read_bytes() == before, "nothing was touched"


def contents(folder): return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def steps_logged(folder): return RunLog.read(folder / "run_log.csv").series("lr")[0]


def called_off(files, out, monkeypatch, **more):
    "A run that is stopped, as by Ctrl-C, while the held-out pictures are asked before the training"
    def stop(*args): raise KeyboardInterrupt
    monkeypatch.setattr("vlrlbook.grpo.predict_together", stop)
    settings = read_settings(GRPOSettings, SHORT | dict(data=str(files / "one.jsonl"), output_dir=str(out)) | more)
    with pytest.raises(KeyboardInterrupt): run(settings)


def test_a_run_that_is_called_off_before_it_trains_has_touched_nothing(files, tmp_path, monkeypatch, capsys):
    trained(files, tmp_path, max_steps=3, save_steps=1)
    before = contents(tmp_path)
    called_off(files, tmp_path, monkeypatch, lr=1e-6)
    assert "an earlier run, up to checkpoint-3: resume = true would go on" in capsys.readouterr().out
    called_off(files, tmp_path, monkeypatch, resume=str(tmp_path / "checkpoint-2"), max_steps=3, save_steps=1)
    assert contents(tmp_path) == before and not list(tmp_path.glob("earlier-*"))
    with pytest.raises(SettingsError, match="lr = 0.001 then, 1e-06 now"): trained(files, tmp_path, max_steps=4, resume="true", lr=1e-6)
    assert trained(files, tmp_path, max_steps=4, save_steps=1, resume="true")["steps"] == 4
    assert steps_logged(tmp_path) == [1, 2, 3, 4]


def test_a_run_that_fails_leaves_nothing_of_the_one_before_beside_its_log(files, tmp_path, monkeypatch):
    trained(files, tmp_path, keep_completions=True)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "config.json").write_text("mine, too: the run has left no whole model")
    first = contents(tmp_path)
    with monkeypatch.context() as patch:
        def fail(*args): raise RuntimeError("no room")
        patch.setattr("vlrlbook.grpo.finish", fail)
        with pytest.raises(RuntimeError): trained(files, tmp_path, lr=1.0, max_steps=1, save_steps=0)
    mine = {"notes.txt", "config.json"}
    assert set(contents(tmp_path)) == {"run_log.csv", "begun_with.json"} | mine and steps_logged(tmp_path) == [1]
    earlier = tmp_path / "earlier-1"
    assert contents(earlier) == {name: content for name, content in first.items() if name not in mine}
    assert (earlier / "checkpoint-2").is_dir()
    more = dict(keep_completions=True, max_steps=3)
    with pytest.raises(SettingsError, match="no checkpoint in .*; an earlier run was moved aside, and resume = '.*earlier-1/checkpoint-2'"):
        trained(files, tmp_path, resume="true", **more)
    checkpoint = str(earlier / "checkpoint-2")
    with pytest.raises(SettingsError, match="lr = 0.001 then, 1.0 now"): trained(files, tmp_path, resume=checkpoint, lr=1.0)
    assert trained(files, tmp_path, resume=checkpoint, **more)["steps"] == 3
    assert steps_logged(tmp_path) == [1, 2, 3] and steps_logged(tmp_path / "earlier-2") == [1], "the log of the checkpoint's own run"
    assert json.loads((tmp_path / "begun_with.json").read_text())["lr"] == 1e-3
    kept = [json.loads(line)["step"] for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert kept == [1] * 16 + [2] * 16 + [3] * 16


def test_a_run_that_begins_with_the_adapter_in_its_own_folder_can_go_on(files, tmp_path):
    trained(files, tmp_path, lora_dropout=0.0)
    first = contents(tmp_path)
    trained(files, tmp_path, adapter=str(tmp_path), save_steps=1, lr=1e-4)
    assert contents(tmp_path / "earlier-1") == first != contents(tmp_path)
    assert contents(tmp_path)["adapter_model.safetensors"] != first["adapter_model.safetensors"]
    assert trained(files, tmp_path, adapter=str(tmp_path), max_steps=3, save_steps=1, lr=1e-4, resume="true")["steps"] == 3
    settings = json.loads((tmp_path / "results.json").read_text())["settings"]
    assert settings["lora_dropout"] == 0.0, "that of the adapter, which trained"


def test_what_may_differ_does(files, tmp_path):
    trained(files, tmp_path)
    moved = files.parent / "moved"
    if not moved.exists(): moved.symlink_to(files)
    found = trained(moved, tmp_path, max_steps=3, save_steps=1, logging_steps=2, resume="true", shared_prompt=False)
    assert found["steps"] == 3


@pytest.mark.parametrize("name, more", [("README.md", {}), ("results.json", {}), ("pictures.json", {}), ("completions.jsonl", {}),
                                        ("tokenizer_config.json", {}), ("adapter_model.safetensors", {}),
                                        ("config.json", dict(use_lora=False))])
def test_files_that_no_run_has_left_are_not_written_over(files, tmp_path, monkeypatch, name, more):
    "A run in a project's folder wrote its model card over the project's README.md, without a word"
    monkeypatch.setattr("vlrlbook.grpo.load_data", lambda settings: pytest.fail("it began"))
    (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(SettingsError, match=f"output_dir = .*: holds {name}, which this run would write over.*a folder of its own"):
        trained(files, tmp_path, **more)
    assert contents(tmp_path) == before


def test_many_such_files_are_counted_in_three(tmp_path):
    for name in ("results.json", "README.md", "pictures.json", "tokenizer.json", "notes.txt"): (tmp_path / name).write_text("mine")
    with pytest.raises(SettingsError, match="holds README.md, pictures.json, results.json, …, which"):
        check_output_dir(read_settings(GRPOSettings, dict(output_dir=str(tmp_path))))


def test_other_folders_are_taken_as_ever(tmp_path):
    "New, empty, with hidden files or files of other names; and those of earlier runs, whatever is left of them"
    def check(name, *file_names, **more):
        folder = tmp_path / name
        if file_names: folder.mkdir()
        for file_name in file_names:
            path = folder / file_name
            if path.suffix: path.write_text(json.dumps(dict(settings=dict(task="vqa"))))
            elif file_name.startswith("."): path.write_text("hidden")
            else: path.mkdir()
        check_output_dir(read_settings(GRPOSettings, dict(output_dir=str(folder)) | more))
    check("new")
    (tmp_path / "empty").mkdir()
    check("empty")
    check("hidden", ".git", ".README.md")
    check("project", "notes.txt", "rows.jsonl", "config.json", "mine.py")
    for sign in ("begun_with.json", "run_log.csv", "checkpoint-4", "earlier-1", "training_args.json"):
        check(sign.split(".")[0], sign, "README.md", "results.json", "adapter_config.json", "tokenizer.json")
    with pytest.raises(SettingsError, match="holds README.md"): check("drafts", "earlier-drafts", "README.md")


def test_the_hub_is_asked_before_anything_is_computed(files, tmp_path, monkeypatch):
    monkeypatch.setattr("vlrlbook.grpo.load_data", lambda settings: pytest.fail("it began"))
    with pytest.raises(SettingsError, match="hub_model_id = 'me/x': the hub does not know who you are"):
        trained(files, tmp_path, hub_model_id="me/x")
    monkeypatch.setattr("huggingface_hub.HfApi.whoami", lambda self: dict(name="ana", orgs=[dict(name="lab")]))
    with pytest.raises(SettingsError, match="ana may write to ana, lab only"): trained(files, tmp_path, hub_model_id="me/x")


def test_a_push_that_fails_says_where_the_files_lie(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs): raise OSError("no route\nto host")
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    settings = read_settings(GRPOSettings, dict(hub_model_id="ana/x", output_dir=str(tmp_path)))
    with pytest.raises(SettingsError, match="the run is done and all its files lie in .*no route to host"): push(settings)


# ---- what a run keeps

def test_cut_answers_are_counted_and_every_answer_is_kept(files, tmp_path):
    trained(files, tmp_path, max_completion_length=2, keep_completions=True, eval_steps=1)
    log = RunLog.read(tmp_path / "run_log.csv")
    assert log.series("cut") == ([1, 2], [1.0, 1.0]) and log.series("eval/reward")[0] == [1, 2]
    rows = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1] * 16 + [2] * 16
    for row in rows: assert row["overall"] == by_length(row["answer"], row["truth"])["overall"] and 1 <= row["row"] <= 36
    torn = (tmp_path / "completions.jsonl").read_text() + '{"step": 3, "row'
    (tmp_path / "completions.jsonl").write_text(torn)
    trained(files, tmp_path, max_completion_length=2, keep_completions=True, max_steps=3, resume="true")
    after = [json.loads(line)["step"] for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert after == [1] * 16 + [2] * 16 + [3] * 16


def test_a_new_run_begins_its_file_anew(tmp_path):
    class State: global_step = 0
    from vlrlbook.core import Sample
    (tmp_path / "completions.jsonl").write_text('{"step": 1}\n')
    Completions(tmp_path)(["a"], [dict(overall=1.0)], [Sample("q", "a", [], "vqa", row=4)], State)
    assert [json.loads(line)["row"] for line in (tmp_path / "completions.jsonl").read_text().splitlines()] == [4]


def test_any_answer_survives_a_resumption(tmp_path):
    "Not every character at which `str.splitlines` splits ends a line of JSON"
    class State: global_step = 0
    from vlrlbook.core import Sample
    path, sample = tmp_path / "completions.jsonl", Sample("q", "a", [], "vqa", row=4)
    answers = ["a\u2028b", "a\x85b", "a\x0bb", "a\x0cb", "a\x1cb", "a\r\nb"]
    Completions(tmp_path)(answers, [dict(overall=1.0)] * 6, [sample] * 6, State)
    State.global_step = 1
    Completions(tmp_path)(["c"], [dict(overall=1.0)], [sample], State)
    with open(path, encoding="utf-8") as file: assert [json.loads(line)["answer"] for line in file] == answers + ["c"]


@pytest.mark.parametrize("cut, kept", [(b'{"step": 1, "answer": "{\\"n\\": 3}', False), (b'{"step": 1, "answer": "caf\xc3', False),
    (b'{"step": 1}', True), (b'{"step": 1, "row', False)])
def test_only_the_last_row_may_be_cut(tmp_path, cut, kept):
    "A kill cuts the last one, also behind a brace in an answer or within a letter; a damaged row before it is named"
    class State: global_step = 1
    path, whole = tmp_path / "completions.jsonl", b'{"step": 1, "answer": "x"}\n'
    path.write_bytes(whole + cut)
    Completions(tmp_path)([], [], [], State)
    assert path.read_bytes() == whole + (cut + b"\n") * kept
    if kept: return
    path.write_bytes(whole + cut + b"\n" + whole)
    there, recorder = path.read_bytes(), Completions(tmp_path)
    for _ in range(2):
        with pytest.raises(DataError, match="row 2, 'completions.jsonl': no row of JSON with a step"): recorder([], [], [], State)
    assert path.read_bytes() == there


# ---- settings that people use

def test_trl_gets_every_setting(tmp_path):
    from vlrlbook.models import twin_processor
    given = dict(top_p=0.9, top_k=20, min_p=0.05, epsilon_high=0.28, importance_sampling_level="sequence", scale_rewards="batch",
                 use_bias_correction_kl=False, optim="adamw_torch", weight_decay=0.01, max_grad_norm=0.5, loss_type="sapo")
    config = grpo_config(read_settings(GRPOSettings, given | dict(gradient_checkpointing=True, output_dir=str(tmp_path))),
                         twin_processor("qwen2_5_vl"))
    assert {name: getattr(config, name) for name in given} == given
    assert getattr(config, "activation_checkpointing", None) or config.gradient_checkpointing


@pytest.mark.parametrize("given, told", [
    (dict(top_p=0), "top_p = 0"), (dict(min_p=2), "min_p = 2"), (dict(loss_type="cispo"), "cispo with epsilon_high = None"),
    (dict(loss_type="gspo"), "loss_type = 'gspo'"), (dict(importance_sampling_level="sequences"), "did you mean 'sequence'"),
    (dict(scale_rewards="std"), "scale_rewards = 'std'"), (dict(attention="flash"), "did you mean 'flash_attention_2'"),
    (dict(eval_steps=-1), "eval_steps = -1"), (dict(epsilon_high=-1), "epsilon_high = -1")])
def test_slips_are_refused(given, told):
    with pytest.raises(SettingsError, match=told): read_settings(GRPOSettings, given)


def test_words_of_transformers_are_looked_up(tmp_path):
    from vlrlbook.models import twin_processor
    for given, told in ((dict(optim="adamw_torch_fuse"), "did you mean 'adamw_torch_fused'"),
                        (dict(lr_scheduler_type="cosin"), "did you mean 'cosine'")):
        with pytest.raises(SettingsError, match=told):
            grpo_config(read_settings(GRPOSettings, given | dict(output_dir=str(tmp_path))), twin_processor("qwen2_5_vl"))


def test_names_that_others_give():
    given = dict(mask_truncated_completions="true", per_device_train_batch_size=16, attn_implementation="eager", optimizer="sgd")
    settings = read_settings(GRPOSettings, given)
    assert (settings.when_cut, settings.batch_size, settings.attention, settings.optim) == ("masked", 16, "eager", "sgd")


@pytest.mark.parametrize("given", [dict(loss_type="cispo", epsilon_high=5.0), dict(loss_type="sapo"),
                                   dict(importance_sampling_level="sequence"), dict(scale_rewards="none"),
                                   dict(top_p=0.5, top_k=5, min_p=0.01), dict(gradient_checkpointing=True)])
def test_each_of_them_trains(files, tmp_path, given):
    found = trained(files, tmp_path, save_steps=0, **given)
    rows = RunLog.read(tmp_path / "run_log.csv").rows
    assert found["steps"] == 2 and all(row["grad_norm"] > 0 for row in rows)


def test_top_k_narrows_what_is_sampled(files, tmp_path):
    "With one token to choose from, the answers of a group are equal"
    trained(files, tmp_path, save_steps=0, max_steps=1, top_k=1, keep_completions=True)
    rows = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert all(len({row["answer"] for row in rows[first:first + 4]}) == 1 for first in range(0, 16, 4))

"""Rows as they come, runs that go wrong, and the settings that people use: GRPO on files with and without pictures in a row."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from vlrlbook.answers import generate_ids, speakers
from vlrlbook.core import RunLog, SettingsError, read_settings, set_seed
from vlrlbook.data import DataError, load_vqa, preflight, to_samples
from vlrlbook.grpo import GRPOSettings, _weights_to_train, grpo_config, load_data, load_policy, make_trainer, push, run
from vlrlbook.model_files import without_own_sampling
from vlrlbook.models import add_lora, load_vlm
from vlrlbook.run_files import as_it_began, check_output_dir
from vlrlbook.run_records import Completions
from vlrlbook.training import NotANumber, check_schedule
from vlrlbook.trl_words import check_optimizer, check_transformers_words
from vlrlbook.warm_twins import warm_start

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
        patch.setattr("vlrlbook.grpo.save_run", fail)
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


def test_every_schedule_is_made_or_refused(tmp_path):
    "What the check lets pass, TRL takes and transformers makes, without a setting more"
    from transformers import SchedulerType, get_scheduler
    from vlrlbook.models import twin_processor
    processor, refused = twin_processor("qwen2_5_vl"), {}
    for name in (str(member.value) for member in SchedulerType):
        settings = read_settings(GRPOSettings, dict(lr_scheduler_type=name, warmup_steps=2, max_steps=10, output_dir=str(tmp_path)))
        try:
            check_transformers_words(settings)
        except SettingsError as error:
            refused[name] = str(error)
            continue
        assert grpo_config(settings, processor).lr_scheduler_type == name
        get_scheduler(name, torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0), 2, 10)
    assert "min_lr" in refused["cosine_with_min_lr"] and "num_decay_steps" in refused["warmup_stable_decay"]
    assert "evaluations" in refused["reduce_lr_on_plateau"] and all("linear" in told for told in refused.values())
    assert not {"linear", "cosine", "constant", "constant_with_warmup", "cosine_with_restarts", "polynomial", "inverse_sqrt"} & set(refused)


def test_a_schedule_by_evaluations_needs_some():
    check_schedule("reduce_lr_on_plateau", evaluates=True)
    with pytest.raises(SettingsError, match="this run has none"): check_schedule("reduce_lr_on_plateau")


@pytest.mark.parametrize("given, told", [(dict(lr_scheduler_type="cosine_with_min_lr"), "min_lr"), (dict(optim="adamw"), "did you mean")])
def test_a_run_is_refused_before_its_model_is_loaded(tmp_path, monkeypatch, given, told):
    monkeypatch.setattr("vlrlbook.grpo.load_policy", lambda settings: pytest.fail("the model was loaded"))
    with pytest.raises(SettingsError, match=told): run(read_settings(GRPOSettings, SHORT | given | dict(output_dir=str(tmp_path))))


def test_an_optimizer_that_cannot_be_made_is_named(tmp_path):
    from transformers import TrainingArguments
    check_optimizer(TrainingArguments(output_dir=str(tmp_path), optim="adamw_torch", use_cpu=True))
    with pytest.raises(SettingsError, match="'grokadamw' cannot be made here"):
        check_optimizer(TrainingArguments(output_dir=str(tmp_path), optim="grokadamw", use_cpu=True))


@pytest.mark.parametrize("given, is_told", [
    (dict(warmup_steps=1000, max_steps=200), True), (dict(warmup_steps=200, max_steps=200, lr_scheduler_type="cosine"), True),
    (dict(warmup_steps=199, max_steps=200), False), (dict(max_steps=1), False), (dict(warmup_steps=1000, num_epochs=1), False),
    (dict(warmup_steps=1000, max_steps=200, lr_scheduler_type="constant"), False)])
def test_a_warmup_as_long_as_the_run_is_told(capsys, given, is_told):
    check_transformers_words(read_settings(GRPOSettings, given))
    assert ("the run ends before the learning rate" in capsys.readouterr().out) == is_told


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


# ---- a model's own generation config

@pytest.fixture(scope="module")
def start():
    "Folder of a twin after a few supervised steps: its answers are not all alike"
    return Path(warm_start("qwen2_5_vl", SHORT["warm_steps"], task="vqa"))


def with_config(start, folder, **own):
    "A copy of a model whose generation_config.json says more"
    shutil.copytree(start, folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    return folder


def of(folder, files, **more):
    given = SHORT | dict(size="tiny", model=str(folder), data=str(files / "one.jsonl"), max_steps=1, save_steps=0, lora_r=4)
    return read_settings(GRPOSettings, given | more)


def asked(folder, files, tmp_path):
    "Greedy and sampled answers of a policy before its training"
    settings = of(folder, files, output_dir=str(tmp_path / "out"))
    model, processor = load_policy(settings)
    samples = to_samples(load_data(settings)[1])[:3]
    return [generate_ids(model, processor, samples, n, t, max_new_tokens=8) for n, t in ((1, 0.0), (4, 1.0))]


@pytest.mark.parametrize("own", [
    dict(min_p=0.9), dict(min_new_tokens=7), dict(num_beams=4), dict(typical_p=0.2, do_sample=True), dict(epsilon_cutoff=0.1),
    dict(stop_strings=["a"]), dict(return_dict_in_generate=True, output_scores=True), dict(num_return_sequences=3, do_sample=True),
    dict(no_repeat_ngram_size=1, bad_words_ids=[[300]])])
def test_answers_are_by_the_settings_alone(start, files, tmp_path, capsys, own):
    wanted = asked(start, files, tmp_path)
    assert "generation_config" not in capsys.readouterr().out
    assert asked(with_config(start, tmp_path / "own", **own), files, tmp_path) == wanted
    told = capsys.readouterr().out
    assert all(f"{name} = " in told for name in own if name != "do_sample"), told


@pytest.mark.parametrize("shared", [True, False])
def test_both_ways_of_sampling_train_alike(start, files, tmp_path, shared):
    folder, lengths = with_config(start, tmp_path / "own", min_new_tokens=7, num_beams=2, exponential_decay_length_penalty=[2, 1.5]), []
    for model in (start, folder):
        settings = of(model, files, output_dir=str(tmp_path / "out"), shared_prompt=shared)
        set_seed(1)
        trainer = make_trainer(settings, *load_policy(settings), load_data(settings)[0])
        trainer.train()
        assert trainer.sharing == shared
        lengths.append(trainer.state.log_history[0]["completions/mean_length"])
    assert lengths[0] == lengths[1]


def test_what_is_said_twice_stays_and_is_not_told(start, tmp_path, capsys):
    "Values that every caller gives itself, and values that say nothing"
    folder = with_config(start, tmp_path / "own", temperature=0.7, top_k=1, top_p=0.5, repetition_penalty=1.05, do_sample=True,
                         max_length=30, cache_implementation="static", num_beams=1, min_length=0)
    model = without_own_sampling(load_vlm(str(folder))[0], str(folder))
    kept = model.generation_config
    assert kept.cache_implementation == "static" and kept.eos_token_id == load_vlm(str(start))[0].generation_config.eos_token_id is not None
    assert "left out" not in capsys.readouterr().out


def test_a_whole_model_keeps_its_generation_config(start, files, tmp_path):
    folder = with_config(start, tmp_path / "own", min_p=0.25, temperature=0.7)
    run(of(folder, files, output_dir=str(tmp_path / "out"), use_lora=False), measure=False)
    kept = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (kept["min_p"], kept["temperature"]) == (0.25, 0.7) and kept["eos_token_id"]


def test_a_finished_model_is_asked_by_the_settings_alone(start, tmp_path, capsys):
    folder = with_config(start, tmp_path / "own", min_p=0.9)
    loaded, _ = speakers(str(start), str(folder))
    assert [model.generation_config.min_p for _, model, _ in loaded] == [None, None]
    assert "own: its generation_config.json sets min_p = 0.9" in capsys.readouterr().out
    add_lora(load_vlm(str(folder))[0], r=2, alpha=4, dropout=0.0).save_pretrained(tmp_path / "adapter")
    loaded, _ = speakers(str(folder), str(tmp_path / "adapter"))
    assert [model.generation_config.min_p for _, model, _ in loaded] == [None, None]


# ---- number types of what trains

@pytest.fixture
def as_on_a_gpu(monkeypatch):
    "Weights are loaded in bfloat16, as on a GPU, where nothing else is said"
    from vlrlbook import models
    own = models.pick_dtype
    for module in ("models", "grpo"):
        monkeypatch.setattr(f"vlrlbook.{module}.pick_dtype", lambda name="auto": torch.bfloat16 if name == "auto" else own(name))


def test_all_weights_train_in_float32(start, files, tmp_path, as_on_a_gpu, capsys):
    "At a usual rate of full training every weight with a gradient moves; in bfloat16 nearly none did"
    settings = of(start, files, output_dir=str(tmp_path), use_lora=False, lr=1e-6, lr_scheduler_type="constant")
    model, processor = load_policy(settings)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("all weights train")]
    assert len(told) == 1 and "float32" in told[0] and {weight.dtype for weight in model.parameters()} == {torch.float32}
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    set_seed(1)
    make_trainer(settings, model, processor, load_data(settings)[0]).train()
    # Of words that no answer holds and no prompt has there is no gradient: the language model's layers are looked at.
    layers = [name for name in before if "language_model.layers" in name and name.endswith("proj.weight")]
    moved = [(model.get_parameter(name) != before[name]).float().mean() for name in layers]
    assert torch.stack(moved).mean() > 0.9


def test_adapters_are_loaded_as_before(start, files, tmp_path, as_on_a_gpu, capsys):
    model, _ = load_policy(of(start, files, output_dir=str(tmp_path)))
    types = {weight.requires_grad: weight.dtype for weight in model.parameters()}
    assert types == {False: torch.bfloat16, True: torch.float32}
    assert "all weights train" not in capsys.readouterr().out


@pytest.mark.parametrize("given, wanted", [
    (dict(use_lora=False), dict(dtype="float32", attention="auto")),
    (dict(use_lora=False, attention="eager"), dict(dtype="float32", attention="eager")),
    (dict(use_lora=False, attention="flash_attention_2"), dict(dtype="float32", attention="sdpa")),
    (dict(attention="flash_attention_2"), dict(dtype="auto", attention="flash_attention_2")),
    (dict(use_4bit=True), dict(dtype="auto", attention="auto"))])
def test_what_is_loaded_where_there_is_a_gpu(as_on_a_gpu, capsys, given, wanted):
    settings = read_settings(GRPOSettings, dict(size="gpu", use_4bit=False) | given)
    assert _weights_to_train(settings) == wanted
    told = capsys.readouterr().out
    assert ("float32" in told) == (not settings.use_lora) and ("reads no float32" in told) == (given.get("attention") == "flash_attention_2"
                                                                                               and not settings.use_lora)


def test_a_cpu_says_nothing(capsys):
    assert _weights_to_train(read_settings(GRPOSettings, dict(use_lora=False))) == dict(dtype="auto", attention="auto")
    assert capsys.readouterr().out == ""


# ---- what settings only name

def begun(folder, monkeypatch, processes=1, model=b"old weights", paid=1.0, reward="paid_by_mine:pay", **more):
    "Settings of a run in `folder`, whose reward, judge and model are files beside it, written anew"
    (folder / "paid_by_mine.py").write_text(f"def pay(completion, answer): return dict(overall={paid})\n")
    (folder / "judge.yaml").write_text(f"model: x\ntemperature: {paid}\n")
    (folder / "model").mkdir(exist_ok=True)
    save_file({"w": torch.frombuffer(bytearray(model), dtype=torch.uint8)}, folder / "model/model.safetensors")
    (folder / "model/config.json").write_text(json.dumps(dict(text_config=dict(hidden_size=128))))
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("paid_by_mine", None)  # of another test's folder
    given = dict(model=str(folder / "model"), reward=reward, batch_size=8, num_generations=4, output_dir=str(folder / "run"), refill=0)
    return read_settings(GRPOSettings, given | more)


def goes_on(settings):
    as_it_began(settings, f"{settings.output_dir}/checkpoint-2", None)
    as_it_began(settings, f"{settings.output_dir}/checkpoint-2", None, compare_only=True)


@pytest.fixture
def a_run(tmp_path, monkeypatch):
    "Folder with a run that began in two processes, and its checkpoint"
    os.makedirs(tmp_path / "run")
    as_it_began(begun(tmp_path, monkeypatch, processes=2), None, None)
    os.makedirs(tmp_path / "run/checkpoint-2")
    return tmp_path


@pytest.mark.parametrize("changed, told", [
    (dict(processes=1), "processes = 2 then, 1 now"), (dict(processes=4), "processes = 2 then, 4 now"),
    (dict(paid=-1.0), "content of reward paid_by_mine:pay = '[0-9a-f]{16}' then.*take the lines 'content of '"),
    (dict(model=b"new weights"), "content of model = '[0-9a-f]{16}' then"), (dict(model=b"more weights"), "content of model")])
def test_a_run_goes_on_with_the_files_and_processes_that_it_began_with(a_run, monkeypatch, changed, told):
    goes_on(begun(a_run, monkeypatch, processes=2))
    settings = begun(a_run, monkeypatch, **dict(processes=2) | changed)
    for compare_only in (True, False):
        with pytest.raises(SettingsError, match=told):
            as_it_began(settings, f"{settings.output_dir}/checkpoint-2", None, compare_only=compare_only)
    goes_on(begun(a_run, monkeypatch, processes=2))


def test_what_did_not_change_is_not_refused(a_run, monkeypatch):
    "Other files beside those, another time of change, an adapter in the model's folder, a run of the release before"
    settings = begun(a_run, monkeypatch, processes=2, max_steps=9, save_steps=1)
    (a_run / "another.py").write_text("x = 1\n")
    os.utime(a_run / "paid_by_mine.py", (1, 1))
    save_file({"a": torch.ones(2)}, a_run / "model/adapter_model.safetensors")
    goes_on(settings)
    path = a_run / "run/begun_with.json"
    then = {name: value for name, value in json.loads(path.read_text()).items() if name != "processes" and "content of" not in name}
    path.write_text(json.dumps(then))
    goes_on(begun(a_run, monkeypatch, processes=1, paid=-1.0, model=b"new weights"))
    assert json.loads(path.read_text()) == then


def test_all_weights_come_from_the_checkpoint(tmp_path, monkeypatch):
    "With use_lora false the model's folder may be the run's own, into which it has written"
    os.makedirs(tmp_path / "run")
    as_it_began(begun(tmp_path, monkeypatch, use_lora=False, reward="counting"), None, None)
    os.makedirs(tmp_path / "run/checkpoint-2")
    goes_on(begun(tmp_path, monkeypatch, use_lora=False, reward="counting", model=b"trained weights"))
    assert not any("content of" in name for name in json.loads((tmp_path / "run/begun_with.json").read_text()))


def test_each_term_of_a_reward_has_its_files(tmp_path, monkeypatch):
    folder = tmp_path / "r/model"
    os.makedirs(folder)
    (folder / "reward_model.json").write_text("{}")
    (folder / "manifest.json").write_text("{}")
    settings = begun(tmp_path, monkeypatch, reward="counting")
    settings.reward = (f"0.5*judge:{tmp_path}/judge.yaml + 0.2*reward_model:{folder} + 0.2*paid_by_mine.pay + 0.1*counting"
                       " + 0.1*vlrlbook.answers:verbatim")
    os.makedirs(tmp_path / "run")
    as_it_began(settings, None, None)
    first = json.loads((tmp_path / "run/begun_with.json").read_text())
    named = [name for name in first if name.startswith("content of reward")]
    assert [name.rpartition("/")[2].rpartition(" ")[2] for name in named] == ["judge.yaml", "model", "paid_by_mine.pay"]
    for path in (tmp_path / "judge.yaml", folder / "manifest.json", tmp_path / "paid_by_mine.py"):
        path.write_text(path.read_text() + " ")
    with pytest.raises(SettingsError) as error: as_it_began(settings, f"{tmp_path}/run/checkpoint-2", None)
    assert all(name in str(error.value) for name in named)

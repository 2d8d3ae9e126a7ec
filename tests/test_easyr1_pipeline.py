"""One command for the whole road, and the commands of its parts"""
import json
import linecache
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from easyr1_cases import fake_engine
from PIL import Image
from safetensors.torch import load_file, save_file
from vlrlbook.archive import DataError
from vlrlbook.core import SettingsError, read_settings
from vlrlbook.easyr1 import export
from vlrlbook.easyr1 import QuickStartSettings, newest_step, quick_start, stages
from vlrlbook.models import save_model, tiny_twin


def test_the_newest_step_is_a_number(tmp_path):
    for name in ("global_step_20", "global_step_100", "global_step_200_old", "global_step_"):
        (tmp_path / name / "actor").mkdir(parents=True)
    assert newest_step(tmp_path) == 100
    with pytest.raises(SettingsError, match="no global_step_N/actor there"): newest_step(tmp_path / "global_step_20")


def test_parameters_cell_equals_settings():
    cells = [c for c in json.loads((ROOT / "nbs" / "09_easyr1.ipynb").read_text())["cells"]
             if "parameters" in c["metadata"].get("tags", [])]
    line = re.compile(r"^\s*(\w+): (\w+) = (.+?)\s+# (.+)$")
    parsed = lambda text: [line.match(l).groups() for l in text.splitlines() if line.match(l)]
    module = (ROOT / "vlrlbook" / "easyr1" / "quick_start_settings.py").read_text()
    body = module.split("class QuickStartSettings(Settings):")[1].split("    presets: ClassVar")[0]
    assert len(cells) == 1 and parsed("".join(cells[0]["source"])) == parsed(body)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    "An untrained base with an adapter of it"
    from test_merge import shaken
    folder = tmp_path_factory.mktemp("base")
    model, processor = tiny_twin("qwen2_5_vl")
    save_model(model, processor, folder / "base")
    shaken(model, folder / "adapter")
    return folder


def started(base, out, **more):
    given = dict(base_model=str(base / "base"), lora_model=str(base / "adapter"), drawn=60, max_steps=1, eval_samples=4,
                 output_dir=str(out), overrides="data.rollout_batch_size=32", training="batch_size=8 num_generations=4")
    return quick_start(read_settings(QuickStartSettings, given | more))


def what(results): return [line["what"] for line in results["stages"]]


def test_quick_start_goes_all_the_way_and_nothing_twice(base, tmp_path):
    out = tmp_path / "run"
    first = started(base, out)
    assert what(first) == ["done"] * 6 and [line["stage"].replace(" ", "_") for line in first["stages"]] == list(stages)
    assert all((out / n).exists() for n in ("model/model.safetensors", "export/train.sh", "dry_run/results.json",
        "train/adapter_model.safetensors", "trained/model.safetensors", "evaluation/results.json", "results.json"))
    assert any("after" in k for k in first["evaluation"])
    kept = (out / "trained/model.safetensors").stat().st_mtime_ns
    assert what(started(base, out)) == ["done before"] * 6 and (out / "trained/model.safetensors").stat().st_mtime_ns == kept
    shutil.rmtree(out / "export") # a stage that is no longer whole is done again, and the others are not
    assert what(started(base, out)) == ["done before", "done"] + ["done before"] * 4
    other = started(base, out, seed=44, skip="train,merge-shards,evaluate")
    assert what(other) == ["done before", "done", "done", "skipped", "skipped", "skipped"] and (out / "earlier-1/export/train.sh").exists()


def test_quick_start_stops_at_a_problem_and_goes_on_behind_it(base, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(SettingsError, match="the dry run found .* problems"):
        started(base, out, overrides="data.rollout_batch_size=32 data.max_prompt_length=20", skip="train,merge_shards,evaluate")
    assert not (out / "dry_run").exists() and (out / "export/train.sh").exists()
    assert what(started(base, out, overrides="data.rollout_batch_size=32 data.max_prompt_length=20",
                        skip="dry_run,train,merge_shards,evaluate"))[:3] == ["done before", "done before", "skipped"]
    with pytest.raises(SettingsError, match="did you mean 'evaluate'"): read_settings(QuickStartSettings, dict(skip="evalute"))


def test_a_finished_stage_that_was_damaged_is_made_again(base, tmp_path):
    out, skipped = tmp_path / "run", dict(overrides="data.rollout_batch_size=32", skip="dry_run,train,merge_shards,evaluate")
    started(base, out, **skipped)
    (out / "export/train.jsonl").write_text("{}")
    assert what(started(base, out, **skipped))[:2] == ["done before", "done"]
    assert (out / "earlier-1/export/train.jsonl").read_text() == "{}" and (out / "export/train.jsonl").stat().st_size > 2


def test_a_killed_stage_leaves_nothing_and_a_stopped_training_goes_on(base, tmp_path, monkeypatch):
    import vlrlbook.grpo
    out, seen = tmp_path / "run", []
    (out / ".export-abcdefgh").mkdir(parents=True) # what a kill leaves
    def stopped(settings):
        seen.append(settings.resume)
        (Path(settings.output_dir) / "checkpoint-10").mkdir(parents=True, exist_ok=True)
        raise SettingsError("stopped")
    monkeypatch.setattr(vlrlbook.grpo, "run", stopped)
    for _ in range(2):
        with pytest.raises(SettingsError, match="stopped"): started(base, out)
    assert seen == ["", "true"] and not list(out.glob(".*-*")) and not list(out.glob("earlier-*"))
    with pytest.raises(SettingsError, match="stopped"): started(base, out, training="batch_size=16 num_generations=4")
    assert seen[-1] == "" and (out / "earlier-1/train/checkpoint-10").exists() # told something else: it begins anew


@pytest.mark.parametrize("changed", ["the reward's code", "a picture", "the adapter"])
def test_what_changed_under_the_same_name_is_done_again(base, tmp_path, monkeypatch, changed):
    "The same command after the file of the reward, a picture or the adapter was written anew; else nothing is repeated"
    monkeypatch.syspath_prepend(str(tmp_path))
    module, adapter = f"mine_{changed[-4:].strip()}", shutil.copytree(base / "adapter", tmp_path / "adapter")
    code = "def paid(completion, answer):\n    return dict(overall=float(answer in completion))\n"
    (tmp_path / f"{module}.py").write_text(code)
    rows, skipped = tmp_path / "rows.jsonl", "dry_run,train,merge_shards,evaluate"
    for i in range(40): Image.new("RGB", (60, 60), (i, 5 * i, 99)).save(tmp_path / f"{i}.png")
    rows.write_text("".join(json.dumps(dict(question="How many?", answer=str(i % 5), image=f"{i}.png")) + "\n" for i in range(40)))
    given = dict(data=str(rows), reward=f"{module}:paid", lora_model=str(adapter), skip=skipped, overrides="data.rollout_batch_size=32")
    assert what(started(base, tmp_path / "run", **given))[:2] == ["done", "done"]
    assert what(started(base, tmp_path / "run", **given))[:2] == ["done before", "done before"]
    if changed == "the reward's code":
        (tmp_path / f"{module}.py").write_text(code.replace("answer in completion", "completion == answer"))
        sys.modules.pop(module), linecache.clearcache(), export._top_level.cache_clear()  # as in a new process
    elif changed == "a picture":
        for i in range(40): Image.new("RGB", (60, 60), (i, 5 * i, 17)).save(tmp_path / f"{i}.png")
    else:
        weights = load_file(adapter / "adapter_model.safetensors")
        save_file({k: v + 0.5 for k, v in weights.items()}, adapter / "adapter_model.safetensors")
    again = what(started(base, tmp_path / "run", **given))[:2]
    assert again == (["done", "done"] if changed == "the adapter" else ["done before", "done"])
    if changed == "the reward's code": assert "completion == answer" in (tmp_path / "run/export/reward.py").read_text()


def counted_rows(folder, count=40):
    "A file of rows with a picture each, and the settings of a quick start on them that ends behind the export"
    for i in range(count): Image.new("RGB", (60, 60), (i, 5 * i, 99)).save(folder / f"{i}.png")
    rows = [dict(question="How many?", answer=str(i % 5), image=f"{i}.png") for i in range(count)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return dict(data=str(folder / "rows.jsonl"), skip="dry_run,train,merge_shards,evaluate", overrides="data.rollout_batch_size=32")


def train_keys(out): return json.loads((out / "stages.json").read_text())["train"]["key"]


def test_a_finished_export_needs_its_source_pictures_no_more(base, tmp_path, monkeypatch):
    "They lie on another disk by now: the export is done all the same, or skipped, and its training goes on"
    import vlrlbook.grpo
    given, out = counted_rows(tmp_path), tmp_path / "run"
    def stopped(settings):
        (Path(settings.output_dir) / "checkpoint-10").mkdir(parents=True, exist_ok=True)
        raise SettingsError("stopped")
    monkeypatch.setattr(vlrlbook.grpo, "run", stopped)
    assert what(started(base, out, **given))[:2] == ["done", "done"]
    for picture in tmp_path.glob("*.png"): picture.unlink()
    assert what(started(base, out, **given))[:2] == ["done before", "done before"]
    keys = set()
    for skip in ("dry_run", "merge,export,dry_run"): # the same training, told by its key
        with pytest.raises(SettingsError, match="stopped"): started(base, out, **given | dict(skip=skip))
        keys.add(train_keys(out))
    assert len(keys) == 1 and not list(out.glob("earlier-*"))
    shutil.rmtree(out / "export") # now it has to be made again, from pictures that are gone
    with pytest.raises(DataError, match="no such picture"): started(base, out, **given)


def test_pictures_that_did_not_change_are_not_read_again(base, tmp_path, monkeypatch):
    "Nor decoded, nor are the rows read; of a skipped export nothing is, also where no run has read them before"
    from vlrlbook.easyr1 import pipeline
    given, out, read = counted_rows(tmp_path), tmp_path / "run", []
    assert what(started(base, out, **given))[:2] == ["done", "done"]
    hashed = pipeline.sha256_of
    monkeypatch.setattr(pipeline, "sha256_of", lambda path: read.append(Path(path).name) or hashed(path))
    (tmp_path / "3.png").touch() # a new date, the same content
    assert what(started(base, out, **given))[:2] == ["done before", "done before"]
    assert [name for name in read if name.endswith(".png")] == ["3.png"]
    for i in range(40): (tmp_path / f"{i}.png").unlink()
    monkeypatch.setattr("vlrlbook.rows.gate.inspect_vqa", None)
    skipped = what(started(base, tmp_path / "other", **given | dict(skip=",".join(stages))))
    assert skipped == ["skipped"] * 6 and [name for name in read if name.endswith(".png")] == ["3.png"]


def test_a_picture_that_came_late_or_another_file_of_rows_is_seen(base, tmp_path):
    given, out = counted_rows(tmp_path), tmp_path / "run"
    (tmp_path / "7.png").rename(tmp_path / "away")
    with pytest.raises(DataError, match="no such picture"): started(base, out, **given)
    (tmp_path / "away").rename(tmp_path / "7.png")
    assert what(started(base, out, **given))[:2] == ["done before", "done"]
    Image.new("RGB", (60, 60), (9, 9, 9)).save(tmp_path / "7.png")
    assert what(started(base, out, **given))[:2] == ["done before", "done"]
    rows = (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_text("".join(rows[::-1]))
    assert what(started(base, out, **given))[:2] == ["done before", "done"]
    assert what(started(base, out, **given))[:2] == ["done before", "done before"]


def test_several_accepted_answers_go_all_the_way(base, tmp_path):
    "A row with a list of answers is exported, trained on and asked about, and read again as it was written"
    for i in range(40): Image.new("RGB", (60, 60), (i, 5 * i, 99)).save(tmp_path / f"{i}.png")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(dict(question="Is it?", answers=["yes", "it is"], image=f"{i}.png")) + "\n" for i in range(40)))
    results = started(base, tmp_path / "run", data=str(rows), overrides="data.rollout_batch_size=32")
    assert what(results) == ["done"] * 6
    written = (tmp_path / "run/export/train.jsonl").read_text().splitlines()
    assert json.loads(written[0])["answer"] == '["yes", "it is"]'
    from vlrlbook.data import read_vqa
    dataset, report = read_vqa(tmp_path / "run/export/train.jsonl", tmp_path / "run/export/images")
    assert len(dataset) == len(written) and set(dataset["answer"]) == {'["yes", "it is"]'}


def test_settings_of_chapter_05_keep_their_own_names(base, tmp_path, monkeypatch):
    "`lr` is also the short name of a key of EasyR1, and so are others"
    import vlrlbook.grpo
    def told(settings): raise SettingsError(f"lr {settings.lr}, seed {settings.seed}")
    monkeypatch.setattr(vlrlbook.grpo, "run", told)
    with pytest.raises(SettingsError, match="lr 0.0001, seed 7"):
        started(base, tmp_path / "run", training="lr=1.0e-4 seed=7 batch_size=8 num_generations=4")


def test_quick_start_with_easyr1(base, tmp_path, monkeypatch):
    "A stand-in for EasyR1 leaves two checkpoints of one process; the newest comes back as a model"
    import torch
    from vlrlbook.models import load_vlm
    with pytest.raises(SettingsError, match="EasyR1 is not installed here"): read_settings(QuickStartSettings, dict(engine="easyr1"))
    model, processor = load_vlm(str(base / "base"))
    actor = tmp_path / "actor"
    (actor / "huggingface").mkdir(parents=True)
    torch.save(model.state_dict(), actor / "model_world_size_1_rank_0.pt")
    model.config.save_pretrained(actor / "huggingface")
    model.generation_config.save_pretrained(actor / "huggingface")
    processor.save_pretrained(actor / "huggingface")
    engine = fake_engine(tmp_path / "engine")
    for name, value in dict(PYTHONPATH=str(engine), SEEN=str(tmp_path / "seen.json"), ACTOR=str(actor),
                            PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin").items():
        monkeypatch.setenv(name, value)
    results = started(base, tmp_path / "run", engine="easyr1", skip="evaluate")
    assert what(results) == ["done"] * 5 + ["skipped"] and newest_step(tmp_path / "run/train") == 10
    words = json.loads((tmp_path / "seen.json").read_text())["argv"]
    assert {"trainer.max_steps=1", "data.rollout_batch_size=32", f"worker.actor.model.model_path={tmp_path / 'run/model'}"} <= set(words)
    back = load_vlm(str(tmp_path / "run/trained"))[0]
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), back.state_dict().values()))


@pytest.mark.parametrize("name, words", [("export-easyr1", ["--data", "--reward", "--output_dir", "--version"]),
    ("export-verl", ["--data", "--output_dir"]), ("dry-run", ["--path"]), ("merge-shards", ["--local_dir", "--output_dir"]),
    ("quick-start", ["--base_model", "--skip"])])
def test_commands_help(name, words):
    done = subprocess.run([sys.executable, "-m", "vlrlbook.cli", name, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and all(w in done.stdout for w in words)


def test_commands_work(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(40): Image.new("RGB", (56, 56), (6 * i, 0, 0)).save(tmp_path / f"images/{i}.png")
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(dict(question="Is it red?", answer=("yes", "no")[i % 2], image=f"{i}.png")) + "\n" for i in range(40)))
    call = lambda *words: subprocess.run([sys.executable, "-m", "vlrlbook.cli", *words], capture_output=True, text=True, cwd=tmp_path)
    done = call("export-easyr1", "--data", "rows.jsonl", "--image-dir", "images", "--output_dir",
                "out", "rollout_batch_size=32", "model_path=tiny")
    assert done.returncode == 0 and "36 rows to learn from, 4 to measure on" in done.stdout, done.stderr
    save_model(*tiny_twin("qwen2_5_vl"), tmp_path / "out/tiny")
    found = call("dry-run", "--path", "out", "data.max_prompt_length=20")
    assert found.returncode == 1 and "prompt.length" in found.stdout
    assert call("dry-run", "--path", "out").returncode == 0
    (tmp_path / "mine.yaml").write_text("data: {train_files: x, val_files: y, prompt_key: problem, rollout_batch_size: "
                                        "32}\nworker: {actor: {model: {model_path: tiny}}, rollout: {n: "
                                        "4, tensor_parallel_size: 1}, reward: {reward_function: 'a.py:b'}}\n")
    taken = call("export-easyr1", "--data", "rows.jsonl", "--image-dir", "images", "--output_dir", "out2",
                 "--config", "mine.yaml", "worker.actor.global_batch_size=32")
    assert taken.returncode == 0 and "n: 4" in (tmp_path / "out2/config.yaml").read_text() and "prompt_key: prompt" in (
        tmp_path / "out2/config.yaml").read_text(), taken.stderr
    wrong = call("export-verl", "--data", "rows.jsonl", "--image_dir", "images", "--output_dir", "v", "lrr=1")
    assert wrong.returncode == 1 and "there is no 'lrr'" in wrong.stderr and not (tmp_path / "v").exists()

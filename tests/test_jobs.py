"""The main job as people run it: papermill, from the repository and from elsewhere, with the card's parameter, with mistakes, and
with real photographs."""
import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SEVEN, SHARED, SHORT, papermill, run_page
from safetensors.torch import load_file
from vlrlbook.archive import DataError
from vlrlbook.core import RunLog, Sample, SettingsError
from vlrlbook.data import synthetic_counting, write_counting_zip
from vlrlbook.rewards import load_reward, read_count

CHAPTER = ROOT / "nbs" / "05_grpo.ipynb"


def results(folder, name="runs/05_grpo"): return json.loads((folder / name / "results.json").read_text())


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("short")
    done = papermill(CHAPTER, folder, **SHORT, lr="3e-4")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_lr_reaches_the_optimizer(short_run):
    found = results(short_run)
    assert found["settings"]["lr"] == found["optimizer_lr"] == 3e-4
    assert RunLog.read(short_run / "runs/05_grpo/run_log.csv").series("lr")[1][0] == 3e-4


def test_seven_files_and_the_adapter_loads(short_run):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText
    out = short_run / "runs" / "05_grpo"
    assert SEVEN <= {p.name for p in out.iterdir()}
    base = json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"]
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), out)
    weights = load_file(out / "adapter_model.safetensors")
    assert any(w.abs().sum() > 0 for n, w in weights.items() if "lora_B" in n)
    loaded = dict(model.named_parameters())
    assert all(torch.equal(loaded[n.replace(".weight", ".default.weight")].cpu(), w) for n, w in weights.items())


def test_results_can_be_recomputed_from_predictions(short_run):
    found = results(short_run)
    rows = [json.loads(line) for line in (short_run / "runs/05_grpo/predictions.jsonl").open()]
    assert len(rows) == found["before"]["greedy"]["n"] == 4
    reward = load_reward(found["settings"]["reward"])
    for when in ("before", "after"):
        for how in ("greedy", "sampled"):
            pay = [sum(reward(t, r["answer"])["overall"] for t in r[f"{when}_{how}"]) / len(r[f"{when}_{how}"]) for r in rows]
            assert found[when][how]["mean_reward"] == pytest.approx(sum(pay) / len(pay))
    assert {"mean_reward", "mean_reward_ci95", "exact_accuracy", "exact_accuracy_ci95"} <= set(found["gain"]["sampled"])
    assert {"settings", "seconds", "peak_memory_mb", "versions", "commit"} <= set(found)


def test_resume_goes_on_from_the_checkpoint(short_run):
    run_page(CHAPTER, short_run, **{**SHORT, "max_steps": 4}, lr=3e-4, resume="true")
    state = json.loads((short_run / "runs/05_grpo/trainer_state.json").read_text())
    assert state["global_step"] == 4
    assert RunLog.read(short_run / "runs/05_grpo/run_log.csv").series("lr")[0] == [1, 2, 3, 4]
    assert "silent" in RunLog.read(short_run / "runs/05_grpo/run_log.csv").columns


def test_an_existing_adapter_goes_on_training(short_run):
    run_page(CHAPTER, short_run, **SHORT, adapter="runs/05_grpo", output_dir="runs/second")
    assert SEVEN <= {p.name for p in (short_run / "runs/second").iterdir()}


@pytest.mark.parametrize("wrong, message", [
    ({"learing_rate": 1e-4}, "there is no 'learing_rate': did you mean"), ({"lr": "fast"}, "lr = 'fast': expected float"),
    ({"batch_size": 12}, "nearest: 16"), ({"size": "huge"}, "size = 'huge'")])
def test_mistakes_stop_at_once(tmp_path, wrong, message):
    with pytest.raises(SettingsError, match=message): run_page(CHAPTER, tmp_path, **wrong)
    assert not (tmp_path / "runs").exists()


def test_tag_survives_cleaning(tmp_path):
    "clean, then run: nbdev_clean of a copy keeps the parameters tag"
    notebook = tmp_path / "copy.ipynb"
    notebook.write_text((ROOT / "nbs" / "05_grpo.ipynb").read_text())
    subprocess.run(["nbdev_clean", "--fname", str(notebook)], cwd=ROOT, check=True,
                   env={**os.environ, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"})
    tags = [c["metadata"].get("tags") for c in json.loads(notebook.read_text())["cells"]]
    assert ["parameters"] in tags


def test_console_command_runs_a_chapter(tmp_path):
    bad = subprocess.run([sys.executable, "-m", "vlrlbook.cli", "run", "grpoo", "out.ipynb"], cwd=tmp_path, capture_output=True, text=True)
    assert bad.returncode and "did you mean '05_grpo'" in bad.stderr
    done = subprocess.run([sys.executable, "-m", "vlrlbook.cli", "run", "05_grpo", "made/out.ipynb", "-p", "lr", "fast"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode and "lr = 'fast': expected float" in done.stderr and not (tmp_path / "runs").exists()
    assert subprocess.run([sys.executable, "-m", "vlrlbook.cli", "notebooks", "book"], cwd=tmp_path).returncode == 0
    assert (tmp_path / "book" / "05_grpo.ipynb").exists()


def test_full_fine_tuning_on_a_zip_with_its_own_reward(tmp_path):
    write_counting_zip(synthetic_counting(12, seed=3), tmp_path / "mine.zip")
    run_page(CHAPTER, tmp_path, **SHORT, data="mine.zip", use_lora=False, reward="0.9*counting + 0.1*format", beta=0.02)
    assert (tmp_path / "runs/05_grpo/model.safetensors").exists()
    assert "part/format" in RunLog.read(tmp_path / "runs/05_grpo/run_log.csv").columns


def test_a_truth_without_a_number_stops_before_a_step(tmp_path):
    samples = synthetic_counting(6, seed=3)
    for s in samples: s.answer = "many"
    write_counting_zip(samples, tmp_path / "mine.zip")
    with pytest.raises(DataError, match="no count in the answer 'many'"): run_page(CHAPTER, tmp_path, **SHORT, data="mine.zip")


@pytest.mark.skipif(not (SHARED / "coco_open_count").exists(), reason="the folder with real photographs is not beside this checkout")
def test_real_photographs_run_through(tmp_path):
    from PIL import Image
    rows = [json.loads(line) for line in (SHARED / "coco_open_count" / "counts.jsonl").open()]
    samples = [Sample(f"How many {thing}s are in the picture?", f"A photo of {n} {thing}{'s' * (n > 1)}",
                      [Image.open(SHARED / "coco_open_count" / r["image"]).convert("RGB")])
               for r in rows for thing, n in list(r["counts"].items())[:1]]
    write_counting_zip(samples, tmp_path / "photos.zip")
    run_page(CHAPTER, tmp_path, **SHORT, data="photos.zip", max_image_size=224)
    predictions = [json.loads(line) for line in (tmp_path / "runs/05_grpo/predictions.jsonl").open()]
    assert predictions and all(read_count(p["answer"]) is not None for p in predictions)


def test_the_main_job_learns(tmp_path):
    "The card's command, whole: `papermill nbs/05_grpo.ipynb out.ipynb -p lr 5e-5`"
    done = papermill(CHAPTER, tmp_path, lr="5e-5")
    assert done.returncode == 0, done.stderr[-3000:]
    found = results(tmp_path)
    assert found["gain"]["sampled"]["mean_reward_ci95"][0] > 0
    assert found["gain"]["greedy"]["exact_accuracy"] > 0
    assert found["gain"]["greedy"]["verbatim_accuracy"] > 0, "the reward was earned with answers that are no sentences"
    assert found["after"]["sampled"]["n"] == 500
    outputs = [o for c in json.loads((tmp_path / "out.ipynb").read_text())["cells"] for o in c.get("outputs", [])]
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 8

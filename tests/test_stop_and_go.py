"""Killed and resumed equals never killed, bit for bit; half a checkpoint is never taken for a whole one."""
import json
import multiprocessing
import os
import random
import shutil
import signal
import time

import pytest
import torch
from conftest import start_process
from safetensors.torch import load_file
from vlrlbook.core import RunLog, SettingsError, damage, read_settings
from vlrlbook.models import find_checkpoint

STEPS = 8
SHORT = dict(warm_steps=2, max_steps=STEPS, batch_size=8, num_generations=4, logging_steps=1, save_steps=2)


def train(folder, resume, given):
    "One process of a run: from its beginning, or from its newest whole checkpoint"
    from vlrlbook.core import set_seed
    from vlrlbook.grpo import GRPOSettings, load_data, load_policy, make_trainer
    from vlrlbook.models import resume_log
    settings = read_settings(GRPOSettings, {**SHORT, **given, "output_dir": str(folder), "resume": resume})
    checkpoint = find_checkpoint(folder, resume)
    set_seed(settings.seed)
    model, processor = load_policy(settings)
    data = load_data(settings)[0]
    trainer = make_trainer(settings, model, processor, data, log=resume_log(folder / "run_log.csv", checkpoint))
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.model.save_pretrained(folder)


def start(folder, resume="", **given): return start_process(train, folder, resume, given)


def logged(folder): return len(RunLog.read(folder / "run_log.csv")) if (folder / "run_log.csv").exists() else 0


def kill_after(process, folder, rows, delay):
    "kill -9 `delay` seconds after there is a checkpoint and `rows` rows in the log; False if the run was over by then"
    while process.is_alive() and (logged(folder) < rows or not list(folder.glob("checkpoint-*"))): time.sleep(0.01)
    time.sleep(delay)
    killed = process.is_alive()
    if killed: os.kill(process.pid, signal.SIGKILL)
    process.join()
    return killed


def final(folder):
    "Weights and log of a finished run; times are left out"
    rows = [{k: v for k, v in r.items() if not k.startswith("seconds_")} for r in RunLog.read(folder / "run_log.csv").rows]
    return load_file(folder / "adapter_model.safetensors"), rows


@pytest.mark.parametrize("given", [dict(), dict(num_iterations=2), dict(gradient_accumulation_steps=2, beta=0.04)],
                         ids=["plain", "two passes", "accumulated, with KL"])
def test_killed_twice_equals_never_killed(tmp_path, given):
    rng = random.Random(str(given))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = start(whole, **given)
    process.join()
    assert process.exitcode == 0
    kill_after(start(broken, **given), broken, 2, rng.random())
    kill_after(start(broken, "true", **given), broken, 5, rng.random() / 2)
    process = start(broken, "true", **given)
    process.join()
    assert process.exitcode == 0
    (weights, rows), (again, rows_again) = final(whole), final(broken)
    assert rows_again == rows and len(rows) == STEPS
    assert all(torch.equal(weights[k], again[k]) for k in weights) and set(weights) == set(again)


def test_a_finished_run_takes_no_further_step(tmp_path):
    ends = []
    for resume in ("", "true"):
        process = start(tmp_path, resume, num_iterations=2, max_steps=4)
        process.join()
        assert process.exitcode == 0 and logged(tmp_path) == 4
        ends.append(final(tmp_path))
    assert ends[0][1] == ends[1][1] and all(torch.equal(w, ends[1][0][k]) for k, w in ends[0][0].items())


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    process = start(folder, max_steps=4)
    process.join()
    assert sorted(p.name for p in folder.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    return folder


def cut(path): path.write_bytes(path.read_bytes()[:-10])
def emptied(path): path.write_bytes(b"")
def gone(path): path.unlink()
def flipped(path): path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))


@pytest.mark.parametrize("harm", [cut, emptied, gone, flipped])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json",
                                  "manifest.json"])
def test_a_damaged_newest_checkpoint_falls_back(two_checkpoints, capsys, harm, name):
    path = two_checkpoints / "checkpoint-4" / name
    before = path.read_bytes()
    harm(path)
    try:
        assert find_checkpoint(two_checkpoints, "true").endswith("checkpoint-2")
        assert "passed over checkpoint-4" in capsys.readouterr().out
        with pytest.raises(SettingsError, match="checkpoint-4"): find_checkpoint(two_checkpoints, str(two_checkpoints / "checkpoint-4"))
    finally: path.write_bytes(before)
    assert find_checkpoint(two_checkpoints, "true").endswith("checkpoint-4")


def test_no_whole_checkpoint_is_an_error_that_names_each(tmp_path):
    (tmp_path / "checkpoint-40").mkdir()
    (tmp_path / "checkpoint-9").mkdir()
    with pytest.raises(SettingsError, match="checkpoint-40 .no manifest.json.; checkpoint-9"): find_checkpoint(tmp_path, "true")
    with pytest.raises(SettingsError, match="there is no such directory"): find_checkpoint(tmp_path, "checkpoint-41")


def test_a_new_run_moves_an_earlier_runs_checkpoints_aside(two_checkpoints, tmp_path):
    import shutil
    folder = tmp_path / "run"
    shutil.copytree(two_checkpoints, folder)
    process = start(folder, max_steps=2, save_steps=1, seed=44)
    process.join()
    assert sorted(p.name for p in folder.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    assert sorted(p.name for p in folder.glob("earlier-1/*")) == ["checkpoint-2", "checkpoint-4", "run_log.csv"]
    assert damage(folder / "earlier-1" / "checkpoint-4") is None
    assert not (folder / ".saving").exists()


def save_often(folder):
    "Commit one folder after the other until killed"
    from vlrlbook.core import commit_folder
    for i in range(1, 10**6):
        aside = folder / ".saving"
        aside.mkdir(exist_ok=True)
        for name in ("weights.bin", "trainer_state.json"):
            (aside / name).write_bytes(os.urandom(200_000) if name == "weights.bin" else json.dumps({"global_step": i}).encode())
        commit_folder(aside, folder / f"checkpoint-{i}")


def test_killed_while_saving_leaves_only_whole_checkpoints(tmp_path):
    context, rng = multiprocessing.get_context("fork"), random.Random(0)
    for turn in range(100):
        folder = tmp_path / str(turn)
        folder.mkdir()
        process = context.Process(target=save_often, args=(folder,))
        process.start()
        while not list(folder.glob("checkpoint-*")): time.sleep(0.001)
        time.sleep(rng.random() / 20)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert [damage(p) for p in folder.glob("checkpoint-*") if damage(p)] == []
        newest = max(int(p.name[11:]) for p in folder.glob("checkpoint-*"))
        assert find_checkpoint(folder, "true").endswith(f"checkpoint-{newest}")


def test_full_disk_keeps_the_checkpoint_before(small_disk):
    from transformers import Trainer, TrainingArguments
    from vlrlbook.models import CommittedCheckpoints
    class Saver(CommittedCheckpoints, Trainer): "saves, and nothing else"
    trainer, rng, filler = Saver(torch.nn.Linear(300, 300),
                                 TrainingArguments(str(small_disk), report_to=[], save_total_limit=2, use_cpu=True)), random.Random(
                                     0), small_disk / "filler"
    trainer.create_optimizer_and_scheduler(10)
    def save(step):
        trainer.state.global_step = step
        trainer._save_checkpoint(trainer.model, None)
    for turn in range(20):
        save(2 * turn + 1)
        filler.write_bytes(bytes(max(0, shutil.disk_usage(small_disk).free - rng.randrange(300_000))))
        with pytest.raises(Exception): save(2 * turn + 2)
        filler.unlink()
        assert find_checkpoint(small_disk,
                               "true").endswith(f"checkpoint-{2 * turn + 1}") and damage(small_disk / f"checkpoint-{2 * turn + 1}") is None
        assert not (small_disk / ".saving").exists() and len(list(small_disk.glob("checkpoint-*"))) <= 2


# ---- the best checkpoint of a resumed run

SCORES = {2: 0.5, 4: 0.9, 6: 0.3, 8: 0.9, 10: 0.2}  # of the validation after each step; an equal one is no better one


def judged(folder, until, resume=None, best_at_end=True, **given):
    "Train a small linear model up to step `until`, of ten; return the trainer"
    from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
    from vlrlbook.training import CommittedCheckpoints
    class Kill(TrainerCallback):
        "Ends the training where a kill would"
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == until: raise KeyboardInterrupt
    class Net(torch.nn.Module):
        "A linear layer with a loss"
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)
        def forward(self, x, labels): return dict(loss=(self.layer(x) - labels).square().mean())
    class Judged(CommittedCheckpoints, Trainer):
        "Its validation has the scores above"
        def evaluate(self, *args, **kwargs):
            metrics = dict(eval_score=SCORES[self.state.global_step])
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics
    ends = dict(load_best_model_at_end=True, metric_for_best_model="score") if best_at_end else {}
    set_seed(0)
    args = TrainingArguments(str(folder), max_steps=10, eval_strategy="steps", save_strategy="steps", eval_steps=2, save_steps=2,
                             save_total_limit=2, learning_rate=0.1, report_to=[], use_cpu=True, disable_tqdm=True, **ends, **given)
    rows = [dict(x=torch.tensor([i / 9, 1 - i / 9, 1.0]), labels=torch.tensor([i / 3])) for i in range(10)]
    trainer = Judged(Net(), args, train_dataset=rows, eval_dataset=rows, callbacks=[Kill()])
    if until == 10:
        trainer.train(resume_from_checkpoint=resume)
    else:
        with pytest.raises(KeyboardInterrupt): trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights_at(trainer): return trainer.model.layer.weight.detach().clone()


def noted_best(checkpoint): return json.loads((checkpoint / "trainer_state.json").read_text())["best_model_checkpoint"]


def elsewhere(tmp_path, monkeypatch):
    "Resume from another directory, where a folder of the same name has another run's checkpoint"
    (tmp_path / "other/run/checkpoint-4").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "other")
    return tmp_path / "run"


def as_before(tmp_path, monkeypatch):
    "The same, of a run whose checkpoints were written when relative paths were noted"
    state = tmp_path / "run/checkpoint-6/trainer_state.json"
    state.write_text(state.read_text().replace(noted_best(state.parent), "run/checkpoint-4"))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    return tmp_path / "run"


def moved(tmp_path, monkeypatch):
    "The folder is somewhere else now"
    os.rename(tmp_path / "run", tmp_path / "moved")
    return tmp_path / "moved"


def copied(tmp_path, monkeypatch):
    "The folder was copied, and the first one lost its weights since"
    shutil.copytree(tmp_path / "run", tmp_path / "copied")
    for path in (tmp_path / "run/checkpoint-4").iterdir(): path.unlink()
    return tmp_path / "copied"


def in_place(tmp_path, monkeypatch): return tmp_path / "run"


@pytest.mark.parametrize("place", [in_place, elsewhere, as_before, moved, copied])
def test_a_resumed_run_ends_with_its_best_weights(tmp_path, monkeypatch, capsys, place):
    "From another working directory or place it ended with its last weights, and deleted the best"
    monkeypatch.chdir(tmp_path)
    whole = judged("whole", 10)
    assert whole.state.best_global_step == 4
    judged("run", 7)
    folder = place(tmp_path, monkeypatch)
    capsys.readouterr()
    relative = os.path.relpath(folder)
    again = judged(relative, 10, resume=os.path.join(relative, "checkpoint-6"))
    assert torch.equal(weights_at(again), weights_at(whole))
    assert again.state.best_global_step == 4 and again.state.best_metric == 0.9
    assert sorted(p.name for p in folder.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-4", "checkpoint-8"]
    assert noted_best(folder / "checkpoint-10") == str(folder / "checkpoint-4")
    assert ("the best checkpoint so far is at" in capsys.readouterr().out) == (place in (as_before, moved))


def test_a_run_that_goes_on_in_another_folder_ends_with_its_best_weights(tmp_path):
    "Its best checkpoint stays in the first folder; a resume of the second part still knows it"
    whole = judged(tmp_path / "whole", 10)
    judged(tmp_path / "run", 7)
    judged(tmp_path / "next", 9, resume=str(tmp_path / "run/checkpoint-6"))
    assert noted_best(tmp_path / "next/checkpoint-8") == str(tmp_path / "run/checkpoint-4")
    again = judged(tmp_path / "next", 10, resume=str(tmp_path / "next/checkpoint-8"))
    assert torch.equal(weights_at(again), weights_at(whole)) and again.state.best_global_step == 4
    assert (tmp_path / "run/checkpoint-4").is_dir()


def test_a_best_checkpoint_that_is_gone_is_told(tmp_path, capsys):
    "Then the best of the rest is the best, though its score is lower; before, the last was saved under the lost one's score"
    judged(tmp_path / "run", 7)
    shutil.rmtree(tmp_path / "run/checkpoint-4")
    judged(tmp_path / "run", 9, resume=str(tmp_path / "run/checkpoint-6"))
    assert "the best weights were those of checkpoint-4, which is not there: the best are looked for anew" in capsys.readouterr().out
    again = judged(tmp_path / "run", 10, resume=str(tmp_path / "run/checkpoint-8"))
    assert again.state.best_global_step == 8 and again.state.best_metric == 0.9
    last = load_file(tmp_path / "run/checkpoint-10/model.safetensors")["layer.weight"]
    best = load_file(tmp_path / "run/checkpoint-8/model.safetensors")["layer.weight"]
    assert torch.equal(weights_at(again), best) and not torch.equal(best, last)


def test_a_better_checkpoint_after_a_resume_is_the_best(tmp_path, monkeypatch):
    monkeypatch.setitem(SCORES, 8, 0.95)
    judged(tmp_path / "run", 7)
    os.rename(tmp_path / "run", tmp_path / "moved")
    again = judged(tmp_path / "moved", 10, resume=str(tmp_path / "moved/checkpoint-6"))
    assert again.state.best_global_step == 8
    assert sorted(p.name for p in (tmp_path / "moved").glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-8"]


def test_a_run_without_a_best_one_goes_on_as_before(tmp_path, capsys):
    whole = judged(tmp_path / "whole", 10, best_at_end=False)
    judged(tmp_path / "run", 7, best_at_end=False)
    os.rename(tmp_path / "run", tmp_path / "moved")
    again = judged(tmp_path / "moved", 10, resume=str(tmp_path / "moved/checkpoint-6"), best_at_end=False)
    assert torch.equal(weights_at(again), weights_at(whole)) and again.state.best_model_checkpoint is None
    assert "best" not in capsys.readouterr().out

"""The run log on disk, whole writes, intervals, and a light import."""
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st
from vlrlbook.core import Rollout, RolloutGroup, RunLog, Sample, mean_ci95, nearest, plot_run, rollout_card, smooth, write_json, write_whole

row = st.dictionaries(st.sampled_from(["loss", "reward", "part/exact", "eval/reward"]), st.floats(-1e6, 1e6), min_size=1)


@given(st.lists(row, min_size=1, max_size=12))
def test_run_log_round_trip(tmp_path_factory, rows):
    log = RunLog(tmp_path_factory.mktemp("log") / "run_log.csv")
    for i, r in enumerate(rows): log.append({"step": i, **r})
    assert RunLog.read(log.path).rows == log.rows


def test_a_panel_with_an_axis_on_the_right_has_no_line_at_its_top():
    log = RunLog(rows=[dict(step=step, length=3 + step, grad_norm=step / 10) for step in range(3)])
    right = plot_run(log).axes[-1]
    assert right.get_legend() and right.spines["right"].get_visible() and not right.spines["top"].get_visible()


def test_a_run_log_replaces_the_file_of_an_older_one_with_its_first_row(tmp_path):
    path = tmp_path / "run_log.csv"
    older = RunLog(path)
    for step in (1, 2, 3): older.append(dict(step=step, loss=0.5))
    log = RunLog(path, RunLog.read(path).rows[:1])
    assert RunLog.read(path).series("step")[1] == [1, 2, 3], "until then the older one is there"
    for step in (2, 3): log.append(dict(step=step, loss=0.25))
    assert RunLog.read(path).rows == log.rows == [dict(step=1, loss=0.5), dict(step=2, loss=0.25), dict(step=3, loss=0.25)]


def test_a_run_log_without_a_file_has_nothing_to_save(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = RunLog()
    log.append({"step": 1, "loss": 0.5})
    log.save()
    assert os.listdir(tmp_path) == [] and log.rows == [{"step": 1, "loss": 0.5}]


def test_write_whole_keeps_the_old_file_when_it_fails(tmp_path):
    write_whole(tmp_path / "a", "old")
    with pytest.raises(UnicodeEncodeError): write_whole(tmp_path / "a", "new \ud800")
    assert (tmp_path / "a").read_text() == "old"


def test_failed_write_leaves_nothing_behind(tmp_path):
    with pytest.raises(UnicodeEncodeError): write_whole(tmp_path / "a", "\ud800")
    assert os.listdir(tmp_path) == []


def test_json_is_valid_whatever_the_numbers(tmp_path):
    write_json(tmp_path / "r.json", {"loss": float("nan"), "top": np.float64("inf"), "n": np.int64(3)})
    assert json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail) == {"loss": None, "top": None, "n": 3}


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50))
def test_smooth_stays_within(values):
    assert len(smooth(values)) == len(values)
    assert all(min(values) - 1e-6 <= s <= max(values) + 1e-6 for s in smooth(values))


@pytest.mark.parametrize("gained, lost, most, shown", [(10, 10, 7, (4, 3)), (10, 10, 1, (1, 0)), (10, 10, 12, (6, 6)), (2, 10, 7, (2, 5)),
    (10, 3, 7, (4, 3)), (10, 2, 7, (5, 2)), (0, 3, 7, (0, 3))])
def test_a_board_is_filled_with_gains_and_losses(gained, lost, most, shown):
    "Also where `most` is odd; other pictures only fill what is left"
    from vlrlbook.core import _became_right, _became_wrong, _choose_for_board, _stayed_wrong
    outcomes = [_stayed_wrong] * 9 + [_became_right] * gained + [_became_wrong] * lost
    chosen = [outcomes[i] for i in _choose_for_board(range(len(outcomes)), outcomes, most)]
    assert len(chosen) == most and (chosen.count(_became_right), chosen.count(_became_wrong)) == shown


def test_interval_covers_the_mean_about_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = [low <= 0.3 <= high for low, high in (mean_ci95(rng.random(200) < 0.3)[1] for _ in range(1000))]
    assert 0.93 < np.mean(hits) < 0.97


def test_nearest():
    assert nearest("lrr", ["lr", "seed"]) == ": did you mean 'lr'?" and "there are: lr, seed" in nearest("zzzz", ["lr", "seed"])


def test_import_is_light():
    code = ("import time; t = time.perf_counter(); import vlrlbook; print(time.perf_counter() - t); import sys; "
            "print([m for m in ('torch', 'transformers', 'numpy', 'matplotlib') if m in sys.modules])")
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n") for _ in range(3)]
    assert runs[0][1] == "[]"
    assert min(float(r[0]) for r in runs) < 0.3


def test_a_card_says_what_its_bars_are():
    "Another heading than advantage; an empty answer is told; the mark of the picture is not read out"
    group = RolloutGroup(Sample("<image> How many?", "2"), [Rollout("2", dict(overall=1.0), 0.5), Rollout("", dict(overall=0.0), -0.5)],
                         bars="pay less mean")
    texts = lambda fig: {t.get_text() for ax in fig.axes for t in [ax.title, *ax.texts]}
    assert {"How many?", "(nothing)", "pay less mean"} <= texts(rollout_card(group)) and "advantage" not in texts(rollout_card(group))
    assert "advantage" in texts(rollout_card(replace(group, bars="advantage")))

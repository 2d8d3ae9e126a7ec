"""Films of the ALOHA simulator: scripts and labels without it, and a film from it where it is installed."""
import importlib.util
import json
import sys

import numpy as np
import pytest
from conftest import needs_lerobot

from vlrlbook import aloha_films
from vlrlbook.aloha_films import (CUBE_HEIGHT, LEFT_START, RIGHT_START, TURNS, Script, make_films, moment_labels, plans,
                                  record_film)
from vlrlbook.core import SettingsError

needs_simulator = pytest.mark.skipif(importlib.util.find_spec("gym_aloha") is None, reason="the simulator (gym-aloha) is not installed")


class Still:
    "A simulator in which nothing happens but the steps that are asked for"
    def __init__(self, size=96): self.size, self.actions = size, []
    def start(self, cube): self.cube, self.actions = cube, []
    def views(self): return [np.full((self.size, self.size, 3), 60 * k, np.uint8) for k in range(3)]
    def joints(self): return np.zeros(14, np.float32)

    def step(self, action):
        self.actions.append(action)
        return min(4, len(self.actions) // 60)


@pytest.mark.parametrize("plan", plans)
def test_every_script_is_whole(plan):
    "Steps rise, places are within reach, openings between closed and open; the same seed writes the same script"
    def written(seed):
        rng = np.random.default_rng(seed)
        left, right = Script(LEFT_START, rng), Script(RIGHT_START, rng)
        plans[plan](np.array([0.05, 0.5, CUBE_HEIGHT]), left, right, rng)
        return left, right
    for script, again, other in zip(written(3), written(3), written(4)):
        steps = [point.step for point in script.points]
        assert steps == sorted(set(steps)) and all(0 <= point.opening <= 1 for point in script.points)
        assert all(np.abs(point.place - [0, 0.5, 0.2]).max() < 0.45 for point in script.points)
        same = [np.array_equal(a.place, b.place) for a, b in zip(script.points, again.points)]
        assert all(same) and [p.step for p in again.points] == steps
        last, elsewhere = script.points[-1].place, other.points[-1].place
        assert len(steps) == 1 or not np.array_equal(last, elsewhere) # noise differs from seed to seed


def test_between_waypoints_a_gripper_moves_evenly():
    script = Script(np.zeros(3), np.random.default_rng(0), tremble=0.0)
    script.move(100, np.array([1.0, 0, 0]), opening=1.0)
    last = script.last_step
    assert np.allclose(script.target(0)[:3], 0) and np.allclose(script.target(last)[:3], [1, 0, 0])
    assert np.allclose(script.target(last / 2)[[0, 7]], 0.5) and np.allclose(script.target(last + 50)[:3], [1, 0, 0])
    script.wait_until(last - 5)
    assert script.last_step == last # the past cannot be waited for


@pytest.mark.parametrize("rewards, steps, labels", [
    ([0, 0, 2, 0, 2, 2, 2, 2], [5], [2]), # a contact that flickers
    ([0, 0, 0, 4, 0, 0, 0], [3], [0]), ([1] * 3 + [2] * 3, [0, 5], [1, 2]), ([1, 1, 2, 2], [1], [2])])
def test_the_label_of_a_moment(rewards, steps, labels): assert moment_labels(rewards, steps) == labels


@needs_lerobot
def test_films_become_a_data_set(tmp_path, monkeypatch):
    "The layout that chapter 04 reads, one-hot rewards, a description of each film; the same folder is not written twice"
    from vlrlbook.aloha import AlohaFrames, open_lerobot
    monkeypatch.setattr(aloha_films, "Simulator", Still)
    monkeypatch.setattr(aloha_films, "_describe", lambda folder, about: (folder / "films.json").write_text(json.dumps(about)))
    said = []
    make_films(tmp_path / "films", films=3, size=32, only="drop,miss", say=said.append)
    frames = AlohaFrames(open_lerobot("local/films", tmp_path / "films"))
    about = json.loads((tmp_path / "films" / "films.json").read_text())
    assert [f["plan"] for f in about["films"]] == ["drop", "miss", "drop"] and len(said) == 3
    assert "".join(f["rewards"] for f in about["films"]) == "".join(map(str, frames.labels))
    assert frames[0]["images"][2].size == (32, 32) and "one-hot vectors of 5 bins" in frames.told
    with pytest.raises(FileExistsError): make_films(tmp_path / "films", films=1, size=32)
    assert [p.name for p in tmp_path.iterdir()] == ["films"]


@pytest.mark.parametrize("given, words", [(dict(only="hand_ovre"), "did you mean 'hand_over'"), (dict(films=0), "at least 1 film"),
                                          (dict(size=8), "32 pixels")])
@needs_lerobot
def test_slips_are_named_before_anything_starts(tmp_path, given, words):
    with pytest.raises(SettingsError, match=words): make_films(tmp_path / "films", **given)
    assert not list(tmp_path.iterdir())


def test_without_the_simulator_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(ImportError, match=r"vlrlbook\[films\]"): aloha_films.Simulator()


def test_all_scripts_take_their_turn(): assert set(TURNS) | {"press"} == set(plans)


@needs_simulator
def test_the_simulator_reaches_every_reward():
    "Without pictures, which cost most: sixteen films together reach 0 to 4"
    simulator = aloha_films.Simulator(32)
    simulator.views = list
    found = set()
    for k, plan in enumerate(TURNS): found |= {moment["reward"] for moment in record_film(simulator, plan, k)}
    assert found == set(range(5))

"""Truth tables of chapter 02, properties that any text must keep, and the adapter as TRL calls it."""
import time

import pytest
from conftest import SHARED
from hypothesis import given, settings, strategies as st
from vlrlbook.core import Rollout, RolloutGroup, Sample, mean_of
from vlrlbook.rewards import (advantages, cheats, check_reward, count_table, counting_reward, for_trl, format_reward, format_table,
                              load_reward, mix, read_count, silent_share, staircase)


@pytest.mark.parametrize("text, count, why", count_table)
def test_counts(text, count, why): assert read_count(text) == count, why


@pytest.mark.parametrize("text, reward, why", format_table)
def test_format(text, reward, why): assert format_reward(text)["overall"] == reward, why


@pytest.mark.parametrize("completion, truth, earns, why", cheats)
def test_cheats_earn_what_is_written(completion, truth, earns, why): assert counting_reward(completion, truth)["overall"] == earns, why


@pytest.mark.parametrize("difference, pay", [(0, 1.0), (1, 0.85), (2, 0.7), (3, 0.4), (4, 0.3), (5, 0.2), (6, 0.0), (100, 0.0)])
def test_staircase(difference, pay): assert staircase(difference) == pytest.approx(pay)


@given(st.text(max_size=300), st.text(max_size=100))
def test_any_text_is_paid(completion, truth):
    for reward in (counting_reward, format_reward, mix(counting=(counting_reward, 0.9), format=(format_reward, 0.1))):
        parts = reward(completion, truth)
        assert 0 <= parts["overall"] <= 1 and all(isinstance(v, float) for v in parts.values())


@given(st.integers(0, 10**9), st.sampled_from(["A photo of {} apples", "{}", "<think>2</think><answer>{}</answer>", "I see {}"]))
def test_digits_are_read(n, form): assert read_count(form.format(n)) == n


@settings(max_examples=30)
@given(st.text(st.sampled_from("<answer></think>0123 one,.-十百\n\0"), min_size=1, max_size=40), st.integers(1, 2500))
def test_long_texts_are_quick(seed, times):
    text = (seed * times)[:100_000]
    def seconds():
        start = time.thread_time()
        counting_reward(text, "3"), format_reward(text)
        return time.thread_time() - start
    assert min(seconds() for _ in range(3)) < 0.010


@given(st.lists(st.sampled_from([0.0, 0.2, 0.7, 0.85, 1.0]), min_size=2, max_size=16))
def test_advantages_add_up_to_nothing(rewards):
    values = advantages(rewards)
    assert abs(sum(values)) < 1e-6
    assert (max(map(abs, values)) < 1e-9) == (len(set(rewards)) == 1)


def test_trl_adapter_logs_parts_and_passes_columns():
    seen, logged = [], []
    reward = for_trl(counting_reward, recorder=lambda *args: seen.append(args))
    paid = reward(prompts=None, completions=[[{"role": "assistant", "content": "3"}], "4"], answer=["3", "3"], row=[1, 2],
                  log_metric=lambda k, v: logged.append((k, v)))
    assert paid == [1.0, 0.85]
    assert logged == [("part/exact", 0.5), ("part/readable", 1.0)]
    assert seen[0][0] == ["3", "4"] and [s.row for s in seen[0][2]] == [1, 2]


def test_own_reward_by_dotted_path(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def short(completion, answer): return {'overall': float(len(completion) < 5)}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_reward("mine:short")("abc", "")["overall"] == load_reward("mine.short")("abc", "")["overall"] == 1.0
    assert load_reward("0.5*mine:short + 0.5*counting")("3", "3")["overall"] == 1.0
    with pytest.raises(ValueError, match="no attribute 'long'"): load_reward("mine:long")


@pytest.mark.skipif(not SHARED.exists(), reason="the folder with real samples is not beside this checkout")
def test_real_completions_are_paid():
    import json
    rows = [json.loads(line) for line in (SHARED / "medvlm_r1_outputs" / "completions.jsonl").open()]
    assert len(rows) > 100
    for r in rows:
        assert 0 <= counting_reward(r["completion"], "3")["overall"] <= 1 and format_reward(r["completion"])["overall"] in (0.0, 1.0)


ADVANTAGES = ["0x1.54be5b6a6646dp-1", "0x1.dee203ef7afb7p-3", "0x1.18e21aec76e76p+0", "0x1.54be5b6a6646dp-1",
              "-0x1.c7dc1283f7886p+0", "-0x1.425333e13050ep-1", "0x1.54be5b6a6646dp-1", "-0x1.d5ac702ae000ep-1"]


@pytest.mark.parametrize("G", [1, 2, 3, 6, 7, 8, 16])
@pytest.mark.parametrize("reward", [0.85, 0.1, 1 / 3, 0.7, -2.5, 1e-9, 3e8])
def test_a_group_of_equals_has_no_advantage_at_all(reward, G):
    "Not 1e-12, on any Python: before 3.12 `sum` of floats is not compensated"
    assert advantages([reward] * G) == [0.0] * G


def test_equal_up_to_rounding_is_equal():
    "0.1 + 0.2 is 0.30000000000000004: two ways to earn the same"
    assert advantages([0.1 + 0.2, 0.3, 0.3]) == [0.0] * 3
    group = RolloutGroup(Sample("", ""), [Rollout("", dict(overall=r)) for r in (0.1 + 0.2, 0.3)])
    assert group.silent and silent_share([0.1 + 0.2, 0.3], 2) == 1.0
    assert not RolloutGroup(Sample("", ""), [Rollout("", dict(overall=r)) for r in (0.30001, 0.3)]).silent


def test_sums_are_the_same_on_every_python():
    "Written down once; 3.11, 3.12 and 3.13 must all give these bits"
    assert [a.hex() for a in advantages([0.85, 0.7, 1.0, 0.85, 0.0, 0.4, 0.85, 0.3])] == ADVANTAGES
    assert mean_of([0.1] * 3) == 0.1 and mean_of([0.85] * 8) == 0.85 and mean_of([1e16, 1.0, -1e16]) == 1 / 3
    paid = mix(a=(lambda c, t: dict(overall=0.1), 1.0), b=(lambda c, t: dict(overall=0.2), 1.0), c=(lambda c, t: dict(overall=0.3), 1.0))
    assert paid("", "")["overall"].hex() == (0.6).hex()


def test_silent_groups_are_counted_whatever_their_reward():
    assert silent_share([0.85] * 8 + [0.7] * 8 + [1.0] * 7 + [0.85], 8) == pytest.approx(2 / 3)
    assert silent_share([0.1 + 0.2, 0.3], 2) == 1.0


def test_the_same_reward_twice_is_refused():
    with pytest.raises(ValueError, match="stands in it twice"): load_reward("0.5*counting + 0.5*counting")


def test_a_reward_that_looks_at_pictures(tmp_path, monkeypatch):
    "A trained model's reward is called with whole batches of completions and samples, alone or in a mix"
    from PIL import Image
    (tmp_path / "looks.py").write_text("""def wide(completions, samples): return [{'overall': float(s.images[0].width > s.images[0].height), 'wide': 1.0} for s in samples]
wide.batched = True
""")
    monkeypatch.syspath_prepend(tmp_path)
    reward = for_trl(load_reward("0.5*looks:wide + 0.5*counting"))
    images = [[Image.new("RGB", (8, 4))], [Image.new("RGB", (4, 8))]]
    assert reward(prompts=None, completions=["3", "3"], answer=["3", "3"], question=["?", "?"], images=images) == [1.0, 0.5]


def test_what_check_reward_finds():
    assert check_reward(counting_reward) == check_reward(load_reward("vqa")) == []
    assert "expected a dict" in check_reward(lambda c, a: 1.0)[0]
    assert "no finite number" in check_reward(lambda c, a: dict(overall=float("nan")))[0]
    assert "raises ZeroDivisionError" in check_reward(lambda c, a: dict(overall=1 / len(c)))[0]

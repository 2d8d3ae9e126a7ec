"""What stands between TRL and vLLM, without an engine; with a real one: test_vllm.py (`make test-vllm`)"""
import types

import pytest
from PIL import Image
from vlrlbook.core import SettingsError, read_settings
from vlrlbook.models import families, limit_pixels, twin_processor
from vlrlbook.settings import GRPOSettings
from vlrlbook.vllm_sampling import EnginePrompts, PicturesForVLLM, RatioWatch, picture_runs, picture_size, unexpanded

PAD = 5


@pytest.mark.parametrize("ids, pictures, made", [
    ([1, 3, 5, 5, 5, 5, 4, 9], 1, [1, 3, 5, 4, 9]), ([3, 5, 5, 4, 3, 5, 5, 5, 4], 2, [3, 5, 4, 3, 5, 4]),
    ([1, 2], 0, [1, 2]), ([3, 5, 4], 1, [3, 5, 4]), ([3, 5, 5, 4, 5], 2, [3, 5, 4, 5])], ids=str)
def test_prompts_are_given_unexpanded(ids, pictures, made): assert unexpanded(ids, PAD, pictures) == made


@pytest.mark.parametrize("ids, pictures", [([5, 5, 4], 2), ([3, 5, 4, 3, 5, 4], 1), ([1, 2], 1)], ids=str)
def test_runs_that_are_not_the_pictures_are_refused(ids, pictures):
    with pytest.raises(SettingsError, match="runs of picture tokens"): unexpanded(ids, PAD, pictures)


def engine(read):
    "vLLM's generate: expands each picture token as `read` says, and reports what it has read"
    def generate(prompts, sampling_params=None, use_tqdm=True):
        outputs = []
        for row in prompts:
            ids, counts = [], iter(read)
            for token in row["prompt_token_ids"]: ids += [PAD] * next(counts) if token == PAD else [token]
            outputs.append(types.SimpleNamespace(prompt_token_ids=ids, given=row))
        return outputs
    return generate


def fake(): return types.SimpleNamespace(image_token_id=PAD, image_processor=types.SimpleNamespace(
    size=dict(shortest_edge=3136, longest_edge=12544)))


def test_vllm_gets_one_token_a_picture_and_the_size_of_training():
    row = dict(prompt_token_ids=[3, 5, 5, 4, 3, 5, 5, 5, 4], multi_modal_data={"image": ["a", "b"]})
    text = dict(prompt_token_ids=[1, 2])
    one, two = EnginePrompts(engine([2, 3]), fake())([row, text], sampling_params=None)
    assert one.given["prompt_token_ids"] == [3, 5, 4, 3, 5, 4] and two.given == text
    assert one.given["mm_processor_kwargs"] == {"size": {"shortest_edge": 3136, "longest_edge": 12544}}
    assert row["prompt_token_ids"] == [3, 5, 5, 4, 3, 5, 5, 5, 4] # what TRL trains on stays


def test_an_engine_that_reads_something_else_stops_the_run():
    "Expanded twice, as TRL 1.16 does it by itself, or cut to another size"
    row = dict(prompt_token_ids=[3, 5, 5, 4], multi_modal_data={"image": "a"})
    for read in ([3], [16], [1]):
        with pytest.raises(SettingsError, match=rf"picture tokens \[2\] and \[{read[0]}\]"): EnginePrompts(engine(read), fake())([row])


@pytest.mark.parametrize("family", list(families))
def test_the_size_is_that_of_the_limited_processor(family):
    processor = twin_processor(family)
    limit_pixels(processor, 56)
    size = picture_size(processor)
    one_size = {"aria": {"max_image_size": 490}, "gemma3": {"size": {"height": 112, "width": 112}}} # both scale every picture to one size
    assert size == one_size.get(family, {"size": {"shortest_edge": 3136, "longest_edge": 3136}})


class Base:
    "As much of TRL's trainer as the mixin touches"
    def __init__(self, model=None, mode="colocate"):
        self.use_vllm, self.processing_class, self.callbacks, self.slept, self.forgot = True, fake(), [], [], []
        core = types.SimpleNamespace(reset_encoder_cache=lambda: self.forgot.append(1))
        llm = types.SimpleNamespace(generate=engine([2]), sleep=lambda level: self.slept.append(level),
                                    llm_engine=types.SimpleNamespace(engine_core=core))
        self.vllm_generation = types.SimpleNamespace(mode=mode, llm=llm, sync_weights=lambda: None, _place_features=lambda f, ids: f)

    def add_callback(self, callback): self.callbacks.append(callback)
    def _generate_single_turn(self, prompt_ids, images, *rest): return images


def trainer(**more):
    class Trainer(PicturesForVLLM, Base): vllm_sleep_level = 1
    return Trainer(**more)


def test_rows_without_pictures_are_none_to_trl():
    one = trainer()
    assert one._generate_single_turn([[1]] * 3, [["a"], [], None], {}, 4) == [["a"], None, None]
    assert one._generate_single_turn([[1]] * 2, [[], None], {}, 4) is None and one._generate_single_turn([[1]], None, {}, 4) is None


def test_sleep_level_and_a_cache_that_is_forgotten_with_the_weights():
    one = trainer()
    one.vllm_generation.llm.sleep(level=2)
    one.vllm_generation.sync_weights()
    assert one.slept == [1] and one.forgot == [1] and isinstance(one.callbacks[0], RatioWatch)


def test_a_server_that_cuts_pictures_otherwise_stops_the_run():
    place = trainer(mode="server").vllm_generation._place_features
    features = {"mm_placeholders": {"image": [{"offset": 3, "length": 16}]}}
    with pytest.raises(SettingsError, match=r"as \[2\] tokens, the server as \[16\].*--mm-processor-kwargs"): place(features, [3, 5, 5, 4])
    same = {"mm_placeholders": {"image": [{"offset": 3, "length": 2}]}}
    assert place(same, [3, 5, 5, 4]) is same and place(None, [1]) is None


def logged(ratios, capsys):
    "What is said of a run with these ratios, a step each"
    watch, state = RatioWatch(), types.SimpleNamespace(global_step=0, is_world_process_zero=True)
    for ratio in ratios:
        state.global_step += 1
        watch.on_log(None, state, None, {"sampling/importance_sampling_ratio/mean": ratio})
    watch.on_log(None, state, None, {"reward": 1.0})
    watch.on_train_end(None, state, None)
    out = capsys.readouterr()
    return out.out + out.err


@pytest.mark.parametrize("ratios", [[5e-4, 1e-3], [0.0], [1.3, 1.4], [float("nan")]], ids=str)
def test_a_ratio_that_leaves_its_bounds_is_said_twice(ratios, capsys, recwarn):
    said = logged(ratios, capsys) + "".join(str(w.message) for w in recwarn)
    assert "at step 1 the ratio" in said and "over the whole run" in said


@pytest.mark.parametrize("ratios", [[0.81, 1.24, 1.0], [1.0], []], ids=str)
def test_a_ratio_near_one_is_not_spoken_of(ratios, capsys, recwarn):
    assert "ratio" not in logged(ratios, capsys) + "".join(str(w.message) for w in recwarn)


def test_one_bad_step_is_said_once(capsys, recwarn):
    said = logged([1.0, 0.5, 1.0, 1.0, 0.4, 1.0], capsys) + "".join(str(w.message) for w in recwarn)
    assert said.count("the ratio of training's") == 1 and "at step 2" in said


@pytest.mark.parametrize("given, says", [(dict(vllm_sleep_level=3), "expected 0, 1 or 2"),
    (dict(vllm_max_model_length=8, max_completion_length=8), "no room for a prompt"), (dict(vllm_sleep=1), "vllm_sleep_level")])
def test_settings_of_vllm(given, says):
    with pytest.raises(SettingsError, match=says): read_settings(GRPOSettings, given)
    assert read_settings(GRPOSettings, dict(vllm_max_model_length=4096, vllm_sleep_level=1)).vllm_sleep_level == 1


def test_the_ratio_is_a_column():
    from vlrlbook.grpo import logged_as
    assert logged_as["sampling/importance_sampling_ratio/mean"] == "ratio"

"""The setting `system_prompt`: a turn of the system before every question, in training, in measuring and in asking."""
import json

import pytest
from PIL import Image
from vlrlbook.answers import system_of_run
from vlrlbook.core import SettingsError, read_settings
from vlrlbook.data import encode, to_dataset, to_messages, to_samples, with_system_turn
from vlrlbook.easyr1 import parse_overrides
from vlrlbook.evaluation import EvaluationSettings, load_set, sample_at
from vlrlbook.grpo import GRPOSettings, load_data, may_differ
from vlrlbook.models import twin_processor
from vlrlbook.service.training_form import request_form
from vlrlbook.service.training_requests import read_request

SAID = "You are a careful radiologist."
SHORT = dict(batch_size=8, num_generations=4, max_steps=1, eval_samples=4, system_prompt=SAID)


@pytest.fixture
def rows(tmp_path):
    "Twenty rows, each with a picture of its own; every fifth has words of the system"
    lines = []
    for i in range(20):
        Image.new("RGB", (56, 56), (i, 2 * i, 200)).save(tmp_path / f"{i}.png")
        row = dict(question=f"Is number {i} bright?", answer="yes", image=f"{i}.png")
        lines.append(row | (dict(system="Answer in one word.") if i % 5 == 0 else {}))
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_every_row_gets_the_turn_and_a_row_with_its_own_keeps_that(rows):
    train, held, _ = load_data(read_settings(GRPOSettings, SHORT | dict(task="vqa", data=str(rows))))
    own = 0
    for row in [*train, *held]:
        roles = [turn["role"] for turn in row["prompt"]]
        if (row["row"] - 1) % 5 == 0:
            own += 1
            assert roles == ["user"] and "Answer in one word." in row["prompt"][0]["content"][-1]["text"]
        else:
            assert roles == ["system", "user"] and row["prompt"][0]["content"] == [{"type": "text", "text": SAID}]
    assert own == 4


def test_held_out_pictures_are_asked_with_the_turn(rows):
    "Before and after training the model is asked as it is trained"
    held = load_data(read_settings(GRPOSettings, SHORT | dict(task="vqa", data=str(rows))))[1]
    for sample, row in zip(to_samples(held), held):
        assert to_messages(sample) == [{"role": t["role"], "content": [{k: v for k, v in p.items() if v is not None} for p in t["content"]]}
                                       for t in row["prompt"]]


def test_drawn_pictures_have_it_too_and_the_model_reads_it():
    train, held, _ = load_data(read_settings(GRPOSettings, SHORT))
    assert all(row["prompt"][0]["role"] == "system" for part in (train, held) for row in part)
    processor = twin_processor("qwen2_5_vl")
    text = processor.tokenizer.decode(encode(processor, to_samples(train)[:1])["input_ids"][0])
    assert text.startswith(f"<|im_start|>system\n{SAID}<|im_end|>\n<|im_start|>user")


def test_without_the_setting_nothing_changes():
    train = load_data(read_settings(GRPOSettings, SHORT | dict(system_prompt=None)))[0]
    assert all(len(row["prompt"]) == 1 for row in train)
    assert not any(sample.turns for sample in to_samples(train))


def test_the_columns_stay_in_order(rows):
    train = load_data(read_settings(GRPOSettings, SHORT | dict(system_prompt=None)))[0]
    turned = with_system_turn(train, SAID)
    assert turned.features == train.features and turned.column_names == train.column_names
    assert to_dataset(to_samples(turned))["prompt"] == turned["prompt"]


@pytest.mark.parametrize("text, said", [(" ", "empty"), ("Look at <image>", "<image>"), ("a<|im_end|>b", "<|im_end|>")])
def test_what_cannot_be_a_turn_is_refused_by_name(text, said):
    with pytest.raises(SettingsError, match="system_prompt") as error: read_settings(GRPOSettings, dict(system_prompt=text))
    assert said in str(error.value)


def test_a_run_goes_on_with_its_own_turn_only():
    assert "system_prompt" not in may_differ


def test_a_finished_run_is_asked_as_it_was_trained(tmp_path):
    (tmp_path / "training_args.json").write_text(json.dumps(dict(settings=dict(system_prompt=SAID))))
    assert system_of_run(tmp_path) == SAID and system_of_run("tiny-qwen2_vl") is None
    settings = read_settings(EvaluationSettings, dict(size="tiny", model=str(tmp_path), eval_samples=2))
    assert sample_at(load_set(settings)[0], 0).turns == [("system", SAID)]


def test_an_evaluation_of_rows_gives_a_row_its_own(tmp_path, rows):
    run = tmp_path / "run"
    run.mkdir()
    (run / "training_args.json").write_text(json.dumps(dict(settings=dict(system_prompt=SAID))))
    settings = read_settings(EvaluationSettings, dict(size="tiny", model=str(run), task="vqa", data=str(rows), split="all"))
    dataset = load_set(settings)[0]
    turns = {sample_at(dataset, i).row: sample_at(dataset, i).turns for i in range(len(dataset))}
    assert turns[1] == [] and turns[2] == [("system", SAID)]


@pytest.mark.parametrize("engine", ["0.3.2", "current", "verl"])
def test_an_export_refuses_it_by_name(engine):
    with pytest.raises(SettingsError, match="system_prompt.*column system"): parse_overrides([f"system_prompt={SAID}"], engine)


def test_the_service_takes_it():
    request = dict(job_name="a", data_file_id="b", training_config=dict(system_prompt=SAID))
    assert read_request(request, request_form())["settings"] == dict(system_prompt=SAID)

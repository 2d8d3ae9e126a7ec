"""Task zoom: the grammar of calls, the tool and its crops, TRL's masks, two steps, stored rows, what is refused."""
import json
import re
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import trl
from PIL import Image
from trl import GRPOTrainer

from vlrlbook.answers import generate_answers
from vlrlbook.core import Sample
from vlrlbook.data import to_dataset
from vlrlbook.grpo import make_trainer
from vlrlbook.marking import all_metrics, answer_marks, guess_task, marks, said_as, score_rows
from vlrlbook.models import add_lora, chat_template, image_token, limit_pixels, tiny_twin, twin_processor
from vlrlbook.readers.turns import last_turn, looks_of, on_one_line, read_call, refusals, turns_of, written
from vlrlbook.rewards import check_reward, is_right, load_reward, look_price, looks_reward, nasty, zoom_reward
from vlrlbook.run_records import Recorder
from vlrlbook.settings import GRPOSettings, SettingsError, read_settings
from vlrlbook.verdict import verdict_of
from vlrlbook.warm_twins import lessons
from vlrlbook.zoom import CallRefused, Eye, Looker, answer_call, corner_of, full_side, synthetic_zoom, with_looks_drawn, zoom_lessons
from vlrlbook.zoom_turns import (_Conversation, _split_calls, _written_turn, encode_turns, eye_of, look_options, looking_families,
                                 of_messages, teach_calls, turn_labels)

BOX = (42, 0, 56, 14)
LOOKED = "zoom(42, 0, 56, 14)\n<tool_response><image></tool_response>\nA photo of 3 discs"
REFUSED = "zoom(42, 0, 300, 14)\n<tool_response>{'error': 'outside: x2 = 300, 0 to 56'}</tool_response>\nA photo of 3 discs"


def settings(**given):
    small = dict(task="zoom", size="tiny", batch_size=16, max_steps=2, warm_steps=2, eval_samples=4, eval_batch_size=4, save_steps=0,
                 logging_steps=1)
    return read_settings(GRPOSettings, small | given)


def eye(side=56): return Eye.of("tiny-qwen2_5_vl", side)


# The grammar

@pytest.mark.parametrize("said", [
    "42, 0, 56, 14", " 42 ,0,56 , 14 ", "x1=42, y1=0, x2=56, y2=14", "x1 = 42,y1 = 0,x2 = 56,y2 = 14",
    '{"name": "zoom", "arguments": {"x1": 42, "y1": 0, "x2": 56, "y2": 14}}',
    '{"name": "zoom", "arguments": {"x1": "42", "y1": 0, "x2": 56, "y2": 14}}',
    "<function=zoom>\n<parameter=x1>\n42\n</parameter>\n<parameter=y1>0</parameter>"
    "<parameter=x2>56</parameter><parameter=y2>14</parameter>"])
def test_a_call_in_every_form(said):
    assert read_call(said) == (BOX, "")


def test_numbers_stay_as_they_were_written():
    assert read_call("0.5, -3, 1., 7").box == (0.5, -3, 1.0, 7)


@pytest.mark.parametrize("said", [
    "", "98, 0, 112", "42, 0, 56, 14, 9", "a, b, c, d", "98 0 112 14", "y1=0, x1=98, x2=112, y2=14", "{", "{}", '{"name": "look"}',
    '{"name": "zoom"}', '{"name": "zoom", "arguments": [42, 0, 56, 14]}', '{"name": "zoom", "arguments": {"x1": 98}}',
    '{"name": "zoom", "arguments": {"x1": true, "y1": 0, "x2": 112, "y2": 14}}',
    '{"name": "zoom", "arguments": {"x1": NaN, "y1": 0, "x2": 112, "y2": 14}}',
    '{"name": "zoom", "arguments": {"x1": %s, "y1": 0, "x2": 112, "y2": 14}}' % ("9" * 400),
    "<parameter=x1>98</parameter>", "1e5, 0, 112, 14", "42, 0, 56, 14<|im_end|>", "[" * 1_900])
def test_what_is_no_call_says_why(said):
    call = read_call(said)
    assert call.box is None and call.fault


def test_hostile_texts_are_read_in_time():
    for text in (*nasty, "zoom(" * 20_000, "zoom(1" + ", 1" * 30_000, "<tool_response>" * 6_000, "</tool_response>" * 6_000,
                 "<parameter=x1>" * 7_000, "zoom(1, 2, 3, 4)" * 6_000):
        began = time.process_time()
        read_call(text), looks_of(text), last_turn(text), on_one_line(text), zoom_reward(text, "A photo of 3 discs")
        assert time.process_time() - began < 0.4, text[:20]


def test_the_written_form_and_back():
    turns = [("assistant", "zoom(42, 0, 56, 14)"), ("tool", "<image>"), ("assistant", "A photo of 3 discs")]
    assert written(turns) == LOOKED and turns_of(LOOKED) == turns and last_turn(LOOKED) == "A photo of 3 discs"
    assert [(look.box, look.refused) for look in looks_of(LOOKED)] == [(BOX, "")]
    assert [look.refused for look in looks_of(REFUSED)] == ["outside"]
    assert on_one_line(LOOKED) == "zoom(42, 0, 56, 14) → picture → A photo of 3 discs"
    assert on_one_line(REFUSED).split(" → ")[1] == "refused (outside)"
    for plain in ("", "A photo of 3 discs", "zoom(1, 2, 3, 4)"):
        assert last_turn(plain) == plain and looks_of(plain) == [] and on_one_line(plain) == plain


def test_a_model_that_writes_the_tool_s_words_itself_has_not_looked():
    said = "zoom(42, 0, 56, 14) <tool_response><image></tool_response> A photo of 3 discs"
    text = written([("assistant", said)])
    assert looks_of(text) == [] and looks_reward(text)["overall"] == 0


@pytest.mark.parametrize("begin, end", [("<tool_<tool_response>response>", "</tool_</tool_response>response>"),
                                        ("<tool_</tool_response>response>", "</tool_<tool_response>response>"),
                                        ("<<tool_response>" * 3 + "tool_response>" * 3, "<</tool_response>/tool_response>")])
def test_a_tag_inside_of_a_tag_is_no_turn_of_the_tool_either(begin, end):
    text = written([("assistant", f"{begin}<image>{end} 3")])
    assert [role for role, _ in turns_of(text)] == ["assistant"] and looks_of(text) == []


def test_the_tool_answers_a_call_and_not_the_words_beside_it():
    for words, calls in [("zoom(1, 2, 3, 4) it is.", ["42, 0, 56, 14"]), _split_calls("zoozoom(42, 0, 56, 14)m(1, 2, 3, 4)", "plain")]:
        text = written([("assistant", _written_turn(words, calls)), ("tool", "<image>")])
        assert [look.box for look in looks_of(text)] == [BOX]
    assert "<|im_end|>" not in _written_turn("", ["<(|im_end|>"])


# Pictures

def test_pictures_by_seed():
    a, b = synthetic_zoom(40, 7), synthetic_zoom(40, 7)
    assert [s.answer for s in a] == [s.answer for s in b] and all(x.images[0].tobytes() == y.images[0].tobytes() for x, y in zip(a, b))
    small = [s for s in a if corner_of(s)]
    assert 10 <= len(small) <= 32 and {s.images[0].size for s in a} == {(full_side, full_side)} and {s.task for s in a} == {"zoom"}
    assert all(corner_of(s) for s in synthetic_zoom(20, 1, small=1.0)) and not any(corner_of(s) for s in synthetic_zoom(60, 1, small=0.0))


# The tool

def test_crops_and_their_sizes():
    looking, sample = eye(), synthetic_zoom(1, 3, small=1.0)[0]
    picture = sample.images[0]
    assert looking.shown(picture) == (56, 56) and looking.bounds(picture) == (56, 56)
    said = looking.said(corner_of(sample), picture)
    box = read_call(said.removeprefix("zoom(").removesuffix(")")).box
    crop = looking.crop(box, picture)
    # 14 shown pixels are 112 of the picture: a part that is larger than what is shown is not made larger
    assert box[2] - box[0] == box[3] - box[1] == 14 and crop.size == (112, 112)
    assert crop.convert("L").getextrema()[0] < 200
    assert looking.crop((0, 0, 56, 56), picture).size == picture.size  # larger than shown: the processor's business
    assert looking.crop((0, 0, 28, 7), picture).size == (224, 56) and looking.crop((0, 0, 7, 7), picture).size == (56, 56)
    assert looking.crop((0, 0, 3.5, 3.5), picture).size == (56, 56)  # 28 pixels, enlarged to what is shown
    thousandths = Eye.of("tiny-qwen3_vl", 64)
    assert thousandths.bounds(picture) == (1000, 1000) and thousandths.said((336, 0, 448, 112), picture) == "zoom(750, 0, 1000, 250)"


@pytest.mark.parametrize("said, kind", [
    ("42, 0, 300, 14", "outside"), ("-1, 0, 20, 14", "outside"), ("50, 0, 20, 14", "swapped"), ("0, 20, 14, 10", "swapped"),
    ("5, 5, 5, 9", "swapped"), ("0, 0, 56, 0.1", "thin"), ("0, 0, 56, 2", "thin"), ("98, 0, 112", "malformed"), ("", "malformed"),
    ("42, 0, 56, 14<|im_end|>", "malformed")])
def test_a_call_that_cannot_be_answered_gets_words_and_is_counted(said, kind):
    looker = Looker(eye(), 3)
    looker.reset(images=[Image.new("RGB", (224, 224), "white")])
    with pytest.raises(CallRefused, match=f"^{kind}: "): answer_call(looker, said)
    assert dict(looker.refused) == {kind: 1} and kind in refusals
    assert answer_call(looker, "42, 0, 56, 14")[0]["image"].size == (56, 56)


def test_more_calls_than_allowed():
    looker = Looker(eye(), 1)
    looker.reset(images=[Image.new("RGB", (224, 224), "white")])
    looker.zoom(0, 0, 14, 14)
    with pytest.raises(CallRefused, match="too_many: only 1"): looker.zoom(0, 0, 14, 14)
    looker.reset(images=[Image.new("RGB", (224, 224), "white")])
    assert not looker.refused and looker.zoom(0, 0, 14, 14)
    looker.reset()
    with pytest.raises(CallRefused): looker.zoom(0, 0, 14, 14)


def test_trl_offers_the_model_one_function():
    import inspect
    public = [name for name, _ in inspect.getmembers(Looker, inspect.isfunction) if not name.startswith("_")]
    assert public == ["reset", "zoom"]


# Templates and masks

@pytest.mark.parametrize("family", looking_families)
def test_trl_takes_the_templates(family):
    from trl.chat_template_utils import is_chat_template_prefix_preserving, parse_response, supports_tool_calling
    processor = twin_processor(family)
    assert not supports_tool_calling(processor)
    assert teach_calls(processor) == "plain" and teach_calls(processor) == "plain"
    assert supports_tool_calling(processor) and is_chat_template_prefix_preserving(processor)
    # where nothing is called a prompt reads as before
    talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}]
    now = processor.apply_chat_template(talk, add_generation_prompt=True)
    assert now == processor.apply_chat_template(talk, add_generation_prompt=True, chat_template=chat_template)
    prefix = processor.tokenizer(now)["input_ids"]
    for said, wanted in (("zoom(42, 0, 56, 14)<|im_end|>", ["42, 0, 56, 14"]), ("A photo of 3 discs<|im_end|>", None),
                         ("zoom(9", ["9"]), ("zoom()<|im_end|>", [""])):
        parsed = parse_response(processor.tokenizer, processor.tokenizer(said)["input_ids"], prefix=prefix)
        calls = parsed.get("tool_calls")
        assert (calls and [call["function"]["arguments"]["said"] for call in calls]) == wanted, said


def test_templates_of_checkpoints_without_tools_get_qwen_s_own_words():
    from trl.chat_template_utils import is_chat_template_prefix_preserving, parse_response, supports_tool_calling
    processor = twin_processor("qwen2_5_vl")
    processor.chat_template = "{% for m in messages %}a checkpoint's own{% endfor %}"
    assert teach_calls(processor) == "tagged" and supports_tool_calling(processor) and is_chat_template_prefix_preserving(processor)
    text = processor.apply_chat_template([{"role": "user", "content": "How many?"}], tools=[Looker(None, 1).zoom])
    assert '"name": "zoom"' in text and "Look at a part of the picture again" in text and "x1" in text
    call = '{"name": "zoom", "arguments": {"x1": 42, "y1": 0, "x2": 56, "y2": 14}}'
    ids = processor.tokenizer(f"<tool_call>\n{call}\n</tool_call><|im_end|>")["input_ids"]
    parsed = parse_response(processor.tokenizer, ids, prefix=[])
    assert read_call(parsed["tool_calls"][0]["function"]["arguments"]["said"]).box == BOX
    assert of_messages([dict(parsed), {"role": "tool", "content": [{"type": "image"}]}]) == "\n".join(LOOKED.split("\n")[:2])


def test_lessons_teach_the_model_s_own_words_alone():
    looking = eye(112)
    samples, said = zoom_lessons(12, 0, looking)
    looked = [bool(looks_of(text)) for text in said]
    assert 2 <= sum(looked) <= 10 and all(last_turn(t) == s.answer for s, t in zip(samples, said))
    assert not any(looks_of(text) for text in zoom_lessons(12, 0, looking, looks=0)[1])
    assert lessons("zoom", 12, 0, looks=1)[1] == said
    processor = looking.processor
    teach_calls(processor)
    batch = encode_turns(processor, samples, said, looking)
    labels = turn_labels(batch["input_ids"], processor)
    pictures = (batch["input_ids"] == image_token(processor)).sum(1).tolist()
    assert pictures == [32 if look else 16 for look in looked] and len(batch["image_grid_thw"]) == 12 + sum(looked)
    for row, text in enumerate(said):
        own = [part + "<|im_end|>" for role, part in turns_of(text) if role == "assistant"]
        assert processor.tokenizer.decode(labels[row][labels[row] >= 0]) == "".join(own)


def test_the_first_lessons_teach_where_to_look_and_nothing_else():
    samples, said = zoom_lessons(20, 4, eye(112), aiming=True)
    assert all(corner_of(sample) for sample in samples) and all(looks_of(text) for text in said)
    aimed = [eye(112).said(corner_of(sample), sample.images[0]) in text for sample, text in zip(samples, said)]
    assert sum(aimed) >= 16  # 19 of 20 are meant to


def test_pictures_are_taught_in_the_size_in_which_a_run_shows_them(monkeypatch):
    "A warm start in another size teaches other places of tokens, and its twin babbles in the run"
    from vlrlbook import warm_twins
    seen, real = [], warm_twins.encode_turns
    monkeypatch.setattr(warm_twins, "encode_turns", lambda *given: seen.append(real(*given)) or seen[-1])
    # what it begins with takes a minute, and is none of this test's business
    monkeypatch.setattr(warm_twins, "_counting_steps", lambda: 1)
    warm_twins.supervised("qwen2_5_vl", 1, 0, "zoom", 1)
    run = Eye.of("tiny-qwen2_5_vl", settings().max_image_size)
    tokens = [int(grid.prod()) // 4 for grid in seen[0]["image_grid_thw"]]
    width, height = run.shown(synthetic_zoom(1, 0)[0].images[0])
    assert set(tokens) == {width * height // 28 ** 2}


# Training

@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def trained(request, tmp_path_factory):
    "A trainer after two steps in which a twin says what it is told to say, and what TRL made of the last batch"
    family = request.param
    model, processor = tiny_twin(family)
    limit_pixels(processor, 56)
    model = add_lora(model, 4, 8, 0.0, False)
    s = settings(model=f"tiny-{family}", output_dir=str(tmp_path_factory.mktemp(family)))
    looking = Eye.of(s.model, s.max_image_size)
    wide = looking.bounds(Image.new("RGB", (224, 224)))[0]
    corner = round(wide / 4)
    script = [f"zoom(0, 0, {corner}, {corner})", "A photo of 2 discs", f"zoom(0, 0, {2 * round(wide)}, {corner})", "zoom(7",
              f"zoom({corner}, 0, 0, {corner})", f"zoom(0, 0, {corner}, {corner})", "A photo of 1 disc", "zoom(1, 2)"]
    batches, logs, seen = [], [], []
    trainer = make_trainer(s, model, processor, to_dataset(synthetic_zoom(8, 0)), recorder=lambda *batch: seen.append(batch))

    def scripted(prompt_ids, images, fields, *more, **others):
        "First turns by the script; of second ones the first calls again, the others answer"
        tokenizer, said = processor.tokenizer, []
        for row in range(len(prompt_ids)):
            first = len(prompt_ids) == 16
            text = script[row % 8] if first else script[0] if row == 0 else "A photo of 2 discs"
            said.append(tokenizer(text)["input_ids"] + ([] if text == "zoom(7" else [tokenizer.eos_token_id]))
        return said, None
    trainer._generate_single_turn = scripted
    made = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: batches.append(made(inputs)) or batches[-1]
    kept = trainer.log
    trainer.log = lambda row, *more: logs.append(row) or kept(row, *more)
    trainer.train()
    return trainer, processor, batches, logs, seen


def test_no_loss_on_what_the_tool_told(trained):
    trainer, processor, batches, _, _ = trained
    batch, tokenizer = batches[0], processor.tokenizer
    seen = (batch["completion_mask"] * batch["tool_mask"]).bool()
    texts = [tokenizer.decode(ids[mask]) for ids, mask in zip(batch["completion_ids"], seen)]
    for text in texts:
        assert "<|image_pad|>" not in text and "error" not in text and "tool" not in text
    # TRL shuffles rows of a batch only later: here they are the script's
    assert texts[1] == "A photo of 2 discs<|im_end|>" and texts[2].endswith("A photo of 2 discs<|im_end|>")
    told = [tokenizer.decode(ids[mask]) for ids, mask in zip(batch["completion_ids"], batch["completion_mask"].bool() & ~seen)]
    assert "outside" in told[2] and "malformed" in told[3] and "swapped" in told[4] and told[1] == ""
    assert seen.sum() == batch["num_items_in_batch"]


def test_the_crop_s_picture_tokens_are_counted(trained):
    _, processor, batches, _, _ = trained
    batch = batches[0]
    token, merge = image_token(processor), processor.image_processor.merge_size ** 2
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    of_rows = (ids == token).sum(1).tolist()
    grids = (batch["image_grid_thw"].prod(1) // merge).split(batch["num_images"])
    assert of_rows == [int(grid.sum()) for grid in grids]
    assert [n - 1 for n in batch["num_images"]] == [(ids == token).sum(1).tolist()[row] // of_rows[1] - 1 for row in range(16)]
    assert sum(batch["num_images"]) > 16 and ((batch["mm_token_type_ids"] == 1) == (ids == token)).all()


def test_two_steps_train_and_count(trained):
    trainer, _, batches, logs, seen = trained
    assert trainer.state.global_step == 2 and len(batches) == 2
    log = [row for row in logs if "part/malformed" in row][0]
    # of 16 answers: two with each fault of the script, and one call more than the one that is allowed
    assert (log["part/malformed"], log["part/outside"], log["part/swapped"]) == (0.25, 0.125, 0.125) and log["part/too_many"] > 0
    assert log["part/looks"] > 0 and log["tools/call_frequency"] > 0 and log["tools/failure_frequency"] > 0
    texts = seen[0][0]
    assert texts[1] == "A photo of 2 discs" and looks_of(texts[2])[0].refused == "outside" and last_turn(texts[2]) == "A photo of 2 discs"
    assert trainer.plain_because and "environment_factories" in trainer.plain_because or "tools" in trainer.plain_because


def test_log_probs_of_a_row_do_not_hang_on_its_neighbours(trained):
    "TRL's batch of rows with one and with two pictures, against each row alone"
    trainer, processor, batches, _, _ = trained
    batch = batches[0]
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    C, seen = batch["completion_ids"].shape[1], (batch["completion_mask"] * batch["tool_mask"]).bool()
    names = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
    with torch.no_grad():
        together, *_ = trainer._get_per_token_logps_and_entropies(model, ids, mask, C, **{k: batch[k] for k in names})
        patches = batch["image_grid_thw"].prod(1)
        for row in (0, 1, 2):
            first = sum(batch["num_images"][:row])
            images = slice(first, first + batch["num_images"][row])
            start = int(patches[:first].sum())
            rows = slice(start, start + int(patches[images].sum()))
            alone, *_ = trainer._get_per_token_logps_and_entropies(
                model, ids[row:row + 1], mask[row:row + 1], C, pixel_values=batch["pixel_values"][rows],
                image_grid_thw=batch["image_grid_thw"][images], num_images=[batch["num_images"][row]],
                mm_token_type_ids=batch["mm_token_type_ids"][row:row + 1])
            assert torch.allclose(together[row][seen[row]], alone[0][seen[row]], atol=2e-4)


# Asking, marking, cards

def test_asking_goes_the_same_way_as_trl(monkeypatch):
    "An untrained twin that is told what to say: both loops write the same text"
    model, processor = tiny_twin("qwen2_5_vl")
    limit_pixels(processor, 56)
    said = {"first": iter(["zoom(0, 0, 14, 14)", "A photo of 1 disc", "zoom(0, 0, 300, 14)", "zoom(7"]), "then": "A photo of 2 discs"}
    real = processor.tokenizer.batch_decode

    def scripted(ids, **how):
        real(ids, **how)
        first = [text for _, text in zip(range(len(ids)), said["first"])]
        return first or [said["then"]] * len(ids)
    monkeypatch.setattr(processor.tokenizer, "batch_decode", scripted)
    found = generate_answers(model, processor, synthetic_zoom(4, 0), max_new_tokens=96, looks=1)
    assert found[0] == ["zoom(0, 0, 14, 14)\n<tool_response><image></tool_response>\nA photo of 2 discs"]
    assert found[1] == ["A photo of 1 disc"]
    assert looks_of(found[2][0])[0].refused == "outside" and looks_of(found[3][0])[0].refused == "malformed"


@pytest.mark.parametrize("template", [None, "qwen3_vl.jinja"])
def test_several_calls_of_one_turn_are_answered_as_in_training(template):
    "Qwen3-VL's template puts the answers to all calls of a turn into one turn, a twin's gives each its own"
    processor = twin_processor("qwen3_vl")
    limit_pixels(processor, 56)
    if template: processor.chat_template = (Path(trl.__file__).parent / "chat_templates" / template).read_text()
    style = teach_calls(processor)
    looker = Looker(Eye(processor, "thousandths"), 1)
    conversation = _Conversation("", synthetic_zoom(1, 0)[0], looker)
    call = "zoom(0, 0, 250, 250)" if style == "plain" else "<tool_call>0, 0, 250, 250</tool_call>"
    conversation.add_model_turn(call + call, style)
    conversation.answer_calls(processor)
    picture, refusal = {"type": "image", "image": conversation.pictures[1]}, str({"error": "too_many: only 1 allowed"})
    messages = [dict(role="tool", name="zoom", content=content) for content in ([picture], refusal)]
    trainer = SimpleNamespace(processing_class=processor, _tokenizer=processor.tokenizer, _is_vlm=True, chat_template=None,
                              chat_template_kwargs={})
    in_training = processor.tokenizer.decode(GRPOTrainer._get_tool_suffix_ids(trainer, messages))
    assert conversation.text == call + call + "<|im_end|>" + re.sub(r"(<\|image_pad\|>)+", "<|image_pad|>", in_training)
    assert conversation.text.count("<|im_start|>") == (2 if template else 3)


def test_a_call_too_many_is_told_so_and_may_be_answered(monkeypatch):
    model, processor = tiny_twin("qwen2_5_vl")
    limit_pixels(processor, 56)
    turns = iter([["zoom(0, 0, 14, 14)"], ["zoom(0, 0, 14, 14)"], ["zoom(0, 0, 14, 14)"], ["never asked"]])
    monkeypatch.setattr(processor.tokenizer, "batch_decode", lambda ids, **how: next(turns))
    text = generate_answers(model, processor, synthetic_zoom(1, 0), max_new_tokens=200, looks=1)[0][0]
    assert [look.refused for look in looks_of(text)] == ["", "too_many"] and last_turn(text) == "zoom(0, 0, 14, 14)"
    assert next(turns) == ["never asked"] and not is_right(text, "A photo of 1 disc", "zoom")


def test_a_stored_row_is_evaluated():
    sample = Sample("How many discs are there?", "A photo of 3 discs", [], "zoom", 1)
    assert answer_marks(LOOKED, sample.answer, "zoom")["exact"] == 1 and is_right(LOOKED, sample.answer, "zoom")
    assert answer_marks(LOOKED.replace("3", "4"), sample.answer, "zoom")["error"] == 1 and said_as(LOOKED, "zoom") == "3"
    rows = []
    for row in range(8):
        truth = f"A photo of {row % 4 + 1} disc{'s' if row % 4 else ''}"
        late = LOOKED.replace("A photo of 3 discs", truth)
        rows.append(json.loads(json.dumps(dict(
            row=row, question=sample.question, answer=truth, picture=str(row), before_greedy=["A photo of 9 discs"],
            before_sampled=[REFUSED], after_greedy=[late], after_sampled=[late]))))
    assert guess_task(rows) == "zoom"
    scored = score_rows(rows)
    assert scored["after_greedy"]["exact"].tolist() == [1.0] * 8
    assert scored["after_greedy"]["reward"].tolist() == pytest.approx([1 - look_price] * 8)
    assert all_metrics(rows, "zoom") and verdict_of(rows, "zoom")["outcome"] in ("better", "too few pictures")
    assert marks([sample], [[LOOKED]], load_reward("zoom"))["reward"] == [pytest.approx(1 - look_price)]


def test_a_counting_zip_trains_the_task(tmp_path):
    from vlrlbook.data import synthetic_counting, write_counting_zip
    from vlrlbook.run_data import load_data
    path = write_counting_zip(synthetic_counting(12, seed=4), tmp_path / "discs.zip")
    train, held, report = load_data(settings(data=str(path), batch_size=8, eval_samples=2))
    assert report.valid_images == 12 and set(train["task"]) == {"zoom"} and train["answer"][0].startswith("A photo of")


def test_an_answer_with_a_look_is_told_without_marks():
    "In the verdict, in the table of stages, and on the cards of what changed, where the answer itself was cut off"
    from vlrlbook.answers import read_in_task
    from vlrlbook.report import StageCards, _flips
    rows = [dict(row=i, question="How many?", answer=f"A photo of {i % 2 + 2} discs", before_greedy=[LOOKED], before_sampled=[LOOKED],
                 after_greedy=[LOOKED], after_sampled=[LOOKED]) for i in range(8)]
    told = json.dumps(verdict_of(rows, "zoom"), ensure_ascii=False)
    assert "tool_response" not in told and "“A photo of 3 discs” to 8 of 8 pictures" in told
    cards = StageCards(dict(pictures=[dict(question="How many?", answer="3", image=None)],
                            stages=[dict(when="first", step=0, greedy=[[LOOKED]], sampled=[[LOOKED, "A photo of 3 discs"]])]))
    assert "tool_response" not in repr(cards) and "zoom(42, 0, 56, 14) → picture → A photo of 3 discs" in cards._repr_html_()
    shown = _flips(dict(flips=[dict(before=REFUSED, after=LOOKED, answer="A photo of 3 discs", became_right=True, image=None)]))
    assert "tool_response" not in shown and "→ picture → A photo of 3 discs" in shown
    assert read_in_task(LOOKED, "zoom") == "3" and read_in_task("zoom(1, 2", "zoom") != "3"


def test_what_an_answer_earns():
    truth = "A photo of 3 discs"
    assert zoom_reward(truth, truth)["overall"] == 1 and zoom_reward("3", truth)["overall"] == pytest.approx(0.2)
    assert zoom_reward(LOOKED, truth) == pytest.approx(dict(overall=1 - look_price, right=1.0, looks=1.0, refused=0.0))
    assert zoom_reward(REFUSED, truth) == pytest.approx(dict(overall=1 - look_price, right=1.0, looks=1.0, refused=1.0))
    # the numbers of a call are no count, and a look alone is no answer
    assert zoom_reward("zoom(3, 0, 14, 14)\n<tool_response><image></tool_response>", truth)["right"] == 0
    assert looks_reward(LOOKED)["overall"] == 1 and looks_reward(REFUSED)["overall"] == 0
    assert check_reward(zoom_reward, truth) == [] == check_reward(looks_reward, truth)
    gamed = load_reward("0.7*zoom + 0.3*looks")
    assert gamed(LOOKED, truth)["overall"] > gamed(truth, truth)["overall"] - 0.3


def test_cards_show_both_pictures():
    sample, looking = synthetic_zoom(1, 3, small=1.0)[0], eye()
    drawn = with_looks_drawn(sample, [LOOKED, REFUSED, "A photo of 1 disc"], looking).images[0]
    assert drawn.height == full_side and drawn.width > full_side + 50 and sample.images[0].size == (full_side, full_side)
    assert with_looks_drawn(sample, ["A photo of 1 disc"], looking).images[0].size == (full_side, full_side)
    recorder = Recorder(2, eye=looking)
    state = SimpleNamespace(global_step=0, max_steps=2)
    recorder([LOOKED, "A photo of 1 disc"], [dict(overall=1.0), dict(overall=0.0)], [sample] * 2, state)
    group = recorder.kept["1 first"]
    assert group.rollouts[0].text == on_one_line(LOOKED) and group.sample.images[0].width > full_side and group._repr_png_()


# A look must fit into an answer's length

CALL = "zoom(0, 0, 14, 14)"


def looked_in_training(most, folder, monkeypatch):
    "What TRL makes of a twin's call and its answer where an answer has so many tokens at most: text, and what was logged"
    monkeypatch.setattr("vlrlbook.zoom_turns._check_room", lambda *given: None)
    model, processor = tiny_twin("qwen2_5_vl")
    limit_pixels(processor, 56)
    model, seen = add_lora(model, 4, 8, 0.0, False), []
    s = settings(max_completion_length=most, max_image_size=56, output_dir=str(folder), max_steps=1)
    trainer = make_trainer(s, model, processor, to_dataset(synthetic_zoom(2, 0)), recorder=lambda *batch: seen.append(batch))
    tokenizer, turns = processor.tokenizer, iter([CALL, "A photo of 2 discs"])

    def scripted(prompt_ids, *more, **others):
        text = next(turns)
        return [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for _ in prompt_ids], None
    trainer._generate_single_turn = scripted
    trainer.model.train()
    trainer._generate_and_score_completions([trainer.train_dataset[0]] * 8)
    return seen[0][0][0], trainer._metrics["train"]["part/no_room"]


def looked_when_measured(most, monkeypatch):
    "The same for a twin that is asked as a run is measured; what it says is cut as its tokens would be"
    model, processor = tiny_twin("qwen2_5_vl")
    limit_pixels(processor, 56)
    tokenizer, turns = processor.tokenizer, iter([CALL, "A photo of 2 discs"])

    def said(model, batch, options):
        ids = tokenizer(next(turns))["input_ids"] + [tokenizer.eos_token_id]
        return [ids[:options["max_new_tokens"]]] * len(batch["input_ids"])
    monkeypatch.setattr("vlrlbook.answers._answer_ids", said)
    return generate_answers(model, processor, synthetic_zoom(1, 0), max_new_tokens=most, looks=1)[0][0]


def test_an_answer_has_one_length_for_all_its_turns_in_training_and_when_it_is_measured(tmp_path, monkeypatch):
    "From too little for the tool's picture, which both drop, over a cut second turn to enough for all"
    tokenizer = twin_processor("qwen2_5_vl").tokenizer
    call = len(tokenizer(CALL)["input_ids"]) + 1
    found, dropped = {}, {}
    for most in range(call, call + 40, 3):
        found[most], dropped[most] = looked_in_training(most, tmp_path, monkeypatch)
        assert looked_when_measured(most, monkeypatch) == found[most], most
    texts = list(found.values())
    assert texts[0] == CALL and dropped[call] == [1.0]  # a call for each answer, and none was told anything
    assert texts[-1].endswith("\nA photo of 2 discs") and dropped[max(found)] == [0.0]
    assert any("<image>" in text and not text.endswith("discs") for text in texts)


@pytest.mark.parametrize("size, most, side, fits", [
    (56, 96, 224, True), (336, 96, 448, False), (336, 300, 448, True), (1024, 96, 56, True), (112, 30, 224, False)])
def test_a_run_whose_looks_cannot_fit_is_refused_with_both_numbers(tmp_path, size, most, side, fits):
    "By the pictures that are there: small ones fit whatever size is allowed"
    model, processor = tiny_twin("qwen2_5_vl")
    limit_pixels(processor, size)
    s = settings(max_completion_length=most, max_image_size=size, output_dir=str(tmp_path))
    rows = to_dataset(synthetic_zoom(2, 0, side=side))
    if fits: assert look_options(s, model, processor, rows)
    else:
        with pytest.raises(SettingsError, match=f"max_completion_length = {most}: .*max_image_size = {size}.* take (\\d+) tokens") as told:
            look_options(s, model, processor, rows)
        enough = int(re.search(r"take (\d+) tokens", str(told.value))[1])
        assert most < enough and look_options(replace(s, max_completion_length=enough), model, processor, rows)


@pytest.mark.parametrize("family", looking_families)
def test_the_presets_have_room_for_a_look(family):
    model, processor = tiny_twin(family)
    rows = to_dataset(synthetic_zoom(2, 0))
    s = settings(model=f"tiny-{family}")
    limit_pixels(processor, s.max_image_size)
    assert look_options(s, model, processor, rows)
    if family == "qwen2_5_vl":  # a checkpoint, which writes its calls as JSON
        processor.chat_template = "{% for m in messages %}a checkpoint's own{% endfor %}"
        limit_pixels(processor, 512)
        assert look_options(settings(max_completion_length=1024), model, processor, rows)
        with pytest.raises(SettingsError, match="max_completion_length = 96"): look_options(settings(), model, processor, rows)
    assert look_options(settings(max_looks=0), model, processor, rows) == {}


# What is refused

@pytest.mark.parametrize("given, words", [
    (dict(model="tiny-gemma3"), "Qwen's families only"), (dict(model="tiny-aria"), "Qwen's families only"),
    (dict(max_looks=-1), "max_looks = -1"), (dict(task="counting", max_looks=1), "the tool belongs to task zoom"),
    (dict(use_vllm=True), "not tested there"), (dict(task="zooom"), "zoom")])
def test_refused_before_a_model_is_loaded(given, words):
    with pytest.raises(SettingsError, match=words): settings(**given)


def test_without_the_tool_the_task_is_plain():
    s = settings(max_looks=0)
    assert s.max_looks == 0 and settings().max_looks == 1 and asdict(read_settings(GRPOSettings, dict(size="tiny")))["max_looks"] == 0


def test_a_loaded_model_of_another_family_is_refused():
    model, processor = tiny_twin("gemma3")
    with pytest.raises(SettingsError, match="family gemma3: TRL 1.16"): eye_of(model, processor)

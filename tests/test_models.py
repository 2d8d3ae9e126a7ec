"""Twins of all six families: real batches, both padding sides, adapters, and a step of TRL's trainer."""
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from vlrlbook.answers import base_of
from vlrlbook.core import SettingsError, read_settings, set_seed
from vlrlbook.data import encode, synthetic_counting, to_dataset
from vlrlbook.grpo import GRPOSettings, completion_logps, generate_answers, make_trainer
from vlrlbook.models import (_touched_weights, _without_place, add_lora, families, last_real_token, load_vlm, model_type, name_anywhere,
                             save_model, tiny_twin, vision_marker_ids)

FAMILIES = list(families)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_does_not_depend_on_its_neighbours(family):
    model, processor = tiny_twin(family)
    samples = synthetic_counting(3, seed=1)
    samples[1].question = "How many discs are there in this picture of red discs?"
    with torch.no_grad():
        batch = encode(processor, samples, side="left")
        together = model.eval()(**batch).logits[:, -1]
        alone = torch.cat([model(**encode(processor, [s])).logits[:, -1] for s in samples])
    assert torch.allclose(together, alone, atol=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_matter(family):
    model, processor = tiny_twin(family)
    a, b = synthetic_counting(2, seed=3)
    b.question = a.question
    with torch.no_grad(): logits = model.eval()(**encode(processor, [a, b])).logits[:, -1]
    assert (logits[0] - logits[1]).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_vision_marks_are_never_sampled(family):
    model, processor = tiny_twin(family)
    with torch.no_grad(): model.get_input_embeddings().weight[vision_marker_ids(processor)] *= 50
    texts = generate_answers(model, processor, synthetic_counting(2), n=4, temperature=2.0, max_new_tokens=12)
    assert [len(t) for t in texts] == [4, 4]
    ids = [i for t in sum(texts, []) for i in processor.tokenizer(t)["input_ids"]]
    assert not set(ids) & set(vision_marker_ids(processor))


@pytest.mark.parametrize("family", FAMILIES)
def test_two_steps_of_grpo(family, tmp_path):
    "Stock TRL with a LoRA adapter on each family: the adapter moves, the base does not"
    s = read_settings(GRPOSettings, dict(batch_size=8, num_generations=4, max_steps=2, lr=1e-2,
        logging_steps=1, save_steps=0, output_dir=str(tmp_path)))
    set_seed(0)
    model, processor = load_vlm(f"tiny-{family}")
    policy = add_lora(model, r=4, alpha=8)
    frozen = {n: p.detach().clone() for n, p in policy.named_parameters() if not p.requires_grad}
    reward = "vlrlbook.rewards:counting_reward"
    s.reward = reward
    trainer = make_trainer(s, policy, processor, to_dataset(synthetic_counting(8)))
    trainer.reward_funcs = [lambda prompts, completions, **k: [float(i % 3) for i in range(len(completions))]]
    trainer.train()
    assert all(torch.equal(p, frozen[n]) for n, p in policy.named_parameters() if n in frozen)
    assert any(p.abs().sum() > 0 for n, p in policy.named_parameters() if "lora_B" in n)


def test_log_probabilities_on_both_padding_sides():
    model, processor = tiny_twin("qwen2_5_vl")
    samples = synthetic_counting(2, seed=5)
    answers = ["A photo of 1 disc", "A photo of 12 discs"]
    sums = []
    for s, a in zip(samples, answers):
        batch, P = encode(processor, [s], [a], side="right"), encode(processor, [s])["input_ids"].shape[1]
        sums.append(completion_logps(model, batch, P).sum())
    batch, P = encode(processor, samples, answers, side="right"), encode(processor, samples)["input_ids"].shape[1]
    both = (completion_logps(model, batch, P) * batch["attention_mask"][:, P:]).sum(1)
    assert torch.allclose(both, torch.stack(sums), atol=1e-4)


@pytest.mark.parametrize("mask, last", [([[0, 0, 1]], [2]), ([[1, 0, 0]], [0]), ([[1, 1, 1]], [2]), ([[0, 1, 0]], [1])])
def test_last_real_token(mask, last): assert last_real_token(torch.tensor(mask)).tolist() == last


def test_a_model_under_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_model(*tiny_twin("qwen2_vl"), tmp_path / "mine")
    model, processor = load_vlm("~/mine")
    assert model.config.model_type == "qwen2_vl" and processor.tokenizer.padding_side == "left"
    with pytest.raises(FileNotFoundError, match="'~/yours': no such directory"): load_vlm("~/yours")

    with pytest.raises(FileNotFoundError, match="'~nosuchuser/mine': no such directory"): load_vlm("~nosuchuser/mine")


def test_a_wrong_name_of_a_model_is_named(tmp_path, monkeypatch):
    "The hub's messages, about a connection or an alphabet of ids, named neither the model nor the folder that is not there"
    monkeypatch.chdir(tmp_path)
    for name in ("models/missing", r"C:\models\base"):
        with pytest.raises(OSError, match=f"model {re.escape(repr(name))}: no such directory here"): model_type(name)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="'mine' is an adapter: name its model here"): model_type("mine")


def test_behind_a_link_two_points_are_the_folder_above_where_it_leads(tmp_path, monkeypatch):
    (tmp_path / "far/runs").mkdir(parents=True)
    for place in ("far/base", "near/base"): (tmp_path / place).mkdir(parents=True)
    (tmp_path / "near/link").symlink_to(tmp_path / "far/runs")
    monkeypatch.chdir(tmp_path / "near")
    assert name_anywhere("link/../base") == str((tmp_path / "far/base").resolve()) and name_anywhere("base") == str(tmp_path / "near/base")
    assert name_anywhere("link") == str(tmp_path / "near/link"), "a link keeps its name"


@pytest.mark.parametrize("base, says", [
    (None, "mine does not say which model it was trained on; name that model"), ("", "mine does not say which model"),
    ("/gone/base", "mine was trained on /gone/base, which is not there; name that model")])
def test_an_adapter_whose_base_cannot_be_found(tmp_path, base, says):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/adapter_config.json").write_text(json.dumps(dict(base_model_name_or_path=base)))
    with pytest.raises(SettingsError, match=says): base_of(tmp_path / "mine")


def test_max_image_size_limits_tokens():
    _, processor = load_vlm("tiny-qwen2_5_vl", max_image_size=56)
    assert (encode(processor, synthetic_counting(1))["input_ids"] == processor.image_token_id).sum() == 4


@pytest.mark.parametrize("family, size, told", [
    ("qwen2_vl", dict(width=160), "width = 160: expected a multiple of 64"), ("aria", dict(width=96), "of 64"),
    ("gemma3", dict(width=0), "of 64"), ("qwen3_5", dict(depth=3), "depth = 3: expected 4 or more")])
def test_a_size_that_could_be_built_but_not_run_is_refused(family, size, told):
    with pytest.raises(ValueError, match=told): tiny_twin(family, **size)


@pytest.mark.parametrize("family, size", [
    ("qwen2_vl", dict(width=192, depth=1)), ("gemma3", dict(width=64, depth=1)), ("qwen3_5", dict(width=64))])
def test_the_smallest_sizes_run(family, size):
    model, _ = tiny_twin(family, **size)
    with torch.no_grad(): assert torch.isfinite(model(input_ids=torch.arange(10, 20)[None]).logits).all()


@pytest.mark.parametrize("ties", [["as", "bs"], ["bs", "as"], ["ab", "bs"], ["dc", "ca", "as", "sb"]])
def test_tied_weights_are_found_in_any_order(ties):
    "Only b is adapted; what is tied to it, also through others, has changed with it, and a file needs one of them"
    tied = {f"{one}.weight": f"{other}.weight" for one, other in ties}
    names = {f"{name}.weight" for name in "".join(ties)}
    state = dict.fromkeys(names | {"x.weight"})
    touched = _touched_weights(SimpleNamespace(all_tied_weights_keys=tied), ["b"], state)
    assert touched == names
    assert all(_without_place(touched, {name}, tied) == [] for name in names)
    assert _without_place(touched, {"x.weight"}, tied) == sorted(names)


@pytest.mark.parametrize("template, closes", [("qwen3_5_think.jinja", True), ("qwen3_5_nothink.jinja", None), ("always", False)])
def test_a_thought_that_the_template_opens(tmp_path, capfd, template, closes):
    "Qwen3.5's template, as TRL ships it, opens <think> in the prompt: switched off where it can be, else said; None: nothing to do"
    import trl
    from vlrlbook.data import drawn_questions, to_messages
    from vlrlbook.models import load_processor, save_processor, twin_processor
    processor = twin_processor("qwen3_5")
    file = Path(trl.__file__).parent / "chat_templates" / template
    if template == "always": processor.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    elif file.exists(): processor.chat_template = file.read_text()
    else: pytest.skip("this release of TRL has no such template")
    save_processor(processor, tmp_path / "model")
    loaded = load_processor(str(tmp_path / "model"))
    [sample] = drawn_questions(1, 0)
    end = loaded.apply_chat_template(to_messages(sample), add_generation_prompt=True)[-40:]
    said = " ".join(capfd.readouterr())
    assert end.rstrip().endswith("<think>") == (closes is False), end
    assert ("enable_thinking is set to false" in said) == (closes is True) and ("nothing switches that off" in said) == (closes is False)
    # what a run saves keeps the switch: whoever serves the model may ask for the thought
    from transformers import AutoProcessor
    save_processor(loaded, tmp_path / "trained")
    served = AutoProcessor.from_pretrained(tmp_path / "trained")
    prompts = [served.apply_chat_template(to_messages(sample), add_generation_prompt=True, tokenize=False, **given).rstrip()
               for given in ({}, dict(enable_thinking=False), dict(enable_thinking=True))]
    opened = [prompt.endswith("<think>") for prompt in prompts]
    if closes: assert opened == [False, False, True]


def test_a_folder_of_adapters_alone_has_no_weights_of_its_own(tmp_path):
    "Two with different adapters had the same digits, those of nothing"
    from safetensors.torch import save_file
    from vlrlbook.models import weights_digest
    save_file({"a": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    assert weights_digest(tmp_path) is None
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    assert len(weights_digest(tmp_path)) == 16

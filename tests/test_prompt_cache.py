"""A prompt read into a cache, and the answers that go on from it: the families that attention in two parts cannot serve.

What all six families share is in test_shared_prompt.py; here is what a cache could get wrong."""
import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from test_shared_prompt import ASKED, G, PICTURED, NoWayBack, assert_same, fixed_answers, raises, samples, trainer
from transformers import GenerationConfig, LlamaConfig
from trl.trainer.utils import add_fused_lm_head
from vlrlbook import prompt_cache, shared_prompt
from vlrlbook.core import RunLog
from vlrlbook.data import encode
from vlrlbook.models import add_lora, families, tiny_twin
from vlrlbook.prompt_cache import cache_under_checkpointing, tested_families, widened
from vlrlbook.shared_prompt import sample_groups, shared_log_probs, use_grouped_attention

# Two whose layers are more than attention over all that came before: what only they can break is asked of them alone
UNLIKE = ["qwen3_5", "gemma3"]


def read(family, asked=PICTURED, C=5):
    "A twin, and groups of unequal prompts with answers of unequal length: what `shared_log_probs` takes, and a plain batch"
    model, processor = tiny_twin(family)
    add_fused_lm_head(model)
    chosen = samples(asked)
    one, rows = encode(processor, chosen), encode(processor, [s for s in chosen for _ in range(G)])
    torch.manual_seed(0)
    said = torch.randint(20, 400, (len(chosen) * G, C))
    real = (torch.arange(C) < torch.tensor([C, 1, 3, 0] * len(chosen))[:, None]).long()
    ids, mask = torch.cat([rows["input_ids"], said], 1), torch.cat([rows["attention_mask"], real], 1)
    plain = dict(rows) | dict(input_ids=ids, attention_mask=mask)
    for kinds in ("mm_token_type_ids", "token_type_ids"):
        if kinds in plain: plain[kinds] = torch.cat([rows[kinds], torch.zeros_like(said)], 1)
    fields = {k: v for k, v in one.items() if k not in ("input_ids", "attention_mask")}
    return model, plain, (ids, mask, fields, C, G), real.bool()


def both(model, plain, given, real):
    "Largest difference of a log-prob, relative difference of the gradient of all weights, vision tower included"
    ids, C = given[0], given[3]
    pull, found = torch.randn(real.shape), []
    def plainly():
        logits = model(**plain).logits[:, -C - 1:-1]
        return logits.log_softmax(-1).gather(-1, ids[:, -C:, None])[..., 0]
    for ask in (plainly, lambda: shared_log_probs(model, model, *given)[0]):
        model.zero_grad()
        logps = ask()
        (logps * pull)[real].sum().backward()
        found.append((logps.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    (a, ga), (b, gb) = found
    assert len(ga) == len(gb)
    return (a - b)[real].abs().max().item(), ((ga - gb).norm() / ga.norm()).item()


@pytest.mark.parametrize("family", list(families))
@pytest.mark.parametrize("asked", [PICTURED, [ASKED[2], ("What is this, all in all?", [])], ASKED], ids=["pictures", "text", "mixed"])
def test_every_family_goes_this_way(family, asked):
    "Log-probs and the gradient of every weight within 1e-5"
    assert family in tested_families
    gap, relative = both(*read(family, asked))
    assert gap <= 1e-5 and relative <= 1e-5


@pytest.mark.parametrize("family", UNLIKE)
def test_long_answers_pass_chunks_and_windows(family):
    "Delta nets work in chunks of 64 tokens, the twin's windows hold 32: 80 tokens pass both"
    gap, relative = both(*read(family, PICTURED[:2], C=80))
    # A delta net's chunks begin elsewhere when the prompt is read apart, and so its sums are rounded otherwise.
    bound = 1e-4 if family == "qwen3_5" else 1e-5
    assert gap <= bound and relative <= bound


@pytest.mark.parametrize("family", UNLIKE)
def test_layers_that_are_computed_again_find_the_same_cache(family):
    model, plain, given, real = read(family)
    before = both(model, plain, given, real)
    model.train()
    model.gradient_checkpointing_enable(dict(use_reentrant=False))
    torch.manual_seed(1)
    assert both(model, plain, given, real)[1] <= 1e-5 and before[1] <= 1e-5
    layer = model.model.language_model.layers[0]
    with cache_under_checkpointing(model.model): assert not layer.gradient_checkpointing and "forward" in vars(layer)
    assert layer.gradient_checkpointing and "forward" not in vars(layer)
    seen = []
    layer.register_forward_pre_hook(lambda *_: seen.append(1)) # a hook is no part of what is computed again
    layer.mlp.register_forward_pre_hook(lambda *_: seen.append("mlp"))
    shared_log_probs(model, model, *given)[0].sum().backward()
    assert seen.count("mlp") == 4, "prompt and answers, each once there and once on the way back"


def test_answers_do_not_see_each_other():
    "Another second answer leaves the first as it was, bit for bit: the state of a delta net is copied, not passed on"
    model, _, (ids, mask, fields, C, _), real = read("qwen3_5", PICTURED[:1])
    with torch.no_grad():
        before = shared_log_probs(model, model, ids, mask.clone().index_fill_(0, torch.arange(4), 1), fields, C, G)[0]
        ids[1, -C:] = torch.randint(20, 400, (C,))
        after = shared_log_probs(model, model, ids, mask.clone().index_fill_(0, torch.arange(4), 1), fields, C, G)[0]
    assert torch.equal(before[[0, 2, 3]], after[[0, 2, 3]]) and not torch.equal(before[1], after[1])


@pytest.mark.parametrize("family", UNLIKE)
def test_sampled_tokens_have_the_log_probs_of_their_own_row(family):
    "Unequal answers, drawn at temperature 1; each token's score while it was drawn equals that of its row, read alone"
    model, processor = tiny_twin(family)
    model.eval()
    add_fused_lm_head(model)
    one = encode(processor, samples(PICTURED[:2]))
    fields = {k: v for k, v in one.items() if k not in ("input_ids", "attention_mask")}
    drawn, scores = shared_prompt._next_token, []
    how = GenerationConfig(max_new_tokens=40, do_sample=True, top_k=0, pad_token_id=0, eos_token_id=None)
    def kept(logits, sample):
        scores.append(logits.log_softmax(-1))
        return drawn(logits, sample)
    shared_prompt._next_token = kept
    try: said = sample_groups(model, one["input_ids"], one["attention_mask"], fields, G, how, [-1])
    finally: shared_prompt._next_token = drawn
    promised = torch.stack(scores, 1).gather(-1, said[..., None])[..., 0]
    ids, seen = (one[k].repeat_interleave(G, 0) for k in ("input_ids", "attention_mask"))
    whole, mask = torch.cat([ids, said], 1), torch.cat([seen, torch.ones_like(said)], 1)
    with torch.no_grad(): read_again = shared_log_probs(model, model, whole, mask, fields, said.shape[1], G)[0]
    assert said.unique(dim=0).shape[0] == 2 * G and (promised - read_again).abs().max() <= 1e-4


@pytest.mark.parametrize("family", UNLIKE)
def test_ten_steps_end_at_the_same_weights(tmp_path, family):
    ends = []
    for shared in (True, False):
        t = trainer(tmp_path, family, asked=PICTURED, batch_size=12, shared_prompt=shared, max_steps=10, lr=1e-3,
                    reward="test_shared_prompt:lengths", num_epochs=10)
        fixed_answers(t)
        t.train()
        assert t.sharing is shared
        ends.append(torch.cat([p.detach().flatten() for p in t.model.parameters() if p.requires_grad]))
    start = torch.cat([p.detach().flatten() for p in trainer(tmp_path, family, asked=PICTURED, batch_size=12).model.parameters()
                       if p.requires_grad])
    # Adam divides by the size of a gradient, so a gradient near 0 that is rounded otherwise moves a weight as any other
    assert (ends[0] - start).abs().max() > 1e-3 and (ends[0] - ends[1]).norm() <= 1e-3 * (ends[0] - start).norm()


@pytest.mark.parametrize("family", UNLIKE)
def test_an_adapter_on_the_vision_tower(tmp_path, family):
    twin, _ = tiny_twin(family)
    torch.manual_seed(0)
    t = trainer(tmp_path, family, model=add_lora(twin, 4, 8, 0.0, vision=True), lora_vision=True)
    # a prompt of some 40 tokens and an answer are one chunk of a delta net together, and two apart: 1.2e-5 was seen
    assert_same(t, bound=2e-5 if family == "qwen3_5" else 1e-5)


@pytest.mark.parametrize("where", ["reading", "sampling", "gradients"])
def test_where_a_cache_raises_the_run_goes_the_plain_way(tmp_path, monkeypatch, capsys, where):
    t = trainer(tmp_path, "qwen3_5", asked=PICTURED[:2], batch_size=8, log=(log := RunLog()))
    if where == "reading": monkeypatch.setattr(shared_prompt, "read_prompt", raises)
    if where == "sampling": monkeypatch.setattr(shared_prompt, "widened", raises)
    if where == "gradients":
        real = shared_prompt.shared_log_probs
        def no_way_back(*given):
            logps, entropy = real(*given)
            return NoWayBack.apply(logps), entropy
        monkeypatch.setattr(shared_prompt, "shared_log_probs", no_way_back)
    t.train()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("shared prompt:")]
    assert len(said) == 1 and ("no way back" if where == "gradients" else "SimpleNamespace") in said[0]
    assert not t.sharing and t.state.global_step == 2 and len(log) == 2


def test_a_wrong_cache_is_loud(tmp_path, monkeypatch, capsys):
    "The states of other groups, for one: the first batch's check finds it"
    t = trainer(tmp_path, "qwen3_5", asked=PICTURED, batch_size=12)
    real = prompt_cache._repeated
    monkeypatch.setattr(prompt_cache, "_repeated", lambda states, n: real(states, n) * 0.5)
    t.train()
    assert "log-probs differ" in capsys.readouterr().err and not t.sharing


def test_a_layer_that_keeps_something_else_is_named():
    kept = LlamaConfig(num_hidden_layers=2, layer_types=["full_attention", "hybrid"])
    with pytest.raises(NotImplementedError, match="layer 1 keeps a LinearAttentionAndFullAttentionLayer"):
        prompt_cache.empty_cache(kept)


def test_a_prompt_shorter_than_the_convolution():
    "Its columns are padded in front, as transformers' own cache does it"
    model, _, (ids, mask, fields, C, _), _ = read("qwen3_5", [("", [])])
    short, seen = ids[:, -C - 3:], mask[:, -C - 3:].clone()
    seen[:] = 1
    with torch.no_grad():
        plain = model(input_ids=short, attention_mask=seen).logits[:, 2:-1].log_softmax(-1).gather(-1, short[:, 3:, None])[..., 0]
        got = shared_log_probs(model, model, short, seen, {}, C, G)[0]
    assert (plain - got).abs().max() <= 1e-5


def test_a_widened_cache_has_room_for_all_tokens_and_copies_none_again():
    model, processor = tiny_twin("gemma3")
    one = encode(processor, samples(PICTURED[:1]))
    cache = prompt_cache.empty_cache(model.config)
    with torch.no_grad(): model(**one, past_key_values=cache)
    wide, P = widened(cache, G, room=3), one["input_ids"].shape[1]
    buffers = [layer.buffers[0].data_ptr() for layer in wide.layers]
    for n in (1, 2):
        with torch.no_grad(): model(input_ids=torch.full((G, 1), 30), past_key_values=wide)
        assert wide.get_seq_length() == P + n and [layer.buffers[0].data_ptr() for layer in wide.layers] == buffers


@pytest.mark.parametrize("family", UNLIKE)
def test_two_processes_of_which_one_has_no_picture(family, tmp_path):
    rows = [dict(question="<image>" * (i % 3 > 0) + f"Is there a red disc {i}?", answer="no", images=["a.png"] * (i % 3 > 0))
            for i in range(36)]
    samples([ASKED[0]])[0].images[0].save(tmp_path / "a.png")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = dict(task="vqa", warm_steps=2, batch_size=4, num_generations=4, max_steps=2, eval_samples=4, logging_steps=1, save_steps=0,
                 lr=1e-3, max_completion_length=4, reward="test_shared_prompt:lengths", data=tmp_path / "rows.jsonl", seed=1,
                 model=f"tiny-{family}", output_dir=tmp_path / "run")
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "vlrlbook.grpo"]
    command += [word for name, value in words.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(RunLog.read(tmp_path / "run" / "run_log.csv")) == 2
    assert json.loads((tmp_path / "run" / "results.json").read_text())["shared_prompt"] == "on"

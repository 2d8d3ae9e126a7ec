"""A real vLLM beside TRL in the training process. `make test-vllm` makes the environment that this needs; elsewhere it
skips. What stands between the two without an engine is tested in test_vllm_sampling.py."""
import gc
import importlib.util
import os
from functools import partial

import pytest

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("vllm"), reason="vLLM is not installed here: run `make test-vllm`")
os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}

SHORT = dict(max_steps=2, batch_size=12, num_generations=4, logging_steps=1, save_steps=0, use_vllm=True, lr=1e-3, lora_dropout=0.0,
             max_completion_length=8, reward="test_vllm:by_length", temperature=1.0, vllm_max_model_length=512, max_image_size=56)
FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]


def by_length(completion, answer): return dict(overall=float(len(completion) % 5)) # so that groups are not silent


@pytest.fixture(autouse=True)
def plain_weights(monkeypatch):
    "On a CPU vLLM packs its linear weights and deletes them, so that TRL finds nothing to update; keep them as they are"
    from support.vllm_plain_weights import keep
    from vllm.model_executor.layers import utils
    monkeypatch.setattr(utils, "dispatch_cpu_unquantized_gemm", keep)
    # Compiling takes minutes, for models that answer in moments.
    import trl.generation.vllm_generation as generation
    monkeypatch.setattr(generation, "LLM", partial(generation.LLM, enforce_eager=True))
    yield
    gc.collect()


def mixed(n):
    "Rows with one picture, with two of unequal size, with none, in turn"
    from PIL import Image, ImageDraw
    from vlrlbook.core import Sample
    rows = []
    for i in range(n):
        pictures = []
        for j in range((1, 2, 0)[i % 3]):
            picture = Image.new("RGB", (112 + 30 * i, 90 + 60 * j), "white")
            ImageDraw.Draw(picture).ellipse([10, 10, 50 + 5 * i, 50 + 9 * j], fill=("red", "blue")[j])
            pictures.append(picture)
        rows.append(Sample(images=pictures, question="<image>" * len(pictures) + "How many discs are there?",
                           answer="A photo of 2 discs", row=i, task="counting"))
    return rows


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Family → directory of a twin after its warm start, on the question that the rows ask.

    vLLM is told not to sample the marks of pictures. Training's probabilities include them, so the ratio of a sequence is the
    product of what is left: 0.92 to 0.98 for a twin of 60 or 200 steps that has never seen the question, which gives the marks
    a hundredth of each token; 0.9997 for these, as for any model that was trained for long."""
    from vlrlbook.grpo import warm_start
    home = tmp_path_factory.mktemp("twins")
    for family in FAMILIES: os.symlink(os.path.abspath(warm_start(family, 280, task="counting")), home / family)
    return home


def trainer_of(folder, out, log=None, **more):
    import torch
    from vlrlbook.core import read_settings
    from vlrlbook.data import to_dataset
    from vlrlbook.grpo import GRPOSettings, load_policy, make_trainer
    settings = read_settings(GRPOSettings, SHORT | {"model": str(folder), "task": "counting", "output_dir": str(out)} | more)
    torch.manual_seed(0) # the adapter's first weights: two trainers of a test begin alike
    model, processor = load_policy(settings)
    return make_trainer(settings, model, processor, to_dataset(mixed(12)), log=log)


def watch(trainer, engine_read):
    "Keep what vLLM itself says that it has read, row by row"
    inner = trainer.vllm_generation.llm.generate.generate
    def generate(prompts, *args, **kwargs):
        outputs = inner(prompts, *args, **kwargs)
        engine_read.extend((list(row["prompt_token_ids"]), list(o.prompt_token_ids)) for row, o in zip(prompts, outputs))
        return outputs
    trainer.vllm_generation.llm.generate.generate = generate


def asked_as_trl_asks(trainer, row):
    "A row's prompt with its pictures in their places, as TRL's loop hands it to `_generate`"
    from trl.data_utils import prepare_multimodal_messages
    example = trainer.train_dataset[row]
    return prepare_multimodal_messages(example["prompt"], images=example.get("images"))


@pytest.mark.parametrize("family", FAMILIES)
def test_vllm_reads_what_training_reads(twins, tmp_path, family):
    "Picture tokens, log-probs of sampled answers, TRL's ratio, greedy answers, all through the trainer's own path"
    import torch
    from vlrlbook.core import RunLog
    from vlrlbook.data import encode
    from vlrlbook.grpo import completion_logps, generate_answers
    from vlrlbook.models import vision_marker_ids
    log, read = RunLog(), []
    trainer = trainer_of(twins / family, tmp_path, log, lr=1e-6)
    watch(trainer, read)
    trainer.train()
    token = trainer.processing_class.image_token_id
    counts = [(given.count(token), seen.count(token)) for given, seen in read]
    assert {given for given, _ in counts} == {0, 1, 2} # pictures of a row, as they are handed over
    assert all(0.98 < row["ratio"] < 1.02 for row in log.rows), [row["ratio"] for row in log.rows]
    samples = mixed(3)
    budget = {len(s.images): encode(trainer.processing_class, [s])["input_ids"][0].tolist().count(token) for s in samples}
    assert {n: {seen for given, seen in counts if given == n} for n in (0, 2)}[0] == {0}
    # 56 pixels squared, not 112; a token of Qwen3-VL covers 32 pixels squared, of the others 28
    assert budget[1] <= 4 and {seen for given, seen in counts if given == 1} <= {1, 2, 3, 4}
    # sampled answers: the probability that vLLM gave each token is training's
    model, processor = trainer.accelerator.unwrap_model(trainer.model).eval(), trainer.processing_class
    for sample in samples:
        prompt = asked_as_trl_asks(trainer, sample.row)
        with torch.no_grad(): ids, said, _, _, logps, *_ = trainer._generate([prompt] * 4)
        for p, c, their in zip(ids, said, logps):
            batch = dict(encode(processor, [sample]))
            assert p == batch["input_ids"][0].tolist()
            whole = torch.tensor([p + c])
            batch |= dict(input_ids=whole, attention_mask=torch.ones_like(whole))
            if "mm_token_type_ids" in batch: batch["mm_token_type_ids"] = (whole == token).long()
            with torch.no_grad():
                own = completion_logps(model, batch, len(p))[0]
                # vLLM may not sample the marks of pictures: its probabilities are of what is left
                marks = model(**batch).logits[0, len(p) - 1:-1].softmax(-1)[:, vision_marker_ids(processor)].sum(-1)
                own = own - torch.log1p(-marks)
            gap = (own - torch.tensor(their)).abs().max().item()
            assert gap < 1e-3, (sample.row, gap)
    trainer.vllm_generation.temperature = 0.0
    found = trainer._generate([asked_as_trl_asks(trainer, s.row) for s in samples for _ in range(4)])[1][::4]
    ours = [a[0] for a in generate_answers(model, processor, samples, max_new_tokens=8)]
    assert [processor.tokenizer.decode(c, skip_special_tokens=True) for c in found] == ours


def gradients(trainer, steps):
    "Keep the gradient of each optimizer step as one vector"
    import torch
    from transformers import TrainerCallback
    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            steps.append(torch.cat([p.grad.flatten().clone() for p in model.parameters() if p.grad is not None]))
    trainer.add_callback(Keep())
    return trainer


@pytest.mark.parametrize("use_lora", [True, False], ids=["LoRA", "full"])
def test_two_steps_learn_as_without_vllm(twins, tmp_path, use_lora):
    "The same answers, once sampled by vLLM and weighed by TRL's ratio, once given to a trainer without vLLM"
    import torch
    from vlrlbook.models import vision_marker_ids
    from vlrlbook.shared_prompt import sharing_state
    said, with_vllm, without = [], [], []
    one = gradients(trainer_of(twins / "qwen2_5_vl", tmp_path / "a", use_lora=use_lora), with_vllm)
    own = one._generate_single_turn
    def kept(*args, **kwargs):
        said.append(own(*args, **kwargs))
        return said[-1]
    one._generate_single_turn = kept
    one.train()
    assert sharing_state(one) == "on"
    two = gradients(trainer_of(twins / "qwen2_5_vl", tmp_path / "b", use_lora=use_lora, use_vllm=False), without)
    replies = iter(said)
    two._generate_single_turn = lambda *args, **kwargs: (next(replies)[0], None)
    two.train()
    assert len(with_vllm) == len(without) == 2
    for a, b in zip(with_vllm, without):
        assert b.norm() > 0
        assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.99
    markers = set(vision_marker_ids(one.processing_class))
    assert not markers & {token for completions, _ in said for c in completions for token in c}


def test_a_merged_folder_served_by_vllm_gives_transformers_greedy_answers(twins, tmp_path):
    "The way out: adapter merged, loaded by vLLM's own interface, with pictures and without"
    from test_merge import shaken
    from vllm import LLM, SamplingParams
    from vlrlbook.data import to_messages
    from vlrlbook.grpo import generate_answers
    from vlrlbook.models import load_vlm, merge_lora
    shaken(load_vlm(str(twins / "qwen2_5_vl"))[0], tmp_path / "adapter")
    merge_lora(str(twins / "qwen2_5_vl"), str(tmp_path / "adapter"), str(tmp_path / "merged"))
    model, processor = load_vlm(str(tmp_path / "merged"))
    samples = mixed(6)
    asked = []
    for sample in samples:
        text = processor.apply_chat_template(to_messages(sample), add_generation_prompt=True, tokenize=False)
        asked.append(dict(prompt=text) | ({"multi_modal_data": {"image": sample.images}} if sample.images else {}))
    llm = LLM(str(tmp_path / "merged"), max_model_len=512, dtype="float32", enforce_eager=True)
    found = llm.generate(asked, SamplingParams(temperature=0.0, max_tokens=8), use_tqdm=False)
    ours = [a[0] for a in generate_answers(model, processor, samples, max_new_tokens=8)]
    assert [o.outputs[0].text for o in found] == ours


def test_an_evaluation_asked_of_vllm_is_that_of_transformers(twins, tmp_path):
    "Chapter 06 with `use_vllm`: greedy answers and controls are equal, sampled ones as many; a second run goes on from the file"
    from test_merge import shaken
    from vlrlbook.core import SettingsError
    from vlrlbook.evaluation import compare
    from vlrlbook.models import load_vlm
    base = str(twins / "qwen2_5_vl")
    shaken(load_vlm(base)[0], tmp_path / "adapter", std=0.3) # enough to change greedy answers of a trained twin
    how = dict(answers=3, max_new_tokens=8, batch_size=4, max_image_size=56)
    plain = compare(base, tmp_path / "adapter", mixed(6), **how)
    path, engine = tmp_path / "said.jsonl", dict(share=0.9, longest=512)
    asked = compare(base, tmp_path / "adapter", mixed(6), path, engine=engine, **how)
    assert len(asked) == len(plain) == 6
    changed = 0
    for ours, theirs in zip(plain, asked):
        for column in ours:
            if column.endswith("sampled"): assert len(theirs[column]) == 3
            else: assert theirs[column] == ours[column], (ours["row"], column)
        changed += ours["before_greedy"] != ours["after_greedy"]
    assert changed # the adapter is in the second engine and not in the first
    assert len({tuple(row["before_sampled"]) for row in asked}) > 1 # rows do not share a seed
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:5])) # killed in the second batch
    assert compare(base, tmp_path / "adapter", mixed(6), path, engine=engine, **how) == asked
    with pytest.raises(SettingsError, match="engine = 'vllm', now 'transformers'"):
        compare(base, tmp_path / "adapter", mixed(6), path, **how)

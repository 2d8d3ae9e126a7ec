"""Generation by a real vLLM in the training process. `make test-vllm` makes the environment that this needs; elsewhere it skips."""
import importlib.util
import os

import pytest

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("vllm"), reason="vLLM is not installed here: run `make test-vllm`")
os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}

SHORT = dict(warm_steps=40, max_steps=2, batch_size=8, num_generations=4, logging_steps=1, save_steps=0, use_vllm=True, lr=1e-3,
             reward="test_vllm:by_length")


def by_length(completion, answer): return dict(overall=float(len(completion) % 5)) # so that groups are not silent


@pytest.fixture
def plain_weights(monkeypatch):
    "On a CPU vLLM packs its linear weights and deletes them, so that TRL finds nothing to update; keep them as they are"
    import torch
    from vllm.model_executor.layers import utils
    def keep(layer, remove_weight=False): layer.cpu_linear = torch.nn.functional.linear
    monkeypatch.setattr(utils, "dispatch_cpu_unquantized_gemm", keep)


@pytest.mark.parametrize("use_lora", [True, False], ids=["LoRA", "full"])
def test_two_steps_in_colocate_mode_and_the_same_greedy_answers(tmp_path, plain_weights, use_lora):
    from vlrlbook.core import RunLog, read_settings
    from vlrlbook.data import synthetic_counting
    from vlrlbook.grpo import GRPOSettings, generate_answers, load_data, load_policy, make_trainer
    from vlrlbook.models import vision_marker_ids
    settings = read_settings(GRPOSettings, {**SHORT, "use_lora": use_lora, "output_dir": str(tmp_path)})
    model, processor = load_policy(settings)
    log = RunLog()
    trainer = make_trainer(settings, model, processor, load_data(settings)[0], log=log)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    trainer.train()
    assert len(log) == 2 and any((p != before[n]).any() for n, p in model.named_parameters() if n in before)
    samples, engine = synthetic_counting(6, seed=9), trainer.vllm_generation
    engine.sync_weights()
    engine.temperature, engine.max_completion_length = 0.0, 8
    text = processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": samples[0].question}]}],
                                         add_generation_prompt=True)
    ids = processor.tokenizer(text)["input_ids"]
    found = [engine.generate([ids], [s.images], 1)[1][0] for s in samples]
    ours = generate_answers(trainer.model, processor, samples, max_new_tokens=8)
    assert [processor.tokenizer.decode(c, skip_special_tokens=True) for c in found] == [a[0] for a in ours]
    assert not {t for c in found for t in c} & set(vision_marker_ids(processor))

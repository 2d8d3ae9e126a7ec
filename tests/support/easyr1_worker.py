"""Run by an interpreter with EasyR1's requirements: a checkout's own config, data set, loader, reward and checkpoint manager.

    easyr1_worker.py CHECKOUT read CONFIG COMPLETIONS     what they make of an export of ours; COMPLETIONS: pairs as JSON
    easyr1_worker.py CHECKOUT config YAML                 whether its own dataclasses take a YAML
    easyr1_worker.py CHECKOUT save MODEL FOLDER [RANK]    a checkpoint by its FSDP manager, on one gloo process
    easyr1_worker.py CHECKOUT merge FOLDER                the same by its own scripts/model_merger.py

Prints an answer as JSON behind the word ANSWER. What needs a GPU (vllm, flash_attn, liger_kernel) and what judges
mathematics (mathruler) is an empty module here: nothing of it is called."""
import json
import os
import runpy
import sys
import types
from pathlib import Path

checkout, what, *given = sys.argv[1:]
sys.path.insert(0, checkout)


class Empty(types.ModuleType):
    "A module that has every name, and nothing in it"
    __path__ = []
    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        return type(name, (), {})


class Finder:
    names = ("vllm", "flash_attn", "liger_kernel", "mathruler")
    def find_spec(self, name, path=None, target=None):
        from importlib.machinery import ModuleSpec
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in self.names else None
    def create_module(self, spec): return Empty(spec.name)
    def exec_module(self, module): pass


def config_of(path):
    "As verl.trainer.main.main does before anything else"
    from omegaconf import OmegaConf
    from verl.trainer.config import PPOConfig
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(PPOConfig()), OmegaConf.load(path)))
    config.deep_post_init()
    return config


def reward_manager(config, tokenizer):
    "As its runner chooses it: 0.3.2 by the setting `reward_type`, later versions by the reward file"
    from verl.workers import reward
    if hasattr(reward, "AutoRewardManager"): return reward.AutoRewardManager(config, tokenizer)
    kinds = dict(sequential=reward.SequentialFunctionRewardManager, batch=reward.BatchFunctionRewardManager)
    return kinds[config.reward_type](config, tokenizer)


def read(path, completions):
    import numpy as np
    import torch
    from tensordict import TensorDict
    from verl.protocol import DataProto
    from verl.trainer.data_loader import create_dataloader
    from verl.utils.tokenizer import get_processor, get_tokenizer
    config = config_of(path)
    model = config.worker.actor.model.model_path
    tokenizer, processor = get_tokenizer(model, use_fast=True), get_processor(model, use_fast=True)
    train, val = create_dataloader(config.data, tokenizer, processor)
    rows = []
    for i in range(len(train.dataset)):
        row = train.dataset[i]
        pictures = (row.get("multi_modal_data") or {}).get("images") or []
        ids = row["input_ids"][row["attention_mask"] == 1].tolist()
        sizes = [list(p.size) if hasattr(p, "size") else str(p) for p in pictures]
        rows.append(dict(truth=row["ground_truth"], prompt=tokenizer.decode(ids), sizes=sizes,
                         image_tokens=ids.count(processor.image_token_id), raw=len(row["raw_prompt_ids"])))
    batch = next(iter(train))
    manager = reward_manager(config.worker.reward, tokenizer)
    said = [tokenizer.encode(text, add_special_tokens=False) + [tokenizer.eos_token_id] for text, _ in completions]
    width = max(map(len, said))
    responses = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids in said])
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in said])
    data = DataProto(batch=TensorDict(dict(responses=responses, response_mask=mask), batch_size=len(said)),
                     non_tensor_batch=dict(ground_truth=np.array([truth for _, truth in completions], dtype=object)))
    paid, parts = manager.compute_reward(data)
    last = [row[len(ids) - 1].item() for row, ids in zip(paid, said)]
    elsewhere = float(paid.abs().sum() - sum(map(abs, last))) # what is paid at any token but the last
    return dict(rows=rows, val=len(val.dataset), batch=sorted(batch), paid=last, parts=parts, elsewhere=elsewhere)


def save(model, folder, rank=None):
    import torch
    import torch.distributed as dist
    from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager
    os.environ |= dict(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1")
    dist.init_process_group("gloo", init_method=f"file://{Path(folder).resolve()}.rendezvous", rank=0, world_size=1)
    loaded = AutoModelForImageTextToText.from_pretrained(model, torch_dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in loaded.parameters(): weight.add_(0.01 * torch.randn_like(weight))
    if rank:
        from peft import LoraConfig, TaskType, get_peft_model
        loaded = get_peft_model(loaded, LoraConfig(task_type=TaskType.CAUSAL_LM, r=int(rank), lora_alpha=8, target_modules="all-linear",
                                                   exclude_modules=".*visual.*"))
    wrapped = FSDP(loaded, device_id=torch.device("cpu"), use_orig_params=bool(rank))
    optimizer = torch.optim.AdamW(wrapped.parameters())
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    manager = FSDPCheckpointManager(wrapped, optimizer, schedule, AutoProcessor.from_pretrained(model))
    manager.save_checkpoint(folder, save_model_only=True)
    with FSDP.summon_full_params(wrapped):
        kept = {name: weight.detach().clone() for name, weight in wrapped._fsdp_wrapped_module.state_dict().items()}
    torch.save(kept, f"{folder}.whole.pt")
    dist.destroy_process_group()
    return dict(files=sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file()))


def merge(folder):
    sys.argv = ["model_merger.py", "--local_dir", folder]
    runpy.run_path(f"{checkout}/scripts/model_merger.py", run_name="__main__")
    return dict(files=sorted(p.name for p in Path(folder, "huggingface").iterdir()))


sys.meta_path.insert(0, Finder())
if what == "config":
    config = config_of(given[0])
    from verl.trainer.core_algos import AdvantageEstimator
    answer = dict(rollout=config.worker.rollout.n, logger=list(config.trainer.logger), estimator=config.algorithm.adv_estimator,
                  estimators=[str(estimator.value) for estimator in AdvantageEstimator])
else: answer = dict(read=lambda path, pairs: read(path, json.loads(pairs)), save=save, merge=merge)[what](*given)
print("ANSWER" + json.dumps(answer))

"""Run by an interpreter with verl: checkpoints as its FSDP engine writes them, on gloo processes of this CPU.

    verl_checkpoint.py MODEL FOLDER CASES

CASES: name → dict(strategy, world, lora_rank, lora_only, fsdp_size), as JSON. Each case leaves FOLDER/NAME/actor, written by
verl.utils.checkpoint.fsdp_checkpoint_manager, where it can FOLDER/NAME/whole.safetensors, put together by torch itself, and
FOLDER/NAME/theirs, what verl.model_merger makes of the checkpoint; an error is left in actor.txt or theirs.txt."""
import json
import os
import sys
import traceback
from pathlib import Path

os.environ |= dict(VERL_USE_EXTERNAL_MODULES="verl_on_cpu", VERL_PLATFORM="cpu", VERL_ENGINE_DEVICE="cuda", HF_HUB_OFFLINE="1",
                   OMP_NUM_THREADS="1")
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from verl.model_merger.base_model_merger import ModelMergerConfig
from verl.model_merger.fsdp_model_merger import FSDPModelMerger
from verl.trainer.config import CheckpointConfig
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine import EngineRegistry


def one_rank(rank, model, home, case):
    "The work of one process: verl's engine builds the model, takes an optimizer's step, and saves"
    torch.set_num_threads(1)
    world, strategy, lora_rank = case["world"], case["strategy"], case.get("lora_rank", 0)
    os.environ |= dict(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    dist.init_process_group("gloo", init_method=f"file://{home}/meeting", rank=rank, world_size=world)
    told = HFModelConfig(path=model, lora_rank=lora_rank, lora_alpha=8, exclude_modules=".*visual.*" if lora_rank else None,
                         use_remove_padding=False, override_config=dict(attn_implementation="sdpa"))
    spread = FSDPEngineConfig(strategy=strategy, fsdp_size=case.get("fsdp_size", -1), use_torch_compile=False)
    engine = EngineRegistry.new("language_model", strategy, told, spread, FSDPOptimizerConfig(lr=1e-2, total_training_steps=2),
                                CheckpointConfig(save_lora_only=case.get("lora_only", False)))
    engine.initialize()
    # A step moves every weight that is trained. The copies of a mesh with replicas must get the same gradient.
    torch.manual_seed(rank % case.get("fsdp_size", world))
    for weight in engine.module.parameters():
        if weight.requires_grad: weight.grad = torch.randn_like(weight)
    engine.optimizer.step()
    # Not engine.save_checkpoint, which first moves FSDP 1 to a numbered device: a CPU has none.
    engine.checkpoint_manager.save_checkpoint(str(home / "actor"), global_step=1)
    # Of several processes of FSDP 1 torch 2.11 cannot gather the whole on a CPU: it has freed the storage that it is about to
    # view. There verl's own merger is what ours is compared with.
    if world == 1 or strategy == "fsdp2":
        whole = get_model_state_dict(engine.module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if rank == 0: save_file({name: weight.clone().contiguous() for name, weight in whole.items()}, home / "whole.safetensors")
    dist.barrier()
    dist.destroy_process_group()


def main(model, folder, cases):
    for name, case in json.loads(cases).items():
        home = Path(folder).resolve() / name
        home.mkdir(parents=True)
        # forked: the libraries are loaded once, not once for each process
        try: mp.start_processes(one_rank, (model, home, case), nprocs=case["world"], start_method="fork")
        except mp.ProcessRaisedException: (home / "actor.txt").write_text(traceback.format_exc())
    for name in json.loads(cases):
        home = Path(folder).resolve() / name
        try:
            FSDPModelMerger(ModelMergerConfig("merge", "fsdp", target_dir=str(home / "theirs"), local_dir=str(home / "actor"),
                                              hf_model_config_path=str(home / "actor/huggingface"))).merge_and_save()
        except Exception: (home / "theirs.txt").write_text(traceback.format_exc())


if __name__ == "__main__": main(*sys.argv[1:])

"""Run by an interpreter with verl: its own hydra config, checks, data set and reward manager over an export of ours.

    verl_worker.py FOLDER OVERRIDES COMPLETIONS

OVERRIDES: the words of the export's train.sh, as JSON; COMPLETIONS: a file with (text, truth) pairs as JSON. Prints an answer
as JSON behind the word ANSWER."""
import json
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
import verl
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tensordict import TensorDict
from transformers import AutoProcessor
from verl.experimental.reward_loop import RewardLoopWorker
from verl.protocol import DataProto
from verl.trainer import main_ppo
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import RolloutReplicaRegistry

folder, overrides, completions = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text())
out = dict(version=metadata.version("verl"))
with initialize_config_dir(str(Path(verl.__file__).parent / "trainer/config"), version_base=None):
    config = compose("ppo_trainer", overrides=overrides)
    plain = OmegaConf.to_container(compose("ppo_trainer"), resolve=False)


def leaves(value, prefix=""):
    "Dotted keys of all values; an empty mapping is one"
    if not isinstance(value, dict) or not value: return [prefix]
    return [key for name, part in value.items() for key in leaves(part, f"{prefix}.{name}" if prefix else name)]


out["keys"] = leaves(plain)
out["samplers"] = list(RolloutReplicaRegistry._registry)
try: RolloutReplicaRegistry.get("hf")
except ValueError as e: out["hf"] = str(e)
# verl's own entry, to the line where it would start Ray: its checks, and the config as its trainer gets it
started = []
main_ppo.run_ppo = lambda config, task_runner_class: started.append(config)
main_ppo.main.__wrapped__(config)
config = started[0]
out["lr"] = config.actor_rollout_ref.actor.optim.lr
out["kl"] = config.actor_rollout_ref.actor.kl_loss_coef
out["reward_path"] = config.reward.custom_reward_function.path
processor = AutoProcessor.from_pretrained(config.actor_rollout_ref.model.path)
rows = RLHFDataset(str(folder / "train.parquet"), processor.tokenizer, config.data, processor)
out["rows"] = len(rows)
out["messages"] = []
for i in range(len(rows)):
    row = rows[i]
    parts = [(part["type"], part.get("text", "")) for turn in row["raw_prompt"] for part in
             (turn["content"] if isinstance(turn["content"], list) else [dict(type="text", text=turn["content"])])]
    sizes = [list(part["image"].size) if hasattr(part.get("image"), "size") else "bytes" for turn in row["raw_prompt"]
             if isinstance(turn["content"], list) for part in turn["content"] if part["type"] == "image"]
    out["messages"].append(dict(parts=parts, sizes=sizes, truth=row["reward_model"]["ground_truth"], source=row["data_source"]))


def padded(ids, width, pad): return ids + [pad] * (width - len(ids))


def objects(values):
    "Values of any kind as the one-dimensional array that a DataProto wants"
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


# The reward worker is told its answers as tokens, padded on the right, as a rollout leaves them.
worker = RewardLoopWorker(config)
tokenizer = worker.input_tokenizer
said = [tokenizer.encode(text, add_special_tokens=False) + [tokenizer.eos_token_id] for text, _ in completions]
width = max(map(len, said))
batch = dict(responses=torch.tensor([padded(ids, width, tokenizer.pad_token_id) for ids in said]),
             attention_mask=torch.tensor([padded([1] * len(ids), width, 0) for ids in said]))
facts = dict(data_source=objects(["vlrlbook"] * len(said)), extra_info=objects([{} for _ in said]),
             reward_model=objects([dict(style="rule", ground_truth=truth) for _, truth in completions]))
data = DataProto(batch=TensorDict(batch, batch_size=len(said)), non_tensor_batch=facts)
out["manager"] = type(worker.reward_manager).__name__
out["paid"] = worker.loop.run_until_complete(worker.compute_score_batch(data))
out["lossless"] = sum(tokenizer.decode(ids, skip_special_tokens=True) == text for ids, (text, _) in zip(said, completions))
print("ANSWER" + json.dumps(out))

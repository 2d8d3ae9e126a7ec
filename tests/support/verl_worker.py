"""Run by an interpreter with verl: its own hydra config, checks, data set and reward loader over an export of ours.
Arguments: the export's directory, the overrides of its train.sh as JSON. Prints what they give as JSON."""
import json
import sys
from importlib import metadata
from pathlib import Path

import verl
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from transformers import AutoProcessor
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.utils.config import validate_config
from verl.utils.dataset.rl_dataset import RLHFDataset

folder, overrides, completions = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
out = dict(version=metadata.version("verl"))
with initialize_config_dir(str(Path(verl.__file__).parent / "trainer/config"), version_base=None):
    config = compose("ppo_trainer", overrides=overrides)
try: # as verl.trainer.main_ppo does before anything else
    from verl.experimental.reward_loop import migrate_legacy_reward_impl
    config = migrate_legacy_reward_impl(config)
except ImportError as e: out["no_migration"] = str(e)
validate_config(config, use_reference_policy=True, use_critic=False)
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
score = get_custom_reward_fn(config)
out["scores"] = [score(data_source="vlrlbook", solution_str=text, ground_truth=truth, extra_info={}) for text, truth in completions]
print("ANSWER" + json.dumps(out))

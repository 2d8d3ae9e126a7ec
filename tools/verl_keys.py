"""Make nbs/logs/09_verl_release_keys.csv from an installed release of verl: every key of its generated trainer config,
and every key of the older form of its reward section, which it still takes. Run by the Python that has verl:

    .venv-verl/bin/python tools/verl_keys.py nbs/logs/09_verl_release_keys.csv
"""
import csv
import json
import sys
from importlib import metadata
from pathlib import Path

import verl
from omegaconf import OmegaConf

CONFIGS = Path(verl.__file__).parent / "trainer/config"


def flat(value, prefix=""):
    "(dotted key, value) of every leaf; an empty mapping is a leaf that takes a mapping"
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from flat(part, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, value


def kind(value):
    "The type that a default shows; null and texts that refer to other keys show none"
    if value is None or isinstance(value, str) and "${" in value: return "any"
    return type(value).__name__


def keys():
    "Key → (type, default as JSON, where it was read)"
    found = {}
    # The last wins. The engine's own file names the group that hydra chooses by.
    for name in ("legacy_reward_impl.yaml", "model_engine/dp.yaml", "_generated_ppo_trainer.yaml"):
        config = OmegaConf.to_container(OmegaConf.load(CONFIGS / name), resolve=False)
        for key, value in flat(config):
            if key != "defaults" and not key.startswith("hydra"): found[key] = (kind(value), json.dumps(value), name)
    return found


def main(path):
    version = metadata.version("verl")
    with open(path, "w", newline="", encoding="utf-8") as f:
        table = csv.writer(f, lineterminator="\n")
        table.writerow(["key", "type", "default", "read_at"])
        for key, (type_name, default, name) in sorted(keys().items()):
            table.writerow([key, type_name, default, f"verl {version} trainer/config/{name}"])


if __name__ == "__main__": main(sys.argv[1])

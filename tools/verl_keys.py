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
    """Yield (dotted key, value) for every leaf of a nested config: {"a": {"b": 1}} gives ("a.b", 1).

    An empty mapping counts as a leaf: it is a key whose value may be any mapping."""
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from flat(part, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, value


def kind(value):
    """Return the name of a key's type, as its default value shows it, such as "int".

    A default of null, or one that refers to another key (`${...}`), does not show the type: "any"."""
    if value is None or isinstance(value, str) and "${" in value: return "any"
    return type(value).__name__


def keys():
    "Read verl's config files, and return a dict: dotted key → (type, default as JSON, file it was read from)"
    found = {}
    # A key that is in several of these files is taken from the last one. The second is needed for the name of
    # the group by which hydra chooses an engine.
    for name in ("legacy_reward_impl.yaml", "model_engine/dp.yaml", "_generated_ppo_trainer.yaml"):
        config = OmegaConf.to_container(OmegaConf.load(CONFIGS / name), resolve=False)
        for key, value in flat(config):
            if key != "defaults" and not key.startswith("hydra"): found[key] = (kind(value), json.dumps(value), name)
    return found


def main(path):
    "Write the keys of the installed verl into a CSV file"
    version = metadata.version("verl")
    with open(path, "w", newline="", encoding="utf-8") as f:
        table = csv.writer(f, lineterminator="\n")
        table.writerow(["key", "type", "default", "read_at"])
        for key, (type_name, default, name) in sorted(keys().items()):
            table.writerow([key, type_name, default, f"verl {version} trainer/config/{name}"])


if __name__ == "__main__": main(sys.argv[1])

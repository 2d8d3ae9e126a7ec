"""What the tests of chapter 09 share: a small export, and a stand-in for EasyR1"""
import json
import shutil
from pathlib import Path

import pytest
from vlrlbook.data import synthetic_vqa
from vlrlbook.easyr1 import export_easyr1
from vlrlbook.models import save_model, tiny_twin, twin_processor


SMALL = dict(n_gpus_per_node=4, rollout_batch_size=32, max_prompt_length=256, max_response_length=64, model_path="tiny")


@pytest.fixture(scope="module")
def processor(): return twin_processor("qwen2_5_vl")


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    "An exported directory with a twin in the model's place"
    folder = export_easyr1(synthetic_vqa(80, seed=3), "vqa", SMALL, tmp_path_factory.mktemp("out") / "easyr1")
    save_model(*tiny_twin("qwen2_5_vl"), folder / "tiny")
    return folder


def rows(path): return [json.loads(line) for line in Path(path).open(encoding="utf-8")]


def copied(export, tmp_path):
    shutil.copytree(export, tmp_path / "copy")
    return tmp_path / "copy"


def fake_engine(where):
    "A package `verl` that records how it was called, and can leave a checkpoint of one process"
    record = "import json, os, sys\njson.dump(dict(cwd=os.getcwd(), argv=sys.argv[1:]), open(os.environ['SEEN'], 'w'))\n"
    (where / "verl/trainer").mkdir(parents=True)
    for name in ("verl/__init__.py", "verl/trainer/__init__.py"): (where / name).write_text("")
    leave = ("path = next((a.split('=')[1] for a in sys.argv if a.startswith('trainer.save_checkpoint_path=')), "
             "None)\nif path and os.environ.get('ACTOR'):\n    import shutil\n    for step in (5, 10): "
             "shutil.copytree(os.environ['ACTOR'], f'{path}/global_step_{step}/actor')\n")
    for name in ("main", "main_ppo"): (where / f"verl/trainer/{name}.py").write_text(record + leave)
    return where

"""Preference rows about twelve pictures, and a small judge whose scores differ."""
import json

import numpy as np
import torch
from PIL import Image
from vlrlbook.models import tiny_twin
from vlrlbook.reward_model import VLRewardModel


def with_pictures(folder):
    "`folder`, with pictures img/p0.png to img/p11.png in it"
    (folder / "img").mkdir()
    rng = np.random.default_rng(0)
    for k in range(12): Image.fromarray(rng.integers(0, 255, (64, 80, 3), dtype=np.uint8)).save(folder / f"img/p{k}.png")
    return folder


def untrained_judge():
    "A head of large random weights above the Qwen2-VL twin"
    twin, processor = tiny_twin("qwen2_vl")
    torch.manual_seed(1)
    made = VLRewardModel(twin.model, processor, base="tiny-qwen2_vl")
    torch.nn.init.normal_(made.head[2].weight, std=0.5)
    return made.eval()


def base(k, **more):
    "A good row, with some of its columns changed"
    row = dict(id=f"r{k}", query=f"What is in picture {k}?", image=f"img/p{k % 12}.png",
               response=[f"A red disc {k}", f"Two blue squares {k}"], human_ranking=[0, 1])
    return row | more


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)

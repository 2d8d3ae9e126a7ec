"""What both engines are given to read."""
from PIL import Image
from vlrlbook.core import Sample
from vlrlbook.data import synthetic_vqa


def mixed_samples(n):
    "`n` samples, among them one with two pictures of unequal size and one with none"
    made = synthetic_vqa(n, seed=3)
    two = [Image.new("RGB", (60, 84), "red"), Image.new("RGB", (112, 56), "blue")]
    made[1] = Sample(images=two, question="<image> or <image>: which is red?", answer="the first", row=1, task="vqa")
    made[2] = Sample(images=[], question="Is water wet?", answer="yes", row=2, task="vqa")
    return made

"""Picture tokens of VQA-RAD's questions under two pairs of pixel limits.

    python tools/logs.py scans FOLDER

FOLDER holds vqa_rad with its pictures. EasyR1's defaults beside the limits that our export writes, counted
by Qwen2.5-VL's own rule. Takes seconds. Writes nbs/logs/09_vqa_rad.csv."""
from collections import Counter
from pathlib import Path

from measure.common import write_log


def main(
    folder: str,  # with VQA-RAD
):
    "A row for each number of tokens: how many questions have it"
    from PIL import Image
    from vlrlbook.data import picture_tokens, read_rows, vqa_row
    from vlrlbook.easyr1 import easyr1_size
    source, processor = Path(folder) / "vqa_rad", checkpoint_processor()
    questions = read_rows(source / "VQA_RAD_Dataset_Public.json")
    asked = Counter(vqa_row(row)["images"][0] for _, row in questions)
    counts = Counter()
    for limits, pixels in pixel_limits().items():
        for name, questions_about in asked.items():
            with Image.open(source / "images" / name) as picture:
                size = easyr1_size(picture.size, *pixels)
            # A picture is counted once for each question that is asked about it.
            counts[limits, picture_tokens(processor, size)] += questions_about
    rows = [dict(limits=limits, tokens=tokens, questions=n) for (limits, tokens), n in sorted(counts.items())]
    write_log("09_vqa_rad.csv", rows)


def checkpoint_processor():
    "Qwen2.5-VL's processor with the pixel limits of its checkpoint"
    from vlrlbook.models import twin_processor
    processor = twin_processor("qwen2_5_vl")
    # The twin's own limits are smaller; with them these pictures would be shrunk twice.
    processor.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}
    return processor


def pixel_limits():
    "Whose limits -> fewest and most pixels of a picture"
    from vlrlbook.easyr1 import house_values, key_table
    keys = ["data.min_pixels", "data.max_pixels"]
    defaults = key_table("current")  # of EasyR1's newest version that the book knows
    return {
        "EasyR1's limits": [defaults[key].default for key in keys],
        "ours": [house_values[key] for key in keys],
    }

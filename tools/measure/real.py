"""Our readers on real rows: speed, leaks between splits, truths read wrongly.

    python tools/logs.py real FOLDER

FOLDER holds vqa_rad (VQA-RAD with its pictures) and vl_rewardbench_text. Takes seconds. Writes
nbs/logs/01_real.csv."""
import tempfile
import time
from pathlib import Path

from measure.common import write_log


def main(
    folder: str,  # with the public data sets
):
    "A row a question"
    from vlrlbook.data import read_rows
    folder = Path(folder)
    questions = [row for _, row in read_rows(vqa_rad_file(folder))]
    rows = reading_rows(folder) + leak_rows(questions) + truth_rows(questions)
    write_log("01_real.csv", rows)


def vqa_rad_file(folder):
    "The published file of VQA-RAD"
    return folder / "vqa_rad" / "VQA_RAD_Dataset_Public.json"


def reading_rows(folder):
    "Rows a second of three readers"
    from vlrlbook.data import convert_vqa, read_preferences
    pictures = folder / "vqa_rad" / "images"
    # No pictures for these: the first row of the log times looking them up, this one the rows alone.
    flat = folder / "vqa_rad" / "mevf_trainset.json"
    preferences = next((folder / "vl_rewardbench_text").glob("*.jsonl"))
    with tempfile.TemporaryDirectory() as out:
        return [
            timed("VQA-RAD's own JSON to EasyR1 rows, pictures looked up",
                  lambda: convert_vqa(vqa_rad_file(folder), f"{out}/own.jsonl", pictures)),
            timed("VQA-RAD as flat rows (MEVF) to EasyR1 rows",
                  lambda: convert_vqa(flat, f"{out}/flat.jsonl")),
            timed("preference rows (VL-RewardBench) read and checked",
                  lambda: len(read_preferences(preferences))),
        ]


def timed(what, read):
    "Rows a second of `read`, a function that returns how many rows it read"
    start = time.perf_counter()
    n = read()
    return dict(what=what, n=n, value=round(n / (time.perf_counter() - start)), unit="rows per second")


def leak_rows(questions):
    "Share of test pictures that training has seen, for the published split and for ours"
    from vlrlbook.data import published_split, split_rows_by_picture
    _, test, leak = published_split(questions)
    pictures = {row["image_name"] for row in test}
    published = dict(
        what="test pictures of the published split that are in its train part too",
        n=len(pictures),
        value=round(leak, 3),
        unit="share",
    )
    our_train, our_test = split_rows_by_picture(questions)
    seen = {row["image_name"] for row in our_train}
    our_pictures = {row["image_name"] for row in our_test}
    # A count, and only as 0.0 the same number as a share: the split by picture has to leak none.
    ours = dict(
        what="the same for our split by picture",
        n=len(our_pictures),
        value=float(len(seen & our_pictures)),
        unit="share",
    )
    return [published, ours]


def truth_rows(questions):
    "How the reward reads the truths themselves, and those of paraphrases"
    from vlrlbook.data import vqa_row
    truths = [vqa_row(row)["answer"] for row in questions]
    themselves = sum(accuracy(truth, truth) for truth in truths) / len(truths)
    by_question = {}  # a question and its paraphrase have one `qid_linked_id`
    for row, truth in zip(questions, truths):
        by_question.setdefault(row["qid_linked_id"], []).append(truth)
    pairs = [linked for linked in by_question.values() if len(linked) == 2]
    same = sum(accuracy(one, other) == accuracy(other, one) == 1 for one, other in pairs)
    full_marks = dict(
        what="truths that earn full marks under their own reward",
        n=len(truths),
        value=themselves,
        unit="share",
    )
    # Where people asked the same twice and noted two answers, no reward can be right about both.
    paraphrases = dict(
        what="a question's answer, scored against that of its paraphrase",
        n=len(pairs),
        value=round(same / len(pairs), 3),
        unit="share",
    )
    return [full_marks, paraphrases]


def accuracy(said, truth):
    "The reward of a short answer in the wanted form"
    from vlrlbook.rewards import vqa_accuracy
    return vqa_accuracy(f"<think>.</think><answer>{said}</answer>", truth)["accuracy"]

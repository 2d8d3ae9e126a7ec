"""What tiny twins learn from each drawn data set, beside the commonest answer.

    python tools/logs.py learn [STEPS]

VQA is taught here, by 400 supervised STEPS unless said otherwise, which takes two minutes where the cache
does not have them; the other sets' figures come from 03_runs.csv, 04_runs.csv and 05_runs.csv. Writes
nbs/logs/01_learn.csv."""
from collections import Counter

from measure.common import read_log, write_log

vqa_kinds = ("yes/no", "choice", "number", "colour")  # of drawn questions, in turns by their row
held_out = 2**20  # first seed of pictures that no training draws


def main(
    steps: str = "400",  # supervised steps on drawn questions
):
    "A row for each set, kind of question, or run"
    rows = [counting_row(), *vqa_rows(int(steps))]
    rows += run_rows("03_runs.csv", "preferences", "pairs judged", "always_first", "pair_accuracy")
    rows += run_rows("04_runs.csv", "Aloha", "frames of held-out films", "majority_accuracy", "accuracy")
    write_log("01_learn.csv", rows)


def counting_row():
    "Chapter 05's own evaluation of its warm start"
    from vlrlbook.data import synthetic_counting
    truths = Counter(sample.answer for sample in synthetic_counting(500, seed=held_out))
    start = next(row for row in read_log("05_runs.csv") if row["in_table"] == "yes")
    # Any row of the table will do: its runs differ in what came after the warm start.
    reached = float(start["before_greedy_exact"])
    return dict(
        set="counting",
        what="greedy counts after the warm start",
        n=500,
        commonest=max(truths.values()) / 500,
        reached=reached,
        seed=0,
    )


def vqa_rows(steps):
    "Greedy answers to 800 held-out questions, by kind"
    from vlrlbook.answers import generate_answers
    from vlrlbook.data import drawn_questions
    from vlrlbook.grpo import warm_start
    from vlrlbook.models import load_vlm
    from vlrlbook.rewards import is_right
    model, processor = load_vlm(warm_start("qwen2_5_vl", steps, task="vqa"))
    questions = drawn_questions(800, held_out)
    answers = generate_answers(model, processor, questions, max_new_tokens=24)
    # By kind, since the commonest answer is half of yes/no and next to nothing of numbers.
    by_kind = {}
    for question, (text,) in zip(questions, answers, strict=True):
        kind = vqa_kinds[question.row % 4]
        right = is_right(text, question.answer, "vqa")
        by_kind.setdefault(kind, []).append((question.answer, right))
    return [vqa_row(kind, marked) for kind, marked in by_kind.items()]


def vqa_row(kind, marked):
    "The row of one kind of question; `marked` holds (truth, whether the answer was right)"
    n = len(marked)
    truths = Counter(truth for truth, _ in marked)
    # What a model earns that has learned nothing but which answer is given most often
    commonest = max(truths.values()) / n
    reached = sum(right for _, right in marked) / n
    return dict(set="VQA", what=f"greedy answers, {kind}", n=n, commonest=round(commonest, 3),
                reached=round(reached, 3), seed=0)


def run_rows(
    log: str,  # of a chapter's runs
    data_set: str,  # what the row calls the data
    what: str,  # is counted
    commonest: str,  # column of `log`: accuracy of the commonest answer
    reached: str,  # column of `log`: accuracy of the trained model
) -> list:  # a row for each seed of the chapter's preset
    "What a chapter's own runs reached"
    rows = []
    for row in read_log(log):
        if row["what"] == "the preset":
            rows.append(dict(set=data_set, what=what, n=row["n"], commonest=row[commonest],
                             reached=row[reached], seed=row["seed"]))
    return rows

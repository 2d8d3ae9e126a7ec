"""Chapter 03's reader and report on public preference pairs.

    python tools/logs.py public FOLDER MODEL_DIR

FOLDER holds vl_rewardbench_text and ixc_pref_example, MODEL_DIR is a reward model that chapter 03 has
trained. It knows discs only: what is shown is the report, not a good judge. Takes a minute. Writes
nbs/logs/03_public.csv."""
import json
import tempfile
from pathlib import Path

from measure.common import read_jsonl, write_log

longest_judged = 400  # characters; the tiny judge has room for short answers only


def main(
    folder: str,  # with the public pairs
    model: str,  # folder of a reward model
):
    "A row a figure"
    from vlrlbook.data import permuted
    from vlrlbook.reward_model import VLRewardModel, pair_report, plain_baselines, score_rows
    folder = Path(folder)
    pairs = published_pairs(folder / "vl_rewardbench_text/data.jsonl")
    judge = VLRewardModel.from_pretrained(model)
    mixed = permuted(pairs, 0)  # answers in another order, drawn by the seed 0
    # As published nearly all first answers are the better ones: who always takes the first looks good.
    as_published, when_permuted = plain_baselines(pairs), plain_baselines(mixed)
    short = [pair for pair in mixed if max(map(len, pair["response"])) <= longest_judged]
    report = pair_report(short, score_rows(judge, short))
    low, high = report["ci95"]
    bias = report["length_bias"]
    better, worse = score_rows(judge, [example_pair(folder / "ixc_pref_example")])[0]
    write_log("03_public.csv", [
        log_row("VL-RewardBench, as published: always the first", len(pairs), as_published["always_first"]),
        log_row("VL-RewardBench, permuted: always the first", len(mixed), when_permuted["always_first"]),
        log_row("VL-RewardBench, permuted: the longer answer", len(mixed), when_permuted["longer"]),
        log_row(f"VL-RewardBench, answers of at most {longest_judged} characters: our twin", report["n"],
                report["pair_accuracy"], f"{low:.3f} to {high:.3f}"),
        log_row("the same, mean over groups", len(report["by_group"]), report["macro"]),
        log_row("the same, rank correlation of score and length", bias["n"], bias["rank_correlation"]),
        log_row("IXC-2.5-Reward, one receipt: score of the better less the worse", 1, better - worse),
    ])


def log_row(what, n, value, ci95=""):
    "One figure, with its 95 % interval where it has one"
    return dict(what=what, n=n, value=round(value, 3), ci95=ci95)


def published_pairs(path):
    "VL-RewardBench's rows as chapter 03 reads them"
    from vlrlbook.reward_model import read_pair_rows
    rows = read_jsonl(path)
    for row in rows:
        # Its texts are here and its pictures are not, so a row that asks for one would be refused.
        row["query"] = row["query"].replace("<image>", "").strip()
        row["image"] = row["image_path"] = None
    with tempfile.TemporaryDirectory() as out:
        rewritten = Path(out) / "pairs.jsonl"
        rewritten.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        pairs, *_ = read_pair_rows(rewritten)
    return pairs


def example_pair(folder):
    "The pair that InternLM's reward model is shown with: a receipt and two answers, the better one first"
    from vlrlbook.reward_model import ixc_row
    examples = json.loads((folder / "example.json").read_text(encoding="utf-8"))
    return ixc_row(examples[0], folder / "example.jpg")

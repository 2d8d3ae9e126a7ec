"""Reward files that go to a cluster beside our rewards: every part, every text.

    python tools/logs.py exported FOLDER [TEXTS]

FOLDER holds medvlm_r1_outputs, real completions with their truths; TEXTS more are generated, 20,000 unless
said otherwise, of the pieces that rewards look for. Takes five minutes. Writes nbs/logs/09_rewards.csv."""
import json
import random
import tempfile
from pathlib import Path

from measure.common import commit, read_jsonl, write_log

rewards = ["vqa", "accuracy", "format", "counting", "0.9*counting + 0.1*format"]
engines = ["easyr1", "verl"]
truths = ["yes", "no", "A", "4", "IV, oral", "A photo of 3 discs", "MRI"]
# What rewards look for, and what has broken readers: other scripts' digits, a lone surrogate, a null byte
pieces = ["<think>", "</think>", "<answer>", "</answer>", "\n", " ", " ", "yes", "No", "abnormal", "A", "(B)",
          "C: MRI", "the answer is D.", "3", "twelve", "two hundred and five", "三", "十二", "-4", "3.5",
          "1,200", "A photo of 3 discs", "no discs", ", ", " and ", "IV", "left", "ＭＲＩ", "é", "\0", "\ud800",
          "\u200b", "🙂", "<image>", "{", "\\", "'", '"']


def main(
    folder: str,  # with the real completions
    texts: str = "20000",  # to generate
):
    "A row for each set of texts"
    real = read_jsonl(Path(folder) / "medvlm_r1_outputs" / "completions.jsonl")
    completions = [row["completion"] for row in real]
    generated = generated_texts(int(texts))
    # One text to a case, since each has a truth of its own; below, all texts share one truth after the other.
    own_truths = [([row["completion"]], row["gt_letter"] or row["gt_answer"]) for row in real]
    sets = {
        f"{len(real):,} real completions, their own truths": own_truths,
        "the same, seven other truths": [(completions, truth) for truth in truths],
        f"{len(generated):,} generated texts, seven truths": [(generated, truth) for truth in truths],
    }
    rows = []
    for what, cases in sets.items():
        compared, differences = count_differences(cases)
        rows.append(dict(
            texts=what,
            compared=compared,
            differences=differences,
            rewards=f"{len(rewards)} rewards, {len(engines)} dialects",
            commit=commit(),
        ))
    write_log("09_rewards.csv", rows)


def generated_texts(n, seed=0):
    "Texts of up to twelve pieces in any order"
    rng = random.Random(seed)
    return ["".join(rng.choices(pieces, k=rng.randint(0, 12))) for _ in range(n)]


def count_differences(
    cases: list,  # of pairs: texts, their truth
) -> tuple:  # results compared, those that differ
    "All rewards as files of both engines, asked about all texts"
    from vlrlbook.easyr1 import ask_reward_file, reward_file
    from vlrlbook.rewards import load_reward
    compared = differences = 0
    with tempfile.TemporaryDirectory() as out:
        path = Path(out) / "reward.py"
        for name in rewards:
            rule = load_reward(name)
            for engine in engines:
                path.write_text(reward_file(name, engine), encoding="utf-8")
                answers = ask_reward_file(path, cases, engine=engine)
                for (texts, truth), said in zip(cases, answers, strict=True):
                    compared += len(texts)
                    differences += count_unlike(rule, engine, texts, truth, said)
    return compared, differences


def count_unlike(rule, engine, texts, truth, said):
    "Texts of one truth for which the file says something else than our reward does"
    unlike = 0
    for text, parts in zip(texts, said, strict=True):
        ours = rule(text, truth)
        if engine == "verl":
            # verl's reward manager reads the total as `score`, EasyR1's as `overall`.
            ours = {"score": ours.pop("overall")} | ours
        # As JSON, so that 1 and 1.0 and the order of the parts count as differences.
        unlike += json.dumps(ours) != json.dumps(parts)
    return unlike

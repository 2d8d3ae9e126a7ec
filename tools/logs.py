"""Collect the logs that figures and tables are drawn from into nbs/logs.

    python tools/logs.py runs "what=output_dir" ...     one row a run of chapter 05 into 05_runs.csv, rows of other names kept
    python tools/logs.py aloha "what=output_dir" ...    one row a run of chapter 04 into 04_runs.csv
    python tools/logs.py frames                         robot frames a second from pictures and from videos into 04_frames.csv
    python tools/logs.py warm                           the warm start with two initial spreads into 05_warm_start.csv
    python tools/logs.py stops                          runs killed twice and resumed beside runs never killed, into 05_stops.csv
    python tools/logs.py race                           stock TRL and the shared prompt in turns, four cases, into 07_race.csv; where a shared step goes, into 07_profile.csv
    python tools/logs.py peers shared/data              our rewards beside the peers' on real completions into 02_peers.csv
    python tools/logs.py real shared/data               our readers on real rows: rows per second, leaks, what is read wrongly, into 01_real.csv
    python tools/logs.py parting DIR DIR ...            runs of chapter 05 that log `verbatim` beside their reward: 06_run_log_lr_*.csv, answers of the last one
    python tools/logs.py evaluation DIR                 answers of a run of chapter 06, two samples of each kept, into 06_predictions.jsonl
    python tools/logs.py learn                          what tiny twins learn from each drawn set, beside the commonest answer, into 01_learn.csv
    python tools/logs.py intake                         10,000 pictures read from a ZIP, beside extractall and verify, into 01_intake.csv
    python tools/logs.py judges "what=output_dir" ...   one row a run of chapter 03 into 03_runs.csv, rows of other names kept; two training curves too
    python tools/logs.py public shared/data MODEL_DIR   chapter 03's reader and report on public pairs into 03_public.csv
    python tools/logs.py game MODEL_DIR NAME LR STEPS   chapter 05 paid by a reward model alone, and what it answers, into 03_NAME.csv and 03_NAME_rollouts.jsonl
    python tools/logs.py faults [NAME ...]              what jobs are put through, as often as the pass figures ask, into 07a_faults.csv, rows of other names kept
    python tools/logs.py threads                        a supervised step of one job and of two at once, by threads each, into 07a_threads.csv
    python tools/logs.py service_faults [NAME ...]      the service at the pass figures (tests/service_faults.py) into 08_faults.csv and 08_pollers.csv, rows of other faults kept
    python tools/logs.py shards                         shards merged one tensor at a time and by loading everything: seconds and memory, into 09_shards.csv
    python tools/logs.py exported shared/data           reward files of chapter 09 beside our rewards, on real completions and on generated texts, into 09_rewards.csv
    python tools/logs.py scans shared/data              picture tokens of VQA-RAD's questions under two pairs of pixel limits, into 09_vqa_rad.csv
    python tools/logs.py dry [SIDExROWS ...]            dry runs over 10,000 rows, one process and two, into 09_dry_run.csv
    python tools/logs.py pages [NAME ...]               run chapters from an empty cache, store their outputs in nbs/, minutes and memory into chapters.csv; seconds of slow cells as `cells` does
    python tools/logs.py cells CHAPTER=OUT.ipynb ...    the slowest cells of chapters that papermill ran, into slow_cells.csv, rows of other chapters kept"""
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bars import without_bars

root = Path(__file__).resolve().parent.parent
logs = root / "nbs" / "logs"
what_you_see = {
    "00_core": "the five pictures; parameters that check themselves", "00a_models": "four families, their tiny twins, LoRA on and merged",
    "01_data": "ZIP to data set, broken rows named, tokens counted", "02_rewards": "six answers guessed and paid; a reward cheated",
    "03_reward_model": "two answers, a preference, a score; the score as a reward, and how it is gamed",
    "04_aloha": "three cameras, a task, a reward bin under every frame",
    "05_grpo": "GRPO by hand, by TRL, and the run",
    "06_evaluation": "untrained, warm start, GRPO on the same pictures; controls; is the gain real?",
    "07_shared_prompt": "one prompt, eight answers, read once; beside stock TRL",
    "07a_jobs": "a job killed twice and finished once; what jobs survive, counted",
    "08_service": "upload, train, watch, download; what it refuses and what it survives",
    "09_easyr1": "the same rows and reward for EasyR1 and verl; a dry run; shards drawn and merged"}


def write(name, rows):
    "Rows as CSV"
    logs.mkdir(exist_ok=True)
    with open(logs / name, "w", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(logs.relative_to(root) / name, len(rows), "rows")


def run_row(what, folder):
    "The row of one run, from its results.json"
    r = json.loads((Path(folder) / "results.json").read_text())
    gain, s = r["gain"], r["settings"]
    row = dict(what=what, in_table="yes" if what == "the preset" else "no", lr=s["lr"], seed=s["seed"], max_steps=s["max_steps"])
    predictions = [json.loads(line) for line in (Path(folder) / "predictions.jsonl").open()]
    for how in ("sampled", "greedy"):
        for when in ("before", "after"):
            said = [(text.strip(), p["answer"]) for p in predictions for text in p[f"{when}_{how}"]]
            row[f"{when}_{how}_verbatim"] = round(sum(text == truth for text, truth in said) / len(said), 4)
            row[f"{when}_{how}_exact"], row[f"{when}_{how}_error"] = round(r[when][how]["exact_accuracy"],
                4), round(r[when][how]["mean_absolute_error"], 4)
        for measure, short in (("mean_reward", "reward"), ("exact_accuracy", "exact")):
            low, high = gain[how][f"{measure}_ci95"]
            row |= {f"gain_{how}_{short}": round(gain[how][measure], 4), f"gain_{how}_{short}_low": round(low, 4),
                    f"gain_{how}_{short}_high": round(high, 4)}
    return row | dict(seconds=round(r["seconds"]), memory_mb=round(r["peak_memory_mb"]), commit=r["commit"], device=r["device"],
                      **{k: r["versions"][k] for k in ("torch", "transformers", "trl")})


def aloha_row(what, folder):
    "The row of one classifier run, from its results.json"
    r = json.loads((Path(folder) / "results.json").read_text())
    s, (low, high) = r["settings"], r["ci95"]
    row = dict(what=what, seed=s["seed"], lr=s["lr"], steps=r["steps"], n=r["n"], episodes=r["episodes"],
               majority_accuracy=r["majority_accuracy"], accuracy=r["accuracy"], accuracy_low=low, accuracy_high=high,
               macro_f1=r["macro_f1"], mae_bins=r["mae_bins"], within_one=r["within_one"], rank_correlation=r["rank_correlation"],
               ece=r["calibration"]["ece"])
    row = {k: round(v, 4) if isinstance(v, float) and k != "lr" else v for k, v in row.items()}
    return row | dict(seconds=round(r["seconds"]), memory_mb=round(r["peak_memory_mb"]), commit=r["commit"], device=r["device"],
                      **{k: r["versions"][k] for k in ("torch", "transformers", "lerobot")})


def frames():
    "Reading speed of both storages; videos are encoded here, for their encoder talks"
    from vlrlbook.aloha import AlohaFrames, reading_speeds
    from vlrlbook.data import synthetic_aloha
    with tempfile.TemporaryDirectory() as folder:
        write("04_frames.csv",
              [reading_speeds(AlohaFrames(synthetic_aloha(f"{folder}/{videos}", episodes=6, frames=32, videos=videos))) for videos in (
                  False, True)])


def runs(named):
    "Figures of chapter 05's runs"
    new = [run_row(*a.split("=", 1)) for a in named]
    kept = [r for r in csv.DictReader((logs / "05_runs.csv").open()) if r["what"] not in {n["what"] for n in new}]
    write("05_runs.csv", sorted(kept + new, key=lambda r: (r["in_table"] != "yes", r["what"], int(r["seed"]))))


def warm():
    "Loss per supervised step, with the initial spread of large models and with ours"
    from vlrlbook.grpo import supervised
    write("05_warm_start.csv",
          [dict(spread=spread, step=i + 1, loss=round(loss, 4)) for spread in (0.02,
              0.1) for i, loss in enumerate(supervised("qwen2_5_vl", 280, 0, spread=spread)[1])])


def stops(n=20):
    "Short runs killed twice at random and resumed: are log and weights those of a run that was never killed?"
    sys.path.insert(0, str(root / "tests"))
    import random
    import test_stop_and_go as go
    import torch
    from vlrlbook.core import run_facts
    rows, rng = [], random.Random(0)
    cases = {"as they are": {}, "two passes over a batch": dict(num_iterations=2),
             "accumulated, with KL": dict(gradient_accumulation_steps=2, beta=0.04)}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(n):
            what = list(cases)[i % 3]
            whole, broken = Path(folder) / what, Path(folder) / str(i)
            if not whole.exists(): go.start(whole, **cases[what]).join()
            kills = [go.kill_after(go.start(broken, **cases[what]), broken, 2, 0.4 * rng.random()),
                     go.kill_after(go.start(broken, "true", **cases[what]), broken, 5, 0.2 * rng.random())]
            go.start(broken, "true", **cases[what]).join()
            (weights, log), (again, log_again) = go.final(whole), go.final(broken)
            rows.append(dict(settings=what, kills=sum(kills), same_log=int(log == log_again),
                             same_weights=int(all(torch.equal(weights[k], again[k]) for k in weights)), commit=run_facts()["commit"]))
    write("05_stops.csv", rows)


race_one = """
import json, sys
from vlrlbook.core import read_settings
from vlrlbook.shared_prompt import RaceSettings, race
print("ROW", json.dumps(race(read_settings(RaceSettings, json.loads(sys.argv[1])))))
"""

profile_one = """
import json, sys
from vlrlbook.shared_prompt import RaceSettings, where_time_goes
print("ROW", json.dumps(where_time_goes(RaceSettings(profile=sys.argv[1]))))
"""


def races():
    "Each case in a process of its own"
    from vlrlbook.core import run_facts
    rows, facts = [], run_facts()
    with tempfile.TemporaryDirectory() as folder:
        for case in (dict(profile="counting"), dict(profile="reasoning"), dict(profile="text"),
                     dict(profile="counting", width=128)):
            done = subprocess.run([sys.executable, "-c", race_one, json.dumps(case)], cwd=folder, capture_output=True, text=True,
                                  env={**os.environ, "HF_HUB_OFFLINE": "1"})
            found = [line for line in done.stdout.splitlines() if line.startswith("ROW ")]
            if not found: sys.exit(done.stderr[-2000:])
            rows.append({k: round(v, 9) if isinstance(v, float) else v for k, v in json.loads(found[0][4:]).items()}
                        | dict(device=facts["device"], commit=facts["commit"]))
            print(rows[-1], flush=True)
    write("07_race.csv", rows)
    profiles(facts)


def profiles(facts):
    "What is left of a shared step"
    rows = []
    for profile in ("counting", "reasoning"):
        done = subprocess.run([sys.executable, "-c", profile_one, profile], capture_output=True, text=True,
                              env={**os.environ, "HF_HUB_OFFLINE": "1"})
        found = [line for line in done.stdout.splitlines() if line.startswith("ROW ")]
        if not found: sys.exit(done.stderr[-2000:])
        rows += [dict(profile=profile, part=part, seconds=round(s, 4), device=facts["device"],
                      commit=facts["commit"]) for part, s in json.loads(found[0][4:]).items()]
    write("07_profile.csv", rows)


def peers(folder):
    "Agreement with the peers' stored results on real completions and real answers"
    from vlrlbook.rewards import format_reward, normalise_answer, vqa_accuracy
    load = lambda name: [json.loads(line) for line in (Path(folder) / name).open()]
    completions, theirs, answers = load("medvlm_r1_outputs/completions.jsonl"), load("peer_vectors/rewards_on_medvlm.jsonl"), load(
        "peer_vectors/vqa_normalise.jsonl")
    pairs, rows = [(c["completion"], p) for c, p in zip(completions, theirs)], []
    for key, peer in (("easyr1_r1v_format", "EasyR1 r1v"), ("vlmr1_format", "VLM-R1"), ("r1v_format", "R1-V"),
                      ("trl_think_format", "TRL think")):
        differ = [(t, p) for t, p in pairs if format_reward(t)["overall"] != p[key]]
        rows.append(dict(what="format", peer=peer, n=len(pairs), agree=len(pairs) - len(differ),
                         differences="TRL wants the think block only" if differ else ""))
    lettered = [(t, p) for t, p in pairs if p["gold"]]
    for key, peer in (("easyr1_r1v_accuracy", "EasyR1 r1v"), ("vlmr1_mcq", "VLM-R1")):
        differ = [(t, p) for t, p in lettered if vqa_accuracy(t, p["gold"])["accuracy"] != p[key]]
        lines = sum("<answer>\n" in t for t, _ in differ)
        rows.append(dict(what="accuracy", peer=peer, n=len(lettered), agree=len(lettered) - len(differ),
                         differences=f"{lines} answers on a line of their own, which it does not find" if lines else ""))
    for key, peer in (("vlmevalkit_process_answer", "VLMEvalKit"), ("evalai_m4c", "MMF (EvalAI)")):
        differ = [r["raw"] for r in answers if normalise_answer(r["raw"]) != r[key]]
        marks = sum("'" in raw for raw in differ)
        rows.append(dict(what="normalisation", peer=peer, n=len(answers), agree=len(answers) - len(differ),
                         differences=f"{marks} possessives (we drop every apostrophe), {len(differ) - marks} tilde"))
    write("02_peers.csv", rows)


def real(folder):
    "Converters, splits and rewards on real files"
    from vlrlbook.data import convert_vqa, published_split, read_preferences, read_rows, split_rows_by_picture, vqa_row
    from vlrlbook.rewards import vqa_accuracy
    folder, rows = Path(folder), []
    source = folder / "vqa_rad" / "VQA_RAD_Dataset_Public.json"
    with tempfile.TemporaryDirectory() as out:
        for name, read in (
                           ("VQA-RAD's own JSON to EasyR1 rows, pictures looked up", lambda: convert_vqa(source, f"{out}/own.jsonl",
                               folder / "vqa_rad" / "images")),
                           ("VQA-RAD as flat rows (MEVF) to EasyR1 rows", lambda: convert_vqa(folder / "vqa_rad" / "mevf_trainset.json",
                               f"{out}/flat.jsonl")),
                           ("preference rows (VL-RewardBench) read and checked", lambda: len(
                               read_preferences(next((folder / "vl_rewardbench_text").glob("*.jsonl")))))):
            start = time.perf_counter()
            n = read()
            rows.append(dict(what=name, n=n, value=round(n / (time.perf_counter() - start)), unit="rows per second"))
    own = [row for _, row in read_rows(source)]
    train, test, leak = published_split(own)
    rows.append(dict(what="test pictures of the published split that are in its train part too", n=len({r["image_name"] for r in test}),
                     value=round(leak, 3), unit="share"))
    ours = split_rows_by_picture(own)
    rows.append(dict(what="the same for our split by picture", n=len({r["image_name"] for r in ours[1]}),
                     value=float(len({r["image_name"] for r in ours[0]} & {r["image_name"] for r in ours[1]})), unit="share"))
    pay = lambda said, truth: vqa_accuracy(f"<think>.</think><answer>{said}</answer>", truth)["accuracy"]
    truths = [vqa_row(r)["answer"] for r in own]
    rows.append(dict(what="truths that earn full marks under their own reward", n=len(truths),
                     value=sum(pay(t, t) for t in truths) / len(truths), unit="share"))
    linked = {}
    for r in own: linked.setdefault(r["qid_linked_id"], []).append(vqa_row(r)["answer"])
    pairs = [p for p in linked.values() if len(p) == 2]
    rows.append(dict(what="a question's answer, scored against that of its paraphrase", n=len(pairs),
                     value=round(sum(pay(a, b) == pay(b, a) == 1 for a, b in pairs) / len(pairs), 3), unit="share"))
    write("01_real.csv", rows)


def judges(named):
    "Figures of chapter 03's runs; the training curves that the page compares"
    known = list(csv.DictReader((logs / "03_runs.csv").open())) if (logs / "03_runs.csv").exists() else []
    rows = {(r["what"], str(r["seed"])): r for r in known}
    for what, folder in (n.split("=", 1) for n in named):
        r = json.loads((Path(folder) / "results.json").read_text())
        b, s = r["baselines"], r["settings"]
        rows[what, str(s["seed"])] = dict(what=what, seed=s["seed"], pair_accuracy=round(r["pair_accuracy"], 4),
            low=round(r["ci95"][0], 4), high=round(r["ci95"][1], 4), n=r["n"], macro=round(r["macro"], 4),
            untrained=round(b["untrained"], 4), always_first=round(b["always_first"], 4), longer=round(b["longer"], 4),
            blanked=round(b["blanked"], 4), swap=r["swap_consistency"]["consistent"], steps=r["steps"], best_step=r["best_step"],
            pairs_per_second=round(r["pairs_per_second"], 1), seconds=round(r["seconds"]), memory_mb=round(r["peak_memory_mb"]),
            commit=r["commit"], device=r["device"], **{k: r["versions"][k] for k in ("torch", "transformers")})
        kept = {("2,000 rows, four times", 42): "03_both_run_log.csv",
                ("2,000 rows, preferences alone", 42): "03_alone_run_log.csv"}.get((what, s["seed"]))
        if kept: shutil.copy(Path(r["run_dir"]) / "run_log.csv", logs / kept)
    write("03_runs.csv", [rows[k] for k in sorted(rows)])


def public(folder, model):
    "Public preference pairs through chapter 03: as published, permuted, and judged by a twin that knows discs only"
    from vlrlbook.data import permuted
    from vlrlbook.reward_model import VLRewardModel, ixc_row, pair_report, plain_baselines, read_pair_rows, score_rows
    bench = [json.loads(line) for line in (Path(folder) / "vl_rewardbench_text/data.jsonl").open()]
    for row in bench: row.update(query=row["query"].replace("<image>", "").strip(), image=None, image_path=None)
    with tempfile.TemporaryDirectory() as out:
        path = Path(out) / "pairs.jsonl"
        path.write_text("".join(json.dumps(r) + "\n" for r in bench))
        rows, judge = read_pair_rows(path)[0], VLRewardModel.from_pretrained(model)
    mixed = permuted(rows, 0)
    short = [r for r in mixed if max(map(len, r["response"])) <= 400]
    report = pair_report(short, score_rows(judge, short))
    example = ixc_row(json.loads((Path(folder) / "ixc_pref_example/example.json").read_text())[0],
                      Path(folder) / "ixc_pref_example/example.jpg")
    scores = score_rows(judge, [example])[0]
    line = lambda what, n, value, ci="": dict(what=what, n=n, value=round(value, 3), ci95=ci)
    write("03_public.csv", [
        line("VL-RewardBench, as published: always the first", len(rows), plain_baselines(rows)["always_first"]),
        line("VL-RewardBench, permuted: always the first", len(mixed), plain_baselines(mixed)["always_first"]),
        line("VL-RewardBench, permuted: the longer answer", len(mixed), plain_baselines(mixed)["longer"]),
        line("VL-RewardBench, answers of at most 400 characters: our twin", report["n"], report["pair_accuracy"],
             "{:.3f} to {:.3f}".format(*report["ci95"])),
        line("the same, mean over groups", len(report["by_group"]), report["macro"]),
        line("the same, rank correlation of score and length", report["length_bias"]["n"], report["length_bias"]["rank_correlation"]),
        line("IXC-2.5-Reward, one receipt: score of the better less the worse", 1, scores[0] - scores[1])])


def game(model, name="game", lr="2e-4", steps="100", **other):
    "GRPO with nothing but a reward model to please; the true count is logged at weight 0"
    from vlrlbook.core import RunLog, read_settings, set_seed
    from vlrlbook.grpo import GRPOSettings, Recorder, load_data, load_policy, make_trainer
    with tempfile.TemporaryDirectory() as out:
        settings = read_settings(GRPOSettings, dict(reward=f"1*reward_model:{model} + 0*counting", lr=lr, max_steps=steps, save_steps=0,
            output_dir=out) | other)
        set_seed(settings.seed)
        policy, processor = load_policy(settings)
        log, recorder = RunLog(), Recorder(settings.num_generations)
        make_trainer(settings, policy, processor, load_data(settings)[0], recorder, log).train()
    write(f"03_{name}.csv", [{k: round(v, 5) for k, v in row.items()} for row in log.rows])
    (logs / f"03_{name}_rollouts.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in recorder.rows()))


def learn():
    "VQA is taught here, 400 supervised steps; the other sets' figures come from the logs of their chapters"
    from collections import Counter
    from vlrlbook.data import synthetic_counting
    from vlrlbook.grpo import drawn_questions, generate_answers, warm_start
    from vlrlbook.models import load_vlm
    from vlrlbook.rewards import is_right
    model, processor = load_vlm(warm_start("qwen2_5_vl", 400, task="vqa"))
    held, kinds = drawn_questions(800, 2**20), {}
    said = [a[0] for a in generate_answers(model, processor, held, max_new_tokens=24)]
    for s, text in zip(held, said):
        kinds.setdefault(("yes/no", "choice", "number", "colour")[s.row % 4], []).append((s.answer, is_right(text, s.answer, "vqa")))
    rows = [dict(set="VQA", what=f"greedy answers, {kind}", n=len(found),
                 commonest=round(Counter(a for a, _ in found).most_common(1)[0][1] / len(found), 3),
                 reached=round(sum(r for _, r in found) / len(found), 3), seed=0) for kind, found in kinds.items()]
    table = lambda name: list(csv.DictReader((logs / name).open()))
    start = next(r for r in table("05_runs.csv") if r["in_table"] == "yes")
    truths = Counter(s.answer for s in synthetic_counting(500, seed=2**20)) # chapter 05's held-out pictures
    rows.insert(0, dict(set="counting", what="greedy counts after the warm start", n=500, commonest=max(truths.values()) / 500,
                        reached=float(start["before_greedy_exact"]), seed=0))
    rows += [dict(set="preferences", what="pairs judged", n=r["n"], commonest=r["always_first"], reached=r["pair_accuracy"],
                  seed=r["seed"]) for r in table("03_runs.csv") if r["what"] == "the preset"]
    rows += [dict(set="Aloha", what="frames of held-out films", n=r["n"], commonest=r["majority_accuracy"], reached=r["accuracy"],
                  seed=r["seed"]) for r in table("04_runs.csv") if r["what"] == "the preset"]
    write("01_learn.csv", rows)


read_ours = """
import sys, time, datasets
from pathlib import Path
from vlrlbook.core import peak_memory_mb
from vlrlbook.data import read_counting_zip
start = time.perf_counter()
data, report = read_counting_zip(sys.argv[1], Path(sys.argv[2]) / "out")
seconds, after_reading = time.perf_counter() - start, peak_memory_mb()
for row in data: row["images"][0].load()
print(seconds, report.valid_images, after_reading, peak_memory_mb())
"""
read_plain = """
import sys, time, zipfile, csv
from pathlib import Path
from vlrlbook.core import peak_memory_mb
from PIL import Image
start, out, good = time.perf_counter(), Path(sys.argv[2]) / "plain", 0
zipfile.ZipFile(sys.argv[1]).extractall(out)
for row in csv.DictReader(open(out / "main.csv", newline="")):
    with Image.open(out / row["images_path"]) as image: image.verify()
    good += 1
print(time.perf_counter() - start, good, peak_memory_mb(), peak_memory_mb())
"""


def intake():
    "Pictures per second and memory of our reader beside the plain loop, alternating, median of three"
    from vlrlbook.data import synthetic_counting, write_counting_zip
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n in (1000, 10000):
            path = write_counting_zip(synthetic_counting(n), Path(folder) / f"{n}.zip")
            found = {"ours": [], "plain": []}
            for turn in range(3):
                for name, code in (("ours", read_ours), ("plain", read_plain)):
                    with tempfile.TemporaryDirectory() as out:
                        done = subprocess.run([sys.executable, "-c", code, str(path), out], capture_output=True, text=True, check=True)
                    found[name].append([float(x) for x in done.stdout.split()])
            for name, runs in found.items():
                seconds, good, reading, decoding = sorted(runs)[1]
                rows.append(dict(reader=name, pictures=int(good), per_second=round(good / seconds), memory_reading_mb=round(reading),
                                 memory_all_decoded_mb=round(decoding)))
    write("01_intake.csv", rows)


def parting(folders):
    "Reward and accuracy over the steps of each run, four decimals; and what the last one answered"
    for folder in map(Path, folders):
        lr = f"{json.loads((folder / 'results.json').read_text())['settings']['lr']:.0e}".replace("e-0", "e-")
        rows = list(csv.DictReader((folder / "run_log.csv").open()))
        write(f"06_run_log_lr_{lr}.csv",
              [{k: r[k] if k == "step" else round(float(r[k]), 4) for k in r if k in ("step", "reward", "entropy", "length")
                or k.startswith("part/")} for r in rows])
    shutil.copy(folder / "predictions.jsonl", logs / f"06_predictions_lr_{lr}.jsonl")


def evaluation(folder):
    "The answers that the page of chapter 06 reads when no model is asked"
    from vlrlbook.evaluation import join, read_predictions
    rows = join(read_predictions(Path(folder) / "untrained.jsonl"), read_predictions(Path(folder) / "predictions.jsonl"))
    kept = [{k: v[:2] if isinstance(v, list) else v for k, v in r.items()} for r in rows]
    (logs / "06_predictions.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept))


def faults(names):
    "Every fault of tests/test_ledger.py at its full number"
    sys.path.insert(0, str(root / "tests"))
    import platform, sqlite3
    from datetime import datetime, timezone
    import faults as broken
    from test_ledger import FAULTS
    from vlrlbook.core import run_facts
    known = list(csv.DictReader((logs / "07a_faults.csv").open())) if (logs / "07a_faults.csv").exists() else []
    rows = {(r["fault"], r["part"]): r for r in known}
    for fault, more, _, many in FAULTS:
        if names and fault not in names: continue
        start, part = time.time(), " ".join(more)
        found = getattr(broken, fault)(many, *more)
        rows[fault, part] = dict(fault=fault, part=part, n=found["n"], failures=found["failures"], detail=found["detail"],
                                 seconds=round(time.time() - start), commit=run_facts()["commit"],
                                 python=platform.python_version(), sqlite=sqlite3.sqlite_version, linux=platform.release().split("-")[0],
                                 date=datetime.now(timezone.utc).date().isoformat())
        write("07a_faults.csv", [rows[key] for key in ((f[0], " ".join(f[1])) for f in FAULTS) if key in rows])


def service_faults(names):
    "What chapter 08's service survives: a row per fault, with when and with what it was measured"
    from datetime import date
    from importlib.metadata import version
    from vlrlbook.core import run_facts
    sys.path.insert(0, str(root / "tests"))
    from service_faults import by_second, measure
    facts = run_facts()
    with_what = dict(commit=facts["commit"], date=date.today().isoformat(), device=facts["device"], python=facts["versions"]["python"],
                     **{name: version(name) for name in ("fastapi", "starlette", "uvicorn", "python-multipart", "pillow")})
    known = list(csv.DictReader((logs / "08_faults.csv").open())) if (logs / "08_faults.csv").exists() else []
    rows = {r["fault"]: r for r in known}
    for found in measure(names):
        rows |= {r["fault"]: r | with_what for r in found}
        write("08_faults.csv", list(rows.values()))
    if by_second: write("08_pollers.csv", by_second)
merge_ours = """
from vlrlbook.easyr1 import merge_shards
def merge(actor, out, dtype): merge_shards(actor, out, None if dtype == "float32" else dtype)
"""
merge_all_loaded = """
def merge(actor, out, dtype):
    files = sorted(Path(actor).glob("model_world_size_*.pt"), key=lambda p: int(p.stem.rsplit("_", 1)[1]))
    ranks, whole = [torch.load(f, map_location="cpu", weights_only=False) for f in files], {}
    for key in list(ranks[0]): whole[key] = torch.cat([r.pop(key).to_local().to(getattr(torch, dtype)) for r in ranks])
    config = transformers.AutoConfig.from_pretrained(Path(actor) / "huggingface")
    with torch.device("meta"): model = transformers.AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype))
    model.to_empty(device="cpu").save_pretrained(out, state_dict=whole)
"""
merge_measured = """
import sys, time, torch, transformers
from pathlib import Path
from vlrlbook.core import peak_memory_mb
from transformers import AutoConfig, AutoModelForImageTextToText
import torch.distributed.tensor, safetensors.torch, transformers.core_model_loading
transformers.AutoModelForImageTextToText.from_config(transformers.AutoConfig.from_pretrained(sys.argv[4])) # imports done
Path("/proc/self/clear_refs").write_text("5") # the kernel forgets the old mark
held = peak_memory_mb()
start = time.perf_counter()
merge(*sys.argv[1:4])
print(time.perf_counter() - start, peak_memory_mb() - held)
"""


def shards(rounds=3):
    "Checkpoints on four ranks merged in turns by both ways, each time in a process of its own"
    from statistics import median
    from vlrlbook.core import run_facts
    from vlrlbook.easyr1 import shard_model
    from vlrlbook.models import tiny_twin
    rows, facts, ways = [], run_facts(), {"one tensor at a time": merge_ours, "everything loaded": merge_all_loaded}
    for depth, dtype in ((8, "float32"), (16, "float32"), (16, "bfloat16")):
        with tempfile.TemporaryDirectory() as folder:
            small = shard_model(*tiny_twin("qwen2_5_vl"), Path(folder) / "small", world_size=1)
            model, processor = tiny_twin("qwen2_5_vl", width=1024, depth=depth)
            actor, found = shard_model(model, processor, Path(folder) / "actor", world_size=4), {way: [] for way in ways}
            for turn in range(rounds):
                for way, code in ways.items():
                    shutil.rmtree(Path(folder) / way, ignore_errors=True)
                    done = subprocess.run([sys.executable, "-c", code + merge_measured, str(actor), str(Path(folder) / way), dtype,
                                           str(small / "huggingface")], capture_output=True, text=True,
                                           env={**os.environ, "HF_HUB_OFFLINE": "1"})
                    if done.returncode: sys.exit(done.stderr[-2000:])
                    found[way].append([float(x) for x in done.stdout.split()])
            same_weights(*(Path(folder) / way for way in ways))
            size, largest = sum(p.stat().st_size for p in actor.glob("*.pt")) / 2**20, max(p.nbytes for p in model.parameters()) / 2**20
        for way, runs in found.items():
            seconds, added = zip(*runs)
            rows.append(dict(checkpoint_mb=round(size, 1), largest_tensor_mb=round(largest, 1), ranks=4, dtype=dtype, way=way,
                             seconds=round(median(seconds), 2), seconds_low=round(min(seconds), 2), seconds_high=round(max(seconds), 2),
                             added_mb=round(median(added), 1),
                             added_mb_low=round(min(added), 1), added_mb_high=round(max(added), 1), rounds=rounds, commit=facts["commit"],
                             device=facts["device"], torch=facts["versions"]["torch"]))
    write("09_shards.csv", rows)


def same_weights(a, b):
    "Stop unless the second model directory holds the tensors of the first; it may hold a tied one twice"
    from safetensors.torch import load_file
    import torch
    a, b = ({k: v for f in folder.glob("*.safetensors") for k, v in load_file(f).items()} for folder in (a, b))
    if not a.keys() <= b.keys() or not all(torch.equal(a[k], b[k]) for k in a): sys.exit("the two ways wrote different weights")
def generated_texts(n, seed=0):
    "Texts out of the pieces that rewards look for, in any order"
    import random
    rng = random.Random(seed)
    pieces = ["<think>", "</think>", "<answer>", "</answer>", "\n", " ", " ", "yes", "No", "abnormal", "A", "(B)", "C: MRI",
              "the answer is D.", "3", "twelve", "two hundred and five", "三", "十二", "-4", "3.5", "1,200", "A photo of 3 discs",
              "no discs", ", ", " and ", "IV", "left", "ＭＲＩ", "é", "\0", "\ud800", "\u200b", "🙂", "<image>", "{", "\\", "'", '"']
    return ["".join(rng.choices(pieces, k=rng.randint(0, 12))) for _ in range(n)]


def exported(folder):
    "Do the reward files that go to a cluster say what our rewards say? Every part, every text"
    from vlrlbook.core import run_facts
    from vlrlbook.easyr1 import ask_reward_file, reward_file
    from vlrlbook.rewards import load_reward
    real = [json.loads(line) for line in (Path(folder) / "medvlm_r1_outputs" / "completions.jsonl").open()]
    sets = {"909 real completions, their own truths": [([r["completion"]], r["gt_letter"] or r["gt_answer"]) for r in real],
            "the same, seven other truths": [([r["completion"] for r in real], t) for t in ("yes", "no", "A", "4", "IV, oral",
                "A photo of 3 discs", "MRI")],
            "20,000 generated texts, seven truths": [(generated_texts(20_000), t) for t in ("yes", "no", "A", "4", "IV, oral",
                "A photo of 3 discs", "MRI")]}
    rows, facts = [], run_facts()
    with tempfile.TemporaryDirectory() as out:
        for what, cases in sets.items():
            n = differences = 0
            for name in ("vqa", "accuracy", "format", "counting", "0.9*counting + 0.1*format"):
                for engine in ("easyr1", "verl"):
                    path, rule = Path(out) / "reward.py", load_reward(name)
                    path.write_text(reward_file(name, engine))
                    for (texts, truth), said in zip(cases, ask_reward_file(path, cases, engine=engine)):
                        for text, parts in zip(texts, said):
                            ours = rule(text, truth)
                            ours = ours if engine == "easyr1" else {"score": ours["overall"]} | {k: v for k, v in ours.items()
                                if k != "overall"}
                            n, differences = n + 1, differences + (json.dumps(ours) != json.dumps(parts))
            rows.append(dict(texts=what, compared=n, differences=differences, rewards="5 rewards, 2 dialects", commit=facts["commit"]))
    write("09_rewards.csv", rows)


def scans(folder):
    "Picture tokens of VQA-RAD's questions under two pairs of pixel limits, by Qwen2.5-VL's rule"
    from collections import Counter
    from PIL import Image
    from vlrlbook.data import _token_count, read_rows, vqa_row
    from vlrlbook.easyr1 import easyr1_size, house_values, key_table
    from vlrlbook.models import twin_processor
    processor = twin_processor("qwen2_5_vl")
    processor.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384} # as the checkpoint has it
    source = Path(folder) / "vqa_rad"
    asked = Counter(vqa_row(row)["images"][0] for _, row in read_rows(source / "VQA_RAD_Dataset_Public.json"))
    sizes = {name: Image.open(source / "images" / name).size for name in asked}
    theirs = [key_table("current")[f"data.{k}_pixels"].default for k in ("min", "max")]
    counts = Counter((limits, _token_count(processor, easyr1_size(sizes[name], *pixels))) for name in asked for limits, pixels in (
        ("EasyR1's limits", theirs), ("ours", [house_values[f"data.{k}_pixels"] for k in ("min", "max")])) for _ in range(asked[name]))
    write("09_vqa_rad.csv", [dict(limits=limits, tokens=tokens, questions=n) for (limits, tokens), n in sorted(counts.items())])


dry_one = """
import json, os, re, resource, sys, threading, time
from pathlib import Path
from vlrlbook.easyr1 import dry_run
from vlrlbook.models import twin_processor
processor, most, done = twin_processor("qwen2_5_vl"), [], threading.Event()
def held(pid): # proportional: pages that processes share are counted once
    try: return int(re.search(r"Pss:\\s+(\\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text())[1]) / 1024
    except (OSError, TypeError): return 0.0
def watch():
    me = os.getpid()
    while not done.wait(0.1): most.append(sum(map(held, [me, *Path(f"/proc/{me}/task/{me}/children").read_text().split()])))
before, watcher = held(os.getpid()), threading.Thread(target=watch)
watcher.start()
used = lambda: sum(sum(resource.getrusage(w)[:2]) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
begun = used()
found = dry_run(sys.argv[1], processor=processor, processes=int(sys.argv[2]), progress=False)
spent = used() - begun
done.set()
watcher.join()
n = sum(found.rows.values())
print("ROW", json.dumps(dict(rows=n, per_second=round(found.per_second), per_cpu_second=round(n / spent), imports_mb=round(before), all_processes_mb=round(max(most)), problems=len(found.problems))))
"""


def dry(cases):
    "Rows a second and memory of the dry run, one process and two; a case is SIDExROWS, rows of other cases are kept"
    import random
    from vlrlbook.core import Sample, run_facts
    from vlrlbook.data import draw_discs
    from vlrlbook.easyr1 import export_easyr1
    from vlrlbook.models import save_model, tiny_twin
    known = list(csv.DictReader((logs / "09_dry_run.csv").open())) if (logs / "09_dry_run.csv").exists() else []
    rows, facts, rng = {(r["picture"], int(r["rows"]), int(r["processes"])): r for r in known}, run_facts(), random.Random(0)
    for side, n in (map(int, c.split("x")) for c in cases or ("112x1000", "112x10000", "256x10000")):
        with tempfile.TemporaryDirectory() as out:
            export_easyr1(
                          [Sample("<image> Is there a red disc?", "yes", [draw_discs(rng.randint(1, 6), rng, side)], "vqa",
                                  i) for i in range(1, n + 1)][:-100], "vqa", dict(model_path="tiny", max_prompt_length=1024),
                                  f"{out}/export",
                          val=[Sample("<image> Is there a red disc?", "yes", [draw_discs(rng.randint(1, 6), rng, side)], "vqa",
                                      i) for i in range(1, 101)])
            save_model(*tiny_twin("qwen2_5_vl"), f"{out}/export/tiny")
            for processes in (1, 2):
                done = subprocess.run([sys.executable, "-c", dry_one, f"{out}/export", str(processes)], capture_output=True, text=True,
                                      env={**os.environ, "HF_HUB_OFFLINE": "1"})
                found = [line for line in done.stdout.splitlines() if line.startswith("ROW ")]
                if not found: sys.exit(done.stderr[-2000:])
                rows[f"{side} × {side}", n, processes] = dict(picture=f"{side} × {side}",
                    processes=processes) | json.loads(found[0][4:]) | dict(device=facts["device"], commit=facts["commit"])
                print(list(rows.values())[-1], flush=True)
    write("09_dry_run.csv", [rows[k] for k in sorted(rows)])


what_was_done = {  # chapter/cell -> what was done about a slow cell; without a word here nothing was
    "02_rewards/n232372e": "its slow reward took four times as long, and was asked twice",
    "03_reward_model/c066": "picture and question are read once for both answers of a pair",
    "05_grpo/c035": "the warm start is kept in the cache: only a first run pays for it",
    "05_grpo/na62fb33": "prompt and picture are read once for the eight answers of a group",
    "06_evaluation/c030": "its run is chapter 05's, groups read once; a run that is there is not trained again",
    "07a_jobs/91728b6c": "two steps: what it shows is the job, not the learning",
    "08_service/c017": "its job is chapter 05's run, groups read once",
    "08_service/c033": "80 steps of a small batch, enough to be killed twice",
    "09_easyr1/nbc28686": "its six stages take half a minute; the rest is the warm start of 400 steps, made once and kept"}


def cells(named):
    "The ten slowest cells of each executed chapter, those of a second or more"
    known = list(csv.DictReader((logs / "slow_cells.csv").open())) if (logs / "slow_cells.csv").exists() else []
    ran = dict(a.split("=", 1) for a in named)
    rows = [r | dict(done=what_was_done.get(f"{r['chapter']}/{r['cell']}", "")) for r in known if r["chapter"] not in ran]
    for chapter, path in ran.items():
        book = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
        took = sorted(((c["metadata"].get("papermill", {}).get("duration") or 0, c) for c in book if c["cell_type"] == "code"),
                      key=lambda t: -t[0])
        for seconds, cell in took[:10]:
            lines = [line for line in "".join(cell["source"]).splitlines() if line.strip() and not line.startswith("#|")]
            if seconds >= 1:
                rows.append(dict(chapter=chapter, cell=cell["id"], first_line=lines[0], seconds=round(seconds, 1),
                                 done=what_was_done.get(f"{chapter}/{cell['id']}", "")))
    write("slow_cells.csv", sorted(rows, key=lambda r: -float(r["seconds"])))


step_one = """
import time
from vlrlbook.grpo import supervised
supervised("qwen2_5_vl", 2, 0)
start = time.perf_counter()
supervised("qwen2_5_vl", 10, 0)
print((time.perf_counter() - start) / 10)
"""


def threads(rounds=3):
    "Seconds of a step of the warm start: jobs that share the cores, with all threads each and with their share; in turns, medians"
    from statistics import median
    from vlrlbook.core import run_facts
    cores, facts = len(os.sched_getaffinity(0)), run_facts()
    found = {case: [] for case in ((1, cores), (1, 1), (cores, cores), (cores, 1))}
    for _ in range(rounds):
        for (jobs, each), seconds in found.items():
            started = [subprocess.Popen([sys.executable, "-c", step_one], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                        env={**os.environ, "OMP_NUM_THREADS": str(each), "HF_HUB_OFFLINE": "1"}) for _ in range(jobs)]
            seconds.append(max(float(p.communicate()[0]) for p in started))
    write("07a_threads.csv", [dict(jobs=jobs, threads_each=each, seconds=round(median(s), 3), low=round(min(s), 3), high=round(max(s), 3),
                                   rounds=rounds, device=facts["device"], commit=facts["commit"]) for (jobs, each), s in found.items()])


def pages(names):
    """Each chapter as a papermill job in an empty folder with an empty cache: outputs stored, seconds and the most memory of any process
    kept"""
    known = list(csv.DictReader((logs / "chapters.csv").open())) if (logs / "chapters.csv").exists() else []
    rows = {r["chapter"]: r for r in known}
    for path in sorted((root / "nbs").glob("[0-9]*.ipynb")):
        if names and path.stem not in names: continue
        with tempfile.TemporaryDirectory() as folder:
            code = ("import subprocess, resource, sys\n"
                    f"r = subprocess.run([sys.executable, '-m', 'papermill', {str(path)!r}, 'out.ipynb', '--no-progress-bar'])\n"
                    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
                    "sys.exit(r.returncode)")
            start = time.time()
            done = subprocess.run([sys.executable, "-c", code], cwd=folder,
                                  env={**os.environ, "VLRLBOOK_CACHE": folder + "/cache", "HF_HUB_OFFLINE": "1"}, capture_output=True,
                                  text=True)
            if done.returncode: sys.exit(f"{path.name} failed\n{done.stderr[-2000:]}")
            cells([f"{path.stem}={folder}/out.ipynb"])
            shutil.copy(Path(folder) / "out.ipynb", path)
            without_bars(path)
            if path.stem == "03_reward_model": judges([f"the preset={folder}/runs/{path.stem}"]) # the page's own run is one of the seeds
        subprocess.run([str(Path(sys.executable).parent / "nbdev_clean"), "--fname", str(path)], cwd=root, check=True)
        rows[path.stem] = dict(chapter=path.stem, what=what_you_see[path.stem], seconds=round(time.time() - start),
                               memory_mb=int(done.stdout.split()[-1]) // 1024, gpu="not measured")
        print(rows[path.stem])
    write("chapters.csv", [rows[k] for k in sorted(rows)])


if __name__ == "__main__":
    if sys.argv[1:2] == ["runs"]: runs(sys.argv[2:])
    elif sys.argv[1:2] == ["aloha"]: write("04_runs.csv", [aloha_row(*a.split("=", 1)) for a in sys.argv[2:]])
    elif sys.argv[1:] == ["frames"]: frames()
    elif sys.argv[1:] == ["warm"]: warm()
    elif sys.argv[1:] == ["stops"]: stops()
    elif sys.argv[1:] == ["race"]: races()
    elif sys.argv[1:2] == ["peers"]: peers(sys.argv[2])
    elif sys.argv[1:2] == ["real"]: real(sys.argv[2])
    elif sys.argv[1:2] == ["parting"]: parting(sys.argv[2:])
    elif sys.argv[1:2] == ["evaluation"]: evaluation(sys.argv[2])
    elif sys.argv[1:] == ["learn"]: learn()
    elif sys.argv[1:] == ["intake"]: intake()
    elif sys.argv[1:2] == ["judges"]: judges(sys.argv[2:])
    elif sys.argv[1:2] == ["public"]: public(*sys.argv[2:])
    elif sys.argv[1:2] == ["game"]: game(*sys.argv[2:])
    elif sys.argv[1:2] == ["faults"]: faults(sys.argv[2:])
    elif sys.argv[1:] == ["threads"]: threads()
    elif sys.argv[1:2] == ["service_faults"]: service_faults(sys.argv[2:])
    elif sys.argv[1:] == ["shards"]: shards()
    elif sys.argv[1:2] == ["exported"]: exported(sys.argv[2])
    elif sys.argv[1:2] == ["scans"]: scans(sys.argv[2])
    elif sys.argv[1:2] == ["dry"]: dry(sys.argv[2:])
    elif sys.argv[1:2] == ["cells"]: cells(sys.argv[2:])
    elif sys.argv[1:2] == ["pages"]: pages(sys.argv[2:])
    else: sys.exit(__doc__)

"""A trainer of seconds for the page's tests: a log that moves, answers that try to be markup, checkpoints, a result. Its argument:
seconds a step."""
import base64
import hashlib
import io
import json
import random
import sys
import time
from pathlib import Path

from PIL import Image, ImageDraw

HOSTILE = '</td><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>\u202egnp'
p = dict(max_steps=20, num_generations=8, seed=43) | {k: v for k, v in json.loads(Path("parameters.json").read_text()).items()
    if v is not None}
run = Path("run")
run.mkdir(exist_ok=True)


def commit(folder, files):
    "A folder with a manifest, by one rename"
    aside = Path("aside")
    aside.mkdir()
    for name, text in files.items(): (aside / name).write_text(text)
    (aside / "manifest.json").write_text(
        json.dumps({n: {"bytes": len(t.encode()), "sha256": hashlib.sha256(t.encode()).hexdigest()} for n, t in files.items()}))
    aside.rename(folder)


def picture(count):
    "A picture of discs as a data URL"
    image, rng, file = Image.new("RGB", (112, 112), "white"), random.Random(count), io.BytesIO()
    for x, y in ((rng.randint(14, 98), rng.randint(14, 98)) for _ in range(count)):
        ImageDraw.Draw(image).ellipse([x - 9, y - 9, x + 9, y + 9], fill=rng.choice(["#d62728", "#1f77b4", "#2ca02c"]))
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def group(step, silent):
    "One question with its answers; a silent one has equal rewards"
    rng, truth = random.Random(step), step % 6 + 1
    counts = [truth if silent else max(1, truth + rng.choice((-2, -1, 0, 0, 1, 3))) for _ in range(p["num_generations"])]
    rewards = [{0: 1.0, 1: 0.85, 2: 0.7, 3: 0.4}[abs(c - truth)] for c in counts]
    mean = sum(rewards) / len(rewards)
    spread = (sum((r - mean) ** 2 for r in rewards) / len(rewards)) ** 0.5
    answers = [dict(text=f"A photo of {c} discs" + HOSTILE * (i == 3), parts=dict(overall=r, exact=float(c == truth), readable=1.0),
                    advantage=(r - mean) / (spread + 1e-4)) for i, (c, r) in enumerate(zip(counts, rewards))]
    return dict(row=step + 1, question="How many discs are there?", truth=f"A photo of {truth} discs", image=picture(truth),
                answers=answers)


done = max((int(c.name[11:]) for c in run.glob("checkpoint-*")), default=0)
log = run / "run_log.csv"
if not done: log.write_text("step,reward,loss,silent\n")
# With seed 17 the warm start waits, half done, until a test has looked at the page (and says so by a file), or a minute.
patience = time.monotonic() + (60 if p["seed"] == 17 else 0)
for done_so_far in range(0, 281, 70):
    while done_so_far == 140 and not Path("seen").exists() and time.monotonic() < patience: time.sleep(0.05)
    print(f"warm start: {done_so_far * 100 // 280}%|####      | {done_so_far}/280 [00:01<00:01, 99.0it/s]\n", flush=True)
    time.sleep(0.2)
for step in range(done + 1, p["max_steps"] + 1):
    time.sleep(float(sys.argv[1]))
    with open(log, "a") as f:
        reward, loss = 0.7 + 0.2 * step / p["max_steps"] + 0.03 * (step % 3), "nan" if step == 2 else 0.02 * (step % 5 - 2)
        f.write(f"{step},{reward},{loss},{min(1, 0.1 + step / 60)}\n")
    (run / "aside.json").write_text(json.dumps(dict(step=step, total_steps=p["max_steps"], groups=[group(step, False), group(step, True)])))
    (run / "aside.json").rename(run / "rollouts_now.json")
    print(f"step {step} of {p['max_steps']} {HOSTILE}", flush=True)
    if step % 4 == 0: commit(run / f"checkpoint-{step}", {"trainer_state.json": json.dumps({"global_step": step})})
    if step == 3 and p["seed"] == 13: sys.exit(f"it did not work {HOSTILE}")
verdict = dict(
    outcome="better",
    sentence=f"Better: right answers went from 31 % to 58 % of 100 held-out pictures {HOSTILE}.",
    questions=[
        dict(
            name="different_answers",
            question="Does it say different things to different pictures?",
            answer="yes",
            detail="“3” to 24 of 100 pictures"),
            dict(
                name="needs_picture",
                question="Does it need its picture?",
                answer="cannot tell",
                 detail=HOSTILE)])
commit("result", {"adapter_model.safetensors": "weights", "run_log.csv": log.read_text(),
       "results.json": json.dumps(dict(verdict=verdict))})

"""What a GRPO run compares at its end and leaves behind: predictions, results, model files, card, report;
and what it refuses to go on with.

Chapter 05 uses it behind its run. Written by hand, not exported from a notebook."""
import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

from .answers import gain, marks, summary
from .core import job_terminal, write_json, write_whole
from .data import picture_key
from .folders import manifest_name
from .judge import about_judge
from .marking import pictures_of
from .models import save_processor
from .report import write_report
from .settings import GRPOSettings, SettingsError, reward_without_paths, trained_rewards
from .training import same_run
from .verdict import verdict_line, verdict_of

__all__ = ["may_differ", "as_it_began", "check_hub", "prediction_rows", "results_of", "judges_of", "announce",
           "parted", "save_run", "model_card", "finish", "push", "save_predictions"]

# Settings with which a run may go on that differ from those it began with: where things go, how long it runs,
# and what is only looked at.
may_differ = {
    "output_dir", "resume", "max_steps", "num_epochs", "data", "image_dir", "keys", "skip_bad_rows",
    "logging_steps", "save_steps", "keep_completions", "report_to", "hub_model_id", "eval_samples",
    "eval_answers", "eval_batch_size", "eval_steps", "shared_prompt", "picture_memory_mb", "attention",
    "gradient_checkpointing", "vllm_gpu_memory_utilization", "vllm_server_base_url", "vllm_sleep_level",
    "vllm_tensor_parallel_size"}

# A model card is for everybody: no path of this machine goes into it.
PRIVATE = ("data", "image_dir", "output_dir", "resume", "adapter", "hub_model_id")

# People's pictures stay here, and so do the folders of this machine: files with some inside are not pushed.
KEPT_HERE = ["checkpoint-*", "earlier-*", ".saving", "pictures.json", "report.html", "rollouts_now.json",
             "begun_with.json"]


def as_it_began(
    settings: GRPOSettings,  # a checked object
    checkpoint: str | None,  # where the run goes on, or None
    train,  # data set that it trains on
):
    "Keep the settings of a run that begins; SettingsError where one goes on with others, or on other rows"
    # The optimizer, its schedule and the order of the data come from the checkpoint: a new learning rate
    # would stand in every file and be used by none.
    rows = None
    if settings.data:  # drawn rows follow from seed and number of steps
        # without pictures: to hash them all would open every file of a large set
        columns = [list(train[name]) for name in ("row", "question", "answer")]
        rows = hashlib.sha256(json.dumps(columns).encode()).hexdigest()[:16]
    same_run(settings, checkpoint, may_differ, rows_of_data=rows)


def check_hub(
    repository: str | None,  # hub_model_id
):
    "SettingsError, before anything is computed, where nobody is logged in or may write to the name"
    if not repository:
        return
    from huggingface_hub import HfApi
    try:
        user = HfApi().whoami()
    except Exception as e:
        raise SettingsError(
            f"hub_model_id = {repository!r}: the hub does not know who you are ({type(e).__name__}); set "
            "HF_TOKEN to a token that may write, or leave hub_model_id out and push later") from e
    # a user may write to names of their own and of their organisations
    own = {user["name"], *(group["name"] for group in user.get("orgs", []))}
    owner, slash, _ = repository.partition("/")
    if slash and owner not in own:
        allowed = ", ".join(sorted(own))
        raise SettingsError(f"hub_model_id = {repository!r}: {user['name']} may write to {allowed} only")


def prediction_rows(
    samples: list,  # of `Sample`
    before: dict,  # from `predict`
    after: dict,  # from `predict`
    paid: dict = None,  # column → what a trained reward paid for each sample's answers; None: not kept
) -> list:  # row, question, answer, picture, a list of texts for before and after, greedy and sampled; `paid`
    "A row per held-out picture: question, truth, and its answers before and after"
    columns = {}
    for when, answers in (("before", before), ("after", after)):
        for how, texts in answers.items():
            columns[f"{when}_{how}"] = texts
    rows = []
    for i, sample in enumerate(samples):
        # rows that share a picture are drawn together wherever an interval is made
        picture = " ".join(map(picture_key, sample.images))
        known = dict(row=sample.row, question=sample.question, answer=sample.answer, picture=picture)
        rows.append(known | {column: texts[i] for column, texts in columns.items()})
        if paid:
            rows[-1]["paid"] = {column: round(of_samples[i], 4) for column, of_samples in paid.items()}
    return rows


def save_predictions(
    path: str | Path,  # a .jsonl file
    rows: list,  # from `prediction_rows`
):
    "Answers before and after training, a line each: what chapter 06 reads"
    write_whole(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))


def results_of(
    settings: GRPOSettings,  # a checked object
    samples: list,  # the held-out `Sample`s
    before: dict,  # from `predict`
    after: dict,  # from `predict`
    reward,  # (completion, answer) → parts, or a batched one
    lines: dict = None,  # from `marking.baselines`
) -> tuple:  # dict of verdict, settings, before, after, gain and baselines; rows of predictions.jsonl
    "What results.json holds of the comparison, the verdict first, and the answers that it is about"
    early = {how: marks(samples, texts, reward) for how, texts in before.items()}
    late = {how: marks(samples, texts, reward) for how, texts in after.items()}
    rows = prediction_rows(samples, before, after, _paid(early, late, reward))
    pictures = pictures_of(rows)  # None where no two rows share one
    results = dict(
        verdict=verdict_of(rows, settings.task, reward),
        settings=asdict(settings),
        before={how: summary(m) for how, m in early.items()},
        after={how: summary(m) for how, m in late.items()},
        gain={how: gain(early[how], late[how], pictures) for how in early},
        baselines=lines or {})
    return results, rows


def _paid(early, late, reward):
    "What was paid for each column's answers, where the reward is a model; else None"
    # It looks at pictures, which a file of answers does not hold: nobody could compute its pay again.
    if not getattr(reward, "batched", False):
        return None
    paid = {f"before_{how}": found["reward"] for how, found in early.items()}
    return paid | {f"after_{how}": found["reward"] for how, found in late.items()}


def judges_of(
    reward: str,  # the setting
) -> list:  # a dict for each trained model in it; empty where a rule alone pays
    "Which models paid for a run: enough to tell one from another, and how good each was said to be"
    known = []
    for chapter, folder in trained_rewards(reward):
        # A judge that is asked in words is known by a file, and no measurement of it lies beside that.
        known.append(about_judge(folder) if chapter == "judge" else _judge(chapter, Path(folder)))
    return known


def _judge(chapter, folder):
    "What is known of a trained model from the files beside it; nothing is loaded"
    # A run of chapter 03 keeps its model in a folder of that name, which tells nobody apart.
    run = folder.resolve().parent if folder.name == "model" else folder.resolve()
    known = dict(kind=chapter, name=run.name, fingerprint=_fingerprint(folder))
    about = _object_in(folder / "reward_model.json")
    if about.get("base"):
        known["base"] = Path(about["base"]).name
    results = _object_in(run / "results.json")
    for name in ("pair_accuracy", "accuracy", "macro_f1", "ci95", "n", "commit"):
        if name in results:
            known[name] = results[name]
    return known


def _fingerprint(folder):
    "16 characters that change with any byte of a committed folder; None where it has no manifest"
    try:
        return hashlib.sha256((folder / manifest_name).read_bytes()).hexdigest()[:16]
    except FileNotFoundError:
        return None


def _object_in(path):
    "A JSON object; an empty one where there is no such file, or something else in it"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def announce(
    found: dict,  # from `verdict.verdict_of`
):
    "Say the verdict, on the page and in the terminal from which a job was started"
    line = verdict_line(found)
    print(line)
    terminal = job_terminal()  # a file descriptor, or None outside of a job
    if terminal is None:
        return
    try:
        os.write(terminal, f"\n{line}\n".encode())
    except OSError:
        pass  # the terminal was closed; the page holds the line


def parted(
    trainer,  # a `transformers.Trainer`
) -> bool:
    "Whether the weights are spread over several processes, so that no process can generate by itself"
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def save_run(
    trainer,  # after training
    processor,  # of its model
    settings: GRPOSettings,  # for training_args.json and the directory
):
    "Model or adapter, tokenizer, picture processor, training_args.json, trainer_state.json into `output_dir`"
    output = Path(settings.output_dir)
    if parted(trainer):
        trainer.save_model(str(output))  # all processes take part
    if not trainer.is_world_process_zero():
        return
    if not parted(trainer):
        # straight from the model: `save_model` would add training_args.bin, a pickle
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(output)
    save_processor(processor, output)
    arguments = {"settings": asdict(settings), "trl": json.loads(trainer.args.to_json_string())}
    write_json(output / "training_args.json", arguments)
    trainer.state.save_to_json(str(output / "trainer_state.json"))


def model_card(
    settings: GRPOSettings,  # a checked object
    results: dict,  # what results.json holds
) -> str:  # Markdown with the hub's front matter
    "What a result was made from, how, and what it reached"
    s = replace(settings, reward=reward_without_paths(settings.reward))  # a card is for everybody
    facts = {k: results[k] for k in ("device", "commit", "seconds") if k in results}
    facts |= results.get("versions", {})
    # between two lines of dashes the hub reads YAML, by which it lists the model
    lines = ["---", f"base_model: {s.model}", f"library_name: {'peft' if s.use_lora else 'transformers'}",
             "tags: [grpo, vision-language, vlrlbook]", "---", ""]
    lines += [f"# {s.task}: {Path(s.model).name} after GRPO"]
    if "verdict" in results:
        lines += _verdict(results["verdict"])
    lines += ["", f"- data: {Path(s.data).name if s.data else 'drawn pictures'}", f"- reward: `{s.reward}`"]
    for judge in results.get("judges", []):
        lines.append(f"- {judge['kind']} that paid: {judge['name']}, fingerprint {judge['fingerprint']}")
    for name, value in facts.items():
        lines.append(f"- {name}: {round(value) if isinstance(value, float) else value}")
    lines += ["", "| setting | value |", "| --- | --- |"]
    lines += [f"| {k} | `{v}` |" for k, v in asdict(s).items() if k not in PRIVATE]
    lines.append("")
    if "gain" in results:
        lines += _gains(results)
    return "\n".join(lines) + "\n"


def _verdict(found):
    "What came of the run, and the questions behind it, as lines of Markdown"
    lines = ["", f"**{found['sentence']}**", ""]
    if found["questions"]:
        lines += ["| question | answer | numbers |", "| --- | --- | --- |"]
    for question in found["questions"]:
        cells = [str(question[k]) for k in ("question", "answer", "detail")]
        # an answer of the model may hold a bar, which would end its cell
        shown = [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
        lines.append(f"| {' | '.join(shown)} |")
    return lines


def _gains(results):
    "The card's second table"
    yield "| held-out pictures | before | after | gain, 95 % interval |"
    yield "| --- | --- | --- | --- |"
    for how, gained in results["gain"].items():
        before, after = results["before"][how], results["after"][how]
        for m in ("exact_accuracy", "mean_reward"):
            low, high = gained[f"{m}_ci95"]
            change = f"{gained[m]:+.3f} ({low:+.3f} to {high:+.3f})"
            yield f"| {how} {m}, n = {after['n']} | {before[m]:.3f} | {after[m]:.3f} | {change} |"


def finish(
    trainer,  # after training
    processor,  # of its model
    settings: GRPOSettings,  # a checked object
    results: dict,  # for results.json and the card
):
    "Model files, results.json, card and report into `output_dir`; pushed when `hub_model_id` says where"
    save_run(trainer, processor, settings)
    if not trainer.is_world_process_zero():
        return
    judges = judges_of(settings.reward)
    if judges:
        results["judges"] = judges
    write_json(Path(settings.output_dir) / "results.json", results)
    write_whole(Path(settings.output_dir) / "README.md", model_card(settings, results))
    write_report(settings.output_dir)
    if settings.hub_model_id:
        push(settings)


def push(
    settings: GRPOSettings,  # a checked object
):
    "The run's folder to its repository; SettingsError, with where the files are, if that fails"
    from huggingface_hub import HfApi
    try:
        HfApi().create_repo(settings.hub_model_id, private=True, exist_ok=True)
        HfApi().upload_folder(repo_id=settings.hub_model_id, folder_path=settings.output_dir,
                              ignore_patterns=KEPT_HERE)
    except Exception as e:
        # the run itself is done, and its files must be found
        told = f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
        raise SettingsError(
            f"hub_model_id = {settings.hub_model_id!r}: the run is done and all its files lie in "
            f"{settings.output_dir}, but they could not be pushed ({told})") from e

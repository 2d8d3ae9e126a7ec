"""What a GRPO run compares at its end and leaves behind: predictions, results, model files, card, report.

Also checks before a run: whether it may be resumed with these settings, and pushed to the hub. Chapter 05
uses it around its run. Written by hand, not exported from a notebook."""
import hashlib
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

from .answers import gain, marks, summary
from .core import job_terminal, write_json, write_whole
from .data import picture_key
from .folders import manifest_name, sha256_of
from .judge import about_judge
from .marking import pictures_of
from .model_files import keep_own_sampling
from .models import save_processor, weights_digest
from .report import write_report
from .rewards import load_reward
from .run_records import note_on_cut
from .settings import GRPOSettings, SettingsError, reward_terms, reward_without_paths, settings_of_adapter
from .settings import trained_rewards
from .training import content_of, refuse_other_files, same_run
from .verdict import verdict_line, verdict_of

__all__ = ["may_differ", "as_it_began", "check_output_dir", "check_hub", "prediction_rows", "results_of",
           "judges_of", "announce", "parted", "save_run", "model_card", "finish", "push", "save_predictions"]

# Settings that may be changed when a run is resumed: where files go, how long it runs, what is only shown or
# measured, and how the same numbers are computed. A change of any other setting is refused.
may_differ = {
    "output_dir", "resume", "max_steps", "num_epochs", "data", "image_dir", "keys", "skip_bad_rows",
    "logging_steps", "save_steps", "keep_completions", "report_to", "hub_model_id", "eval_samples",
    "eval_answers", "eval_batch_size", "eval_steps", "shared_prompt", "picture_memory_mb", "attention",
    "gradient_checkpointing", "vllm_gpu_memory_utilization", "vllm_server_base_url", "vllm_sleep_level",
    "vllm_tensor_parallel_size"}

# Settings that a model card leaves out: a card is for everybody, and these may hold paths of this machine.
PRIVATE = ("data", "image_dir", "output_dir", "resume", "adapter", "hub_model_id", "vllm_server_base_url")

# Patterns of files that are not pushed to the hub: they hold people's pictures, or paths of this machine, or
# every answer with its question, or are checkpoints, or belong to other programs (runs: of TensorBoard).
KEPT_HERE = ["checkpoint-*", "earlier-*", ".*", "pictures.json", "report.html", "rollouts_now.json",
             "begun_with.json", "completions*.jsonl", "runs/*", "wandb/*", "training_args.bin"]
# Those with questions and answers of held-out rows and of three groups. They are pushed where the rows were
# drawn, and kept here where they are somebody's data.
_ROWS = ["predictions.jsonl", "rollouts.jsonl"]
# Files in which paths of this machine stand: a copy without them is pushed.
_WITH_PATHS = ["results.json", "training_args.json", "trainer_state.json", "adapter_config.json",
               "ref/adapter_config.json"]


# What a run leaves in its folder, besides log, settings, checkpoints and answers. A run that begins anew in
# the same folder moves it aside: none of it may be taken for a result of the new one.
_leaves = ("results.json", "report.html", "README.md", "predictions.jsonl", "rollouts.jsonl",
           "rollouts_now.json", "training_args.json", "training_args.bin", "trainer_state.json")
# And the model: its adapter or, with use_lora false, all weights, and the processor's files.
_weights = ("adapter_config.json", "adapter_model*", "model*.safetensors", "model.safetensors.index.json",
            "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
            "chat_template*", "processor_config.json", "preprocessor_config.json",
            "video_preprocessor_config.json", "ref")
# A user may keep a file of settings under this name, so it goes only where weights of a whole model are.
_of_whole_model = ("config.json", "generation_config.json")


def as_it_began(
    settings: GRPOSettings,  # a checked object
    checkpoint: str | None,  # where the run goes on, or None
    train,  # data set that it trains on
    compare_only: bool = False,  # only compare; a second call, just before the training, writes the files
):
    """Save the settings and data of a new run, or check that a resumed run has the same ones.

    SettingsError if a resumed run has other settings (except those in `may_differ`), other rows of data, or
    another number of processes, or if the reward's own file or the weights behind `model` have changed.
    What another run has left in `output_dir` is moved into a folder earlier-1 there."""
    # Rows that are drawn, not read from a file, follow from the settings.
    fingerprint = _fingerprint_of_rows(train) if settings.data else None
    has_model = any(Path(settings.output_dir).glob("model*.safetensors"))
    # Patterns of a model's files, which are moved aside together with `_leaves`: results.json, the report, …
    weights = _weights + (_of_whole_model if has_model else ())
    # If an adapter is trained further, lora_r, lora_alpha and the like are read from its files. They are not
    # compared, since older versions wrote other values into begun_with.json.
    not_compared = may_differ | set(settings_of_adapter(settings.adapter))  # names of settings
    # A new run (no checkpoint) writes begun_with.json into output_dir; a resumed one is compared with it.
    same_run(settings, checkpoint, not_compared, leaves=_leaves, weights=weights, compare_only=compare_only,
             rows_of_data=fingerprint, **_contents(settings))


def _contents(settings):
    """Return digests of the files that the settings only name: {"content of model": 16 digits, …}

    A reward of the package itself, a model of the hub and a tiny- model have no such files, and no digest."""
    digests = {}
    for _weight, name in reward_terms(settings.reward):
        digests[f"{content_of}reward {name}"] = _content_of_reward(name)  # content_of: the text "content of "
    # Without LoRA the model's folder does not matter to a resumed run, since a checkpoint holds all weights;
    # and it may have changed, if the run has saved its own weights there.
    if settings.use_lora:
        digests[f"{content_of}model"] = weights_digest(settings.model)
    return {name: digest for name, digest in digests.items() if digest is not None}


def _content_of_reward(name):
    """Return 16 hexadecimal digits that change with the files of one reward; None where it has none

    `name`: a term of the setting, such as mine:brief_reward, reward_model:FOLDER or judge:FILE."""
    trained = trained_rewards(name)  # [(kind, path)], or [] for a function
    if trained:
        kind, path = trained[0]
        is_file = kind == "judge"  # its file of settings; other kinds are folders of a model
        return _hash_of_file(path) if is_file else _fingerprint(Path(path))
    # "mine" of mine:brief_reward or mine.brief_reward; empty for one of the package's own rewards
    module = name.rpartition(":" if ":" in name else ".")[0]
    if not module or module.partition(".")[0] == "vlrlbook":
        return None
    try:
        load_reward(name)  # imports the module, also from the current folder
    except ValueError:  # reported when the trainer is made, which loads the reward again
        return None
    file = getattr(sys.modules.get(module), "__file__", None)  # None for a function of a notebook
    return file and _hash_of_file(file)


def _hash_of_file(path):
    "Return 16 hexadecimal digits that change with any byte of a file; None where it cannot be read"
    try:
        return sha256_of(path)[:16]
    except OSError:
        return None


def _fingerprint_of_rows(
    dataset,  # of `datasets`, with the columns row, question, answer and pictures
):
    "16 hexadecimal digits that change with any row's number, question or answer"
    # Without pictures, since hashing them would open every file of a large set.
    columns = [list(dataset[name]) for name in ("row", "question", "answer")]
    return hashlib.sha256(json.dumps(columns).encode()).hexdigest()[:16]


def check_output_dir(
    settings: GRPOSettings,  # a checked object
):
    """Raise SettingsError where `output_dir` holds files that the run would overwrite, and no run wrote them.

    Such as the README.md of a project, or the tokenizer in a model's folder. Called before anything is
    loaded."""
    # Patterns of files: those of a model, and `_leaves` (results.json, README.md, …).
    weights = _weights if settings.use_lora else _weights + _of_whole_model
    refuse_other_files(settings.output_dir, _leaves + weights)


def check_hub(
    repository: str | None,  # hub_model_id
):
    """Raise SettingsError where the run could not be pushed: nobody is logged in, or may not write there.

    Called before anything is computed, so that no run is lost to a wrong name."""
    if not repository:
        return
    user = _hub_user(repository)
    # A user may write to repositories of their own and of their organisations.
    organisations = [group["name"] for group in user.get("orgs", [])]
    allowed_owners = {user["name"], *organisations}
    owner, slash, _ = repository.partition("/")
    if slash and owner not in allowed_owners:  # a name without a slash belongs to the user
        allowed = ", ".join(sorted(allowed_owners))
        raise SettingsError(f"hub_model_id = {repository!r}: {user['name']} may write to {allowed} only")


def _hub_user(
    repository,  # such as somebody/model, for the message
):
    "What the hub knows of the user who is logged in: dict of name, orgs and more; SettingsError if nobody is"
    from huggingface_hub import HfApi
    try:
        return HfApi().whoami()
    except Exception as e:
        raise SettingsError(
            f"hub_model_id = {repository!r}: the hub does not know who you are ({type(e).__name__}); set "
            "HF_TOKEN to a token that may write, or leave hub_model_id out and push later") from e


def prediction_rows(
    samples: list,  # of `Sample`
    before: dict,  # from `predict`: greedy and sampled, each with a list of texts for each sample
    after: dict,  # the same after training
    paid: dict = None,  # before_greedy and so on → for each sample its answers' mean reward; None: not kept
) -> list:  # of dicts: row, question, answer, picture, lists of texts such as before_greedy; `paid` if given
    "A row for each held-out sample: question, right answer, and the model's answers before and after"
    columns = _named_by_time(before, after)  # such as before_greedy → a list of texts for each sample
    rows = []
    for i, sample in enumerate(samples):
        picture = " ".join(map(picture_key, sample.images))  # equal for rows with the same pictures
        row = dict(row=sample.row, question=sample.question, answer=sample.answer, picture=picture)
        row |= {column: texts[i] for column, texts in columns.items()}
        if paid:
            row["paid"] = {column: round(rewards[i], 4) for column, rewards in paid.items()}
        rows.append(row)
    return rows


def save_predictions(
    path: str | Path,  # a .jsonl file
    rows: list,  # from `prediction_rows`
):
    "Write the rows of `prediction_rows` as JSON lines, which `evaluation` (chapter 06) reads"
    write_whole(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))


def _named_by_time(
    before,  # dict with the keys greedy and sampled: something about the answers before training
    after,  # the same after training
):
    "Two dicts as one, with the keys before_greedy, before_sampled, after_greedy and after_sampled"
    columns = {f"before_{how}": value for how, value in before.items()}
    return columns | {f"after_{how}": value for how, value in after.items()}


def results_of(
    settings: GRPOSettings,  # a checked object
    samples: list,  # the held-out `Sample`s
    before: dict,  # from `predict`: greedy and sampled, each with a list of texts for each sample
    after: dict,  # the same after training
    reward,  # (completion, answer) → parts, or one marked `batched`: (completions, samples) → list of parts
    lines: dict = None,  # of a chart: from `marking.baselines`, what the best answer without a picture earns
) -> tuple:  # dict of verdict, settings, before, after, gain and baselines; rows of predictions.jsonl
    "Compare the answers before and after training: what results.json will hold, and the answers themselves"
    # "greedy" or "sampled" → the lists of `marks`: reward, exact (right) and others, a number for each sample
    scores_before = {how: marks(samples, texts, reward) for how, texts in before.items()}
    scores_after = {how: marks(samples, texts, reward) for how, texts in after.items()}
    # What a reward model gave each sample, to be kept with the answers; None if the reward is a rule.
    paid = _rewards_of_model(scores_before, scores_after, reward)
    rows = prediction_rows(samples, before, after, paid)
    pictures = pictures_of(rows)  # of each row: the interval of a gain resamples pictures, not rows
    results: dict = dict(
        verdict=verdict_of(rows, settings.task, reward),
        settings=asdict(settings),
        before={how: summary(scores) for how, scores in scores_before.items()},
        after={how: summary(scores) for how, scores in scores_after.items()},
        gain={how: gain(scores_before[how], scores_after[how], pictures) for how in scores_before},
        baselines=lines or {})
    note = note_on_cut(settings.when_cut)
    if note:  # the answers are here as texts: which of them were cut is not known any more
        results["reward_note"] = note
    return results, rows


def _rewards_of_model(
    scores_before,  # {"greedy": {"reward": [a mean for each sample], …}, "sampled": …}
    scores_after,  # the same after training
    reward,  # of the run; marked `batched` if a model gives it
):
    """The mean reward of each sample's answers: {"before_greedy": [0.5, …], …}; None if a rule gives it.

    A rule's rewards can be computed again from the answers. A reward model needs the pictures, too."""
    is_model = getattr(reward, "batched", False)  # a model scores whole batches, a rule one answer at a time
    if not is_model:
        return None
    scores = _named_by_time(scores_before, scores_after)  # keys: before_greedy, …, after_sampled
    return {column: scores_of_answers["reward"] for column, scores_of_answers in scores.items()}


def judges_of(
    reward: str,  # the setting, such as "0.5*reward_model:runs/judge/model + 0.5*counting"
) -> list:  # a dict for each model in it; empty where a rule alone gives the reward
    "Describe the models that gave a run its rewards: which they are, and how good each was measured to be"
    descriptions = []
    # trained_rewards: (kind, path), such as ("reward_model", "runs/judge/model")
    for kind, path in trained_rewards(reward):
        if kind == "judge":  # a language model that is asked in words; the path is its file of settings
            descriptions.append(about_judge(path))
        else:
            descriptions.append(_about_reward_model(kind, Path(path)))
    return descriptions


def _about_reward_model(
    kind,  # such as "reward_model"
    folder,  # of its files
):  # dict of kind, name, fingerprint, and what is known of base and measurements
    "Describe a trained reward model from the files beside it; nothing is loaded"
    # A run of chapter 03 keeps its model in a folder "model", so the name of the run's own folder is used.
    run = folder.resolve().parent if folder.name == "model" else folder.resolve()
    description = dict(kind=kind, name=run.name, fingerprint=_fingerprint(folder))
    saved_settings = _object_in(folder / "reward_model.json")  # {} where there is no such file
    if saved_settings.get("base"):  # the model that it was trained from
        description["base"] = Path(saved_settings["base"]).name
    results = _object_in(run / "results.json")
    for name in ("pair_accuracy", "accuracy", "macro_f1", "ci95", "n", "commit"):
        if name in results:
            description[name] = results[name]
    return description


def _fingerprint(folder):
    "16 characters that change with any file of a folder; None if it has no manifest, a list of files' hashes"
    try:
        return hashlib.sha256((folder / manifest_name).read_bytes()).hexdigest()[:16]
    except FileNotFoundError:
        return None


def _object_in(path):
    "The JSON object in a file, as a dict; an empty one where there is no such file or no object in it"
    # Whatever is missing is left out of a description: it is no reason to lose a run at its end.
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def announce(
    found: dict,  # from `verdict.verdict_of`
):
    "Print a run's verdict in one line, and also write it to the terminal from which the job was started"
    line = verdict_line(found)
    print(line)
    # In a job, papermill puts what is printed into the executed notebook, where nobody looks while it runs.
    terminal = job_terminal()  # the descriptor of that terminal, or None
    if terminal is None:
        return
    try:
        os.write(terminal, f"\n{line}\n".encode())  # a progress bar may fill the line before
    except OSError:
        pass  # the terminal was closed


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
    "Save model or adapter, processor, training_args.json and trainer_state.json into `output_dir`"
    output = Path(settings.output_dir)
    is_sharded = parted(trainer)  # whether each process has only a part of the weights
    if is_sharded:
        trainer.save_model(str(output))  # gathers the weights: every process must call it
    if not trainer.is_world_process_zero():
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not is_sharded:
        # `save_model` would also write a pickle, training_args.bin.
        model.save_pretrained(output)
    if not settings.use_lora:
        # The model's own top_k, top_p, …, which were taken out of it for the run, go with its weights.
        keep_own_sampling(model, output)
    save_processor(processor, output)
    arguments = {"settings": asdict(settings), "trl": json.loads(trainer.args.to_json_string())}
    write_json(output / "training_args.json", arguments)
    trainer.state.save_to_json(str(output / "trainer_state.json"))


def model_card(
    settings: GRPOSettings,  # a checked object
    results: dict,  # what results.json holds
) -> str:  # Markdown with the hub's front matter
    "The model card (README.md) of a run: verdict, data, reward, facts of the run, settings, results"
    # A card is for everybody: of a folder on this machine it shows the name alone.
    is_folder = Path(settings.model).expanduser().exists()
    model = Path(settings.model).name if is_folder else settings.model  # a hub's id, or tiny-…
    s = replace(settings, reward=reward_without_paths(settings.reward), model=model)
    # The hub reads the YAML between two lines of dashes and lists the model by it.
    lines = ["---", f"base_model: {s.model}", f"library_name: {'peft' if s.use_lora else 'transformers'}",
             "tags: [grpo, vision-language, vlrlbook]", "---", ""]
    lines.append(f"# {s.task}: {Path(s.model).name} after GRPO")
    if "verdict" in results:
        lines += _verdict_lines(results["verdict"])
    lines += ["", *_fact_lines(s, results), "", *_setting_lines(s), ""]
    if "gain" in results:
        lines += _gain_table(results)
    return "\n".join(lines) + "\n"


def _fact_lines(
    settings,  # `GRPOSettings`, its reward without paths
    results,  # dict of results.json: may have judges, device, commit, seconds, versions
):
    "A list in Markdown, as lines: data, reward, models that gave the reward, machine and versions"
    data = Path(settings.data).name if settings.data else "drawn pictures"  # a card shows no folders
    lines = [f"- data: {data}", f"- reward: `{settings.reward}`"]
    if "reward_note" in results:  # how training rewards cut answers otherwise than this evaluation
        lines.append(f"- note: {results['reward_note']}")
    # The models that gave the reward, as `judges_of` describes them. A fingerprint changes with their files.
    for model in results.get("judges", []):
        lines.append(f"- {model['kind']} that paid: {model['name']}, fingerprint {model['fingerprint']}")
    facts = {k: results[k] for k in ("device", "commit", "seconds") if k in results}
    facts |= results.get("versions", {})  # library → version
    for name, value in facts.items():
        lines.append(f"- {name}: {round(value) if isinstance(value, float) else value}")
    return lines


def _setting_lines(settings):
    "The settings of a run as lines of a Markdown table, without those that may hold paths of this machine"
    lines = ["| setting | value |", "| --- | --- |"]
    return lines + [f"| {k} | `{v}` |" for k, v in asdict(settings).items() if k not in PRIVATE]


def _verdict_lines(
    verdict,  # dict of sentence and questions, a list of dicts: question, answer, detail
):
    "A verdict on a run as lines of Markdown: its sentence, and a table of its questions"
    lines = ["", f"**{verdict['sentence']}**", ""]
    if verdict["questions"]:
        lines += ["| question | answer | numbers |", "| --- | --- | --- |"]
    for question in verdict["questions"]:
        cells = [str(question[k]) for k in ("question", "answer", "detail")]
        # An answer of the model may hold a bar, which would end its cell, or a line break, which would end
        # the row.
        shown = [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
        lines.append(f"| {' | '.join(shown)} |")
    return lines


def _gain_table(
    results,  # dict of before, after and gain, each: "greedy" or "sampled" → dict of metrics
):
    "Yields the lines of a Markdown table: accuracy and reward before and after, the gain and its interval"
    yield "| held-out pictures | before | after | gain, 95 % interval |"
    yield "| --- | --- | --- | --- |"
    for how, gained in results["gain"].items():  # "greedy", "sampled"
        before, after = results["before"][how], results["after"][how]
        overlap = ["mean_iou"] if "mean_iou" in gained else []  # only where boxes were asked for
        for metric in (*overlap, "exact_accuracy", "mean_reward"):
            low, high = gained[f"{metric}_ci95"]  # ends of the 95 % interval
            change = f"{gained[metric]:+.3f} ({low:+.3f} to {high:+.3f})"
            values = f"{before[metric]:.3f} | {after[metric]:.3f}"
            yield f"| {how} {metric}, n = {after['n']} | {values} | {change} |"


def finish(
    trainer,  # after training
    processor,  # of its model
    settings: GRPOSettings,  # a checked object
    results: dict,  # for results.json and the card; `judges` is added here; a `reward_note` is printed
    is_saved: bool = False,  # `save_run` has written the model files already
):
    "Write model files, results.json, card and report into `output_dir`; push them if `hub_model_id` is set"
    if not is_saved:
        save_run(trainer, processor, settings)  # in every process: weights may be spread over them
    if not trainer.is_world_process_zero():
        return
    judges = judges_of(settings.reward)  # a dict for each model that gave the reward; empty for a rule
    if judges:
        results["judges"] = judges
    if "reward_note" in results:
        print(f"note: {results['reward_note']}")
    write_json(Path(settings.output_dir) / "results.json", results)
    write_whole(Path(settings.output_dir) / "README.md", model_card(settings, results))
    write_report(settings.output_dir)
    if settings.hub_model_id:
        push(settings)


def push(
    settings: GRPOSettings,  # a checked object
):
    "Upload the run's folder to its repository on the hub; SettingsError that names the folder if that fails"
    from huggingface_hub import HfApi
    repository, folder = settings.hub_model_id, Path(settings.output_dir)
    # Patterns of files: pictures, checkpoints, …; if the rows are the user's own data, the answers as well
    kept_here = KEPT_HERE + (_ROWS if settings.data else [])
    try:
        hub = HfApi()
        hub.create_repo(repository, private=True, exist_ok=True)
        if not hub.repo_info(repository).private:  # it was there already, and stays as it was
            print(f"hub_model_id = {repository!r}: this repository is public, "
                  "everybody can read what is pushed")
        not_pushed = kept_here + _WITH_PATHS
        hub.upload_folder(repo_id=repository, folder_path=str(folder), ignore_patterns=not_pushed)
        # The files in `_WITH_PATHS` hold paths of this machine: copies without these are pushed instead.
        for name, content in _for_everybody(settings).items():
            hub.upload_file(repo_id=repository, path_in_repo=name, path_or_fileobj=content)
    except Exception as e:
        # The run itself is done, so the message says where its files are.
        on_one_line = " ".join(str(e).split())
        cause = f"{type(e).__name__}: {on_one_line[:200]}"
        raise SettingsError(
            f"hub_model_id = {settings.hub_model_id!r}: the run is done and all its files lie in "
            f"{settings.output_dir}, but they could not be pushed ({cause})") from e


def _for_everybody(settings):
    "Return the files in which paths of this machine stand, without these: a dict, name → content in bytes"
    folder = Path(settings.output_dir)
    private = [str(getattr(settings, name)) for name in PRIVATE if getattr(settings, name)]
    files = {}
    for name in _WITH_PATHS:
        content = _object_in(folder / name)  # {} where the run has left no such file
        if content:
            shown = _without_paths(content, private)
            files[name] = json.dumps(shown, indent=2, ensure_ascii=False).encode()
    return files


def _without_paths(
    content,  # of a JSON file
    private,  # values of the settings in `PRIVATE` (data, output_dir, …), which may stand under any name
):
    "Return what a JSON file holds with private settings as null, and of every other path its last name"
    if isinstance(content, list):
        return [_without_paths(value, private) for value in content]
    if not isinstance(content, dict):
        return _shown_to_everybody(content, private)  # a private value becomes null, a path its last name
    shown: dict = {}
    for name, value in content.items():
        if name == "reward" and isinstance(value, str):
            shown[name] = reward_without_paths(value)  # such as reward_model:DIR, a path within a text
        elif name in PRIVATE and isinstance(value, str):
            shown[name] = None
        elif name == "system_prompt":  # a text, also where it begins as a path does: /no_think
            shown[name] = value
        else:
            shown[name] = _without_paths(value, private)
    return shown


def _shown_to_everybody(value, private):
    "Return a value of a JSON file: a private text as None, a path of this machine as its last name"
    if not isinstance(value, str) or not value.isprintable():  # a path is one line
        return value
    if any(value == text or value.startswith(f"{text}{os.sep}") for text in private):
        return None
    path = Path(value).expanduser()
    is_path = path.is_absolute() or (os.sep in value and path.exists())
    return path.name if is_path else value

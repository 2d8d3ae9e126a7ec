"""Ask a model about pictures: the same way before, during and after a training.

Chapter 05 asks around its run, chapter 06 does so for any model, `ask_model` for one picture and one question
of anybody's. What is right in the answers is told by `marking`, whose names can be imported from here too.
Written by hand."""
import io
import json
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from PIL import Image

from .archive import open_picture, to_rgb
from .core import Sample, progress_bar
from .data import encode, vqa_prompt
# All of them: the reward `vlrlbook.answers:verbatim` and imports from here go on working.
from .marking import answer_marks, counting_marks, gain, is_closed, marks, summary
from .marking import verbatim, vqa_marks, word_scores
from .models import load_vlm, vision_marker_ids
from .settings import SettingsError, by_task, presets
from .zoom_turns import converse, eye_of

__all__ = ["generate_answers", "generate_ids", "predict", "speakers", "base_of", "ask_model",
           "system_of_run", "looks_of_run", "answer_marks", "verbatim", "counting_marks", "is_closed",
           "word_scores", "vqa_marks", "marks", "summary", "gain"]


# Asking

def generate_answers(
    model,  # of any family
    processor,  # of the model
    samples: list,  # of `Sample`
    n: int = 1,  # answers to each
    temperature: float = 0.0,  # 0 is greedy
    max_new_tokens: int = 16,  # longest answer
    batch_size: int = 64,  # samples at a time
    seed: int = 0,  # of the sampling; the global random state is left alone
    looks: int = 0,  # calls of the tool `zoom` in one answer; 0: there is no tool
) -> list:  # n texts for each sample
    "Answers to `samples`; the model's mode and the global random state are as before when this returns"
    if looks:
        how = dict(temperature=temperature, max_new_tokens=max_new_tokens)
        return _with_looks(model, processor, samples, n, how, batch_size, seed, looks)
    answers = []
    for _, rows in generate_ids(model, processor, samples, n, temperature, max_new_tokens, batch_size, seed):
        answers.append(processor.tokenizer.batch_decode(rows, skip_special_tokens=True))
    return answers


@torch.no_grad()
def generate_ids(
    model,  # of any family
    processor,  # of the model
    samples: list,  # of `Sample`
    n: int = 1,  # answers to each
    temperature: float = 0.0,  # 0 is greedy
    max_new_tokens: int = 16,  # longest answer
    batch_size: int = 64,  # samples at a time
    seed: int = 0,  # of the sampling; the global random state is left alone
) -> list:  # for each sample: tokens of its prompt, and n lists of token ids, padded behind their ends
    "`generate_answers` before anything is decoded, for who counts tokens or asks whether an answer ended"
    options = dict(num_return_sequences=n) | _options(processor, temperature, max_new_tokens)
    answers = []
    with _asked(model, seed):
        batches = range(0, len(samples), batch_size)
        description = f"{n} answers each" if temperature else "greedy"
        for begin in progress_bar(batches, desc=description, leave=False, disable=len(batches) < 2):
            batch = encode(processor, samples[begin:begin + batch_size])
            rows = _said(model, batch, options)
            # n rows of one sample stand next to each other
            for place, tokens in enumerate(batch["attention_mask"].sum(1).tolist()):
                answers.append((tokens, rows[n * place:n * place + n]))
    return answers


@contextmanager
def _asked(model, seed):
    "Within the block the model is in its mode for answering, and chance begins at `seed`; then both are as before"
    was_training = model.training
    model.eval()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        model.train(was_training)


def _said(model, batch, options):
    "Token ids of the answers to a batch, n for each row one after the other, without the prompts"
    batch = batch.to(model.device)
    prompt_length = batch["input_ids"].shape[1]  # padded on the left: the same for all
    generated_ids = model.generate(**batch, **options)  # [rows · n, prompt and answer]
    return generated_ids[:, prompt_length:].tolist()


def _options(processor, temperature, max_new_tokens):
    "How transformers generates, as every answer of this book is asked for"
    # Tokens that mark a picture are never said: an answer that holds one cannot be put to the model again.
    options = dict(max_new_tokens=max_new_tokens, repetition_penalty=1.0)
    options |= dict(suppress_tokens=vision_marker_ids(processor), do_sample=bool(temperature))
    if temperature:
        # top_k and top_p are given, or a model's own generation config would narrow what is sampled.
        options |= dict(temperature=temperature, top_k=0, top_p=1.0)
    return options


@torch.no_grad()
def _with_looks(model, processor, samples, n, how, batch_size, seed, looks):
    "Answers of several turns, in the written form of `readers/turns`"
    eye, options = eye_of(model, processor), _options(processor, **how)

    def say(batch, several):
        "So many texts for each row, one after the other"
        rows = _said(model, batch, options | dict(num_return_sequences=several))
        return processor.tokenizer.batch_decode(rows, skip_special_tokens=True)

    answers = []
    with _asked(model, seed):
        for begin in range(0, len(samples), batch_size):
            answers += converse(say, processor, samples[begin:begin + batch_size], n, looks, eye)
    return answers


def predict(
    model,  # of any family
    processor,  # of the model
    samples: list,  # held-out `Sample`s
    settings,  # `GRPOSettings`, checked: length, batch, answers a sample, temperature
) -> dict:  # greedy and sampled: a list of texts per sample
    "Greedy and sampled answers to the held-out pictures"
    sizes = dict(max_new_tokens=settings.max_completion_length, batch_size=settings.eval_batch_size,
                 looks=settings.max_looks)
    greedy = generate_answers(model, processor, samples, **sizes)
    sampled = generate_answers(
        model, processor, samples, n=settings.eval_answers, temperature=settings.temperature, **sizes)
    return {"greedy": greedy, "sampled": sampled}


# One model with and without its training

def speakers(
    base: str | Path | None,  # hub id, directory or `tiny-` and a family; None: adapter is a whole model
    adapter: str | Path | None,  # directory of a LoRA adapter or of a whole trained model; None: only `base`
    names: tuple = ("before", "after"),  # what the two are called
    **loading,  # for `models.load_vlm`: use_4bit, max_image_size, …
) -> tuple:  # list of (name, model, context to enter before it speaks), processor
    "The model before and after its training; an adapter needs no second copy of its base"
    if adapter is None or not Path(adapter, "adapter_config.json").exists():
        loaded = {}
        for name, folder in zip(names, (base, adapter)):
            if folder:
                loaded[name] = load_vlm(str(folder), **loading)
        # A whole trained model has the processor of its base: either is right.
        processor = next(iter(loaded.values()))[1]
        return [(name, model, nullcontext) for name, (model, _) in loaded.items()], processor
    model, processor = load_vlm(str(base), adapter=str(adapter), **loading)
    # Within `disable_adapter` the base alone speaks.
    return [(names[0], model, model.disable_adapter), (names[1], model, nullcontext)], processor


def base_of(
    adapter: str | Path,  # directory of a LoRA adapter
) -> str:  # hub id or directory
    "The model that an adapter says it was trained on; SettingsError where the directory holds no adapter"
    described = Path(adapter, "adapter_config.json")
    if not described.exists():
        raise SettingsError(f"model: {Path(adapter).name} is a whole model and does not say what it began as")
    return json.loads(described.read_text(encoding="utf-8"))["base_model_name_or_path"]


# One picture, one question

def ask_model(
    model: str | Path,  # hub id, directory, or `tiny-` and a family; or the folder of a run, with its base
    picture,  # path of a picture, its bytes, or a PIL image; refused as the service's upload refuses
    question: str,  # in the user's words; a VQA run's prompt is put around it
    adapter: str | Path | None = None,  # directory of a LoRA adapter or of a whole trained model
    answers: int = 4,  # sampled answers of each; 0 asks for the best guess alone
    temperature: float = None,  # of sampling; None: as the run was trained
    max_new_tokens: int = None,  # longest answer; None: as the run was trained
    max_image_size: int = None,  # pixels squared; None: as the run was trained
    task: str = None,  # counting, vqa, pointing or zoom; None: as the run was trained
    seed: int = 0,  # of sampling
    use_4bit: bool = False,  # 4-bit weights under the adapter; needs CUDA and bitsandbytes
) -> dict:  # question, task, before and after: each None, or greedy (a text) and sampled (texts)
    "What a model says to one picture, before and after its training; DataError for an unusable picture"
    image = _a_picture(picture)  # before a model is loaded: a bad picture should cost no second
    if not isinstance(question, str) or not question.strip():
        raise SettingsError("question: expected a text")
    if answers < 0:
        raise SettingsError(f"answers = {answers}: expected 0 or more")
    if temperature is not None and not temperature > 0:
        raise SettingsError(f"temperature = {temperature}: expected more than 0")
    # A run's folder as the model: then the run is the adapter, and the base is the one that it names.
    if adapter is None and Path(model, "adapter_config.json").exists():
        model, adapter = base_of(model), model
    trained = _trained_with(adapter or model)
    task = task or trained["task"]
    loaded, processor = speakers(model, adapter, use_4bit=use_4bit,
                                 max_image_size=max_image_size or trained["max_image_size"])
    asked = [Sample(vqa_prompt(question) if task == "vqa" else question.strip(), "", [image], task)]
    system = system_of_run(adapter or model)
    if system:
        asked[0].turns = [("system", system)]
    how = dict(max_new_tokens=max_new_tokens or trained["max_completion_length"])
    how |= dict(looks=looks_of_run(adapter or model, task))
    found = dict(question=question.strip(), task=task, before=None, after=None)
    for name, speaker, entered in loaded:
        with entered():
            greedy = generate_answers(speaker, processor, asked, **how)[0][0]
            sampled = []
            if answers:
                several: dict = dict(n=answers, seed=seed, temperature=temperature or trained["temperature"])
                sampled = generate_answers(speaker, processor, asked, **how, **several)[0]
        found[name] = dict(greedy=greedy.strip(), sampled=[text.strip() for text in sampled])
    return found


def _a_picture(picture):
    "The picture as RGB, looked at as an upload is, whatever it came as"
    if isinstance(picture, Image.Image):
        buffer = io.BytesIO()
        to_rgb(picture).save(buffer, "PNG")
        return open_picture(buffer.getvalue())
    if isinstance(picture, bytes):
        return open_picture(picture)
    path = Path(picture)
    if not path.is_file():
        raise SettingsError(f"picture = {str(picture)!r}: no such file")
    return open_picture(path.read_bytes())


def system_of_run(
    folder: str | Path,  # of a run, or the name of a model
) -> str | None:  # its `system_prompt`
    "What the system said before every question when a model was trained"
    return _settings_of_run(folder).get("system_prompt")


def looks_of_run(
    folder: str | Path,  # of a run, or the name of a model
    task: str,  # what is asked
) -> int:  # 0 for every task but zoom
    "How many looks an answer may take: as the model was trained, or as the preset has it"
    if task != "zoom":
        return 0
    trained = _settings_of_run(folder).get("max_looks")
    return by_task["zoom"]["tiny"]["max_looks"] if trained is None else trained


def _settings_of_run(folder):
    "The settings of the run that made a folder; none where none are kept"
    kept = Path(folder, "training_args.json")
    return json.loads(kept.read_text(encoding="utf-8"))["settings"] if kept.exists() else {}


def _trained_with(folder):
    "The settings of the run that made a folder, as far as asking needs them; the presets where none is kept"
    settings = _settings_of_run(folder)
    task = settings.get("task") or "counting"
    size = settings.get("size") or ("tiny" if str(folder).startswith("tiny-") else "gpu")
    defaults = presets[size] | by_task[task][size]
    # what an answer depends on beside the weights
    names = ("temperature", "max_completion_length", "max_image_size")
    return {name: settings.get(name) or defaults[name] for name in names} | dict(task=task)

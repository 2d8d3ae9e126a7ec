"""Ask a model about pictures: the same way before, during and after a training.

Chapter 05 does so before and after its run, chapter 06 with any model, and `ask_model` with one picture and
one question of anybody's. `marking` decides which answers are right; its names can be imported from here,
too. Written by hand."""
import io
import json
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from .archive import open_picture, to_rgb
from .core import Sample, progress_bar, thumbnail_url
from .data import encode, vqa_prompt
from .geometry import box_fault, rescaled, scale_of_family, unit_of
# All of them, so that old imports from here and the reward setting `vlrlbook.answers:verbatim` keep working.
from .marking import answer_marks, counting_marks, gain, is_closed, marks, summary
from .marking import verbatim, vqa_marks, word_scores
from .model_files import without_own_sampling
from .models import base_fault, load_vlm, vision_marker_ids
from .pointing import drawn_side, shown_size, with_boxes_drawn
from .readers.boxes import box_truth, read_box_truth, read_boxes
from .readers.counts import read_count
from .readers.tokens import final_answer
from .readers.turns import last_turn, on_one_line
from .settings import SettingsError, by_task, presets, settings_of_run
from .zoom import with_looks_drawn
from .zoom_turns import converse, eye_of

__all__ = ["generate_answers", "generate_ids", "sampled_by", "predict", "speakers", "base_of", "ask_model",
           "read_in_task", "system_of_run", "looks_of_run", "answer_marks", "verbatim", "counting_marks",
           "is_closed", "word_scores", "vqa_marks", "marks", "summary", "gain"]


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
    top_p: float = 1.0,  # sample among the likeliest tokens up to this share of probability; 1.0: all
    top_k: int = 0,  # sample among so many of the likeliest tokens; 0: all
    min_p: float = None,  # … of at least this share of the likeliest one's probability; None: all
) -> list:  # n texts for each sample
    "Generate answers as text; afterwards the model's mode and the global random state are as before"
    cuts: dict = dict(top_p=top_p, top_k=top_k, min_p=min_p)  # which rare tokens are never sampled
    if looks:  # an answer may have several turns: the model's, and the tool's between them
        options = _options(processor, temperature, max_new_tokens, **cuts)  # for `model.generate`
        return _with_looks(model, processor, samples, n, options, batch_size, seed, looks)
    answers = []
    generated = generate_ids(
        model, processor, samples, n, temperature, max_new_tokens, batch_size, seed, **cuts)
    for _, answer_ids in generated:  # for each sample: (length of its prompt, ids of its n answers)
        answers.append(processor.tokenizer.batch_decode(answer_ids, skip_special_tokens=True))
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
    top_p: float = 1.0,  # as in `generate_answers`, and so are the next two
    top_k: int = 0,  # 0: all tokens
    min_p: float = None,  # None: all tokens
) -> list:  # for each sample: (number of tokens of its prompt, n lists of token ids, padded at the end)
    """Generate answers as token ids, together with the length of each prompt.

    `generate_answers` decodes them; the ids are needed to count tokens or to see whether an answer ended."""
    cuts: dict = dict(top_p=top_p, top_k=top_k, min_p=min_p)
    options = dict(num_return_sequences=n) | _options(processor, temperature, max_new_tokens, **cuts)
    answers = []
    with _generating(model, seed):  # the model in eval mode, random numbers from `seed`; restored at the end
        for batch_samples in _batches(samples, batch_size, _bar_title(n, bool(temperature))):
            batch = encode(processor, batch_samples)
            rows = _answer_ids(model, batch, options)
            answers += _by_sample(batch, rows, n)
    return answers


def _by_sample(
    batch,  # the encoded prompts: `attention_mask` [samples, tokens] is 0 at padding
    rows,  # token ids of all answers, n of the first sample, then n of the second, and so on
    n,  # answers to each sample
):
    "For each sample a pair: number of tokens of its prompt without padding, and the token ids of its answers"
    prompt_lengths = batch["attention_mask"].sum(1).tolist()
    return [(prompt_length, rows[n * place:n * place + n])
            for place, prompt_length in enumerate(prompt_lengths)]


def _batches(samples, batch_size, title):
    "Yield the samples in lists of `batch_size`; with several lists, a progress bar shows how many are done"
    begins = range(0, len(samples), batch_size)
    for begin in progress_bar(begins, desc=title, leave=False, disable=len(begins) < 2):
        yield samples[begin:begin + batch_size]


def _bar_title(n, is_sampled):
    "The words before a progress bar: `4 answers each` of sampled ones, or `greedy` for the best guess"
    return f"{n} answers each" if is_sampled else "greedy"


@contextmanager
def _generating(model, seed):
    "Within the block the model is in eval mode and torch's random state begins at `seed`; both are restored"
    was_training = model.training
    model.eval()  # no dropout in answers
    try:
        with torch.random.fork_rng():  # restores the random state of CPU and GPUs at its end
            torch.manual_seed(seed)
            yield
    finally:
        model.train(was_training)


def _answer_ids(
    model,
    batch,  # encoded prompts, padded on the left: input_ids [rows, tokens] and what else the model takes
    options,  # keyword arguments of `model.generate`; num_return_sequences, if there, is n
):
    "Token ids of the answers to a batch, without the prompts; the n answers of a row are next to each other"
    batch = batch.to(model.device)
    prompt_length = batch["input_ids"].shape[1]  # the same for all rows, which are padded on the left
    generated_ids = model.generate(**batch, **options)  # [rows · n, prompt and answer]
    return generated_ids[:, prompt_length:].tolist()


def _options(processor, temperature, max_new_tokens, top_p=1.0, top_k=0, min_p=None):
    """Keyword arguments for transformers' `generate`, the same for all answers in vlrlbook

    Temperature 0: the best guess (greedy); any other: answers are sampled, from all tokens or from the
    likelier ones that `top_p`, `top_k` and `min_p` leave."""
    # repetition_penalty 1.0 is none: a model's own generation config may set one
    options = dict(max_new_tokens=max_new_tokens, repetition_penalty=1.0, do_sample=bool(temperature))
    # Tokens that mark a picture are never sampled: the model would look for a picture that is not there.
    options["suppress_tokens"] = vision_marker_ids(processor)
    if temperature:
        # A model's own generation config may switch top-k or top-p on, which cut off rare tokens: said here.
        options |= dict(temperature=temperature, top_k=top_k, top_p=top_p)
        if min_p is not None:
            options["min_p"] = min_p
    return options


@torch.no_grad()
def _with_looks(
    model,
    processor,  # of the model
    samples,  # list of `Sample`
    n,  # answers to each
    options,  # keyword arguments of `model.generate`: max_new_tokens, do_sample, temperature, …
    batch_size,  # samples at a time
    seed,  # of the sampling
    looks,  # calls of the tool `zoom` in one answer, at most
):  # n texts for each sample
    "Sample answers of a model that may call the tool `zoom`; all turns of an answer become one text"
    eye = eye_of(model, processor)  # says in which size and scale the model sees pictures
    next_turns = partial(_next_turns, model, processor, options)
    answers = []
    with _generating(model, seed):  # the model in eval mode, random numbers from `seed`; restored at the end
        for batch_samples in _batches(samples, batch_size, _bar_title(n, options["do_sample"])):
            # `converse` calls `next_turns` for each turn, and puts the enlarged pictures in between.
            most_tokens = options["max_new_tokens"]  # of an answer with all its turns
            answers += converse(next_turns, processor, batch_samples, n, looks, eye, most_tokens)
    return answers


def _next_turns(
    model,
    processor,  # of the model
    options,  # keyword arguments of `model.generate`, such as temperature
    batch,  # encoded conversations, a row for each
    answers_each,  # turns to sample for each row
    limits,  # for each row the most tokens of such a turn
):
    "Sample the next turn of each conversation: a list of texts, those of one row next to each other"
    own_options = dict(num_return_sequences=answers_each, max_new_tokens=max(limits))
    rows = _answer_ids(model, batch, options | own_options)
    # All rows are sampled up to the largest limit, as TRL does it in training, and cut afterwards.
    cut_rows = [row[:limits[place // answers_each]] for place, row in enumerate(rows)]
    return processor.tokenizer.batch_decode(cut_rows, skip_special_tokens=True)


# The settings of a run by which TRL samples its answers; whoever asks as a run is trained passes all of them.
sampled_by = ("temperature", "top_p", "top_k", "min_p")


def predict(
    model,  # of any family
    processor,  # of the model
    samples: list,  # held-out `Sample`s
    settings,  # `GRPOSettings`, checked: length, batch, answers a sample, temperature, top_p, top_k, min_p
) -> dict:  # greedy and sampled: a list of texts per sample
    "Answer the held-out questions as a run is measured: once greedily, and several times as it samples"
    limits = dict(max_new_tokens=settings.max_completion_length, batch_size=settings.eval_batch_size,
                  looks=settings.max_looks)
    greedy = generate_answers(model, processor, samples, **limits)
    as_trained = {name: getattr(settings, name) for name in sampled_by}
    sampled = generate_answers(model, processor, samples, n=settings.eval_answers, **as_trained, **limits)
    return {"greedy": greedy, "sampled": sampled}


# One model with and without its training

def speakers(
    base: str | Path | None,  # hub id, directory or `tiny-` and a family; None only with a whole model
    adapter: str | Path | None,  # directory of a LoRA adapter or of a whole trained model; None: only `base`
    names: tuple = ("before", "after"),  # what the two are called; one name is enough for `base` alone
    **loading,  # for `models.load_vlm`: use_4bit, max_image_size, …
) -> tuple:  # list of (name, model, context), and processor; the model answers within `with context():`
    """Load a model before and after its training.

    With an adapter there is one model in memory: the context for `before` switches the adapter off."""
    if adapter is None or not _is_adapter(adapter):
        return _whole_models(names, (base, adapter), loading)
    model, processor = load_vlm(str(base), adapter=str(adapter), **loading)
    without_own_sampling(model, str(base))  # such as min_p: answers are sampled as the settings say
    before, after = names
    return [(before, model, model.disable_adapter), (after, model, nullcontext)], processor


def _is_adapter(folder):
    "Whether a folder holds a LoRA adapter, as PEFT writes it; False for the hub id of a model, too"
    return Path(folder, "adapter_config.json").exists()


def _whole_models(
    names,  # such as ("before", "after")
    folders,  # of the models, or hub ids; one that is None is left out with its name
    loading,  # further arguments of `load_vlm`, such as max_image_size
):
    """Load whole models one by one: a list of (name, model, context), and the processor of all of them

    A model answers within `with context():`, which here does nothing: no adapter is to be switched off."""
    loaded = {}  # name → (model, processor)
    for name, folder in zip(names, folders):
        if folder:
            model, processor = load_vlm(str(folder), **loading)
            # Without the model's own settings of sampling, such as min_p: those of the caller count.
            loaded[name] = (without_own_sampling(model, str(folder)), processor)
    # One model at least is loaded. Training leaves the processor as it is, so the first one serves both.
    _, processor = next(iter(loaded.values()))
    return [(name, model, nullcontext) for name, (model, _) in loaded.items()], processor


def base_of(
    adapter: str | Path,  # directory of a LoRA adapter
) -> str:  # hub id or directory
    "The model that an adapter says it was trained on; SettingsError where the directory holds no adapter"
    config_path = Path(adapter, "adapter_config.json")  # written by PEFT
    if not config_path.exists():
        raise SettingsError(f"model: {Path(adapter).name} is a whole model and does not say what it began as")
    base = json.loads(config_path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    fault = base_fault(base)
    if fault:
        name_it = "name that model, and this directory as the adapter"
        raise SettingsError(f"model: {Path(adapter).name} {fault}; {name_it}")
    return base


# One picture, one question

def ask_model(
    model: str | Path,  # hub id, directory, or `tiny-` and a family; or the folder of a run, with its base
    picture,  # path of a picture, its bytes, or a PIL image; refused as the service's upload refuses
    question: str,  # in the user's words; a VQA run's prompt is put around it
    adapter: str | Path | None = None,  # directory of a LoRA adapter or of a whole trained model
    answers: int = 4,  # sampled answers of each model; 0 asks for the best guess alone
    temperature: float = None,  # of sampling; None: as the run was trained
    max_new_tokens: int = None,  # longest answer; None: as the run was trained
    max_image_size: int = None,  # N: at most N × N pixels in all; None: as the run was trained
    task: str = None,  # counting, vqa, pointing or zoom; None: as the run was trained
    seed: int = 0,  # of sampling
    use_4bit: bool = False,  # 4-bit weights under the adapter; needs CUDA and bitsandbytes
) -> dict:  # question, task, before and after
    """Ask a model one question about a picture, before and after its training; DataError for a bad picture.

    `before` and `after` are None where there is no such model, else a dict: `greedy`, the best guess;
    `sampled`, a list of texts; `read`, the best guess as `read_in_task` reads it; `picture`, a data URL with
    the boxes of the best guess, or with what it looked at (None for other tasks)."""
    image = _as_upload(picture)  # first, so that a bad picture is refused before a model is loaded
    _refuse_bad_request(question, answers, temperature)
    if adapter is None and _is_adapter(model):  # the folder of a run was given as the model
        model, adapter = base_of(model), model
    folder = adapter or model
    trained = _trained_with(folder)  # task, temperature, lengths
    task = task or trained["task"]
    # `loaded`: a list of (name, model, context), name: "before" or "after"
    loaded, processor = speakers(model, adapter, use_4bit=use_4bit,
                                 max_image_size=max_image_size or trained["max_image_size"])
    sample = _sample_to_ask(question, image, task, system_of_run(folder))
    options = dict(max_new_tokens=max_new_tokens or trained["max_completion_length"],
                   looks=looks_of_run(folder, task))  # calls of the tool `zoom`; 0 for other tasks
    as_trained = {name: trained[name] for name in sampled_by}  # temperature, top_p, top_k, min_p
    sampling = as_trained | dict(n=answers, seed=seed, temperature=temperature or trained["temperature"])

    result = dict(question=question.strip(), task=task, before=None, after=None)
    for name, loaded_model, context in loaded:
        with context():  # for "before" it switches the adapter off
            result[name] = _answers_of(loaded_model, processor, sample, options, sampling)
    return result


def _refuse_bad_request(
    question,  # must be a text that is not empty
    answers,  # number of sampled answers, 0 or more
    temperature,  # of sampling, above 0; None: as the model was trained
):
    "Raise SettingsError for the first argument with which no model can be asked"
    if not isinstance(question, str) or not question.strip():
        raise SettingsError("question: expected a text")
    if answers < 0:
        raise SettingsError(f"answers = {answers}: expected 0 or more")
    if temperature is not None and not temperature > 0:
        raise SettingsError(f"temperature = {temperature}: expected more than 0")


def _sample_to_ask(
    question,  # in the user's words
    image,  # PIL image
    task,  # counting, vqa, pointing or zoom
    system_prompt,  # of the model's training; None: there was none
):
    "A question in the form in which a training asked its own, as a `Sample`"
    # only VQA trains with a prompt around the question, which asks for the answer in tags
    prompt = vqa_prompt(question) if task == "vqa" else question.strip()
    sample = Sample(prompt, "", [image], task)  # "": the right answer is not known
    if system_prompt:
        sample.turns = [("system", system_prompt)]  # stands before the question
    return sample


def _answers_of(
    model,
    processor,  # of the model
    sample,  # `Sample`: the question with its picture
    options,  # for every answer: max_new_tokens, and looks, the calls of the tool `zoom` that it may hold
    sampling,  # for the sampled answers: n (0: there are none), seed, temperature, top_p, top_k, min_p
):
    """What one model answers, as a dict: greedy, a text, and sampled, a list of texts

    And what `_understood` reads in the greedy answer: `read`, such as "3", and `picture`, a data URL."""
    [[greedy]] = generate_answers(model, processor, [sample], **options)  # one answer to one sample
    sampled = []
    if sampling["n"]:
        [sampled] = generate_answers(model, processor, [sample], **options, **sampling)
    # Answers of task zoom may have several turns, which are joined; any other text stays as it is.
    texts = [on_one_line(text.strip()) for text in (greedy, *sampled)]  # the greedy one first
    understood = _understood(greedy, sample, model, processor)  # read and picture, each may be None
    return dict(greedy=texts[0], sampled=texts[1:]) | understood


def _understood(
    text,  # the answer
    sample,  # `Sample` that was asked about, with one picture
    model,  # that has answered
    processor,  # of the model
):
    """What can be read in an answer, by the sample's task, and a picture of it: a dict of two

    `read`: a count, words or boxes as a text, such as "3"; None where nothing can be read. `picture`: a data
    URL of the picture with the boxes of the answer, or those of its calls of `zoom`; None for other tasks."""
    [image] = sample.images
    if sample.task == "pointing":
        scale = scale_of_family.get(model.config.model_type, "thousandths")  # in which it writes boxes
        width, height = shown_size(processor, image.size)  # of the picture as the model sees it, resized
        # The form of a true answer, here without boxes: it only tells the helpers scale and size.
        no_boxes = f"[] in {scale} of {width} x {height}"
        shown = with_boxes_drawn(replace(sample, answer=no_boxes), [text])
        return dict(read=read_in_task(text, "pointing", no_boxes, image.size), picture=_url_of(shown))
    picture = None
    if sample.task == "zoom":
        eye = eye_of(model, processor)  # in which scale the model writes coordinates, in which size it sees
        picture = _url_of(with_looks_drawn(sample, [text], eye))
    return dict(read=read_in_task(text, sample.task), picture=picture)


def read_in_task(
    text: str,  # an answer
    task: str,  # counting, vqa, pointing or zoom
    seen: str = "",  # needed for pointing: the model's scale and picture size, "[] in pixels of 112 x 112"
    size: tuple = (1, 1),  # needed for pointing: width and height of the picture in pixels
) -> str | None:  # such as "3", "left" or "[12, 40, 31, 59] in pixels of 640 x 480"; None: it cannot be read
    """Read an answer as its task does: a count, the words in the answer's tags, or boxes.

    Boxes are converted from the model's own scale to pixels of the picture that was asked about."""
    if task == "vqa":
        return final_answer(text).strip() or None
    if task != "pointing":
        count = read_count(last_turn(text))  # for zoom: the text behind the tool's last turn
        return None if count is None else str(count)
    boxes = read_boxes(text).boxes
    if not boxes or any(box_fault(box) for box in boxes):
        return None
    return _boxes_in_pixels(boxes, seen, size)


def _boxes_in_pixels(
    boxes,  # tuples (left, top, right, bottom) as the model wrote them
    seen,  # their scale, and the picture's size for the model: "[] in pixels of 112 x 112"
    size,  # width and height of the picture itself, in pixels
):
    "The boxes in pixels of the picture itself, as text: `[12, 40, 31, 59] in pixels of 640 x 480`"
    model_view = read_box_truth(seen)  # has a scale and a size, and no boxes
    # Width and height of the whole picture: first in the model's scale, such as (1000, 1000) in thousandths.
    whole_in_scale = unit_of(model_view.scale, model_view.size)
    whole_in_pixels = unit_of("pixels", size)
    rescaled_boxes = [rescaled(box, whole_in_scale, whole_in_pixels) for box in boxes]
    return box_truth(rescaled_boxes, "pixels", size)


def _url_of(sample):
    "The first picture of a sample as a data URL, of the size in which boxes are drawn"
    return thumbnail_url(sample.images[0], drawn_side)


def _as_upload(picture):
    "Open a picture (path, bytes or PIL image) as RGB, with the same checks as the service's upload"
    if isinstance(picture, Image.Image):  # encoded first, since `open_picture` checks encoded bytes
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
    "The system prompt with which a run trained its model; None where there was none or `folder` is of no run"
    return settings_of_run(folder).get("system_prompt")


def looks_of_run(
    folder: str | Path,  # the folder of a run, or the name of a model
    task: str,  # what is asked
) -> int:  # 0 for every task but zoom
    "How many calls of the tool `zoom` an answer may hold: as in the run of `folder`, else as in the preset"
    if task != "zoom":
        return 0
    max_looks = settings_of_run(folder).get("max_looks")  # None for the name of a model
    if max_looks is None:
        return by_task["zoom"]["tiny"]["max_looks"]  # the preset for a GPU has the same number
    return max_looks


def _trained_with(folder):
    """How a model was trained, as a dict: its task, longest answer, size of pictures, and sampling.

    Keys: task, max_completion_length, max_image_size, and those in `sampled_by`: temperature, top_p, top_k,
    min_p. `folder`: of a run, or the name of a model. What no run's settings say comes from the presets."""
    settings = settings_of_run(folder)  # empty for the name of a model
    task = settings.get("task") or "counting"
    size = settings.get("size") or ("tiny" if str(folder).startswith("tiny-") else "gpu")
    defaults = presets[size] | by_task[task][size]  # setting → value; the task's own counts more
    names = ("temperature", "max_completion_length", "max_image_size")
    trained = {name: settings.get(name) or defaults[name] for name in names}
    # Which tokens are sampled: no preset says it, so without a run it is all of them.
    for name, of_all in (("top_p", 1.0), ("top_k", 0), ("min_p", None)):
        trained[name] = settings.get(name, of_all)
    return trained | dict(task=task)

"""The supervised start of a twin, an untrained tiny copy of a model: it learns to answer in the right form.

A pretrained checkpoint can do so already, and without it no reward could teach anything. Chapter 05 says what
is taught and why. Written by hand, not exported from a notebook."""
import hashlib

import torch

from .core import cache_dir, progress_bar
from .data import drawn_questions, encode, picture_key, synthetic_counting
from .models import load_vlm, save_model, tiny_twin, twin_config, twin_processor
from .pointing import drawn_for
from .readers.boxes import answer_form
from .settings import by_task
from .zoom import Eye, zoom_lessons
from .zoom_turns import encode_turns, teach_calls, turn_labels

__all__ = ["warm_weights", "warm_start", "lessons", "supervised", "len_of_answers"]

warm_weights = (16, 10, 6, 3, 1, 0.5)  # how often the warm start sees 1, 2, … 6 discs
PICTURES_A_STEP = 32  # of the supervised steps
# Of task zoom: the share of the steps, the first ones, that teach where to look and nothing else. With mixed
# lessons alone the twin still looked at any corner (one in four right) after 200 steps.
aiming_share = 0.45
UNSEEN = -100  # a label that transformers leaves out of the loss


def warm_start(
    family: str = "qwen2_5_vl",  # of the model that the twin is a tiny copy of
    steps: int = 280,  # supervised steps of 32 pictures
    seed: int = 0,  # of weights and pictures
    task: str = "counting",  # counting, vqa, pointing or zoom
    looks: int = 0,  # 0: no lesson calls the zoom tool; any other number: some call it, once each
) -> str:  # directory of a checkpoint
    """A twin (tiny model with random weights) after a supervised start; made once, then found in the cache.

    It has learned the form of an answer and to see a little, so that some of its answers earn a reward."""
    path = _folder(family, steps, seed, task, looks)  # its name is a hash of all that decides the weights
    if path.exists():
        print("warm start: from the cache")
        return str(path)

    model, losses = supervised(family, steps, seed, task, looks)
    last = losses[-10:]
    if last:  # none without a step; the loss of the first one, and the mean of the last ten
        print(f"warm start: {steps} supervised steps, loss {losses[0]:.2f} → {sum(last) / len(last):.2f}")
    _save_twin(model, family, path)
    return str(path)


def _save_twin(model, family, path):
    "Save a tiny model and its processor in the folder `path`, unless another process has done so meanwhile"
    try:
        # Raises FileExistsError, an OSError, if `path` is there. It appears complete, by a rename.
        save_model(model, twin_processor(family), path)
    except OSError:
        if not path.exists():  # then it is another error, such as a full disk
            raise


def _folder(
    family,  # of the model that is copied, such as qwen2_5_vl
    steps,  # supervised steps
    seed,  # of weights and pictures
    task,  # counting, vqa, pointing or zoom
    looks,  # 0: no lesson calls the zoom tool; any other number: some call it
):
    """The folder in the cache for a tiny model after its supervised start; it need not be there.

    The folder's name is a hash of all that the weights depend on: a change of the code that draws lessons or
    of the model's shape gives another folder, and so a new training."""
    processor = twin_processor(family)
    # Questions, answers and hashes of pictures of eight lessons, which stand for all lessons, and so for the
    # task. `supervised` draws with seed + 1, too.
    lesson_keys = _lesson_keys(task, seed + 1, family, looks)
    config = twin_config(family, processor.tokenizer).to_json_string()  # the model's shape
    recipe = [steps, seed, lesson_keys, config, processor.tokenizer.backend_tokenizer.to_str()]
    if task == "zoom":
        picture_size = dict(_zoom_eye(family).processor.image_processor.size)  # in which pictures are shown
        # Training begins with the weights that task counting's warm start has left. Their folder's name is a
        # hash in the same way.
        counting_twin = _folder(family, _counting_steps(), seed, "counting", looks=0)
        # aiming_share: of the steps that teach only where to zoom
        # bool(looks): whether any lesson calls the tool, which the eight lessons need not show
        recipe += [picture_size, counting_twin.name, aiming_share, bool(looks)]
    key = hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]
    return cache_dir() / f"warm-{family}-{key}"


def _lesson_keys(task, seed, family, looks):
    """A list of (question, answer, keys of the pictures) of eight lessons, which stand for all lessons.

    It changes if the drawing of lessons does. The arguments are those of `lessons`; a picture's key is a hash
    of its pixels."""
    lesson_keys = []
    for sample, answer in zip(*lessons(task, 8, seed, family, looks)):
        lesson_keys.append((sample.question, answer, *map(picture_key, sample.images)))
    return lesson_keys


def lessons(
    task: str,  # counting, vqa, pointing or zoom
    n: int,  # samples
    seed: int,  # of the pictures
    family: str = "qwen2_5_vl",  # of the model that learns; it sets the scale of boxes
    looks: int = 0,  # 0: no answer calls the zoom tool; any other number: half of them call it, once
) -> tuple:  # list of `Sample`, and a good model's answer to each
    "Questions about drawn pictures, and the answers to them that the warm start teaches"
    if task == "counting":
        samples = synthetic_counting(n, seed=seed, weights=warm_weights)  # how often each count is drawn
        return samples, [s.answer for s in samples]
    if task == "pointing":
        return _pointing_lessons(n, seed, family)
    if task == "zoom":
        return zoom_lessons(n, seed, _zoom_eye(family), looks)
    # Task vqa: only the form is taught, a thought and then the answer, so any thought will do.
    samples = drawn_questions(n, seed)
    return samples, [f"<think>discs</think><answer>{s.answer}</answer>" for s in samples]


def _pointing_lessons(n, seed, family):
    """Lessons of task pointing: `n` drawn samples, and to each the right answer, a box as text.

    Its numbers are as the family, such as qwen2_5_vl, writes them: pixels, thousandths or fractions."""
    side = by_task["pointing"]["tiny"]["max_image_size"]  # of the pictures, as in the run
    draw = drawn_for(f"tiny-{family}", side)  # (n, seed) → samples, with truths in the family's numbers
    samples = draw(n, seed)
    return samples, [answer_form(s.answer) for s in samples]  # the boxes of a truth, without scale and size


def _zoom_eye(family):
    """How a tiny model of a family, such as qwen2_5_vl, sees pictures in task `zoom`: an `Eye`.

    It holds a processor that shows pictures in the size of the run's preset, and the scale in which the
    family writes coordinates."""
    return Eye.of(f"tiny-{family}", by_task["zoom"]["tiny"]["max_image_size"])


def supervised(
    family: str,  # of the model that the twin is a tiny copy of
    steps: int,  # of 32 pictures each
    seed: int,  # of weights and pictures
    task: str = "counting",  # counting, vqa, pointing or zoom
    looks: int = 0,  # 0: no lesson calls the zoom tool; any other number: some call it, once each
    **config,  # shape, for `models.twin_config`; unused in task zoom, which goes on with a finished twin
):  # model, loss per step
    "Teach a twin (tiny model with random weights) to answer, by supervised steps on `lessons`"
    is_zoom = task == "zoom"
    # The model that learns to zoom can count discs already, so it gets a smaller learning rate.
    model, processor = _counting_twin(family, seed) if is_zoom else tiny_twin(family, seed, **config)
    model.train()
    lr = 7e-4 if is_zoom else 1e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = _rise_and_fall(optimizer, steps)
    # (processor, samples, answers) → batch, labels; in task zoom an answer has several turns
    encode_lessons = _several_turns(family) if is_zoom else _one_turn
    # seed + 1: `_folder` draws a few lessons with the same seed for the name of the folder in the cache,
    # which so changes with the lessons
    lessons_by_step = _lessons_by_step(task, steps, seed + 1, family, looks)
    losses = []
    for _ in progress_bar(range(steps), desc="warm start"):
        samples, answers = next(lessons_by_step)
        batch, labels = encode_lessons(processor, samples, answers)
        losses.append(_step(model, optimizer, batch, labels))
        schedule.step()
    return model.eval(), losses


def _rise_and_fall(optimizer, steps):
    "A schedule of the learning rate: it rises over 30 steps and falls to 0 over the second half of `steps`"
    def lr_factor(step):  # step: from 0 on → what the learning rate is multiplied by
        rising, falling = (step + 1) / 30, (steps - step) / (steps / 2)
        return min(1, rising) * min(1, falling)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor)


def _step(model, optimizer, batch, labels):
    "Take one optimizer step on a batch (model inputs; labels [rows, tokens]), and return its loss, a number"
    loss = model(**batch, labels=labels).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def _counting_twin(family, seed):
    """(model, processor) with which task zoom begins: a tiny model that counts discs already.

    Tried with random weights instead, it still guessed the count after 700 steps of zoom's lessons: most
    tokens of a lesson are coordinates, so the count is a small part of the loss."""
    # the directory of a model after task counting's supervised start, which is made if the cache has none
    start = warm_start(family, _counting_steps(), seed)
    return load_vlm(start, trainable=True, max_image_size=by_task["zoom"]["tiny"]["max_image_size"])


def _counting_steps():
    "Supervised steps of task counting's warm start"
    return by_task["counting"]["tiny"]["warm_steps"]


def _lessons_by_step(
    task,  # counting, vqa, pointing or zoom
    steps,  # supervised steps
    seed,  # of the pictures
    family,  # of the model that learns, such as qwen2_5_vl
    looks,  # 0: no lesson calls the zoom tool; any other number: some call it, once each
):
    "Yields the lessons of each step: (as many samples as `PICTURES_A_STEP`, the answer to each)"
    if task == "zoom":
        yield from _zoom_lessons_by_step(steps, seed, family, looks)
        return
    samples, answers = lessons(task, PICTURES_A_STEP * steps, seed, family)
    for begin in range(0, PICTURES_A_STEP * steps, PICTURES_A_STEP):
        of_step = slice(begin, begin + PICTURES_A_STEP)
        yield samples[of_step], answers[of_step]


def _zoom_lessons_by_step(
    steps,  # supervised steps
    seed,  # of the pictures
    family,  # of the model that learns, such as qwen2_5_vl
    looks,  # 0: no lesson calls the zoom tool; any other number: some call it, once each
):
    "Yields the lessons of each step of task zoom: (samples, the answer to each), 32 of them"
    # Each step draws its own pictures: they are large, and those of all steps would fill the memory.
    for step in range(steps):
        # With mixed lessons from the start the model did not learn where to look.
        is_first_part = step < aiming_share * steps  # the first 45 percent of the steps
        only_where_to_zoom = looks > 0 and is_first_part
        eye = _zoom_eye(family)  # the size in which the model sees pictures, and its scale of coordinates
        yield zoom_lessons(PICTURES_A_STEP, seed + step, eye, looks, only_where_to_zoom)


def _one_turn(processor, samples, answers):
    "A batch of questions with their answers, and its labels: every token of an answer, nothing before it"
    batch = encode(processor, samples, answers)
    # Rows are padded on the left, so an answer is the end of its row.
    labels = batch["input_ids"].clone()
    for row, length in enumerate(len_of_answers(processor, answers)):  # tokens, the ending one included
        labels[row, :-length] = UNSEEN  # left out of the loss
    return batch, labels


def _several_turns(family):
    """A function (processor, samples, answers) → batch, labels for task `zoom`.

    Its answers have several turns: the model calls a tool, gets a picture back, and then answers. Labels are
    the model's own turns."""
    eye = _zoom_eye(family)  # also cuts out the parts of pictures that calls ask for
    zoom_processor = eye.processor  # shows pictures in the size of the run
    teach_calls(zoom_processor)  # adds a form for calls of the tool to its chat template
    def encode_lessons(_processor, samples, answers):  # not used: its chat template cannot write calls
        batch = encode_turns(zoom_processor, samples, answers, eye)
        return batch, turn_labels(batch["input_ids"], zoom_processor)
    return encode_lessons


def len_of_answers(
    processor,  # of the model
    texts: list,  # answers
) -> list:  # tokens of each, that which ends it included
    "Lengths of answers in tokens"
    return [len(ids) + 1 for ids in processor.tokenizer(texts)["input_ids"]]

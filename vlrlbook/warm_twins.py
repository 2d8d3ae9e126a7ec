"""The supervised start of a twin: what a pretrained checkpoint brings along, a twin has to be taught.

Chapter 05 says what is taught and why. Written by hand, not exported from a notebook."""
import hashlib

import torch

from .core import cache_dir, progress_bar
from .data import drawn_questions, encode, picture_key, synthetic_counting
from .models import load_vlm, save_model, tiny_twin, twin_config
from .pointing import drawn_for
from .readers.boxes import answer_form
from .settings import by_task
from .zoom import Eye, zoom_lessons
from .zoom_turns import encode_turns, teach_calls, turn_labels

__all__ = ["warm_weights", "warm_start", "lessons", "supervised", "len_of_answers"]

warm_weights = (16, 10, 6, 3, 1, 0.5)  # how often the warm start sees 1, 2, … 6 discs
PICTURES_A_STEP = 32
UNSEEN = -100  # a label that transformers leaves out of the loss


def warm_start(
    family: str = "qwen2_5_vl",  # whose twin
    steps: int = 280,  # supervised steps of 32 pictures
    seed: int = 0,  # of weights and pictures
    task: str = "counting",  # counting, vqa, pointing or zoom
    looks: int = 0,  # of task zoom: whether lessons call the tool
) -> str:  # directory of a checkpoint
    "A twin that was taught the form of an answer and a little seeing; made once, then found in the cache"
    processor = tiny_twin(family)[1]
    some = zip(*lessons(task, 8, seed + 1, family, looks))
    shown = [(s.question, said, *map(picture_key, s.images)) for s, said in some]
    # Whatever changes the result changes the folder's name: lessons, configuration, tokenizer.
    config = twin_config(family, processor.tokenizer).to_json_string()
    recipe = [steps, seed, shown, config, processor.tokenizer.backend_tokenizer.to_str()]
    if task == "zoom":
        # the size in which pictures are shown; in the other tasks they are drawn in that size
        recipe.append(dict(_zoom_eye(family).processor.image_processor.size))
        recipe.append("from the counting twin")
    key = hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]
    path = cache_dir() / f"warm-{family}-{key}"
    if path.exists():
        print("warm start: from the cache")
        return str(path)
    model, losses = supervised(family, steps, seed, task, looks)
    print(f"warm start: {steps} supervised steps, loss {losses[0]:.2f} → {sum(losses[-10:]) / 10:.2f}")
    try:
        save_model(model, processor, path)
    except OSError:
        # another process may have made it meanwhile, and it is as good
        if not path.exists():
            raise
    return str(path)


def lessons(
    task: str,  # counting, vqa, pointing or zoom
    n: int,  # samples
    seed: int,  # of the pictures
    family: str = "qwen2_5_vl",  # whose twin, for the scale in which it writes boxes
    looks: int = 0,  # of task zoom: whether some answers call the tool
) -> tuple:  # samples, what a good model would say to each
    "What the warm start of a task is taught"
    if task == "counting":
        samples = synthetic_counting(n, seed=seed, weights=warm_weights)
        return samples, [s.answer for s in samples]
    if task == "pointing":
        # as small as the run will show them
        side = by_task["pointing"]["tiny"]["max_image_size"]
        samples = drawn_for(f"tiny-{family}", side)(n, seed)
        return samples, [answer_form(s.answer) for s in samples]
    if task == "zoom":
        return zoom_lessons(n, seed, _zoom_eye(family), looks)
    samples = drawn_questions(n, seed)
    return samples, [f"<think>discs</think><answer>{s.answer}</answer>" for s in samples]


def _zoom_eye(family):
    "How the twin of a run sees pictures"
    return Eye.of(f"tiny-{family}", by_task["zoom"]["tiny"]["max_image_size"])


def supervised(
    family: str,  # whose twin
    steps: int,  # of 32 pictures each
    seed: int,  # of weights and pictures
    task: str = "counting",  # counting, vqa, pointing or zoom
    looks: int = 0,  # see `lessons`
    **config,  # see `models.twin_config`
):  # model, loss per step
    "Teach an untrained twin to answer: AdamW, 30 steps of warm-up, linear decay over the second half"
    if task == "zoom":
        model, processor = _counting_twin(family, seed)
        lr = 5e-4  # half of the others': it has much to keep
    else:
        model, processor = tiny_twin(family, seed, **config)
        lr = 1e-3
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    def share_of_lr(step):
        rising, falling = (step + 1) / 30, (steps - step) / (steps / 2)
        return min(1, rising) * min(1, falling)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_lr)
    as_batch = _turns(family) if task == "zoom" else _one_turn
    given = _of_each_step(task, steps, seed + 1, family, looks)
    losses = []
    for _ in progress_bar(range(steps), desc="warm start"):
        batch, labels = as_batch(processor, *next(given))
        loss = model(**batch, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return model.eval(), losses


def _counting_twin(family, seed):
    """The twin that task zoom begins with: one that counts discs already, from the warm start of task counting.

    From random weights 700 steps of zoom's lessons left the count a guess, with a look and without one: most
    tokens of a lesson are coordinates, so the count is a small part of the loss."""
    counting = by_task["counting"]["tiny"]
    start = warm_start(family, counting["warm_steps"], seed)
    return load_vlm(start, trainable=True, max_image_size=by_task["zoom"]["tiny"]["max_image_size"])


def _of_each_step(task, steps, seed, family, looks):
    "Samples and what is said to them, for one step after the other"
    if task == "zoom":
        # drawn step by step: of pictures of this size thousands would fill the memory
        for step in range(steps):
            yield lessons(task, PICTURES_A_STEP, seed + step, family, looks)
        return
    samples, said = lessons(task, PICTURES_A_STEP * steps, seed, family)
    for begin in range(0, PICTURES_A_STEP * steps, PICTURES_A_STEP):
        chosen = slice(begin, begin + PICTURES_A_STEP)
        yield samples[chosen], said[chosen]


def _one_turn(processor, samples, said):
    "A batch of answers, and its targets: every token of an answer, nothing before it"
    batch = encode(processor, samples, said)
    # Rows are padded on the left, so that all answers end together.
    labels = batch["input_ids"].clone()
    for row, length in enumerate(len_of_answers(processor, said)):
        labels[row, :-length] = UNSEEN
    return batch, labels


def _turns(family):
    "The same for answers of several turns: (processor, samples, said) → batch, targets"
    eye = _zoom_eye(family)
    # The run's own processor, not the twin's: pictures must be taught in the size in which they will be shown.
    processor = eye.processor
    teach_calls(processor)
    def as_batch(_, samples, said):
        batch = encode_turns(processor, samples, said, eye)
        return batch, turn_labels(batch["input_ids"], processor)
    return as_batch


def len_of_answers(
    processor,  # of the model
    texts: list,  # what was said
) -> list:  # tokens of each, the end of turn included
    "Lengths in tokens"
    return [len(ids) + 1 for ids in processor.tokenizer(texts)["input_ids"]]

"""A twin that is taught to judge, since an untrained one says nothing that has a grade: is what somebody says about the colour of
a cup right? It has to look, and to read. It is taught to answer such questions, too, with any colour: so a policy that can be
paid. Half a minute on one core."""
import random

import torch
from PIL import Image
from vlrlbook.core import Sample
from vlrlbook.data import encode
from vlrlbook.judge import fill_template
from vlrlbook.models import save_model, tiny_twin
from vlrlbook.warm_twins import UNSEEN, len_of_answers

COLOURS = dict(red=(220, 30, 30), green=(30, 160, 30), blue=(30, 60, 220))
QUESTION, TEMPLATE = "What colour is the cup?", "Somebody answered: {completion}\nIs the answer right?"


def claim(colour): return f"The cup is {colour}"


def cup(colour, size=(56, 56), rng=None):
    "A picture of one colour, a little beside the colour's own where there is a `rng`"
    picture = Image.new("RGB", size, tuple(value + (rng.randint(-25, 25) if rng else 0) for value in COLOURS[colour]))
    return Sample(QUESTION, claim(colour), [picture])


def looked_at():
    "Cups in three colours and three sizes, a question with two pictures, one with none"
    cups = [cup(colour, size) for colour in COLOURS for size in ((56, 56), (84, 57), (300, 200))]
    two = cup("red").images + cup("blue", (84, 56)).images
    return [*cups, Sample("<image> or <image>?", "red", two), Sample("Which?", "red", [])]


def said(judge, texts, samples):
    "All that a judge replies to each text about each sample, before its grade is read"
    return list(judge.speaker.replies([judge._request(text, sample) for sample in samples for text in texts]))


def own_logprobs(model, processor, text, image, reply):
    "Log-prob of each token of a reply, with the one that ends it, as a model has it that is loaded here"
    from vlrlbook.grpo import completion_logps
    batch = encode(processor, [Sample(text, "", [image])], [reply])
    prompt_length = batch["input_ids"].shape[1] - len_of_answers(processor, [reply])[0]
    with torch.no_grad(): return completion_logps(model, batch, prompt_length)[0].tolist()


def judged(rng, thinks):
    "A question to a judge and its reply, which is right; four of nine are yes"
    colour, said = rng.choices(list(COLOURS), k=2)
    if rng.random() < 1 / 6: said = colour
    shown = cup(colour, (rng.choice((56, 84)), rng.choice((56, 84))), rng)
    shown.question = fill_template(TEMPLATE, completion=claim(said))
    thought = f"<think>The answer is {colour}</think>\n\n" if thinks else ""
    return shown, thought + ("yes" if said == colour else "no")


def answered(rng):
    "A question about a cup, and an answer that names any colour"
    return cup(rng.choice(list(COLOURS)), rng=rng), claim(rng.choice(list(COLOURS)))


def teach(family, folder, thinks=False, steps=60, lr=1e-3):
    """Save a taught twin in `folder`. Where it `thinks`, a thought in tags comes before its grade, and both tags are tokens of their
    own, as in Qwen3's tokenizer: vLLM's parsers look for them"""
    rng = random.Random(0)
    model, processor = tiny_twin(family)
    if thinks:
        processor.tokenizer.add_tokens(["<think>", "</think>"])
        torch.manual_seed(0) # of the two rows that come to the embeddings
        model.resize_token_embeddings(len(processor.tokenizer))
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min(1, (step + 1) / 20, (steps - step) / (steps / 2))
        rows = [judged(rng, thinks) for _ in range(12)] + [answered(rng) for _ in range(4)]
        samples, replies = (list(column) for column in zip(*rows))
        batch = encode(processor, samples, replies)
        labels = batch["input_ids"].clone()
        for row, length in enumerate(len_of_answers(processor, replies)): labels[row, :-length] = UNSEEN
        model(**batch, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    save_model(model.eval(), processor, folder)
    return folder

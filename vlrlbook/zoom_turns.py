"""Conversations with the tool `zoom`: how a model is taught to call, how it is asked, how TRL trains it.

Read in TRL 1.16 (grpo_trainer.py, chat_template_utils.py) and transformers 5.17. What TRL's tool loop cannot
do by itself, and what stands here for it:

- It wants a chat template that writes calls (`supports_tool_calling`). The twin's and those of Qwen2-VL and
  Qwen2.5-VL do not: they get one that does.
- `parse_response` turns a call that cannot be read into plain text, so that the model is told nothing. Here a
  call is handed over as it was said, and read by `readers/turns`: what is wrong becomes a message.
- For Gemma 3 it looks for picture tokens by Qwen's names, so that a second picture would not be seen as one;
  of Aria's pictures it keeps no masks. Both are refused.

Written by hand."""
import re
from functools import partial

import torch

from .core import Sample
from .data import to_messages
from .geometry import scale_of_family
from .models import chat_template
from .readers.turns import looks_of, read_call, refusals, turns_of, written
from .settings import SettingsError
from .training import BeforeGRPOTrainer
from .zoom import CallRefused, Eye, Looker, answer_call

__all__ = ["looking_families", "teach_calls", "eye_of", "eye_for", "encode_turns", "turn_labels", "converse",
           "look_options", "LookTwice", "with_turns", "of_messages"]

looking_families = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5")


# How calls are written

# The twin's own: short, since its tokenizer would spell JSON letter by letter. TRL hands `said` over as it
# is; other names are there for TRL's test whether a template writes calls at all.
_plain_calls = """{% for c in m.tool_calls or [] %}{{ c.function.name }}(\
{% for k, v in c.function.arguments.items() %}\
{% if k != 'said' %}{{ k }}={% endif %}{{ v }}{% if not loop.last %}, {% endif %}\
{% endfor %}){% endfor %}"""
_twin_template = chat_template.replace("<|im_end|>", _plain_calls + "<|im_end|>")

# Qwen2.5's, which was trained on text with tools, for Qwen2-VL and Qwen2.5-VL, whose template knows none.
_tagged_template = """{% macro say(content) %}{% if content is string %}{{ content }}{% else %}\
{% for p in content or [] %}{% if p.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>\
{% elif p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}{% endif %}{% endmacro %}\
{% set first = messages[0] %}<|im_start|>system
{% if first.role == 'system' %}{{ say(first.content) }}{% else %}You are a helpful assistant.{% endif %}\
{% if tools %}

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> \
XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>{% endif %}<|im_end|>
{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user
<tool_response>
{{ say(m.content) }}
</tool_response><|im_end|>
{% elif m.role != 'system' or not loop.first %}<|im_start|>{{ m.role }}
{{ say(m.content) }}{% for c in m.tool_calls or [] %}<tool_call>
{{ c.function.arguments.said or c.function | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# Where a call begins and ends: in the twin's form, and in that of the families' checkpoints.
_marks = {"plain": ("zoom(", r"\)"), "tagged": ("<tool_call>", r"</tool_call>")}


def teach_calls(
    processor,  # of a Qwen family; changed
) -> str:  # plain, as twins call, or tagged
    "Give a processor the words for calls; asking twice changes nothing"
    style = _style(processor)
    if processor.chat_template == chat_template:
        processor.chat_template = _twin_template
    elif style == "tagged" and "tool_call" not in processor.chat_template:
        processor.chat_template = _tagged_template
    begins, ends = _marks[style]
    # A call that does not end reaches to the end of the answer, and is read like any: as malformed.
    function = {"name": "zoom", "arguments": {"said": "{content}"}}
    call = {"open": begins, "close_pattern": ends + r"\s*", "repeats": True, "content": "text",
            "transform": {"type": "function", "function": function}}
    words = {"close_pattern": r"<\|im_end\|>\s*", "content": "text"}
    # TRL reads answers by it, and where it is set does not look for the template among those that it knows
    processor.tokenizer.response_template = {
        "defaults": {"role": "assistant"}, "start_anchor": "<|im_start|>assistant\n",
        "fields": {"tool_calls": call, "content": words}}
    return style


def _style(processor):
    "Which marks a processor's model calls with: those of the twins, told by their template, or tags"
    return "plain" if processor.chat_template in (chat_template, _twin_template) else "tagged"


def eye_of(
    model,  # of a Qwen family, with an adapter or not
    processor,  # of the model
) -> Eye:
    "In which size and scale a loaded model sees; SettingsError where its family cannot look twice"
    family = model.config.model_type
    if family not in looking_families:
        raise SettingsError(
            f"task = zoom with a model of family {family}: TRL 1.16 puts a tool's picture into the answers "
            f"of {', '.join(looking_families)} only")
    return Eye(processor, scale_of_family.get(family, "thousandths"))


def eye_for(
    settings,  # `GRPOSettings`, checked
) -> Eye | None:
    "The eye of a run's model; None where it does not look twice"
    if settings.task != "zoom" or not settings.max_looks:
        return None
    return Eye.of(settings.model, settings.max_image_size)


def _split_calls(text, style):
    "What a turn says beside its calls, and what stands in each call"
    begins, ends = _marks[style]
    call = re.compile(f"{re.escape(begins)}(.*?)(?:{ends}|$)", re.DOTALL)
    return call.sub("", text).strip(), [said.strip() for said in call.findall(text)]


def _spoken(words, calls):
    "A turn of the model in the written form: its words, then its calls, numbers in one form"
    parts = [words] if words else []
    for said in calls:
        box = read_call(said).box
        # a bracket inside would end the call where it is read again
        inside = ", ".join(map(str, box)) if box else re.sub(r"[()]|<\|.*?\|>", "", said)
        parts.append(f"zoom({inside})")
    return "\n".join(parts)


# A conversation as text, and as tensors

def _opened(processor, sample):
    "The conversation up to where the model speaks; some templates describe the tool in it"
    tool = Looker(None, 0).zoom  # type: ignore[arg-type]  # it never looks
    return processor.apply_chat_template(to_messages(sample), tools=[tool], add_generation_prompt=True)


def _told(processor, parts):
    "What stands between two turns of the model when a tool has told `parts`, behind the first one's end"
    call = {"type": "function", "function": {"name": "zoom", "arguments": {"said": ""}}}
    talk = [{"role": "user", "content": [{"type": "text", "text": "."}]},
            {"role": "assistant", "content": [{"type": "text", "text": ""}], "tool_calls": [call]}]
    end = processor.tokenizer.eos_token
    before = processor.apply_chat_template(talk)
    talk.append({"role": "tool", "name": "zoom", "content": parts})
    whole = processor.apply_chat_template(talk, add_generation_prompt=True)
    # as TRL does it (`_get_tool_suffix_ids`): behind the last end of a turn, which the model itself has said
    place = before.rindex(end) + len(end)
    return whole[place:]


def encode_turns(
    processor,  # of a Qwen family, after `teach_calls`
    samples: list,  # of `Sample`, a picture each
    texts: list,  # answers in the written form of `readers/turns`
    eye: Eye,  # of the model
):  # processor's batch of tensors, padded on the left; rows in the order of `samples`
    "Whole conversations: question, call, crop, answer. The crops are cut again from the question's picture"
    rows, pictures = [], []
    for sample, text in zip(samples, texts, strict=True):
        row, seen, looks = _opened(processor, sample), list(sample.images), iter(looks_of(text))
        for role, part in turns_of(text):
            if role == "assistant":
                row += part + processor.tokenizer.eos_token
                continue
            look, content = next(looks), [{"type": "text", "text": part}]
            if not look.refused:
                seen.append(eye.crop(look.box, sample.images[0].convert("RGB")))
                content = [{"type": "image"}]
            row += _told(processor, content)
        rows.append(row)
        pictures.append(seen)
    return _as_batch(processor, rows, pictures)


def _as_batch(processor, rows, pictures):
    "Rendered conversations and a list of pictures for each, as one padded batch"
    given = pictures if any(pictures) else None
    return processor(text=rows, images=given, return_tensors="pt", padding=True, padding_side="left")


UNSEEN = -100  # a label that transformers leaves out of the loss


def turn_labels(
    input_ids: torch.Tensor,  # [rows, T] of whole conversations
    processor,  # of the model
) -> torch.Tensor:  # [rows, T], -100 for all that the model has not said itself
    "The model's own turns as targets, each with its end; the question and what the tool told are none"
    tokenizer = processor.tokenizer
    head = tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    labels = torch.full_like(input_ids, UNSEEN)
    for row, ids in enumerate(input_ids.tolist()):
        speaking, place = False, 0
        while place < len(ids):
            if not speaking and ids[place:place + len(head)] == head:
                speaking, place = True, place + len(head)
                continue
            if speaking:
                labels[row, place] = ids[place]
                speaking = ids[place] != tokenizer.eos_token_id
            place += 1
    return labels


# Asking

def converse(
    say,  # (batch of tensors, n) → n texts for each row, one after the other
    processor,  # of a Qwen family
    samples: list,  # of `Sample`
    n: int,  # answers to each
    looks: int,  # calls that are allowed in one answer
    eye: Eye,  # of the model
) -> list:  # n texts for each sample, in the written form of `readers/turns`
    "Answers with looks: whoever calls is given the crop and asked again, as TRL's loop does it in training"
    style = teach_calls(processor)
    opened = [_opened(processor, sample) for sample in samples]
    first = say(_as_batch(processor, opened, [sample.images for sample in samples]), n)
    rows = []
    for place, text in enumerate(first):
        sample = samples[place // n]
        rows.append(_Row(opened[place // n], sample, Looker(eye, looks)))
        rows[-1].hear(text, style)
    # One turn more than looks are allowed: a call too many is told so, too, and may then be an answer.
    for _ in range(looks + 1):
        asking = [row for row in rows if row.calls]
        if not asking:
            break
        for row in asking:
            row.look(processor)
        batch = _as_batch(processor, [row.text for row in asking], [row.pictures for row in asking])
        for row, text in zip(asking, say(batch, 1), strict=True):
            row.hear(text, style)
    answers = [written(row.turns) for row in rows]
    return [answers[begin:begin + n] for begin in range(0, len(answers), n)]


class _Row:
    "One conversation as it grows"

    def __init__(self, text, sample, looker):
        self.text, self.pictures, self.looker = text, list(sample.images), looker
        looker.reset(images=sample.images)
        self.turns, self.calls, self.heard = [], [], ""

    def hear(self, text, style):
        "The model's turn"
        self.heard = text
        words, self.calls = _split_calls(text, style)
        self.turns.append(("assistant", _spoken(words, self.calls)))

    def look(self, processor):
        "Answer the calls of the last turn"
        self.text += self.heard + processor.tokenizer.eos_token
        told = []
        for said in self.calls:
            content, crops = _result_of(self.looker, said)
            self.pictures += crops
            told.append(content)
            self.turns.append(("tool", "<image>" if crops else content[0]["text"]))
        # several calls of one turn are answered together, then the model speaks
        parts = [_told(processor, content) for content in told]
        opening = _told(processor, []).rpartition(processor.tokenizer.eos_token)[2]
        for part in parts[:-1]:
            self.text += part.removesuffix(opening)
        self.text += parts[-1]


def _result_of(looker, said):
    "What a tool tells as parts of a message, and its pictures; a refusal in TRL's words"
    try:
        content = answer_call(looker, said)
    except CallRefused as refused:
        # `_tool_call_loop` writes an exception so (TRL 1.16)
        return [{"type": "text", "text": str({"error": str(refused)})}], []
    return [{"type": "image"}], [part["image"] for part in content]


# TRL

def look_options(
    settings,  # `GRPOSettings`, checked
    model,  # the policy
    processor,  # of the model; gets the words for calls
) -> dict:  # for `GRPOTrainer`; empty where the task has no tool
    "The tool of a run, one for each answer"
    if not settings.max_looks:
        return {}
    eye = eye_of(model, processor)
    teach_calls(processor)
    return dict(environment_factory=partial(Looker, eye, settings.max_looks))


class LookTwice(BeforeGRPOTrainer):
    "Mixin before TRL's GRPOTrainer: calls are read by our grammar, and refusals are counted by kind"

    def _tool_call_loop(self, *args, **kwargs):
        # TRL 1.16 looks a call's name up in these dictionaries, made anew for each batch, and calls what it
        # finds with the arguments that `parse_response` gave: here `said` alone. If TRL stops asking here,
        # every call is refused with a TypeError about `said`.
        self._sync_tool_dicts = [{"zoom": partial(answer_call, looker)} for looker in self.environments]
        result = super()._tool_call_loop(*args, **kwargs)
        mode = "train" if self.model.training else "eval"
        for kind in refusals:
            count = sum(looker.refused[kind] for looker in self.environments)
            self._metrics[mode][f"part/{kind}"].append(count / len(self.environments))
        return result


def with_turns(
    rewarded,  # from `rewards.for_trl`
):  # the same for answers of several turns
    "A reward for TRL that is handed each answer in the written form of `readers/turns`"
    def of_turns(prompts, completions, **columns):
        texts = [of_messages(completion) for completion in completions]
        return rewarded(prompts=prompts, completions=texts, **columns)
    of_turns.__name__ = rewarded.__name__
    return of_turns


def of_messages(
    messages: list | str,  # TRL's completion: turns of the model and of the tool
) -> str:  # the written form
    "TRL's messages as one text"
    if isinstance(messages, str):
        return messages
    turns = []
    for message in messages:
        content = message.get("content") or ""
        if message["role"] == "tool":
            turns.append(("tool", content if isinstance(content, str) else "<image>"))
            continue
        calls = [call["function"]["arguments"].get("said", "") for call in message.get("tool_calls") or []]
        turns.append(("assistant", _spoken(content.strip(), calls)))
    return written(turns)

"""Conversations with the tool `zoom`: how a processor writes and reads calls, how a model is asked, how TRL
trains it.

Read in TRL 1.16 (grpo_trainer.py, chat_template_utils.py) and transformers 5.17. What TRL's tool loop cannot
do by itself, and what is done here instead:

- It needs a chat template that writes calls (`supports_tool_calling`). The twin's and those of Qwen2-VL and
  Qwen2.5-VL do not: they get one that does.
- `parse_response` turns a call that cannot be read into plain text, so that the model gets no message. Here a
  call is handed over as it was written, and read by `readers/turns`: what is wrong becomes a message.
- For Gemma 3 it looks for picture tokens by Qwen's names and so would not find a second picture; of Aria's
  pictures it keeps no masks. Both families are refused.

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

# The twin's own form, zoom(…): short, since its tokenizer would spell JSON letter by letter. Our calls have
# one argument, `said`, which holds what the model wrote; arguments of other names are written for TRL's test
# whether a template writes calls at all.
_plain_calls = """{% for c in m.tool_calls or [] %}{{ c.function.name }}(\
{% for k, v in c.function.arguments.items() %}\
{% if k != 'said' %}{{ k }}={% endif %}{{ v }}{% if not loop.last %}, {% endif %}\
{% endfor %}){% endfor %}"""
_twin_template = chat_template.replace("<|im_end|>", _plain_calls + "<|im_end|>")

# The form of Qwen2.5, a text model that was trained with tools. Qwen2-VL and Qwen2.5-VL, which are built on
# it or on its predecessor, have a template without tools and get this one.
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

# Style → text with which a call begins, regular expression for its end. Twins write "plain", checkpoints
# "tagged".
_marks = {"plain": ("zoom(", r"\)"), "tagged": ("<tool_call>", r"</tool_call>")}


def teach_calls(
    processor,  # of a Qwen family; changed
) -> str:  # plain, as twins write calls, or tagged: a key of `_marks`
    """Let a processor write calls of the tool (by its chat template) and TRL read them (response template).

    A second call changes nothing."""
    style = _style(processor)
    if processor.chat_template == chat_template:  # that of twins, from `models`, which writes no calls
        processor.chat_template = _twin_template
    # The templates of Qwen2-VL and Qwen2.5-VL write no calls.
    elif style == "tagged" and "tool_call" not in processor.chat_template:
        processor.chat_template = _tagged_template
    begins, ends = _marks[style]  # a call's first characters, and a regular expression for its last ones
    # A call without an end reaches to the end of the answer. It is handed over like any other, and refused as
    # malformed when it is read.
    # "{content}" stands for the text within the call.
    function = {"name": "zoom", "arguments": {"said": "{content}"}}
    # "repeats": an answer may hold several calls.
    call = {"open": begins, "close_pattern": ends + r"\s*", "repeats": True, "content": "text",
            "transform": {"type": "function", "function": function}}
    # The field without an "open" gets all text outside of calls.
    words = {"close_pattern": r"<\|im_end\|>\s*", "content": "text"}
    # TRL 1.16 splits an answer into text and calls by this. Where it is set, TRL does not search its own list
    # for the chat template, in which ours is missing.
    processor.tokenizer.response_template = {
        "defaults": {"role": "assistant"}, "start_anchor": "<|im_start|>assistant\n",
        "fields": {"tool_calls": call, "content": words}}
    return style


def _style(processor):
    "In which style a processor's model writes calls: plain for twins, known by their template, else tagged"
    return "plain" if processor.chat_template in (chat_template, _twin_template) else "tagged"


def eye_of(
    model,  # of a Qwen family, with an adapter or not
    processor,  # of the model
) -> Eye:
    """The `Eye` of a loaded model: in which size it sees pictures, in which scale it writes coordinates.

    SettingsError where its family cannot be trained with the tool."""
    family = model.config.model_type
    if family not in looking_families:
        raise SettingsError(
            f"task = zoom with a model of family {family}: TRL 1.16 puts a tool's picture into the answers "
            f"of {', '.join(looking_families)} only")
    return Eye(processor, scale_of_family.get(family, "thousandths"))


def eye_for(
    settings,  # `GRPOSettings`, checked
) -> Eye | None:
    "The `Eye` of the model that a run trains; None where the run has no tool to look with"
    if settings.task != "zoom" or not settings.max_looks:
        return None
    return Eye.of(settings.model, settings.max_image_size)


def _split_calls(text, style):
    "Split a turn of the model into its words, and a list of the text within each call"
    begins, ends = _marks[style]  # a call's first characters, and a regular expression for its last ones
    # a call without an end goes to the end of the text
    call = re.compile(f"{re.escape(begins)}(.*?)(?:{ends}|$)", re.DOTALL)
    contents = [content.strip() for content in call.findall(text)]
    return call.sub("", text).strip(), contents


def _written_turn(words, calls):
    """A turn of the model in the written form of `readers/turns`: its words, then a line zoom(…) a call.

    `calls` holds the text within each call. The numbers of a call that can be read are written as x1, y1, x2,
    y2, whatever form the model used."""
    parts = [words] if words else []
    for content in calls:
        box = read_call(content).box  # None where the call cannot be read
        if box:
            arguments = ", ".join(map(str, box))
        else:
            # Without brackets, which would end the call too early when it is read again, and special tokens.
            arguments = re.sub(r"[()]|<\|.*?\|>", "", content)
        parts.append(f"zoom({arguments})")
    return "\n".join(parts)


# A conversation as text, and as tensors

def _opening_text(processor, sample):
    "The conversation as text up to where the model must answer; some chat templates describe the tool in it"
    # For its signature and docstring alone, so without eye and looks.
    tool = Looker(None, 0).zoom  # type: ignore[arg-type]  # it never looks
    return processor.apply_chat_template(to_messages(sample), tools=[tool], add_generation_prompt=True)


def _tool_turns(processor, contents):
    """What stands between the end token of a model's turn that called the tool, and the model's next words.

    `contents` holds the content of the tool's answer to each call: a list of one {"type": "image"} or
    {"type": "text", "text": …}. For a twin and one picture the result is, with ⏎ for a line break:
    ⏎<|im_start|>tool⏎<|vision_start|><|image_pad|><|vision_end|><|im_end|>⏎<|im_start|>assistant⏎"""
    # A chat template writes only whole conversations. So a short one is written twice, without the tool's
    # answers and with them, as TRL does (`_get_tool_suffix_ids`, 1.16). Up to the end token of the model's
    # turn both are equal, and all that follows it in the second one is wanted.
    call = {"type": "function", "function": {"name": "zoom", "arguments": {"said": ""}}}
    conversation = [{"role": "user", "content": [{"type": "text", "text": "."}]},
                    {"role": "assistant", "content": [{"type": "text", "text": ""}], "tool_calls": [call]}]
    without_answers = processor.apply_chat_template(conversation)
    conversation += [{"role": "tool", "name": "zoom", "content": content} for content in contents]
    with_answers = processor.apply_chat_template(conversation, add_generation_prompt=True)
    # A template may write a line break behind the end token: it is part of what is wanted.
    end = processor.tokenizer.eos_token
    return with_answers[without_answers.rindex(end) + len(end):]


def encode_turns(
    processor,  # of a Qwen family, after `teach_calls`
    samples: list,  # of `Sample`, a picture each
    texts: list,  # answers in the written form of `readers/turns`; a turn of the model holds one call at most
    eye: Eye,  # of the model: cuts out what a call asks for
):  # processor's batch of tensors, padded on the left; rows in the order of `samples`
    """Encode whole conversations: question, calls of the tool, what it returned, answer.

    The written form is one text: calls as zoom(98, 0, 112, 14), the tool's turns between marks. It holds no
    pictures, so what the tool returned is cut out of the question's picture again."""
    conversations, pictures = [], []  # a text for each sample; a list of pictures for each
    for sample, text in zip(samples, texts, strict=True):
        # the text up to where the model must answer, and the pictures that it has so far
        conversation, own_pictures = _opening_text(processor, sample), list(sample.images)
        looks = iter(looks_of(text))  # the calls in order; each has a turn of the tool
        for role, part in turns_of(text):
            if role == "assistant":
                conversation += part + processor.tokenizer.eos_token
                continue
            look, content = next(looks), [{"type": "text", "text": part}]
            if not look.refused:  # else the tool's turn is the text of the refusal
                own_pictures.append(eye.crop(look.box, sample.images[0].convert("RGB")))
                content = [{"type": "image"}]
            # the tool's turn and the opening of the model's next one, which the next part goes on from
            conversation += _tool_turns(processor, [content])
        conversations.append(conversation)
        pictures.append(own_pictures)
    return _as_batch(processor, conversations, pictures)


def _as_batch(processor, conversations, pictures):
    "Conversations as text, with a list of pictures for each, as one batch of tensors, padded on the left"
    images = pictures if any(pictures) else None
    return processor(
        text=conversations, images=images, return_tensors="pt", padding=True, padding_side="left")


UNSEEN = -100  # a label that transformers leaves out of the loss


def turn_labels(
    input_ids: torch.Tensor,  # [rows, T] of whole conversations
    processor,  # of a Qwen family: its template begins a turn with <|im_start|>, and ends it with <|im_end|>
) -> torch.Tensor:  # [rows, T], -100 for all that the model has not written itself
    "Labels for supervised training: the model's own turns with their end tokens, not question or tool"
    tokenizer = processor.tokenizer
    # The tokens with which the chat template begins each turn of the model.
    turn_begin = tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    labels = torch.full_like(input_ids, UNSEEN)
    for row, ids in enumerate(input_ids.tolist()):
        in_model_turn, place = False, 0
        while place < len(ids):
            # The tokens that open a turn of the model are the template's: they are passed over.
            if not in_model_turn and ids[place:place + len(turn_begin)] == turn_begin:
                in_model_turn, place = True, place + len(turn_begin)
                continue
            if in_model_turn:
                labels[row, place] = ids[place]
                in_model_turn = ids[place] != tokenizer.eos_token_id  # of <|im_end|>
            place += 1
    return labels


# Asking

def converse(
    say,  # the model: (batch of tensors, n) → n texts for each row, those of one row next to each other
    processor,  # of a Qwen family
    samples: list,  # of `Sample`
    n: int,  # answers to each
    looks: int,  # calls that are allowed in one answer
    eye: Eye,  # of the model: in which size it sees a picture, in which scale it writes coordinates
) -> list:  # n texts for each sample, in the written form of `readers/turns`
    """Sample answers of a model that may call the tool `zoom`.

    Where a turn holds calls, the model gets the enlarged pictures and is asked again, as TRL's loop does in
    training."""
    # How calls are written, plain or tagged. The processor's chat template can write them from here on.
    style = teach_calls(processor)

    # The first turns of all conversations: n for each sample.
    openings = [_opening_text(processor, sample) for sample in samples]
    first_turns = say(_as_batch(processor, openings, [sample.images for sample in samples]), n)
    conversations = []
    for place, text in enumerate(first_turns):
        number = place // n  # of the sample
        looker = Looker(eye, looks)  # the tool of one answer: gives the enlarged parts, and counts calls
        conversation = _Conversation(openings[number], samples[number], looker)
        conversation.add_model_turn(text, style)  # its `calls` are then those in the text
        conversations.append(conversation)

    # One turn more than calls are allowed: a call too many is refused in words, and an answer may follow.
    for _ in range(looks + 1):
        calling = [conversation for conversation in conversations if conversation.calls]
        if not calling:
            break
        for conversation in calling:
            conversation.answer_calls(processor)  # adds the enlarged pictures to its `pictures`
        texts, pictures = zip(*[(conversation.text, conversation.pictures) for conversation in calling])
        batch = _as_batch(processor, list(texts), list(pictures))
        for conversation, text in zip(calling, say(batch, 1), strict=True):
            conversation.add_model_turn(text, style)

    answers = [written(conversation.turns) for conversation in conversations]
    return [answers[begin:begin + n] for begin in range(0, len(answers), n)]


class _Conversation:
    "One conversation as it grows: `text` and `pictures` for the next prompt, `turns` for the written form"

    def __init__(self, text, sample, looker):
        self.text, self.pictures, self.looker = text, list(sample.images), looker
        looker.reset(images=sample.images)
        self.turns = []  # (role, text), without the question
        self.calls = []  # text within each call of the model's last turn
        self.last_turn = ""  # of the model, as it was generated

    def add_model_turn(self, text, style):
        "Take what the model generated; `calls` then holds the calls in it, none where it is an answer"
        self.last_turn = text
        words, self.calls = _split_calls(text, style)
        self.turns.append(("assistant", _written_turn(words, self.calls)))

    def answer_calls(self, processor):
        "Run the calls of the model's last turn, and add that turn and the tool's answers to the next prompt"
        contents = []  # of the tool's message for each call
        for said in self.calls:
            content, crops = _result_of(self.looker, said)  # of a refused call a text, and no picture
            contents.append(content)
            self.pictures += crops
            self.turns.append(("tool", "<image>" if crops else content[0]["text"]))
        # All answers at once: a chat template may write those to several calls into one turn. The text ends
        # where the model must speak again.
        self.text += self.last_turn + processor.tokenizer.eos_token + _tool_turns(processor, contents)


def _result_of(looker, said):
    """Answer a call: (the content of the tool's message, the pictures that belong into it).

    A refused call gives a text, in the form in which TRL writes an exception, and no picture."""
    try:
        parts = answer_call(looker, said)
    except CallRefused as refused:
        # TRL 1.16 (`_tool_call_loop`) writes an exception in this form.
        return [{"type": "text", "text": str({"error": str(refused)})}], []
    return [{"type": "image"}], [part["image"] for part in parts]


# TRL

def look_options(
    settings,  # `GRPOSettings`, checked
    model,  # the policy
    processor,  # of the model; changed by `teach_calls`
) -> dict:  # keyword arguments for `GRPOTrainer`; empty where the run has no tool
    "What makes TRL offer the tool `zoom` to the model: a factory that makes a `Looker` for each answer"
    if not settings.max_looks:
        return {}
    eye = eye_of(model, processor)  # in which size the model sees pictures, its scale of coordinates
    teach_calls(processor)  # its chat template then writes calls, and TRL can read them
    return dict(environment_factory=partial(Looker, eye, settings.max_looks))


class LookTwice(BeforeGRPOTrainer):
    "Mixin before TRL's GRPOTrainer: `readers/turns` reads the model's calls, and refusals are logged by kind"

    def _tool_call_loop(self, *args, **kwargs):
        """Overrides TRL's (1.16), which runs the tools that answers call and lets the model go on.

        TRL finds a tool by its name in `_sync_tool_dicts`, a dictionary for each answer of a batch, and calls
        it with the arguments that `parse_response` gave: here `said` alone, the text within the call. TRL has
        put `Looker.zoom` there, which takes x1, y1, x2 and y2; here `answer_call` takes its place. If TRL no
        longer calls this method, every call is refused with a TypeError about `said`."""
        # `environments` are TRL's: a `Looker` for each answer, which counts its calls and refusals
        self._sync_tool_dicts = [{"zoom": partial(answer_call, looker)} for looker in self.environments]
        result = super()._tool_call_loop(*args, **kwargs)
        mode = "train" if self.model.training else "eval"
        for kind in refusals:
            count = sum(looker.refused[kind] for looker in self.environments)
            self._metrics[mode][f"part/{kind}"].append(count / len(self.environments))
        return result


def with_turns(
    rewarded,  # from `rewards.for_trl`
):  # a function that TRL calls in the same way
    "A reward for answers of several turns: it gets each as one text, in the written form of `readers/turns`"
    def of_turns(prompts, completions, **columns):
        texts = [of_messages(completion) for completion in completions]
        return rewarded(prompts=prompts, completions=texts, **columns)
    of_turns.__name__ = rewarded.__name__
    return of_turns


def of_messages(
    messages: list | str,  # TRL's completion: turns of the model and of the tool
) -> str:  # the written form
    """TRL's form of an answer of several turns as one text: calls as zoom(…), the tool's turns between marks

    With ⏎ for a line break: zoom(98, 0, 112, 14)⏎<tool_response><image></tool_response>⏎A photo of 3 discs"""
    if isinstance(messages, str):  # a plain text has no turns
        return messages
    turns = []
    for message in messages:
        content = message.get("content") or ""
        if message["role"] == "tool":  # a list holds a picture, a text says why a call was refused
            turns.append(("tool", content if isinstance(content, str) else "<image>"))
            continue
        # `said` is our calls' only argument: what the model wrote within the call, such as "98, 0, 112, 14"
        calls = [call["function"]["arguments"].get("said", "") for call in message.get("tool_calls") or []]
        turns.append(("assistant", _written_turn(content.strip(), calls)))
    return written(turns)

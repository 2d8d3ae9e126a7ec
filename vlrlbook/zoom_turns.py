"""Conversations with the tool `zoom`: how a processor writes and reads calls, how a model is asked, how TRL
trains it.

Read in TRL 1.16 (grpo_trainer.py, chat_template_utils.py) and transformers 5.17. What TRL's tool loop cannot
do by itself, and what is done here instead:

- It needs a chat template that writes calls (`supports_tool_calling`). The tiny models' (twins') and those of
  Qwen2-VL and Qwen2.5-VL do not: they get one that does.
- `parse_response` turns a call that cannot be read into plain text, so that the model gets no message. Here a
  call is handed over as it was written, and read by `readers/turns`: what is wrong becomes a message.
- For Gemma 3 it looks for picture tokens by Qwen's names and so would not find a second picture; of Aria's
  pictures it keeps no masks. Both families are refused.

Written by hand."""
import io
import json
import re
from functools import partial
from itertools import chain

import torch
from PIL import Image

from .core import Sample
from .data import picture_tokens, to_messages
from .geometry import scale_of_family
from .models import chat_template
from .pointing import shown_size
from .readers.turns import looks_of, read_call, refusals, turns_of, written
from .settings import SettingsError
from .training import BeforeGRPOTrainer
from .zoom import CallRefused, Eye, Looker, answer_call

__all__ = ["looking_families", "teach_calls", "eye_of", "eye_for", "encode_turns", "turn_labels", "converse",
           "look_options", "LookTwice", "with_turns", "of_messages"]

looking_families = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5")


# How calls are written

# The tiny model's own form, zoom(…): short, since its tokenizer would spell JSON letter by letter. Our
# calls have one argument, `said`, which holds what the model wrote; arguments of other names are written
# for TRL's test whether a template writes calls at all.
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

# Style of calls → (text with which a call begins, regular expression for its end). The tiny models of
# vlrlbook (twins) write "plain" calls, all others "tagged" ones.
_call_delimiters = {"plain": ("zoom(", r"\)"), "tagged": ("<tool_call>", r"</tool_call>")}


def teach_calls(
    processor,  # of a Qwen family; changed
) -> str:  # style of its calls, a key of `_call_delimiters`: plain or tagged
    """Make a processor's chat template write calls of the tool, and let TRL read them (response template).

    A second call changes nothing."""
    style = _style(processor)  # plain for a tiny model, tagged for any other
    # A template that writes calls already stays: of a later family than Qwen2.5-VL, or set here before.
    if processor.chat_template == chat_template:  # our constant: that of tiny models, without calls
        processor.chat_template = _twin_template  # the same with calls
    elif style == "tagged" and "tool_call" not in processor.chat_template:  # Qwen2-VL, Qwen2.5-VL
        processor.chat_template = _tagged_template
    processor.tokenizer.response_template = _response_template(style)
    return style


def _response_template(
    style,  # of calls: "plain", zoom(…), or "tagged", <tool_call>…</tool_call>
):
    """A response template, a dict by which TRL 1.16 splits an answer into text and calls.

    Without one TRL looks for the chat template in a list of its own, in which ours is missing. The keys are
    those of transformers (utils/chat_parsing, read in 5.17)."""
    begin, end_pattern = _call_delimiters[style]
    # What becomes of the text between `open` and `close_pattern`: it is put in the place of {content}. `said`
    # is our own argument: the call as the model wrote it.
    function = {"name": "zoom", "arguments": {"said": "{content}"}}
    call = {
        "open": begin,
        "close_pattern": end_pattern + r"\s*",
        "repeats": True,  # an answer may hold several calls
        "content": "text",  # taken as it is, not read as JSON
        "transform": {"type": "function", "function": function},
    }
    # without `open`: all that is no call, up to the end of the turn
    text_outside_calls = {"close_pattern": r"<\|im_end\|>\s*", "content": "text"}
    return {
        "defaults": {"role": "assistant"}, "start_anchor": "<|im_start|>assistant\n",
        "fields": {"tool_calls": call, "content": text_outside_calls}}


def _style(processor):
    "In which style a model writes calls: plain (a tiny random model, known by its chat template) or tagged"
    # plain is zoom(…); tagged is <tool_call>…</tool_call>
    return "plain" if processor.chat_template in (chat_template, _twin_template) else "tagged"


def eye_of(
    model,  # of a Qwen family, with an adapter or not
    processor,  # of the model
) -> Eye:
    """The `Eye` of a loaded model: the size in which it sees pictures, and the scale of its coordinates.

    SettingsError if a model of this family cannot be trained with the tool."""
    family = model.config.model_type
    if family not in looking_families:
        raise SettingsError(
            f"task = zoom with a model of family {family}: TRL 1.16 puts a tool's picture into the answers "
            f"of {', '.join(looking_families)} only")
    return Eye(processor, scale_of_family.get(family, "thousandths"))


def eye_for(
    settings,  # `GRPOSettings`, checked
) -> Eye | None:
    """The `Eye` of the model that a run trains; None where the run has no tool to look with

    An `Eye` knows the size in which a model sees a picture, and the scale in which it writes coordinates."""
    if settings.task != "zoom" or not settings.max_looks:  # max_looks: calls in one answer; 0: no tool
        return None
    return Eye.of(settings.model, settings.max_image_size)


def _split_calls(
    text,  # of one turn of the model
    style,  # of its calls: "plain", zoom(…), or "tagged", <tool_call>…</tool_call>
):
    "Split a turn into (its words, list of the text within each call); an answer gives (text, [])"
    begin, end_pattern = _call_delimiters[style]
    # a call without an end goes to the end of the text
    call = re.compile(f"{re.escape(begin)}(.*?)(?:{end_pattern}|$)", re.DOTALL)
    contents = [content.strip() for content in call.findall(text)]
    # a space, so that what stands around a call becomes no other call, as in zoozoom(…)m(…)
    return call.sub(" ", text).strip(), contents


def _written_turn(
    words,  # what the model wrote beside its calls; may be empty
    calls,  # the text within each call as the model wrote it, such as '{"name": "zoom", …}'
):
    """A turn of the model as one text: its words, then for each call a line such as zoom(98, 0, 112, 14).

    So all models' calls look alike in files. A call that cannot be read is written as it is, in zoom(…)."""
    if calls:  # a zoom(…) among the words was not called: the tool's answer belongs to a call below
        words = words.replace("zoom(", "zoom (")
    parts = [words] if words else []
    for content in calls:
        box = read_call(content).box  # x1, y1, x2, y2; None if the call cannot be read
        if box:
            arguments = ", ".join(map(str, box))
        else:
            # As it is, but without special tokens, and without brackets, which would end the call too early.
            arguments = re.sub(r"[()]|<\|.*?\|>", " ", content).strip()
        parts.append(f"zoom({arguments})")
    return "\n".join(parts)


# A conversation as text, and as tensors

def _opening_text(
    processor,  # of a model, with its chat template
    sample,  # `Sample`: the question and its pictures
):
    "The conversation as text up to where the model must answer; some chat templates describe the tool in it"
    # Given to the template for its signature and docstring alone, so made without an eye and without calls.
    tool = Looker(None, 0).zoom  # type: ignore[arg-type]  # it never looks
    return processor.apply_chat_template(to_messages(sample), tools=[tool], add_generation_prompt=True)


def _tool_turns(
    processor,  # its chat template writes the turns
    contents,  # of the tool's answer to each call: [{"type": "image"}] or [{"type": "text", "text": …}]
):
    """The text that follows a turn with calls: the tool's turns, and the opening of the model's next turn.

    For one picture, with ⏎ for a line break:
    ⏎<|im_start|>tool⏎<|vision_start|><|image_pad|><|vision_end|><|im_end|>⏎<|im_start|>assistant⏎"""
    # A template writes whole conversations only. So a short one is written with and without the tool's
    # turns, and what both begin with is cut off, as in TRL 1.16 (`_get_tool_suffix_ids`).
    conversation = _conversation_with_call()
    without_tool = processor.apply_chat_template(conversation)
    conversation += [{"role": "tool", "name": "zoom", "content": content} for content in contents]
    with_tool = processor.apply_chat_template(conversation, add_generation_prompt=True)
    # Cut behind the end token of the model's turn, not behind a line break that may follow it.
    end_token = processor.tokenizer.eos_token
    cut = without_tool.rindex(end_token) + len(end_token)
    return with_tool[cut:]


def _conversation_with_call():
    "The messages of a short conversation whose last turn is a call of the tool"
    # "said" is the text within a call, which our chat templates write as it is; here it is empty
    call = {"type": "function", "function": {"name": "zoom", "arguments": {"said": ""}}}
    return [{"role": "user", "content": [{"type": "text", "text": "."}]},
            {"role": "assistant", "content": [{"type": "text", "text": ""}], "tool_calls": [call]}]


def encode_turns(
    processor,  # of a Qwen family, after `teach_calls`
    samples: list,  # of `Sample`, a picture each
    texts: list,  # answers in the written form of `readers/turns`; a turn of the model holds one call at most
    eye: Eye,  # of the model: cuts out what a call asks for
):  # processor's batch of tensors, padded on the left; rows in the order of `samples`
    "Encode whole conversations: question, calls of the tool, what it returned, answer"
    conversations, pictures = [], []  # a text for each sample; a list of pictures for each
    for sample, text in zip(samples, texts, strict=True):
        conversation, own_pictures = _whole_conversation(processor, sample, text, eye)
        conversations.append(conversation)
        pictures.append(own_pictures)
    return _as_batch(processor, conversations, pictures)


def _whole_conversation(
    processor,  # its chat template writes the turns
    sample,  # `Sample`: the question and its picture
    text,  # an answer with its calls, such as "zoom(98, 0, 112, 14)\n<tool_response><image></tool_response>…"
    eye,  # `Eye` of the model: cuts out and enlarges what a call asks for
):
    """A sample's conversation as the chat template writes it, and its pictures: (text, list).

    The answer's text holds no pictures, so each crop is cut out of the question's picture again."""
    conversation, pictures = _opening_text(processor, sample), list(sample.images)
    looks = iter(looks_of(text))  # for each turn of the tool the call: its box, and why it was refused
    for role, part in turns_of(text):
        if role == "assistant":
            conversation += part + processor.tokenizer.eos_token
            continue
        look = next(looks)  # of this turn of the tool: both lists have one entry for each
        if look.refused:
            content = [{"type": "text", "text": part}]
        else:
            content = [{"type": "image"}]
            pictures.append(eye.crop(look.box, sample.images[0].convert("RGB")))
        conversation += _tool_turns(processor, [content])
    return conversation, pictures


def _as_batch(
    processor,  # makes the tensors
    conversations,  # texts
    pictures,  # a list of pictures for each text, in the order of its marks
):
    "Conversations as one batch of tensors: input_ids [rows, T] and the pictures' pixels, padded on the left"
    images = pictures if any(pictures) else None  # None where no text has a picture: text alone
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
        for begin, end in _model_turns(ids, turn_begin, tokenizer.eos_token_id):  # <|im_end|>
            labels[row, begin:end] = input_ids[row, begin:end]
    return labels


def _model_turns(
    ids,  # token ids of a whole conversation
    turn_begin,  # those with which the chat template begins a turn of the model: <|im_start|>assistant ⏎
    end_token_id,  # that of <|im_end|>, which ends every turn
):
    """Where the model's own turns stand in a row of token ids: a list of (begin, end)

    A turn goes from behind `turn_begin` to behind its end token, or to the end of a row that lacks one."""
    turns, place = [], 0
    while place < len(ids):
        if ids[place:place + len(turn_begin)] != turn_begin:
            place += 1
            continue
        begin = place + len(turn_begin)
        # the end token is the model's, too
        place = ids.index(end_token_id, begin) + 1 if end_token_id in ids[begin:] else len(ids)
        turns.append((begin, place))
    return turns


# Asking

def converse(
    say,  # the model: (batch of tensors, n, most tokens for each row) → n texts for each row, side by side
    processor,  # of a Qwen family
    samples: list,  # of `Sample`
    n: int,  # answers to each
    looks: int,  # calls that are allowed in one answer
    eye: Eye,  # of the model: in which size it sees a picture, in which scale it writes coordinates
    most_tokens: int,  # of an answer: all its turns and all that the tool tells, pictures included
) -> list:  # n texts for each sample, such as "zoom(98, 0, 112, 14)\n<tool_response><image>…"
    """Sample answers of a model that may call the tool `zoom`; the tool loop is as TRL's in training

    So an answer ends with its call where what the tool tells does not fit into `most_tokens`."""
    style = teach_calls(processor)  # how the model writes calls: plain or tagged
    openings = [_opening_text(processor, sample) for sample in samples]
    batch = _as_batch(processor, openings, [sample.images for sample in samples])
    first_turns = say(batch, n, [most_tokens] * len(samples))
    opening_lengths = _lengths(batch)  # in tokens, those of the picture included
    conversations = []  # n of the first sample, then n of the second, and so on
    for i, text in enumerate(first_turns):
        sample_number = i // n
        tool = Looker(eye, looks)  # makes the enlarged pictures, and counts calls
        conversation = _Conversation(openings[sample_number], samples[sample_number], tool,
                                     opening_lengths[sample_number])
        conversation.add_model_turn(text, style)
        conversations.append(conversation)
    # A turn after each allowed call, and one more, in which a model whose further call was refused may answer
    for _ in range(looks + 1):
        _take_turns(say, processor, conversations, style, most_tokens)
    answers = [written(conversation.turns) for conversation in conversations]  # each a single text
    return [answers[begin:begin + n] for begin in range(0, len(answers), n)]


def _take_turns(
    say,  # the model: (batch of tensors, n, most tokens for each row) → n texts for each row
    processor,  # of the model
    conversations,  # list of `_Conversation`; those with calls are changed
    style,  # of calls: plain or tagged
    most_tokens,  # of a whole answer
):
    "Answer the calls of the model's last turns, and let it go on by one turn, where there are such calls"
    calling = [conversation for conversation in conversations if conversation.calls]
    if not calling:
        return
    for conversation in calling:
        conversation.answer_calls(processor)
    batch = _next_prompts(processor, calling)
    rooms = []  # for each conversation how many tokens its answer may still have
    for conversation, length in zip(calling, _lengths(batch)):
        rooms.append(most_tokens - (length - conversation.opening_length))
    going_on, limits = _those_with_room(calling, rooms)
    if not going_on:
        return
    if len(going_on) < len(calling):
        batch = _next_prompts(processor, going_on)
    model_turns = say(batch, 1, limits)
    for conversation, text in zip(going_on, model_turns, strict=True):
        conversation.add_model_turn(text, style)


def _next_prompts(processor, conversations):
    "The texts and pictures of some `_Conversation`s, up to where the model must go on, as one batch"
    texts = [conversation.text for conversation in conversations]
    return _as_batch(processor, texts, [conversation.pictures for conversation in conversations])


def _lengths(batch):
    "How many tokens each row of a batch has without padding, a list of int"
    return batch["attention_mask"].sum(1).tolist()


def _those_with_room(
    conversations,  # list of `_Conversation` with calls that were answered; those without room are ended
    rooms,  # for each how many tokens its answer may still have; below 0: the tool has told too much
):
    """The conversations that go on, and for each of them the most tokens of its next turn: two lists

    As TRL 1.16 (`_tool_call_loop`): what the tool told is dropped where it makes an answer too long. Where it
    just fits, it stays, and the model has no token left to say anything."""
    going_on, limits = [], []
    for conversation, room in zip(conversations, rooms):
        if room > 0:
            going_on.append(conversation)
            limits.append(room)
        else:
            conversation.end(without_tool=room < 0)
    return going_on, limits


class _Conversation:
    "One conversation as it grows: `text` and `pictures` for the next prompt, `turns` for the written form"

    def __init__(self,
        text,  # the question as the chat template writes it, up to where the model must answer
        sample,  # `Sample`, whose pictures stand in the text
        looker,  # `Looker`, the tool for this conversation alone; gets the sample's picture
        opening_length=0,  # tokens of that text, those of the picture included
    ):
        self.opening_length = opening_length
        self.text, self.pictures, self.looker = text, list(sample.images), looker
        looker.reset(images=sample.images)
        self.turns = []  # (role, text) of the model's and the tool's turns, without the question
        self.calls = []  # of the model's last turn: for each call what stands in it, such as "98, 0, 112, 14"
        self.last_turn = ""  # of the model, as it was generated
        self.turns_told = 0  # how many turns the last `answer_calls` added to `turns`: one for each call

    def add_model_turn(self,
        text,  # what the model generated
        style,  # of its calls: "plain", zoom(…), or "tagged", <tool_call>…</tool_call>
    ):
        "Take a turn of the model; `calls` then holds the text within each call, nothing if it is an answer"
        self.last_turn = text
        words, self.calls = _split_calls(text, style)
        self.turns.append(("assistant", _written_turn(words, self.calls)))

    def answer_calls(self,
        processor,  # its chat template writes the tool's answers
    ):
        "Run the calls of the model's last turn, and add that turn and the tool's answers to the next prompt"
        self.turns_told = len(self.calls)  # turns of the tool: `end` removes them if they are too long
        # for each call [{"type": "image"}], or where it was refused [{"type": "text", "text": why}]
        contents = []
        for call_text in self.calls:
            content, crops = _result_of(self.looker, call_text)  # crops: empty for a refused call
            contents.append(content)
            self.pictures += crops
            self.turns.append(("tool", "<image>" if crops else content[0]["text"]))
        # All messages at once: some chat templates write them into one turn.
        tool_turns = _tool_turns(processor, contents)
        # The model stopped at its end token, which is not in its text.
        self.text += self.last_turn + processor.tokenizer.eos_token + tool_turns

    def end(self,
        without_tool,  # True: drop the tool's last turns, which make the answer too long, as TRL does
    ):
        "End the conversation: the model gets no further turn"
        self.calls = []  # `_take_turns` goes on with conversations that have calls
        if without_tool:  # the last `turns_told` turns are the tool's
            del self.turns[len(self.turns) - self.turns_told:]


def _result_of(
    looker,  # `Looker`, the tool of one answer: it holds the picture and counts calls
    call_text,  # what the model wrote within the call, such as "98, 0, 112, 14"
):
    """Run a call of the tool: (content of the tool's message, list of the pictures in it).

    ([{"type": "image"}], [crop]), or for a refused call ([{"type": "text", "text": why}], [])."""
    try:
        parts = answer_call(looker, call_text)  # of a message: [{"type": "image", "image": crop}]
    except CallRefused as refused:
        # TRL 1.16 (`_tool_call_loop`) writes an exception in this form.
        return [{"type": "text", "text": str({"error": str(refused)})}], []
    return [{"type": "image"}], [part["image"] for part in parts]


# TRL

def look_options(
    settings,  # `GRPOSettings`, checked
    model,  # the policy
    processor,  # of the model; changed by `teach_calls`
    dataset,  # `datasets.Dataset` of the training, for the sizes of its pictures
) -> dict:  # keyword arguments for `GRPOTrainer`; empty where the run has no tool
    """Make TRL offer the tool `zoom` to the model: a factory makes the tool, a `Looker`, for each answer

    SettingsError if a look does not fit into an answer's length: TRL would drop every picture of the tool."""
    if not settings.max_looks:  # 0 calls in one answer: the run has no tool
        return {}
    eye = eye_of(model, processor)  # the size in which the model sees pictures, its scale of coordinates
    style = teach_calls(processor)  # its chat template then writes calls, and TRL can read them
    _check_room(settings, eye, style, dataset)
    return dict(environment_factory=partial(Looker, eye, settings.max_looks))


def _check_room(
    settings,  # `GRPOSettings`, checked
    eye,  # `Eye` of the model
    style,  # of calls: "plain", zoom(…), or "tagged", <tool_call>…</tool_call>
    dataset,  # `datasets.Dataset` of the training
):
    "Raise SettingsError if a call, the largest crop and the shortest true answer are too long for an answer"
    sizes = _picture_sizes(dataset)  # a set of (width, height)
    if not sizes:
        return
    crop = max(_crop_tokens(eye.processor, size) for size in sizes)
    tokens_of = partial(_token_count, eye.processor.tokenizer)
    widest = max(sizes)  # a call for the whole of it has long coordinates
    call_tokens = tokens_of(_whole_call(eye, style, widest)) + 1  # + 1: the token that ends a turn
    # In the text of the tool's turn one token stands for the picture, in place of its `crop` tokens.
    tool_tokens = tokens_of(_tool_turns(eye.processor, [[{"type": "image"}]])) - 1 + crop
    answer_tokens = min(tokens_of(truth) for truth in set(dataset["answer"])) + 1
    needed = call_tokens + tool_tokens + answer_tokens
    if needed > settings.max_completion_length:
        raise SettingsError(
            f"max_completion_length = {settings.max_completion_length}: a call of the tool, the part that it "
            f"enlarges ({crop} tokens with max_image_size = {settings.max_image_size}) and an answer take "
            f"{needed} tokens, and a part that does not fit is never shown; expected {needed} or more, or a "
            "smaller max_image_size")


def _token_count(tokenizer, text):
    "How many tokens a text has, without those that a tokenizer may put around it"
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _whole_call(
    eye,  # `Eye` of the model: knows the scale in which it writes coordinates
    style,  # "plain": zoom(0, 0, 112, 112); "tagged": JSON between <tool_call> and </tool_call>
    size,  # (width, height) of a picture in pixels
):
    "The text with which a model calls the tool for the whole of a picture"
    # such as "zoom(0, 0, 112, 112)", in the model's scale; of the picture `said` reads the size alone
    call = eye.said((0, 0, *size), Image.new("1", size))
    if style == "plain":
        return call
    # the four numbers of this text; `or ()` is for mypy: the call can be read, so its box is not None
    numbers = read_call(call.removeprefix("zoom(").removesuffix(")")).box or ()
    arguments = dict(zip(("x1", "y1", "x2", "y2"), numbers))
    call_json = json.dumps(dict(name="zoom", arguments=arguments))
    return f"<tool_call>\n{call_json}\n</tool_call>"


def _crop_tokens(
    processor,  # of a Qwen family
    size,  # width and height of a picture in pixels
):
    "How many tokens the largest part has that the tool can cut out of a picture: the whole, or a square"
    # `Eye.crop` enlarges a part until its longer side is that of the shown picture, and makes none smaller.
    # So a square has at least the first side below, and the largest one may have the second.
    longer_shown, shorter_own = max(shown_size(processor, size)), min(size)
    side = max(longer_shown, shorter_own)
    return max(picture_tokens(processor, size), picture_tokens(processor, (side, side)))


def _picture_sizes(dataset):
    """(width, height) of the first picture of each row, which the tool cuts: a set, from the files' headers.

    A picture that EXIF says to turn by 90 degrees is not turned here: it has the same number of tokens."""
    sizes = set()
    for batch in dataset.select_columns("images").with_format("arrow").iter(batch_size=1000):
        for pictures in batch["images"].to_pylist():  # a row's pictures, each a dict of bytes and path
            for picture in pictures[:1]:  # none, if the row has no picture
                # bytes: the content of the file; None: the file lies at `path`
                content = io.BytesIO(picture["bytes"]) if picture["bytes"] else picture["path"]
                with Image.open(content) as opened:
                    sizes.add(opened.size)
    return sizes


class LookTwice(BeforeGRPOTrainer):
    "Mixin before TRL's GRPOTrainer: `readers/turns` reads the model's calls, and refusals are logged by kind"

    def _tool_call_loop(self, prompts, prompt_ids, completion_ids, completions, *more):
        """Overrides TRL's (1.16), which runs the tools that answers call and lets the model go on.

        TRL calls the tool with one argument, `said`: what the model wrote within a call. Its tool would be
        `Looker.zoom`, which takes four numbers; `answer_call`, which reads them from `said`, replaces it. If
        TRL no longer calls this method, `Looker.zoom` stays, and raises a TypeError at each call."""
        # Two attributes of TRL, with an entry for each answer of the batch: `environments`, its `Looker`;
        # `_sync_tool_dicts`, name → function that is called as the tool.
        self._sync_tool_dicts = [{"zoom": partial(answer_call, looker)} for looker in self.environments]
        result = super()._tool_call_loop(prompts, prompt_ids, completion_ids, completions, *more)
        mode = "train" if self.model.training else "eval"
        for kind in refusals:  # outside, too_many and the like; `refused` counts the calls of each kind
            count = sum(looker.refused[kind] for looker in self.environments)
            self._metrics[mode][f"part/{kind}"].append(count / len(self.environments))
        # TRL answers each call by a message, refused ones too, and removes it from the completion again where
        # that gets too long. part/no_room: such messages, on average over the answers.
        call_count = sum(looker.calls for looker in self.environments)
        message_count = sum(message["role"] == "tool" for message in chain.from_iterable(completions))
        self._metrics[mode]["part/no_room"].append((call_count - message_count) / len(self.environments))
        return result


def with_turns(
    rewarded,  # from `rewards.for_trl`
):  # a function that TRL calls in the same way
    "Adapt a reward to answers of several turns: it gets each answer as one text, from `of_messages`"
    def rewarded_as_text(prompts, completions, **columns):
        texts = [of_messages(completion) for completion in completions]
        return rewarded(prompts=prompts, completions=texts, **columns)
    rewarded_as_text.__name__ = rewarded.__name__  # TRL logs a reward under this name
    return rewarded_as_text


def of_messages(
    messages: list | str,  # TRL's completion: turns of the model and of the tool
) -> str:  # the turns as text, those of the tool in <tool_response> tags
    """Write an answer of several turns as one text

    For example, with ⏎ for a line break:
    zoom(98, 0, 112, 14)⏎<tool_response><image></tool_response>⏎A photo of 3 discs"""
    if isinstance(messages, str):  # a plain text has no turns
        return messages
    return written([_turn_of(message) for message in messages])


def _turn_of(
    message,  # of TRL's chat: role, content, and for a turn with calls tool_calls
):
    """A chat message as (role, text): ("assistant", words and calls) or ("tool", what it said)

    A call is written as zoom(98, 0, 112, 14), a picture as <image>."""
    content = message.get("content") or ""
    if message["role"] == "tool":
        was_refused = isinstance(content, str)  # with this text; else a list with a picture
        return "tool", content if was_refused else "<image>"
    calls = message.get("tool_calls") or []
    # said: the text within the call, such as "98, 0, 112, 14"
    call_texts = [call["function"]["arguments"].get("said", "") for call in calls]
    return "assistant", _written_turn(content.strip(), call_texts)

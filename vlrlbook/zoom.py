"""Task `zoom`: drawn pictures with details too small to see at first, a tool that enlarges a part, and a
picture that shows what a model looked at.

How a call is written and how an answer of several turns is kept is in `readers/turns`; how a model is taught
to call, asked and trained in `zoom_turns`. Page 10a is about it. Written by hand."""
import math
import random
from collections import Counter
from dataclasses import replace
from itertools import product
from typing import Any, NoReturn

from PIL import Image, ImageDraw

from .core import Sample
from .data import counting_answer, disc_colours
from .geometry import rescaled, unit_of
from .pointing import model_scale, shown_size
from .readers.turns import looks_of, read_call, written

__all__ = ["zoom_weights", "card_grey", "full_side", "corner_share", "synthetic_zoom", "corner_of", "Eye",
           "CallRefused", "Looker", "answer_call", "zoom_lessons", "with_looks_drawn"]


# Drawn pictures

full_side = 448  # pixels of a drawn picture's side: four times what the tiny model is shown
corner_share = 4  # a corner is this part of the side: 112 of 448 pixels, which the tiny model sees in 28
zoom_weights = (1, 1, 1)  # how often 1, 2, … discs are drawn
card_grey = (205, 205, 205)  # red, green, blue of the card under small discs


def synthetic_zoom(
    n: int,  # samples
    seed: int = 0,  # same seed, same pictures
    small: float = 0.5,  # share of pictures whose discs are small and in one corner
    side: int = full_side,  # pixels of a picture's side; discs grow with it
) -> list:  # of `Sample`
    "Draw pictures of discs, over the whole picture or small and in one corner; each asks how many there are"
    rng, samples = random.Random(seed), []
    for row in range(1, n + 1):
        # 1 to 3 discs, all equally often (`zoom_weights`)
        count = rng.choices(range(1, len(zoom_weights) + 1), weights=zoom_weights)[0]
        image = _in_a_corner(count, rng, side) if rng.random() < small else _all_over(count, rng, side)
        samples.append(Sample("How many discs are there?", counting_answer(count), [image], "zoom", row))
    return samples


def _in_a_corner(
    count,  # discs
    rng,  # `random.Random`, which decides the corner, places, sizes and colours
    side,  # of the square picture, in pixels
):
    "A picture with small discs on a grey card that fills one of its corners"
    corner = side // corner_share  # pixels of the corner's side: a fourth of the picture's
    left, top = rng.choice((0, side - corner)), rng.choice((0, side - corner))
    image = Image.new("RGB", (side, side), "white")
    # In a picture that is scaled down, the discs are too small to see; the card still shows where they are.
    right, bottom = left + corner - 1, top + corner - 1
    ImageDraw.Draw(image).rectangle([left, top, right, bottom], fill=card_grey)
    _draw_discs(image, count, rng, region=(left, top, corner))
    return image


def _all_over(
    count,  # discs
    rng,  # `random.Random`, which decides places, sizes and colours
    side,  # of the square picture, in pixels; discs grow with it
):
    "A picture with large discs that lie anywhere, but not all in one corner"
    while True:
        image = Image.new("RGB", (side, side), "white")
        _draw_discs(image, count, rng, region=(0, 0, side))  # left, top and side: the whole picture
        # If all discs happen to lie in one corner, it is a picture as `_in_a_corner` draws: draw again.
        if _corner_with_all(image) is None:
            return image


def _draw_discs(
    image,  # changed
    count,  # discs
    rng,  # `random.Random`
    region,  # left, top and side of the square for the discs, in pixels
):
    "Draw discs that do not touch each other or the edge of a square region"
    left, top, size = region
    draw, discs = ImageDraw.Draw(image), []
    while len(discs) < count:
        disc = _free_disc(rng, size, discs)  # (x, y, radius), counted from the region's corner
        discs.append(disc)
        x, y, r = left + disc[0], top + disc[1], disc[2]
        draw.ellipse([x - r, y - r, x + r, y + r], fill=rng.choice(disc_colours))


def _free_disc(
    rng,  # `random.Random`
    size,  # pixels of a square's side
    others,  # discs that are in the square, (x, y, radius) each
):
    "A random disc, (x, y, radius), in a square, that touches neither its edge nor the others"
    # For a square of 112 pixels: radius 6 to 10, 1 to the edge, 2 between discs. Others in proportion.
    unit = size / 112
    # Where a place is too near to another disc the next is tried: there are so few discs that one is soon
    # found.
    while True:
        r = rng.uniform(6, 10) * unit
        first, last = r + unit, size - r - unit
        disc = rng.uniform(first, last), rng.uniform(first, last), r
        if not _is_too_near(disc, others, gap=2 * unit):
            return disc


def _is_too_near(
    disc,  # x, y, radius
    others,  # list of such discs
    gap,  # that must be free between the edges of two discs, in pixels
):
    "Whether a disc lies too near to any of the others"
    x, y, r = disc
    for other_x, other_y, other_r in others:
        if math.hypot(x - other_x, y - other_y) <= r + other_r + gap:
            return True
    return False


def corner_of(
    sample: Sample,  # from `synthetic_zoom`
) -> tuple | None:  # left, top, right, bottom in pixels; None where the discs lie over the whole picture
    "The corner in which all discs of a picture lie; they are then so small that the model must look closer"
    return _corner_with_all(sample.images[0])


def _corner_with_all(image):
    """The corner of a square white picture that holds all that is drawn in it: left, top, right, bottom.

    None if nothing is drawn, or if no corner holds all of it."""
    inverted = image.convert("L").point(lambda value: 255 - value)  # in grey; white becomes 0
    drawn = inverted.getbbox()  # the box around all pixels that are not 0; None if there are none
    if drawn is None:
        return None
    size = image.width // corner_share  # pixels of a corner's side: a fourth of the picture's
    near_and_far = 0, image.width - size  # where a corner begins, counted from the left or from the top
    for left, top in product(near_and_far, near_and_far):
        corner = left, top, left + size, top + size
        if _is_within(drawn, corner):
            return corner
    return None


def _is_within(inner, outer):
    "Whether one box, (left, top, right, bottom), lies within another"
    fits_across = outer[0] <= inner[0] and inner[2] <= outer[2]
    fits_down = outer[1] <= inner[1] and inner[3] <= outer[3]
    return fits_across and fits_down


# The tool

class Eye:
    "How a model sees a picture: in which size, and in which scale it writes coordinates"

    def __init__(self,
        processor,  # of the model
        scale: str = "pixels",  # pixels of the shown picture, thousandths or fractions
    ):
        self.processor, self.scale = processor, scale

    @classmethod
    def of(cls,
        model: str,  # hub id, directory, or `tiny-` and a family
        max_image_size: int = None,  # pixels squared that a picture may have; None: as its processor says
    ):
        "An `Eye` for the model of this name"
        return cls(*model_scale(model, max_image_size))  # its processor, and the name of its scale

    def shown(self,
        picture: Image.Image,  # as the question has it
    ) -> tuple:  # width and height in pixels
        "The size in which the model sees a picture"
        return shown_size(self.processor, picture.size)

    def bounds(self,
        picture: Image.Image,  # as the question has it
    ) -> tuple:  # the largest x and the largest y
        "Coordinates of a picture's right and lower edge as the model writes them, such as (1000.0, 1000.0)"
        return unit_of(self.scale, self.shown(picture))

    def said(self,
        box: tuple,  # left, top, right, bottom in pixels of the picture
        picture: Image.Image,  # as the question has it
    ) -> str:  # such as "zoom(98, 0, 112, 14)"
        "How the model would write a call of the tool for a part of a picture"
        numbers = rescaled(box, picture.size, self.bounds(picture))  # from pixels to the model's scale
        digits = 3 if self.scale == "fractions" else 0  # fractions: from 0 to 1; other scales: whole numbers
        arguments = ", ".join(f"{number:.{digits}f}" for number in numbers)
        return f"zoom({arguments})"

    def crop(self,
        box: tuple,  # x1, y1, x2, y2 in the model's scale; `Looker` has checked them
        picture: Image.Image,  # as the question has it
    ) -> Image.Image:
        """A part of a picture, enlarged so that the model sees it at full size.

        It is cut out of the picture itself, which may be larger than what the model was shown."""
        # from the model's scale to pixels of the picture
        left, top, right, bottom = rescaled(box, self.bounds(picture), picture.size)
        # whole pixels, rounded outwards
        first = math.floor(left), math.floor(top)
        last = math.ceil(right), math.ceil(bottom)
        # The processor scales large pictures down, but does not enlarge a small part.
        return _enlarged(picture.crop((*first, *last)), max(self.shown(picture)))


def _enlarged(picture, side):
    "A picture whose longer side has at least `side` pixels: enlarged if it is smaller, else as it is"
    factor = side / max(picture.size)
    if factor <= 1:
        return picture
    width, height = round(picture.width * factor), round(picture.height * factor)
    # the shorter side of a long picture may be rounded to 0, which `resize` refuses
    return picture.resize((max(1, width), max(1, height)), Image.Resampling.BICUBIC)


class CallRefused(ValueError):
    "Raised where a call of the tool gets a message instead of a picture; its text is `kind: why`"

    def __init__(self,
        kind: str,  # malformed, outside, swapped, thin or too_many, as in `refusals`
        why: str,  # in words, for the model
    ):
        super().__init__(f"{kind}: {why}")
        self.kind = kind


# One side of a crop may be at most so many times longer than the other: well below the 200 at which Qwen's
# processors raise an error.
LONGEST_SHAPE = 20


class Looker:
    """The tool `zoom` for one answer: it holds the picture, and counts calls (looks) and refused calls.

    TRL (1.16) makes one for each answer of a step, calls `reset` with the row, and offers every method
    without an underscore to the model as a tool: that is `zoom` alone."""

    def __init__(self,
        eye: Eye,  # how the model sees pictures: cuts and enlarges what a call asks for
        most: int,  # calls that are allowed in one answer
    ):
        "A tool without a picture yet, which `reset` gives it"
        self._eye, self._most = eye, most
        self.reset()

    def reset(self, images=None, **row):
        "Begin a new answer, on the first picture of a row; TRL calls it with the row's columns"
        # `row`: the other columns, which are not needed; without images every call is refused
        self._picture: Any = images[0].convert("RGB") if images else None
        self._looks, self._refused = 0, Counter()

    # A property, since TRL would offer a method to the model as a tool.
    @property
    def refused(self) -> Counter:  # kind of refusal → how many
        "How many calls of this answer were refused, by kind"
        return self._refused

    @property
    def calls(self) -> int:
        "How often the model has called the tool in this answer, refused calls included"
        return self._looks  # `_look`, which answers a call, counts it

    def zoom(self, x1: int, y1: int, x2: int, y2: int) -> list:
        """
        Look at a part of the picture again, enlarged.

        Args:
            x1: left edge
            y1: upper edge
            x2: right edge
            y2: lower edge

        Returns:
            The part of the picture
        """
        # The docstring is for the model: TRL makes the description of the tool from it and the signature.
        return self._look((x1, y1, x2, y2))

    def _look(self,
        box,  # x1, y1, x2, y2 in the model's scale; None if the call cannot be read
        fault="",  # why it cannot be read, in words; empty if it can
    ):
        "Answer a call of the tool with the enlarged part as a message; raise CallRefused for a bad call"
        self._looks += 1
        # `_refuse` raises CallRefused, and so does `_check` for a bad box. A refused call counts as a look.
        if fault:
            self._refuse("malformed", fault)
        if self._looks > self._most:
            self._refuse("too_many", f"only {self._most} allowed")
        if self._picture is None:
            self._refuse("outside", "there is no picture")
        self._check(box)
        return [{"type": "image", "image": self._eye.crop(box, self._picture)}]

    def _check(self,
        box,  # x1, y1, x2, y2 as the model wrote them, in its scale
    ):
        "Raise CallRefused where a box lies outside of the picture, or is empty or too thin to be shown"
        x1, y1, x2, y2 = box
        width, height = self._eye.bounds(self._picture)  # the largest x and y, in the model's scale
        largest_values = width, height, width, height  # of x1, y1, x2, y2
        # `_refuse` raises CallRefused.
        for name, value, largest in zip(("x1", "y1", "x2", "y2"), box, largest_values):
            if not 0 <= value <= largest:
                self._refuse("outside", f"{name} = {value}, 0 to {largest:g}")
        if x2 <= x1 or y2 <= y1:
            self._refuse("swapped", "x1 < x2, y1 < y2")
        # in pixels of the picture itself, from which the part is cut
        if _is_thin(rescaled(box, (width, height), self._picture.size)):
            self._refuse("thin", "too thin")

    def _refuse(self,
        kind,  # malformed, outside, swapped, thin or too_many
        why,  # in words, for the model
    ) -> NoReturn:
        "Count a refusal by its kind, and raise CallRefused with the text `kind: why`"
        self._refused[kind] += 1
        raise CallRefused(kind, why)




def _is_thin(box):
    "Whether a box, in pixels, is less than a pixel wide or high, or so long that no processor takes its crop"
    left, top, right, bottom = box
    shorter, longer = sorted((right - left, bottom - top))
    # 20 times (`LONGEST_SHAPE`): well below the 200 at which Qwen's processors raise an error
    return shorter < 1 or longer > LONGEST_SHAPE * shorter


def answer_call(
    looker: Looker,  # of the rollout
    said: str,  # what the model wrote within the call, such as "98, 0, 112, 14"
) -> list:  # a message of one part, the enlarged picture
    "Read a call of the tool and answer it; CallRefused, with words for the model, where that is impossible"
    call = read_call(said)  # its `box`, four numbers; or None, and in `fault` why it cannot be read
    # Not `Looker.zoom`, which takes four numbers: `_look` also takes a fault, refuses the call and counts it.
    return looker._look(call.box, call.fault)


# What the warm start of a tiny model is taught

# Where discs are small, this share of the calls goes to the corner with the discs, the others to any corner.
aimed = 0.95


def zoom_lessons(
    n: int,  # samples
    seed: int,  # of the pictures
    eye: Eye,  # of the tiny model: in which size it sees pictures, in which scale it writes coordinates
    looks: int = 1,  # 0: no answer calls the tool; any other number: an answer calls it once or not at all
    aiming: bool = False,  # True: small discs alone, each looked at, to teach where to look
) -> tuple:  # samples, and a text to each: "A photo of 3 discs", with a call in front if there is one
    """Questions with answers that teach a tiny model to call the tool, to aim the call, and to answer.

    Without `aiming` half of the answers call the tool, whether it is needed or not. When a call is needed
    is learnt later, by GRPO: the reward of task zoom is lower for an answer that calls the tool."""
    samples = synthetic_zoom(n, seed, small=1.0 if aiming else 0.5)
    share_with_call = 1.0 if aiming else 0.5
    rng, answers = random.Random(seed), []
    for sample in samples:
        calls_the_tool = looks and rng.random() < share_with_call
        answers.append(_answer_with_call(sample, eye, rng) if calls_the_tool else sample.answer)
    return samples, answers


def _answer_with_call(
    sample,  # `Sample` with a drawn picture and its true answer
    eye,  # `Eye` of a model: the size in which it sees pictures, the scale of its coordinates
    rng,  # `random.Random`
):
    """An answer that first looks at one corner of the picture, with ⏎ for a line break such as

    zoom(98, 0, 112, 14)⏎<tool_response><image></tool_response>⏎A photo of 3 discs"""
    picture = sample.images[0]
    corner = corner_of(sample)  # the corner with all discs; None where they lie over the whole picture
    # where discs lie all over there is nothing to aim at; of other calls 95 of 100 go to the discs (`aimed`)
    if corner is None or rng.random() >= aimed:
        corner = _any_corner(picture, rng)
    call = eye.said(corner, picture)  # such as "zoom(98, 0, 112, 14)"
    return written([("assistant", call), ("tool", "<image>"), ("assistant", sample.answer)])


def _any_corner(picture, rng):
    "One of the four corners of a square picture, at random: left, top, right, bottom in pixels"
    size = picture.width // corner_share  # a fourth of the picture's side
    far = picture.width - size
    left, top = rng.choice((0, far)), rng.choice((0, far))
    return left, top, left + size, top + size


# Both looks on one picture

# Of the frames around three parts that were looked at; told apart with any kind of colour blindness.
LOOK_COLOURS = ("#D55E00", "#0072B2", "#009E73")
GAP = 8  # white pixels between a picture and its crops


def with_looks_drawn(
    sample: Sample,  # of any task
    answers: list | tuple = (),  # with calls: zoom(98, 0, 112, 14)⏎<tool_response><image></tool_response>⏎A …
    eye: Eye = None,  # of the model: its scale of coordinates, the size of its crops; None: nothing is drawn
) -> Sample:  # for task zoom a copy with a picture that shows the calls; else the sample itself
    "Mark in a sample's picture the first three different boxes of calls, and add their crops beside it"
    if sample.task != "zoom" or not sample.images or eye is None:
        return sample
    # in the order in which they were first looked at
    boxes = {}  # box of a call → None: a set that keeps its order
    for text in answers:
        for call in looks_of(text):
            if call.box and not call.refused:  # the model got a picture
                boxes[call.box] = None
    first_boxes = list(boxes)[:len(LOOK_COLOURS)]  # as many as there are colours for frames: three
    return replace(sample, images=[_with_crops(sample.images[0], first_boxes, eye)])


def _with_crops(
    picture,
    boxes,  # x1, y1, x2, y2 each, in the model's scale; at most three
    eye,  # `Eye` of the model
):  # a wider picture; without boxes the same one
    "A picture with a coloured frame around each box and, in a column beside it, what the model saw of each"
    picture = picture.convert("RGB")
    if not boxes:
        return picture
    # pixels of a crop's longer side, at most, so that three fit below one another
    side = max(1, picture.height // len(LOOK_COLOURS) - GAP)
    # 4 pixels more, since the frame of a crop goes a pixel beyond it on the right (`_draw_look`)
    whole = Image.new("RGB", (picture.width + GAP + side + 4, picture.height), "white")
    whole.paste(picture)
    for number, (box, colour) in enumerate(zip(boxes, LOOK_COLOURS)):
        frame = rescaled(box, eye.bounds(picture), picture.size)  # left, top, right, bottom in pixels
        crop = eye.crop(box, picture)  # what the model got
        crop.thumbnail((side, side))  # made smaller if needed
        place = picture.width + GAP, number * (side + GAP)  # of the crop in the column: left, top
        _draw_look(whole, frame, crop, place, dict(outline=colour, width=max(2, picture.width // 150)))
    return whole


def _draw_look(
    whole,  # picture that is changed: the question's, with a white column beside it for the crops
    frame,  # left, top, right, bottom of the part that was looked at
    crop,  # picture of that part, as the model saw it, made smaller
    place,  # left and top of the crop in the column
    line,  # arguments of PIL's `rectangle`: outline (a colour) and width
):
    "Draw a frame around a part of a picture, and put what the model saw of it, framed alike, into the column"
    draw = ImageDraw.Draw(whole)
    left, top, right, bottom = frame
    # - 1: PIL's rectangle includes its last column and row, and those of a box are not part of it.
    draw.rectangle([left, top, right - 1, bottom - 1], **line)
    whole.paste(crop, place)
    x, y = place
    # one pixel beyond the crop, to the right and below: `_with_crops` has left room
    draw.rectangle((x, y, x + crop.width, y + crop.height), **line)

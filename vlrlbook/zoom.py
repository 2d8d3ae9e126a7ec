"""Task `zoom`: pictures of which some must be looked at twice, the tool that gives the second look, and how a
card shows both.

How a call is written and how an answer of several turns is kept stands in `readers/turns`; how a model is
taught to call, asked and trained in `zoom_turns`. No page tells of it yet. Written by hand."""
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

__all__ = ["zoom_weights", "full_side", "corner_share", "synthetic_zoom", "corner_of", "Eye",
           "CallRefused", "Looker", "answer_call", "zoom_lessons", "with_looks_drawn"]


# Drawn pictures

full_side = 224  # pixels of a drawn picture's side: four times what the twin is shown
corner_share = 4  # a corner is this part of the side: 56 of 224 pixels, which the twin sees in 14
zoom_weights = (1, 1, 1)  # how often 1, 2, … discs are drawn


def synthetic_zoom(
    n: int,  # samples
    seed: int = 0,  # same seed, same pictures
    small: float = 0.5,  # share of pictures whose discs are small and in one corner
    side: int = full_side,  # pixels of a picture's side; discs grow with it
) -> list:  # of `Sample`
    "Pictures of discs, over the whole picture or small in one corner, with the question how many there are"
    rng, samples = random.Random(seed), []
    for row in range(1, n + 1):
        count = rng.choices(range(1, len(zoom_weights) + 1), weights=zoom_weights)[0]
        image = _in_a_corner(count, rng, side) if rng.random() < small else _all_over(count, rng, side)
        samples.append(Sample("How many discs are there?", counting_answer(count), [image], "zoom", row))
    return samples


def _in_a_corner(count, rng, side):
    "A picture whose discs all lie in one corner"
    corner = side // corner_share
    left, top = rng.choice((0, side - corner)), rng.choice((0, side - corner))
    image = Image.new("RGB", (side, side), "white")
    _draw_discs(image, count, rng, (left, top, corner))
    return image


def _all_over(count, rng, side):
    "A picture whose discs lie anywhere, but not all in one corner"
    while True:
        image = Image.new("RGB", (side, side), "white")
        _draw_discs(image, count, rng, (0, 0, side))
        # a single disc may fall into a corner: then the picture would seem to be one of the other kind
        if _corner_with_all(image) is None:
            return image


def _draw_discs(image, count, rng, region):
    "Discs that do not touch, as chapter 01 draws them in 112 pixels, scaled to a square region"
    left, top, size = region
    draw, discs, unit = ImageDraw.Draw(image), [], size / 112
    # thrown again until it lies free; of so few and so small ones the next throw mostly does
    while len(discs) < count:
        r = rng.uniform(6, 10) * unit
        first, last = r + unit, size - r - unit
        x, y = rng.uniform(first, last), rng.uniform(first, last)
        if not _is_free((x, y, r), discs, 2 * unit):
            continue
        discs.append((x, y, r))
        x, y = left + x, top + y
        draw.ellipse([x - r, y - r, x + r, y + r], fill=rng.choice(disc_colours))


def _is_free(disc, others, gap):
    "Whether a disc, (x, y, radius), keeps a gap to all others"
    x, y, r = disc
    for other_x, other_y, other_r in others:
        if math.hypot(x - other_x, y - other_y) <= r + other_r + gap:
            return False
    return True


def corner_of(
    sample: Sample,  # from `synthetic_zoom`
) -> tuple | None:  # left, top, right, bottom in pixels; None where the discs lie over the whole picture
    "The corner in which all discs of a picture lie: what a look is needed for"
    return _corner_with_all(sample.images[0])


def _corner_with_all(image):
    "The corner that holds everything drawn in a picture"
    # white is 255 in every channel: what is not white stays when the picture is turned round
    ink = image.convert("L").point(lambda value: 255 - value).getbbox()
    if ink is None:
        return None
    corner = image.width // corner_share
    places = 0, image.width - corner
    for left, top in product(places, places):
        right, bottom = left + corner, top + corner
        begins_inside = left <= ink[0] and top <= ink[1]
        if begins_inside and ink[2] <= right and ink[3] <= bottom:
            return left, top, right, bottom
    return None


# The tool

class Eye:
    "In which size a model sees a picture, and in which scale it writes a coordinate"

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
        "The eye of a model by its name"
        return cls(*model_scale(model, max_image_size))

    def shown(self,
        picture: Image.Image,  # as the question has it
    ) -> tuple:  # width and height in pixels
        "The size in which the model sees a picture"
        return shown_size(self.processor, picture.size)

    def bounds(self,
        picture: Image.Image,  # as the question has it
    ) -> tuple:  # the largest x and the largest y
        "Where a picture ends, in the model's scale"
        return unit_of(self.scale, self.shown(picture))

    def said(self,
        box: tuple,  # left, top, right, bottom in pixels of the picture
        picture: Image.Image,  # as the question has it
    ) -> str:  # such as "zoom(98, 0, 112, 14)"
        "The call that asks for a part of a picture"
        numbers = rescaled(box, picture.size, self.bounds(picture))
        digits = 3 if self.scale == "fractions" else 0
        inside = ", ".join(f"{number:.{digits}f}" for number in numbers)
        return f"zoom({inside})"

    def crop(self,
        box: tuple,  # x1, y1, x2, y2 in the model's scale, looked at by `Looker`
        picture: Image.Image,  # as the question has it
    ) -> Image.Image:
        "A part of a picture, from the picture itself and not from what the model saw, scaled up to be seen"
        left, top, right, bottom = rescaled(box, self.bounds(picture), picture.size)
        # whole pixels, rounded outwards
        first = math.floor(left), math.floor(top)
        last = math.ceil(right), math.ceil(bottom)
        part = picture.crop((*first, *last))
        # A small part would be shown as small as it is. The longer side becomes that of the shown picture;
        # what is larger is scaled down by the processor, like any picture.
        factor = max(self.shown(picture)) / max(part.size)
        if factor > 1:
            width, height = round(part.width * factor), round(part.height * factor)
            part = part.resize((max(1, width), max(1, height)), Image.Resampling.BICUBIC)
        return part


class CallRefused(ValueError):
    "A call that gets words in place of a picture; its text begins with a key of `refusals`"

    def __init__(self,
        kind: str,  # a key of `refusals`
        why: str,  # in words, for the model
    ):
        super().__init__(f"{kind}: {why}")
        self.kind = kind


LONGEST_SHAPE = 20  # times that one side of a crop may be longer than the other; Qwen's processors refuse 200


class Looker:
    """The tool of one rollout: it knows the picture, and how many looks are left.

    TRL (1.16) makes one for each answer of a step, calls `reset` with the row, and offers every method
    without an underscore to the model: `zoom` alone."""

    def __init__(self,
        eye: Eye,  # of the model
        most: int,  # looks that are allowed in one answer
    ):
        self._eye, self._most = eye, most
        self.reset()

    def reset(self, images=None, **row):
        "Begin a rollout on the first picture of a row"
        self._picture: Any = images[0].convert("RGB") if images else None
        self._looks, self._refused = 0, Counter()

    @property
    def refused(self) -> Counter:  # kind of refusal → how many
        "What was refused in this rollout; TRL does not offer properties to the model"
        return self._refused

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
        return self._look((x1, y1, x2, y2))

    def _look(self, box, fault=""):
        "A message with the crop as its picture"
        self._looks += 1
        if fault:
            self._refuse("malformed", fault)
        if self._looks > self._most:
            self._refuse("too_many", f"only {self._most} allowed")
        if self._picture is None:
            self._refuse("outside", "there is no picture")
        self._check(box)
        return [{"type": "image", "image": self._eye.crop(box, self._picture)}]

    def _check(self, box):
        "Refuse corners that enclose nothing of the picture"
        x1, y1, x2, y2 = box
        width, height = self._eye.bounds(self._picture)
        ends = width, height, width, height
        for name, value, end in zip(("x1", "y1", "x2", "y2"), box, ends):
            if not 0 <= value <= end:
                self._refuse("outside", f"{name} = {value}, 0 to {end:g}")
        if x2 <= x1 or y2 <= y1:
            self._refuse("swapped", "x1 < x2, y1 < y2")
        # in pixels of the picture itself
        left, top, right, bottom = rescaled(box, (width, height), self._picture.size)
        sides = right - left, bottom - top
        if min(sides) < 1 or max(sides) > LONGEST_SHAPE * min(sides):
            self._refuse("thin", "too thin")

    def _refuse(self, kind, why) -> NoReturn:
        "Count a refusal and raise it"
        self._refused[kind] += 1
        raise CallRefused(kind, why)


def answer_call(
    looker: Looker,  # of the rollout
    said: str,  # what stands in the call, as it was said
) -> list:  # parts of a message, the crop its picture
    "What a call gives; CallRefused, with words for the model, for one that cannot be answered"
    call = read_call(said)
    return looker._look(call.box, call.fault)


# What the warm start of a twin is taught

aimed = 0.5  # share of the lessons' looks at small discs that go to their corner; the others to any


def zoom_lessons(
    n: int,  # samples
    seed: int,  # of the pictures
    eye: Eye,  # of the twin
    looks: int = 1,  # 0: answers without a look
) -> tuple:  # samples, what would be said to each in the written form of `readers/turns`
    """The form of a call and of an answer, and a little seeing: half of the lessons look, needed or not.

    When a look is worth its price, and where to look, is left to be learned."""
    samples, rng, said = synthetic_zoom(n, seed), random.Random(seed), []
    for sample in samples:
        if not looks or rng.random() < 0.5:
            said.append(sample.answer)
            continue
        picture, corner = sample.images[0], corner_of(sample)
        if corner is None or rng.random() >= aimed:
            corner = _any_corner(picture, rng)
        call = eye.said(corner, picture)
        said.append(written([("assistant", call), ("tool", "<image>"), ("assistant", sample.answer)]))
    return samples, said


def _any_corner(picture, rng):
    "One of the four corners of a picture"
    size = picture.width // corner_share
    far = picture.width - size
    left, top = rng.choice((0, far)), rng.choice((0, far))
    return left, top, left + size, top + size


# Both looks on one picture

LOOK_COLOURS = ("#D55E00", "#0072B2", "#009E73")  # told apart with any kind of colour blindness
GAP = 8  # white pixels between a picture and its crops


def with_looks_drawn(
    sample: Sample,  # of any task
    answers: list | tuple = (),  # texts in the written form of `readers/turns`
    eye: Eye = None,  # of the model; None: the picture alone
) -> Sample:  # of task zoom a copy whose picture shows the calls and, beside it, what they gave
    "A sample as a card shows it: at most three different looks, each framed in its colour"
    if sample.task != "zoom" or not sample.images or eye is None:
        return sample
    boxes = {}  # a dict keeps the order of first sight
    for text in answers:
        given = [look for look in looks_of(text) if look.box and not look.refused]
        boxes |= {look.box: None for look in given}
    some = list(boxes)[:len(LOOK_COLOURS)]
    return replace(sample, images=[_beside(sample.images[0], some, eye)])


def _beside(picture, boxes, eye):
    "A picture with frames, and the crops in a column beside it"
    picture = picture.convert("RGB")
    if not boxes:
        return picture
    side = max(1, picture.height // len(LOOK_COLOURS) - GAP)
    # 4 more, for the frame of the crop
    whole = Image.new("RGB", (picture.width + GAP + side + 4, picture.height), "white")
    whole.paste(picture)
    draw = ImageDraw.Draw(whole)
    line = max(2, picture.width // 150)
    for number, (box, colour) in enumerate(zip(boxes, LOOK_COLOURS)):
        left, top, right, bottom = rescaled(box, eye.bounds(picture), picture.size)
        draw.rectangle([left, top, right - 1, bottom - 1], outline=colour, width=line)
        crop = eye.crop(box, picture)
        crop.thumbnail((side, side))
        place = picture.width + GAP, number * (side + GAP)
        whole.paste(crop, place)
        end = place[0] + crop.width, place[1] + crop.height
        draw.rectangle((*place, *end), outline=colour, width=line)
    return whole

"""Task `pointing`: drawn pictures, boxes that others wrote, the scale of a model, boxes on pictures.

What a box is stands in `geometry`, how one is read in a text in `readers/boxes`, what it earns in chapter 02.
Page 10 tells all of it. Written by hand."""
import io
import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .archive import DataError
from .core import Sample
from .data import disc_colours
from .folders import write_whole
from .geometry import box_fault, centre, matched, of_corner_and_size, rescaled, scale_of_family, unit_of
from .readers.boxes import box_truth, read_box_truth, read_boxes
from .rows.columns import is_nothing
from .rows.files import read_rows
from .rows.gate import inspect_vqa
from .rows.pictures import located, picture_list
from .rows.values import as_list
from .settings import nearest

__all__ = ["synthetic_pointing", "drawn_for", "model_scale", "shown_size", "scaled_truth", "in_scale_of",
           "with_good_boxes",
           "coco_rows", "refcoco_rows", "convert_boxes", "draw_boxes", "with_boxes_drawn"]


# Drawn pictures

disc_radius = (12 / 112, 24 / 112)  # of the picture's side, from the smallest to the largest disc
full_side = 112  # pixels of a drawn picture's side where nothing smaller is asked for
gap = 2  # pixels between two discs


def synthetic_pointing(
    n: int,  # samples
    seed: int = 0,  # same seed, same pictures
    most: int = 1,  # discs in a picture, at most; each number from 1 on is as frequent
    side: int = full_side,  # pixels of a picture's side; discs grow with it
) -> list:  # of `Sample`, their truths in pixels
    "Pictures of discs with the question where they are"
    rng, samples = random.Random(seed), []
    question = "Where is the disc?" if most == 1 else "Where are the discs?"
    for row in range(1, n + 1):
        # chance is not asked where there is no choice, so that pictures of one disc stay as they are
        count = rng.randint(1, most) if most > 1 else 1
        image, boxes = _drawn(count, rng, side)
        truth = box_truth(boxes, "pixels", image.size)
        samples.append(Sample(question, truth, [image], "pointing", row))
    return samples


def _drawn(count, rng, side):
    "A picture of discs that do not touch, and their boxes from left to right"
    image = Image.new("RGB", (side, side), "white")
    draw, discs = ImageDraw.Draw(image), []
    smallest_and_largest = [round(side * share) for share in disc_radius]
    # thrown again until it lies free; three of the largest still find room
    while len(discs) < count:
        r = rng.randint(*smallest_and_largest)
        first, last = r + 1, side - r - 2
        x, y = rng.randint(first, last), rng.randint(first, last)
        if not _is_free(x, y, r, discs):
            continue
        discs.append((x, y, r))
        draw.ellipse([x - r, y - r, x + r, y + r], fill=rng.choice(disc_colours))
    boxes = []
    for x, y, r in sorted(discs):
        # a box ends behind its last pixel, so that its width is a number of pixels
        boxes.append((x - r, y - r, x + r + 1, y + r + 1))
    return image, boxes


def _is_free(x, y, r, discs):
    "Whether a disc touches none of the others"
    for other_x, other_y, other_r in discs:
        if math.hypot(x - other_x, y - other_y) <= r + other_r + gap:
            return False
    return True


def drawn_for(
    model: str,  # as for `model_scale`
    max_image_size: int = None,  # as for `model_scale`
):  # (n, seed) → list of `Sample`
    "`synthetic_pointing` with truths in a model's own scale"
    processor, scale = model_scale(model, max_image_size)
    # drawn as small as they are shown: nothing is lost by resizing
    side = min(full_side, max_image_size or full_side)

    def draw(n, seed):
        samples = []
        for sample in synthetic_pointing(n, seed, side=side):
            size = sample.images[0].size
            truth = scaled_truth(sample.answer, size, processor, scale, sample.row)
            samples.append(replace(sample, answer=truth))
        return samples

    return draw


# The scale of a model

def model_scale(
    model: str,  # hub id, directory, or `tiny-` and a family
    max_image_size: int = None,  # pixels squared that a picture may have; None: as the model's processor says
) -> tuple:  # its processor, and pixels, thousandths or fractions
    "How a model's family writes a coordinate, and the processor that decides in which size it sees a picture"
    # here, since whoever looks through a file of boxes needs no torch
    from .models import load_processor, model_type
    family = model.removeprefix("tiny-") if model.startswith("tiny-") else model_type(model)
    processor = load_processor(model, max_image_size)
    return processor, scale_of_family.get(family, "thousandths")


def shown_size(
    processor,  # of a model
    size: tuple,  # width and height of a picture in pixels
) -> tuple:  # width and height in which the model sees it
    "A picture's size after the processor's own resizing; that of a family that does not resize so stays"
    images = processor.image_processor
    if not hasattr(images, "merge_size"):
        return size
    # the processor's own function, so that a change of its rounding is a change here too
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize
    limits = dict(min_pixels=images.size["shortest_edge"], max_pixels=images.size["longest_edge"])
    height, width = smart_resize(size[1], size[0], images.patch_size * images.merge_size, **limits)
    return width, height


same_shape = 0.02  # largest relative difference between the sides' ratios of two sizes of one picture


def scaled_truth(
    answer: str,  # a row's truth
    size: tuple,  # width and height of its picture in pixels
    processor,  # of the model
    scale: str,  # in which the model answers
    row: int = None,  # for messages
) -> str:  # the same boxes in that scale, with the size in which the model sees the picture
    "A truth as a model has to say it; DataError where it is no truth, or of a picture of another shape"
    truth = _checked_truth(answer, size, row)
    shown = shown_size(processor, size)
    unit, wanted = unit_of(truth.scale, truth.size), unit_of(scale, shown)
    boxes = [rescaled(box, unit, wanted) for box in truth.boxes]
    said = box_truth(boxes, scale, shown)
    # rounding may take a small box its area; what has none can be earned by no answer
    if any(box_fault(box) for box in read_box_truth(said).boxes):
        message = f"a box has no area in {scale} of {_by(shown)}, in which the model sees the picture"
        raise DataError("box.small", f"{message}: a larger max_image_size shows it", row=row)
    return said


def _checked_truth(answer, size, row):
    "A truth that says its scale, and whose boxes are of a picture of this shape"
    truth = read_box_truth(answer)
    if not truth.size or not truth.boxes:
        expected = "expected such as '[12, 40, 31, 59] in pixels of 112 x 112'"
        raise DataError("box.truth", f"{answer[:60]!r}: {expected}", row=row)
    if not _same_shape(truth.size, size):
        message = f"boxes in a picture of {_by(truth.size)}, but the picture has {_by(size)}: another shape"
        raise DataError("box.size", message, row=row)
    return truth


def _truth_of(row):
    "Truth and picture size of a stored row"
    pictures, number = row["images"], row["row"]
    if len(pictures) != 1:
        raise DataError("box.pictures", f"{len(pictures)} pictures, expected one", row=number)
    size = _size_of(pictures[0])
    return _checked_truth(row["answer"], size, number), size


def _same_shape(size, other):
    "Whether two sizes can be of one picture: then it was only made larger or smaller"
    ratio = size[0] / size[1]
    return abs(ratio * other[1] / other[0] - 1) <= same_shape


def _by(size):
    "A size as people write it"
    return f"{size[0]} x {size[1]}"


def in_scale_of(
    dataset,  # of rows with a picture and a truth of boxes, made by chapter 01
    model: str,  # as for `model_scale`
    max_image_size: int = None,  # as for `model_scale`
):  # datasets.Dataset with the same rows
    "A data set whose truths are written as the model has to say them"
    processor, scale = model_scale(model, max_image_size)
    truths = []
    for row in _undecoded(dataset):
        _, size = _truth_of(row)
        truths.append(scaled_truth(row["answer"], size, processor, scale, row["row"]))
    columns = dataset.column_names
    rewritten = dataset.remove_columns("answer").add_column("answer", truths)
    return rewritten.select_columns(columns)  # in the order in which they were


def with_good_boxes(
    dataset,  # of rows with a picture and a truth of boxes, made by chapter 01
):  # the same data set
    "Look whether every row's boxes are of its picture; a `DataError` names the first that are not"
    for row in _undecoded(dataset):
        _truth_of(row)
    return dataset


def _undecoded(dataset):
    "Rows as dicts, pictures as they are stored"
    for batch in dataset.with_format("arrow").iter(64):
        yield from batch.to_pylist()


def _size_of(picture):
    "Width and height of a stored picture, by its head alone"
    source = io.BytesIO(picture["bytes"]) if picture["bytes"] else picture["path"]
    with Image.open(source) as image:
        return image.size


# Boxes that others wrote

def coco_rows(
    path: str | Path,  # .json with images, annotations and categories
) -> tuple:  # list of (number, row), list of notes (sentence, how many)
    "A row for each picture and category of a COCO file; `DataError` names the first bad entry and its field"
    path = Path(path)
    whole = _coco_file(path)
    images, categories = (_by_id(whole, name, path) for name in ("images", "categories"))
    boxes, crowds = {}, set()  # (image, category) → boxes; those that hold a crowd
    for number, one in enumerate(whole["annotations"], 1):
        place = f"annotations[{number - 1}]"
        key = (_known_id(one, "image_id", images, place, path),
               _known_id(one, "category_id", categories, place, path))
        size = _image_size(images[key[0]], f"image {key[0]}", path)
        numbers = _four_numbers(_field(one, "bbox", place, path), f"{place}.bbox", path, number)
        box = _inside(of_corner_and_size(numbers), size, f"{place}.bbox", path, number)
        boxes.setdefault(key, []).append(box)
        if one.get("iscrowd"):
            crowds.add(key)
    rows = []
    for key, found in boxes.items():
        # a crowd is one box around many: how many boxes are right, nobody knows
        if key not in crowds:
            row = _coco_row(images[key[0]], categories[key[1]], found, path)
            rows.append((len(rows) + 1, row))
    note = "a picture and a category with a crowd, whose boxes are not known: left out"
    return rows, [(note, len(crowds))] if crowds else []


def _coco_row(image, category, boxes, path):
    "The row of a picture and a category"
    place = f"image {image['id']}"
    size = _image_size(image, place, path)
    name = _field(category, "name", f"category {category['id']}", path)
    # from left to right, so that the same picture always has the same truth
    truth = box_truth(sorted(boxes), "pixels", size)
    question = f"Find every {name}: give each box as [x1, y1, x2, y2]."
    return dict(question=question, answer=truth, images=[_field(image, "file_name", place, path)])


def _by_id(whole, name, path):
    "Entries of one of a COCO file's lists by their id"
    entries = {}
    for i, entry in enumerate(whole[name]):
        entries[_field(entry, "id", f"{name}[{i}]", path)] = entry
    return entries


def _known_id(entry, name, known, place, path):
    "An id that an entry of another list has"
    value = _field(entry, name, place, path)
    if value not in known:
        raise DataError("coco.id", f"{path.name}: {place}.{name} = {value!r}, which no entry has")
    return value


def _coco_file(path):
    "The JSON object of a COCO file, with its three lists"
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError("coco.file", f"{path.name}: no JSON ({error})") from error
    for name in ("images", "annotations", "categories"):
        found = whole.get(name) if isinstance(whole, dict) else None
        if not isinstance(found, list) or not found:
            raise DataError("coco.file", f"{path.name}: no list {name!r}, which a COCO file has")
    return whole


def _field(entry, name, place, path):
    "A field that must be there"
    value = entry.get(name) if isinstance(entry, dict) else None
    if value in (None, ""):
        raise DataError("coco.field", f"{path.name}: {place} has no {name!r} (there are: {_names(entry)})")
    return value


def _names(entry):
    "What an entry has, for messages"
    return ", ".join(map(str, entry))[:100] if isinstance(entry, dict) else type(entry).__name__


def _image_size(image, place, path):
    "Width and height of a picture as an annotation file says them"
    size = tuple(_field(image, name, place, path) for name in ("width", "height"))
    for side in size:
        if not isinstance(side, int) or side <= 0:
            message = f"{path.name}: {place} has width and height {size}, expected whole numbers above 0"
            raise DataError("coco.field", message)
    return size


def _four_numbers(value, place, path, number):
    "A box as four finite numbers"
    numbers = value
    if isinstance(value, str):
        # a table that was written as CSV holds a box as text
        numbers = list(sum(read_boxes(value).boxes, ()))
    numbers = as_list(numbers) or []
    finite = [one for one in numbers if isinstance(one, (int, float)) and math.isfinite(one)]
    if len(numbers) != 4 or len(finite) != 4:
        message = f"{path.name}: {place} = {str(value)[:60]}, expected four numbers"
        raise DataError("box.numbers", message, row=number)
    return tuple(map(float, numbers))


over_the_edge = 1.0  # pixels that a box may stand over its picture's edge, by rounding


def _inside(box, size, place, path, number):
    "A box that lies in its picture and has an area, cut at the edge where rounding put it over"
    if box_fault(box):
        raise DataError("box.fault", f"{path.name}: {place} has {box_fault(box)}", row=number)
    width, height = size
    over = max(-box[0], -box[1], box[2] - width, box[3] - height)
    if over > over_the_edge:
        message = (f"{path.name}: {place} ends at {box[2]:g}, {box[3]:g}, the picture is {_by(size)}: "
                   "another scale, or corners where width and height were expected?")
        raise DataError("box.outside", message, row=number)
    return max(0.0, box[0]), max(0.0, box[1]), min(width, box[2]), min(height, box[3])


# Phrase, box and picture in RefCOCO's own files and in what was made of them; the first that is there counts
_columns = (("expression", "sentence", "sent", "phrase", "referring_expression", "ref", "question",
             "caption"),
            ("bbox", "box", "bbox_2d"),
            ("image", "images", "file_name", "image_path", "image_file"))
box_forms = ("xywh", "xyxy")


def refcoco_rows(
    path: str | Path,  # rows in .jsonl, .json, .csv, .tsv or .parquet: a phrase, a picture and a box each
    form: str = "xywh",  # xywh: corner, width and height, as RefCOCO's own; xyxy: two corners
    image_dir: str | Path | None = None,  # where picture paths begin; None: beside the file
) -> tuple:  # list of (number, row), list of notes (sentence, how many)
    "A row for each phrase; the picture's size is the row's `width` and `height`, else the file's own"
    if form not in box_forms:
        raise DataError("box.form", f"form = {form!r}{nearest(form, list(box_forms))}")
    path = Path(path)
    place, found = Path(image_dir) if image_dir else path.parent, []
    for number, raw in read_rows(path):
        phrase, column, picture = (_column(raw, names, number, path) for names in _columns)
        numbers = _four_numbers(raw[column], column, path, number)
        size = _row_size(raw, raw[picture], place, number, path)
        corners = of_corner_and_size(numbers) if form == "xywh" else numbers
        box = _inside(corners, size, column, path, number)
        truth = box_truth([box], "pixels", size)
        # RefCOCO gives a box several phrases of several people: each is a question of its own
        for said in as_list(raw[phrase]) or [raw[phrase]]:
            question = said if phrase == "question" else _asked_for(said)
            found.append((number, dict(question=question, answer=truth, images=raw[picture])))
    return found, []


def _asked_for(phrase):
    "The question for a phrase"
    return f"Where is {phrase}? Give its box as [x1, y1, x2, y2]."


def _column(raw, names, number, path):
    "The first of some columns that a row has"
    for name in names:
        if isinstance(raw, dict) and not is_nothing(raw.get(name)):
            return name
    message = f"{path.name}: none of {', '.join(names)} (there are: {_names(raw)})"
    raise DataError("box.column", message, row=number)


def _row_size(raw, picture, place, number, path):
    "Width and height: the row's own, or those of its picture"
    if raw.get("width") and raw.get("height"):
        said = dict(width=raw["width"], height=raw["height"])
        return _image_size(said, f"row {number}", path)
    pictures = picture_list(picture, number)
    if len(pictures) != 1:
        raise DataError("box.pictures", f"{path.name}: {len(pictures)} pictures, expected one", row=number)
    found = located(pictures[0], place, number)
    try:
        return _size_of(dict(bytes=found) if isinstance(found, bytes) else dict(bytes=None, path=found))
    except OSError as error:
        why = f"the picture cannot be opened ({type(error).__name__})"
        message = f"{path.name}: no width and height, and {why}"
        raise DataError("image.decode", message, row=number) from error


def convert_boxes(
    input_path: str | Path,  # a COCO file (.json: images, annotations and categories), or RefCOCO-style rows
    output_jsonl: str | Path,  # written whole or not at all
    image_dir: str | Path | None = None,  # where picture paths begin; None: beside the input
    form: str = "xywh",  # of the boxes in rows: xywh or xyxy; a COCO file always has xywh
    skip_bad_rows: bool = False,  # leave rows out whose picture cannot be used; False stops at the first
    tell=None,  # called with the gate's report, such as `print`
) -> int:  # rows written
    "Boxes of others as rows of task `pointing`, looked through by the gate of all rows, truths in pixels"
    path, output = Path(input_path), Path(output_jsonl)
    # as `convert_vqa` refuses it: a killed run would leave neither
    if output.resolve() == path.resolve():
        raise DataError("file.kind", f"{output.name}: the output is the input")
    rows, notes = coco_rows(path) if _is_coco(path) else refcoco_rows(path, form, image_dir)
    kept, report = inspect_vqa(path, image_dir, rows=rows)
    if report.skipped and not skip_bad_rows:
        raise report.refusal()
    if not kept:
        raise DataError("row.none", f"{path.name}: none of {report.rows} rows can be used")
    report.notes += notes
    lines = []
    for number, row in kept:
        # a picture inside a row would need a file of its own; RefCOCO's and COCO's lie in folders
        if any(isinstance(picture, bytes) for picture in row.pictures):
            message = f"{path.name}: its picture is in the row: save it as a file"
            raise DataError("image.bytes", message, row=number)
        # absolute, as the gate found them: the output may lie elsewhere
        line = dict(prompt=row.question, answer=row.answer, images=row.pictures)
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_whole(output, "".join(lines))
    if tell:
        tell(report)
    return len(lines)


def _is_coco(path):
    "Whether a file is one object with annotations, not a table of rows"
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    return re.search(r'"annotations"\s*:', path.read_text(encoding="utf-8", errors="replace")) is not None


# Boxes on pictures

truth_colour, answer_colours = "#009E73", ("#D55E00", "#0072B2", "#CC79A7", "#8a8a8a")
drawn_side = 336  # pixels of the longer side of a picture with boxes on it


def draw_boxes(
    image: Image.Image,  # the picture
    truth: str,  # of the row
    answers: list | tuple = (),  # texts; each has its colour and its number
    side: int = drawn_side,  # pixels of the longer side
) -> Image.Image:  # RGB
    "A picture with true boxes in green, each answer's in a colour of its own, a line from each to its truth"
    known = read_box_truth(truth)
    factor = side / max(image.size)
    size = round(image.width * factor), round(image.height * factor)
    # NEAREST: a tiny picture made large should show its pixels, since these are what the model gets
    canvas = image.convert("RGB").resize(size, Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(canvas)
    unit = unit_of(known.scale or "pixels", known.size or image.size)
    shown = [rescaled(box, unit, size) for box in known.boxes]
    for box in shown:
        draw.rectangle(box, outline=truth_colour, width=4)
    for number, text in enumerate(answers, 1):
        colour = answer_colours[(number - 1) % len(answer_colours)]
        _draw_answer(draw, text, number, colour, shown, unit, size)
    return canvas


def _draw_answer(draw, text, number, colour, truths, unit, size):
    "One answer: its boxes with number and IoU, or its points; what lies outside the picture is not seen"
    said = read_boxes(text)
    boxes = [rescaled(box, unit, size) for box in said.boxes]
    partners = {}  # place of a box → its truth, and their IoU
    for place, truth, iou in matched(boxes, truths):
        partners[place] = truths[truth], iou
    font = ImageFont.load_default(13)
    for place, box in enumerate(boxes):
        if box_fault(box):
            continue  # swapped corners enclose nothing
        draw.rectangle(box, outline=colour, width=2)
        truth, iou = partners.get(place, (box, 0.0))
        draw.line([centre(box), centre(truth)], fill=colour, width=1)
        _label(draw, box, number, f"{number}: {iou:.2f}", colour, font)
    for point in said.points:
        x, y = rescaled(point, unit, size)
        draw.ellipse([x - 4, y - 4, x + 4, y + 4], outline=colour, width=2)


def _label(draw, box, number, text, colour, font):
    "Number and IoU on white in a corner of the box; four answers have four corners, so that all can be read"
    width, height = font.getlength(text) + 4, 15
    right, low = (number - 1) // 2 % 2, (number - 1) % 2
    left, top = (box[2] - width if right else box[0]), (box[3] - height if low else box[1])
    draw.rectangle([left, top, left + width, top + height], fill="white", outline=colour)
    draw.text((left + 2, top + 1), text, fill=colour, font=font)


def with_boxes_drawn(
    sample: Sample,  # of any task
    answers: list | tuple = (),  # texts to draw
) -> Sample:  # of task pointing a copy whose picture shows truth and answers; any other as it is
    "A sample as a card shows it"
    if sample.task != "pointing" or not sample.images:
        return sample
    return replace(sample, images=[draw_boxes(sample.images[0], sample.answer, answers)])

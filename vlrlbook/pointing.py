"""Task `pointing`: drawn pictures, boxes that others wrote, the scale of a model, boxes on pictures.

What a box is stands in `geometry`, how one is read in a text in `readers/boxes`, what it earns in chapter 02.
Page 10 tells all of it. Written by hand."""
import io
import json
import math
import random
import re
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

from PIL import ExifTags, Image, ImageDraw, ImageFont

from .archive import DataError
from .core import Sample
from .data import disc_colours
from .folders import write_whole
from .geometry import box_fault, centre, have_same_shape, matched, of_corner_and_size, rescaled
from .geometry import scale_of_family, unit_of
from .readers.boxes import answer_form, box_truth, most_boxes, read_box_truth, read_boxes
from .rows.columns import is_nothing
from .rows.files import read_rows
from .rows.gate import inspect_vqa
from .rows.pictures import located, picture_list
from .rows.values import as_list, is_finite_number, listed
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
    most: int = 1,  # discs in a picture: a random number from 1 to `most`
    side: int = full_side,  # pixels of a picture's side; discs grow with it
) -> list:  # of `Sample`, their truths in pixels
    "Draw pictures of discs, each with the question where they are and the true boxes"
    rng, samples = random.Random(seed), []
    question = "Where is the disc?" if most == 1 else "Where are the discs?"
    for row in range(1, n + 1):
        # for one disc no random number is drawn here, so that the pictures of a seed stay the same
        count = rng.randint(1, most) if most > 1 else 1
        image, boxes = _drawn(count, rng, side)
        truth = box_truth(boxes, "pixels", image.size)  # as text, with scale and size
        samples.append(Sample(question, truth, [image], "pointing", row))
    return samples


def _drawn(
    count,  # discs, three at most
    rng,  # `random.Random`, which decides places, sizes and colours
    side,  # of the square picture, in pixels
):
    "Draw discs that do not touch: returns (picture, their boxes in pixels from left to right)"
    image = Image.new("RGB", (side, side), "white")
    draw, discs = ImageDraw.Draw(image), []  # discs: (x, y, radius) of those that are drawn
    smallest, largest = [round(side * share) for share in disc_radius]  # 12 and 24 of 112 pixels
    # A disc that would touch another is drawn anew at random; there is room for three of the largest.
    while len(discs) < count:
        radius = rng.randint(smallest, largest)
        first, last = radius + 1, side - radius - 2  # keeps one pixel free at the picture's edges
        x, y = rng.randint(first, last), rng.randint(first, last)
        if not _is_free(x, y, radius, discs):  # too near to one that is drawn already
            continue
        discs.append((x, y, radius))
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=rng.choice(disc_colours))
    return image, [_box_around(*disc) for disc in sorted(discs)]


def _box_around(x, y, radius):
    "The box (x1, y1, x2, y2) of a disc that PIL has drawn around the pixel (x, y)"
    # the right and lower edge lie behind the last pixel: then x2 - x1 is the width in pixels
    return x - radius, y - radius, x + radius + 1, y + radius + 1


def _is_free(
    x, y, radius,  # of a disc, in pixels
    discs,  # (x, y, radius) of others
):
    "Whether a disc stays more than two pixels (`gap`) away from all others"
    for other_x, other_y, other_radius in discs:
        distance = math.hypot(x - other_x, y - other_y)  # between the centres
        if distance <= radius + other_radius + gap:
            return False
    return True


def drawn_for(
    model: str,  # hub id, directory, or `tiny-` and a family
    max_image_size: int = None,  # N: at most N × N pixels in all a picture; None: as its processor says
):  # (n, seed) → list of `Sample`
    "A function that draws pictures of discs whose truths are in the scale in which a model writes boxes"
    processor, scale = model_scale(model, max_image_size)
    # draw at the size in which the model sees them, so that nothing is lost by resizing
    side = min(full_side, max_image_size or full_side)
    return partial(_drawn_in_scale, processor, scale, side)


def _drawn_in_scale(
    processor,  # of a model: decides in which size it sees a picture
    scale,  # in which the model writes boxes: pixels, thousandths or fractions
    side,  # of each picture, in pixels
    n,  # samples
    seed,  # same seed, same pictures
):
    "Draw samples of one disc each, their true boxes as text in the scale in which a model answers"
    samples = []
    for sample in synthetic_pointing(n, seed, side=side):  # with truths in pixels
        size = sample.images[0].size
        truth = scaled_truth(sample.answer, size, processor, scale, sample.row)
        samples.append(replace(sample, answer=truth))
    return samples


# The scale of a model

def model_scale(
    model: str,  # hub id, directory, or `tiny-` and a family
    max_image_size: int = None,  # N: at most N × N pixels in all a picture; None: as its processor says
) -> tuple:  # its processor, and pixels, thousandths or fractions
    "How a model's family writes coordinates, and the processor that decides in which size it sees a picture"
    # imported here, since it needs torch, and looking through a file of boxes does not
    from .models import load_processor, model_type
    family = model.removeprefix("tiny-") if model.startswith("tiny-") else model_type(model)
    processor = load_processor(model, max_image_size)
    return processor, scale_of_family.get(family, "thousandths")


def shown_size(
    processor,  # of a model
    size: tuple,  # width and height of a picture in pixels
) -> tuple:  # width and height in which the model sees it
    """The size in which a model sees a picture, after the resizing by its processor

    The Qwen-VL families resize pictures in this way. For any other family the size is returned as it is."""
    image_processor = processor.image_processor
    if not hasattr(image_processor, "merge_size"):  # an attribute of Qwen-VL's processors
        return size
    # the library's own function, so that both always round alike
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize
    # despite their names the two limits are numbers of pixels of the whole picture
    limits = image_processor.size
    min_pixels, max_pixels = limits["shortest_edge"], limits["longest_edge"]
    # sides are rounded to a multiple of what one image token covers
    factor = image_processor.patch_size * image_processor.merge_size
    height, width = smart_resize(size[1], size[0], factor, min_pixels=min_pixels, max_pixels=max_pixels)
    return width, height


def scaled_truth(
    answer: str,  # a row's truth
    size: tuple,  # width and height of its picture in pixels
    processor,  # of the model
    scale: str,  # in which the model answers
    row: int = None,  # for messages
) -> str:  # the same boxes in that scale, with the size in which the model sees the picture
    """Convert a truth to the scale in which a model answers

    A `DataError` where it is no truth, or belongs to a picture with another ratio of width and height."""
    truth = _checked_truth(answer, size, row)  # boxes, scale and size; raises these `DataError`s
    size_for_model = shown_size(processor, size)
    # (width, height) of the whole picture, in the truth's numbers and in the model's
    unit, model_unit = unit_of(truth.scale, truth.size), unit_of(scale, size_for_model)
    boxes = [rescaled(box, unit, model_unit) for box in truth.boxes]
    converted = box_truth(boxes, scale, size_for_model)  # as text
    _refuse_empty_boxes(converted, scale, size_for_model, row)
    return converted


def _refuse_empty_boxes(
    converted,  # a truth as text, in the model's scale, such as "[12, 40, 31, 59] in pixels of 112 x 112"
    scale,  # that scale, for the message
    size,  # width and height in which the model sees the picture, for the message
    row,  # number of the row, for the message
):
    "Raise a `DataError` where a truth, converted to a model's scale, has a box without area"
    # Rounding may have done it to a small box, and then no answer could overlap it.
    if any(box_fault(box) for box in read_box_truth(converted).boxes):
        model_scale_text = f"{scale} of {_size_text(size)}"
        message = f"a box has no area in {model_scale_text}, in which the model sees the picture"
        raise DataError("box.small", f"{message}: a larger max_image_size shows it", row=row)


def _checked_truth(
    answer,  # the row's truth, such as "[12, 40, 31, 59] in pixels of 112 x 112"
    size,  # width and height of the row's picture
    row,  # its number, for messages
):
    """A row's truth as a `BoxTruth` (boxes, scale, size); a `DataError` where it is none or does not fit

    The size that the truth says may be another than the picture's, as after resizing, but of the same
    ratio."""
    truth = read_box_truth(answer)
    if not truth.size or not truth.boxes:
        # the form may be right, and the boxes not, such as more than a hundred of them
        fault = f"{read_boxes(answer_form(answer)).fault}, " if truth.size else ""
        expected = "expected such as '[12, 40, 31, 59] in pixels of 112 x 112'"
        raise DataError("box.truth", f"{answer[:60]!r}: {fault}{expected}", row=row)
    if not have_same_shape(truth.size, size):
        sizes = f"{_size_text(truth.size)}, but the picture has {_size_text(size)}"
        # such as a photo of a phone, whose boxes were taken from the picture as it is stored
        is_turned = have_same_shape(truth.size[::-1], size)
        turned = "it is turned (by its EXIF?), boxes must be of the upright picture"
        why = turned if is_turned else "another shape"
        raise DataError("box.size", f"boxes in a picture of {sizes}: {why}", row=row)
    return truth


def _truth_of(
    row,  # a dict: images ({bytes, path} each), answer (the truth as text), row (its number)
):
    "Check a stored row: returns (its `BoxTruth`, width and height of its picture), or raises a `DataError`"
    pictures, number = row["images"], row["row"]
    if len(pictures) != 1:
        raise DataError("box.pictures", f"{len(pictures)} pictures, expected one", row=number)
    size = _size_of(pictures[0])
    return _checked_truth(row["answer"], size, number), size


def _size_text(size):
    "A size as text, such as `640 x 480`"
    return f"{size[0]} x {size[1]}"


def in_scale_of(
    dataset,  # `datasets.Dataset` of rows with a picture and a truth of boxes
    model: str,  # hub id, directory, or `tiny-` and a family
    max_image_size: int = None,  # N: at most N × N pixels in all a picture; None: as its processor says
):  # datasets.Dataset with the same rows
    "Convert the truths of a data set to the scale in which a model answers; a `DataError` names a bad row"
    processor, scale = model_scale(model, max_image_size)  # scale: pixels, thousandths or fractions
    truths = []  # as texts
    for row in _undecoded(dataset):  # dicts whose pictures are bytes or a path
        _, size = _truth_of(row)  # width and height of the picture; raises the `DataError`
        number = row["row"]  # of the row in its file, for the message of an error
        truths.append(scaled_truth(row["answer"], size, processor, scale, number))
    columns = dataset.column_names
    rewritten = dataset.remove_columns("answer").add_column("answer", truths)
    return rewritten.select_columns(columns)  # in the order in which they were before


def with_good_boxes(
    dataset,  # `datasets.Dataset` of rows with a picture and a truth of boxes
):  # the same data set
    "Check that every row's boxes belong to its picture; a `DataError` names the first row where they do not"
    for row in _undecoded(dataset):
        _truth_of(row)  # called for its check only
    return dataset


def _undecoded(
    dataset,  # `datasets.Dataset` with a column of pictures
):
    "Yield the rows as dicts, each picture as its stored bytes or path: decoding all pictures would take long"
    # In Arrow's format `datasets` decodes nothing; 64 rows are read at a time.
    for batch in dataset.with_format("arrow").iter(64):
        yield from batch.to_pylist()


def _size_of(
    picture,  # as `datasets` stores it: {bytes: of the file, or None; path: read where there are no bytes}
):
    """Width and height of a stored picture in pixels, upright, as people and models see it

    A phone stores a photo as its sensor lay, and notes in EXIF how to turn it. Pixels are not decoded, with
    one exception: a PNG whose EXIF stands behind its pixels."""
    source = io.BytesIO(picture["bytes"]) if picture["bytes"] else picture["path"]
    with Image.open(source) as image:
        is_on_its_side = _exif_of(image).get(ExifTags.Base.Orientation, 1) in _on_its_side
        return image.size[::-1] if is_on_its_side else image.size


_on_its_side = (5, 6, 7, 8)  # values of EXIF's orientation that exchange width and height


def _exif_of(
    image,  # as `Image.open` returns it: its pixels are not decoded yet
):
    "The EXIF of a picture, as `image.getexif()` returns it, read without decoding the pixels where possible"
    if image.format != "PNG" or "exif" in image.info or _has_exif_behind_pixels(image.fp):
        return image.getexif()
    # This PNG has no EXIF behind its pixels. Its own `getexif` (Pillow 12.3) would decode all pixels to look
    # there, 300 times as slow; that of the base class reads only what stands in front of them.
    return Image.Image.getexif(image)


def _has_exif_behind_pixels(
    file,  # an open PNG; its place is left as it is
):
    """Whether a chunk behind the pixels of a PNG may say how to turn it; of a chunk only the head is read

    A file that breaks off has none."""
    place = file.tell()
    file.seek(8)  # behind the signature, where the first chunk begins
    is_behind, is_found = False, False
    while not is_found and len(head := file.read(8)) == 8:  # the length of its data, and its kind
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        begin = file.tell()
        is_behind = is_behind or kind == b"IDAT"
        may_turn = kind == b"eXIf" or file.read(30).startswith(_exif_texts)
        is_found = is_behind and may_turn
        file.seek(begin + length + 4)  # over the data and their checksum
    file.seek(place)
    return is_found


_exif_texts = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # keywords of text chunks that hold EXIF


# Boxes that others wrote

class _EmptyBox(DataError):
    """Raised for a box without area in whole pixels, which no answer can overlap

    Files of real photographs hold a few such boxes; `skip_bad_rows` leaves them out."""


_skip_advice = "skip_bad_rows leaves it out"
class _NoSize(DataError):
    "Raised for a row that says no width and height, and whose picture is missing or cannot be opened"


_empty_note = "a box without area in whole pixels: left out"
_no_size_note = "no width and height, and a picture that is missing or cannot be opened: left out"


def coco_rows(
    path: str | Path,  # .json with images, annotations and categories
    skip_bad_rows: bool = False,  # leave boxes without area out, and rows of over a hundred boxes
) -> tuple:  # list of (number, row), list of notes (sentence, how many)
    "Read a COCO file: a row for each picture and category; a `DataError` names the first bad entry and field"
    path, notes = Path(path), Counter()  # notes: what is left out → how often
    coco = _coco_file(path)
    images, categories = _by_id(coco, "images", path), _by_id(coco, "categories", path)
    # boxes: (image id, category id) → boxes; crowds: such pairs with an annotation of a crowd (iscrowd)
    boxes, crowds = _coco_boxes(coco["annotations"], images, categories, path, skip_bad_rows, notes)
    if crowds:
        notes["a picture and a category with a crowd, whose boxes are not known: left out"] += len(crowds)
    rows = []
    for (image_id, category_id), boxes_of_category in boxes.items():
        # a crowd is one box around many things, whose own boxes are not known: no row is made
        if (image_id, category_id) in crowds:
            continue
        if skip_bad_rows and len(boxes_of_category) > most_boxes:  # `_coco_row` would refuse them
            notes[f"a picture with more than {most_boxes} boxes of a category: left out"] += 1
            continue
        row = _coco_row(images[image_id], categories[category_id], boxes_of_category, path)
        rows.append((len(rows) + 1, row))
    return rows, list(notes.items())


def _coco_boxes(
    annotations,  # the file's list: dicts with image_id, category_id, bbox and perhaps iscrowd
    images,  # id → entry: id, width, height, file_name
    categories,  # id → entry: id, name
    path,  # of the file, for messages
    skip_bad_rows,  # True: boxes without area are left out
    notes,  # a `Counter` of what is left out or comes twice; changed
):
    """The boxes of a COCO file: ({(image id, category id): boxes}, {(image id, category id) with a crowd})

    Boxes are (x1, y1, x2, y2) in pixels. A `DataError` names the first bad annotation."""
    boxes, crowds = {}, set()
    # For messages: a place in the JSON is counted from 0, a row from 1.
    for number, annotation in enumerate(annotations, 1):
        place = f"annotations[{number - 1}]"
        image_id = _checked_id(annotation, "image_id", images, place, path)
        category_id = _checked_id(annotation, "category_id", categories, place, path)
        size = _image_size(images[image_id], f"image {image_id}", path)
        bbox = _field(annotation, "bbox", place, path)
        corner_and_size = _four_numbers(bbox, f"{place}.bbox", path, number)
        if annotation.get("iscrowd"):  # the caller leaves the whole pair out, this box included
            crowds.add((image_id, category_id))
        try:
            box = _clipped(of_corner_and_size(corner_and_size), size, f"{place}.bbox", path, number)
        except _EmptyBox:
            if not skip_bad_rows:
                raise
            notes[_empty_note] += 1
            continue
        boxes_of_pair = boxes.setdefault((image_id, category_id), [])
        # Files that were put together repeat entries; two things never have all four numbers equal.
        if box in boxes_of_pair:
            notes["a box that stands twice: taken once"] += 1
        else:
            boxes_of_pair.append(box)
    return boxes, crowds


def _coco_row(
    image,  # entry of a COCO file: id, width, height, file_name
    category,  # entry: id, name
    boxes,  # (x1, y1, x2, y2) of all things of this category in the image, in pixels
    path,  # of the file, for messages
):
    "The row for an image and a category: a dict of question, answer (all its boxes as text) and images"
    place = f"image {image['id']}"  # for messages
    size = _image_size(image, place, path)
    name = _field(category, "name", f"category {category['id']}", path)
    if len(boxes) > most_boxes:
        message = f"{path.name}: {place} has {len(boxes)} boxes of {name!r}, an answer at most {most_boxes}"
        raise DataError("box.many", f"{message}: {_skip_advice}")
    # sorted from left to right, so that the truth does not depend on the order in the file
    truth = box_truth(sorted(boxes), "pixels", size)
    question = f"Find every {name}: give each box as [x1, y1, x2, y2]."
    return dict(question=question, answer=truth, images=[_field(image, "file_name", place, path)])


def _by_id(
    coco,  # content of a COCO file
    name,  # of a list in it: images or categories
    path,  # of the file, for messages
):
    "The entries of a list by their id: id → entry; a `DataError` if one has no id, or the id of another"
    entries = {}
    for i, entry in enumerate(coco[name]):
        entry_id = _id_in(entry, "id", f"{name}[{i}]", path)
        first = entries.setdefault(entry_id, entry)
        # Boxes of two entries with one id cannot be told apart. The same entry once more does no harm: it
        # comes from files that were put together.
        if first != entry:
            label = "file_name" if name == "images" else "name"  # the field by which people know an entry
            both = f"{first.get(label)!r} and {entry.get(label)!r}"
            raise DataError("coco.id", f"{path.name}: {name}[{i}].id = {entry_id!r} belongs to two: {both}")
    return entries


def _id_in(
    entry,  # of a COCO file, a dict if the file is good
    name,  # of its field that holds an id: id, image_id or category_id
    place,  # of the entry in the file, for messages, such as annotations[3]
    path,  # of the file, for messages
):
    "The id in an entry's field: a number or a text; a `DataError` for anything else, such as [1] or true"
    value = _field(entry, name, place, path)
    # Entries are found by their id. A list cannot be looked up, and true would be found under 1.
    if not isinstance(value, (int, float, str)) or isinstance(value, bool):
        message = f"{path.name}: {place}.{name} = {str(value)[:60]}, expected a number or a text"
        raise DataError("coco.id", message)
    return value


def _checked_id(
    entry,  # of a COCO file, a dict
    name,  # of its field that holds an id: image_id or category_id
    entries_by_id,  # all images, or all categories: id → entry
    place,  # of the entry in the file, for messages, such as annotations[3]
    path,  # of the file, for messages
):
    "The id in an entry's field; a `DataError` if the file has no image or category with it"
    value = _id_in(entry, name, place, path)
    if value not in entries_by_id:
        raise DataError("coco.id", f"{path.name}: {place}.{name} = {value!r}, which no entry has")
    return value


def _coco_file(path):
    "Read a COCO file: a dict with the lists images, annotations and categories; a `DataError` without them"
    try:
        coco = json.loads(path.read_text(encoding="utf-8-sig"))  # with or without a byte order mark
    except (OSError, ValueError) as error:
        raise DataError("coco.file", f"{path.name}: no JSON ({error})") from error
    for name in ("images", "annotations", "categories"):
        entries = coco.get(name) if isinstance(coco, dict) else None
        if not isinstance(entries, list) or not entries:
            raise DataError("coco.file", f"{path.name}: no list {name!r}, which a COCO file has")
    return coco


def _field(
    entry,  # of a file of annotations: a dict, if the file is good
    name,  # of the field
    place,  # of the entry in the file, for messages, such as annotations[3]
    path,  # of the file, for messages
):
    "The value of an entry's field; a `DataError` if it is not there or empty, or if the entry is no dict"
    value = entry.get(name) if isinstance(entry, dict) else None
    if value in (None, ""):
        raise DataError("coco.field", f"{path.name}: {place} has no {name!r} (there are: {_names(entry)})")
    return value


def _names(
    entry,  # of a file, a dict if the file is good
):
    "The names of an entry's fields as text for messages; its type where it is no dict"
    if not isinstance(entry, dict):
        return type(entry).__name__
    return ", ".join(map(str, entry))[:100]


def _image_size(
    image,  # entry of a file of annotations, a dict with width and height
    place,  # of the entry in the file, for messages
    path,  # of the file, for messages
):
    "Width and height of a picture in pixels; a `DataError` if they are no whole numbers above 0"
    written = tuple(_field(image, name, place, path) for name in ("width", "height"))
    size = tuple(map(_side, written))
    if None in size:
        message = f"{path.name}: {place} has width and height {written}, expected whole numbers above 0"
        raise DataError("coco.field", message)
    return size


def _side(
    value,  # of a column width or height
):
    "A side as an int, also of 640.0, as pandas writes it, and of a text, as in a CSV; else None"
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    is_whole = is_finite_number(value) and value == int(value)  # true, an int in Python, is none
    return int(value) if is_whole and value > 0 else None


def _four_numbers(
    value,  # a list, an array, or a text such as "[1, 2, 3, 4]", as a file has it
    place,  # of the box in the file, for messages
    path,  # of the file, for messages
    number,  # of the row, for messages
):
    "A box as a tuple of four floats; a `DataError` if the value is no four finite numbers, or four fractions"
    numbers = value
    if isinstance(value, str):
        # a CSV file holds a box as text; two boxes give eight numbers, which are refused below
        numbers = list(chain.from_iterable(read_boxes(value).boxes))
    numbers = as_list(numbers) or []  # `as_list` returns None for what is no list and no array
    if len(numbers) != 4 or not all(map(is_finite_number, numbers)):
        message = f"{path.name}: {place} = {str(value)[:60]}, expected four numbers"
        raise DataError("box.numbers", message, row=number)
    # [0.1, 0.2, 0.5, 0.6] must be fractions of the picture's sides: in pixels it would lie within the first
    # pixel. Whole numbers are let through, since [0, 0, 1, 1] may be that pixel.
    are_whole = all(float(side).is_integer() for side in numbers)
    if max(numbers) <= 1 and not are_whole:
        message = (f"{path.name}: {place} = {str(value)[:60]}: fractions of the picture? Expected pixels, "
                   "multiply by its width and height")
        raise DataError("box.scale", message, row=number)
    return tuple(map(float, numbers))


over_the_edge = 1.0  # pixels that a box may reach beyond its picture, by rounding


def _clipped(
    box,  # x1, y1, x2, y2 in pixels
    size,  # width and height of its picture
    place,  # of the box in the file, for messages
    path,  # of the file, for messages
    number,  # of the row, for messages
):
    """The box clipped to its picture; a `DataError` if it is no valid box, or reaches far beyond the picture

    By rounding, a box in somebody's file may reach beyond by one pixel (`over_the_edge`)."""
    fault = box_fault(box)
    if fault == "no area":
        raise _EmptyBox("box.fault", f"{path.name}: {place} has no area: {_skip_advice}", row=number)
    if fault:
        raise DataError("box.fault", f"{path.name}: {place} has {fault}", row=number)
    left, top, right, bottom = box
    width, height = size
    # beyond the left, upper, right or lower edge, whichever is most
    beyond = max(-left, -top, right - width, bottom - height)
    if beyond > over_the_edge:
        message = (f"{path.name}: {place} ends at {right:g}, {bottom:g}, the picture is {_size_text(size)}: "
                   "another scale, or corners where width and height were expected?")
        raise DataError("box.outside", message, row=number)
    clipped = max(0.0, left), max(0.0, top), min(width, right), min(height, bottom)
    if box_fault(clipped):  # it lies wholly beyond an edge, by less than a pixel
        message = f"{path.name}: {place} lies beside its picture: {_skip_advice}"
        raise _EmptyBox("box.outside", message, row=number)
    if box_fault(tuple(map(round, clipped))):  # a truth in pixels holds whole numbers
        message = f"{path.name}: {place} has no area in whole pixels: {_skip_advice}"
        raise _EmptyBox("box.small", message, row=number)
    return clipped


# Names of the columns for phrase, box and picture in RefCOCO's own files and in files made of them. Of each
# the first that a row has is taken.
_column_names = (("expression", "sentence", "sent", "phrase", "referring_expression", "ref", "question",
             "caption"),
            ("bbox", "box", "bbox_2d"),
            ("image", "images", "file_name", "image_path", "image_file"))
box_forms = ("xywh", "xyxy")


def refcoco_rows(
    path: str | Path,  # rows in .jsonl, .json, .csv, .tsv or .parquet: a phrase, a picture and a box each
    form: str | None = None,  # xywh: corner, width, height, as RefCOCO's own; xyxy: corners; None: by column
    image_dir: str | Path | None = None,  # where picture paths begin; None: beside the file
    skip_bad_rows: bool = False,  # leave rows out whose box has no area, or whose picture has no known size
) -> tuple:  # list of (number, row), list of notes (sentence, how many)
    """Read rows in the style of RefCOCO: for each phrase a row that asks for the box of what it names

    The picture's size is the row's `width` and `height`, else it is read from the picture file. Without a
    `form` a box is read as corner, width and height; in a column `bbox_2d`, Qwen's name, as two corners."""
    if form is not None and form not in box_forms:
        raise DataError("box.form", f"form = {form!r}{nearest(form, list(box_forms))}")
    path = Path(path)
    picture_folder = Path(image_dir) if image_dir else path.parent
    rows, notes = [], Counter()  # notes: what is left out, or read by its column's name → in how many rows
    for number, raw in read_rows(path):  # raw: a dict
        try:
            rows += [(number, row) for row in _phrase_rows(raw, number, form, picture_folder, path, notes)]
        except (_EmptyBox, _NoSize) as error:
            if not skip_bad_rows:
                raise
            notes[_empty_note if isinstance(error, _EmptyBox) else _no_size_note] += 1
    return rows, list(notes.items())


def _phrase_rows(
    raw,  # a row in RefCOCO's style, a dict: a phrase or several, a box, a picture, perhaps width and height
    number,  # of the row, for messages
    form,  # of the box: "xywh", corner, width and height; "xyxy", two corners; None: by the column's name
    picture_folder,  # where picture paths begin
    path,  # of the file, for messages
    notes,  # a `Counter` of what was read by the name of its column; changed
):
    """The rows for the phrases of one row: each a dict of question, answer (the box as text) and images

    A `DataError` names the row and the column where something is wrong."""
    phrase_names, box_names, picture_names = _column_names  # what these columns may be called
    phrase_column = _column(raw, phrase_names, number, path)  # the first of these names in the row
    box_column = _column(raw, box_names, number, path)
    picture = raw[_column(raw, picture_names, number, path)]
    numbers = _four_numbers(raw[box_column], box_column, path, number)
    size = _row_size(raw, picture, picture_folder, number, path)
    is_qwens = form is None and box_column == "bbox_2d"
    if is_qwens:
        notes["bbox_2d is read as two corners, as Qwen writes it"] += 1
    has_corners = is_qwens or form == "xyxy"
    corners = numbers if has_corners else of_corner_and_size(numbers)
    box = _clipped(corners, size, box_column, path, number)
    truth = box_truth([box], "pixels", size)
    # lmms-lab's RefCOCO has one fixed prompt in `question`, and the phrases in `answer`
    if phrase_column == "question" and _has_phrases(raw.get("answer")):
        phrase_column = "answer"
        notes["the phrases are the list in the column answer; the question is not read"] += 1
    rows = []
    for phrase in _phrases(raw[phrase_column], phrase_column, number, path):
        question = phrase if phrase_column == "question" else _question_for(phrase)
        rows.append(dict(question=question, answer=truth, images=picture))  # as it is: one, or a list of one
    return rows


def _listed_values(value):
    "The list that a column holds, perhaps as a text, as in a CSV; None for anything else, such as a phrase"
    # `listed` reads "['a', 'b']" as a list, and returns None for a text that writes no list or dict.
    written = listed(value) if isinstance(value, str) else value
    return as_list(written)  # also of a tuple or an array; None for a dict, a number or None


def _has_phrases(value):
    "Whether a column holds a list of texts, and not a text, or the numbers of a box"
    values = _listed_values(value)
    return bool(values) and all(isinstance(text, str) for text in values)


def _phrases(
    value,  # of the row's column: a phrase, or a list of phrases
    column,  # its name, for messages
    number,  # of the row, for messages
    path,  # of the file, for messages
):
    "The phrases of a row, a list of texts; a `DataError` where one is empty or no text"
    # RefCOCO may have a list of phrases for one box, by several people: each becomes a question.
    values = _listed_values(value) or [value]
    phrases = []
    for element in values:
        # RefCOCO's own files hold dicts: {"sent": the phrase, "raw": as it was typed, "tokens": …}
        phrase = element.get("sent", element.get("raw")) if isinstance(element, dict) else element
        if not isinstance(phrase, str) or not phrase.strip():
            message = f"{path.name}: {column} = {str(element)[:60]!r}, expected a phrase"
            raise DataError("box.phrase", message, row=number)
        phrases.append(phrase)
    return phrases


def _question_for(phrase):
    "The question that asks for the box of what a phrase names, such as `the red disc`"
    return f"Where is {phrase}? Give its box as [x1, y1, x2, y2]."


def _column(
    raw,  # a row as a dict
    names,  # that the column may have, such as ("bbox", "box")
    number,  # of the row, for messages
    path,  # of the file, for messages
):
    "Which of several names a column has in a row: the first one with a value; a `DataError` if there is none"
    for name in names:
        if isinstance(raw, dict) and not is_nothing(raw.get(name)):
            return name
    message = f"{path.name}: none of {', '.join(names)} (there are: {_names(raw)})"
    raise DataError("box.column", message, row=number)


def _row_size(
    raw,  # the row as a dict
    picture,  # its picture, as the row has it: a path, bytes, …
    picture_folder,  # where paths begin
    number,  # of the row, for messages
    path,  # the file of the rows, for messages
):
    "Width and height of a row's picture: from the row's columns of these names, else from the picture itself"
    has_size = not any(is_nothing(raw.get(name)) for name in ("width", "height"))
    if has_size and raw["width"] and raw["height"]:
        row_size = dict(width=raw["width"], height=raw["height"])
        return _image_size(row_size, f"row {number}", path)  # checked: two whole numbers above 0
    return _size_from_picture(picture, picture_folder, number, path)


def _size_from_picture(
    picture,  # as the row has it: a path, bytes, a dict of these, or a list of one
    picture_folder,  # where paths begin
    number,  # of the row, for messages
    path,  # of the file of rows, for messages
):
    "Width and height of a row's picture, from its file or bytes; `_NoSize` where it cannot be opened"
    pictures = picture_list(picture, number)  # a list, also of one
    if len(pictures) != 1:
        raise DataError("box.pictures", f"{path.name}: {len(pictures)} pictures, expected one", row=number)
    try:
        bytes_or_path = located(pictures[0], picture_folder, number)  # an absolute path, or bytes
    except DataError as error:  # there is no such file
        raise _NoSize(error.code, error.message, row=number) from error
    is_bytes = isinstance(bytes_or_path, bytes)
    stored = dict(bytes=bytes_or_path) if is_bytes else dict(bytes=None, path=bytes_or_path)
    try:
        return _size_of(stored)
    # Pillow's error for too many pixels, a sign of a file that is made to fill the memory, is no OSError.
    except (OSError, Image.DecompressionBombError) as error:
        why = f"the picture cannot be opened ({type(error).__name__})"
        message = f"{path.name}: no width and height, and {why}"
        raise _NoSize("image.decode", message, row=number) from error


def convert_boxes(
    input_path: str | Path,  # a COCO file (.json: images, annotations and categories), or RefCOCO-style rows
    output_jsonl: str | Path,  # written whole or not at all
    image_dir: str | Path | None = None,  # where picture paths begin; None: beside the input
    form: str | None = None,  # of boxes in rows: xywh or xyxy; None: xyxy in bbox_2d, else xywh, as COCO's
    skip_bad_rows: bool = False,  # leave bad pictures, boxes without area, rows of over a hundred boxes out
    tell=None,  # a function called with the report of `inspect_vqa`, such as `print`
) -> int:  # rows written
    """Convert a file of boxes that others wrote to rows of task `pointing`, with truths in pixels

    The rows go through the same checks as all rows of the book (`inspect_vqa`)."""
    path, output = Path(input_path), Path(output_jsonl)
    # the input must not be overwritten: `write_whole` replaces the file that is there
    if output.resolve() == path.resolve():
        raise DataError("file.kind", f"{output.name}: the output is the input")
    kept, report = _inspected_boxes(path, image_dir, form, skip_bad_rows)
    lines = [_json_line(row, number, path) for number, row in kept]
    write_whole(output, "".join(lines))
    if tell:
        tell(report)
    return len(lines)


def _inspected_boxes(
    path,  # a COCO file, or rows with a phrase, a picture and a box
    image_dir,  # where picture paths begin; None: beside the file
    form,  # of boxes in rows: "xywh" or "xyxy", None: by the column's name; a COCO file always has xywh
    skip_bad_rows,  # False: a `DataError` for the first row whose picture or box cannot be used
):
    """Read a file of boxes and check its rows: (list of (number, good row), report, which prints itself)

    The report counts the rows, and tells which were skipped and why. A `DataError` where no row is good."""
    # notes: (sentence, how many) about what was left out
    if _is_coco(path):
        rows, notes = coco_rows(path, skip_bad_rows)
    else:
        rows, notes = refcoco_rows(path, form, image_dir, skip_bad_rows)
    kept, report = inspect_vqa(path, image_dir, rows=rows)  # the checks of all rows that training reads
    # Rows whose boxes were drawn on a picture of another shape are moved from `kept` to `report.skipped`.
    kept = _of_their_pictures(kept, report)
    if report.skipped and not skip_bad_rows:
        raise report.refusal()
    if not kept:
        left_out = "".join(f"; {how_many} × {sentence}" for sentence, how_many in notes)
        raise DataError("row.none", f"{path.name}: none of {report.rows} rows can be used{left_out}")
    report.notes += notes
    return kept, report


def _of_their_pictures(
    kept,  # list of (number, row) with opened pictures
    report,  # `RowReport` of them: rows that are left out are added to its `skipped`
):
    """The rows that have one picture, with the ratio of sides that their truth states; the others are skipped

    A truth such as `[…] in pixels of 640 x 480` has its size from the file of boxes, which may be wrong about
    the picture."""
    good = []
    for number, row in kept:
        stored = [dict(bytes=picture) if isinstance(picture, bytes) else dict(bytes=None, path=picture)
                  for picture in row.pictures]
        try:
            _truth_of(dict(images=stored, answer=row.answer, row=number))  # called for its `DataError` alone
        except DataError as error:
            report.skipped.append(dict(row=number, code=error.code, message=error.message, entry=None))
        else:
            good.append((number, row))
    report.skipped.sort(key=lambda skipped: skipped["row"])  # the first one is named where bad rows stop all
    # The report's counts, now without the skipped rows; each of `good` has one picture.
    report.kept = report.with_pictures = len(good)
    report.several_pictures = 0
    report.own_system = [number for number, row in good if row.has_system]
    return good


def _json_line(
    row,  # checked: question, answer, and pictures, a list of absolute paths or bytes
    number,  # of the row, for messages
    path,  # of the input, for messages
):
    "A row as a line of JSON; a `DataError` where its picture is bytes, which no such line can hold"
    if any(isinstance(picture, bytes) for picture in row.pictures):
        message = f"{path.name}: its picture is in the row: save it as a file"
        raise DataError("image.bytes", message, row=number)
    # absolute paths, since the output may lie in another folder than the input
    line = dict(prompt=row.question, answer=row.answer, images=row.pictures)
    return json.dumps(line, ensure_ascii=False) + "\n"


def _is_coco(path):
    "Whether a .json file is a COCO file, one object with `annotations`, and not a list of rows"
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    # by a search in the text, so that a file that is no JSON raises nothing here: its reader tells of that
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
    """Draw the true boxes on a picture in green, and those of each answer in a colour of its own

    A thin line joins each box of an answer with the true box that it is paired with."""
    parsed_truth = read_box_truth(truth)
    canvas = _enlarged(image, side)
    draw = ImageDraw.Draw(canvas)
    # (width, height) of the whole picture in the scale of truth and answers: (1000, 1000) in thousandths. A
    # truth without a scale counts as pixels of the picture itself.
    unit = unit_of(parsed_truth.scale or "pixels", parsed_truth.size or image.size)
    truths_on_canvas = [rescaled(box, unit, canvas.size) for box in parsed_truth.boxes]
    for box in truths_on_canvas:
        draw.rectangle(box, outline=truth_colour, width=4)
    for number, text in enumerate(answers, 1):
        colour = answer_colours[(number - 1) % len(answer_colours)]
        _draw_answer(draw, text, number, colour, truths_on_canvas, unit, canvas.size)
    return canvas


def _enlarged(image, side):
    "A copy of a picture, in RGB, whose longer side has `side` pixels"
    factor = side / max(image.size)
    size = round(image.width * factor), round(image.height * factor)
    # NEAREST shows the pixels of a tiny picture as they are: they are what the model gets
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST)


def _draw_answer(
    draw,  # PIL's `ImageDraw` of the canvas
    answer,  # a text with boxes or points
    number,  # of the answer, from 1
    colour,  # of its boxes
    truths_on_canvas,  # the true boxes in pixels of the canvas; may be empty
    unit,  # (width, height) of the picture in the answer's scale: in thousandths (1000.0, 1000.0)
    size,  # (width, height) of the canvas in pixels
):
    "Draw one answer on a picture: its boxes, each with the answer's number and the IoU, and its points"
    answer_boxes = read_boxes(answer)
    boxes = [rescaled(box, unit, size) for box in answer_boxes.boxes]
    partners = _partners(boxes, truths_on_canvas)  # index of a box → (its true box, their IoU)
    for box_index, box in enumerate(boxes):
        if box_fault(box):
            continue  # swapped corners: there is nothing to draw
        draw.rectangle(box, outline=colour, width=2)  # the box itself
        # the line of a box without a partner is a dot in its own centre
        partner, iou = partners.get(box_index, (box, 0.0))
        draw.line([centre(box), centre(partner)], fill=colour, width=1)
        # a picture without true boxes, such as a user's own, has no IoU to show
        text = f"{number}: {iou:.2f}" if truths_on_canvas else str(number)
        _label(draw, box, number, text, colour)
    for point in answer_boxes.points:
        x, y = rescaled(point, unit, size)
        draw.ellipse([x - 4, y - 4, x + 4, y + 4], outline=colour, width=2)  # a small circle


def _partners(boxes, true_boxes):
    "Index of a box → (the true box that it is paired with, their IoU); a box without one is left out"
    # paired one to one, so that the sum of the IoU (area shared / area covered together) is largest
    return {box_index: (true_boxes[truth_index], iou)
            for box_index, truth_index, iou in matched(boxes, true_boxes)}


def _label(
    draw,  # PIL's `ImageDraw` of the picture
    box,  # left, top, right, bottom in pixels
    number,  # of the answer, from 1: decides in which corner the label stands
    text,  # of the label, such as "2: 0.71"
    colour,  # of the text and of the label's frame
):
    """Write a label on a white ground into a corner of a box

    Four answers use the four corners, so that the labels of equal boxes do not cover each other."""
    font = ImageFont.load_default(13)
    width, height = font.getlength(text) + 4, 15
    corner = (number - 1) % 4  # 0: upper left, 1: lower left, 2: upper right, 3: lower right
    is_right, is_low = corner >= 2, corner % 2 == 1
    left = box[2] - width if is_right else box[0]
    top = box[3] - height if is_low else box[1]
    draw.rectangle([left, top, left + width, top + height], fill="white", outline=colour)
    draw.text((left + 2, top + 1), text, fill=colour, font=font)


def with_boxes_drawn(
    sample: Sample,  # of any task
    answers: list | tuple = (),  # texts to draw
) -> Sample:  # of task pointing a copy whose picture shows truth and answers; any other as it is
    "A sample with its true boxes and those of some answers drawn on its picture, to be shown to people"
    if sample.task != "pointing" or not sample.images:
        return sample
    return replace(sample, images=[draw_boxes(sample.images[0], sample.answer, answers)])

"""Task pointing: boxes read in texts, overlap and matching, scales, converters, boxes on pictures, the run's own settings."""
import io, itertools, json, random, struct, time, zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from vlrlbook.archive import DataError
from vlrlbook.core import Sample
from vlrlbook.data import read_task_rows, to_dataset, to_samples, with_good_truths
from vlrlbook.data_check import check_file
from vlrlbook.easyr1.export import ask_reward_file, export_easyr1, export_verl, reward_file
from vlrlbook.geometry import best_matching, matched, overlap, rescaled, scale_that_fits, unit_of
from vlrlbook.marking import all_metrics, baselines, gain, guess_task, marks, score_rows, summary
from vlrlbook.pointing import (_size_of, convert_boxes, draw_boxes, drawn_for, in_scale_of, model_scale, scaled_truth, shown_size,
                               synthetic_pointing, with_boxes_drawn)
from vlrlbook.readers.boxes import answer_form, box_truth, is_bare_boxes, read_box_truth, read_boxes
from vlrlbook.rewards import (box_count_reward, box_format_reward, box_reward, box_table, check_reward, check_truth, explain_boxes,
                              known_rewards, load_reward, nasty, point_reward)
from vlrlbook.run_records import Recorder
from vlrlbook.verdict import verdict_of
from vlrlbook.warm_twins import lessons

ONE = "[20, 30, 60, 70] in pixels of 112 x 112"


# Reading

@pytest.mark.parametrize("text, boxes, points", [
    ("[1, 2, 3, 4]", [(1, 2, 3, 4)], []), ("[1 2 3 4]", [(1, 2, 3, 4)], []), ("(1,2,3,4)", [(1, 2, 3, 4)], []),
    ("(1,2),(3,4)", [(1, 2, 3, 4)], []), ("(1, 2) (3, 4), (5, 6), (7, 8)", [(1, 2, 3, 4), (5, 6, 7, 8)], []),
    ("[1, 2], [3, 4]", [], [(1, 2), (3, 4)]), ("(1, 2) and (3, 4)", [], [(1, 2), (3, 4)]),
    ("(1, 2), (3, 4), (5, 6)", [], [(1, 2), (3, 4), (5, 6)]),
    ("[-1, .5, 2.25, 3.]", [(-1, .5, 2.25, 3)], []), ("[[1,2,3,4],[5,6,7,8]]", [(1, 2, 3, 4), (5, 6, 7, 8)], []),
    ('{"bbox_2d": [1, 2, 3, 4], "label": "cup (2)"}', [(1, 2, 3, 4)], []), ('{"point_2d": [5, 6]}', [], [(5, 6)]),
    ("<think>[9, 9, 9, 9]</think><answer>[1, 2, 3, 4]</answer>", [(1, 2, 3, 4)], []), ("[1, 2, 3, 4,]", [(1, 2, 3, 4)], [])])
def test_the_grammar(text, boxes, points):
    assert read_boxes(text) == (boxes, points, "")


@pytest.mark.parametrize("text, fault", [
    ("", "no box and no point"), ("1, 2, 3, 4", "no box and no point"),
    ("[a, b, c, d]", "no box and no point"), ("[7]", "no box and no point"),
    ("[1, 2, 3]", "3 numbers"), ("[1, 2, 3, 4, 5]", "5 numbers"), ("[1, 2, 3, 4] [5, 6]", "together"),
    ("[1, 2, 3, 4]" * 101, "more than 100"), ("<think>[1, 2, 3, 4]", "no box and no point")])
def test_what_cannot_be_read_says_why(text, fault):
    found = read_boxes(text)
    assert fault in found.fault and not found.boxes and not found.points


def test_a_truth_says_its_scale_and_is_read_back():
    for scale, boxes in (("pixels", [(1, 2, 3, 4)]), ("thousandths", [(1, 2, 3, 4), (10, 20, 30, 40)]),
                         ("fractions", [(0.1, 0.25, 0.5, 1.0)])):
        truth = box_truth(boxes, scale, (640, 480))
        assert read_box_truth(truth) == (boxes, scale, (640, 480))
        assert is_bare_boxes(answer_form(truth)) and read_boxes(answer_form(truth)).boxes == boxes
    assert read_box_truth("A photo of 3 discs") == ([], "", None) and answer_form("yes") == "yes"


def test_hostile_texts_are_read_in_time():
    for text in (*nasty, "[" * 100_000, "[1, " * 25_000, "[1, 2, 3, 4]" * 8_000, "(1,2)," * 16_000,
                 "[1" + " " * 99_000, "[" + "1 " * 199 + "x]"):
        began = time.process_time()
        read_boxes(text), is_bare_boxes(text)
        assert time.process_time() - began < 0.2, text[:20]


# Geometry

def test_overlap_is_what_counting_pixels_gives():
    rng = random.Random(3)
    for _ in range(300):
        boxes = []
        for _ in range(2):
            x, y = rng.randint(0, 30), rng.randint(0, 30)
            boxes.append((x, y, x + rng.randint(0, 10), y + rng.randint(0, 10)))
        drawn = []
        for x1, y1, x2, y2 in boxes:
            picture = np.zeros((40, 40), bool)
            picture[y1:y2, x1:x2] = True
            drawn.append(picture)
        together = (drawn[0] | drawn[1]).sum()
        assert overlap(*boxes) == pytest.approx((drawn[0] & drawn[1]).sum() / together if together else 0)


def test_the_matching_is_the_best_of_all():
    rng = random.Random(0)
    for _ in range(400):
        rows, columns = rng.randint(1, 5), rng.randint(1, 5)
        gains = [[rng.choice([0, 0.5, rng.random()]) for _ in range(columns)] for _ in range(rows)]
        pairs = best_matching(gains)
        assert len({r for r, _ in pairs}) == len({c for _, c in pairs}) == len(pairs) and all(gains[r][c] > 0 for r, c in pairs)
        side = gains if rows <= columns else list(zip(*gains))
        best = max(sum(row[c] for row, c in zip(side, order)) for order in itertools.permutations(range(len(side[0])), len(side)))
        assert sum(gains[r][c] for r, c in pairs) == pytest.approx(best)
    assert best_matching([]) == best_matching([[]]) == []
    # the greedy choice, 0.6 first, would end with 0.6 + 0.1
    assert best_matching([[0.6, 0.5], [0.5, 0.1]]) == [(0, 1), (1, 0)]


def test_a_scale_is_turned_into_another_and_back():
    box, size = (12.0, 40.0, 31.0, 59.0), (640, 480)
    thousandths = rescaled(box, unit_of("pixels", size), unit_of("thousandths", size))
    assert thousandths == pytest.approx((18.75, 83.333, 48.4375, 122.917), abs=1e-3)
    assert rescaled(thousandths, unit_of("thousandths", size), unit_of("pixels", size)) == pytest.approx(box)


def test_the_other_scale_is_named_only_where_it_makes_the_answer_right():
    truth, size = [(20, 30, 60, 70)], (112, 112)
    assert scale_that_fits([(179, 268, 536, 625)], truth, "pixels", size) == "thousandths"
    assert scale_that_fits([(0.179, 0.268, 0.536, 0.625)], truth, "pixels", size) == "fractions"
    assert scale_that_fits([(20, 30, 60, 70)], truth, "pixels", size) is None
    assert scale_that_fits([(500, 0, 900, 100)], truth, "pixels", size) is None
    assert scale_that_fits([(20, 30, 60, 70)], [(179, 268, 536, 625)], "thousandths", size) == "pixels"


# Rewards

@pytest.mark.parametrize("completion, truth, earns, why", box_table, ids=[row[3] for row in box_table])
def test_the_truth_table(completion, truth, earns, why):
    assert box_reward(completion, truth)["overall"] == pytest.approx(earns, abs=1e-4), why


def test_cheats_earn_less_than_an_honest_try():
    honest = box_reward("[25, 36, 66, 75]", ONE)["overall"]
    cheats = ["[0, 0, 112, 112]", "[60, 70, 20, 30]", "[179, 268, 536, 625]", box_table[15][0], "[20, 30, 60, 70]" * 3]
    assert all(box_reward(cheat, ONE)["overall"] < honest for cheat in cheats)
    assert box_reward("[60, 70, 20, 30]", ONE)["swapped"] == 1 and "swapped corners" in explain_boxes("[60, 70, 20, 30]", ONE)
    told = explain_boxes("[179, 268, 536, 625]", ONE)
    assert "thousandths" in told and "pixels of 112 x 112" in told


def test_points_counts_and_form():
    two = "[[0, 0, 10, 10], [50, 50, 60, 60]] in pixels of 112 x 112"
    assert point_reward("[5, 5], [55, 55]", two) == dict(overall=1.0, inside=1.0, count=1.0, readable=1.0)
    # both points in the same box: one of them has no thing of its own
    assert point_reward("[5, 5], [6, 6]", two)["overall"] == 0.5 and point_reward("(40, 50)", ONE)["overall"] == 1
    assert point_reward("[[20, 30, 60, 70]]", ONE)["overall"] == 1 and point_reward("none", ONE)["readable"] == 0
    assert [box_count_reward(t, two)["overall"] for t in ("[1, 1], [2, 2]", "[1, 1]", "nothing")] == [1, 0, 0]
    forms = ("[1, 2, 3, 4]", "<answer>[[1, 2, 3, 4]]</answer>", "at [1, 2, 3, 4]", "[3, 2, 1, 4]")
    assert [box_format_reward(t)["overall"] for t in forms] == [1, 1, 0, 0]


@pytest.mark.parametrize("name", ["pointing", "point", "box_count", "box_format", "0.9*pointing + 0.1*box_format"])
def test_the_rewards_keep_the_contract_of_all(name):
    reward = load_reward(name)
    assert check_reward(reward, ONE, milliseconds=100) == [] and check_truth(reward, ONE) is None
    assert "earns nothing" in check_truth(reward, "three")


@pytest.mark.parametrize("engine", ["easyr1", "verl"])
def test_the_reward_file_pays_the_same_without_this_package(tmp_path, engine):
    path = tmp_path / "reward.py"
    path.write_text(reward_file("0.9*pointing + 0.1*box_format", engine))
    mine, cases = load_reward("0.9*pointing + 0.1*box_format"), [([completion], truth) for completion, truth, _, _ in box_table]
    name = "overall" if engine == "easyr1" else "score"
    for (texts, truth), [found] in zip(cases, ask_reward_file(path, cases, engine=engine)):
        assert found[name] == pytest.approx(mine(texts[0], truth)["overall"]), texts


def test_exports_hold_the_truths(tmp_path):
    rows = synthetic_pointing(40, 0)
    short = dict(n_gpus_per_node=1, rollout_batch_size=32)
    export_easyr1(rows, "pointing", short, tmp_path / "easyr1")
    export_verl(rows, "pointing", dict(train_batch_size=32), tmp_path / "verl")
    first = json.loads((tmp_path / "easyr1" / "train.jsonl").read_text().splitlines()[0])
    assert first["answer"] in [row.answer for row in rows] and (tmp_path / "verl" / "train.parquet").exists()


def test_an_export_refuses_a_file_of_boxes_in_pixels(tmp_path):
    "An engine resizes the pictures: the right answer would have other numbers than the truth"
    from vlrlbook.data import synthetic_vqa, write_counting_zip
    path = write_counting_zip(synthetic_pointing(12, seed=4), tmp_path / "boxes.zip")
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    row = dict(question="Where?", image="a.png")
    pixels, thousandths = tmp_path / "pixels.jsonl", tmp_path / "thousandths.jsonl"
    pixels.write_text(json.dumps(row | dict(answer="[1, 2, 30, 40] in pixels of 64 x 64")))
    thousandths.write_text(json.dumps(row | dict(answer="[1, 2, 30, 40] in thousandths of 64 x 64")))
    for export, settings in ((export_easyr1, dict(n_gpus_per_node=1)), (export_verl, {})):
        for file in (path, pixels):
            with pytest.raises(DataError, match="box.export: row .*grpo --task pointing"):
                export(file, "pointing", settings, tmp_path / "out")
            assert not (tmp_path / "out").exists()
    few = {"data.rollout_batch_size": 1, "worker.actor.global_batch_size": 1, "worker.rollout.n": 2, "trainer.n_gpus_per_node": 1,
           "worker.actor.micro_batch_size_per_device_for_experience": 2, "worker.actor.micro_batch_size_per_device_for_update": 2}
    # whatever the size, the same numbers
    export_easyr1(thousandths, "pointing", few, tmp_path / "out", "current", val=synthetic_vqa(2))


# Data

def test_drawn_boxes_hold_their_discs():
    for sample in synthetic_pointing(20, 5, most=3):
        inside = np.zeros((112, 112), bool)
        for x1, y1, x2, y2 in np.array(read_box_truth(sample.answer).boxes, int):
            inside[y1:y2, x1:x2] = True
            coloured = (np.array(sample.images[0])[y1:y2, x1:x2] != 255).any(2)
            # the box is tight: its first and last row and column touch the disc
            assert coloured[0].any() and coloured[-1].any() and coloured[:, 0].any() and coloured[:, -1].any()
        assert not (np.array(sample.images[0]) != 255).any(2)[~inside].any()
    assert [s.answer for s in synthetic_pointing(3, 1)] == [s.answer for s in synthetic_pointing(3, 1)]


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "aria"])
def test_each_family_is_asked_in_its_own_scale(family):
    _, scale = model_scale(f"tiny-{family}", 112)
    sample, plain = drawn_for(f"tiny-{family}", 112)(1, seed=0)[0], synthetic_pointing(1, 0)[0]
    said, truth = read_box_truth(sample.answer), read_box_truth(plain.answer)
    assert said.scale == scale == ("pixels" if family == "qwen2_5_vl" else "thousandths")
    back = rescaled(said.boxes[0], unit_of(said.scale, said.size), unit_of("pixels", (112, 112)))
    assert overlap(back, truth.boxes[0]) > 0.95
    samples, said = lessons("pointing", 1, 0, family)
    assert said == [answer_form(samples[0].answer)] and box_reward(said[0], samples[0].answer)["overall"] == 1


def test_the_size_that_a_model_sees_is_the_processors_own():
    processor, _ = model_scale("tiny-qwen2_5_vl", 112)
    for size in ((640, 480), (112, 112), (90, 60), (30, 200)):
        grid = processor.image_processor(images=[Image.new("RGB", size)], return_tensors="pt")["image_grid_thw"][0].tolist()
        assert shown_size(processor, size) == (grid[2] * 14, grid[1] * 14)


def test_truths_become_those_of_the_model(tmp_path):
    picture = Image.new("RGB", (320, 240), "white")
    rows = [Sample("Where?", "[64, 48, 320, 240] in pixels of 640 x 480", [picture], "pointing", 1)]
    dataset = in_scale_of(to_dataset(rows), "tiny-qwen2_5_vl", 112)
    truth = read_box_truth(to_samples(dataset)[0].answer)
    width, height = truth.size
    assert truth.scale == "pixels" and width * height <= 112 ** 2
    assert truth.boxes[0] == (round(width / 10), round(height / 10), round(width / 2), round(height / 2))
    assert dataset.column_names == to_dataset(rows).column_names


@pytest.mark.parametrize("answer, code", [
    ("three", "box.truth"), ("[1, 2, 3, 4]", "box.truth"), ("[1, 2, 30, 40] in pixels of 480 x 640", "box.size"),
    ("[100, 100, 101, 101] in pixels of 640 x 480", "box.small")])
def test_a_truth_that_no_answer_can_earn_is_refused_with_its_row(answer, code):
    processor, scale = model_scale("tiny-qwen2_5_vl", 112)
    with pytest.raises(DataError) as caught:
        scaled_truth(answer, (640, 480), processor, scale, row=7)
    assert caught.value.code == code and caught.value.row == 7


def test_a_zip_of_boxes_trains(tmp_path):
    "Uploaded to the service or given as a file: the same rows, truths in the model's scale; what stops a run is found before"
    from vlrlbook.data import write_counting_zip
    from vlrlbook.run_data import load_data
    from vlrlbook.settings import GRPOSettings, read_settings
    path = write_counting_zip(synthetic_pointing(12, seed=4), tmp_path / "boxes.zip")
    found = check_file(path, "pointing", model="tiny-qwen2_5_vl")
    assert found.good and "12 pointing rows, 12 kept" in repr(found)
    assert check_file(path).kind == "counting" # as before where nobody says what the answers are
    small = dict(task="pointing", data=str(path), batch_size=8, max_steps=1, eval_samples=2)
    train, held, report = load_data(read_settings(GRPOSettings, small))
    assert (report.valid_images, len(held)) == (12, 2) and set(train["task"]) == {"pointing"}
    assert all(read_box_truth(answer).size == (56, 56) for answer in train["answer"])
    with pytest.raises(DataError, match="box.truth: row"): # a folder that holds a counting ZIP
        from vlrlbook.archive import unpack_counting_zip
        from vlrlbook.data import synthetic_counting
        (tmp_path / "counts").mkdir()
        unpack_counting_zip(write_counting_zip(synthetic_counting(12, seed=4), tmp_path / "c.zip"), tmp_path / "counts")
        load_data(read_settings(GRPOSettings, small | dict(data=str(tmp_path / "counts"))))


def test_a_picture_of_no_size_is_of_no_shape():
    from vlrlbook.geometry import have_same_shape
    assert have_same_shape((640, 480), (56, 42)) and not have_same_shape((640, 480), (480, 640))
    assert not have_same_shape((0, 0), (1, 1)) and not have_same_shape((1, 1), (1, 0))


def test_what_an_answer_says_in_pixels_of_the_picture():
    "A model that sees 56 pixels, asked about a picture of 448"
    from vlrlbook.answers import read_in_task
    seen = "[] in pixels of 56 x 56"
    assert read_in_task("[12, 0, 28, 56]", "pointing", seen, (448, 224)) == "[96, 0, 224, 224] in pixels of 448 x 224"
    in_thousandths = read_in_task("[500, 0, 1000, 250]", "pointing", "[] in thousandths of 56 x 56", (448, 224))
    assert in_thousandths == "[224, 0, 448, 56] in pixels of 448 x 224"
    assert [read_in_task(text, "pointing", seen, (448, 448)) for text in ("there", "[3, 4]", "[9, 1, 2, 3]")] == [None] * 3
    assert read_in_task("<think>[1]</think><answer> left </answer>", "vqa") == "left" and read_in_task("<think>cut", "vqa") is None
    assert (read_in_task("A photo of three discs", "counting"), read_in_task("none that I know", "counting")) == ("3", "0")
    assert read_in_task("what?", "counting") is None


def coco(**changes):
    "A COCO file of two pictures"
    return dict(images=[dict(id=1, file_name="a.png", width=100, height=80), dict(id=2, file_name="b.png", width=50, height=50)],
                categories=[dict(id=5, name="dog"), dict(id=6, name="cat")],
                annotations=[dict(image_id=1, category_id=5, bbox=[50, 10, 20, 30]),
                             dict(image_id=1, category_id=5, bbox=[10, 10, 20.4, 30]),
                             dict(image_id=2, category_id=6, bbox=[0, 0, 50.5, 50]),
                             dict(image_id=2, category_id=5, bbox=[1, 1, 9, 9], iscrowd=1)]) | changes


@pytest.fixture
def pictures(tmp_path):
    for name, size in (("a.png", (100, 80)), ("b.png", (50, 50))):
        Image.new("RGB", size, "white").save(tmp_path / name)
    return tmp_path


def written(folder, content, name="coco.json"):
    (folder / name).write_text(json.dumps(content) if name.endswith(".json") else content)
    return folder / name


def test_a_box_that_stands_twice_is_one_box(pictures):
    "Files that were put together repeat annotations: the right answer earned half, the box said twice all"
    twice, told = coco(), []
    twice["annotations"] += [dict(twice["annotations"][0], id=77), dict(twice["annotations"][0], category_id=6)]
    convert_boxes(written(pictures, twice), pictures / "rows.jsonl", tell=told.append)
    answers = [json.loads(line)["answer"] for line in (pictures / "rows.jsonl").read_text().splitlines()]
    assert answers[0] == "[[10, 10, 30, 40], [50, 10, 70, 40]] in pixels of 100 x 80"
    assert "[50, 10, 70, 40] in pixels of 100 x 80" in answers # of the other category
    assert "a box that stands twice: taken once" in str(told[0])


def test_a_coco_file_with_a_byte_order_mark_or_crowds_alone(pictures):
    (pictures / "bom.json").write_text("\ufeff" + json.dumps(coco()), encoding="utf-8")
    assert convert_boxes(pictures / "bom.json", pictures / "rows.jsonl") == 2
    with pytest.raises(DataError, match="none of 0 rows can be used; 1 × a picture and a category with a crowd"):
        convert_boxes(written(pictures, coco(annotations=coco()["annotations"][-1:])), pictures / "none.jsonl")


def test_a_coco_file_becomes_rows_that_train(pictures):
    told = []
    assert convert_boxes(written(pictures, coco()), pictures / "rows.jsonl", tell=told.append) == 2
    rows = [json.loads(line) for line in (pictures / "rows.jsonl").read_text().splitlines()]
    assert rows[0]["answer"] == "[[10, 10, 30, 40], [50, 10, 70, 40]] in pixels of 100 x 80" and "every dog" in rows[0]["prompt"]
    assert rows[1]["answer"] == "[0, 0, 50, 50] in pixels of 50 x 50" # cut at the edge: half a pixel of rounding
    assert "crowd" in str(told[0]) and told[0].kept == 2
    dataset, report = read_task_rows(pictures / "rows.jsonl", "pointing")
    assert report.kept == 2 and set(dataset["task"]) == {"pointing"}
    assert len(with_good_truths(dataset, load_reward("pointing"), False, report)) == 2
    found = check_file(pictures / "rows.jsonl", "pointing")
    assert found.good, found
    # a picture of another shape than its boxes: training would refuse it, and so does the check
    Image.new("RGB", (80, 100)).save(pictures / "a.png")
    assert check_file(pictures / "rows.jsonl", "pointing").problems[0].code == "box.size"


@pytest.mark.parametrize("changes, code, said", [
    (dict(annotations=[dict(image_id=9, category_id=5, bbox=[1, 1, 2, 2])]), "coco.id", "annotations[0].image_id = 9"),
    (dict(annotations=[dict(image_id=1, category_id=5)]), "coco.field", "annotations[0] has no 'bbox'"),
    (dict(annotations=[dict(image_id=1, category_id=5, bbox=[1, 1, 2])]), "box.numbers", "annotations[0].bbox"),
    (dict(annotations=[dict(image_id=1, category_id=5, bbox=[1, 1, 0, 2])]), "box.fault", "no area"),
    (dict(annotations=[dict(image_id=1, category_id=5, bbox=[50, 50, 90, 79])]), "box.outside", "corners where width and height"),
    (dict(annotations=[dict(image_id=1, category_id=5, bbox=[100.2, 10, 0.7, 10])]), "box.outside", "lies beside its picture"),
    (dict(images=[dict(id=1, file_name="a.png", width=100)]), "coco.field", "height"),
    (dict(images=[dict(id=[1], file_name="a.png", width=100, height=80)]), "coco.id", "images[0].id = [1], expected a number or a text"),
    (dict(categories=[dict(id=True, name="dog")]), "coco.id", "categories[0].id = True"),
    (dict(annotations=[dict(image_id=[1], category_id=5, bbox=[1, 1, 2, 2])]), "coco.id", "annotations[0].image_id = [1], expected"),
    (dict(annotations=[dict(image_id=1, category_id={"id": 5}, bbox=[1, 1, 2, 2])]), "coco.id", "annotations[0].category_id"),
    (dict(images=[dict(id=1, file_name=name, width=100, height=80) for name in ("a.png", "b.png")]), "coco.id", "'a.png' and 'b.png'"),
    (dict(categories=[dict(id=5, name="dog"), dict(id=5, name="cat")]), "coco.id", "categories[1].id = 5 belongs to two: 'dog' and 'cat'"),
    (dict(images=[dict(id=1, file_name="a.png", width=True, height=80)]), "coco.field", "(True, 80)"),
    (dict(annotations=[dict(image_id=1, category_id=5, bbox=[True, 1, 2, 2])]), "box.numbers", "annotations[0].bbox"),
    (dict(annotations=[dict(image_id=1, category_id=5, bbox=[1, 1, 2, 10**400])]), "box.numbers", "annotations[0].bbox"),
    (dict(annotations=[dict(image_id=1, category_id=5, bbox=[0.1, 0.2, 0.5, 0.7])]), "box.scale", "multiply by its width and height"),
    (dict(annotations=[dict(image_id=1, category_id=5, bbox=[9.1, 9.1, 0.3, 30])]), "box.small", "no area in whole pixels: skip_bad_rows"),
    (dict(annotations=[dict(image_id=1, category_id=5, bbox=[1, 1, -2, 2])]), "box.fault", "swapped corners"),
    (dict(annotations=[dict(image_id=1, category_id=5, bbox=[i % 50, 1 + i // 50, 9, 9]) for i in range(101)]),
     "box.many", "101 boxes of 'dog'"),
    (dict(images=[dict(id=1, file_name="a.png", width="wide", height=80)]), "coco.field", "('wide', 80)"),
    (dict(images=[dict(id=1, file_name="a.png", width=100.5, height=80)]), "coco.field", "(100.5, 80)"),
    (dict(categories=[]), "coco.file", "categories")])
def test_a_bad_coco_entry_is_named(pictures, changes, code, said):
    with pytest.raises(DataError) as caught:
        convert_boxes(written(pictures, coco(**changes)), pictures / "rows.jsonl")
    assert caught.value.code == code and said in str(caught.value) and "coco.json" in str(caught.value)
    assert not (pictures / "rows.jsonl").exists()


def test_boxes_of_real_files_that_nothing_can_earn_are_left_out_with_a_word(pictures):
    "COCO's own files have boxes without area, and pictures of crowds more than a hundred things"
    dog = dict(image_id=1, category_id=5)
    many = [dict(image_id=2, category_id=6, bbox=[i % 40, 1 + i // 40, 9, 9]) for i in range(101)]
    boxes = [[0, 0, 10, 0], [50, 10, 20, 30], [9.1, 9.1, 0.3, 30], [100.2, 10, 0.7, 10], [10, 10, 20, 30]]
    content = coco(annotations=[dog | dict(bbox=box) for box in boxes] + many)
    told = []
    assert convert_boxes(written(pictures, content), pictures / "rows.jsonl", skip_bad_rows=True, tell=told.append) == 1
    row = json.loads((pictures / "rows.jsonl").read_text())
    assert row["answer"] == "[[10, 10, 30, 40], [50, 10, 70, 40]] in pixels of 100 x 80"
    assert dict(told[0].notes)["a box without area in whole pixels: left out"] == 3
    assert dict(told[0].notes)["a picture with more than 100 boxes of a category: left out"] == 1
    # what shows that the whole file is read wrongly stops the conversion all the same
    for box, code in (([50, 50, 90, 79], "box.outside"), ([9, 9, -5, 5], "box.fault"), ([0.1, 0.2, 0.5, 0.7], "box.scale")):
        with pytest.raises(DataError) as caught:
            convert_boxes(written(pictures, coco(annotations=[dog | dict(bbox=box)])), pictures / "no.jsonl", skip_bad_rows=True)
        assert caught.value.code == code
    hundred = coco(annotations=many[:100])
    assert convert_boxes(written(pictures, hundred), pictures / "rows.jsonl") == 1
    assert len(read_box_truth(json.loads((pictures / "rows.jsonl").read_text())["answer"]).boxes) == 100


def test_a_truth_of_too_many_boxes_is_refused_for_their_number():
    many = box_truth([(i, 1, i + 5, 9) for i in range(101)], "pixels", (200, 100))
    with pytest.raises(DataError, match="more than 100 boxes"):
        scaled_truth(many, (200, 100), None, "pixels")


def test_a_coco_entry_may_stand_twice(pictures):
    "As in files that were put together: what is the same says nothing else"
    twice = coco(categories=coco()["categories"] * 2, images=coco()["images"] * 2)
    assert convert_boxes(written(pictures, twice), pictures / "rows.jsonl") == 2


def photo(path, orientation, size=(160, 120)):
    "A photo as a phone writes it: stored as the sensor lies, with a note of how it is turned"
    about = Image.Exif()
    about[0x0112] = orientation
    picture = Image.new("RGB", size, "white")
    picture.paste("red", (100, 10, 140, 30))
    picture.save(path, exif=about, quality=95)


@pytest.mark.parametrize("orientation, shown, box", [
    (1, (160, 120), [100, 10, 140, 30]), (3, (160, 120), [20, 90, 60, 110]), (6, (120, 160), [90, 100, 110, 140]),
    (8, (120, 160), [10, 20, 30, 60])])
def test_boxes_of_a_turned_photo_are_those_of_the_upright_one(tmp_path, orientation, shown, box):
    for i in range(3): photo(tmp_path / f"{i}.jpg", orientation)

    def file(name, size):
        row = dict(question="Where?", answer=f"{box} in pixels of {size[0]} x {size[1]}")
        return written(tmp_path, "".join(json.dumps(row | dict(image=f"{i}.jpg")) + "\n" for i in range(3)), name)
    path = file("shown.jsonl", shown)
    assert check_file(path, "pointing").good or check_file(path, "pointing").problems[0].code == "data.split"
    dataset, _ = read_task_rows(path, "pointing")
    sample = to_samples(in_scale_of(dataset, "tiny-qwen2_5_vl", 112))[0]
    truth = read_box_truth(sample.answer)
    x1, y1, x2, y2 = [round(number) for number in rescaled(truth.boxes[0], truth.size, sample.images[0].size)]
    inside = np.array(sample.images[0])[y1 + 8:y2 - 8, x1 + 8:x2 - 8]
    assert sample.images[0].size == shown and (inside[..., 0] > 200).all() and (inside[..., 1] < 80).all()
    if shown == (120, 160):  # boxes of the picture as it is stored
        with pytest.raises(DataError, match="box.size: row 1: .*turned .by its EXIF"): in_scale_of(
            read_task_rows(file("stored.jsonl", (160, 120)), "pointing")[0], "tiny-qwen2_5_vl", 112)
    rows = written(tmp_path, json.dumps(dict(image="0.jpg", phrase="the red box", bbox=box)) + "\n", "ref.jsonl")
    assert convert_boxes(rows, tmp_path / "out.jsonl", form="xyxy") == 1
    assert json.loads((tmp_path / "out.jsonl").read_text())["answer"] == f"{box} in pixels of {shown[0]} x {shown[1]}"


def png_with(before=(), behind=(), size=(100, 80)):
    "The bytes of a PNG with more chunks, (kind, data) each, in front of its pixels or behind them"
    plain = io.BytesIO()
    Image.new("RGB", size).save(plain, "PNG")
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head, pixels, end = plain.getvalue()[:33], plain.getvalue()[33:-12], plain.getvalue()[-12:]
    return head + b"".join(chunk(*c) for c in before) + pixels + b"".join(chunk(*c) for c in behind) + end


EXIF = Image.Exif()
EXIF[0x0112] = 6
PROFILE = b"\nexif\n" + str(len(EXIF.tobytes())).encode() + b"\n" + EXIF.tobytes().hex().encode() + b"\n"
XMP = b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta tiff:Orientation="6"></x:xmpmeta>'
TURNED = [(b"eXIf", EXIF.tobytes()[6:]), (b"tEXt", b"Raw profile type exif\0" + PROFILE),
          (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(PROFILE)), (b"iTXt", XMP)]
UPRIGHT = [(b"tEXt", b"date:create\0" + b"2024-01-01"), (b"iTXt", b"Title\0\0\0\0\0eXIf"), (b"pHYs", bytes(9))]


@pytest.mark.parametrize("chunk", TURNED + UPRIGHT, ids=lambda chunk: f"{chunk[0].decode()} {chunk[1][:8]!r}")
@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_png_says_how_it_is_turned_and_a_plain_one_is_not_decoded(monkeypatch, tmp_path, place, chunk):
    "Pillow's getexif decodes every PNG without EXIF in front of its pixels: 300 times as slow, for each row"
    data = png_with(**{place: [UPRIGHT[0], chunk]})
    (tmp_path / "a.png").write_bytes(data)
    shown, is_turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).size, chunk in TURNED
    assert shown == ((80, 100) if is_turned else (100, 80))
    if place == "before" or not is_turned: monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert _size_of(dict(bytes=data)) == _size_of(dict(bytes=None, path=tmp_path / "a.png")) == shown


def test_the_size_of_a_broken_off_png_is_in_its_head():
    data = png_with(size=(640, 480))
    for length in (60, len(data) // 2, len(data) - 6): assert _size_of(dict(bytes=data[:length])) == (640, 480)
    with pytest.raises(OSError): _size_of(dict(bytes=b"no picture"))


def test_a_coco_file_of_turned_photos_is_refused_with_the_cause(pictures):
    photo(pictures / "a.png", 1, (80, 100))  # of another shape than the file says
    with pytest.raises(DataError, match="coco.json.*100 x 80, but the picture has 80 x 100: it is turned"):
        convert_boxes(written(pictures, coco()), pictures / "rows.jsonl")
    assert convert_boxes(written(pictures, coco()), pictures / "rows.jsonl", skip_bad_rows=True) == 1
    Image.new("RGB", (50, 40)).save(pictures / "a.png")  # a smaller copy is no fault
    assert convert_boxes(written(pictures, coco()), pictures / "rows.jsonl") == 2


def test_refcoco_rows_in_both_forms(pictures):
    rows = [dict(image="a.png", sentences=None, sentence="the left dog", bbox=[10, 10, 20, 30]),
            dict(image="b.png", sentence=["it", "the cat"], bbox=[1, 2, 3, 4])]
    path = written(pictures, "".join(json.dumps(row) + "\n" for row in rows), "ref.jsonl")
    assert convert_boxes(path, pictures / "out.jsonl") == 3
    first = json.loads((pictures / "out.jsonl").read_text().splitlines()[0])
    assert first["answer"] == "[10, 10, 30, 40] in pixels of 100 x 80" and "the left dog" in first["prompt"]
    convert_boxes(path, pictures / "out2.jsonl", form="xyxy")
    assert json.loads((pictures / "out2.jsonl").read_text().splitlines()[0])["answer"] == "[10, 10, 20, 30] in pixels of 100 x 80"
    with pytest.raises(DataError, match="xyxy"):
        convert_boxes(path, pictures / "out3.jsonl", form="xyxx")


@pytest.mark.parametrize("row, code", [
    (dict(image="a.png", bbox=[1, 1, 2, 2]), "box.column"), (dict(image="a.png", sentence="it"), "box.column"),
    (dict(image="a.png", sentence="it", bbox="1 1 2 2"), "box.numbers"),
    (dict(image="c.png", sentence="it", bbox=[1, 1, 2, 2]), "image.missing"),
    (dict(image="a.png", sentence="it", bbox=[90, 70, 95, 75]), "box.outside"),
    (dict(image="a.png", sentence="it", bbox=[9, 7, -5, 7]), "box.fault"),
    (dict(image="a.png", sentence="it", bbox=[0.1, 0.2, 0.5, 0.7]), "box.scale"),
    (dict(image="a.png", sentence="it", bbox="[0, 0, 0.5, 1]"), "box.scale"),
    (dict(image="a.png", sentence="it", bbox_2d=[0.1, 0.2, 0.5, 0.7]), "box.scale"),
    (dict(image="a.png", sentence="it", bbox=[10.2, 20.1, 0.3, 0.4]), "box.small"),
    (dict(image="a.png", sentence="", bbox=[1, 1, 2, 2]), "box.phrase"),
    (dict(image="a.png", sentence=["it", " "], bbox=[1, 1, 2, 2]), "box.phrase"),
    (dict(image="a.png", sentence=[dict(sent_id=3)], bbox=[1, 1, 2, 2]), "box.phrase"),
    (dict(image="a.png", sentence=7, bbox=[1, 1, 2, 2]), "box.phrase")])
def test_a_bad_refcoco_row_is_named(pictures, row, code):
    good = dict(image="a.png", sentence="it", bbox=[1, 1, 2, 2])
    path = written(pictures, json.dumps(good) + "\n" + json.dumps(row) + "\n", "ref.jsonl")
    with pytest.raises(DataError) as caught:
        convert_boxes(path, pictures / "out.jsonl")
    assert caught.value.code == code and caught.value.row == 2


def converted(folder, text, name="ref.jsonl", **options):
    "The rows that a file of boxes becomes, as (prompt, answer), and the report's notes as a dict"
    told = []
    convert_boxes(written(folder, text, name), folder / "out.jsonl", tell=told.append, **options)
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    return [(row["prompt"], row["answer"]) for row in rows], dict(told[0].notes)


def test_a_row_without_area_is_left_out_with_a_word(pictures):
    rows = [dict(image="a.png", sentence="it", bbox=box) for box in ([10.2, 20.1, 0.3, 0.4], [10, 20, 1, 1], [5, 5, 0, 9])]
    found, notes = converted(pictures, "".join(json.dumps(row) + "\n" for row in rows), skip_bad_rows=True)
    assert [answer for _, answer in found] == ["[10, 20, 11, 21] in pixels of 100 x 80"]
    assert notes["a box without area in whole pixels: left out"] == 2
    with pytest.raises(DataError, match="none of 0 rows"):
        converted(pictures, json.dumps(rows[0]) + "\n", skip_bad_rows=True)


@pytest.mark.parametrize("column, form, answer", [
    ("bbox_2d", None, "[10, 20, 40, 60]"), ("bbox_2d", "xyxy", "[10, 20, 40, 60]"), ("bbox_2d", "xywh", "[10, 20, 50, 80]"),
    ("bbox", None, "[10, 20, 50, 80]"), ("bbox", "xyxy", "[10, 20, 40, 60]"), ("box", None, "[10, 20, 50, 80]")])
def test_the_name_of_qwen_for_a_box_says_its_form(pictures, column, form, answer):
    line = json.dumps({"image": "a.png", "phrase": "the red disc", column: [10, 20, 40, 60]}) + "\n"
    found, notes = converted(pictures, line, form=form)
    assert found[0][1] == f"{answer} in pixels of 100 x 80"
    assert ("bbox_2d is read as two corners, as Qwen writes it" in notes) == (column == "bbox_2d" and form is None)


@pytest.mark.parametrize("row, asked", [
    # lmms-lab/RefCOCO: one fixed prompt in all rows, the phrases beside it
    (dict(question="come up with a caption", answer=["guy with elephant", "foremost person"]), ["guy with elephant", "foremost person"]),
    (dict(question="come up with a caption", answer="['the guy', 'the man']"), ["the guy", "the man"]),
    (dict(sentence=[dict(sent="the lady", raw="The lady!"), dict(raw="her")]), ["the lady", "her"]),  # RefCOCO's own refs
    (dict(phrase="['the lady', 'her']"), ["the lady", "her"]), (dict(phrase=["a cup"]), ["a cup"]),
    (dict(phrase="a cup [red]", question="q", answer=["x"]), ["a cup [red]"]), (dict(phrase="[red] cup"), ["[red] cup"])])
def test_phrases_are_found_where_files_hold_them(pictures, row, asked):
    found, notes = converted(pictures, json.dumps(row | dict(image="a.png", bbox=[10, 20, 30, 40])) + "\n")
    assert [prompt for prompt, _ in found] == [f"<image> Where is {p}? Give its box as [x1, y1, x2, y2]." for p in asked]
    assert any("question is not read" in note for note in notes) == ("phrase" not in row and "question" in row)


@pytest.mark.parametrize("answer", [None, "", "on the left", [10, 20, 30, 40], []])
def test_a_question_of_ones_own_is_asked_as_it_is(pictures, answer):
    row = dict(image="a.png", question="Where is the cup?", answer=answer, bbox=[10, 20, 30, 40])
    assert converted(pictures, json.dumps(row) + "\n") == ([("<image> Where is the cup?", "[10, 20, 40, 60] in pixels of 100 x 80")], {})


@pytest.mark.parametrize("name, text", [
    ("a.csv", 'image,phrase,bbox,width,height\na.png,it,"[10, 20, 30, 40]",200,160\n'),
    ("a.csv", 'image,phrase,bbox,width,height\na.png,it,"[10, 20, 30, 40]",200.0,160.0\n'),
    ("a.jsonl", '{"image": "a.png", "phrase": "it", "bbox": [10, 20, 30, 40], "width": 200.0, "height": 160.0}\n'),
    ("a.jsonl", '{"image": "a.png", "phrase": "it", "bbox": [10, 20, 30, 40], "width": 200, "height": 160}\n')])
def test_sizes_may_be_written_as_tables_write_them(pictures, name, text):
    assert converted(pictures, text, name)[0][0][1] == "[10, 20, 40, 60] in pixels of 200 x 160"


@pytest.mark.parametrize("width", ["wide", 100.5, -100, True, "nan", "-100"])
def test_a_size_that_is_none_is_named(pictures, width):
    with pytest.raises(DataError, match="row 1 has width and height .*, 80., expected whole numbers above 0"):
        converted(pictures, json.dumps(dict(image="a.png", phrase="it", bbox=[1, 1, 2, 2], width=width, height=80)) + "\n")


@pytest.mark.parametrize("size", ['"width": NaN, "height": NaN', '"width": null, "height": 160', '"depth": 3'])
def test_a_size_that_is_not_there_is_that_of_the_picture(pictures, size):
    text = f'{{"image": "a.png", "phrase": "it", "bbox": [10, 20, 30, 40], {size}}}\n'
    assert converted(pictures, text)[0][0][1] == "[10, 20, 40, 60] in pixels of 100 x 80"


def test_one_pixel_in_the_corner_is_no_fraction(pictures):
    line = json.dumps(dict(image="a.png", phrase="it", bbox=[0, 0, 1, 1])) + "\n"
    assert converted(pictures, line)[0][0][1] == "[0, 0, 1, 1] in pixels of 100 x 80"


# Pictures

def test_boxes_are_drawn_where_they_are():
    image = Image.new("RGB", (112, 112), "white")
    drawn = draw_boxes(image, ONE, ["[0, 0, 10, 10]", "[60, 70, 20, 30]", "nonsense", "[100, 100]"], side=336)
    assert drawn.size == (336, 336) and drawn.getpixel((60, 90)) == (0, 158, 115) and drawn.getpixel((0, 15)) == (213, 94, 0)
    sample = Sample("Where?", ONE, [image], "pointing")
    assert with_boxes_drawn(sample, ["[0, 0, 10, 10]"]).images[0].size == (336, 336) and sample.images[0].size == (112, 112)
    other = Sample("How many?", "A photo of 3 discs", [image], "counting")
    assert with_boxes_drawn(other) is other


def test_without_a_truth_a_box_has_no_number_of_overlap():
    "The picture that somebody asks about: the box in the model's scale, and its number alone"
    image = Image.new("RGB", (336, 336), "white")
    drawn = draw_boxes(image, "[] in pixels of 56 x 56", ["[7, 7, 28, 28]"])
    assert drawn.getpixel((100, 42)) != (255, 255, 255) and drawn.getpixel((100, 100)) == (255, 255, 255)
    with_truth = draw_boxes(image, "[7, 7, 28, 28] in pixels of 56 x 56", ["[7, 7, 28, 28]"])
    assert drawn.getpixel((42 + 30, 42 + 14)) == (255, 255, 255) != with_truth.getpixel((42 + 30, 42 + 15))


def test_the_rollout_card_of_a_run_shows_the_boxes():
    class State: global_step, max_steps = 0, 4
    sample = synthetic_pointing(1, 0)[0]
    texts = [answer_form(sample.answer), "[0, 0, 10, 10]"]
    recorder = Recorder(2)
    recorder(texts, [box_reward(text, sample.answer) for text in texts], [sample] * 2, State())
    card = recorder.kept["1 first"]
    assert card.sample.images[0].size == (336, 336) and card.rollouts[0].advantage > 0 > card.rollouts[1].advantage


# Marks and verdict

def predictions(n=60, shift_before=14, shift_after=3):
    "Rows of a run whose boxes came nearer"
    rows = []
    for sample in synthetic_pointing(n, 9):
        x1, y1, x2, y2 = read_box_truth(sample.answer).boxes[0]
        moved = {shift: f"[{x1 + shift:g}, {y1:g}, {x2 + shift:g}, {y2:g}]" for shift in (shift_before, shift_after)}
        before, after = moved[shift_before], moved[shift_after]
        rows.append(dict(row=sample.row, question=sample.question, answer=sample.answer, picture=str(sample.row), before_greedy=[before],
                         after_greedy=[after], before_sampled=[before] * 2, after_sampled=[after] * 2))
    return rows


def test_a_run_is_judged_by_mean_iou():
    rows = predictions()
    assert guess_task(rows) == "pointing"
    found = verdict_of(rows)
    assert found["outcome"] == "better" and "mean IoU went from 0." in found["sentence"]
    names = [question["name"] for question in found["questions"]]
    assert "greedy_rose" in names and "as_meant" not in names # to the letter says nothing of boxes
    assert verdict_of(predictions(shift_after=25))["outcome"] == "worse"
    everything = [row | dict(after_greedy=["[0, 0, 112, 112]"], after_sampled=["[0, 0, 112, 112]"] * 2) for row in rows]
    assert verdict_of(everything)["outcome"] == "collapsed"


def test_marks_of_boxes():
    rows = predictions(8)
    scored = score_rows(rows, "pointing")["after_greedy"]
    assert {"iou", "exact", "inside", "count", "readable", "off_scale", "reward"} == set(scored)
    assert (scored["iou"] == scored["reward"]).all()
    samples = synthetic_pointing(8, 9)
    early, late = (marks(samples, [row[f"{when}_greedy"] for row in rows], load_reward("pointing")) for when in ("before", "after"))
    assert summary(late)["mean_iou"] == pytest.approx(float(np.mean(scored["iou"])))
    assert gain(early, late)["mean_iou"] > 0.15 and gain(early, late)["mean_iou_ci95"][0] > 0
    assert "mean_iou" not in summary(marks([Sample("?", "A photo of 1 disc", task="counting")], [["1 disc"]]))
    lines = baselines(rows, "pointing", known_rewards["pointing"])
    # one box for all pictures: better than the whole picture, far from good
    assert 0.1 < lines["majority"] < 0.6 and lines["majority"] == pytest.approx(lines["blind_reward"])
    assert any(m["name"] == "gain_greedy/iou" for m in all_metrics(rows))
    assert [m["name"] for m in all_metrics(rows) if m["group"]][0].endswith("boxes 1")


def test_a_picture_of_too_many_pixels_is_a_bad_row(pictures):
    "Pillow's error for one ended the conversion, whatever skip_bad_rows said"
    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"0")), (b"IEND", b"")]
    file = b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(b)) + a + b + struct.pack(">I", zlib.crc32(a + b)) for a, b in chunks)
    (pictures / "big.png").write_bytes(file)
    rows = "\n".join(json.dumps(dict(phrase="the disc", image=name, bbox=[12, 40, 31, 39])) for name in ("a.png", "big.png", "none.png"))
    with pytest.raises(DataError, match="row 2.*cannot be opened .DecompressionBombError"):
        convert_boxes(written(pictures, rows, "rows.jsonl"), pictures / "out.jsonl")
    told = []
    assert convert_boxes(pictures / "rows.jsonl", pictures / "out.jsonl", skip_bad_rows=True, tell=told.append) == 1
    assert ("no width and height, and a picture that is missing or cannot be opened: left out", 2) in told[0].notes

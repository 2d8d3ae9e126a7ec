"""Archives and tables from strangers: each class of fault has its code, nothing is half-written, and only named files are unpacked."""
import io
import json
import os
import stat
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, needs_lerobot, needs_torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from vlrlbook import archive
from vlrlbook.core import Sample
from vlrlbook.data import (DataError, groups_of_rows, open_picture, permuted, picture_key, preference_pairs, preference_row, preflight,
                           read_counting_zip, read_preferences, read_task_rows, rows_by_chance, split_by_picture, split_rows_by_picture,
                           synthetic_counting, to_dataset, to_messages, to_rgb, to_samples, with_system_turn, write_counting_zip)
from vlrlbook.data_check import check_file

HEADER = "images_path,question,answer\n"
ROW = HEADER + "images/a.png,How many?,3\n"


def picture(form="PNG", **kwargs):
    buffer = io.BytesIO()
    kwargs.pop("image", Image.new("RGB", (32, 24), "red")).save(buffer, form, **kwargs)
    return buffer.getvalue()


def make(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in entries: z.writestr(name, data)
    return path


def code_of(tmp_path, entries):
    with pytest.raises(DataError) as e: read_counting_zip(make(tmp_path / "x.zip", entries), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["x.zip"], "something was left behind"
    return e.value.code


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "C:\\a.png", "images\\a.png", "a\x01.png", "images/../../a.png"])
def test_names_that_lead_out(tmp_path, name): assert code_of(tmp_path, [("main.csv", ROW), (name, picture())]) == "zip.path"


def test_symlink(tmp_path):
    link = zipfile.ZipInfo("images/a.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert code_of(tmp_path, [("main.csv", ROW), (link, "/etc/passwd")]) == "zip.link"


@pytest.mark.parametrize("name", ["images/inner.zip", "data.tar.gz", "run.EXE", "images/model.pkl", "head.pt", "setup.py"])
def test_what_has_no_place_among_pictures(tmp_path, name):
    assert code_of(tmp_path, [("main.csv", ROW), ("images/a.png", picture()), (name, b"x")]) == "zip.content"


@pytest.mark.parametrize("separator", ["|"])
def test_another_separator_is_named(tmp_path, separator):
    with pytest.raises(DataError, match="expected a comma"):
        read_counting_zip(make(tmp_path / "x.zip", [("main.csv", ROW.replace(",", separator)), ("images/a.png", picture())]),
                          tmp_path / "out")


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "http://host/a.png", "C:\\a.png"])
def test_rows_that_name_a_path_or_an_address_are_skipped(tmp_path, name):
    rows = ROW + f"{name},How many?,3\n"
    assert [(s["row"], s["code"]) for s in read_counting_zip(make(tmp_path / "x.zip", [("main.csv", rows), ("images/a.png", picture())]),
        tmp_path / "out")[1].skipped] == [(3, "image.name")]


@pytest.mark.parametrize("twin", ["images/A.png", "images/a.PNG"])
def test_names_that_collide(tmp_path, twin):
    assert code_of(tmp_path, [("main.csv", ROW), ("images/a.png", picture()), (twin, picture())]) == "zip.duplicate"


def test_bomb(tmp_path): assert code_of(tmp_path, [("main.csv", ROW), ("images/a.png", b"\0" * (600 << 20))]) == "zip.size"


@pytest.mark.parametrize("table, code", [
    ("", "csv.empty"), (HEADER, "csv.empty"), ("a,b\n1,2\n", "csv.columns"),
    (HEADER.replace("answer", "answer,answer") + "a,b,c,d\n", "csv.columns"),
    (ROW.replace(",", "|"), "csv.columns"), (HEADER + "a,b\n", "csv.fields"), (HEADER + "a,b,c,d\n", "csv.fields"),
    (HEADER + 'a,"b,c\n', "csv.syntax"),
    ((HEADER + "a,几,3\n").encode("gbk"), "csv.encoding"), (HEADER + "a\0,b,c\n", "csv.nul"),
    (HEADER + "images/none.png,q,3\n", "csv.no_valid_row"),
    (HEADER + "images/a.png,,3\n", "csv.no_valid_row")])
def test_tables(tmp_path, table, code): assert code_of(tmp_path, [("main.csv", table), ("images/a.png", picture())]) == code


@pytest.mark.parametrize("table", [ROW, ROW.replace(",", ";"), ROW.replace(",", "\t"), "\ufeff" +
    ROW, ROW.replace("\n", "\r\n"), ROW.encode("utf-16"), ROW +
     "\n\n", ROW.replace("images/a.png", "a.png"), ROW.replace("How many?", "=1+1 有几个?")])
def test_tables_that_are_fine(tmp_path, table):
    entries = [("main.csv", table), ("images/a.png", picture()), ("__MACOSX/x", b"x"), ("images/.DS_Store", b"x"),
               ("images/extra.txt", b"MZ")]
    data, report = read_counting_zip(make(tmp_path / "x.zip", entries), tmp_path / "out")
    assert (len(data), report.csv_rows, report.valid_images, report.skipped) == (1, 1, 1, [])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["000002.png", "report.json", "rows.jsonl"]


@pytest.mark.parametrize("data, code", [
    (b"", "image.decode"), (b"hello", "image.decode"), (b"<svg></svg>", "image.decode"), (picture()[:60], "image.decode"),
    (picture("JPEG")[:300], "image.decode"),
    (picture("TIFF"), "image.decode"), (picture(image=Image.new("RGB", (1, 1))), "image.shape"),
    (picture(image=Image.new("L", (4, 4000))), "image.shape"),
    (picture("GIF", image=Image.new("RGB", (8, 8)), save_all=True, append_images=[Image.new("RGB", (8, 8), "red")]), "image.animated"),
    (picture(image=Image.new("1", (9000, 9000))), "image.pixels")])
def test_pictures(data, code):
    with pytest.raises(DataError) as e: open_picture(data)
    assert e.value.code == code


def test_pictures_that_are_fine():
    assert open_picture(picture("JPEG", image=Image.new("CMYK", (8, 8)))).mode == "RGB"
    assert open_picture(picture(image=Image.new("P", (8, 8)))).mode == "RGB"
    turned = Image.Exif()
    turned[0x0112] = 6
    assert open_picture(picture("JPEG", exif=turned)).size == (24, 32)
    deep = Image.fromarray(np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16))
    assert to_rgb(deep).getextrema()[0] == (0, 255)


def test_strict_names_the_row(tmp_path):
    path = make(tmp_path / "x.zip", [("main.csv", ROW + "images/b.png,q,2\n"), ("images/a.png", picture())])
    assert read_counting_zip(path, tmp_path / "lenient")[1].skipped == [dict(row=3, image="images/b.png", code="image.missing",
        message="not in the archive")]
    with pytest.raises(DataError, match="row 3, 'images/b.png'"): read_counting_zip(path, tmp_path / "strict", strict=True)


def raw_zip(tmp_path): return bytearray(make(tmp_path / "x.zip", [("main.csv", ROW), ("images/a.png", picture())]).read_bytes())


@pytest.mark.parametrize("spoil, code", [
    (lambda raw: b"MZ hello" + raw, "zip.foreign"), (lambda raw: raw + b"more", "zip.foreign"), (lambda raw: raw + raw, "zip.foreign"),
    (lambda raw: raw.replace(b"images/a.png", b"images/b.png", 1), "zip.headers")])
def test_archives_that_two_parsers_read_differently(tmp_path, spoil, code):
    (tmp_path / "y.zip").write_bytes(spoil(bytes(raw_zip(tmp_path))))
    with pytest.raises(DataError) as e: read_counting_zip(tmp_path / "y.zip", tmp_path / "out")
    assert e.value.code == code and not (tmp_path / "out").exists()


def test_a_directory_is_read_to_its_end(tmp_path, monkeypatch):
    "The comment of an entry looks like the archive's end, just where reading stops: the rest must not go unread"
    path, after_mark = tmp_path / "x.zip", 18
    with zipfile.ZipFile(path, "w") as file:
        for name, content in (("main.csv", ROW), ("images/a.png", picture())):
            file.writestr(name, content)
        file.infolist()[0].comment = b"PK\5\6" + b"\0" * after_mark
    with zipfile.ZipFile(path) as file:
        start = file.start_dir
    first_end = path.read_bytes().index(b"PK\5\6")
    monkeypatch.setattr(archive, "_most_directory_bytes", first_end + 4 + after_mark - start)
    with pytest.raises(DataError, match="zip.foreign"): read_counting_zip(path, tmp_path / "out")


def test_overlapping_entries(tmp_path):
    raw = raw_zip(tmp_path)
    directory = raw.rfind(b"PK\x01\x02")
    raw[directory + 42:directory + 46] = (0).to_bytes(4, "little")
    (tmp_path / "y.zip").write_bytes(raw)
    with pytest.raises(DataError) as e: read_counting_zip(tmp_path / "y.zip", tmp_path / "out")
    assert e.value.code in ("zip.headers", "zip.overlap")


def test_plain_pictures_keep_their_bytes(tmp_path):
    photo = picture("JPEG")
    read_counting_zip(make(tmp_path / "x.zip", [("main.csv", ROW.replace("a.png", "a.jpg")), ("images/a.jpg", photo)]), tmp_path / "out")
    assert (tmp_path / "out" / "000002.jpg").read_bytes() == photo


def photograph(size=(160, 120), mode="RGB"):
    "Smooth colours with the noise of a camera"
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size[1], :size[0]]
    smooth = np.stack([x * 255 / size[0], y * 255 / size[1], (x + y) % 200], axis=-1)
    return Image.fromarray((smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).astype("uint8")).convert(mode)


def held(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("mode, how", [("RGB", dict(exif=held(6))), ("RGB", dict(exif=held(3))), ("L", {}), ("CMYK", {}),
                                       ("L", dict(exif=held(8)))])
def test_a_jpeg_that_is_encoded_anew_stays_one(tmp_path, mode, how):
    "As a PNG each photograph of a phone that was held upright took seven times its room, and 500 were refused"
    jpeg = picture("JPEG", image=photograph(mode=mode), quality=90, **how)
    entries = [("main.csv", ROW.replace("a.png", "a.jpg")), ("images/a.jpg", jpeg)]
    [row], _ = read_counting_zip(make(tmp_path / "x.zip", entries), tmp_path / "out")
    kept = tmp_path / "out" / "000002.jpg"
    meant, stored = open_picture(jpeg), Image.open(kept)
    assert stored.format == "JPEG" and stored.mode == "RGB" and not stored.getexif() and stored.size == meant.size
    assert np.abs(np.asarray(stored, int) - np.asarray(meant, int)).mean() < 2, "nothing to see of it"
    assert kept.stat().st_size < 3 * len(jpeg)
    rows_file = (tmp_path / "out" / "rows.jsonl").read_text()
    assert picture_key(stored) in rows_file, "the key is that of the pixels that a run reads"


@pytest.mark.parametrize("form, image", [("WEBP", photograph()), ("BMP", photograph()), ("PNG", photograph(mode="L")),
                                         ("PNG", photograph(mode="RGBA"))])
def test_others_are_encoded_anew_without_loss(tmp_path, form, image):
    data = picture(form, image=image)
    read_counting_zip(make(tmp_path / "x.zip", [("main.csv", ROW), ("images/a.png", data)]), tmp_path / "out")
    stored = Image.open(tmp_path / "out" / "000002.png")
    assert stored.format == "PNG" and np.array_equal(np.asarray(stored), np.asarray(open_picture(data)))


def test_a_lack_of_memory_is_no_fault_of_a_picture(tmp_path, monkeypatch):
    "It was a row left out, `image.decode`, so that other rows were kept on each machine, and each time"
    def no_memory(image): raise MemoryError
    monkeypatch.setattr(archive, "to_rgb", no_memory)
    rows = ROW + "images/b.png,How many?,2\n"
    entries = [("main.csv", rows), ("images/a.png", picture()), ("images/b.png", picture(image=photograph(mode="L")))]
    assert code_of(tmp_path, entries) == "intake.memory"


def test_pictures_in_memory_do_not_grow_with_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(archive.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(archive, "_pixels_at_once", 2 * 160 * 120)
    monkeypatch.setattr(archive, "_encoded_at_once", 1000) # less than one picture: they go one by one, and none waits for ever
    lock, now, most, threads = threading.Lock(), [], [], set()
    decode = archive.decode_picture

    def watched(data):
        if len(data) == 3000: return decode(data) # the broken one, which takes no pixels
        with lock:
            now.append(data)
            most.append(len(now))
            threads.add(threading.get_ident())
        time.sleep(0.01)
        with lock: now.remove(data)
        return decode(data)

    monkeypatch.setattr(archive, "decode_picture", watched)
    names = [f"images/{i}.png" for i in range(12)]
    rows = HEADER + "".join(f"{name},How many?,3\n" for name in [*names, "images/bad.png"])
    entries = [("main.csv", rows), *((name, picture(image=photograph())) for name in names), ("images/bad.png", b"x" * 3000)]
    path = make(tmp_path / "x.zip", entries)
    _, report = read_counting_zip(path, tmp_path / "one")
    assert (report.valid_images, [s["code"] for s in report.skipped], max(most)) == (12, ["image.decode"], 1)
    monkeypatch.setattr(archive, "_encoded_at_once", 1 << 20)
    most.clear(), threads.clear()
    _, report = read_counting_zip(path, tmp_path / "two")
    assert (report.valid_images, max(most)) == (12, 2) and len(threads) <= 4


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_archives_are_read_or_refused(tmp_path_factory, data):
    tmp = tmp_path_factory.mktemp("zip")
    raw = bytearray(make(tmp / "x.zip", [("main.csv", ROW), ("images/a.png", picture())]).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))): raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (tmp / "x.zip").write_bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw)
    try: read_counting_zip(tmp / "x.zip", tmp / "out")
    except DataError: assert [p.name for p in tmp.iterdir()] == ["x.zip"]


def test_round_trip(tmp_path):
    samples = synthetic_counting(5, seed=7)
    data, _ = read_counting_zip(write_counting_zip(samples, tmp_path / "x.zip"), tmp_path / "out")
    assert [(s.question, s.answer, picture_key(s.images[0])) for s in to_samples(data)] == [
        (s.question, s.answer, picture_key(s.images[0])) for s in samples]


def test_split_shares_no_picture():
    train, held = split_by_picture(to_dataset(synthetic_counting(20) * 3), share=0.3)
    keys = lambda d: {picture_key(i[0]) for i in d["images"]}
    assert not keys(train) & keys(held) and len(train) + len(held) == 60
    with pytest.raises(DataError): split_by_picture(to_dataset(synthetic_counting(1) * 3))


def test_rows_by_chance():
    "Of a sorted set some of every kind, in their order; the same seed gives the same rows; a small set stays whole"
    import datasets
    rows = datasets.Dataset.from_dict(dict(row=range(600), kind=[row // 100 for row in range(600)]))
    chosen = rows_by_chance(rows, 90, seed=3)
    assert len(chosen) == 90 and chosen["row"][:] == sorted(chosen["row"]) and set(chosen["kind"]) == set(range(6))
    assert rows_by_chance(rows, 90, seed=3)["row"][:] == chosen["row"][:] != rows_by_chance(rows, 90, seed=4)["row"][:]
    for enough in (600, 601): assert rows_by_chance(rows, enough, seed=3)["row"][:] == list(range(600))


def test_marks_and_pictures_must_agree():
    with pytest.raises(DataError, match="2 <image> marks but 1 pictures"): to_messages(Sample("<image><image>", "", [None]))


@pytest.mark.skipif(not SHARED.exists(), reason="the folder with real samples is not beside this checkout")
@pytest.mark.parametrize("folder", ["bccd_count", "blindtest_count", "coco_open_count"])
def test_real_pictures_open(folder):
    paths = sorted((SHARED / folder / "images").iterdir())
    assert paths and all(open_picture(p.read_bytes()).mode == "RGB" for p in paths)

@pytest.mark.parametrize("row, code", [
    ({}, "preference.response"), ({"query": "?", "response": ["a"], "human_ranking": [0]}, "preference.response"),
    ({"query": "?", "response": ["a", ""], "human_ranking": [0, 1]}, "preference.response"),
    ({"query": "?", "response": ["a", "b"], "human_ranking": [0]}, "preference.ranks"),
    ({"query": "?", "response": ["a", "b"], "human_ranking": [0, "1"]}, "preference.ranks"),
    ({"query": "?", "response": ["a", "b"], "human_ranking": [0, float("inf")]}, "preference.ranks"),
    ({"query": "", "response": ["a", "b"], "human_ranking": [0, 1]}, "preference.query"),
    ({"query": "?", "response": "ab", "human_ranking": [0, 1]}, "preference.response"),
    ({"query": "?", "response": ["a", "b"], "human_ranking": [0, 1], "image": 3}, "preference.image")])
def test_bad_preferences(row, code):
    with pytest.raises(DataError) as e: preference_row(row, 8)
    assert (e.value.code, e.value.row) == (code, 8)


def test_preferences_from_parquet(tmp_path):
    import pandas as pd
    pd.DataFrame([dict(id="1", query="?", response=["a", "b"], human_ranking=[1, 0], image={"bytes": picture()}),
                  dict(id="2", query="?", response=["a", "b"], human_ranking=[0, 0], image={"bytes": picture()})]).to_parquet(
                      tmp_path / "p.parquet")
    rows = read_preferences(tmp_path / "p.parquet")
    assert [preference_pairs(r)[0][2] for r in rows] == [0.0, 0.5] and open_picture(rows[0]["image"]).size == (32, 24)
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "p.parquet").read_bytes()[:100])
    with pytest.raises(DataError, match="not a parquet file"): read_preferences(tmp_path / "cut.parquet")


def test_permuting_keeps_what_was_ranked():
    rows = [preference_row(dict(query="?", response=["a", "b", "c"], human_ranking=[2, 0, 1])) for _ in range(50)]
    for old, new in zip(rows, permuted(rows, seed=1)):
        assert dict(zip(old["response"], old["human_ranking"])) == dict(zip(new["response"], new["human_ranking"]))
    assert len({tuple(r["response"]) for r in permuted(rows)}) == 6


@pytest.mark.skipif(not SHARED.exists(), reason="the folder with real samples is not beside this checkout")
def test_real_preferences():
    rows = read_preferences(SHARED / "vl_rewardbench_text" / "data.jsonl")
    first = lambda rows: sum(p for r in rows for _, _, p in preference_pairs(r)) / len(rows)
    assert len(rows) == 498 and first(rows) > 0.95 and 0.4 < first(permuted(rows)) < 0.6


@needs_torch
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "gemma3", "aria"])
def test_preflight_counts_what_the_processor_makes(family):
    from vlrlbook.data import encode
    from vlrlbook.models import tiny_twin
    _, processor = tiny_twin(family)
    samples = [Sample("How many?", "1", [Image.new("RGB", (200, 120), "white")], row=1),
               Sample("And here?", "2", [Image.new("RGB", (90, 300), "red")], row=2)]
    found = preflight(to_dataset(samples), processor)
    assert found.prompt_tokens == encode(processor, samples)["input_ids"].shape[1] and not found.problems
    turned = with_system_turn(to_dataset(samples), "You are a careful radiologist. " * 9)
    of_all = preflight(turned, processor)
    assert of_all.prompt_tokens == encode(processor, to_samples(turned))["input_ids"].shape[1] > found.prompt_tokens + 9
    assert [p["code"] for p in preflight(turned, processor, max_prompt_tokens=of_all.prompt_tokens - 1).problems] == ["prompt.length"]
    said = [("user", "<image>Hello, what is it?"), ("assistant", "An X-ray.")]
    talk = Sample("And left?", "1", [Image.new("RGB", (90, 90))], row=3, turns=said)
    assert preflight(to_dataset([talk]), processor).prompt_tokens == encode(processor, [talk])["input_ids"].shape[1]
    assert [p["code"] for p in preflight(to_dataset(samples), processor, held_out=to_dataset(samples[:1])).problems] == ["split.leak"]


@needs_torch
def test_preflight_lists_a_held_out_picture_that_cannot_be_decoded():
    "It was raised, though all problems are to be listed"
    from vlrlbook.models import tiny_twin
    samples = [Sample("How many?", "1", [Image.new("RGB", (56, 56), colour)], row=row) for row, colour in ((1, "white"), (2, "red"))]
    held = to_dataset(samples[1:])
    broken = held.to_list()
    broken[0]["images"] = [dict(bytes=b"no picture", path=None)]
    held = type(held).from_list(broken, features=held.features)
    problems = preflight(to_dataset(samples[:1]), tiny_twin("qwen2_5_vl")[1], held_out=held).problems
    assert [(p["row"], p["code"]) for p in problems] == [(2, "image.decode")] and "held-out" in problems[0]["message"]


def test_synthetic_questions_are_balanced_and_earn_their_own_truth():
    from vlrlbook.data import synthetic_vqa
    from vlrlbook.rewards import vqa_accuracy
    samples = synthetic_vqa(400, seed=1)
    said = [s.answer for s in samples if s.answer in ("yes", "no")]
    assert said.count("yes") == said.count("no") == 50
    sides = [s.answer for s in samples if s.answer in ("left", "right")]
    assert 35 <= sides.count("left") <= 65 and len(sides) == 100, "always the same side: nothing to look at"
    assert all(vqa_accuracy(f"<answer>{s.answer}</answer>", s.answer)["accuracy"] == 1 for s in samples)
    assert [s.images[0].tobytes() for s in samples[:9]] == [s.images[0].tobytes() for s in synthetic_vqa(9, seed=1)]


def test_synthetic_preferences_rank_the_right_count_first():
    from vlrlbook.data import synthetic_preferences
    rows = synthetic_preferences(60, seed=2)
    assert all(sorted(r["human_ranking"]) == [0, 1] and open_picture(r["image"]).size == (112, 112) for r in rows)


@needs_lerobot
def test_synthetic_aloha_is_a_lerobot_dataset(tmp_path):
    from vlrlbook.data import aloha_cameras, synthetic_aloha
    data = synthetic_aloha(tmp_path / "aloha", episodes=3, frames=4)
    assert (data.num_episodes, len(data)) == (3, 12) and set(aloha_cameras) <= set(data.features)
    row = data[11]
    assert row[aloha_cameras[0]].shape == (3, 96,
                                           96) and 0 <= float(row[aloha_cameras[0]].min()) and float(row[aloha_cameras[0]].max()) <= 1
    labels = [int(data[i]["reward_bins"].argmax()) for i in range(12)]
    assert labels[0] == 0 and labels[:4] == sorted(labels[:4]) and labels[3] == 4, "a success climbs to the last bin"
    assert max(labels[4:8]) > labels[7], "a failure lets go"
    assert set(labels[8:]) == {0}, "the wrong cup earns nothing"
    again = synthetic_aloha(tmp_path / "again", episodes=3, frames=4)
    assert all((again[i][c] == data[i][c]).all() for i in (1, 6, 11) for c in (*aloha_cameras,
        "reward_bins")) and again[8]["task"] == data[8]["task"]


def test_rows_that_share_a_picture_by_way_of_a_third_stay_together():
    a, b, c, d = (Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue", "white"))
    rows = to_dataset([Sample("?", "1", images, row=i) for i, images in enumerate([[a, b], [b, c], [c], [d]])])
    train, held = split_by_picture(rows, share=0.5)
    assert sorted([sorted(train["row"]), sorted(held["row"])]) == [[0, 1, 2], [3]]


def test_rows_without_a_picture_that_ask_the_same_stay_together():
    "All questions of a file of texts were on both sides of the split"
    texts = [dict(question=f"What is {i % 20}?", images=[]) for i in range(100)] + [dict(question="What is 1?", images=["red.png"])]
    train, held = split_rows_by_picture(texts, seed=43)
    of_texts = [{row["question"] for row in side if not row["images"]} for side in (train, held)]
    assert len(train) + len(held) == 101 and not of_texts[0] & of_texts[1] and len(of_texts[0] | of_texts[1]) == 20
    # a question that most rows ask does not tell them apart, and would turn the split over
    most = [dict(question="Which is better?" if i else "Why?", images=[]) for i in range(100)]
    assert [len(side) for side in split_rows_by_picture(most)] == [80, 20]
    # questions that occur once are split as before, and pictures with one question stay apart
    once = to_dataset([Sample(f"What is {i}?", "1", [], row=i) for i in range(10)])
    names = [f"row {i}" for i in range(10)]
    assert groups_of_rows([[]] * 10, [f"What is {i}?" for i in range(10)]) == names == groups_of_rows([[]] * 10)
    assert len(split_by_picture(once)[1]) == 2
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    assert len(split_by_picture(to_dataset([Sample("?", "1", [p], row=i) for i, p in enumerate(pictures)]))[0]) == 2
    # one question in all rows tells nothing: split as before
    alike = to_dataset([Sample("?", "1", [], row=i) for i in range(3)])
    assert len(split_by_picture(alike)[0]) == 2


def test_greys_of_twelve_and_sixteen_bits():
    grey = lambda top: to_rgb(Image.fromarray(np.linspace(0, top, 64).reshape(8, 8).astype(np.uint16))).getextrema()[0]
    assert grey(65535) == grey(4095) == (0, 255)


def test_marks_in_the_middle_keep_their_places():
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    row = to_dataset([Sample("Compare <image> with <image>.", "", [red, blue], row=3)])[0]
    assert [p["text"] or p["type"] for p in row["prompt"][0]["content"]] == ["Compare ", "image", " with ", "image", "."]
    assert [i.getpixel((0, 0)) for i in row["images"]] == [(255, 0, 0), (0, 0, 255)]


def test_answers_that_share_the_best_rank_may_stand_in_any_order(tmp_path):
    import json
    from vlrlbook.rows.gate import inspect_preferences
    rows = [dict(query="?", response=["x", "y", "z"], human_ranking=[0, 0, 1]),
            dict(query="?", response=["y", "x", "z"], human_ranking=[0, 0, 1])]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    _, report = inspect_preferences(tmp_path / "p.jsonl")
    notes = " ".join(text for text, _ in report.notes)
    assert "those of an earlier row" in notes and "contradict" not in notes, notes


def test_a_folder_around_the_archive_may_be_written_with_other_accents(tmp_path):
    "One letter in the table, a letter and its accent in the archive: the folder's name is longer there"
    import unicodedata
    folder, file = unicodedata.normalize("NFD", "Énoncé"), tmp_path / "z.zip"
    with zipfile.ZipFile(file, "w") as z:
        z.writestr(f"{folder}/main.csv", f"images_path,question,answer\n{unicodedata.normalize('NFC', folder)}/images/a.png,How many?,1\n")
        z.writestr(f"{folder}/images/a.png", picture())
    samples, report = read_counting_zip(file, tmp_path / "out")
    assert len(samples) == 1 and not report.skipped


@pytest.mark.parametrize("age", [0, 3600])
def test_a_picture_that_comes_later_is_found(tmp_path, monkeypatch, age):
    "Under another case, at once and also in a folder that was last changed long ago; there many rows list it once"
    from vlrlbook.rows import pictures
    listed = []
    monkeypatch.setattr(pictures.os, "listdir", lambda folder, real=os.listdir: listed.append(folder) or real(folder))

    def saved(name, seconds_ago):
        (tmp_path / name).write_bytes(picture())
        os.utime(tmp_path, (time.time() - seconds_ago,) * 2)
    saved("dog.png", 2 * age)
    for _ in range(50):
        with pytest.raises(DataError, match="no such picture"): pictures.located("cat.png", tmp_path)
    assert len(listed) == 1 or not age
    saved("CAT.PNG", age)
    assert pictures.located("cat.png", tmp_path) == str(tmp_path / "CAT.PNG")


def test_an_archive_that_is_not_there_is_one_clear_error(tmp_path):
    "And a folder that no ZIP was unpacked into, for every task that reads one"
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "report.json").write_text("{}") # without its rows
    for task in ("counting", "pointing", "zoom"):
        for path, code in (("/nowhere/a.zip", "zip.missing"), ("/nowhere/a", "zip.missing"), (tmp_path, "file.kind"),
                           (tmp_path / "half", "file.kind")):
            with pytest.raises(DataError) as told: read_task_rows(path, task)
            assert told.value.code == code and Path(path).name in str(told.value)
    with pytest.raises(DataError, match="no counting ZIP"): check_file(tmp_path / "half")


def test_other_rules_read_an_archive_anew(tmp_path, monkeypatch):
    "What a release has unpacked or converted is not taken by one that reads by other rules"
    from vlrlbook import data
    monkeypatch.setenv("VLRLBOOK_CACHE", str(tmp_path / "cache"))
    path = make(tmp_path / "x.zip", [("main.csv", ROW), ("images/a.png", picture())])
    clear = picture(image=Image.new("RGBA", (32, 24), (255, 0, 0, 90)))
    rules, read = data._reading_rules(), []
    monkeypatch.setattr(data, "read_counting_zip", lambda *args, **more: read.append(args) or read_counting_zip(*args, **more))
    for said in (rules, rules, "0ther4ul"):
        monkeypatch.setattr(data, "_reading_rules", lambda said=said: said)
        assert data.unpacked_counting_zip(path)[0]["answer"][:] == ["3"] and data._converted(clear).exists()
    assert len(read) == 2 and len(list((tmp_path / "cache" / "pictures").iterdir())) == 2


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@needs_torch
@pytest.mark.parametrize("name", ["c.ndjson", "c.jsonlines", "c.txt", "c"])
def test_rows_are_rows_under_any_suffix(tmp_path, name):
    "The check and a run ask the same question: is this a counting ZIP?"
    for i in range(6): Image.new("RGB", (8, 8), (i, 9, 9)).save(tmp_path / f"{i}.png")
    rows = [f'{{"image": "{i}.png", "question": "How many?", "answer": "A photo of {i + 1} discs"}}\n' for i in range(6)]
    path = written(tmp_path / name, "".join(rows))
    assert check_file(path, "counting").good and len(read_task_rows(path, "counting")[0]) == 6
    zipped = write_counting_zip(synthetic_counting(4), tmp_path / "x.zip")
    (tmp_path / "no_suffix").write_bytes(zipped.read_bytes())
    for path in (zipped, tmp_path / "no_suffix"):
        assert check_file(path, "counting").good and len(read_task_rows(path, "counting")[0]) == 4
    with pytest.raises(DataError, match="x.zip is a ZIP .rows of questions are a table"): read_task_rows(zipped, "vqa")


@needs_torch
def test_the_check_scales_photos_down_as_a_run_does(tmp_path):
    for i in range(3): Image.new("RGB", (4032, 3024), (i * 50, 9, 9)).save(tmp_path / f"{i}.jpg")
    rows = [f'{{"image": "{i}.jpg", "question": "Is it?", "answer": "yes"}}\n' for i in range(3)]
    found = check_file(written(tmp_path / "x.jsonl", "".join(rows)), model="tiny-qwen2_5_vl")
    assert found.good, found


@pytest.mark.parametrize("text, row", [
    ('{"question": "a?", "answer": "no"}\n{"question": "b?", "answer": "yes", "answer": "no"}\n', 2),
    ('{"question": "b?", "answer": "yes", "answer": "no"}\n{"question": "a?", "answer": "no"}\n', 1),
    ('[{"question": "a?", "answer": "no"},\n {"question": "b?", "answer": "yes", "answer": "no"}]', None),
    ('{\n "question": "b?",\n "answer": "yes",\n "answer": "no"}', None),
    ('{"messages": [{"role": "user", "content": "a?", "content": "b?"}]}\n{}', 1)])
def test_two_values_under_one_key_are_refused(tmp_path, text, row):
    from vlrlbook.rows.files import read_rows
    with pytest.raises(DataError, match="x.jsonl: the key '(answer|content)' stands twice") as told:
        read_rows(written(tmp_path / "x.jsonl", text))
    assert (told.value.code, told.value.row) == ("json.keys", row)
    same = text.replace('"yes"', '"no"').replace("a?", "b?")
    assert read_rows(written(tmp_path / "y.jsonl", same))  # the same twice says nothing else


def test_values_under_one_key_are_compared_as_they_are_written(tmp_path):
    from vlrlbook.rows.files import read_rows
    assert read_rows(written(tmp_path / "x.jsonl", '{"answer": "no", "score": NaN, "n": 1, "n": 1}\n'))
    with pytest.raises(DataError, match="the key 'n' stands twice in an object, with 1 and True"):
        read_rows(written(tmp_path / "y.jsonl", '{"answer": "no", "n": 1, "n": true}\n'))


TABLE = "image,question,answer\na.png,Is it?,yes\n{}\nb.png,Is it b?,no\nc.png,Is it c?,no\nd.png,{},no\n"


@pytest.mark.parametrize("table, separator", [(False, ","), (False, ";"), (False, "\t"), (True, ",")])
def test_a_stray_quotation_mark_does_not_swallow_rows(tmp_path, table, separator):
    from vlrlbook.archive import counting_table
    from vlrlbook.rows.files import read_rows

    def rows_of(third, last):
        text = TABLE.format(third, last).replace(",", separator)
        if table: return counting_table(text.replace("image,", "images_path,"))
        return read_rows(written(tmp_path / ("x.tsv" if separator == "\t" else "x.csv"), text))
    with pytest.raises(DataError, match="csv.quotes: row 3.*a quotation mark before .big one"): rows_of('e.png,"big one,yes', 'It is 5"')
    for third in ('e.png,"Is it\nbig, or\nsmall?",yes', 'e.png,"See a.png, b.png.\nIs it?",yes', 'e.png,"a, b\nc, d",yes',
                  'e.png,5" wide?,yes', 'e.png,"an ""odd"" one\n",yes'):
        assert len(rows_of(third, "Is it d?")) == 5


FIRST_CELLS = [["1", "2", "3", "4"], ["000009", "000010", "000011", "000012"],
               ["http://x/a.jpg?w=3", "HTTPS://x/b", "http://x/c", "http://x/d"], ["a.png", "", "c.PNG", "d.jpg"]]


@pytest.mark.parametrize("first", FIRST_CELLS, ids=lambda first: first[0])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_swallowed_rows_are_told_by_running_numbers_and_addresses_too(tmp_path, first, separator):
    from vlrlbook.rows.files import read_rows

    def rows_of(*rest):
        text = "".join(f"{begin},{end}\n" for begin, end in zip(["key", *first], ["question,answer", *rest]))
        return read_rows(written(tmp_path / ("x.tsv" if separator == "\t" else "x.csv"), text.replace(",", separator)))
    with pytest.raises(DataError, match="csv.quotes: row 2.*a quotation mark before .big one"):
        rows_of('"big one,5', "q2,6", 'size 5",7', "q4,8")
    with pytest.raises(DataError, match="csv.quotes: row 4.*a quotation mark before .big one"):
        rows_of("q1,5", "q2,6", '"big one,5', 'size 5",7')
    assert len(rows_of("q1,5", '"6"" wide?",6', 'size 5"?,7', "q4,8")) == 4


@pytest.mark.parametrize("text", ["Hello, world\nGood bye, all", "2, 4\n3, 5", "7, a\n9, b", "Files: x, y\nb.png, cat, 1\nlast, one",
                                  "see http://a, b\nhttp://b, c", "look at a.png, b\nc.png, d", "4, a\n5, b, c\n6, d"])
def test_texts_of_several_lines_with_separators_stay_whole(tmp_path, text):
    from vlrlbook.rows.files import read_rows
    [(_, row), _] = read_rows(written(tmp_path / "x.csv", f'id,question,answer\n1,"{text}",7\n2,q,8\n'))
    assert row == dict(id="1", question=text, answer="7")


@needs_torch
def test_a_broken_picture_inside_a_row_is_named_without_a_folder(tmp_path):
    "convert-vqa without `image_dir` looks for no files, but opens what stands in the rows"
    import json
    import pandas as pd
    from vlrlbook.data import convert_vqa
    pictures = ({"bytes": picture()}, {"bytes": picture()[:60]}, {"path": "elsewhere.png"})
    pd.DataFrame([dict(question="a?", answer="no", image=image) for image in pictures]).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="image.decode: row 2"): convert_vqa(tmp_path / "x.parquet", tmp_path / "out.jsonl")
    assert convert_vqa(tmp_path / "x.parquet", tmp_path / "out.jsonl", skip_bad_rows=True) == 2
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows[1]["images"] == ["elsewhere.png"] and open_picture((tmp_path / rows[0]["images"][0]).read_bytes()).size == (32, 24)


def test_rows_written_into_another_folder_lead_to_their_pictures(tmp_path):
    "Readers look beside the file that they read; a picture that is not there, and one by its whole path, stay as they are"
    from vlrlbook.data import convert_vqa
    from vlrlbook.rows.files import read_rows
    for name in ("in/pics/a.png", "whole.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(tmp_path / name)
    paths = ["pics/a.png", str(tmp_path / "whole.png"), "pics/gone.png"]
    rows = [dict(question=f"{number}?", answer="yes", images=[path]) for number, path in enumerate(paths)]
    written(tmp_path / "in" / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere" / "deep")
    for folder, first in (("in", "pics/a.png"), ("elsewhere", "../in/pics/a.png"), ("linked", "../../in/pics/a.png")):
        out = tmp_path / folder / "out.jsonl"
        assert convert_vqa(tmp_path / "in" / "rows.jsonl", out) == 3
        images = [row["images"][0] for _, row in read_rows(out)]
        assert images == [first, *paths[1:]] and (out.parent / first).exists()
    for name in ("o.csv", "o.TSV", "o.parquet"):
        with pytest.raises(ValueError, match="JSON lines are written; expected a name such as o.jsonl"):
            convert_vqa(tmp_path / "in" / "rows.jsonl", tmp_path / name)


def test_a_tie_contradicts_nothing(tmp_path):
    "It was counted beside two rows that do"
    from vlrlbook.rows.gate import inspect_preferences
    rows = [dict(query="?", response=["a", "b"], human_ranking=ranks) for ranks in ([0, 1], [1, 0], [0, 0])]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    _, report = inspect_preferences(tmp_path / "p.jsonl")
    assert [how_many for text, how_many in report.notes if "other way" in text] == [2], report.notes


def test_the_home_folder_behind_an_equals_sign(tmp_path, monkeypatch):
    "Shells write it for `--output_jsonl ~/a`, not for `--output_jsonl=~/a`, which made a folder called ~"
    from vlrlbook.cli import main
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    row = dict(question="Is it?", answer="no", image="a.png")
    (tmp_path / "home/rows.jsonl").write_text(json.dumps(row) + "\n")
    Image.new("RGB", (4, 4)).save(tmp_path / "home/a.png")
    main(["convert-vqa", "--input_jsonl=~/rows.jsonl", "--output_jsonl=~/out.jsonl"])
    assert (tmp_path / "home/out.jsonl").is_file() and not (tmp_path / "~").exists()

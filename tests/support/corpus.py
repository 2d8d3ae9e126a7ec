"""The files of tests/corpus, made anew in a folder: each line there is one file as people have it, and its verdict.

A line holds either `row`, one row among three ordinary ones (it is the fourth), or a whole file: `text`, `rows` of a
parquet file, `base64`, a `picture` in its place, or the `files` of a ZIP. Its verdict: `kept` rows and `bad` ones with
their codes, or the code by which the file is `refused`; `cannot` is a code of training, which other doors do not ask."""
import base64
import io
import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

CORPUS = Path(__file__).parent.parent / "corpus"


def cases(kind):
    "The lines of one kind: vqa, preferences or counting"
    with open(CORPUS / f"{kind}.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def encoded(image, form="PNG", **how):
    "A picture as bytes"
    buffer = io.BytesIO()
    image.save(buffer, form, **how)
    return buffer.getvalue()


def pictures():
    "name → bytes of every picture that the corpus names"
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    plain = {name: encoded(Image.fromarray(np.roll(noise, k, 0))) for k, name in enumerate(("a.png", "b.png", "c.png"))}
    sideways = Image.Exif()
    sideways[0x0112] = 6
    return plain | {
        "cut.jpg": encoded(Image.fromarray(noise), "JPEG")[:300],
        "phone.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40,
        "lfs.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
        "thin.png": encoded(Image.new("RGB", (20, 5000))),
        "dot.png": encoded(Image.new("RGB", (1, 1))),
        "film.gif": encoded(Image.new("RGB", (8, 8)), "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")]),
        "clear.png": encoded(Image.new("RGBA", (32, 24), (0, 0, 0, 0))),
        "deep.png": encoded(Image.fromarray(np.linspace(0, 65535, 768).reshape(24, 32).astype(np.uint16))),
        "print.jpg": encoded(Image.new("CMYK", (32, 24), (9, 90, 9, 9)), "JPEG"),
        "turned.jpg": encoded(Image.fromarray(noise), "JPEG", exif=sideways)}


PICTURES = pictures()


def filled(value, folder):
    "A value with its marks replaced: @base64, @dataurl, @fileurl and @hub stand for a picture of the folder"
    if isinstance(value, dict):
        return {key: filled(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, folder) for inner in value]
    if not isinstance(value, str) or not value.startswith("@"):
        return value
    form, name = value[1:].split(" ", 1)
    text = base64.b64encode(PICTURES[name]).decode()
    return {"base64": text, "dataurl": f"data:image/png;base64,{text}", "fileurl": (folder / name).as_uri(),
            "hub": {"bytes": PICTURES[name], "path": name}}[form]


def ordinary(kind, others):
    "Three good rows; `others` says under which names they hold what they hold"
    if others == "answers blank":  # here the file has responses of a model beside its answers
        return [dict(question=f"Is it {k}?", answer="yes", response="dog", image=name)
                     for k, name in enumerate(("a.png", "b.png", "c.png"))]
    if kind == "vqa":
        return [{"question": f"Is it {k}?", "answer": "yes", others or "image": name} for k, name in enumerate(("a.png", "b.png", "c.png"))]
    rows = [dict(query=f"What is {k}?", response=["a disc", "a square"], human_ranking=[0, 1], image="a.png") for k in range(3)]
    if others:
        rows = [dict(ask=f"What is {k}?", better="a disc", worse="a square", image="a.png") for k in range(3)]
    return rows


def made(case, kind, folder):
    "The file of a case, in a folder with all pictures; and the verdict: kept rows, bad rows, code of a refusal"
    for name, data in PICTURES.items():
        (folder / name).write_bytes(data)
    verdict = dict(kept=case.get("kept"), bad=[tuple(pair) for pair in case.get("bad", [])], refused=case.get("refused"))
    if kind == "counting":
        path = folder / "x.zip"
        if "bytes" in case: path.write_text(case["bytes"])
        else: path.write_bytes(zipped(case["files"]))
        return path, verdict
    if "row" in case:
        path = folder / "x.jsonl"
        rows = [*ordinary(kind, case.get("others")), filled(case["row"], folder)]
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        bad = [(4, case["code"])] if "code" in case else []
        return path, dict(kept=[1, 2, 3, 4][:4 - len(bad)], bad=bad, refused=None)
    path = folder / case["file"]
    if "rows" in case:
        import pandas
        pandas.DataFrame(filled(case["rows"], folder)).to_parquet(path)
        path.write_bytes(path.read_bytes()[:case.get("cut")])
    elif "picture" in case: path.write_bytes(PICTURES[case["picture"]])
    elif "base64" in case: path.write_bytes(base64.b64decode(case["base64"]))
    else: path.write_bytes(case["text"].encode(case.get("encoding", "utf-8")))
    return path, verdict


def zipped(files):
    "A ZIP as bytes; a name that begins with @ENCODING is written in it and not declared, as older tools do"
    raw_names, buffer = {}, io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (name, content) in enumerate(files.items()):
            data = content.encode() if isinstance(content, str) else content
            if content.startswith("@bytes "): data = content[7:].encode()
            elif content in PICTURES: data = PICTURES[content]
            elif content.startswith("@"):
                encoding, text = content[1:].split(" ", 1)
                data = text.encode(encoding)
            if name.startswith("@"):
                encoding, name = name[1:].split(" ", 1)
                raw = name.encode(encoding)
                name = f"{number:0{len(raw)}d}"  # as long in ASCII, and replaced below
                raw_names[name.encode()] = raw
            if "\0" in name:  # `zipfile` would cut it
                raw = name.encode()
                name = "N" * len(raw)
                raw_names[name.encode()] = raw
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data)
    packed = buffer.getvalue()
    for written, raw in raw_names.items(): packed = packed.replace(written, raw)
    return packed

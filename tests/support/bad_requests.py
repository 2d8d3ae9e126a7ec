"""Everything wrong that can be sent to the service, with the code that it must get: archives, tables, pictures, forms, JSON, settings."""
import io
import stat
import zipfile

from PIL import Image
from support.service import FILE, GOOD, HEADER, ROW, archive, form, png
from vlrlbook.service import request_form

link = zipfile.ZipInfo("images/l.png")
link.external_attr = (stat.S_IFLNK | 0o777) << 16
odd = zipfile.ZipInfo("images/b.png")
odd.compress_type = zipfile.ZIP_LZMA


def forged(data, name, offset, value):
    "Overwrite bytes in the central directory's record of `name`"
    at = data.rindex(name) - 46 + offset
    return data[:at] + value + data[at + len(value):]


def encrypted(data):
    "Set bit 0 of the flags of both records of a.png"
    out = bytearray(data)
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = data.index(mark, data.index(b"images/a.png") - 60 if mark == b"PK\3\4" else data.rindex(b"images/a.png") - 46) + offset
        out[at] |= 1
    return bytes(out)


def overlapping():
    "An entry whose bytes are another entry, header and all"
    inner, buffer = archive([("images/a.png", png())], zipfile.ZIP_STORED), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(inner)) as z: info = z.infolist()[0]
    with zipfile.ZipFile(buffer, "w") as z:
        z.writestr("outer.txt", inner[:inner.index(b"PK\1\2")])
        z.writestr("main.csv", ROW)
        info.header_offset = 30 + len("outer.txt")
        z.filelist.append(info)
        z.NameToInfo[info.filename] = info
    return buffer.getvalue()


BAD_UPLOADS = {
    "zip.broken": lambda: b"not a zip at all", "zip.path": lambda: archive([("main.csv", ROW), ("../a.png", png())]),
    "zip.link": lambda: archive([("main.csv", ROW), (link, "/etc/passwd")]),
    "zip.content": lambda: archive([("main.csv", ROW), ("run.exe", b"MZ")]),
    "zip.encrypted": lambda: encrypted(GOOD),
    "zip.method": lambda: archive([("main.csv", ROW), ("images/a.png", png()), (odd, b"x" * 99)]),
    "zip.duplicate": lambda: archive([("main.csv", ROW), ("images/a.png", png()), ("images/A.png", png())]),
    "zip.headers": lambda: GOOD.replace(b"images/a.png", b"images/b.png", 1), "zip.overlap": overlapping,
    "zip.foreign": lambda: GOOD + b"more",
    "zip.entries": lambda: archive([("main.csv", ROW), *((f"{i}.txt", b"") for i in range(20_001))], zipfile.ZIP_STORED),
    "zip.size": lambda: forged(GOOD, b"images/a.png", 24, b"\0\0\0\xf0"),
    "csv.missing": lambda: archive([("images/a.png", png())]), "csv.size": lambda: archive([("main.csv", b"a" * (65 << 20))]),
    "csv.encoding": lambda: archive([("main.csv", (HEADER + "a,几,3\n").encode("gbk"))]),
    "csv.nul": lambda: archive([("main.csv", HEADER + "a\0,b,c\n")]),
    "csv.syntax": lambda: archive([("main.csv", HEADER + 'a,"b,c\n')]), "csv.empty": lambda: archive([("main.csv", HEADER)]),
    "csv.columns": lambda: archive([("main.csv", "a,b\n1,2\n")]), "csv.fields": lambda: archive([("main.csv", HEADER + "a,b\n")]),
    "csv.quotes": lambda: archive([("main.csv", ROW + 'images/a.png,"big one,3\nimages/a.png,q,3\nimages/a.png,5",3\n'),
                                   ("images/a.png", png())]),
    "csv.rows": lambda: archive([("main.csv", HEADER + "a,b,c\n" * 100_001)]),
    "csv.no_valid_row": lambda: archive([("main.csv", HEADER + "images/none.png,q,3\n")])}


def strips():
    buffer = io.BytesIO()
    Image.new("RGB", (1000, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def film():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")])
    return buffer.getvalue()


# code → question and answer of the row that is bad by its texts
BAD_TEXTS = {
    "row.empty": (
        "", "3"), "row.marks": (
            "How many <image> in <image>?", "3"), "row.tokens": (
                "How many <|image_pad|> discs?", "3"), "row.count": (
                    "How many?", "many")}
# what is no answer of boxes, for a picture of 32 x 32 pixels → words of the message
BAD_BOXES = {
    "3": "no boxes in the answer", "[1, 2, 3, 4]": "expected a box", "[1, 2, 3] in pixels of 32 x 32": "no boxes",
    "[9, 2, 3, 4] in pixels of 32 x 32": "swapped corners", "[1, 2, 1, 4] in pixels of 32 x 32": "no area",
    "[1, 2, 33, 4] in pixels of 32 x 32": "outside the picture", "[-1, 2, 3, 4] in pixels of 32 x 32": "outside the picture",
    "[0.1, 0.2, 1.5, 0.4] in fractions of 32 x 32": "outside the picture",
    "[1, 2, 3, 4] in pixels of 64 x 32": "64 x 32, and it has 32 x 32",
    "[0, 0, 0, 0] in pixels of 0 x 0": "no area", "[1, 2, 3, 4] in thousandths of 0 x 0": "0 x 0, and it has 32 x 32",
    "[[1, 2, 3, 4], [5, 6]] in pixels of 32 x 32": "no boxes"}
BAD_PICTURES = {"image.name": ("/etc/passwd", png()), "image.missing": ("b.png", png()),
                "image.bytes": ("a.png", b"\0" * ((32 << 20) + 1)), "image.pixels": ("a.png", png(7100)),
                "image.decode": ("a.png", png()[:60]), "row.empty": ("a.png", png()),
                "row.marks": ("a.png", png()), "row.tokens": ("a.png", png()), "row.count": ("a.png", png()),
                "image.shape": ("a.png", strips()), "image.animated": ("a.png", film())}

BAD_FORMS = [
    ("upload.type", "application/zip", GOOD), ("upload.type", "multipart/form-data", GOOD),
    ("upload.type", "multipart/mixed; boundary=xyz", form([(FILE, GOOD)])),
    ("upload.form", "multipart/form-data; boundary=xyz", b"no boundary here at all"),
    ("upload.form", f"multipart/form-data; boundary={'x' * 300}", b""),
    ("upload.form", "multipart/form-data; boundary=xyz", b"--xyz\r\nbad header\r\n\r\n"),
    ("upload.cut", "multipart/form-data; boundary=xyz", form([(FILE, GOOD)], end=False)),
    ("upload.cut", "multipart/form-data; boundary=xyz", b""),
    ("upload.field", "multipart/form-data; boundary=xyz", form([('Content-Disposition: form-data; name="data"; filename="a.zip"', GOOD)])),
    ("upload.field", "multipart/form-data; boundary=xyz", form([('Content-Disposition: form-data; name="file"', b"text")])),
    ("upload.field", "multipart/form-data; boundary=xyz", form([(FILE, GOOD), (FILE, GOOD)])),
    ("upload.field", "multipart/form-data; boundary=xyz", b"--xyz--\r\n"),
    ("zip.broken", "multipart/form-data; boundary=xyz", form([(FILE, b"")]))]

BAD_JSON = [
    ("json.encoding", b'{"job_name": "\xff"}'), ("json.syntax", b"{"), ("json.syntax", b""), ("json.number", b'{"job_name": NaN}'),
    ("json.number", b'{"job_name": 1e999}'), ("json.number", b'{"job_name": ' + b"9" * 5000 + b"}"), ("json.number", b'{"a": -Infinity}'),
    ("json.duplicate", b'{"job_name": "a", "job_name": "b"}'), ("json.duplicate", b'{"training_config": {"r": 1, "r": 2}}'),
    ("json.depth", b"[" * 100_000), ("json.depth", b'{"a":' * 40 + b"1" + b"}" * 40), ("json.text", b'{"job_name": "\\ud800"}'),
    ("json.text", b'{"\\udfff": 1}'),
    ("json.text", b'{"a": ["\\ud800"]}'), ("json.object", b"[]"), ("json.object", b'"x"'),
    ("json.syntax", b'"' + b'\\"' * 120_000), # an unclosed text: looked through once, not once from each of its quotes
    ("body.size", b'{"a": "' + b"a" * (257 << 10) + b'"}')]


def wrong_values():
    "A value out of range, and one of the wrong type, for each field of the form"
    for group, fields in request_form().items():
        for f in fields:
            yield group, f["name"], [1]
            if f["choices"]: yield group, f["name"], "none of these"
            elif f["type"] in ("int", "float"):
                yield group, f["name"], f["minimum"] - 1
                yield group, f["name"], f["maximum"] * 2 + 1
                yield group, f["name"], True
                yield group, f["name"], "1"


BAD_TRAIN = [
    ({}, "train.job_name"), (dict(job_name=""), "train.job_name"), (dict(job_name="\u0007"), "train.job_name"),
    (dict(job_name=3), "train.job_name"), (dict(job_name="a" * 201), "train.job_name"), (dict(data_file_id=None), "train.data_file_id"),
    (dict(data_file_id="../../etc"), "file.unknown"),
    (dict(training_confg={}), "train.unknown"), (dict(training_config=[]), "training_config.type"),
    (dict(lora_config="r"), "lora_config.type"), (dict(training_config=dict(learning_rat=1)), "training_config.unknown"),
    (dict(lora_config=dict(rank=1)), "lora_config.unknown"),
    *((dict(training_config={name: value}), "training_config.unknown") for name, value in (("output_dir", "/tmp/x"), ("data", "/etc"),
        ("trust_remote_code", True), ("adapter", "/x"), ("hub_model_id", "a/b"), ("report_to", "wandb"), ("resume", "true"),
        ("vllm_server_base_url", "http://x"), ("size", "gpu"))),
    (dict(training_config=dict(reward_function="os:system")), "training_config.reward_function"),
    (dict(training_config=dict(model="/etc/passwd")), "training_config.model"),
    (dict(training_config=dict(lr=1e-4, learning_rate=1e-4)), "training_config.learning_rate"),
    (dict(training_config=dict(batch_size=12, gradient_accumulation_steps=1)), "training_config.batch_size"),
    (dict(training_config=dict(batch_size=1024)), "training_config.batch_size"),
    (dict(training_config=dict(task="pointing")), "train.kind"), (dict(training_config=dict(task="vqa")), "train.kind"),
    (dict(training_config=dict(max_looks=1)), "training_config.max_looks"),
    (dict(training_config=dict(loss_type="cispo")), "train.settings"),
    (dict(training_config=dict(task="zoom", reward_function="counting")), "training_config.reward_function")]

"""Dry runs over up to 10,000 rows: rows a second and memory, one process and two.

    python tools/logs.py dry [SIDExROWS ...]

SIDE is that of a picture in pixels, ROWS how many rows are exported and looked at; 112x1000, 112x10000 and
256x10000 unless said otherwise. Takes three minutes. Rows of other cases stay. Writes
nbs/logs/09_dry_run.csv."""
import random
import tempfile

from measure.common import made_by, read_log, run_program, write_log

log = "09_dry_run.csv"
validation_rows = 100


def main(
    *cases: str,  # SIDExROWS of each
):
    "A row for each case and number of processes"
    rows = {(row["picture"], int(row["rows"]), int(row["processes"])): row for row in read_log(log)}
    rng = random.Random(0)
    for case in cases or ("112x1000", "112x10000", "256x10000"):
        side, n = map(int, case.split("x"))
        with tempfile.TemporaryDirectory() as out:
            export(f"{out}/export", side, n, rng)
            for processes in (1, 2):
                found = run_program("dry_run.py", f"{out}/export", processes)
                picture = f"{side} × {side}"
                row = dict(picture=picture, processes=processes)
                rows[picture, n, processes] = row | found | made_by()
                print(row | found, flush=True)  # large cases take a minute: show that something happens
    write_log(log, [rows[case] for case in sorted(rows)])


def export(
    folder: str,  # to write
    side: int,  # of a picture, in pixels
    n: int,  # rows, those for validation among them
    rng: random.Random,  # draws the pictures
):
    "An EasyR1 experiment with a tiny model"
    from vlrlbook.easyr1 import export_easyr1
    from vlrlbook.models import save_model, tiny_twin
    train = drawn_rows(side, n - validation_rows, rng)
    validation = drawn_rows(side, validation_rows, rng)
    # The longest prompt has room for a picture of 256 × 256, so that no row is refused.
    config = dict(model_path="tiny", max_prompt_length=1024)
    export_easyr1(train, "vqa", config, folder, val=validation)
    save_model(*tiny_twin("qwen2_5_vl"), f"{folder}/tiny")


def drawn_rows(side, n, rng):
    "Samples with one drawn picture each"
    from vlrlbook.core import Sample
    from vlrlbook.data import draw_discs
    samples = []
    for i in range(1, n + 1):
        picture = draw_discs(rng.randint(1, 6), rng, side)
        samples.append(Sample("<image> Is there a red disc?", "yes", [picture], "vqa", i))
    return samples

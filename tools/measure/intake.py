"""Pictures read from a ZIP: our reader beside extractall and verify.

    python tools/logs.py intake [PICTURES ...]

Drawn archives of 1,000 and 10,000 PICTURES unless said otherwise, each read by both in turns, in processes
of their own; medians of three. Takes two minutes. Writes nbs/logs/01_intake.csv."""
import tempfile
from pathlib import Path

from measure.common import run_program, write_log

readers = {"ours": "read_zip.py", "plain": "extract_zip.py"}
rounds = 3


def main(
    *pictures: str,  # in each archive
):
    "A row for each archive and reader"
    from vlrlbook.data import synthetic_counting, write_counting_zip
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        # Two sizes, since memory must not grow with the archive; per second and memory are in the log.
        for n in map(int, pictures or (1000, 10000)):
            archive = write_counting_zip(synthetic_counting(n), Path(folder) / f"{n}.zip")
            rows += rows_of_archive(archive)
    write_log("01_intake.csv", rows)


def rows_of_archive(archive):
    "Both readers on one archive"
    runs = {reader: [] for reader in readers}
    # In turns, so that what else the machine does in these minutes hits both.
    for _ in range(rounds):
        for reader, program in readers.items():
            with tempfile.TemporaryDirectory() as out:
                runs[reader].append(run_program(program, archive, out))
    rows = []
    for reader, found in runs.items():
        median = sorted(found, key=lambda run: run["seconds"])[rounds // 2]
        rows.append(dict(reader=reader, pictures=median["pictures"],
                         per_second=round(median["pictures"] / median["seconds"]),
                         memory_reading_mb=round(median["reading_mb"]),
                         memory_all_decoded_mb=round(median["decoded_mb"])))
    return rows

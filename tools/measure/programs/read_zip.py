"""Read a ZIP of pictures by chapter 01's reader, then decode each: `read_zip.py ARCHIVE FOLDER`."""
import json
import sys
import time
from pathlib import Path

import datasets  # noqa: F401, loaded before the clock starts
from vlrlbook.core import peak_memory_mb
from vlrlbook.data import read_counting_zip


def main(archive, folder):
    "Print seconds and memory"
    start = time.perf_counter()
    data, report = read_counting_zip(archive, Path(folder) / "out")
    seconds, reading_mb = time.perf_counter() - start, peak_memory_mb()
    for row in data:
        row["images"][0].load()
    row = dict(
        seconds=seconds,
        pictures=report.valid_images,
        reading_mb=reading_mb,
        decoded_mb=peak_memory_mb(),  # the mark only rises: the most of reading and decoding together
    )
    print("ROW", json.dumps(row))


if __name__ == "__main__":
    main(*sys.argv[1:])

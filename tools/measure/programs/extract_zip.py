"""The plain loop that chapter 01's reader is compared with: `extract_zip.py ARCHIVE FOLDER`."""
import csv
import json
import sys
import time
import zipfile
from pathlib import Path

from PIL import Image
from vlrlbook.core import peak_memory_mb


def main(archive, folder):
    "Unpack everything, verify each picture, print seconds and memory"
    start, pictures = time.perf_counter(), 0
    out = Path(folder) / "plain"
    zipfile.ZipFile(archive).extractall(out)
    with open(out / "main.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            with Image.open(out / row["images_path"]) as image:
                image.verify()
            pictures += 1
    seconds, memory_mb = time.perf_counter() - start, peak_memory_mb()
    # `verify` decodes while it reads, so both columns of the log get one figure.
    row = dict(seconds=seconds, pictures=pictures, reading_mb=memory_mb, decoded_mb=memory_mb)
    print("ROW", json.dumps(row))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The chapters beside the table of their house: `python tools/style.py` prints median cell, words per code line and shares of cells that
export, check and show."""
import csv
import io
import json
import re
import sys
import tokenize
from pathlib import Path
from statistics import median

root = Path(__file__).resolve().parent.parent
checks = re.compile(r"^\s*(assert |test_\w+\()", re.M)


def long_lines(source, most=140):
    "Numbers of the code lines over `most` characters; text in a string of several lines is prose"
    text, opened = set(), []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.STRING and token.end[0] > token.start[0]: text |= {*range(token.start[0], token.end[0] + 1)}
        if tokenize.tok_name[token.type] == "FSTRING_START": opened.append(token.start[0])
        if tokenize.tok_name[token.type] == "FSTRING_END" and (first := opened.pop()) < token.end[0]:
            text |= {*range(first, token.end[0] + 1)}
    return [number for number, line in enumerate(source.splitlines(), 1) if len(line) > most and number not in text]


def row(path):
    "Figures of one notebook"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = lambda c: "".join(c["source"])
    code = [c for c in cells if c["cell_type"] == "code" and text(c).strip() and "default_exp" not in text(c)
            and not text(c).startswith("#| hide")]
    lines = [[line for line in text(c).splitlines() if line.strip() and not line.startswith("#|")] for c in code]
    words = sum(len(text(c).split()) for c in cells if c["cell_type"] == "markdown")
    share = lambda wanted: round(100 * sum(map(bool, map(wanted, code))) / len(code))
    return dict(chapter=path.stem, median_cell=median(map(len, lines)), words_per_code_line=round(words / sum(map(len, lines)), 1),
                exporting=share(lambda c: re.match(r"#\|\s*export", text(c))),
                checking=share(lambda c: checks.search(text(c))), showing=share(lambda c: c["outputs"]),
                pictures=sum("image/png" in o.get("data", {}) for c in code for o in c["outputs"]),
                longest_line=max(len(line) for block in lines for line in block))


if __name__ == "__main__":
    rows = [row(p) for p in sorted((root / "nbs").glob("[0-9]*.ipynb"))]
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)

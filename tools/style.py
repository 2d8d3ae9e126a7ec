"""How pages and code are written, counted.

    python tools/style.py            the pages beside the table of their house, then the package's files
    python tools/style.py FILE ...   lines of Python files, or of those in a folder

Of a page: median lines of a cell, words to a code line, shares of cells that export, check and show. Of a
Python file what `density` says. No figure is an aim; each is a thermometer for something a reader feels."""
import ast
import csv
import io
import json
import os
import re
import sys
import tokenize
from pathlib import Path
from statistics import median

root = Path(__file__).resolve().parent.parent
checks = re.compile(r"^\s*(assert |test_\w+\()", re.M)
widest_line = 110  # characters; what is longer counts as long

EXPRESSIONS = (ast.Name, ast.Call, ast.Attribute, ast.Constant, ast.BinOp, ast.BoolOp, ast.UnaryOp,
               ast.Compare, ast.Subscript)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
# Count -> (count that it is divided by, scale). So comments are reported for each 1000 lines of bodies, and
# long lines in percent of all lines of a file. A count that is not named here is reported as it is.
UNITS = {
    "nodes": ("lines", 1),
    "comments": ("lines", 1000),
    "lambdas": ("lines", 1000),
    "two_for": ("lines", 1000),
    "long": ("all", 100),
}
# Figure -> (title of its column in the printed table, format of its numbers)
TABLE = {
    "lines": ("lines", "6"),
    "nodes": ("nodes", "6.1f"),
    "comments": ("comments", "9.0f"),
    "lambdas": ("lambdas", "8.1f"),
    "two_for": ("two-for", "8.1f"),
    "long": (">110 %", "6.1f"),
    "longest": ("longest", "8"),
}
NOT_CODE = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


# Python files

def density(
    paths: list,  # files; a folder stands for all Python files in it
) -> dict:  # path as text, and "all" for them together -> its figures, a dict
    """How full the lines of Python files are.

    Over the bodies of outermost functions and methods, docstrings left out:
      lines     lines that hold code
      nodes     names, calls, attributes, constants, operators, comparisons and subscripts a line
      comments  comments a 1000 lines, from the first statement on: a signature's are not counted
      lambdas   `name = lambda ...` a 1000 lines
      two_for   comprehensions with two or more `for` a 1000 lines
    and over whole files:
      long      lines of more than 110 characters, in percent
      longest   lines of the longest function, docstring and signature among them"""
    file_counts = {str(path): counts(path) for path in python_files(paths)}
    file_figures = {name: figures(own) for name, own in file_counts.items()}
    if file_counts:
        file_figures["all"] = figures(added(file_counts.values()))
    return file_figures


def python_files(paths):
    "List the Python files among `paths` and in folders among them, without nbdev's generated index"
    files = []
    for path in map(Path, paths):
        files += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return [path for path in files if path.name != "_modidx.py"]


def figures(
    own: dict,  # counts of one file, or of several together
) -> dict:  # figure -> its value; `density` explains them
    "Turn counts into figures: some are divided by the number of lines, such as comments for each 1000 lines"
    values = {}
    for name in TABLE:
        unit, scale = UNITS.get(name, (None, 1))
        # max: a file of constants has no lines of bodies, and an empty file has no lines.
        values[name] = own[name] if unit is None else scale * own[name] / max(1, own[unit])
    return values


def added(several):
    "Add up the counts (dicts) of several files; without any file, all counts are 0"
    total = dict(lines=0, nodes=0, comments=0, lambdas=0, two_for=0, long=0, all=0, longest=0)
    for own in several:
        longest = max(total["longest"], own["longest"])
        total = {name: total[name] + own[name] for name in total}
        total["longest"] = longest  # the one count that is not a sum
    return total


def counts(path):
    "Count lines, comments, expressions and the rest in one Python file; returns a dict, name -> number"
    source = path.read_text(encoding="utf-8")
    # sets of line numbers
    code, comments = lines_of_code(source), lines_of_comments(source)
    own = added([])  # every count at 0
    for function in outermost_functions(ast.parse(source)):
        length = function.end_lineno - function.lineno + 1
        own["longest"] = max(own["longest"], length)
        body = body_of(function)
        if not body:
            continue  # a docstring alone
        # From the first statement on: a signature with its comments is a table for the reader, not a body.
        span = range(body[0].lineno, function.end_lineno + 1)
        own["lines"] += len(code.intersection(span))
        own["comments"] += len(comments.intersection(span))
        for statement in body:
            count_nodes(statement, own)
    lines = source.splitlines()
    own["all"] = len(lines)
    own["long"] = sum(len(line) > widest_line for line in lines)
    return own


def count_nodes(
    statement: ast.AST,  # with everything in it
    own: dict,  # counts to add to
):
    "Add to `own` the expressions, named lambdas and two-`for` comprehensions in a statement"
    for node in ast.walk(statement):
        own["nodes"] += isinstance(node, EXPRESSIONS)
        own["lambdas"] += isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda)
        own["two_for"] += isinstance(node, COMPREHENSIONS) and len(node.generators) > 1


def outermost_functions(tree):
    "Yield the functions and methods that are not inside another function"
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node
        else:
            yield from outermost_functions(node)  # methods of a class, a function under an `if`


def body_of(function):
    "Return the statements of a function without its docstring"
    if ast.get_docstring(function, clean=False) is None:
        return function.body
    return function.body[1:]


def tokens(source):
    "Split source with Python's own tokenizer, which does not take a `#` inside a string for a comment"
    return tokenize.generate_tokens(io.StringIO(source).readline)


def lines_of_comments(source):
    "Return the set of line numbers with a comment"
    return {token.start[0] for token in tokens(source) if token.type == tokenize.COMMENT}


def lines_of_code(source):
    "Return the set of line numbers with code; lines inside a string count as code"
    numbers = set()
    for token in tokens(source):
        if token.type != tokenize.COMMENT and token.type not in NOT_CODE:
            # One token may stand on many lines: a string in three quotes.
            numbers.update(range(token.start[0], token.end[0] + 1))
    return numbers


def long_lines(
    source: str,  # Python code
    most: int = 140,  # characters of a line
) -> list:  # numbers of lines
    "List the code lines of more than `most` characters, except those inside a string of several lines"
    prose = set()  # line numbers inside such strings
    fstring_starts = []  # first lines of f-strings that are not closed yet
    for token in tokens(source):
        first, last = token.start[0], token.end[0]
        kind = tokenize.tok_name[token.type]
        # From Python 3.12 on an f-string is a beginning, pieces and an end; before, it is one STRING.
        if kind == "FSTRING_START":
            fstring_starts.append(first)
        elif kind == "FSTRING_END":
            first = fstring_starts.pop()
        if kind in ("STRING", "FSTRING_END") and last > first:
            prose.update(range(first, last + 1))
    numbered = enumerate(source.splitlines(), 1)
    return [number for number, line in numbered if len(line) > most and number not in prose]


def print_density(found):
    "Print the result of `density` as a table, a row for each file"
    titles = [f"{'file':42}"]
    for title, numbers in TABLE.values():
        width = numbers.partition(".")[0]
        titles.append(f"{title:>{width}}")
    print(*titles)
    for name, row in found.items():
        cells = [f"{name:42.42}"]
        for column, (_, numbers) in TABLE.items():
            cells.append(format(row[column], numbers))
        print(*cells)


# Pages

def source_of(cell):
    "Return the text of a notebook's cell, which the file holds as a list of lines"
    return "".join(cell["source"])


def lines_read(cell):
    "List the lines of a code cell that a reader sees: no blank lines, none of nbdev's directives (`#| export`)"
    return [line for line in source_of(cell).splitlines() if line.strip() and not line.startswith("#|")]


def is_read(cell):
    "Return True if a reader of the page sees this cell as code"
    source = source_of(cell)
    hidden = "default_exp" in source or source.startswith("#| hide")
    return cell["cell_type"] == "code" and bool(source.strip()) and not hidden


def share(marks):
    "Return the percentage of true values among `marks`, which has one value for each cell"
    # The values are booleans, regex matches or lists, so `bool` comes first.
    return round(100 * sum(map(bool, marks)) / len(marks))


def page_row(
    path: Path,  # of a page
) -> dict:  # its figures
    "Measure one page: how long its cells are, how much prose it has, what its cells do"
    page = json.loads(path.read_text(encoding="utf-8"))
    cells = page["cells"]
    code = [cell for cell in cells if is_read(cell)]
    lines = [lines_read(cell) for cell in code]
    line_counts = [len(block) for block in lines]
    widths = [max(map(len, block), default=0) for block in lines]
    prose = [source_of(cell) for cell in cells if cell["cell_type"] == "markdown"]
    words = sum(len(text.split()) for text in prose)
    return dict(
        chapter=path.stem,
        median_cell=median(line_counts),
        words_per_code_line=round(words / sum(line_counts), 1),
        # nbdev takes `#| export` and `#| exports` in a cell's first line only.
        exporting=share([re.match(r"#\|\s*export", source_of(cell)) for cell in code]),
        checking=share([checks.search(source_of(cell)) for cell in code]),
        showing=share([cell["outputs"] for cell in code]),
        pictures=sum(count_pictures(cell) for cell in code),
        longest_line=max(widths),
    )


def count_pictures(cell):
    "Count the stored outputs of a cell that are pictures"
    return sum("image/png" in output.get("data", {}) for output in cell["outputs"])


def print_pages():
    "Print the figures of all pages as CSV"
    rows = [page_row(path) for path in sorted((root / "nbs").glob("[0-9]*.ipynb"))]
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


if __name__ == "__main__":
    if not sys.argv[1:]:
        print_pages()
        print()
    print_density(density(sys.argv[1:] or [os.path.relpath(root / "vlrlbook")]))

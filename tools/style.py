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
# What is not counted as it is -> of how many lines: those of bodies, or all of the file
UNITS = {
    "nodes": ("lines", 1),
    "comments": ("lines", 1000),
    "lambdas": ("lines", 1000),
    "two_for": ("lines", 1000),
    "long": ("all", 100),
}
# A column of the table for each figure -> its title, the format of its numbers
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
    counted = {str(path): counts(path) for path in python_files(paths)}
    found = {name: figures(own) for name, own in counted.items()}
    if counted:
        found["all"] = figures(added(counted.values()))
    return found


def python_files(paths):
    "The files themselves and those in folders; nbdev's index of names is a table, not code"
    files = []
    for path in map(Path, paths):
        files += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return [path for path in files if path.name != "_modidx.py"]


def figures(
    own: dict,  # counts of one file, or of several together
) -> dict:  # what `density` says of them
    "Counts as figures a line, a thousand lines or a hundred"
    found = {}
    for name in TABLE:
        unit, scale = UNITS.get(name, (None, 1))
        # A file of constants has no body, and an empty one no line.
        found[name] = own[name] if unit is None else scale * own[name] / max(1, own[unit])
    return found


def added(several):
    "Counts of several files together"
    total = dict(lines=0, nodes=0, comments=0, lambdas=0, two_for=0, long=0, all=0, longest=0)
    for own in several:
        longest = max(total["longest"], own["longest"])
        total = {name: total[name] + own[name] for name in total}
        total["longest"] = longest  # the one count that is not a sum
    return total


def counts(path):
    "Everything that is counted in one file"
    source = path.read_text(encoding="utf-8")
    code, comments = lines_of_code(source), lines_of_comments(source)
    own = added([])
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
    "Count what makes a line full"
    for node in ast.walk(statement):
        own["nodes"] += isinstance(node, EXPRESSIONS)
        own["lambdas"] += isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda)
        own["two_for"] += isinstance(node, COMPREHENSIONS) and len(node.generators) > 1


def outermost_functions(tree):
    "Functions and methods that stand in no other function"
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node
        else:
            yield from outermost_functions(node)  # methods of a class, a function under an `if`


def body_of(function):
    "Statements of a function without its docstring"
    if ast.get_docstring(function, clean=False) is None:
        return function.body
    return function.body[1:]


def tokens(source):
    "Python's own tokens, since a `#` inside a string begins no comment"
    return tokenize.generate_tokens(io.StringIO(source).readline)


def lines_of_comments(source):
    "Numbers of the lines that hold a comment"
    return {token.start[0] for token in tokens(source) if token.type == tokenize.COMMENT}


def lines_of_code(source):
    "Numbers of the lines that hold code, or text in a string"
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
    "Code lines of more than `most` characters; text in a string of several lines is prose"
    prose, opened = set(), []
    for token in tokens(source):
        first, last = token.start[0], token.end[0]
        kind = tokenize.tok_name[token.type]
        # From Python 3.12 on an f-string is a beginning, pieces and an end; before, it is one STRING.
        if kind == "FSTRING_START":
            opened.append(first)
        elif kind == "FSTRING_END":
            first = opened.pop()
        if kind in ("STRING", "FSTRING_END") and last > first:
            prose.update(range(first, last + 1))
    numbered = enumerate(source.splitlines(), 1)
    return [number for number, line in numbered if len(line) > most and number not in prose]


def print_density(found):
    "Figures of `density` as a table"
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
    "Text of a cell, which notebooks hold as a list of lines"
    return "".join(cell["source"])


def lines_read(cell):
    "Lines of a code cell that a reader sees: blank ones and nbdev's directives are left out"
    return [line for line in source_of(cell).splitlines() if line.strip() and not line.startswith("#|")]


def is_read(cell):
    "Does a reader of the page see this as a code cell?"
    source = source_of(cell)
    hidden = "default_exp" in source or source.startswith("#| hide")
    return cell["cell_type"] == "code" and bool(source.strip()) and not hidden


def share(marks):
    "Percent of cells that have a mark"
    # `marks` holds matches and lists as well as booleans: what counts is whether there is something.
    return round(100 * sum(map(bool, marks)) / len(marks))


def page_row(
    path: Path,  # of a page
) -> dict:  # its figures
    "Figures of one page"
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
    "Stored outputs that are pictures"
    return sum("image/png" in output.get("data", {}) for output in cell["outputs"])


def print_pages():
    "All pages as CSV"
    rows = [page_row(path) for path in sorted((root / "nbs").glob("[0-9]*.ipynb"))]
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


if __name__ == "__main__":
    if not sys.argv[1:]:
        print_pages()
        print()
    print_density(density(sys.argv[1:] or [os.path.relpath(root / "vlrlbook")]))

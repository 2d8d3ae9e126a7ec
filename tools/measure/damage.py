"""Each file and folder of a data directory damaged in every way, a server started on each.

    python tools/logs.py damage [WORKERS [FIRST [LAST]]]

What a case is and what must hold stands in tests/support/damage.py, whose test takes some cases at random. Things
are numbered from 0; all of them unless FIRST and LAST say which. WORKERS processes (1) each have a data directory
of their own: a case waits for trainers most of the time. Four seconds of a core each, 1,100 cases in all. Rows of
other things stay, so that the table can be made in pieces. Writes nbs/logs/08_damage.csv, a row a thing."""
import re
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from measure.common import commit, read_log, use_tests_folder, write_log

log = "08_damage.csv"


def main(
    workers: str = "1",  # processes
    first: str = "0",  # number of a thing
    last: str = None,  # number of a thing, it too is taken; None: the last one there is
):
    "A row for each file and folder, written as soon as it is known"
    rows = {row["thing"]: row for row in read_log(log)}
    wanted = names_of_things()[int(first):int(last) + 1 if last else None]
    tried_with = commit()
    with ProcessPoolExecutor(int(workers)) as pool:
        waiting = [pool.submit(row_of, name, tried_with) for name in wanted]
        for done in as_completed(waiting):
            row = done.result()
            rows[row["thing"]] = row
            write_log(log, [rows[name] for name in sorted(rows)])


def names_of_things() -> list:  # in the order of their numbers
    "What there is to break"
    use_tests_folder()
    from support import damage  # of tests/
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        damage.build(whole)
        roles = damage.roles(whole)
        return sorted(named(path, roles) for path in damage.things(whole))


def named(
    path: Path,  # inside a data directory
    roles: dict,  # from `damage.roles`
) -> str:  # the same for every data directory that is built
    "A path with what a job or an upload is in place of its number"
    words = "/".join(roles.get(part, part) for part in path.parts)
    return re.sub(r"[0-9]+-[0-9]+", "SIZE-TIME", words)


def row_of(
    name: str,  # of a thing
    tried_with: str,  # commit
) -> dict:  # of the log
    "Break one thing in every way"
    use_tests_folder()
    from support import damage  # of tests/
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # A generator: the data directory is built when the first case is asked for, and known then.
        cases = list(damage.table(root, partial(_of_thing, root / "whole", name)))
    if not cases:
        raise ValueError(f"{name}: this data directory holds no such thing")
    wrong = [f"{way}: {told}" for _, way, _, told in cases if told]
    return dict(
        thing=name,
        cases=len(cases),
        refused=sum(refused for _, _, refused, _ in cases),  # in a sentence, with nothing finished lost
        wrong=len(wrong),
        told="; ".join(wrong),
        commit=tried_with,
    )


def _of_thing(whole, name, cases):
    "The cases of one thing"
    use_tests_folder()
    from support import damage  # of tests/
    roles = damage.roles(whole)
    return [(path, way) for path, way in cases if named(path, roles) == name]

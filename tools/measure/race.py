"""Stock TRL and shared prompts in turns, four cases; where a step's time goes; all families.

    python tools/logs.py race
    python tools/logs.py race families [NAME …]

Each case in a process of its own: the profiles counting, reasoning and text, and a small twin. Takes four
minutes. Writes nbs/logs/07_race.csv and nbs/logs/07_profile.csv. With `families` it is the counting profile for
each family, or for those named; nbs/logs/07_families.csv keeps its rows of the others. Takes two minutes each."""
import json
import tempfile

from measure.common import made_by, read_log, run_program, write_log
from vlrlbook.models import families

cases = [  # settings of the race that differ from its own
    dict(profile="counting"),
    dict(profile="reasoning"),
    dict(profile="text"),
    dict(profile="counting", width=128),
]
profiled = ["counting", "reasoning"]


def main(what="profiles", *names):
    "Both logs of the profiles, or that of the families"
    if what == "families":
        race_families(names or tuple(families))
        return
    write_log("07_race.csv", raced())
    write_log("07_profile.csv", where_steps_go())


def race_families(names):
    "A row for each family; written after each, since a case takes minutes"
    rows = {row["family"]: row for row in read_log("07_families.csv")}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            case = json.dumps(dict(profile="counting", family=name, rounds=2))
            rows[name] = rounded(run_program("race_case.py", case, folder=folder)) | made_by()
        write_log("07_families.csv", [rows[family] for family in families if family in rows])


def raced():
    "A row a case"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            found = run_program("race_case.py", json.dumps(case), folder=folder)
            rows.append(rounded(found) | made_by())
            print(rows[-1], flush=True)  # a case takes a minute: show that something happens
    return rows


def rounded(row):
    "Floats with nine digits: differences of log-probabilities are near 1e-6"
    return {name: round(value, 9) if isinstance(value, float) else value for name, value in row.items()}


def where_steps_go():
    "A row for each part of a shared step"
    rows = []
    for profile in profiled:
        parts = run_program("shared_step_parts.py", profile)
        for part, seconds in parts.items():
            rows.append(dict(profile=profile, part=part, seconds=round(seconds, 4)) | made_by())
    return rows

"""Stock TRL and the shared prompt in turns, four cases; where a shared step's time goes.

    python tools/logs.py race

Each case in a process of its own: the profiles counting, reasoning and text, and a small twin. Takes four
minutes. Writes nbs/logs/07_race.csv and nbs/logs/07_profile.csv."""
import json
import tempfile

from measure.common import made_by, run_program, write_log

cases = [  # settings of the race that differ from its own
    dict(profile="counting"),
    dict(profile="reasoning"),
    dict(profile="text"),
    dict(profile="counting", width=128),
]
profiled = ["counting", "reasoning"]


def main():
    "Both logs"
    write_log("07_race.csv", raced())
    write_log("07_profile.csv", where_steps_go())


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

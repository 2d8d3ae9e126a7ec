"""One case of the race: `race_case.py SETTINGS`, where SETTINGS is JSON with fields of RaceSettings."""
import json
import sys

from vlrlbook.core import read_settings
from vlrlbook.race import RaceSettings, run_race

if __name__ == "__main__":
    settings = read_settings(RaceSettings, json.loads(sys.argv[1]))
    print("ROW", json.dumps(run_race(settings)))

"""Seconds of each part of a shared step: `shared_step_parts.py PROFILE`, a profile of RaceSettings."""
import json
import sys

from vlrlbook.race import RaceSettings, where_time_goes

if __name__ == "__main__":
    print("ROW", json.dumps(where_time_goes(RaceSettings(profile=sys.argv[1]))))

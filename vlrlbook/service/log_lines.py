"""The server's log: one JSON object a line, so that a program can count what a person would have to read.

Written by hand, not exported from a notebook."""
import json
import logging
from datetime import datetime, timezone

__all__ = ["logger", "now", "JsonLines"]

logger = logging.getLogger("vlrlbook.service")


def now(
) -> str:  # such as 2026-01-31T12:00:00Z
    "The time in UTC, to the second, for people to read; nothing is decided by it"
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class JsonLines(logging.Formatter):
    "Formats a record as one JSON object: time, level, event, what was given as `extra`, and a traceback"
    # What every record has by itself. Whatever else stands in a record was given as `extra`.
    own = set(vars(logging.makeLogRecord({}))) | {"message", "taskName"}

    def format(self, record):
        "Return the line for one record: time, level, event, and what was given as `extra`"
        line = dict(time=now(), level=record.levelname.lower(), event=record.getMessage())
        for name, value in vars(record).items():
            # `own`: the names that every record has, not given as `extra`. color_message: uvicorn's message a
            # second time, with the colours of a terminal.
            if name not in self.own and name != "color_message":
                line[name] = value
        if record.exc_info:
            line["fault"] = self.formatException(record.exc_info)
        # A value that JSON does not know is written as its text: no value may make the log fail.
        return json.dumps(line, default=str)

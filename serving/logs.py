"""The log: lines of text, or an object of JSON each; and what C libraries print, which strangers can make them do.

libmpg123 and FFmpeg's kin write to the process's standard error whatever is wrong with a file. That goes through a pipe
into our own log, and no more of it than a few lines a minute.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from datetime import UTC, datetime
from typing import IO, Literal

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_NATIVE_LINES = 10  # a minute
_MINUTE_S = 60.0
_LINE_CHARACTERS = 300

native = logging.getLogger("timbre.native")


class JsonLines(logging.Formatter):
    """One object a line: time (UTC), level, logger, message, and, where there is one, a request's id, a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := getattr(record, "request_id", None):
            told["request_id"] = request_id
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told)


def log_to_stderr(kind: Literal["text", "json"] = "text") -> None:
    """Our own lines, and of others what is wrong with us. What is printed past Python is caught.

    What uvicorn warns of is what strangers send, a line for each.
    """
    handler = logging.StreamHandler(_own_stderr())
    handler.setFormatter(JsonLines() if kind == "json" else logging.Formatter(_TEXT))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    logging.getLogger("bentoml").setLevel(logging.WARNING)


def _own_stderr() -> IO[str]:
    """Standard error for Python alone; what anybody else writes to descriptor 2 becomes lines of the log."""
    sys.stderr.flush()
    ours = os.fdopen(os.dup(2), "w", buffering=1)
    sys.stderr = ours  # tracebacks of threads, and of whatever ends the process
    reads, writes = os.pipe()
    os.dup2(writes, 2)
    os.close(writes)
    threading.Thread(target=_pass_on, args=(reads,), name="native-log", daemon=True).start()
    return ours


def _pass_on(descriptor: int) -> None:
    began, lines, left_out = time.monotonic(), 0, 0
    with os.fdopen(descriptor, errors="replace") as pipe:
        for line in pipe:
            if time.monotonic() - began >= _MINUTE_S:
                if left_out:
                    native.warning("%d lines of C libraries were left out", left_out)
                began, lines, left_out = time.monotonic(), 0, 0
            if lines < _NATIVE_LINES:
                lines += 1
                native.warning("%s", line.rstrip()[:_LINE_CHARACTERS])
            else:
                left_out += 1

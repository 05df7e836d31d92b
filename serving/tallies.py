"""The files in which worker processes count, those of prometheus_client's multiprocess mode: room is taken beforehand.

They are written by way of memory. On a disk that has become full the kernel would kill whoever touches a part of them
for which there is no room yet (SIGBUS), one worker after the other. Here the room is there, or the start says it isn't.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import get_args

from prometheus_client.multiprocess import mark_process_dead

from serving.errors import SettingsError
from serving.metrics import Mode

_KINDS = ("counter", "histogram", *(f"gauge_{mode}" for mode in get_args(Mode)))
_ROOM_BYTES = 1 << 20  # some thousands of values; where labels of very many versions need more, the files grow
_HEAD_BYTES = 8  # of which the first four, an int of this machine, say how much is used


def reserve(folder: Path) -> None:
    """Take room for what this process is going to count; before its metrics are made.

    Raises:
        SettingsError: there is none.
    """
    try:
        for kind in _KINDS:
            with (folder / f"{kind}_{os.getpid()}.db").open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, _ROOM_BYTES)
    except OSError as error:
        raise SettingsError(
            f"{folder} has no room for the {len(_KINDS)} MiB in which a worker counts: {error.strerror}. Make room, or "
            "set TMPDIR to a folder that has it."
        ) from error


def settle(folder: Path, pid: int) -> None:
    """A process is gone: its gauges go too, what it counted stays, and the room that it had not used is given back."""
    mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
    for path in folder.glob(f"*_{pid}.db"):
        with path.open("r+b") as file:
            used = int.from_bytes(file.read(4), sys.byteorder)
            file.truncate(max(used, _HEAD_BYTES))

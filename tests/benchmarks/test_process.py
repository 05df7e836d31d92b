"""What a server's processes weigh together, and the end of what they print."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.process import Server

FAMILY = """
import mmap, os, sys, time

own = bytearray(b"x" * 40_000_000)
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        break
with open(sys.argv[2], "rb") as file:
    whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
sum(whole[:: mmap.PAGESIZE])
os.write(1, b"here\\n")
time.sleep(60)
"""


@contextmanager
def family(children: int, file: Path) -> Iterator[Server]:
    """A process that has 40 MB of its own, and its children; each of them has mapped the file and read all of it."""
    command = [sys.executable, "-c", FAMILY, str(children), str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout
            for _ in range(children + 1):
                assert process.stdout.readline() == b"here\n"
            yield Server(process, 0, 0.0)
        finally:
            os.killpg(process.pid, 9)


def resident_mb(server: Server) -> list[float]:
    """What each of its processes has resident, by the kernel's own account."""
    found = (Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in server._family(server.process.pid))
    return [int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6 for pages in found]


def test_one_process_weighs_what_it_has_resident(tmp_path: Path) -> None:
    """All of it, though who asks has mapped the same interpreter and so the kernel gives it but shares of that."""
    (tmp_path / "file").write_bytes(os.urandom(1 << 20) * 30)
    with family(0, tmp_path / "file") as server:
        (alone_mb,) = resident_mb(server)
        assert alone_mb > 70
        assert server.resident_mb() == pytest.approx(alone_mb, rel=0.05)


def test_what_processes_share_is_counted_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(1 << 20) * 30)
    with family(3, tmp_path / "file") as server:
        each_mb = resident_mb(server)
        assert len(each_mb) == 4
        assert sum(each_mb) > 250
        # A process that was split has some pages of its own in each part, and no second copy of what it had before.
        assert max(each_mb) <= server.resident_mb() * 1.05 < max(each_mb) + 30


def test_the_end_of_what_a_server_prints_is_read_while_it_prints_on(tmp_path: Path) -> None:
    line = "print(n, 'in /home/me/x/site-packages/odd.py', flush=True)"
    code = f"import time\nfor n in range(2000):\n    {line}\ntime.sleep(60)"
    with (tmp_path / "log").open("w+b") as log:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=log)
        server, ends = Server(process, 0, 0.0, log=log), time.monotonic() + 60
        while "1999 in site-packages/odd.py" not in server.printed() and time.monotonic() < ends:
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert server.printed().endswith("\n1999 in site-packages/odd.py\n")
        log.seek(0)
        assert log.read().count(b"\n") == 2000  # nothing of it was written over
    assert Server(process, 0, 0.0).printed() == ""

"""One run of the benchmark: its parts in order, what each found written down at once, so that a run can go on."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from benchmarks.bench import Bench, Json, NotHereError
from benchmarks.record import write
from training.provenance import commit, machine

PARTS = (
    "capacity",
    "latency",
    "profile",
    "size",
    "growth",
    "stages",
    "batching",
    "replicas",
    "peers",
    "offline",
)
"""Modules of ``benchmarks.parts`` in order: later ones use what earlier found, and long recordings come after size."""

_CHANGED = "+changes"


def run(bench: Bench, out: Path, only: Iterable[str] = (), *, fresh: bool = False) -> Path:
    """Measure every part, or some, into one results file; returns it.

    What this day's file for this machine has already, of the same commit and the same options, is kept: a run that was
    stopped goes on.

    Args:
        out: folder of the results.
        only: names of parts; all where empty. Those that are named are measured again.
        fresh: keep nothing.

    Raises:
        ValueError: there is no such part.
    """
    wanted = list(only) or list(PARTS)
    if unknown := [name for name in wanted if name not in PARTS]:
        raise ValueError(f"There is no part {', '.join(unknown)}. There are {', '.join(PARTS)}.")
    path = out / f"{file_name()}.json"
    settings = {"url": bench.url, "scale": bench.scale, "rounds": bench.rounds, "seed": bench.seed}
    header: Json = {"settings": settings, "clips": [clip.to_json() for clip in bench.sent]}
    kept = {} if fresh else resumable(path, header)
    bench.found.update({name: found for name, found in kept.items() if name not in only})
    try:
        for number, name in enumerate(wanted, 1):
            if name in bench.found:
                bench.say(f"[{number}/{len(wanted)}] {name}: kept from before")
                continue
            bench.say(f"[{number}/{len(wanted)}] {name}")
            started = time.monotonic()
            found = _measured(bench, name)
            bench.found[name] = {"took_s": round(time.monotonic() - started, 1), **found}
            parts = {part: bench.found[part] for part in PARTS if part in bench.found}
            write(path, {**header, "parts": parts}, bench.seed)
    finally:
        bench.stop()
    return path


def _measured(bench: Bench, name: str) -> Json:
    """One part; loaded when its turn comes, since one of them loads all of training."""
    try:
        found: Json = import_module(f"benchmarks.parts.{name}").measure(bench)
    except NotHereError as reason:
        bench.say(f"left out: {reason}")
        return {"left_out": str(reason)}
    return found


def file_name() -> str:
    """Date and machine, as the results file is called."""
    model, cores, *_ = machine().split(", ")
    words = re.sub(r"\(R\)|\(TM\)|\b(Processor|CPU)\b|@", " ", model).lower()
    return f"{datetime.now(UTC).date()}-" + "-".join(re.findall(r"[a-z0-9.]+", f"{words} {cores}"))


def resumable(path: Path, header: Json) -> dict[str, Json]:
    """The parts of a results file that another run may go on with: those of this commit, these settings and clips."""
    if not path.exists():
        return {}
    before = json.loads(path.read_text())
    same = before["provenance"]["commit"].removesuffix(_CHANGED) == commit().removesuffix(_CHANGED)
    if not same or any(before.get(key) != value for key, value in header.items()):
        return {}
    parts: dict[str, Json] = before["parts"]
    return parts

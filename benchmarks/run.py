"""One run of the benchmark: its parts in order, what each found written down at once, so that a run can go on."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from itertools import count, takewhile
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.bench import Bench, Json
from benchmarks.peers import EXPORTED
from benchmarks.record import write
from benchmarks.target import NotHereError
from serving.router import ROUTES_FILE, Routes
from training.provenance import CHANGED, UNKNOWN, command, commit, machine

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


def run(bench: Bench, out: Path, only: Iterable[str] = (), *, fresh: bool = False) -> Path:
    """Measure every part, or some, into one results file; returns it.

    What a file of this day and machine has already, of the same commit, options, clips and model, is kept: a run that
    was stopped goes on. Where there is none such, a new file is begun; no file is overwritten.

    Args:
        out: folder of the results.
        only: names of parts; all where empty. Those that are named are measured again.
        fresh: go on with nothing.

    Raises:
        ValueError: there is no such part.
    """
    wanted = list(only) or list(PARTS)
    if unknown := [name for name in wanted if name not in PARTS]:
        raise ValueError(f"There is no part {', '.join(unknown)}. There are {', '.join(PARTS)}.")
    header: Json = {
        "settings": {"url": bench.url, "scale": bench.scale, "rounds": bench.rounds, "seed": bench.seed},
        "clips": [clip.to_json() for clip in bench.sent],
        "model": None if bench.url else served_model(),
    }
    path, kept = _file(out, file_name(bench.url), {} if fresh else header)
    bench.found.update({name: found for name, found in kept.items() if name not in only})
    try:
        for number, name in enumerate(wanted, 1):
            if name in bench.found:
                bench.say(f"[{number}/{len(wanted)}] {name}: kept from before")
                continue
            bench.say(f"[{number}/{len(wanted)}] {name}")
            started = time.monotonic()
            found = _measured(bench, name)
            took_s = round(time.monotonic() - started, 1)
            bench.found[name] = {"took_s": took_s, "command": command(), "commit": commit(), **found}
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


def file_name(url: str = "") -> str:
    """Date, whom was asked where that is a service elsewhere, and machine, as a results file is called."""
    model, cores, *_ = machine().split(", ")
    words = re.sub(r"\(R\)|\(TM\)|\b(Processor|CPU)\b|@", " ", f"{urlsplit(url).netloc} {model} {cores}").lower()
    return f"{datetime.now(UTC).date()}-" + "-".join(re.findall(r"[a-z0-9.]+", words))


def free(out: Path, name: str) -> Path:
    """A results file that is not there yet: NAME.json, or NAME-2.json, and so on."""
    return next(path for path in _numbered(out, name) if not path.exists())


def _file(out: Path, name: str, header: Json) -> tuple[Path, dict[str, Json]]:
    """The file to write, and the parts that it has already: of one that can be gone on with, else of a new one."""
    for path in takewhile(Path.exists, _numbered(out, name)):
        if kept := resumable(path, header):
            return path, kept
    return free(out, name), {}


def _numbered(out: Path, name: str) -> Iterator[Path]:
    yield out / f"{name}.json"
    yield from (out / f"{name}-{number}.json" for number in count(2))


def resumable(path: Path, header: Json) -> dict[str, Json]:
    """The parts of a results file that another run may go on with: those of this commit and this header.

    Nothing where the code differs from a commit, then or now: nobody could say what was measured.
    """
    before, now = json.loads(path.read_text()), commit()
    if now.endswith(CHANGED) or now == UNKNOWN or not header:
        return {}
    parts: dict[str, Json] = before["parts"]
    same = all(part.get("commit") == now for part in parts.values())
    return parts if same and all(before.get(key) == value for key, value in header.items()) else {}


def served_model() -> Json:
    """The version that answers unless another is asked for, and the checksum of its file."""
    version = Routes.parse((EXPORTED / ROUTES_FILE).read_text(), EXPORTED / ROUTES_FILE).default_version
    return {"version": version, "sha256": hashlib.sha256((EXPORTED / version / "model.onnx").read_bytes()).hexdigest()}

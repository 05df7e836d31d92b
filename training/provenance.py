"""Where a number came from: the command, the commit, the machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_WHERE_TO = ("--out", "--runs")
"""Options that say where results are written, which is nothing about where they come from."""
CHANGED, UNKNOWN = "+changes", "unknown"
"""Behind a commit: the code differs from it. In the place of one: there is no checkout."""
_RESULTS = ("benchmarks/results", "training/results")


def provenance(seed: int | None = None) -> dict[str, Any]:
    """What every results file names: command, commit, machine, library versions, time (UTC) and seed."""
    return {
        "command": command(),
        "commit": commit(),
        "machine": machine(),
        "versions": {name: version(name) for name in ("torch", "onnxruntime", "numpy", "scikit-learn", "librosa")},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
    }


def command() -> str:
    """The command line as it can be typed again from the repository's root, less the options of _WHERE_TO."""
    program = Path(sys.argv[0])
    module = getattr(sys.modules["__main__"], "__spec__", None)
    if program.name == "__main__.py":
        start = ["python", "-m", program.parent.name]
    elif module is not None and module.origin == sys.argv[0]:
        start = ["python", "-m", module.name]
    else:
        start = [os.path.relpath(program, ROOT) if program.is_relative_to(ROOT) else program.name]
    given = sys.argv[1:]
    asked = [
        word
        for before, word in zip(["", *given], given, strict=False)
        if before not in _WHERE_TO and word.partition("=")[0] not in _WHERE_TO
    ]
    return shlex.join([*start, *asked])


def commit() -> str:
    """The commit checked out, with "+changes" where tracked files differ from it; "unknown" outside a checkout.

    What was measured before does not count: it changes nothing of what is measured next.
    """
    others = [f":!{folder}" for folder in _RESULTS]
    try:
        head = _git("rev-parse", "HEAD")
        return head + (CHANGED if _git("status", "--porcelain", "--untracked-files=no", "--", ".", *others) else "")
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN


def machine() -> str:
    """Processor, usable cores and system, for example "Xeon, 2 cores, Linux x86_64"."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores, {platform.system()} {platform.machine()}"


def _git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return run.stdout.strip()

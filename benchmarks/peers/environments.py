"""An environment for each peer, so that what one pins is no other's business: .venv-peers/NAME, made by pip."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / ".venv-peers"
_TORCH = re.compile(r"^torch==\S+", re.MULTILINE)


def names() -> list[str]:
    """Every peer that has requirements of its own."""
    return sorted(path.parent.name for path in HERE.glob("*/requirements.txt"))


def python(name: str) -> Path:
    """The interpreter of a peer's environment."""
    return FOLDER / name / "bin" / "python"


def why_missing(name: str) -> str:
    """Why a peer cannot be started; empty where it can."""
    ready = FOLDER / name / ".ready"
    if not ready.exists():
        failed = FOLDER / name / "failed.txt"
        return f"it did not install: {failed.read_text()}" if failed.exists() else "run `make benchmark-peers` first"
    if ready.read_text() != _wanted(name):
        return "its requirements have changed since; run `make benchmark-peers` again"
    return ""


def install(name: str) -> str:
    """Make a peer's environment what its requirements say; returns why that failed, empty where it did not."""
    if not why_missing(name):
        return ""
    folder = FOLDER / name
    requirements = HERE / name / "requirements.txt"
    # Ours installs into it: a pip of its own takes longer to make than most of what it would install.
    pip = [sys.executable, "-m", "pip", "--python", str(python(name)), "install", "--quiet"]
    # torch comes first and by itself: which build of it (CPU, CUDA) is the machine's choice and not locked.
    torch = _TORCH.findall((HERE / name / "requirements.in").read_text())
    steps = [[sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)]]
    steps += [[*pip, "-c", str(requirements), *torch]] if torch else []
    steps += [[*pip, "--no-deps", "-r", str(requirements)]]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"{step[0]} ended with {done.returncode}"])[-1]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "failed.txt").write_text(reason)
            return reason
    (folder / ".ready").write_text(_wanted(name))
    return ""


def _wanted(name: str) -> str:
    return hashlib.sha256((HERE / name / "requirements.txt").read_bytes()).hexdigest()

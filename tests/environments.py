"""Python environments that hold what a lock names and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

UV = str(Path(sys.executable).with_name("uv"))


def environment_of(lock: str, folder: Path) -> str:
    """The interpreter of a new environment with what requirements/LOCK names, held against the hashes that it has.

    By uv, in a tenth of the time that pip takes.
    """
    subprocess.run([UV, "--quiet", "venv", "--python", sys.executable, folder], check=True)
    install = [UV, "--quiet", "pip", "install", "--python", str(folder), "--no-deps"]
    subprocess.run([*install, "-r", str(ROOT / "requirements" / lock)], check=True, timeout=600)
    return str(folder / "bin" / "python")

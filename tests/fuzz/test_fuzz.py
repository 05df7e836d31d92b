"""A short turn of each fuzzer, seeded; `make fuzz` takes longer ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.fuzz.targets import TARGETS, seeds

RUNS = {"decode": 4000, "messages": 6000, "routes": 1500}
"""Of each, however fast the machine is: five to ten seconds where nobody else uses it."""
_MOST_S = 400


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_found(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", name, str(_MOST_S), "1", str(RUNS[name])]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        timeout=500,
    )
    told = done.stderr.decode(errors="replace")
    assert done.returncode == 0, told[-4000:]
    # It ran, and found its way beyond the seeds.
    (runs,) = re.findall(r"Done (\d+) runs", told)
    assert int(runs) >= RUNS[name]
    assert len(list((tmp_path / "build" / "fuzz" / name).iterdir())) > len(seeds(name))

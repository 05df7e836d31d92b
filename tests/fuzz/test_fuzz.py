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

SECONDS = {"decode": 30, "messages": 20, "routes": 10}


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_found(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", name, str(SECONDS[name])]
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
    assert int(runs) > 100
    assert len(list((tmp_path / "build" / "fuzz" / name).iterdir())) > len(seeds(name))

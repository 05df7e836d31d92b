"""Results as files that say where they came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training.provenance import provenance

FOLDER = Path(__file__).parent / "results"


def write(path: Path, results: dict[str, Any], seed: int | None = None) -> None:
    """JSON with the command, commit, machine and library versions that it came from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"provenance": provenance(seed), **results}, indent=1) + "\n")

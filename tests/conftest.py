from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs {folder}, which is not on this machine")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The reference copy of the corpora beside the checkout."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_samples() -> list[Path]:
    """Real clips as users have them."""
    return sorted(_shared("samples").glob("*.wav"))


@pytest.fixture(scope="session")
def exported() -> Path:
    """The folder of the committed versions."""
    return ROOT / "exported"

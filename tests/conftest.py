from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.router import Routes

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
_ROUTES = ROOT / "exported" / "routes.yaml"
SERVED = Routes.parse(_ROUTES.read_text(), _ROUTES).default_version
"""The version that a service answers with unless told otherwise; its one owner is exported/routes.yaml."""


def answering() -> str:
    """The SHA-256 of that version's model."""
    described: dict[str, str] = json.loads((ROOT / "exported" / SERVED / "model.json").read_text())
    return described["sha256"]


_TRIES = 3


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What compares times is tried again where it failed, since others use the machine too; each try is told (R)."""
    for item in items:
        if any(item.get_closest_marker(name) for name in ("alone", "timed")):
            item.add_marker(pytest.mark.flaky(reruns=_TRIES - 1))


@pytest.fixture(autouse=True)
def _machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where several processes share the tests, one that is marked ``alone`` waits for the others and they for it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    shared = tmp_path_factory.getbasetemp().parent  # of all processes of this run
    alone = request.node.get_closest_marker("alone") is not None
    with (shared / "gate").open("w") as gate, (shared / "machine").open("w") as machine:
        fcntl.flock(gate, fcntl.LOCK_EX)  # held by who waits to be alone, so that the others let it come to its turn
        fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(gate, fcntl.LOCK_UN)
        yield  # closing lets go of both


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs {folder}, which is not on this machine")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The corpora, where training looks for them; the reference copy beside the checkout if it is there."""
    from training.config import data_folder

    folder = data_folder()
    if not folder.is_dir():
        pytest.skip(f"needs the corpora in {folder} or TIMBRE_DATA, and they are not on this machine")
    return folder


@pytest.fixture(scope="session")
def shared_samples() -> list[Path]:
    """Real clips as users have them."""
    return sorted(_shared("samples").glob("*.wav"))


@pytest.fixture(scope="session")
def exported() -> Path:
    """The folder of the committed versions."""
    return ROOT / "exported"

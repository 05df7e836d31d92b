"""Whose licences the dependencies have: written down for every one, and none that would bind the service."""

from __future__ import annotations

import json

import pytest

from tests.licences import FILE, LOCKS, installed, locked

LISTED: dict[str, dict[str, str]] = json.loads(FILE.read_text())

# What obliges whoever runs or passes on the service to more than naming its authors.
_BINDING = ("AGPL", "SSPL", "Commercial", "Proprietary", "UNKNOWN")


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_is_listed(lock: str) -> None:
    listed = {name for packages in LISTED.values() for name in packages}
    here = installed()
    assert (locked(lock) & here.keys()) - listed == set()
    assert LISTED[lock].keys() <= locked(lock)


def test_the_list_is_what_the_packages_say() -> None:
    here = installed()
    told = {name: licence for packages in LISTED.values() for name, licence in packages.items()}
    assert {name: licence for name, licence in told.items() if name in here and here[name] != licence} == {}


def test_nothing_that_serving_needs_binds_whoever_runs_it() -> None:
    assert len(LISTED["serving"]) > 30
    for name, licence in LISTED["serving"].items():
        assert licence, name
        assert not any(word.lower() in licence.lower() for word in _BINDING), f"{name}: {licence}"

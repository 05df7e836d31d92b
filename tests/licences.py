"""python -m tests.licences: the locked packages' licences, by their own metadata, into requirements/licences.json."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

FILE = ROOT / "requirements" / "licences.json"
LOCKS = ("serving", "extras", "dev")


def normal(name: str) -> str:
    """A package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(lock: str) -> set[str]:
    """Names of what a lock installs here."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    return {normal(match) for match in re.findall(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==", text, re.MULTILINE)}


def installed() -> dict[str, str]:
    """Licence by package, of what is in this environment."""
    command = [str(Path(sys.executable).with_name("pip-licenses")), "--from=mixed", "--format=json", "--with-system"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {normal(entry["Name"]): " ".join(entry["License"].split())[:120] for entry in told}


def main() -> None:
    """Write the list: for each lock what it adds to those before it."""
    here, seen, lists = installed(), set[str](), {}
    for lock in LOCKS:
        names = locked(lock) - seen
        lists[lock] = {name: here[name] for name in sorted(names) if name in here}
        seen |= names
    FILE.write_text(json.dumps(lists, indent=1) + "\n")


if __name__ == "__main__":
    main()

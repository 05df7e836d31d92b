"""The software bill of materials of an image (CycloneDX), from what is in it: bill.py CONTENTS PYPROJECT OUT.

CONTENTS has the image's ``lib/python3*/site-packages`` and ``exported``. The packages are found by cyclonedx-py as it
finds those of any environment; the models come beside them, by what their model.json says.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def packages(contents: Path, pyproject: Path) -> dict[str, Any]:
    """The bill of the packages alone.

    Raises:
        ValueError: there is not one site-packages below ``lib``, or no package in it.
        subprocess.CalledProcessError: cyclonedx-py has refused it; what it said is on standard error.
    """
    (site,) = contents.glob("lib/python3*/site-packages")
    with tempfile.TemporaryDirectory() as folder:
        # It asks an interpreter for its sys.path. The image's own need not run here, so that this one answers for it.
        answer = Path(folder) / "python"
        answer.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps([str(site)])}\nEND\n")
        answer.chmod(0o755)
        options = ["--pyproject", str(pyproject), "--output-reproducible", "--of", "JSON", str(answer)]
        # It warns that no package is the root of the others, which is so.
        command = [sys.executable, "-W", "ignore::UserWarning", "-m", "cyclonedx_py", "environment", *options]
        bill = json.loads(subprocess.check_output(command, text=True))  # noqa: S603 (its arguments are files of ours)
    if not bill.get("components"):
        raise ValueError(f"cyclonedx-py found no package in {site}; CONTENTS must have the image's lib and exported")
    return dict(bill)


def models(contents: Path) -> list[dict[str, Any]]:
    """Each exported version as a component, with its checksum."""
    return [
        {
            "bom-ref": f"model-{path.parent.name}",
            "type": "machine-learning-model",
            "name": "timbre-model",
            "version": path.parent.name,
            "hashes": [{"alg": "SHA-256", "content": json.loads(path.read_text())["sha256"]}],
            "licenses": [{"license": {"id": "CC-BY-NC-SA-4.0"}}],
        }
        for path in sorted(contents.glob("exported/*/model.json"))
    ]


def main() -> None:
    """Write the bill."""
    contents, pyproject, out = map(Path, sys.argv[1:])
    bill = packages(contents, pyproject)
    bill["components"] += models(contents)
    out.write_text(json.dumps(bill, indent=2) + "\n")


if __name__ == "__main__":
    main()

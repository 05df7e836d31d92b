"""The committed stubs are what ``make proto`` makes of the committed .proto files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

PROTOS = sorted((ROOT / "serving" / "proto").rglob("*.proto"))


def test_make_proto_changes_nothing(tmp_path: Path) -> None:
    recipe = subprocess.run(["make", "-n", "proto"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    generated = {path.relative_to(ROOT) for path in (ROOT / "serving" / "proto").rglob("*_pb2*.py*")}
    generated = {path for path in generated if "__pycache__" not in path.parts}
    assert len(generated) == 4 * len(PROTOS)
    assert all(str(path.relative_to(ROOT)) in recipe for path in PROTOS)
    outs = [f"--{kind}_out={tmp_path}" for kind in ("python", "mypy", "grpc_python", "mypy_grpc")]
    assert all(f"{out.split('=')[0]}=." in recipe for out in outs)
    names = [str(path.relative_to(ROOT)) for path in PROTOS]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", *outs, *names]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"  # where the mypy plugins are
    subprocess.run(command, cwd=ROOT, check=True, env={"PATH": path}, capture_output=True)
    for stub in generated:
        assert (tmp_path / stub).read_bytes() == (ROOT / stub).read_bytes(), f"{stub} is not what `make proto` makes"


def test_the_service_tells_its_package_version() -> None:
    from serving import __version__

    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()

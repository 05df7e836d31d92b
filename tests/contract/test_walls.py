"""The rules between the rooms, and that each number and name has one owner."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from serving import artifact, audio, session
from tests.conftest import ROOT
from training import graph, spec

SERVING = sorted((ROOT / "serving").rglob("*.py"))
TRAINING = sorted((ROOT / "training").rglob("*.py"))
TRAINING_ONLY = ("torch", "librosa", "lightning", "scikit-learn", "onnx", "onnxscript", "matplotlib", "tensorboard")


def test_import_rules() -> None:
    """The contracts of pyproject.toml."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_serving_loads_no_torch_and_no_librosa() -> None:
    code = "import serving.service, serving.server, serving.__main__, sys; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    packages = {name.split(".")[0] for name in loaded.stdout.split()}
    # scipy is there for reports, markdown_it for the page: not loaded before somebody asks for one.
    assert not packages & {"training", "torch", "librosa", "sklearn", "onnx", "scipy", "markdown_it"}
    assert "onnxruntime" in packages


@pytest.mark.parametrize("path", SERVING, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_label_and_no_model_rate_stands_in_serving(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant):
            assert node.value not in spec.LABELS
            assert node.value not in (spec.AUDIO.rate_hz, spec.AUDIO.window_samples, spec.AUDIO.window_hop_samples)


@pytest.mark.parametrize("path", SERVING + TRAINING, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_assert_and_no_bare_except_outside_tests(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Assert)
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None)


def test_both_sides_of_the_artifact_agree() -> None:
    assert artifact.SCHEMA_VERSION == spec.SCHEMA_VERSION
    assert (session.INPUT, session.OUTPUT) == (graph.INPUT, graph.OUTPUT)


def names_in(requirements: str) -> dict[str, str]:
    """Package -> version of a lock file."""
    text = (ROOT / "requirements" / requirements).read_text()
    return {
        match[1].lower(): match[2]
        for match in re.finditer(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", text, re.MULTILINE)
    }


def test_servings_lock_holds_nothing_of_training_and_hashes_everything() -> None:
    locked = names_in("serving.txt")
    assert "bentoml" in locked
    assert not locked.keys() & {name.lower() for name in TRAINING_ONLY}
    for name in ("serving.txt", "serving-cuda.txt", "extras.txt", "bill.txt"):
        text = (ROOT / "requirements" / name).read_text()
        entries = re.split(r"\n(?=[A-Za-z0-9])", text.split("\n", 2)[2])
        assert all("--hash=sha256:" in entry for entry in entries if "==" in entry)


def test_the_locks_agree() -> None:
    serving, development = names_in("serving.txt"), names_in("dev.txt")
    assert serving.items() <= development.items()
    for name in ("extras.txt", "bill.txt"):
        assert names_in(name).items() <= development.items()
    assert "torch" not in development
    cuda = names_in("serving-cuda.txt")
    assert serving.items() - cuda.items() == {("onnxruntime", serving["onnxruntime"])}
    assert cuda["onnxruntime-gpu"] == serving["onnxruntime"]


def test_every_requirement_is_pinned_exactly_and_has_a_reason() -> None:
    for path in (ROOT / "requirements").glob("*.in"):
        for line in path.read_text().splitlines():
            if line and not line.startswith(("#", "-r")):
                assert re.match(r"[A-Za-z0-9_-]+(\[[a-z,]+\])?==\S+.*  # \S", line), line


def test_requirements_name_no_host() -> None:
    for path in (ROOT / "requirements").iterdir():
        assert not re.search(r"https?://|file:|--(extra-)?index-url|--find-links", path.read_text()), path


def test_limits_have_one_owner() -> None:
    from serving.settings import Settings

    assert Settings().limits == audio.Limits()

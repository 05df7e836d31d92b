from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from serving.artifact import Artifact, versions
from serving.errors import ArtifactError
from serving.runtime import Runtime
from serving.session import Session
from tests.sounds import voice

Describe = Callable[[Callable[[dict[str, Any]], None]], None]

CPU = Runtime("cpu", lanes=1, threads=1, batch_windows=4)


@pytest.fixture
def version(exported: Path, tmp_path: Path) -> Path:
    """A copy of the committed version 1, to be spoiled."""
    return shutil.copytree(exported / "1", tmp_path / "1", ignore=shutil.ignore_patterns("report"))


@pytest.fixture
def describe(version: Path) -> Describe:
    """Change model.json."""

    def change(how: Callable[[dict[str, Any]], None]) -> None:
        path = version / "model.json"
        description = json.loads(path.read_text())
        how(description)
        path.write_text(json.dumps(description))

    return change


def test_the_committed_version_loads_and_runs(version: Path) -> None:
    artifact = Artifact.load(version)
    assert artifact.metadata.version == "1"
    assert len(artifact.metadata.labels) == 8
    session = Session(artifact, CPU)
    spec = artifact.metadata.windows
    windows = np.stack([voice(spec.window_samples / spec.rate_hz, spec.rate_hz, seed=seed) for seed in range(3)])
    probabilities = session.run(windows)
    assert probabilities.shape == (3, 8)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(session.run(windows[1:2]), probabilities[1:2], atol=1e-5)


def test_another_checksum_is_refused_by_name(version: Path) -> None:
    with (version / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError, match=r"model\.onnx: its SHA-256 is"):
        Artifact.load(version)


def test_another_schema_is_refused(version: Path, describe: Describe) -> None:
    describe(lambda d: d["metadata"].update(schema_version=99))
    with pytest.raises(ArtifactError, match=r"model\.json: schema version 99 is not read here, 1 is"):
        Artifact.load(version)


def test_a_folder_renamed_is_refused(version: Path) -> None:
    with pytest.raises(ArtifactError, match="describes version 1, not 7"):
        Artifact.load(version.rename(version.with_name("7")))


@pytest.mark.parametrize("name", ["model.json", "model.onnx"])
def test_a_missing_file_is_named(version: Path, name: str) -> None:
    (version / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        Artifact.load(version)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"file": "model.onnx", "sha256": "", "metadata": {}}'])
def test_a_broken_description_is_refused(version: Path, content: str) -> None:
    (version / "model.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"model\.json"):
        Artifact.load(version)


def test_a_description_cannot_name_a_file_elsewhere(version: Path, describe: Describe) -> None:
    (version.parent / "outside.onnx").write_bytes(b"")
    describe(lambda d: d.update(file="../outside.onnx"))
    with pytest.raises(ArtifactError, match=r"1/outside\.onnx"):
        Artifact.load(version)


def rewrite(version: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Change the graph and make the checksum agree again."""
    graph = onnx.load(version / "model.onnx")
    change(graph)
    data = graph.SerializeToString()
    (version / "model.onnx").write_bytes(data)
    path = version / "model.json"
    description = json.loads(path.read_text())
    description["sha256"] = hashlib.sha256(data).hexdigest()
    path.write_text(json.dumps(description))


def test_what_onnx_runtime_cannot_load_is_refused(version: Path) -> None:
    rewrite(version, lambda graph: graph.graph.node[0].CopyFrom(onnx.helper.make_node("NoSuchThing", [], ["x"])))
    with pytest.raises(ArtifactError, match="ONNX Runtime cannot load the model"):
        Session(Artifact.load(version), CPU)


def test_a_description_that_contradicts_the_file_is_refused(version: Path, describe: Describe) -> None:
    describe(lambda d: d["metadata"]["labels"].reverse())
    with pytest.raises(ArtifactError, match="disagree on labels"):
        Session(Artifact.load(version), CPU)


def test_another_window_than_the_graph_takes_is_refused(version: Path) -> None:
    def shorten(graph: onnx.ModelProto) -> None:
        for entry in graph.metadata_props:
            if entry.key == "window_samples":
                entry.value = "16000"

    rewrite(version, shorten)
    path = version / "model.json"
    path.write_text(path.read_text().replace('"window_samples": 48000', '"window_samples": 16000'))
    with pytest.raises(ArtifactError, match="is needed"):
        Session(Artifact.load(version), CPU)


def test_versions_are_sorted_by_number(tmp_path: Path) -> None:
    for name in ("10", "2", "candidate", ".3.new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.json").touch()
    (tmp_path / "11").mkdir()
    assert versions(tmp_path) == ["candidate", "2", "10"]


def test_no_version_at_all_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no exported version here.*TIMBRE_MODELS"):
        versions(tmp_path / "nowhere")

"""The last exam of every committed version, taken again from the file that is served."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from serving.artifact import Artifact, versions
from serving.runtime import Runtime
from serving.session import Session
from tests.conftest import ROOT, SERVED
from training.card import model_card
from training.datasets import find_clips
from training.evaluate import predict
from training.metrics import scores
from training.recordings import Recordings
from training.splits import Split

VERSIONS = versions(ROOT / "exported")

CPU = Runtime("cpu", lanes=1, threads=1, batch_windows=4)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_figures_of_a_version_are_what_its_file_scores(version: str, shared_data: Path) -> None:
    folder = ROOT / "exported" / version
    session = Session(Artifact.load(folder), CPU)
    told = session.metadata.everything["metrics"]["test"]
    clips = find_clips(shared_data, session.metadata.everything["training"]["corpora"])
    recordings = Recordings(Split.load(folder / "report" / "split.json", clips).test)
    measured = scores(recordings.labels.numpy(), predict(session.run, recordings))
    assert measured["clips"] == told["clips"]
    # Another processor may round one clip to the other side.
    assert measured["uar"] == pytest.approx(told["uar"], abs=0.02)
    confusion = np.array(json.loads((folder / "report" / "metrics.json").read_text())["confusion"])
    assert np.abs(confusion - measured["confusion"]).sum() <= 4


@pytest.mark.parametrize("version", VERSIONS)
def test_no_speaker_of_the_exam_was_learned_from(version: str) -> None:
    split = json.loads((ROOT / "exported" / version / "report" / "split.json").read_text())
    assert split["kind"] == "actor"
    assert not set(split["test"]["speakers"]) & {*split["train"]["speakers"], *split["validation"]["speakers"]}


def test_the_card_of_the_version_that_answers_is_what_its_figures_make() -> None:
    folder = ROOT / "exported" / SERVED
    metadata = json.loads((folder / "model.json").read_text())["metadata"]
    files = {"test": "metrics.json", "validation": "validation_metrics.json", "tess": "tess_metrics.json"}
    results = {part: json.loads((folder / "report" / files[part]).read_text()) for part in metadata["metrics"]}
    assert (folder / "card.md").read_text() == model_card(metadata, results)

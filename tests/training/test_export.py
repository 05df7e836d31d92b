from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from serving.artifact import Artifact
from serving.runtime import Runtime
from serving.session import Session
from tests.conftest import ROOT
from tests.sounds import voice
from training import card
from training import export as export_module
from training.augment import AugmentConfig
from training.classifier import Classifier
from training.config import EvaluateConfig, ExportConfig, TrainConfig
from training.datasets import find_clips
from training.evaluate import evaluate
from training.export import export, temperature_of
from training.history import read_history
from training.recordings import Recordings
from training.runs import load_classifier
from training.spec import AUDIO, LABELS
from training.train import train

CPU = Runtime("cpu", lanes=1, threads=1, batch_windows=4)


def probabilities_of(version: Path, windows: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(["probabilities"], {"waveform": windows})[0]
    return result


@pytest.fixture
def _graphs(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the exporter would make of the run once more is taken from the version, where it takes its time."""
    files = {torch.float32: version / "model.onnx", torch.float16: version / "model.fp16.onnx"}
    graphs = {precision: onnx.load(file) for precision, file in files.items()}

    def exported(_: object, __: float, precision: torch.dtype = torch.float32) -> onnx.ModelProto:
        return graphs[precision]

    monkeypatch.setattr(export_module, "export_graph", exported)


def temperature(version: Path) -> float:
    described: float = json.loads((version / "model.json").read_text())["metadata"]["calibration"]["temperature"]
    return described


def test_a_version_holds_model_description_card_and_report(version: Path) -> None:
    found = {str(path.relative_to(version)) for path in version.rglob("*") if path.is_file()}
    parts = ("", "validation_")
    assert found == {
        "model.onnx",
        "model.fp16.onnx",
        "model.json",
        "card.md",
        *(f"report/{name}" for name in ("config.json", "split.json", "history.csv", "curves.png", "architecture.png")),
        *(f"report/conditions.{kind}" for kind in ("json", "png")),
        *(f"report/{part}{name}" for part in parts for name in ("metrics.json", "report.txt")),
        *(f"report/{part}{name}" for part in parts for name in ("confusion.png", "roc.png", "reliability.png")),
    }


def test_the_graph_takes_a_waveform_and_gives_probabilities(version: Path) -> None:
    graph = onnx.load(version / "model.onnx").graph
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    }
    assert shapes == {"waveform": ["batch", AUDIO.window_samples], "probabilities": ["batch", len(LABELS)]}


@pytest.mark.parametrize("batch", [1, 2, 5, 33])
def test_parity_with_torch_at_any_batch_size(version: Path, run: Path, batch: int) -> None:
    _, classifier = load_classifier(run)
    windows = np.stack([voice(3.0, pitch_hz=80 + 7 * n, seed=n) for n in range(batch)])
    with torch.inference_mode():
        expected = (classifier(torch.from_numpy(windows)) / temperature(version)).softmax(dim=1).numpy()
    np.testing.assert_allclose(probabilities_of(version, windows), expected, atol=1e-5)


def test_parity_with_torch_on_real_clips(version: Path, run: Path, shared_data: Path) -> None:
    _, classifier = load_classifier(run)
    clips = [*find_clips(shared_data, ("ravdess",))[::60], *find_clips(shared_data, ("tess",))[::120]]
    for windows, _ in Recordings(clips).window_batches(16):
        with torch.inference_mode():
            expected = (classifier(windows) / temperature(version)).softmax(dim=1).numpy()
        np.testing.assert_allclose(probabilities_of(version, windows.numpy()), expected, atol=1e-5)


def test_the_half_precision_file_is_smaller_and_says_nearly_the_same(version: Path) -> None:
    whole, half = Artifact.load(version), Artifact.load(version, "fp16")
    assert len(half.model) < 0.6 * len(whole.model)
    windows = np.stack([voice(3.0, pitch_hz=80 + 7 * n, seed=n) for n in range(4)])
    np.testing.assert_allclose(Session(half, CPU).run(windows), Session(whole, CPU).run(windows), atol=1e-2)
    assert Artifact.load(version, "int4").file == whole.file
    told = whole.metadata.everything["fp16"]
    assert told["clips"] == 16
    assert 0 < told["largest_difference"] < 1e-2
    assert 0 <= told["answered_otherwise"] <= 16
    assert "model.fp16.onnx" in (version / "card.md").read_text()


@pytest.mark.usefixtures("_graphs")
def test_a_graph_that_disagrees_with_torch_is_not_exported(
    run: Path, settings: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "PARITY", 1e-12)
    with pytest.raises(ValueError, match="differ by"):
        export(ExportConfig(run=run, out=tmp_path, data=settings.data))
    assert not (tmp_path / "1").exists()


def test_the_file_says_everything_about_itself(version: Path) -> None:
    description = json.loads((version / "model.json").read_text())
    assert description["sha256"] == hashlib.sha256((version / "model.onnx").read_bytes()).hexdigest()
    metadata = description["metadata"]
    embedded = {entry.key: json.loads(entry.value) for entry in onnx.load(version / "model.onnx").metadata_props}
    assert embedded == metadata
    assert metadata["labels"] == list(LABELS)
    assert metadata["sample_rate_hz"] == 16_000
    assert metadata["window_samples"] == 48_000
    assert metadata["hop_samples"] == 24_000
    assert metadata["schema_version"] == 1
    assert metadata["training"]["corpora"] == ["ravdess"]
    assert metadata["training"]["speakers"] == {"train": ["02", "03"], "validation": ["01"], "test": ["08"]}
    assert metadata["metrics"]["test"]["clips"] == 16
    assert metadata["commit"]
    assert {"temperature", "ece_test_before", "ece_test", "ece_validation"} <= metadata["calibration"].keys()
    assert metadata["rejection"][0]["answered"] == 1
    assert "non-commercial" in metadata["licence"]


def test_the_service_reads_what_training_writes(version: Path) -> None:
    session = Session(Artifact.load(version), CPU)
    assert session.metadata.labels == LABELS
    assert session.metadata.windows == AUDIO.windows


def test_the_file_tells_nothing_of_the_machine_it_was_made_on(version: Path) -> None:
    data = (version / "model.onnx").read_bytes()
    for trace in (b"site-packages", b"stack_trace", str(ROOT).encode(), str(Path.home()).encode() + b"/"):
        assert trace not in data


def test_the_card_has_the_measured_numbers(version: Path) -> None:
    told = (version / "card.md").read_text()
    metrics = json.loads((version / "report" / "metrics.json").read_text())
    assert f"{metrics['uar']:.3f}" in told
    assert "Licence" in told
    assert "fails" in told
    for picture in ("confusion", "roc", "curves", "architecture", "reliability", "conditions"):
        assert f"(report/{picture}.png)" in told


def test_the_card_says_of_noise_and_rooms_what_was_learned_from() -> None:
    settings = TrainConfig(augment=AugmentConfig()).to_json()["augment"]
    assert "telephone lines or noise, and" in card._never_heard(settings)
    assert "or other noise and rooms than artificial, and" in card._never_heard(settings | {"noise": 0.25, "room": 0.1})
    assert "or other rooms than artificial, and" in card._never_heard(settings | {"room": 0.1})


@pytest.mark.usefixtures("_graphs")
def test_a_version_is_replaced_only_when_told(version: Path, run: Path, settings: TrainConfig, tmp_path: Path) -> None:
    old = tmp_path / "7"
    shutil.copytree(version, old)
    (old / "card.md").write_text("of old")
    config = ExportConfig(run=run, version="7", out=tmp_path, data=settings.data)
    with pytest.raises(FileExistsError, match="--replace"):
        export(config)
    assert (old / "card.md").read_text() == "of old"
    assert export(dataclasses.replace(config, replace=True)) == old
    assert (old / "card.md").read_text() != "of old"


def test_what_learned_from_its_validation_part_is_calibrated_by_a_run_that_did_not(
    run: Path, settings: TrainConfig, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(settings, schedule="cosine", epochs=2)
    settled = train(dataclasses.replace(recipe, name="settled"))
    whole = train(dataclasses.replace(recipe, name="all-fold3", whole=True))
    shutil.copy(run / "checkpoints" / "best.ckpt", settled / "checkpoints" / "best.ckpt")  # of one epoch
    line = {"name": "all", "folds": 2, "test_uar": 0.4321, "test_uar_sd": 0.0123}
    cells = {"all": {fold: {"test": {"clips": 60}} for fold in ("fold3", "fold4")}}
    (tmp_path / "compare.json").write_text(json.dumps({"summary": [line], "cells": cells}))
    config = ExportConfig(run=whole, out=tmp_path, data=settings.data, bench=tmp_path)
    with pytest.raises(ValueError, match="--calibrate-by"):
        export(config)
    with pytest.raises(ValueError, match="learned from its validation part"):
        export(dataclasses.replace(config, calibrate_by=whole))
    folder = export(dataclasses.replace(config, calibrate_by=settled))
    told = json.loads((folder / "model.json").read_text())["metadata"]
    of_last, of_best = (temperature_of(settled, settings.data, last=last) for last in (True, False))
    assert told["calibration"]["temperature"] == of_last != of_best  # its last weights are what is kept of the whole
    assert told["calibration"]["temperature_from"] == "settled"
    assert told["training"]["speakers"] == {"train": ["01", "02", "03"], "validation": [], "test": ["08"]}
    assert told["metrics"].keys() == {"test"}
    text = (folder / "card.md").read_text()
    assert "(settled)" in text
    assert "2 folds of actors and examined on theirs, 120 clips in all: 0.432 ± 0.012" in text


def test_a_run_on_another_split_calibrates_nothing(run: Path, settings: TrainConfig, tmp_path: Path) -> None:
    whole = train(dataclasses.replace(settings, name="everywhere", whole=True, schedule="cosine", epochs=1))
    other = tmp_path / "elsewhere"  # of the same settings, over other data
    shutil.copytree(run, other)
    saved = TrainConfig.load(whole).to_json() | {"whole": False, "name": "elsewhere"}
    (other / "config.json").write_text(json.dumps(saved))
    split = json.loads((other / "split.json").read_text())
    split["test"]["clips"] = split["test"]["clips"][1:]
    (other / "split.json").write_text(json.dumps(split))
    with pytest.raises(ValueError, match="another split"):
        export(ExportConfig(run=whole, out=tmp_path, data=settings.data, calibrate_by=other))


def test_a_run_is_calibrated_by_one_of_its_own_recipe_alone(run: Path, settings: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kept its validation part and is calibrated on it"):
        export(ExportConfig(run=run, out=tmp_path, data=settings.data, calibrate_by=run))
    other = dataclasses.replace(settings, name="otherwise", whole=True, schedule="cosine", epochs=1, dropout=0.5)
    with pytest.raises(ValueError, match=r"differs from otherwise in .*dropout"):
        export(ExportConfig(run=train(other), out=tmp_path, data=settings.data, calibrate_by=run))


def test_a_run_without_an_epoch_cannot_be_exported(settings: TrainConfig, tmp_path: Path, run: Path) -> None:
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    with pytest.raises(FileNotFoundError, match="finish an epoch"):
        export(ExportConfig(run=tmp_path, out=tmp_path, data=settings.data))


@pytest.mark.parametrize("version", ["", "../1", "a b"])
def test_a_version_is_a_plain_word(version: str) -> None:
    with pytest.raises(ValueError, match="letters and digits"):
        ExportConfig(run=Path(), version=version)


def test_who_has_learned_from_a_pretrained_encoder_needs_its_folder_no_more(
    settings: TrainConfig, tmp_path: Path
) -> None:
    pretrained = tmp_path / "secret" / "tiny"
    network: Any = Classifier(TrainConfig(model="wav2vec2")).network
    network.encoder.save_pretrained(pretrained)
    recipe = dataclasses.replace(
        settings, runs=tmp_path / "runs", name="heard", model="wav2vec2", features="", epochs=1
    )
    run = train(dataclasses.replace(recipe, pretrained=str(pretrained)))
    shutil.rmtree(pretrained)
    assert load_classifier(run)[0].pretrained == "tiny"
    train(TrainConfig(data=settings.data, resume=run, epochs=2))
    assert len(read_history(run)) == 2
    evaluate(EvaluateConfig(run=run, data=settings.data))
    further = train(dataclasses.replace(recipe, name="further", init_from=run))
    folder = export(ExportConfig(run=further, version="1", out=tmp_path, data=settings.data))
    windows = np.stack([voice(3.0, seed=n) for n in range(2)])
    classifier = load_classifier(further)[1]
    with torch.inference_mode():
        expected = (classifier(torch.from_numpy(windows)) / temperature(folder)).softmax(dim=1).numpy()
    np.testing.assert_allclose(probabilities_of(folder, windows), expected, atol=1e-5)
    for made in (*run.rglob("*"), *further.rglob("*"), *folder.rglob("*")):
        assert not made.is_file() or b"secret" not in made.read_bytes(), made


def test_from_training_to_an_answer(settings: TrainConfig, tmp_path: Path) -> None:
    """A new network, trained, exported, and asked about a clip of the part it never heard."""
    run = train(dataclasses.replace(settings, name="whole", features="log_mel", epochs=1))
    folder = export(ExportConfig(run=run, version="1", out=tmp_path, data=settings.data))
    description: dict[str, Any] = json.loads((folder / "model.json").read_text())
    assert description["metadata"]["features"] == "log_mel"
    clip = find_clips(settings.data, ("ravdess",))[-1]
    windows = Recordings([clip]).windows(0).numpy()
    assert probabilities_of(folder, windows).shape == (len(windows), len(LABELS))

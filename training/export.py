"""A run becomes a version: one ONNX file from waveform to probabilities that says everything about itself."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from training.calibrate import fit_temperature, reliability, softmax
from training.card import model_card
from training.classifier import Classifier, Probabilities
from training.conditions import CONDITIONS
from training.config import ExportConfig, TrainConfig
from training.datasets import find_clips
from training.evaluate import decoded, examine, predict
from training.graph import OUTPUT, WindowModel, export_module, onnx_model, torch_model
from training.metrics import clip_probabilities
from training.metrics import scores as exam_scores
from training.progress import progress
from training.provenance import provenance
from training.recordings import Recordings
from training.report import plot_conditions, plot_curves
from training.spec import AUDIO, LABELS, SCHEMA_VERSION
from training.splits import Split
from training.train import corpus_clips, load_classifier, read_history

PARITY = 1e-5
"""Largest difference allowed between ONNX Runtime's and PyTorch's probabilities."""

HALF_PARITY = 1e-2
"""The same for the network in 16 bit."""

LICENCE = "CC BY-NC-SA 4.0, from its training data: research and other non-commercial use only"


def export(config: ExportConfig) -> Path:
    """Write OUT/VERSION/ with model.onnx, model.json, card.md and report/; returns the folder.

    What is examined on the test part is the exported file itself, in ONNX Runtime.

    Raises:
        FileNotFoundError: no run, no checkpoint, or clips of its split are not in the data.
        FileExistsError: the version exists and is not to be replaced.
        ValueError: the exported graph does not agree with PyTorch.
    """
    folder = config.out / config.version
    if folder.exists() and not config.replace:
        raise FileExistsError(f"{folder} exists. Give another --version, or --replace it.")
    run = config.run_folder
    settings, classifier = load_classifier(run)
    split = Split.load(run / "split.json", corpus_clips(settings, config.data))

    work = config.out / f".{config.version}.new"
    shutil.rmtree(work, ignore_errors=True)
    report = work / "report"
    report.mkdir(parents=True)
    parts = {part: decoded(split, part) for part in ("validation", "test")}
    temperature, calibration = _calibrated(classifier, parts)
    graph = export_graph(classifier, temperature)
    session = onnx_model(graph.SerializeToString())
    expected = torch_model(Probabilities(classifier, temperature))
    _check_parity(session, expected, parts["validation"], PARITY)

    validation = examine(session, parts["validation"], "validation", report, settings.seed, prefix="validation_")
    metrics = examine(session, parts["test"], "test", report, settings.seed)
    results = {"test": metrics, "validation": validation}
    calibration |= {f"ece_{part}": results[part]["calibration"]["ece"] for part in results}
    _examine_conditions(session, parts["test"], report, settings.seed)
    if elsewhere := _examine_elsewhere(session, config, settings, report):
        results["tess"] = elsewhere
    for name in ("config.json", "split.json", "history.csv"):
        shutil.copy(run / name, report / name)
    plot_curves(read_history(run), report / "curves.png")

    trained = json.loads((run / "provenance.json").read_text())
    metadata = describe(config.version, settings, classifier, split, results, trained, calibration)
    model = _save(graph, work / "model.onnx", metadata)
    half = export_graph(classifier, temperature, torch.float16)
    _check_parity(onnx_model(half.SerializeToString()), expected, parts["validation"], HALF_PARITY)
    model["precisions"] = {"fp16": _save(half, work / "model.fp16.onnx", metadata)}
    model["metadata"] = metadata
    (work / "model.json").write_text(json.dumps(model, indent=1) + "\n")
    (work / "card.md").write_text(model_card(metadata, results))
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)
    return folder


def export_graph(
    classifier: Classifier, temperature: float = 1.0, precision: torch.dtype = torch.float32
) -> onnx.ModelProto:
    """The classifier as an ONNX model: waveform (batch, window_samples) float32 -> probabilities (batch, classes)."""
    graph = export_module(Probabilities(classifier, temperature, precision), OUTPUT)
    onnx.checker.check_model(graph, full_check=True)
    return graph


def set_metadata(graph: onnx.ModelProto, metadata: dict[str, Any]) -> None:
    """Write each value as JSON under its key into the model's metadata."""
    del graph.metadata_props[:]
    for key, value in metadata.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)


def describe(
    version: str,
    settings: TrainConfig,
    classifier: Classifier,
    split: Split,
    results: dict[str, dict[str, Any]],
    trained: dict[str, Any],
    calibration: dict[str, float],
) -> dict[str, Any]:
    """What an exported file says of itself. The service needs the first six; the rest is for people.

    Args:
        trained: the run's provenance.
        calibration: temperature and expected calibration errors.
    """
    headline = ("clips", "accuracy", "uar", "uar_interval", "f1_macro")
    return {
        "schema_version": SCHEMA_VERSION,
        "version": version,
        "labels": list(LABELS),
        "sample_rate_hz": AUDIO.rate_hz,
        "window_samples": AUDIO.window_samples,
        "hop_samples": AUDIO.window_hop_samples,
        "model": settings.model,
        "features": settings.features,
        "parameters": classifier.parameters_count,
        "training": {
            "corpora": list(settings.corpora),
            "split": {"kind": split.kind, "key": split.key},
            "speakers": {part: split.speakers(part) for part in ("train", "validation", "test")},
            "clips": {part: len(split.part(part)) for part in ("train", "validation", "test")},
            "settings": settings.to_json(),
        },
        "metrics": {part: {key: metrics[key] for key in headline} for part, metrics in results.items()},
        "calibration": calibration,
        "rejection": results["test"]["rejection"],
        "licence": LICENCE,
        "commit": trained["commit"],
        "provenance": {"trained": trained, "exported": provenance(settings.seed)},
    }


def _examine_elsewhere(model: Any, config: ExportConfig, settings: TrainConfig, report: Path) -> dict[str, Any] | None:
    """Scores on TESS where the model has never heard it and it is there: another corpus, other words."""
    if "tess" in settings.corpora:
        return None
    try:
        clips = find_clips(config.data, ("tess",))
    except FileNotFoundError:
        return None
    with progress("decoding TESS") as update:
        recordings = Recordings(clips, update)
    return examine(model, recordings, "TESS", report, settings.seed, prefix="tess_")


def _calibrated(classifier: Classifier, parts: dict[str, Recordings]) -> tuple[float, dict[str, float]]:
    """The temperature, fitted on the validation part, and the calibration errors without it."""
    errors: dict[str, float] = {}
    temperature = 1.0
    for part in ("validation", "test"):
        labels = parts[part].labels.numpy()
        logits, owners = parts[part].through(torch_model(classifier))
        if part == "validation":
            temperature = fit_temperature(logits, owners, labels)
        uncalibrated = clip_probabilities(softmax(logits), owners, len(labels))
        errors[f"ece_{part}_before"] = reliability(uncalibrated, labels)["ece"]
    return temperature, {"temperature": temperature, **errors}


def _examine_conditions(model: WindowModel, recordings: Recordings, report: Path, seed: int) -> None:
    """conditions.json and conditions.png: the test part as it is and as users' recordings are."""
    scores: dict[str, dict[str, Any]] = {}
    for name, condition in {"as it is": None, **CONDITIONS}.items():
        heard = recordings if condition is None else recordings.under(condition, seed)
        result = exam_scores(heard.labels.numpy(), predict(model, heard))
        scores[name] = {key: result[key] for key in ("uar", "uar_interval", "accuracy")}
    plot_conditions(scores, report / "conditions.png")
    told = {"scores": scores, "provenance": provenance(seed)}
    (report / "conditions.json").write_text(json.dumps(told, indent=1) + "\n")


def _save(graph: onnx.ModelProto, path: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """Write a graph with its metadata inside; returns its entry in model.json."""
    set_metadata(graph, metadata)
    data = graph.SerializeToString()
    path.write_bytes(data)
    return {"file": path.name, "sha256": hashlib.sha256(data).hexdigest()}


def _check_parity(found: WindowModel, expected: WindowModel, recordings: Recordings, allowed: float) -> None:
    difference = float(np.abs(recordings.through(found)[0] - recordings.through(expected)[0]).max())
    if not difference < allowed:
        raise ValueError(f"ONNX Runtime and PyTorch differ by {difference:.1e}; below {allowed:.0e} is allowed.")

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

from training.architecture import plot_architecture
from training.calibrate import at_temperature, fit_temperature, reliability
from training.card import model_card
from training.classifier import Classifier, Probabilities
from training.comparison import over_folds
from training.conditions import CONDITIONS
from training.config import ExportConfig, TrainConfig
from training.datasets import find_clips
from training.evaluate import decoded, examine, predict
from training.files import read_json, write_json
from training.graph import OUTPUT, WindowModel, export_module, onnx_model, torch_model
from training.history import read_history
from training.metrics import scores as exam_scores
from training.progress import progress
from training.provenance import provenance
from training.recordings import Recordings
from training.report import plot_conditions, plot_curves
from training.runs import load_classifier, split_of
from training.spec import AUDIO, LABELS, SCHEMA_VERSION
from training.splits import Split

PARITY = 1e-5
"""Largest difference allowed between ONNX Runtime's and PyTorch's probabilities."""

HALF_PARITY = 1e-2
"""The same for the network in 16 bit."""

_LICENCE = "CC BY-NC-SA 4.0, from its training data{beside}: research and other non-commercial use only"


def export(config: ExportConfig) -> Path:
    """Write OUT/VERSION/ with model.onnx, model.json, card.md and report/; returns the folder.

    What is examined on the test part is the exported file itself, in ONNX Runtime.

    Raises:
        FileNotFoundError: no run, no checkpoint, or clips of its split are not in the data.
        FileExistsError: the version exists and is not to be replaced.
        ValueError: the exported graph does not agree with PyTorch, or nothing is left to fit a temperature on.
    """
    folder = config.out / config.version
    if folder.exists() and not config.replace:
        raise FileExistsError(f"{folder} exists. Give another --version, or --replace it.")
    run = config.run_folder
    settings, classifier = load_classifier(run)
    split = split_of(run, settings, config.data)

    work = config.out / f".{config.version}.new"
    shutil.rmtree(work, ignore_errors=True)
    report = work / "report"
    report.mkdir(parents=True)
    parts = {part: decoded(split, part) for part in ("test", "validation") if split.part(part)}
    temperature = chosen_temperature(run, config.calibrate_by, config.data)
    graph = export_graph(classifier, temperature)
    session = onnx_model(graph.SerializeToString())
    expected = torch_model(Probabilities(classifier, temperature))
    _parity(session, expected, parts["test"], PARITY)

    results = {
        part: examine(session, heard, part, report, settings.seed, prefix="" if part == "test" else f"{part}_")
        for part, heard in parts.items()
    }
    calibration: dict[str, Any] = {"temperature": temperature}
    if config.calibrate_by:
        calibration["temperature_from"] = config.calibrate_by.name
    for part, heard in parts.items():
        calibration[f"ece_{part}_before"] = uncalibrated_error(classifier, heard)
        measured = results[part]["calibration"]
        calibration[f"ece_{part}"] = measured["ece"]
        calibration[f"ece_{part}_if_calibrated"] = measured["ece_if_calibrated"]
    _examine_conditions(session, parts["test"], report, settings.seed)
    if elsewhere := _examine_elsewhere(session, config, settings, report):
        results["tess"] = elsewhere
    for name in ("config.json", "history.csv"):
        shutil.copy(run / name, report / name)
    split.save(report / "split.json")
    plot_curves(
        read_history(run), report / "curves.png", read_history(config.calibrate_by) if config.calibrate_by else ()
    )
    plot_architecture(classifier, report / "architecture.png")

    trained = read_json(run / "provenance.json")
    metadata = describe(config.version, settings, classifier, split, results, trained, calibration)
    metadata["bench"] = over_folds(config.bench, settings.run_name)
    half = export_graph(classifier, temperature, torch.float16)
    metadata["fp16"] = _examine_half(onnx_model(half.SerializeToString(), half=True), session, expected, parts["test"])
    model = save_graph(graph, work / "model.onnx", metadata)
    model["precisions"] = {"fp16": save_graph(half, work / "model.fp16.onnx", metadata)}
    model["metadata"] = metadata
    write_json(work / "model.json", model)
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
    calibration: dict[str, Any],
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
        "licence": _LICENCE.format(beside=" (TESS: CC BY-NC-ND 4.0)" if "tess" in settings.corpora else ""),
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


def chosen_temperature(run: Path, calibrate_by: Path | None, data: Path) -> float:
    """The temperature fitted on the validation part of a run, or of the one that it is to be calibrated by.

    Of the latter the last weights are taken, as they are of what learned from its validation part: how far a network
    trusts itself grows with its epochs.

    Raises:
        ValueError: the run learned from its validation part and no other is given; the other is of another recipe or
            on another split, or is not needed.
    """
    settings = TrainConfig.load(calibrate_by or run)
    if calibrate_by:
        _refuse_another_recipe(run, calibrate_by)
    if settings.whole:
        raise ValueError(
            f"{(calibrate_by or run).name} learned from its validation part: a temperature fitted there would trust "
            "it too far. Give --calibrate-by, a run on the same split without --whole."
        )
    if split_of(calibrate_by or run, settings, data).test != split_of(run, TrainConfig.load(run), data).test:
        raise ValueError(f"{settings.run_name} was trained on another split than {run.name}.")
    return temperature_of(calibrate_by or run, data, last=calibrate_by is not None)


def temperature_of(run: Path, data: Path, *, last: bool) -> float:
    """The temperature fitted on a run's own validation part, of its best weights or its last."""
    settings, classifier = load_classifier(run, last=last)
    heard = decoded(split_of(run, settings, data), "validation")
    logits, owners = heard.through(torch_model(classifier))
    return fit_temperature(logits, owners, heard.labels.numpy())


def _refuse_another_recipe(run: Path, calibrate_by: Path) -> None:
    own, other = TrainConfig.load(run).to_json(), TrainConfig.load(calibrate_by).to_json()
    if not own["whole"]:
        raise ValueError(f"{run.name} kept its validation part and is calibrated on it: leave --calibrate-by out.")
    of_its_own = ("whole", "patience", "teachers", "seed", "name")
    if different := [name for name in own if own[name] != other[name] and name not in of_its_own]:
        raise ValueError(
            f"{calibrate_by.name} differs from {run.name} in {', '.join(different)}: how far it trusts itself says "
            "nothing of the other. Give a run of the same settings, but for --whole."
        )


def uncalibrated_error(classifier: Classifier, heard: Recordings) -> float:
    """Expected calibration error at temperature 1."""
    logits, owners = heard.through(torch_model(classifier))
    error: float = reliability(at_temperature(logits, owners, len(heard), 1.0), heard.labels.numpy())["ece"]
    return error


def _examine_conditions(model: WindowModel, recordings: Recordings, report: Path, seed: int) -> None:
    """conditions.json and conditions.png: the test part as it is and as users' recordings are."""
    scores: dict[str, dict[str, Any]] = {}
    for name, condition in {"as it is": None, **CONDITIONS}.items():
        heard = recordings if condition is None else recordings.under(condition, seed)
        result = exam_scores(heard.labels.numpy(), predict(model, heard))
        told = zip(heard.waveforms, recordings.waveforms, strict=True)
        changed = sum(not np.array_equal(one, other) for one, other in told)
        kept = {key: result[key] for key in ("uar", "uar_interval", "accuracy", "clips")}
        scores[name] = kept | {"clips_changed": changed}
    plot_conditions(scores, report / "conditions.png")
    content = {"scores": scores, "provenance": provenance(seed)}
    write_json(report / "conditions.json", content)


def save_graph(graph: onnx.ModelProto, path: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """Write a graph with its metadata inside; returns its entry in model.json."""
    set_metadata(graph, metadata)
    data = graph.SerializeToString()
    path.write_bytes(data)
    return {"file": path.name, "sha256": hashlib.sha256(data).hexdigest()}


def _parity(found: WindowModel, expected: WindowModel, recordings: Recordings, allowed: float) -> float:
    """The largest difference between two models' probabilities of a window.

    Raises:
        ValueError: it is not below what is allowed.
    """
    difference = float(np.abs(recordings.through(found)[0] - recordings.through(expected)[0]).max())
    if not difference < allowed:
        raise ValueError(f"ONNX Runtime and PyTorch differ by {difference:.1e}; below {allowed:.0e} is allowed.")
    return difference


def _examine_half(half: WindowModel, whole: WindowModel, expected: WindowModel, heard: Recordings) -> dict[str, Any]:
    """What the file in half precision scores on the test part, on this machine's processor, beside the whole one.

    Raises:
        ValueError: it differs too much from PyTorch.
    """
    difference = _parity(half, expected, heard, HALF_PARITY)
    answers, of_whole = predict(half, heard), predict(whole, heard)
    told = exam_scores(heard.labels.numpy(), answers)
    return {
        **{key: told[key] for key in ("clips", "uar", "accuracy")},
        "largest_difference": difference,
        "answered_otherwise": int((answers.argmax(axis=1) != of_whole.argmax(axis=1)).sum()),
    }

"""The classical baselines: scikit-learn on statistics of features, kept as the kind of ONNX file all models are."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor, nn

from training.config import TrainConfig
from training.features import FEATURES
from training.recordings import Recordings
from training.spec import AUDIO, LABELS

_BATCH_WINDOWS = 64
_OPSET = 18

ESTIMATORS: dict[str, Callable[[int], Any]] = {
    "random_forest": lambda seed: RandomForestClassifier(500, random_state=seed, n_jobs=-1),
    # Platt's sigmoid over cross-validated decisions: probabilities that average over windows.
    "svm": lambda _: CalibratedClassifierCV(SVC(C=10.0), cv=3, ensemble=False),
    "knn": lambda _: KNeighborsClassifier(7, weights="distance"),
}
"""Estimators by the name they have on the command line; each is made from a seed."""


class Statistics(nn.Module):
    """Mean, deviation, smallest and largest of each band, waveform (B, T) -> (B, 4 * bands)."""

    def __init__(self, features: str) -> None:
        super().__init__()
        self.front_end = FEATURES[features](AUDIO)

    def forward(self, waveform: Tensor) -> Tensor:
        features = self.front_end(waveform)
        mean = features.mean(dim=2)
        deviation = (features - mean[:, :, None]).square().mean(dim=2).sqrt()
        return torch.cat([mean, deviation, features.amin(dim=2), features.amax(dim=2)], dim=1)


def fit_classical(config: TrainConfig, recordings: Recordings) -> onnx.ModelProto:
    """Fit on every window of some clips; the graph from waveform (n, samples) to probabilities (n, classes)."""
    statistics = Statistics(config.features).eval()
    rows, labels = [], []
    with torch.inference_mode():
        for windows, owners in recordings.window_batches(_BATCH_WINDOWS):
            rows.append(statistics(windows).numpy())
            labels.append(recordings.labels[owners].numpy())
    x, y = np.concatenate(rows), np.concatenate(labels)
    pipeline = make_pipeline(StandardScaler(), ESTIMATORS[config.model](config.seed)).fit(x, y)
    return _joined(statistics, pipeline, x.shape[1])


def _joined(statistics: Statistics, pipeline: Any, columns: int) -> onnx.ModelProto:
    """Both halves as one graph; classes that were never learned have probability 0."""
    # Here, because they take seconds to import and nobody else needs them.
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        front = torch.onnx.export(
            statistics,
            (torch.zeros(2, AUDIO.window_samples),),
            input_names=["waveform"],
            output_names=["statistics"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
        if front is None:
            raise ValueError("The exporter gave no graph.")
        back = skl2onnx.to_onnx(
            pipeline,
            initial_types=[("x", FloatTensorType([None, columns]))],
            options={id(pipeline): {"zipmap": False}},
            target_opset=_OPSET,
        )
    known = front.model_proto
    back.ir_version = known.ir_version
    joined: onnx.ModelProto = onnx.compose.merge_models(
        known, onnx.compose.add_prefix(back, "sklearn."), io_map=[("statistics", "sklearn.x")]
    )
    _keep_probabilities(joined, pipeline.classes_)
    onnx.checker.check_model(joined)
    return joined


def _keep_probabilities(graph: onnx.ModelProto, classes: np.ndarray) -> None:
    """Leave one output, (batch, LABELS), whichever classes were learned."""
    (inner,) = [value.name for value in graph.graph.output if value.name.endswith("probabilities")]
    spread = np.zeros((len(classes), len(LABELS)), dtype=np.float32)
    spread[np.arange(len(classes)), classes] = 1.0
    graph.graph.initializer.append(onnx.numpy_helper.from_array(spread, "spread"))
    graph.graph.node.append(onnx.helper.make_node("MatMul", [inner, "spread"], ["probabilities"]))
    del graph.graph.output[:]
    shape: list[str | int | None] = ["batch", len(LABELS)]
    graph.graph.output.append(onnx.helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, shape))

"""The classical baselines: scikit-learn on statistics of features, kept as the kind of ONNX file all models are."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
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
from training.graph import OPSET, OUTPUT, export_module, onnx_model, torch_model
from training.recordings import Recordings
from training.spec import AUDIO, LABELS

ESTIMATORS: dict[str, Callable[[int], Any]] = {
    "random_forest": lambda seed: RandomForestClassifier(500, random_state=seed, n_jobs=-1),
    # Platt's sigmoid over cross-validated decisions: probabilities that average over windows.
    "svm": lambda _: CalibratedClassifierCV(SVC(C=10.0), cv=3, ensemble=False),
    # Weights by distance would be lost in the graph: skl2onnx 1.20 counts each neighbour once.
    "knn": lambda _: KNeighborsClassifier(7),
}
"""Estimators by the name they have on the command line; each is made from a seed."""

PARITY = 2e-3
"""Largest mean difference of probabilities between scikit-learn and the graph."""
_CHECKED_WINDOWS = 256


class Statistics(nn.Module):
    """Mean, deviation, smallest and largest of each band, waveform (B, T) -> (B, 4 * bands)."""

    def __init__(self, features: str) -> None:
        super().__init__()
        self.features = features
        self.front_end = FEATURES[features](AUDIO)

    def forward(self, waveform: Tensor) -> Tensor:
        features = self.front_end(waveform)
        mean = features.mean(dim=2)
        deviation = (features - mean[:, :, None]).square().mean(dim=2).sqrt()
        return torch.cat([mean, deviation, features.amin(dim=2), features.amax(dim=2)], dim=1)


def estimator(config: TrainConfig) -> str:
    """The estimator with its own settings, which no :class:`TrainConfig` has."""
    return repr(ESTIMATORS[config.model](config.seed))


def fit_classical(config: TrainConfig, recordings: Recordings) -> onnx.ModelProto:
    """Fit on every window of some clips; the graph from waveform (n, samples) to probabilities (n, classes).

    Raises:
        ValueError: the graph does not answer as the estimator does.
    """
    statistics = Statistics(config.features)
    x, owners = recordings.through(torch_model(statistics))
    y = recordings.labels.numpy()[owners]
    pipeline = make_pipeline(StandardScaler(), ESTIMATORS[config.model](config.seed)).fit(x, y)
    graph = _joined(statistics, pipeline, x.shape[1])
    _check_parity(graph, pipeline, x, recordings)
    return graph


def _check_parity(graph: onnx.ModelProto, pipeline: Any, x: np.ndarray, recordings: Recordings) -> None:
    """What is examined is the graph: it must answer as what was fitted.

    The mean tells: at the edge of a tree's threshold or between two neighbours single answers may tip over.
    """
    windows = next(recordings.window_batches(_CHECKED_WINDOWS))[0].numpy()
    found = onnx_model(graph.SerializeToString())(windows)[:, pipeline.classes_]
    difference = float(np.abs(found - pipeline.predict_proba(x[: len(windows)])).mean())
    if not difference < PARITY:
        raise ValueError(
            f"The ONNX file's probabilities differ from scikit-learn's by {difference:.1e} on average; below "
            f"{PARITY:.0e} is allowed. skl2onnx does not convert this estimator as it is: choose other settings for it."
        )


def _joined(statistics: Statistics, pipeline: Any, columns: int) -> onnx.ModelProto:
    """Both halves as one graph; classes that were never learned have probability 0."""
    # Here, because they take seconds to import and nobody else needs them.
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType

    front = onnx.load_from_string(_front_end(statistics.features))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        back = skl2onnx.to_onnx(
            pipeline,
            initial_types=[("x", FloatTensorType([None, columns]))],
            options={id(pipeline): {"zipmap": False}},
            target_opset=OPSET,
        )
    back.ir_version = front.ir_version
    joined: onnx.ModelProto = onnx.compose.merge_models(
        front, onnx.compose.add_prefix(back, "sklearn."), io_map=[("statistics", "sklearn.x")]
    )
    _keep_probabilities(joined, pipeline.classes_)
    onnx.checker.check_model(joined)
    return joined


@cache
def _front_end(features: str) -> bytes:
    """The statistics as an ONNX file: the same for all that is fitted on them, and it takes seconds to make."""
    data: bytes = export_module(Statistics(features), "statistics").SerializeToString()
    return data


def _keep_probabilities(graph: onnx.ModelProto, classes: np.ndarray) -> None:
    """Leave one output, (batch, LABELS), whichever classes were learned."""
    (inner,) = [value.name for value in graph.graph.output if value.name.endswith("probabilities")]
    spread = np.zeros((len(classes), len(LABELS)), dtype=np.float32)
    spread[np.arange(len(classes)), classes] = 1.0
    graph.graph.initializer.append(onnx.numpy_helper.from_array(spread, "spread"))
    graph.graph.node.append(onnx.helper.make_node("MatMul", [inner, "spread"], [OUTPUT]))
    del graph.graph.output[:]
    shape: list[str | int | None] = ["batch", len(LABELS)]
    graph.graph.output.append(onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, shape))

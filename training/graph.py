"""Modules as ONNX files and back: the one exporter, and models as functions of windows whatever runs them."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import nn

from training.spec import AUDIO

OPSET = 18
_TIMED_RUNS = 200
INPUT, OUTPUT = "waveform", "probabilities"
"""Names of an exported file's tensors."""

WindowModel = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
"""Windows (n, samples) -> a row for each (n, columns): a torch module or an ONNX session alike."""


def export_module(module: nn.Module, output: str) -> onnx.ModelProto:
    """A module from waveform (batch, window_samples) float32 to rows (batch, columns) as an ONNX model.

    Args:
        output: name of its output.

    Raises:
        ValueError: the exporter gave no graph.
    """
    # The exporter reports operators of packages that are not used here.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            (torch.zeros(2, AUDIO.window_samples),),
            input_names=[INPUT],
            output_names=[output],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ValueError("The exporter gave no graph.")
    graph: onnx.ModelProto = program.model_proto
    _forget_origin(graph)
    return graph


def onnx_model(data: bytes, *, half: bool = False) -> WindowModel:
    """An exported file in ONNX Runtime on the CPU.

    Args:
        half: it is of half precision, made for CUDA. Tensors are not laid out for this CPU then: over that ONNX Runtime
            1.31.1 dies of a segmentation fault where the network is a transformer.
    """
    options = onnxruntime.SessionOptions()
    if half:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        (rows,) = session.run([OUTPUT], {INPUT: windows})
        found: npt.NDArray[np.float32] = rows
        return found

    return run


def torch_model(module: nn.Module) -> WindowModel:
    """A torch module, without gradients."""

    def run(windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            rows: npt.NDArray[np.float32] = module(torch.from_numpy(windows)).numpy()
        return rows

    return run


def time_in_turn(graphs: dict[str, bytes]) -> dict[str, float]:
    """Median ms of one window on one thread of ONNX Runtime, preprocessing included, of each graph.

    They take turns, so that a moment at which the machine is slow meets all of them.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = {
        name: onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        for name, data in graphs.items()
    }
    window = (0.05 * np.random.default_rng(0).standard_normal((1, AUDIO.window_samples))).astype(np.float32)
    taken: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(_TIMED_RUNS):
        for name, session in sessions.items():
            started = time.perf_counter()
            session.run([OUTPUT], {INPUT: window})
            taken[name].append(time.perf_counter() - started)
    return {name: round(median(times[_TIMED_RUNS // 10 :]) * 1e3, 3) for name, times in taken.items()}


def _forget_origin(graph: onnx.ModelProto) -> None:
    """Drop the stack traces and paths of the exporting machine from every node and value."""
    holders: list[Any] = [graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.initializer]
    holders += [*graph.graph.input, *graph.graph.output, *graph.functions]
    for holder in holders:
        holder.doc_string = ""
        del holder.metadata_props[:]

"""Modules as ONNX files and back: the one exporter, and models as functions of windows whatever runs them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import nn

from training.spec import AUDIO

OPSET = 18
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


def onnx_model(data: bytes) -> WindowModel:
    """An exported file in ONNX Runtime on the CPU."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

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


def _forget_origin(graph: onnx.ModelProto) -> None:
    """Drop the stack traces and paths of the exporting machine from every node and value."""
    holders: list[Any] = [graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.initializer]
    holders += [*graph.graph.input, *graph.graph.output, *graph.functions]
    for holder in holders:
        holder.doc_string = ""
        del holder.metadata_props[:]

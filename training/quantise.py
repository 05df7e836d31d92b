"""A version in eight bits: calibrated on clips it learned from, examined beside the float, shipped where it pays."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from training.config import QuantiseConfig, TrainConfig
from training.datasets import Clip
from training.evaluate import decoded, predict
from training.export import save_graph
from training.files import read_json, write_json
from training.graph import INPUT, onnx_model, time_in_turn
from training.metrics import scores
from training.provenance import provenance
from training.recordings import Recordings
from training.runs import corpus_clips
from training.splits import Split

FASTER, UAR_LOSS = 1.3, 0.01
"""What eight bits must bring on one thread, and the most they may cost; else they are not shipped."""

_CALIBRATION_CLIPS, _DECIDING_CLIPS = 160, 800
_QUANTISED = ("Conv", "Gemm", "MatMul")

Json = dict[str, Any]


def quantise(config: QuantiseConfig) -> Json:
    """Quantise a version, measure, write int8.json to the results; model.int8.onnx is shipped if it pays, else removed.

    What the eight bits cost is decided on clips that the version learned from and that said nothing of the ranges; what
    they cost on its test part is told.

    Raises:
        FileNotFoundError: no such version, or clips of its split are not in the data.
        ValueError: the graph has no convolution to quantise.
    """
    folder = config.out / config.version
    if not (folder / "model.json").is_file():
        there = sorted(path.parent.name for path in config.out.glob("*/model.json"))
        raise FileNotFoundError(f"There is no version {config.version} in {config.out}; there are {', '.join(there)}.")
    description = read_json(folder / "model.json")
    data = (folder / description["file"]).read_bytes()
    settings = TrainConfig.from_json(description["metadata"]["training"]["settings"])
    split = Split.load(folder / "report" / "split.json", corpus_clips(settings, config.data))
    ranges = _spread(split.train, min(_CALIBRATION_CLIPS, len(split.train) // 2))
    quantised = eight_bits(data, (windows.numpy() for windows, _ in Recordings(ranges).window_batches(1)))
    said = set(ranges)
    others = _spread(tuple(clip for clip in split.train if clip not in said), _DECIDING_CLIPS)
    graphs = {"float": data, "int8": quantised}
    models = {name: onnx_model(graph) for name, graph in graphs.items()}
    uar = {
        part: {name: scores(heard.labels.numpy(), predict(model, heard))["uar"] for name, model in models.items()}
        for part, heard in (("learned", Recordings(others)), ("test", decoded(split, "test")))
    }
    times = time_in_turn(graphs)
    faster = times["float"] / times["int8"]
    results: Json = {
        "version": config.version,
        "clips": {"ranges": len(ranges), "learned": len(others), "test": len(split.test)},
        "uar": uar,
        "megabytes": {"float": round(len(data) / 1e6, 2), "int8": round(len(quantised) / 1e6, 2)},
        "ms_one_thread": times,
        "times_as_fast": round(faster, 3),
        "asked": {"times_as_fast": FASTER, "uar_loss": UAR_LOSS},
        "shipped": faster >= FASTER and uar["learned"]["float"] - uar["learned"]["int8"] <= UAR_LOSS,
        "provenance": provenance(0),
    }
    file, precisions = folder / "model.int8.onnx", description.get("precisions", {})
    if results["shipped"]:
        precisions["int8"] = save_graph(onnx.load_from_string(quantised), file, description["metadata"])
        description["precisions"] = precisions
    else:  # one of an earlier turn, which paid then
        precisions.pop("int8", None)
        file.unlink(missing_ok=True)
    write_json(folder / "model.json", description)
    config.results.mkdir(parents=True, exist_ok=True)
    write_json(config.results / "int8.json", results)
    return results


def eight_bits(data: bytes, calibration: Iterable[npt.NDArray[np.float32]]) -> bytes:
    """A graph with its network in 8 bit; the front end keeps its 32, which powers of ten need.

    Static, per channel, quantise-dequantise pairs around convolutions and products.

    Args:
        calibration: windows (n, samples) whose activations say what ranges there are.

    Raises:
        ValueError: there is no convolution.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, done = (Path(folder) / name for name in ("plain.onnx", "prepared.onnx", "int8.onnx"))
        plain.write_bytes(data)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            done,
            _Windows(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(_QUANTISED),
            nodes_to_exclude=_front_end(onnx.load(prepared)),
        )
        return done.read_bytes()


class _Windows(CalibrationDataReader):  # type: ignore[misc]
    """Windows, a batch at a time."""

    def __init__(self, batches: Iterable[npt.NDArray[np.float32]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        windows = next(self._batches, None)
        return None if windows is None else {INPUT: windows}


def _front_end(graph: onnx.ModelProto) -> list[str]:
    """Names of the nodes before the first convolution.

    Raises:
        ValueError: there is none.
    """
    nodes = graph.graph.node
    first = next((index for index, node in enumerate(nodes) if node.op_type == "Conv"), None)
    if first is None:
        raise ValueError("There is no convolution in this graph; only CNNs are quantised.")
    return [node.name for node in nodes[:first]]


def _spread(clips: tuple[Clip, ...], count: int) -> list[Clip]:
    """So many clips, as many of each emotion, evenly over the list."""
    by_label: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        by_label[clip.label].append(clip)
    each = count // len(by_label)
    return [clip for mine in by_label.values() for clip in mine[:: max(1, len(mine) // each)][:each]]

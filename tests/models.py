"""More versions than the committed one, made from it: what routing needs to be seen."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx

from tests.conftest import ROOT

Change = Callable[[onnx.ModelProto], None]


def copy_versions(folder: Path, *names: str, change: Change | None = None) -> Path:
    """A models folder with the committed version 1 and copies of it under other names, each with this change."""
    models = folder / "models"
    shutil.copytree(ROOT / "exported" / "1", models / "1", ignore=shutil.ignore_patterns("report"))
    for name in names:
        add_version(models, name, change)
    return models


def add_version(models: Path, name: str, change: Change | None = None) -> None:
    """A copy of version 1 that says it is another, its graph changed where wanted; checksum and metadata agree."""
    folder = shutil.copytree(models / "1", models / name)
    rewrite(folder, change or (lambda _: None), version=name)


def rewrite(folder: Path, change: Change, **metadata: object) -> None:
    """Change a version's graph and metadata and make everything agree again."""
    graph = onnx.load(folder / "model.onnx")
    change(graph)
    description = json.loads((folder / "model.json").read_text())
    description["metadata"].update(metadata)
    for entry in graph.metadata_props:
        if entry.key in metadata:
            entry.value = json.dumps(metadata[entry.key])
    data = graph.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    description["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "model.json").write_text(json.dumps(description))


def contrary(graph: onnx.ModelProto) -> None:
    """The least probable emotion becomes the most probable."""
    nodes = graph.graph.node
    (place,) = [index for index, node in enumerate(nodes) if node.op_type == "Softmax"]
    softmax = nodes[place]
    nodes.insert(place, onnx.helper.make_node("Neg", [softmax.input[0]], ["contrary"]))
    nodes[place + 1].input[0] = "contrary"


def costly(repetitions: int) -> Change:
    """A version that takes long: its probabilities go through many products of large matrices that change nothing."""

    def change(graph: onnx.ModelProto) -> None:
        import numpy as np

        size = 1024
        eye = onnx.numpy_helper.from_array(np.eye(size, dtype=np.float32), "eye")
        zero = onnx.numpy_helper.from_array(np.zeros((1,), dtype=np.float32), "zero")
        graph.graph.initializer.extend([eye, zero])
        nodes = graph.graph.node
        make = onnx.helper.make_node
        waveform = graph.graph.input[0].name
        # The first sample times zero keeps the products from being folded away before the model runs.
        nodes.append(make("ReduceMax", [waveform], ["loudest"], keepdims=0))
        nodes.append(make("Mul", ["loudest", "zero"], ["nothing"]))
        nodes.append(make("Add", ["eye", "nothing"], ["product0"]))
        for n in range(repetitions):
            nodes.append(make("MatMul", [f"product{n}", "eye"], [f"product{n + 1}"]))
        nodes.append(make("ReduceMax", [f"product{repetitions}"], ["one"], keepdims=0))
        output = graph.graph.output[0].name
        for node in nodes:
            for index, name in enumerate(node.output):
                if name == output:
                    node.output[index] = "quick"
        nodes.append(make("Mul", ["quick", "one"], [output]))

    return change

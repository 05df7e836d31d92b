"""One model in ONNX Runtime: windows in, probabilities out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from serving.artifact import Artifact, Metadata
from serving.audio import Samples
from serving.errors import ArtifactError

INPUT, OUTPUT = "waveform", "probabilities"

Probabilities = npt.NDArray[np.float32]


class Session:
    """A loaded and warmed-up version. Safe to call from several threads at once.

    One thread to a forward pass: several passes side by side use the cores better than one that is split.

    Args:
        artifact: the verified files.

    Raises:
        ArtifactError: ONNX Runtime cannot load the file, or the file contradicts model.json.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.metadata = artifact.metadata
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(artifact.model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a class of its own per cause, without a common base
            raise ArtifactError(f"{artifact.file}: ONNX Runtime cannot load the model: {error}") from error
        self._check(artifact)
        try:
            self.run(np.zeros((1, self.metadata.windows.window_samples), dtype=np.float32))
        except Exception as error:
            raise ArtifactError(f"{artifact.file}: the model fails on silence: {error}") from error

    def run(self, windows: Samples) -> Probabilities:
        """Windows float32 (n, window_samples) -> probabilities float32 (n, classes), rows summing to 1."""
        probabilities: Probabilities = self._session.run([OUTPUT], {INPUT: windows})[0]
        return probabilities

    def _check(self, artifact: Artifact) -> None:
        """The file carries its own metadata and shapes; they must be those that model.json told."""
        told, found = artifact.metadata.everything, self._embedded(artifact)
        inside = Metadata.parse(found, f"{artifact.file}")
        if differing := sorted(key for key in found.keys() | told.keys() if found.get(key) != told.get(key)):
            raise ArtifactError(
                f"{artifact.file}: it and model.json disagree on {', '.join(differing)}. Export it again."
            )
        inputs = [(node.name, node.shape[1:], node.type) for node in self._session.get_inputs()]
        outputs = [(node.name, node.shape[1:], node.type) for node in self._session.get_outputs()]
        wanted_inputs = [(INPUT, [inside.windows.window_samples], "tensor(float)")]
        wanted_outputs = [(OUTPUT, [len(inside.labels)], "tensor(float)")]
        if (inputs, outputs) != (wanted_inputs, wanted_outputs):
            raise ArtifactError(
                f"{artifact.file}: the graph maps {inputs} to {outputs}, "
                f"but {wanted_inputs} to {wanted_outputs} is needed."
            )

    def _embedded(self, artifact: Artifact) -> dict[str, Any]:
        try:
            entries = self._session.get_modelmeta().custom_metadata_map.items()
            return {key: json.loads(value) for key, value in entries}
        except ValueError as error:
            raise ArtifactError(f"{artifact.file}: its metadata is not JSON ({error}).") from error

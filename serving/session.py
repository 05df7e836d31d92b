"""One model in ONNX Runtime: windows in, probabilities out."""

from __future__ import annotations

import json

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

    Args:
        artifact: the verified files.
        threads: threads within one forward pass.

    Raises:
        ArtifactError: ONNX Runtime cannot load the file, or the file contradicts model.json.
    """

    def __init__(self, artifact: Artifact, threads: int) -> None:
        self.metadata = artifact.metadata
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that spin while they wait take the cores that decode the next request.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(artifact.model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a class of its own per cause, without a common base
            raise ArtifactError(f"{artifact.folder}: ONNX Runtime cannot load the model: {error}") from error
        self._check(artifact)
        self.run(np.zeros((1, self.metadata.windows.window_samples), dtype=np.float32))

    def run(self, windows: Samples) -> Probabilities:
        """Windows float32 (n, window_samples) -> probabilities float32 (n, classes), rows summing to 1."""
        probabilities: Probabilities = self._session.run([OUTPUT], {INPUT: windows})[0]
        return probabilities

    def _check(self, artifact: Artifact) -> None:
        """The file carries its own metadata and shapes; they must be those that model.json told."""
        embedded = {key: json.loads(value) for key, value in self._session.get_modelmeta().custom_metadata_map.items()}
        inside = Metadata.parse(embedded, f"{artifact.folder} (inside the ONNX file)")
        if inside.everything != artifact.metadata.everything:
            differing = sorted(
                key
                for key in embedded.keys() | artifact.metadata.everything.keys()
                if embedded.get(key) != artifact.metadata.everything.get(key)
            )
            raise ArtifactError(
                f"{artifact.folder}: model.json and the ONNX file disagree on {', '.join(differing)}. Export it again."
            )
        inputs = [(node.name, node.shape[1:], node.type) for node in self._session.get_inputs()]
        outputs = [(node.name, node.shape[1:], node.type) for node in self._session.get_outputs()]
        wanted_inputs = [(INPUT, [inside.windows.window_samples], "tensor(float)")]
        wanted_outputs = [(OUTPUT, [len(inside.labels)], "tensor(float)")]
        if (inputs, outputs) != (wanted_inputs, wanted_outputs):
            raise ArtifactError(
                f"{artifact.folder}: the graph maps {inputs} to {outputs}, "
                f"but {wanted_inputs} to {wanted_outputs} is needed."
            )

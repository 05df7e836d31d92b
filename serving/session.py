"""ONNX Runtime behind one loaded version: windows (n, samples) -> probabilities (n, classes)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from serving.artifact import Artifact, Metadata
from serving.audio import Samples
from serving.errors import ArtifactError, RuntimeUnavailable
from serving.runtime import Runtime

Probabilities = npt.NDArray[np.float32]

INPUT, OUTPUT = "waveform", "probabilities"


class Session:
    """A loaded and warmed-up version. Safe to call from several threads at once.

    Args:
        artifact: the verified files.
        runtime: what passes run on.

    Attributes:
        warmed_up: (windows, seconds) of each batch size that was run before the first request.

    Raises:
        ArtifactError: ONNX Runtime cannot load the file, it fails on silence, or it contradicts model.json.
        RuntimeUnavailable: CUDA is asked for and does not work.
    """

    def __init__(self, artifact: Artifact, runtime: Runtime) -> None:
        self.metadata = artifact.metadata
        self.runtime = runtime
        if runtime.device == "cuda":
            onnxruntime.preload_dlls()  # the CUDA libraries that pip installed; ONNX Runtime does not look there itself
        self._lanes = ThreadPoolExecutor(runtime.lanes, thread_name_prefix=f"version-{self.metadata.version}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = runtime.threads
        options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(artifact.model, options, providers=runtime.providers)
        except Exception as error:  # ONNX Runtime raises a class of its own per cause, without a common base
            raise self._unusable(f"{artifact.file}: ONNX Runtime cannot load the model", error) from error
        self._session.disable_fallback()  # to another device, in silence, when a pass fails
        used = self._session.get_providers()
        if runtime.providers[0] not in used:
            raise RuntimeUnavailable(
                f"CUDA cannot be used: ONNX Runtime fell back to {', '.join(used)}; its log says why."
            )
        self._check(artifact)
        try:
            self.warmed_up = [(size, self._time(size)) for size in runtime.batch_sizes]
        except Exception as error:
            raise self._unusable(f"{artifact.file}: the model fails on silence", error) from error

    def run(self, windows: Samples) -> Probabilities:
        """Windows float32 (n, window_samples) -> probabilities float32 (n, classes), rows summing to 1."""
        probabilities: Probabilities
        if self.runtime.device == "cpu":
            (probabilities,) = self._session.run([OUTPUT], {INPUT: windows})
            return probabilities
        padding = self.runtime.padded_size(len(windows)) - len(windows)
        # Bound output: the provider allocates it where it is computed, and it is copied once.
        binding = self._session.io_binding()
        binding.bind_cpu_input(INPUT, np.pad(windows, ((0, padding), (0, 0))) if padding else windows)
        binding.bind_output(OUTPUT, "cuda")
        self._session.run_with_iobinding(binding)
        (probabilities,) = binding.copy_outputs_to_cpu()
        return probabilities[: len(windows)]

    async def run_in_lane(self, gather: Callable[[], Samples]) -> Probabilities:
        """:meth:`run` in one of the session's own threads, where the windows are copied together too."""
        return await asyncio.get_running_loop().run_in_executor(self._lanes, lambda: self.run(gather()))

    def probe(self) -> None:
        """A real forward pass; raises what ONNX Runtime raises."""
        self.run(np.zeros((1, self.metadata.windows.window_samples), dtype=np.float32))

    def close(self) -> None:
        """Stop the threads when they have finished."""
        self._lanes.shutdown(wait=False)

    def _unusable(self, what: str, error: Exception) -> ArtifactError | RuntimeUnavailable:
        """Whose fault it is: on CUDA the device's, since a bad model fails on the CPU too, and is told there."""
        if self.runtime.device == "cuda":
            return RuntimeUnavailable(f"CUDA cannot be used: {what}: {error}")
        return ArtifactError(f"{what}: {error}")

    def _time(self, windows: int) -> float:
        silence = np.zeros((windows, self.metadata.windows.window_samples), dtype=np.float32)
        self.run(silence)  # the first of a size allocates, and on CUDA chooses its kernels
        started = time.perf_counter()
        self.run(silence)
        return time.perf_counter() - started

    def _check(self, artifact: Artifact) -> None:
        """The file carries its own metadata and shapes; they must be those that model.json told."""
        told, found = artifact.metadata.everything, _embedded(self._session, artifact.file)
        inside = Metadata.parse(found, str(artifact.file))
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


def alone(file: Path) -> Artifact:
    """A version from its ONNX file, which carries its whole description; without model.json nothing vouches for it.

    Raises:
        ArtifactError: it cannot be read, is no model, or says too little of itself.
    """
    try:
        model = file.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{error.filename}: {error.strerror}.") from error
    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    except Exception as error:  # a class of its own per cause, without a common base
        raise ArtifactError(f"{file}: ONNX Runtime cannot load the model: {error}") from error
    return Artifact(file, Metadata.parse(_embedded(session, file), str(file)), model, hashlib.sha256(model).hexdigest())


def _embedded(session: onnxruntime.InferenceSession, file: Path) -> dict[str, Any]:
    """What the file says of itself."""
    try:
        return {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    except ValueError as error:
        raise ArtifactError(f"{file}: its metadata is not JSON ({error}).") from error

"""Tensors of the protocol: what came, checked against what is allowed, as audio; and predictions as what goes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.audio import Samples
from serving.errors import InvalidRequest
from serving.pipeline import Upload, Waveform
from serving.schemas import Prediction

AUDIO, WAVEFORM = "audio", "waveform"
EMOTION, CONFIDENCE, PROBABILITIES = "emotion", "confidence", "probabilities"
RATE = "sample_rate"
"""Parameter of a waveform, or of its request, where it is not at the model's rate."""
LABELS = "labels"
"""Parameter that names the columns of `probabilities`, comma-separated: in the metadata and in every answer, since what
some clients know of metadata has no place for it."""
CLASSES = "classification"
"""Parameter of a wanted output, of Triton's extension of that name: how many of the best classes to tell, as texts."""

BYTES, FP32 = "BYTES", "FP32"
INPUTS = {AUDIO: BYTES, WAVEFORM: FP32}
OUTPUTS = {EMOTION: BYTES, CONFIDENCE: FP32, PROBABILITIES: FP32}

_LENGTH_BYTES = 4  # before each element of a BYTES tensor, little-endian


@dataclass(frozen=True)
class Tensor:
    """A named array; ``data`` are byte strings (BYTES), or float32 with as many elements in any shape (FP32)."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Sequence[bytes] | Samples
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """A requested output; of its parameters `classification` is looked at."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        """How many of the most probable classes are told instead of the tensor; 0 for the tensor.

        Raises:
            InvalidRequest: it is no such number.
        """
        count = self.parameters.get(CLASSES, 0)
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise InvalidRequest(f"Parameter {CLASSES} is a whole number of classes; {str(count)[:40]!r} came.")
        return count


def check(name: str, datatype: str, shape: Sequence[int], most: int) -> None:
    """Whether an input of this name may look like this, before its data are touched.

    Args:
        most: clips that one request may bring.

    Raises:
        InvalidRequest: the name, type, rank or a dimension is none that is taken.
    """
    if name not in INPUTS:
        raise InvalidRequest(f"There is no input {name[:40]!r}; there are {', '.join(INPUTS)}.")
    if datatype != INPUTS[name]:
        raise InvalidRequest(f"Input {name} is of type {INPUTS[name]}; {datatype[:40]!r} came.")
    rank = 1 if name == AUDIO else 2
    if len(shape) != rank or min(shape) < 1 or shape[0] > most:
        wanted = "[n]" if name == AUDIO else "[n, samples]"
        raise InvalidRequest(f"Input {name} has shape {wanted} with n from 1 to {most}; {list(shape)[:8]} came.")


def split_bytes(raw: bytes, name: str) -> list[bytes]:
    """The elements of a BYTES tensor in binary: each behind its length.

    Raises:
        InvalidRequest: a length says more than is there.
    """
    elements: list[bytes] = []
    place = 0
    while place < len(raw):
        start = place + _LENGTH_BYTES
        place = start + int.from_bytes(raw[place:start], "little")
        if place > len(raw):
            raise InvalidRequest(f"Input {name} breaks off: element {len(elements)} is longer than what came.")
        elements.append(raw[start:place])
    return elements


def join_bytes(elements: Sequence[bytes]) -> bytes:
    """The reverse of :func:`split_bytes`."""
    return b"".join(len(element).to_bytes(_LENGTH_BYTES, "little") + element for element in elements)


def from_raw(raw: bytes, datatype: str, name: str) -> Sequence[bytes] | Samples:
    """Data of a tensor that came in binary.

    Raises:
        InvalidRequest: the bytes are no such elements.
    """
    if datatype == BYTES:
        return split_bytes(raw, name)
    if len(raw) % np.dtype("<f4").itemsize:
        raise InvalidRequest(f"Input {name} has {len(raw)} bytes, which are no FP32 elements.")
    return np.frombuffer(raw, "<f4")


def to_raw(tensor: Tensor) -> bytes:
    """Data of a tensor as they go out in binary."""
    if isinstance(tensor.data, np.ndarray):
        return tensor.data.astype("<f4").tobytes()
    return join_bytes(tensor.data)


def clips(inputs: Sequence[Tensor], parameters: Mapping[str, Any], model_rate_hz: int) -> list[Upload | Waveform]:
    """The clips of a request, from its one input.

    Args:
        parameters: the request's, which say the rate where the input's own do not: not every client can set those.

    Raises:
        InvalidRequest: none or both inputs came, or not as many elements as the shape says, or a bad rate.
    """
    if len(inputs) != 1:
        came = ", ".join(tensor.name[:40] for tensor in inputs[:8]) or "none"
        raise InvalidRequest(f"One input is needed, {' or '.join(INPUTS)}; {came} came.")
    (tensor,) = inputs
    size = len(tensor.data) if tensor.name == AUDIO else np.size(tensor.data)
    if size != np.prod(tensor.shape, dtype=object):
        raise InvalidRequest(f"Input {tensor.name} has shape {list(tensor.shape)} and {size} elements.")
    if not isinstance(tensor.data, np.ndarray):
        return [Upload(element, None) for element in tensor.data]
    rate_hz = _whole(tensor.parameters.get(RATE, parameters.get(RATE, model_rate_hz)))
    return [Waveform(row, rate_hz) for row in tensor.data.reshape(tensor.shape)]


def _whole(rate_hz: Any) -> int:
    """The rate as an integer; a client may have it as a float."""
    if isinstance(rate_hz, float) and rate_hz.is_integer():
        return int(rate_hz)
    if not isinstance(rate_hz, int) or isinstance(rate_hz, bool):
        raise InvalidRequest(f"Parameter {RATE} is a whole number of samples a second; {str(rate_hz)[:40]!r} came.")
    return rate_hz


def named(labels: Iterable[str]) -> dict[str, str]:
    """The parameter of `probabilities`."""
    return {LABELS: ",".join(labels)}


def answers(predictions: Sequence[Prediction], wanted: Sequence[Wanted]) -> list[Tensor]:
    """The requested outputs, which :func:`check_outputs` has looked at, in the order requested; or all."""
    count = len(predictions)
    rows = [list(prediction.all_emotions.values()) for prediction in predictions]
    made: dict[str, Tensor] = {
        EMOTION: Tensor(EMOTION, BYTES, (count,), [(told.emotion or "").encode() for told in predictions]),
        CONFIDENCE: Tensor(CONFIDENCE, FP32, (count,), _fp32([told.confidence for told in predictions])),
        PROBABILITIES: Tensor(
            PROBABILITIES, FP32, (count, len(rows[0])), _fp32(rows), named(predictions[0].all_emotions)
        ),
    }
    if not wanted:
        return list(made.values())
    labels = list(predictions[0].all_emotions)
    return [
        _best(made[output.name], labels, output.classes) if output.classes else made[output.name] for output in wanted
    ]


def _best(probabilities: Tensor, labels: Sequence[str], count: int) -> Tensor:
    """The most probable classes as Triton's classification extension has them: `value:index:label`, the best first.

    Args:
        labels: of the columns.
        count: how many are wanted of each clip; all where that is more.
    """
    values = np.asarray(probabilities.data)
    best = np.argsort(-values, axis=1, kind="stable")[:, :count]
    texts = [
        f"{row[index]:f}:{index}:{labels[index]}".encode()
        for row, order in zip(values, best, strict=True)
        for index in order
    ]
    return Tensor(PROBABILITIES, BYTES, best.shape, texts, probabilities.parameters)


def _fp32(values: Sequence[float] | Sequence[Sequence[float]]) -> Samples:
    return np.array(values, dtype=np.float32)


def check_outputs(wanted: Sequence[Wanted]) -> None:
    """Whether these can be had; asked before anything is computed.

    Raises:
        InvalidRequest: there is no such output, or none that has the classes that are wanted of it.
    """
    for output in wanted:
        if output.name not in OUTPUTS:
            raise InvalidRequest(f"There is no output {output.name[:40]!r}; there are {', '.join(OUTPUTS)}.")
        if output.classes and output.name != PROBABILITIES:
            raise InvalidRequest(f"Output {output.name} has no classes to tell by {CLASSES}; {PROBABILITIES} has.")

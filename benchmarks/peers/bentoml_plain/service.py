"""Plain BentoML as its documentation shows it: a gateway service that decodes, a model service behind `depends`, and
a batchable API between them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.validators import DType, Shape
from hearing import Ears, Hearing, Windows

Batch = Annotated[np.ndarray, DType("float32"), Shape((-1, 48_000))]


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Model:
    """Windows to probabilities, in batches."""

    def __init__(self) -> None:
        self.hearing = Hearing()

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=10_000)
    def infer(self, windows: Batch) -> np.ndarray:
        return self.hearing.run(windows)


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Gateway:
    """Files to answers."""

    model = bentoml.depends(Model)

    def __init__(self) -> None:
        self.ears = Ears()

    @bentoml.api
    async def predict(self, file: Path) -> dict[str, Any]:
        windows: Windows = self.ears.windows(file.read_bytes())  # noqa: ASYNC240 - as its documentation does
        return self.ears.answer(await self.model.to_async.infer(windows))

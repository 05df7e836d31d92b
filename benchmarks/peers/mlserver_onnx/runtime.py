"""MLServer with a custom runtime over our ONNX file: adaptive batching, a worker process per core."""

from __future__ import annotations

import json

import numpy as np
from hearing import Hearing
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Timbre(MLModel):
    """A tensor of files to a tensor of answers."""

    async def load(self) -> bool:
        self.hearing = Hearing()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        clips = [self.hearing.windows(data) for data in Base64Codec.decode_input(payload.inputs[0])]
        rows = self.hearing.run(np.concatenate(clips))
        answers = [self.hearing.answer(own) for own in np.split(rows, np.cumsum([len(clip) for clip in clips])[:-1])]
        confidence = np.array([[answer["confidence"]] for answer in answers], dtype=np.float32)
        outputs = [
            StringCodec.encode_output("emotion", [answer["emotion"] for answer in answers]),
            NumpyCodec.encode_output("confidence", confidence),
            StringCodec.encode_output("all_emotions", [json.dumps(answer["all_emotions"]) for answer in answers]),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)

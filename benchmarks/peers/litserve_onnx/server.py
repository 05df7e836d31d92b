"""LitServe with our ONNX file: its batching, and a worker per core, each with one thread inside a pass."""

import os
import sys
from typing import Any

import litserve
import numpy as np
from fastapi import Request
from hearing import Hearing, Windows


class Timbre(litserve.LitAPI):
    """Files to answers."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        self.hearing = Hearing()

    def decode_request(self, request: Request) -> Windows:  # LitServe reads the annotation, and gives the form
        return self.hearing.windows(request["file"].file.read())

    def predict(self, clips: list[Windows]) -> list[Windows]:
        rows = self.hearing.run(np.concatenate(clips))
        return np.split(rows, np.cumsum([len(clip) for clip in clips])[:-1])

    def batch(self, clips: list[Windows]) -> list[Windows]:
        return clips

    def unbatch(self, rows: list[Windows]) -> list[Windows]:
        return rows

    def encode_response(self, rows: Windows) -> dict[str, Any]:
        return self.hearing.answer(rows)


if __name__ == "__main__":
    cores = len(os.sched_getaffinity(0))
    api = Timbre(max_batch_size=8, batch_timeout=0.002, api_path="/predict")
    litserve.LitServer(api, accelerator="cpu", workers_per_device=cores).run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning", num_api_servers=1
    )

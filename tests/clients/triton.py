"""Triton's clients against a running service: prints what each of them was told, one JSON object a line.

Run in the clients' environment: python triton.py HTTP-ADDRESS GRPC-ADDRESS CLIP...
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio

MODEL = "timbre"


def say(client: str, **told: Any) -> None:
    print(json.dumps({"client": client, **told}))


def rows(result: Any) -> dict[str, Any]:
    """All three outputs, as plain lists."""
    return {
        "emotion": [name.decode() if isinstance(name, bytes) else str(name) for name in result.as_numpy("emotion")],
        "confidence": result.as_numpy("confidence").tolist(),
        "probabilities": result.as_numpy("probabilities").tolist(),
    }


def audio(module: Any, clips: list[bytes]) -> list[Any]:
    tensor = module.InferInput("audio", [len(clips)], "BYTES")
    tensor.set_data_from_numpy(np.array(clips, dtype=np.object_))
    return [tensor]


def waveform(module: Any, **binary: bool) -> list[Any]:
    """A second at the model's rate; made here and in the test alike."""
    sound = (0.4 * np.sin(np.arange(16_000) ** 1.2 / 20)).astype(np.float32)[None]
    tensor = module.InferInput("waveform", [1, 16_000], "FP32")
    tensor.set_data_from_numpy(sound, **binary)
    return [tensor]


def outputs(module: Any, *names: str, **binary: bool) -> list[Any]:
    return [module.InferRequestedOutput(name, **binary) for name in names]


def http(address: str, clips: list[bytes]) -> None:
    module = tritonclient.http
    client = module.InferenceServerClient(address)
    version = client.get_model_metadata(MODEL)["versions"][0]
    say(
        "http-info",
        live=client.is_server_live(),
        ready=client.is_server_ready(),
        model=client.is_model_ready(MODEL),
        version=client.is_model_ready(MODEL, version),
        server=client.get_server_metadata()["name"],
        metadata=client.get_model_metadata(MODEL),
        config=client.get_model_config(MODEL),
        index=client.get_model_repository_index(),
    )
    say("http-binary", **rows(client.infer(MODEL, audio(module, clips))))
    everything = outputs(module, "emotion", "confidence", "probabilities", binary_data=False)
    say("http-json-out", **rows(client.infer(MODEL, audio(module, clips), outputs=everything)))
    say("http-json", **rows(client.infer(MODEL, waveform(module, binary_data=False), outputs=everything)))
    say("http-waveform", **rows(client.infer(MODEL, waveform(module))))
    only = client.infer(MODEL, audio(module, clips[:1]), outputs=outputs(module, "emotion"), model_version=version)
    say("http-only", outputs=[output["name"] for output in only.get_response()["outputs"]])
    try:
        client.infer(MODEL, audio(module, [b"no audio"]))
    except module.InferenceServerException as error:
        say("http-refused", status=error.status(), message=error.message())


async def http_aio(address: str, clips: list[bytes]) -> None:
    async with tritonclient.http.aio.InferenceServerClient(address) as client:
        say("http-aio", **rows(await client.infer(MODEL, audio(tritonclient.http, clips))))


def grpc(address: str, clips: list[bytes]) -> None:
    module = tritonclient.grpc
    client = module.InferenceServerClient(address)
    version = client.get_model_metadata(MODEL).versions[0]
    say(
        "grpc-info",
        live=client.is_server_live(),
        ready=client.is_server_ready(),
        model=client.is_model_ready(MODEL),
        version=client.is_model_ready(MODEL, version),
        server=client.get_server_metadata(as_json=True)["name"],
        metadata=client.get_model_metadata(MODEL, as_json=True),
        config=client.get_model_config(MODEL, as_json=True)["config"],
        index=client.get_model_repository_index(as_json=True)["models"],
    )
    say("grpc", **rows(client.infer(MODEL, audio(module, clips))))
    say("grpc-waveform", **rows(client.infer(MODEL, waveform(module))))
    only = client.infer(MODEL, audio(module, clips[:1]), outputs=outputs(module, "emotion"), model_version=version)
    say("grpc-only", outputs=[output.name for output in only.get_response().outputs])
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for clip in clips:  # one after the other: each must be answered while the stream stays open
        client.async_stream_infer(MODEL, audio(module, [clip]))
        result, error = answers.get(timeout=30)
        say("grpc-stream", error=str(error) if error else None, **rows(result))
    client.stop_stream()
    try:
        client.infer(MODEL, audio(module, [b"no audio"]))
    except module.InferenceServerException as error:
        say("grpc-refused", status=error.status(), message=error.message())


async def grpc_aio(address: str, clips: list[bytes]) -> None:
    async with tritonclient.grpc.aio.InferenceServerClient(address) as client:
        say("grpc-aio", **rows(await client.infer(MODEL, audio(tritonclient.grpc, clips))))


if __name__ == "__main__":
    http_address, grpc_address, *paths = sys.argv[1:]
    files = [Path(path).read_bytes() for path in paths]
    http(http_address, files)
    asyncio.run(http_aio(http_address, files))
    grpc(grpc_address, files)
    asyncio.run(grpc_aio(grpc_address, files))

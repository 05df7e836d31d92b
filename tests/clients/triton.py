"""Triton's clients against a running service: prints what each of them was told, one JSON object a line.

The blocking clients and the asyncio ones have the same methods, so that the same lines ask both.

Run in the clients' environment: python triton.py HTTP-ADDRESS GRPC-ADDRESS CLIP...
"""

from __future__ import annotations

import asyncio
import inspect
import json
import queue
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
import tritonclient.utils

MODEL = "timbre"
PACKINGS = ("gzip", "deflate")
RATES = (8_000, 8_000.0)
"""The same sound may be said to be slower, as a parameter of the request: this client sends none of an input."""


def say(client: str, **told: Any) -> None:
    print(json.dumps({"client": client, **told}))


def rows(result: Any) -> dict[str, Any]:
    """All three outputs, as plain lists."""
    return {
        "emotion": [name.decode() if isinstance(name, bytes) else str(name) for name in result.as_numpy("emotion")],
        "confidence": result.as_numpy("confidence").tolist(),
        "probabilities": result.as_numpy("probabilities").tolist(),
        "labels": labels(result.get_output("probabilities")),
    }


def classes(result: Any) -> dict[str, Any]:
    """The best classes of each clip, one text each."""
    told = result.as_numpy("probabilities")
    return {"classes": [[text.decode() if isinstance(text, bytes) else text for text in row] for row in told.tolist()]}


def labels(output: Any) -> str:
    """What names the columns, as a dictionary of HTTP has it or a message of gRPC."""
    if isinstance(output, dict):
        return str(output["parameters"]["labels"])
    return str(output.parameters["labels"].string_param)


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


def outputs(module: Any, *names: str, **options: int) -> list[Any]:
    return [module.InferRequestedOutput(name, **options) for name in names]


async def now(told: Any) -> Any:
    """What either kind of client was told."""
    return await told if inspect.isawaitable(told) else told


async def http(client: Any, way: str, clips: list[bytes]) -> None:
    """All that a client over HTTP is asked for; ``way`` is http or http-aio."""
    module = tritonclient.http
    version = (await now(client.get_model_metadata(MODEL)))["versions"][0]
    say(
        f"{way}-info",
        live=await now(client.is_server_live()),
        ready=await now(client.is_server_ready()),
        model=await now(client.is_model_ready(MODEL)),
        version=await now(client.is_model_ready(MODEL, version)),
        server=(await now(client.get_server_metadata()))["name"],
        metadata=await now(client.get_model_metadata(MODEL)),
        config=await now(client.get_model_config(MODEL)),
        index=await now(client.get_model_repository_index()),
    )
    say(f"{way}-binary", **rows(await now(client.infer(MODEL, audio(module, clips)))))
    everything = outputs(module, "emotion", "confidence", "probabilities", binary_data=False)
    say(f"{way}-json-out", **rows(await now(client.infer(MODEL, audio(module, clips), outputs=everything))))
    plain = waveform(module, binary_data=False)
    say(f"{way}-json", **rows(await now(client.infer(MODEL, plain, outputs=everything))))
    say(f"{way}-waveform", **rows(await now(client.infer(MODEL, waveform(module)))))
    for rate_hz in RATES:
        told = await now(client.infer(MODEL, waveform(module), parameters={"sample_rate": rate_hz}))
        say(f"{way}-rate", **rows(told))
    for packing in PACKINGS:
        told = await now(client.infer(MODEL, audio(module, clips), request_compression_algorithm=packing))
        say(f"{way}-packed", **rows(told))
    wanted = outputs(module, "emotion")
    only = await now(client.infer(MODEL, audio(module, clips[:1]), outputs=wanted, model_version=version))
    say(f"{way}-only", outputs=[output["name"] for output in only.get_response()["outputs"]])
    try:
        await now(client.infer(MODEL, audio(module, [b"no audio"])))
    except module.InferenceServerException as error:
        say(f"{way}-refused", status=error.status(), message=error.message())
    for binary in (True, False):
        best = outputs(module, "probabilities", binary_data=binary, class_count=3)
        say(f"{way}-classes", **classes(await now(client.infer(MODEL, audio(module, clips), outputs=best))))
    await elsewhere(client, way)


async def elsewhere(client: Any, way: str) -> None:
    """What Triton has and this service does not."""
    for ask, of in (
        (client.get_inference_statistics, ()),
        (client.get_inference_statistics, (MODEL,)),
        (client.load_model, (MODEL,)),
        (client.unload_model, (MODEL,)),
    ):
        try:
            await now(ask(*of))
        except tritonclient.utils.InferenceServerException as error:
            say(f"{way}-elsewhere", status=error.status(), message=error.message())
    for ask in (
        client.get_system_shared_memory_status,
        client.get_cuda_shared_memory_status,
        client.unregister_system_shared_memory,
        client.get_trace_settings,
        client.get_log_settings,
    ):
        try:
            await now(ask())
        except tritonclient.utils.InferenceServerException as error:
            say(f"{way}-nowhere", told=str(error))


async def grpc(client: Any, way: str, clips: list[bytes]) -> None:
    """All that a client over gRPC is asked for, but streams; ``way`` is grpc or grpc-aio."""
    module = tritonclient.grpc
    version = (await now(client.get_model_metadata(MODEL))).versions[0]
    say(
        f"{way}-info",
        live=await now(client.is_server_live()),
        ready=await now(client.is_server_ready()),
        model=await now(client.is_model_ready(MODEL)),
        version=await now(client.is_model_ready(MODEL, version)),
        server=(await now(client.get_server_metadata(as_json=True)))["name"],
        metadata=await now(client.get_model_metadata(MODEL, as_json=True)),
        config=(await now(client.get_model_config(MODEL, as_json=True)))["config"],
        index=(await now(client.get_model_repository_index(as_json=True)))["models"],
    )
    say(f"{way}-binary", **rows(await now(client.infer(MODEL, audio(module, clips)))))
    say(f"{way}-waveform", **rows(await now(client.infer(MODEL, waveform(module)))))
    for rate_hz in RATES:
        told = await now(client.infer(MODEL, waveform(module), parameters={"sample_rate": rate_hz}))
        say(f"{way}-rate", **rows(told))
    wanted = outputs(module, "emotion")
    only = await now(client.infer(MODEL, audio(module, clips[:1]), outputs=wanted, model_version=version))
    say(f"{way}-only", outputs=[output.name for output in only.get_response().outputs])
    try:
        await now(client.infer(MODEL, audio(module, [b"no audio"])))
    except module.InferenceServerException as error:
        say(f"{way}-refused", status=error.status(), message=error.message())
    best = outputs(module, "probabilities", class_count=3)
    say(f"{way}-classes", **classes(await now(client.infer(MODEL, audio(module, clips), outputs=best))))
    await elsewhere(client, way)


def stream(client: Any, clips: list[bytes]) -> None:
    """One after the other: each must be answered while the stream stays open."""
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for clip in clips:
        client.async_stream_infer(MODEL, audio(tritonclient.grpc, [clip]))
        result, error = answers.get(timeout=30)
        say("grpc-stream", error=str(error) if error else None, **rows(result))
    client.stop_stream()


async def stream_aio(client: Any, clips: list[bytes]) -> None:
    answered = asyncio.Event()

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for clip in clips:
            yield {"model_name": MODEL, "inputs": audio(tritonclient.grpc, [clip])}
            await asyncio.wait_for(answered.wait(), 30)
            answered.clear()

    async for result, error in client.stream_infer(requests()):
        say("grpc-aio-stream", error=str(error) if error else None, **rows(result))
        answered.set()


async def main(http_address: str, grpc_address: str, clips: list[bytes]) -> None:
    await http(tritonclient.http.InferenceServerClient(http_address), "http", clips)
    async with tritonclient.http.aio.InferenceServerClient(http_address) as client:
        await http(client, "http-aio", clips)
    blocking = tritonclient.grpc.InferenceServerClient(grpc_address)
    await grpc(blocking, "grpc", clips)
    stream(blocking, clips)
    async with tritonclient.grpc.aio.InferenceServerClient(grpc_address) as client:
        await grpc(client, "grpc-aio", clips)
        await stream_aio(client, clips)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], [Path(path).read_bytes() for path in sys.argv[3:]]))

"""KServe's clients against a running service: prints what each of them was told, one JSON object a line.

Run in the clients' environment: python kserve_clients.py HTTP-ADDRESS GRPC-ADDRESS CLIP...
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig

MODEL = "timbre"


def say(client: str, **told: Any) -> None:
    print(json.dumps({"client": client, **told}))


def rows(response: Any) -> dict[str, Any]:
    told = {output.name: output.as_numpy().tolist() for output in response.outputs}
    told["emotion"] = [name.decode() if isinstance(name, bytes) else str(name) for name in told["emotion"]]
    (labels,) = [output.parameters["labels"] for output in response.outputs if output.name == "probabilities"]
    told["labels"] = getattr(labels, "string_param", labels)  # over gRPC it is a message
    return told


def request(clips: list[bytes]) -> InferRequest:
    tensor = InferInput("audio", [len(clips)], "BYTES")
    tensor.set_data_from_numpy(np.array(clips, dtype=np.object_), binary_data=True)
    return InferRequest(MODEL, [tensor])


def samples() -> InferRequest:
    sound = (0.4 * np.sin(np.arange(16_000) ** 1.2 / 20)).astype(np.float32)[None]
    tensor = InferInput("waveform", [1, 16_000], "FP32")
    tensor.set_data_from_numpy(sound, binary_data=False)
    return InferRequest(MODEL, [tensor])


async def rest(address: str, clips: list[bytes]) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    base = f"http://{address}"
    say(
        "rest-info",
        live=await client.is_server_live(base),
        ready=await client.is_server_ready(base),
        model=await client.is_model_ready(base, MODEL),
    )
    say("rest-binary", **rows(await client.infer(base, request(clips), model_name=MODEL)))
    say("rest-json", **rows(await client.infer(base, samples(), model_name=MODEL)))
    try:
        await client.infer(base, request([b"no audio"]), model_name=MODEL)
    except httpx.HTTPStatusError as error:
        say("rest-refused", status=error.response.status_code, message=str(error))
    await client.close()


async def grpc(address: str, clips: list[bytes]) -> None:
    client = InferenceGRPCClient(address)
    say(
        "grpc-info",
        live=await client.is_server_live(),
        ready=await client.is_server_ready(),
        model=await client.is_model_ready(MODEL),
    )
    say("grpc-binary", **rows(await client.infer(request(clips))))
    say("grpc-typed", **rows(await client.infer(samples())))
    await client.close()


async def main(http_address: str, grpc_address: str, clips: list[bytes]) -> None:
    await rest(http_address, clips)
    await grpc(grpc_address, clips)


if __name__ == "__main__":
    files = [Path(path).read_bytes() for path in sys.argv[3:]]
    asyncio.run(main(sys.argv[1], sys.argv[2], files))

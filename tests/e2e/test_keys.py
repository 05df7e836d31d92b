"""API keys over every transport, other sites' pages, and what the log says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typer.testing import CliRunner
from websockets.sync.client import connect

from serving.__main__ import app
from serving.client import Client, Session
from serving.errors import Forbidden, Unauthenticated
from serving.keys import hashed, new_key
from serving.proto.inference import inference_pb2 as oip
from serving.proto.inference.inference_pb2_grpc import GRPCInferenceServiceStub
from serving.proto.timbre.v1 import timbre_pb2 as pb
from serving.proto.timbre.v1.timbre_pb2_grpc import TimbreStub
from tests.conftest import SERVED
from tests.service import Service, environment, free_port, metric, refusal, running, start_process, until
from tests.sounds import encode, voice
from tests.transports import code_of

WAV = encode(voice(1.0), 16_000)
HEARS, SEES, SLOW = new_key(), new_key(), new_key()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    path.write_text(
        f"keys:\n  hears: {{sha256: {hashed(HEARS)}}}\n"
        f"  sees: {{sha256: {hashed(SEES)}, scopes: [models, experiments, feedback]}}\n"
        f"  slow: {{sha256: {hashed(SLOW)}, per_minute: 1}}\n"
    )
    return path


@pytest.fixture(scope="module")
def locked(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("locked") / "log.txt"
    with running(log, api_keys_file=file, log="json", host="127.0.0.1", cors="https://app.example") as service:
        yield service


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("method", "path", "hears"),
    [
        ("POST", "/predict", True),
        ("POST", "/v2/models/timbre/infer", True),
        ("GET", "/v2/models/timbre", True),
        ("GET", "/v1/listen", True),
        ("GET", "/models", False),
        ("GET", "/experiments", False),
        ("POST", "/feedback", False),
        ("POST", "/v2/repository/index", False),
    ],
)
def test_each_path_wants_its_key(locked: Service, method: str, path: str, hears: bool) -> None:
    key, other = (HEARS, SEES) if hears else (SEES, HEARS)
    with httpx.Client(base_url=locked.url) as client:
        for headers, status, code in (
            ({}, 401, "unauthenticated"),
            (bearer("timbre_wrong"), 401, "unauthenticated"),
            (bearer(other), 403, "forbidden"),
            ({"X-API-Key": other}, 403, "forbidden"),
        ):
            response = client.request(method, path, headers=headers)
            assert (response.status_code, code in response.text) == (status, True)
            assert ("www-authenticate" in response.headers) == (status == 401)
        for headers in (bearer(key), {"X-API-Key": key}):
            assert client.request(method, path, headers=headers).status_code not in (401, 403)
        assert client.request(method, path, auth=("anybody", key)).status_code not in (401, 403)


def test_every_path_of_the_application_is_public_or_has_a_use() -> None:
    """Nothing new goes by the rule for what nobody has thought of."""
    from fastapi import FastAPI

    from serving.lifecycle import Lifecycle
    from serving.service import http_transport
    from serving.transports.admission import _PUBLIC, _USES

    application: FastAPI = http_transport(Lifecycle()).app
    named = {*_PUBLIC, *_USES}
    for route in application.routes:
        path = getattr(route, "path", "").replace("{path:path}", "")
        if path in ("/v1/listen", ""):  # asks by itself; what nothing else takes
            continue
        parents = [path, *(f"{path[:at]}/*" for at, letter in enumerate(path) if letter == "/")]
        assert named & set(parents), path


def test_what_tells_nothing_is_open_and_health_and_metrics_are(locked: Service) -> None:
    for path in ("/", "/docs", "/openapi.json", "/health", "/livez", "/readyz", "/v2/health/ready", "/metrics"):
        assert httpx.get(f"{locked.url}{path}", follow_redirects=True).status_code == 200, path


def test_whether_a_model_answers_is_health_by_either_protocol(locked: Service) -> None:
    """And tells nobody what else is loaded."""
    with grpc.insecure_channel(locked.grpc) as channel:
        inference = GRPCInferenceServiceStub(channel)
        for version, ready in (("", True), (SERVED, True), ("9", False)):
            which = oip.ModelReadyRequest(name="timbre", version=version)
            assert inference.ModelReady(which, timeout=20).ready is ready
            answer = httpx.get(f"{locked.url}/v2/models/timbre{version and f'/versions/{version}'}/ready")
            assert answer.status_code == (200 if ready else 404)
            assert ready or answer.json()["error"].endswith("is not loaded. GET /models lists those that are.")


def test_openapi_says_which_paths_want_a_key_and_not_what_is_loaded(locked: Service) -> None:
    document = httpx.get(f"{locked.url}/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert {scheme.get("scheme") or scheme["name"] for scheme in schemes.values()} == {"bearer", "x-api-key", "basic"}
    for path, item in document["paths"].items():
        for method in item.keys() & {"get", "post"}:
            security = item[method].get("security", [])
            answer = httpx.request(method, locked.url + path.format(name="timbre", version="1"))
            assert (answer.status_code == 401) == bool(security), path
            assert [name for way in security for name in way] in ([], list(schemes)), path
    assert document["paths"]["/experiments"]["get"]["security"][0] == {"bearer": ["experiments"]}
    assert "example" not in json.dumps(document["paths"]["/predict"])


def test_health_and_metrics_may_want_a_key_too(file: Path, tmp_path: Path) -> None:
    env = environment(port=free_port(), grpc_port=free_port(), drain_s=0, api_keys_file=file, api_keys_exempt="")
    service = start_process(tmp_path / "log.txt", env)
    try:
        assert until(lambda: "answers at" in service.log.read_text(), 180)
        for path in ("/health", "/livez", "/readyz", "/metrics"):
            assert httpx.get(f"{service.url}{path}").status_code == 401
        assert httpx.get(f"{service.url}/readyz", headers=bearer(HEARS)).status_code == 200
        assert httpx.get(f"{service.url}/metrics", headers=bearer(HEARS)).status_code == 403
        with grpc.insecure_channel(service.grpc) as channel, pytest.raises(grpc.RpcError) as error:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert code_of(error.value) == "unauthenticated"
    finally:
        assert service.stop() == 0


def test_grpc_wants_the_same(locked: Service) -> None:
    with grpc.insecure_channel(locked.grpc) as channel:
        timbre, inference = TimbreStub(channel), GRPCInferenceServiceStub(channel)
        start = pb.ListenRequest(start=pb.ListenStart(rate_hz=16_000))
        calls: dict[str, Callable[..., Any]] = {
            "Predict": lambda **how: timbre.Predict(pb.PredictRequest(audio=WAV), **how),
            "PredictMany": lambda **how: timbre.PredictMany(iter([pb.PredictRequest(audio=WAV)]), **how),
            "Listen": lambda **how: list(timbre.Listen(iter([start]), **how)),
            "ModelMetadata": lambda **how: inference.ModelMetadata(oip.ModelMetadataRequest(name="timbre"), **how),
            "ModelStreamInfer": lambda **how: list(inference.ModelStreamInfer(iter([]), **how)),
        }
        for call in calls.values():
            for metadata, code in (((), "unauthenticated"), ((("authorization", f"Bearer {SEES}"),), "forbidden")):
                with pytest.raises(grpc.RpcError) as error:
                    call(metadata=metadata, timeout=20)
                assert code_of(error.value) == code
            for allowed in ((("authorization", f"Bearer {HEARS}"),), (("x-api-key", HEARS),)):
                call(metadata=allowed, timeout=20)
        with pytest.raises(grpc.RpcError) as error:
            timbre.Models(pb.ModelsRequest(), metadata=(("x-api-key", HEARS),))
        assert code_of(error.value) == "forbidden"
        assert timbre.Models(pb.ModelsRequest(), metadata=(("x-api-key", SEES),)).told
        serving = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert serving.status == health_pb2.HealthCheckResponse.SERVING


def first_message(service: Service, **how: Any) -> str:
    with connect(service.listen_url(rate_hz=16_000), **how) as socket:
        return str(socket.recv())


def test_live_audio_wants_the_same(locked: Service) -> None:
    assert "unauthenticated" in first_message(locked)
    assert "forbidden" in first_message(locked, additional_headers=bearer(SEES))
    for how in ({"additional_headers": bearer(HEARS)}, {"subprotocols": ["timbre", f"timbre.key.{HEARS}"]}):
        assert '"session"' in first_message(locked, **how)


def test_pages_of_other_sites_are_kept_out(locked: Service, service: Service) -> None:
    evil, allowed = {"Origin": "https://evil.example"}, {"Origin": "https://app.example"}
    for one in (locked, service):
        assert "forbidden" in first_message(one, additional_headers=bearer(HEARS) | evil)
        answer = httpx.get(f"{one.url}/health", headers=evil)
        assert "access-control-allow-origin" not in answer.headers
        asked = evil | {"Access-Control-Request-Method": "POST"}
        assert "access-control-allow-origin" not in httpx.options(f"{one.url}/predict", headers=asked).headers
    assert '"session"' in first_message(locked, additional_headers=bearer(HEARS) | allowed)
    asked = allowed | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    preflight = httpx.options(f"{locked.url}/predict", headers=asked)
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    # A browser adds what somebody has typed into its dialog by itself, whosever page asks.
    ambient = httpx.post(f"{locked.url}/feedback", auth=("", SEES), headers=evil)
    assert (ambient.status_code, ambient.json()["error"]["code"]) == (403, "forbidden")


def test_a_rate_is_kept_and_counted(locked: Service) -> None:
    with httpx.Client(base_url=locked.url, headers=bearer(SLOW)) as client:
        answers = [client.post("/predict", files={"file": WAV}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 429, 429]
        assert answers[1].json()["error"]["code"] == "rate_limited"
        assert 1 <= int(answers[1].headers["retry-after"]) <= 60
        assert metric(client, "timbre_key_requests_total", key="slow", result="ok") == 1
        assert metric(client, "timbre_key_requests_total", key="slow", result="rate_limited") == 2
        assert metric(client, "timbre_key_requests_total", key="", result="unauthenticated") > 0


def test_clients_send_their_key(locked: Service, tmp_path: Path) -> None:
    (tmp_path / "clip.wav").write_bytes(WAV)
    for url in (locked.url, f"grpc://{locked.grpc}"):
        with Client(url, api_key=HEARS) as client:
            assert client.predict(WAV).all_emotions
            assert isinstance(next(client.listen([], 16_000)), Session)
            with pytest.raises(Forbidden):
                client.models()
        with Client(url) as nobody, pytest.raises(Unauthenticated):
            nobody.predict(WAV)
        told = CliRunner().invoke(app, ["predict", str(tmp_path / "clip.wav"), "--url", url, "--api-key", HEARS])
        assert told.exit_code == 0, told.output
        told = CliRunner(env={"TIMBRE_API_KEY": SEES}).invoke(app, ["models", "--url", url])
        assert told.exit_code == 0, told.output


def test_a_key_that_is_added_opens_and_one_that_is_taken_away_does_not(locked: Service, file: Path) -> None:
    before, made = file.read_text(), CliRunner().invoke(app, ["key", "late", "--scope", "models"])
    key = made.stdout.split()[0]
    assert httpx.get(f"{locked.url}/models", headers=bearer(key)).status_code == 401
    file.write_text(before + made.stderr)
    assert until(lambda: httpx.get(f"{locked.url}/models", headers=bearer(key)).status_code == 200)
    file.write_text(before)
    assert until(lambda: httpx.get(f"{locked.url}/models", headers=bearer(key)).status_code == 401)


def test_the_log_is_json_and_holds_no_key_and_no_file_name(locked: Service) -> None:
    httpx.post(f"{locked.url}/predict", files={"file": ("secret-name.wav", WAV)}, headers=bearer(HEARS))
    httpx.post(
        f"{locked.url}/predict", files={"file": ("secret-name.mp3", b"\xff\xfb\x90\xc4" * 999)}, headers=bearer(HEARS)
    )
    text = locked.log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert any("answers at" in line["message"] for line in lines)
    assert all(line.keys() >= {"time", "level", "logger", "message"} for line in lines)
    assert not any(secret in text for secret in (HEARS, SEES, SLOW, hashed(HEARS), "secret-name"))


def test_what_c_libraries_print_does_not_fill_the_log(service: Service) -> None:
    spoiled = encode(voice(1.0), 16_000, "MP3")
    files = [spoiled[:200] + bytes([n]) * 40 + spoiled[240 + n :] for n in range(60)]
    before = len(service.log.read_text().splitlines())
    with httpx.Client(base_url=service.url) as client:
        for data in files:
            client.post("/predict", files={"file": data})
    assert len(service.log.read_text().splitlines()) - before < 15


def test_a_file_of_keys_that_is_none_is_told_at_start(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("keys: 1")
    for path in (tmp_path / "keys.yaml", tmp_path / "none.yaml"):
        result = refusal(api_keys_file=path)
        assert (result.returncode, path.name in result.stderr) == (2, True), result.stderr
        assert "Traceback" not in result.stderr


def test_a_door_that_stands_open_is_told(tmp_path: Path, service: Service) -> None:
    assert "Everybody" not in service.log.read_text()  # it is reached from this machine alone
    with running(tmp_path / "all.txt", host="0.0.0.0") as wide:  # noqa: S104 - what is warned of
        assert until(lambda: "Everybody who reaches 0.0.0.0 may ask everything" in wide.log.read_text())


def test_pages_have_headers_that_keep_browsers_from_mistakes(service: Service) -> None:
    for path in ("/", "/docs", "/health", "/nothing"):
        headers = httpx.get(f"{service.url}{path}", follow_redirects=True).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        if "html" in headers["content-type"]:
            policy = headers["content-security-policy"]
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy.split("script-src")[1].split(";")[0]
            assert "default-src 'none'" in policy

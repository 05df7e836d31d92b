"""TLS on both ports, and clients that must show a certificate of their own; keys are made here with openssl."""

from __future__ import annotations

import contextlib
import shutil
import ssl
import subprocess
from pathlib import Path

import grpc
import httpx
import pytest
from typer.testing import CliRunner, Result
from websockets.sync.client import connect

from serving.__main__ import app
from serving.client import Client, Session
from serving.proto.timbre.v1 import timbre_pb2 as pb
from serving.proto.timbre.v1.timbre_pb2_grpc import TimbreStub
from tests.conftest import SERVED
from tests.service import Service, environment, free_port, refusal, start_process, until
from tests.sounds import encode, voice

WAV = encode(voice(1.0), 16_000)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and certificates that it has signed for the server and for a client: NAME.pem, NAME.key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, which is not on this machine")
    folder = tmp_path_factory.mktemp("keys")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    openssl(*new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority")
    for name in ("server", "client"):
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1"]
        leaf = ["-addext", "basicConstraints=critical,CA:FALSE"]
        openssl(*new, *signed, *leaf, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    return folder


def start(log: Path, **settings: Path | float) -> Service:
    service = start_process(log, environment(port=free_port(), grpc_port=free_port(), drain_s=0, **settings))
    # Not asked over HTTP: it may want a certificate.
    assert until(lambda: "answers at https://" in log.read_text(), 180), log.read_text()
    return service


def trusting(keys: Path, client: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(keys / "ca.pem"))
    if client:
        context.load_cert_chain(keys / f"{client}.pem", keys / f"{client}.key")
    return context


def channel(service: Service, keys: Path, client: str | None = None) -> grpc.Channel:
    pair = [(keys / f"{client}.{kind}").read_bytes() if client else None for kind in ("key", "pem")]
    return grpc.secure_channel(service.grpc, grpc.ssl_channel_credentials((keys / "ca.pem").read_bytes(), *pair))


def ask_everywhere(service: Service, keys: Path, client: str | None = None) -> None:
    context = trusting(keys, client)
    assert httpx.post(f"{service.url}/predict", files={"file": WAV}, verify=context).json()["model_version"] == SERVED
    with connect(service.listen_url(rate_hz=16_000), ssl=context) as socket:
        assert '"session"' in socket.recv()
    with channel(service, keys, client) as secure:
        assert TimbreStub(secure).Predict(pb.PredictRequest(audio=WAV), timeout=60).model_version == SERVED
    pair = {kind: keys / f"{client}.{end}" for kind, end in (("cert", "pem"), ("key", "key"))} if client else {}
    for url in (service.url, f"grpcs://{service.grpc}"):
        with Client(url, ca=keys / "ca.pem", **pair) as timbre:
            assert timbre.predict(WAV).model_version == SERVED
            assert isinstance(next(timbre.listen([], 16_000)), Session)


def timbre(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def ask_by_commands(service: Service, keys: Path, folder: Path, *own: str | Path) -> None:
    """Every command that asks a service, over both wires; ``own`` are the options of the client's certificate."""
    clip = folder / "clip.wav"
    clip.write_bytes(WAV)
    for url in (service.url, f"grpcs://{service.grpc}"):
        known = ("--url", url, "--ca", keys / "ca.pem", *own)
        for asked in (("predict", clip), ("timeline", clip), ("listen", clip, "--json"), ("models",)):
            result = timbre(*asked, *known)
            assert result.exit_code == 0, (asked, url, result.stderr)


def test_files_that_a_command_cannot_use_are_wrong_usage(keys: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.wav"
    clip.write_bytes(WAV)
    cert, key = keys / "client.pem", keys / "client.key"
    for options, says in (
        (("--ca", keys / "nothing.pem"), "nothing.pem"),
        (("--ca", clip), "clip.wav"),
        (("--cert", cert), "belong together"),
        (("--key", key), "belong together"),
        (("--cert", cert, "--key", keys / "server.key"), "server.key"),
    ):
        for url in ("https://127.0.0.1:1", "grpcs://127.0.0.1:1"):
            result = timbre("predict", clip, "--url", url, *options)
            assert (result.exit_code, says in result.stderr) == (2, True), (options, result.stderr)


def test_a_handshake_that_does_not_come_is_not_waited_for(keys: Path, tmp_path: Path) -> None:
    """Nor one that breaks off; whoever asks meanwhile is answered."""
    service = start(tmp_path / "log.txt", tls_cert=keys / "server.pem", tls_key=keys / "server.key", head_timeout_s=5)
    try:
        with service.connect() as nothing, service.connect() as begun:
            begun.sendall(b"\x16\x03\x01\x02\x00\x01")  # a ClientHello of 512 bytes
            answer = httpx.post(f"{service.url}/predict", files={"file": WAV}, verify=trusting(keys))
            assert answer.status_code == 200
            for line in (nothing, begun):  # each of which has a time limit of half the minute that is usual
                with contextlib.suppress(ConnectionResetError):
                    assert line.recv(1) == b""
    finally:
        assert service.stop() == 0
    assert "Traceback" not in service.log.read_text()


def test_both_ports_speak_tls_only(keys: Path, tmp_path: Path) -> None:
    service = start(tmp_path / "log.txt", tls_cert=keys / "server.pem", tls_key=keys / "server.key")
    try:
        ask_everywhere(service, keys)
        ask_by_commands(service, keys, tmp_path)
        with pytest.raises(httpx.TransportError):
            httpx.get(service.url.replace("https", "http") + "/livez")
        with grpc.insecure_channel(service.grpc) as plain, pytest.raises(grpc.RpcError) as error:
            TimbreStub(plain).Predict(pb.PredictRequest(audio=WAV), timeout=60)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        assert service.stop() == 0


def test_clients_may_need_a_certificate(keys: Path, tmp_path: Path) -> None:
    files = {"tls_cert": keys / "server.pem", "tls_key": keys / "server.key", "tls_ca": keys / "ca.pem"}
    service = start(tmp_path / "log.txt", **files)
    try:
        ask_everywhere(service, keys, "client")
        ask_by_commands(service, keys, tmp_path, "--cert", keys / "client.pem", "--key", keys / "client.key")
        for url in (service.url, f"grpcs://{service.grpc}"):
            nobody = timbre("models", "--url", url, "--ca", keys / "ca.pem")
            assert (nobody.exit_code, "cannot be reached" in nobody.stderr) == (1, True), nobody.stderr
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            httpx.get(f"{service.url}/livez", verify=trusting(keys))
        with channel(service, keys) as unknown, pytest.raises(grpc.RpcError) as error:
            TimbreStub(unknown).Predict(pb.PredictRequest(audio=WAV), timeout=60)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        assert service.stop() == 0


def test_files_that_do_not_fit_are_told(keys: Path) -> None:
    for wrong, told in (
        ({"tls_cert": keys / "server.pem"}, "belong together"),
        ({"tls_ca": keys / "ca.pem"}, "TIMBRE_TLS_CA needs"),
        ({"tls_cert": keys / "server.pem", "tls_key": keys / "client.key"}, "cannot be used together"),
        ({"tls_cert": keys / "none.pem", "tls_key": keys / "none.key"}, "cannot be used together"),
    ):
        result = refusal(**wrong)
        assert (result.returncode, told in result.stderr) == (2, True), result.stderr
        assert "Traceback" not in result.stderr

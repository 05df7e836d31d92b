"""Files from strangers: each is refused in our words or heard, soon, in little memory, and harms nothing."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.hostile import FAMILIES, FILENAMES, HEARD, Family, Hostile, sounds
from tests.service import Service, children, running, until
from tests.sounds import encode, voice

WAV = encode(voice(1.0), 16_000)

_SOON_S = 2.0
_MEMORY_BYTES = 200 << 20
_TRIES = 3  # where something else had the processor


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def hostile_service(scratch: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that has decoded what it can, so that what it grows by is the strangers' doing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(scratch))
        with running(tmp_path_factory.mktemp("hostile") / "log.txt") as service:
            yield service


@pytest.fixture(scope="module")
def stranger(hostile_service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=hostile_service.url, timeout=60) as client:
        for good in (WAV, sounds()["m4a"]):
            assert send(client, good).is_success
        yield client


def send(client: httpx.Client, data: bytes) -> httpx.Response:
    return client.post("/predict", content=data, headers={"Content-Type": "application/octet-stream"})


def outcome(response: httpx.Response) -> str:
    """Its code word, of an answer that has the status which belongs to it."""
    if response.is_success:
        return HEARD
    assert 400 <= response.status_code < 500, response.text
    return str(response.json()["error"]["code"])


def forget_peak(service: Service) -> int:
    """From now on the peak is counted anew; what the service and what it has started hold now."""
    for pid in (service.process.pid, *children(service.process.pid)):
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    return service.resident_bytes()


def peak_bytes(service: Service) -> int:
    """Most memory that the service and what it has started have had, added up."""
    peak = 0
    for pid in (service.process.pid, *children(service.process.pid)):
        status = Path(f"/proc/{pid}/status").read_text()
        peak += 1024 * int(status.split("VmHWM:")[1].split()[0])
    return peak


def wrong(client: httpx.Client, hostile: Hostile) -> str:
    """What is wrong with how a file was met; nothing where all is well."""
    for _ in range(_TRIES):
        started = time.monotonic()
        came = outcome(send(client, hostile.data))
        took_s = time.monotonic() - started
        if took_s < _SOON_S:
            break
    else:
        return f"took {took_s:.1f} s"
    if came not in hostile.outcomes:
        return f"{came}, not one of {', '.join(sorted(hostile.outcomes))}"
    return "" if send(client, WAV).is_success else "a good request after it fails"


@pytest.mark.alone
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_what_strangers_send_is_met(
    stranger: httpx.Client, hostile_service: Service, scratch: Path, family: Family
) -> None:
    before, files = forget_peak(hostile_service), set(scratch.iterdir())
    met = {hostile.name: wrong(stranger, hostile) for hostile in family(sounds())}
    assert {name: why for name, why in met.items() if why} == {}
    assert peak_bytes(hostile_service) - before < _MEMORY_BYTES
    assert set(scratch.iterdir()) == files
    assert "Traceback" not in hostile_service.log.read_text()


def open_files(service: Service) -> set[str]:
    """What lies open on a disk."""
    targets = {os.readlink(open_) for open_ in Path(f"/proc/{service.process.pid}/fd").iterdir()}  # noqa: PTH115 - text
    return {target for target in targets if target.startswith("/") and not target.startswith("/dev/")}


def test_names_of_files_are_echoed_and_nothing_else(
    stranger: httpx.Client, hostile_service: Service, scratch: Path
) -> None:
    """No path is made of them, no header, no line of the log."""
    files, opened = set(scratch.iterdir()), open_files(hostile_service)
    for name in FILENAMES:
        boundary = "frontier"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="'.encode()
        body = head + name.replace('"', "").encode() + b'"\r\n\r\n' + WAV + f"\r\n--{boundary}--\r\n".encode()
        response = stranger.post(
            "/predict",
            content=body,
            headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
        )
        assert outcome(response) in (HEARD, "invalid_request"), name[:40]
        assert "x-injected" not in response.headers
        assert all(len(value) < 200 for value in response.headers.values())
        if response.is_success:
            assert response.json()["filename"] is not None
    log = hostile_service.log.read_text()
    assert not any(name[:20] in log for name in FILENAMES if name.strip())
    assert open_files(hostile_service) == opened
    assert set(scratch.iterdir()) == files


def test_a_header_in_a_filename_stays_in_it(stranger: httpx.Client) -> None:
    """A line break ends the part's header, as in every form: what follows is a header of the part, not of ours."""
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nX-Injected: yes\r\n'
        b"Content-Type: text/html\r\n\r\n" + WAV + b"\r\n--b--\r\n"
    )
    response = stranger.post("/predict", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert response.json()["filename"] == "a.wav"
    assert response.headers["content-type"] == "application/json"
    assert "x-injected" not in response.headers


def test_the_process_for_rare_formats_can_open_nothing(stranger: httpx.Client, hostile_service: Service) -> None:
    """Neither file nor socket: it may have no further descriptor; and nothing of the service's environment."""
    assert send(stranger, sounds()["m4a"]).is_success
    started = children(hostile_service.process.pid)
    assert started
    for pid in started:
        limits = Path(f"/proc/{pid}/limits").read_text()
        for limit in ("Max open files", "Max file size", "Max core file size"):
            (line,) = [line for line in limits.splitlines() if line.startswith(limit)]
            assert line.removeprefix(limit).split()[:2] == ["0", "0"]
        environment = Path(f"/proc/{pid}/environ").read_text().rstrip("\0").split("\0")
        assert {each.split("=")[0] for each in environment} == {"PYTHONPATH", "MALLOC_MMAP_THRESHOLD_"}


def test_one_that_is_killed_is_replaced(stranger: httpx.Client, hostile_service: Service) -> None:
    m4a = sounds()["m4a"]
    assert send(stranger, m4a).is_success
    for pid in children(hostile_service.process.pid):
        os.kill(pid, signal.SIGKILL)
        assert until(lambda pid=pid: ") Z" in Path(f"/proc/{pid}/stat").read_text())  # type: ignore[misc]
    assert outcome(send(stranger, m4a)) == HEARD
    assert hostile_service.process.poll() is None


def test_nobody_is_called(stranger: httpx.Client) -> None:
    """A playlist that names us is not followed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(1)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/clip.wav"
        for data in (f"#EXTM3U\n#EXTINF:1,\n{url}\n", f"ffconcat version 1.0\nfile '{url}'\n", url):
            assert outcome(send(stranger, data.encode())) == "unsupported_audio"
            assert outcome(send(stranger, b"ID3\4\0\0\0\0\0\0" + data.encode())) == "unsupported_audio"
        with pytest.raises(TimeoutError):
            listener.accept()

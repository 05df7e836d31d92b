"""The records are far away; these are a local server that behaves and misbehaves as theirs do."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path

import httpx
import pytest

from tests.sounds import encode, voice
from training import download as download_module
from training.config import DataConfig
from training.datasets import find_clips
from training.download import ARCHIVES, Meter, RemoteFile, StoppedError, download
from training.download import fetch as fetch_file
from training.progress import no_progress

WAV = encode(voice(0.2), 8_000)


SPEECH, SONG = (f"/records/1188976/files/Audio_{kind}_Actors_01-24.zip" for kind in ("Speech", "Song"))


def ravdess_zip(channel: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for emotion, take in product(("01", "05"), ("01", "02")):
            archive.writestr(f"Actor_01/03-{channel}-{emotion}-01-01-{take}-01.wav", WAV + take.encode())
    return out.getvalue()


class Records(ThreadingHTTPServer):
    """Both records on one port.

    Attributes:
        files: path -> content.
        break_after: bytes after which an answer's connection breaks, once per path.
        ranges: the Range headers that came.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {SPEECH: ravdess_zip("01"), SONG: ravdess_zip("02")}
        listing = []
        for number, name in enumerate(("OAF_dog_angry.wav", "YAF_cat_ps.wav", "readme.txt")):
            content = WAV + name.encode()
            self.files[f"/api/access/datafile/{number}"] = content
            checksum = {"type": "MD5", "value": hashlib.md5(content, usedforsecurity=False).hexdigest()}
            data_file = {"id": number, "filename": name, "filesize": len(content), "checksum": checksum}
            listing.append({"directoryLabel": "wav", "dataFile": data_file})
        self.listing = listing
        self.break_after: int | None = None
        self.honour_ranges = True
        self.fail_first = 0
        self.ranges: list[str] = []
        self.asked: list[str] = []
        self._broken: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def breaks(self, path: str) -> bool:
        if self.break_after is None or path in self._broken:
            return False
        self._broken.add(path)
        return True


class Handler(BaseHTTPRequestHandler):
    server: Records

    def do_GET(self) -> None:
        server, path = self.server, self.path.split("?")[0]
        server.asked.append(path)
        if server.fail_first:
            server.fail_first -= 1
            self.send_error(503)
            return
        if path.endswith("/files"):
            body = json.dumps({"status": "OK", "data": server.listing}).encode()
        elif path in server.files:
            body = server.files[path]
        else:
            self.send_error(404)
            return
        start = 0
        if (wanted := self.headers.get("Range")) and server.honour_ranges:
            server.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        rest = body[start:]
        if server.breaks(path):
            self.wfile.write(rest[: server.break_after])
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
        else:
            with contextlib.suppress(ConnectionError):  # a client that was told to stop
                self.wfile.write(rest)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between attempts a user waits; a test need not."""
    monkeypatch.setattr("training.download.time.sleep", lambda _: None)


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> Iterator[Records]:
    server = Records()
    small = [
        dataclasses.replace(one, md5=hashlib.md5(server.files[path], usedforsecurity=False).hexdigest(), clips=4)
        for one, path in zip(ARCHIVES, (SPEECH, SONG), strict=True)
    ]
    monkeypatch.setattr(download_module, "ARCHIVES", small)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(records: Records, folder: Path) -> None:
    download(DataConfig(data=folder, zenodo=records.url, borealis=records.url))


def assert_complete(folder: Path) -> None:
    assert len(find_clips(folder, ("ravdess",))) == len(find_clips(folder, ("ravdess_song",))) == 4
    assert [clip.name for clip in find_clips(folder, ("tess",))] == ["OAF_dog_angry", "YAF_cat_ps"]
    assert not list(folder.rglob("*.part"))
    assert not list((folder / "tess").rglob("*.txt"))


def test_both_records_are_fetched_and_unpacked(records: Records, tmp_path: Path) -> None:
    fetch(records, tmp_path)
    assert_complete(tmp_path)
    assert not list(tmp_path.glob("*.zip"))


def test_who_has_the_speech_is_brought_the_song(records: Records, tmp_path: Path) -> None:
    fetch(records, tmp_path)
    for clip in find_clips(tmp_path, ("ravdess_song",)):
        clip.path.unlink()
    records.asked.clear()
    fetch(records, tmp_path)
    assert_complete(tmp_path)
    assert [path for path in records.asked if path.endswith(".zip")] == [SONG]


def test_what_is_there_is_not_fetched_again(records: Records, tmp_path: Path) -> None:
    fetch(records, tmp_path)
    records.asked.clear()
    fetch(records, tmp_path)
    assert [path for path in records.asked if not path.endswith("/files")] == []


def test_a_broken_download_goes_on_where_it_broke(records: Records, tmp_path: Path) -> None:
    records.break_after = 300
    fetch(records, tmp_path)
    assert_complete(tmp_path)
    assert records.ranges == ["bytes=300-"] * 4


def test_a_server_without_ranges_is_asked_from_the_start(records: Records, tmp_path: Path) -> None:
    records.break_after, records.honour_ranges = 300, False
    fetch(records, tmp_path)
    assert_complete(tmp_path)


def test_a_stopped_download_is_resumed_by_the_next(records: Records, tmp_path: Path) -> None:
    archive = records.files[SPEECH]
    tmp_path.joinpath("Audio_Speech_Actors_01-24.zip.part").write_bytes(archive[:200])
    fetch(records, tmp_path)
    assert_complete(tmp_path)
    assert records.ranges == ["bytes=200-"]


def test_a_part_that_is_whole_already_is_taken(records: Records, tmp_path: Path) -> None:
    archive = records.files[SPEECH]
    tmp_path.joinpath("Audio_Speech_Actors_01-24.zip.part").write_bytes(archive)
    fetch(records, tmp_path)
    assert_complete(tmp_path)


def test_a_busy_server_is_asked_again(records: Records, tmp_path: Path) -> None:
    records.fail_first = 2
    fetch(records, tmp_path)
    assert_complete(tmp_path)


def test_a_wrong_checksum_is_an_error_and_leaves_nothing(records: Records, tmp_path: Path) -> None:
    records.files["/api/access/datafile/1"] = WAV + b"tampered"
    with pytest.raises(OSError, match=r"YAF_cat_ps\.wav could not be downloaded in 6 attempts.*checksum"):
        fetch(records, tmp_path)
    assert not list(tmp_path.rglob("YAF_cat_ps*"))


def test_a_file_that_is_gone_is_an_error_at_once(records: Records, tmp_path: Path) -> None:
    del records.files["/api/access/datafile/0"]
    with pytest.raises(OSError, match="404"):
        fetch(records, tmp_path)
    assert records.asked.count("/api/access/datafile/0") == 1


def test_files_that_somebody_put_there_stay(records: Records, tmp_path: Path) -> None:
    mine = tmp_path / "ravdess" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    song = tmp_path / "ravdess" / "Actor_01" / "03-02-05-01-01-01-01.wav"
    song.parent.mkdir()
    song.write_bytes(WAV)
    fetch(records, tmp_path)
    assert mine.read_text() == "mine"
    assert song.exists()
    assert len(find_clips(tmp_path, ("ravdess",))) == 4
    assert not list(tmp_path.glob(".ravdess-*"))


def test_an_empty_folder_is_no_obstacle(records: Records, tmp_path: Path) -> None:
    (tmp_path / "ravdess").mkdir()
    fetch(records, tmp_path)
    assert_complete(tmp_path)


def test_a_stop_is_obeyed_in_the_middle_of_a_file(records: Records, tmp_path: Path) -> None:
    """Ctrl-C reaches the main thread only; the others must not finish their files first."""
    records.files["/large"] = bytes(8 << 20)
    file = RemoteFile(f"{records.url}/large", tmp_path / "large", "")
    meter = Meter([file], no_progress)
    meter.stopped.set()
    with httpx.Client() as client, pytest.raises(StoppedError):
        fetch_file(client, file, meter)
    assert (tmp_path / "large.part").stat().st_size < 8 << 20


def test_no_server_at_all_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="could not be downloaded"):
        download(DataConfig(data=tmp_path, zenodo="http://127.0.0.1:9", borealis="http://127.0.0.1:9"))


def test_a_record_cannot_write_outside_the_folder(records: Records, tmp_path: Path) -> None:
    records.listing[0]["directoryLabel"] = "../../.."
    with pytest.raises(OSError, match="outside the data folder"):
        fetch(records, tmp_path / "data")

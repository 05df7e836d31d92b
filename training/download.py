"""RAVDESS speech and song and TESS from their public records: resumed where they stopped, verified by checksum."""

from __future__ import annotations

import hashlib
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from training.config import DataConfig
from training.datasets import audio_files, parse
from training.progress import progress

# Dataverse's native API: the files of the newest published version, each with its checksum.
_TESS_LIST = "/api/datasets/:persistentId/versions/:latest-published/files?persistentId=doi:10.5683/SP2/E8H2MF"
_TESS_FILE = "/api/access/datafile/{id}"

_ATTEMPTS = 6
_PARALLEL = 4  # polite to a public archive, enough to hide its latency over 2,800 small files


T = TypeVar("T")


@dataclass(frozen=True)
class Archive:
    """One of RAVDESS's ZIP files: the corpus it holds, its name and checksum as the record states, its clips."""

    corpus: str
    name: str
    md5: str
    clips: int


ARCHIVES = (
    Archive("ravdess", "Audio_Speech_Actors_01-24.zip", "bc696df654c87fed845eb13823edef8a", 1440),
    Archive("ravdess_song", "Audio_Song_Actors_01-24.zip", "5411230427d67a21e18aa4d466e6d1b9", 1012),
)
_RAVDESS_PATH = "/records/1188976/files/{name}?download=1"


@dataclass(frozen=True)
class RemoteFile:
    """One file to fetch, and how to know it is whole."""

    url: str
    path: Path
    md5: str
    size_bytes: int | None = None
    """None where only the answer will tell."""


class Meter:
    """Bytes had and bytes expected, over all files of a download; a file that starts over counts once."""

    def __init__(self, files: Iterable[RemoteFile], update: Callable[[int, int], None]) -> None:
        self._lock, self._update = threading.Lock(), update
        self._sizes = {file.path: file.size_bytes or 0 for file in files}
        self._had = dict.fromkeys(self._sizes, 0)
        self._all_had, self._all_sizes = 0, sum(self._sizes.values())
        self.stopped = threading.Event()
        """Set when the download is given up: nobody need finish a file then."""

    def at(self, file: RemoteFile, had: int, size: int | None = None) -> None:
        """So much of a file is there now; its size, where only now known."""
        with self._lock:
            self._all_had += had - self._had[file.path]
            self._had[file.path] = had
            if size is not None:
                self._all_sizes += size - self._sizes[file.path]
                self._sizes[file.path] = size
            self._update(self._all_had, self._all_sizes)


def download(config: DataConfig) -> None:
    """Fetch what is not there yet into DATA/ravdess and DATA/tess.

    Raises:
        OSError: a server cannot be reached, answers with an error, or gives bytes that do not match their checksum.
    """
    with httpx.Client(follow_redirects=True, timeout=60) as client:
        for archive in ARCHIVES:
            _download_ravdess(client, config, archive)
        _download_tess(client, config)


def _download_ravdess(client: httpx.Client, config: DataConfig, archive: Archive) -> None:
    folder = config.data / "ravdess"
    if _clips_of(archive.corpus, folder) >= archive.clips:
        return
    url = config.zenodo + _RAVDESS_PATH.format(name=archive.name)
    file = RemoteFile(url, config.data / archive.name, archive.md5)
    fetch_all(client, [file], archive.corpus)
    with (
        tempfile.TemporaryDirectory(dir=config.data, prefix=".ravdess-") as name,
        zipfile.ZipFile(file.path) as whole,
    ):
        whole.extractall(name)
        _move_into(folder, Path(name))
    file.path.unlink()


def _clips_of(corpus: str, folder: Path) -> int:
    if not folder.is_dir():
        return 0
    clips = [parse(path) for path in audio_files(folder)]
    return len({clip.name for clip in clips if clip is not None and clip.corpus == corpus})


def _move_into(folder: Path, unpacked: Path) -> None:
    """Each file to its place; what somebody put there beside them stays."""
    for path in sorted(unpacked.rglob("*")):
        target = folder / path.relative_to(unpacked)
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)


def _download_tess(client: httpx.Client, config: DataConfig) -> None:
    url = config.borealis + _TESS_LIST
    try:
        files = _tess_files(_get_json(client, url), config)
    except (KeyError, TypeError, AttributeError) as error:
        raise OSError(f"{url} answers in another form than is known ({error!r}).") from error
    if not files:
        raise OSError(f"{url} lists no WAV file.")
    fetch_all(client, files, "TESS")


def _tess_files(listing: Any, config: DataConfig) -> list[RemoteFile]:
    files = []
    for entry in listing["data"]:
        file = entry["dataFile"]
        if not file["filename"].lower().endswith(".wav"):
            continue
        path = config.data / "tess" / Path(entry.get("directoryLabel", "")) / file["filename"]
        if not path.resolve().is_relative_to(config.data.resolve()):
            raise OSError(f"The record names a file outside the data folder: {path}.")
        url = config.borealis + _TESS_FILE.format(id=file["id"])
        files.append(RemoteFile(url, path, file["checksum"]["value"], file["filesize"]))
    return files


def fetch_all(client: httpx.Client, files: list[RemoteFile], title: str) -> None:
    """Fetch files that are not there whole, several at a time, with one progress bar.

    Raises:
        OSError: one could not be had after several attempts.
    """
    with progress(f"downloading {title}", in_bytes=True) as update, ThreadPoolExecutor(_PARALLEL) as pool:
        meter = Meter(files, update)
        jobs = [pool.submit(fetch, client, file, meter) for file in files]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            meter.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def fetch(client: httpx.Client, file: RemoteFile, meter: Meter) -> None:
    """Fetch one file; what a broken connection left is kept beside it as .part and gone on from.

    Raises:
        OSError: it could not be had after several attempts, or does not match its checksum.
    """
    if file.path.exists() and _md5(file.path) == file.md5:
        size = file.path.stat().st_size
        meter.at(file, size, size)
        return
    file.path.parent.mkdir(parents=True, exist_ok=True)
    part = file.path.with_name(file.path.name + ".part")

    def once() -> None:
        _append(client, file, part, meter)
        if _md5(part) != file.md5:
            part.unlink()
            raise _DamagedError(f"the bytes do not match the checksum {file.md5}")
        part.replace(file.path)

    _persist(once, file.path.name)


class StoppedError(Exception):
    """Another file failed, or somebody pressed Ctrl-C; what is there already is kept for the next time."""


class _DamagedError(Exception):
    """What arrived is not what the record promises."""


def _persist(action: Callable[[], T], name: str) -> T:
    """Try, and try again after what may pass: broken connections, busy servers, damaged bytes.

    Raises:
        OSError: it did not pass, or the server says no.
    """
    problem: Exception | None = None
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(min(2.0**attempt / 4, 8.0))
        try:
            return action()
        except httpx.HTTPStatusError as error:
            if error.response.status_code < 500 and error.response.status_code != httpx.codes.TOO_MANY_REQUESTS:
                raise OSError(f"{name} could not be downloaded: {error}") from error
            problem = error
        except (httpx.TransportError, httpx.TooManyRedirects, _DamagedError) as error:
            problem = error
    raise OSError(f"{name} could not be downloaded in {_ATTEMPTS} attempts: {problem}") from problem


def _append(client: httpx.Client, file: RemoteFile, part: Path, meter: Meter) -> None:
    """Ask for the rest of a file and append it; start over where the server cannot give a rest."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with client.stream("GET", file.url, headers=headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # it is all there already: the checksum will tell
        response.raise_for_status()
        resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
        had = have if resumed else 0
        meter.at(file, had, had + int(response.headers.get("Content-Length", 0)))
        with part.open("ab" if resumed else "wb") as out:
            for chunk in response.iter_raw():
                out.write(chunk)
                if meter.stopped.is_set():
                    raise StoppedError
                had += len(chunk)
                meter.at(file, had)


def _get_json(client: httpx.Client, url: str) -> Any:
    def once() -> Any:
        response = client.get(url)
        response.raise_for_status()
        try:
            return response.json()
        except ValueError as error:
            raise _DamagedError(f"not JSON ({error})") from error

    return _persist(once, url)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()

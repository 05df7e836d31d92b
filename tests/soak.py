"""python -m tests.soak [--minutes 30] [--small] [--out FILE]: good and hostile traffic, and what it leaves.

By HTTP and gRPC come good and hostile files; live streams are whole, broken off, or of odd frames; and some clients
leave in the middle of what they send or before they are answered.

Fails where memory, descriptors or threads grow, or where an answer is none that is expected. The first quarter of the
time is warm-up; after it memory may grow by 1 MB in 10,000 requests, and by 4 MiB whatever came. There are fewer
permits than clients, so that some of everything is refused; who is waits as long as it is told to, as it should.

What seems to grow is looked at for twice as long, and twice as long again: a warm-up ends, a leak does not.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import SHUT_WR
from typing import Any

import grpc
import httpx
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from benchmarks.record import write
from serving.proto.timbre.v1 import timbre_pb2 as pb
from serving.proto.timbre.v1.timbre_pb2_grpc import TimbreStub
from tests.hostile import (
    HEARD,
    Family,
    Hostile,
    bombs,
    flipped,
    long_in_little,
    lying_headers,
    not_for_us,
    polyglots,
    sounds,
    tags,
    truncated,
)
from tests.service import Service, children, running
from tests.sounds import voice
from tests.transports import clip_of, code_of, websocket

_EVERY_S = 2.0
_WARM_SHARE = 0.25  # of the time: caches fill, allocators find their size, decoders start
_SLOPE_BYTES = 1e6  # in 10,000 requests
_NOISE_BYTES = 4 << 20  # of a resident set, whatever is done
_FLOORS = 20  # parts of the time, each with its least memory: what one large body takes for a moment is no growth
_PERMITS = 3  # of five clients
_REFUSED, _RETRY_S = "overloaded", 1.0
_CLOSED, _LEFT, _MUCH = "closed", "left", 1 << 20
_AUDIO = {"Content-Type": "audio/wav"}
_SMALL = (truncated, flipped, lying_headers, not_for_us, polyglots)
_LARGE = (long_in_little, tags, bombs)
_RATE_HZ = 16_000
_LIVE = frozenset({"session", "measurement", "utterance.start", "utterance.end"})
_UNHEARD = logging.getLogger("tests.soak.left")  # the library that is left complains of it
_UNHEARD.addHandler(logging.NullHandler())
_UNHEARD.propagate = False
_SPARE = 12  # descriptors and threads that come and go
_LONGER = (2, 4)  # times as long as was asked for, while something seems to grow


@dataclass(frozen=True)
class Look:
    """The service and what it has started, at one moment."""

    requests: int
    resident_bytes: int
    descriptors: int
    threads: int


class Soak:
    """Traffic until told to stop; ``unexpected`` holds what no answer should have been."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stop = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self._begun, self.lasted_s = 0.0, 0.0

    def run(self, seconds: float, *, large: bool = True, longer: Sequence[int] = ()) -> list[Look]:
        """Looks, one every two seconds; each minute's last is told.

        Args:
            longer: times as long to go on, one after the other, while something seems to grow.
        """
        work = [self._good, self._good, self._hostile, self._grpc, self._live, self._vanish]
        if large:
            work.append(self._large)
        threads = [threading.Thread(target=self._again, args=(what,)) for what in work]
        for thread in threads:
            thread.start()
        self._begun = time.monotonic()
        looks: list[Look] = []
        try:
            self._watch(looks, seconds)
            for times in longer:
                if not (growing := grown(looks)):
                    break
                print(f"{'; '.join(growing)}: looking for {times * seconds / 60:g} min", flush=True)
                self._watch(looks, times * seconds)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        return looks

    def _watch(self, looks: list[Look], until_s: float) -> None:
        """Add a look every two seconds, until that long after the begin."""
        while self.lasted_s < until_s:
            time.sleep(_EVERY_S)
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a decoder has just ended
                looks.append(self._look())
            minutes = self.lasted_s // 60
            self.lasted_s = time.monotonic() - self._begun
            if self.lasted_s // 60 > minutes:
                told = f"{self.lasted_s / 60:.0f} of {until_s / 60:g} min"
                print(f"{told}: {looks[-1]}, {len(self.unexpected)} unexpected", flush=True)

    def _look(self) -> Look:
        pids = [self._service.process.pid, *children(self._service.process.pid)]
        return Look(
            self.outcomes.total(),
            self._service.resident_bytes(),
            sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
            sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids),
        )

    def _again(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - told at the end, whatever it was
            self.unexpected.append(f"{work.__name__}: {type(error).__name__}: {error}")

    def _met(self, kind: str, came: str, expected: frozenset[str], name: str = "") -> None:
        self.outcomes[f"{kind} {came}"] += 1
        if came == _REFUSED:
            self._stop.wait(_RETRY_S)
        elif came not in expected:
            self.unexpected.append(f"{kind} {name}: {came}")

    def _good(self) -> None:
        with httpx.Client(base_url=self._service.url, timeout=60) as client:
            for data in itertools.cycle(sounds().values()):
                if self._stop.is_set():
                    return
                answer = client.post("/predict", files={"file": ("clip", data)})
                self._met("http", _outcome(answer), frozenset({HEARD}))
                client.get("/metrics")

    def _hostile(self) -> None:
        self._send("hostile", _SMALL)

    def _large(self) -> None:
        """What is large, or long, or becomes so: by a client of its own, since each takes a while."""
        self._send("large", _LARGE)

    def _send(self, kind: str, families: Sequence[Family]) -> None:
        files = _files(families)
        with httpx.Client(base_url=self._service.url, timeout=60) as client:
            for hostile in itertools.cycle(files):
                if self._stop.is_set():
                    return
                try:
                    came = _outcome(client.post("/predict", content=hostile.data, headers=_AUDIO))
                except httpx.TransportError:
                    came = _CLOSED  # a refusal is not waited for until much has been sent
                allowed = hostile.outcomes | ({_CLOSED} if len(hostile.data) > _MUCH else frozenset())
                self._met(kind, came, allowed, hostile.name)

    def _grpc(self) -> None:
        good = [Hostile(name, data, frozenset({HEARD})) for name, data in sounds().items()]
        hostile = _files(_SMALL)
        files = [file for pair in zip(itertools.cycle(good), hostile, strict=False) for file in pair]
        with grpc.insecure_channel(self._service.grpc) as channel:
            for file in itertools.cycle(files):
                if self._stop.is_set():
                    return
                try:
                    TimbreStub(channel).Predict(pb.PredictRequest(audio=file.data), timeout=60)
                    came = HEARD
                except grpc.RpcError as error:
                    came = code_of(error)
                self._met("grpc", came, file.outcomes, file.name)

    def _live(self) -> None:
        clip = clip_of(voice(4.0), _RATE_HZ)
        frames = [clip.pcm[place : place + 3200] for place in range(0, len(clip.pcm), 3200)]
        for talk in itertools.cycle((self._listen, self._send_an_odd_frame, self._leave)):
            if self._stop.is_set():
                return
            talk(frames)

    def _listen(self, frames: list[bytes]) -> None:
        for message in websocket(self._service, frames, _RATE_HZ):
            self._met("live", _told(message), _LIVE)

    def _send_an_odd_frame(self, frames: list[bytes]) -> None:
        with self._talking() as socket:
            for frame in (*frames[: len(frames) // 2], b"odd"):
                socket.send(frame)
            messages: list[dict[str, Any]] = []
            with contextlib.suppress(ConnectionClosed):
                messages += map(json.loads, socket)
        self._met("live", _told(messages[-1]), frozenset({"invalid_frame"}))

    def _leave(self, frames: list[bytes]) -> None:
        with self._talking() as socket:
            for frame in frames[: len(frames) // 2]:
                socket.send(frame)
            socket.socket.shutdown(SHUT_WR)
        self._met("live", _LEFT, frozenset({_LEFT}))

    def _talking(self) -> ClientConnection:
        return connect(self._service.listen_url(rate_hz=_RATE_HZ), logger=_UNHEARD)

    def _vanish(self) -> None:
        """In the middle of a body, and before the answer to a whole one."""
        clip = sounds()["wav"]
        head = b"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Type: audio/wav\r\nContent-Length: %d\r\n\r\n" % len(clip)
        for size in itertools.cycle((len(clip) // 2, len(clip))):
            if self._stop.is_set():
                return
            with self._service.connect() as connection:
                connection.sendall(head + clip[:size])
            self._met("vanish", _LEFT, frozenset({_LEFT}))
            time.sleep(0.05)


def _told(message: dict[str, Any]) -> str:
    """The type of a live message; the code word of an error."""
    return str(message["error"]["code"] if message["type"] == "error" else message["type"])


def _files(families: Sequence[Family]) -> list[Hostile]:
    return [hostile for family in families for hostile in family(sounds())]


def _outcome(answer: httpx.Response) -> str:
    if answer.is_success:
        return HEARD
    code = str(answer.json()["error"]["code"])
    return code if code != _REFUSED or answer.headers["Retry-After"] == f"{_RETRY_S:g}" else "overloaded without a time"


def steady_of(looks: list[Look]) -> list[Look]:
    """Those behind the warm-up."""
    return looks[int(len(looks) * _WARM_SHARE) :]


def slope_bytes(steady: list[Look]) -> float:
    """By how much memory grows with each request: the line of least squares through its floors."""
    size = max(1, len(steady) // _FLOORS)
    parts = [steady[place : place + size] for place in range(0, len(steady), size)]
    floors = [min(part, key=lambda look: look.resident_bytes) for part in parts]
    requests = np.array([look.requests for look in floors], dtype=float)
    resident = np.array([look.resident_bytes for look in floors], dtype=float)
    return float(np.polyfit(requests, resident, 1)[0])


def grown(looks: list[Look]) -> list[str]:
    """What has grown since the warm-up, one sentence each; nothing where all is flat."""
    steady = steady_of(looks)
    slope = slope_bytes(steady)
    found = []
    if slope * 1e4 > _SLOPE_BYTES and slope * (steady[-1].requests - steady[0].requests) > _NOISE_BYTES:
        found.append(f"memory grows by {slope * 1e4 / 1e6:.2f} MB in 10,000 requests")
    third = max(1, len(steady) // 3)
    for name in ("descriptors", "threads"):
        first, last = ([getattr(look, name) for look in part] for part in (steady[:third], steady[-third:]))
        if np.median(last) > np.median(first) + _SPARE:
            found.append(f"{name} grow from {np.median(first):g} to {np.median(last):g}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    # Bodies of 20 MiB have been everywhere in the heap only after many minutes: before, they look like growth.
    parser.add_argument("--small", action="store_true", help="without what is large: for a run of a few minutes")
    parser.add_argument("--out", type=Path, help="file that keeps what was found, and where")
    given = parser.parse_args()
    minutes = given.minutes
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        with running(log, max_inflight=_PERMITS) as service:
            soak = Soak(service)
            looks = soak.run(60 * minutes, large=not given.small, longer=_LONGER)
        faults = log.read_text().partition("Traceback")
    steady = steady_of(looks)
    problems = [*grown(looks), *soak.unexpected[:20], *(["".join(faults[1:])[:4000]] if faults[1] else [])]
    if not any(outcome.endswith(_REFUSED) for outcome in soak.outcomes):
        problems.append("nothing was refused: there were no fewer permits than clients")
    told = {
        "minutes": round(soak.lasted_s / 60, 1),
        "permits": _PERMITS,
        "warmed_up": vars(steady[0]),
        "last": vars(steady[-1]),
        "bytes_in_10000": round(1e4 * slope_bytes(steady)),
        "outcomes": dict(sorted(soak.outcomes.items())),
        "problems": problems,
    }
    print(json.dumps(told, indent=1))
    if given.out:
        write(given.out, told)
    for problem in problems:
        print(problem)
    raise SystemExit(bool(problems))


if __name__ == "__main__":
    main()

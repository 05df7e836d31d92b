"""Decodes by ``serving.ffmpeg`` in processes of their own, so that a file that breaks a decoder breaks nothing else.

A few are kept once the first is wanted: starting one takes long beside a short file, asking one that runs hardly longer
than decoding here. One that has died, or has not answered in time, is replaced by the next file.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import select
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

from serving.errors import Overloaded, UnsupportedAudio
from serving.once import once
from serving.quota import cores

HEAD = struct.Struct("<cQ")
"""Before each message: what it is, and its length in bytes."""

NAME_BYTES = 16
"""Of a demuxer, filled up with zeros."""

logger = logging.getLogger("timbre")

_ANSWER_S = 20.0  # for one block; a decoder that is stuck is killed then
_WAIT_S = 20.0  # for a decoder; by then one that was stuck has been killed
_MOST = 4  # processes, however many cores there are: each has memory of its own, tens of MB by estimate
_PACKAGES = Path(__file__).parents[1]
# By itself glibc keeps blocks of up to 32 MB, once one of the size was freed: a single file would leave its decoder as
# large as it ever was (mallopt(3), M_MMAP_THRESHOLD).
_GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": str(1 << 17)}


class Undecoded(Exception):  # noqa: N818 - an answer, not an error of ours
    """A file that is not decoded.

    Attributes:
        reason: `no audio`, `codec`, `damaged`, `empty`, `nothing decodes`, `changes` or `memory`.
        detail: the codec, or what FFmpeg says.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


class Blocks:
    """The blocks of a file that a decoder has open, float32 interleaved.

    The decoder is nobody else's until :meth:`close`, which whoever has opened the file must call, however little of it
    was read. Nothing does so by itself: a generator that was never started runs none of its code when it is closed, and
    what waits for the garbage collector waits as long as the traceback of a refusal lives.

    Raises:
        Undecoded, UnsupportedAudio: see :func:`open_isolated`.
    """

    def __init__(self, decoders: _Decoders, decoder: _Decoder) -> None:
        self._decoders = decoders
        self._decoder: _Decoder | None = decoder

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self._decoder is not None:
            kind, block = self._decoder.ask(b"N")
            if kind != b"E":
                return block
        raise StopIteration

    def close(self) -> None:
        """Let go of the file; no more blocks come. More than once is as good as once."""
        decoder, self._decoder = self._decoder, None
        if decoder is None:
            return
        try:
            if decoder.alive:
                decoder.tell(b"C")
        finally:
            self._decoders.give_back(decoder)


def open_isolated(data: bytes, demuxer: str) -> tuple[dict[str, Any], Blocks]:
    """What a file says of itself (`rate_hz`, `channels`, `announced_s`), and its blocks, which must be closed.

    Args:
        demuxer: FFmpeg's name of the one that opens it.

    Raises:
        Undecoded: it is not decoded. The blocks raise it too.
        UnsupportedAudio: its decoder died of it, or was stuck; so do the blocks.
        Overloaded: all decoders are at other files, and stay there.
    """
    decoders = _decoders()
    decoder = decoders.take()
    blocks = Blocks(decoders, decoder)
    try:
        header: dict[str, Any] = json.loads(decoder.ask(b"O", data, demuxer.encode().ljust(NAME_BYTES, b"\0"))[1])
    except BaseException:
        blocks.close()
        raise
    return header, blocks


class _Decoder:
    """One process that has started."""

    def __init__(self) -> None:
        # Nothing of our environment: it may hold secrets.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-m", "serving.ffmpeg"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PYTHONPATH": str(_PACKAGES), **_GIVES_BACK},
        )
        self._answer()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, kind: bytes, data: bytes = b"", name: bytes = b"") -> tuple[bytes, bytes]:
        """What it answers: a letter and bytes. Raises Undecoded, and UnsupportedAudio where it has died."""
        self.tell(kind, data, name)
        return self._answer()

    def tell(self, kind: bytes, data: bytes = b"", name: bytes = b"") -> None:
        """Ask for nothing that is answered."""
        pipe = self._process.stdin
        with contextlib.suppress(OSError, ValueError):  # it has died, or is closed; reading its answer finds that out
            if pipe is not None:
                for part in (HEAD.pack(kind, len(data)), name, data):
                    pipe.write(part)
                pipe.flush()

    def close(self) -> None:
        """End the process; it holds nothing worth waiting for."""
        self._process.kill()
        with contextlib.suppress(BrokenPipeError), self._process:  # closes its pipes and waits for it
            pass

    def _answer(self) -> tuple[bytes, bytes]:
        kind, length = HEAD.unpack(self._read(HEAD.size))
        payload = self._read(length)
        if kind == b"X":
            raise Undecoded(**json.loads(payload))
        return kind, payload

    def _read(self, size: int) -> bytes:
        """So many bytes.

        Raises:
            UnsupportedAudio: they do not come; the process is ended.
        """
        pipe = self._process.stdout
        place = pipe.fileno() if pipe is not None else -1
        coming = select.poll()
        coming.register(place, select.POLLIN)
        got = bytearray()
        while len(got) < size:
            chunk = os.read(place, size - len(got)) if coming.poll(1e3 * _ANSWER_S) else b""
            if not chunk:
                self.close()
                logger.warning("A decoder of M4A, AAC, WebM and Vorbis ended with status %d", self._process.returncode)
                raise UnsupportedAudio("The file cannot be decoded: its decoder gave up. Encode it again and resend.")
            got += chunk
        return bytes(got)


class _Decoders:
    """Those that are idle, and how many more there may be."""

    def __init__(self, most: int) -> None:
        self._room = threading.BoundedSemaphore(most)
        self._idle: list[_Decoder] = []

    def take(self) -> _Decoder:
        """One that lives, when one is free.

        Raises:
            Overloaded: none was for long.
        """
        if not self._room.acquire(timeout=_WAIT_S):
            raise Overloaded(
                f"All decoders of M4A, AAC, WebM and Vorbis have been busy for {_WAIT_S:g} s. Try again in a while, or "
                "send WAV, FLAC or MP3.",
                retry_after_s=5,
                reason="decoders",
            )
        try:
            while self._idle:
                decoder = self._idle.pop()
                if decoder.alive:
                    return decoder
                decoder.close()
            return _Decoder()
        except BaseException:
            self._room.release()
            raise

    def give_back(self, decoder: _Decoder) -> None:
        self._idle.append(decoder)
        self._room.release()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


def most_decoders() -> int:
    """So many may run at a time; each may take the memory that ``serving.ffmpeg`` allows it."""
    return min(_MOST, cores())


@once
def _decoders() -> _Decoders:
    """Those of this process."""
    decoders = _Decoders(most_decoders())
    atexit.register(decoders.close)
    return decoders

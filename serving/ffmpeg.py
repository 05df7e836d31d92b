"""FFmpeg by PyAV, as a program of its own: what it decodes comes from strangers, and ten kB can ask it for gigabytes.

Knows nothing of the rest of the service; ``serving.isolated`` starts it without an environment. It reads its standard
input and writes its standard output, and can open nothing else: it may have no further file descriptor, which is what a
file, a socket or a pipe would need. Memory and CPU time are limited per file.

A request is a letter and a number: ``O`` and a file's length, then its demuxer's name and the file; ``N`` and 0, the
next block; or ``C`` and 0, to let go of the file, which is not answered. An answer is a letter, a number and so many
bytes: ``R`` that it is ready; ``H`` what a file says of itself, in JSON; ``B`` a block, float32 interleaved; ``E`` the
end; ``X`` why not, in JSON.
"""

from __future__ import annotations

import gc
import io
import itertools
import json
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import av
import av.subtitles.stream  # which PyAV imports late, when no file can be opened any more

from serving.isolated import HEAD, NAME_BYTES, Undecoded

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.container import InputContainer

_BLOCK_BYTES = 1 << 19
_CODECS = frozenset({"aac", "alac", "flac", "mp3", "mp3float", "opus", "vorbis", "pcm_s16le", "pcm_s16be"})
_ROOM_BYTES = 96 << 20  # beside the file itself; ten minutes at 192 kHz with 8 channels take a fifth of it
_OPEN_CPU_S, _DECODE_CPU_S = 0.5, 30.0  # who needs longer is ended by the kernel
_ONLY_MEMORY = {"protocol_whitelist": "none"}  # for whatever a file names in itself


def main(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until no more is asked, or until this process cannot be sure of itself."""
    size_bytes = _address_space_bytes()
    for nothing in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
        resource.setrlimit(nothing, (0, 0))  # a core dump would put audio on a disk
    blocks: Iterator[bytes] = iter(())

    def answer(kind: bytes, payload: bytes = b"") -> None:
        answers.write(HEAD.pack(kind, len(payload)))
        answers.write(payload)
        answers.flush()

    gc.freeze()  # what is here by now stays, and need not be looked through after every file
    answer(b"R")
    while len(head := requests.read(HEAD.size)) == HEAD.size:
        kind, length = HEAD.unpack(head)
        try:
            if kind == b"O":
                _limit(size_bytes + length)
                demuxer = requests.read(NAME_BYTES).rstrip(b"\0").decode()
                signal.setitimer(signal.ITIMER_PROF, _OPEN_CPU_S)
                header, blocks = _open(requests.read(length), demuxer)
                signal.setitimer(signal.ITIMER_PROF, _DECODE_CPU_S)
                answer(b"H", json.dumps(header).encode())
            elif kind == b"C":
                blocks = iter(())
                gc.collect()  # PyAV's objects know each other in circles: the file would stay, and count for the next
            else:
                block = next(blocks, b"")
                answer(b"B" if block else b"E", block)
        except Undecoded as error:
            answer(b"X", json.dumps({"reason": error.reason, "detail": error.detail}).encode())
        except MemoryError:  # FFmpeg's own is one too; whether everything was given back, nobody knows
            answer(b"X", b'{"reason": "memory"}')
            return


def _address_space_bytes() -> int:
    """What this process takes up before any file; 0 where the kernel does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else 0


def _limit(address_space_bytes: int) -> None:
    """So much memory from now on."""
    if sys.platform == "linux":  # elsewhere what it takes up is not told, or not limited
        resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes + _ROOM_BYTES, resource.RLIM_INFINITY))


def _open(data: bytes, demuxer: str) -> tuple[dict[str, Any], Iterator[bytes]]:
    """What a file says of itself, and its blocks.

    Opened by exactly one demuxer, from memory; nothing is probed. Rate and channels are those of the first decoded
    frame: what the container says of HE-AAC is half the truth.
    """
    try:
        container = av.open(io.BytesIO(data), mode="r", format=demuxer, container_options=_ONLY_MEMORY)
        stream = next(iter(container.streams.audio), None)
        if stream is None:
            raise Undecoded("no audio")
        # There is no codec context for a codec that FFmpeg does not know either.
        codec = stream.codec_context.name if stream.codec_context else "an unknown codec"
        if codec not in _CODECS:
            raise Undecoded("codec", codec)
        frames = container.decode(stream)
        first = next(frames, None)
        announced_s = None
        if stream.duration is not None and stream.time_base is not None:
            announced_s = float(stream.duration * stream.time_base)
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError, LookupError) as error:
        raise Undecoded("damaged", str(error)) from error
    if first is None:
        raise Undecoded("empty" if announced_s == 0 else "nothing decodes")
    header = {"rate_hz": first.sample_rate, "channels": first.layout.nb_channels, "announced_s": announced_s}
    return header, _blocks(container, first, frames)


def _blocks(container: InputContainer, first: AudioFrame, others: Iterator[AudioFrame]) -> Iterator[bytes]:
    """float32 interleaved, up to the end or to the damage."""
    to_float = av.AudioResampler(format="flt")
    gathered = bytearray()
    with container:
        try:
            for frame in itertools.chain([first], others):
                if (frame.sample_rate, frame.layout.nb_channels) != (first.sample_rate, first.layout.nb_channels):
                    raise Undecoded("changes")
                for packed in to_float.resample(frame):
                    size = packed.samples * packed.layout.nb_channels * 4
                    gathered += memoryview(packed.planes[0])[:size]
                if len(gathered) >= _BLOCK_BYTES:
                    yield bytes(gathered)
                    gathered.clear()
        except MemoryError:
            raise
        except (av.FFmpegError, ValueError):
            pass  # cut short or damaged from here on: what came before it counts
    if gathered:
        yield bytes(gathered)


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)

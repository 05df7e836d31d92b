"""Which container a file is, and its samples block by block: libsndfile, or FFmpeg for M4A, AAC, WebM and Vorbis."""

from __future__ import annotations

import contextlib
import io
import math
import re
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import soundfile

from serving.errors import EmptyAudio, UnsupportedAudio
from serving.isolated import Blocks, Undecoded, open_isolated

Samples = npt.NDArray[np.float32]

READABLE = "WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF, M4A/AAC or WebM"

_BLOCK_FRAMES = 1 << 16  # 2 MB of float32 at 8 channels: bounds memory, still few calls
_SALVAGE_FRAMES = 256
_PCM16_BYTES = 2
_NOT_ZERO = re.compile(rb"[^\0]")
QUICK_BYTES = 1 << 20
"""Up to here decoding without resampling takes a fraction of a millisecond."""

# How Vorbis begins, wherever the pages before it end. libsndfile 1.2 keeps some memory for good of each file
# whose headers it cannot read.
_VORBIS = b"\x01vorbis"

_CHUNKS = 64  # of a WAV or AIFF, blocks before a FLAC's sound; a recorder writes a handful, a stranger as many as fit
_TAGS = 16  # before the sound, for the same reason
_RIFF_STREAMED_BYTES = 0x7FFFF000  # who writes WAV to a pipe writes the largest number there is, or nearly

# What libsndfile may find behind one of the magics below; anything else it can read is not let in.
_SOUNDFILE_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3", "AIFF"})


@dataclass(frozen=True)
class Source:
    """An opened file: what it says of itself and the blocks behind it.

    What reads it may be wanted by others: whoever opens one closes it (``contextlib.closing``), whether it was read or
    not.

    Attributes:
        length_s: length that can be there at most, None where nothing tells.
        announced_s: length by the header, which is more than ``length_s`` where the file was cut short.
        blocks: float32 (frames, channels) each; of a damaged file, what comes before the damage.
        close: lets go of the file; its blocks are not to be read any more. More than once is as good as once.
    """

    format: str
    rate_hz: int
    channels: int
    length_s: float | None
    announced_s: float | None
    blocks: Iterator[Samples] = field(repr=False)
    close: Callable[[], None] = field(default=lambda: None, repr=False)


def open_source(data: bytes) -> Source:
    """Open an encoded file by what its first bytes say it is.

    Raises:
        EmptyAudio: no bytes, or a header and no samples.
        UnsupportedAudio: not one of the formats that are read, or damaged so that nothing decodes.
        Overloaded: what decodes it is at other files, and stays there.
    """
    if not data:
        raise EmptyAudio("The file has no bytes. Send the encoded audio itself.")
    sound = _without_tags(data)
    if sound[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
        _check_chunks(sound)
    elif sound[:4] == b"fLaC":
        _check_metadata(sound)
    if (plain := _plain_wav(sound)) is not None:
        return plain
    reader = _reader_for(sound)
    if reader is None:
        raise UnsupportedAudio(
            f"The bytes are not audio that is read here. Send {READABLE}.", first_bytes=sound[:8].hex(" ")
        )
    return reader(sound)


def source_of_samples(samples: Samples, rate_hz: int) -> Source:
    """Samples that came as such, float32 (T,), full scale = 1: what a file with them would be.

    Raises:
        EmptyAudio: there are none.
    """
    if not len(samples):
        raise EmptyAudio("There are no samples. Send the audio itself.")
    blocks = (samples[start : start + _BLOCK_FRAMES, None] for start in range(0, len(samples), _BLOCK_FRAMES))
    length_s = len(samples) / max(rate_hz, 1)  # a rate of 0 is refused with every other that is out of range
    return Source("PCM", rate_hz, 1, length_s, length_s, blocks)


def is_quick(data: bytes, rate_hz: int) -> bool:
    """Whether decoding is little more than a copy: plain WAV, at the rate that is wanted, of at most 1 MiB.

    The usual 44 bytes of header: format 1 (PCM) or 3 (float), then the rate (Microsoft & IBM 1991).
    """
    head = data[:28]
    return (
        len(data) <= QUICK_BYTES
        and head[:4] == b"RIFF"
        and head[8:16] == b"WAVEfmt "
        and head[20:22] in (b"\x01\x00", b"\x03\x00")
        and int.from_bytes(head[24:28], "little") == rate_hz
    )


def _plain_wav(data: bytes) -> Source | None:
    """A whole WAV of 16-bit PCM, as most are; None for any other, which libsndfile knows better.

    libsndfile reads a file in memory by calls back into Python, 0.5 ms of the event loop's thread for three seconds;
    here it is one conversion. The samples are the same.
    """
    if data[:4] != b"RIFF" or int.from_bytes(data[4:8], "little") + 8 != len(data):
        return None
    try:
        file = wave.open(_Bytes(data))  # noqa: SIM115 - what it opened is memory
    except (wave.Error, EOFError, RuntimeError):  # the last where a chunk ends outside the file
        return None
    rate_hz, channels, frames = file.getframerate(), file.getnchannels(), file.getnframes()
    if file.getsampwidth() != _PCM16_BYTES or rate_hz == 0 or frames == 0:
        return None
    file.setpos(frames - 1)
    if len(file.readframes(1)) != _PCM16_BYTES * channels:
        return None  # the data chunk says more than there is
    file.rewind()
    length_s = frames / rate_hz
    return Source("WAV", rate_hz, channels, length_s, length_s, _wave_blocks(file))


def _wave_blocks(file: wave.Wave_read) -> Iterator[Samples]:
    while block := file.readframes(_BLOCK_FRAMES):
        yield pcm16(block).reshape(-1, file.getnchannels())


def pcm16(data: bytes) -> Samples:
    """16-bit little-endian samples as float32 (T,), full scale = 1: what libsndfile makes of them in a WAV.

    Raises:
        UnsupportedAudio: half a sample is left over.
    """
    if len(data) % _PCM16_BYTES:
        raise UnsupportedAudio(f"{len(data)} bytes are no 16-bit samples: the number must be even.")
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(1 << 15)


def _reader_for(data: bytes) -> Callable[[bytes], Source] | None:
    """The reader for a file that begins like this, None where it is nothing we read.

    Libraries that probe for themselves also open playlists, modules and things nobody wants opened for strangers.
    """
    head = data[:16]
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return _open_soundfile
    if head[:4] == b"OggS" and _VORBIS in data:
        return lambda data: _open_av(data, "ogg", "OGG")
    if head[:4] in (b"fLaC", b"OggS"):
        return _open_soundfile
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _open_soundfile
    if head[4:8] == b"ftyp":
        return lambda data: _open_av(data, "mov", "M4A")
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return lambda data: _open_av(data, "matroska", "WebM")
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        # MPEG frame sync. The two layer bits are 00 in ADTS (ISO 13818-7), never in MPEG audio (ISO 11172-3).
        if not head[1] & 0x06:
            return lambda data: _open_av(data, "aac", "AAC")
        return _open_soundfile if _is_mp3_frame(head) else None
    return None


def _is_mp3_frame(head: bytes) -> bool:
    """Whether this is a frame header of layer III without a reserved value in it (ISO 11172-3, 2.4.2.3).

    Text in UTF-16 begins with a frame's sync, too.
    """
    if len(head) < 4:
        return False
    version, layer, bitrate, rate = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer == 1 and bitrate not in (0, 15) and rate != 3


def _without_tags(data: bytes) -> bytes:
    """The file behind its ID3v2 tags and the zeros after them; not every reader passes every one over."""
    start = 0
    for _ in range(_TAGS):
        size = _id3_bytes(data[start : start + 10])
        if not size:
            break
        behind = _NOT_ZERO.search(data, start + size)
        start = behind.start() if behind else len(data)
    return data[start:] if start else data


def _id3_bytes(data: bytes) -> int:
    """Length of an ID3v2 tag whose header this is: four bytes of seven bits each, after ten (id3.org, 2.4.0)."""
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    a, b, c, d = data[6:10]
    return 10 + (a << 21 | b << 14 | c << 7 | d)


def _check_chunks(data: bytes) -> None:
    """Whether a RIFF or AIFF file has no more chunks than a recording has; readers look at them one by one.

    Chunks are four letters, a size, and so many bytes, padded to even (Microsoft & IBM 1991).

    Raises:
        UnsupportedAudio: there are more.
    """
    order: Literal["little", "big"] = "big" if data[:4] in (b"FORM", b"RIFX") else "little"
    place = 12
    for _ in range(_CHUNKS):
        size = int.from_bytes(data[place + 4 : place + 8], order)
        if data[place : place + 4] == b"data" and not size and data[4:8] == bytes(4):
            return  # its recorder was killed: samples are what follows; see `_finished_riff`
        place += 8 + size + size % 2
        if place >= len(data):
            return
    raise UnsupportedAudio(f"The file has more than {_CHUNKS} chunks, which no recording has. Encode it again.")


def _check_metadata(data: bytes) -> None:
    """The same for a FLAC file's metadata: blocks behind a bit that marks the last, a type and a size (RFC 9639)."""
    place = 4
    for _ in range(_CHUNKS):
        head = data[place : place + 4]
        place += 4 + int.from_bytes(head[1:], "big")
        if place >= len(data) or head[0] & 0x80:
            return
    raise UnsupportedAudio(
        f"The FLAC file has more than {_CHUNKS} blocks before its sound, which no recording has. Encode it again."
    )


class _Bytes(io.BytesIO):
    """Bytes to read in which a damaged file may seek anywhere: outside, it stays where it is.

    An exception here would pass through libsndfile's callback and be printed once per seek.
    """

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        with contextlib.suppress(ValueError, OverflowError):
            return super().seek(offset, whence)
        return self.tell()


def _open_soundfile(data: bytes) -> Source:
    data = _finished_riff(data)
    try:
        file = soundfile.SoundFile(_Bytes(data))
    except soundfile.LibsndfileError as error:
        # libmpg123 has one message for everything, and it is about a file on disk.
        why = "" if data[0] == 0xFF else f" ({error.error_string})"
        raise UnsupportedAudio(f"The file is damaged or of a kind that is not read{why}. Send {READABLE}.") from error
    if file.format not in _SOUNDFILE_FORMATS:
        raise UnsupportedAudio(f"{file.format} files are not read. Send {READABLE}.", format=file.format)
    # A stream of unknown length gives a number that no recording can have (2^63 - 1).
    length_s = file.frames / file.samplerate if file.frames < 1 << 62 else None
    announced_s = None if length_s is None else length_s * _lost_of_riff(data)
    blocks = _soundfile_blocks(file, data)
    return Source(file.format, file.samplerate, file.channels, length_s, announced_s, blocks, file.close)


def _finished_riff(data: bytes) -> bytes:
    """A WAV whose sizes were never written, because its recorder was killed, as one whose length is not known.

    RIFF chunks are four letters, a size, and so many bytes, padded to even (Microsoft & IBM 1991).
    """
    if data[:4] != b"RIFF" or data[4:8] != bytes(4):
        return data
    place = 12
    for _ in range(_CHUNKS):
        if data[place : place + 4] == b"data":
            break
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8 + size + size % 2
    if data[place : place + 4] != b"data" or data[place + 4 : place + 8] != bytes(4):
        return data
    unknown = b"\xff" * 4
    return data[:4] + unknown + data[8 : place + 4] + unknown + data[place + 8 :]


def _lost_of_riff(data: bytes) -> float:
    """How many times longer a RIFF file says it is than it is. libsndfile believes the file's end, not the header."""
    size = int.from_bytes(data[4:8], "little")
    if data[:4] != b"RIFF" or size >= _RIFF_STREAMED_BYTES:
        return 1.0
    return max(1.0, (size + 8) / len(data))


def _soundfile_blocks(file: soundfile.SoundFile, data: bytes) -> Iterator[Samples]:
    """The blocks of a file; of one that is cut short or damaged, what comes before the damage.

    libsndfile fails a whole read for an error in it, so the block that failed is read once more in small pieces.
    """
    blocks = 0
    with file:
        try:
            for block in _reads(file, _BLOCK_FRAMES):
                blocks += 1
                yield block
        except soundfile.LibsndfileError:
            pass
        else:
            return
    with soundfile.SoundFile(_Bytes(data)) as again, contextlib.suppress(soundfile.LibsndfileError):
        for _ in range(blocks):
            again.read(_BLOCK_FRAMES, dtype="float32")
        yield from _reads(again, _SALVAGE_FRAMES)


def _reads(file: soundfile.SoundFile, frames: int) -> Iterator[Samples]:
    while len(block := file.read(frames, dtype="float32", always_2d=True)):
        yield block


def _open_av(data: bytes, demuxer: str, name: str) -> Source:
    """Open by exactly one FFmpeg demuxer, in a process that can reach nothing but these bytes."""
    try:
        header, blocks = open_isolated(data, demuxer)
    except Undecoded as error:
        raise _undecoded(error, name) from error
    rate_hz, channels, announced_s = header["rate_hz"], header["channels"], _length_s(header["announced_s"])
    samples = _av_blocks(blocks, channels, name)
    return Source(name, rate_hz, channels, announced_s, announced_s, samples, blocks.close)


def _length_s(announced_s: float | None) -> float | None:
    """What a header says, None where nothing lasts so long: a length below zero, an infinite one, or no number."""
    return announced_s if announced_s is not None and 0 <= announced_s < math.inf else None


def _av_blocks(blocks: Blocks, channels: int, name: str) -> Iterator[Samples]:
    try:
        for block in blocks:
            yield np.frombuffer(block, np.float32).reshape(-1, channels)
    except Undecoded as error:
        raise _undecoded(error, name) from error


def _undecoded(error: Undecoded, name: str) -> UnsupportedAudio | EmptyAudio:
    match error.reason:
        case "no audio":
            return UnsupportedAudio(f"The {name} file has no audio track. Send {READABLE}.", format=name)
        case "codec":
            return UnsupportedAudio(f"{error.detail} in {name} is not read. Send {READABLE}.", format=name)
        case "empty":
            return EmptyAudio(f"The {name} file has a header and no samples.", format=name)
        case "nothing decodes":
            return UnsupportedAudio(f"The {name} file is damaged: nothing in it decodes.", format=name)
        case "changes":
            return UnsupportedAudio(
                f"The {name} file changes its sample rate or channels midway. Encode it as one recording.", format=name
            )
        case "memory":
            return UnsupportedAudio(f"The {name} file needs more memory than any recording does. Encode it again.")
        case _:
            return UnsupportedAudio(f"The {name} file is damaged ({error.detail}). Encode it again and resend.")

"""Bytes in, windows out: decoding, down-mixing, resampling and cutting, for serving and training alike.

What follows a window is in the exported graph; what comes before it is here, once. Long input never stands in memory
at its own rate: blocks are decoded, mixed to mono and resampled one after the other, so ten minutes of 192 kHz
8-channel audio take the memory of ten minutes at the model's rate.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

# Named again, because training may know this module of the service and no other.
from serving.errors import AudioTooLong, AudioTooShort, BadSamples, UnsupportedAudio
from serving.errors import EmptyAudio as EmptyAudio
from serving.errors import NoSpeech as NoSpeech
from serving.errors import RequestError as RequestError

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.container import InputContainer

Samples = npt.NDArray[np.float32]

READABLE = "WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF, M4A/AAC and WebM"

_BLOCK_FRAMES = 1 << 16  # 2 MB of float32 at 8 channels: bounds memory, still few calls
_SALVAGE_FRAMES = 256
_RIFF_STREAMED_BYTES = 0x7FFFF000  # who writes WAV to a pipe writes the largest number there is, or nearly
_LEVEL_FRAME_S = 0.025  # the usual short-time frame of speech analysis
# The quietest of 1,200 RAVDESS clips peaks at -55 dBFS in such a frame; a muted line's dither is below -90.
_SILENCE_DBFS = -65.0
# Float files may pass full scale a little; far beyond it they hold integers that nobody scaled.
_MAX_ABS_SAMPLE = 10.0

# What libsndfile may find behind one of the magics below; anything else it can read is not let in.
_SOUNDFILE_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3", "AIFF"})
_AV_CODECS = frozenset({"aac", "alac", "flac", "mp3", "mp3float", "opus", "vorbis", "pcm_s16le", "pcm_s16be"})


@dataclass(frozen=True)
class Limits:
    """What audio is accepted. The one owner of these numbers."""

    min_duration_s: float = 0.1
    max_duration_s: float = 600.0
    min_rate_hz: int = 8_000
    max_rate_hz: int = 192_000
    max_channels: int = 8


@dataclass(frozen=True)
class WindowSpec:
    """How a model wants its input cut. Comes from the exported artifact, or from training's own spec."""

    rate_hz: int
    window_samples: int
    hop_samples: int


@dataclass(frozen=True)
class Clip:
    """Decoded audio.

    Attributes:
        samples: float32 (T,), mono, at the rate asked for, full scale = 1.
        duration_s: length in the source's own samples, before resampling.
        announced_s: length by the file's header; None where it has none. More than ``duration_s``: it was cut short.
        source_rate_hz, channels, format: what the file said of itself.
    """

    samples: Samples
    duration_s: float
    announced_s: float | None
    source_rate_hz: int
    channels: int
    format: str


@dataclass(frozen=True)
class Windows:
    """Equal windows cut from one clip; copied only when a slice is taken.

    Attributes:
        samples: float32 (T,), T >= window_samples (zero-padded where the clip was shorter).
        starts: int (N,), first sample of each window, ascending.
    """

    samples: Samples
    starts: npt.NDArray[np.int64]
    window_samples: int

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, rows: slice) -> Samples:
        """Windows of that slice, float32 (n, window_samples), C-contiguous."""
        view = np.lib.stride_tricks.sliding_window_view(self.samples, self.window_samples)
        return view[self.starts[rows]]


@dataclass(frozen=True)
class _Source:
    """An opened file: what it says of itself and the blocks behind it, float32 (frames, channels)."""

    format: str
    rate_hz: int
    channels: int
    announced_s: float | None
    blocks: Iterator[Samples] = field(repr=False)


def decode(data: bytes, rate_hz: int, limits: Limits | None = None) -> Clip:
    """Decode an encoded file to mono at ``rate_hz``.

    Channels are averaged. The length is asked of the header first and counted while decoding, so that neither a small
    file with hours in it nor a lying header costs more than the limit. A file that is cut short gives what it has.

    Args:
        data: the whole encoded file.
        rate_hz: sample rate of the result.
        limits: what is accepted; the defaults of :class:`Limits` where None.

    Raises:
        EmptyAudio: no bytes, or a header and no samples.
        UnsupportedAudio: not one of the formats that are read, a rate or channel count out of range or changing
            midway, or damaged so that nothing decodes.
        AudioTooLong: over ``limits.max_duration_s``.
        AudioTooShort: under ``limits.min_duration_s``.
        BadSamples: NaN, infinite or unscaled samples.
    """
    limits = limits or Limits()
    if not data:
        raise EmptyAudio("The file has no bytes. Send the encoded audio itself.")
    source = _open(data)
    _check_header(source, limits)

    resample = _resampler(source.rate_hz, rate_hz)
    max_frames = int(limits.max_duration_s * source.rate_hz)
    frames = 0
    parts: list[Samples] = []
    for block in source.blocks:
        frames += len(block)
        if frames > max_frames:
            raise _too_long(None, limits)
        mono = _mixed_down(block)
        _check_samples(mono)
        parts.append(resample(mono, False))
    if frames == 0:
        if source.announced_s == 0:
            raise EmptyAudio(f"The {source.format} file has a header and no samples.", format=source.format)
        raise UnsupportedAudio(
            f"The {source.format} file is cut short or damaged: nothing in it decodes. Encode it again and resend.",
            format=source.format,
        )
    duration_s = frames / source.rate_hz
    if duration_s < limits.min_duration_s:
        raise AudioTooShort(
            f"The audio lasts {duration_s:.3f} s; at least {limits.min_duration_s:g} s are needed.",
            duration_s=round(duration_s, 3),
            min_duration_s=limits.min_duration_s,
        )
    parts.append(resample(np.empty(0, dtype=np.float32), True))
    return Clip(np.concatenate(parts), duration_s, source.announced_s, source.rate_hz, source.channels, source.format)


def windows(samples: Samples, spec: WindowSpec) -> Windows:
    """Cut mono audio into the model's windows.

    Windows start at every hop; where the last one would leave a rest, one more ends exactly at the end, so that every
    sample is heard. Audio shorter than one window is zero-padded behind. Windows in which nothing rises above silence
    are left out: a timeline may have gaps.

    Args:
        samples: float32 (T,) at ``spec.rate_hz``.

    Raises:
        NoSpeech: every window is silent.
    """
    missing = spec.window_samples - len(samples)
    if missing > 0:
        samples = np.pad(samples, (0, missing))
    last = len(samples) - spec.window_samples
    starts = np.arange(0, last + 1, spec.hop_samples, dtype=np.int64)
    if starts[-1] != last:
        starts = np.append(starts, last)
    loud = _loud_windows(samples, starts, spec)
    if not loud.any():
        raise NoSpeech(
            f"The audio is silent: it never rises above {_SILENCE_DBFS:g} dBFS. Check the microphone or the gain.",
            silence_dbfs=_SILENCE_DBFS,
        )
    return Windows(samples, starts[loud], spec.window_samples)


def _loud_windows(samples: Samples, starts: npt.NDArray[np.int64], spec: WindowSpec) -> npt.NDArray[np.bool_]:
    """Which windows hold at least one short frame above silence; bool (N,). A constant offset is silence."""
    frame = max(1, round(_LEVEL_FRAME_S * spec.rate_hz))
    whole = len(samples) // frame * frame
    power = samples[:whole].reshape(-1, frame).var(axis=1)
    loud = np.append(power > 10 ** (_SILENCE_DBFS / 10), False)
    seen = np.concatenate([[0], np.cumsum(loud)])
    first, end = starts // frame, -(-(starts + spec.window_samples) // frame)
    above: npt.NDArray[np.bool_] = seen[np.minimum(end, len(loud))] > seen[first]
    return above


def _open(data: bytes) -> _Source:
    sound = data[_id3_bytes(data) :]  # not every reader passes every tag over
    reader = _reader_for(sound[:16])
    if reader is None:
        raise UnsupportedAudio(
            f"The bytes are not audio that is read here. Send {READABLE}.", first_bytes=data[:8].hex(" ")
        )
    return reader(sound)


def _reader_for(head: bytes) -> Callable[[bytes], _Source] | None:
    """The reader for a file that begins like this, None where it is nothing we read.

    Libraries that probe for themselves also open playlists, modules and things nobody wants opened for strangers.
    """
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return _open_soundfile
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
        if head[1] & 0x06:
            return _open_soundfile
        return lambda data: _open_av(data, "aac", "AAC")
    return None


def _id3_bytes(data: bytes) -> int:
    """Length of an ID3v2 tag at the start: four bytes of seven bits each, after a header of ten (id3.org, 2.4.0)."""
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    a, b, c, d = data[6:10]
    return 10 + (a << 21 | b << 14 | c << 7 | d)


class _Bytes(io.BytesIO):
    """Bytes to read in which a damaged file may seek anywhere: outside, it stays where it is.

    An exception here would pass through libsndfile's callback and be printed once per seek.
    """

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        with contextlib.suppress(ValueError, OverflowError):
            return super().seek(offset, whence)
        return self.tell()


def _open_soundfile(data: bytes) -> _Source:
    try:
        file = soundfile.SoundFile(_Bytes(data))
    except soundfile.LibsndfileError as error:
        raise UnsupportedAudio(
            f"The file is damaged or of a kind that is not read ({error.error_string}). Send {READABLE}."
        ) from error
    if file.format not in _SOUNDFILE_FORMATS:
        raise UnsupportedAudio(f"{file.format} files are not read. Send {READABLE}.", format=file.format)
    # A stream of unknown length gives a number that no recording can have (2^63 - 1).
    announced_s = file.frames / file.samplerate * _lost_of_riff(data) if file.frames < 1 << 62 else None
    return _Source(file.format, file.samplerate, file.channels, announced_s, _soundfile_blocks(file, data))


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


def _open_av(data: bytes, demuxer: str, name: str) -> _Source:
    """Open by exactly one FFmpeg demuxer, from memory; nothing is probed and nothing else can be opened.

    Rate and channels are those of the first decoded frame: what the container says of HE-AAC is half the truth.
    """
    import av  # here, because it costs 20 MB that a service which only meets WAV need not pay

    try:
        container = av.open(io.BytesIO(data), mode="r", format=demuxer)
        stream = next(iter(container.streams.audio), None)
        if stream is None:
            raise UnsupportedAudio(f"The {name} file has no audio track. Send {READABLE}.", format=name)
        # There is no codec context for a codec that FFmpeg does not know either.
        codec = stream.codec_context.name if stream.codec_context else "an unknown codec"
        if codec not in _AV_CODECS:
            raise UnsupportedAudio(f"{codec} in {name} is not read. Send {READABLE}.", format=name)
        frames = container.decode(stream)
        first = next(frames, None)
        announced_s = None
        if stream.duration is not None and stream.time_base is not None:
            announced_s = float(stream.duration * stream.time_base)
    except (av.FFmpegError, ValueError, LookupError) as error:
        raise UnsupportedAudio(f"The {name} file is damaged ({error}). Encode it again and resend.") from error
    if first is None:
        if announced_s == 0:
            raise EmptyAudio(f"The {name} file has a header and no samples.", format=name)
        raise UnsupportedAudio(f"The {name} file is damaged: nothing in it decodes.", format=name)
    blocks = _av_blocks(container, first, frames, name)
    return _Source(name, first.sample_rate, first.layout.nb_channels, announced_s, blocks)


def _av_blocks(
    container: InputContainer, first: AudioFrame, others: Iterator[AudioFrame], name: str
) -> Iterator[Samples]:
    """The frames as float32 blocks (frames, channels), up to the end or to the damage."""
    import av

    to_float = av.AudioResampler(format="fltp")
    with container:
        try:
            for frame in itertools.chain([first], others):
                if (frame.sample_rate, frame.layout.nb_channels) != (first.sample_rate, first.layout.nb_channels):
                    raise UnsupportedAudio(
                        f"The {name} file changes its sample rate or channels midway. Encode it as one recording.",
                        format=name,
                    )
                for planar in to_float.resample(frame):
                    yield planar.to_ndarray().T.astype(np.float32, copy=False)
        except (av.FFmpegError, ValueError):
            return  # cut short or damaged from here on: what came before it counts


def _check_header(source: _Source, limits: Limits) -> None:
    if not limits.min_rate_hz <= source.rate_hz <= limits.max_rate_hz:
        raise UnsupportedAudio(
            f"The sample rate is {source.rate_hz} Hz; {limits.min_rate_hz} to {limits.max_rate_hz} Hz are read. "
            "Resample and resend.",
            rate_hz=source.rate_hz,
        )
    if not 1 <= source.channels <= limits.max_channels:
        raise UnsupportedAudio(
            f"The file has {source.channels} channels; 1 to {limits.max_channels} are read. Mix it down.",
            channels=source.channels,
        )
    if source.announced_s is not None and source.announced_s > limits.max_duration_s:
        raise _too_long(source.announced_s, limits)


def _too_long(duration_s: float | None, limits: Limits) -> AudioTooLong:
    came = "over" if duration_s is None else f"{duration_s:.0f} s, over"
    return AudioTooLong(
        f"The audio lasts {came} {limits.max_duration_s:g} s. Cut it and send the parts.",
        max_duration_s=limits.max_duration_s,
    )


def _mixed_down(block: Samples) -> Samples:
    """Mean over channels, (frames, channels) -> (frames,)."""
    channels = block.shape[1]
    if channels == 1:
        return block[:, 0]
    with np.errstate(invalid="ignore"):  # opposite infinities: the check that follows finds the NaN
        # Not a matrix product: BLAS threads that spin would take the cores of every other request.
        mono: Samples = np.einsum("fc->f", block) / np.float32(channels)
    return mono


def _check_samples(mono: Samples) -> None:
    # max and min carry NaN on, so one comparison finds NaN, infinity and unscaled integers.
    peak = max(float(mono.max()), -float(mono.min()))
    if not peak <= _MAX_ABS_SAMPLE:
        what = "NaN or infinite samples" if not np.isfinite(peak) else f"samples as large as {peak:.4g}"
        raise BadSamples(f"The audio holds {what}; float samples must lie within -1 to 1. Scale and resend.")


def _resampler(source_hz: int, target_hz: int) -> Callable[[Samples, bool], Samples]:
    """A function (block, last) -> block at the target rate; keeps its state between blocks."""
    if source_hz == target_hz:
        return lambda block, _: block
    stream = soxr.ResampleStream(source_hz, target_hz, num_channels=1, dtype="float32", quality="HQ")

    def resample(block: Samples, last: bool) -> Samples:
        out: Samples = stream.resample_chunk(block, last=last)
        return out

    return resample

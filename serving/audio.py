"""Bytes in, windows out: decoding, down-mixing, resampling and cutting, for serving and training alike.

What follows a window is in the exported graph; what comes before it is here, once. Long input never stands in memory
at its own rate: blocks are decoded, mixed to mono and resampled one after the other, so ten minutes of 192 kHz
8-channel audio take the memory of ten minutes at the model's rate.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from serving.errors import AudioTooLong, AudioTooShort, BadSamples, EmptyAudio, NoSpeech, UnsupportedAudio

Samples = npt.NDArray[np.float32]

READABLE = "WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF, M4A/AAC and WebM"

_BLOCK_FRAMES = 1 << 16  # 4 MB of float32 at 16 channels: bounds memory, still few calls
_SALVAGE_FRAMES = 256
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
        source_rate_hz, channels, format: what the file said of itself.
    """

    samples: Samples
    duration_s: float
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
    """An opened file: what its header says and the blocks behind it, float32 (frames, channels)."""

    format: str
    rate_hz: int
    channels: int
    header_frames: int | None
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
        UnsupportedAudio: not one of the formats that are read, a rate or channel count out of range, or damaged so that
            nothing decodes.
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
    to_mono = np.full(source.channels, 1.0 / source.channels, dtype=np.float32)
    max_frames = int(limits.max_duration_s * source.rate_hz)
    frames = 0
    parts: list[Samples] = []
    for block in source.blocks:
        frames += len(block)
        if frames > max_frames:
            raise _too_long(None, limits)
        mono: Samples = block[:, 0] if source.channels == 1 else block @ to_mono
        _check_samples(mono)
        parts.append(resample(mono, False))
    if frames == 0:
        if source.header_frames == 0:
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
    return Clip(np.concatenate(parts), duration_s, source.rate_hz, source.channels, source.format)


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
    """Which windows hold at least one short frame above silence; bool (N,)."""
    frame = max(1, round(_LEVEL_FRAME_S * spec.rate_hz))
    whole = len(samples) // frame * frame
    frames = samples[:whole].reshape(-1, frame)
    power = np.einsum("ft,ft->f", frames, frames) / frame
    loud = np.append(power > 10 ** (_SILENCE_DBFS / 10), False)
    seen = np.concatenate([[0], np.cumsum(loud)])
    first, end = starts // frame, -(-(starts + spec.window_samples) // frame)
    above: npt.NDArray[np.bool_] = seen[np.minimum(end, len(loud))] > seen[first]
    return above


def _open(data: bytes) -> _Source:
    reader = _reader_for(data[:16])
    if reader is None:
        raise UnsupportedAudio(
            f"The bytes are not audio that is read here. Send {READABLE}.", first_bytes=data[:8].hex(" ")
        )
    return reader(data)


def _reader_for(head: bytes) -> Callable[[bytes], _Source] | None:
    """The reader for a file that begins like this, None where it is nothing we read.

    Libraries that probe for themselves also open playlists, modules and things nobody wants opened for strangers.
    """
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return _open_soundfile
    if head[:4] in (b"fLaC", b"OggS") or head[:3] == b"ID3":
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


def _open_soundfile(data: bytes) -> _Source:
    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except soundfile.LibsndfileError as error:
        raise UnsupportedAudio(
            f"The file is damaged or of a kind that is not read ({error.error_string}). Send {READABLE}."
        ) from error
    if file.format not in _SOUNDFILE_FORMATS:
        raise UnsupportedAudio(f"{file.format} files are not read. Send {READABLE}.", format=file.format)
    return _Source(file.format, file.samplerate, file.channels, file.frames, _soundfile_blocks(file, data))


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
    with soundfile.SoundFile(io.BytesIO(data)) as again, contextlib.suppress(soundfile.LibsndfileError):
        for _ in range(blocks):
            again.read(_BLOCK_FRAMES, dtype="float32")
        yield from _reads(again, _SALVAGE_FRAMES)


def _reads(file: soundfile.SoundFile, frames: int) -> Iterator[Samples]:
    while len(block := file.read(frames, dtype="float32", always_2d=True)):
        yield block


def _open_av(data: bytes, demuxer: str, name: str) -> _Source:
    """Open by exactly one FFmpeg demuxer, from memory; nothing is probed and nothing else can be opened."""
    import av  # here, because it costs 20 MB that a service which only meets WAV need not pay

    try:
        container = av.open(io.BytesIO(data), mode="r", format=demuxer)
        streams = container.streams.audio
        if not streams:
            raise UnsupportedAudio(f"The {name} file has no audio track. Send {READABLE}.", format=name)
        stream = streams[0]
        codec = stream.codec_context.name
        rate_hz, channels = stream.codec_context.sample_rate, stream.codec_context.channels
        header_frames = None
        if stream.duration is not None and stream.time_base is not None:
            header_frames = round(stream.duration * stream.time_base * rate_hz)
    except (av.FFmpegError, ValueError, LookupError) as error:
        raise UnsupportedAudio(f"The {name} file is damaged ({error}). Encode it again and resend.") from error
    if codec not in _AV_CODECS:
        raise UnsupportedAudio(f"{codec} in {name} is not read. Send {READABLE}.", format=name)
    to_float = av.AudioResampler(format="fltp")

    def blocks() -> Iterator[Samples]:
        with container:
            try:
                for frame in container.decode(stream):
                    for planar in to_float.resample(frame):
                        yield planar.to_ndarray().T.astype(np.float32, copy=False)
            except (av.FFmpegError, ValueError):
                return  # cut short or damaged from here on: what came before it counts

    return _Source(name, rate_hz, channels, header_frames, blocks())


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
    # A stream of unknown length gives no number, or one no recording can have (libsndfile: 2^63 - 1).
    frames = source.header_frames
    if frames is not None and limits.max_duration_s * source.rate_hz < frames < 1 << 62:
        raise _too_long(frames / source.rate_hz, limits)


def _too_long(duration_s: float | None, limits: Limits) -> AudioTooLong:
    came = "over" if duration_s is None else f"{duration_s:.0f} s, over"
    return AudioTooLong(
        f"The audio lasts {came} {limits.max_duration_s:g} s. Cut it and send the parts.",
        max_duration_s=limits.max_duration_s,
    )


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

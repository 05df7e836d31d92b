from __future__ import annotations

import io
import struct
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import audio
from serving.errors import (
    AudioTooLong,
    AudioTooShort,
    BadSamples,
    EmptyAudio,
    NoSpeech,
    RequestError,
    UnsupportedAudio,
)
from serving.formats import is_quick
from tests.sounds import Sound, encode, encode_av, voice

RATE_HZ = 16_000
SPEC = audio.WindowSpec(rate_hz=RATE_HZ, window_samples=48_000, hop_samples=24_000)

LOSSLESS = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "PCM_32"),
    ("WAV", "FLOAT"),
    ("WAV", "DOUBLE"),
    ("WAVEX", "PCM_16"),
    ("RF64", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
    ("AIFF", "PCM_16"),
]
LOSSY = [
    ("WAV", "PCM_U8"),
    ("WAV", "ALAW"),
    ("WAV", "ULAW"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]
BY_FFMPEG = [("ipod", "aac"), ("adts", "aac"), ("webm", "libopus"), ("matroska", "flac"), ("mp4", "alac")]


def level_of(error: Sound, sound: Sound) -> float:
    """Difference in decibels below the sound."""
    return float(10 * np.log10(np.mean(error**2) / np.mean(sound**2) + 1e-12))


@pytest.mark.parametrize(("kind", "subtype"), LOSSLESS)
def test_lossless_formats_decode_to_what_was_encoded(kind: str, subtype: str) -> None:
    sound = voice(1.0)
    clip = audio.decode(encode(sound, RATE_HZ, kind, subtype), RATE_HZ)
    np.testing.assert_allclose(clip.samples, sound, atol=2**-15)
    assert (clip.duration_s, clip.source_rate_hz, clip.channels) == (1.0, RATE_HZ, 1)


@pytest.mark.parametrize(("kind", "subtype"), LOSSY)
def test_lossy_formats_decode_to_something_close(kind: str, subtype: str) -> None:
    sound = voice(2.0)
    clip = audio.decode(encode(sound, RATE_HZ, kind, subtype), RATE_HZ)
    assert clip.duration_s == pytest.approx(2.0, abs=0.1)
    # MP3 and Opus may begin some samples later: the best of a few shifts is the codec's own loss.
    shifts = range(-1700, 1700, 1)
    best = min(level_of(np.roll(clip.samples, shift)[4000:28000] - sound[4000:28000], sound) for shift in shifts)
    assert best < -12


@pytest.mark.parametrize(("container", "codec"), BY_FFMPEG)
def test_formats_read_by_ffmpeg(container: str, codec: str) -> None:
    rate_hz = 48_000
    sound = voice(2.0, rate_hz)
    clip = audio.decode(encode_av(sound, rate_hz, container, codec), RATE_HZ)
    assert clip.duration_s == pytest.approx(2.0, abs=0.1)
    assert np.abs(clip.samples).max() == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 24_414, 44_100, 48_000, 96_000, 192_000])
def test_resampling_in_blocks_equals_resampling_at_once(rate_hz: int) -> None:
    sound = voice(3.0, rate_hz)
    clip = audio.decode(encode(sound, rate_hz, "WAV", "FLOAT"), RATE_HZ)
    np.testing.assert_array_equal(clip.samples, soxr.resample(sound, rate_hz, RATE_HZ, quality="HQ"))


@pytest.mark.parametrize("channels", range(1, 9))
def test_channels_are_averaged(channels: int) -> None:
    sounds = np.stack([voice(0.5, pitch_hz=100 + 20 * n, seed=n) for n in range(channels)], axis=1)
    clip = audio.decode(encode(sounds, RATE_HZ, "WAV", "FLOAT"), RATE_HZ)
    np.testing.assert_allclose(clip.samples, sounds.mean(axis=1), atol=1e-6)
    assert clip.channels == channels


def test_a_file_cut_short_gives_what_it_has() -> None:
    whole = encode(voice(3.0), RATE_HZ, "FLAC")
    clip = audio.decode(whole[: len(whole) // 2], RATE_HZ)
    assert 0.5 < clip.duration_s < 2.5


def header_only(kind: str) -> bytes:
    return encode(np.zeros(0, dtype=np.float32), RATE_HZ, kind)


@pytest.mark.parametrize("data", [b"", header_only("WAV"), header_only("AIFF")], ids=["nothing", "wav", "aiff"])
def test_no_samples_is_empty_audio(data: bytes) -> None:
    with pytest.raises(EmptyAudio):
        audio.decode(data, RATE_HZ)


NOT_AUDIO = {
    "text": b"this is not audio at all, it is a sentence",
    "zeros": bytes(4096),
    "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00cposix\nsystem\n",
    "playlist": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.wav\n",
    "concat script": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
    "midi": b"MThd\x00\x00\x00\x06\x00\x01\x00\x01\x00\x60",
    "au": b".snd\x00\x00\x00\x18" + bytes(100),
    "wav magic, then noise": b"RIFF\x00\x00\x00\x00WAVE" + bytes(range(256)),
    "mp4 magic, then noise": b"\x00\x00\x00\x18ftypM4A " + bytes(range(256)),
    "webm magic, then noise": b"\x1a\x45\xdf\xa3" + bytes(range(256)),
    "mp3 sync, then noise": b"\xff\xfb" + bytes(range(256)),
    "aac sync, then noise": b"\xff\xf1" + bytes(range(256)),
    "id3 and nothing": b"ID3\x04\x00\x00\x00\x00\x00\x00",
    "one byte": b"R",
}


@pytest.mark.parametrize("data", NOT_AUDIO.values(), ids=NOT_AUDIO.keys())
def test_what_is_not_audio_is_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedAudio, match=r"[Ss]end|again"):
        audio.decode(data, RATE_HZ)


def test_a_damaged_file_of_which_nothing_decodes_is_unsupported() -> None:
    whole = bytearray(encode(voice(1.0), RATE_HZ, "FLAC"))
    whole[90:] = bytes(len(whole) - 90)
    with pytest.raises(UnsupportedAudio, match="nothing in it decodes"):
        audio.decode(bytes(whole), RATE_HZ)


def test_a_video_without_sound_is_unsupported() -> None:
    import av

    out = io.BytesIO()
    with av.open(out, mode="w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        file.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        file.mux(stream.encode(None))
    with pytest.raises(UnsupportedAudio, match="no audio track"):
        audio.decode(out.getvalue(), RATE_HZ)


def wav_header(rate_hz: int, channels: int, data_bytes: int) -> bytes:
    block = 2 * channels
    fmt = struct.pack("<HHIIHH", 1, channels, rate_hz, (rate_hz * block) & 0xFFFFFFFF, block & 0xFFFF, 16)
    head = b"WAVEfmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", data_bytes)
    return b"RIFF" + struct.pack("<I", len(head) + data_bytes & 0xFFFFFFFF) + head


@pytest.mark.parametrize(
    ("rate_hz", "channels"), [(0, 1), (4_000, 1), (7_999, 1), (192_001, 1), (2**31 - 1, 1), (16_000, 9), (16_000, 1000)]
)
def test_rates_and_channels_out_of_range_are_unsupported(rate_hz: int, channels: int) -> None:
    data = np.full(8_000 * channels, 1000, dtype="<i2").tobytes()
    with pytest.raises(UnsupportedAudio):
        audio.decode(wav_header(rate_hz, channels, len(data)) + data, RATE_HZ)


def wav_that_claims(data_bytes: int) -> bytes:
    sound = (voice(1.0) * 32767).astype("<i2")
    return wav_header(RATE_HZ, 1, 0)[:-4] + struct.pack("<I", data_bytes) + sound.tobytes()


def test_a_streamed_wav_that_claims_the_largest_size_is_read_to_its_end() -> None:
    assert audio.decode(wav_that_claims(0xFFFFFFFF), RATE_HZ).duration_s == pytest.approx(1.0)


def test_a_wav_that_claims_no_samples_is_taken_at_its_word() -> None:
    with pytest.raises(EmptyAudio):
        audio.decode(wav_that_claims(0), RATE_HZ)


def test_too_short() -> None:
    with pytest.raises(AudioTooShort, match=r"0\.099 s; at least 0\.1 s"):
        audio.decode(encode(voice(0.0994), RATE_HZ), RATE_HZ)
    assert audio.decode(encode(voice(0.1), RATE_HZ), RATE_HZ).duration_s == 0.1


def test_hours_in_a_small_file_are_refused_by_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    hours = encode(np.zeros(8_000 * 3600, dtype=np.float32), 8_000, "FLAC")
    assert len(hours) < 100_000
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(AudioTooLong, match="3600 s"):
        audio.decode(hours, RATE_HZ)


def test_a_length_that_the_header_hides_is_counted_while_decoding() -> None:
    long = bytearray(encode(np.zeros(8_000 * 900, dtype=np.float32), 8_000, "FLAC"))
    long[21] &= 0xF0  # STREAMINFO's 36 bits of total samples: 0 says unknown
    long[22:26] = bytes(4)
    with soundfile.SoundFile(io.BytesIO(long)) as file:
        assert file.frames > 2**60
    with pytest.raises(AudioTooLong, match=r"over 600 s"):
        audio.decode(bytes(long), RATE_HZ)


def test_exactly_the_longest_is_read() -> None:
    limits = audio.Limits(max_duration_s=2.0)
    assert audio.decode(encode(voice(2.0), RATE_HZ), RATE_HZ, limits).duration_s == 2.0
    with pytest.raises(AudioTooLong):
        audio.decode(encode(voice(2.001), RATE_HZ), RATE_HZ, limits)


@pytest.mark.parametrize(("rate_hz", "channels"), [(48_000, 4), (192_000, 1)])
def test_with_more_values_a_second_the_longest_is_shorter(rate_hz: int, channels: int) -> None:
    """It is work by the value: a file of few bytes shall not have eight times of it at eight channels."""
    limits = audio.Limits(max_duration_s=2.0)
    sound = np.tile(voice(1.01, rate_hz)[:, None], channels)
    assert audio.decode(encode(sound[:rate_hz], rate_hz), RATE_HZ, limits).duration_s == 1.0
    with pytest.raises(AudioTooLong, match=f"over 1 s, the most at {rate_hz} Hz with {channels} channels") as caught:
        audio.decode(encode(sound, rate_hz), RATE_HZ, limits)
    assert caught.value.details["max_duration_s"] == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 32767.0, 1e30])
@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_bad_samples(bad: float, rate_hz: int) -> None:
    sound = voice(1.0, rate_hz)
    sound[1234] = bad
    with pytest.raises(BadSamples):
        audio.decode(encode(sound, rate_hz, "WAV", "FLOAT"), RATE_HZ)


def test_a_little_over_full_scale_is_no_fault() -> None:
    assert audio.decode(encode(4 * voice(1.0), RATE_HZ, "WAV", "FLOAT"), RATE_HZ).samples.max() > 1.5


def test_a_constant_offset_is_silence() -> None:
    with pytest.raises(NoSpeech):
        audio.windows(np.full(RATE_HZ, 0.3, dtype=np.float32), SPEC)


def test_opposite_infinities_in_two_channels_are_bad_samples() -> None:
    with pytest.raises(BadSamples):
        audio.decode(encode(np.tile([np.inf, -np.inf], (4000, 1)), RATE_HZ, "WAV", "FLOAT"), RATE_HZ)


@pytest.mark.parametrize("amplitude", [0.0, 1e-5, 2e-4])
def test_silence_is_no_speech(amplitude: float) -> None:
    quiet = amplitude * np.random.default_rng(0).standard_normal(4 * RATE_HZ).astype(np.float32)
    with pytest.raises(NoSpeech, match="-65 dBFS"):
        audio.windows(quiet, SPEC)


def test_a_quiet_voice_is_not_silence() -> None:
    assert len(audio.windows(0.01 * voice(2.0), SPEC)) == 1


@given(
    samples=st.integers(1_600, 400_000),
    window=st.integers(400, 60_000),
    hop_share=st.floats(0.05, 1.0),
)
@settings(deadline=None, max_examples=200)
def test_windows_cover_every_sample_and_never_leave_the_clip(samples: int, window: int, hop_share: float) -> None:
    spec = audio.WindowSpec(RATE_HZ, window, max(1, int(window * hop_share)))
    loud = np.resize(np.array([0.5, -0.5], dtype=np.float32), samples)
    cut = audio.windows(loud, spec)
    covered = np.zeros(max(samples, window), dtype=bool)
    for start in cut.starts:
        covered[start : start + window] = True
    assert covered.all()
    assert cut.starts[0] == 0
    assert (np.diff(cut.starts) > 0).all()
    assert (np.diff(cut.starts) <= spec.hop_samples).all()
    assert cut.starts[-1] + window == max(samples, window)


def test_windows_hold_the_samples_they_name() -> None:
    sound = voice(7.3)
    cut = audio.windows(sound, SPEC)
    assert cut.starts.tolist() == [0, 24_000, 48_000, len(sound) - 48_000]
    np.testing.assert_array_equal(cut[1:3], np.stack([sound[24_000:72_000], sound[48_000:96_000]]))
    assert cut[:].dtype == np.float32


def test_a_short_clip_is_padded_behind() -> None:
    sound = voice(1.0)
    (window,) = audio.windows(sound, SPEC)[:]
    np.testing.assert_array_equal(window[: len(sound)], sound)
    assert not window[len(sound) :].any()


def test_silent_windows_leave_a_gap() -> None:
    gap = np.zeros(10 * RATE_HZ, dtype=np.float32)
    sound = np.concatenate([voice(4.0), gap, voice(4.0)])
    starts = audio.windows(sound, SPEC).starts / RATE_HZ
    assert starts.tolist() == [0.0, 1.5, 3.0, 12.0, 13.5, 15.0]
    every = audio.windows(sound, SPEC, silent_too=True).starts / RATE_HZ
    assert every.tolist() == np.arange(0, 15.1, 1.5).tolist()


@cache
def sound_files() -> list[bytes]:
    """A short file of every kind that is read."""
    sound = voice(0.4, 48_000)
    stereo = np.stack([sound, voice(0.4, 48_000, seed=1)], axis=1)
    files = [encode(sound, 48_000, kind, subtype) for kind, subtype in LOSSLESS + LOSSY]
    files += [encode(stereo, 48_000, kind) for kind in ("WAV", "FLAC", "OGG", "MP3")]
    return files + [encode_av(sound, 48_000, container, codec) for container, codec in BY_FFMPEG]


@given(
    which=st.integers(0, len(LOSSLESS + LOSSY) + 4 + len(BY_FFMPEG) - 1),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=12),
    cut=st.floats(0, 1),
    tail=st.binary(max_size=40),
)
@settings(deadline=None, max_examples=600)
def test_a_damaged_file_is_heard_or_refused_in_our_own_words(
    which: int, edits: list[tuple[float, int]], cut: float, tail: bytes
) -> None:
    data = bytearray(sound_files()[which])
    for where, value in edits:
        # Headers are where damage is interesting: half of the edits fall into the first 200 bytes.
        reach = len(data) if value % 2 else min(200, len(data))
        data[int(where * (reach - 1))] = value
    data = data[: int((0.3 + 0.7 * cut) * len(data))] + tail
    try:
        clip = audio.decode(bytes(data), RATE_HZ)
    except RequestError:
        return
    assert np.isfinite(clip.samples).all()


def adts(*files: bytes) -> bytes:
    """AAC frames of several files in a row: what a recorder leaves that was stopped and started."""
    return b"".join(files)


def test_a_stream_that_changes_rate_or_channels_midway_is_refused() -> None:
    slow, fast = (
        encode_av(voice(1.0, 24_000), 24_000, "adts", "aac"),
        encode_av(voice(1.0, 48_000), 48_000, "adts", "aac"),
    )
    assert audio.decode(adts(fast, fast), RATE_HZ).duration_s == pytest.approx(2.0, abs=0.2)
    for mixed in (adts(slow, fast), adts(fast, slow)):
        with pytest.raises(UnsupportedAudio, match="midway"):
            audio.decode(mixed, RATE_HZ)


def test_a_codec_that_nobody_knows_is_refused() -> None:
    opus = encode_av(voice(1.0, 48_000), 48_000, "matroska", "libopus")
    assert b"A_OPUS" in opus
    with pytest.raises(UnsupportedAudio, match="unknown codec"):
        audio.decode(opus.replace(b"A_OPUS", b"A_QQQQ"), RATE_HZ)


@pytest.mark.parametrize("size", [0, 5, 300])
def test_a_tag_before_the_sound_is_passed_over(size: int) -> None:
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, size >> 7, size & 127]) + bytes(size)
    for data in (encode(voice(1.0), RATE_HZ, "MP3"), encode_av(voice(1.0, 48_000), 48_000, "adts", "aac")):
        assert audio.decode(tag + data, RATE_HZ).duration_s == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_a_file_cut_short_shows_in_the_announced_length(kind: str) -> None:
    whole = encode(voice(2.0), RATE_HZ, kind)
    assert audio.decode(whole, RATE_HZ).announced_s == 2.0
    cut = audio.decode(whole[: len(whole) // 2], RATE_HZ)
    assert cut.announced_s == pytest.approx(2.0, abs=0.01)
    assert cut.duration_s < 1.5


@pytest.mark.parametrize(
    ("data", "quick"),
    [
        (encode(voice(3.0), RATE_HZ), True),
        (encode(voice(3.0), RATE_HZ, "WAV", "FLOAT"), True),
        (encode(voice(3.0, 48_000), 48_000), False),
        (encode(voice(3.0), RATE_HZ, "WAV", "GSM610"), False),
        (encode(voice(3.0), RATE_HZ, "FLAC"), False),
        (encode(voice(40.0), RATE_HZ), False),
        (b"", False),
        (b"RIFF", False),
    ],
)
def test_what_is_decoded_without_a_thread_is_little_more_than_a_copy(data: bytes, quick: bool) -> None:
    assert is_quick(data, RATE_HZ) is quick


def test_a_wav_whose_recorder_was_killed_is_read() -> None:
    """Its sizes are zero; the samples are there."""
    whole = bytearray(encode(voice(2.0), RATE_HZ))
    place = whole.index(b"data")
    whole[4:8] = whole[place + 4 : place + 8] = bytes(4)
    assert audio.decode(bytes(whole), RATE_HZ).duration_s == pytest.approx(2.0, abs=0.01)
    silence_first = whole[: place + 8] + bytes(2000) + whole[place + 8 :]
    assert audio.decode(bytes(silence_first), RATE_HZ).duration_s == pytest.approx(2.06, abs=0.01)


def test_a_header_that_announces_hours_does_not_make_a_second_too_long() -> None:
    whole = bytearray(encode(voice(1.0), RATE_HZ))
    place = whole.index(b"data")
    size = 1200 * RATE_HZ * 2
    whole[4:8], whole[place + 4 : place + 8] = (size + 36).to_bytes(4, "little"), size.to_bytes(4, "little")
    clip = audio.decode(bytes(whole), RATE_HZ)
    assert clip.duration_s == 1
    assert clip.announced_s == pytest.approx(1200, rel=0.01)


@pytest.mark.parametrize("text", ["hello, this is text".encode("utf-16"), b"\xff\xfb\xff\xff" + bytes(64)])
def test_what_only_begins_like_mp3_is_refused_in_our_words(text: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnsupportedAudio, match="not audio that is read here"):
        audio.decode(text, RATE_HZ)
    assert capfd.readouterr().err == ""


def test_two_tags_and_zeros_before_the_sound_are_passed_over() -> None:
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 0, 5]) + b"title"
    data = tag + bytes(100) + tag + bytes(7) + encode(voice(1.0), RATE_HZ, "MP3")
    assert audio.decode(data, RATE_HZ).duration_s == pytest.approx(1.0, abs=0.2)


def test_real_clips(shared_samples: list[Path]) -> None:
    for path in shared_samples:
        clip = audio.decode(path.read_bytes(), RATE_HZ)
        info = soundfile.info(path)
        assert (clip.source_rate_hz, clip.channels) == (info.samplerate, info.channels)
        assert len(clip.samples) == pytest.approx(info.duration * RATE_HZ, abs=2)
        assert len(audio.windows(clip.samples, SPEC)) == (1 if info.duration <= 3 else 2)

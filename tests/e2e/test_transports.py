"""The same questions by every transport, and the same answers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from tests import transports
from tests.models import copy_versions
from tests.service import Service, running
from tests.sounds import encode, voice
from tests.transports import LIVE, TAKE_FILES, TAKE_SAMPLES, Ask, Clip, RefusedError, Talk, clip_of

EVERY = TAKE_FILES + TAKE_SAMPLES
PRECISION = 1e-5

every = pytest.mark.parametrize("ask", EVERY, ids=lambda ask: ask.__name__)
takes_files = pytest.mark.parametrize("ask", TAKE_FILES, ids=lambda ask: ask.__name__)
live = pytest.mark.parametrize("talk", LIVE, ids=lambda talk: talk.__name__)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with two versions, so that one can be asked for."""
    folder = tmp_path_factory.mktemp("two")
    models = copy_versions(folder, "2")
    (models / "routes.yaml").write_text(
        "default: stable\nvariants: {stable: {version: '1', weight: 1}, candidate: {version: '2', weight: 0}}\n"
    )
    with running(folder / "log.txt", models=models) as service:
        yield service


@every
@pytest.mark.parametrize(("seconds", "rate_hz"), [(1.0, 16_000), (4.2, 16_000), (3.7, 44_100)])
def test_answers_are_the_same(two: Service, ask: Ask, seconds: float, rate_hz: int) -> None:
    clip = clip_of(voice(seconds, rate_hz), rate_hz)
    expected, told = transports.multipart(two, clip, {}), ask(two, clip, {})
    assert (told.emotion, told.version) == (expected.emotion, "1")
    assert told.confidence == pytest.approx(expected.confidence, abs=PRECISION)
    assert told.all_emotions == pytest.approx(expected.all_emotions, abs=PRECISION)


@takes_files
def test_other_formats_are_the_same(two: Service, ask: Ask) -> None:
    sound = voice(2.0, 22_050)
    clip = Clip(np.empty(0), 22_050, encode(np.stack([sound, -0.5 * sound], axis=1), 22_050, "FLAC"))
    assert ask(two, clip, {}).all_emotions == pytest.approx(
        transports.multipart(two, clip, {}).all_emotions, abs=PRECISION
    )


@every
def test_a_version_can_be_pinned(two: Service, ask: Ask) -> None:
    assert ask(two, clip_of(voice(1.0), 16_000), {"version": "2"}).version == "2"


@every
def test_the_emotion_can_be_left_open(two: Service, ask: Ask) -> None:
    told = ask(two, clip_of(voice(1.0), 16_000), {"min_confidence": 1.0})
    assert told.emotion is None
    assert told.confidence > 0


@every
@pytest.mark.parametrize(
    ("clip", "options", "code"),
    [
        (clip_of(np.zeros(16_000, np.float32), 16_000), {}, "no_speech"),
        (clip_of(voice(0.05), 16_000), {}, "audio_too_short"),
        (clip_of(voice(1.0, 4_000), 4_000), {}, "unsupported_audio"),
        (clip_of(voice(1.0), 16_000), {"version": "9"}, "unknown_version"),
        (clip_of(voice(1.0), 16_000), {"min_confidence": 1.5}, "invalid_request"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals_are_the_same(two: Service, ask: Ask, clip: Clip, options: dict[str, Any], code: str) -> None:
    with pytest.raises(RefusedError, match=f"^{code}$"):
        ask(two, clip, options)


@takes_files
@pytest.mark.parametrize(("data", "code"), [(b"not audio", "unsupported_audio"), (b"", "empty_audio")])
def test_refusals_of_files_are_the_same(two: Service, ask: Ask, data: bytes, code: str) -> None:
    with pytest.raises(RefusedError, match=f"^{code}$"):
        ask(two, Clip(np.empty(0), 0, data), {})


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with small limits."""
    with running(tmp_path_factory.mktemp("small") / "log.txt", max_upload_mib=1, max_duration_s=2) as service:
        yield service


@every
def test_too_long_a_recording_is_the_same(small: Service, ask: Ask) -> None:
    with pytest.raises(RefusedError, match=r"^audio_too_long$"):
        ask(small, clip_of(voice(2.1), 16_000), {})


@every
def test_too_large_a_body_is_the_same(small: Service, ask: Ask) -> None:
    over = (1 << 20) + (1 << 17)
    sample_bytes = 2 if ask is transports.grpc_samples else 4
    with pytest.raises(RefusedError, match=r"^too_large$"):
        ask(small, Clip(np.zeros(over // sample_bytes, np.int16), 16_000, bytes(over)), {})


def frames_of(clip: Clip, seconds: float = 0.1) -> list[bytes]:
    size = 2 * round(seconds * clip.rate_hz)
    return [clip.pcm[start : start + size] for start in range(0, len(clip.pcm), size)]


@live
@pytest.mark.parametrize("rate_hz", [16_000, 48_000, 8_000])
def test_an_utterance_is_answered_as_a_clip_of_its_samples_is(
    two: Service, spoken: dict[int, Clip], talk: Talk, rate_hz: int
) -> None:
    clip = spoken[rate_hz]
    messages = list(talk(two, frames_of(clip), rate_hz))
    assert messages[0]["type"] == "session"
    ends = [message for message in messages if message["type"] == "utterance.end"]
    assert len(ends) == 2
    for end in ends:
        part = clip.samples[int(end["start_sample"]) : int(end["end_sample"])]
        expected = httpx.post(f"{two.url}/predict", files={"file": encode(part, rate_hz)}).json()
        told = end["prediction"]
        assert told["emotion"] == expected["emotion"]
        assert told["all_emotions"] == pytest.approx(expected["all_emotions"], abs=PRECISION)
        assert told["duration_s"] == expected["duration_s"]


def test_the_spoken_clip_is_a_file_too(spoken: dict[int, Clip]) -> None:
    """What the comparison above rests on: the file holds the very samples."""
    for rate_hz, clip in spoken.items():
        samples, read_hz = soundfile.read(io.BytesIO(clip.data), dtype="int16")
        assert read_hz == rate_hz
        assert np.array_equal(samples, clip.samples)


def test_every_transport_counts_by_its_own_name(two: Service) -> None:
    named = {
        line.split('transport="')[1].split('"')[0]
        for line in httpx.get(f"{two.url}/metrics").text.splitlines()
        if line.startswith("timbre_requests_total")
    }
    assert named == {"http", "grpc", "oip-http", "oip-grpc", "websocket"}

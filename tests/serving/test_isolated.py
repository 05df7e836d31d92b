"""What a file leaves behind in the process that decoded it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import audio, isolated
from serving.audio import Limits
from serving.errors import AudioTooLong, Overloaded, RequestError, UnsupportedAudio
from serving.formats import Source, open_source
from serving.isolated import _Decoder, _Decoders, open_isolated
from tests.hostile import lying_headers, sounds, truncated
from tests.sounds import encode_av, voice

RATE_HZ = 16_000
_SPREAD_BYTES = 8 << 20  # of a decoder that has seen other files


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Decoder]:
    """The only one there is."""
    decoders = _Decoders(1)
    monkeypatch.setattr("serving.isolated._decoders", lambda: decoders)
    only = decoders.take()
    decoders.give_back(only)
    yield only
    assert only.alive  # none took its place
    decoders.close()


def resident_bytes(decoder: _Decoder) -> int:
    """Once it has nothing to do any more: what it was told before is done when it answers the next."""
    pid = decoder._process.pid
    ask(sounds()["m4a"])
    return memory_bytes(pid)


def memory_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


def ask(data: bytes, blocks: int = 1 << 30) -> None:
    """Read so many blocks of a file, whatever it is, and leave it."""
    with contextlib.suppress(RequestError), contextlib.closing(open_source(data)) as source:
        for _ in zip(range(blocks), source.blocks, strict=False):
            pass


def test_a_decoder_is_as_small_after_a_file_as_before(decoder: _Decoder) -> None:
    """An index of a million samples takes 40 MB; what was freed of it must go back, the second time too."""
    name = "M4A, 1000000 samples of one byte"
    (index,) = [hostile.data for hostile in lying_headers(sounds()) if hostile.name == name]
    ask(sounds()["webm"])
    before = resident_bytes(decoder)
    for _ in range(4):
        ask(index)
    assert resident_bytes(decoder) < before + _SPREAD_BYTES


def test_a_file_that_is_left_in_the_middle_is_let_go_of(decoder: _Decoder) -> None:
    """Each has 10 MB, which would count for the next one too: a decoder's room is limited."""
    long = encode_av(voice(30.0, 48_000), 48_000, "ipod", "aac")
    padded = long + bytes.fromhex("00a00000") + b"free" + bytes((10 << 20) - 8)
    before = resident_bytes(decoder)
    for _ in range(12):
        ask(padded, blocks=1)
    assert resident_bytes(decoder) < before + _SPREAD_BYTES


def refuse_room(_: int) -> None:
    raise Overloaded("No room.", reason="decoded")


def have_none(_: int) -> None:
    raise MemoryError


def test_a_refusal_that_is_kept_keeps_no_decoder(decoder: _Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its first block or after it, by the header, by what makes room, or by a fault of ours."""
    monkeypatch.setattr(isolated, "_WAIT_S", 1.0)
    good = sounds()["m4a"]
    slow = encode_av(voice(1.0, 7_350), 7_350, "ipod", "aac")
    kept = []
    for error, data, limits, take in (
        (UnsupportedAudio, slow, Limits(), lambda _: None),
        (AudioTooLong, good, Limits(max_duration_s=0.5), lambda _: None),
        (AudioTooLong, sounds()["aac"], Limits(max_duration_s=0.5), lambda _: None),  # which has no length in a header
        (Overloaded, good, Limits(), refuse_room),
        (MemoryError, good, Limits(), have_none),
    ):
        with pytest.raises(error) as caught:
            audio.read(open_source(data), RATE_HZ, limits, take)
        kept.append(caught)
    assert audio.decode(good, RATE_HZ).duration_s == pytest.approx(1.0, abs=0.2)


def test_who_waits_for_a_decoder_in_vain_is_told(decoder: _Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "_WAIT_S", 0.1)
    with (
        contextlib.closing(open_source(sounds()["webm"])),
        pytest.raises(Overloaded, match=r"busy for 0\.1 s") as caught,
    ):
        open_source(sounds()["m4a"])
    assert caught.value.details["reason"] == "decoders"
    assert audio.decode(sounds()["m4a"], RATE_HZ).samples.any()


def test_closing_again_gives_no_decoder_back_that_another_file_has(
    decoder: _Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "_WAIT_S", 0.1)

    def closed(data: bytes) -> Source:
        with contextlib.closing(open_source(data)) as source:
            return source

    first = closed(sounds()["m4a"])
    with contextlib.closing(open_source(sounds()["webm"])) as second:
        first.close()
        assert list(first.blocks) == []
        with pytest.raises(Overloaded):
            open_source(sounds()["m4a"])
        assert sum(map(len, second.blocks)) > 0


def test_a_decoder_that_cannot_be_told_any_more_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    decoders = _Decoders(1)
    monkeypatch.setattr(isolated, "_decoders", lambda: decoders)
    monkeypatch.setattr(isolated, "_WAIT_S", 1.0)
    only = decoders.take()
    decoders.give_back(only)
    _, blocks = open_isolated(sounds()["m4a"], "mov")
    assert only._process.stdin
    only._process.stdin.close()  # at which it ends; whether it lives is asked before it is told
    only._process.wait(20)
    with monkeypatch.context() as patch:
        patch.setattr(_Decoder, "alive", True)
        blocks.close()
    assert audio.decode(sounds()["m4a"], RATE_HZ).samples.any()
    decoders.close()


def test_vorbis_that_is_damaged_leaves_nothing_in_our_own_process() -> None:
    """6 kB of each file stayed."""
    damaged = [hostile.data for hostile in truncated(sounds()) if hostile.name.startswith("vorbis")]

    def after(rounds: int) -> int:
        for _ in range(rounds):
            for data in damaged:
                ask(data)
        return memory_bytes(os.getpid())

    before = after(20)
    assert after(100) < before + (2 << 20)

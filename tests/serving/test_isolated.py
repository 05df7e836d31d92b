"""What a file leaves behind in the process that decoded it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.errors import RequestError
from serving.formats import open_source
from serving.isolated import _Decoder, _Decoders
from tests.hostile import lying_headers, sounds, truncated
from tests.sounds import encode_av, voice

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
    with contextlib.suppress(RequestError):
        source = open_source(data)
        for _ in zip(range(blocks), source.blocks, strict=False):
            pass
        source.blocks.close()  # type: ignore[attr-defined]  # a generator, as every source's are


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

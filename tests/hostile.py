"""Files that strangers might send: damaged, lying, enormous when unpacked, or meant for another program.

Made here from sounds of our own, so that no zoo of binaries need be kept. Each says what may come of it.
"""

from __future__ import annotations

import gzip
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import cast

import av

from tests.sounds import encode, encode_av, voice

RATE_HZ = 16_000

HEARD = "ok"
"""What is damaged in the middle gives what it has; see ``serving.audio.decode``."""

REFUSED = frozenset({"unsupported_audio"})
DAMAGED = frozenset(
    {HEARD, "unsupported_audio", "empty_audio", "audio_too_short", "audio_too_long", "no_speech", "bad_samples"}
)
TOO_LONG, NO_SPEECH = frozenset({"audio_too_long"}), frozenset({"no_speech"})
EMPTY = frozenset({"empty_audio", "unsupported_audio"})


@dataclass(frozen=True)
class Hostile:
    """A file, and the outcomes that are right for it: codes of docs/errors.md, or ``HEARD``."""

    name: str
    data: bytes
    outcomes: frozenset[str] = REFUSED


Family = Callable[[dict[str, bytes]], Iterator[Hostile]]


@cache
def sounds() -> dict[str, bytes]:
    """A good second in every container and codec that is read."""
    sound, fast = voice(1.0), voice(1.0, 48_000)
    return {
        "wav": encode(sound, RATE_HZ),
        "wav-float": encode(sound, RATE_HZ, "WAV", "FLOAT"),
        "wav-ulaw": encode(sound, RATE_HZ, "WAV", "ULAW"),
        "rf64": encode(sound, RATE_HZ, "RF64"),
        "flac": encode(sound, RATE_HZ, "FLAC"),
        "vorbis": encode(sound, RATE_HZ, "OGG", "VORBIS"),
        "opus": encode(fast, 48_000, "OGG", "OPUS"),
        "mp3": encode(sound, RATE_HZ, "MP3"),
        "aiff": encode(sound, RATE_HZ, "AIFF"),
        "m4a": encode_av(fast, 48_000, "ipod", "aac"),
        "alac": encode_av(fast, 48_000, "ipod", "alac"),
        "aac": encode_av(fast, 48_000, "adts", "aac"),
        "webm": encode_av(fast, 48_000, "webm", "libopus"),
    }


def truncated(good: dict[str, bytes]) -> Iterator[Hostile]:
    """Every format cut at every tenth."""
    for kind, data in good.items():
        for tenth in range(1, 10):
            yield Hostile(f"{kind} cut at {tenth}/10", data[: len(data) * tenth // 10], DAMAGED)


def flipped(good: dict[str, bytes]) -> Iterator[Hostile]:
    """Every format with some of its bits turned over, half of them where headers are."""
    chance = random.Random(1)
    for kind, data in good.items():
        for turn in range(10):
            spoiled = bytearray(data)
            for _ in range(1 + turn):
                reach = min(200, len(spoiled)) if turn % 2 else len(spoiled)
                spoiled[chance.randrange(reach)] ^= 1 << chance.randrange(8)
            yield Hostile(f"{kind} flipped, {turn}", bytes(spoiled), DAMAGED)


def wav_header(rate_hz: int, channels: int, riff_bytes: int, data_bytes: int) -> bytes:
    """The 44 bytes before 16-bit samples."""
    block = 2 * channels & 0xFFFF
    fmt = struct.pack("<HHIIHH", 1, channels, rate_hz, rate_hz * block & 0xFFFFFFFF, block, 16)
    return (
        b"RIFF" + struct.pack("<I", riff_bytes) + b"WAVEfmt \x10\0\0\0" + fmt + b"data" + struct.pack("<I", data_bytes)
    )


def lying_headers(good: dict[str, bytes]) -> Iterator[Hostile]:
    """Sizes, rates, channels and lengths that are not so, or cannot be."""
    samples = (voice(1.0) * 32767).astype("<i2").tobytes()
    most = 2**32 - 1
    for riff, data in ((0, 0), (most, most), (most, 0), (0, most), (36, most), (most, 2), (4, 4), (36 + 2**31, 2**31)):
        yield Hostile(f"WAV, sizes {riff} and {data}", wav_header(RATE_HZ, 1, riff, data) + samples, DAMAGED)
    for rate_hz, channels in ((0, 1), (1, 1), (2**31, 1), (most, 1), (RATE_HZ, 0), (RATE_HZ, 9), (RATE_HZ, 65_535)):
        header = wav_header(rate_hz, channels, 36 + len(samples), len(samples))
        yield Hostile(f"WAV, {rate_hz} Hz, {channels} channels", header + samples)
    flac = bytearray(good["flac"])
    flac[21] |= 0x0F  # STREAMINFO's 36 bits of total samples
    flac[22:26] = b"\xff" * 4
    yield Hostile("FLAC, 2^36 - 1 samples", bytes(flac), TOO_LONG)
    for name, place, value in (("0 Hz", 18, b"\0\0\x00"), ("655,350 Hz", 18, b"\xff\xff\xf0")):
        spoiled = bytearray(good["flac"])
        spoiled[place : place + 3] = value
        yield Hostile(f"FLAC, {name}", bytes(spoiled), DAMAGED - {HEARD})
    place = good["aiff"].index(b"COMM") + 8
    for name, rate in (
        ("0 Hz", bytes(10)),
        ("infinitely many Hz", b"\x7f\xff" + bytes(8)),
        ("-1 Hz", b"\xbf\xff\x80" + bytes(7)),
    ):
        spoiled = bytearray(good["aiff"])
        spoiled[place + 8 : place + 18] = rate
        yield Hostile(f"AIFF, {name}", bytes(spoiled))
    yield Hostile("AIFF, 32,767 channels", good["aiff"][:place] + b"\x7f\xff" + good["aiff"][place + 2 :])
    yield from _lying_matroska(good["webm"])
    yield from _lying_mp4(good["m4a"])


def _lying_matroska(webm: bytes) -> Iterator[Hostile]:
    """Numbers of a Matroska track; 9F are its channels."""
    place = webm.index(b"\x9f\x81\x01")
    yield Hostile("WebM, 255 channels", webm[: place + 2] + b"\xff" + webm[place + 3 :], DAMAGED)
    million = (1_000_000).to_bytes(3, "big")
    yield Hostile("WebM, 10^6 channels", _matroska(million, struct.pack(">d", 48_000.0)))
    for name, rate in (("0 Hz", 0.0), ("2^31 Hz", 2.0**31), ("no number of Hz", float("nan")), ("-1 Hz", -1.0)):
        yield Hostile(f"WebM, {name}", _matroska(b"\x01", struct.pack(">d", rate)), DAMAGED - {HEARD})
    yield Hostile("WebM of nested clusters", webm[:5] + b"\x1f\x43\xb6\x75\x01" + b"\xff" * 7 * 10_000)


def element(identity: bytes, *content: bytes) -> bytes:
    """An EBML element with a size of eight bytes (RFC 8794)."""
    data = b"".join(content)
    return identity + (1 << 56 | len(data)).to_bytes(8, "big") + data


def _matroska(channels: bytes, rate: bytes) -> bytes:
    """A file with one track of 16-bit samples and a block of them."""
    head = element(b"\x1a\x45\xdf\xa3", element(b"\x42\x82", b"matroska"))
    sound = element(b"\xe1", element(b"\xb5", rate), element(b"\x9f", channels), element(b"\x62\x64", b"\x10"))
    codec = element(b"\x86", b"A_PCM/INT/LIT")
    track = element(
        b"\xae", element(b"\xd7", b"\x01"), element(b"\x73\xc5", b"\x01"), element(b"\x83", b"\x02"), codec, sound
    )
    block = element(b"\xa3", b"\x81\0\0\x80", bytes(9600))
    cluster = element(b"\x1f\x43\xb6\x75", element(b"\xe7", b"\0"), block)
    return head + element(b"\x18\x53\x80\x67", element(b"\x16\x54\xae\x6b", track), cluster)


def _lying_mp4(m4a: bytes) -> Iterator[Hostile]:
    """Tables of an MP4 that announce more than is there."""
    for samples in (10**6, 5 * 10**7, 2**32 - 1):
        spoiled = bytearray(m4a)
        struct.pack_into(">II", spoiled, m4a.index(b"stsz") + 8, 1, samples)  # all of one byte: no table is needed
        struct.pack_into(">I", spoiled, m4a.index(b"stsc") + 16, samples)
        struct.pack_into(">II", spoiled, m4a.index(b"stts") + 12, samples, 1)
        yield Hostile(f"M4A, {samples} samples of one byte", bytes(spoiled), DAMAGED - {HEARD})
    for name, timescale in (("0", 0), ("2^32 - 1", 2**32 - 1)):
        spoiled = bytearray(m4a)
        struct.pack_into(">I", spoiled, m4a.index(b"mdhd") + 16, timescale)
        yield Hostile(f"M4A, time in {name} parts of a second", bytes(spoiled), DAMAGED)
    for duration in (-1, -RATE_HZ, -(10**9), -(2**63), 2**63 - 1):
        yield Hostile(f"M4A that lasts {duration} parts of a second", _mp4_lasting(m4a, duration), DAMAGED)
    box = b"moov"
    nested = b""
    for _ in range(5_000):
        nested = struct.pack(">I", len(nested) + 8) + box + nested
    yield Hostile("M4A, 5,000 boxes in each other", m4a[:32] + nested)
    yield Hostile("M4A, a box of 2^64 - 1 bytes", m4a[:28] + b"\0\0\0\x01moov" + b"\xff" * 8)
    yield Hostile("M4A, boxes without size", m4a[:28] + b"\0\0\0\0moov" * 1_000)


def _mp4_lasting(m4a: bytes, duration: int) -> bytes:
    """An M4A whose header says so, in a ``mdhd`` of version 1: those of version 0 know no negative length.

    It is twelve bytes longer, and so is what it lies in (ISO 14496-12, 8.4.2). Its edit list, which tells a length too,
    is taken for free space.
    """
    spoiled = bytearray(m4a)
    place = m4a.index(b"mdhd") - 4
    spoiled[place : place + 32] = struct.pack(">I4sIQQIqHH", 44, b"mdhd", 1 << 24, 0, 0, RATE_HZ, duration, 0x55C4, 0)
    for box in (b"moov", b"trak", b"mdia"):
        start = m4a.index(box) - 4
        struct.pack_into(">I", spoiled, start, struct.unpack_from(">I", m4a, start)[0] + 12)
    return bytes(spoiled).replace(b"edts", b"free")


def long_in_little(_: dict[str, bytes]) -> Iterator[Hostile]:
    """Ten hours of silence, and ten minutes of it in as many values as there may be in a second."""
    flac = flac_of_nothing(36_000)
    yield Hostile("ten hours of FLAC", flac, TOO_LONG)
    yield Hostile("ten hours of FLAC that does not say so", _of_unknown_length(flac), TOO_LONG)
    yield Hostile("ten hours of Opus", opus_of_nothing(36_000), TOO_LONG)
    yield Hostile("ten hours of Opus that says one second", opus_of_nothing(36_000, announced_s=1), DAMAGED - {HEARD})
    wide = flac_of_nothing(600, 192_000, 8)
    yield Hostile("ten minutes of FLAC at 192 kHz in 8 channels", wide, TOO_LONG)
    yield Hostile("the same that does not say so", _of_unknown_length(wide), TOO_LONG)
    yield Hostile("as much of it as is taken", flac_of_nothing(37, 192_000, 8), NO_SPEECH)


def _of_unknown_length(flac: bytes) -> bytes:
    return flac[:21] + bytes([flac[21] & 0xF0, 0, 0, 0, 0]) + flac[26:]


_FLAC_RATES = {8_000: 4, 192_000: 3}  # as a frame's head calls them


def flac_of_nothing(seconds: int, rate_hz: int = 8_000, channels: int = 1) -> bytes:
    """Silence in the longest frames there are, 14 bytes each and three more for each channel more (RFC 9639)."""
    length = 65_535
    frames = seconds * rate_hz // length
    described = rate_hz << 44 | (channels - 1) << 41 | 15 << 36 | frames * length
    about = struct.pack(">HH", length, length) + bytes(6) + described.to_bytes(8, "big")
    kind = bytes([0x70 | _FLAC_RATES[rate_hz], (channels - 1) << 4 | 8])  # a length of 16 bits follows; 16 bits a value
    out = [b"fLaC\x80\0\0\x22", about, bytes(16)]
    for number in range(frames):
        head = b"\xff\xf8" + kind + _utf8(number) + struct.pack(">H", length - 1)
        frame = head + bytes([_crc(head, 8, 0x07)]) + b"\0\0\0" * channels  # one constant for all of it
        out.append(frame + _crc(frame, 16, 0x8005).to_bytes(2, "big"))
    return b"".join(out)


def _utf8(number: int) -> bytes:
    """FLAC counts its frames as UTF-8 writes characters, those included that are none."""
    return chr(number).encode("utf-8", "surrogatepass")


def opus_of_nothing(seconds: int, announced_s: int | None = None) -> bytes:
    """Ogg Opus (RFC 7845) of lost packets: two bytes tell of 120 ms."""
    head = b"OpusHead\x01\x01" + struct.pack("<HIhB", 0, 48_000, 0, 0)
    tags = b"OpusTags" + struct.pack("<I", 0) * 2
    pages = [_ogg_page([head], 0, 0, 2), _ogg_page([tags], 1, 0, 0)]
    lost = b"\x1b\x02"  # SILK, 60 ms, twice, of no bytes
    place = 0
    for number in range(-(-seconds * 1000 // (255 * 120))):
        place += 255 * 5_760
        told = place if announced_s is None else min(place, announced_s * 48_000)
        pages.append(_ogg_page([lost] * 255, number + 2, told, 0))
    return b"".join(pages)


def _ogg_page(packets: list[bytes], number: int, granule: int, flags: int) -> bytes:
    """A page of whole packets shorter than 255 bytes (RFC 3533), its checksum included."""
    head = b"OggS\0" + bytes([flags]) + struct.pack("<qII", granule, 1, number)
    lacing = bytes([len(packets)]) + bytes(map(len, packets))
    body = b"".join(packets)
    return head + struct.pack("<I", _crc(head + bytes(4) + lacing + body, 32, 0x04C11DB7)) + lacing + body


def _crc(data: bytes, bits: int, polynomial: int) -> int:
    """A checksum, the highest bit first, that begins with zero."""
    table, mask = _crc_table(bits, polynomial), (1 << bits) - 1
    crc = 0
    for byte in data:
        crc = (crc << 8 & mask) ^ table[crc >> bits - 8 ^ byte]
    return crc


@cache
def _crc_table(bits: int, polynomial: int) -> list[int]:
    def entry(byte: int) -> int:
        crc = byte << bits - 8
        for _ in range(8):
            crc = (crc << 1 ^ (polynomial if crc >> bits - 1 else 0)) & (1 << bits) - 1
        return crc

    return [entry(byte) for byte in range(256)]


def tags(good: dict[str, bytes]) -> Iterator[Hostile]:
    """ID3: one that is huge, one that says so, and very many."""
    size = 20 << 20
    seven = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    yield Hostile("a tag of 20 MiB before MP3", b"ID3\4\0\0" + seven + bytes(size) + good["mp3"], frozenset({HEARD}))
    yield Hostile("a tag that says 256 MiB", b"ID3\4\0\0\x7f\x7f\x7f\x7f" + good["mp3"])
    yield Hostile("two million tags", b"ID3\4\0\0\0\0\0\0" * 2_000_000 + good["mp3"])


def bombs(good: dict[str, bytes]) -> Iterator[Hostile]:
    """Little that becomes much, and much that readers look at piece by piece."""
    zeros = bytes(64 << 20)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("clip.wav", zeros)
    yield Hostile("a zip bomb", packed.getvalue())
    yield Hostile("a gzip bomb", gzip.compress(zeros, 1))
    yield Hostile("a zlib bomb", zlib.compress(zeros, 1))
    pieces = b"junk\0\0\0\0" * 2_000_000
    wav = good["wav"]
    before, after = b"WAVE" + wav[12:36] + pieces + wav[36:], wav[8:] + pieces
    for name, body in (("before", before), ("after", after)):
        yield Hostile(f"WAV, two million chunks {name} the sound", b"RIFF" + struct.pack("<I", len(body)) + body)
    body = before[: 1 << 19] + wav[36:]  # small enough to be decoded where it must not take long
    yield Hostile("WAV, 60,000 chunks before the sound", b"RIFF" + struct.pack("<I", len(body)) + body)
    place = good["aiff"].index(b"SSND")
    body = good["aiff"][8:place] + pieces + good["aiff"][place:]
    yield Hostile("AIFF, two million chunks", b"FORM" + struct.pack(">I", len(body)) + body)
    padding = b"\x01\0\0\0" * 2_000_000
    yield Hostile("FLAC, two million blocks of metadata", good["flac"][:42] + padding + good["flac"][42:])
    header = _ogg_page([b"OpusHead\x01\x01" + struct.pack("<HIhB", 0, 48_000, 0, 0)], 0, 0, 2)
    yield Hostile("Ogg, half a million pages of nothing", header + _ogg_page([], 1, 0, 0) * 500_000, DAMAGED - {HEARD})
    yield Hostile(
        "MP3, a million frames of nothing", b"\xff\xf3\x14\xc4" + (bytes(20) + b"\xff\xf3\x14\xc4") * 1_000_000, DAMAGED
    )
    void = element(b"\xec")
    yield Hostile("WebM, two million elements of nothing", good["webm"][:40] + void * 2_000_000, DAMAGED)
    empty = b"\0\0\0\x08free"
    yield Hostile("M4A, two million boxes of nothing", good["m4a"][:28] + empty * 2_000_000, DAMAGED)


def not_for_us(_: dict[str, bytes]) -> Iterator[Hostile]:
    """Files for other programs, of the kind that makes FFmpeg open what they name; and video."""
    named = "http://127.0.0.1:9/clip.wav", "file:///etc/passwd", "/etc/passwd", "concat:/etc/passwd|/etc/hosts"
    for target in named:
        yield Hostile(f"m3u8 of {target}", f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n".encode())
        yield Hostile(f"concat of {target}", f"ffconcat version 1.0\nfile '{target}'\n".encode())
        yield Hostile(f"the name {target}", target.encode())
    yield Hostile("SDP", b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n")
    yield Hostile("DASH", b'<?xml version="1.0"?><MPD><Period><BaseURL>file:///etc/passwd</BaseURL></Period></MPD>')
    yield Hostile("an XML bomb", b'<!DOCTYPE a [<!ENTITY b "' + b"b" * 1000 + b'">]><a>' + b"&b;" * 1000 + b"</a>")
    yield Hostile("a picture", b"\x89PNG\r\n\x1a\n" + bytes(1000))
    yield Hostile("a script", b"#!/bin/sh\nrm -rf /tmp/timbre\n")
    for container, codec in (("mp4", "mpeg4"), ("matroska", "mpeg4"), ("avi", "mpeg4")):
        yield Hostile(f"video in {container}", video(container, codec))
    yield Hostile("AVI with sound", encode_av(voice(1.0, 48_000), 48_000, "avi", "mp3"))
    yield Hostile("nothing", b"", EMPTY)
    yield Hostile("one byte", b"R")


def video(container: str, codec: str) -> bytes:
    """Pictures without sound."""
    out = io.BytesIO()
    with av.open(out, mode="w", format=container) as file:
        stream = cast("av.VideoStream", file.add_stream(codec, rate=10))
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(10):
            file.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        file.mux(stream.encode(None))
    return out.getvalue()


def polyglots(good: dict[str, bytes]) -> Iterator[Hostile]:
    """One file that is several, and containers in containers."""
    yield Hostile("a zip behind WAV", good["wav"] + _zipped(good["flac"]), frozenset({HEARD}))
    yield Hostile("WAV in a zip", _zipped(good["wav"]))
    yield Hostile("a page in HTML that is WAV too", b"<html><script>RIFF</script>" + good["wav"])
    yield Hostile(
        "WAV whose samples are a WAV",
        wav_header(RATE_HZ, 1, 36 + len(good["wav"]), len(good["wav"])) + good["wav"],
        DAMAGED,
    )
    playlist = b"#EXTM3U\nfile:///etc/passwd\n" * 400
    yield Hostile("WAV of a playlist", wav_header(RATE_HZ, 1, 36 + len(playlist), len(playlist)) + playlist, DAMAGED)
    yield Hostile("a tag before a playlist", b"ID3\4\0\0\0\0\0\0" + playlist)
    yield Hostile("MP4 that begins as WebM", b"\x1a\x45\xdf\xa3" + good["m4a"][4:])
    yield Hostile("WebM that begins as MP4", b"\0\0\0\x18ftypM4A " + good["webm"])
    yield Hostile("Ogg in Ogg", good["opus"] + good["vorbis"], DAMAGED)
    yield Hostile("FLAC in FLAC", good["flac"] + good["flac"], DAMAGED)


FAMILIES: list[Family] = [
    truncated, flipped, lying_headers, long_in_little, tags, bombs, not_for_us, polyglots,
]  # fmt: skip


def _zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("clip", data)
    return out.getvalue()


FILENAMES = [
    "../../etc/passwd",
    "clip\0.wav",
    "\u202e" * 10_000,
    "a" * 30_000 + ".wav",
    "CON",
    "clip.wav%0d%0aX-Injected: yes",
    "'; DROP TABLE clips; --",
    "<script>alert(1)</script>.wav",
    "http://127.0.0.1:9/clip.wav",
    "",
    " ",
    "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
]
"""Names that somebody might mistake for something else."""

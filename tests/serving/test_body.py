from __future__ import annotations

import asyncio
import gzip
import random
import zlib
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from serving.errors import (
    InvalidRequest,
    MissingFile,
    Overloaded,
    RequestError,
    TooLarge,
    TooManyFiles,
    UnsupportedMediaType,
    UploadTimeout,
)
from serving.pipeline import Upload
from serving.transports.body import read_upload, unpacked

MAX_BYTES = 1000
TIMEOUT_S = 30.0
BOUNDARY = "frontier"


def read(
    chunks: Sequence[bytes],
    *,
    timeout_s: float = TIMEOUT_S,
    ends: bool = True,
    take: Callable[[int], None] = lambda _: None,
    **headers: str,
) -> Upload:
    """What ``read_upload`` makes of a body that arrives in these chunks; one that does not end stalls after them."""
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": chunk, "more_body": not ends or index + 1 < len(chunks)}
        for index, chunk in enumerate(chunks)
    ]

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }
    return asyncio.run(read_upload(Request(scope, receive), MAX_BYTES, timeout_s, take))


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
    return f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def read_form(body: bytes) -> Upload:
    return read([body], content_type=f"multipart/form-data; boundary={BOUNDARY}")


def test_one_file() -> None:
    assert read_form(form(part("file", b"sound", "a b.wav"))) == Upload(b"sound", "a b.wav")


def test_other_files_beside_it_are_passed_over() -> None:
    body = form(part("file", b"sound", "a.wav"), part("cover", b"picture", "a.png"))
    assert read_form(body) == Upload(b"sound", "a.wav")


@pytest.mark.parametrize("first", [True, False])
def test_text_beside_the_file_is_refused_and_told_where_it_belongs(first: bool) -> None:
    file, text = part("file", b"sound", "a.wav"), part("min_confidence", b"0.9")
    with pytest.raises(InvalidRequest, match=r"has 'min_confidence', .* belong in the query, as \?min_confidence=0\.6"):
        read_form(form(text, file) if first else form(file, text))


def test_a_file_that_looks_like_a_boundary_stays_whole() -> None:
    tricky = b"\r\n--frontie\r\n\r\n--frontiex--\r\n" * 5
    assert read_form(form(part("file", tricky, "a.wav"))).data == tricky


@given(content=st.binary(max_size=300), cuts=st.lists(st.integers(0, 500), max_size=20))
@settings(deadline=None)
def test_how_a_body_is_cut_into_chunks_makes_no_difference(content: bytes, cuts: list[int]) -> None:
    body = form(part("note", b"hello", "note.txt"), part("file", content, "näme.wav"))
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    chunks = [body[start:end] for start, end in pairwise(edges)]
    upload = read(chunks, content_type=f"multipart/form-data; boundary={BOUNDARY}")
    assert upload == Upload(content, "näme.wav")


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (form(), MissingFile, "no field at all"),
        (form(part("audio", b"sound", "a.wav")), MissingFile, "`audio` came"),
        (form(part("file", b"http://127.0.0.1/a.wav")), MissingFile, "URLs are not fetched"),
        (form(part("file", b"", "")), MissingFile, "no file was chosen"),
        (form(part("file", b"a", "a.wav"), part("file", b"b", "b.wav")), TooManyFiles, "2 files came"),
        (form(part("file", b"a"), part("file", b"b", "b.wav")), TooManyFiles, "2 files came"),
        (form(*[part(str(n), b"") for n in range(40)]), InvalidRequest, "more than 32"),
        (form(part("file", b"a", "a.wav"))[:-8], InvalidRequest, "breaks off"),
        (b"--other\r\n\r\n--other--", InvalidRequest, "malformed"),
        (b"", InvalidRequest, "breaks off"),
        (form(part("file", bytes(MAX_BYTES + 1), "a.wav")), TooLarge, "over 1000 bytes"),
    ],
)
def test_a_form_without_exactly_one_file_is_refused(body: bytes, error: type[RequestError], message: str) -> None:
    with pytest.raises(error, match=message):
        read_form(body)


def test_a_pickle_in_a_form_is_refused() -> None:
    body = form(part("file", b"x", "a.wav").replace(b"\r\n\r\n", b"\r\nContent-Type: application/x-pickle\r\n\r\n"))
    with pytest.raises(UnsupportedMediaType, match="not unpickled"):
        read_form(body)


def test_a_form_without_boundary_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no boundary"):
        read([b"x"], content_type="multipart/form-data")


@pytest.mark.parametrize("kind", ["audio/wav", "AUDIO/MPEG; rate=1", "application/octet-stream", "video/webm"])
def test_a_raw_body_is_the_file(kind: str) -> None:
    assert read([b"so", b"und"], content_type=kind) == Upload(b"sound", None)


def test_a_body_without_a_type_is_taken_as_the_file() -> None:
    assert read([b"sound"]) == Upload(b"sound", None)
    with pytest.raises(MissingFile, match="no body"):
        read([b""])


@pytest.mark.parametrize(
    "kind",
    ["application/vnd.bentoml+pickle", "application/json", "text/plain", "application/x-www-form-urlencoded", "a/b/c"],
)
def test_other_types_are_refused_unread(kind: str) -> None:
    with pytest.raises(UnsupportedMediaType, match=r"curl -F file=@clip\.wav") as caught:
        read([], content_type=kind)  # there is nothing to receive: reading would stall
    assert "curl -H 'Content-Type: application/octet-stream' --data-binary @clip.wav URL" in caught.value.message


@pytest.mark.parametrize("kind", ["audio/wav", f"multipart/form-data; boundary={BOUNDARY}"])
@pytest.mark.parametrize("encoding", ["gzip", "Deflate", "br", "identity, gzip"])
def test_a_body_in_a_content_encoding_is_refused_unread(kind: str, encoding: str) -> None:
    with pytest.raises(UnsupportedMediaType, match=f"A body in {encoding.lower()} is not unpacked"):
        read([], content_type=kind, content_encoding=encoding)


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_a_body_that_is_said_to_be_as_it_is_is_taken(encoding: str) -> None:
    assert read([b"sound"], content_type="audio/wav", content_encoding=encoding).data == b"sound"


@pytest.mark.parametrize("kind", ["audio/wav", f"multipart/form-data; boundary={BOUNDARY}"])
def test_an_announced_length_over_the_limit_is_refused_unread(kind: str) -> None:
    with pytest.raises(TooLarge):
        read([], content_type=kind, content_length="1000000")


def test_a_long_type_is_refused_before_it_is_read() -> None:
    """The library takes a second for this one."""
    long = 'a;"' + ";" * 60_000
    for kind, says in ((long, "60003 characters"), (long[:1024], "carries no audio"), (long[:1025], "1025 characters")):
        with pytest.raises(UnsupportedMediaType, match=says):
            read([], content_type=kind)


def test_a_body_that_grows_over_the_limit_is_refused_while_it_comes() -> None:
    with pytest.raises(TooLarge):
        read([bytes(600), bytes(600)], ends=False, content_type="audio/wav")  # the third chunk never comes
    assert len(read([bytes(600), bytes(400)], content_type="audio/wav").data) == MAX_BYTES


@pytest.mark.parametrize("kind", ["audio/wav", f"multipart/form-data; boundary={BOUNDARY}"])
def test_a_body_that_stalls_is_refused(kind: str) -> None:
    with pytest.raises(UploadTimeout, match=r"within 0\.05 s"):
        read([b"--frontier\r\n"], ends=False, timeout_s=0.05, content_type=kind)


@pytest.mark.parametrize(
    ("encoding", "pack"), [("", bytes), ("identity", bytes), ("gzip", gzip.compress), (" Deflate", zlib.compress)]
)
@pytest.mark.parametrize("size", [0, 1, MAX_BYTES])
def test_a_packed_body_is_unpacked(encoding: str, pack: Callable[[bytes], bytes], size: int) -> None:
    taken: list[int] = []
    assert asyncio.run(unpacked(pack(b"x" * size), encoding, MAX_BYTES, taken.append)) == b"x" * size
    assert sum(taken) == (0 if encoding in ("", "identity") else size)


@pytest.mark.parametrize("size", [(1 << 16) - 1, 1 << 16, (1 << 16) + 1, 3 << 20])
def test_a_packed_body_is_unpacked_in_pieces_that_count(size: int) -> None:
    """Also where it does not shrink."""
    for plain in (bytes(size), random.Random(size).randbytes(size)):
        taken: list[int] = []
        assert asyncio.run(unpacked(gzip.compress(plain, 1), "gzip", size, taken.append)) == plain
        assert sum(taken) == size
        assert max(accumulate(taken)) == 2 * size  # while they are joined


def test_what_there_is_no_room_for_is_not_unpacked() -> None:
    taken: list[int] = []

    def take(size: int) -> None:
        taken.append(size)
        if len(taken) == 3:
            raise Overloaded("Full.", reason="uploads")

    with pytest.raises(Overloaded):
        asyncio.run(unpacked(gzip.compress(bytes(10 << 20)), "gzip", 20 << 20, take))
    assert len(taken) == 3
    assert sum(taken) < 1 << 20


@pytest.mark.parametrize("kind", ["audio/wav", f"multipart/form-data; boundary={BOUNDARY}"])
def test_a_body_counts_twice_while_its_pieces_are_joined(kind: str) -> None:
    taken: list[int] = []
    body = form(part("file", b"x" * 900, "a.wav")) if "form" in kind else b"x" * 900
    read([body[:300], body[300:600], body[600:]], take=taken.append, content_type=kind)
    assert sum(taken) == len(body)
    assert max(accumulate(taken)) == len(body) + 900


@pytest.mark.parametrize(
    ("encoding", "body", "error"),
    [
        ("gzip", gzip.compress(bytes(MAX_BYTES + 1)), TooLarge),
        ("deflate", zlib.compress(bytes(1 << 24)), TooLarge),
        ("gzip", b"plain", InvalidRequest),
        ("gzip", zlib.compress(b"x"), InvalidRequest),
        ("gzip", gzip.compress(b"x")[:-1], InvalidRequest),
        ("gzip", gzip.compress(b"x") + b"y", InvalidRequest),
        ("gzip", b"", InvalidRequest),
        ("br", b"", UnsupportedMediaType),
        ("gzip, gzip", b"", UnsupportedMediaType),
    ],
    ids=["bomb", "bomb, deflate", "plain", "zlib", "cut", "more", "empty", "unknown", "twice"],  # gzip tells the time
)
def test_what_cannot_be_unpacked_is_refused(encoding: str, body: bytes, error: type[RequestError]) -> None:
    with pytest.raises(error):
        asyncio.run(unpacked(body, encoding, MAX_BYTES, lambda _: None))

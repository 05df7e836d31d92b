"""The upload in an HTTP body: multipart or raw, counted while it comes in, held in memory only.

The web framework's own form parser spools uploads to disk and reads whole bodies before anyone can object.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from serving.errors import (
    InvalidRequest,
    MissingFile,
    TooLarge,
    TooManyFiles,
    UnsupportedMediaType,
    UploadTimeout,
    too_large,
)
from serving.pipeline import Upload
from serving.room import Take
from serving.transports.query import MIN_CONFIDENCE, OF_PREDICTIONS, shown

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks  # known to type checkers only

FIELD = "file"
"""Name of the multipart field that carries the audio."""

_RAW_TYPES = frozenset({"application/octet-stream", "application/ogg", "video/mp4", "video/webm", "video/ogg"})
_ENCODINGS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}  # and how zlib is told
_PLAIN = ("", "identity")
_MULTIPART = "multipart/form-data"
_MULTIPART_OVERHEAD_BYTES = 1 << 16  # boundaries and headers around the file
_MAX_PARTS = 32
_MAX_TYPE_CHARACTERS = 1024  # the time to read a type grows with the square of what it is long
_PIECE = 1 << 16
_SMALL_BYTES = 4096
_HOW = (
    f"Send the audio as multipart field `{FIELD}` (curl -F {FIELD}=@clip.wav URL) or as the raw body with its type "
    "(curl -H 'Content-Type: application/octet-stream' --data-binary @clip.wav URL)."
)


async def read_upload(request: Request, max_bytes: int, timeout_s: float, take: Take) -> Upload:
    """The one audio file of a request. ``request.state.body_read`` is set when the body has come in whole.

    Args:
        take: is told of each piece before it is kept.

    Raises:
        Overloaded: by ``take``.
        UploadTimeout: the body has not come within ``timeout_s``.
        TooLarge: more than ``max_bytes``, by the announced length or while reading.
        MissingFile: no file in the body. TooManyFiles: more than one.
        UnsupportedMediaType: a content type that carries no audio, or a body in a content encoding.
        InvalidRequest: a multipart body that does not follow its own format, or has text beside the file.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(request, max_bytes, take)
    except TimeoutError:
        raise _too_slow(timeout_s) from None


async def read_whole(request: Request, max_bytes: int, timeout_s: float, take: Take) -> bytes:
    """A body that is taken as it is. Raises Overloaded, UploadTimeout and TooLarge as :func:`read_upload` does."""
    try:
        async with asyncio.timeout(timeout_s):
            return _joined([chunk async for chunk in _counted(request, max_bytes, max_bytes, take)], take)
    except TimeoutError:
        raise _too_slow(timeout_s) from None


async def read_small(request: Request, timeout_s: float, take: Take) -> bytes:
    """A JSON object of a few hundred bytes. Raises as :func:`read_whole` does, and speaks of no audio."""
    try:
        return await read_whole(request, _SMALL_BYTES, timeout_s, take)
    except TooLarge:
        raise TooLarge(
            f"The body is over {_SMALL_BYTES} bytes. Send the JSON object alone, which takes a few hundred.",
            max_bytes=_SMALL_BYTES,
        ) from None


async def unpacked(body: bytes, encoding: str, max_bytes: int, take: Take) -> bytes:
    """A body as it was before its ``Content-Encoding``: gzip, or deflate, which is zlib's format (RFC 9110, 8.4.1).

    Args:
        take: is told of each piece of it.

    Raises:
        Overloaded: by ``take``.
        UnsupportedMediaType: another encoding.
        TooLarge: more than ``max_bytes``; no more than that is unpacked.
        InvalidRequest: it is not such data, or not all of it, or more than that.
    """
    kind = encoding.strip().lower()
    if kind in _PLAIN:
        return body
    if kind not in _ENCODINGS:
        raise UnsupportedMediaType(
            f"A body in {kind[:40]} is not unpacked here, in {' or '.join(_ENCODINGS)} it is. Or send it as it is."
        )
    try:
        return await asyncio.to_thread(_unpack, body, _ENCODINGS[kind], max_bytes, take)
    except zlib.error as error:
        raise InvalidRequest(f"The body is no {kind} ({error}).") from error
    except EOFError as error:
        raise InvalidRequest(
            f"The body is no whole {kind}: it breaks off, or something stands behind its end."
        ) from error


def _unpack(body: bytes, window_bits: int, max_bytes: int, take: Take) -> bytes:
    """Piece by piece, so that each is asked room for before the next is there.

    Raises:
        zlib.error, EOFError: it is no such data, or not all of it, or more than that.
    """
    unpacker = zlib.decompressobj(window_bits)
    packed, plain, left = memoryview(body), list[bytes](), max_bytes
    for place in range(0, len(body), _PIECE):
        rest: bytes | memoryview = packed[place : place + _PIECE]
        while rest and not unpacker.eof:
            plain.append(unpacker.decompress(rest, _PIECE))
            left -= len(plain[-1])
            if left < 0:
                raise too_large(max_bytes)
            take(len(plain[-1]))
            rest = unpacker.unconsumed_tail
        if unpacker.eof and (unpacker.unused_data or place + _PIECE < len(body)):
            raise EOFError
    plain.append(unpacker.flush())
    take(len(plain[-1]))
    if not unpacker.eof:
        raise EOFError
    if len(plain[-1]) > left:
        raise too_large(max_bytes)
    return _joined(plain, take)


def _joined(pieces: list[bytes], take: Take) -> bytes:
    """What came in pieces, which are there beside the whole for a moment, and count for it."""
    if len(pieces) == 1:
        return pieces[0]
    size = sum(map(len, pieces))
    take(size)
    whole = b"".join(pieces)
    pieces.clear()
    take(-size)
    return whole


async def _read(request: Request, max_bytes: int, take: Take) -> Upload:
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in _PLAIN:
        raise UnsupportedMediaType(
            f"A body in {encoding[:40]} is not unpacked here. Send the file as it is; FLAC, OGG and MP3 are small.",
            content_encoding=encoding[:40],
        )
    content_type = request.headers.get("content-type", "")
    if len(content_type) > _MAX_TYPE_CHARACTERS:
        raise UnsupportedMediaType(
            f"The content type has {len(content_type)} characters; {_MAX_TYPE_CHARACTERS} are read. {_HOW}"
        )
    media_type, options = parse_options_header(content_type)
    kind = media_type.decode("latin-1").lower()
    multipart = kind == _MULTIPART
    if kind and not multipart and kind not in _RAW_TYPES and not kind.startswith("audio/"):
        raise UnsupportedMediaType(
            f"A body of type {kind} carries no audio that is read here. {_HOW}", content_type=kind
        )
    allowed = max_bytes + (_MULTIPART_OVERHEAD_BYTES if multipart else 0)
    body = _counted(request, allowed, max_bytes, take)
    if multipart:
        return await _read_multipart(body, options.get(b"boundary"), max_bytes, take)
    data = _joined([chunk async for chunk in body], take)
    if not data and not kind:
        raise MissingFile(f"The request has no body. {_HOW}")
    return Upload(data, None)


async def _counted(request: Request, allowed: int, max_bytes: int, take: Take) -> AsyncIterator[bytes]:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > allowed:
        raise too_large(max_bytes)
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > allowed:
            raise too_large(max_bytes)
        take(len(chunk))
        yield chunk
    request.state.body_read = True


def _too_slow(timeout_s: float) -> UploadTimeout:
    return UploadTimeout(
        f"The body did not arrive within {timeout_s:g} s. Send a smaller file, or over a better line.",
        timeout_s=timeout_s,
    )


async def _read_multipart(body: AsyncIterator[bytes], boundary: bytes | None, max_bytes: int, take: Take) -> Upload:
    if not boundary:
        raise InvalidRequest(f"The multipart content type names no boundary. {_HOW}")
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for chunk in body:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"The multipart body is malformed ({error}). {_HOW}") from error
    if not form.ended:
        raise InvalidRequest(f"The multipart body breaks off before its closing boundary. {_HOW}")
    return form.upload(max_bytes, take)


@dataclass
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    name: str = ""
    filename: str | None = None


@dataclass
class _Form:
    """Collects what the parser calls out; keeps the bytes of the file field only."""

    parts: list[_Part] = field(default_factory=list)
    ended: bool = False
    _header: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def upload(self, max_bytes: int, take: Take) -> Upload:
        """The one file among the parts."""
        named = [part for part in self.parts if part.name == FIELD]
        files = [part for part in named if part.filename is not None]
        if len(named) > 1:
            raise TooManyFiles(
                f"{len(named)} files came; one request takes one. Send them one by one.", files=len(named)
            )
        if not files or not (files[0].filename or files[0].chunks):
            raise MissingFile(self._why_none(), fields=[part.name for part in self.parts])
        if text := [shown(part.name) for part in self.parts if part.filename is None]:
            raise InvalidRequest(
                f"Beside the file the form has {', '.join(text)}, which is no file. Parameters belong in the query, as "
                f"?{MIN_CONFIDENCE}=0.6 after the path; there are {', '.join(OF_PREDICTIONS)}."
            )
        data = _joined(files[0].chunks, take)
        if len(data) > max_bytes:
            raise too_large(max_bytes)
        return Upload(data, files[0].filename)

    def _why_none(self) -> str:
        if any(part.name == FIELD and part.filename == "" for part in self.parts):
            return f"The field `{FIELD}` is empty: no file was chosen. {_HOW}"
        if any(part.name == FIELD for part in self.parts):
            return f"The field `{FIELD}` holds text, not a file; paths and URLs are not fetched. {_HOW}"
        came = ", ".join(f"`{part.name}`" for part in self.parts) or "no field at all"
        return f"There is no file field `{FIELD}` in the form; {came} came. {_HOW}"

    def _begin(self) -> None:
        if len(self.parts) == _MAX_PARTS:
            raise InvalidRequest(f"The form has more than {_MAX_PARTS} fields. {_HOW}")
        self.parts.append(_Part())

    def _header_end(self) -> None:
        name, value = self._header
        self.parts[-1].headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _headers_finished(self) -> None:
        part = self.parts[-1]
        _, options = parse_options_header(part.headers.get(b"content-disposition"))
        part.name = options.get(b"name", b"").decode("utf-8", "replace")
        kind = part.headers.get(b"content-type", b"").decode("latin-1").lower()
        if part.name == FIELD and "pickle" in kind:
            raise UnsupportedMediaType(f"A file of type {kind} is not unpickled here. {_HOW}", content_type=kind)
        if b"filename" in options:
            part.filename = options[b"filename"].decode("utf-8", "replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self.parts[-1]
        if part.name == FIELD and part.filename is not None:
            part.chunks.append(data[start:end])

    def _end(self) -> None:
        self.ended = True

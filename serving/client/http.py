"""The way over HTTP, and WebSocket for live audio."""

from __future__ import annotations

import json
import ssl
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidStatus, WebSocketException
from websockets.frames import CloseCode

from serving.client.answers import Message, Prediction, message
from serving.client.transport import CONNECT_S, Options, Tls, authorization
from serving.errors import RequestError, TimbreError, TooLarge, UnexpectedAnswer, Unreachable, refusal

_MOST_OF_A_BODY = 200  # characters of a strange answer that an error shows
# Refused by what stands before the service: it has not reached it.
_ON_THE_WAY = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE)


class Http:
    """One pool of connections to ``http://`` or ``https://``, with or without a path before the service's own."""

    def __init__(self, url: str, tls: Tls, api_key: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._authorization = authorization(api_key)
        self._ssl: ssl.SSLContext | None = tls.context() if url.startswith("https") else None
        # How long an answer may take is the caller's business; how many connections, that of predict_many.
        self._client = httpx.AsyncClient(
            base_url=self._url,
            headers=self._authorization,
            verify=self._ssl or True,
            timeout=httpx.Timeout(None, connect=CONNECT_S),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
        )

    async def predict(self, data: bytes, filename: str | None, options: Options) -> Prediction:
        body: dict[str, Any] = {"content": data, "headers": {"Content-Type": "application/octet-stream"}}
        if filename is not None:
            body = {"files": {"file": (filename, data)}, "headers": {}}
        query: dict[str, Any] = {"min_confidence": options.min_confidence}
        # Headers rather than the query: gateways route by a version's, and whose key it is stands in no access log.
        for header, parameter, text in (
            ("X-Model-Version", "version", options.version),
            ("X-Timbre-Key", "key", options.key),
        ):
            if text is not None and _fits_a_header(text):
                body["headers"][header] = text.encode()
            elif text is not None:
                query[parameter] = text
        response = await self._ask("POST", "/predict", params=query, **body)
        told = _json(response)
        return Prediction.of(told, response.headers.get("X-Timbre-Variant"), response.headers.get("X-Request-ID"))

    async def models(self) -> dict[str, Any]:
        return _json(await self._ask("GET", "/models"))

    async def listen(self, rate_hz: int, options: Options) -> WebSocket:
        query: dict[str, Any] = {"rate_hz": rate_hz, "min_confidence": options.min_confidence}
        query |= {name: value for name, value in (("version", options.version), ("key", options.key)) if value}
        query |= {} if options.hop_s is None else {"hop_s": options.hop_s}
        url = f"ws{self._url.removeprefix('http')}/v1/listen?{urlencode(query)}"
        try:
            return WebSocket(
                await connect(
                    url,
                    ssl=self._ssl,
                    additional_headers=self._authorization,
                    open_timeout=CONNECT_S,
                    max_size=None,
                )
            )
        except InvalidStatus as error:
            response = error.response
            raise _refused(response.status_code, response.body or b"", response.headers.get("Retry-After")) from None
        except (OSError, TimeoutError, WebSocketException) as error:
            raise Unreachable(f"{self._url} cannot be reached: {str(error) or type(error).__name__}.") from error

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask(self, method: str, path: str, **what: Any) -> httpx.Response:
        try:
            response = await self._client.request(method, path, **what)
        except httpx.TransportError as error:
            raise Unreachable(f"{self._url} cannot be reached: {str(error) or type(error).__name__}.") from error
        if not response.is_success:
            raise _refused(response.status_code, response.content, response.headers.get("Retry-After"))
        return response


class WebSocket:
    """A live stream over WebSocket."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, frame: bytes) -> None:
        try:
            await self._connection.send(frame)
        except ConnectionClosed as error:
            raise _broken(error) from error

    async def end(self) -> None:
        try:
            await self._connection.send(json.dumps({"type": "end"}))
        except ConnectionClosed as error:
            raise _broken(error) from error

    async def receive(self) -> Message | None:
        try:
            text = await self._connection.recv()
        except ConnectionClosedOK:
            return None
        except ConnectionClosed as error:
            raise _broken(error) from error
        try:
            told = json.loads(text)
        except ValueError as error:
            raise UnexpectedAnswer(f"A message of the stream is not JSON: {text[:_MOST_OF_A_BODY]!r}.") from error
        return message(told)

    async def close(self) -> None:
        await self._connection.close()


def _fits_a_header(text: str) -> bool:
    """Neither control characters nor blanks at its ends, which a header's value has not (RFC 9110, 5.5)."""
    return text == text.strip() != "" and not any(ord(letter) < 32 or ord(letter) == 127 for letter in text)


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        told = response.json()
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise _strange(response.status_code, response.content)
    return told


def _refused(status: int, body: bytes | bytearray, retry_after: str | None) -> TimbreError:
    """What an answer that is no success says: our own errors by their code, others by whether they reached us."""
    try:
        return refusal(**json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        pass
    if status in _ON_THE_WAY:
        wait_s = float(retry_after) if retry_after and retry_after.isdecimal() else None
        return Unreachable(f"What stands before the service answers {status}: it does not reach it.", wait_s)
    return _strange(status, body)


def _strange(status: int, body: bytes | bytearray) -> UnexpectedAnswer:
    text = body[:_MOST_OF_A_BODY].decode(errors="replace")
    return UnexpectedAnswer(f"The answer, of status {status}, is not Timbre's: {text!r}. Is the address right?")


def _broken(error: ConnectionClosed) -> TimbreError:
    if error.rcvd and error.rcvd.code == CloseCode.MESSAGE_TOO_BIG:
        return TooLarge("A frame is larger than the service takes. Send about 100 ms at a time, one second at most.")
    if error.rcvd and error.rcvd.reason:
        # Who did not read has lost the message that says why; the close frame has its code word.
        told = refusal(error.rcvd.reason, "The service has ended the live stream; its own words did not come through.")
        if isinstance(told, RequestError):
            return told
    return Unreachable(f"The live stream has broken: {error}.")

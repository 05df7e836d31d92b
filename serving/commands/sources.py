"""Who hears: a service by its address, or a version in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serving.client import Client, Prediction
from serving.client.asynchronous import in_order
from serving.client.transport import Tls
from serving.commands.options import API_KEY, ELSEWHERE
from serving.errors import RequestError, UnknownVersion, Unreachable, UsageError

if TYPE_CHECKING:
    from serving.audio import Limits

Heard = Prediction | Exception


@dataclass(frozen=True)
class Service:
    """A service by its address, what it is trusted by, and who asks it."""

    url: str
    tls: Tls
    api_key: str | None

    @classmethod
    def at(cls, url: str, ca: Path | None, cert: Path | None, key: Path | None, api_key: str | None) -> Service:
        """What the options of these names say.

        Raises:
            UsageError: a file cannot be used.
        """
        try:
            tls = Tls(ca, cert, key)
            if ca or cert:
                tls.context()
        except ValueError as error:
            raise UsageError(f"--cert, --key: {error}") from None
        except OSError as error:  # that of a file that holds no certificate too
            files = ", ".join(str(file) for file in (ca, cert, key) if file)
            raise UsageError(f"--ca, --cert, --key: {files} cannot be used: {error.strerror or error}.") from None
        return cls(url, tls, api_key)

    def connect(self) -> Client:
        """A client of it.

        Raises:
            UsageError: the address is of another kind.
        """
        try:
            return Client(self.url, ca=self.tls.ca, cert=self.tls.cert, key=self.tls.key, api_key=self.api_key)
        except ValueError as error:
            raise UsageError(str(error)) from None


def named(url: str | None, ca: Path | None, cert: Path | None, key: Path | None, api_key: str | None) -> Service | None:
    """As :meth:`Service.at`; None where no service is named.

    Raises:
        UsageError: a file cannot be used, or one of them is given without a service; a key of the environment may be.
    """
    if url is not None:
        return Service.at(url, ca, cert, key, api_key)
    if ca or cert or key or api_key != (os.environ.get(API_KEY) or None):
        raise UsageError("--ca, --cert, --key and --api-key are for a service: name it with --url.")
    return None


@dataclass(frozen=True)
class Source:
    """Where answers come from; ``models`` counts where there is no ``service``."""

    service: Service | None
    models: Path
    version: str | None

    def hear(self, files: Sequence[Path], min_confidence: float = 0.0, limits: Limits | None = None) -> Iterator[Heard]:
        """An answer or an error per file, in their order; several at a time.

        Args:
            limits: what audio is accepted, where it is heard here.

        Raises:
            UsageError: there is no such version, no such kind of address, or a file for TLS cannot be used.
            Unreachable: there is no service.
        """
        if self.service is None:
            yield from self._hear_here(files, min_confidence, limits)
            return
        with self.service.connect() as client:
            for answer in client.predict_many(
                files, return_exceptions=True, version=self.version, min_confidence=min_confidence
            ):
                if isinstance(answer, Unreachable | UnknownVersion):
                    raise answer  # the others will fare no better
                yield answer

    def _hear_here(self, files: Sequence[Path], min_confidence: float, limits: Limits | None) -> Iterator[Heard]:
        from serving.client.local import Local
        from serving.quota import cores

        hear = Local.load(self.models / chosen_version(self.models, self.version), limits)

        def answer(file: Path) -> Heard:
            try:
                return hear(file, min_confidence)
            except (RequestError, OSError) as error:
                return error

        with (
            ThreadPoolExecutor(cores()) as pool,
            closing(in_order(files, lambda file: pool.submit(answer, file), 2 * cores())) as answers,
        ):
            for one in answers:
                yield one.result()


def chosen_version(models: Path, wanted: str | None, way_out: str = ELSEWHERE) -> str:
    """The version asked for; else the one that a service would answer with by default.

    Args:
        way_out: what to do where there is none at all, for the error.

    Raises:
        UsageError: there is no such version.
        ArtifactError: there is none at all.
        RoutesError: routes.yaml says something impossible.
    """
    from serving.artifact import versions
    from serving.router import ROUTES_FILE, Routes

    there = versions(models, way_out)
    file = models / ROUTES_FILE
    if wanted is None and (text := Routes.text(file)) is not None:
        wanted = Routes.parse(text, file).default_version
    if wanted is not None and wanted not in there:
        raise UsageError(f"{models} holds no version {wanted!r}; it holds {', '.join(there)}.")
    return wanted or there[-1]

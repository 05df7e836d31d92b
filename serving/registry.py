"""The loaded versions and the routes to them: swapped whole, or not at all."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from serving.artifact import Artifact, versions
from serving.batcher import Batcher
from serving.batches import Limits
from serving.errors import RoutesError, TimbreError
from serving.metrics import Metrics
from serving.router import Routes
from serving.runtime import Runtime
from serving.schemas import Model, Models
from serving.session import Session

logger = logging.getLogger("timbre")

_RETRY_S, _LONGEST_RETRY_S = 2.0, 60.0
"""Between two tries to load the same content; the pause doubles."""


@dataclass(frozen=True)
class Loaded:
    """One version, ready to answer.

    Attributes:
        retired: set when it is no longer routed; it answers for a while yet those who have chosen it.
    """

    version: str
    session: Session
    batcher: Batcher
    retired: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    async def close(self) -> None:
        """Answer what waits, then let go of the model."""
        await self.batcher.close()
        self.session.close()


@dataclass(frozen=True)
class Fleet:
    """What answers now; one of these is replaced by another in a single assignment."""

    routes: Routes
    versions: Mapping[str, Loaded]

    @property
    def default(self) -> Loaded:
        """Who answers a request that asks for nothing."""
        return self.versions[self.routes.default_version]


class Registry:
    """Loads what ``routes.yaml`` names, and again whenever it changes.

    Args:
        models: folder of the versions; only what lies directly below it can be loaded.
        routes: the file; where there is none at the start, all traffic goes to the newest version.
        runtime: what sessions run on.
        wait_s, queue_windows: see :class:`serving.batcher.Limits`.
        retire_s: how long a version that is no longer routed stays, for the requests that have chosen it already.
    """

    def __init__(
        self,
        models: Path,
        routes: Path,
        runtime: Runtime,
        metrics: Metrics,
        *,
        wait_s: float,
        queue_windows: int,
        retire_s: float,
    ) -> None:
        self._models, self._file, self.runtime, self._metrics = models, routes, runtime, metrics
        self._limits = Limits(runtime.lanes, runtime.batch_windows, wait_s, queue_windows)
        self._retire_s = retire_s
        self._retiring: set[asyncio.Task[None]] = set()
        self._tried = Routes.text(self._file)  # content that was loaded, or could not be; None where there is no file
        self._refused: str | None = None  # content of which that has been counted; None where it could not be read
        self._pause_s, self._retry_at = _RETRY_S, 0.0
        self.problem = ""
        """Why the newest routes.yaml is not in force; empty where it is."""
        metrics.runtime_fallback.set(bool(runtime.note))
        self.fleet = self._load({}, self._tried)
        self._in_force = self._tried

    async def watch(self, interval_s: float = 1.0) -> None:
        """Follow the file until cancelled.

        Its content is compared, not its date or inode: a mounted ConfigMap is replaced by moving a link. Content that
        could not be loaded is tried again after a while: the ConfigMap may be there before the volume of the models.
        """
        while True:
            await asyncio.sleep(interval_s)
            text = None
            try:
                text = await asyncio.to_thread(Routes.text, self._file)
                if text != self._tried or (self.problem and time.monotonic() >= self._retry_at):
                    self._tried = text
                    await self._swap(text)
            except TimbreError as error:
                self._refuse(text, str(error))
            except Exception as error:  # whatever a file can do, the next one is looked at
                if text != self._refused:
                    logger.exception("%s could not be followed", self._file)
                self._refuse(text, f"{self._file} could not be followed: {type(error).__name__}: {error}.")

    def sick(self) -> list[str]:
        """Why a routed version cannot answer now: one sentence each. Runs a forward pass where the last one failed.

        A version that is only a shadow answers nobody and is not asked.
        """
        fleet, reasons = self.fleet, []
        for version in dict.fromkeys(variant.version for variant in fleet.routes.variants.values()):
            loaded = fleet.versions[version]
            if loaded.batcher.healthy:
                continue
            try:
                loaded.session.probe()
                loaded.batcher.healthy = True
            except Exception as error:  # noqa: BLE001 - ONNX Runtime raises a class of its own per cause
                reasons.append(f"Version {loaded.version} fails: {error}.")
        return reasons

    def told(self) -> Models:
        """What is loaded and how traffic goes, for whoever asks."""
        routes, versions = self.fleet.routes, self.fleet.versions
        return Models(
            default=routes.default,
            variants=routes.variants,
            shadow=routes.shadow,
            models=[
                Model(
                    version=version,
                    variants=[name for name, variant in routes.variants.items() if variant.version == version],
                    device=loaded.session.runtime.device,
                    metadata=loaded.session.metadata.everything,
                )
                for version, loaded in versions.items()
            ],
            device=self.runtime.device,
            note=self.runtime.note,
            problem=self.problem,
        )

    async def close(self) -> None:
        """Answer what waits and let go of every version."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*(loaded.close() for loaded in self.fleet.versions.values()))

    def _load(self, known: Mapping[str, Loaded], text: str | None) -> Fleet:
        """What the text asks for, with the versions known already as they are.

        Raises:
            ArtifactError, RoutesError: something in it cannot be loaded; nothing has changed.
        """
        routes = Routes.only(versions(self._models)[-1]) if text is None else Routes.parse(text, self._file)
        loaded: dict[str, Loaded] = {}
        try:
            for version in routes.versions:
                loaded[version] = known.get(version) or self._load_version(version)
            self._check_shadow(routes, loaded)
        except Exception:
            for version in loaded.keys() - known.keys():
                self._metrics.forget(version)
            raise
        weights = {name: (variant.version, variant.weight) for name, variant in routes.variants.items()}
        self._metrics.show_routes(weights, loaded, self.runtime.device)
        return Fleet(routes, MappingProxyType(loaded))

    def _check_shadow(self, routes: Routes, loaded: Mapping[str, Loaded]) -> None:
        """It is given the windows that were cut for the version that answered, so they must be its own."""
        if routes.shadow is None:
            return
        specs = {version: one.session.metadata.windows for version, one in loaded.items()}
        own = specs[routes.shadow.version]
        if others := [version for version, spec in specs.items() if spec != own]:
            raise RoutesError(
                f"{self._file}: version {routes.shadow.version} cannot be the shadow of {', '.join(others)}, "
                f"whose windows are cut otherwise: {specs[others[0]]} in place of {own}."
            )

    def _load_version(self, version: str) -> Loaded:
        session = Session(Artifact.load(self._models / version, self.runtime.precision), self.runtime)
        batcher = Batcher(session.run_in_lane, self._limits, self._metrics.batches_of(version))
        for windows, seconds in session.warmed_up:
            batcher.learn(windows, seconds)
        return Loaded(version, session, batcher)

    async def _swap(self, text: str | None) -> None:
        if text is None and self._in_force is not None:
            # Nobody who loses a file means to send all traffic to a version that may never have had any.
            raise RoutesError(f"{self._file} is gone. Put it back; to do without it, start without it.")
        old = self.fleet
        new = await asyncio.to_thread(self._load, old.versions, text)
        self.fleet, self._in_force = new, text
        self.problem = ""
        self._metrics.routes_current.set(1)
        logger.info("%s is in force: %s", self._file, new.routes.model_dump_json(exclude_none=True))
        for version in old.versions.keys() - new.versions.keys():
            old.versions[version].retired.set()
            task = asyncio.create_task(self._retire(old.versions[version]))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    def _refuse(self, text: str | None, problem: str) -> None:
        """Keep what is loaded. The same content is counted once, the same problem logged once, however often tried."""
        again = bool(self.problem) and text == self._refused
        if problem != self.problem:
            logger.error("What was loaded before stays. %s", problem)
        if not again:
            self._metrics.load_failures.inc()
        self._pause_s = min(2 * self._pause_s, _LONGEST_RETRY_S) if again else _RETRY_S
        self._retry_at = time.monotonic() + self._pause_s
        self._refused, self.problem = text, problem
        self._metrics.routes_current.set(0)

    async def _retire(self, loaded: Loaded) -> None:
        await asyncio.sleep(self._retire_s)
        await loaded.close()
        if loaded.version not in self.fleet.versions:  # it may have been routed again, and loaded anew
            self._metrics.forget(loaded.version)
        logger.info("Version %s is no longer loaded", loaded.version)

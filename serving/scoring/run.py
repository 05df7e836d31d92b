"""One run over an archive: what is left to do, doing it, and the table at the end."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from serving.artifact import Artifact
from serving.audio import Limits
from serving.errors import missing
from serving.quota import cores
from serving.scoring import tables
from serving.scoring.archive import Archive, Item
from serving.scoring.journal import Journal
from serving.scoring.processes import in_processes
from serving.scoring.scorer import Row, Scorer, columns


@dataclass(frozen=True)
class Run:
    """A run that has been begun, perhaps not for the first time.

    Attributes:
        todo: the files that have no row yet.
    """

    archive: Archive
    artifact: Artifact
    limits: Limits
    out: str
    journal: Journal
    todo: Sequence[Item]

    @classmethod
    def begin(cls, folder: str, out: str, model: Path, limits: Limits) -> Run:
        """Look at everything that is needed before anything is heard.

        Raises:
            UsageError: no such folder, no place for the table, or a journal of another run.
            ArtifactError: the version is damaged.
        """
        tables.check(out)
        archive = Archive.open(folder)
        artifact = Artifact.load(model)
        facts = {
            "archive": folder,
            "version": artifact.metadata.version,
            "sha256": artifact.sha256,
            "max_duration_s": limits.max_duration_s,
        }
        # What lies elsewhere cannot be appended to, as a rule: its journal stays here.
        journal = Journal(Path(f"{out.rpartition('/')[2] if '://' in out else out}.journal"), facts)
        return cls(archive, artifact, limits, out, journal, journal.missing(archive.items))

    @property
    def items(self) -> Sequence[Item]:
        """All files."""
        return self.archive.items

    @property
    def before(self) -> int:
        """How many had a row when it was begun."""
        return len(self.items) - len(self.todo)

    def in_processes(self, workers: int) -> Iterator[Row]:
        """Hear what is left on this machine; 0 workers for one per core."""
        make = functools.partial(Scorer, *self._arguments)
        count = min(workers or cores(), len(self.todo))
        version = self.artifact.metadata.version
        return self._kept(in_processes(make, version, map(asdict, self.todo), count)) if count else iter(())

    def on_ray(self, address: str | None) -> Iterator[Row]:
        """Hear what is left on a Ray cluster.

        Raises:
            UsageError: Ray is not installed, or there is no cluster.
        """
        try:
            import ray.data  # noqa: F401 - whether it is there, pandas and all
        except ImportError:
            raise missing("ray", "--engine ray") from None
        from serving.scoring.cluster import on_ray

        todo = [asdict(item) for item in self.todo]
        return self._kept(on_ray(self._arguments, todo, address)) if todo else iter(())

    def write(self) -> None:
        """The table of all files, in their names' order."""
        tables.write(self.out, columns(self.artifact.metadata.labels), self.journal.rows(self.items))

    def bad(self) -> list[Row]:
        """Rows of the files that failed."""
        return [row for row in self.journal.rows(self.items) if row.get("error")]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.journal.__exit__(kind, error, trace)

    @property
    def _arguments(self) -> tuple[Any, ...]:
        return self.artifact, self.archive.files, self.archive.root, self.limits

    def _kept(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            self.journal.add(row)
            yield row

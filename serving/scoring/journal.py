"""What has been scored, line by line beside the table: where a run stopped, the next goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from serving.errors import UNREADABLE, UsageError
from serving.scoring.archive import Item
from serving.scoring.scorer import Row


class Journal:
    """JSON lines: first what makes the rows comparable, then a row per file, in the order in which they were ready.

    A line that was cut off, when the machine went down, is forgotten. In memory there is where each row stands, not
    the rows.

    Args:
        facts: what all rows have in common, such as the model's checksum.

    Raises:
        UsageError: the file's facts are others.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self._path = path
        self._file = path.open("a+b")
        self._places: dict[str, tuple[str, int]] = {}  # by path: state, and where its line begins
        try:
            self._read(facts)
        except BaseException:
            self._file.close()
            raise

    def missing(self, items: Iterable[Item]) -> list[Item]:
        """Those that have no row yet, have changed since, or could not be read when it was tried."""
        return [item for item in items if self._places.get(item.path, ("", 0))[0] != item.state]

    def add(self, row: Row) -> None:
        """Keep a row; after this it survives whatever happens to the process."""
        self._note(row, self._file.tell())
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()

    def rows(self, items: Iterable[Item]) -> Iterator[Row]:
        """The items' rows, in the items' order."""
        with self._path.open("rb") as file:
            for item in items:
                if item.path in self._places:
                    file.seek(self._places[item.path][1])
                    yield json.loads(file.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _read(self, facts: dict[str, Any]) -> None:
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            if whole == 0:
                self._compare(json.loads(line), facts)
            else:
                self._note(json.loads(line), whole)
            whole += len(line)
        self._file.truncate(whole)
        self._file.seek(whole)
        if whole == 0:
            self._file.write(json.dumps(facts).encode() + b"\n")
            self._file.flush()

    def _compare(self, found: dict[str, Any], facts: dict[str, Any]) -> None:
        differing = [f"{key} {found.get(key)}, not {value}" for key, value in facts.items() if found.get(key) != value]
        if differing:
            raise UsageError(
                f"{self._path} is of another run: {'; '.join(differing)}. Choose another --out, or delete it to begin "
                "anew."
            )

    def _note(self, row: Row, place: int) -> None:
        state = "" if row.get("error") == UNREADABLE else row["state"]
        self._places[row["path"]] = (state, place)

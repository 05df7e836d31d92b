"""Pieces of `score` that its runs do not reach."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import pytest

from serving.errors import UsageError
from serving.scoring.archive import Archive, Item
from serving.scoring.journal import Journal
from serving.scoring.processes import in_processes
from serving.scoring.scorer import Row


class Fragile:
    """Hears everything but what kills it, as a fault in a decoder would."""

    def __call__(self, item: Row) -> Row:
        if item["path"] == "deadly":
            os._exit(139)
        return {**item, "error": None}


def test_a_file_that_kills_its_process_is_found_and_the_rest_is_heard() -> None:
    paths = [*"abc", "deadly", *"defghij"]
    make: Any = functools.partial(Fragile)
    found = list(in_processes(make, "1", ({"path": path, "state": "x"} for path in paths), 2))
    assert sorted(row["path"] for row in found) == sorted(paths)
    assert {row["path"]: row["error"] for row in found if row["error"]} == {"deadly": "crashed"}


def test_an_archive_is_listed_by_name_and_sees_changes(tmp_path: Path) -> None:
    for name in ("b.WAV", "a.flac", "deep/er/c.m4a", "notes.txt", "wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    before = Archive.open(str(tmp_path)).items
    assert [item.path for item in before] == ["a.flac", "b.WAV", "deep/er/c.m4a"]
    (tmp_path / "a.flac").write_bytes(b"xy")
    after = Archive.open(f"file://{tmp_path}").items
    assert [old.state == new.state for old, new in zip(before, after, strict=True)] == [False, True, True]


def test_a_journal_forgets_half_a_line_and_tries_the_unreadable_again(tmp_path: Path) -> None:
    path, items = tmp_path / "journal", [Item(name, "s") for name in "abc"]
    with Journal(path, {"version": "1"}) as journal:
        journal.add({"path": "a", "state": "s", "error": None})
        journal.add({"path": "b", "state": "s", "error": "unreadable"})
        assert [item.path for item in journal.missing(items)] == ["b", "c"]
    with path.open("ab") as file:
        file.write(b'{"path": "c", "sta')
    with Journal(path, {"version": "1"}) as journal:
        assert [item.path for item in journal.missing(items)] == ["b", "c"]
        journal.add({"path": "b", "state": "s", "error": None})
        assert [(row["path"], row["error"]) for row in journal.rows(items)] == [("a", None), ("b", None)]
    with pytest.raises(UsageError, match="version 1, not 2"):
        Journal(path, {"version": "2"})

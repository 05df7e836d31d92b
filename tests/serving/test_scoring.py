"""Pieces of `score` that its runs do not reach."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from serving.artifact import Artifact
from serving.audio import Limits
from serving.client.local import Local
from serving.errors import UsageError
from serving.scoring.archive import Archive, Item
from serving.scoring.cluster import on_ray
from serving.scoring.journal import Journal
from serving.scoring.processes import in_processes
from serving.scoring.scorer import Row, Scorer
from tests.conftest import ROOT, SERVED
from tests.sounds import encode, voice

WAV = encode(voice(0.5), 16_000)


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


@pytest.mark.parametrize(
    ("error", "why"), [(MemoryError(), "MemoryError."), (RuntimeError("the runtime"), "the runtime.")]
)
def test_a_fault_while_a_file_is_heard_is_its_row(monkeypatch: pytest.MonkeyPatch, error: Exception, why: str) -> None:
    files = MemoryFileSystem()
    files.pipe_file("/a.wav", WAV)
    scorer = Scorer(Artifact.load(ROOT / "exported" / SERVED), files, "/", Limits())
    good = scorer({"path": "a.wav", "state": "x"})
    assert (good["error"], good["model_version"]) == (None, SERVED)

    def fault(*_: object) -> None:
        raise error

    monkeypatch.setattr(Local, "__call__", fault)
    row = scorer({"path": "a.wav", "state": "x"})
    assert (row["error"], row["message"], row["model_version"]) == ("failed", why, SERVED)


class Blocks:
    """Ray's data set as far as it matters: blocks, of which those are lost that hold a file that kills its process."""

    def __init__(self, items: list[Row], override_num_blocks: int) -> None:
        size = -(-len(items) // override_num_blocks)
        self._blocks = [items[start : start + size] for start in range(0, len(items), size)]

    def map(self, _: type, *, max_task_retries: int, **__: Any) -> Blocks:
        assert max_task_retries >= 0  # it would be heard, and die, for ever
        return self

    def iter_rows(self) -> Iterator[Row]:
        for block in self._blocks:
            if "deadly" not in [item["path"] for item in block]:
                yield from ({**item, "error": None} for item in block)


def test_what_a_cluster_loses_is_heard_again_file_by_file(monkeypatch: pytest.MonkeyPatch) -> None:
    context, ended = SimpleNamespace(max_errored_blocks=0), []
    data: Any = ModuleType("ray.data")
    data.DataContext = SimpleNamespace(get_current=lambda: context)
    data.ActorPoolStrategy = dict
    data.from_items = Blocks
    fake: Any = ModuleType("ray")
    fake.data, fake.exceptions = data, ModuleType("ray.exceptions")
    fake.init, fake.put, fake.cluster_resources = (lambda *_, **__: None), (lambda value: value), dict
    fake.shutdown = lambda: ended.append(True)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_BACKEND_LOG_LEVEL"):
        monkeypatch.setenv(name, "0")  # it would stay set
    for name, module in {"ray": fake, "ray.data": data, "ray.exceptions": fake.exceptions}.items():
        monkeypatch.setitem(sys.modules, name, module)
    artifact: Any = SimpleNamespace(metadata=SimpleNamespace(version="1"))
    paths = [*map(str, range(40)), "deadly", *map(str, range(41, 50))]
    rows = list(on_ray((artifact, None, "/", Limits()), [{"path": path, "state": "x"} for path in paths], None))
    assert sorted(row["path"] for row in rows) == sorted(paths)
    assert {row["path"]: row["error"] for row in rows if row["error"]} == {"deadly": "crashed"}
    assert context.max_errored_blocks < 0
    assert ended

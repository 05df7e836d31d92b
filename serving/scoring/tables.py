"""Rows to a file: Parquet, CSV or JSON lines, by its name."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from serving.errors import UsageError, missing
from serving.scoring.scorer import Row

Columns = dict[str, type]
_ROWS_OF_A_GROUP = 100_000


def check(out: str) -> None:
    """Whether a table can be written there, asked before hours of work.

    Raises:
        UsageError: of no known kind, no such folder, or a package is missing.
    """
    _writer(out)
    try:
        files, path = url_to_fs(out)
        if isinstance(files, LocalFileSystem) and not Path(path).parent.is_dir():
            raise UsageError(f"{out}: there is no such folder to write it to.")
    except (ImportError, ValueError, OSError) as error:
        raise UsageError(f"{out}: it cannot be written: {error}.") from error


def write(out: str, columns: Columns, rows: Iterable[Row]) -> None:
    """Write the table, whole or not at all: under another name first.

    Raises:
        OSError: it cannot be written.
    """
    files, path = url_to_fs(out)
    unfinished = f"{path}.unfinished"
    with files.open(unfinished, "wb") as file:
        _writer(out)(file, columns, ({name: row.get(name) for name in columns} for row in rows))
    files.mv(unfinished, path)


def _writer(out: str) -> Callable[[BinaryIO, Columns, Iterator[Row]], None]:
    writers = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}
    kind = out.rpartition(".")[2].lower()
    if kind not in writers:
        raise UsageError(f"{out}: a table's name ends in .{', .'.join(writers)}.")
    if kind == "parquet":
        _pyarrow()
    return writers[kind]


def _csv(file: BinaryIO, columns: Columns, rows: Iterator[Row]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    text.flush()
    text.detach()


def _jsonl(file: BinaryIO, _: Columns, rows: Iterator[Row]) -> None:
    file.writelines(json.dumps(row).encode() + b"\n" for row in rows)


def _parquet(file: BinaryIO, columns: Columns, rows: Iterator[Row]) -> None:
    arrow = _pyarrow()
    from pyarrow.parquet import ParquetWriter

    types = {str: arrow.string(), float: arrow.float64()}
    schema = arrow.schema([(name, types[kind]) for name, kind in columns.items()])
    with ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, _ROWS_OF_A_GROUP)):
            writer.write_table(arrow.Table.from_pylist(group, schema))


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise missing("pyarrow", "A Parquet table") from None
    return pyarrow

"""One file of an archive -> one row of the table. Every engine runs this function."""

from __future__ import annotations

from typing import Any, TypeAlias

from fsspec import AbstractFileSystem

from serving.artifact import Artifact
from serving.audio import Limits
from serving.client.local import Local
from serving.errors import UNREADABLE, RequestError

Row: TypeAlias = dict[str, Any]


def columns(labels: tuple[str, ...]) -> dict[str, type]:
    """The table's columns and their types; a file that failed has None in all but path, version, error and message."""
    return {
        "path": str,
        "emotion": str,
        "confidence": float,
        **{f"p_{label}": float for label in labels},
        "duration_s": float,
        "model_version": str,
        "error": str,
        "message": str,
    }


class Scorer:
    """Hears files of an archive with one version.

    Args:
        artifact: the version itself and not its folder, which another machine may not have.
        files: where the archive is.
        root: what stands before each path.
    """

    def __init__(self, artifact: Artifact, files: AbstractFileSystem, root: str, limits: Limits) -> None:
        self._hear = Local(artifact, limits)
        self._version = artifact.metadata.version
        self._files, self._root = files, root

    def __call__(self, item: Row) -> Row:
        """``path`` and ``state`` of a file -> its row, with them. Nothing that is wrong with a file is raised."""
        try:
            data = self._files.cat_file(self._root + item["path"])
        except Exception as error:  # noqa: BLE001 - every file system raises its own
            return failed(item, self._version, UNREADABLE, f"{str(error) or type(error).__name__}.")
        try:
            answer = self._hear(data)
        except RequestError as error:
            return failed(item, self._version, error.code, error.message)
        except Exception as error:  # noqa: BLE001 - out of memory, or a fault of the runtime: the next file may be smaller
            return failed(item, self._version, "failed", f"{str(error) or type(error).__name__}.")
        return {
            **item,
            "emotion": answer.emotion,
            "confidence": answer.confidence,
            **{f"p_{label}": value for label, value in answer.all_emotions.items()},
            "duration_s": answer.duration_s,
            "model_version": answer.model_version,
            "error": None,
            "message": None,
        }


def failed(item: Row, version: str, code: str, message: str) -> Row:
    """The row of a file without an answer."""
    return {**item, "model_version": version, "error": code, "message": message}

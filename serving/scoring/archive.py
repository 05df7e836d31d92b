"""The files of an archive, wherever fsspec finds them: a folder, ``s3://bucket/calls``, ``zip://::calls.zip``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from tarfile import TarError
from zipfile import BadZipFile

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.utils import tokenize

from serving.errors import UsageError

# Names that the formats of serving/formats.py go by.
SUFFIXES = frozenset({"wav", "flac", "ogg", "oga", "opus", "mp3", "aif", "aiff", "m4a", "mp4", "aac", "webm", "weba"})


@dataclass(frozen=True)
class Item:
    """One file.

    Attributes:
        path: within the archive.
        state: differs when the file has changed; made from what the file system tells, such as size and time.
    """

    path: str
    state: str


@dataclass(frozen=True)
class Archive:
    """Audio files below a root, told by their names, in the names' order; can be sent to other processes."""

    files: AbstractFileSystem
    root: str
    items: Sequence[Item]

    @classmethod
    def open(cls, url: str) -> Archive:
        """List it.

        Raises:
            UsageError: it is not there, is damaged, holds no audio, or needs a package that is not installed.
        """
        try:
            files, root = url_to_fs(url)
            if not files.isdir(root):
                raise UsageError(f"{url}: there is no such folder.")
            found = files.find(root, detail=True)
        except (ImportError, ValueError, OSError, BadZipFile, TarError) as error:
            raise UsageError(f"{url}: it cannot be listed: {error}.") from error
        inside = root.rstrip("/") + "/" if root.strip("/") else root
        items = [
            Item(path.removeprefix(inside), tokenize(about))
            for path, about in sorted(found.items())
            if path.rpartition(".")[2].lower() in SUFFIXES
        ]
        if not items:
            raise UsageError(f"{url}: no audio file is in it. Those end in {', '.join(sorted(SUFFIXES))}.")
        return cls(files, inside, items)

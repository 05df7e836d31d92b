"""One exported version on disk: what it says of itself, and that it is whole."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from serving.audio import WindowSpec
from serving.errors import ArtifactError

SCHEMA_VERSION = 1
"""The layout of tensors and metadata that this service understands."""

_MODEL_JSON = "model.json"


@dataclass(frozen=True)
class Metadata:
    """What the service needs to know of a model; ``everything`` is all that the export wrote, for people."""

    version: str
    labels: tuple[str, ...]
    windows: WindowSpec
    everything: dict[str, Any]

    @classmethod
    def parse(cls, values: dict[str, Any], source: str) -> Self:
        """Check and take over the values that ``training`` wrote.

        Args:
            values: the metadata, already decoded from JSON.
            source: what to name in an error, the file they came from.

        Raises:
            ArtifactError: a key is missing, or the schema is another one.
        """
        try:
            schema = values["schema_version"]
            if schema != SCHEMA_VERSION:
                raise ArtifactError(
                    f"{source}: schema version {schema} is not read here, {SCHEMA_VERSION} is. "
                    "Export the model again with this release, or serve it with the release that wrote it."
                )
            windows = WindowSpec(
                int(values["sample_rate_hz"]), int(values["window_samples"]), int(values["hop_samples"])
            )
            if min(windows.rate_hz, windows.window_samples, windows.hop_samples) <= 0:
                raise ArtifactError(f"{source}: rate, window and hop must be above 0; got {windows}.")
            return cls(str(values["version"]), tuple(map(str, values["labels"])), windows, values)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{source}: the metadata is incomplete or of the wrong kind ({error!r}).") from error


@dataclass(frozen=True)
class Artifact:
    """A version read from disk, its checksum verified.

    Attributes:
        file: the ONNX file.
        model: its bytes, the very ones that were verified.
        sha256: their checksum, hexadecimal.
    """

    file: Path
    metadata: Metadata
    model: bytes
    sha256: str

    @classmethod
    def load(cls, folder: Path, precision: str = "fp32") -> Self:
        """Read and verify one version.

        Args:
            precision: "fp32", or another that is taken where the version has it, such as "fp16".

        Raises:
            ArtifactError: a file is missing, is not what its checksum says, or belongs to another schema or version.
        """
        described = folder / _MODEL_JSON
        try:
            description = json.loads(described.read_bytes())
            chosen = description.get("precisions", {}).get(precision, description)
            file = folder / Path(chosen["file"]).name
            expected = chosen["sha256"]
            metadata = Metadata.parse(description["metadata"], str(described))
            model = file.read_bytes()
        except OSError as error:
            raise ArtifactError(f"{error.filename}: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{described}: not a description of a version ({error!r}).") from error
        found = hashlib.sha256(model).hexdigest()
        if found != expected:
            raise ArtifactError(
                f"{file}: its SHA-256 is {found}, {_MODEL_JSON} says {expected}. "
                "The file was damaged or exchanged; restore it or export the version again."
            )
        if metadata.version != folder.name:
            raise ArtifactError(f"{described}: it describes version {metadata.version}, not {folder.name}.")
        return cls(file, metadata, model, found)


def versions(
    models: Path,
    way_out: str = "Set TIMBRE_MODELS to the folder of the versions, or run `make train` and `make export`.",
) -> list[str]:
    """Names of the versions below a folder, the newest last: by number, then by name.

    Args:
        way_out: what to do where there is none, for the error.

    Raises:
        ArtifactError: there is none.
    """
    found = [entry.parent.name for entry in models.glob(f"*/{_MODEL_JSON}") if not entry.parent.name.startswith(".")]
    if not found:
        raise ArtifactError(f"{models.resolve()}: no exported version here (a folder with {_MODEL_JSON}). {way_out}")
    return sorted(found, key=lambda name: (int(name) if name.isdecimal() else -1, name))

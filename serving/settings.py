"""Every setting of the service, read once from ``TIMBRE_*``. A name that is not known is an error: it was a typo."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from serving.audio import Limits
from serving.errors import SettingsError

PREFIX = "TIMBRE_"
_NOT_OURS = frozenset({"TIMBRE_DATA"})  # the corpora's folder: training's


def _address(host: str) -> str:
    """An IP address, as a name may have several."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        return str(ip_address(host))
    except ValueError:
        raise ValueError(f"{host!r} is not an IP address such as 127.0.0.1, 0.0.0.0 or ::1") from None


Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseModel):
    """Defaults, ranges and meaning of each setting; README's table is made from here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: Annotated[str, AfterValidator(_address)] = Field(
        "127.0.0.1", description="Address that is listened on; 0.0.0.0 for all."
    )
    port: Port = Field(3000, description="HTTP port.")
    grpc_port: Port = Field(3001, description="gRPC port, reserved.")
    models: Path = Field(Path("exported"), description="Folder with the exported versions; the newest is served.")
    max_upload_mib: Annotated[int, Field(ge=1, le=1024)] = Field(25, description="Largest request body, MiB.")
    upload_timeout_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = Field(
        60.0, description="Longest time for a request's body to arrive, seconds."
    )
    max_duration_s: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] = Field(
        Limits().max_duration_s, description="Longest recording, seconds."
    )

    @property
    def url(self) -> str:
        """Where the service answers."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def max_upload_bytes(self) -> int:
        return self.max_upload_mib << 20

    @property
    def limits(self) -> Limits:
        """What audio is accepted."""
        return Limits(max_duration_s=self.max_duration_s)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings.

        Raises:
            SettingsError: a ``TIMBRE_`` name that does not exist, or a value out of range.
        """
        given = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in environment.items()
            if name.startswith(PREFIX) and name not in _NOT_OURS
        }
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise SettingsError(
                "\n".join(_explain(problem["loc"], problem["msg"]) for problem in error.errors())
            ) from None


def _explain(where: tuple[int | str, ...], problem: str) -> str:
    name = f"{PREFIX}{str(where[0]).upper()}"
    if str(where[0]) not in Settings.model_fields:
        known = ", ".join(f"{PREFIX}{field.upper()}" for field in Settings.model_fields)
        return f"{name} is not a setting. There are {known}."
    return f"{name}: {problem}."

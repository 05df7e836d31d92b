"""Every setting of the service, read once from ``TIMBRE_*``. A name that is not known is an error: it was a typo."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from serving.audio import Limits
from serving.errors import SettingsError
from serving.router import ROUTES_FILE

PREFIX = "TIMBRE_"
# The corpora's folder, which is training's; the key of those who ask a service.
_NOT_OURS = frozenset({"TIMBRE_DATA", "TIMBRE_API_KEY"})


def _address(host: str) -> str:
    """An IP address, as a name may have several."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        return str(ip_address(host))
    except ValueError:
        raise ValueError(f"{host!r} is not an IP address such as 127.0.0.1, 0.0.0.0 or ::1") from None


def _collector(url: str) -> str:
    """An HTTP address, or nothing."""
    if (url and not urlsplit(url).netloc) or urlsplit(url).scheme not in ("", "http", "https"):
        raise ValueError(f"{url!r} is not an address such as http://otel-collector:4318")
    return url


def _scopes(words: str) -> str:
    """Names of what needs no key."""
    for word in filter(None, words.split(",")):
        if word.strip() not in ("health", "metrics"):
            raise ValueError(f"{word.strip()!r} is neither health nor metrics")
    return words


def _origins(words: str) -> str:
    """Origins as browsers tell them."""
    for word in filter(None, words.split(",")):
        parts = urlsplit(word.strip())
        if (
            parts.scheme not in ("http", "https")
            or not parts.netloc
            or word.strip() != f"{parts.scheme}://{parts.netloc}"
        ):
            raise ValueError(f"{word.strip()!r} is not an origin such as https://example.org")
    return words


Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseModel):
    """Defaults, ranges and meaning of each setting; docs/settings.md has them as a table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: Annotated[str, AfterValidator(_address)] = Field(
        "127.0.0.1", description="Address that is listened on; 0.0.0.0 for all."
    )
    port: Port = Field(3000, description="HTTP port.")
    grpc_port: Annotated[int, Field(ge=0, le=65535)] = Field(3001, description="gRPC port; 0 for none.")
    tls_cert: str = Field(
        "", description="Certificate chain, a PEM file; with TIMBRE_TLS_KEY: HTTPS, and gRPC over TLS."
    )
    tls_key: str = Field("", description="Its private key, a PEM file.")
    tls_ca: str = Field("", description="Who signs clients' certificates, a PEM file: clients without are turned away.")
    api_keys_file: str = Field(
        "", description="API keys, their scopes and rates; see python -m serving key. Empty: everybody may everything."
    )
    api_keys_exempt: Annotated[str, AfterValidator(_scopes)] = Field(
        "health,metrics", description="What needs no API key all the same: health, metrics, both or none."
    )
    cors: Annotated[str, AfterValidator(_origins)] = Field(
        "", description="Other sites whose pages may ask, https://example.org, separated by commas."
    )
    models: Path = Field(Path("exported"), description="Folder with the exported versions.")
    routes: str = Field(
        "", description=f"File that says which versions answer; {ROUTES_FILE} in TIMBRE_MODELS where empty."
    )
    ui: Literal["on", "off"] = Field("on", description="The web page at /: on, or off.")
    runtime: Literal["auto", "cpu", "cuda"] = Field("auto", description="What models run on: auto, cpu or cuda.")
    threads: Annotated[int, Field(ge=0, le=256)] = Field(
        0, description="CPU threads inside one forward pass; 0 for one, with as many passes at a time as cores."
    )
    workers: Annotated[int, Field(ge=1, le=256)] = Field(
        1, description="Processes, for a big machine without Kubernetes."
    )
    max_inflight: Annotated[int, Field(ge=1, le=100_000)] = Field(
        128, description="Most requests answered at a time by one process; more are refused with 429."
    )
    max_queue: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        4096, description="Most windows that wait for one version; more are refused with 429."
    )
    max_batch: Annotated[int, Field(ge=0, le=4096)] = Field(
        0, description="Most windows of one forward pass; 0 for 4 on CPU, 64 on CUDA."
    )
    max_wait_ms: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = Field(
        5.0, description="Longest wait for company where waiting pays, milliseconds."
    )
    timeout_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = Field(
        30.0, description="Longest time from a request's last byte to its answer, seconds."
    )
    drain_s: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = Field(
        5.0, description="Time to go on answering after SIGTERM, not ready any more, seconds."
    )
    log: Literal["text", "json"] = Field("text", description="How the log is written: text, or json, an object a line.")
    otlp_endpoint: Annotated[str, AfterValidator(_collector)] = Field(
        "", description="Collector that gets a span per request, by OTLP over HTTP (http://HOST:4318). Empty: none."
    )
    secret: SecretStr = Field(
        SecretStr(""), description="Signs request ids for feedback; the same on all replicas. Empty: a random one."
    )
    max_upload_mib: Annotated[int, Field(ge=1, le=1024)] = Field(25, description="Largest request body, MiB.")
    max_held_mib: Annotated[int, Field(ge=1, le=1 << 20)] = Field(
        256, description="Most MiB of request bodies in memory in one process; more are refused with 429."
    )
    max_decoded_mib: Annotated[int, Field(ge=1, le=1 << 20)] = Field(
        512, description="Most MiB of decoded audio in memory in one process, 3.7 a minute; more is refused with 429."
    )
    upload_timeout_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = Field(
        60.0, description="Longest time for a request's body to arrive, seconds."
    )
    head_timeout_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = Field(
        10.0,
        description="Longest time for a request's head to arrive, of the first since it connected, seconds; "
        "for a TLS handshake too.",
    )
    max_duration_s: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] = Field(
        Limits().max_duration_s, description="Longest recording, seconds."
    )

    listen_streams: Annotated[int, Field(ge=0, le=100_000)] = Field(
        100, description="Most live streams at a time in one process; more are refused."
    )
    listen_idle_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = Field(
        30.0, description="Longest time without a frame of a live stream, seconds."
    )
    listen_max_s: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] = Field(
        3600.0, description="Longest time of a live stream, seconds."
    )
    listen_utterance_s: Annotated[float, Field(ge=1, le=600, allow_inf_nan=False)] = Field(
        30.0, description="Longest utterance; one that goes on is answered there and another begins, seconds."
    )
    listen_send_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = Field(
        5.0, description="Longest time for a live stream's client to take a message, seconds."
    )
    grpc_connections: Annotated[int, Field(ge=1, le=100_000)] = Field(
        1000, description="Most gRPC connections at a time, half of what descriptors allow at most; more are closed."
    )
    grpc_age_s: Annotated[float, Field(ge=1, le=86_400, allow_inf_nan=False)] = Field(
        300.0, description="Age at which gRPC clients are asked to reconnect, so that load spreads, seconds."
    )
    grpc_ping_s: Annotated[float, Field(ge=1, le=86_400, allow_inf_nan=False)] = Field(
        30.0, description="Silence after which a gRPC connection is asked whether it lives, seconds."
    )

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("TIMBRE_TLS_CERT and TIMBRE_TLS_KEY belong together; only one is set")
        if self.tls_ca and not self.tls_cert:
            raise ValueError("TIMBRE_TLS_CA needs TIMBRE_TLS_CERT and TIMBRE_TLS_KEY")
        return self

    @property
    def url(self) -> str:
        """Where the service answers."""
        return f"{'https' if self.tls_cert else 'http'}://{self.host_of_url}:{self.port}"

    @property
    def grpc_url(self) -> str:
        """Where it answers over gRPC; empty where it does not."""
        scheme = "grpcs" if self.tls_cert else "grpc"
        return f"{scheme}://{self.host_of_url}:{self.grpc_port}" if self.grpc_port else ""

    @property
    def host_of_url(self) -> str:
        """The address as it stands before a port."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def routes_file(self) -> Path:
        return Path(self.routes) if self.routes else self.models / ROUTES_FILE

    @property
    def cors_origins(self) -> tuple[str, ...]:
        return tuple(word.strip() for word in self.cors.split(",") if word.strip())

    @property
    def exempt(self) -> frozenset[str]:
        """Scopes of ``serving.keys`` that need no key."""
        return frozenset(word.strip() for word in self.api_keys_exempt.split(",") if word.strip())

    @property
    def warning(self) -> str:
        """What whoever starts a service like this should know; empty where there is nothing."""
        if self.api_keys_file or ip_address(self.host).is_loopback:
            return ""
        return (
            f"Everybody who reaches {self.host} may ask everything: it is no address of this machine alone, and "
            "TIMBRE_API_KEYS_FILE names no file."
        )

    @property
    def max_upload_bytes(self) -> int:
        return self.max_upload_mib << 20

    @property
    def max_held_bytes(self) -> int:
        return self.max_held_mib << 20

    @property
    def max_decoded_bytes(self) -> int:
        return self.max_decoded_mib << 20

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
                "\n".join(_explain(fault["loc"], fault["msg"], fault["input"]) for fault in error.errors())
            ) from None


def _explain(where: tuple[int | str, ...], problem: str, came: object) -> str:
    ours = problem.removeprefix("Value error, ")
    if not where:  # of several settings together; the message names them
        return f"{ours}."
    name = f"{PREFIX}{str(where[0]).upper()}"
    if str(where[0]) not in Settings.model_fields:
        known = ", ".join(f"{PREFIX}{field.upper()}" for field in Settings.model_fields)
        return f"{name} is not a setting. There are {known}."
    return f"{name}: {ours}." if ours != problem else f"{name}: {problem}; {came!r:.80} came."

"""Which version answers a request: pinned by the client, sticky by a key, or weighted at random; and its file."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from serving.errors import RoutesError, UnknownVersion

ROUTES_FILE = "routes.yaml"
PINNED = "pinned"
"""Variant of a request that asked for its version: nobody drew it, so it is no sample of any variant."""

# Letters and digits: a version is a folder below the models, and nothing above it can be named.
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Variant(BaseModel):
    """A name under which a version gets a share of the traffic."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Version
    weight: Weight


class Shadow(BaseModel):
    """A version that hears a share of the requests after they have been answered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Version
    percent: Annotated[float, Field(ge=0, le=100)]


class Routes(BaseModel):
    """``routes.yaml``: what is loaded and how traffic goes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: Name
    variants: Annotated[dict[Name, Variant], Field(min_length=1, max_length=16)]
    shadow: Shadow | None = None

    @model_validator(mode="after")
    def _default_is_there(self) -> Self:
        if self.default not in self.variants:
            raise ValueError(f"default names {self.default!r}, and the variants are {', '.join(self.variants)}")
        return self

    @field_validator("variants")
    @classmethod
    def _pinned_is_none(cls, variants: dict[str, Variant]) -> dict[str, Variant]:
        if PINNED in variants:
            raise ValueError(f"{PINNED!r} is what requests are called that ask for their version; name it otherwise")
        return variants

    @property
    def versions(self) -> list[str]:
        """Every version that is loaded, each once."""
        named = [variant.version for variant in self.variants.values()]
        return list(dict.fromkeys([*named, *([self.shadow.version] if self.shadow else [])]))

    @property
    def default_version(self) -> str:
        """The version of the default variant."""
        return self.variants[self.default].version

    @staticmethod
    def only(version: str) -> Routes:
        """All traffic to one version."""
        return Routes(default="stable", variants={"stable": Variant(version=version, weight=100)})

    @staticmethod
    def text(file: Path) -> str | None:
        """What a file of routes holds; None where there is none.

        Raises:
            RoutesError: it cannot be read, or is no text.
        """
        try:
            return file.read_text()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise RoutesError(f"{file} cannot be read: {error}.") from error

    @staticmethod
    def parse(text: str, source: Path) -> Routes:
        """Routes from YAML.

        Raises:
            RoutesError: it is no YAML, or not such routes; the message names each fault.
        """
        try:
            return Routes.model_validate(yaml.safe_load(text))
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg']}" for fault in error.errors()
            )
            raise RoutesError(f"{source}: {faults}.") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date of no calendar; a thousand brackets
            raise RoutesError(f"{source} is not YAML: {' '.join(str(error).split())}.") from error


@dataclass(frozen=True)
class Choice:
    """Who answers."""

    variant: str
    version: str


def choose(routes: Routes, pinned: str | None, key: str | None, chance: Callable[[], float] = random.random) -> Choice:
    """Pinned before sticky before weighted random.

    Args:
        pinned: version that the client asked for.
        key: user or session that shall always get the same variant while weights stand.
        chance: uniform numbers in [0, 1), for requests without a key.

    Raises:
        UnknownVersion: the pinned version is not loaded.
    """
    if pinned is not None:
        if pinned not in routes.versions:
            raise UnknownVersion.among(pinned, routes.versions)
        return Choice(PINNED, pinned)
    weights = {name: variant.weight for name, variant in routes.variants.items() if variant.weight > 0}
    if not weights:
        name = routes.default
    elif len(weights) == 1:
        (name,) = weights
    elif key is not None:
        name = _sticky(weights, key)
    else:
        name = _weighted(weights, chance())
    return Choice(name, routes.variants[name].version)


def _sticky(weights: Mapping[str, float], key: str) -> str:
    """Weighted rendezvous hashing: each variant draws -ln(u) / weight with a u of its own for this key; the least wins.

    Shares are as the weights (the least of exponential variables). With two variants, p points of weight move p % of
    the keys. With more they move p to 2 p / (1 + p / 100) %: what one loses goes to all others, and what another gains
    comes from all. Exactly p is impossible there: each variant's keys would have to depend on its own weight alone, so
    with 50 points the second and the third would have the same ones, those that the first has not.
    (Thaler & Ravishankar 1998, doi:10.1109/90.663936; weights as in Schindelhauer & Schomaker 2005,
    doi:10.1145/1073970.1074008; the bound, and that no other rule is better for all weights: Moulton & Jiang 2018,
    arXiv:1809.04052.)
    """

    def draw(name: str) -> float:
        digest = hashlib.blake2b(f"{name}\0{key}".encode(), digest_size=8).digest()
        uniform = (int.from_bytes(digest, "big") + 0.5) / 2**64
        return -math.log(uniform) / weights[name]

    return min(weights, key=draw)


def _weighted(weights: Mapping[str, float], uniform: float) -> str:
    """The variant in whose share of the weights a number in [0, 1) falls."""
    left = uniform * sum(weights.values())
    for name, weight in weights.items():
        left -= weight
        if left < 0:
            return name
    return next(reversed(list(weights)))

"""``models``"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from serving.commands.options import ELSEWHERE, MODELS, ApiKey, AsJson, Ca, Cert, Key, Models, Url, exit_codes

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table


def models(
    url: Url = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    api_key: ApiKey = None,
    models: Models = MODELS,
    as_json: AsJson = False,
) -> None:
    """The versions, how traffic goes to them, and how good they are: of a service, or of a folder."""
    from serving.commands.sources import named
    from serving.commands.telling import tables

    with exit_codes():
        service = named(url, ca, cert, key, api_key)
        if service is None:
            told = _of_folder(models)
        else:
            with service.connect() as client:
                told = client.models()
        if as_json:
            print(json.dumps(told))
        else:
            tables().print(_as_table(told))
            for line in (told["note"], told["problem"]):
                if line:
                    print(line)


def _of_folder(models: Path) -> dict[str, Any]:
    """What a service over this folder would tell, of every version that is there.

    Raises:
        ArtifactError, RoutesError: something is damaged.
    """
    from serving.artifact import Artifact, versions
    from serving.router import ROUTES_FILE, Routes

    there = versions(models, ELSEWHERE)
    file = models / ROUTES_FILE
    text = Routes.text(file)
    routes = Routes.only(there[-1]) if text is None else Routes.parse(text, file)
    return {
        **routes.model_dump(mode="json"),
        "models": [
            {
                "version": version,
                "variants": [name for name, variant in routes.variants.items() if variant.version == version],
                "device": None,
                "metadata": Artifact.load(models / version).metadata.everything,
            }
            for version in there
        ],
        "device": None,
        "note": "",
        "problem": "",
    }


def _as_table(told: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table("version", "weight", "network", "parameters", "metrics (95 % interval)", "licence")
    for model in told["models"]:
        says = model["metadata"]
        table.add_row(
            model["version"],
            "\n".join(_traffic(told, model)) or "not routed",
            f"{says.get('model', '?')} over {says.get('features', '?')}",
            f"{says.get('parameters', 0):,}",
            "\n".join(_scores(says.get("metrics", {}))),
            says.get("licence", ""),
        )
    return table


def _traffic(told: dict[str, Any], model: dict[str, Any]) -> list[str]:
    """One line per way that requests come to a version."""
    lines = []
    for name in model["variants"]:
        default = ", default" if name == told["default"] else ""
        lines.append(f"{name}: {told['variants'][name]['weight']:g}{default}")
    shadow = told["shadow"]
    if shadow and shadow["version"] == model["version"]:
        lines.append(f"shadow: {shadow['percent']:g} %")
    return lines


def _scores(metrics: dict[str, Any]) -> list[str]:
    """One line per part of the data that the version was examined on."""
    lines = []
    for part, measured in metrics.items():
        if isinstance(measured, dict) and "uar" in measured:
            interval = " to ".join(f"{bound:.3f}" for bound in measured.get("uar_interval") or ())
            uar = f"UAR {measured['uar']:.3f}" + (f" ({interval})" if interval else "")
            lines.append(f"{part}: {uar}, accuracy {measured['accuracy']:.3f}")
    return lines

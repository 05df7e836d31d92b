"""The overlays, alone and with components added, as a cluster would get them: rendered, and asked by kind and name."""

from __future__ import annotations

import copy
import functools
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

K8S = ROOT / "k8s"
OVERLAYS = sorted(folder.name for folder in (K8S / "overlays").iterdir())
COMPONENTS = sorted(folder.name for folder in (K8S / "components").iterdir())
KUBECTL = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or "kubectl"

Resource = dict[str, Any]


def _matrix() -> dict[str, dict[str, str]]:
    """Overlay -> component, in the order in which they are listed -> "in it", "yes" or "no", as README has it."""
    table = (K8S / "README.md").read_text().split("| component | `local` |")[1].split("\n\n")[0]
    head, _, *rows = [re.sub("`", "", row).strip("|").split("|") for row in f"local |{table}".splitlines()]
    said = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    return {
        overlay.strip(): {component: cells[place] for component, cells in said.items()}
        for place, overlay in enumerate(head)
    }


MATRIX = _matrix()


def _mixtures() -> list[str]:
    """OVERLAY+COMPONENT for each one that may be added, and all that may be added at once."""
    found = []
    for overlay, said in MATRIX.items():
        added = [component for component, word in said.items() if word == "yes"]
        one_scaler = [component for component in added if component != "autoscaling-keda"]
        found += ["+".join([overlay, component]) for component in added]
        found += ["+".join([overlay, *one_scaler])]
    return list(dict.fromkeys(found))


MIXTURES = _mixtures()
each_overlay = pytest.mark.parametrize("overlay", [*OVERLAYS, *MIXTURES])


class Rendered(list[Resource]):
    """The resources of one overlay."""

    def all(self, *kinds: str) -> list[Resource]:
        return [resource for resource in self if resource["kind"] in kinds]

    def one(self, kind: str, name: str) -> Resource:
        (found,) = [resource for resource in self.all(kind) if resource["metadata"]["name"] == name]
        return found

    def pods(self) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
        """(labels, pod spec) of everything that makes pods."""
        for resource in self.all("Deployment"):
            template = resource["spec"]["template"]
            yield template["metadata"]["labels"], template["spec"]
        for resource in self.all("InferenceService"):
            predictor = resource["spec"]["predictor"]
            yield predictor["labels"], predictor


@functools.cache
def render_text(folder: Path) -> str:
    """What `kubectl kustomize` makes of a folder; it must say nothing on standard error, not even a warning."""
    result = subprocess.run([KUBECTL, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return result.stdout


def components(overlay: str) -> list[str]:
    """What an overlay lists, in its order; a mixture lists what is added where the table has it."""
    name, *added = overlay.split("+")
    kustomization = yaml.safe_load((K8S / "overlays" / name / "kustomization.yaml").read_text())
    listed = [Path(path).name for path in kustomization["components"]]
    if any(component.startswith("autoscaling-") for component in added):
        listed = [component for component in listed if not component.startswith("autoscaling-")]
    order = [*MATRIX[name], "common"]
    return sorted([*listed, *added], key=order.index) if added else listed


def copy_manifests(folder: Path) -> Path:
    """All that kustomize reads, to be changed by a test; where ``k8s`` is now."""
    shutil.copytree(K8S, folder / "k8s")
    (folder / "exported").mkdir()
    for name in ("kustomization.yaml", "routes.yaml"):
        shutil.copy(ROOT / "exported" / name, folder / "exported")
    return folder / "k8s"


@functools.cache
def _workshop() -> tempfile.TemporaryDirectory[str]:
    """A copy of the manifests, beside whose overlays others can be put."""
    folder = tempfile.TemporaryDirectory(prefix="timbre-k8s-")
    copy_manifests(Path(folder.name))
    return folder


def folder_of(overlay: str, k8s: Path | None = None) -> Path:
    """The overlay's own; of a mixture a copy of it, with more components in its kustomization.yaml.

    Args:
        k8s: a copy of the manifests to take it from; mixtures are put beside its overlays.
    """
    if "+" not in overlay:
        return (k8s or K8S) / "overlays" / overlay
    made = (k8s or Path(_workshop().name) / "k8s") / "overlays" / overlay
    if not made.exists():
        shutil.copytree(made.with_name(overlay.split("+", maxsplit=1)[0]), made)
        path = made / "kustomization.yaml"
        kustomization = yaml.safe_load(path.read_text())
        kustomization["components"] = [f"../../components/{name}" for name in components(overlay)]
        path.write_text(yaml.safe_dump(kustomization))
    return made


def parsed(text: str) -> Rendered:
    return Rendered(yaml.load_all(text, Loader=yaml.CSafeLoader))


@functools.cache
def _rendered(overlay: str) -> Rendered:
    return parsed(render_text(folder_of(overlay)))


def render(overlay: str) -> Rendered:
    """An overlay, or OVERLAY+COMPONENT+... as one of `MIXTURES`; the caller may change what it gets."""
    return copy.deepcopy(_rendered(overlay))


def container(pod: Resource) -> Resource:
    (only,) = pod["containers"]
    assert isinstance(only, dict)
    return only


def settings_of(pod: Resource, rendered: Rendered) -> dict[str, str]:
    """What its ConfigMaps give to a pod's container."""
    given: dict[str, str] = {}
    for source in container(pod)["envFrom"]:
        given |= rendered.one("ConfigMap", source["configMapRef"]["name"])["data"]
    return given


def probes(rendered: Rendered) -> Iterator[tuple[str, Resource]]:
    """(name, what it asks) of the probes of every pod."""
    for _, pod in rendered.pods():
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            yield name, container(pod)[name]["httpGet"]

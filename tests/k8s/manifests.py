"""The overlays as a cluster would get them: rendered by kubectl, and asked by kind and name."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT

K8S = ROOT / "k8s"
OVERLAYS = sorted(folder.name for folder in (K8S / "overlays").iterdir())
COMPONENTS = sorted(folder.name for folder in (K8S / "components").iterdir())
KUBECTL = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or "kubectl"

Resource = dict[str, Any]


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


def render(overlay: str) -> Rendered:
    return Rendered(yaml.safe_load_all(render_text(K8S / "overlays" / overlay)))

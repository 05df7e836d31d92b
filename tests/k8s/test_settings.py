"""Settings are ones that the code knows, and each stands in one place: numbers, names and TIMBRE_ variables alike."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.errors import Unauthenticated
from serving.keys import Guard, Scope
from serving.metrics import Metrics
from serving.settings import PREFIX, Settings
from tests.conftest import ROOT
from tests.k8s.manifests import (
    K8S,
    components,
    container,
    copy_manifests,
    each_overlay,
    folder_of,
    parsed,
    render,
    render_text,
    settings_of,
)

FIELDS = {
    "prometheus": {
        "ScaledObject.spec.triggers.metadata.serverAddress",
        "AnalysisTemplate.spec.metrics.provider.prometheus.address",
    },
    "monitoring": {"NetworkPolicy.spec.ingress.from.namespaceSelector.matchLabels.kubernetes.io/metadata.name"},
    "gateway": {"HTTPRoute.spec.parentRefs.name", "GRPCRoute.spec.parentRefs.name"},
    "gateway-namespace": {"HTTPRoute.spec.parentRefs.namespace", "GRPCRoute.spec.parentRefs.namespace"},
    "gateway-pods": {"NetworkPolicy.spec.ingress.from.namespaceSelector.matchLabels.kubernetes.io/metadata.name"},
    "hostname": {"HTTPRoute.spec.hostnames", "GRPCRoute.spec.hostnames"},
    "runbooks": {"PrometheusRule.spec.groups.rules.annotations.runbook_url"},
    "min-replicas": {
        "HorizontalPodAutoscaler.spec.minReplicas",
        "ScaledObject.spec.minReplicaCount",
        "InferenceService.spec.predictor.minReplicas",
    },
    "max-replicas": {
        "HorizontalPodAutoscaler.spec.maxReplicas",
        "ScaledObject.spec.maxReplicaCount",
        "InferenceService.spec.predictor.maxReplicas",
    },
    "in-flight": {
        "HorizontalPodAutoscaler.spec.metrics.pods.target.averageValue",
        "ScaledObject.spec.triggers.metadata.threshold",
    },
    "down-pods": {
        "HorizontalPodAutoscaler.spec.behavior.scaleDown.policies.value",
        "ScaledObject.spec.advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.policies.value",
    },
    "down-period-s": {
        "HorizontalPodAutoscaler.spec.behavior.scaleDown.policies.periodSeconds",
        "ScaledObject.spec.advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.policies.periodSeconds",
    },
    "down-after-s": {
        "HorizontalPodAutoscaler.spec.behavior.scaleDown.stabilizationWindowSeconds",
        "ScaledObject.spec.advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.stabilizationWindowSeconds",
    },
    "our-fault": {"PrometheusRule.spec.groups.rules.expr", "AnalysisTemplate.spec.args.value"},
    "slow-after-s": {"PrometheusRule.spec.groups.rules.expr", "AnalysisTemplate.spec.args.value"},
}
"""Line of components/common/*.env -> every field that has its value from there."""

SEVERAL = {
    "0.01": (3, "refused requests that page; errors that stop a canary; the budget of slow answers"),
    "0.2": (2, "seconds of waiting; a share of answers with another emotion"),
    "4": (3, "replicas of a canary; replicas while Prometheus is silent, and the polls until then"),
    "5": (6, "a probe's and preStop's seconds; revisions; percents of a mirror and a first step; inconclusive answers"),
    "6": (2, "probes until a restart; the burn rate that warns"),
    "10": (4, "a probe's period; the candidate's weight; inconclusive answers about disagreement; MiB of an upload"),
    "15": (2, "seconds of the HPA's policy; seconds between KEDA's polls"),
    "50": (2, "a step of the canary; percent that its shadow hears"),
    "53": (2, "port of DNS: UDP, TCP"),
    "60": (5, "seconds: a node's silence, a stop, an aborted canary, down-period-s; probes of a start"),
    "64": (2, "requests in flight; live streams, of which fewer would not make a gRPC connection hold less"),
    "80": (9, "port of the Service: the routes to it name it, and are checked against it"),
    "100": (8, "all of the traffic, or of the replicas; clips that are compared; answers that make a mix"),
    "300": (2, "seconds of a rollout without progress; down-after-s"),
    "3001": (11, "port of gRPC: as 80"),
}
"""Number -> how often it is written, and what it means there: a new copy of a setting would be one more."""
NAMES = {"our-fault", *re.findall(r"^([a-z-]+)=", (K8S / "components/common/cluster.env").read_text(), re.MULTILINE)}


NUMBER = r"(?<![\w.:/-])(\d+(?:\.\d+)?(?:[KMGT]i)?)(?![\w.])"
NAME = r"https?://[^\s\"]+|(?:[\w-]+\.)+(?:com|svc)\b(?!/)|\b[a-z_]+(?:\|[a-z_]+)+\b"


def settings_files() -> list[Path]:
    return [path for path in K8S.rglob("*") if path.suffix in {".yaml", ".env"}]


def literals() -> Iterator[str]:
    """Each value as it is written: what an alias or a merge repeats is written once; a place in a list is no value."""
    for path in settings_files():
        if path.suffix == ".env":
            yield from (line.split("=", 1)[1] for line in path.read_text().splitlines() if not line.startswith("#"))
            continue
        before = ""
        for event in yaml.parse(path.read_text()):
            if isinstance(event, yaml.ScalarEvent):
                if before != "index":
                    yield event.value
                before = event.value


def test_no_number_is_written_twice_unless_it_means_something_else() -> None:
    """Of 0, 1 and 2 there is one of everything; times inside a query are parts of its name."""
    seen = Counter(number for value in literals() for number in re.findall(NUMBER, value))
    twice = {number: places for number, places in seen.items() if places > 1 and number not in {"0", "1", "2"}}
    assert twice == {number: places for number, (places, _) in SEVERAL.items()}


def test_no_name_is_written_twice() -> None:
    """Addresses, host names, and lists of labels' values."""
    seen = Counter(match[0] for value in literals() for match in re.finditer(NAME, value))
    assert len(seen) >= 5
    assert {name: places for name, places in seen.items() if places > 1} == {}


def test_no_variable_is_written_twice() -> None:
    """A TIMBRE_ name has one value in one file, but for what a component changes of the base."""
    seen: dict[str, set[str]] = defaultdict(set)
    for path in settings_files():
        for name in re.findall(rf"\b({PREFIX}[A-Z_]+)(?:=|: )", path.read_text()):
            seen[name].add(str(path.relative_to(K8S)))
    assert {name: files for name, files in seen.items() if len(files) > 1} == {
        f"{PREFIX}RUNTIME": {"base/replicas/settings.env", "components/cuda/settings.yaml"}
    }


def leaves(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """(path without places in lists, value) of everything in a resource."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}")
    elif isinstance(node, list):
        for value in node:
            yield from leaves(value, path)
    else:
        yield path, str(node)


def test_a_line_that_is_changed_changes_everywhere(tmp_path: Path) -> None:
    """Every line of components/common/*.env at once, to a value that nothing else has; and the namespace."""
    k8s = copy_manifests(tmp_path)
    common = k8s / "components" / "common"
    new: dict[str, str] = {}
    for path in sorted(common.glob("*.env")):
        for name in re.findall(r"^([a-z-]+)=", path.read_text(), re.MULTILINE):
            new[name] = f"new-{name}" if name in NAMES else str(7001 + len(new))
            path.write_text(re.sub(rf"^{name}=.*$", f"{name}={new[name]}", path.read_text(), flags=re.MULTILINE))
    kustomization = common / "kustomization.yaml"
    kustomization.write_text(kustomization.read_text().replace("\nnamespace: timbre\n", "\nnamespace: elsewhere\n"))
    found: dict[str, set[str]] = defaultdict(set)
    for overlay in ("cpu+tls", "cuda+tls", "ab+tls", "canary+tls", "kserve"):
        text = render_text(folder_of(overlay, k8s))
        assert not re.search(r'namespace: timbre\b|namespace="timbre"|timbre\.timbre', text)
        rendered = parsed(text)
        assert rendered.one("Namespace", "elsewhere")
        for resource in rendered:
            for where, value in leaves(resource, resource["kind"]):
                found_here = (name for name, given in new.items() if re.search(rf"(?<![\w-]){given}(?![\w-])", value))
                for name in found_here:
                    found[name].add(where)
    assert found == FIELDS


@each_overlay
def test_settings_are_known_and_valid(overlay: str) -> None:
    rendered = render(overlay)
    for _, pod in rendered.pods():
        only, given = container(pod), settings_of(pod, rendered)
        assert all(name.startswith(PREFIX) for name in given)
        settings = Settings.from_environment(given | {entry["name"]: "secret" for entry in only["env"]})
        ports = {port["name"]: port["containerPort"] for port in only["ports"]}
        assert ports == {"http": settings.port, "grpc": settings.grpc_port}
        mounts = {mount["mountPath"]: mount["name"] for mount in only["volumeMounts"]}
        assert mounts[str(settings.routes_file.parent)] == "routes"


@each_overlay
def test_every_file_that_is_named_is_below_a_mount_of_what_holds_it(overlay: str) -> None:
    """Routes, certificate and API keys; a whole folder, since what is mounted by subPath is not followed."""
    rendered, listed = render(overlay), components(overlay)
    for _, pod in rendered.pods():
        settings = Settings.from_environment(settings_of(pod, rendered))
        files = (settings.routes, settings.tls_cert, settings.tls_key, settings.api_keys_file)
        mounts = {mount["mountPath"]: mount for mount in container(pod)["volumeMounts"]}
        held = {mounts[str(Path(file).parent)]["name"] for file in files if file}
        assert held == {"routes", *(name for name in ("tls", "api-keys") if name in listed)}
        assert not any("subPath" in mount for mount in mounts.values())


def test_the_readmes_secret_holds_keys_that_the_service_reads(tmp_path: Path) -> None:
    """Its lines, run as they stand but for the cluster: the key of the first opens what the service says it is for."""
    (lines,) = re.findall(r"```sh\n(echo keys: .+?)```", (K8S / "README.md").read_text(), re.DOTALL)
    made, created, changed = [line.partition(" #")[0] for line in lines.splitlines()[1:]]
    begun = lines.splitlines()[0]
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    subprocess.run(["bash", "-ec", f"{begun}\n{made}"], cwd=tmp_path, env=path, check=True)
    rendered = render("cpu+api-keys")
    _, pod = next(rendered.pods())
    file = Path(Settings.from_environment(settings_of(pod, rendered)).api_keys_file)
    (secret,) = [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
    for line in (created, changed):
        assert f" -n timbre create secret generic {secret} --from-file={file.name}" in line
    guard = Guard(tmp_path / file.name, frozenset({Scope.HEALTH}), Metrics())
    guard.admit((tmp_path / "key.txt").read_text().strip(), Scope.PREDICT)
    with pytest.raises(Unauthenticated):
        guard.admit(None, Scope.PREDICT)


@each_overlay
def test_the_web_page_is_off_in_a_cluster(overlay: str) -> None:
    rendered = render(overlay)
    given = [settings_of(pod, rendered) for _, pod in rendered.pods()]
    assert given
    assert {Settings.from_environment(each).ui for each in given} == {"off"}


@each_overlay
def test_a_setting_is_in_the_configmap_only_where_it_is_not_the_default(overlay: str) -> None:
    for resource in render(overlay).all("ConfigMap"):
        for name, value in resource["data"].items():
            if name.startswith(PREFIX):
                assert value != str(Settings.model_fields[name.removeprefix(PREFIX).lower()].default)


def test_manifests_are_small() -> None:
    for path in settings_files():
        if path.name != "prometheusrule.yaml":
            assert len(path.read_text().splitlines()) <= 110, path


def test_resources_are_plain_yaml() -> None:
    for path in settings_files():
        if path.suffix == ".yaml":
            assert list(yaml.safe_load_all(path.read_text())), path

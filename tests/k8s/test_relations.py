"""What one manifest says of another, of the service and of the settings is true."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.router import Routes
from serving.settings import PREFIX
from serving.transports.listen import PATH
from serving.transports.oip.model import NAME
from serving.transports.query import KEY, VERSION
from tests.conftest import ROOT
from tests.k8s.manifests import (
    K8S,
    MATRIX,
    MIXTURES,
    OVERLAYS,
    Rendered,
    components,
    container,
    copy_manifests,
    each_overlay,
    parsed,
    probes,
    render,
    render_text,
    settings_of,
)


def labels_of_pods(rendered: Rendered) -> list[dict[str, str]]:
    return [labels for labels, _ in rendered.pods()]


def selected(selector: dict[str, str], rendered: Rendered) -> bool:
    return any(selector.items() <= labels.items() for labels in labels_of_pods(rendered))


@each_overlay
def test_selectors_match_labels(overlay: str) -> None:
    rendered = render(overlay)
    checked = 0
    for resource in rendered.all("Service", "Deployment", "PodDisruptionBudget", "PodMonitor", "NetworkPolicy"):
        spec = resource["spec"]
        selector = spec["podSelector"] if resource["kind"] == "NetworkPolicy" else spec["selector"]
        assert selected(selector.get("matchLabels", {} if "podSelector" in spec else selector), rendered), resource
        checked += 1
    for deployment in rendered.all("Deployment"):
        template = deployment["spec"]["template"]
        assert deployment["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        for spread in template["spec"]["topologySpreadConstraints"]:
            assert spread["labelSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert checked >= 3


@pytest.mark.parametrize("overlay", [name for name in [*OVERLAYS, *MIXTURES] if name.startswith("ab")])
def test_a_deployment_of_a_split_selects_only_its_own_pods(overlay: str) -> None:
    rendered = render(overlay)
    for resource in rendered.all("Deployment", "Service", "PodDisruptionBudget"):
        selector = resource["spec"]["selector"]
        wanted = selector.get("matchLabels", selector).items()
        matching = [labels for labels in labels_of_pods(rendered) if wanted <= labels.items()]
        assert len(matching) == 1, resource["metadata"]["name"]
        assert resource["metadata"]["name"].endswith(matching[0]["app.kubernetes.io/instance"])


@each_overlay
def test_names_that_are_named_are_there(overlay: str) -> None:
    """ConfigMaps, service accounts, backends of routes, targets of autoscalers, templates of analyses."""
    rendered = render(overlay)
    names = {(resource["kind"], resource["metadata"]["name"]) for resource in rendered}
    for _, pod in rendered.pods():
        assert ("ServiceAccount", pod["serviceAccountName"]) in names
        wanted = [source["configMapRef"]["name"] for source in container(pod)["envFrom"]]
        wanted += [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
        assert len(wanted) == 2
        assert {("ConfigMap", name) for name in wanted} <= names
    for service, port in backends(rendered):
        ports = {entry["port"] for entry in rendered.one("Service", service)["spec"]["ports"]}
        assert port in ports
    for scaler in rendered.all("HorizontalPodAutoscaler", "ScaledObject"):
        target = scaler["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) in names
        # Two owners of one number would fight over it.
        assert "replicas" not in rendered.one(target["kind"], target["name"])["spec"]
    for rollout in rendered.all("Rollout"):
        canary = rollout["spec"]["strategy"]["canary"]
        routing = canary["trafficRouting"]["plugins"]["argoproj-labs/gatewayAPI"]
        named = [("Service", canary["stableService"]), ("Service", canary["canaryService"])]
        named += [("Deployment", rollout["spec"]["workloadRef"]["name"])]
        named += [("AnalysisTemplate", template["templateName"]) for template in canary["analysis"]["templates"]]
        named += [("HTTPRoute", route["name"]) for route in routing["httpRoutes"]]
        named += [("GRPCRoute", route["name"]) for route in routing["grpcRoutes"]]
        assert set(named) <= names
        assert routing["namespace"] == rollout["metadata"]["namespace"]


def backends(rendered: Rendered) -> Iterator[tuple[str, int]]:
    """(Service, port) of everything that routes send to."""
    for route in rendered.all("HTTPRoute", "GRPCRoute"):
        for rule in route["spec"]["rules"]:
            mirrored = [filter_["requestMirror"]["backendRef"] for filter_ in rule.get("filters", [])]
            for backend in [*rule["backendRefs"], *mirrored]:
                yield backend["name"], backend["port"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_table_of_what_combines_is_true(overlay: str) -> None:
    """It names every component, and what is in an overlay is listed there, in the table's order."""
    listed = components(overlay)
    said = MATRIX[overlay]
    assert {*said, "common"} == {folder.name for folder in (K8S / "components").iterdir()}
    assert set(said.values()) <= {"in it", "yes", "no"}
    assert listed == [*(component for component, word in said.items() if word == "in it"), "common"]


GPU = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


@each_overlay
def test_a_component_reaches_every_pod_and_every_service(overlay: str) -> None:
    """Under whatever name the overlay has them: two Deployments, a Rollout, an InferenceService."""
    rendered, listed = render(overlay), components(overlay)
    for _, pod in rendered.pods():
        settings = settings_of(pod, rendered)
        assert (settings[f"{PREFIX}RUNTIME"] == "cuda") == ("cuda" in listed)
        assert (f"{PREFIX}OTLP_ENDPOINT" in settings) == ("tracing" in listed)
        assert (f"{PREFIX}TLS_CERT" in settings) == ("tls" in listed)
        assert (f"{PREFIX}API_KEYS_FILE" in settings) == ("api-keys" in listed)
        assert ("nvidia.com/gpu.present" in pod["nodeSelector"]) == (GPU in pod["tolerations"]) == ("cuda" in listed)
    schemes = {get.get("scheme", "HTTP") for _, get in probes(rendered)}
    assert schemes == {"HTTPS" if "tls" in listed else "HTTP"}
    for monitor in rendered.all("PodMonitor"):
        assert [end.get("scheme", "http") for end in monitor["spec"]["podMetricsEndpoints"]] == [
            "https" if "tls" in listed else "http"
        ]
    for service in rendered.all("Service"):
        spoken = {port["appProtocol"] for port in service["spec"]["ports"]}
        assert (spoken == {"https"}) == ("tls" in listed), service["metadata"]["name"]
    policies = rendered.all("BackendTLSPolicy")
    assert len(policies) == ("tls" in listed)
    for policy in policies:
        targets = {target["name"] for target in policy["spec"]["targetRefs"]}
        assert targets == {service["metadata"]["name"] for service in behind_the_gateway(rendered)}


def behind_the_gateway(rendered: Rendered) -> list[dict[str, Any]]:
    return [service for service in rendered.all("Service") if service["spec"].get("clusterIP") != "None"]


@each_overlay
def test_all_is_in_one_namespace(overlay: str) -> None:
    rendered = render(overlay)
    (namespace,) = rendered.all("Namespace")
    for resource in rendered:
        if resource is not namespace:
            assert resource["metadata"]["namespace"] == namespace["metadata"]["name"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def routes_of(rendered: Rendered) -> dict[str, Routes]:
    """ConfigMap -> the routes in it, as the service reads them."""
    return {
        resource["metadata"]["name"]: Routes.parse(resource["data"]["routes.yaml"], Path("routes.yaml"))
        for resource in rendered.all("ConfigMap")
        if "routes.yaml" in resource["data"]
    }


@pytest.mark.parametrize("overlay", ["local", "cpu", "cuda", "kserve"])
def test_the_routes_are_the_exported_ones(overlay: str) -> None:
    (routes,) = routes_of(render(overlay)).values()
    path = ROOT / "exported" / "routes.yaml"
    assert routes == Routes.parse(path.read_text(), path)


@each_overlay
def test_routed_versions_are_exported(overlay: str) -> None:
    for routes in routes_of(render(overlay)).values():
        for version in routes.versions:
            assert (ROOT / "exported" / version / "model.onnx").is_file(), version


def test_a_split_asks_for_versions_before_it_weighs() -> None:
    rendered = render("ab")
    version_of = {name.split("-")[2]: routes.default_version for name, routes in routes_of(rendered).items()}
    assert set(version_of) == {"stable", "candidate"}
    for kind in ("HTTPRoute", "GRPCRoute"):
        *pinned, split = rendered.one(kind, "timbre")["spec"]["rules"]
        asked = {}
        for rule in pinned:
            (header,) = (header for match in rule["matches"] for header in match.get("headers", []))
            assert header["name"] == "X-Model-Version"
            (backend,) = rule["backendRefs"]
            asked[backend["name"].removeprefix("timbre-")] = header["value"]
        assert asked == version_of
        assert "matches" not in split
        weights = {backend["name"]: backend["weight"] for backend in split["backendRefs"]}
        assert weights == {"timbre-stable": 90, "timbre-candidate": 10}
        (mirror,) = split["filters"]
        assert mirror["requestMirror"]["backendRef"]["name"] == "timbre-candidate"
        assert 0 < mirror["requestMirror"]["percent"] < 100


def sent_to(rules: list[dict[str, Any]], target: str, version: str | None = None) -> set[str]:
    """The backends to which a Gateway sends a request: those of the first rule that matches it.

    Args:
        version: in the header.
    """
    path, _, query = target.partition("?")
    asked = set(query.split("&"))

    def matches(match: dict[str, Any]) -> bool:
        below = match.get("path", {"type": "PathPrefix", "value": ""})
        assert below["type"] == "PathPrefix"  # whole elements of the path
        return (
            f"{path}/".startswith(f"{below['value']}/")
            and all(header == {"name": "X-Model-Version", "value": version} for header in match.get("headers", []))
            and all(f"{given['name']}={given['value']}" in asked for given in match.get("queryParams", []))
        )

    rule = next(rule for rule in rules if any(map(matches, rule.get("matches", [{}]))))
    return {backend["name"] for backend in rule["backendRefs"]}


def test_however_a_version_is_asked_for_over_http_the_deployment_that_has_it_answers() -> None:
    rendered = render("ab")
    rules = rendered.one("HTTPRoute", "timbre")["spec"]["rules"]
    model = f"/v2/models/{NAME}"
    for name, routes in routes_of(rendered).items():
        version, whose = routes.default_version, {f"timbre-{name.split('-')[2]}"}
        assert sent_to(rules, "/predict", version) == whose
        assert sent_to(rules, f"/predict?min_confidence=0.5&{VERSION}={version}") == whose
        assert sent_to(rules, f"{PATH}?rate_hz=16000&{VERSION}={version}") == whose
        for below in ("", "/ready", "/infer"):
            assert sent_to(rules, f"{model}/versions/{version}{below}") == whose
        # Another version, whose name begins as this one's.
        assert len(sent_to(rules, f"{model}/versions/{version}0/infer")) == 2
    for target in ("/predict", f"/predict?{KEY}=1", f"{PATH}?rate_hz=16000", f"{model}/infer"):
        assert sent_to(rules, target) == {"timbre-stable", "timbre-candidate"}


@each_overlay
def test_weights_sum_to_100(overlay: str) -> None:
    for route in render(overlay).all("HTTPRoute", "GRPCRoute"):
        for rule in route["spec"]["rules"]:
            weights = [backend.get("weight", 100) for backend in rule["backendRefs"]]
            assert sum(weights) == 100


def test_every_overlay_means_the_same_version_by_stable_and_one_other_beside_it() -> None:
    """What exported/routes.yaml routes answers everywhere; what is tried or compared with it is named in one place."""
    path = ROOT / "exported" / "routes.yaml"
    exported = Routes.parse(path.read_text(), path)
    stable = exported.default_version
    (other,) = re.findall(r"^other=(\S+)$", (K8S / "versions" / "versions.env").read_text(), re.MULTILINE)
    (canary,) = routes_of(render("canary")).values()
    assert canary.shadow
    assert (canary.default_version, canary.shadow.version) == (stable, other)
    split = {name.split("-")[2]: routes for name, routes in routes_of(render("ab")).items()}
    assert split.pop("stable") == exported
    assert [variant.version for variant in split.pop("candidate").variants.values()] == [other]
    assert not split
    # No third place has a version in it: the two overlays have zeros, which the rendered ones do not.
    written = [path for path in (K8S / "overlays").rglob("*.yaml") if re.search(r'version: "[1-9]', path.read_text())]
    assert written == []


def test_another_stable_version_goes_everywhere(tmp_path: Path) -> None:
    copy_manifests(tmp_path)
    routes = tmp_path / "exported" / "routes.yaml"
    routes.write_text(re.sub(r'^(  stable: \{version: )"\d+"', r'\1"7"', routes.read_text(), flags=re.MULTILINE))
    for overlay in ("ab", "canary"):
        text = render_text(tmp_path / "k8s" / "overlays" / overlay)
        assert 'stable: {version: "7", weight: 100}' in text
        assert text.count('value: "7"') == (3 if overlay == "ab" else 0)  # header and query over HTTP, metadata
        assert text.count("/versions/7\n") == (overlay == "ab")


def test_a_rollout_of_an_image_alone_may_name_one_version_twice(tmp_path: Path) -> None:
    """In each overlay that names two; the README says what is compared then."""
    k8s = copy_manifests(tmp_path)
    path = ROOT / "exported" / "routes.yaml"
    stable = Routes.parse(path.read_text(), path).default_version
    versions = k8s / "versions" / "versions.env"
    versions.write_text(re.sub(r"^other=.*$", f"other={stable}", versions.read_text(), flags=re.MULTILINE))
    (canary,) = routes_of(parsed(render_text(k8s / "overlays" / "canary"))).values()
    assert canary.shadow
    assert canary.versions == [canary.shadow.version] == [stable]
    split = routes_of(parsed(render_text(k8s / "overlays" / "ab")))
    assert [routes.versions for routes in split.values()] == [[stable], [stable]]


def test_images_and_versions_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for overlay in [*OVERLAYS, *MIXTURES]:
        images = {container(pod)["image"] for _, pod in render(overlay).pods()}
        assert images == {f"timbre-cuda:{version}" if "cuda" in components(overlay) else f"timbre:{version}"}


def test_the_readmes_registry_lines_change_every_image(tmp_path: Path) -> None:
    """Each the image of its overlay, by its whole name."""
    lines = [line for line in (K8S / "README.md").read_text().splitlines() if line.startswith("sed -i ")]
    copy_manifests(tmp_path)
    for line in lines:
        subprocess.run(["bash", "-ec", line], cwd=tmp_path, check=True)
    for overlay, name in {"cpu": "timbre", "cuda": "timbre-cuda"}.items():
        text = render_text(tmp_path / "k8s" / "overlays" / overlay)
        assert re.findall(r"\bimage: (\S+):", text) == [f"registry.example.com/{name}"]


def test_no_patch_is_written_twice() -> None:
    patches = [
        patch["patch"]
        for path in K8S.rglob("kustomization.yaml")
        for patch in yaml.safe_load(path.read_text()).get("patches", [])
        if "patch" in patch
    ]
    assert len(patches) > 5
    assert [patch for patch in patches if patches.count(patch) > 1] == []

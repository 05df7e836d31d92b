"""What one manifest says of another, of the service and of the settings is true."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.router import Routes
from serving.server import _FINISH_S
from serving.settings import PREFIX, Settings
from tests.conftest import ROOT
from tests.k8s.manifests import K8S, MATRIX, MIXTURES, OVERLAYS, Rendered, components, render, render_text
from tests.service import running

each_overlay = pytest.mark.parametrize("overlay", [*OVERLAYS, *MIXTURES])


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    assert isinstance(only, dict)
    return only


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
        settings = rendered.one("ConfigMap", container(pod)["envFrom"][0]["configMapRef"]["name"])["data"]
        assert (settings[f"{PREFIX}RUNTIME"] == "cuda") == ("cuda" in listed)
        assert (f"{PREFIX}OTLP_ENDPOINT" in settings) == ("tracing" in listed)
        assert (f"{PREFIX}TLS_CERT" in settings) == ("tls" in listed)
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
def test_what_runs_the_pods_is_scaled_and_nothing_else_owns_the_number(overlay: str) -> None:
    rendered = render(overlay)
    scalers = rendered.all("HorizontalPodAutoscaler", "ScaledObject")
    assert len(scalers) == sum(component.startswith("autoscaling-") for component in components(overlay))
    for scaler in scalers:
        target = scaler["spec"]["scaleTargetRef"]
        assert target["kind"] == ("Rollout" if rendered.all("Rollout") else "Deployment")
        (scaled,) = rendered.all("Rollout") or rendered.all("Deployment")
        assert (scaled["apiVersion"], scaled["metadata"]["name"]) == (target["apiVersion"], target["name"])
        assert "replicas" not in scaled["spec"]


@each_overlay
def test_all_is_in_one_namespace(overlay: str) -> None:
    rendered = render(overlay)
    (namespace,) = rendered.all("Namespace")
    for resource in rendered:
        if resource is not namespace:
            assert resource["metadata"]["namespace"] == namespace["metadata"]["name"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@each_overlay
def test_settings_are_known_and_valid(overlay: str) -> None:
    rendered = render(overlay)
    for _, pod in rendered.pods():
        only = container(pod)
        given: dict[str, str] = {}
        for source in only["envFrom"]:
            given |= rendered.one("ConfigMap", source["configMapRef"]["name"])["data"]
        assert all(name.startswith(PREFIX) for name in given)
        settings = Settings.from_environment(given | {entry["name"]: "secret" for entry in only["env"]})
        ports = {port["name"]: port["containerPort"] for port in only["ports"]}
        assert ports == {"http": settings.port, "grpc": settings.grpc_port}
        mounts = {mount["mountPath"]: mount["name"] for mount in only["volumeMounts"]}
        assert mounts[str(settings.routes_file.parent)] == "routes"
        # The container is killed when its grace is over, whatever it does.
        slept = only["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod["terminationGracePeriodSeconds"] > slept + settings.drain_s + _FINISH_S


@each_overlay
def test_a_setting_is_in_the_configmap_only_where_it_is_not_the_default(overlay: str) -> None:
    for resource in render(overlay).all("ConfigMap"):
        for name, value in resource["data"].items():
            if name.startswith(PREFIX) and name != f"{PREFIX}DRAIN_S":
                assert value != str(Settings.model_fields[name.removeprefix(PREFIX).lower()].default)


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
            (header,) = rule["matches"][0]["headers"]
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


@each_overlay
def test_weights_sum_to_100(overlay: str) -> None:
    for route in render(overlay).all("HTTPRoute", "GRPCRoute"):
        for rule in route["spec"]["rules"]:
            weights = [backend.get("weight", 100) for backend in rule["backendRefs"]]
            assert sum(weights) == 100


def test_a_canary_goes_by_5_25_50_100_and_is_measured_from_its_first_step() -> None:
    (rollout,) = render("canary").all("Rollout")
    canary = rollout["spec"]["strategy"]["canary"]
    steps = canary["steps"]
    assert [step["setWeight"] for step in steps if "setWeight" in step] == [5, 25, 50, 100]
    assert all("pause" in steps[place + 1] for place in range(0, len(steps) - 1, 2))
    assert canary["analysis"]["startingStep"] == 1
    assert canary["maxUnavailable"] == 0
    (template,) = render("canary").all("AnalysisTemplate")
    names = {metric["name"] for metric in template["spec"]["metrics"]}
    assert names == {"error-rate", "p99-seconds", "disagreement-with-stable"}
    given = {argument["name"] for argument in canary["analysis"]["args"]}
    assert given == {argument["name"] for argument in template["spec"]["args"]}
    for metric in template["spec"]["metrics"]:
        used = set(re.findall(r"\{\{args\.([a-z]+)\}\}", metric["provider"]["prometheus"]["query"]))
        assert used == given
        assert {"successCondition", "failureCondition", "failureLimit", "inconclusiveLimit"} <= metric.keys()


def test_every_overlay_means_the_same_version_by_stable_and_one_other_beside_it() -> None:
    """What exported/routes.yaml routes answers everywhere; what is tried or compared with it is named in one place."""
    path = ROOT / "exported" / "routes.yaml"
    exported = Routes.parse(path.read_text(), path)
    stable = exported.default_version
    (other,) = re.findall(r"^other=(\S+)$", (K8S / "versions" / "versions.env").read_text(), re.MULTILINE)
    assert other != stable, f"routes.yaml routes {stable} now: name another in k8s/versions/versions.env"
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
    for folder in ("k8s", "exported"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("1", "2"))
    routes = tmp_path / "exported" / "routes.yaml"
    routes.write_text(re.sub(r'^(  stable: \{version: )"\d+"', r'\1"7"', routes.read_text(), flags=re.MULTILINE))
    for overlay in ("ab", "canary"):
        text = render_text(tmp_path / "k8s" / "overlays" / overlay)
        assert 'stable: {version: "7", weight: 100}' in text
        assert ('value: "7"' in text) == (overlay == "ab")


def test_images_and_versions_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for overlay in [*OVERLAYS, *MIXTURES]:
        images = {container(pod)["image"] for _, pod in render(overlay).pods()}
        assert images == {f"timbre-cuda:{version}" if "cuda" in components(overlay) else f"timbre:{version}"}


def test_the_readmes_registry_line_changes_every_image(tmp_path: Path) -> None:
    (line,) = [line for line in (K8S / "README.md").read_text().splitlines() if line.startswith("sed -i ")]
    for folder in ("k8s", "exported"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("1", "2"))
    subprocess.run(["bash", "-ec", line], cwd=tmp_path, check=True)
    text = render_text(tmp_path / "k8s" / "overlays" / "cpu")
    assert re.findall(r"\bimage: (\S+):", text) == ["registry.example.com/timbre"]


@each_overlay
def test_pods_ask_for_nothing_they_do_not_need(overlay: str) -> None:
    for _, pod in render(overlay).pods():
        only, all_ = container(pod), pod["securityContext"]
        assert all_["runAsNonRoot"]
        assert all_["runAsUser"] > 10_000
        assert all_["seccompProfile"] == {"type": "RuntimeDefault"}
        own = only["securityContext"]
        assert own == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["automountServiceAccountToken"] is False
        for amounts in (only["resources"]["requests"], only["resources"]["limits"]):
            assert {"cpu", "memory", "ephemeral-storage"} <= amounts.keys()
        assert only["resources"]["limits"].get("nvidia.com/gpu", "0") == ("1" if "cuda" in components(overlay) else "0")


@each_overlay
def test_nothing_goes_in_or_out_that_is_not_named(overlay: str) -> None:
    rendered = render(overlay)
    deny = rendered.one("NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    opened = [
        port["port"]
        for policy in rendered.all("NetworkPolicy")
        for rule in policy["spec"].get("egress", [])
        for port in rule["ports"]
    ]
    assert opened == ([53, 53, 4318] if "tracing" in components(overlay) else [53, 53])


@each_overlay
def test_clients_in_the_cluster_reach_the_headless_service_by_a_label(overlay: str) -> None:
    """By its port alone, and by the label that README names."""
    named = [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"timbre-client": "true"}}}]
    rules = render(overlay).one("NetworkPolicy", "timbre")["spec"]["ingress"]
    assert [rule["ports"] for rule in rules if rule["from"] == named] == [[{"port": "grpc"}]]
    assert 'label `timbre-client: "true"`' in (K8S / "README.md").read_text()


def test_the_readmes_certificate_has_every_name_that_is_asked_for() -> None:
    (text,) = re.findall(r"```yaml\n(apiVersion: cert-manager.+?)```", (K8S / "README.md").read_text(), re.DOTALL)
    certificate = yaml.safe_load(text)
    rendered = render("cpu+tls")
    (policy,) = rendered.all("BackendTLSPolicy")
    headless = rendered.one("Service", "timbre-headless")["metadata"]
    asked = {policy["spec"]["validation"]["hostname"], f"{headless['name']}.{headless['namespace']}.svc"}
    assert set(certificate["spec"]["dnsNames"]) == asked
    _, pod = next(rendered.pods())
    (secret,) = [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
    assert certificate["spec"]["secretName"] == secret


def test_the_readme_asks_for_the_gateway_api_that_the_manifests_need() -> None:
    """Named rules and BackendTLSPolicy v1 are standard from 1.4 on."""
    rows = [row for row in (K8S / "README.md").read_text().splitlines() if re.match(r"\| `\w+` \|.*Gateway API", row)]
    wanted = {row.split("`")[1]: re.findall(r"Gateway API (1\.\d)", row) for row in rows}
    for overlay in ("cpu", "ab", "canary"):
        rules = [rule for route in render(overlay).all("HTTPRoute", "GRPCRoute") for rule in route["spec"]["rules"]]
        assert wanted[overlay] == ["1.4" if any("name" in rule for rule in rules) else "1.2"]
    assert wanted["tls"] == ["1.4"]


def probes(rendered: Rendered) -> Iterator[tuple[str, dict[str, Any]]]:
    for _, pod in rendered.pods():
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            yield name, container(pod)[name]["httpGet"]


def test_ports_and_paths_exist_in_the_service(tmp_path: Path) -> None:
    """Asked of one that runs: every path by HTTP, and the health that stands behind the gRPC port."""
    asked: set[str] = set()
    with running(tmp_path / "log.txt") as service:
        for overlay in OVERLAYS:
            rendered = render(overlay)
            by_probe = {name: get["path"] for name, get in probes(rendered)}
            assert len(set(by_probe.values())) == 3, "each probe has a path of its own"
            monitors = rendered.all("PodMonitor")
            scraped = [endpoint for monitor in monitors for endpoint in monitor["spec"]["podMetricsEndpoints"]]
            assert {get["port"] for _, get in probes(rendered)} | {end["port"] for end in scraped} == {"http"}
            asked |= set(by_probe.values()) | {end["path"] for end in scraped}
            for resource in rendered.all("Service"):
                named = {port["name"]: port["targetPort"] for port in resource["spec"]["ports"]}
                assert named.items() <= {"http": "http", "grpc": "grpc"}.items()
        for path in asked:
            assert httpx.get(f"{service.url}{path}").status_code == 200, path
        with grpc.insecure_channel(service.grpc) as channel:
            told = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
            assert told.status == health_pb2.HealthCheckResponse.SERVING
    assert asked == {"/health", "/readyz", "/livez", "/metrics"}


def settings_files() -> list[Path]:
    return [path for path in K8S.rglob("*") if path.suffix in {".yaml", ".env"}]


def test_no_setting_is_written_twice() -> None:
    """A TIMBRE_ name has one value in one file, but for what a component adds to the base."""
    seen: dict[str, list[str]] = {}
    for path in settings_files():
        for name in re.findall(rf"\b({PREFIX}[A-Z_]+)(?:=|: )", path.read_text()):
            seen.setdefault(name, []).append(str(path.relative_to(K8S)))
    twice = {name: where for name, where in seen.items() if len(where) > 1}
    assert twice == {f"{PREFIX}RUNTIME": [*twice.get(f"{PREFIX}RUNTIME", [])]}
    assert sorted(twice[f"{PREFIX}RUNTIME"]) == ["base/replicas/settings.env", "components/cuda/settings.yaml"]


@each_overlay
def test_what_the_cluster_is_like_is_written_once(overlay: str) -> None:
    """Where Prometheus answers and how many replicas there may be: in one file, and from there wherever it is asked."""
    path = K8S / "components" / "common" / "cluster.env"
    cluster = dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
    rendered = render(overlay)
    bounds = [
        (int(spec[f"minReplica{end}"]), int(spec[f"maxReplica{end}"]))
        for resource in rendered.all("HorizontalPodAutoscaler", "ScaledObject", "InferenceService")
        for spec in [resource["spec"].get("predictor", resource["spec"])]
        for end in ["Count" if resource["kind"] == "ScaledObject" else "s"]
    ]
    assert set(bounds) <= {(int(cluster["min-replicas"]), int(cluster["max-replicas"]))}
    scales = any(component.startswith("autoscaling") for component in components(overlay))
    assert bool(bounds) == (scales or overlay.startswith("kserve"))
    asked = [
        trigger["metadata"]["serverAddress"]
        for scaled in rendered.all("ScaledObject")
        for trigger in scaled["spec"]["triggers"]
    ]
    asked += [
        metric["provider"]["prometheus"]["address"]
        for template in rendered.all("AnalysisTemplate")
        for metric in template["spec"]["metrics"]
    ]
    assert set(asked) <= {cluster["prometheus"]}
    written = [file for file in settings_files() if cluster["prometheus"] in file.read_text()]
    assert written == [path]


def test_manifests_are_small() -> None:
    for path in settings_files():
        if path.name != "prometheusrule.yaml":
            assert len(path.read_text().splitlines()) <= 110, path


def test_resources_are_plain_yaml() -> None:
    for path in settings_files():
        if path.suffix == ".yaml":
            assert list(yaml.safe_load_all(path.read_text())), path

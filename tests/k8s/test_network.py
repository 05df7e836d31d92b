"""Who may speak to a pod and to whom it may speak, in which protocol, and by which names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.k8s.manifests import (
    K8S,
    Rendered,
    components,
    container,
    copy_manifests,
    each_overlay,
    folder_of,
    parsed,
    render,
    render_text,
)

NAMESPACE = "kubernetes.io/metadata.name"
HTTP, GRPC, DNS, OTLP = 3000, 3001, 53, 4318


@dataclass(frozen=True)
class Peer:
    """A pod somewhere, or an address that is none of the cluster's."""

    namespace: str | None
    labels: dict[str, str] = field(default_factory=dict)


GATEWAY = Peer("gateway")
PROMETHEUS = Peer("monitoring")
CLIENT = Peer("shop", {"timbre-client": "true"})
STRANGER = Peer("shop")
NEIGHBOUR = Peer("timbre", {"app": "something"})
NAMES = Peer("kube-system", {"k8s-app": "kube-dns"})
API_SERVER = Peer("kube-system", {"component": "kube-apiserver"})
COLLECTOR = Peer("observability", {"app": "otel-collector"})
INTERNET = Peer(None)
EVERYBODY = [GATEWAY, PROMETHEUS, CLIENT, STRANGER, NEIGHBOUR, NAMES, API_SERVER, COLLECTOR, INTERNET]


def opened(rendered: Rendered, pod: dict[str, str], direction: str, peer: Peer) -> set[tuple[int | str, str]]:
    """(port, protocol) by which a pod with these labels and a peer may speak, as a plug-in reads the policies.

    Policies add up; a pod that none of them selects in a direction may do all in it.
    """
    found: set[tuple[int | str, str]] = set()
    isolated = False
    for policy in rendered.all("NetworkPolicy"):
        spec = policy["spec"]
        if not matches(spec["podSelector"], pod) or direction not in spec["policyTypes"]:
            continue
        isolated = True
        for rule in spec.get(direction.lower(), []):
            if any(is_meant(each, peer) for each in rule["from" if direction == "Ingress" else "to"]):
                found |= {(port["port"], port.get("protocol", "TCP")) for port in rule["ports"]}
    assert isolated, "no policy selects it: everything is open"
    return found


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels"}
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def is_meant(each: dict[str, Any], peer: Peer) -> bool:
    """Both selectors of one entry must hold; a pod selector alone would be of the policy's own namespace."""
    assert "namespaceSelector" in each, each
    if peer.namespace is None:
        return False
    in_namespace = matches(each["namespaceSelector"], {NAMESPACE: peer.namespace})
    return in_namespace and matches(each.get("podSelector", {}), peer.labels)


@each_overlay
def test_only_the_gateway_prometheus_and_labelled_clients_get_in(overlay: str) -> None:
    rendered = render(overlay)
    for labels, pod in rendered.pods():
        numbers = {port["name"]: port["containerPort"] for port in container(pod)["ports"]}
        got = {
            (peer.namespace, *peer.labels): {
                (numbers[str(port)], protocol) for port, protocol in opened(rendered, labels, "Ingress", peer)
            }
            for peer in EVERYBODY
        }
        assert {peer: ports for peer, ports in got.items() if ports} == {
            ("gateway",): {(HTTP, "TCP"), (GRPC, "TCP")},
            ("monitoring",): {(HTTP, "TCP")},
            ("shop", "timbre-client"): {(GRPC, "TCP")},
        }


@each_overlay
def test_out_goes_nothing_but_questions_for_names_and_spans_where_they_are_sent(overlay: str) -> None:
    rendered = render(overlay)
    for labels, _ in rendered.pods():
        got = {(peer.namespace, *peer.labels): opened(rendered, labels, "Egress", peer) for peer in EVERYBODY}
        wanted = {("kube-system", "k8s-app"): {(DNS, "UDP"), (DNS, "TCP")}}
        if "tracing" in components(overlay):
            wanted["observability", "app"] = {(OTLP, "TCP")}
        assert {peer: ports for peer, ports in got.items() if ports} == wanted


@each_overlay
def test_a_pod_that_is_none_of_ours_may_do_nothing_in_our_namespace(overlay: str) -> None:
    rendered = render(overlay)
    for direction in ("Ingress", "Egress"):
        assert not any(opened(rendered, {"app": "something"}, direction, peer) for peer in EVERYBODY)


def test_the_reading_of_policies_sees_what_is_open() -> None:
    """What shows that the tests above can fail: no policy, and one that takes pods of every namespace."""
    rendered = render("local")
    rendered.one("NetworkPolicy", "timbre")["spec"]["ingress"][0]["from"] = [{"namespaceSelector": {}}]
    labels, _ = next(rendered.pods())
    assert opened(rendered, labels, "Ingress", STRANGER) == {("http", "TCP"), ("grpc", "TCP")}
    nothing = Rendered(resource for resource in rendered if resource["kind"] != "NetworkPolicy")
    with pytest.raises(AssertionError, match="everything is open"):
        opened(nothing, labels, "Ingress", STRANGER)


def test_the_readme_names_the_label_of_clients() -> None:
    (label,) = [f'{name}: "{value}"' for name, value in CLIENT.labels.items()]
    assert f"label `{label}`" in (K8S / "README.md").read_text()


def test_the_grpc_route_can_be_left_out_as_the_readme_says(tmp_path: Path) -> None:
    k8s = copy_manifests(tmp_path)
    gateway, rollout = k8s / "components/gateway/kustomization.yaml", k8s / "overlays/canary/rollout.yaml"
    gateway.write_text(gateway.read_text().replace(", grpcroute.yaml", ""))
    rollout.write_text(re.sub(r"\n +grpcRoutes: .*", "", rollout.read_text()))
    for overlay in ("cpu", "cuda", "ab", "canary"):
        rendered = parsed(render_text(folder_of(overlay, k8s)))
        assert rendered.all("HTTPRoute")
        assert "GRPCRoute" not in {resource["kind"] for resource in rendered}
        for made in rendered.all("Rollout"):
            routing = made["spec"]["strategy"]["canary"]["trafficRouting"]["plugins"]["argoproj-labs/gatewayAPI"]
            assert routing.keys() == {"namespace", "httpRoutes"}


def ports_of(rendered: Rendered) -> Iterator[tuple[str, dict[str, Any]]]:
    for service in rendered.all("Service"):
        for port in service["spec"]["ports"]:
            yield service["metadata"]["name"], port


def test_the_readmes_way_in_leads_to_the_services_ports() -> None:
    """kubectl port-forward takes LOCAL:PORT of a Service; the kubelet dials the container's port on its loopback."""
    readme = (K8S / "README.md").read_text()
    ((service, forwarded),) = re.findall(r"kubectl -n timbre port-forward svc/(\S+) ((?:\d+:\d+ ?)+)", readme)
    (deployment,) = re.findall(r"kubectl -n timbre rollout status deployment/(\S+)", readme)
    (asked,) = re.findall(r"curl -F file=@clip\.wav (http://localhost:\d+)/predict", readme)
    ways = dict(pair.split(":") for pair in forwarded.split())
    for overlay in ("local", "cpu", "cuda"):
        rendered = render(overlay)
        _, pod = next(rendered.pods())
        numbers = {port["name"]: port["containerPort"] for port in container(pod)["ports"]}
        ports = {str(port["port"]): port for port in rendered.one("Service", service)["spec"]["ports"]}
        # The same numbers as of a service on this machine, so that every example of README goes there.
        assert {int(local): numbers[ports[port]["targetPort"]] for local, port in ways.items()} == {
            HTTP: HTTP,
            GRPC: GRPC,
        }
        assert ways[asked.rsplit(":", 1)[1]] == "80"
        assert rendered.one("Deployment", deployment)
    for overlay, kinds in {"ab": {"Deployment", "Service"}, "canary": {"Rollout"}}.items():
        names = {(each["kind"], each["metadata"]["name"]) for each in render(overlay)}
        assert {(kind, "timbre-stable" if overlay == "ab" else "timbre") for kind in kinds} <= names
    (host,) = re.findall(r"\bTIMBRE_HOST=(\S+)", (ROOT / "Dockerfile").read_text())
    assert host == "0.0.0.0"  # noqa: S104 - the loopback is among these


@each_overlay
def test_every_port_says_what_is_spoken_there(overlay: str) -> None:
    """By appProtocol a gateway knows HTTP/2 without TLS, and balances calls in place of connections."""
    rendered = render(overlay)
    plain = {"http": "http", "grpc": "kubernetes.io/h2c"}
    for name, port in ports_of(rendered):
        assert port["appProtocol"] == ("https" if "tls" in components(overlay) else plain[port["name"]]), name
    for service in rendered.all("Service"):
        headless = service["spec"].get("clusterIP") == "None"
        assert {port["name"] for port in service["spec"]["ports"]} == ({"grpc"} if headless else {"http", "grpc"})
    expected = {"kserve": 0, "ab": 4, "canary": 3}.get(overlay.split("+", maxsplit=1)[0], 2)
    assert len(rendered.all("Service")) == expected


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

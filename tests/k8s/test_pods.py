"""A pod may do what it needs and no more, has room for the worst that may come, and goes as it should."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving import ffmpeg, isolated
from serving.grpc_server import _options
from serving.lifecycle import FINISH_S
from serving.settings import Settings
from tests.conftest import ROOT, SERVED
from tests.e2e.test_serving_environment import MAX_RESIDENT_BYTES
from tests.k8s.manifests import OVERLAYS, components, container, each_overlay, probes, render, settings_of
from tests.service import running

DECODER_BYTES = 40 << 20
"""A decoder's process at rest."""
UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def size_bytes(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


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


@each_overlay
def test_pods_ask_for_nothing_they_do_not_need(overlay: str) -> None:
    for _, pod in render(overlay).pods():
        only, all_ = container(pod), pod["securityContext"]
        assert all_["runAsNonRoot"]
        assert all_["runAsUser"] == all_["runAsGroup"] > 10_000
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


def test_the_pods_user_is_the_images() -> None:
    (user,) = re.findall(r"^USER (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for overlay in OVERLAYS:
        for _, pod in render(overlay).pods():
            assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == user


@each_overlay
def test_what_may_be_written_is_small_and_gone_with_the_pod(overlay: str) -> None:
    """One emptyDir, at the image's home for what libraries write; the rest of the root is read-only."""
    (home,) = re.findall(r"\bHOME=(\S+)", (ROOT / "Dockerfile").read_text())
    for _, pod in render(overlay).pods():
        only = container(pod)
        writable = {mount["name"]: mount["mountPath"] for mount in only["volumeMounts"] if not mount.get("readOnly")}
        assert writable == {"scratch": home}
        (scratch,) = [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] in writable]
        amounts = only["resources"]
        requested, limited = (size_bytes(amounts[kind]["ephemeral-storage"]) for kind in ("requests", "limits"))
        assert size_bytes(scratch["sizeLimit"]) <= requested < limited


def worst_over_http_bytes(settings: Settings, cores: int) -> int:
    """All bodies and all decoded audio that may be held, and every live stream with an utterance.

    And a decoder for each core of the quota, at the end of the memory that it is allowed.
    """
    rate_hz: int = json.loads((ROOT / "exported" / SERVED / "model.json").read_text())["metadata"]["sample_rate_hz"]
    streams = round(settings.listen_streams * settings.listen_utterance_s * rate_hz * 4)
    each = DECODER_BYTES + settings.max_upload_bytes + ffmpeg._ROOM_BYTES
    decoders = min(isolated._MOST, cores) * each
    return MAX_RESIDENT_BYTES + settings.max_held_bytes + settings.max_decoded_bytes + streams + decoders


def one_grpc_connection_bytes(settings: Settings) -> int:
    """What it may hold that no counter sees: a whole message, less its last byte, of every call that it may have."""
    options = dict(_options(settings))
    return options["grpc.max_concurrent_streams"] * options["grpc.max_receive_message_length"]


@each_overlay
def test_the_memory_limit_holds_the_worst_over_http_beside_one_grpc_connection(overlay: str) -> None:
    rendered = render(overlay)
    for _, pod in rendered.pods():
        settings = Settings.from_environment(settings_of(pod, rendered))
        amounts = container(pod)["resources"]
        worst = worst_over_http_bytes(settings, int(amounts["limits"]["cpu"])) + one_grpc_connection_bytes(settings)
        requested, limited = (size_bytes(amounts[kind]["memory"]) for kind in ("requests", "limits"))
        cuda = requested if settings.runtime == "cuda" else 0
        assert worst < limited - cuda < 1.2 * worst
        assert requested > MAX_RESIDENT_BYTES
        # Lanes are made by the limit, so that what is promised is what is used.
        assert amounts["requests"]["cpu"] == amounts["limits"]["cpu"]


def test_what_is_written_of_a_grpc_connection_is_what_it_may_hold() -> None:
    """Of the cluster's settings k8s/README.md and SECURITY.md, of the defaults SECURITY.md."""
    rendered = render("local")
    _, pod = next(rendered.pods())
    cluster = one_grpc_connection_bytes(Settings.from_environment(settings_of(pod, rendered))) >> 20
    security, readme = (" ".join((ROOT / name).read_text().split()) for name in ("SECURITY.md", "k8s/README.md"))
    assert f"{cluster} MiB with the settings of `k8s/`" in security
    assert f"{one_grpc_connection_bytes(Settings()) / (1 << 30):.2f} GiB by default" in security
    assert f"{cluster} MiB for each connection" in readme


def test_a_decoder_that_has_nothing_to_do_is_as_small_as_it_is_counted() -> None:
    decoder = isolated._Decoder()
    try:
        status = Path(f"/proc/{decoder._process.pid}/status").read_text()
    finally:
        decoder.close()
    assert DECODER_BYTES / 2 < 1024 * int(status.split("VmHWM:")[1].split()[0]) < DECODER_BYTES


def rolling(resource: dict[str, Any]) -> dict[str, Any]:
    if resource["kind"] == "Rollout":
        canary = resource["spec"]["strategy"]["canary"]
        return {name: canary[name] for name in ("maxSurge", "maxUnavailable")}
    spec = resource["spec"]
    strategy = spec["predictor"]["deploymentStrategy"] if resource["kind"] == "InferenceService" else spec["strategy"]
    assert strategy["type"] == "RollingUpdate"
    return dict(strategy["rollingUpdate"])


@each_overlay
def test_a_rollout_takes_one_pod_more_and_never_one_less(overlay: str) -> None:
    rendered = render(overlay)
    makers = rendered.all("Deployment", "Rollout", "InferenceService")
    assert [rolling(resource) for resource in makers] == [{"maxSurge": 1, "maxUnavailable": 0}] * len(makers)
    # KServe makes the Deployment itself, and the one of the base is only copied from.
    assert bool(rendered.all("Deployment", "Rollout")) != overlay.startswith("kserve")


@each_overlay
def test_a_node_is_emptied_one_pod_at_a_time(overlay: str) -> None:
    """A budget that let none go would stop the upgrade of a node where one replica runs."""
    rendered = render(overlay)
    budgets = rendered.all("PodDisruptionBudget")
    assert len(budgets) == len(rendered.all("Deployment"))
    assert [budget["spec"].get("maxUnavailable") for budget in budgets] == [1] * len(budgets)


@each_overlay
def test_replicas_are_spread_over_nodes_and_zones(overlay: str) -> None:
    rendered = render(overlay)
    # Argo Rollouts gives its pods another label than a Deployment does.
    revision = "rollouts-pod-template-hash" if rendered.all("Rollout") else "pod-template-hash"
    for labels, pod in rendered.pods():
        spread = {each["topologyKey"]: each for each in pod["topologySpreadConstraints"]}
        assert spread.keys() == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
        for each in spread.values():
            assert (each["maxSkew"], each["whenUnsatisfiable"]) == (1, "ScheduleAnyway")
            assert each["labelSelector"]["matchLabels"].items() <= labels.items()
            # Of one revision: else the pods that are about to go would count.
            assert each["matchLabelKeys"] == [revision]


@each_overlay
def test_a_pod_has_the_time_it_needs_to_start_and_to_stop(overlay: str) -> None:
    rendered = render(overlay)
    for _, pod in rendered.pods():
        only = container(pod)
        settings = Settings.from_environment(settings_of(pod, rendered))
        # The container is killed when its grace is over, whatever it does.
        slept = only["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod["terminationGracePeriodSeconds"] > slept + settings.drain_s + FINISH_S
        start_s = only["startupProbe"]["failureThreshold"] * only["startupProbe"]["periodSeconds"]
        for resource in rendered.all("Deployment", "Rollout"):
            assert resource["spec"]["progressDeadlineSeconds"] > start_s
        # A process that is busy with the longest request there may be is not killed for it.
        assert only["livenessProbe"]["failureThreshold"] * only["livenessProbe"]["periodSeconds"] >= settings.timeout_s

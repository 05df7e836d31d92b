"""The autoscalers scale what runs, by what is in flight and what waits, and let go slowly."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from serving.metrics import Metrics
from serving.settings import Settings
from tests.k8s.manifests import K8S, Rendered, components, each_overlay, render, settings_of
from tests.k8s.prometheus import check_value, needs_promtool

SCALED = {"hpa": "cpu", "keda": "cuda"}


def hpa() -> dict[str, Any]:
    return dict(render(SCALED["hpa"]).one("HorizontalPodAutoscaler", "timbre")["spec"])


def keda() -> dict[str, Any]:
    return dict(render(SCALED["keda"]).one("ScaledObject", "timbre")["spec"])


def triggers() -> dict[str, dict[str, Any]]:
    return {trigger["name"]: trigger for trigger in keda()["triggers"]}


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


def permits(rendered: Rendered) -> int:
    _, pod = next(rendered.pods())
    return Settings.from_environment(settings_of(pod, rendered)).max_inflight


def test_there_are_more_pods_long_before_requests_are_refused() -> None:
    (metric,) = hpa()["metrics"]
    assert metric["type"] == "Pods"
    assert metric["pods"]["metric"] == {"name": "timbre_inflight"}
    target = metric["pods"]["target"]
    assert target["type"] == "AverageValue"
    for name in SCALED.values():
        assert 1 < int(target["averageValue"]) <= permits(render(name)) / 4
    assert triggers()["in-flight"]["metadata"]["threshold"] == target["averageValue"]
    readme = (K8S / "README.md").read_text()
    assert f"in flight per pod, {target['averageValue']} at most" in readme
    assert f"At {permits(render('cpu'))} in flight" in readme


def test_pods_come_at_once_and_go_one_by_one() -> None:
    behavior = hpa()["behavior"]
    up, down = behavior["scaleUp"], behavior["scaleDown"]
    assert up.get("stabilizationWindowSeconds", 0) == 0
    assert up["policies"] == [{"type": "Percent", "value": 100, "periodSeconds": 15}]
    assert down == {
        "stabilizationWindowSeconds": 300,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
    }
    assert keda()["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"] == down
    assert "down by one pod a minute" in (K8S / "README.md").read_text()


def test_while_prometheus_is_silent_nobody_goes() -> None:
    spec = keda()
    fallback = spec["fallback"]
    assert fallback["behavior"] == "currentReplicasIfHigher"
    assert spec["minReplicaCount"] <= fallback["replicas"] <= spec["maxReplicaCount"]
    assert fallback["failureThreshold"] * spec["pollingInterval"] == 60
    for trigger in triggers().values():
        # KEDA falls back for averages only; and no answer must be a failure, not a zero.
        assert trigger["metricType"] == "AverageValue"
        assert trigger["metadata"]["ignoreNullValues"] == "false"


INFLIGHT = 'timbre_inflight{namespace="timbre",pod="%s"}'
WAITED = 'timbre_stage_seconds_sum{namespace="timbre",stage="%s",pod="a"}'


@needs_promtool
@pytest.mark.parametrize(
    ("name", "growth", "measured", "pods"),
    [
        # A gauge that grows by one a minute stands at ten after ten.
        ("in-flight", {INFLIGHT % "a": 1.0, INFLIGHT % "b": 1.0}, 20, 3),
        ("in-flight", {INFLIGHT % "a": 0.2, INFLIGHT % "b": 0.1}, 3, 1),
        ("in-flight", {'timbre_inflight{namespace="other",pod="a"}': 9}, None, None),
        # 210 seconds of waiting in each minute are three and a half requests that wait at a time.
        ("queue-wait", {WAITED % "queue": 210, WAITED % "inference": 900}, 3.5, 4),
        ("queue-wait", {WAITED % "queue": 0.6}, 0.01, 1),
    ],
)
def test_keda_asks_for_so_many_pods(
    name: str, growth: dict[str, float], measured: float | None, pods: int | None, tmp_path: Path
) -> None:
    trigger = triggers()[name]
    check_value(trigger["metadata"]["query"], growth, measured, tmp_path)
    if measured is not None:
        assert math.ceil(measured / float(trigger["metadata"]["threshold"])) == pods


def idle_series(namespace: str) -> dict[str, float]:
    """All that a service of the namespace exports before anybody has asked it."""
    samples = [sample for family in Metrics().registry.collect() for sample in family.samples]
    labelled = [(sample, {**sample.labels, "namespace": namespace, "pod": "a"}) for sample in samples]
    return {
        f"{sample.name}{{{','.join(f'{name}={json.dumps(value)}' for name, value in labels.items())}}}": sample.value
        for sample, labels in labelled
        if sample.name.startswith("timbre_")
    }


@needs_promtool
@pytest.mark.parametrize("name", ["queue-wait", "in-flight"])
@pytest.mark.parametrize(("namespace", "measured"), [("timbre", 0), ("other", None)])
def test_an_idle_service_asks_for_no_pods_and_one_that_is_not_scraped_is_a_failure(
    name: str, namespace: str, measured: float | None, tmp_path: Path
) -> None:
    """No answer at all means the fallback's replicas, so a service without a first answer must have one."""
    check_value(triggers()[name]["metadata"]["query"], {}, measured, tmp_path, idle_series(namespace))


def test_what_the_horizontal_pod_autoscaler_asks_for_is_told_before_the_first_answer() -> None:
    (metric,) = hpa()["metrics"]
    assert any(series.startswith(f"{metric['pods']['metric']['name']}{{") for series in idle_series("timbre"))

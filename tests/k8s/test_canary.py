"""A canary takes its steps while it is no worse than stable, and goes back by itself when it is."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from serving.settings import Settings
from tests.conftest import ROOT
from tests.k8s.manifests import K8S, container, render, settings_of
from tests.k8s.prometheus import analysis, check_value, needs_promtool, template

BAD_MEASUREMENTS = 3
"""Of one kind, until a canary is given up."""


def canary_of() -> dict[str, Any]:
    (rollout,) = render("canary").all("Rollout")
    return dict(rollout["spec"]["strategy"]["canary"])


def verdict(metric: dict[str, Any], result: list[float]) -> str:
    """What Argo Rollouts makes of a measurement (its utils/evaluate): a failure, a success, or neither of both."""
    found = {}
    for kind in ("failureCondition", "successCondition"):
        condition = re.sub(r"&&", " and ", metric[kind])
        assert re.fullmatch(r"[\w\s\[\]().<>=]+", condition), condition
        found[kind] = eval(condition, {"__builtins__": {}}, {"len": len, "result": result})  # noqa: S307
    if found["failureCondition"]:
        return "Failed"
    return "Successful" if found["successCondition"] else "Inconclusive"


REQUESTS = 'timbre_requests_total{code="%s",rollouts_pod_template_hash="new"}'
STABLES = 'timbre_requests_total{code="%s",rollouts_pod_template_hash="old"}'
TOTAL = 'timbre_stage_seconds_bucket{stage="total",le="%s",rollouts_pod_template_hash="new"}'
SHADOW = 'timbre_shadow_total{result="%s",rollouts_pod_template_hash="new"}'


@needs_promtool
@pytest.mark.parametrize(
    ("metric", "growth", "measured", "expected"),
    [
        # Refusals are errors, bad audio is not, and what stable does is not the canary's.
        ("error-rate", {REQUESTS % "ok": 95, REQUESTS % "overloaded": 5}, 0.05, "Failed"),
        ("error-rate", {REQUESTS % "ok": 75, REQUESTS % "not_ready": 25}, 0.25, "Failed"),
        ("error-rate", {REQUESTS % "ok": 199, REQUESTS % "internal": 1}, 0.005, "Successful"),
        ("error-rate", {REQUESTS % "ok": 90, REQUESTS % "empty_audio": 10}, 0.0, "Successful"),
        ("error-rate", {REQUESTS % "ok": 90, STABLES % "internal": 90}, 0.0, "Successful"),
        ("error-rate", {STABLES % "ok": 90}, None, "Inconclusive"),
        ("error-rate", {REQUESTS % "ok": 0}, math.nan, "Inconclusive"),
        # Two answers in a hundred between half a second and one; all within a quarter.
        ("p99-seconds", {TOTAL % "0.25": 90, TOTAL % "0.5": 98, TOTAL % "1": 100, TOTAL % "+Inf": 100}, 0.75, "Failed"),
        ("p99-seconds", {TOTAL % "0.25": 100, TOTAL % "0.5": 100, TOTAL % "+Inf": 100}, 0.2475, "Successful"),
        ("p99-seconds", {}, None, "Inconclusive"),
        ("p99-seconds", {TOTAL % "0.5": 0, TOTAL % "+Inf": 0}, math.nan, "Inconclusive"),
        # Nine compared each minute are too few after ten; twenty are enough.
        ("disagreement-with-stable", {SHADOW % "disagree": 9}, None, "Inconclusive"),
        ("disagreement-with-stable", {SHADOW % "disagree": 5, SHADOW % "agree": 15}, 0.25, "Successful"),
        ("disagreement-with-stable", {SHADOW % "agree": 20}, 0.0, "Successful"),
        ("disagreement-with-stable", {SHADOW % "disagree": 15, SHADOW % "agree": 5}, 0.75, "Failed"),
        ("disagreement-with-stable", {SHADOW % "failed": 90}, None, "Inconclusive"),
    ],
)
def test_a_measurement_is_judged(
    metric: str, growth: dict[str, float], measured: float | None, expected: str, tmp_path: Path
) -> None:
    asked = analysis()[metric]
    check_value(asked["provider"]["prometheus"]["query"], growth, measured, tmp_path)
    assert verdict(asked, [] if measured is None else [measured]) == expected


MODEL = 'timbre_model_info{version="%s",device="cpu",pod="%s",rollouts_pod_template_hash="%s"}'


@needs_promtool
@pytest.mark.parametrize(
    ("loaded", "compared", "measured", "expected"),
    [
        # One version twice, in two pods, and later another that was let go: there is nothing to compare.
        ({("2", "a", "new"): 1, ("2", "b", "new"): 1}, {}, 0.0, "Successful"),
        ({("2", "a", "new"): 1, ("1", "a", "new"): 0}, {}, 0.0, "Successful"),
        # Two are compared, and until they have been there is no verdict.
        ({("2", "a", "new"): 1, ("1", "a", "new"): 1}, {}, None, "Inconclusive"),
        ({("2", "a", "new"): 1, ("1", "a", "new"): 1}, {"agree": 9}, None, "Inconclusive"),
        ({("2", "a", "new"): 1, ("1", "a", "new"): 1}, {"disagree": 15, "agree": 5}, 0.75, "Failed"),
        # What stable has loaded says nothing of a canary that is not scraped.
        ({("2", "c", "old"): 1}, {}, None, "Inconclusive"),
    ],
)
def test_a_canary_with_one_version_cannot_disagree(
    loaded: dict[tuple[str, str, str], float],
    compared: dict[str, float],
    measured: float | None,
    expected: str,
    tmp_path: Path,
) -> None:
    asked = analysis()["disagreement-with-stable"]
    growth = {SHADOW % result: each for result, each in compared.items()}
    stands = {MODEL % labels: value for labels, value in loaded.items()}
    check_value(asked["provider"]["prometheus"]["query"], growth, measured, tmp_path, stands)
    assert verdict(asked, [] if measured is None else [measured]) == expected


def test_at_its_limit_a_canary_is_good_and_beyond_it_bad() -> None:
    for name, limit in {"error-rate": 0.01, "p99-seconds": 0.5, "disagreement-with-stable": 0.58}.items():
        metric = analysis()[name]
        assert verdict(metric, [limit]) == "Successful"
        assert verdict(metric, [math.nextafter(limit, 1)]) == "Failed"


def test_the_limit_of_disagreement_is_the_measured_one() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "disagreement.json").read_text())
    given = {argument["name"]: argument.get("value") for argument in template()["args"]}
    assert given["most-disagreement"] == str(measured["limit"])
    assert given["least-compared"] == str(measured["least_compared"])
    # What the exported versions differ by must not stop the one from following the other.
    assert all(pair["share"] < measured["limit"] for pair in measured["pairs"])
    assert sorted(path.parent.name for path in (ROOT / "exported").glob("*/model.json")) == sorted(
        {version for pair in measured["pairs"] for version in pair["versions"]}
    )


def test_it_goes_by_5_25_50_100_and_is_measured_from_its_first_step() -> None:
    canary = canary_of()
    steps = canary["steps"]
    assert [step["setWeight"] for step in steps if "setWeight" in step] == [5, 25, 50, 100]
    assert all("pause" in steps[place + 1] for place in range(0, len(steps) - 1, 2))
    assert canary["analysis"]["startingStep"] == 1
    assert {metric["name"] for metric in template()["metrics"]} == {
        "error-rate",
        "p99-seconds",
        "disagreement-with-stable",
    }
    given = {argument["name"] for argument in canary["analysis"]["args"]}
    assert given == {argument["name"] for argument in template()["args"] if "value" not in argument}
    for metric in template()["metrics"]:
        assert "{{args.canary}}" in metric["provider"]["prometheus"]["query"]


def seconds(duration: str) -> int:
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


def test_a_bad_canary_has_gone_back_before_it_gets_more_traffic() -> None:
    """Argo Rollouts gives up at one failure more than failureLimit, and without a count it measures to the end."""
    first_pause_s = seconds(canary_of()["steps"][1]["pause"]["duration"])
    for metric in analysis().values():
        assert metric["failureLimit"] + 1 == BAD_MEASUREMENTS
        assert "count" not in metric
        bad_s = seconds(metric["initialDelay"]) + metric["failureLimit"] * seconds(metric["interval"])
        assert bad_s < first_pause_s
        # Where nothing can be measured, it stops within its steps too, for a person to look at.
        silent_s = seconds(metric["initialDelay"]) + metric["inconclusiveLimit"] * seconds(metric["interval"])
        assert silent_s < sum(seconds(step["pause"]["duration"]) for step in canary_of()["steps"] if "pause" in step)


def test_pods_that_do_not_become_ready_are_a_bad_canary_too() -> None:
    (rollout,) = render("canary").all("Rollout")
    assert rollout["spec"]["progressDeadlineAbort"] is True
    rendered = render("canary")
    _, pod = next(rendered.pods())
    probe = container(pod)["startupProbe"]
    assert rollout["spec"]["progressDeadlineSeconds"] > probe["failureThreshold"] * probe["periodSeconds"]


def test_an_aborted_canary_may_finish_what_it_has() -> None:
    rendered = render("canary")
    _, pod = next(rendered.pods())
    settings = Settings.from_environment(settings_of(pod, rendered))
    assert canary_of()["abortScaleDownDelaySeconds"] > settings.timeout_s


def test_the_readme_says_by_what_a_canary_goes_back() -> None:
    said = " ".join((K8S / "README.md").read_text().split("\n## Roll back\n")[1].split("\n## ")[0].split())
    given = {argument["name"]: argument.get("value", "") for argument in template()["args"]}
    percent = {name: f"{float(given[name]):.0%}".replace("%", " %") for name in ("most-errors", "most-disagreement")}
    assert "three measurements of one kind are bad" in said
    assert f"over {percent['most-errors']} of errors" in said
    assert f"a p99 over {given['slow-after-s']} s" in said
    assert (
        f"over {percent['most-disagreement']} of what the shadow hears, once it has heard {given['least-compared']}"
        in said
    )

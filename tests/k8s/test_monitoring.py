"""Rules, dashboard, autoscalers and analysis ask for what the service exports, and the alerts fire when they should."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from serving.errors import Overloaded, RequestError
from tests.conftest import ROOT
from tests.k8s.manifests import K8S, OVERLAYS, render, render_text
from tests.k8s.prometheus import analysis, groups, needs_promtool, promtool
from tests.service import running
from tests.sounds import encode, voice

HERE = Path(__file__).parent
CASES = ("alerts.yaml", "alerts_slow.yaml")


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """Name -> rule; the kind is alert or record."""
    return {rule[kind]: rule for group in groups() for rule in group["rules"] if kind in rule}


def dashboard() -> dict[str, Any]:
    text = render("cpu").one("ConfigMap", "timbre-dashboard")["data"]["timbre.json"]
    board = json.loads(text)
    assert isinstance(board, dict)
    return board


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    """Every PromQL expression outside the rules: dashboard, KEDA, analysis."""
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    found += [
        trigger["metadata"]["query"] for trigger in render("cuda").one("ScaledObject", "timbre")["spec"]["triggers"]
    ]
    return found + [metric["provider"]["prometheus"]["query"] for metric in analysis().values()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules as Prometheus reads them, beside promtool's cases."""
    made = tmp_path_factory.mktemp("rules")
    (made / "rules.yaml").write_text(yaml.safe_dump({"groups": groups()}))
    for name in CASES:
        shutil.copy(HERE / name, made)
    return made


@needs_promtool
def test_promtool_checks_the_rules(folder: Path) -> None:
    promtool("check", "rules", "--lint-fatal", folder / "rules.yaml")


@needs_promtool
@pytest.mark.parametrize("cases", CASES)
def test_alerts_fire_and_are_silent(folder: Path, cases: str) -> None:
    promtool("test", "rules", folder / cases)


@needs_promtool
def test_a_threshold_that_is_moved_fails_its_case(folder: Path, tmp_path: Path) -> None:
    """What shows that the cases above can fail."""
    spoiled = (folder / "rules.yaml").read_text().replace("> 0.01", "> 0.5")
    assert spoiled != (folder / "rules.yaml").read_text()
    (tmp_path / "rules.yaml").write_text(spoiled)
    cases = yaml.safe_load((HERE / CASES[0]).read_text())
    cases["tests"] = [case for case in cases["tests"] if "no room" in case["name"]]
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump(cases))
    with pytest.raises(AssertionError, match="TimbreRejects"):
        promtool("test", "rules", tmp_path / "cases.yaml")


def test_every_alert_has_a_case_where_it_fires_and_one_where_it_does_not() -> None:
    fires: set[str] = set()
    silent: set[str] = set()
    for name in CASES:
        for case in yaml.safe_load((HERE / name).read_text())["tests"]:
            for asked in case["alert_rule_test"]:
                (fires if asked["exp_alerts"] else silent).add(asked["alertname"])
    assert fires == silent == set(rules("alert"))


@needs_promtool
def test_prometheus_can_read_every_other_query(tmp_path: Path) -> None:
    readable = [query.replace("$__rate_interval", "5m") for query in queries()]
    named = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(readable)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": named}]}))
    promtool("check", "rules", tmp_path / "rules.yaml")
    assert len(named) > 30


def test_errors_by_our_fault_are_the_same_everywhere_and_all_that_the_service_has() -> None:
    """A full service is our fault; a client that uses more than its rate is not."""
    ours = {error.code for error in refusals(RequestError) if error.http_status >= 500} | {Overloaded.code}
    asked = {rule["expr"] for rule in rules("record").values()} | set(queries())
    (codes,) = {codes for query in asked for codes in re.findall(r'code=~"([^"]+)"', query)}
    assert set(codes.split("|")) == ours


def refusals(error: type[RequestError]) -> list[type[RequestError]]:
    found = error.__subclasses__()
    return [*found, *(below for one in found for below in refusals(one))]


def exported_by(text: str) -> set[str]:
    """Names of series, by the type of their family."""
    suffixes = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
    families = re.findall(r"^# TYPE (timbre_\w+) (\w+)$", text, re.MULTILINE)
    return {name + suffix for name, kind in families for suffix in suffixes[kind]}


def test_every_metric_that_is_named_is_exported(tmp_path: Path) -> None:
    with running(tmp_path / "log.txt") as service:
        httpx.post(f"{service.url}/predict", files={"file": encode(voice(1.0), 16_000)}).raise_for_status()
        told = httpx.get(f"{service.url}/metrics").text
    exported = exported_by(told)
    text = "\n".join(render_text(K8S / "overlays" / overlay) for overlay in OVERLAYS)
    named = set(re.findall(r"\btimbre_[a-z_]+", text))
    assert {"timbre_inflight", "timbre_shadow_total", "timbre_stage_seconds_bucket"} <= named
    assert named <= exported
    # The limit of a slow answer is a bucket: else no series has that label, and nothing would ever be slow.
    (limit,) = re.findall(r'le="([^"]+)"', rules("record")["timbre:slow:ratio_rate5m"]["expr"])
    assert re.search(rf'^timbre_stage_seconds_bucket{{le="{limit}",stage="total"', told, re.MULTILINE)
    recorded = set(re.findall(r"\btimbre:[a-z][a-z_:0-9]+", text))
    assert recorded == set(rules("record"))


def test_failed_scrapes_are_looked_for_under_the_podmonitors_name() -> None:
    """The operator calls the job NAMESPACE/NAME."""
    (job,) = re.findall(r'up\{job=~"([^"]+)"\}', rules("alert")["TimbreNotReady"]["expr"])
    for overlay in OVERLAYS:
        for monitor in render(overlay).all("PodMonitor"):
            name = monitor["metadata"]
            assert re.fullmatch(job, f"{name['namespace']}/{name['name']}")


def test_labels_that_are_asked_for_are_those_of_the_metric() -> None:
    """And beside them those that Prometheus puts on: namespace, pod, the hash of a canary's template."""
    from serving.metrics import Metrics

    labels: dict[str, set[str]] = {}
    for name, metric in vars(Metrics()).items():
        if hasattr(metric, "_labelnames"):
            labels[metric._name] = set(metric._labelnames)
            assert name
    added = {"namespace", "pod", "rollouts_pod_template_hash", "le"}
    checked = 0
    for query in [*queries(), *(rule["expr"] for kind in ("alert", "record") for rule in rules(kind).values())]:
        for name, selector in re.findall(r"\b(timbre_[a-z_]+)\{([^}]*(?:\{\{[^}]*\}\}[^}]*)*)\}", query):
            family = re.sub(r"_(total|bucket|sum|count)$", "", name)
            asked = set(re.findall(r"([a-z_]+)\s*(?:=~|!=|=)", selector))
            assert asked <= labels[family] | added, query
            checked += 1
    assert checked > 30


def test_the_dashboard_shows_what_it_should() -> None:
    board = dashboard()
    rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    assert rows == [
        "Traffic and errors",
        "Latency",
        "Batching",
        "Saturation",
        "Versions side by side",
        "What is heard, and its drift",
    ]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "namespace"}


def test_every_alert_has_a_runbook() -> None:
    """Under the key by which Alertmanager's templates and Grafana make a link of it."""
    readme = (K8S / "README.md").read_text()
    cluster = (K8S / "components" / "common" / "cluster.env").read_text()
    (page,) = re.findall(r"^runbooks=(https://.+/k8s/README\.md)$", cluster, re.MULTILINE)
    for name, rule in rules("alert").items():
        assert rule["annotations"].keys() == {"summary", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"{page}#{name.lower()}"
        text = readme.split(f"\n### {name}\n")[1].split("\n#")[0]
        assert len(text.split()) > 25, name
        assert rule["labels"]["severity"] in {"critical", "warning"}


def test_the_runbook_of_refusals_names_all_that_can_be_full() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "serving").glob("*.py"))
    reasons = set(re.findall(r'\breason="(\w+)"', sources))
    assert reasons >= {"permits", "queue", "uploads", "decoded", "streams", "connections"}
    no_requests = {"streams", "connections"}
    for alert, counted in {"TimbreRejects": reasons - no_requests, "TimbreConnectionsRefused": no_requests}.items():
        runbook = (K8S / "README.md").read_text().split(f"\n### {alert}\n")[1].split("\n#")[0]
        assert reasons & set(re.findall(r"`(\w+)`", runbook)) == counted


def test_the_runbooks_numbers_are_the_rules() -> None:
    """Which share of failures burns how fast, and what is slow: each a product or a limit of what the rules say."""
    said = {
        name: float(rule["expr"].removeprefix("vector(").removesuffix(")"))
        for name, rule in rules("record").items()
        if rule["expr"].startswith("vector(")
    }
    runbooks = (K8S / "README.md").read_text().split("\n## Alerts\n")[1]
    for alert, rate in {"TimbreErrorsBurnFast": "critical", "TimbreErrorsBurnSlowly": "warning"}.items():
        share = said[f"timbre:burn:{rate}"] * said["timbre:errors:budget"]
        assert f"Over {share:.0%}".replace("%", " %") in runbooks.split(f"### {alert}\n")[1].split("###")[0]
    assert f"{1 / (said['timbre:burn:critical'] * said['timbre:slow:budget']):.0f}" == "7"
    assert "one answer in seven took over half a second" in runbooks
    assert said["timbre:burn:warning"] * said["timbre:slow:budget"] == 0.06
    assert "Six answers in a hundred took over half a second" in runbooks
    limits = set(re.findall(r'le="([^"]+)"', "".join(rule["expr"] for rule in rules("record").values())))
    assert limits == {"0.5"}

"""What is measured, asked of a real Prometheus that has scraped it; and the exact increments of two requests."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import ROOT, SERVED
from tests.service import free_port, running
from tests.sounds import encode, voice

WAV = encode(voice(4.0), 16_000)
CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: timbre
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def samples(text: str) -> dict[tuple[str, str], float]:
    """(name, labels as JSON) -> value."""
    return {
        (sample.name, json.dumps(sample.labels, sort_keys=True)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_exact_increments_of_a_success_and_a_failure(tmp_path: Path) -> None:
    with running(tmp_path / "log.txt") as service, httpx.Client(base_url=service.url, timeout=30) as client:
        answer = client.post("/predict", files={"file": WAV}).json()  # so that every series is there
        client.post("/predict", files={"file": b"nothing"})
        before = samples(client.get("/metrics").text)
        client.post("/predict", files={"file": WAV})
        client.post("/predict", files={"file": b"nothing"})
        after = samples(client.get("/metrics").text)
    changed = {
        (name, *json.loads(labels).items()): after[name, labels] - before.get((name, labels), 0)
        for name, labels in after
        if after[name, labels] != before.get((name, labels), 0)
        and name.startswith("timbre_")
        and not name.endswith(("_bucket", "_sum", "_oldest_seconds"))
    }
    who = (("variant", "stable"), ("version", SERVED))
    http = ("transport", "http")
    expected: dict[Any, float] = {
        ("timbre_requests_total", ("code", "ok"), http, *who): 1,
        # What it was refused for came up after it had been routed.
        ("timbre_requests_total", ("code", "unsupported_audio"), http, *who): 1,
        ("timbre_predictions_total", ("emotion", answer["emotion"]), *who): 1,
        ("timbre_confidence_count", *who): 1,
        ("timbre_margin_count", *who): 1,
        ("timbre_input_seconds_count",): 1,
        ("timbre_input_level_dbfs_count",): 1,
        ("timbre_input_rate_hz_count",): 1,
        ("timbre_batch_windows_count", ("version", SERVED)): 1,
        ("timbre_batches_total", ("reason", "idle"), ("version", SERVED)): 1,
    }
    expected |= {
        ("timbre_stage_seconds_count", ("stage", stage), *who): 1
        for stage in ("decode", "queue", "batch", "inference", "total")
    }
    assert changed == expected


def promql() -> list[tuple[str, str]]:
    """(metric, query) of the table in docs/metrics.md."""
    table = (
        (ROOT / "docs" / "metrics.md").read_text().split("| metric | meaning | example query |\n")[1].split("\n\n")[0]
    )
    rows = [line.strip("|").split(" | ") for line in table.splitlines()[1:]]
    return [(row[0].strip().strip("`"), row[-1].strip().strip("`").replace("\\|", "|")) for row in rows]


def test_every_metric_is_documented_with_a_query() -> None:
    from serving.metrics import Metrics

    own = {
        family.name.removesuffix("_total")
        for family in Metrics().registry.collect()
        if family.name.startswith("timbre_")
    }
    documented = {re.sub(r"(_total|_bucket|_sum|_count)$", "", name) for name, _ in promql()}
    assert documented == own
    for name, query in promql():
        assert name in query


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus, which is not on this machine")
def test_a_real_prometheus_scrapes_it_and_answers_the_documented_queries(tmp_path: Path) -> None:
    with running(tmp_path / "log.txt") as service:
        config = tmp_path / "prometheus.yml"
        config.write_text(CONFIG.format(port=service.url.rsplit(":", 1)[1]))
        subprocess.run(["promtool", "check", "config", str(config)], check=True, capture_output=True)
        exposition = httpx.get(f"{service.url}/metrics").content
        lint = subprocess.run(["promtool", "check", "metrics"], input=exposition, capture_output=True, check=False)
        assert lint.returncode == 0, lint.stderr.decode()
        port = free_port()
        command = [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with (tmp_path / "prometheus.txt").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as prometheus:
                wait_for(prometheus, 'up{job="timbre"} == 1')
                for _ in range(20):
                    httpx.post(f"{service.url}/predict", files={"file": WAV}).raise_for_status()
                    httpx.post(f"{service.url}/predict", files={"file": b"nothing"})
                wait_for(prometheus, 'timbre_requests_total{code="ok"} >= 20')
                (result,) = ask(prometheus, 'timbre_requests_total{code="ok"}')
                assert result["metric"]["version"] == SERVED
                assert float(result["value"][1]) == 20
                for _, query in promql():
                    ask(prometheus, query)
                (p99,) = ask(
                    prometheus, 'histogram_quantile(0.99, sum by (le) (timbre_stage_seconds_bucket{stage="total"}))'
                )
                assert float(p99["value"][1]) > 0
        finally:
            process.terminate()
            process.wait(20)


def ask(prometheus: httpx.Client, query: str) -> list[dict[str, Any]]:
    """The result of an instant query."""
    answer = prometheus.get("/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", (query, answer)
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result


def wait_for(prometheus: httpx.Client, query: str) -> None:
    """Until a query has a result."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if ask(prometheus, query):
                return
        except (httpx.TransportError, ValueError):
            pass
        time.sleep(0.2)
    raise AssertionError(f"{query} never came true")

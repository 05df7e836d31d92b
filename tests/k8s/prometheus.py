"""The rules and queries of the manifests, and promtool to ask what they make of series."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml

from tests.k8s.manifests import render

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")


def groups() -> list[dict[str, Any]]:
    """The PrometheusRule's, as Prometheus reads them."""
    found = render("cpu").one("PrometheusRule", "timbre")["spec"]["groups"]
    assert isinstance(found, list)
    return found


def template() -> dict[str, Any]:
    """The AnalysisTemplate's spec."""
    (found,) = render("canary").all("AnalysisTemplate")
    return dict(found["spec"])


def analysis() -> dict[str, dict[str, Any]]:
    """Name -> metric, with its arguments put in as Argo Rollouts does it: everywhere in the metric's text."""
    given = {argument["name"]: argument.get("value", "new") for argument in template()["args"]}
    text = json.dumps(template()["metrics"])
    for name, value in given.items():
        text = text.replace(f"{{{{args.{name}}}}}", value)
    assert "{{" not in text
    return {metric["name"]: metric for metric in json.loads(text)}


def promtool(*arguments: str | Path) -> None:
    result = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def check_value(
    query: str,
    growth: dict[str, float],
    expected: float | None,
    folder: Path,
    stands: Mapping[str, float] = MappingProxyType({}),
) -> None:
    """That a query has this value once its series have grown by so much each minute for ten; None for no answer.

    Args:
        stands: series that have this value all the time.
    """
    if expected is not None and math.isnan(expected):
        query, expected = f"count(({query}) != ({query}))", 1  # promtool finds no NaN equal to another
    asked = {"record": "measured", "expr": f"round(({query}) * 1e6) / 1e6"}
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": [asked]}]}))
    inputs = [{"series": name, "values": f"0+{step}x10"} for name, step in growth.items()]
    inputs += [{"series": name, "values": f"{value}x10"} for name, value in stands.items()]
    samples = [] if expected is None else [{"labels": "measured", "value": expected}]
    test = {"expr": "measured", "eval_time": "10m", "exp_samples": samples}
    case = {"interval": "1m", "input_series": inputs, "promql_expr_test": [test]}
    (folder / "cases.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": [case]}))
    promtool("test", "rules", folder / "cases.yaml")

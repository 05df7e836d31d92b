"""What an A/B test has shown so far: computed from the metrics, so that it holds for all worker processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.metrics import Metrics
from serving.router import Routes

_NAMES = (
    "timbre_requests_total",
    "timbre_confidence_sum",
    "timbre_confidence_count",
    "timbre_predictions_total",
    "timbre_feedback_total",
    "timbre_stage_seconds_sum",
    "timbre_stage_seconds_bucket",
)
_SIGNIFICANT = 0.05
_SMALL_EXPECTED = 5.0  # below this a chi-squared approximation is poor (Cochran 1954, doi:10.2307/3001616)

_Samples = dict[tuple[tuple[str, str], ...], float]


def experiments(metrics: Metrics, routes: Routes) -> dict[str, Any]:
    """Per variant: requests, confidence, emotions, latency, agreement with feedback; and whether two of them differ.

    Everything counts since the processes started.
    """
    totals = metrics.totals(_NAMES)
    pairs = sorted(
        {
            (labels["variant"], labels["version"])
            for name in ("timbre_confidence_count", "timbre_feedback_total")
            for labels in map(dict, totals.get(name, {}))
            if labels["variant"]
        }
        | {(name, variant.version) for name, variant in routes.variants.items()}
    )
    rows = [_row(totals, variant, version, routes) for variant, version in pairs]
    return {"variants": rows, "comparison": _comparison(rows)}


def _row(totals: Mapping[str, _Samples], variant: str, version: str, routes: Routes) -> dict[str, Any]:
    def of(name: str, **more: str) -> dict[str, float]:
        """Values of one metric for this variant by the one label that is left."""
        wanted = {"variant": variant, "version": version, **more}
        return {
            "/".join(value for key, value in labels if key not in wanted and key != "transport"): amount
            for labels, amount in totals.get(name, {}).items()
            if wanted.items() <= dict(labels).items()
        }

    answered = sum(of("timbre_confidence_count").values())
    emotions = of("timbre_predictions_total")
    feedback = of("timbre_feedback_total")
    current = routes.variants.get(variant)
    refused: dict[str, float] = {}
    for labels, amount in totals.get("timbre_requests_total", {}).items():
        named = dict(labels)
        if (named["variant"], named["version"]) == (variant, version) and named["code"] != "ok":
            refused[named["code"]] = refused.get(named["code"], 0) + amount
    return {
        "variant": variant,
        "version": version,
        "weight": current.weight if current and current.version == version else None,
        "requests": int(answered),
        "refused": {code: int(amount) for code, amount in sorted(refused.items())},
        "mean_confidence": round(sum(of("timbre_confidence_sum").values()) / answered, 4) if answered else None,
        "emotions": {name: round(count / answered, 4) for name, count in sorted(emotions.items())} if answered else {},
        "latency_ms": _latency(of, answered),
        "feedback": _agreement(int(feedback.get("agree", 0)), int(feedback.get("disagree", 0))),
    }


def _latency(of: Any, answered: float) -> dict[str, float] | None:
    """Mean, and quantiles as PromQL's histogram_quantile has them: linear within a bucket."""
    if not answered:
        return None
    buckets = sorted((float(edge), count) for edge, count in of("timbre_stage_seconds_bucket", stage="total").items())
    total_s = sum(of("timbre_stage_seconds_sum", stage="total").values())
    return {
        "mean": round(total_s / answered * 1e3, 3),
        "p50": round(_quantile(buckets, 0.5) * 1e3, 3),
        "p99": round(_quantile(buckets, 0.99) * 1e3, 3),
    }


def _quantile(buckets: list[tuple[float, float]], share: float) -> float:
    """From cumulative counts by upper edge, the last edge infinite."""
    if not buckets or not buckets[-1][1]:
        return 0.0
    rank = share * buckets[-1][1]
    lower, below = 0.0, 0.0
    for edge, count in buckets:
        if count >= rank:
            if edge == float("inf"):
                return lower
            return lower + (edge - lower) * (rank - below) / (count - below)
        lower, below = edge, count
    return lower


def _agreement(agree: int, disagree: int) -> dict[str, Any]:
    """Share of feedback that agreed, with its 95 % Wilson interval."""
    told = agree + disagree
    if not told:
        return {"told": 0, "agreed": 0, "accuracy": None, "interval_95": None}
    from scipy.stats import binomtest  # here, because it is large, and who asks for no report need not hold it

    interval = binomtest(agree, told).proportion_ci(0.95, method="wilson")
    return {
        "told": told,
        "agreed": agree,
        "accuracy": round(agree / told, 4),
        "interval_95": [round(float(interval.low), 4), round(float(interval.high), 4)],
    }


def _comparison(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Whether two variants agree with feedback equally often; None unless exactly two in force have any.

    What was pinned by its asker, or answered by a version that a variant no longer has, is no sample of either.
    ``difference`` is the accuracy of the second of ``variants`` less that of the first.
    """
    told = [row for row in rows if row["feedback"]["told"] and row["weight"] is not None]
    if len(told) != 2:
        return None
    from scipy.stats import chi2_contingency, fisher_exact

    table = [[row["feedback"]["agreed"], row["feedback"]["told"] - row["feedback"]["agreed"]] for row in told]
    (a, b), (c, d) = table
    constant = not (a + c) or not (b + d)
    if constant:
        test, p = "two-proportion z-test", 1.0
    else:
        # Without Yates' correction, chi-squared of a 2 x 2 table is the square of the two-proportion z.
        result = chi2_contingency(table, correction=False)
        test, p = "two-proportion z-test", float(result.pvalue)
        if result.expected_freq.min() < _SMALL_EXPECTED:
            test, p = "Fisher's exact test (few labels)", float(fisher_exact(table).pvalue)
    return {
        "variants": [row["variant"] for row in told],
        "difference": round(told[1]["feedback"]["accuracy"] - told[0]["feedback"]["accuracy"], 4),
        "test": test,
        "p_value": round(p, 6),
        "significant": p < _SIGNIFICANT,
    }

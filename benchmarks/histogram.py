"""Latencies in an HDR histogram: three digits from a microsecond to an hour, however many there are, and mergeable."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hdrh.histogram import HdrHistogram

_LOWEST_US, _HIGHEST_US, _DIGITS = 1, 3_600_000_000, 3
_PERCENTILES = {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0, "p999_ms": 99.9}
FEWEST = {"p99_ms": 100, "p999_ms": 1000}
"""Of fewer requests than these the percentile is the slowest one alone: it is kept, and not quoted."""


class Histogram:
    """Durations of which any percentile can be asked."""

    def __init__(self, seconds: Iterable[float] = ()) -> None:
        self._hdr = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
        for each in seconds:
            self._hdr.record_value(min(max(round(each * 1e6), _LOWEST_US), _HIGHEST_US))

    @classmethod
    def merged(cls, encoded: Iterable[str]) -> Histogram:
        """Several that were written down, as one."""
        whole = cls()
        for each in encoded:
            whole._hdr.decode_and_add(each)
        return whole

    def __len__(self) -> int:
        return int(self._hdr.get_total_count())

    def ms(self, percentile: float) -> float:
        """The duration, ms, that so many percent do not exceed; 0 where there are none."""
        return round(self._hdr.get_value_at_percentile(percentile) / 1e3, 3) if len(self) else 0.0

    def to_json(self) -> dict[str, Any]:
        """Percentiles in ms, the largest, and the histogram itself in HDR's own compressed encoding."""
        told: dict[str, Any] = {name: self.ms(percentile) for name, percentile in _PERCENTILES.items()}
        return told | {"max_ms": self.ms(100.0), "hdr": self._hdr.encode().decode()}

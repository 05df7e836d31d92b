from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import RoutesError, UnknownVersion
from serving.router import PINNED, Choice, Routes, Variant, choose

SOURCE = Path("routes.yaml")
KEYS = [f"user-{n}" for n in range(20_000)]
TEXT = """
default: stable
variants:
  stable:    {version: "1", weight: 90}
  candidate: {version: "2", weight: 10}
shadow:      {version: "3", percent: 5}
"""


def routes(**weights: float) -> Routes:
    variants = {name: Variant(version=name, weight=weight) for name, weight in weights.items()}
    return Routes(default=next(iter(weights)), variants=variants)


def test_the_file_as_in_readme() -> None:
    parsed = Routes.parse(TEXT, SOURCE)
    assert parsed.versions == ["1", "2", "3"]
    assert parsed.variants["candidate"].weight == 10
    assert parsed.shadow is not None
    assert parsed.shadow.percent == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("default: [", "not YAML"),
        ("default: 2026-13-45", "not YAML"),
        ("default: !!int x", "not YAML"),
        ("[" * 3000, "not YAML"),
        ("", "the file: Input should be"),
        ("default: stable\nvariants: {}", "at least 1"),
        (TEXT.replace("default: stable", "default: other"), "default names 'other'"),
        (TEXT.replace('"2"', "2"), r"variants\.candidate\.version: .*string"),
        (TEXT.replace('"2"', '"../2"'), "should match pattern"),
        (TEXT.replace("10", "-10"), "greater than or equal to 0"),
        (TEXT.replace("percent: 5", "percent: 101"), "less than or equal to 100"),
        (TEXT + "colour: red", "colour: Extra"),
        (TEXT.replace("candidate:", "pinned:"), "variants: .*'pinned' is what requests are called"),
        ("default: &a [*a]", "routes.yaml"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(text: str, message: str) -> None:
    with pytest.raises(RoutesError, match=message):
        Routes.parse(text, SOURCE)


def test_pinned_goes_before_sticky_goes_before_weighted() -> None:
    parsed = Routes.parse(TEXT, SOURCE)
    for version in ("1", "2", "3"):
        assert choose(parsed, version, "anybody") == choose(parsed, version, None) == Choice(PINNED, version)
    by_key = choose(parsed, None, "user-7")
    assert all(choose(parsed, None, "user-7") == by_key for _ in range(100))
    assert choose(parsed, None, None, lambda: 0.89).variant == "stable"
    assert choose(parsed, None, None, lambda: 0.91).variant == "candidate"


def test_an_unknown_version_is_refused_with_the_list() -> None:
    with pytest.raises(UnknownVersion, match=r"'9' is not loaded; 1, 2, 3 are\. GET /models lists them\.") as caught:
        choose(Routes.parse(TEXT, SOURCE), "9", None)
    assert caught.value.details == {"versions": ["1", "2", "3"]}


def test_without_any_weight_the_default_answers() -> None:
    assert choose(routes(a=0, b=0), None, "key").variant == "a"


@pytest.mark.parametrize("key", [None, "by key"])
def test_shares_are_as_the_weights(key: str | None) -> None:
    mix = routes(a=70, b=20, c=10, d=0)
    counts = Counter(choose(mix, None, None if key is None else name).variant for name in KEYS)
    assert counts["a"] / len(KEYS) == pytest.approx(0.7, abs=0.015)
    assert counts["b"] / len(KEYS) == pytest.approx(0.2, abs=0.015)
    assert counts["d"] == 0


def test_moving_five_percent_of_the_weight_moves_five_percent_of_the_keys() -> None:
    before, after = routes(stable=90, candidate=10), routes(stable=85, candidate=15)
    moved = [(choose(before, None, key).variant, choose(after, None, key).variant) for key in KEYS]
    moved = [pair for pair in moved if pair[0] != pair[1]]
    assert set(moved) == {("stable", "candidate")}
    assert len(moved) / len(KEYS) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(
    ("before", "after", "points"),
    [
        ((45, 10, 45), (40, 15, 45), 5),
        ((45, 10, 45), (40, 10, 50), 5),
        ((80, 10, 10), (60, 30, 10), 20),
        ((50, 50, 0), (50, 40, 10), 10),
    ],
)
def test_with_three_variants_fewer_than_twice_as_many_keys_move(
    before: tuple[float, ...], after: tuple[float, ...], points: float
) -> None:
    old, new = (routes(**dict(zip("abc", weights, strict=True))) for weights in (before, after))
    moved = sum(choose(old, None, key).variant != choose(new, None, key).variant for key in KEYS) / len(KEYS)
    p = points / 100
    assert p - 0.005 < moved < 2 * p / (1 + p)


@given(
    weights=st.dictionaries(st.sampled_from("abcde"), st.integers(1, 50), min_size=2),
    winner=st.sampled_from("abcde"),
    gain=st.integers(1, 50),
)
@settings(deadline=None, max_examples=30)
def test_keys_only_move_to_who_gains(weights: dict[str, int], winner: str, gain: int) -> None:
    more = {**weights, winner: weights.get(winner, 0) + gain}
    for key in KEYS[:300]:
        old, new = choose(routes(**weights), None, key).variant, choose(routes(**more), None, key).variant
        assert new in (old, winner)

from __future__ import annotations

from collections.abc import Mapping

import pytest
from starlette.datastructures import QueryParams

from serving.errors import InvalidRequest
from serving.transports.query import OF_PREDICTIONS, min_confidence, number, parameters


def read(query: str) -> Mapping[str, str]:
    return parameters(QueryParams(query), "/predict", OF_PREDICTIONS)


def test_each_parameter_comes_by_its_name() -> None:
    assert read("") == {}
    assert read("min_confidence=0.6&version=2&key=a%20b") == {"min_confidence": "0.6", "version": "2", "key": "a b"}
    assert read("key=&version") == {"key": "", "version": ""}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("minconfidence=0.6", "/predict has no parameter 'minconfidence' in its query; it takes version, key, min_con"),
        ("minconfidence", "'minconfidence'"),
        ("version=1&Version=2", "'Version'"),
        ("=1", "no parameter ''"),
        ("x" * 5000, f"'{'x' * 40}'"),
        ("min_confidence=0.9&min_confidence=0.1", "min_confidence came 2 times, first as '0.9' and last as '0.1'"),
        ("key=a&version=1&key=b&key=a", "key came 3 times"),
    ],
)
def test_what_is_unknown_or_comes_twice_is_refused(query: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(query)
    assert message in caught.value.message
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(("query", "share"), [("", 0.0), ("min_confidence=0.25", 0.25), ("min_confidence=1", 1.0)])
def test_a_share_is_a_number_from_0_to_1(query: str, share: float) -> None:
    assert min_confidence(read(query)) == share


@pytest.mark.parametrize("came", ["", "-0.1", "1.1", "nan", "inf", "high", "9" * 5000])
def test_a_share_that_is_none_is_refused_and_shown(came: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        min_confidence({"min_confidence": came})
    assert caught.value.message == f"min_confidence must be a number from 0 to 1; got {came[:40]!r}."


def test_a_number_that_is_not_given_is_none() -> None:
    assert number({}, "rate_hz", int, "a whole number") is None
    assert number({"rate_hz": "8000"}, "rate_hz", int, "a whole number") == 8000
    for came in ("8000.5", "9" * 5000):  # of which Python reads no more than so many digits
        with pytest.raises(InvalidRequest, match=f"rate_hz must be a whole number; got '{came[:40]}'"):
            number({"rate_hz": came}, "rate_hz", int, "a whole number")

from __future__ import annotations

import contextlib
import string
import time
from pathlib import Path

import pytest

from serving.errors import InvalidFeedback
from serving.experiments import experiments
from serving.feedback import Feedback, Seen
from serving.metrics import Metrics
from serving.router import Routes, Variant

LABELS = ("happy", "sad", "very angry. indeed")
ROUTES = Routes(
    default="stable",
    variants={"stable": Variant(version="1", weight=90), "candidate": Variant(version="2", weight=10)},
)


def make(secret: str = "shared", metrics: Metrics | None = None) -> Feedback:  # noqa: S107
    return Feedback(secret, metrics or Metrics(), Seen(None))


@pytest.mark.parametrize("emotion", LABELS)
def test_an_id_tells_another_replica_what_was_answered(emotion: str) -> None:
    verdict = make().take(make().issue("stable", "1", emotion), emotion, LABELS)
    assert (verdict.heard.variant, verdict.heard.version, verdict.heard.emotion) == ("stable", "1", emotion)
    assert verdict.agreed
    assert verdict.counted


def test_an_id_counts_once_and_no_id_comes_twice() -> None:
    feedback = make()
    first, second = feedback.issue("stable", "1", "sad"), feedback.issue("stable", "1", "sad")
    assert first != second
    assert feedback.take(first, "happy", LABELS).counted
    assert not feedback.take(first, "sad", LABELS).counted
    for spelling in [
        *(first[:-1] + last for last in string.ascii_letters + string.digits),
        first + "!!",
        first + "%%%",
    ]:
        with contextlib.suppress(InvalidFeedback):
            assert not feedback.take(spelling, "sad", LABELS).counted, spelling
    assert feedback.take(second, "sad", LABELS).counted


@pytest.mark.parametrize("wrong", ["", "x", "stable.1.sad.00.aa.bb", "ü" * 10, "a" * 500])
def test_an_id_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidFeedback, match="not given out here"):
        make().take(wrong, "sad", LABELS)


def test_an_id_that_was_changed_or_is_of_others_is_refused() -> None:
    issued = make().issue("stable", "1", "sad")
    with pytest.raises(InvalidFeedback, match="TIMBRE_SECRET"):
        make().take(issued.replace("stable", "candidate"), "sad", LABELS)
    with pytest.raises(InvalidFeedback, match="TIMBRE_SECRET"):
        make("another").take(issued, "sad", LABELS)
    with pytest.raises(InvalidFeedback, match="TIMBRE_SECRET"):
        make("").take(make("").issue("stable", "1", "sad"), "sad", LABELS)


def test_an_id_expires_after_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    feedback = make()
    issued = feedback.issue("stable", "1", "sad")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_000)
    assert feedback.take(issued, "sad", LABELS).counted
    monkeypatch.setattr(time, "time", lambda: now + 86_500)
    with pytest.raises(InvalidFeedback, match="older than 24 hours"):
        feedback.take(issued, "sad", LABELS)


def test_an_emotion_that_nobody_knows_is_refused_with_the_list() -> None:
    feedback = make()
    with pytest.raises(InvalidFeedback, match=r"'bored' is not an emotion.* happy, sad"):
        feedback.take(feedback.issue("stable", "1", "sad"), "bored", LABELS)


def test_worker_processes_remember_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Seen(tmp_path / "seen"), Seen(tmp_path / "seen")
    assert one.add("id")
    assert not other.add("id")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 90_000)
    one.clean()
    assert other.add("id")


def test_memory_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.feedback._REMEMBERED", 3)
    seen = Seen(None)
    assert all(seen.add(str(n)) for n in range(10))
    assert not seen.add("9")
    assert len(seen._ids) == 3


def told(**counts: tuple[int, int]) -> dict[str, object]:
    """The report after so many (agreeing, disagreeing) labels per variant."""
    metrics = Metrics()
    feedback = make(metrics=metrics)
    for variant, (agree, disagree) in counts.items():
        version = ROUTES.variants[variant].version if variant in ROUTES.variants else "3"
        for n in range(agree + disagree):
            feedback.take(feedback.issue(variant, version, "sad"), "sad" if n < agree else "happy", LABELS)
    return experiments(metrics, ROUTES)


def test_without_feedback_there_is_no_comparison() -> None:
    report = told()
    assert report["comparison"] is None
    assert [row["variant"] for row in report["variants"]] == ["candidate", "stable"]  # type: ignore[attr-defined]


def test_agreement_has_wilsons_interval() -> None:
    report = told(stable=(81, 19))
    (row,) = [row for row in report["variants"] if row["variant"] == "stable"]  # type: ignore[attr-defined]
    # Wilson 1927; the figures are those of his formula by hand: 81 of 100 at z = 1.96.
    assert row["feedback"] == {"told": 100, "agreed": 81, "accuracy": 0.81, "interval_95": [0.7222, 0.8749]}


def test_two_variants_are_compared() -> None:
    comparison = told(stable=(80, 20), candidate=(60, 40))["comparison"]
    assert isinstance(comparison, dict)
    assert comparison["variants"] == ["candidate", "stable"]
    assert comparison["difference"] == 0.2
    assert comparison["test"] == "two-proportion z-test"
    # z = 0.2 / sqrt(0.7 * 0.3 * 2 / 100) = 3.086, two-sided
    assert comparison["p_value"] == pytest.approx(0.002028, abs=2e-5)
    assert comparison["significant"]


def test_what_was_pinned_takes_no_part_in_the_comparison() -> None:
    with_pinned = told(stable=(80, 20), candidate=(60, 40), pinned=(1, 9))
    assert [row["variant"] for row in with_pinned["variants"]] == ["candidate", "pinned", "stable"]  # type: ignore[attr-defined]
    assert with_pinned["comparison"] == told(stable=(80, 20), candidate=(60, 40))["comparison"]


def test_few_labels_are_compared_exactly() -> None:
    comparison = told(stable=(3, 0), candidate=(1, 2))["comparison"]
    assert isinstance(comparison, dict)
    assert comparison["test"].startswith("Fisher")
    assert comparison["p_value"] == pytest.approx(0.4)
    assert not comparison["significant"]


def test_variants_that_are_both_always_right_do_not_differ() -> None:
    comparison = told(stable=(30, 0), candidate=(10, 0))["comparison"]
    assert isinstance(comparison, dict)
    assert comparison["p_value"] == 1

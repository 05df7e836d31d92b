from __future__ import annotations

import sys

import pytest

from training.provenance import ROOT, command


def test_a_command_is_told_without_where_its_results_went(monkeypatch: pytest.MonkeyPatch) -> None:
    program = str(ROOT / "training" / "__main__.py")
    typed = [program, "compare", "--rows", "cnn", "--out", "/a b", "--runs=/c", "--splits", "fold0"]
    monkeypatch.setattr(sys, "argv", typed)
    assert command() == "python -m training compare --rows cnn --splits fold0"

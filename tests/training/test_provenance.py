from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from training import provenance
from training.provenance import ROOT, command


def test_a_command_is_told_without_where_its_results_went(monkeypatch: pytest.MonkeyPatch) -> None:
    program = str(ROOT / "training" / "__main__.py")
    typed = [program, "compare", "--rows", "cnn", "--out", "/a b", "--runs=/c", "--splits", "fold0"]
    monkeypatch.setattr(sys, "argv", typed)
    assert command() == "python -m training compare --rows cnn --splits fold0"


@pytest.mark.parametrize(
    ("changed", "told"),
    [("benchmarks/results/live.json", ""), ("training/results/compare.md", ""), ("serving/audio.py", "+changes")],
)
def test_what_was_measured_before_changes_nothing_and_code_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, told: str
) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    file = tmp_path / changed
    file.parent.mkdir(parents=True)
    file.write_text("before")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "All of it")
    file.write_text("after")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.commit() == git("rev-parse", "HEAD") + told

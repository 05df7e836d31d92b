"""The page's libraries are those that the lock names, and its figures those of the bench."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from training.comparison import read_results
from training.folds import fold_table

UI = ROOT / "serving" / "ui"
VENDOR = UI / "vendor"
REQUIREMENTS = ROOT / "requirements"


def test_what_is_locked_is_what_is_wanted_and_what_is_there() -> None:
    wanted = json.loads((REQUIREMENTS / "package.json").read_text())["dependencies"]
    packages = json.loads((REQUIREMENTS / "package-lock.json").read_text())["packages"]
    locked = {name.removeprefix("node_modules/"): entry for name, entry in packages.items() if name}
    assert {name: entry["version"] for name, entry in locked.items()} == wanted
    notice = (VENDOR / "NOTICE.txt").read_text()
    for name, entry in locked.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", wanted[name])
        assert entry["integrity"].startswith("sha512-")
        assert f"{name} {entry['version']}\n" in notice
    assert {entry["license"] for entry in locked.values()} == {"MIT", "BSD-3-Clause"}


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm, which is not on this machine")
def test_make_ui_changes_nothing(tmp_path: Path) -> None:
    command = ["make", "ui", f"VENDOR={tmp_path}"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if made.returncode and re.search("ENOTFOUND|ETIMEDOUT|ECONNREFUSED|EAI_AGAIN|ENETUNREACH", made.stderr):
        pytest.skip("the registry of npm is not reachable")
    assert made.returncode == 0, made.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in VENDOR.iterdir()
    }, "serving/ui/vendor is not what `make ui` makes"


def test_no_part_of_the_page_names_another_host() -> None:
    for path in UI.rglob("*"):
        if path.suffix in {".html", ".css", ".js"}:
            text = re.sub(r"http://www\.w3\.org/\S+|/\*!.*?\*/", "", path.read_text())
            assert not re.search(r"https?://|wss?://|(src|href)=\"//", text), path


def test_the_folds_are_those_of_the_bench() -> None:
    shown = json.loads((ROOT / "exported" / "folds.json").read_text())
    assert shown == fold_table(read_results(ROOT / "training" / "results")), "`make compare` writes exported/folds.json"


def test_who_was_run_on_all_folds_comes_first_and_the_best_of_them() -> None:
    def cell(uar: float) -> dict[str, dict[str, object]]:
        return {"test": {"uar": uar, "clips": 300}}

    cells = {
        "cnn": {"fold0": cell(0.4), "fold1": cell(0.6)},
        "svm": {"fold0": cell(0.6), "fold1": cell(0.7)},
        "gru": {"fold0": cell(0.9), "random": cell(1.0)},
        "knn": {"random": cell(1.0)},
    }
    told = fold_table({"cells": cells})
    assert list(told["uar"]) == list(told["mean"]) == ["svm", "cnn", "gru"]
    assert told["mean"] == {"svm": [0.65, 0.0707], "cnn": [0.5, 0.1414], "gru": [0.9]}


def test_only_actors_who_were_examined_are_named() -> None:
    shown = json.loads((ROOT / "exported" / "folds.json").read_text())
    assert shown["actors"][3:] == [["08", "17"], ["01", "04", "09"]]
    assert shown["clips"] == [60 * len(actors) for actors in shown["actors"]]


@pytest.mark.parametrize(
    ("clips", "examined"), [(300, ["08", "17", "21", "23", "24"]), (120, ["08", "17"]), (None, [])]
)
def test_who_was_examined_is_known_by_how_many_clips_were(clips: int | None, examined: list[str]) -> None:
    cells = {} if clips is None else {"fold3": {"test": {"uar": 0.5, "clips": clips}}}
    told = fold_table({"cells": {"cnn": cells}})
    assert (told["actors"][3], told["clips"][3]) == (examined, clips or 0)


def test_an_exam_of_unknown_or_different_actors_is_not_shown() -> None:
    def cell(clips: int) -> dict[str, object]:
        return {"fold3": {"test": {"uar": 0.5, "clips": clips}}}

    with pytest.raises(ValueError, match="not 60 of each actor"):
        fold_table({"cells": {"cnn": cell(180)}})
    with pytest.raises(ValueError, match="different clips"):
        fold_table({"cells": {"cnn": cell(120), "svm": cell(300)}})

"""What the page is told of a version: nothing in a folder can break it, nor bring HTML of its own."""

from __future__ import annotations

import json
from pathlib import Path

from serving.report import report
from tests.conftest import ROOT, SERVED


def test_a_committed_version_has_all_of_it() -> None:
    told = report(ROOT / "exported", SERVED)
    card = (ROOT / "exported" / SERVED / "card.md").read_text()
    assert [section["title"] for section in told["card"]] == [
        line.removeprefix("## ") for line in card.splitlines() if line.startswith("## ")
    ]
    text = "".join(section["html"] for section in told["card"])
    assert "<table>" in text
    assert "<img" not in text
    assert told["figures"] == json.loads((ROOT / "exported" / SERVED / "report" / "metrics.json").read_text())
    assert told["folds"]["uar"]


def test_what_is_not_there_is_told_as_nothing(tmp_path: Path) -> None:
    assert report(tmp_path, "7") == {"card": [], "figures": None, "folds": None}


def test_damaged_files_are_told_as_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "7"
    (folder / "report").mkdir(parents=True)
    (folder / "card.md").write_bytes(b"\xff\xfe## ")
    (folder / "report" / "metrics.json").write_text("{")
    (tmp_path / "folds.json").mkdir()
    assert report(tmp_path, "7") == {"card": [], "figures": None, "folds": None}


def test_a_cards_own_html_and_scripts_are_text(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    card = "# T\n\n## About\n\n<script>alert(1)</script> [x](javascript:alert(1)) **bold**\n\n<img src=x onerror=y>\n"
    (tmp_path / "7" / "card.md").write_text(card)
    ((section,), _, _) = report(tmp_path, "7").values()
    assert section["title"] == "About"
    assert "<strong>bold</strong>" in section["html"]
    assert not any(word in section["html"] for word in ("<script", "<img", 'href="javascript'))

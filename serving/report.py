"""What lies beside an exported version for people, as the web page shows it: card, figures, folds of actors."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

_IMAGE = "!["  # the page draws its own from the figures


def report(models: Path, version: str) -> dict[str, Any]:
    """What there is; a version need not have any of it.

    Args:
        models: folder of the versions; beside them lies ``folds.json``, how each recipe did on each fold of actors.
        version: the name of a loaded one.

    Returns:
        ``card``: its sections, ``title`` and ``html`` each; ``figures``: its exam on the test part, None where it is
        not there; ``folds``: the same.
    """
    folder = models / version
    return {
        "card": _sections(folder / "card.md"),
        "figures": _figures(folder / "report" / "metrics.json"),
        "folds": _figures(models / "folds.json"),
    }


def _sections(card: Path) -> list[dict[str, str]]:
    """The parts of a card by their headings, without its title, as HTML in which no HTML of the card's own survives."""
    from markdown_it import MarkdownIt  # here, because only who looks at the page needs it

    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = "\n".join(line for line in card.read_text().splitlines() if not line.startswith(_IMAGE))
        markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        parts = [part.partition("\n") for part in text.split("\n## ")[1:]]
        return [{"title": title, "html": markdown.render(body)} for title, _, body in parts]
    return []


def _figures(path: Path) -> Any:
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text())
    return None

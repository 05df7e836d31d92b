"""A results file as pages: what README shows, everything, and the page on capacity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.plots import plot
from benchmarks.pods import capacity_md
from benchmarks.process import ROOT
from benchmarks.record import FOLDER
from benchmarks.tables import SECTIONS, held, latency_table, peers_section, reached

Json = dict[str, Any]

_README = ROOT / "README.md"
_CAPACITY = ROOT / "benchmarks" / "capacity.md"
_START, _END = "<!-- benchmark: made by `python -m benchmarks report` -->\n", "<!-- /benchmark -->"


def report(results: Path, *, capacity: bool = False) -> Path:
    """Write tables and plots beside a results file, and capacity.md where asked; returns the tables' file."""
    found = json.loads(results.read_text())
    tables = results.with_suffix(".md")
    tables.write_text(whole(found))
    plot(found, results)
    if capacity:
        _CAPACITY.write_text(capacity_md(found))
    return tables


def into_readme(results: Path, readme: Path = _README) -> None:
    """Put what README shows of a results file between its marks."""
    text = readme.read_text()
    before, rest = text.split(_START)
    after = rest.split(_END, 1)[1]
    readme.write_text(before + _START + for_readme(json.loads(results.read_text())) + _END + after)


def newest(folder: Path = FOLDER) -> Path:
    """The latest run's results.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(path for path in folder.glob("20*.json") if not path.stem.endswith("-soak"))
    if not found:
        raise FileNotFoundError(f"{folder} has no results; run `make benchmark`.")
    return found[-1]


def for_readme(found: Json) -> str:
    """The peers, where one of them is better and why, and the latency at fixed rates."""
    parts = found["parts"]
    sections = (("peers", peers_section), ("latency", latency_table), ("capacity", held), ("stages", reached))
    text = f"Measured on {found['provenance']['machine']}, the load generator included.\n\n"
    return text + "\n".join(make(parts[name]) for name, make in sections if there(parts, name))


def whole(found: Json) -> str:
    """Every part that was measured."""
    where = found["provenance"]
    text = (
        f"# {where['date'][:10]}, {where['machine']}\n\n`{where['command']}` at {where['commit'][:12]}"
        f"{'+changes' if where['commit'].endswith('+changes') else ''}; {len(found['clips'])} clips, "
        f"{sum(clip['seconds'] for clip in found['clips']) / len(found['clips']):.1f} s on average.\n"
    )
    for name, title, make in SECTIONS:
        part = found["parts"].get(name)
        if part is not None:
            body = f"Left out: {part['left_out']}.\n" if "left_out" in part else make(part)
            text += f"\n## {title}\n\n{body}"
    return text


def there(parts: Json, name: str) -> bool:
    """Whether a part was measured."""
    return name in parts and "left_out" not in parts[name]

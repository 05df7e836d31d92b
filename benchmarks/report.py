"""A results file as pages: what README shows, everything, and the page on capacity."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.plots import plot
from benchmarks.pods import capacity_md
from benchmarks.process import ROOT
from benchmarks.tables import SECTIONS, held, peers_short, reached
from benchmarks.target import MULTIPART
from training.provenance import CHANGED

Json = dict[str, Any]

_README = ROOT / "README.md"
_CAPACITY = ROOT / "benchmarks" / "capacity.md"
_BLOCK = re.compile(
    r"<!-- benchmark: made by `python -m benchmarks report (?P<file>\S+) --readme` -->\n.*?<!-- /benchmark -->",
    re.DOTALL,
)

_LASTS = re.compile(r"about \d+ minutes on 2 cores")


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
    """Put what README shows of a results file between its marks, which name the file, and how long a run takes."""
    text = readme.read_text()
    shown(text)
    text = _LASTS.sub(f"about {_minutes(json.loads(results.read_text())):.0f} minutes on 2 cores", text)
    readme.write_text(_BLOCK.sub(lambda _: block(results), text))


def block(results: Path) -> str:
    """What stands in README of a results file, marks included."""
    place = results.resolve().relative_to(ROOT) if results.resolve().is_relative_to(ROOT) else results
    start = f"<!-- benchmark: made by `python -m benchmarks report {place} --readme` -->\n"
    return start + for_readme(json.loads(results.read_text()), place) + "<!-- /benchmark -->"


def shown(readme: str) -> Path:
    """The results file that README shows.

    Raises:
        ValueError: README has no marks.
    """
    found = _BLOCK.search(readme)
    if not found:
        raise ValueError("README has no marks of the benchmark, between which its table would stand.")
    return ROOT / found["file"]


def for_readme(found: Json, place: Path) -> str:
    """How much it takes, how long measuring took, the peers, and where one of them is better and why.

    Args:
        place: of the results file, as README links it.
    """
    text = _lead(found)
    text += f"{_where(found)} [All tables]({place.with_suffix('.md')}), latency by transport and rate among them.\n"
    if there(found["parts"], "peers"):
        text += f"\n{peers_short(found['parts']['peers'], str(place.with_suffix('.md')))}"
        text += f"\n![The peers, as ratios to this service]({place.with_name(place.stem + '-peers.png')})\n"
    return text


def _lead(found: Json) -> str:
    """Every capacity that is told, beside the others, since each alone is taken for one of them."""
    parts, told = found["parts"], []
    if there(parts, "peers"):
        part = parts["peers"]
        most = next(iter(part["summary"].values())).get("figures", {}).get("per_second")
        if most is not None:
            told.append(
                f"{most:.0f} requests/s of clips of {part['clip']['seconds']:g} s at {part['clip']['rate_hz'] / 1e3:g} "
                f"kHz, from {part['clients']['closed']} clients, each of which asks again as soon as it is answered."
            )
    if there(parts, "capacity"):
        part = parts["capacity"]
        ours = part["transports"].get(MULTIPART, {})
        if ours.get("per_second") is not None:
            told.append(
                f"{ours['per_second']:.0f} requests/s of clips that take more decoding and resampling "
                f"({_clips(found)}), from {ours['clients']} such clients."
            )
        told.append(held(part).strip())
    if there(parts, "stages"):
        told.append(reached(parts["stages"]).strip())
    return f"{' '.join(filter(None, told))}\n\n" if told else ""


def _where(found: Json) -> str:
    """Who was asked by what machine, and how long that took."""
    machine, url = found["provenance"]["machine"], found["settings"]["url"]
    who = f"Of {url}, asked by {machine}" if url else f"Measured on {machine}, the load generator included"
    return f"{who}, in {_minutes(found):.1f} minutes."


def _clips(found: Json) -> str:
    """What all parts were asked about but those that say otherwise: longer and faster clips cost more."""
    lengths_s, rates = ({clip[key] for clip in found["clips"]} for key in ("seconds", "rate_hz"))
    hertz = " and ".join(f"{rate}" for rate in sorted(rates))
    return f"{len(found['clips'])} in turn, of {min(lengths_s):.1f} to {max(lengths_s):.1f} s, at {hertz} Hz"


def _minutes(found: Json) -> float:
    return float(sum(part.get("took_s", 0.0) for part in found["parts"].values())) / 60


def whole(found: Json) -> str:
    """Every part that was measured."""
    where = found["provenance"]
    text = (
        f"# {where['date'][:10]}, {where['machine']}\n\n{_where(found)} `{where['command']}` at {where['commit'][:12]}"
        f"{CHANGED if where['commit'].endswith(CHANGED) else ''}. Clips, where a table "
        f"says nothing else: {_clips(found)}.\n"
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

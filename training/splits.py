"""Which clip is for learning, which for choosing, which for the exam: by actor, or at random.

A split is fixed by its fold or seed and written to JSON beside every run, so that nobody need trust a description.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.datasets import Clip
from training.files import read_json, write_json
from training.spec import ACTOR_FOLDS

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Three disjoint parts of a set of clips.

    Attributes:
        kind: "actor" or "random".
        key: the fold of an actor split, the seed of a random one.
    """

    kind: str
    key: int
    train: tuple[Clip, ...]
    validation: tuple[Clip, ...]
    test: tuple[Clip, ...]

    def part(self, name: str) -> tuple[Clip, ...]:
        """One of :data:`PARTS`.

        Raises:
            ValueError: another name.
        """
        if name not in PARTS:
            raise ValueError(f"There is no part {name!r} in a split; there are {', '.join(PARTS)}.")
        clips: tuple[Clip, ...] = getattr(self, name)
        return clips

    def speakers(self, part: str) -> list[str]:
        return sorted({clip.speaker for clip in self.part(part)})

    def to_json(self) -> dict[str, Any]:
        """Speakers and clip names of each part; names, not paths, so that it reads the same on any machine."""
        return {
            "kind": self.kind,
            "key": self.key,
            **{
                part: {
                    "speakers": self.speakers(part),
                    "clips": [f"{clip.corpus}/{clip.name}" for clip in self.part(part)],
                }
                for part in PARTS
            },
        }

    def save(self, path: Path) -> None:
        write_json(path, self.to_json())

    @staticmethod
    def load(path: Path, clips: Sequence[Clip]) -> Split:
        """The saved split over clips found again.

        Raises:
            FileNotFoundError: a clip of the split is not among ``clips``.
        """
        return Split.from_json(read_json(path), clips, of=str(path))

    @staticmethod
    def from_json(saved: dict[str, Any], clips: Sequence[Clip], *, of: str) -> Split:
        """What :meth:`to_json` gave, over clips found again.

        Args:
            of: where it comes from, for people.

        Raises:
            FileNotFoundError: a clip of the split is not among ``clips``.
        """
        by_name = {f"{clip.corpus}/{clip.name}": clip for clip in clips}
        names = [name for part in PARTS for name in saved[part]["clips"]]
        if lost := [name for name in names if name not in by_name]:
            raise FileNotFoundError(
                f"{len(lost)} of {len(names)} clips of {of} are not in the data, the first {lost[0]}."
            )
        parts = {part: tuple(by_name[name] for name in saved[part]["clips"]) for part in PARTS}
        return Split(saved["kind"], saved["key"], **parts)


def actor_split(clips: Sequence[Clip], fold: int, *, whole: bool = False) -> Split:
    """Speaker-disjoint: one published fold is the test, the next the validation, everyone else is learned from.

    Song and speakers outside the folds (TESS) are only ever learned from, and song only of actors that are.

    Args:
        whole: the validation part is to be learned from too, so its actors' song is.

    Raises:
        ValueError: no such fold, or a part comes out empty.
    """
    if not 0 <= fold < len(ACTOR_FOLDS):
        raise ValueError(f"There is no fold {fold}; there are 0 to {len(ACTOR_FOLDS) - 1}.")
    test, validation = set(ACTOR_FOLDS[fold]), set(ACTOR_FOLDS[(fold + 1) % len(ACTOR_FOLDS)])
    parts: dict[str, list[Clip]] = {part: [] for part in PARTS}
    for clip in clips:
        held_out = "test" if clip.speaker in test else "validation" if clip.speaker in validation else None
        speech = clip.corpus == "ravdess"
        if held_out is None or (whole and held_out == "validation" and not speech):
            parts["train"].append(clip)
        elif speech:
            parts[held_out].append(clip)
    return _split("actor", fold, parts)


def random_split(clips: Sequence[Clip], seed: int) -> Split:
    """70/15/15 at random, stratified by corpus and label. The same voice is in all parts: it flatters.

    Song is only ever learned from.

    Raises:
        ValueError: a part comes out empty.
    """
    strata: dict[tuple[str, str], list[Clip]] = defaultdict(list)
    parts: dict[str, list[Clip]] = {part: [] for part in PARTS}
    for clip in sorted(clips):
        if clip.corpus == "ravdess_song":
            parts["train"].append(clip)
        else:
            strata[clip.corpus, clip.label].append(clip)
    rng = random.Random(seed)
    for stratum in strata.values():
        rng.shuffle(stratum)
        learned, seen = round(0.70 * len(stratum)), round(0.85 * len(stratum))
        parts["train"] += stratum[:learned]
        parts["validation"] += stratum[learned:seen]
        parts["test"] += stratum[seen:]
    return _split("random", seed, parts)


def _split(kind: str, key: int, parts: dict[str, list[Clip]]) -> Split:
    if empty := [part for part, clips in parts.items() if not clips]:
        raise ValueError(
            f"The {kind} split {key} leaves nothing for {' and '.join(empty)}. It needs RAVDESS speech of actors from "
            "several folds; `python -m training check` shows who is there."
        )
    return Split(kind, key, *(tuple(sorted(parts[part])) for part in PARTS))

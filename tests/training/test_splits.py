from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from training.datasets import Clip
from training.spec import ACTOR_FOLDS, RAVDESS_ACTORS, RAVDESS_EMOTIONS
from training.splits import PARTS, Split, actor_split, random_split

CLIPS = [
    Clip(corpus, f"03-0{channel}-{code}-01-01-{take}-{actor}", Path(), label, actor)
    for (corpus, channel), (code, label), take, actor in product(
        (("ravdess", 1), ("ravdess_song", 2)), RAVDESS_EMOTIONS.items(), ("01", "02"), RAVDESS_ACTORS
    )
] + [Clip("tess", f"{s}_word{n}_sad", Path(), "sad", s) for s in ("OAF", "YAF") for n in range(20)]


def test_the_folds_are_the_published_ones_over_all_actors() -> None:
    assert sorted(actor for fold in ACTOR_FOLDS for actor in fold) == list(RAVDESS_ACTORS)


@pytest.mark.parametrize("fold", range(5))
def test_by_actor_no_voice_is_in_two_parts(fold: int) -> None:
    split = actor_split(CLIPS, fold)
    speakers = [set(split.speakers(part)) for part in PARTS]
    assert sum(map(len, speakers)) == len(set.union(*speakers))
    assert speakers[2] == set(ACTOR_FOLDS[fold])
    assert speakers[1] == set(ACTOR_FOLDS[(fold + 1) % 5])
    assert {clip.corpus for clip in split.test + split.validation} == {"ravdess"}
    assert {clip.corpus for clip in split.train} == {"ravdess", "ravdess_song", "tess"}


@pytest.mark.parametrize("fold", range(5))
def test_who_learns_from_the_validation_actors_learns_their_song_too(fold: int) -> None:
    split, more = actor_split(CLIPS, fold), actor_split(CLIPS, fold, whole=True)
    added = set(more.train) - set(split.train)
    assert (more.validation, more.test) == (split.validation, split.test)
    assert {clip.corpus for clip in added} == {"ravdess_song"}
    assert {clip.speaker for clip in added} <= set(split.speakers("validation"))
    unheard = set(CLIPS) - set(more.train) - set(more.validation) - set(more.test)
    assert {clip.speaker for clip in unheard} <= set(ACTOR_FOLDS[fold])


def test_at_random_every_clip_is_in_one_part_and_labels_are_even() -> None:
    split = random_split(CLIPS, seed=3)
    whole = [clip for part in PARTS for clip in split.part(part)]
    assert sorted(whole) == sorted(CLIPS)
    speech = [clip for clip in CLIPS if clip.corpus != "ravdess_song"]
    for part, share in (("train", 0.70), ("validation", 0.15), ("test", 0.15)):
        mine = [clip for clip in split.part(part) if clip.corpus != "ravdess_song"]
        assert len(mine) == pytest.approx(share * len(speech), abs=8)
    assert {clip.corpus for clip in split.test} == {"ravdess", "tess"}
    assert not any(clip.corpus == "ravdess_song" for clip in split.test + split.validation)


def test_a_seed_fixes_the_random_split() -> None:
    assert random_split(CLIPS, 3) == random_split(list(reversed(CLIPS)), 3)
    assert random_split(CLIPS, 3) != random_split(CLIPS, 4)


def test_a_split_comes_back_from_its_file(tmp_path: Path) -> None:
    split = actor_split(CLIPS, 2)
    split.save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json", CLIPS) == split
    with pytest.raises(FileNotFoundError, match="are not in the data"):
        Split.load(tmp_path / "split.json", CLIPS[1:])


def test_a_part_that_would_be_empty_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves nothing for validation and test"):
        actor_split([clip for clip in CLIPS if clip.speaker == "01"], 0)
    with pytest.raises(ValueError, match="no fold 5"):
        actor_split(CLIPS, 5)

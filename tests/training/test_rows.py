from __future__ import annotations

from training.models import CLASSICAL, MODELS
from training.rows import ROWS, recipe


def test_every_family_has_a_row_but_the_one_whose_weights_are_not_shipped() -> None:
    assert {row.recipe.model for row in ROWS} == {*MODELS, *CLASSICAL} - {"wav2vec2"}
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_joined_is_ravdess_and_tess_at_random_in_seven_classes() -> None:
    ours = next(row for row in ROWS if row.name == "cnn_tdnn")
    joined, alone = (recipe(ours, split) for split in ("joined", "random"))
    assert joined.merge_calm
    assert joined.corpora == ("ravdess", "ravdess_song", "tess")
    assert joined.tess_share == 1
    fold = recipe(ours, "fold0")
    assert alone.epochs
    assert fold.epochs
    assert alone.epochs > fold.epochs
    assert joined.epochs == alone.epochs
    assert alone.corpora == ("ravdess", "ravdess_song")
    assert not alone.merge_calm

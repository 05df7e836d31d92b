"""What is compared: the recipe of every row of the bench, and the splits that it is run on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from training.augment import AugmentConfig
from training.config import TrainConfig
from training.spec import ACTOR_FOLDS

Json = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One recipe.

    Attributes:
        name: in the table and on the command line.
        source: where its kind comes from.
        recipe: everything but data, split and seed.
        teachers: how many networks of the same recipe, each of another seed, teach the one that is examined.
        settled_by: the row on whose validation parts this one was settled, where its own learns from them too; its
            temperature is taken.
        at_random: what the recipe has otherwise where the split is at random.
    """

    name: str
    source: str
    recipe: TrainConfig
    teachers: int = 0
    settled_by: str = ""
    at_random: Json = field(default_factory=dict)


_QUICK: Json = {"epochs": 40, "patience": 10}

# What screening on validation actors left: song and a quarter of TESS as extra voices, small steps, averaged weights.
_OURS = TrainConfig(
    model="residual",
    corpora=("ravdess", "ravdess_song", "tess"),
    tess_share=0.25,
    epochs=50,
    patience=50,
    learning_rate=2e-3,
    weight_decay=2e-2,
    schedule="cosine",
    dropout=0.3,
    label_smoothing=0.1,
    average=0.999,
    augment=AugmentConfig(warp=0.1, masks=2),
)

_TDNN = dataclasses.replace(_OURS, model="cnn_tdnn")

# What the network is worth with what the baselines learn from.
_PLAIN = dataclasses.replace(_TDNN, corpora=("ravdess",), tess_share=TrainConfig.tess_share, augment=AugmentConfig())

# What is exported meets noise and rooms that no corpus of studio recordings has.
_HARDENED = dataclasses.replace(_TDNN, augment=dataclasses.replace(_TDNN.augment, noise=0.25, room=0.1))

# Where every voice is known from training, there is more to learn of each and less to guard against.
_LONGER: Json = {
    "epochs": 150,
    "patience": 150,
    "dropout": 0.15,
    "label_smoothing": 0.05,
    "augment": AugmentConfig(warp=0.1, masks=1),
}

ROWS = (
    Row("cnn", "the classic", TrainConfig(model="cnn", **_QUICK)),
    Row("cnn1d", "Keras projects", TrainConfig(model="cnn1d", corpora=("ravdess", "tess"), **_QUICK)),
    Row("cnn_lstm", "the strongest hand-made hybrid", TrainConfig(model="cnn_lstm", **_QUICK)),
    Row("lstm", "recurrent baseline", TrainConfig(model="lstm", **_QUICK)),
    Row("gru", "recurrent baseline", TrainConfig(model="gru", **_QUICK)),
    Row("rnn", "recurrent baseline", TrainConfig(model="rnn", **_QUICK)),
    Row("transformer", "the small transformer", TrainConfig(model="transformer", **{**_QUICK, "learning_rate": 3e-4})),
    Row("random_forest", "classical baseline", TrainConfig(model="random_forest")),
    Row("svm", "classical baseline", TrainConfig(model="svm")),
    Row("knn", "classical baseline", TrainConfig(model="knn")),
    Row("residual", "ours, mean over mel bands", _OURS, at_random=_LONGER),
    Row(
        "cnn_tdnn_plain",
        "ours, on speech alone, not augmented",
        _PLAIN,
        at_random={**_LONGER, "augment": _PLAIN.augment},
    ),
    Row("cnn_tdnn", "ours", _TDNN, at_random=_LONGER),
    Row("cnn_tdnn_noisy", "ours, in noise and rooms", _HARDENED, at_random=_LONGER),
    Row("cnn_tdnn_taught", "ours, taught by two others", _HARDENED, teachers=2, at_random=_LONGER),
    Row(
        "cnn_tdnn_whole",
        "ours, in noise and rooms, as exported",
        dataclasses.replace(_HARDENED, whole=True, patience=TrainConfig.patience),
        settled_by="cnn_tdnn_noisy",
        at_random={**_LONGER, "patience": TrainConfig.patience},
    ),
)
"""What is compared; a wav2vec2 row needs weights that are not shipped."""

JOINED = "joined"

SPLITS = (*(f"fold{fold}" for fold in range(len(ACTOR_FOLDS))), "random", JOINED)
"""Actor folds; RAVDESS at random; RAVDESS and TESS at random with calm counted as neutral, seven classes."""


def recipe(row: Row, split: str) -> TrainConfig:
    """The row's recipe on one split."""
    told = row.recipe
    if split.startswith("fold"):
        return dataclasses.replace(told, split="actor", fold=int(split.removeprefix("fold")))
    # What is learned from is examined too where the split is at random, so corpora are the split's choice.
    song = tuple(corpus for corpus in told.corpora if corpus == "ravdess_song")
    joined = split == JOINED
    corpora = ("ravdess", *song, "tess") if joined else ("ravdess", *song)
    told = dataclasses.replace(told, **row.at_random)
    return dataclasses.replace(told, split="random", corpora=corpora, tess_share=1.0, merge_calm=joined)

"""What the settings of a training may not be: names that do not exist, numbers out of range, what has no effect."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from training.datasets import CORPORA
from training.features import FEATURES
from training.models import CLASSICAL, MODELS
from training.spec import ACTOR_FOLDS

if TYPE_CHECKING:
    from training.config import TrainConfig

ONLY_OF = {
    **dict.fromkeys(("epochs", "batch_size", "patience", "devices", "num_nodes", "precision", "resume"), tuple(MODELS)),
    **dict.fromkeys(("learning_rate", "weight_decay", "schedule", "dropout", "average", "init_from"), tuple(MODELS)),
    **dict.fromkeys(("label_smoothing", "class_weights", "tess_share", "level", "augment"), tuple(MODELS)),
    **dict.fromkeys(("teachers", "teacher_share"), tuple(MODELS)),
    "pretrained": ("wav2vec2",),
    "freeze": ("wav2vec2",),
    "checkpoint_gradients": ("wav2vec2", "transformer"),
}
"""Settings that not every model has, and which have them."""

_LEARN_FROM = {"averaged": ("cnn1d", *CLASSICAL), "waveform": ("wav2vec2",)}
"""Which models can learn from front ends that make no picture of bands over frames."""
_LEARN_FROM_PICTURES = tuple(model for model in (*MODELS, *CLASSICAL) if model not in _LEARN_FROM["waveform"])


def refuse_settings(config: TrainConfig) -> None:
    """Refuse what no training can be made of.

    Raises:
        ValueError: a name that does not exist, a number out of range, a setting without effect, or two that do not fit.
    """
    refuse_unknown("model", config.model, (*MODELS, *CLASSICAL))
    refuse_unknown("front end", config.features, FEATURES)
    for corpus in config.corpora:
        refuse_unknown("corpus", corpus, CORPORA)
    if "ravdess" not in config.corpora:
        raise ValueError("corpora must hold ravdess, on which every model is examined.")
    refuse_unknown("split", config.split, ("actor", "random"))
    _refuse_what_has_no_effect(config)
    _refuse_front_ends_that_do_not_fit(config)
    if config.features == "averaged" and (config.augment.warp or config.augment.masks):
        raise ValueError("augment.warp and augment.masks have no effect on averaged features, which are one frame.")
    if not 0 <= config.fold < len(ACTOR_FOLDS):
        raise ValueError(f"There is no fold {config.fold}; there are 0 to {len(ACTOR_FOLDS) - 1}.")
    _refuse_numbers(config)


def refuse_unknown(what: str, name: str, known: Any) -> None:
    """Refuse a name that does not exist.

    Args:
        what: that is named, for people.

    Raises:
        ValueError: the name is not among those known.
    """
    if name not in known:
        raise ValueError(f"There is no {what} {name!r}; there are {', '.join(known)}.")


def _refuse_what_has_no_effect(config: TrainConfig) -> None:
    """A setting that is taken and does nothing would be believed."""
    without = {
        "fold": (config.split == "random", "a split at random"),
        "tess_share": ("tess" not in config.corpora, "who does not learn from TESS"),
        "patience": (config.whole, "who learns from the validation part too"),
        "level": (config.features == "waveform", "an encoder that brings its input to one level itself"),
        "split_seed": (config.split == "actor", "a split by actor"),
        "teacher_share": (not config.teachers, "who has no teachers"),
        "pretrained": (config.init_from is not None, "who begins with the weights of another run"),
        "checkpoint_gradients": (config.model == "wav2vec2" and config.freeze, "a frozen encoder"),
    }
    for one in dataclasses.fields(config):
        models = ONLY_OF.get(one.name, (config.model,))
        idle, of_what = (True, config.model) if config.model not in models else without.get(one.name, (False, ""))
        if idle and getattr(config, one.name) != _default(one):
            raise ValueError(f"{one.name} has no effect on {of_what}: leave it out.")


def _refuse_front_ends_that_do_not_fit(config: TrainConfig) -> None:
    """Means over all frames are one frame, the waveform is as many as it has samples: few can learn from those."""
    fitting = [name for name in FEATURES if config.model in _LEARN_FROM.get(name, _LEARN_FROM_PICTURES)]
    if config.features not in fitting:
        raise ValueError(f"{config.model} cannot learn from {config.features}; it can from {', '.join(fitting)}.")


def _refuse_numbers(config: TrainConfig) -> None:
    for name in ("epochs", "batch_size", "learning_rate", "patience", "devices", "num_nodes"):
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0; got {value}.")
    for name in ("weight_decay", "seed", "split_seed"):
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name} must be 0 or more; got {getattr(config, name)}.")
    for name in ("dropout", "label_smoothing", "average"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} must be from 0 to below 1; got {getattr(config, name)}.")
    if config.whole and config.schedule == "plateau" and config.model not in CLASSICAL:
        raise ValueError("whole leaves nothing to validate on, which schedule plateau needs; take --schedule cosine.")
    if not 0 <= config.teacher_share <= 1:
        raise ValueError(f"teacher_share must be from 0 to 1; got {config.teacher_share}.")
    if not 0 < config.tess_share <= 1:
        raise ValueError(f"tess_share must be above 0, at most 1; got {config.tess_share}.")


def _default(one: dataclasses.Field[Any]) -> Any:
    return one.default if one.default_factory is dataclasses.MISSING else one.default_factory()

"""One frozen dataclass per job: the command line is made from it, it is checked when made and saved with its run."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, cast

from training.augment import AugmentConfig
from training.files import read_json
from training.models import USUAL_FEATURES
from training.provenance import ROOT
from training.refusals import refuse_settings, refuse_unknown
from training.splits import PARTS


def data_folder() -> Path:
    """Where the corpora are: ``TIMBRE_DATA``, else ``../shared/data`` where that exists, else ``data``."""
    if named := os.environ.get("TIMBRE_DATA"):
        return Path(named)
    shared = ROOT.parent / "shared" / "data"
    return shared if shared.is_dir() else ROOT / "data"


def newest_run() -> Path:
    """The run folder that was made last.

    Raises:
        ValueError: there is none.
    """
    checkpoints = list((ROOT / "runs").glob("*/checkpoints/*"))
    if not checkpoints:
        raise ValueError(f"There is no run with a checkpoint below {ROOT / 'runs'}. Train one, or name it with --run.")
    return max(checkpoints, key=lambda path: path.stat().st_mtime).parents[1]


@dataclass(frozen=True)
class CheckConfig:
    """Print what a data folder holds, and what is wrong with it (then exit 1)."""

    data: Path = field(default_factory=data_folder)
    """Folder with the corpora, in any layout."""


@dataclass(frozen=True)
class DataConfig:
    """Download RAVDESS speech and song and TESS from their public records; resumes, verifies checksums."""

    data: Path = field(default_factory=lambda: Path(os.environ.get("TIMBRE_DATA") or ROOT / "data"))
    """Folder to put them in: TIMBRE_DATA, else data/."""
    zenodo: str = "https://zenodo.org"
    """Server of RAVDESS's record."""
    borealis: str = "https://borealisdata.ca"
    """Server of TESS's record."""


@dataclass(frozen=True)
class TrainConfig:
    """Train one model on one split."""

    data: Path = field(default_factory=data_folder)
    """Folder with the corpora, in any layout."""
    model: str = "cnn"
    """Network: cnn, cnn1d, cnn_lstm, lstm, gru, rnn, transformer, wav2vec2, residual or cnn_tdnn. Or a baseline of
    scikit-learn: random_forest, svm or knn."""
    features: str = ""
    """Front end: mfcc, log_mel, stacked, averaged or waveform; what the model is usually fed where not given."""
    corpora: tuple[str, ...] = ("ravdess",)
    """What is learned from, RAVDESS speech always among it. By actor, that alone is validated and tested on; at random
    everything but song is."""
    split: Literal["actor", "random"] = "actor"
    """By actor (honest), or random with the same voices on both sides (comparable with what others quote)."""
    fold: int = 3
    """Which actor fold is the test part, 0 to 4; the next one is the validation part. Without actors 21 to 24, fold 3
    leaves most to learn from."""
    whole: bool = False
    """Learn from the validation part too, once everything is chosen: all epochs are run, the last weights kept."""
    merge_calm: bool = False
    """Count calm as neutral, as who joins RAVDESS and TESS does: seven classes. The network keeps eight outputs;
    that of calm learns to be silent."""
    epochs: int | None = None
    """Most epochs; 100 where not given, or the run's own number when resuming."""
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    schedule: Literal["plateau", "cosine"] = "plateau"
    """Learning rate: halved where validation stands still, or one warm-up and one cosine over all epochs."""
    dropout: float = 0.2
    label_smoothing: float = 0.0
    """Share of each target that is spread over all classes."""
    class_weights: bool = False
    """Weigh classes by how rare they are in the training part."""
    tess_share: float = 1.0
    """Share of TESS's clips that an epoch draws, by chance; its two voices would drown twenty."""
    average: float = 0.0
    """Decay of the moving average of the weights that is validated and kept, such as 0.999; 0 for none."""
    patience: int = 25
    """Epochs without a better validation UAR before training stops."""
    trim: bool = False
    """Cut silence off both ends of the clips that are learned from."""
    level: bool = False
    """Bring each window to one level before the front end (in the graph, so in serving too)."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    checkpoint_gradients: bool = False
    """Less memory, more time (transformer, wav2vec2)."""
    pretrained: str | None = None
    """Name or folder of an encoder's weights (wav2vec2). A run keeps them: they are not asked for again."""
    freeze: bool = True
    """Leave the encoder's weights as they are (wav2vec2)."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Of the network, as GPUs like it (AVX-512 BF16 alone takes longer by a fifth). Front ends stay in 32 bit."""
    devices: int = 1
    """GPUs, or processes on a CPU."""
    num_nodes: int = 1
    """Machines, each started with the same command, as Lightning's documentation tells."""
    teachers: tuple[Path, ...] = ()
    """Runs beside this one, on the same split, whose mean opinion of each clip is learned beside its label."""
    teacher_share: float = 0.7
    """How much of each target is the teachers' opinion."""
    init_from: Path | None = None
    """A run whose best weights to begin with."""
    split_seed: int = 0
    """Which of the random splits."""
    seed: int = 0
    """Two runs with one seed on one machine are equal."""
    runs: Path = ROOT / "runs"
    """Where run folders are made."""
    name: str | None = None
    """Name of the run folder; made from model, features and split where not given."""
    resume: Path | None = None
    """A run folder to go on with, by its own saved settings; of the others only --epochs and --data count."""

    def __post_init__(self) -> None:
        if not self.features:
            object.__setattr__(self, "features", USUAL_FEATURES.get(self.model, "stacked"))
        refuse_settings(self)

    @property
    def made_with(self) -> tuple[Path, ...]:
        """The runs that have a part in this one: its teachers, and what it is begun from."""
        return (*self.teachers, *([self.init_from] if self.init_from else []))

    @property
    def run_name(self) -> str:
        part = f"fold{self.fold}" if self.split == "actor" else f"random{self.split_seed}"
        return self.name or f"{self.model}-{self.features}-{part}-seed{self.seed}"

    def to_json(self) -> dict[str, Any]:
        """All settings as JSON values, without what only says where this machine keeps things."""
        local = {"data", "runs", "resume"}
        kept = {key: value for key, value in dataclasses.asdict(self).items() if key not in local}
        kept["teachers"] = [path.name for path in self.teachers]
        kept["init_from"] = self.init_from and self.init_from.name
        if self.pretrained and Path(self.pretrained).is_dir():
            kept["pretrained"] = Path(self.pretrained).resolve().name
        return cast("dict[str, Any]", json.loads(json.dumps(kept)))  # lists for tuples, as a file will have them

    @classmethod
    def from_json(cls, saved: dict[str, Any], **local: Any) -> Self:
        made = {
            "corpora": tuple(saved["corpora"]),
            "augment": AugmentConfig(**saved.get("augment", {})),
            "teachers": tuple(map(Path, saved.get("teachers", ()))),
            "init_from": Path(saved["init_from"]) if saved.get("init_from") else None,
        }
        return cls(**{**saved, **made, **local})

    @classmethod
    def load(cls, run: Path, **local: Any) -> Self:
        """The settings of an existing run.

        Raises:
            FileNotFoundError: the folder is not a run.
        """
        path = run / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"{run} is not a run: there is no {path.name} in it.")
        saved = read_json(path)
        # Teachers, and what was begun from, are kept by name and lie beside the run.
        local.setdefault("teachers", tuple(run.parent / name for name in saved.get("teachers", ())))
        local.setdefault("init_from", run.parent / saved["init_from"] if saved.get("init_from") else None)
        return cls.from_json(saved, **local)


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a run's best checkpoint on one part of its own split, with pictures."""

    run: Path | None = None
    """Run folder, as `train` left it; the newest below runs/ where not given."""
    part: Literal["train", "validation", "test"] = "validation"
    """Part of the run's split. The test part is for what is finished: look at it and choose no more."""
    data: Path = field(default_factory=data_folder)
    """Folder with the corpora, in any layout."""

    def __post_init__(self) -> None:
        refuse_unknown("part", self.part, PARTS)

    @property
    def run_folder(self) -> Path:
        return self.run or newest_run()


@dataclass(frozen=True)
class ExportConfig:
    """Export a run's best checkpoint as a version the service can load."""

    run: Path | None = None
    """Run folder, as `train` left it; the newest below runs/ where not given."""
    version: str = "1"
    """Name of the version; the folder it is written to below --out."""
    out: Path = ROOT / "exported"
    data: Path = field(default_factory=data_folder)
    """Folder with the corpora, in any layout."""
    replace: bool = False
    """Overwrite a version that exists."""
    calibrate_by: Path | None = None
    """For a run that learned from the validation part too (`whole`), and so cannot be calibrated on it: a run on the
    same split that did not, whose temperature is taken."""
    bench: Path = ROOT / "training" / "results"
    """Where compare.json lies, whose figure over all folds the card leads with where the run is of the bench."""

    def __post_init__(self) -> None:
        if not self.version.isalnum():
            raise ValueError(f"A version is letters and digits, such as 1 or 2b; got {self.version!r}.")

    @property
    def run_folder(self) -> Path:
        return self.run or newest_run()


@dataclass(frozen=True)
class QuantiseConfig:
    """Bring an exported version's network to 8 bit, examine it beside the float, and ship it where it pays."""

    version: str = "2"
    """Name of the version, below --out."""
    out: Path = ROOT / "exported"
    data: Path = field(default_factory=data_folder)
    """Folder with the corpora, in any layout."""
    results: Path = ROOT / "training" / "results"
    """Where int8.json is written."""


@dataclass(frozen=True)
class CompareConfig:
    """Train and examine every model family on the same splits; goes on where it stopped."""

    rows: tuple[str, ...] = ()
    """Only these rows."""
    splits: tuple[str, ...] = ()
    """Only these splits, such as fold0 or random."""
    data: Path = field(default_factory=data_folder)
    """Folder with the corpora, in any layout."""
    runs: Path = ROOT / "runs" / "compare"
    """Where run folders are made."""
    out: Path = ROOT / "training" / "results"
    """Where compare.json, compare.md and compare.png are written."""
    folds: Path | None = None
    """Where the table over the folds of actors is written that the web page shows, such as exported/folds.json."""
    readme: Path | None = None
    """Where the table is written too, between marks for it, such as README.md."""
    costs: bool = False
    """Measure anew what each row costs, which is done by itself where a row has come or changed."""


@dataclass(frozen=True)
class PaceConfig:
    """Measure how long an epoch takes on this machine, and how much of it is waiting for clips."""

    row: str = "cnn_tdnn_whole"
    """A row of the bench; that of what is exported where not given."""
    split: str = "fold3"
    """On which split."""
    epochs: int = 3
    """Epochs that count; one more is trained before them."""
    data: Path = field(default_factory=data_folder)
    """Folder with the corpora, in any layout."""
    out: Path = ROOT / "training" / "results"
    """Where pace.json is written."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be above 0; got {self.epochs}.")

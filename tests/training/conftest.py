"""A corpus of synthetic sounds under RAVDESS's names, and one short training on it."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from tests.sounds import encode, voice
from training.config import ExportConfig, TrainConfig
from training.export import export
from training.spec import RAVDESS_EMOTIONS
from training.train import train

RATE_HZ = 48_000
ACTORS = ("01", "02", "03", "08")  # with fold 3: one to validate on, two to learn from, one for the exam


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 clips of 1 to 4 s, as a user would have them: 48 kHz WAV, some of them stereo."""
    root = tmp_path_factory.mktemp("corpus") / "Audio_Speech_Actors_01-24"
    for index, (actor, (code, _), take) in enumerate(product(ACTORS, RAVDESS_EMOTIONS.items(), ("01", "02"))):
        folder = root / f"Actor_{actor}"
        folder.mkdir(parents=True, exist_ok=True)
        sound = voice(1 + index % 4, RATE_HZ, pitch_hz=80 + 25 * int(code), seed=index)
        stereo = index % 5 == 0
        file = folder / f"03-01-{code}-01-01-{take}-{actor}.wav"
        file.write_bytes(encode(sound[:, None].repeat(2, axis=1) if stereo else sound, RATE_HZ))
    return root


@pytest.fixture(scope="session")
def settings(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Two epochs over the synthetic corpus."""
    return TrainConfig(
        data=corpus, runs=tmp_path_factory.mktemp("runs"), fold=3, epochs=2, batch_size=8, seed=7, name="first"
    )


@pytest.fixture(scope="session")
def run(settings: TrainConfig) -> Path:
    """The folder that training left."""
    return train(settings)


@pytest.fixture(scope="session")
def version(run: Path, settings: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as an exported version."""
    return export(ExportConfig(run=run, version="7", out=tmp_path_factory.mktemp("exported"), data=settings.data))

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from tests.sounds import encode, voice
from training import spec
from training.datasets import check, find_clips, parse, without_copies

SOUND = encode(voice(1.0), 16_000)


def different(seed: int) -> bytes:
    return encode(voice(0.5, seed=seed), 16_000)


@pytest.fixture
def ravdess(tmp_path: Path) -> Path:
    """Every clip of one actor, as published."""
    folder = tmp_path / "Audio_Speech_Actors_01-24" / "Actor_05"
    folder.mkdir(parents=True)
    takes = product(spec.RAVDESS_EMOTIONS, ("01", "02"), ("01", "02"), ("01", "02"))
    for index, (emotion, intensity, statement, repetition) in enumerate(takes):
        if (emotion, intensity) != ("01", "02"):
            (folder / f"03-01-{emotion}-{intensity}-{statement}-{repetition}-05.wav").write_bytes(different(index))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "corpus", "label", "speaker"),
    [
        ("03-01-01-01-01-01-01.wav", "ravdess", "neutral", "01"),
        ("03-01-08-02-02-02-24.flac", "ravdess", "surprised", "24"),
        ("03-02-06-01-01-02-19.wav", "ravdess_song", "fearful", "19"),
        ("OAF_back_angry.wav", "tess", "angry", "OAF"),
        ("YAF_youth_ps.flac", "tess", "surprised", "YAF"),
        ("YAF_dog_fear.wav", "tess", "fearful", "YAF"),
        ("OA_bite_neutral.wav", "tess", "neutral", "OAF"),
    ],
)
def test_names_of_the_corpora(name: str, corpus: str, label: str, speaker: str) -> None:
    clip = parse(Path("any") / name)
    assert clip is not None
    assert (clip.corpus, clip.label, clip.speaker) == (corpus, label, speaker)


@pytest.mark.parametrize(
    "name",
    [
        "02-01-01-01-01-01-01.wav",  # the sound of a film
        "03-01-09-01-01-01-01.wav",
        "03-01-01-01-01-01-25.wav",
        "03-01-01-03-01-01-01.wav",
        "OAF_back_bored.wav",
        "music.wav",
    ],
)
def test_other_names_are_nobody(name: str) -> None:
    assert parse(Path(name)) is None


def test_a_whole_actor_is_sound(ravdess: Path) -> None:
    report = check(ravdess)
    assert report.sound, report
    assert len(report.clips) == 60
    assert report.counts("ravdess")["05"]["neutral"] == 4
    assert report.counts("ravdess")["05"]["calm"] == 8
    assert len(report.absent) == 23
    assert report.formats == {(16_000, 1): 60}


def test_each_fault_is_found(ravdess: Path) -> None:
    folder = next(ravdess.glob("*/Actor_05"))
    first, second, third, fourth, fifth, sixth, *_ = sorted(folder.iterdir())
    first.unlink()
    second.write_bytes(b"RIFF nothing like a sound")
    third.write_bytes(b"")
    fourth.write_bytes(encode(voice(1.0) * 0, 16_000))
    fifth.write_bytes(fifth.read_bytes()[:-6000])
    sixth.unlink()
    sixth.symlink_to(folder / "nowhere.wav")
    (folder / "03-01-05-01-01-01-05 copy.wav").write_bytes((folder / "03-01-05-01-01-01-05.wav").read_bytes())
    report = check(ravdess)
    assert not report.sound
    assert report.missing == [f"ravdess {first.stem}"]
    damaged, lost = report.unreadable
    assert damaged.startswith(f"{second.relative_to(ravdess)} (The bytes are not audio")
    assert lost == f"{sixth.relative_to(ravdess)} (No such file or directory)"
    (short,) = report.cut_short
    assert short == f"{fifth.relative_to(ravdess)} (0.31 s of 0.50 s)"
    assert report.empty == [str(third.relative_to(ravdess))]
    assert report.silent == [str(fourth.relative_to(ravdess))]
    assert len(report.extra) == 1
    assert len(report.duplicates) == 1
    assert "03-01-05-01-01-01-05 copy.wav" in report.duplicates[0]


def test_a_word_that_lacks_an_emotion_is_missing(tmp_path: Path) -> None:
    names = [f"{s}_{w}_{e}" for s, w, e in product(spec.TESS_SPEAKERS, ("dog", "cat"), spec.TESS_EMOTIONS)]
    for index, name in enumerate(names[1:]):
        (tmp_path / f"{name}.wav").write_bytes(different(index))
    assert check(tmp_path).missing == [f"tess {names[0]}"]


def test_a_clip_in_two_folders_counts_once(ravdess: Path) -> None:
    again = ravdess / "audio_speech_actors_01-24" / "Actor_05"
    again.mkdir(parents=True)
    for path in list(ravdess.glob("Audio*/Actor_05/*")):
        (again / path.name).write_bytes(path.read_bytes())
    assert len(find_clips(ravdess, ("ravdess",))) == 60
    assert len(check(ravdess).duplicates) == 60


def test_copies_under_another_name_are_dropped(tmp_path: Path) -> None:
    for name in ("03-01-03-01-02-01-07.wav", "03-01-03-01-02-02-07.wav"):
        (tmp_path / name).write_bytes(SOUND)
    clips = find_clips(tmp_path, ("ravdess",))
    assert len(clips) == 2
    assert without_copies(clips) == clips[:1]


def test_no_data_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make data"):
        find_clips(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="training check"):
        find_clips(tmp_path)


def run_check(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training", "check", "--data", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_prints_and_exits_by_what_it_found(ravdess: Path) -> None:
    good = run_check(ravdess)
    assert good.returncode == 0, good.stderr
    assert "files read: 60 at 16000 Hz with 1 channel" in good.stdout
    next(ravdess.rglob("*.wav")).unlink()
    bad = run_check(ravdess)
    assert bad.returncode == 1
    assert "missing: ravdess 03-01-" in bad.stdout
    assert run_check(ravdess / "nowhere").returncode == 1


def test_the_reference_copy(shared_data: Path) -> None:
    report = check(shared_data)
    totals = {corpus: sum(row.total() for row in report.counts(corpus).values()) for corpus in ("ravdess", "tess")}
    assert totals == {"ravdess": 1200, "tess": 2520}
    assert report.absent == [f"{corpus} {actor}" for corpus in ("ravdess", "ravdess_song") for actor in range(21, 25)]
    for problem in ("missing", "extra", "unreadable", "cut_short", "empty", "silent"):
        assert getattr(report, problem) == []
    # The published RAVDESS has this recording under two names.
    (pair,) = report.duplicates
    assert pair.count("Actor_07/03-01-03-01-02-0") == 2

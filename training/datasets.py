"""RAVDESS and TESS by their file names, wherever they lie, and a report of what is wrong with a copy of them.

Both layouts are read: the publishers' (48 kHz and 24,414 Hz WAV, one folder per actor or per speaker and emotion, or
flat) and any re-encoding that keeps the names. The folder is only searched; the name says everything.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from serving import audio
from training import spec
from training.progress import OnProgress, no_progress

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".m4a", ".aac", ".webm"})
CORPORA = ("ravdess", "ravdess_song", "tess")

_RAVDESS_NAME = re.compile(r"03-(?P<channel>01|02)-(?P<emotion>0[1-8])-(?P<take>0[12]-0[12]-0[12])-(?P<actor>\d\d)")
# One file of the published set is called OA_bite_neutral.
_TESS_NAME = re.compile(r"(?P<speaker>OAF?|YAF)_(?P<word>[a-z]+)_(?P<emotion>[a-z]+)", re.IGNORECASE)

# A corpus whole is 24 actors, or two speakers; these parts of a name then occur in every combination.
_RAVDESS_TAKES = tuple("-".join(fields) for fields in product(("01", "02"), repeat=3))

_CUT_SHORT_S = 0.1  # lossy codecs announce a frame or two more than they give


@dataclass(frozen=True, order=True)
class Clip:
    """One recording of a corpus."""

    corpus: str
    name: str
    path: Path = field(compare=False)
    label: str
    speaker: str


@dataclass
class Integrity:
    """What a data folder holds and what is wrong with it. Problems are lists of paths or names, with reasons."""

    clips: list[Clip]
    formats: Counter[tuple[int, int]] = field(default_factory=Counter)  # (rate_hz, channels) -> files
    absent: list[str] = field(default_factory=list)  # whole actors or speakers: a smaller corpus, not a broken one
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    cut_short: list[str] = field(default_factory=list)  # shorter than the header says
    empty: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)

    PROBLEMS = ("missing", "extra", "unreadable", "cut_short", "empty", "silent", "duplicates")

    @property
    def sound(self) -> bool:
        return bool(self.clips) and not any(getattr(self, problem) for problem in self.PROBLEMS)

    def counts(self, corpus: str) -> dict[str, Counter[str]]:
        """Clips per speaker and label of one corpus."""
        table: dict[str, Counter[str]] = defaultdict(Counter)
        for clip in self.clips:
            if clip.corpus == corpus:
                table[clip.speaker][clip.label] += 1
        return dict(sorted(table.items()))


def parse(path: Path) -> Clip | None:
    """The clip that a file's name stands for; None where it is a name of neither corpus."""
    if match := _RAVDESS_NAME.fullmatch(path.stem):
        if match["actor"] not in spec.RAVDESS_ACTORS:
            return None
        corpus = "ravdess" if match["channel"] == "01" else "ravdess_song"
        return Clip(corpus, path.stem, path, spec.RAVDESS_EMOTIONS[match["emotion"]], match["actor"])
    if match := _TESS_NAME.fullmatch(path.stem):
        emotion, speaker = match["emotion"].lower(), match["speaker"].upper()
        if emotion not in spec.TESS_EMOTIONS:
            return None
        speaker = "OAF" if speaker == "OA" else speaker
        name = f"{speaker}_{match['word'].lower()}_{emotion}"
        return Clip("tess", name, path, spec.TESS_EMOTIONS[emotion], speaker)
    return None


def audio_files(root: Path) -> list[Path]:
    """Every audio file below a folder, sorted; links that lead nowhere too.

    Raises:
        FileNotFoundError: the folder does not exist.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root} is not a folder. Run `make data`, or name the corpora's folder with --data or TIMBRE_DATA."
        )
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and not path.is_dir())


def find_clips(root: Path, corpora: Iterable[str] = CORPORA) -> list[Clip]:
    """The clips of these corpora below a folder, each once, in an order that does not depend on where they lie.

    Published archives hold some folders twice; a clip found again under the same name is not counted again.

    Raises:
        FileNotFoundError: the folder does not exist, or holds no clip of a corpus asked for.
    """
    wanted = tuple(corpora)
    found: dict[tuple[str, str], Clip] = {}
    for path in audio_files(root):
        clip = parse(path)
        if clip is not None and clip.corpus in wanted:
            found.setdefault((clip.corpus, clip.name), clip)
    for corpus in wanted:
        if not any(clip.corpus == corpus for clip in found.values()):
            raise FileNotFoundError(f"No {corpus} clip below {root}. `python -m training check` shows what is there.")
    return sorted(found.values())


def without_copies(clips: Iterable[Clip]) -> list[Clip]:
    """The clips without those whose file is byte for byte that of an earlier one (RAVDESS has such a pair)."""
    seen: set[str] = set()
    kept = []
    for clip in clips:
        digest = hashlib.sha256(clip.path.read_bytes()).hexdigest()
        if digest not in seen:
            seen.add(digest)
            kept.append(clip)
    return kept


def check(root: Path, on_progress: OnProgress = no_progress) -> Integrity:
    """Read every audio file below a folder and report what is there and what is wrong.

    Args:
        on_progress: told of files read and files in all.

    Raises:
        FileNotFoundError: the folder does not exist.
    """
    paths = audio_files(root)
    report = Integrity(clips=[])
    by_content: dict[str, list[Path]] = defaultdict(list)
    with ThreadPoolExecutor() as pool:
        for done, (path, file) in enumerate(zip(paths, pool.map(_inspect, paths), strict=True)):
            shown = str(path.relative_to(root))
            if file.digest:
                by_content[file.digest].append(path)
            if file.problem:
                getattr(report, file.problem).append(f"{shown} ({file.reason})" if file.reason else shown)
            if file.format:
                report.formats[file.format] += 1
            if clip := parse(path):
                report.clips.append(clip)
            else:
                report.extra.append(shown)
            on_progress(done + 1, len(paths))
    for same in by_content.values():
        if len(same) > 1:
            report.duplicates.append(" = ".join(str(path.relative_to(root)) for path in same))
    report.absent, report.missing = _gaps(report.clips)
    return report


@dataclass(frozen=True)
class _File:
    """What one file turned out to be.

    Attributes:
        digest: SHA-256 of its bytes, None where there are none to read.
        format: (rate_hz, channels).
        problem: the list of :class:`Integrity` it belongs on.
    """

    digest: str | None
    format: tuple[int, int] | None = None
    problem: str | None = None
    reason: str = ""


def _inspect(path: Path) -> _File:
    try:
        data = path.read_bytes()
    except OSError as error:
        return _File(None, problem="unreadable", reason=error.strerror or str(error))
    digest = hashlib.sha256(data).hexdigest()
    try:
        clip = audio.decode(data, spec.AUDIO.rate_hz)
    except audio.EmptyAudio:
        return _File(digest, problem="empty")
    except audio.RequestError as error:
        return _File(digest, problem="unreadable", reason=str(error))
    form = (clip.source_rate_hz, clip.channels)
    if clip.announced_s is not None and clip.duration_s < clip.announced_s - _CUT_SHORT_S:
        return _File(digest, form, "cut_short", f"{clip.duration_s:.2f} s of {clip.announced_s:.2f} s")
    try:
        audio.windows(clip.samples, spec.AUDIO.windows)
    except audio.NoSpeech:
        return _File(digest, form, "silent")
    return _File(digest, form)


def _gaps(clips: Sequence[Clip]) -> tuple[list[str], list[str]]:
    """(absent, missing): speakers of whom there is nothing, and names lacking from those of whom there is something."""
    absent: list[str] = []
    missing: list[str] = []
    for corpus in CORPORA:
        have: dict[str, set[str]] = defaultdict(set)
        for clip in clips:
            if clip.corpus == corpus:
                have[clip.speaker].add(clip.name)
        if not have:
            continue
        for speaker, names in _expected(corpus, have).items():
            if speaker not in have:
                absent.append(f"{corpus} {speaker}")
            else:
                missing.extend(f"{corpus} {name}" for name in sorted(names - have[speaker]))
    return absent, missing


def _expected(corpus: str, have: dict[str, set[str]]) -> dict[str, set[str]]:
    """The names a whole corpus has per speaker; for TESS over the words that are there at all."""
    if corpus == "tess":
        words = {name.split("_")[1] for names in have.values() for name in names}
        return {
            speaker: {f"{speaker}_{word}_{emotion}" for word in words for emotion in spec.TESS_EMOTIONS}
            for speaker in spec.TESS_SPEAKERS
        }
    song = corpus == "ravdess_song"
    channel, emotions = ("02", spec.RAVDESS_SONG_EMOTIONS) if song else ("01", tuple(spec.RAVDESS_EMOTIONS))
    return {
        actor: {
            f"03-{channel}-{emotion}-{take}-{actor}"
            for emotion, take in product(emotions, _RAVDESS_TAKES)
            # Neutral has no strong intensity.
            if not (spec.RAVDESS_EMOTIONS[emotion] == "neutral" and take.startswith("02"))
        }
        for actor in spec.RAVDESS_ACTORS
        if not (song and actor == spec.RAVDESS_SONGLESS_ACTOR)
    }

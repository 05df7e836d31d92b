"""The command line, run as users run it."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import pty
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from typer.testing import CliRunner, Result

from serving.__main__ import app
from serving.client import Prediction, load
from serving.commands.sources import Source
from serving.errors import Unreachable
from serving.quota import cores
from tests.conftest import ROOT, SERVED
from tests.models import copy_versions
from tests.service import Service, children, environment, free_port, running, until
from tests.sounds import encode, voice
from tests.transports import Clip

CLIPS = {
    "one.wav": encode(voice(1.0, seed=1), 16_000),
    "two.flac": encode(voice(4.0, seed=2), 16_000, "FLAC"),
    "more/three.ogg": encode(voice(2.0, seed=3), 48_000, "OGG"),
    "more/four.wav": encode(voice(0.5, 8_000, seed=4), 8_000),
}
BAD = {"bad.wav": b"no audio at all, whatever it may be called", "more/silent.wav": encode(np.zeros(8000), 16_000)}
CODES = {"bad.wav": "unsupported_audio", "more/silent.wav": "no_speech"}


def timbre(
    *arguments: str | Path, cwd: Path = ROOT, more: dict[str, str] | None = None, **settings: str | Path
) -> subprocess.CompletedProcess[str]:
    """``python -m serving ...``, after it has ended; ``more`` is for its environment."""
    return subprocess.run(
        [sys.executable, "-m", "serving", *map(str, arguments)],
        cwd=cwd,
        env=environment(**settings) | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | (more or {}),
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )


def told(*arguments: str | Path, **settings: str | Path) -> Result:
    """The same in this process: sooner, where nothing about processes is the question."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment(**settings))


def fill(folder: Path, *kinds: dict[str, bytes]) -> Path:
    for name, data in {key: value for kind in kinds for key, value in kind.items()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Good files, bad ones, and one that is none of our business."""
    return fill(tmp_path / "archive", CLIPS, BAD, {"notes.txt": b"not audio, and not called so"})


def answers(archive: Path) -> dict[str, Any]:
    """What the version says of the good clips, without the command line."""
    hear = load(ROOT / "exported" / SERVED)
    return {name: hear(archive / name) for name in CLIPS}


def test_predict_shows_a_table_and_fails_with_a_file(archive: Path) -> None:
    good = timbre("predict", *(archive / name for name in CLIPS))
    assert (good.returncode, good.stderr) == (0, "")
    for name, answer in answers(archive).items():
        (line,) = [line for line in good.stdout.splitlines() if name in line]
        assert str(answer.emotion) in line
        assert f"{answer.confidence:.2f}" in line
    mixed = timbre("predict", archive / "bad.wav", archive / "one.wav", archive / "nowhere.wav")
    assert mixed.returncode == 1
    assert "bad.wav: unsupported_audio: " in mixed.stderr
    assert "nowhere.wav: unreadable: No such file" in mixed.stderr
    assert "Traceback" not in mixed.stderr
    assert str(answers(archive)["one.wav"].emotion) in mixed.stdout


def test_predict_as_json_says_the_same_with_and_without_a_service(archive: Path, service: Service) -> None:
    files = [archive / name for name in (*CLIPS, *BAD)]
    here = timbre("predict", "--json", *files)
    there = timbre("predict", "--json", "--url", service.url, *files)
    assert (here.returncode, there.returncode) == (1, 1)
    expected = answers(archive)
    for line, other, file in zip(here.stdout.splitlines(), there.stdout.splitlines(), files, strict=True):
        mine, its = json.loads(line), json.loads(other)
        name = str(file.relative_to(archive))
        assert mine["file"] == its["file"] == str(file)
        if name in BAD:
            assert mine["error"] == its["error"]
            assert mine["error"]["code"] == CODES[name]
        else:
            assert mine["all_emotions"] == pytest.approx(its["all_emotions"], abs=1e-5)
            assert mine["all_emotions"] == expected[name].all_emotions
            assert (mine["request_id"] is None, its["request_id"] is None) == (True, False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["predict"], "Missing argument"),
        (["predict", "--json", "--min-confidence", "2", "x.wav"], "min-confidence"),
        (["predict", "--version", "404", "x.wav"], "holds no version '404'; it holds 1"),
        (["predict", "--url", "localhost", "x.wav"], "http://HOST:3000"),
        (["predict", "--url", "http://", "x.wav"], "'http://' is no address of a service; http://HOST:3000"),
        (["predict", "--url", "grpc://", "x.wav"], "'grpc://' is no address of a service"),
        (["predict", "--url", "http://localhost:99999", "x.wav"], "no address of a service (Port out of range"),
        (["models", "--url", "http://localhost:http"], "no address of a service (Port could not be cast"),
        (["timeline", "--url", "http://[::1", "x.wav"], "no address of a service (Invalid IPv6 URL)"),
        (["listen", "--url", "grpc://localhost:0", "x.wav"], "no address of a service"),
        (["predict", "--url", "http://localhost:3000", "--api-key", "clé", "x.wav"], "beyond ASCII"),
        (["score", f"zip://::{__file__}", "--out", "x.csv"], "cannot be listed: File is not a zip file"),
        (["score", f"tar://::{__file__}", "--out", "x.csv"], "cannot be listed: "),
        (["timeline", "x.wav", "--png", "/nowhere/at/all.png"], "no such folder"),
        (["score", "/nowhere/at/all", "--out", "x.csv"], "no such folder"),
        (["score", ".", "--out", "x.xlsx"], "ends in .parquet, .csv, .jsonl"),
        (["score", ".", "--out", "/nowhere/at/all/x.csv"], "no such folder"),
        (["score", "serving", "--out", "x.csv"], "no audio file"),
        (["score", ".", "--out", "x.csv", "--address", "here:1"], "--engine ray"),
        (["score", "."], "Missing option"),
        (["dance"], "No such command"),
    ],
)
def test_wrong_usage_is_2_and_says_what_is_wrong(arguments: list[str], says: str) -> None:
    result = told(*arguments)
    assert result.exit_code == 2, result.stderr
    assert says in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("way", [["--json"], []])
def test_what_was_heard_before_the_service_went_away_is_shown(
    archive: Path, monkeypatch: pytest.MonkeyPatch, way: list[str]
) -> None:
    first, second, *_ = (archive / name for name in CLIPS)
    answer = load(ROOT / "exported" / SERVED)(first)

    def hear(*_: object) -> Iterator[Prediction]:
        yield answer
        raise Unreachable("It has gone.")

    monkeypatch.setattr(Source, "hear", hear)
    result = told("predict", first, second, "--url", "http://localhost:3000", *way)
    assert (result.exit_code, result.stderr) == (1, "It has gone.\n")
    assert str(first) in result.stdout
    assert str(answer.emotion) in result.stdout
    assert str(second) not in result.stdout


@pytest.mark.parametrize(
    "way", [["--ca", "a.pem"], ["--cert", "a.pem", "--key", "b.pem"], ["--key", "b.pem"], ["--api-key", "k"]]
)
@pytest.mark.parametrize("command", [["predict", "x.wav"], ["timeline", "x.wav"], ["models"]])
def test_what_is_for_a_service_is_wrong_usage_without_one(command: list[str], way: list[str]) -> None:
    result = told(*command, *way)
    assert result.exit_code == 2, result.stderr
    assert "--url" in result.stderr


def test_a_key_that_stands_in_the_environment_is_passed_over_without_a_service(archive: Path) -> None:
    assert told("predict", archive / next(iter(CLIPS)), api_key="k").exit_code == 0


@pytest.mark.parametrize("command", ["predict", "timeline", "listen"])
def test_a_version_that_the_service_does_not_have_is_wrong_usage_too(
    archive: Path, service: Service, command: str
) -> None:
    result = told(command, archive / next(iter(CLIPS)), "--version", "404", "--url", service.url)
    assert result.exit_code == 2, result.stderr
    assert "'404' is not loaded" in result.stderr


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_table_that_cannot_be_saved_is_told(archive: Path, kind: str) -> None:
    """Nobody may write in /proc, not even root."""
    result = timbre("score", archive, "--out", f"/proc/x.{kind}")
    assert result.returncode == 1
    assert result.stderr.startswith(f"/proc/x.{kind}")
    assert "Traceback" not in result.stderr


def test_a_picture_that_cannot_be_saved_is_told(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = timbre(
        "timeline", fill(tmp_path, {"one.wav": encode(voice(1.0), 16_000)}) / "one.wav", "--png", "/proc/x.png"
    )
    assert result.returncode == 1
    assert result.stderr.startswith("/proc/x.png: ")
    assert "Traceback" not in result.stderr


def test_no_service_and_no_model_are_1(archive: Path, tmp_path: Path) -> None:
    nobody = told("models", "--url", f"http://127.0.0.1:{free_port()}")
    assert nobody.exit_code == 1
    assert "cannot be reached" in nobody.stderr
    nothing = told("predict", archive / "one.wav", models=tmp_path)
    assert nothing.exit_code == 1
    assert "no exported version here" in nothing.stderr


@pytest.mark.parametrize(
    "command", [["predict", "x.wav"], ["timeline", "x.wav"], ["models"], ["score", ".", "--out", "x.csv"]]
)
def test_who_has_no_models_is_told_where_answers_come_from(tmp_path: Path, command: list[str]) -> None:
    """Whoever installed the package has no Makefile to train by; a whole archive is heard here alone."""
    nothing = told(*command, models=tmp_path)
    assert nothing.exit_code == 1
    assert "--models /path/to/exported" in nothing.stderr
    assert ("--url http://HOST:3000" in nothing.stderr) == (command[0] != "score")
    assert "make " not in nothing.stderr


@pytest.mark.parametrize("command", [["predict", "x.wav"], ["models"]])
def test_routes_that_are_no_text_are_told(tmp_path: Path, command: list[str]) -> None:
    folder = copy_versions(tmp_path)
    (folder / "routes.yaml").write_bytes(b"\xff\xfe")
    result = told(*command, models=folder)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"{folder / 'routes.yaml'} cannot be read: ")


def test_models_of_a_folder_and_of_a_service(tmp_path: Path, service: Service) -> None:
    folder = copy_versions(tmp_path, "2", "3")
    (folder / "routes.yaml").write_text(
        'default: a\nvariants: {a: {version: "1", weight: 90}, b: {version: "2", weight: 10}}\n'
        'shadow: {version: "2", percent: 5}\n'
    )
    table = told("models", models=folder).stdout
    for text in (
        "a: 90, default",
        "b: 10",
        "shadow: 5 %",
        "not routed",
        "test: UAR 0.711 (0.638 to 0.782), accuracy 0.700",
    ):
        assert text in table
    assert [model["version"] for model in json.loads(told("models", "--json", models=folder).stdout)["models"]] == [
        *"123"
    ]
    assert "stable: 100, default" in told("models", "--url", service.url).stdout


def test_the_default_of_the_routes_answers(archive: Path, tmp_path: Path) -> None:
    folder = copy_versions(tmp_path, "2")
    assert json.loads(told("predict", "--json", archive / "one.wav", models=folder).stdout)["model_version"] == "2"
    (folder / "routes.yaml").write_text('default: a\nvariants: {a: {version: "1", weight: 1}}\n')
    assert json.loads(told("predict", "--json", archive / "one.wav", models=folder).stdout)["model_version"] == "1"


def test_timeline_of_a_long_recording_and_its_picture(tmp_path: Path) -> None:
    gap = np.zeros(16_000 * 8, dtype=np.float32)
    long = tmp_path / "long.wav"
    long.write_bytes(encode(np.concatenate([voice(9.0, seed=1), gap, voice(6.0, pitch_hz=300, seed=2)]), 16_000))
    png = tmp_path / "picture.png"
    result = timbre("timeline", long, "--png", png)
    assert result.returncode == 0, result.stderr
    answer = load(ROOT / "exported" / SERVED)(long)
    lines = [line for line in result.stdout.splitlines() if line.startswith("│")]
    assert len(lines) == len(answer.segments)
    for line, segment in zip(lines, answer.segments, strict=True):
        assert str(segment.emotion) in line
        assert f"0:{segment.start_s:04.1f}" in line
    assert png.read_bytes().startswith(b"\x89PNG")
    from matplotlib.image import imread

    colours = np.unique(imread(png)[..., :3].reshape(-1, 3), axis=0)
    assert len(colours) > 8
    assert told("timeline", tmp_path / "nowhere.wav").exit_code == 1


def rows(table: Path) -> list[dict[str, Any]]:
    if table.suffix == ".parquet":
        found: list[dict[str, Any]] = pyarrow.parquet.read_table(table).to_pylist()
        return found
    if table.suffix == ".jsonl":
        return [json.loads(line) for line in table.read_text().splitlines()]
    with table.open(newline="") as file:
        return [{key: value or None for key, value in row.items()} for row in csv.DictReader(file)]


def check_table(table: Path, archive: Path) -> None:
    """Every file has its row, and the row says what the version says."""
    found = {row["path"]: row for row in rows(table)}
    assert list(found) == sorted([*CLIPS, *BAD])
    for name, answer in answers(archive).items():
        row = found[name]
        assert (row["emotion"], row["model_version"], row["error"]) == (answer.emotion, SERVED, None)
        for label, value in answer.all_emotions.items():
            assert float(row[f"p_{label}"]) == pytest.approx(value, abs=1e-5)
        assert float(row["duration_s"]) == answer.duration_s
    for name, code in CODES.items():
        assert (found[name]["emotion"], found[name]["confidence"], found[name]["error"]) == (None, None, code)
        assert found[name]["message"]


def test_score_an_archive_into_each_kind_of_table(archive: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.parquet"
    result = timbre("score", archive, "--out", table)
    assert result.returncode == 1
    check_table(table, archive)
    for name, code in CODES.items():
        assert f"{name}: {code}: " in result.stderr
    assert f"6 files, 2 of them bad, 0 scored before: {table}" in result.stderr
    assert pyarrow.parquet.read_schema(table).field("p_" + load(ROOT / "exported" / SERVED).labels[0]).type == "double"
    for kind in ("csv", "jsonl"):
        other = tmp_path / f"table.{kind}"
        shutil.copy(f"{table}.journal", f"{other}.journal")
        assert told("score", archive, "--out", other).exit_code == 1
        check_table(other, archive)


def test_score_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    clip = encode(voice(20.0), 16_000, "FLAC")
    archive = fill(tmp_path / "archive", {f"{n:03d}.flac": clip for n in range(60)})
    table, journal = tmp_path / "table.jsonl", tmp_path / "table.jsonl.journal"
    command = [sys.executable, "-m", "serving", "score", str(archive), "--out", str(table)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL, start_new_session=True)
    assert until(lambda: journal.exists() and len(journal.read_bytes().splitlines()) > 5, 120)
    assert len(hearing(process)) == cores()
    process.kill()
    process.wait(30)
    before = journal.read_bytes().splitlines()
    assert 5 < len(before) < 61
    assert not table.exists()
    # The machine goes down in the middle of a line.
    journal.write_bytes(b"\n".join(before[:-1]) + b"\n" + before[-1][:10])
    result = timbre("score", archive, "--out", table)
    assert result.returncode == 0, result.stderr
    assert f"60 files, 0 of them bad, {len(before) - 2} scored before" in result.stderr
    assert [row["path"] for row in rows(table)] == [f"{n:03d}.flac" for n in range(60)]
    # What had been scored was not scored again.
    assert journal.read_bytes().splitlines()[: len(before) - 1] == before[:-1]
    assert len(journal.read_bytes().splitlines()) == 61
    # Nobody waits for the dead.
    assert until(lambda: not _alive_in_session(process.pid))


def hearing(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes that hear for one that scores."""
    mine = children(process.pid)
    return [pid for pid in mine if b"--multiprocessing-fork" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.parametrize("workers", [1, 3])
def test_score_hears_in_as_many_processes_as_it_is_told(tmp_path: Path, workers: int) -> None:
    clip = encode(voice(20.0), 16_000, "FLAC")
    archive = fill(tmp_path / "archive", {f"{n:03d}.flac": clip for n in range(40)})
    command = [sys.executable, "-m", "serving", "score", str(archive), "--out", str(tmp_path / "table.csv")]
    journal = tmp_path / "table.csv.journal"
    process = subprocess.Popen([*command, "--workers", str(workers)], cwd=ROOT, env=environment())
    try:
        assert until(lambda: journal.exists() and len(journal.read_bytes().splitlines()) > 1, 120)
        assert len(hearing(process)) == workers
    finally:
        process.kill()
        process.wait(30)


def _alive_in_session(leader: int) -> list[int]:
    """Processes of a session, zombies aside."""
    alive = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == leader and state != "Z":
            alive.append(int(stat.parent.name))
    return alive


def test_score_takes_what_is_new_and_what_has_changed(archive: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    assert "0 scored before" in timbre("score", archive, "--out", table, "--workers", "1").stderr
    assert "6 files, 2 of them bad, 6 scored before" in told("score", archive, "--out", table, "--workers", "1").stderr
    fill(archive, {"bad.wav": CLIPS["one.wav"], "new.wav": CLIPS["one.wav"]})
    (archive / "two.flac").unlink()
    assert (
        "6 files, 1 of them bad, 4 scored before" in timbre("score", archive, "--out", table, "--workers", "1").stderr
    )
    found = {row["path"]: row for row in rows(table)}
    assert found["new.wav"]["emotion"] == found["bad.wav"]["emotion"] == found["one.wav"]["emotion"]
    assert "two.flac" not in found


def test_a_journal_of_another_run_is_not_gone_on_with(archive: Path, tmp_path: Path) -> None:
    models, table = copy_versions(tmp_path, "2"), tmp_path / "table.csv"
    timbre("score", archive, "--out", table, "--version", "1", "--workers", "1", models=models)
    other = told("score", archive, "--out", table, "--version", "2", models=models)
    assert other.exit_code == 2
    assert "table.csv.journal is of another run: version 1, not 2" in other.stderr


def test_score_a_zip_file_by_fsspec(archive: Path, tmp_path: Path) -> None:
    packed = tmp_path / "archive.zip"
    with zipfile.ZipFile(packed, "w") as file:
        for path in sorted(archive.rglob("*.*")):
            file.write(path, path.relative_to(archive))
    table = tmp_path / "table.csv"
    arguments = ("score", f"zip://::{packed}", "--out", f"file://{table}", "--workers", "1")
    assert timbre(*arguments, cwd=tmp_path, models=ROOT / "exported").returncode == 1
    check_table(table, archive)


@pytest.mark.timed  # Ray gives its own start half a minute, and has no setting for it
def test_score_on_a_ray_cluster_says_the_same(archive: Path, tmp_path: Path) -> None:
    """A cluster of its own processes, which the command joins by its address."""
    pytest.importorskip("ray", reason="needs Ray, which is not installed here")
    port, table, log = free_port(), tmp_path / "table.csv", tmp_path / "ray.txt"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    start = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        f"--port={port}",
        "--num-cpus=2",
    ]
    quiet = ["--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=100000000"]
    # Short, because the paths of Unix sockets are; and away from whatever else uses Ray on this machine.
    with tempfile.TemporaryDirectory(prefix="ray-") as scratch, log.open("wb") as out:
        command = [*start, *quiet, f"--temp-dir={scratch}"]
        hasty = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}  # nothing runs on it when it is stopped
        head = subprocess.Popen(command, env=os.environ | token | hasty, stdout=out, stderr=subprocess.STDOUT)
        try:
            assert until(lambda: "--block" in log.read_text(), 120), log.read_text()
            place = f"file://{archive}"
            arguments = ("score", place, "--out", table, "--engine", "ray", "--address", f"127.0.0.1:{port}")
            result = timbre(*arguments, more=token)
            assert result.returncode == 1, result.stderr
            assert "6 files, 2 of them bad, 0 scored before" in result.stderr
            check_table(table, archive)
            # It goes on where it was.
            fill(archive, {"new.wav": CLIPS["one.wav"]})
            result = timbre(*arguments, more=token)
            assert result.returncode == 1, result.stderr
            assert "7 files, 2 of them bad, 6 scored before" in result.stderr
            assert {row["path"]: row["error"] for row in rows(table)}["new.wav"] is None
            # The journal is the same, whatever the engine: what one has scored the other does not score again.
            fill(archive, {"newer.wav": CLIPS["one.wav"]})
            assert (
                "8 files, 2 of them bad, 7 scored before"
                in told("score", place, "--out", table, "--workers", "1").stderr
            )
        finally:
            head.terminate()
            head.wait(60)


@pytest.mark.timed  # Ray gives its own start half a minute, and has no setting for it
def test_score_on_ray_needs_no_cluster(archive: Path, tmp_path: Path) -> None:
    """Without an address it makes one on this machine, for as long as it takes."""
    pytest.importorskip("ray", reason="needs Ray, which is not installed here")
    table = tmp_path / "table.csv"
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as scratch:
        result = timbre("score", archive, "--out", table, "--engine", "ray", more={"RAY_TMPDIR": scratch})
        assert result.returncode == 1, result.stderr
        assert "6 files, 2 of them bad, 0 scored before" in result.stderr
        check_table(table, archive)
        assert list(Path(scratch).rglob("session_*"))  # it was this one


def test_what_is_not_installed_is_told_by_name(archive: Path, tmp_path: Path, service: Service) -> None:
    for package, arguments in {
        "ray": ("score", archive, "--out", tmp_path / "table.csv", "--engine", "ray"),
        "pyarrow": ("score", archive, "--out", tmp_path / "table.parquet"),
        "matplotlib": ("timeline", archive / "one.wav", "--png", tmp_path / "picture.png"),
        "sounddevice": ("listen", "--url", service.url),
    }.items():
        code = f"import sys; sys.modules['{package}'] = None; from serving.__main__ import app; app()"
        result = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 2, result.stderr
        assert f"needs the package {package}, which is not installed. `make extras`" in result.stderr


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_listen_to_a_recording(tmp_path: Path, service: Service, spoken: dict[int, Clip], way: str) -> None:
    clip = tmp_path / "spoken.wav"
    samples = spoken[16_000].samples[: 5 * 16_000]  # the first sentence, and the pause after it
    clip.write_bytes(encode(samples, 16_000))
    url = service.url if way == "http" else f"grpc://{service.grpc}"
    started = time.monotonic()
    result = timbre("listen", clip, "--url", url, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert time.monotonic() - started >= len(samples) / 16_000  # at the speed at which it was spoken
    messages = [json.loads(line) for line in result.stdout.splitlines()]
    assert [message["type"] for message in messages if message["type"] != "measurement"] == [
        "session",
        "utterance.start",
        "utterance.end",
    ]
    assert set(messages[0]["emotions"]) == set(load(ROOT / "exported" / SERVED).labels)


def test_what_cannot_be_listened_to_is_1_as_for_every_command(archive: Path, service: Service) -> None:
    for name, says in (("nowhere.wav", "unreadable: No such file"), ("bad.wav", "unsupported_audio: ")):
        for command in ("predict", "timeline", "listen"):
            result = told(command, archive / name, "--url", service.url)
            assert (result.exit_code, f"{name}: {says}" in result.stderr) == (1, True), (command, result.stderr)


def test_a_refused_utterance_is_1_and_the_rest_is_heard(tmp_path: Path, spoken: dict[int, Clip]) -> None:
    """The service takes a second of audio at most, which no utterance of the recording keeps to."""
    clip = tmp_path / "spoken.wav"
    clip.write_bytes(encode(spoken[16_000].samples[: 5 * 16_000], 16_000))
    with running(tmp_path / "log.txt", max_duration_s=1) as service, ThreadPoolExecutor(2) as both:
        results = list(both.map(lambda way: timbre("listen", clip, "--url", service.url, *way), ((), ("--json",))))
    for result in results:
        assert (result.returncode, result.stderr) == (1, "")
    for_people, for_programs = (result.stdout.splitlines()[-1] for result in results)
    assert for_people.startswith("utterance 1: ")
    assert json.loads(for_programs)["error"]["code"] == "audio_too_long"


def seen_on_a_terminal(*arguments: str | Path) -> str:
    """All that a command shows on a terminal of 100 columns: control characters too, but no colours."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (40, 100))
    process = subprocess.Popen(
        [sys.executable, "-m", "serving", *map(str, arguments)],
        cwd=ROOT,
        env=environment() | {"TERM": "xterm-256color"},
        stdin=its,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    shown = b""
    with contextlib.suppress(OSError):  # its end of the terminal is closed
        while data := os.read(ours, 65_536):
            shown += data
    os.close(ours)
    process.wait(30)
    return re.sub(r"\x1b\[[\d;]*m", "", shown.decode())


def test_people_see_a_bar_per_emotion_while_they_listen(
    tmp_path: Path, service: Service, spoken: dict[int, Clip]
) -> None:
    clip = tmp_path / "spoken.wav"
    clip.write_bytes(encode(spoken[16_000].samples[: 5 * 16_000], 16_000))
    shown = seen_on_a_terminal("listen", clip, "--url", service.url)
    assert "somebody speaks" in shown
    for label in load(ROOT / "exported" / SERVED).labels:
        assert re.search(rf"\b{label}\s+[█▏▎▍▌▋▊▉]*\s+[01]\.\d\d", shown), label
    assert re.search(r"\w+ +[█▏▎▍▌▋▊▉]+ +[01]\.\d\d", shown)
    assert "\x1b[1A" in shown  # drawn again in its place
    assert re.search(r"0:\d\d\.\d to 0:\d\d\.\d  \w+, [01]\.\d\d", shown)


def test_people_see_how_far_an_archive_is(archive: Path, tmp_path: Path) -> None:
    shown = seen_on_a_terminal("score", archive, "--out", tmp_path / "table.csv", "--workers", "1")
    assert "Scoring" in shown
    assert "0/6" in shown
    assert re.search(r"Scoring, [12] bad.*[1-6]/6", shown)
    assert "6 files, 2 of them bad" in shown


def test_listen_to_a_microphone(tmp_path: Path, service: Service, spoken: dict[int, Clip]) -> None:
    """PortAudio's part is played by a recording, ended as people end it; people see a line per utterance."""
    (tmp_path / "spoken.pcm").write_bytes(spoken[16_000].pcm)
    (tmp_path / "sounddevice.py").write_text(MICROPHONE)
    command = [sys.executable, "-m", "serving", "listen", "--url", service.url]
    env = environment() | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "SPOKEN": str(tmp_path / "spoken.pcm")}
    log = tmp_path / "log.txt"
    # A shell that runs the tests in the background lets them ignore Ctrl-C, and what they start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT)
    assert until(lambda: log.read_text().count(" to ") == 2, 60), log.read_text()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert "Traceback" not in log.read_text()


MICROPHONE = """
import os, threading
from pathlib import Path

class PortAudioError(Exception): ...

def query_devices(kind):
    return {"default_samplerate": 16_000.0}

def check_input_settings(**settings):
    assert settings == {"channels": 1, "dtype": "int16", "samplerate": 16_000}

class RawInputStream:
    def __init__(self, rate_hz, blocksize, channels, dtype, callback):
        self.callback, self.size, self.over = callback, 2 * blocksize, threading.Event()
    def __enter__(self):
        threading.Thread(target=self.play, daemon=True).start()
    def __exit__(self, *_):
        self.over.set()
    def play(self):
        sound = Path(os.environ["SPOKEN"]).read_bytes()
        place = 0
        while not self.over.wait(0.02):
            frame = sound[place : place + self.size].ljust(self.size, bytes(1))
            place += self.size
            self.callback(memoryview(frame), len(frame) // 2, None, None)
"""

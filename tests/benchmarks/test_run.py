"""A run: its order, that it goes on where it stopped, what it leaves out, and how it is stopped."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from benchmarks import parts
from benchmarks import run as module
from benchmarks.__main__ import app
from benchmarks.bench import Bench
from benchmarks.run import PARTS, file_name, run, served_model
from benchmarks.target import NotHereError
from tests.benchmarks.made import quiet
from tests.conftest import ROOT
from tests.service import children, metric, until
from training.provenance import CHANGED, UNKNOWN

Json = dict[str, Any]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three parts that only say that they ran, the last of which may not be measured here."""
    ran: list[str] = []

    def part(path: str) -> SimpleNamespace:
        def measure(_: Bench) -> Json:
            name = path.rpartition(".")[2]
            ran.append(name)
            if name == "third":
                raise NotHereError("there is no moon")
            return {"number": len(ran)}

        return SimpleNamespace(measure=measure)

    monkeypatch.setattr(module, "PARTS", ("first", "second", "third"))
    monkeypatch.setattr(module, "import_module", part)
    monkeypatch.setattr(module, "commit", lambda: "a" * 40)  # whatever the tests are run on
    return ran


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, counted: list[str]) -> None:
    path = run(quiet(), tmp_path, ["first"])
    assert (counted, path.name) == (["first"], f"{file_name()}.json")
    run(quiet(), tmp_path)
    assert counted == ["first", "second", "third"]
    found = json.loads(path.read_text())
    assert {"command", "commit", "machine", "date", "seed"} <= found["provenance"].keys()
    assert all({"command", "commit", "took_s"} <= part.keys() for part in found["parts"].values())
    assert [part["number"] for part in list(found["parts"].values())[:2]] == [1, 2]
    assert found["parts"]["third"]["left_out"] == "there is no moon"
    assert [clip["name"] for clip in found["clips"]] == [clip.name for clip in quiet().sent]


def test_a_named_part_is_measured_again_and_the_others_are_kept(tmp_path: Path, counted: list[str]) -> None:
    run(quiet(), tmp_path)
    path = run(quiet(), tmp_path, ["second"])
    assert counted == ["first", "second", "third", "second"]
    assert [part.get("number") for part in json.loads(path.read_text())["parts"].values()] == [1, 4, None]


def test_what_cannot_be_gone_on_with_is_left_as_it_is(
    tmp_path: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh, another scale, another service, another commit: each begins a file, and goes on with its own."""
    first = run(quiet(), tmp_path)
    as_it_was = first.read_bytes()
    again = run(quiet(), tmp_path, fresh=True)
    scaled = run(quiet(scale=0.2), tmp_path)
    there = run(quiet(url="http://there:3000"), tmp_path, ["first"])
    monkeypatch.setattr(module, "commit", lambda: "b" * 40)
    other = run(quiet(), tmp_path, ["first"])
    name = file_name()
    assert [path.stem for path in (first, again, scaled, other)] == [name, f"{name}-2", f"{name}-3", f"{name}-4"]
    assert there.stem == file_name("http://there:3000") != name
    assert "there-3000" in there.stem
    assert first.read_bytes() == as_it_was
    assert len(counted) == 11
    assert run(quiet(), tmp_path) == other
    assert counted[11:] == ["second", "third"]
    assert {part["commit"] for part in json.loads(other.read_text())["parts"].values()} == {"b" * 40}


@pytest.mark.parametrize("commit", ["a" * 40 + CHANGED, UNKNOWN])
def test_of_code_that_no_commit_names_nothing_is_kept(
    tmp_path: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch, commit: str
) -> None:
    monkeypatch.setattr(module, "commit", lambda: commit)
    assert run(quiet(), tmp_path, ["first"]) != run(quiet(), tmp_path, ["first"])
    monkeypatch.setattr(module, "commit", lambda: "a" * 40)
    run(quiet(), tmp_path)
    assert counted == ["first", "first", "first", "second", "third"]


def test_another_model_keeps_nothing(tmp_path: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = run(quiet(), tmp_path)
    assert json.loads(path.read_text())["model"] == served_model()
    monkeypatch.setattr(module, "served_model", lambda: {"version": "3"})
    assert run(quiet(), tmp_path) != path
    assert len(counted) == 6


def test_a_part_that_does_not_exist_is_named(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["run", "--only", "speed", "--out", str(tmp_path)])
    assert told.exit_code == 2
    assert "no part speed" in re.sub(r"[\s│]+", " ", told.output)


def test_the_file_is_called_after_day_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "machine", lambda: "Intel(R) Xeon(R) Processor @ 2.50GHz, 2 cores, Linux x86_64")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-intel-xeon-2\.50ghz-2-cores", file_name())


def test_a_run_that_is_told_to_stop_stops_what_it_started_and_goes_on_later(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "run", "--only", "capacity", "--out", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert until(lambda: answered(process.pid) > 20, 300)  # more than each clip once: it is measured
    started = children(process.pid)
    assert started
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), 60)


def answered(pid: int) -> float:
    """Requests that the service which a process has started says it has answered; 0 where there is none yet."""
    for child in children(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, httpx.TransportError):
            environment = Path(f"/proc/{child}/environ").read_text().split("\0")
            ports = [one.removeprefix("TIMBRE_PORT=") for one in environment if one.startswith("TIMBRE_PORT=")]
            if ports:
                with httpx.Client(base_url=f"http://127.0.0.1:{ports[0]}", timeout=30) as client:
                    return metric(client, "timbre_requests_total", code="ok")
    return 0.0


def test_every_part_there_is_has_its_turn() -> None:
    assert set(PARTS) == {path.stem for path in Path(parts.__file__).parent.glob("[a-z]*.py")}

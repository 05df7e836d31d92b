"""What `pip install .` puts into an application: `serving`, and what its client needs, however old that may be."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT, SERVED
from tests.environments import UV
from tests.service import Service, environment
from tests.sounds import encode, encode_av, voice

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAME = f"{PROJECT['name']}-{PROJECT['version']}"
ASK = """
import json, sys
import soundfile
from serving import __file__
from serving.client import Client, load

answers = []
for url in sys.argv[2:]:
    with Client(url) as client:
        client.models()
        answers += [client.predict(sys.argv[1]).as_dict(), client.predict(soundfile.read(sys.argv[1])).as_dict()]
try:
    load("nowhere")
except ModuleNotFoundError as error:
    print(json.dumps({"file": __file__, "answers": answers, "load": str(error)}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built with what is here, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([UV, "--quiet", "build", "--wheel", "--offline", "--out-dir", folder, ROOT], check=True)
    (built,) = folder.glob("*.whl")
    return built


def oldest(wheel: Path, folder: Path, extra: str = "") -> str:
    """The interpreter of an environment that has the wheel, and the oldest that it allows of what it names."""
    subprocess.run([UV, "--quiet", "venv", "--python", sys.executable, folder], check=True)
    install = [UV, "--quiet", "pip", "install", "--python", str(folder), "--resolution", "lowest-direct"]
    subprocess.run([*install, f"{wheel}{extra}"], check=True, timeout=600)
    return str(folder / "bin" / "python")


def test_in_it_is_the_service_whole_and_nothing_else(wheel: Path) -> None:
    """Stubs, the page's files and the mark of types too; and the tree is as it was."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "serving"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    about = {f"{NAME}.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")}
    assert packed == {*listed, *about}
    assert {
        "serving/py.typed",
        "serving/ui/index.html",
        "serving/proto/timbre/v1/timbre.proto",
        "serving/proto/timbre/v1/timbre_pb2.pyi",
    } <= packed
    assert not list(ROOT.glob("*.egg-info"))


def test_what_is_pinned_here_is_in_the_ranges() -> None:
    """An application may have any of a range; the service and the tests have the one that requirements/ names."""
    pins: dict[str, str] = {}
    for path in (ROOT / "requirements").glob("*.in"):
        pins |= dict(re.findall(r"^([A-Za-z0-9_-]+)(?:\[.*?\])?==([^\s;]+)", path.read_text(), re.MULTILINE))
    extras = (line for lines in PROJECT["optional-dependencies"].values() for line in lines)
    ranges = {one.name: one.specifier for one in map(Requirement, (*PROJECT["dependencies"], *extras))}
    del ranges[PROJECT["name"]]  # an extra that has another one in it
    assert {name: pins[name] for name, allowed in ranges.items() if not allowed.contains(pins[name])} == {}


def test_the_client_asks_from_anywhere_with_the_oldest_it_allows(wheel: Path, tmp_path: Path, service: Service) -> None:
    python = oldest(wheel, tmp_path / "environment")
    clip = tmp_path / "clip.wav"
    clip.write_bytes(encode(voice(2.0), 16_000))
    command = [python, "-c", ASK, str(clip), service.url, f"grpc://{service.grpc}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert Path(told["file"]).is_relative_to(tmp_path / "environment")
    assert len(told["answers"]) == 4
    assert {answer["emotion"] for answer in told["answers"]} == {told["answers"][0]["emotion"]}
    assert "Install Timbre with its extra 'local'" in told["load"]
    command = [python, "-m", "serving", "predict", "clip.wav"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Install Timbre with its extra 'command'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_version_and_the_commands_need_an_extra_and_no_service(wheel: Path, exported: Path, tmp_path: Path) -> None:
    """M4A is decoded in a process of its own, which has to find the package too."""
    python = oldest(wheel, tmp_path / "environment", "[command]")
    clips = {"clip.wav": encode(voice(2.0), 16_000), "clip.m4a": encode_av(voice(2.0), 16_000, "ipod", "aac")}
    for name, data in clips.items():
        (tmp_path / name).write_bytes(data)

    def ended(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [python, "-m", "serving", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)

    def timbre(*arguments: str | Path) -> str:
        done = ended(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    heard = timbre("predict", *clips, "--json", "--models", exported)
    assert [json.loads(line)["model_version"] for line in heard.splitlines()] == [SERVED, SERVED]
    assert f"version {SERVED}" in timbre("timeline", "clip.wav", "--models", exported)
    assert timbre("models", "--models", exported)
    timbre("score", ".", "--out", "table.csv", "--models", exported)
    assert "clip.m4a" in (tmp_path / "table.csv").read_text()
    serve = ended("serve")
    assert (serve.returncode, serve.stdout) == (2, "")
    assert serve.stderr.startswith("Timbre does not start. `serve` runs from a checkout of Timbre: `make serve` there")
    assert serve.stderr.count("\n") == 1

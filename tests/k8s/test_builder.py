"""How images are built, as far as no image need be built for it: by which program, from which lock, in which steps."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.environments import UV

SHELLS = ("bash", "sh", "env")
NEEDED = (*SHELLS, "cat", "chmod", "cp", "dirname", "find", "git", "id", "mkdir", "mktemp", "rm", "sed", "tee", "wc")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# Says what it was asked, and does so much of it that the bill of materials can be made.
PROGRAM = """#!/bin/sh
echo "{name} $*" >>"{calls}"
case "$1" in
    info) exit {status} ;;
    create | from) echo container ;;
    mount) echo "{root}" ;;
    unshare) shift && exec "$@" ;;
    cp) cp -r "{root}/${{2#container:/}}" "$3" ;;
esac
"""


class Workplace:
    """A copy of what `make image` reads, and a PATH with programs that only look like container builders."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._calls = folder, folder / "calls.txt"
        self._bin = folder / "bin"
        self._bin.mkdir()
        for name in NEEDED:
            found = shutil.which(name)
            assert found, name
            (self._bin / name).symlink_to(found)
        (folder / "k8s").mkdir()
        for name in ("k8s/image.sh", "k8s/bill.py", "pyproject.toml"):
            shutil.copy(ROOT / name, folder / name)
        self.root = folder / "root"
        package = folder / "root/opt/timbre/lib/python3.11/site-packages/one-1.0.dist-info"
        package.mkdir(parents=True)
        (package / "METADATA").write_text("Metadata-Version: 2.1\nName: one\nVersion: 1.0\n")
        for model in (ROOT / "exported").glob("*/model.json"):
            made = folder / "root/app/exported" / model.parent.name
            made.mkdir(parents=True)
            shutil.copy(model, made)

    def add(self, name: str, *, works: bool) -> None:
        path = self._bin / name
        root = self._folder / "root"
        path.write_text(PROGRAM.format(name=name, calls=self._calls, status=int(not works), root=root))
        path.chmod(0o755)

    def build(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [str(self._folder / "k8s" / "image.sh"), *arguments]
        venv = str(Path(sys.executable).parent.parent)
        env = {"PATH": str(self._bin), "VENV": venv, **env}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)

    def builds(self) -> list[list[str]]:
        """What was asked to be built, the program first."""
        calls = [line.split() for line in self._calls.read_text().splitlines()]
        return [call for call in calls if call[1] == "build"]

    def size(self, name: str) -> str:
        return (self._folder / "build" / f"{name}.size.txt").read_text()

    def bill(self, name: str) -> list[str]:
        path = self._folder / "build" / f"{name}.cdx.json"
        return [component["name"] for component in json.loads(path.read_text())["components"]]


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ({"docker": True, "podman": True, "buildah": True}, "docker"),
        ({"docker": False, "podman": True, "buildah": True}, "podman"),  # a client without its engine builds nothing
        ({"docker": False, "buildah": True}, "buildah"),
        ({"buildah": True}, "buildah"),
    ],
)
def test_the_first_that_is_there_and_works_builds(there: dict[str, bool], chosen: str, workplace: Workplace) -> None:
    for name, works in there.items():
        workplace.add(name, works=works)
    done = workplace.build("serving", "timbre", "--pull-never")
    assert done.returncode == 0, done.stdout + done.stderr
    ((program, *asked),) = workplace.builds()
    assert program == chosen
    assert asked[:5] == ["build", "-t", f"timbre:{VERSION}", "-f", "Dockerfile"]
    assert {"--pull-never", "REQUIREMENTS=serving", f"VERSION={VERSION}"} <= set(asked)
    assert asked[-1] == "."
    assert workplace.bill(f"timbre-{VERSION}").count("one") == 1
    assert f"built by {chosen}" in done.stdout
    files = [path for part in ("opt", "app") for path in (workplace.root / part).rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    assert workplace.size(f"timbre-{VERSION}") == f"timbre:{VERSION} is 0 MB without its base ({size} bytes)\n"
    assert f"({size} bytes)" in done.stdout


def test_the_builder_can_be_named(workplace: Workplace) -> None:
    for name in ("docker", "buildah"):
        workplace.add(name, works=True)
    assert workplace.build("serving-cuda", "timbre-cuda", BUILDER="buildah").returncode == 0
    ((program, *asked),) = workplace.builds()
    assert program == "buildah"
    assert {f"timbre-cuda:{VERSION}", "REQUIREMENTS=serving-cuda"} <= set(asked)


def test_without_python_there_is_an_image_and_no_bill_of_another_one(workplace: Workplace) -> None:
    workplace.add("docker", works=True)
    assert workplace.build("serving", "timbre").returncode == 0
    assert workplace.bill(f"timbre-{VERSION}")
    done = workplace.build("serving", "timbre", VENV="nowhere")
    assert done.returncode == 0, done.stderr
    assert f"timbre:{VERSION} is built by docker" in done.stdout
    assert done.stderr == "What is in it is not written down: that needs cyclonedx-bom, which `make bill` installs.\n"
    with pytest.raises(FileNotFoundError):
        workplace.bill(f"timbre-{VERSION}")


def test_an_environment_for_the_bill_alone_is_enough(workplace: Workplace, tmp_path: Path) -> None:
    workplace.add("docker", works=True)
    (tmp_path / "apart-bill").symlink_to(Path(sys.executable).parent.parent)
    done = workplace.build("serving", "timbre", VENV=str(tmp_path / "apart"))
    assert done.returncode == 0, done.stderr
    assert f"What is in it stands in build/timbre-{VERSION}.cdx.json" in done.stdout
    assert workplace.bill(f"timbre-{VERSION}").count("one") == 1


def test_without_a_builder_it_says_what_to_do(workplace: Workplace) -> None:
    workplace.add("docker", works=False)
    done = workplace.build("serving", "timbre")
    assert done.returncode == 1
    assert "neither docker, podman nor buildah works here. Install one, or set BUILDER." in done.stderr


@pytest.mark.parametrize(("target", "lock"), [("image", "serving"), ("image-cuda", "serving-cuda")])
def test_make_asks_for_the_lock_and_installs_nothing(target: str, lock: str) -> None:
    command = ["make", "--no-print-directory", "--dry-run", target, "ARGS=--no-cache", "VENV=nowhere"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    name = lock.replace("serving", "timbre")
    assert told.stdout == f"k8s/image.sh {lock} {name} --no-cache\n"
    assert (ROOT / "requirements" / f"{lock}.txt").is_file()


def test_packages_are_installed_by_their_hashes_and_nothing_else_is_fetched() -> None:
    installs = re.findall(r"\binstall\b[^&|\n]*", re.sub(r"\\\n", " ", DOCKERFILE))
    assert len(installs) == 1
    assert {"--require-hashes", "--no-deps"} <= set(installs[0].split())
    assert not re.search(r"\b(?:curl|wget|git clone|apt-get|ADD)\b", DOCKERFILE)


@pytest.mark.parametrize("lock", ["serving", "serving-cuda"])
def test_every_package_of_a_lock_has_its_hashes(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    packages = re.findall(r"^[A-Za-z0-9_.\-\[\],]+==.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(packages) > 50
    assert [package.split()[0] for package in packages if "--hash=sha256:" not in package] == []


def test_what_runs_is_a_stage_without_a_shell() -> None:
    """Nothing is run while it is made, and its commands are lists: a base without /bin/sh would do."""
    packages, final = re.split(r"^FROM .*$", DOCKERFILE, flags=re.MULTILINE)[1:]
    assert "RUN" in packages
    assert not re.search(r"^\s*RUN\b", final, re.MULTILINE)
    commands = re.findall(r"^(?:ENTRYPOINT|CMD|HEALTHCHECK .*?CMD) (.+)$", final, re.MULTILINE)
    assert len(commands) == 3
    assert all(isinstance(json.loads(command), list) for command in commands)
    assert re.search(r"^FROM python:3\.11-slim-\w+$", DOCKERFILE.replace("${BASE}", base()), re.MULTILINE)


def base() -> str:
    (named,) = re.findall(r"^ARG BASE=(\S+)$", DOCKERFILE, re.MULTILINE)
    return str(named)


def test_the_cuda_lock_installs_on_linux(tmp_path: Path) -> None:
    """Each pin has a wheel for x86-64 that one of its hashes fits; metadata alone is fetched, not gigabytes."""
    wanted = ["--python-platform", "x86_64-manylinux_2_28", "--python-version", "3.11", "--only-binary", ":all:"]
    uv = [UV, "pip", "install", "--dry-run", "--no-deps", "--require-hashes"]
    lock = ROOT / "requirements" / "serving-cuda.txt"
    command = [*uv, *wanted, "--target", str(tmp_path), "-r", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if re.search("dns error|Connect|client error|timed out", done.stderr):
        pytest.skip("the index of packages is not reachable")
    assert done.returncode == 0, done.stderr
    would = set(re.findall(r"^ \+ (\S+)==", done.stderr, re.MULTILINE))
    assert {"onnxruntime-gpu", "nvidia-cudnn-cu13", "bentoml"} <= would
    assert not would & {"onnxruntime", "torch"}

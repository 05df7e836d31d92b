"""What is packed: the Bento's content, and an image that is really built, and run as a cluster would run it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT, SERVED
from tests.service import free_port, until
from tests.sounds import encode, voice

BIN = Path(sys.executable).parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
MAX_BYTES = 450e6
NOT_IN_IT = {"torch", "librosa", "lightning", "scikit-learn", "onnx", "pytest", "pip"}
UID = 10001
# A read-only root, an empty /tmp, the process table, and an account that owns nothing: what the manifests ask for.
CONTAINER = f"""
set -e
mount --make-rprivate /
mount --bind "$1" "$2"
mount -o remount,bind,ro "$2"
mount -t proc proc "$2/proc"
mount --bind /dev "$2/dev"
mount -t tmpfs tmpfs "$2/tmp"
root=$2
shift 2
exec chroot --userspec={UID}:{UID} --groups= "$root" /usr/bin/env -i "$@"
"""


def missing() -> str:
    """Why no image can be built here; empty where it can."""
    for program in ("buildah", "debootstrap", "unshare"):
        if shutil.which(program) is None:
            return f"needs {program}, which is not on this machine"
    return "" if os.getuid() == 0 else "needs root, to make a base image with debootstrap"


needs_buildah = pytest.mark.skipif(bool(missing()), reason=missing() or "can be built")


def locked(name: str) -> dict[str, str]:
    """Package -> version of a lock, as this platform installs it."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    found = re.findall(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==([^\s;\\]+)(.*)$", text, re.MULTILINE)
    return {package.lower(): version for package, version, marker in found if "win32'" not in marker or "!=" in marker}


def test_the_bento_holds_the_service_and_its_models_and_nothing_else(tmp_path: Path) -> None:
    env = {**os.environ, "BENTOML_HOME": str(tmp_path), "BENTOML_DO_NOT_TRACK": "1"}
    command = [str(BIN / "bentoml"), "build", "--output", "tag"]
    told = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=240)
    tag = re.search(r"__tag__:timbre:(\w+)", told.stdout)
    assert tag
    bento = tmp_path / "bentos" / "timbre" / tag[1]
    packed = {str(path.relative_to(bento / "src")) for path in (bento / "src").rglob("*") if path.is_file()}
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "serving", "exported"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert packed == {*listed.stdout.split(), "bentofile.yaml"} - {"exported/kustomization.yaml"}
    beside = {str(path.relative_to(bento)) for path in bento.rglob("*") if path.is_file()}
    assert {path for path in beside if not path.startswith("src/")} == {
        "README.md",
        "bento.yaml",
        *(f"apis/{name}" for name in ("openapi.yaml", "schema.json")),  # what it answers
        *(f"env/docker/{name}" for name in ("Dockerfile", "entrypoint.sh")),  # BentoML's own way to an image
        *(
            f"env/python/{name}" for name in ("requirements.in", "requirements.txt")
        ),  # the lock, as it came and as it goes
    }
    assert pins(bento / "env" / "python" / "requirements.txt") == pins(ROOT / "requirements" / "serving.txt")


def pins(lock: Path) -> set[str]:
    """Versions and hashes of a lock, however its lines are laid out; BentoML names itself once more at the end."""
    return set(
        re.findall(r"^[A-Za-z0-9_.-]+(?:\[[^\]]*\])?==[^\s;]+|sha256:[0-9a-f]{64}", lock.read_text(), re.MULTILINE)
    )


@dataclass(frozen=True)
class Image:
    """An image that was built, and its files."""

    root: Path
    config: dict[str, object]
    bill: Path
    size: Path
    report: str


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """`make image` with buildah, in a storage of its own; the base is made here, as no registry need be reachable."""
    with tempfile.TemporaryDirectory(prefix="timbre-image-") as name:
        folder = Path(name)
        env = {**os.environ, "BUILDAH_ISOLATION": "chroot", "BUILDER": "buildah", **storage_in(folder)}
        env.pop("STORAGE_DRIVER", None)

        def buildah(*arguments: str) -> str:
            command = ["buildah", *arguments]
            done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        try:
            scratch = buildah("from", "scratch")
            make_base(Path(buildah("mount", scratch)))
            (tag,) = re.findall(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
            buildah("commit", "--quiet", "--rm", scratch, f"docker.io/library/{tag}")
            bundle = "/etc/ssl/certs/ca-certificates.crt"
            options = f"--pull-never --volume {bundle}:{bundle}:ro"
            command = ["make", "image", f"VENV={BIN.parent}", f"ARGS={options}"]
            built = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
            assert built.returncode == 0, built.stdout + built.stderr
            config = json.loads(buildah("inspect", "--type", "image", f"timbre:{VERSION}"))["OCIv1"]["config"]
            root = Path(buildah("mount", buildah("from", "--pull-never", f"timbre:{VERSION}")))
            bill, size = (ROOT / "build" / f"timbre-{VERSION}.{kind}" for kind in ("cdx.json", "size.txt"))
            yield Image(root, config, bill, size, built.stdout)
        finally:
            buildah("rm", "--all")
            buildah("rmi", "--all", "--force")


def storage_in(folder: Path) -> dict[str, str]:
    """The environment in which buildah keeps all it has in a folder; by overlays where they work, else by copies."""
    conf = folder / "storage.conf"
    env = {"CONTAINERS_STORAGE_CONF": str(conf)}
    for driver in ("overlay", "vfs"):
        where = f'runroot = "{folder}/run-{driver}"\ngraphroot = "{folder}/graph-{driver}"'
        conf.write_text(f'[storage]\ndriver = "{driver}"\n{where}\n')
        if (
            subprocess.run(["buildah", "info"], env={**os.environ, **env}, capture_output=True, check=False).returncode
            == 0
        ):
            break
    return env


def make_base(folder: Path) -> None:
    """Debian with Python 3.11, nothing more: what stands in for the slim image."""
    packages = "--include=python3,python3-venv,ca-certificates"
    command = ["debootstrap", "--variant=minbase", packages, "bookworm", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


def size_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def installed(root: Path) -> dict[str, str]:
    """Package -> version, from what pip left."""
    found = {}
    for path in root.glob("opt/timbre/lib/python3*/site-packages/*.dist-info/METADATA"):
        fields = dict(line.split(": ", 1) for line in path.read_text().split("\n\n")[0].splitlines() if ": " in line)
        found[re.sub(r"[-_.]+", "-", fields["Name"]).lower()] = fields["Version"]
    return found


@needs_buildah
@pytest.mark.timeout(1800)  # whoever is first builds it
def test_the_image_is_built_and_small(image: Image) -> None:
    told = re.fullmatch(rf"timbre:{VERSION} is \d+ MB without its base \((\d+) bytes\)\n", image.size.read_text())
    assert told
    size = int(told[1])
    assert size == size_bytes(image.root / "opt" / "timbre") + size_bytes(image.root / "app")
    assert size < MAX_BYTES
    assert f"timbre:{VERSION} is built by buildah" in image.report


@needs_buildah
@pytest.mark.timeout(1800)  # whoever is first builds it
def test_in_it_is_what_is_locked_and_the_service_and_its_models(image: Image) -> None:
    packages = installed(image.root)
    assert packages == locked("serving")
    assert not packages.keys() & NOT_IN_IT
    assert {path.name for path in (image.root / "app").iterdir()} == {"serving", "exported"}
    left = [path for path in (image.root / "app").rglob("*") if path.name in {"kustomization.yaml", "tests"}]
    assert left == []
    # What the page shows of a version, and its own files.
    exported = image.root / "app" / "exported"
    assert {path.name for path in exported.glob("*/report/*")} == {"metrics.json"}
    assert {path.parents[1].name for path in exported.glob("*/report/*")} == {
        path.name for path in exported.glob("[0-9]*")
    }
    page = ROOT / "serving" / "ui"
    packed = image.root / "app" / "serving" / "ui"
    assert {path.relative_to(packed) for path in packed.rglob("*")} == {
        path.relative_to(page) for path in page.rglob("*")
    }
    assert (image.root / "app" / "exported" / SERVED / "model.onnx").is_file()
    assert not (image.root / "requirements.txt").exists()


@needs_buildah
@pytest.mark.timeout(1800)  # whoever is first builds it
def test_it_says_what_it_is_and_runs_as_nobody_without_a_shell(image: Image) -> None:
    assert image.config["User"] == f"{UID}:{UID}"
    assert image.config["Entrypoint"] == ["python", "-m", "serving"]
    assert image.config["Cmd"] == ["serve"]
    # Else nothing outside the container would reach it; the ConfigMap leaves this to the image.
    assert "TIMBRE_HOST=0.0.0.0" in _list(image.config["Env"])
    labels = image.config["Labels"]
    assert isinstance(labels, dict)
    assert labels["org.opencontainers.image.version"] == VERSION
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", labels["org.opencontainers.image.revision"])


@needs_buildah
@pytest.mark.timeout(1800)  # whoever is first builds it
def test_the_bill_of_materials_lists_exactly_what_is_in_it(image: Image) -> None:
    bill = json.loads(image.bill.read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["version"]) == ("CycloneDX", VERSION)
    packages = [component for component in bill["components"] if component["type"] == "library"]
    listed = {re.sub(r"[-_.]+", "-", component["name"]).lower(): component["version"] for component in packages}
    assert listed == installed(image.root)
    assert all(component["purl"].startswith("pkg:pypi/") for component in packages)
    models = {
        component["version"]: component["hashes"][0]["content"]
        for component in bill["components"]
        if component["type"] == "machine-learning-model"
    }
    exported = image.root / "app" / "exported"
    assert models == {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in exported.glob("*/model.onnx")
    }
    assert len(packages) + len(models) == len(bill["components"])


@needs_buildah
@pytest.mark.timeout(1800)  # whoever is first builds it
def test_it_answers_as_uid_10001_with_a_read_only_root(image: Image, tmp_path: Path) -> None:
    inside = tmp_path / "root"
    inside.mkdir()
    port, log = free_port(), tmp_path / "log.txt"
    settings = [*(str(pair) for pair in _list(image.config["Env"])), f"TIMBRE_PORT={port}", "TIMBRE_DRAIN_S=0"]
    # Without a shell: a line of Python goes to the folder that the image names, and becomes its entry point.
    enter = f"import os; os.chdir({image.config['WorkingDir']!r}); os.execvp('python', {_command(image)!r})"
    command = ["unshare", "--mount", "bash", "-c", CONTAINER, "container", str(image.root), str(inside), *settings]
    with log.open("wb") as out:
        process = subprocess.Popen([*command, "python", "-c", enter], stdout=out, stderr=out)
    try:
        url = f"http://127.0.0.1:{port}"
        assert until(lambda: answers(f"{url}/readyz"), 60), log.read_text()
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert re.search(rf"^Uid:(\t{UID}){{4}}$", status, re.MULTILINE)
        mounts = Path(f"/proc/{process.pid}/mounts").read_text()
        assert re.search(r"^\S+ / \S+ ro[, ]", mounts, re.MULTILINE)
        answer = httpx.post(f"{url}/predict", files={"file": encode(voice(1.0), 16_000)}, timeout=30)
        assert answer.json()["emotion"]
    finally:
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def _command(image: Image) -> list[str]:
    return [str(word) for word in [*_list(image.config["Entrypoint"]), *_list(image.config["Cmd"])]]


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


def answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("lock", ["serving", "serving-cuda"])
def test_no_known_vulnerability_is_in_what_is_locked(lock: str, tmp_path: Path) -> None:
    """By PyPI's database of advisories; where that is not reachable, there is nothing to say."""
    report = tmp_path / "audit.json"
    path = ROOT / "requirements" / f"{lock}.txt"
    options = [
        "--disable-pip",
        "--require-hashes",
        "--progress-spinner",
        "off",
        "--format",
        "json",
        "--output",
        str(report),
    ]
    command = [str(BIN / "pip-audit"), *options, "-r", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    if not report.is_file():
        pytest.skip(f"the database of advisories is not reachable: {done.stderr.strip().splitlines()[-1][:200]}")
    audited = json.loads(report.read_text())["dependencies"]
    if all("skip_reason" in entry for entry in audited):
        pytest.skip("the database of advisories is not reachable: it knows none of the packages")
    assert {entry["name"]: entry["vulns"] for entry in audited if entry.get("vulns")} == {}

"""python -m tests.fuzz TARGET [SECONDS] [SEED] [RUNS]: look for input that breaks a target.

It is guided by coverage (atheris): that of our own Python and of the libraries' that it calls; C code below is fed, not
watched: its wheels are not built for that. What was found lies in ``build/fuzz``, the corpus too, which a later run
goes on from.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["serving", "yaml", "wave", "json"]):
    from tests.fuzz.targets import TARGETS, seeds

_FOLDER = Path("build/fuzz")
_MOST_BYTES = 8192
_ONE_S = 20  # no input may take longer


def main(name: str, seconds: str = "600", seed: str = "1", runs: str = "-1") -> None:
    """Until the time is over, or so much input was tried; or something is found: the status is another than 0."""
    corpus = _FOLDER / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(data)
    options = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-runs={runs}",
        f"-max_len={_MOST_BYTES}",
        f"-timeout={_ONE_S}",
        "-rss_limit_mb=2048",
        f"-artifact_prefix={_FOLDER}/{name}-found-",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    # libFuzzer counts a process's peak, and Linux lets one begin with that of whoever started it: beside a test run of
    # 2 GB nothing would be left. A fork begins with what it holds.
    if fuzzer := os.fork():
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(fuzzer, 0)[1]))
    main(*sys.argv[1:])

"""The engine of many machines: Ray Data. An optional package; see requirements/extras.in."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import serving
from serving.artifact import Artifact
from serving.errors import Unreachable, UsageError
from serving.scoring.scorer import Row, Scorer, failed

_ITEMS_OF_A_BLOCK = 16  # rows come back block by block: this much is lost at most where a run is stopped
_AGAIN = 1  # times that a block is heard once more whose process or machine has gone


def on_ray(arguments: tuple[Any, ...], items: Sequence[Row], address: str | None) -> Iterator[Row]:
    """Rows of the items, as they are ready; one actor per core of the cluster.

    A file that kills its process, as a fault in a decoder's C code may, is found out: what was lost with a block is
    heard again, each file in a block of its own.

    Args:
        arguments: of :class:`Scorer`; the model travels once, through the cluster's object store.
        address: a cluster's ``HOST:PORT`` or ``ray://HOST:PORT``; where None, that of RAY_ADDRESS, or else a cluster on
            this machine for as long as it takes.

    Raises:
        UsageError: there is no cluster at that address, or it wants another token.
        Unreachable: none could be started here.
    """
    # No telemetry, and nothing on the terminal that is not about the archive: what goes wrong is raised.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    import ray
    import ray.data
    import ray.exceptions

    code = str(Path(serving.__file__).parent)
    where = f"at {address}" if address else "on this machine"
    try:
        ray.init(address, runtime_env={"py_modules": [code]}, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, ray.exceptions.AuthenticationError) as error:
        raise UsageError(
            f"No Ray cluster {where} takes us in: {error}. One that has a token wants it in RAY_AUTH_TOKEN."
        ) from error
    except Exception as error:  # what Ray raises, without a class of its own, where a machine is too busy to start it
        raise Unreachable(f"Ray does not start {where}: {error}") from error
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.max_errored_blocks = -1  # a block that is lost does not end the rest
        artifact, *rest = arguments
        arguments = (ray.put(artifact), *rest)
        lost = yield from _heard(arguments, items, max(1, len(items) // _ITEMS_OF_A_BLOCK))
        if lost:
            lost = yield from _heard(arguments, lost, len(lost))
        for item in lost:
            yield failed(
                item, artifact.metadata.version, "crashed", "The process that heard it died: memory, or a decoder."
            )
    finally:
        ray.shutdown()


def _heard(arguments: tuple[Any, ...], items: Sequence[Row], blocks: int) -> Generator[Row, None, list[Row]]:
    """Yields rows; returns the items of blocks that were lost."""
    import ray
    import ray.data

    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
    # One task at a time: whatever waited at a process that dies would be taken for what has killed it. Actors are made
    # of the class, which Ray's types do not say.
    rows = ray.data.from_items(list(items), override_num_blocks=blocks).map(
        _OnRay,  # type: ignore[arg-type]
        fn_constructor_args=arguments,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=cores, max_tasks_in_flight_per_actor=1),
        num_cpus=1,
        max_task_retries=_AGAIN,
    )
    left = {item["path"]: item for item in items}
    for row in rows.iter_rows():
        left.pop(row["path"], None)
        yield row
    return list(left.values())


class _OnRay(Scorer):
    """The same function, its model taken from the object store."""

    def __init__(self, artifact: Any, *rest: Any) -> None:
        import ray

        loaded: Artifact = ray.get(artifact)
        super().__init__(loaded, *rest)

"""The process: BentoML's application under uvicorn, with settings, logs, signals and exit codes of our own.

``bentoml serve`` puts a supervisor before the same application: twice the memory, a second more to start, workers that
fail restarted for ever, and a listening socket that closes before any load balancer has heard of it.
"""

from __future__ import annotations

import logging
import os
import tempfile
from types import FrameType

import uvicorn

from serving.settings import Settings

logger = logging.getLogger("timbre")


class _Server(uvicorn.Server):
    """Stops on a signal as uvicorn does, but exits 0: being told to stop is not a failure."""

    def handle_exit(self, _sig: int, _frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def run(settings: Settings) -> int:
    """Answer until told to stop; returns the exit status, 0 after a clean stop.

    Raises:
        ArtifactError: no version can be served.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with tempfile.TemporaryDirectory(prefix="timbre-metrics-") as metrics:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics  # read when BentoML is imported
        from serving.service import Timbre, newest

        version = newest(settings).metadata.version
        logger.info("Starting with version %s on http://%s:%d", version, settings.address, settings.port)
        config = uvicorn.Config(
            Timbre.to_asgi(),  # type: ignore[attr-defined]  # the decorator made a service of the class
            host=settings.address,
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
        )
        server = _Server(config)
        server.run()
        return 0 if server.started else 1

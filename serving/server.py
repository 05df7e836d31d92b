"""The process: BentoML's application under uvicorn, with settings, logs, signals and exit codes of our own.

``bentoml serve`` puts a supervisor before the same application: a second process, a second more to start, and workers
that cannot start are restarted for ever.
"""

from __future__ import annotations

import logging
import os
import socket
from types import FrameType

import uvicorn

from serving.errors import AddressError
from serving.parts import Parts
from serving.service import create_service
from serving.settings import Settings

logger = logging.getLogger("timbre")

_BACKLOG = 2048  # connections that the kernel holds until they are accepted; uvicorn's own number
_FINISH_S = 30  # what is in flight at a stop has so long; a client that does not send its body would hold us for ever


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    dual = family is socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            (settings.host, settings.port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual
        )
    except OSError as error:
        raise AddressError(
            f"{settings.url} cannot be listened on: {os.strerror(error.errno or 0)}. Stop what is there, or set "
            "TIMBRE_HOST and TIMBRE_PORT."
        ) from error


class _Server(uvicorn.Server):
    """Stops on a signal as uvicorn does, but exits 0: being told to stop is not a failure."""

    def handle_exit(self, _sig: int, _frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def run(settings: Settings) -> None:
    """Answer until told to stop.

    Raises:
        ArtifactError: no version can be served.
        AddressError: the port is taken, or the address is not this machine's.
        SystemExit: the service fails to start (3).
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    parts = Parts.build(settings)
    config = uvicorn.Config(
        create_service(lambda: parts).to_asgi(),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_FINISH_S,
    )
    listener = _listen(settings)
    logger.info("Version %s answers on %s", parts.pipeline.session.metadata.version, settings.url)
    _Server(config).run(sockets=[listener])

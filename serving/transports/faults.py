"""Faults of ours, told alike by every transport."""

from __future__ import annotations

import logging

from serving.errors import InternalError

logger = logging.getLogger("timbre")


def fault(error: Exception) -> InternalError:
    """What a client is told of a fault of ours; the log says which."""
    logger.error("A request failed", exc_info=error)
    return InternalError("The service failed on this request. The log says why; the request may be sent again.")

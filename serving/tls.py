"""Certificates and keys: read once before anything listens, so that a wrong one is told in a sentence."""

from __future__ import annotations

import ssl
from pathlib import Path

from serving.errors import SettingsError
from serving.settings import Settings


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """For HTTP; None where no certificate is set.

    Raises:
        SettingsError: a file cannot be read, is not PEM, or the key is not the certificate's.
    """
    if not settings.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
        if settings.tls_ca:
            context.load_verify_locations(settings.tls_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(filter(None, (settings.tls_cert, settings.tls_key, settings.tls_ca)))
        raise SettingsError(f"TIMBRE_TLS_*: {files} cannot be used together: {error}.") from error
    return context


def read_pem(path: str) -> bytes:
    """One of those files, for gRPC.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"TIMBRE_TLS_*: {path} cannot be read: {error}.") from error

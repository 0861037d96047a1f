"""What can be told of settings before anything is started, so that one line is all that is said.

Loads nothing heavy.
"""

from __future__ import annotations

import errno
import socket

from app.settings import BadSetting, Settings


def token(settings: Settings) -> None:
    """Raise BadSetting where others could reach the API and no token is set."""
    if settings.token is None and not settings.loopback:
        raise BadSetting(
            f"token: nothing is not allowed with host {settings.host!r}: "
            "whatever is reachable from elsewhere needs a token (VITALSTREAM_TOKEN)"
        )


def model(settings: Settings) -> None:
    """Raise BadSetting where the weights named are no file."""
    if settings.model is not None and not settings.model.is_file():
        raise BadSetting(f"model: {str(settings.model)!a} is not allowed: no such file")


def listener(settings: Settings) -> socket.socket:
    """The API's socket, bound. Raises BadSetting where the address cannot be had."""
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        bound = socket.socket(found[0][0], socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(found[0][4])
        except OSError:
            bound.close()
            raise
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        which = f"port: {settings.port}" if taken else f"host: {settings.host!r}"
        raise BadSetting(f"{which} is not allowed: {error.strerror}") from error
    return bound

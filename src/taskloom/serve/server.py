"""Runs an app until Ctrl-C, on a port that is taken hold of before anything is loaded."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import Any

import cv2
import uvicorn
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskloom.errors import ConfigError

_PATIENCE_SECONDS = 5
"""After Ctrl-C, for requests that are under way."""


def open_socket(host: str, port: int) -> socket.socket:
    """Takes hold of a port.

    Args:
        host: An address of this machine, or a name of it.
        port: 0 for any that is free.

    Raises:
        ConfigError: The port is taken or not allowed, or the host is none of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"--port {port}: another program has this port; name another one, or 0 for any that is free."
            ) from error
        if error.errno == errno.EACCES:
            raise ConfigError(
                f"--port {port}: ports below 1024 are the system's; name a higher one."
            ) from error
        raise ConfigError(
            f"--host {host}: an address of this machine expected ({error.strerror or error})."
        ) from error


def address_of(taken: socket.socket) -> str:
    """Where a browser finds the page."""
    host, port = taken.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def run(app: ASGIApp, taken: socket.socket) -> None:
    """Serves an app until Ctrl-C; what is being predicted is finished. No request is logged, and nothing that
    OpenCV says of pictures."""
    logging: Any = cv2.utils.logging
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    config = uvicorn.Config(
        _stoppable(app),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=_PATIENCE_SECONDS,
    )
    with contextlib.suppress(KeyboardInterrupt):  # raised anew once the server has ended
        uvicorn.Server(config).run(sockets=[taken])


def _stoppable(app: ASGIApp) -> ASGIApp:
    """The app; a request that the end of the server cuts off is told so, and nobody else."""

    async def stoppable(scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await app(scope, receive, watched)
        except asyncio.CancelledError:
            if not started:
                await JSONResponse({"error": "the server was stopped"}, 503)(scope, receive, send)

    return stoppable

"""uvicorn around the app: one process, one socket, and an orderly end.

uvicorn waits for open requests without end and then cancels them; here the service drains within its grace, so that
every request has its answer before the connections close. The exit code is 0 after SIGTERM, and the process ends even
if a task's thread never does: only the exit ends it, and its lease is left short.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from typing import TYPE_CHECKING

import uvicorn

from receiver.app import create_app
from receiver.errors import ConfigurationError, SettingError
from receiver.service import Service
from receiver.telemetry.events import ServiceState

if TYPE_CHECKING:
    from types import FrameType

STUCK_EXIT_CODE = 1
"""When the instance gives up on a task that does not stop: the platform sees a failure and starts another."""

FLUSH = 1.0
"""Seconds for the last answers to leave after everything has ended."""


class Server(uvicorn.Server):
    """uvicorn's server, which drains the service on SIGTERM or SIGINT; a second SIGINT ends it at once."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self.exit_code = 0
        service.on_stuck = self._give_up

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """A signal to stop. Unlike uvicorn's, it is not raised again afterwards: an orderly end is exit code 0."""
        if self.should_exit:
            os._exit(128 + sig)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops accepting, drains, lets the last answers leave, and closes what the service has open."""
        self._service.emit(ServiceState("stopping"))
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self._service.drain()
        end = time.monotonic() + FLUSH
        while self.server_state.tasks and time.monotonic() < end:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        await self.lifespan.shutdown()

    def _give_up(self) -> None:
        self.exit_code = STUCK_EXIT_CODE
        self.should_exit = True


def run(service: Service, *, host: str, port: int) -> int:
    """Serves until a signal comes, and returns the exit code.

    Raises:
        ConfigurationError: the port is taken, or the database's tables are older than this code.
    """
    listener = _bound(host, port)
    config = uvicorn.Config(
        create_app(service=service),
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,  # longer than Google's front end keeps a connection idle, so that it never meets a closing one
    )
    server = Server(config, service)

    async def main() -> None:
        await service.check_schema()
        address = listener.getsockname()
        service.emit(ServiceState(f"listening on http://{address[0]}:{address[1]}"))
        await server.serve(sockets=[listener])

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(main())
        if service.runner.running:  # a thread that never returns would keep the interpreter
            sys.stderr.flush()
            os._exit(server.exit_code)
    return server.exit_code


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if isinstance(error, socket.gaierror):
            raise ConfigurationError(f"--host {host!r} is not an address of this machine") from error
        raise SettingError(
            "PORT", str(port), f"it cannot be listened on at {host} ({error.strerror})"
        ) from error
    listener.listen(2048)
    listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return listener

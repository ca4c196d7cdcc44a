"""uvicorn around the app: one process, one socket, and an orderly end.

uvicorn waits for open requests without end and then cancels them; here the service drains within its grace, so that
every request has its answer before the connections close. The exit code is 0 after SIGTERM, and the process ends even
if a task's thread never does: only the exit ends it, and its lease is left short.

Cloud Run kills 10 s after SIGTERM and the default grace is 8, so all that follows the grace has to fit into 2 s: 1 for
tasks to stop, then `ANSWERS`, then `service.CLOSING`, then `EXIT`. The watchdog ends what takes longer.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

import uvicorn

from receiver import forks
from receiver.errors import ConfigurationError, SettingError
from receiver.serving.app import create_app
from receiver.serving.http import Connection
from receiver.serving.instance import OVERTIME, STUCK_EXIT_CODE, Service
from receiver.telemetry.events import ServiceState

if TYPE_CHECKING:
    from types import FrameType

ARRIVAL = 0.05
"""Seconds in which what was sent before the signal still comes out of the kernel; it is answered like the rest."""

ANSWERS = 0.2
"""Seconds for the last answers after the drain. What has none by then is told 500: its outcome is not known."""

EXIT = 0.3
"""Seconds for what a plugin has registered with `atexit`, and for what still runs in the loop to be cancelled."""


GC_THRESHOLDS = (5_000, 20, 100)
"""When the garbage collector runs, see `gc.set_threshold`. With the interpreter's own (700, 10, 10) the eighty deliveries in
flight are walked again and again though none is garbage: 0.20 ms of CPU a delivery instead of 0.165 ms."""


class Server(uvicorn.Server):
    """uvicorn's server, which drains the service on SIGTERM or SIGINT; a second SIGINT ends it at once."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._interrupted = False
        self._since = 0.0
        self.exit_code = 0
        service.on_stuck = lambda: self._leave(STUCK_EXIT_CODE)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """A signal to stop. Unlike uvicorn's, it is not raised again afterwards: an orderly end is exit code 0.

        SIGTERM may come again, or while the instance gives up on itself: a drain that has begun goes on.
        """
        if sig == signal.SIGINT:
            if self._interrupted:
                os._exit(128 + sig)
            self._interrupted = True
        self._leave(0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops accepting, drains, lets the last answers leave, and closes what the service has open."""
        self._service.emit(ServiceState("stopping"))
        await asyncio.sleep(ARRIVAL)
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self._service.drain(since=self._since)
        end = time.monotonic() + ANSWERS
        while self.server_state.tasks and time.monotonic() < end:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        await self._answer_the_rest()
        await self.lifespan.shutdown()

    async def _answer_the_rest(self) -> None:
        """Whoever still waits is told 500: a body that does not come, a database that is silent.

        Past their own code, because what hangs in a driver need not end when it is cancelled.
        """
        waiting = [
            protocol.cycle for protocol in self.server_state.connections if isinstance(protocol, Connection)
        ]
        for cycle in waiting:
            if cycle is not None and not cycle.response_started:
                await cycle.send_500_response()

    def _leave(self, exit_code: int) -> None:
        """The first reason to stop counts."""
        if self.should_exit:
            return
        self.exit_code = exit_code
        self._since = time.monotonic()
        grace = self._service.settings.shutdown_grace.total_seconds()
        self._service.watchdog.end_within(grace + OVERTIME, exit_code)
        self.should_exit = True


def run(service: Service, *, host: str, port: int) -> NoReturn:
    """Serves until a signal comes, and ends the process: with exit code 0, or `STUCK_EXIT_CODE`.

    It ends without the interpreter's own farewell, which waits for every thread that a task has started, and takes the
    better part of a second to clear away what the kernel clears away at once.

    Raises:
        ConfigurationError: the port is taken, or the database's tables are older than this code.
    """
    listener = _bound(host, port)
    config = uvicorn.Config(
        create_app(service=service),
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,  # nobody here asks for the client's address
        timeout_keep_alive=75,  # longer than Google's front end keeps a connection idle, so that it never meets a closing one
    )
    server = Server(config, service)

    async def main() -> None:
        forks.reset_signals_in_children()
        await service.check_schema()
        gc.freeze()  # what is loaded stays: modules, plugins, the registry
        gc.set_threshold(*GC_THRESHOLDS)
        address = listener.getsockname()
        service.emit(ServiceState(f"listening on http://{address[0]}:{address[1]}"))
        await server.serve(sockets=[listener])

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(main())
        last = threading.Timer(EXIT, os._exit, (server.exit_code,))
        last.daemon = True
        last.start()
        if service.runner.running:  # code that does not stop would keep the loop
            _end(server.exit_code)
    _end(server.exit_code)


def _end(exit_code: int) -> NoReturn:
    with suppress(Exception):
        atexit._run_exitfuncs()  # noqa: SLF001 - an exporter of traces may have its last batch to send; there is no public name
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(exit_code)


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

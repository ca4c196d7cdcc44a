"""uvicorn around the app: one process, one socket, and an orderly end.

uvicorn waits for open requests without end and then cancels them. Here the service drains within its grace, so that
every request has its answer before the connections close. The exit code is 0 after SIGTERM. The process ends even
if a task's thread never does: only the exit ends such a thread, and its lease is left short.

Cloud Run kills 10 s after SIGTERM and the default grace is 8 s. All that follows the grace has to fit into 2 s: 1 s for
tasks to stop, then `ANSWERS_SECONDS`, `instance.CLOSE_SECONDS` and `EXIT_SECONDS`. The watchdog ends what takes longer.
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
from types import FrameType
from typing import NoReturn

import uvicorn

from receiver.errors import ConfigurationError, SettingError
from receiver.serving.app import Application, create_app
from receiver.serving.http import Connection
from receiver.serving.instance import OVERTIME, STUCK_EXIT_CODE, Service
from receiver.telemetry.events import ServiceState

ARRIVAL_SECONDS = 0.05
"""Requests sent before the signal may still be in the kernel's queue for so long; they are answered like the rest."""

ANSWERS_SECONDS = 0.2
"""For the last answers after the drain. A request without an answer by then gets 500: its outcome is not known."""

EXIT_SECONDS = 0.3
"""For `atexit` functions of plugins, and for the cancellation of what still runs in the loop."""

GC_THRESHOLDS = (5_000, 20, 100)
"""See `gc.set_threshold`. With the interpreter's own (700, 10, 10) the collector walks the eighty deliveries in flight again
and again, though none is garbage: 0.20 ms of CPU a delivery instead of 0.165 ms."""


class DrainingServer(uvicorn.Server):
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
        await asyncio.sleep(ARRIVAL_SECONDS)
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self._service.drain(since=self._since)
        end = time.monotonic() + ANSWERS_SECONDS
        while self.server_state.tasks and time.monotonic() < end:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        await self._answer_the_rest()
        await self.lifespan.shutdown()

    async def _answer_the_rest(self) -> None:
        """Sends 500 to every request that still waits: its body does not come, or the database is silent.

        The request's own code is not asked: a call that hangs in a driver may not end when it is cancelled.
        """
        for protocol in list(self.server_state.connections):
            cycle = protocol.cycle if isinstance(protocol, Connection) else None
            if cycle is not None and not cycle.response_started:
                await cycle.send_500_response()

    def _leave(self, exit_code: int) -> None:
        """Begins the shutdown. The first reason to stop counts."""
        if self.should_exit:
            return
        self.exit_code = exit_code
        self._since = time.monotonic()
        grace = self._service.settings.shutdown_grace.total_seconds()
        self._service.watchdog.end_within(grace + OVERTIME, exit_code)
        self.should_exit = True


def run(service: Service, *, host: str, port: int) -> NoReturn:
    """Serves until a signal comes, and ends the process: with exit code 0, or `STUCK_EXIT_CODE`.

    It ends by `os._exit`: the interpreter's own exit waits for every thread that a task has started, and needs most of a
    second to free what the kernel frees at once.

    Raises:
        ConfigurationError: the port is taken, or the database's tables are older than this code.
    """
    listener = _bound(host, port)
    config = configured(create_app(service=service))
    server = DrainingServer(config, service)

    async def main() -> None:
        _reset_signals_in_children()
        await service.readiness.check_schema()
        gc.freeze()  # what is loaded stays: modules, plugins, the registry
        gc.set_threshold(*GC_THRESHOLDS)
        address = listener.getsockname()
        service.emit(ServiceState(f"listening on http://{address[0]}:{address[1]}"))
        await server.serve(sockets=[listener])

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(main())
        last = threading.Timer(EXIT_SECONDS, os._exit, (server.exit_code,))
        last.daemon = True
        last.start()
        if service.runner.running:  # the runner would wait for code that does not stop
            _end(server.exit_code)
    _end(server.exit_code)


def configured(app: Application) -> uvicorn.Config:
    """How uvicorn serves the application."""
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,  # the client's address is not used
        timeout_keep_alive=75,  # seconds: longer than Google's front end keeps a connection idle, so that it never meets a closing one
    )


def _end(exit_code: int) -> NoReturn:
    with suppress(Exception):
        atexit._run_exitfuncs()  # noqa: SLF001 - an exporter of traces may have a last batch to send; there is no public name
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(exit_code)


def _reset_signals_in_children() -> None:
    """From now on SIGTERM and SIGINT end a child that this process forks.

    For tasks that use `multiprocessing` or `ProcessPoolExecutor`, which fork on Linux and end their workers by SIGTERM. Without
    this a worker has the server's handlers, which ignore the signal, and its wakeup descriptor, which hands the signal to the server.
    """
    signals = (signal.SIGTERM, signal.SIGINT)
    former = threading.local()

    def before() -> None:
        # A signal that reaches the child before its handlers are reset would be lost: it waits.
        former.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, former.mask)

    def in_child() -> None:
        signal.set_wakeup_fd(-1)
        for number in signals:
            signal.signal(number, signal.SIG_DFL)
        unblock()

    os.register_at_fork(before=before, after_in_parent=unblock, after_in_child=in_child)


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

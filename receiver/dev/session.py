"""One run of `receiver dev`: a local Pub/Sub with signed tokens, a scheduler, and a receiver that reloads.

The receiver is a separate process. It is restarted when a plugin file changes. With a broken plugin one line is printed: the
running receiver goes on, and the next save is tried. No message pays for a reload: nothing is delivered while no receiver
answers, and the nacks of one that is being stopped are not counted. Ctrl-C ends everything; so does the end of this process.

Next: `receiver.dev.scheduler` fires schedules, `receiver.emulator.pushing` delivers, `receiver.dev.processes` starts processes.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from subprocess import DEVNULL, Popen
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace
from watchfiles import PythonFilter, awatch

from receiver.dev.folder import KEY_FILE
from receiver.dev.local_routes import LocalRoute, load_routes, provision
from receiver.dev.parent_watch import STOP_TIMEOUT
from receiver.dev.processes import ParentPipe, answers, stop
from receiver.dev.scheduler import Scheduler
from receiver.emulator.api import create_api
from receiver.emulator.broker import Broker
from receiver.emulator.faults import Faults
from receiver.emulator.in_thread import serve
from receiver.emulator.pushing import Deliveries
from receiver.emulator.signer import Signer
from receiver.errors import ConfigurationError, PluginError
from receiver.hosts import LOOPBACK

if TYPE_CHECKING:
    from pathlib import Path

    from receiver.dev.prepare import Prepared

MAX_ACK_DEADLINE: Final = 600
"""Seconds: Pub/Sub's longest, for --debug."""

DEBOUNCE: Final = 200
"""Milliseconds: an editor's save is more than one event."""

BREAKPOINT: Final = "receiver.dev.parent_watch.set_trace"
"""PYTHONBREAKPOINT of a --debug run, unless it is set: Ctrl-C at a breakpoint ends the run."""


class DevSession:
    """One run.

    Args:
        debug: no deadlines, and the receiver has the terminal.
        say: prints a line.
    """

    def __init__(self, prepared: Prepared, *, debug: bool, say: Callable[[str], None]) -> None:
        self._prepared = prepared
        self._debug = debug
        self._say = say
        self._parent = ParentPipe()
        self._receiver: Popen[bytes] | None = None
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        self._attending: set[asyncio.Task[None]] = set()
        self._broker = Broker(prepared.folder.messages())
        self._signer = Signer.load_or_create(prepared.folder.path / KEY_FILE)
        self._deliveries = Deliveries(self._broker, signer=self._signer, faults=Faults(prepared.faults))
        self._scheduler = Scheduler(
            self._broker,
            lambda route: prepared.project.topic(route.topic_name),
            self._fired,
        )

    async def run(self) -> None:
        """Runs until Ctrl-C or SIGTERM."""
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sign, self._interrupted)
        self._deliveries.pause()
        watching = asyncio.create_task(self._watch())  # before the first load, so that no save is missed
        reloading = asyncio.create_task(self._reload_on_change())
        api = create_api(self._broker, self._prepared.secret, self._signer)
        serving = asyncio.create_task(serve(api, self._prepared.listener))
        delivering = asyncio.create_task(self._deliveries.run())
        firing = asyncio.create_task(self._scheduler.run())
        work = [watching, reloading, serving, delivering, firing]
        for task in work:  # a part of the session ends only when it fails
            task.add_done_callback(lambda _: self._stop.set())
        try:
            await self._stop.wait()
        finally:
            failed = [task for task in work if task.done()]
            reloading.cancel()
            await asyncio.gather(reloading, return_exceptions=True)
            await self._stop_receiver()  # its last answers still reach the local Pub/Sub
            for task in (*work, *self._attending):
                task.cancel()
            await asyncio.gather(*work, *self._attending, return_exceptions=True)
            self._broker.close()
            self._parent.close()
        for task in failed:
            task.result()

    def _interrupted(self) -> None:
        """The first Ctrl-C ends everything in order, the second kills the receiver."""
        if self._stop.is_set() and self._receiver is not None:
            self._receiver.kill()
        self._stop.set()

    async def _watch(self) -> None:
        async for _ in saves(self._prepared.working, self._stop):
            self._changed.set()

    async def _reload_on_change(self) -> None:
        while True:
            self._changed.clear()
            await self._reload()
            await self._changed.wait()

    async def _reload(self) -> None:
        """Loads the plugins and restarts the receiver. If they do not load, the running one goes on."""
        working, environ, project = self._prepared.working, self._prepared.environ, self._prepared.project
        try:
            loaded = await asyncio.to_thread(load_routes, working, environ, self._parent)
        except PluginError as error:
            self._say(f"error: {error}")
            goes_on = "" if self._receiver is None else "; the tasks from before go on"
            self._say(f"waiting for the next save{goes_on}")
            return
        for warning in loaded.warnings:
            self._say(f"warning: {warning}")
        await self._stop_receiver()
        routes = [self._patient(route) for route in loaded.routes]
        provision(self._broker, routes, project)
        self._scheduler.replace(routes)
        receiver = self._receiver = self._parent.start(
            ["serve", "--host", LOOPBACK, *(["--no-deadlines"] if self._debug else [])],
            folder=working,
            environ={"PYTHONBREAKPOINT": BREAKPOINT, **environ} if self._debug else environ,
            stdin=None if self._debug else DEVNULL,
            foreground=self._debug,
        )
        names = ", ".join(route.name for route in routes if not route.built_in)
        self._say(f"tasks         {names or 'none'}")
        attending = asyncio.create_task(self._attend(receiver, project.url))
        self._attending.add(attending)
        attending.add_done_callback(self._attending.discard)

    async def _attend(self, receiver: Popen[bytes], url: str) -> None:
        """Delivers while the receiver answers. If it ends without being stopped, it is started again, as on Cloud Run."""
        answered = await asyncio.to_thread(answers, receiver, url)
        if answered and receiver is self._receiver:
            self._deliveries.resume()
        code = await asyncio.to_thread(receiver.wait)
        if receiver is not self._receiver:
            return  # it was stopped on purpose
        self._deliveries.pause()
        self._receiver = None
        then = "it is started again" if answered else "waiting for the next save"
        self._say(f"error: the receiver ended (exit code {code}); {then}")
        if answered:
            self._changed.set()

    async def _stop_receiver(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            self._deliveries.pause(stopping=True)
            stopping = asyncio.create_task(asyncio.to_thread(stop, receiver, STOP_TIMEOUT))
            try:
                await asyncio.shield(stopping)
            finally:
                await stopping  # even when cancelled: the next one needs its port

    def _fired(self, route: LocalRoute) -> None:
        if not route.built_in:  # the sweep fires each minute
            self._say(f"scheduled     {route.name}")

    def _patient(self, route: LocalRoute) -> LocalRoute:
        return replace(route, ack_deadline=MAX_ACK_DEADLINE) if self._debug else route


async def saves(folder: Path, stop: asyncio.Event) -> AsyncIterator[None]:
    """Yields after each change of a Python file below the folder, until `stop`.

    Folders below it that may not be entered (a container's data, for example) are skipped.

    Raises:
        ConfigurationError: the system cannot watch the folder.
    """
    closed = False
    while True:
        changes = awatch(
            folder,
            watch_filter=PythonFilter(),
            debounce=DEBOUNCE,
            stop_event=stop,
            ignore_permission_denied=closed,
        )
        try:
            async for _ in changes:
                yield
        except (OSError, RuntimeError) as error:  # watchfiles' own errors are RuntimeErrors
            if isinstance(error, PermissionError) and not closed:
                closed = True  # not before: it also hides watchfiles' other errors
                continue
            raise ConfigurationError(
                f"{folder} cannot be watched for changes ({error}); raise fs.inotify.max_user_watches and "
                "max_user_instances, or set WATCHFILES_FORCE_POLLING=1"
            ) from error
        else:
            return

"""`receiver dev`: everything a receiver needs, on one laptop, with no cloud and no variable.

PostgreSQL from the wheel, the local Pub/Sub with signed tokens, the scheduler, and the receiver itself as a process of its
own, started anew when a plugin file changes. A plugin that is broken costs one line: the receiver that runs goes on, and
the next save is tried. While no receiver answers nothing is delivered, and what one that is stopped gives back was no delivery,
so that a reload costs no message an attempt. Ctrl-C ends everything that was started here, and so does the end of this process, whatever ends it.

Next: `receiver.dev.prepare` is what has to be there before.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace
from watchfiles import PythonFilter, awatch

from receiver.dev import local_routes as plan
from receiver.dev.child import Child, Tether
from receiver.dev.folder import KEY, MESSAGES
from receiver.dev.local_routes import LocalRoute
from receiver.dev.scheduler import Scheduler
from receiver.emulator.api import create_api
from receiver.emulator.broker import Broker
from receiver.emulator.faults import Faults
from receiver.emulator.in_thread import serve
from receiver.emulator.pushing import Deliveries
from receiver.emulator.signer import Signer
from receiver.errors import ConfigurationError, PluginError
from receiver.parsers import LOOPBACK

if TYPE_CHECKING:
    from pathlib import Path

    from receiver.dev.prepare import Ground

MAX_ACK_DEADLINE: Final = 600
"""Seconds: Pub/Sub's longest, for --debug."""

DEBOUNCE: Final = 200
"""Milliseconds: an editor's save is more than one event."""

Say = Callable[[str], None]


class Dev:
    """One run, on prepared ground.

    Args:
        debug: no deadlines, and the receiver keeps the terminal.
        say: prints a line.
    """

    def __init__(self, ground: Ground, *, debug: bool, say: Say) -> None:
        self._ground = ground
        self._debug = debug
        self._say = say
        self._tether = Tether()
        self._child: Child | None = None
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        self._attending: set[asyncio.Task[None]] = set()
        self._broker = Broker(ground.folder.path / MESSAGES)
        self._signer = Signer.load_or_create(ground.folder.path / KEY)
        self._deliveries = Deliveries(self._broker, signer=self._signer, faults=Faults(ground.faults))
        self._scheduler = Scheduler(
            self._broker,
            lambda route: ground.place.topic(route.topic_name),
            self._fired,
        )

    async def run(self) -> None:
        """Brings everything up, and keeps it until Ctrl-C or SIGTERM."""
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sign, self._interrupted)
        self._deliveries.pause()
        work = [
            asyncio.create_task(one)
            for one in (
                serve(create_api(self._broker, self._signer), self._ground.listener),
                self._watch(),  # first looked at before the plugins are: no save is missed
                self._live(),
                self._deliveries.run(),
                self._scheduler.run(),
            )
        ]
        for task in work:
            task.add_done_callback(
                lambda _: self._stop.set()
            )  # none of them ends by itself, except by failing
        try:
            await self._stop.wait()
        finally:
            failed = [task for task in work if task.done()]
            work[2].cancel()
            await asyncio.gather(work[2], return_exceptions=True)
            await self._stop_child()  # what it still answers is still heard
            for task in (*work, *self._attending):
                task.cancel()
            await asyncio.gather(*work, *self._attending, return_exceptions=True)
            self._broker.close()
            self._tether.close()
        for task in failed:
            task.result()

    def _interrupted(self) -> None:
        """The first time everything is ended in order, the second time at once."""
        if self._stop.is_set() and self._child is not None:
            self._child.kill()
        self._stop.set()

    async def _watch(self) -> None:
        async for _ in saves(self._ground.working, self._stop):
            self._changed.set()

    async def _live(self) -> None:
        """Loads the plugins, now and at every change."""
        while True:
            self._changed.clear()
            await self._reload()
            await self._changed.wait()

    async def _reload(self) -> None:
        """The plugins as they are now; when they do not load, what runs goes on."""
        try:
            loaded = await plan.load_routes(self._ground.working, self._ground.environ, self._tether)
        except PluginError as error:
            self._say(f"error: {error}")
            goes_on = "" if self._child is None else "; the tasks from before go on"
            self._say(f"waiting for the next save{goes_on}")
            return
        for warning in loaded.warnings:
            self._say(f"warning: {warning}")
        await self._stop_child()
        routes = [self._patient(route) for route in loaded.routes]
        plan.provision(self._broker, routes, self._ground.place)
        self._scheduler.replace(routes)
        child = self._child = await Child.start(
            self._tether,
            folder=self._ground.working,
            environ=self._ground.environ,
            host=LOOPBACK,
            url=self._ground.place.url,
            debug=self._debug,
        )
        self._say(
            "tasks         " + (", ".join(route.name for route in routes if not route.built_in) or "none")
        )
        attending = asyncio.create_task(self._attend(child))
        self._attending.add(attending)
        attending.add_done_callback(self._attending.discard)

    async def _attend(self, child: Child) -> None:
        """Delivers while it answers; one that ends by itself is started again, as a platform would."""
        answered = await child.ready()
        if answered and child is self._child:
            self._deliveries.resume()
        code = await child.ended()
        if child is not self._child:
            return  # it was stopped on purpose
        self._deliveries.pause()
        self._child = None
        then = "it is started again" if answered else "waiting for the next save"
        self._say(f"error: the receiver ended by itself (exit code {code}); {then}")
        if answered:
            self._changed.set()

    async def _stop_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            self._deliveries.pause(stopping=True)
            stopping = asyncio.create_task(child.stop())
            try:
                await asyncio.shield(stopping)
            finally:
                await stopping  # cancelled or not: it is gone before anything else happens

    def _fired(self, route: LocalRoute) -> None:
        if not route.built_in:  # a line a minute would tell nobody anything
            self._say(f"scheduled     {route.name}")

    def _patient(self, route: LocalRoute) -> LocalRoute:
        return replace(route, ack_deadline=MAX_ACK_DEADLINE) if self._debug else route


async def saves(folder: Path, stop: asyncio.Event) -> AsyncIterator[None]:
    """Yields whenever a Python file below the folder has changed, until `stop`.

    A folder below it that may not be entered (a container's data, say) holds no plugin, and stops nobody.

    Raises:
        ConfigurationError: the system does not watch it.
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
                closed = True  # only now: with it watchfiles keeps every other trouble to itself as well
                continue
            raise ConfigurationError(
                f"{folder} cannot be watched for changes ({error}); raise fs.inotify.max_user_watches and "
                "max_user_instances, or set WATCHFILES_FORCE_POLLING=1"
            ) from error
        else:
            return

"""The ASGI application: `POST /tasks/pubsub/`, `/health`, `/ready`, and `/tasks/status` where it is turned on.

HTTP around a `Service`. Paths are exact, as they are sent, and nothing redirects: Pub/Sub follows a redirect as a GET without
a body, and takes its 200 for an ack.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from receiver.errors import SettingError
from receiver.record.whose import Whose
from receiver.serving.instance import OVERTIME, STUCK_EXIT_CODE, Service
from receiver.serving.push_door import PushDoor
from receiver.settings import PUSH_PATH, Settings
from receiver.telemetry import logs, uncaught


def create_app(settings: Settings | None = None, *, service: Service | None = None) -> Application:
    """The application for any ASGI server.

    Without `service` the process must be one worker of a server that stops in order at SIGTERM, as uvicorn, hypercorn
    and gunicorn's workers do. When a task does not stop for a lease past its deadline, the process sends itself SIGTERM, so that
    the other deliveries are drained. If it still lives `OVERTIME` after its grace, it ends with exit code 1: only the exit
    ends a thread.

    Args:
        settings: from the environment, unless given.
        service: built by the caller, who also sets `service.on_stuck`.

    Raises:
        ConfigurationError: one line on what to change.
    """
    if service is None:
        settings = settings or Settings.from_environ(os.environ)
        if settings.on_loopback_only:
            raise SettingError(
                "TASKS_PUSH_AUTH",
                "off",
                "another server may listen anywhere: use `receiver serve`, or set TASKS_PUSH_AUTH_OFF_ANYWHERE=on",
            )
        emit = logs.configure(settings)
        uncaught.watch(emit)
        service = Service(settings, emit=emit)
        service.on_stuck = _leave_in_order(settings.shutdown_grace)
    owner = service

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        if loop.get_exception_handler() is None:
            loop.set_exception_handler(uncaught.in_loop(owner.emit))
        await owner.readiness.check_schema()
        await owner.start()
        yield
        await owner.drain()
        await owner.stop()

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def ready(_: Request) -> Response:
        found = await owner.readiness.look()
        good = all(state == "ok" for state in found.values())
        return Response(msgspec.json.encode(found), 200 if good else 503, media_type="application/json")

    push = PushDoor(owner.endpoint, owner.emit)
    routes = [Route(PUSH_PATH, push, methods=["POST"]), Route("/health", health), Route("/ready", ready)]
    if owner.settings.status:
        from receiver.serving.group_status import STATUS_PATH, GroupStatus  # noqa: PLC0415 - a start is sooner without it

        status = GroupStatus(owner.ledger.pool, Whose.of(owner.settings))
        routes.append(Route(STATUS_PATH, status.answer))
    app = Application(push, routes=routes, lifespan=lifespan)
    app.router.redirect_slashes = False
    return app


def _leave_in_order(grace: timedelta) -> Callable[[], None]:
    """The `on_stuck` of an instance under a server that is not ours."""

    def leave() -> None:
        last = threading.Timer(grace.total_seconds() + OVERTIME, os._exit, (STUCK_EXIT_CODE,))
        last.daemon = True
        last.start()
        os.kill(os.getpid(), signal.SIGTERM)

    return leave


class Application(Starlette):
    """Starlette, with a shorter way for pushes: its router and its two middlewares were a seventh of the CPU of a delivery.

    If an application adds middleware, pushes go through it as well. So they do when a library has replaced Starlette's own
    `__call__`: Sentry's gives each request a scope of its own there, and without it one task's user would be every task's.
    """

    def __init__(self, push: PushDoor, **options: Any) -> None:
        super().__init__(**options)
        self._push = push
        self._is_replaced = Starlette.__call__.__module__ != Starlette.__module__

    @property
    def short_way(self) -> PushDoor | None:
        """Where pushes go past Starlette; None where somebody waits for them in it."""
        return None if self.user_middleware or self._is_replaced else self._push

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - as in ASGI
        sent: bytes = scope.get("raw_path") or b""
        if b"%" in sent:  # a front end may have rules for paths: `%2f` passes for no `/`
            scope["path"] = sent.decode("latin-1")
        is_push = scope["type"] == "http" and scope["path"] == PUSH_PATH and scope["method"] == "POST"
        push = self.short_way if is_push else None
        await (push or super().__call__)(scope, receive, send)

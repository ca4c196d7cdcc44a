"""The ASGI application: `POST /tasks/pubsub/`, `/health`, `/ready`, and what has to be built before and torn down after.

`Service` owns every collaborator and gives each what it needs through its constructor; there are no module-level
singletons. `create_app` puts HTTP around it. Paths are exact: Pub/Sub follows a redirect as a GET without a body and
takes the answer for an ack, so nothing here ever redirects.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from receiver import registry as registries
from receiver.admission import Admission, Threads
from receiver.certificates import Certificates
from receiver.errors import DatabaseUnavailable, SchemaError
from receiver.executions import migrations
from receiver.executions.dsn import Database
from receiver.executions.heartbeat import Heartbeat
from receiver.executions.ledger import Ledger, LedgerSettings
from receiver.executions.rejections import Rejections
from receiver.oidc import NoVerifier, Verifier
from receiver.outcomes import reply
from receiver.push import ClientGone, Push, PushEndpoint
from receiver.runner import Runner
from receiver.settings import PUSH_PATH, PushAuth, Serving, Settings, require_serving
from receiver.telemetry.events import Delivered, Emit, ReceiverTrouble, ServiceState
from receiver.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from receiver.executions.transaction import TaskPool
    from receiver.registry import Registry

LEASE_AFTER_EXIT = timedelta(seconds=3)
"""How long after its exit an instance's unfinished executions stay its own; only the exit ends their code."""


class Service:
    """One instance: everything between its start and its end.

    Args:
        settings: the environment.
        registry: what may run; loaded from the settings when None.
        emit: where events go.

    Raises:
        ConfigurationError: a setting is missing or a plugin cannot be loaded.
    """

    def __init__(self, settings: Settings, registry: Registry | None = None, *, emit: Emit) -> None:
        self.settings = settings
        self.serving = require_serving(settings)
        self.registry = registry or registries.load(settings)
        self.emit = emit
        self.on_stuck: Callable[[], None] = lambda: None
        self._database = Database.of(
            self.serving.database_url, prepared_statements=settings.db_prepared_statements
        )
        self._pool: TaskPool | None = None
        self._started = False
        self._warming: asyncio.Task[bool] | None = None
        wait = settings.db_pool_timeout
        self.heartbeat = Heartbeat(self._database, lease=settings.lease, emit=emit)
        self.ledger = Ledger(
            self._database,
            LedgerSettings(settings.namespace, settings.instance, settings.lease, wait),
            self.heartbeat,
            emit,
        )
        self.runner = Runner(
            self.ledger,
            self.heartbeat,
            self._tasks_pool,
            lease=settings.lease,
            max_result_bytes=settings.max_result_bytes,
            stuck=self._stuck,
            emit=emit,
        )
        self.admission = Admission(
            Threads(settings.threads, wait=wait.total_seconds()),
            max_concurrency=settings.max_concurrency,
            max_inflight_bytes=settings.max_inflight_bytes,
            max_body_bytes=settings.max_body_bytes,
        )
        rejections = Rejections(
            self.ledger.lanes,
            namespace=settings.namespace,
            instance=settings.instance,
            most=settings.max_rejections,
            grace=settings.rejection_grace,
        )
        self.watchdog = Watchdog(hopeless=self.runner.hopeless, emit=emit)
        self.certificates = self._certificates(emit) if settings.push_auth is PushAuth.OIDC else None
        verifier = _verifier(self.certificates, self.serving)
        self.endpoint = PushEndpoint(
            verifier, self.registry, self.admission, self.ledger, self.runner, rejections, emit
        )

    async def check_schema(self) -> None:
        """Refuses to serve on tables older than this code. A database that is down is not a reason to refuse.

        Raises:
            SchemaError: run `receiver migrate`.
        """
        try:
            await migrations.check(self.ledger.lanes)
        except DatabaseUnavailable as error:
            self.emit(ReceiverTrouble("the database cannot be reached yet", str(error)))

    async def start(self) -> None:
        """Starts the heartbeat and fetches the certificates ahead of the first push."""
        if self._started:
            return
        self._started = True
        self.heartbeat.start()
        self.watchdog.start()
        if self.certificates is not None:
            self._warming = asyncio.create_task(self.certificates.ready(), name="certificates")
        self.emit(ServiceState(f"receiving pushes for {len(self.registry.routes)} tasks"))

    async def drain(self) -> None:
        """Admits nothing more, waits the grace for what runs, then hands back what stops."""
        self.admission.close()
        await self.runner.stop(self.settings.shutdown_grace)

    async def stop(self) -> None:
        """After `drain`: leaves what does not stop to a short lease, and closes every connection."""
        self.watchdog.stop()
        await asyncio.to_thread(self.heartbeat.stop)
        await self.ledger.leave(left=LEASE_AFTER_EXIT)
        await self.ledger.close()
        if self._pool is not None:
            await self._pool.close()
        if self.certificates is not None:
            await self.certificates.close()
        self.emit(ServiceState("stopped"))

    async def readiness(self) -> dict[str, str]:
        """`database`, `schema` and `certificates`, each "ok" or what is wrong, in one constant phrase."""
        found = {"database": "ok", "schema": "ok", "certificates": "ok"}
        try:
            await migrations.check(self.ledger.lanes)
        except SchemaError:
            found["schema"] = "not migrated"
        except DatabaseUnavailable:
            found |= {"database": "unavailable", "schema": "unknown"}
        if self.certificates is not None and not await self.certificates.ready():
            found["certificates"] = "unavailable"
        return found

    def _tasks_pool(self) -> TaskPool:
        if self._pool is None:
            from receiver.executions.transaction import TaskPool  # noqa: PLC0415 - imports SQLAlchemy: only who needs it pays

            wait = self.settings.db_pool_timeout.total_seconds()
            self._pool = TaskPool(self._database, size=self.settings.db_pool_size, wait=wait)
        return self._pool

    def _certificates(self, emit: Emit) -> Certificates:
        import httpx  # noqa: PLC0415

        def failed(why: str) -> None:
            emit(ReceiverTrouble("certificates not fetched", why))

        return Certificates(self.settings.certs_url, httpx.AsyncClient(), on_failure=failed)

    def _stuck(self) -> None:
        self.emit(
            ReceiverTrouble("instance gives up", "a task has not stopped for a lease past its deadline")
        )
        self.admission.close()
        self.on_stuck()


def create_app(settings: Settings | None = None, *, service: Service | None = None) -> Starlette:
    """The application for any ASGI server. Settings come from the environment unless given; or a Service is.

    Raises:
        ConfigurationError: one line on what to change.
    """
    if service is None:
        import os  # noqa: PLC0415

        from receiver.telemetry import logs  # noqa: PLC0415

        settings = settings or Settings.from_environ(os.environ)
        service = Service(settings, emit=logs.configure(settings))
    owner = service

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await owner.check_schema()
        await owner.start()
        yield
        await owner.drain()
        await owner.stop()

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def ready(_: Request) -> Response:
        found = await owner.readiness()
        good = all(state == "ok" for state in found.values())
        return Response(msgspec.json.encode(found), 200 if good else 503, media_type="application/json")

    app = Starlette(
        routes=[
            Route(PUSH_PATH, _PushRoute(owner), methods=["POST"]),
            Route("/health", health),
            Route("/ready", ready),
        ],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


class _PushRoute:
    """HTTP around `PushEndpoint`: raw ASGI, because the body must not be read before the token is checked."""

    def __init__(self, service: Service) -> None:
        self._endpoint = service.endpoint
        self._emit = service.emit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        push = Push(headers, _body(receive), _content_length(headers))
        ending = await self._endpoint.answer(push)
        answer = reply(ending)
        body = answer.body.encode()
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [
                    (b"content-type", b"text/plain; charset=utf-8"),
                    (b"content-length", b"%d" % len(body)),
                ],
            }
        )
        await send({"type": "http.response.body", "body": body})
        delivery, claimed = push.delivery, push.claimed
        self._emit(
            Delivered(
                ending,
                answer.status,
                time.monotonic() - push.arrived,
                task_name=delivery.task_name if delivery else None,
                task_id=delivery.task_id if delivery else None,
                attempt=claimed.attempt if claimed else None,
                message_id=delivery.message_id if delivery else None,
                trace=delivery.traceparent if delivery else None,
            )
        )


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


def _content_length(headers: list[tuple[bytes, bytes]]) -> int | None:
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None


def _verifier(certificates: Certificates | None, serving: Serving) -> Verifier | NoVerifier:
    if certificates is None:
        return NoVerifier()
    return Verifier(certificates, serving.audiences, serving.service_account)

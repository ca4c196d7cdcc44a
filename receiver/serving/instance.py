"""One instance of the receiver: builds every collaborator, starts them, and closes them.

Each collaborator gets what it needs through its constructor; there are no module-level singletons. The life of a `Service` is
`readiness.check_schema`, `start`, then pushes through `endpoint`, then `drain` and `stop`.

Next: `receiver.serving.app` puts HTTP around it, `receiver.serving.process` a process.
"""

from __future__ import annotations

import asyncio
import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from receiver import maintenance
from receiver.delivery.admission import Admission, ContextThreads, Threads
from receiver.delivery.certificates import Certificates
from receiver.delivery.dead_letter import DeadLetters
from receiver.delivery.push import PushEndpoint
from receiver.delivery.runner import Runner
from receiver.delivery.verifier import NoVerifier, Verifier
from receiver.errors import SettingError
from receiver.record.database import Database
from receiver.record.foreign_messages import ForeignMessages
from receiver.record.heartbeat import Heartbeat
from receiver.record.kept_messages import KeptMessages
from receiver.record.ledger import Ledger, LedgerSettings
from receiver.record.rejections import Rejections
from receiver.record.whose import Whose
from receiver.serving.readiness import Readiness
from receiver.serving.watchdog import Watchdog
from receiver.settings import PushAuth, Settings
from receiver.tasks.backend import offer, withdraw
from receiver.tasks.foreign_topics import ForeignTopics
from receiver.tasks.own_subscriptions import OwnSubscriptions
from receiver.tasks.registry import load
from receiver.telemetry.events import Emit, ReceiverTrouble, ServiceState

if TYPE_CHECKING:
    from collections.abc import Callable

    from receiver.record.task_pool import TaskPool
    from receiver.tasks.call import Backend
    from receiver.tasks.registry import Registry

LEASE_AFTER_EXIT = timedelta(seconds=3)
"""An instance keeps the leases of its unfinished executions for so long after its exit: only the exit ends their code."""

STOP_GRACE = 1.0
"""Seconds that a task has to stop once the grace is over. Cloud Run kills 10 s after SIGTERM, 8 s of which are grace:
everything after the grace has less than 2 s (`receiver.serving.process`)."""

CLOSE_SECONDS = 0.3
"""For shortening leases and closing connections; a silent database must not keep the process."""

STUCK_EXIT_CODE = 1
"""Of an instance that gives up, on a task that does not stop or on a login: the platform sees a failure and starts another one."""

OVERTIME = 1.6
"""Seconds after the grace at which a shutdown that hangs is ended."""


class Service:
    """One instance: everything between its start and its end.

    Args:
        registry: the tasks that may run; loaded from the settings when None.

    Attributes:
        readiness: of its database and certificates; its `check_schema` comes before the port is opened.
        on_stuck: called when a task has not stopped for a lease past its deadline, or logins are refused; ends the process.

    Raises:
        ConfigurationError: a setting is missing or a plugin cannot be loaded.
    """

    def __init__(self, settings: Settings, registry: Registry | None = None, *, emit: Emit) -> None:
        self.settings = settings
        require_serving(settings)
        self.registry = (registry or load(settings)).including(maintenance.ROUTES)
        self.emit = emit
        self.on_stuck: Callable[[], None] = lambda: None
        self._database = Database.configured(settings)
        self._database.login.on_lasting_refusal = self._locked_out
        self._pool: TaskPool | None = None
        self._enqueuing: Backend | None = None
        self._started = False
        self._drained = False
        self._warming: asyncio.Task[bool] | None = None
        self._loading: asyncio.Task[None] | None = None
        wait = settings.db_pool_timeout
        self.heartbeat = Heartbeat(self._database, lease=settings.lease, emit=emit)
        self.ledger = Ledger(
            self._database,
            LedgerSettings(Whose.of(settings), settings.instance, settings.lease, wait),
            self.heartbeat,
            emit,
        )
        self.runner = Runner(
            self.ledger,
            self._tasks_pool,
            lease=settings.lease,
            max_result_bytes=settings.max_result_bytes,
            stuck=lambda: self._give_up("a task has not stopped for a lease past its deadline"),
            emit=emit,
            contexts=maintenance.contexts(settings, self.registry, emit),
            around=self.registry.around,
        )
        self.admission = Admission(
            Threads(settings.threads, wait=wait.total_seconds()),
            max_concurrency=settings.max_concurrency,
            max_inflight_bytes=settings.max_inflight_bytes,
            max_body_bytes=settings.max_body_bytes,
        )
        self.watchdog = Watchdog(hopeless=self.runner.hopeless, farewell=self._farewell, emit=emit)
        self.certificates: Certificates | None = None
        verifier: Verifier | NoVerifier = NoVerifier()
        if settings.push_auth is PushAuth.OIDC:
            self.certificates = Certificates(settings.certs_url, self._not_fetched)
            verifier = Verifier(self.certificates, settings.audiences, settings.service_account or "")
        self.readiness = Readiness(self.ledger.pool, self.certificates, emit)
        self.endpoint = self._endpoint(verifier)

    def _endpoint(self, verifier: Verifier | NoVerifier) -> PushEndpoint:
        settings, pool, whose = self.settings, self.ledger.pool, Whose.of(self.settings)
        kept = KeptMessages(pool, whose=whose, most=settings.max_rejected_bytes, emit=self.emit)
        rejections = Rejections(
            pool,
            kept,
            whose=whose,
            instance=settings.instance,
            most=settings.max_rejections,
            grace=settings.rejection_grace,
        )
        topics = ForeignTopics(self.registry.routes, settings.environment, settings.namespace)
        return PushEndpoint(
            verifier,
            self.registry,
            self.admission,
            self.ledger,
            self.runner,
            rejections,
            DeadLetters(pool, kept, self.registry, topics, settings),
            ForeignMessages(pool, topics, self.ledger.reading, whose=whose),
            OwnSubscriptions.of(settings, self.registry.routes),
            self.emit,
        )

    async def start(self) -> None:
        """Starts the heartbeat and the watchdog, and fetches the certificates ahead of the first push. Once."""
        if self._started:
            return
        self._started = True
        asyncio.get_running_loop().set_default_executor(ContextThreads(thread_name_prefix="asyncio"))
        offer(self._enqueue_backend)
        self.heartbeat.start()
        self.watchdog.start()
        if self.certificates is not None:
            self._warming = asyncio.create_task(self.certificates.ready(), name="certificates")
        around = bool(self.registry.around)
        if any(route.is_async and (route.takes_context or around) for route in self.registry.declared):
            # In a thread and ahead of the first such task: the import of SQLAlchemy would block the loop for 0.2 s.
            self._loading = asyncio.create_task(asyncio.to_thread(_load_sqlalchemy), name="load SQLAlchemy")
        for doubt in filter(None, dict.fromkeys(each.doubt(os.environ) for each in self.registry.declared)):
            self.emit(ReceiverTrouble("kill switch not understood", doubt, is_error=False))
        count = len(self.registry.declared)
        self.emit(ServiceState(f"receiving pushes for {count} task{'' if count == 1 else 's'}"))

    async def drain(self, *, since: float | None = None) -> None:
        """Admits no more pushes and waits the grace for those in flight. Then it stops the tasks and hands back their executions. Once.

        Args:
            since: when the grace began, by `time.monotonic()`; None means now. A blocked loop may call this late.
        """
        if self._drained:
            return
        self._drained = True
        self.admission.close()
        begun = time.monotonic() if since is None else since
        await self._quiet(until=begun + self.settings.shutdown_grace.total_seconds())
        self.runner.leave()
        await self._quiet(until=time.monotonic() + STOP_GRACE)
        self.runner.give_up()

    async def stop(self) -> None:
        """After `drain`: leaves a short lease to what does not stop, and closes every connection within `CLOSE_SECONDS`."""
        self.heartbeat.leave(left=LEASE_AFTER_EXIT, overdue=self.runner.overdue())
        if self._started:
            withdraw(self._enqueue_backend, self._enqueuing)
        self.readiness.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.heartbeat.ended()
                await self.ledger.close()
                if self._enqueuing is not None:
                    await self._enqueuing.aclose()
                if self._pool is not None:
                    await self._pool.close()
                if self.certificates is not None:
                    await self.certificates.close()
        except TimeoutError:
            self.emit(ReceiverTrouble("connections not closed", "they end with the process"))
        self.watchdog.stop()
        self.emit(ServiceState("stopped"))

    def _tasks_pool(self) -> TaskPool:
        if self._pool is None:
            from receiver.record.task_pool import TaskPool  # noqa: PLC0415 - imports SQLAlchemy: slow, and only some tasks need it

            wait = self.settings.db_pool_timeout.total_seconds()
            self._pool = TaskPool(self._database, size=self.settings.db_pool_size, wait=wait)
        return self._pool

    def _enqueue_backend(self) -> Backend:
        """The backend that tasks here enqueue with, made by the first that does."""
        from receiver.enqueue import PubSubBackend  # noqa: PLC0415 - imports httpcore and google-auth: slow, and only tasks that enqueue need it

        self._enqueuing = PubSubBackend(self.settings, emit=self.emit)
        return self._enqueuing

    async def _quiet(self, *, until: float) -> None:
        """Returns when nothing is in flight and nothing runs, or at that time."""
        while (self.admission.in_flight or self.runner.busy) and time.monotonic() < until:  # noqa: ASYNC110 - both change in many places, and an instance drains once
            await asyncio.sleep(0.01)

    def _farewell(self) -> None:
        """Shortens the leases, in the watchdog's thread, before it ends a process whose loop is blocked."""
        self.heartbeat.stop(left=LEASE_AFTER_EXIT, overdue=self.runner.overdue(), within=CLOSE_SECONDS)

    def _not_fetched(self, why: str) -> None:
        self.emit(ReceiverTrouble("certificates not fetched", why))

    def _locked_out(self) -> None:
        """Only a new instance is given a new secret. May be called in the heartbeat's thread."""
        self._give_up(
            "PostgreSQL has refused the login for a minute; a new instance reads DATABASE_PASSWORD or DATABASE_URL again"
        )

    def _give_up(self, why: str) -> None:
        self.emit(ReceiverTrouble("instance gives up", why))
        self.admission.close()
        self.on_stuck()


def require_serving(settings: Settings) -> None:
    """Checks that what push tokens are compared with is set; with push authentication off, nothing is.

    Raises:
        SettingError: names the first missing variable and what it is for.
    """
    needed = {
        "GCP_PROJECT_ID": (settings.project_id, "the Google Cloud project, such as shop-prod"),
        "CLOUD_RUN_SERVICE_URL": (settings.service_url, "this service's URL, the audience of push tokens"),
        "TASKS_SERVICE_ACCOUNT": (settings.service_account, "the service account in the tokens of pushes"),
    }
    for name, (value, purpose) in needed.items():
        if value is None and settings.push_auth is PushAuth.OIDC:
            raise SettingError(name, None, f"set it to {purpose}")


def _load_sqlalchemy() -> None:
    import receiver.record.task_transaction  # noqa: F401, PLC0415 - for its imports

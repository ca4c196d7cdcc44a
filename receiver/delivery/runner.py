"""All runs of one instance: starts them, bounds their time, and answers the request of a task that will not stop.

Invariant: `run` always returns an Outcome; no task is awaited without bound. At its deadline a task is called off and has
`CALL_OFF_GRACE` to stop. Code that goes on is abandoned: its request is answered, but its lease is still renewed, so no retry
runs beside it. Its end is recorded when it returns. One lease past its deadline the instance ends itself (`stuck`),
because only the end of the process ends a thread.

A client that disconnects cancels nothing: Pub/Sub redelivers, and the answer then comes from the record.

Next: `receiver.delivery.run` is one run.
"""

from __future__ import annotations

import asyncio
import time
from contextvars import copy_context
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from receiver.contract.failure import Failure
from receiver.delivery.run import CALL_OFF_GRACE, Reason, Run
from receiver.endings.outcomes import Abandoned, HandedBack, Outcome, Raised, Skipped
from receiver.tasks.context import Around, TaskContext
from receiver.telemetry.events import Emit, ReceiverTrouble

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import timedelta

    from receiver.delivery.admission import Admitted
    from receiver.endings.calls import Claimed, ClaimKey
    from receiver.record.ledger import Ledger
    from receiver.record.task_pool import TaskPool
    from receiver.record.task_transaction import TaskTransaction


@dataclass(eq=False)
class Runner:
    """Runs claimed executions.

    Attributes:
        pool: makes the tasks' pool, at the first task that may use it.
        stuck: called when abandoned code has not returned for a lease: the instance must end.
        contexts: makes the contexts of built-in tasks, by path; other tasks get a plain `TaskContext`.
        around: encloses each run but those of built-in tasks.
    """

    ledger: Ledger
    pool: Callable[[], TaskPool]
    _: KW_ONLY
    lease: timedelta
    max_result_bytes: int
    stuck: Callable[[], None]
    emit: Emit
    contexts: Mapping[str, Callable[..., TaskContext]] = field(default_factory=dict)
    around: Sequence[Around] = ()

    def __post_init__(self) -> None:
        self._runs: set[Run] = set()
        self._late: set[asyncio.Task[None]] = set()
        self._leaving = False

    async def run(self, claimed: Claimed, admitted: Admitted) -> Outcome:
        """Runs the task to its end, or to the end of its time."""
        if admitted.switch is not None:
            return Skipped(admitted.switch)
        # Expired: the claim's answer came late, and another instance may run the execution.
        if self._leaving or claimed.lease.expired:
            return HandedBack()
        try:
            run = self._started(claimed, admitted)
        except Exception as error:  # noqa: BLE001 - no thread, no memory: a failed attempt, like the task's own
            return claimed.failed(Failure.of(error), raised=Raised(error, copy_context()))
        try:
            ended = await run.in_time()
        except BaseException:  # a server that cancels requests: the code goes on, and is recorded late
            self._abandon(run)
            raise
        if not ended:
            self._abandon(run)
            return Abandoned()
        self._runs.discard(run)
        return await run.outcome()

    def leave(self) -> None:
        """The instance exits: calls off every run and starts no more. Executions that stop are handed back."""
        self._leaving = True
        for run in list(self._runs):
            run.call_off(Reason.SHUTDOWN)

    def give_up(self) -> None:
        """Ends the wait for runs that were called off: their requests are answered now."""
        for run in list(self._runs):
            run.give_up()

    @property
    def busy(self) -> bool:
        """Whether a task runs, or a late end is being recorded."""
        return bool(self._runs or self._late)

    def hopeless(self) -> bool:
        """Whether a run is a lease past its deadline and the time to stop. May be called from any thread."""
        limit = time.monotonic() - CALL_OFF_GRACE - self.lease.total_seconds()
        return any(run.claimed.call.deadline < limit for run in list(self._runs))

    def overdue(self) -> set[ClaimKey]:
        """The claims whose code has not returned by its deadline. May be called from any thread."""
        now = time.monotonic()
        return {run.claimed.key for run in list(self._runs) if run.claimed.call.deadline < now}

    @property
    def running(self) -> int:
        """How many executions have code that has not returned, abandoned ones included."""
        return len(self._runs)

    def _started(self, claimed: Claimed, admitted: Admitted) -> Run:
        route = claimed.call.route
        made = self.contexts.get(route.path)
        around = self.around if made is None else ()
        transacts = made is None and (route.takes_context or bool(around))
        transact = partial(self._transaction, claimed) if transacts else None
        run = Run(claimed, transact, self.max_result_bytes, around)
        # Before its first step, which may block the loop: then the watchdog asks for its deadline.
        self._runs.add(run)
        try:
            run.start(admitted.thread, made or TaskContext)
        except BaseException:
            self._runs.discard(run)
            raise
        return run

    def _transaction(self, claimed: Claimed) -> TaskTransaction:
        from receiver.record.task_transaction import TaskTransaction  # noqa: PLC0415 - imports SQLAlchemy: slow, and only some tasks need it

        return TaskTransaction(self.pool(), claimed.key, deadline=claimed.call.deadline)

    def _abandon(self, run: Run) -> None:
        """Stops waiting for the code. Its lease stays until it returns; then its end is recorded."""
        claimed = run.claimed
        claimed.lease.keep()
        why = f"{claimed.call.route.name} was called off ({run.reason.value if run.reason else '?'})"
        self.emit(ReceiverTrouble("task does not stop", why, claimed.task_id))
        # Code that lost its lease may go on until its deadline: it does no harm, and a restart would harm its neighbours.
        overdue = max(claimed.call.deadline + CALL_OFF_GRACE - time.monotonic(), 0)
        timer = asyncio.get_running_loop().call_later(overdue + self.lease.total_seconds(), self.stuck)

        async def settle_late() -> None:
            with claimed:
                await run.ended()
                timer.cancel()
                self._runs.discard(run)
                await self.ledger.settle(claimed, await run.outcome())

        late = asyncio.create_task(settle_late(), name="late settlement")
        self._late.add(late)
        late.add_done_callback(self._late.discard)

"""A claimed execution → an Outcome, always.

An `async def` task runs in the loop, a `def` task in its thread. Whatever it raises, `SystemExit` and endless
recursion included, becomes a value here. No task is awaited without bound: at its deadline it is called off, has
`CALL_OFF_GRACE` to stop, and is then abandoned. Abandoned code still runs, so its execution stays RUNNING and renewed and
no retry runs beside it; when the code returns it is recorded as timed out. One lease past its deadline the instance
gives up on itself (`stuck`), because only the end of the process ends a thread.

A client that disconnects cancels nothing: Pub/Sub will ask again, and the record will answer.
"""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from receiver.contract.failure import Failure
from receiver.delivery.run import Ended, Reason, Run, awaited, called
from receiver.endings.outcomes import Abandoned, AttemptEnding, HandedBack, Lost, Outcome, Skipped, Succeeded
from receiver.errors import PermanentError
from receiver.tasks.context import TaskContext
from receiver.telemetry.events import Emit, ReceiverTrouble
from receiver.text import holds_nul

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from receiver.delivery.admission import Admitted
    from receiver.endings.calls import Claimed
    from receiver.record.heartbeat import Heartbeat
    from receiver.record.ledger import Ledger
    from receiver.record.task_pool import TaskPool
    from receiver.record.task_transaction import TaskTransaction

CALL_OFF_GRACE = 5.0
"""Seconds that a task has to stop after its deadline; what it does meanwhile no longer counts."""


class Runner:
    """Runs what was claimed.

    Args:
        pool: makes the tasks' pool, at the first task that may use it.
        stuck: called once abandoned code has not returned for a lease: the instance has to go.
        contexts: what makes the context of a built-in task, by its path; other tasks get a plain `TaskContext`.
    """

    def __init__(
        self,
        ledger: Ledger,
        heartbeat: Heartbeat,
        pool: Callable[[], TaskPool],
        *,
        lease: timedelta,
        max_result_bytes: int,
        stuck: Callable[[], None],
        emit: Emit,
        contexts: Mapping[str, Callable[..., TaskContext]] = MappingProxyType({}),
    ) -> None:
        self._contexts = contexts
        self._ledger = ledger
        self._heartbeat = heartbeat
        self._pool = pool
        self._lease = lease
        self._max_result_bytes = max_result_bytes
        self._stuck = stuck
        self._emit = emit
        self._executions: set[Run] = set()
        self._late: set[asyncio.Task[None]] = set()
        self._leaving = False
        self._encoder = msgspec.json.Encoder()

    async def run(self, claimed: Claimed, admitted: Admitted) -> Outcome:
        """Runs the task to its end, or to the end of its time."""
        try:
            return await self._run(claimed, admitted)
        except Exception:
            # A defect of ours: nobody will settle it, and a lease that is renewed for ever would block every retry. Code
            # that still runs keeps its lease, and is recorded when it returns.
            if not any(execution.claimed is claimed for execution in self._executions):
                self._heartbeat.release(claimed.lease)
            raise

    async def _run(self, claimed: Claimed, admitted: Admitted) -> Outcome:
        if admitted.switch is not None:
            return Skipped(admitted.switch)
        if self._leaving:
            return HandedBack()
        if self._heartbeat.expired(claimed.lease):  # the claim was answered late: another may run it
            return HandedBack()  # if it still is ours; else that moves nothing
        try:
            execution = self._start(claimed, admitted)
        except Exception as error:  # noqa: BLE001 - no thread, no memory: unsettled, the lease would be renewed for ever
            return claimed.failed(Failure.of(error))
        code = execution.code
        assert code is not None  # noqa: S101 - set by _start
        self._heartbeat.watch(claimed.lease, execution.lose)
        try:
            ended = await self._in_time(execution, code)
        except (
            BaseException
        ):  # a server that cancels requests: the code goes on, renewed, and is recorded late
            self._abandon(execution, code)
            raise
        if not ended:
            self._abandon(execution, code)
            return Abandoned()
        self._executions.discard(execution)
        return await self._outcome(execution, Ended.of(code))

    def leave(self) -> None:
        """The instance exits: calls off what runs, and starts nothing more. What stops is handed back."""
        self._leaving = True
        for execution in list(self._executions):
            execution.call_off(Reason.SHUTDOWN)

    def give_up(self) -> None:
        """Waits no longer for what was called off, for whatever reason: its requests are answered now."""
        for execution in list(self._executions):
            execution.give_up()

    @property
    def busy(self) -> bool:
        """Whether anything runs, or has ended late and is being recorded."""
        return bool(self._executions or self._late)

    def hopeless(self) -> bool:
        """Whether something runs a lease past its deadline and the time to stop; may be asked from any thread."""
        limit = time.monotonic() - CALL_OFF_GRACE - self._lease.total_seconds()
        return any(execution.claimed.call.deadline < limit for execution in list(self._executions))

    @property
    def running(self) -> int:
        """How many executions have code that has not returned, abandoned ones included."""
        return len(self._executions)

    def _start(self, claimed: Claimed, admitted: Admitted) -> Run:
        route, call = claimed.call.route, claimed.call
        transacts = route.takes_context and route.is_async and route.path not in self._contexts
        execution = Run(claimed, self._transaction(claimed) if transacts else None)
        args, trace = call.args, call.delivery.traceparent
        if route.takes_context:
            args = [self._context(execution), *args]
        if admitted.thread is not None:
            execution.began(admitted.thread.run(lambda: called(route.function, args, call.kwargs, trace)))
        else:
            code = awaited(route.function, args, call.kwargs, trace)
            execution.began(asyncio.create_task(code, name=route.name))
        self._executions.add(execution)
        return execution

    def _context(self, execution: Run) -> TaskContext:
        claimed, call = execution.claimed, execution.claimed.call
        return self._contexts.get(call.route.path, TaskContext)(
            task_id=claimed.task_id,
            attempt=claimed.attempt,
            message_id=call.delivery.message_id,
            deadline=datetime.now(UTC) + timedelta(seconds=call.deadline - time.monotonic()),
            cancellation=execution,
            transaction=execution.transaction,
        )

    def _transaction(self, claimed: Claimed) -> TaskTransaction:
        from receiver.record.task_transaction import TaskTransaction  # noqa: PLC0415 - imports SQLAlchemy: only who needs it pays

        return TaskTransaction(
            self._pool(), task_id=claimed.task_id, fence=claimed.fence, deadline=claimed.call.deadline
        )

    async def _in_time(self, execution: Run, code: asyncio.Future[Any]) -> bool:
        """Whether the code has ended, by itself or after it was called off."""
        await execution.turn(max(execution.claimed.call.deadline - time.monotonic(), 0))
        if not code.done():
            execution.call_off(Reason.DEADLINE)
            end = time.monotonic() + CALL_OFF_GRACE
            while not code.done() and not execution.given_up and (left := end - time.monotonic()) > 0:
                await execution.turn(left)
        return code.done()

    def _abandon(self, execution: Run, code: asyncio.Future[Any]) -> None:
        """Leaves the code to itself; when it returns, that is recorded."""
        claimed = execution.claimed
        why = f"{claimed.call.route.name} was called off ({execution.reason.value if execution.reason else '?'})"
        self._emit(ReceiverTrouble("task does not stop", why, claimed.task_id))
        # Code that only lost its lease may go on until its deadline: it harms nobody, its neighbours would be harmed.
        overdue = max(claimed.call.deadline + CALL_OFF_GRACE - time.monotonic(), 0)
        timer = asyncio.get_running_loop().call_later(overdue + self._lease.total_seconds(), self._stuck)

        async def settle_late() -> None:
            await asyncio.wait({code})
            timer.cancel()
            self._executions.discard(execution)
            await self._ledger.settle(claimed, await self._outcome(execution, Ended.of(code)))

        late = asyncio.create_task(settle_late(), name="late settlement")
        self._late.add(late)
        late.add_done_callback(self._late.discard)

    async def _outcome(self, execution: Run, ended: Ended) -> Outcome:
        """What the ended code comes to. Whatever does not succeed has rolled back before it is said."""
        outcome = self._judged(execution, ended)
        # Frames know who called them: those of a thread lead from the error back to `ended`, and would keep the arguments.
        ended.error = None
        transaction = execution.transaction
        if transaction is not None:
            if isinstance(outcome, Succeeded) and transaction.begun:
                return Succeeded(outcome.return_value, transaction)
            await transaction.rollback()  # or marks it as ended: a child that outlives its task opens none
        return outcome

    def _judged(self, execution: Run, ended: Ended) -> Outcome:
        claimed = execution.claimed
        # A task that saw `ctx.cancelled` and returned did as it was told: that is no success.
        stopped = execution.noticed or ended.by(asyncio.CancelledError)
        match execution.reason:
            case Reason.DEADLINE:
                return claimed.failed(_timed_out(claimed, ended), AttemptEnding.TIMED_OUT)
            case Reason.LEASE_LOST if stopped:
                return Lost()
            case Reason.SHUTDOWN if stopped:
                return HandedBack()
        if ended.error is not None:
            return claimed.failed(Failure.of(ended.error), final=ended.by(PermanentError))
        return self._stored(claimed, ended.value)

    def _stored(self, claimed: Claimed, value: Any) -> Outcome:
        """The result as JSON text; one that cannot be stored is a final failure, a retry would only repeat the effects."""
        try:
            encoded = self._encoder.encode(value)
            if len(encoded) > self._max_result_bytes:
                reason = f"it has {len(encoded)} bytes, TASKS_MAX_RESULT_BYTES is {self._max_result_bytes}"
            elif not _is_finite(value, encoded):
                reason = "it has a NaN or an infinite number, and JSON has none"
            elif holds_nul(encoded):  # PostgreSQL would say so too, and quote the result in its own log
                reason = "it has a NUL character"
            else:
                return Succeeded(encoded.decode())
        except BaseException as error:  # noqa: BLE001 - encoding calls the value's own code, which may raise anything
            reason = Failure.of(error).message
        failure = Failure(
            "ResultNotStorable", f"the task returned, but its result cannot be stored: {reason}"
        )
        return claimed.failed(failure, final=True)


def _is_finite(value: Any, encoded: bytes) -> bool:
    """Whether no number of the value is NaN or infinite: those are encoded as null, and nobody would know.

    So only a value with a null somewhere is looked at again, by the standard library's encoder, which can refuse them.
    """
    if value is None or b"null" not in encoded:
        return True
    try:
        # The hook is for msgspec.Raw, which is JSON already; whatever else there is has just been encoded.
        json.dumps(msgspec.to_builtins(value, enc_hook=lambda _: None), allow_nan=False)
    except ValueError:
        return False
    return True


def _timed_out(claimed: Claimed, ended: Ended) -> Failure:
    seconds = claimed.call.route.effective_timeout
    message = f"the task did not end within {seconds:g} s"
    if ended.error is None or ended.by(asyncio.CancelledError):
        return Failure("TimedOut", message)
    cause = Failure.of(ended.error)
    return Failure("TimedOut", f"{message}; called off, it raised {cause.error_type}", cause.traceback)

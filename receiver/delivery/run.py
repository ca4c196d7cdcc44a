"""One run of a claimed task: starts its code, cancels it when it must stop, and returns its Outcome.

An `async def` task runs in the loop, a `def` task in its thread. If a `def` returns an awaitable, it wraps an `async def`: that is
awaited in the loop, where its connections are, under the same deadline and in the context of the thread. Everything that the code
raises becomes a value, `SystemExit` and endless recursion included. The code is a plugin's and may do anything: an exception may
override its own attributes, and a task may cancel itself in its last step. So no method or property of an exception is called here.

Next: `receiver.delivery.result` encodes what a task returned; `ledger.settle` records the outcome.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from receiver.contract.failure import Failure, error_type
from receiver.delivery.around import returned, within
from receiver.delivery.calling import Ended, awaited, begun, called, finished
from receiver.delivery.chain import chain, forget_values, is_final
from receiver.delivery.result import encoded
from receiver.endings.outcomes import AttemptEnding, Failed, HandedBack, Lost, Outcome, Succeeded
from receiver.errors import OutOfConnections
from receiver.tasks.running import Running

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from receiver.delivery.admission import Thread
    from receiver.endings.calls import Claimed
    from receiver.record.task_transaction import TaskTransaction
    from receiver.tasks.context import Around, TaskContext

CALL_OFF_GRACE = 5.0
"""Seconds that a task has to stop after its deadline; its result no longer counts."""


class Reason(Enum):
    """Why a task was called off."""

    DEADLINE = "it is out of time"
    LEASE_LOST = "its lease is lost"
    SHUTDOWN = "the instance exits"


class Run:
    """One run, from its start until its code has returned.

    Args:
        transact: makes the transaction that `ctx.connection()` opens; None for a task that cannot have one.
        around: what encloses the run, the outermost first.
    """

    def __init__(
        self,
        claimed: Claimed,
        transact: Callable[[], TaskTransaction] | None,
        max_result_bytes: int,
        around: Sequence[Around] = (),
    ) -> None:
        self.claimed = claimed
        self._around = around
        self.reason: Reason | None = None
        self._transact = transact
        self._transaction: TaskTransaction | None = None
        self._ctx: TaskContext | None = None
        self._max_result_bytes = max_result_bytes
        self._noticed = False
        self._given_up = False
        self._loop = asyncio.get_running_loop()
        self._deciding = threading.Lock()
        self._turn: asyncio.Future[None] | None = None
        self._code: asyncio.Future[Any]
        self._in_loop: asyncio.Task[Ended] | None = None

    def start(self, thread: Thread | None, context: Callable[..., TaskContext]) -> None:
        """Starts the code: in the thread, or in the loop when there is none. From now on a lost lease calls it off."""
        claimed, call = self.claimed, self.claimed.call
        route, args = call.route, call.args
        claimed.lease.watch(self._lose)  # before the first step: `ctx.cancelled` is true in it too
        here = Running(
            claimed.task_id, call.delivery.task_name, claimed.attempt, call.trace, call.delivery.metadata
        )
        if thread is None and self._transact is not None:
            self._transaction = self._transact()
        if self._around or route.takes_context:
            self._ctx = self._context(context)
        if route.takes_context:
            args = [self._ctx, *args]
        if self._around and self._ctx is not None:
            inside = partial(self._inside, thread, args, here)
            self._in_loop = begun(within(self._around, self._ctx, inside, here), route.name)
        elif thread is None:
            self._in_loop = begun(awaited(route.function, args, call.kwargs, here), route.name)
        else:
            self._code = self._loop.create_future()
            running = thread.run(lambda: called(route.function, args, call.kwargs, here))
            running.add_done_callback(self._returned)
        if self._in_loop is not None:
            self._code = self._in_loop

    async def _inside(self, thread: Thread | None, args: list[Any], here: Running) -> Ended:
        """The code itself, once what is around it has been entered."""
        function, kwargs = self.claimed.call.route.function, self.claimed.call.kwargs
        if thread is None:
            return await awaited(function, args, kwargs, here)
        ended = await returned(thread.run(lambda: called(function, args, kwargs, here)))
        return await self._continued(ended) if ended.awaits else ended

    def _returned(self, done: asyncio.Future[Ended]) -> None:
        """The function in the thread has returned."""
        ended = done.result()
        if not ended.awaits:
            self._code.set_result(ended)
            return
        self._in_loop = asyncio.create_task(self._continued(ended), name=self.claimed.call.route.name)
        self._in_loop.add_done_callback(lambda code: self._code.set_result(Ended.of(code)))

    async def _continued(self, ended: Ended) -> Ended:
        """Awaits what the function in the thread has returned, unless it was called off meanwhile."""
        if self.reason is not None:
            with suppress(Exception):  # it never begins, and says so in a warning unless it is closed
                ended.value.close()
            return Ended(error=asyncio.CancelledError())
        if self._ctx is not None and self._transact is not None:
            self._transaction = self._transact()
            self._ctx.begin(self._transaction)
        return await asyncio.create_task(
            finished(ended.value), name=self.claimed.call.route.name, context=ended.context
        )

    async def in_time(self) -> bool:
        """Waits until the code has ended, by itself or after it was called off. False: it goes on."""
        code, deadline = self._code, self.claimed.call.deadline
        if code.done():  # in its first step
            return True
        code.add_done_callback(self._wake)
        await self._wait(max(deadline - time.monotonic(), 0))
        if not code.done():
            self.call_off(Reason.DEADLINE)
            end = time.monotonic() + CALL_OFF_GRACE
            while not code.done() and not self._given_up and (left := end - time.monotonic()) > 0:
                await self._wait(left)
        return code.done()

    async def ended(self) -> None:
        """Returns when the code has ended."""
        await asyncio.wait({self._code})

    async def outcome(self) -> Outcome:
        """The outcome of the ended code. Unless it succeeded, its transaction is rolled back first."""
        ended = Ended.of(self._code)
        outcome = self._judged(ended)
        if ended.error is not None and self.claimed.call.route.redact:
            forget_values(ended.error)
        # A frame knows its caller: a thread's frames lead from the error back to `ended`, and would keep the arguments alive.
        ended.error = ended.context = None
        transaction = self._transaction
        if transaction is not None:
            if isinstance(outcome, Succeeded) and transaction.begun:
                return Succeeded(outcome.return_value, transaction)
            # One that was not begun is marked as ended, so that a child task that outlives its parent opens none.
            await transaction.rollback()
        return outcome

    @property
    def requested(self) -> bool:
        """Whether the task is called off, for `ctx.cancelled`. From then on the task may have left work undone."""
        if self.reason is not None:
            self._noticed = True
        return self._noticed

    def call_off(self, reason: Reason) -> None:
        """Asks the task to stop; from any thread, and the first reason counts. `ctx.cancelled` is true at once, even in a blocked loop."""
        with self._deciding:  # heartbeat and loop may have a reason at the same moment
            if self.reason is not None:
                return
            self.reason = reason
        with suppress(RuntimeError):  # the loop has ended, and the process does too
            self._loop.call_soon_threadsafe(self._stop)

    def give_up(self) -> None:
        """Ends the wait for code that was called off."""
        self._given_up = True
        self._wake()

    def _lose(self) -> None:
        self.call_off(Reason.LEASE_LOST)

    def _stop(self) -> None:
        self._wake()
        if self._in_loop is not None:
            self._in_loop.cancel()

    def _context(self, made: Callable[..., TaskContext]) -> TaskContext:
        claimed, call = self.claimed, self.claimed.call
        return made(
            task_id=claimed.task_id,
            attempt=claimed.attempt,
            message_id=call.delivery.message_id,
            deadline=datetime.now(UTC) + timedelta(seconds=call.deadline - time.monotonic()),
            cancellation=self,
            transaction=self._transaction,
            attributes=call.delivery.foreign,
            metadata=call.delivery.metadata,
        )

    async def _wait(self, seconds: float) -> None:
        """Returns when the code has ended, when it was called off or given up since, or after so many seconds.

        One future and one timer: `asyncio.wait` takes 10 µs more, of a delivery's 250.
        """
        self._turn = turn = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._wake)
        try:
            await turn
        finally:
            timer.cancel()

    def _wake(self, _: asyncio.Future[Any] | None = None) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    def _judged(self, ended: Ended) -> Outcome:
        claimed = self.claimed
        # A task that saw `ctx.cancelled` and returned has stopped early: that is no success.
        stopped = self._noticed or ended.by(asyncio.CancelledError)
        match self.reason:
            case Reason.DEADLINE:
                return _timed_out(claimed, ended)
            case Reason.LEASE_LOST if stopped:
                return Lost()
            case Reason.SHUTDOWN if stopped:
                return HandedBack()
        if ended.error is not None:
            # Wrapped or not, it is no failure of the task. One that the task has caught and got over is not in the chain.
            if any(issubclass(type(each), OutOfConnections) for each in chain(ended.error)):
                return HandedBack("connection for the task")
            failure, final = Failure.of(ended.error), is_final(ended.error)
            return claimed.failed(failure, final=final, raised=ended.raised(ended.error))
        result = encoded(ended.value, self._max_result_bytes)
        # A retry would only repeat the effects: a result that cannot be stored is final.
        return claimed.failed(result, final=True) if isinstance(result, Failure) else Succeeded(result)


def _timed_out(claimed: Claimed, ended: Ended) -> Failed:
    """The failure says where the task was when it was called off, if it raised then."""
    seconds = claimed.call.route.effective_timeout
    message = f"the task did not end within {seconds:g} s"
    told = TimeoutError(message)
    trail = None
    if ended.error is not None:
        told.__cause__ = ended.error
        trail = Failure.of(told).traceback
        if not ended.by(asyncio.CancelledError):
            message = f"{message}; called off, it raised {error_type(ended.error)}"
    failure = Failure("TimedOut", message, trail)
    return claimed.failed(failure, AttemptEnding.TIMED_OUT, raised=ended.raised(told))

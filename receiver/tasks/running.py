"""The execution whose code runs here: for the log lines of a task, and for what it enqueues.

It is a context variable. A thread of a `def` task, a child asyncio task, `asyncio.to_thread` and `run_in_executor(None, …)`
have it too. It holds no arguments: a connection that a task opened may keep its context for as long as the process lives.

Next: `receiver.delivery.run` sets it, `receiver.telemetry.formats` and `receiver.enqueue.arguments` read it.
"""

from __future__ import annotations

from contextvars import ContextVar

import msgspec


class Running(msgspec.Struct, frozen=True):
    """A running execution.

    Attributes:
        trace: W3C `traceparent` of the message, else of the request that pushed it.
        metadata: of the call that enqueued it; what it enqueues has it too.
    """

    task_id: str
    task_name: str
    attempt: int
    trace: str | None = None
    metadata: dict[str, str] | None = None


running: ContextVar[Running | None] = ContextVar("receiver.running", default=None)
"""The execution whose code runs in this context; None outside of tasks."""

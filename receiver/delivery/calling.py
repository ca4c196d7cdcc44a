"""Calls the code of a task, and says how it ended: an `async def` in the loop, a `def` in its thread.

A task's exception may override its own attributes, so only the interpreter's own slots are used.

Next: `receiver.delivery.run` waits for it, and judges it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any

from receiver.endings.outcomes import Raised
from receiver.tasks.running import Running, running

TRACEBACK = BaseException.__dict__["__traceback__"]


class Ended:
    """How the code ended: with a value, or with an exception of any kind."""

    __slots__ = ("awaits", "context", "error", "value")

    def __init__(
        self, value: Any = None, error: BaseException | None = None, *, awaits: bool = False
    ) -> None:
        trail = TRACEBACK.__get__(error) if error is not None else None
        if trail is not None:
            TRACEBACK.__set__(error, trail.tb_next)  # without the first frame, which is ours
        self.value = value
        self.error = error
        self.awaits = awaits
        """Whether the value is still to be awaited, in `context`."""
        self.context: Context | None = copy_context() if awaits or error is not None else None

    def by(self, kind: type[BaseException]) -> bool:
        """Whether an exception of this kind ended it. By its type: `isinstance` would ask the exception's own `__class__`."""
        return self.error is not None and issubclass(type(self.error), kind)

    def raised(self, error: BaseException) -> Raised:
        """The error, to be told where the task raised it."""
        return Raised(error, self.context or copy_context())

    @classmethod
    def of(cls, code: asyncio.Future[Any]) -> Ended:
        """How code that is done ended. A task that cancels itself in its last step is cancelled without having raised."""
        if code.cancelled():
            return cls(error=asyncio.CancelledError())
        ended: Ended = code.result()
        return ended


def begun(code: Coroutine[Any, Any, Ended], name: str) -> asyncio.Task[Ended]:
    """The code in a task of its own, which has taken its first step: code that waits for nothing has ended.

    Before Python 3.12, and where somebody has set a task factory, as Sentry does, the first step comes in the loop's next turn.
    """
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12) and loop.get_task_factory() is None:
        return asyncio.Task(code, loop=loop, name=name, eager_start=True)
    return loop.create_task(code, name=name)


async def awaited(
    function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], here: Running
) -> Ended:
    """Runs an `async def` task. All that it starts and logs belongs to `here`."""
    running.set(here)
    try:
        value = function(*args, **kwargs)
        while _is_awaitable(value):
            value = await value
        return Ended(value=value)
    except BaseException as error:  # noqa: BLE001 - SystemExit in a task must not end the service, and must be recorded
        return Ended(error=error)


def called(function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], here: Running) -> Ended:
    """Calls a `def` task, in its thread and a context of its own. The value may be left to be awaited."""
    running.set(here)
    try:
        value = function(*args, **kwargs)
        return Ended(value=value, awaits=_is_awaitable(value))
    except BaseException as error:  # noqa: BLE001 - as above
        return Ended(error=error)


async def finished(value: Any) -> Ended:
    """Awaits what a task has returned."""
    try:
        while _is_awaitable(value):
            value = await value
        return Ended(value=value)
    except BaseException as error:  # noqa: BLE001 - as above
        return Ended(error=error)


def _is_awaitable(value: Any) -> bool:
    return hasattr(type(value), "__await__")

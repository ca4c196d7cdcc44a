"""Calls the code of a task, and returns how it ended: an `async def` in the loop, a `def` in its thread.

Next: `receiver.delivery.run` waits for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from receiver.delivery.ended import Ended
from receiver.tasks.running import Running, running

if TYPE_CHECKING:
    from collections.abc import Callable


async def awaited(
    function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], here: Running | None = None
) -> Ended:
    """Runs an `async def` task and returns how it ended. All that it starts and logs belongs to `here`."""
    ended = called(function, args, kwargs, here)
    return await finished(ended.value) if ended.awaits else ended


def called(
    function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], here: Running | None = None
) -> Ended:
    """Calls a task, a `def` in its thread and a context of its own, and returns how that ended. The value may be left to be awaited."""
    running.set(here)
    try:
        value = function(*args, **kwargs)
        return Ended(value=value, awaits=_is_awaitable(value))
    except BaseException as error:  # noqa: BLE001 - SystemExit in a task must not end the service, and must be recorded
        return Ended(error=error)


async def finished(value: Any) -> Ended:
    """Awaits what a task has returned, and returns how that ended."""
    try:
        while _is_awaitable(value):
            value = await value
        return Ended(value=value)
    except BaseException as error:  # noqa: BLE001 - as above
        return Ended(error=error)


def _is_awaitable(value: Any) -> bool:
    return hasattr(type(value), "__await__")

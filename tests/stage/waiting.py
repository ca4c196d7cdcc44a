"""A condition is awaited, and never slept for."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

PATIENCE = 60.0
"""Seconds after which a condition that has not come true fails the test; usually it takes milliseconds."""

T = TypeVar("T")


@overload
async def eventually(condition: Callable[[], Awaitable[T | None]], *, patience: float = ...) -> T: ...
@overload
async def eventually(condition: Callable[[], T | None], *, patience: float = ...) -> T: ...
async def eventually(condition: Callable[[], Any], *, patience: float = PATIENCE) -> Any:
    """Asks until the answer is truthy, and returns it."""
    end = time.monotonic() + patience
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {patience:g} s: {inspect.getsource(condition).strip()}")
        await asyncio.sleep(0.01)


def wait_until(
    condition: Callable[[], T], what: Callable[[], str] = lambda: "", *, patience: float = PATIENCE
) -> T:
    """The same for tests without a loop. `what` says what was seen instead, when the condition never came true."""
    end = time.monotonic() + patience
    while not (answer := condition()):
        assert time.monotonic() < end, (
            f"not within {patience:g} s: {inspect.getsource(condition).strip()}\n{what()}"
        )
        time.sleep(0.01)
    return answer

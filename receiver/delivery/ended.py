"""How a task's code ended: a value, or an exception of any kind.

The exception is a plugin's and may override its own attributes, so only the interpreter's own slots are used.

Next: `receiver.delivery.run` judges it.
"""

from __future__ import annotations

import asyncio
from contextvars import Context, copy_context
from typing import Any

from receiver.endings.outcomes import Raised

TRACEBACK = BaseException.__dict__["__traceback__"]
"""The interpreter's slot: an exception's own `__setattr__` and `__getattribute__` may do anything."""


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

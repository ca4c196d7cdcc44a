"""Turns any exception of a task into a `Failure` that can be recorded.

PostgreSQL's text cannot contain NUL or lone surrogates, and an exception's `__str__` may itself raise. Invariant: `Failure.of`
never raises, and its texts are storable and bounded. The standard library formats the traceback. It copies every exception
that is linked to the first, so if these are too many only the first is shown.

Next: `receiver.record` stores it, `receiver.telemetry` logs it.
"""

from __future__ import annotations

from traceback import TracebackException, format_tb
from types import TracebackType
from typing import Any, Final

import msgspec

from receiver.text import clean

MESSAGE_LIMIT: Final = 8 * 1024
"""Characters kept of an error's message."""

TRACEBACK_LIMIT: Final = 64 * 1024
"""Characters kept of a traceback: its first and last half, so that both the cause and the end are seen."""

NAME_LIMIT: Final = 500
"""Characters kept of the name of an error's class."""

FRAMES_LIMIT: Final = 60
"""Frames formatted of each exception, the innermost: endless recursion has thousands."""

TREE_LIMIT: Final = 100
"""Exceptions formatted in all: causes, and members of groups. So many of 60 frames each take half a second."""

TEXT_LIMIT: Final = 256 * 1024
"""Characters of messages and notes formatted in all: 50 MB in short lines would take half a minute and 2 GB."""


class Failure(msgspec.Struct, frozen=True):
    """Why an attempt failed, as it goes into the record: clean text, bounded.

    Attributes:
        error_type: the import path of the exception's class, or the plain name of one of the receiver's own endings.
        message: at most `MESSAGE_LIMIT` characters.
        traceback: at most `TRACEBACK_LIMIT` characters; None without one.
    """

    error_type: str
    message: str
    traceback: str | None = None

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure of an exception; never raises."""
        message = _message(error)
        return cls(error_type(error), message, _traceback(error, message))


def error_type(error: BaseException) -> str:
    """The import path of the exception's class: `shop.errors.OutOfStock`, `ValueError`."""
    # Read from `type`, not from the class: a metaclass may answer anything.
    kind = type(error)
    module, name = (type.__dict__[slot].__get__(kind) for slot in ("__module__", "__qualname__"))
    if not isinstance(module, str) or module == "builtins":
        return clean(name, NAME_LIMIT)
    return clean(f"{clean(module, NAME_LIMIT)}.{clean(name, NAME_LIMIT)}", NAME_LIMIT)


def slot(error: BaseException, name: str) -> Any:
    """What the interpreter itself keeps for an exception, whatever its class says."""
    return BaseException.__dict__[name].__get__(error)


def trail_of(error: BaseException) -> TracebackType | None:
    """The traceback that the interpreter itself keeps for an exception."""
    found: TracebackType | None = slot(error, "__traceback__")
    return found


def members(error: BaseException) -> tuple[BaseException, ...]:
    """The members of an exception group; none of any other exception."""
    is_group = issubclass(type(error), BaseExceptionGroup)
    return BaseExceptionGroup.__dict__["exceptions"].__get__(error) if is_group else ()


def _message(error: BaseException) -> str:
    try:
        return clean(str(error), MESSAGE_LIMIT)
    except BaseException as second:  # noqa: BLE001 - __str__ may raise anything, and the failure must be recorded
        return f"<the message could not be read: {error_type(second)}>"


def _traceback(error: BaseException, message: str) -> str:
    try:
        if _is_small(error):
            whole = TracebackException(type(error), error, trail_of(error), limit=-FRAMES_LIMIT, compact=True)
            return clean("".join(whole.format()), TRACEBACK_LIMIT)
        return _alone(error, message, "... [causes, members and notes are left out: there are too many]\n")
    except BaseException:  # noqa: BLE001 - an exception's attributes may be properties that raise
        return _alone(error, message)


def _is_small(error: BaseException) -> bool:
    """Whether all that hangs on the exception may be formatted: a cause counts once, a member of groups each time."""
    seen: set[int] = set()
    todo, text = [error], 0
    for _ in range(TREE_LIMIT):
        if not todo or text > TEXT_LIMIT:
            break
        each = todo.pop()
        seen.add(id(each))
        notes = getattr(each, "__notes__", None)
        texts = [*slot(each, "args"), *(notes if isinstance(notes, list) else ())]
        text += sum(len(part) for part in texts if isinstance(part, str))
        linked = (slot(each, "__cause__"), slot(each, "__context__"))
        todo += [other for other in linked if other is not None and id(other) not in seen]
        todo += members(each)
    return not todo and text <= TEXT_LIMIT


def _alone(error: BaseException, message: str, note: str = "") -> str:
    """The exception without its causes, notes and members, from the interpreter's own slots."""
    try:
        frames = format_tb(trail_of(error), limit=-FRAMES_LIMIT)
    except BaseException as second:  # noqa: BLE001 - looking source lines up calls a module's own loader
        return f"<the traceback could not be formatted: {error_type(second)}>"
    last = f"{error_type(error)}: {message}\n" if message else f"{error_type(error)}\n"
    return clean("".join([note, "Traceback (most recent call last):\n", *frames, last]), TRACEBACK_LIMIT)

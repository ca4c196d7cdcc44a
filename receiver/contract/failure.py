"""An exception, made recordable: whatever a task raises, its failure can be written down.

PostgreSQL's text holds neither NUL nor lone surrogates, an exception's `__str__` may itself raise, its message may be
50 MB, and a small tree of exception groups may unfold into billions. So nothing of the exception's own is asked twice or
trusted: its chain is read from the interpreter's slots, every part is bounded before it is formatted, and the whole
is cleaned and marked where it was cut. Time is bounded too, but for the exception's own `__str__`.

`traceback.TracebackException` is not used: it copies a whole chain, message and tree before anything can be cut.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from receiver.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGE_LIMIT = 8 * 1024
"""Characters kept of an error's message."""

TRACEBACK_LIMIT = 64 * 1024
"""Characters kept of a traceback: its first and last half, so that both the cause and the end are seen."""

NAME_LIMIT = 500
"""Characters kept of the name of an error's class."""

FRAMES_LIMIT = 60
"""Frames formatted of each exception, the innermost: endless recursion has thousands."""

LINE_LIMIT = 500
"""Characters shown of a line of source: generated code may be one line of megabytes."""

CHAIN_LIMIT = 30
"""Exceptions formatted of a chain of causes, the latest."""

GROUP_WIDTH, GROUP_DEPTH = 15, 10
"""Members formatted of a group, and levels of groups within groups; the standard library's own limits."""

TREE_LIMIT = 100
"""Exceptions formatted in all: chains and groups may be woven into each other."""

NOTES_LIMIT = 10
"""Notes formatted of an exception."""

_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, as it goes into the record: clean text, bounded."""

    error_type: str
    message: str
    traceback: str | None = None

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that an exception stands for; never raises."""
        return cls(error_type(error), _message(error), _traceback(error))


def error_type(error: BaseException) -> str:
    """The exception's class as it is imported: `shop.errors.OutOfStock`, `ValueError`."""
    # Read from `type`, not from the class: a metaclass may answer anything.
    kind = type(error)
    module, name = (type.__dict__[slot].__get__(kind) for slot in ("__module__", "__qualname__"))
    if not issubclass(type(module), str) or module == "builtins":
        return clean(name, NAME_LIMIT)
    return clean(f"{clean(module, NAME_LIMIT)}.{clean(name, NAME_LIMIT)}", NAME_LIMIT)


def _message(error: BaseException) -> str:
    try:
        return clean(str(error), MESSAGE_LIMIT)
    except BaseException as second:  # noqa: BLE001 - a hostile __str__ may raise anything, and the failure must be recorded
        return f"<the message could not be read: {error_type(second)}>"


def _traceback(error: BaseException) -> str:
    try:
        return clean("".join(_Formatter().chain(error)), TRACEBACK_LIMIT)
    except BaseException as second:  # noqa: BLE001 - as above: looking source lines up calls a module's own loader
        return f"<the traceback could not be formatted: {error_type(second)}>"


def _slot(error: BaseException, name: str) -> Any:
    """What the interpreter itself keeps for an exception, whatever its class says."""
    return BaseException.__dict__[name].__get__(error)


class _Formatter:
    """Formats one exception with all that hangs on it, in the form of the standard library."""

    def __init__(self) -> None:
        self._left = TREE_LIMIT

    def chain(self, error: BaseException, depth: int = 0) -> Iterator[str]:
        """The exception after its causes, the oldest first."""
        links, more = _links(error)
        if more:
            yield "... [earlier causes left out]\n"
        for each, joint in reversed(links):
            if self._left == 0:
                yield "... [more exceptions left out]\n"
                return
            self._left -= 1
            yield from self._one(each, depth)
            yield joint

    def _one(self, error: BaseException, depth: int) -> Iterator[str]:
        trail = _slot(error, "__traceback__")
        if trail is not None:
            yield "Traceback (most recent call last):\n"
            yield from _frames(trail)
        message = _message(error)
        yield f"{error_type(error)}: {message}\n" if message else f"{error_type(error)}\n"
        yield from _notes(error)
        if issubclass(type(error), BaseExceptionGroup):
            yield from self._members(BaseExceptionGroup.__dict__["exceptions"].__get__(error), depth + 1)

    def _members(self, members: tuple[BaseException, ...], depth: int) -> Iterator[str]:
        if depth > GROUP_DEPTH:
            yield f"  ... [groups deeper than {GROUP_DEPTH} left out]\n"
            return
        for number, member in enumerate(members):
            if number == GROUP_WIDTH or self._left == 0:
                yield f"  +---------------- and {len(members) - number} more\n"
                return
            yield f"  +---------------- {number + 1} ----------------\n"
            for part in self.chain(member, depth):
                yield from (f"  | {line}\n" for line in part.splitlines())
        yield "  +------------------------------------\n"


def _links(error: BaseException) -> tuple[list[tuple[BaseException, str]], bool]:
    """The exception and its causes, the latest first, each with what joins it to the later one; and whether there are more."""
    links: list[tuple[BaseException, str]] = []
    seen: set[int] = set()
    following: BaseException | None = error
    joint = ""
    while following is not None and id(following) not in seen:
        if len(links) == CHAIN_LIMIT:
            return links, True
        links.append((following, joint))
        seen.add(id(following))
        cause = _slot(following, "__cause__")
        joint = _CAUSE if cause is not None else _CONTEXT
        hidden = _slot(following, "__suppress_context__")
        following = cause if cause is not None or hidden else _slot(following, "__context__")
    return links, False


def _frames(trail: Any) -> list[str]:
    frames = traceback.extract_tb(trail, limit=-FRAMES_LIMIT)
    for index, frame in enumerate(frames):
        line = frame.line or ""
        if len(line) > LINE_LIMIT:
            short = f"{line[:LINE_LIMIT]} ..."
            frames[index] = traceback.FrameSummary(frame.filename, frame.lineno, frame.name, line=short)
    return frames.format()


def _notes(error: BaseException) -> Iterator[str]:
    try:
        notes = object.__getattribute__(error, "__dict__").get("__notes__")
    except BaseException:  # noqa: BLE001 - a hostile __dict__ or __notes__ may raise anything
        return
    if type(notes) is not list:
        return
    for note in notes[:NOTES_LIMIT]:
        yield (
            f"{clean(note, MESSAGE_LIMIT)}\n" if issubclass(type(note), str) else "<a note that is no text>\n"
        )
    if len(notes) > NOTES_LIMIT:
        yield f"... [{len(notes) - NOTES_LIMIT} more notes]\n"

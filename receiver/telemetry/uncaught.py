"""Uncaught exceptions become events: of threads, of `__del__`, of the main thread, of the loop's callbacks.

The interpreter would print a traceback of many lines to standard error, and Cloud Logging makes an entry of every line.
An exception's own code is not called, except for its text, which `receiver.contract.failure` reads safely.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, TracebackType
from typing import Any, Final

from receiver.contract.failure import Failure
from receiver.telemetry.events import Emit, ReceiverTrouble

WHAT: Final = "uncaught exception"

_NAME: Final = type.__dict__["__qualname__"]
"""The interpreter's own attribute: a metaclass may return anything."""


def watch(emit: Emit) -> None:
    """From now on every uncaught exception of the process is an event.

    Only for a process that we start: the interpreter has one hook of each kind.
    """

    def in_main(_kind: type[BaseException], error: BaseException, _trail: TracebackType | None) -> None:
        emit(_trouble("in the main thread", error))

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):  # a thread may leave
            emit(_trouble(f"in thread {args.thread.name if args.thread else '(gone)'}", args.exc_value))

    def unraisable(args: sys.UnraisableHookArgs) -> None:
        error = args.exc_value
        emit(_trouble(f"in {_named(args.object)}", error if error is not None else args.exc_type()))

    sys.excepthook = in_main
    threading.excepthook = in_thread
    sys.unraisablehook = unraisable


def in_loop(emit: Emit) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """A handler for `loop.set_exception_handler`. It shows the message and the error, not the objects."""

    def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error: BaseException | None = context.get("exception")
        what = str(context["message"])
        emit(_trouble(what, error) if error is not None else ReceiverTrouble("event loop", what))

    return handle


def _trouble(where: str, error: BaseException) -> ReceiverTrouble:
    failure = Failure.of(error)
    return ReceiverTrouble(WHAT, f"{where}: {failure.error_type}: {failure.message}", error=error)


def _named(thing: object) -> str:
    """What the interpreter called, usually a `__del__`. Never by the object's `repr`, which may do anything."""
    if type(thing) in {FunctionType, BuiltinFunctionType}:
        return str(thing.__qualname__)  # type: ignore[attr-defined]  # mypy does not narrow by type()
    return f"an object of type {_NAME.__get__(type(thing))}"

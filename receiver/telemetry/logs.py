"""Events become log lines: the message, the level, the fields. `receiver.telemetry.formats` gives a line its form.

Acked deliveries are INFO, and so are ordinary nacks (429). What an operator should look at is WARNING or ERROR.
The traceback of a failed task goes into `stack_trace`, where Error Reporting finds it.

Every delivery has a line, so a line must be cheap. Without other handlers an event becomes text directly, without a LogRecord,
and a success, which is nearly every event, without a dict of its fields (JSON: 7 µs; 15 µs with the dict, 34 µs with the record).
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from receiver.contract.failure import TRACEBACK_LIMIT, Failure, error_type, trail_of
from receiver.endings.outcomes import (
    Abandoned,
    Broken,
    DeadLettered,
    Denied,
    Ending,
    Exhausted,
    Failed,
    Full,
    HandedBack,
    Lost,
    Oversized,
    Refused,
    Skipped,
    Succeeded,
    Unrecorded,
)
from receiver.settings import Settings
from receiver.telemetry.events import Delivered, Emit, Event, ReceiverTrouble, ServiceState
from receiver.telemetry.formats import LOGGER_NAME, JsonFormatter, LineFormatter, TerminalFormatter
from receiver.text import clean

_WARNINGS = (Denied, Refused, Oversized, Exhausted, DeadLettered, Abandoned, Unrecorded, Broken)
_ERRORS = (Failed, Lost)
_LEVELS = dict.fromkeys(_WARNINGS, logging.WARNING) | dict.fromkeys(_ERRORS, logging.ERROR)
"""Endings that are not here are INFO. An event has told why the last three warnings came: trouble is one ERROR, not two."""

_NO_RECORD = logging.makeLogRecord({})

logger = logging.getLogger(LOGGER_NAME)


def configure(settings: Settings, stream: TextIO | None = None) -> Emit:
    """Sets up the logging of the process, and returns the function that takes events. `stream` defaults to standard error.

    Our lines have a handler of their own on a logger of their own. What an application configures for itself later, by
    `dictConfig` or in Django's settings, changes the form of its own lines, and not whether ours are written.
    """
    handler = _Lines(
        stream or sys.stderr, JsonFormatter(settings) if settings.on_cloud_run else TerminalFormatter()
    )
    root = logging.getLogger()
    root.handlers[:] = logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    root.setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # INFO is a line for every request that a task sends
    logging.captureWarnings(True)  # noqa: FBT003 - the standard library's signature
    return handler.take


def record(event: Event) -> None:
    """Takes events where the application sets up logging: each becomes one log record."""
    level, message, fields = _rendered(event)
    if logger.isEnabledFor(level):
        _hand_over(event, level, message, fields)


def _hand_over(event: Event, level: int, message: str, fields: dict[str, Any]) -> None:
    """Gives an event to all who listen, in the context of the task that raised its exception."""
    failed = _failed(event) if isinstance(event, Delivered) else None
    raised = failed.raised if failed is not None else None
    error = (
        raised.error if raised is not None else event.error if isinstance(event, ReceiverTrouble) else None
    )
    # Who listens reads the exception itself, and Sentry takes ten fields: what matters most is before the others.
    left_out = {"stack_trace"} if error is not None else set[str]()
    fields = {key: value for key, value in fields.items() if value is not None and key not in left_out}
    exc_info = None if error is None else (type(error), error, trail_of(error))
    # Not `logger.log`, which would search the stack for the caller.
    made = logger.makeRecord(logger.name, level, "", 0, message, (), exc_info, extra=fields)
    logger.disabled = False  # `dictConfig` disables every logger that it does not name
    if raised is None:
        logger.handle(made)
    else:
        raised.context.run(logger.handle, made)


def _failed(event: Delivered) -> Failed | None:
    """How the task failed, if it did, also where that could not be recorded."""
    found = event.ending if isinstance(event.ending, Failed) else event.ran
    return found if isinstance(found, Failed) else None


def _rendered(event: Event) -> tuple[int, str, dict[str, Any]]:
    match event:
        case Delivered():
            return _delivered(event)
        case ReceiverTrouble(
            what=what, why=why, task_id=task_id, error=error, stack=stack, is_error=is_error
        ):
            failure = Failure.of(error) if error is not None else None
            trail = failure.traceback if failure else None
            fields = {"task_id": task_id, "stack_trace": trail, "stack": stack}
            return logging.ERROR if is_error else logging.WARNING, f"{what}: {why}", fields
        case ServiceState(what=what):
            return logging.INFO, what, {}


def _delivered(event: Delivered) -> tuple[int, str, dict[str, Any]]:
    ending = event.ending
    failed = _failed(event)
    failure = failed.failure if failed is not None else None
    fields = {
        "status": event.status,
        "ending": type(ending).__name__,
        "task_name": event.task_name,
        "task_id": event.task_id,
        "attempt": event.attempt,
        "final": failed.final if failed is not None else None,
        "message_id": event.message_id,
        "seconds": round(event.seconds, 6),
        "trace": event.trace,
        "metadata": event.metadata,
        "stack_trace": failure.traceback if failure else None,
        "error_type": failure.error_type if failure else None,
    }
    why = _why(ending)
    name = event.task_name or "push"
    return (
        logging.ERROR if failed is not None else _LEVELS.get(type(ending), logging.INFO),
        f"{event.status} {name}: {type(ending).__name__}{f' ({why})' if why else ''}",
        fields,
    )


def _why(ending: Ending) -> str | None:  # noqa: PLR0911 - a table: one line an ending
    match ending:
        case Failed(failure=failure):
            return f"{failure.error_type}: {failure.message}"
        case Denied(reason=why) | DeadLettered(what=why):
            return why
        case Refused(reason=reason, detail=detail):
            return f"{reason}: {detail}"
        case Full(resource=resource) | HandedBack(resource=str(resource)):
            return f"no {resource}"
        case Exhausted(crashed=True):
            return "its process died under it again and again"
        case Skipped(switch=switch):
            return f"{switch} is off"
        case _:
            return None


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def refused(message: str) -> str:
    """The line of a start that is refused, as JSON. It needs no settings, because they may be wrong."""
    line = {
        "severity": "CRITICAL",
        "message": clean(message, TRACEBACK_LIMIT),
        "time": datetime.now(UTC).isoformat(),
    }
    return msgspec.json.encode(line).decode()


class _Lines(logging.StreamHandler[TextIO]):
    """Writes lines. A record that cannot become a line is replaced by a line that says so.

    The deliveries that are answered in one turn of the event loop are written together, at the end of the turn: a write for each
    took 25 µs. All other lines are written at once, after those that wait.
    """

    def __init__(self, stream: TextIO, form: LineFormatter) -> None:
        super().__init__(stream)
        self._form = form
        self._waiting: list[str] = []
        self.setFormatter(form)

    def take(self, event: Event) -> None:
        """Takes events in a process whose logging `configure` set up."""
        try:
            line = self._line(event)
        except Exception:  # noqa: BLE001 - an event that cannot be shown costs its line and nothing else
            self.handleError(_NO_RECORD)
            return
        if line is None:
            return
        loop = _running_loop() if isinstance(event, Delivered) else None
        with self.lock or nullcontext():
            self._waiting.append(line + self.terminator)
            if loop is None:
                self.flush()
            elif len(self._waiting) == 1:
                loop.call_soon(self.flush)

    def _line(self, event: Event) -> str | None:
        """The line of an event. None: it is below the level, or others listen too, and were given a record of it."""
        # `dictConfig` takes them from a logger that it only gives a level.
        if not (logger.handlers or logger.propagate):
            logger.addHandler(self)
        if type(event) is Delivered and type(event.ending) is Succeeded and self._is_alone(logging.INFO):
            return self._form.succeeded(event, time.time())
        level, message, fields = _rendered(event)
        if level < logger.level:
            return None
        if self._is_alone(level):
            return self._form.line(level, clean(message, TRACEBACK_LIMIT), time.time(), fields)
        _hand_over(event, level, message, fields)
        return None

    def emit(self, record: logging.LogRecord) -> None:
        """Writes an ordinary record, after the lines that wait."""
        self._write_waiting()
        super().emit(record)

    def flush(self) -> None:
        """Writes the lines that wait. `logging.shutdown` calls it at the end of the process."""
        self._write_waiting()
        try:
            super().flush()
        except Exception:  # noqa: BLE001 - as above; nothing catches it at the end of a turn
            self.handleError(_NO_RECORD)

    def _write_waiting(self) -> None:
        with self.lock or nullcontext():
            if not self._waiting:
                return
            text = "".join(self._waiting)
            self._waiting.clear()
            try:
                self.stream.write(text)
            except Exception:  # noqa: BLE001 - as above
                self.handleError(_NO_RECORD)

    def _is_alone(self, level: int) -> bool:
        """Whether a record would come to this handler, unchanged, and to no other. A plugin may have changed any of that.

        Sentry adds no handler: it replaces `Logger.callHandlers` by its own function.
        """
        return (
            level >= logger.level
            and logger.handlers == [self]
            and logging.Logger.callHandlers.__module__ == logging.__name__
            and not logger.propagate
            and self.formatter is self._form
            and level >= self.level
            and not (logger.filters or self.filters)
        )

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002 - logging's name and signature
        """Writes that a record was lost. The standard library would print a traceback of many lines."""
        error = sys.exc_info()[1]
        why = "unknown" if error is None else error_type(error)
        lost = logger.makeRecord(logger.name, logging.ERROR, "", 0, f"log record lost: {why}", (), None)
        with suppress(OSError, ValueError):  # the stream itself is gone
            self.stream.write(self.format(lost) + self.terminator)
            super().flush()  # not our `flush`, which would call this again without end

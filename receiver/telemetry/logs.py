"""Events → lines: what each event says, how loud, and that somebody hears it. `receiver.telemetry.formats` gives lines their form.

Deliveries that were acked are INFO, nacks that are ordinary business (429) INFO, what somebody should
look at WARNING or ERROR. A failed task's traceback goes into `stack_trace`, where Error Reporting finds it.

Every delivery has its line, so a line has to be cheap: where nobody else listens, an event becomes text without a LogRecord
in between (JSON: 34 µs with one and 18 µs without, its write included, of a delivery's 250).
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from receiver.contract.failure import TRACEBACK_LIMIT, Failure, error_type
from receiver.endings.outcomes import (
    Abandoned,
    Broken,
    Denied,
    Ending,
    Exhausted,
    Failed,
    Full,
    Lost,
    Oversized,
    Refused,
    Skipped,
    Unrecorded,
)
from receiver.telemetry.events import Delivered, Emit, Event, ReceiverTrouble, ServiceState
from receiver.telemetry.formats import OURS, JsonFormatter, TerminalFormatter
from receiver.text import clean

if TYPE_CHECKING:
    from receiver.settings import Settings

_WARNINGS, _ERRORS = (Denied, Refused, Oversized, Exhausted), (Failed, Abandoned, Lost, Unrecorded, Broken)
_LEVELS = dict.fromkeys(_WARNINGS, logging.WARNING) | dict.fromkeys(_ERRORS, logging.ERROR)
"""Of the endings that are no ordinary business."""


_NO_RECORD = logging.makeLogRecord({})

logger = logging.getLogger(OURS)


def configure(settings: Settings, stream: TextIO | None = None) -> Emit:
    """Sets the process's logging up and returns where events go. `stream` defaults to standard error."""
    handler = _Lines(
        stream or sys.stderr, JsonFormatter(settings) if settings.on_cloud_run else TerminalFormatter()
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    logging.disable(logging.NOTSET)
    logger.disabled = False  # `dictConfig` disables every logger that it does not name
    logger.setLevel(logging.NOTSET)
    root.setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(
        logging.WARNING
    )  # a line for every fetch of certificates tells nobody anything
    logging.captureWarnings(True)  # noqa: FBT003 - the standard library's signature
    return handler.take


def record(event: Event) -> None:
    """The subscriber where logging is somebody else's: renders an event into one log record."""
    level, message, fields = _rendered(event)
    if logger.isEnabledFor(level):
        _hand_over(level, message, fields)


def _hand_over(level: int, message: str, fields: dict[str, Any]) -> None:
    # Not `logger.log`: who called would be looked up in the stack, and nobody shows it.
    logger.handle(logger.makeRecord(logger.name, level, "", 0, message, (), None, extra={"fields": fields}))


def _rendered(event: Event) -> tuple[int, str, dict[str, Any]]:
    match event:
        case Delivered():
            return _delivered(event)
        case ReceiverTrouble(what=what, why=why, task_id=task_id, error=error):
            failure = Failure.of(error) if error is not None else None
            fields = {"task_id": task_id, "stack_trace": failure.traceback if failure else None}
            return logging.ERROR, f"{what}: {why}", fields
        case ServiceState(what=what):
            return logging.INFO, what, {}


def _delivered(event: Delivered) -> tuple[int, str, dict[str, Any]]:
    ending = event.ending
    failure = ending.failure if isinstance(ending, Failed) else None
    fields = {
        "status": event.status,
        "ending": type(ending).__name__,
        "task_name": event.task_name,
        "task_id": event.task_id,
        "attempt": event.attempt,
        "message_id": event.message_id,
        "seconds": round(event.seconds, 6),
        "trace": event.trace,
        "stack_trace": failure.traceback if failure else None,
        "error_type": failure.error_type if failure else None,
    }
    why = _why(ending)
    name = event.task_name or "push"
    return (
        _LEVELS.get(type(ending), logging.INFO),
        f"{event.status} {name}: {type(ending).__name__}{f' ({why})' if why else ''}",
        fields,
    )


def _why(ending: Ending) -> str | None:
    match ending:
        case Failed(failure=failure):
            return f"{failure.error_type}: {failure.message}"
        case Denied(reason=reason):
            return reason
        case Refused(reason=reason, detail=detail):
            return f"{reason}: {detail}"
        case Full(resource=resource):
            return f"no {resource}"
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
    """The one line of a start that is refused, as JSON: its settings may be what is wrong, so that none is needed."""
    line = {
        "severity": "CRITICAL",
        "message": clean(message, TRACEBACK_LIMIT),
        "time": datetime.now(UTC).isoformat(),
    }
    return msgspec.json.encode(line).decode()


class _Lines(logging.StreamHandler[TextIO]):
    """Writes lines; a record that cannot be made into one costs its content, not the form of the log.

    The lines of the deliveries that one turn of the event loop answers are written together, at its end, as their answers are:
    a write for each took 25 µs. Whatever else is logged is written at once, behind what waits.
    """

    def __init__(self, stream: TextIO, form: JsonFormatter | TerminalFormatter) -> None:
        super().__init__(stream)
        self._form = form
        self._waiting: list[str] = []
        self.setFormatter(form)

    def take(self, event: Event) -> None:
        """The subscriber of a process whose logging is ours."""
        level, message, fields = _rendered(event)
        if not logger.isEnabledFor(level):
            return
        if not self._is_alone(level):
            _hand_over(level, message, fields)
            return
        try:
            line = self._form.line(level, clean(message, TRACEBACK_LIMIT), time.time(), fields)
        except Exception:  # noqa: BLE001 - as in `emit`: what cannot be shown costs a line and nothing else
            self.handleError(_NO_RECORD)
            return
        loop = _running_loop() if isinstance(event, Delivered) else None
        with self.lock or nullcontext():
            self._waiting.append(line + self.terminator)
            if loop is None:
                self.flush()
            elif len(self._waiting) == 1:
                loop.call_soon(self.flush)

    def forget(self) -> None:
        """Drops what waits: in a forked child, because its parent writes it."""
        self._waiting.clear()

    def emit(self, record: logging.LogRecord) -> None:
        """An ordinary record, behind what waits."""
        self._write_waiting()
        super().emit(record)

    def flush(self) -> None:
        """Writes what waits; the end of the process asks for it as well."""
        self._write_waiting()
        try:
            super().flush()
        except Exception:  # noqa: BLE001 - as above; nobody would catch it at the end of a turn
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
        """Whether a record would come here, as it is, and nowhere else: a plugin may have changed any of that.

        Sentry adds no handler: it puts a function of its own in the place of `Logger.callHandlers`.
        """
        return (
            logging.root.handlers == [self]
            and logging.Logger.callHandlers.__module__ == logging.__name__
            and logger.propagate
            and self.formatter is self._form
            and level >= self.level
            and not (logger.handlers or logger.filters or self.filters)
        )

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002 - logging's name and signature
        """Says that a record was lost. The standard library would print a traceback of many lines."""
        error = sys.exc_info()[1]
        why = "unknown" if error is None else error_type(error)
        lost = logger.makeRecord(logger.name, logging.ERROR, "", 0, f"log record lost: {why}", (), None)
        with suppress(OSError, ValueError):  # the stream itself is gone: nobody can be told
            self.stream.write(self.format(lost) + self.terminator)
            super().flush()  # our own would come back here, without end


def _forget() -> None:
    for handler in logging.root.handlers:
        if isinstance(handler, _Lines):
            handler.forget()


os.register_at_fork(after_in_child=_forget)

"""The form of a log line: JSON as Cloud Logging reads it, or text for a terminal.

Every event is one line, whatever text it has: the JSON encoder escapes everything, the terminal gets control characters written
out. A record that cannot be formatted, because its arguments' own code fails, still becomes a line.

What a task logs has its execution's id, name and attempt, and the trace of its delivery. An application that configures logging
for itself may use the form for its own handlers: `"()": "receiver.telemetry.formats.JsonFormatter"` among its formatters.
"""

from __future__ import annotations

import logging
import os
import re
import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from receiver.contract.failure import TRACEBACK_LIMIT, Failure
from receiver.settings import Settings
from receiver.tasks.running import running
from receiver.telemetry.events import Delivered
from receiver.telemetry.extras import LABELS, SAMPLED, SOURCE, SPAN, TRACE, Said, place
from receiver.text import TRACEPARENT, clean

ERROR_EVENT = "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent"
"""Error Reporting picks up lines of this `@type`."""

LOGGER_NAME = "receiver"
"""The logger of our own lines; their `extra` is the fields of an event."""

SHOWN = 200
"""A terminal shows this many characters of an extra."""

_SEVERITIES = [(50, "CRITICAL"), (40, "ERROR"), (30, "WARNING"), (20, "INFO"), (1, "DEBUG"), (0, "DEFAULT")]
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_encode = msgspec.json.Encoder().encode


class _Success(msgspec.Struct, omit_defaults=True):
    """The line of a delivery that succeeded, its fields in the order in which `JsonFormatter.line` writes them."""

    severity: str
    message: str
    time: datetime
    labels: dict[str, str] = msgspec.field(name=LABELS)
    status: int
    ending: str
    task_name: str | None = None
    task_id: str | None = None
    attempt: int | None = None
    message_id: str | None = None
    seconds: float | None = None
    trace: str | None = msgspec.field(name=TRACE, default=None)
    span: str | None = msgspec.field(name=SPAN, default=None)
    sampled: bool | None = msgspec.field(name=SAMPLED, default=None)
    metadata: dict[str, str] | None = None


class LineFormatter(logging.Formatter):
    """Makes lines of log records, and of events without a record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        said = Said.of(record)
        trail = {}
        if record.exc_info and record.exc_info[1] is not None:
            trail["stack_trace"] = Failure.of(record.exc_info[1]).traceback
        if record.name == LOGGER_NAME:
            return self.line(record.levelno, said.message, record.created, said.extras | trail)
        return self.told(record, said, trail)

    def line(self, level: int, message: str, at: float, fields: dict[str, Any]) -> str:
        """The line of an event at a time in seconds since 1970."""
        raise NotImplementedError

    def succeeded(self, event: Delivered, at: float) -> str:
        """As `line`, of a delivery that succeeded: what nearly every line is, made from its values without a dict."""
        raise NotImplementedError

    def told(self, record: logging.LogRecord, said: Said, trail: dict[str, Any]) -> str:
        """The line of a record of others: of a task or a library."""
        raise NotImplementedError


class JsonFormatter(LineFormatter):
    """One JSON object a line, in Cloud Logging's special fields.

    Args:
        settings: from the environment, unless given.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__()
        settings = settings or Settings.from_environ(os.environ)
        self._project = settings.project_id
        self._labels = {"instance": _encodable(settings.instance), "namespace": settings.namespace}
        self._context = {
            "service": _encodable(settings.service_name or "receiver"),
            "version": _encodable(settings.revision or ""),
        }

    def line(self, level: int, message: str, at: float, fields: dict[str, Any]) -> str:
        """The line of an event at a time in seconds since 1970; fields that are None are left out."""
        line = self._begun(level, message, at)
        for key, value in fields.items():
            if value is None:
                continue
            if key == "trace":
                line |= self._trace(value)
            else:
                line[key] = value
        return self._ended(line)

    def succeeded(self, event: Delivered, at: float) -> str:
        """As `line`, of a delivery that succeeded."""
        trace = self._trace(event.trace) if event.trace is not None else {}
        line = _Success(
            "INFO",
            f"{event.status} {event.task_name}: Succeeded",
            datetime.fromtimestamp(at, UTC),
            self._labels,
            event.status,
            "Succeeded",
            event.task_name,
            event.task_id,
            event.attempt,
            event.message_id,
            round(event.seconds, 6),
            trace.get(TRACE),
            trace.get(SPAN),
            trace.get(SAMPLED),
            event.metadata,
        )
        return _encode(line).decode()

    def told(self, record: logging.LogRecord, said: Said, trail: dict[str, Any]) -> str:
        """The line of a record, with the execution that it belongs to."""
        line = self._begun(record.levelno, said.message, record.created)
        line["logger"] = record.name
        line[SOURCE] = {"file": record.pathname, "line": str(record.lineno), "function": record.funcName}
        here = running.get()
        if here is not None:
            line |= {"task_name": here.task_name, "task_id": here.task_id, "attempt": here.attempt}
            if here.metadata:
                line["metadata"] = here.metadata
            if here.trace is not None:
                line |= self._trace(here.trace)
        line |= trail
        if record.stack_info:
            line["stack_info"] = clean(record.stack_info, TRACEBACK_LIMIT)
        if said.fields or said.extras:
            place(line, said)
        return self._ended(line, is_error="stack_trace" in trail)

    def _begun(self, level: int, message: str, at: float) -> dict[str, Any]:
        return {
            "severity": next(name for least, name in _SEVERITIES if level >= least),
            "message": message,
            "time": datetime.fromtimestamp(at, UTC),
            LABELS: self._labels,
        }

    def _ended(self, line: dict[str, Any], *, is_error: bool | None = None) -> str:
        if "stack_trace" in line if is_error is None else is_error:
            line["@type"] = ERROR_EVENT
            line["serviceContext"] = self._context
        try:
            return _encode(line).decode()
        except UnicodeEncodeError:  # a lone surrogate, which no encoder takes
            return _encode({key: _encodable(value) for key, value in line.items()}).decode()

    def _trace(self, traceparent: str) -> dict[str, Any]:
        match = TRACEPARENT.fullmatch(traceparent)
        if match is None or not self._project:
            return {}
        trace, span, flags = match.groups()
        return {
            TRACE: f"projects/{self._project}/traces/{trace}",
            SPAN: span,
            SAMPLED: bool(int(flags, 16) & 1),
        }


class TerminalFormatter(LineFormatter):
    """Time, level, message; a traceback below it."""

    _second, _clock = -1, ""

    def line(self, level: int, message: str, at: float, fields: dict[str, Any]) -> str:
        """The line of an event at a time in seconds since 1970, and the lines of its traceback."""
        trail = (fields.get("stack_trace") or fields.get("stack") or "").rstrip().splitlines()
        parts = [
            part if part.isprintable() else _CONTROL.sub(_written_out, part) for part in (message, *trail)
        ]
        return f"{self._time(at)} {logging.getLevelName(level):<7} " + "\n    ".join(parts)

    def succeeded(self, event: Delivered, at: float) -> str:
        """As `line`, of a delivery that succeeded."""
        message = f"{event.status} {event.task_name}: Succeeded"
        if message.isprintable():
            return f"{self._time(at)} INFO    {message}"
        return self.line(logging.INFO, message, at, {})

    def _time(self, at: float) -> str:
        """The clock's text, made once a second."""
        if int(at) != self._second:
            self._second, self._clock = int(at), time.strftime("%H:%M:%S", time.localtime(at))
        return self._clock

    def told(self, record: logging.LogRecord, said: Said, trail: dict[str, Any]) -> str:
        """The line of a record: its task before the message, what else it has behind it."""
        here = running.get()
        shown: dict[str, Any] = {LABELS: {}}
        place(shown, said)
        names = {
            key: key.removeprefix("logging.googleapis.com/") for key, value in shown.items() if value != {}
        }
        rest = [f"{name}={clean(str(shown[key]), SHOWN)}" for key, name in names.items()]
        text = " ".join([*([f"[{here.task_name}]"] if here is not None else []), said.message, *rest])
        if record.stack_info:
            trail = trail | {"stack_trace": trail.get("stack_trace", "") + record.stack_info}
        return self.line(record.levelno, text, record.created, trail)


def _written_out(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()


def _encodable(value: Any) -> Any:
    """Text without lone surrogates; any other value as it is."""
    return clean(value, 2 * TRACEBACK_LIMIT) if isinstance(value, str) else value

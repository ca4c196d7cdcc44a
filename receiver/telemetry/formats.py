"""What a line of the log looks like: JSON in Cloud Logging's form, or readable on a terminal.

One line an event, whatever it holds: in JSON everything is escaped by the encoder, on a terminal control characters are
written out. Nothing that a record holds, and nothing that its arguments do when they are formatted, costs the form of the log.
"""

from __future__ import annotations

import logging
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from receiver.contract.failure import TRACEBACK_LIMIT, Failure, error_type
from receiver.text import TRACEPARENT, clean

if TYPE_CHECKING:
    from receiver.settings import Settings

ERROR_EVENT = "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent"
"""What makes Error Reporting pick a line up."""

OURS = "receiver"
"""The logger whose records carry `fields`."""

_SEVERITIES = [(50, "CRITICAL"), (40, "ERROR"), (30, "WARNING"), (20, "INFO"), (1, "DEBUG")]
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_encode = msgspec.json.Encoder().encode


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in Cloud Logging's special fields."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._project = settings.project_id
        self._labels = {"instance": _storable(settings.instance), "namespace": settings.namespace}
        self._context = {
            "service": _storable(settings.service_name or "receiver"),
            "version": _storable(settings.revision or ""),
        }

    def format(self, entry: logging.LogRecord) -> str:
        """The record as one line."""
        fields = _fields(entry)
        if trail := _trail(entry):
            fields = fields | {"stack_trace": trail}
        if entry.name != OURS:
            fields = fields | {"logger": _storable(entry.name)}
        return self.line(entry.levelno, _message(entry), entry.created, fields)

    def line(self, level: int, message: str, at: float, fields: dict[str, Any]) -> str:
        """The line of a message at a time in seconds since 1970."""
        line: dict[str, Any] = {
            "severity": _severity(level),
            "message": message,
            "time": datetime.fromtimestamp(at, UTC).isoformat(),
            "logging.googleapis.com/labels": self._labels,
        }
        for key, value in fields.items():
            if value is None:
                continue
            if key == "trace":
                line |= self._trace(value)
            else:
                line[key] = value
        if "stack_trace" in line:
            line["@type"] = ERROR_EVENT
            line["serviceContext"] = self._context
        try:
            return _encode(line).decode()
        except UnicodeEncodeError:  # a lone surrogate, which no encoder takes
            return _encode({key: _storable(value) for key, value in line.items()}).decode()

    def _trace(self, traceparent: str) -> dict[str, Any]:
        match = TRACEPARENT.fullmatch(traceparent)
        if match is None or not self._project:
            return {}
        trace, span, flags = match.groups()
        return {
            "logging.googleapis.com/trace": f"projects/{self._project}/traces/{trace}",
            "logging.googleapis.com/spanId": span,
            "logging.googleapis.com/trace_sampled": bool(int(flags, 16) & 1),
        }


class TerminalFormatter(logging.Formatter):
    """Time, level, message; a traceback below it."""

    def format(self, entry: logging.LogRecord) -> str:
        """The record as one line, and the lines of its traceback."""
        fields = _fields(entry)
        if trail := _trail(entry):
            fields = {"stack_trace": trail} | fields
        return self.line(entry.levelno, _message(entry), entry.created, fields)

    def line(self, level: int, message: str, at: float, fields: dict[str, Any]) -> str:
        """The line of a message at a time in seconds since 1970."""
        clock = time.strftime("%H:%M:%S", time.localtime(at))
        shown = message if message.isprintable() else _CONTROL.sub(_visible, message)
        line = f"{clock} {logging.getLevelName(level):<7} {shown}"
        if trail := fields.get("stack_trace"):
            parts = [_CONTROL.sub(_visible, part) for part in trail.rstrip().splitlines()]
            line = "\n    ".join([line, *parts])
        return line


def _fields(entry: logging.LogRecord) -> dict[str, Any]:
    """What `record` gave; another library's `extra` may have the same name."""
    fields: dict[str, Any] = getattr(entry, "fields", {}) if entry.name == OURS else {}
    return fields


def _severity(level: int) -> str:
    """Cloud Logging's name of a level, those that a library made up included."""
    return next((name for least, name in _SEVERITIES if level >= least), "DEFAULT")


def _message(entry: logging.LogRecord) -> str:
    """The message, bounded. Arguments that do not fit it must not cost the line."""
    try:
        text = entry.getMessage()
    except Exception as error:  # noqa: BLE001 - formatting calls the arguments' own code
        template = entry.msg if type(entry.msg) is str else f"<{error_type(error)}>"
        text = f"{template} (cannot be formatted: {Failure.of(error).message})"
    return clean(text, TRACEBACK_LIMIT)


def _trail(entry: logging.LogRecord) -> str | None:
    """The traceback of a record logged with `exc_info`."""
    error = entry.exc_info[1] if entry.exc_info else None
    return None if error is None else Failure.of(error).traceback


def _visible(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()


def _storable(value: Any) -> Any:
    """Text without lone surrogates, which no encoder takes; everything else as it is."""
    return clean(value, 2 * TRACEBACK_LIMIT) if isinstance(value, str) else value

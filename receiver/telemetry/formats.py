"""The form of a log line: JSON as Cloud Logging reads it, or text for a terminal.

Every event is one line, whatever text it has: the JSON encoder escapes everything, the terminal gets control characters written
out. A record that cannot be formatted, because its arguments' own code fails, still becomes a line.
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
"""Error Reporting picks up lines of this `@type`."""

LOGGER_NAME = "receiver"
"""The logger whose records have `fields`."""

_SEVERITIES = [(50, "CRITICAL"), (40, "ERROR"), (30, "WARNING"), (20, "INFO"), (1, "DEBUG"), (0, "DEFAULT")]
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_encode = msgspec.json.Encoder().encode


class LineFormatter(logging.Formatter):
    """Makes lines of log records, and of events without a record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        is_ours = record.name == LOGGER_NAME  # another library's `extra` may have the same name
        fields: dict[str, Any] = getattr(record, "fields", {}) if is_ours else {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            fields = fields | {"stack_trace": Failure.of(record.exc_info[1]).traceback}
        return self.line(record.levelno, _message(record), record.created, fields)

    def line(self, level: int, message: str, at: float, fields: dict[str, Any]) -> str:
        """The line of a message at a time in seconds since 1970."""
        raise NotImplementedError


class JsonFormatter(LineFormatter):
    """One JSON object a line, in Cloud Logging's special fields."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._project = settings.project_id
        self._labels = {"instance": _encodable(settings.instance), "namespace": settings.namespace}
        self._context = {
            "service": _encodable(settings.service_name or "receiver"),
            "version": _encodable(settings.revision or ""),
        }

    def line(self, level: int, message: str, at: float, fields: dict[str, Any]) -> str:
        """The line of a message at a time in seconds since 1970; fields that are None are left out."""
        line: dict[str, Any] = {
            "severity": next(name for least, name in _SEVERITIES if level >= least),
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
            return _encode({key: _encodable(value) for key, value in line.items()}).decode()

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


class TerminalFormatter(LineFormatter):
    """Time, level, message; a traceback below it."""

    def line(self, level: int, message: str, at: float, fields: dict[str, Any]) -> str:
        """The line of a message at a time in seconds since 1970, and the lines of its traceback."""
        clock = time.strftime("%H:%M:%S", time.localtime(at))
        trail = (fields.get("stack_trace") or "").rstrip().splitlines()
        parts = [
            part if part.isprintable() else _CONTROL.sub(_written_out, part) for part in (message, *trail)
        ]
        return f"{clock} {logging.getLevelName(level):<7} " + "\n    ".join(parts)


def _message(record: logging.LogRecord) -> str:
    """The message, bounded. Arguments that do not fit it must not cost the line."""
    try:
        text = record.getMessage()
    except Exception as error:  # noqa: BLE001 - formatting calls the arguments' own code
        template = record.msg if type(record.msg) is str else f"<{error_type(error)}>"
        text = f"{template} (cannot be formatted: {Failure.of(error).message})"
    return clean(text, TRACEBACK_LIMIT)


def _written_out(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()


def _encodable(value: Any) -> Any:
    """Text without lone surrogates; any other value as it is."""
    return clean(value, 2 * TRACEBACK_LIMIT) if isinstance(value, str) else value

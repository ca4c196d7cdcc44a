"""A call becomes a row. Arguments that cannot be stored, published or delivered are refused here, where the call was made.

Invariant: `receiver.contract.message.decode`, jsonb and Pub/Sub take every row that is made here. The task gets
equal values, except that a tuple arrives as a list. Nothing is converted silently, for example a date to text.

Next: `receiver.enqueue.outbox` writes the row.
"""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
import uuid_utils

from receiver.contract.message import MAX_DEPTH, check_arguments
from receiver.errors import Rejected
from receiver.google.pubsub import MAX_DATA
from receiver.record.sql.outbox import NewRow
from receiver.tasks.running import running
from receiver.text import is_storable

if TYPE_CHECKING:
    from receiver.tasks.call import Entry, Options

ROOM: Final = 2000
"""Bytes of a message beside its arguments, at most: id, name, time, and the JSON between them."""


def _plain(value: Any) -> Any:
    """The plain value of a subclass of JSON's types, such as Django's safe strings."""
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind.__str__(value) if kind is str else kind(value)
    raise TypeError(f"a {type(value).__qualname__} is not JSON")


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_plain)


def row_of(entry: Entry) -> NewRow:
    """The row of a call, with a new id. Ids grow with time, which keeps the record's index compact.

    Raises:
        TypeError: an argument is not JSON, or more than a message holds. The line names the task and the place.
    """
    task, options = entry.task, entry.options
    if task.path.startswith("__main__."):
        raise TypeError(
            f"{task.path} is defined in the script that runs, which the receiver cannot import: move it to a module"
        )
    args, kwargs = _encoded(entry)
    size = ROOM + len(args) + len(kwargs)
    if size > MAX_DATA:
        raise TypeError(
            f"{task.path}: its arguments have {size} bytes as JSON, a message holds {MAX_DATA}; "
            "store them somewhere and enqueue where they are"
        )
    after = options.run_after
    delay = after if isinstance(after, timedelta) else None  # from the insert on, by the database's clock
    return NewRow(
        task_id=str(uuid_utils.uuid7()),
        task_name=task.name,
        task_path=task.path,
        args=args.decode(),
        kwargs=kwargs.decode(),
        run_after=after.astimezone(UTC) if isinstance(after, datetime) else None,
        delay=delay,
        group_key=options.group_key,
        label=options.label,
        trace=traceparent(options),
    )


def traceparent(options: Options) -> str | None:
    """The W3C trace context of a call: the given one, else OpenTelemetry's current span, else that of the delivery that runs here."""
    if options.traceparent is not None:
        return options.traceparent
    # An application that traces has imported it already.
    tracing: Any = sys.modules.get("opentelemetry.trace")
    if tracing is not None:
        span = tracing.get_current_span().get_span_context()
        if span.is_valid:
            return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags & 0xFF:02x}"
    here = running.get()
    return None if here is None else here.trace


def _encoded(entry: Entry) -> tuple[bytes, bytes]:
    """Both kinds of arguments as JSON text."""
    given = {"args": list(entry.args), "kwargs": entry.kwargs}
    try:
        texts = (_ENCODER.encode(given["args"]), _ENCODER.encode(given["kwargs"]))
        args, kwargs = check_arguments(*texts)
    except Rejected as rejected:
        raise TypeError(f"{entry.task.path}: no message can carry the arguments: {rejected.detail}") from None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        why = _fault_of(given) or f"the arguments are not JSON: {error}"
        raise TypeError(f"{entry.task.path}: {why}") from None
    # The task gets what JSON gives back. If that differs, there is a tuple in the arguments, or a fault.
    if args != given["args"] or kwargs != given["kwargs"]:
        fault = _fault_of(given)
        if fault is not None:
            raise TypeError(f"{entry.task.path}: {fault}")
    return texts


def _fault_of(given: dict[str, Any]) -> str | None:
    return next(filter(None, (_fault(value, name) for name, value in given.items())), None)


def _fault(value: Any, place: str, depth: int = 0) -> str | None:  # noqa: PLR0911 - a table: one line a kind
    """The first place with a value that JSON cannot carry, and why; None when there is none."""
    if depth > MAX_DEPTH:
        return f"{place[:60]}... is nested more than {MAX_DEPTH} levels deep, or contains itself"
    match value:
        case str():
            return _text_fault(value, place)
        case float() if not math.isfinite(value):
            return f"{place} is {value}, which JSON does not have"
        case bool() | int() | float() | None:
            return None
        case list() | tuple():
            faults = (_fault(each, f"{place}[{index}]", depth + 1) for index, each in enumerate(value))
            return next(filter(None, faults), None)
        case dict():
            faults = (_entry_fault(key, each, place, depth) for key, each in value.items())
            return next(filter(None, faults), None)
        case _:
            return f"{place} is a {type(value).__qualname__}, which is not JSON: pass text, numbers, lists or dicts"


def _entry_fault(key: Any, value: Any, place: str, depth: int) -> str | None:
    if not isinstance(key, str):
        return f"{place} has the key {key!r}; JSON's keys are text"
    return _text_fault(key, place) or _fault(value, f"{place}[{key!r}]", depth + 1)


def _text_fault(value: str, place: str) -> str | None:
    return (
        None if is_storable(value) else f"{place} holds a lone surrogate or NUL, which no message can carry"
    )

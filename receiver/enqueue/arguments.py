"""A call becomes a row: what can not be delivered, stored or published is refused here, where it was called.

Invariant: whatever passes is taken by `receiver.contract.message.decode` on the other side, by jsonb, and by Pub/Sub. The task is given
equal values, except that a tuple arrives as a list: nothing is turned into something else behind the caller's back, a date
into text for one.

Next: `receiver.enqueue.outbox` writes the row.
"""

from __future__ import annotations

import math
import sys
from datetime import UTC, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import msgspec
import uuid_utils

from receiver.contract.message import MAX_DEPTH, check_arguments
from receiver.errors import Rejected
from receiver.google.pubsub import MAX_DATA
from receiver.record.sql.outbox import NewRow
from receiver.tasks.backend import running_trace
from receiver.text import is_storable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from receiver.tasks.call import Entry, Options

ROOM: Final = 2000
"""Bytes of a message beside its arguments, at most: id, name and time, and what JSON puts between them."""

LONGEST_FLOAT: Final = 330
"""Digits of a float that is written out, at most: 5e-324 has 324 after its point."""


def _plain(value: Any) -> Any:
    """A subclass of JSON's own types, as Django's safe strings are: its value."""
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind.__str__(value) if kind is str else kind(value)
    raise TypeError(f"a {type(value).__qualname__} is not JSON")


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_plain)


def row_of(entry: Entry) -> NewRow:
    """The row of a call, with a new id; ids grow with time, which keeps the record's index compact.

    Raises:
        TypeError: an argument is not JSON, or more than a message holds. The line names the task and the place.
    """
    task, options = entry.task, entry.options
    if task.path.startswith("__main__."):
        raise TypeError(
            f"{task.path} is defined in the script that runs, which the receiver knows by no name: move it to a module"
        )
    args, kwargs = _encoded(entry)
    size = ROOM + _stored_size(entry, args, kwargs)
    if size > MAX_DATA:
        raise TypeError(
            f"{task.path}: its arguments have {size} bytes as JSON, a message holds {MAX_DATA}; "
            "store them somewhere and enqueue where they are"
        )
    run_after, delay = _due(options)
    return NewRow(
        task_id=str(uuid_utils.uuid7()),
        task_name=task.name,
        task_path=task.path,
        args=args.decode(),
        kwargs=kwargs.decode(),
        run_after=run_after,
        delay=delay,
        group_key=options.group_key,
        label=options.label,
        trace=traceparent(options),
    )


def _stored_size(entry: Entry, args: bytes, kwargs: bytes) -> int:
    """Bytes of the arguments as PostgreSQL gives them back, which writes 1e308 out: the sweeper publishes those."""
    size = len(args) + len(kwargs)
    if size + LONGEST_FLOAT * (args.count(b"e") + kwargs.count(b"e")) <= MAX_DATA:  # nearly always
        return size
    return size + sum(len(format(Decimal(repr(each)), "f")) for each in _floats([entry.args, entry.kwargs]))


def _floats(value: Any) -> Iterator[float]:
    match value:
        case float():
            yield value
        case list() | tuple():
            for each in value:
                yield from _floats(each)
        case dict():
            yield from _floats(list(value.values()))
        case _:
            return


def traceparent(options: Options) -> str | None:
    """The W3C trace context of a call: the one given, else OpenTelemetry's here, else that of the delivery that runs here."""
    if options.traceparent is not None:
        return options.traceparent
    # Who traces has imported it; who has not needs no import of it.
    tracing: Any = sys.modules.get("opentelemetry.trace")
    if tracing is not None:
        span = tracing.get_current_span().get_span_context()
        if span.is_valid:
            return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags & 0xFF:02x}"
    return running_trace.get()


def _due(options: Options) -> tuple[Any, timedelta | None]:
    """A moment, or a time from the insert on: the database's clock is what counts."""
    after = options.run_after
    if isinstance(after, timedelta):
        return None, after
    return (after.astimezone(UTC) if after is not None else None), None


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
    # What JSON gives back is what the task gets. Where that is the same nothing was lost; else a tuple may be why, or a fault.
    if args != given["args"] or kwargs != given["kwargs"]:
        fault = _fault_of(given)
        if fault is not None:
            raise TypeError(f"{entry.task.path}: {fault}")
    return texts


def _fault_of(given: dict[str, Any]) -> str | None:
    return next(filter(None, (_fault(value, name) for name, value in given.items())), None)


def _fault(value: Any, place: str, depth: int = 0) -> str | None:  # noqa: PLR0911 - a table: one line a kind
    """The first place whose value JSON has no equal for, and why; None when there is none."""
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

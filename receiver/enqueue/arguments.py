"""A call becomes a row. What cannot be published is refused here, where the call was made; its task has encoded the arguments.

Invariant: `receiver.contract.message`, PostgreSQL and Pub/Sub take every row that is made here.

Next: `receiver.enqueue.outbox` writes the row.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import uuid_utils

from receiver.contract.metadata import encode_metadata
from receiver.google.pubsub import MAX_DATA
from receiver.record.sql.outbox import NewRow
from receiver.tasks.call import Entry
from receiver.tasks.running import running

if TYPE_CHECKING:
    from collections.abc import Sequence

    from receiver.tasks.call import Options

ROOM: Final = 2000
"""Bytes of a message beside its arguments, at most: id, name, time, and the JSON between them."""


def row_of(entry: Entry) -> NewRow:
    """The row of a call, with a new id. Ids grow with time, which keeps the record's index compact.

    Raises:
        TypeError: the arguments are more than a message holds, or nobody can import the task. The line names the task.
    """
    task, options = entry.task, entry.options
    if task.path.startswith("__main__."):
        raise TypeError(
            f"{task.path} is defined in the script that runs, which the receiver cannot import: move it to a module"
        )
    args, kwargs = entry.encoded
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
        metadata=metadata_of(entry),
    )


def metadata_of(entry: Entry) -> str | None:
    """The metadata of a call as JSON text: that of the execution that runs here, and what `using` has added.

    Raises:
        TypeError: both together are too large.
    """
    here, given = running.get(), entry.options.metadata
    inherited = None if here is None else here.metadata
    if not (inherited or given):
        return None
    try:
        return encode_metadata({**(inherited or {}), **(given or {})})
    except ValueError as error:
        raise TypeError(f"{entry.task.path}: {error}") from None


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


def check_entries(entries: Sequence[Entry]) -> None:
    """Raises TypeError for what `enqueue_many` does not take."""
    for entry in entries:
        if not isinstance(entry, Entry):
            raise TypeError(
                f"enqueue_many takes entries, made by a task's entry(...), not a {type(entry).__qualname__}"
            )
    if any(entry.options.connection is not None for entry in entries):
        raise TypeError("give the connection to enqueue_many itself: one statement writes all its calls")

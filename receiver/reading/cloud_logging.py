"""Where the log lines of an execution are in Cloud Logging."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec

if TYPE_CHECKING:
    from datetime import datetime

    from receiver.reading.queries import Execution

AROUND: Final = timedelta(minutes=10)
"""Lines may be older and younger than the row: the clocks are different ones."""


def query_of(execution: Execution) -> str:
    """The query for what the execution and its deliveries logged. The times make it quick: `jsonPayload` has no index."""
    task_id = msgspec.json.encode(execution.task_id).decode()
    lines = [
        'resource.type="cloud_run_revision"',
        f"jsonPayload.task_id={task_id}",
        f'timestamp>="{_utc(execution.enqueued_at - AROUND)}"',
    ]
    if execution.final and execution.finished_at is not None:
        lines.append(f'timestamp<="{_utc(execution.finished_at + AROUND)}"')
    return "\n".join(lines)


def link_to(query: str, project: str) -> str:
    """The page of the console that shows what the query finds."""
    return f"https://console.cloud.google.com/logs/query;query={quote(query, safe='')}?project={quote(project, safe='')}"


def _utc(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

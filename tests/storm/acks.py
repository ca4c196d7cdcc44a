"""What was answered 200, and when: it must be final, and stay so whatever happens afterwards."""

from __future__ import annotations

import base64
import json
import time

from receiver.emulator.backlog import PubsubMessage
from tests.stage.record import Record

LOST = """
SELECT t.task_id, e.status
FROM unnest($1::text[]) AS t (task_id)
LEFT JOIN task_executions e USING (task_id)
WHERE e.final IS NOT TRUE AND (e.status = 'READY' AND e.published_at IS NULL) IS NOT TRUE
"""
"""Neither final, nor owed by the sweeper."""


class Acks:
    """By execution, when it was first answered 200, by the machine's clock."""

    def __init__(self) -> None:
        self.first: dict[str, float] = {}

    def note(self, task_id: str) -> None:
        """It has just been answered 200."""
        self.first.setdefault(task_id, time.monotonic())

    def delivered(self, message: PubsubMessage) -> None:
        """A message has. Sweeps are not noted: one that finds another at work has its 200 too."""
        task_id: str = json.loads(base64.b64decode(message.data))["task_id"]
        if not task_id.startswith("scheduled-"):
            self.note(task_id)
        elif task_id == "scheduled-nightly":
            self.note(f"{task_id}-{message.message_id}")

    async def lost(self, record: Record) -> list[str]:
        """Those of now that the record does not have so."""
        rows = await record.fetch(LOST, list(self.first))
        return [f"{row['task_id']} was answered 200, and is {row['status'] or 'nowhere'}" for row in rows]

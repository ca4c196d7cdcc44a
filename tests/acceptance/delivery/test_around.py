"""`TASKS_AROUND` in a real process: what it sets is there, in the loop and in the thread."""

from __future__ import annotations

from receiver.emulator import push_client as pusher
from tests.acceptance.conftest import Start
from tests.stage.record import Record
from tests.stage.wire import push


async def test_every_run_is_enclosed(start: Start, database_url: str, record: Record, label: str) -> None:
    instance = start(database_url, {"TASKS_AROUND": "acceptance_tasks:tenant"})
    for task in ("whose", "whose_in_thread"):
        task_id = f"{label}-{task}"
        assert (await push(instance, pusher.message(task, task_id=task_id))).status == 200
        row = await record.row(task_id)
        assert row is not None
        assert row["return_value"] == f"tenant of {task_id}"

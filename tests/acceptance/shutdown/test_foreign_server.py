"""The application under an ASGI server that is not ours: a task that never stops costs the process, in order."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stage.executions import EFFECTS, effects, row_of
from tests.stage.instance import Instance
from tests.stage.receivers import PLUGIN, Marks, Receiver, message, new_label
from tests.stage.record import Record

LEASE = 2


class Foreign(Instance):
    """uvicorn, started as its own documentation says."""

    def launch(self) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "uvicorn",
                "--factory",
                "receiver.app:create_app",
                "--port",
                str(self.port),
            ],
            cwd=self._folder,
            env={
                **self.environ,
                "TASKS_PUSH_AUTH_OFF_ANYWHERE": "on",
                "PYTHONPATH": f"{Path(__file__).parents[3]}:{PLUGIN}",
            },
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )


@pytest.mark.slow
async def test_a_task_that_never_stops_ends_its_process_after_its_neighbours(
    database_url: str, record: Record, marks: Marks
) -> None:
    await record.fetch(EFFECTS)
    instance = Foreign(
        database_url=database_url,
        modules="fault_tasks",
        signer=None,
        certs_url=None,
        folder=PLUGIN,
        env={
            "MARKS_FOLDER": str(marks.folder),
            "TASKS_LEASE_SECONDS": str(LEASE),
            "TASKS_SHUTDOWN_GRACE": "5",
        },
    )
    instance.launch()
    one = Receiver(instance, marks)
    try:
        await one.started()
        neighbour, stuck = new_label(), new_label()
        beside = await one.running("gated_after_effect", neighbour)
        assert (await one.push(message("late_swallowing", stuck))).status == 500
        await one.logged("instance gives up")
        await one.logged("Waiting for connections to close")  # uvicorn's: it has stopped accepting
        marks.open_gate(neighbour)
        assert (await beside).status == 200
        assert await effects(record, neighbour) == 1
        assert await one.exited() != 0
    finally:
        one.close()
    row = await row_of(record, stuck)
    assert (row["status"], row["attempt"]) == ("RUNNING", 1)


async def test_sigterm_ends_it_in_order(database_url: str, record: Record, marks: Marks) -> None:
    instance = Foreign(
        database_url=database_url,
        modules="fault_tasks",
        signer=None,
        certs_url=None,
        folder=PLUGIN,
        env={"MARKS_FOLDER": str(marks.folder)},
    )
    with instance:
        await asyncio.to_thread(instance.stop)
        assert "stopped" in instance.log()
        assert "Traceback" not in instance.log()

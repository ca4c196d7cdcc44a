"""A process that forks: the child enqueues with connections of its own, and the parent's are as they were."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.postgres.outbox import Published
from tests.postgres.record import Look

PROGRAM = """
import os, sys, threading
from receiver.enqueue import pubsub_backend
from receiver.tasks.backend import current
from tests.postgres.outbox import mail

pubsub_backend.CALLER_WAIT = 60.0  # how fast it is, is not the question

def enqueued(who):
    ids = [mail.enqueue(who).id for _ in range(3)]
    os.write(1, "".join(f"{who} {each}\\n" for each in ids).encode())

enqueued("parent")
inherited = current()
children = []
for number in range(3):
    pid = os.fork()
    if pid == 0:
        assert current() is inherited
        enqueued(f"child{number}")
        os._exit(0) if number else sys.exit(0)  # gunicorn's workers end in the one way, multiprocessing's in the other
    children.append(pid)
enqueued("parent")
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
enqueued("parent")
assert codes == [0, 0, 0], codes
assert sum(thread.name == "receiver enqueue" for thread in threading.enumerate()) == 1
"""


@pytest.fixture
def environ(database_url: str, published: Published, project_root: Path) -> dict[str, str]:
    return {
        **os.environ,
        "DATABASE_URL": database_url,
        "GCP_PROJECT_ID": "test",
        "PUBSUB_EMULATOR_HOST": published.host,
        "TASKS_NAMESPACE": "test",
        "PYTHONPATH": str(project_root),
    }


async def test_forked_workers_and_their_parent_all_enqueue(
    environ: dict[str, str], published: Published, look: Look
) -> None:
    process = subprocess.Popen(  # noqa: ASYNC220 - the local Pub/Sub has a thread of its own
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=100)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children too
    assert (process.returncode, errors) == (0, "")
    told = [line.split() for line in output.splitlines()]
    assert sorted(who for who, _ in told) == ["child0"] * 3 + ["child1"] * 3 + ["child2"] * 3 + ["parent"] * 9
    assert published.ids() == sorted(task_id for _, task_id in told)
    assert await look.value("SELECT count(*) FROM task_executions WHERE published_at IS NOT NULL") == 18

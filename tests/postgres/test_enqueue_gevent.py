"""An application that gevent has patched: `enqueue` works from every greenlet, and stops no other one; the process ends, and so do its children."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.postgres.outbox import Published
from tests.postgres.record import Look

PROGRAM = """
from gevent import monkey
monkey.patch_all()

import asyncio, os, sys, threading
from receiver.enqueue import pubsub_backend
import gevent
from sqlalchemy import create_engine
from receiver import enqueue_many
from receiver.tasks import backend as backends
from tests.postgres.outbox import mail

pubsub_backend.CALLER_WAIT = 60.0  # how fast it is, is not the question
turns = 0

def take_turns():
    global turns
    while True:
        turns += 1
        gevent.sleep(0.001)

def enqueue_two(who):
    return [mail.enqueue(who).id for _ in range(2)]

ids = enqueue_two("while no other greenlet works")
other = gevent.spawn(take_turns)
ids += enqueue_two("main") + enqueue_two("main again")
before = turns
ids += enqueue_two("while another greenlet works")
assert turns > before, "an enqueue stopped every greenlet"
greenlets = [gevent.spawn(enqueue_two, f"greenlet {number}") for number in range(20)]
for greenlet in gevent.joinall(greenlets, raise_error=True):
    ids += greenlet.value
thread = threading.Thread(target=lambda: ids.extend(enqueue_two("a patched thread")))
thread.start()
thread.join()
ids += [result.id for result in enqueue_many(mail.entry(f"many {number}") for number in range(100))]

engine = create_engine(os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg2://"))
with engine.begin() as connection:
    committed = mail.using(connection=connection).enqueue("in a transaction")
ids.append(committed.id)
with engine.connect() as connection:
    mail.using(connection=connection).enqueue("rolled back")
    connection.rollback()

async def enqueue_in_a_loop():
    return (await mail.aenqueue("in a loop")).id

ids.append(asyncio.run(enqueue_in_a_loop()))
backends.current().close()
ids += enqueue_two("closed before")
assert {backends.current().get_result(each).status for each in ids} == {"READY"}
print(*ids, sep="\\n", flush=True)
for number in range(2):
    pid = os.fork()
    if pid == 0:
        print(*enqueue_two(f"child {number}"), sep="\\n", flush=True)
        sys.exit()
    assert os.waitpid(pid, 0)[1] == 0
"""


async def test_every_way_to_enqueue_works_in_a_patched_process(
    database_url: str, published: Published, look: Look, project_root: Path
) -> None:
    environ = {
        **os.environ,
        "DATABASE_URL": database_url,
        "GCP_PROJECT_ID": "test",
        "PUBSUB_EMULATOR_HOST": published.host,
        "TASKS_NAMESPACE": "test",
        "PYTHONPATH": str(project_root),
    }
    done = subprocess.run(  # noqa: ASYNC221 - the local Pub/Sub has a thread of its own
        [sys.executable, "-c", PROGRAM], env=environ, capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    ids = sorted(done.stdout.split())
    assert len(ids) == 158
    assert published.ids() == ids
    assert await look.value("SELECT count(*) FROM task_executions WHERE published_at IS NOT NULL") == 158

"""A backup that is restored, and a copy for staging, by pg_dump and pg_restore as docs/operate/copies.md says."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from receiver.endings.outcomes import Done
from receiver.local_postgres import files
from receiver.record.sql.replaying import Filter
from receiver.sweep.operator_replays import OperatorReplays, Told
from receiver.sweep.sweeper import Swept, sweeping
from tests.postgres.record import Instance, Look, call, connect, noop
from tests.postgres.sweeps import WITHIN, Post, Sweeps
from tests.stage.servers import PROGRAMS, LocalServer

COPIES_MD = Path(__file__).resolve().parents[2] / "docs" / "operate" / "copies.md"
AGO = datetime.now(UTC) - timedelta(minutes=10)


@dataclass(frozen=True)
class Restored:
    """The restored database, seen from outside, and the sweeps that use it."""

    url: str
    look: Look
    sweeps: Sweeps

    async def undelivered(self, **changed: str) -> Told:
        """`receiver replay --undelivered`, under changed settings."""
        around = self.sweeps.around
        async with sweeping(replace(around, settings=replace(around.settings, **changed))) as made:  # type: ignore[arg-type]  # fields of settings
            replays: OperatorReplays = made.operator_replays(rate=10_000, limit=100, dry_run=False)
            await replays.undelivered(Filter())
            return replays.told

    async def swept(self, **changed: str) -> Swept:
        """A sweep, under changed settings."""
        around = self.sweeps.around
        async with sweeping(replace(around, settings=replace(around.settings, **changed))) as made:  # type: ignore[arg-type]  # fields of settings
            return await made.sweep(within=WITHIN)


@pytest.fixture
async def restored(
    database_url: str,
    postgres_server: LocalServer,
    look: Look,
    post: Post,
    instance: Instance,
    tmp_path: Path,
) -> AsyncIterator[Restored]:
    """Backed up while one execution ran, one had been published, one waited for its retry, and one was done."""
    await instance.run("done", noop)
    running = await instance.claim("running")
    await look.seed("published", published_at=AGO)
    await look.seed("to be retried", "FAILED", published_at=AGO)
    postgres_server.create_database("restored")
    url = postgres_server.url("restored")
    bin_ = files.find(PROGRAMS).bin
    own = (bin_ / "pg_dump").exists()
    if not own:
        # Archives of older versions come without it. A newer pg_restore sets what an older server does not know, and goes on.
        bin_ = files.find().bin
    dump = tmp_path / "record.dump"
    for program in (
        [bin_ / "pg_dump", "--format=custom", f"--file={dump}", database_url],
        [bin_ / "pg_restore", "--no-owner", f"--dbname={url}", dump],
    ):
        run = partial(subprocess.run, program, capture_output=True, text=True, check=False, timeout=60)
        done = await asyncio.to_thread(run)
        unknown = not own and done.stderr.count("error:") == 1 and '"transaction_timeout"' in done.stderr
        assert done.returncode == 0 or unknown, done.stderr
    with running:  # in the database that is lost, everything goes on, and Pub/Sub has acked it
        pass
    connection = await connect(url)
    await connection.execute(
        "UPDATE task_executions SET published_at = $1, lease_expires_at = lease_expires_at - interval '10 min'"
        " WHERE status = 'RUNNING'",
        AGO,
    )
    yield Restored(url, Look(connection), Sweeps(url, post))
    await connection.close()
    postgres_server.drop_database("restored")


async def test_a_restored_record_goes_on_once_its_messages_are_published_again(
    restored: Restored, post: Post
) -> None:
    waiting = ["published", "running", "to be retried"]
    assert await restored.swept() == Swept(), "it trusts that Pub/Sub has them"
    assert await restored.undelivered() == Told(executions=3)
    assert post.ids() == waiting
    instance = Instance(restored.url, "instance-2")
    for message in post.messages():
        await instance.run(message["task_id"], noop)
    assert await instance.ledger.claim(call("done")) == Done()
    await instance.close()
    rows = await restored.look.connection.fetch("SELECT DISTINCT status FROM task_executions")
    assert [row["status"] for row in rows] == ["SUCCESSFUL"]
    assert await restored.undelivered() == Told()


async def test_a_copy_for_staging_publishes_nothing_of_production_and_can_be_emptied(
    restored: Restored, post: Post
) -> None:
    async def rows() -> list[object]:
        return list(await restored.look.connection.fetch("SELECT * FROM task_executions ORDER BY task_id"))

    await restored.look.execute("UPDATE task_executions SET published_at = NULL WHERE task_id = 'published'")
    before = await rows()
    assert await restored.swept(environment="staging") == Swept()
    assert await restored.undelivered(environment="staging") == Told()
    assert (post.ids(), await rows()) == ([], before)
    await restored.look.seed("ours", environment="staging")
    statements = re.findall(r"DELETE FROM \w+ WHERE environment <> 'staging'", COPIES_MD.read_text())
    assert len(statements) == 2
    for statement in statements:
        await restored.look.execute(statement)
    assert await restored.look.value("SELECT string_agg(task_id, ' ') FROM task_executions") == "ours"
    assert await restored.look.value("SELECT count(*) FROM task_attempts") == 0

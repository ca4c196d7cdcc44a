"""Two revisions on one record: the code of an earlier commit, from its wheel, beside the code of today.

So it is during a rolling deploy, and when a deploy is taken back. Nothing is lost, and nothing runs twice.
"""

from __future__ import annotations

import asyncio
import functools
import json
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from receiver.dev.processes import EMAIL, PROJECT
from receiver.emulator import in_thread, push_client
from receiver.emulator.backlog import PubsubMessage
from receiver.emulator.broker import Broker
from receiver.emulator.in_thread import LocalPubSub
from receiver.emulator.rules import checked
from receiver.emulator.signer import Signer
from receiver.settings import PUSH_PATH
from receiver.tasks.naming import topic_name
from tests.stage.commands import RECEIVER, ROOT, run_command
from tests.stage.executions import EFFECTS, effects, row_of
from tests.stage.instance import Instance
from tests.stage.receivers import PLUGIN
from tests.stage.record import NAMESPACE, Record
from tests.stage.waiting import eventually

pytestmark = pytest.mark.slow

TODAY = str(ROOT)
MODULE = "revision_tasks"
NOBODY = {"PUBSUB_EMULATOR_HOST": "127.0.0.1:9"}
"""No Pub/Sub answers there: what is enqueued is committed, and not published."""

WHEELS = sorted((ROOT / "tests" / "wheels").glob("*/*.whl"))


@dataclass(eq=False)
class House:
    """Receivers of several revisions on one database, behind one Pub/Sub. A revision is the folder of its code."""

    record: Record
    pubsub: LocalPubSub
    signer: Signer
    folder: Path
    started: list[Instance] = field(default_factory=list)

    def environ(self, revision: str) -> dict[str, str]:
        """What leads a cold process to a revision's code."""
        pubsub = {"PUBSUB_EMULATOR_HOST": self.pubsub.host, "TASKS_LEASE_SECONDS": "2"}
        return {"PYTHONPATH": revision, "MARKS_FOLDER": str(self.folder), **pubsub}

    async def serve(self, *revisions: str) -> list[Instance]:
        """One receiver of each, that answers."""
        made = [
            Instance(
                database_url=self.record.url,
                modules=MODULE,
                signer=self.signer,
                certs_url=self.pubsub.certs_url,
                folder=PLUGIN,
                env=self.environ(revision),
            )
            for revision in revisions
        ]
        self.started += made
        await asyncio.gather(*(asyncio.to_thread(one.start) for one in made))
        return made

    async def command(self, revision: str, *arguments: str, **env: str) -> str:
        """A command of that revision; what it printed."""
        environ = self.started[0].environ if self.started else {}
        environ = {
            **environ,
            "DATABASE_URL": self.record.url,
            "TASKS_MODULES": MODULE,
            "GCP_PROJECT_ID": PROJECT,
        }
        environ |= self.environ(revision) | {"RECEIVER_TEST_COLD": "1"} | env
        run = functools.partial(run_command, *arguments, cwd=PLUGIN, env=environ, program=RECEIVER)
        done = await asyncio.to_thread(run)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    async def long_ago(self) -> None:
        """What is owed is owed for so long that a sweep publishes it."""
        await self.record.fetch(
            "UPDATE task_executions SET enqueued_at = enqueued_at - interval '5 min',"
            " publishing_until = publishing_until - interval '5 min' WHERE status = 'READY'"
        )

    def deliver(self, *instances: Instance) -> None:
        """From now on, each of these gets every message: a subscription for each."""

        def put(broker: Broker) -> None:
            for task in ("run", "gated", "hand_on"):
                topic = self.topic(task)
                if topic not in broker.topics:
                    broker.put_topic(topic, {"name": topic})
                for number in range(2):
                    name = f"{topic}-{number}".replace("/topics/", "/subscriptions/")
                    if number < len(instances) or name in broker.subscriptions:
                        url = instances[number % len(instances)].url
                        token = {"serviceAccountEmail": EMAIL, "audience": url}
                        body = {
                            "name": name,
                            "topic": topic,
                            "pushConfig": {"pushEndpoint": url + PUSH_PATH, "oidcToken": token},
                            "retryPolicy": {"minimumBackoff": "0.1s", "maximumBackoff": "0.3s"},
                            "expirationPolicy": {},
                        }
                        broker.put_subscription(name, checked(body))

        self.pubsub.call(put)

    def topic(self, task: str) -> str:
        return f"projects/{PROJECT}/topics/{topic_name('dev', NAMESPACE, f'{MODULE}.{task}')}"

    def publish(self, task: str, *labels: str) -> None:
        """A message for each label, which is its task_id too."""

        def publish(broker: Broker) -> None:
            for label in labels:
                message = push_client.message(task, kwargs={"label": label}, task_id=label)
                broker.publish(self.topic(task), [_inner(message)])

        self.pubsub.call(publish)

    def runs(self, label: str) -> list[str]:
        """Whose code started it, in order."""
        marks = self.folder / f"{label}.runs"
        return marks.read_text().splitlines() if marks.exists() else []

    async def started_by(self, label: str, start: int = 1) -> str:
        """Whose code made this start of it, once it has."""
        return (await eventually(lambda: self.runs(label)[start - 1 :]))[0]

    def open_gate(self, label: str, start: int) -> None:
        (self.folder / f"{label}.open.{start}").touch()

    async def all_done(self) -> list[dict[str, Any]]:
        """Every execution, once nothing is under way: successful, and nothing was rejected."""

        async def settled() -> list[dict[str, Any]]:
            rows = await self.record.fetch("SELECT * FROM task_executions")
            return rows if rows and all(row["final"] for row in rows) else []

        rows: list[dict[str, Any]] = await eventually(settled)
        assert {row["status"] for row in rows} == {"SUCCESSFUL"}
        assert await self.record.fetch("SELECT 1 FROM rejected_messages") == []
        return rows


def _inner(push: bytes) -> PubsubMessage:
    """The message of a push."""
    return PubsubMessage(data=json.loads(push)["message"]["data"])


@pytest.fixture(scope="session", params=WHEELS, ids=lambda wheel: wheel.parent.name)
def earlier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the code of an earlier commit. It runs on the suite's own dependencies."""
    folder = tmp_path_factory.mktemp(request.param.parent.name)
    with zipfile.ZipFile(request.param) as wheel:
        wheel.extractall(folder)
    return str(folder)


@pytest.fixture
async def house(
    empty_database_url: str, earlier: str, signer: Signer, tmp_path: Path
) -> AsyncIterator[House]:
    """The earlier code has made its tables; today's has brought them up to date."""
    with in_thread.running(signer) as pubsub:
        made = House(Record(empty_database_url), pubsub, signer, tmp_path)
        await made.command(earlier, "migrate")
        await made.command(TODAY, "migrate")
        await made.record.fetch(EFFECTS)
        yield made
        for instance in made.started:
            instance.close()


async def test_of_what_both_are_sent_each_is_run_by_one(house: House, earlier: str) -> None:
    house.deliver(*await house.serve(earlier, TODAY))
    sent: list[str] = []
    ran: set[str] = set()
    while ran != {earlier, TODAY}:
        assert len(sent) < 2000, f"only {ran} runs anything"
        labels = [f"both-{number}" for number in range(len(sent), len(sent) + 100)]
        house.publish("run", *labels)
        sent += labels
        rows = await eventually(functools.partial(_all_of, house, len(sent)))
        ran = {row["return_value"].strip('"') for row in rows}
    assert [label for label in sent if len(house.runs(label)) != 1] == []
    assert {row["fence"] for row in await house.all_done()} == {1}


async def _all_of(house: House, count: int) -> list[dict[str, Any]]:
    rows = await house.all_done()
    return rows if len(rows) == count else []


@pytest.mark.parametrize("dies", ["earlier", "today"])
async def test_one_dies_in_the_middle_and_the_other_takes_over(house: House, earlier: str, dies: str) -> None:
    old, new = await house.serve(earlier, TODAY)
    first, second, heir = (old, new, TODAY) if dies == "earlier" else (new, old, earlier)
    house.deliver(first)
    house.publish("gated", "killed")
    await house.started_by("killed")
    first.kill()
    left = await row_of(house.record, "killed")
    house.deliver(second)
    assert await house.started_by("killed", 2) == heir
    house.open_gate("killed", 2)
    (row,) = await house.all_done()
    assert (row["fence"], row["attempt"]) == (2, 1)
    assert row["started_at"] >= left["lease_expires_at"], "not before the lease has ended"
    assert await effects(house.record, "killed") == 1
    assert [line["ending"] for line in await house.record.attempts("killed")] == ["LEASE_EXPIRED"]


async def test_both_sweep_what_nobody_published(house: House, earlier: str) -> None:
    """Committed by enqueuers of both revisions that ended before they published."""
    house.deliver(*await house.serve(earlier, TODAY))
    for revision in (earlier, TODAY):
        await house.command(revision, "enqueue", "run", "--kwargs", '{"label": "copied"}', **NOBODY)
    (columns,) = await house.record.fetch(
        "SELECT string_agg(column_name, ',') AS names FROM information_schema.columns"
        " WHERE table_name = 'task_executions' AND column_name NOT IN ('task_id', 'kwargs') AND is_generated = 'NEVER'"
    )
    await house.record.fetch(
        f"INSERT INTO task_executions (task_id, kwargs, {columns['names']})"  # noqa: S608 - names of this table
        f" SELECT task_id || '-' || n, json_build_object('label', task_id || n), {columns['names']}"
        " FROM task_executions, generate_series(1, 100) n"
    )
    await house.long_ago()
    await asyncio.gather(*(house.command(revision, "sweep") for revision in (earlier, TODAY)))
    rows = await house.all_done()
    assert len(rows) == 202
    assert {row["fence"] for row in rows} == {1}
    labels = [json.loads(row["kwargs"])["label"] for row in rows]
    assert [label for label in set(labels) if len(house.runs(label)) != labels.count(label)] == []


async def test_what_one_enqueues_the_other_runs(house: House, earlier: str) -> None:
    old, new = await house.serve(earlier, TODAY)
    for enqueuer, instance, runner in ((earlier, new, TODAY), (TODAY, old, earlier)):
        house.deliver(instance)
        label = f"for-{instance.port}"
        await house.command(enqueuer, "enqueue", "run", "--kwargs", f'{{"label": "{label}"}}', "--wait", "60")
        assert house.runs(label) == [runner]
        house.publish("hand_on", f"{label}-hand")
        assert await house.started_by(f"{label}-hand-handed") == runner
    await house.all_done()


async def test_a_deploy_that_is_taken_back_loses_nothing(house: House, earlier: str) -> None:
    """Today's code leaves a task that it has not finished and one that it has not published; the earlier code ends both."""
    (new,) = await house.serve(TODAY)
    house.deliver(new)
    house.publish("run", "done")
    house.publish("gated", "unfinished")
    assert await house.started_by("unfinished") == TODAY
    assert await house.started_by("done") == TODAY
    await house.command(TODAY, "enqueue", "run", "--kwargs", '{"label": "unpublished"}', **NOBODY)
    await house.long_ago()
    new.kill()

    (old,) = await house.serve(earlier)
    house.deliver(old)
    house.open_gate("unfinished", 2)
    await house.command(earlier, "sweep")
    assert await house.started_by("unpublished") == earlier
    assert await house.started_by("unfinished", 2) == earlier
    assert len(await house.all_done()) == 3
    assert await effects(house.record, "unfinished") == 1
    house.publish("run", "done")  # late, and to the other revision
    house.publish("run", "last")
    await house.started_by("last")
    assert house.runs("done") == [TODAY]

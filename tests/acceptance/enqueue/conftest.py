"""One receiver on a local Pub/Sub that pushes to it, and processes that enqueue by way of a gate and a proxy."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from receiver.dev.processes import EMAIL, PROJECT
from receiver.emulator import in_thread
from receiver.emulator.broker import Broker
from receiver.emulator.in_thread import LocalPubSub
from receiver.emulator.push_client import message, scheduled_message
from receiver.emulator.signer import Signer
from receiver.maintenance import SWEEP
from receiver.tasks.naming import topic_name
from tests.acceptance.enqueue.gate import Gate, opened
from tests.stage import warm
from tests.stage.emulator import Emulator
from tests.stage.instance import Instance
from tests.stage.proxy import Proxy
from tests.stage.receivers import PLUGIN, new_instance
from tests.stage.record import Record
from tests.stage.servers import LocalServer
from tests.stage.waiting import eventually

SCRIPT = Path(__file__).with_name("enqueuer.py")
MODULES = "acceptance_tasks,enqueueing_tasks"
PATHS = (
    *(f"acceptance_tasks.{name}" for name in ("give_up", "next_day", "succeed", "undecorated", "wait")),
    *(
        f"enqueueing_tasks.{name}"
        for name in ("hand_on", "hand_on_in_thread", "hand_on_regardless", "leave_mark")
    ),
)


@dataclass(frozen=True, slots=True)
class House:
    """A receiver, its record, its Pub/Sub, and where its tasks leave their marks."""

    instance: Instance
    record: Record
    pubsub: LocalPubSub
    folder: Path

    def environ(self, database_url: str, host: str) -> dict[str, str]:
        """What a process that enqueues is told: another way to the same places."""
        given = {
            "MARKS_FOLDER": str(self.folder),
            "DATABASE_URL": database_url,
            "GCP_PROJECT_ID": PROJECT,
            "PUBSUB_EMULATOR_HOST": host,
            "PYTHONPATH": f"{PLUGIN}:{Path.cwd()}",
            "TASKS_MODULES": MODULES,
        }
        return {**os.environ, **given}

    async def rows(self, label: str) -> list[dict[str, object]]:
        """The executions that were enqueued with this label."""
        return await self.record.fetch("SELECT * FROM task_executions WHERE args->>0 = $1", label)

    async def row_of(self, name: str, label: str) -> dict[str, object] | None:
        """The execution of this task with this label."""
        return next((row for row in await self.rows(label) if row["task_name"] == name), None)

    def calls(self, label: str) -> int:
        """How often the function ran with it."""
        marks = self.folder / label
        return marks.stat().st_size if marks.exists() else 0

    async def ran(self, label: str) -> dict[str, object]:
        """Its row, once it has succeeded."""

        async def succeeded() -> dict[str, object] | None:
            found = await self.rows(label)
            return found[0] if found and found[0]["status"] == "SUCCESSFUL" else None

        return await eventually(succeeded)

    async def settled(self) -> None:
        """Returns once Pub/Sub owes nothing any more."""

        def nothing(broker: Broker) -> bool:
            return not any(len(each.backlog) for each in broker.subscriptions.values())

        await eventually(lambda: self.pubsub.call(nothing))

    async def comes_again(self, task_id: str, label: str) -> None:
        """The same message once more, as a sweeper and an enqueuer may both publish it."""
        body = message("succeed", [label], task_id=task_id)
        answer = await asyncio.to_thread(self.instance.pusher().send, body)
        assert (answer.status_code, answer.text) == (200, "The task was already completed.")

    async def sweep(self) -> None:
        """A sweep, as the scheduler causes it, a minute after whatever was enqueued."""
        await self.record.fetch(
            "UPDATE task_executions SET publishing_until = publishing_until - interval '61 s' WHERE status = 'READY'"
        )
        answer = await asyncio.to_thread(self.instance.pusher().send, scheduled_message(SWEEP.name))
        assert (answer.status_code, answer.text) == (200, "The task completed.")


@pytest.fixture(scope="session")
def house(
    postgres_server: LocalServer,
    migrated_template: str,
    signer: Signer,
    certs_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[House]:
    """One for all tests of this folder; labels keep them apart."""
    folder = tmp_path_factory.mktemp("enqueued")
    postgres_server.create_database("enqueued", template=migrated_template)
    url = postgres_server.url("enqueued")
    with ExitStack() as stack:
        pubsub = stack.enter_context(in_thread.running(signer))
        env = {"PUBSUB_EMULATOR_HOST": pubsub.host}
        instance = stack.enter_context(new_instance(url, signer, certs_url, folder, env, MODULES))
        client = stack.enter_context(httpx.Client(trust_env=False))
        provision(Emulator(client, pubsub.host, PROJECT, signs=True), instance)
        yield House(instance, Record(url), pubsub, folder)
    postgres_server.drop_database("enqueued")


def provision(pubsub: Emulator, instance: Instance) -> None:
    """A topic for each task, and its subscription."""
    for path in PATHS:
        name = topic_name("dev", "gyrinx", path)
        body = {
            "topic": pubsub.topic(name),
            "ackDeadlineSeconds": 10,
            "pushConfig": {
                "pushEndpoint": f"{instance.url}/tasks/pubsub/",
                "oidcToken": {"serviceAccountEmail": EMAIL, "audience": instance.url},
            },
            "retryPolicy": {"minimumBackoff": "0.1s", "maximumBackoff": "0.2s"},
        }
        pubsub.call("PUT", f"subscriptions/{name}-sub", body)


@pytest.fixture
def gate(house: House) -> Iterator[Gate]:
    """A way to the house's Pub/Sub; nothing that it was sent was wrong."""
    with opened(house.pubsub.host) as made:
        yield made
    assert made.faults == []


@pytest.fixture
def proxy(house: House) -> Iterator[Proxy]:
    """A way to the house's database."""
    with Proxy(house.record.url) as made:
        yield made


Enqueuing = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def enqueuing(house: House, gate: Gate, proxy: Proxy, label: str) -> Iterator[Enqueuing]:
    """Starts a process that enqueues a task with this test's label; it is killed with the test if it still runs."""
    running: list[subprocess.Popen[str]] = []

    def start(way: str) -> subprocess.Popen[str]:
        process = warm.start(
            [sys.executable, str(SCRIPT), way, label],
            env=house.environ(proxy.url, gate.host),
            cwd=PLUGIN,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()

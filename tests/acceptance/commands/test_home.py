"""A HOME that the process may not enter, as in an image that was made for another account: nothing of it is needed.

asyncpg looks for certificates in `~/.postgresql`, and takes "may not look" for an error of the connection.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from receiver.doctor.findings import SKIPPABLE, Check
from receiver.emulator.in_thread import LocalPubSub, running
from receiver.emulator.push_client import message
from receiver.emulator.signer import Signer
from tests.stage.commands import Done, run_command
from tests.stage.receivers import PLUGIN, new_instance
from tests.stage.record import MODULE, Record

PR_CAPBSET_DROP = 24
OVERRIDES = (1, 2)
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: root may enter any folder by these alone."""

OTHERS = tuple(f"--skip={check.value}" for check in SKIPPABLE if check is not Check.DATABASE)
"""What doctor is not to look at."""

COLD = {"RECEIVER_TEST_COLD": "1"}
"""Capabilities are inherited: a process that is forked elsewhere would have them."""

T = TypeVar("T")
Run = Callable[..., Done]


def without_overrides(start: Callable[[], T]) -> T:
    """Starts a process that may not enter every folder, although root starts it.

    Capabilities are a thread's: the thread that gives them up is over afterwards.
    """
    started: list[T] = []

    def call() -> None:
        if os.geteuid() == 0:
            libc = ctypes.CDLL(None, use_errno=True)
            for capability in OVERRIDES:
                assert libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0, os.strerror(ctypes.get_errno())
        started.append(start())

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return started[0]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home that nobody may enter."""
    made = tmp_path / "home"
    made.mkdir()
    made.chmod(0)
    yield made
    made.chmod(0o700)


@pytest.fixture(scope="module")
def pubsub() -> Iterator[LocalPubSub]:
    """A local Pub/Sub without a topic: what is enqueued is left to the sweeper."""
    with running() as pubsub:
        yield pubsub


@pytest.fixture
def run(home: Path, folder: Path, pubsub: LocalPubSub) -> Run:
    """Runs `receiver` with that home."""

    def call(database_url: str, *arguments: str) -> Done:
        environ = {
            "MARKS_FOLDER": str(folder),
            "DATABASE_URL": database_url,
            "GCP_PROJECT_ID": "local",
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            "PUBSUB_EMULATOR_HOST": pubsub.host,
            "PYTHONPATH": f"{PLUGIN}:{Path.cwd()}",
            "TASKS_MODULES": MODULE,
            **COLD,
        }
        return without_overrides(lambda: run_command(*arguments, cwd=PLUGIN, env=environ))

    return call


async def test_pushes_are_served(
    home: Path, signer: Signer, certs_url: str, folder: Path, record: Record, label: str
) -> None:
    instance = new_instance(record.url, signer, certs_url, folder, {"HOME": str(home), **COLD})
    try:
        without_overrides(instance.start)
        assert instance.get("/ready").status_code == 200
        pushed = await asyncio.to_thread(instance.pusher().send, message("write", [label], task_id=label))
        assert pushed.status_code == 200, instance.log()
        row = await record.row(label)  # `write` uses a connection of the tasks' pool too
        assert row is not None
        assert row["status"] == "SUCCESSFUL"
    finally:
        instance.close()


def test_tables_are_made(run: Run, empty_database_url: str) -> None:
    done = run(empty_database_url, "migrate")
    assert done.stdout.startswith("migrated: nothing → "), done.stderr


async def test_a_task_is_enqueued(run: Run, record: Record) -> None:
    done = run(record.url, "enqueue", "succeed", "--args", '["x"]')
    assert done.returncode == 0, done.stderr
    row = await record.row(done.stdout.strip())
    assert row is not None
    assert row["status"] == "READY"


def test_doctor_looks_at_the_database(run: Run, database_url: str) -> None:
    seen = json.loads(run(database_url, "doctor", "--json", *OTHERS).stdout)
    found = [each["code"] for each in seen["findings"] if each["check"] == "database"]
    assert "sweeper" in found  # it has never run; so the tables were read
    assert not {"database-unreachable", "database-refuses"} & set(found)


def test_a_certificate_that_is_looked_for_there_is_missing_in_one_line(run: Run, database_url: str) -> None:
    url = f"{database_url}?sslmode=verify-full"
    for arguments in (("migrate",), ("enqueue", "succeed", "--args", '["x"]')):
        done = run(url, *arguments)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert (
            "sslmode=verify-full needs the server's CA; add sslrootcert=FILE to DATABASE_URL" in done.stderr
        )
    seen = json.loads(run(url, "doctor", "--json", *OTHERS).stdout)
    [found] = [each for each in seen["findings"] if each["check"] == "database"]
    assert "add sslrootcert=FILE to DATABASE_URL" in found["what"]

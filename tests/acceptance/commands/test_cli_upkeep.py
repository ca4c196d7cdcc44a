"""sweep, prune, rejected, replay and group, each as a process of its own beside a real Pub/Sub."""

from __future__ import annotations

import base64
import json
import os
import pty
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from receiver.contract.identity import rejection_key
from receiver.emulator import in_thread
from receiver.emulator.broker import Broker
from receiver.emulator.in_thread import LocalPubSub
from receiver.emulator.push_client import message
from receiver.tasks.naming import topic_name
from tests.stage.commands import RECEIVER, Commands, Done, clean_environ
from tests.stage.record import NAMESPACE, Record

Run = Callable[..., Done]

PROJECT = "shop"
TOPIC = f"projects/{PROJECT}/topics/{topic_name('dev', NAMESPACE, 'shop.greet')}"
SUBSCRIPTION = TOPIC.replace("/topics/", "/subscriptions/") + "-sub"
PLUGIN = """
from receiver import TaskRoute

async def greet(name: str) -> str: ...

tasks = [TaskRoute(greet)]
"""


@pytest.fixture(scope="module")
def pubsub() -> Iterator[LocalPubSub]:
    with in_thread.running() as running:
        yield running


@pytest.fixture
def published(pubsub: LocalPubSub) -> Callable[[], list[str]]:
    """The task_ids that are in the topic of `greet`, which is new."""

    def opened(broker: Broker) -> None:
        broker.put_topic(TOPIC, {"name": TOPIC})
        if SUBSCRIPTION in broker.subscriptions:
            broker.delete_subscription(SUBSCRIPTION)
        broker.put_subscription(SUBSCRIPTION, {"name": SUBSCRIPTION, "topic": TOPIC})

    pubsub.call(opened)

    def ids() -> list[str]:
        owed = pubsub.call(
            lambda broker: [one.message.data for one in broker.subscriptions[SUBSCRIPTION].backlog]
        )
        return sorted(json.loads(base64.b64decode(data))["task_id"] for data in owed)

    return ids


@pytest.fixture
def environ(tmp_path: Path, pubsub: LocalPubSub, record: Record) -> dict[str, str]:
    (tmp_path / "shop.py").write_text(PLUGIN)
    return clean_environ() | {
        "DATABASE_URL": record.url,
        "GCP_PROJECT_ID": PROJECT,
        "PUBSUB_EMULATOR_HOST": pubsub.host,
        "TASKS_MODULES": "shop",
    }


@pytest.fixture
def run(environ: dict[str, str], tmp_path: Path) -> Run:
    return Commands(tmp_path, environ)


def follow(environ: dict[str, str], stdout: int) -> subprocess.Popen[str]:
    """`receiver group`, under way."""
    return subprocess.Popen([*RECEIVER, "group", "a group"], env=environ, stdout=stdout, text=True)


async def owe(record: Record, task_id: str, **columns: Any) -> None:
    """A row of `greet`."""
    given = {"task_path": "shop.greet", "enqueued_at_in": -120, "args": '["Ada"]'} | columns
    await record.insert(task_id, "greet", **given)


async def fail(record: Record, task_id: str, **columns: Any) -> None:
    """A failure for good."""
    await owe(
        record,
        task_id,
        status="FAILED",
        final=True,
        attempt=2,
        fence=2,
        **{"error_type": "ValueError", "finished_at_in": -60, "published_at_in": -100, **columns},
    )


async def reject(record: Record, body: bytes, **columns: Any) -> None:
    """A message as it is kept."""
    given = {"reason": "unknown_task", "detail": "no route is named 'greet'", "task_name": "greet"} | columns
    await record.fetch(
        "INSERT INTO rejected_messages (key, body, namespace, reason, detail, task_name, count, first_seen, last_seen)"
        " VALUES ($1, $2, $3, $4, $5, $6, 5, now() - interval '1 h', now())",
        rejection_key(body),
        body,
        NAMESPACE,
        given["reason"],
        given["detail"],
        given["task_name"],
    )


class TestSweep:
    async def test_it_does_everything_once_and_says_what(
        self, run: Run, record: Record, published: Callable[[], list[str]]
    ) -> None:
        await owe(record, "owed")
        await reject(record, message("greet", ["Ada"], task_id="unknown before", message_id="17"))
        await fail(record, "old", enqueued_at_in=-40 * 86400, finished_at_in=-40 * 86400)
        done = run("sweep")
        assert (done.returncode, done.stderr) == (0, "")
        assert [line.strip() for line in done.stdout.splitlines()] == [
            "1 published",
            "1 rejected as unknown before, and published again",
            "1 final, removed",
        ]
        assert published() == ["owed", "unknown before"]
        again = run("sweep", "--json")
        assert json.loads(again.stdout)["complete"] is True
        assert run("sweep").stdout == "nothing to publish, nothing to delete\n"

    async def test_what_cannot_be_published_is_said_and_exit_code_1(self, run: Run, record: Record) -> None:
        await owe(record, "no topic", task_path="shop.gone")
        done = run("sweep")
        assert (done.returncode, done.stdout.strip()) == (1, "1 not published; still owed")
        assert (
            "there is no topic dev--gyrinx.tasks--shop.gone: is the task in the list `tasks`?" in done.stderr
        )

    async def test_without_plugins_it_sweeps_all_the_same(
        self, run: Run, record: Record, published: Callable[[], list[str]]
    ) -> None:
        await owe(record, "owed")
        done = run("sweep", TASKS_MODULES="missing")
        assert (done.returncode, published()) == (0, ["owed"])
        assert done.stderr.startswith(
            "note: nothing is deleted, and messages that were rejected as unknown are left alone: "
        )


class TestListing:
    @pytest.mark.slow
    async def test_sweeps_are_left_out_unless_they_are_asked_for(self, run: Run, record: Record) -> None:
        await owe(record, "mine")
        await record.insert(
            "scheduled-sweep-1", "sweep", task_path="receiver.maintenance.sweep", enqueued_at_in=-1
        )
        for arguments, expected in (
            ((), ["mine"]),
            (("--all",), ["mine", "scheduled-sweep-1"]),
            (("--task", "sweep"), ["scheduled-sweep-1"]),
        ):
            found = json.loads(run("executions", "list", "--json", *arguments).stdout)
            assert sorted(one["task_id"] for one in found) == expected, arguments


class TestPrune:
    async def test_it_removes_what_is_older_than_the_retention_or_than_it_is_told(
        self, run: Run, record: Record
    ) -> None:
        for days in (16, 31):
            await fail(record, f"{days} days", enqueued_at_in=-days * 86400, finished_at_in=-days * 86400)
        done = run("prune", GCP_PROJECT_ID="")
        assert (done.returncode, done.stdout) == (0, "1 executions and 0 rejected messages removed\n")
        assert await record.row("16 days") is not None
        refused = run("prune", "--older-than", "14d")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr.startswith("error: --older-than is '14d'; use 15d or more: ")
        assert json.loads(run("prune", "--older-than", "15d", "--json").stdout)["pruned"] == 1
        assert await record.row("16 days") is None


class TestRejected:
    async def test_it_lists_and_shows(self, run: Run, record: Record) -> None:
        await reject(
            record, message("greet", ["Ada"], task_id="a", message_id="17", attributes={"k": "v\x1b"})
        )
        await reject(record, b"\xff no message", reason="malformed_envelope", detail="no", task_name=None)
        header, *lines = run("rejected", "list").stdout.splitlines()
        assert header.split()[:3] == ["MESSAGE", "REASON", "TASK"]
        assert len(lines) == 2
        [listed] = json.loads(run("rejected", "list", "--reason", "unknown_task", "--json").stdout)
        assert (listed["task_name"], listed["count"], listed["replayed_at"]) == ("greet", 5, None)
        shown = run("rejected", "show", "17").stdout
        assert 'data: {"task_id":"a"' in shown
        assert "\x1b" not in shown
        [whole] = json.loads(run("rejected", "show", "17", "--json").stdout)
        assert '"messageId":"17"' in whole["body"].replace(" ", "")
        missing = run("rejected", "show", "18")
        assert (missing.returncode, missing.stderr) == (1, "error: there is no rejected message '18'\n")


class TestReplay:
    async def test_executions_and_messages_by_their_ids(
        self, run: Run, record: Record, published: Callable[[], list[str]]
    ) -> None:
        await fail(record, "failed")
        await owe(
            record,
            "done",
            status="SUCCESSFUL",
            final=True,
            attempt=1,
            fence=1,
            started_at_in=-5,
            finished_at_in=-1,
        )
        await reject(
            record, message("greet", ["Ada"], task_id="misfit", message_id="17"), reason="bad_arguments"
        )
        done = run("replay", "failed", "17", "done", "nobody")
        assert done.returncode == 1
        assert done.stdout == "1 execution published again\n1 rejected message published again\n"
        assert sorted(done.stderr.splitlines()) == [
            "error: done: it succeeded, and never runs again; enqueue another",
            "error: nobody: there is no execution and no rejected message with this id",
        ]
        assert published() == ["failed", "misfit"]
        row = await record.row("failed")
        assert row is not None
        assert (row["status"], row["final"], row["attempt"], row["fence"]) == ("READY", False, 0, 2)
        assert row["published_at"] is not None

    async def test_every_message_of_a_reason(
        self, run: Run, record: Record, published: Callable[[], list[str]]
    ) -> None:
        for number in range(3):
            await reject(record, message("greet", ["Ada"], task_id=f"id-{number}"), reason="bad_arguments")
        await reject(record, message("greet", ["Ada"], task_id="other"))
        done = run("replay", "--reason", "bad_arguments", "--task", "greet")
        assert (done.returncode, done.stdout) == (0, "3 rejected messages published again\n")
        assert published() == ["id-0", "id-1", "id-2"]
        assert run("replay", "--reason", "bad_arguments").stdout == "there is nothing to replay\n"
        assert run("replay").returncode == run("replay", "a", "--reason", "bad_arguments").returncode == 2

    async def test_those_that_failed_so(
        self, run: Run, record: Record, published: Callable[[], list[str]]
    ) -> None:
        for number in range(3):
            await fail(record, f"id-{number}", enqueued_at_in=-60 * number)
        await fail(record, "other", error_type="shop.OutOfStock")
        which = ("replay", "--failed", "--task", "greet", "--error", "ValueError", "--since", "1h")
        done = run(*which, "--dry-run")
        assert (done.returncode, done.stdout) == (0, "3 executions would be published again\n")
        assert published() == []
        done = run(*which, "--limit", "2")
        assert done.stdout.splitlines() == [
            "2 executions published again",
            "the limit is reached, and there may be more: run it again",
        ]
        assert run(*which).stdout == "1 execution published again\n"
        assert run(*which).stdout == "there is nothing to replay\n"
        assert published() == ["id-0", "id-1", "id-2"]

    async def test_those_whose_message_is_gone(
        self, run: Run, record: Record, published: Callable[[], list[str]]
    ) -> None:
        """A restored database: Pub/Sub has acked what the record still waits for."""
        await owe(record, "acked", published_at_in=-100)
        await owe(record, "runs", published_at_in=-100, **running(60))
        await owe(record, "cut off", published_at_in=-100, **running(-60))
        assert run("replay", "--undelivered", "--dry-run").stdout == "2 executions would be published again\n"
        assert run("replay", "--undelivered").stdout == "2 executions published again\n"
        assert published() == ["acked", "cut off"]
        assert run("replay", "runs", "acked").stderr == (
            "error: runs: it is running; if it fails, Pub/Sub delivers it again\n"
        )

    async def test_while_pubsub_is_away_it_stops_with_one_line(self, run: Run, record: Record) -> None:
        await owe(record, "acked", published_at_in=-100)
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            done = run("replay", "--undelivered", PUBSUB_EMULATOR_HOST=f"127.0.0.1:{closed.getsockname()[1]}")
        assert done.returncode == 1
        line = done.stderr.splitlines()[-1]  # before it: a note that there are no plugins
        assert line.startswith("error: Pub/Sub cannot be reached (no answer from 127.0.0.1")
        assert line.endswith("the rest was not tried: run it again")

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--failed", "--undelivered"),
            ("id", "--failed"),
            ("id", "--task", "greet"),
            ("--reason", "bad_arguments", "--since", "1h"),
            ("--dry-run",),
        ],
    )
    def test_what_does_not_go_together_is_one_line(self, run: Run, arguments: tuple[str, ...]) -> None:
        done = run("replay", *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def running(lease: float) -> dict[str, Any]:
    """The columns of a row that runs, its lease ending in so many seconds."""
    return {
        "status": "RUNNING",
        "attempt": 1,
        "fence": 1,
        "started_at_in": -90,
        "claim_token": uuid4(),
        "lease_owner": "somebody",
        "lease_expires_at_in": lease,
    }


class TestDeadLetters:
    async def test_it_lists_what_was_given_up_and_publishes_it_again(
        self, run: Run, record: Record, published: Callable[[], list[str]]
    ) -> None:
        await owe(record, "owed", dead_letters=2, dead_lettered_at_in=-50, run_after_in=3600)
        await fail(record, "failed", dead_letters=1, dead_lettered_at_in=-40)
        await owe(record, "never given up", published_at_in=-100)
        await reject(record, message("greet", ["Ada"], task_id="kept", message_id="17"), reason="dead_letter")
        listed = run("dead-letters", "list").stdout.splitlines()
        assert [line.split()[:3] for line in listed[1:]] == [
            ["17", "greet", "5"],
            ["failed", "greet", "FAILED,"],
            ["owed", "greet", "READY"],
        ]
        assert "not before" in listed[3]
        assert "dead letter; not before" in run("executions", "list").stdout
        assert [one["id"] for one in json.loads(run("dead-letters", "list", "--json").stdout)] == [
            "17",
            "failed",
            "owed",
        ]
        refused = run("dead-letters", "replay")
        assert refused.returncode == 2
        assert "give the ids of executions or messages, or --all, or --task" in refused.stderr
        done = run("dead-letters", "replay", "--task", "greet")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "2 executions published again\n1 rejected message published again\n"
        assert published() == ["failed", "kept", "owed"]
        assert run("dead-letters", "list").stdout == "no dead letters\n"
        assert run("dead-letters", "replay", "--all").stdout == "there is nothing to replay\n"


class TestGroup:
    async def test_it_follows_to_the_end_and_exits_by_outcome(
        self, run: Run, record: Record, environ: Any
    ) -> None:
        for number in range(3):
            await owe(record, f"id-{number}", group_key="a group", label=f"part {number}")
        once = run("group", "a group", "--once")
        assert (once.returncode, once.stdout) == (1, "3 executions, not complete: 3 ready\n")
        following = follow(environ, subprocess.PIPE)
        assert following.stdout is not None
        assert following.stdout.readline() == "3 executions, not complete: 3 ready\n"
        await record.fetch(
            "UPDATE task_executions SET status = 'SUCCESSFUL', final = true, started_at = now(), finished_at = now()"
        )
        rest, _ = following.communicate(timeout=60)
        assert (following.returncode, rest) == (0, "3 executions, complete: 3 successful\n")
        await fail(record, "id-3", group_key="a group")
        assert run("group", "a group").returncode == 1
        assert json.loads(run("group", "a group", "--json").stdout)["failed"] == 1
        nobody = run("group", "nobody's")
        assert (nobody.returncode, nobody.stderr) == (1, "error: no execution has this group key\n")

    async def test_on_a_terminal_there_is_a_bar(self, record: Record, environ: dict[str, str]) -> None:
        await fail(record, "id", group_key="a group")
        ours, theirs = pty.openpty()
        following = follow(environ | {"TERM": "xterm"}, theirs)
        os.close(theirs)
        seen = b""
        try:
            while chunk := os.read(ours, 10_000):
                seen += chunk
        except OSError:  # the terminal is gone with its last process
            pass
        finally:
            os.close(ours)
        assert following.wait() == 1
        assert b"1/1" in seen
        assert b"1 failed" in seen

"""`receiver enqueue`: prints the id, follows the record to the end, and exits by how it ended."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from receiver.cli.enqueue import _line as line
from receiver.dev.folder import Folder
from receiver.tasks.call import TaskError, TaskResult, TaskResultStatus
from tests.acceptance.enqueue.conftest import House
from tests.stage.commands import RECEIVER, Done, run_command
from tests.stage.receivers import PLUGIN
from tests.stage.waiting import eventually

NOW = datetime(2026, 11, 23, 18, 5, tzinfo=UTC)
ID = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


async def run(house: House, *arguments: str, **env: str) -> Done:
    environ = house.environ(house.record.url, house.pubsub.host) | env
    return await asyncio.to_thread(run_command, "enqueue", *arguments, cwd=PLUGIN, env=environ)


async def test_it_prints_the_id_and_nothing_else(house: House, label: str) -> None:
    done = await run(house, "succeed", "--args", f'["{label}"]', "--kwargs", '{"value": {"a": 1}}')
    assert (done.returncode, done.stderr) == (0, "")
    row = await house.ran(label)
    assert done.stdout == f"{row['task_id']}\n"
    assert row["return_value"] == '{"a":1}'


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("succeed", 0, r"SUCCESSFUL null \(\d+\.\d s\)\n"),
        ("acceptance_tasks.undecorated", 0, r"SUCCESSFUL null \(\d+\.\d s\)\n"),
        ("give_up", 1, r"FAILED receiver\.errors\.PermanentError \(\d+\.\d s\)\n"),
    ],
)
async def test_it_exits_by_how_the_task_ended(
    house: House, label: str, name: str, code: int, says: str
) -> None:
    done = await run(house, name, "--args", f'["{label}"]', "--wait", "60")
    assert done.returncode == code, done.stderr
    assert re.fullmatch(ID, done.stdout.strip())
    assert re.fullmatch(says, done.stderr)
    assert house.calls(label) == 1


async def test_json_is_read_as_the_task_takes_it(house: House, label: str) -> None:
    arguments = ("next_day", "--args", f'["{label}"]', "--wait", "60", "--kwargs")
    done = await run(house, *arguments, '{"day": "2026-12-31"}')
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith('SUCCESSFUL "2027-01-01" (')
    wrong = await run(house, *arguments, '{"day": "soon"}')
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: acceptance_tasks.next_day: day: Invalid RFC3339 encoded date\n"
    assert house.calls(label) == 1


async def test_a_task_that_has_not_finished_in_time_is_told_from_both(house: House, label: str) -> None:
    waiting = await run(house, "wait", "--args", f'["{label}"]', "--wait", "0.5")
    assert waiting.returncode == 3
    assert re.match(r"(READY|RUNNING) \(", waiting.stderr)
    (house.folder / f"{label}.open").touch()
    later = await run(house, "succeed", "--args", f'["{label}"]', "--run-after", "2h", "--wait", "0")
    assert later.returncode == 3
    assert later.stderr.startswith("READY not before 2")


def test_a_line_says_where_it_stands() -> None:
    known = TaskResult(
        task=None, task_path="a.b", id="1", status=TaskResultStatus.FAILED, final=False, attempts=2,
        enqueued_at=NOW, run_after=None, started_at=NOW, last_attempted_at=NOW, finished_at=NOW, args=[], kwargs={},
        backend=None, errors=[TaskError("builtins.ValueError", ""), TaskError("shop.Late", "")],  # type: ignore[arg-type] # asked for nothing
    )  # fmt: skip
    assert line(known) == "FAILED in attempt 2 shop.Late and will be tried again"
    assert line(replace(known, final=True)) == "FAILED in attempt 2 shop.Late"
    ready = replace(known, status=TaskResultStatus.READY, attempts=0, run_after=NOW)
    assert line(ready) == "READY not before 2026-11-23 18:05:00 UTC"
    done = replace(known, status=TaskResultStatus.SUCCESSFUL, final=True, value={"a": "\x1b[2J"})
    assert line(done) == 'SUCCESSFUL in attempt 2 {"a":"\\u001b[2J"}'


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing"], "no task is called 'nothing'; there are "),
        (["succeed"], "acceptance_tasks.succeed: missing a required argument: 'label'"),
        (["succeed", "--args", "{}"], "--args is '{}'; use a JSON array"),
        (["succeed", "--kwargs", "[1]"], "--kwargs is '[1]'; use a JSON object"),
        (["succeed", "--args", '["a\\u0000b"]'], "a NUL character in args or kwargs"),
        (["succeed", "--run-after", "soon"], "--run-after is 'soon'; use a duration"),
    ],
)
async def test_what_cannot_be_enqueued_is_one_line(house: House, arguments: list[str], says: str) -> None:
    done = await run(house, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


@pytest.mark.parametrize("missing", ["DATABASE_URL", "GCP_PROJECT_ID"])
async def test_a_missing_setting_is_one_line(house: House, missing: str) -> None:
    done = await run(house, "succeed", "--args", '["x"]', **{missing: ""})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {missing} is not set")


async def test_beside_receiver_dev_no_variable_is_needed(house: House, label: str, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.make()
    given = house.environ(house.record.url, house.pubsub.host)
    names = ("DATABASE_URL", "PUBSUB_EMULATOR_HOST", "GCP_PROJECT_ID", "TASKS_MODULES")
    folder.keep_environ({name: given[name] for name in names})
    environ = {name: value for name, value in given.items() if name not in names}
    arguments = ("succeed", "--args", f'["{label}"]', "--wait", "60")
    done = await asyncio.to_thread(run_command, "enqueue", *arguments, cwd=tmp_path, env=environ)
    assert done.returncode == 0, done.stderr
    assert house.calls(label) == 1


async def test_on_a_terminal_its_status_is_followed(house: House, label: str) -> None:
    ours, theirs = pty.openpty()
    environ = house.environ(house.record.url, house.pubsub.host) | {"TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(  # noqa: ASYNC220 - it is there at once
        [*RECEIVER, "enqueue", "wait", "--args", f'["{label}"]', "--wait", "60"],
        env=environ,
        cwd=PLUGIN,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    try:
        while b"RUNNING" not in seen:
            seen += await asyncio.to_thread(os.read, ours, 65536)
        (house.folder / f"{label}.open").touch()
        assert await asyncio.to_thread(process.wait, 60) == 0
        seen += await asyncio.to_thread(os.read, ours, 65536)
    finally:
        process.kill()
        process.communicate()
        os.close(ours)
    assert b"SUCCESSFUL" in seen


# --- tasks that enqueue tasks, in a real receiver ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["hand_on", "hand_on_in_thread"])
async def test_a_task_hands_on(house: House, label: str, name: str) -> None:
    done = await run(house, name, "--args", f'["{label}"]', "--wait", "60")
    assert done.returncode == 0, done.stderr
    await eventually(lambda: house.calls(label))
    child = await eventually(lambda: house.row_of("leave_mark", label))
    assert f'"{child["task_id"]}"' in done.stderr
    assert child["published_at"] is not None


async def test_a_task_that_fails_has_handed_nothing_on(house: House, label: str) -> None:
    done = await run(house, "hand_on", "--args", f'["{label}"]', "--kwargs", '{"fail": true}', "--wait", "60")
    assert done.returncode == 1, done.stderr
    await house.sweep()
    await house.settled()
    assert await house.row_of("leave_mark", label) is None
    assert house.calls(label) == 0


async def test_what_is_enqueued_outside_of_its_transaction_stays(house: House, label: str) -> None:
    done = await run(house, "hand_on_regardless", "--args", f'["{label}"]', "--wait", "60")
    assert done.returncode == 1, done.stderr
    await eventually(lambda: house.calls(label))

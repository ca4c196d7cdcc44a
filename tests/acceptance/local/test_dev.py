"""`receiver dev` as people run it: a process, its terminal, its folder, and what is left when it ends."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pty
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from receiver.dev.folder import Folder
from receiver.local_postgres.server import free_port
from receiver.maintenance import SWEEP
from tests.stage import second_account
from tests.stage.commands import RECEIVER, Done, clean_environ, run_command
from tests.stage.waiting import wait_until

PLUGIN = """
import asyncio
import os
from pathlib import Path
from receiver import TaskRoute, task

@task
async def greet(name: str) -> str:
    return f"Hello, {name}!"

@task
async def cleanup() -> int:
    return 3

@task
async def waits(for_: str) -> str:
    if not Path(for_).exists():
        raise FileNotFoundError(for_)
    return "found"

@task
async def holds(for_: str) -> None:
    while not Path(for_).exists():
        await asyncio.sleep(0.02)

@task
async def dies() -> None:
    os._exit(3)

tasks = [
    TaskRoute(greet),
    TaskRoute(cleanup, schedule="0 3 * * *"),
    TaskRoute(waits, min_retry_delay=1, max_retry_delay=2),
    TaskRoute(holds),
    TaskRoute(dies),
]
"""

PATIENCE = 40.0


class Dev:
    """A folder with a plugin, and the `receiver dev` in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plugin = folder / "plug.py"
        self.state = folder / ".receiver"
        self.environ = clean_environ() | {"TMPDIR": str(folder)}
        self.argv = [*RECEIVER, "dev", "--modules", "plug"]
        self.process: subprocess.Popen[bytes] | None = None
        self.plugin.write_text(PLUGIN)
        self.state.mkdir()
        ports = {"receiver": free_port(), "pubsub": free_port(), "postgres": free_port()}
        (self.state / "dev.json").write_text(json.dumps(ports))

    @property
    def ports(self) -> dict[str, int]:
        found: dict[str, int] = json.loads((self.state / "dev.json").read_text())
        return found

    def start(self, **env: str) -> None:
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                self.argv,
                cwd=self.folder,
                env=self.environ | env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def says(self, text: str, times: int = 1) -> None:
        wait_until(lambda: self.log().count(text) >= times, lambda: f"{text!r} is not in:\n{self.log()}")

    def run(self, *arguments: str, **env: str) -> Done:
        return run_command(*arguments, cwd=self.folder, env=self.environ | env)

    def refuses(self) -> str:
        """The one line with which a start ends."""
        done = self.run("dev", "--modules", "plug")
        assert (done.returncode, done.stdout) == (2, ""), done
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    def publish(self, task: str, *args: object) -> None:
        payload = {"task_id": f"e-{time.monotonic_ns()}", "task_name": task, "args": args, "kwargs": {}}
        data = base64.b64encode(json.dumps(payload).encode()).decode()
        topic = f"projects/local/topics/dev--gyrinx.tasks--plug.{task}"
        url = f"http://{Folder(self.folder).environ()['PUBSUB_EMULATOR_HOST']}/v1/{topic}:publish"
        httpx.post(url, json={"messages": [{"data": data}]}, trust_env=False).raise_for_status()

    def executions(self, task: str, *given: object) -> list[dict[str, Any]]:
        """Those of a task, or only those with these arguments."""

        async def read() -> list[dict[str, Any]]:
            connection = await asyncpg.connect(Folder(self.folder).environ()["DATABASE_URL"])
            try:
                rows = await connection.fetch("SELECT * FROM task_executions WHERE task_name = $1", task)
                return [dict(row) for row in rows if not given or json.loads(row["args"]) == list(given)]
            finally:
                await connection.close()

        return asyncio.run(read())

    def succeeded(self, task: str, *given: object) -> list[dict[str, Any]]:
        return [row for row in self.executions(task, *given) if row["status"] == "SUCCESSFUL"]

    def marked(self) -> list[int]:
        """Every process that came from here."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if (
                    entry.name.isdigit()
                    and f"TMPDIR={self.folder}\0".encode() in (entry / "environ").read_bytes()
                ):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def end(self, number: int = signal.SIGINT) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        wait_until(lambda: not self.marked(), lambda: f"processes are left: {self.marked()}\n{self.log()}")
        return code


@contextmanager
def folder_with_plugin() -> Iterator[Dev]:
    folder = Path(tempfile.mkdtemp(prefix="receiver-dev-", dir="/tmp"))
    folder.chmod(0o755)
    dev = Dev(folder)
    try:
        yield dev
    finally:
        if dev.process is not None and dev.process.poll() is None:
            dev.end(signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def dev() -> Iterator[Dev]:
    with folder_with_plugin() as made:
        yield made


@pytest.fixture(scope="module")
def running() -> Iterator[Dev]:
    """One that runs, for tests that leave it as it was."""
    with folder_with_plugin() as made:
        made.start(DATABASE_URL="not believed", TASKS_FAULT_SEED="1", TASKS_SUBSCRIPTIONS="own")
        made.says("receiving pushes")
        yield made
        assert made.end() == 0
        assert "Traceback" not in made.log()


class TestRunning:
    def test_a_dozen_lines_come_before_the_first_delivery(self, running: Dev) -> None:
        assert running.run("push", "greet", "--args", '["Ada"]').stdout == "200 The task completed.\n"
        running.says("200 greet")
        # Up to its being ready: another test may have saved a plugin since, and a sweep may have come first.
        assert len(running.log().partition("receiving pushes")[0].splitlines()) <= 12
        assert (running.state / ".gitignore").read_text() == "*\n"

    def test_what_enqueues_finds_its_environment(self, running: Dev) -> None:
        """Sourced by a shell, it is all that another command needs."""
        script = f"set -a; . .receiver/env; set +a; {sys.executable} -m receiver executions list --json"
        clean = {name: running.environ[name] for name in ("PATH", "PYTHONPATH")}
        done = subprocess.run(
            ["sh", "-c", script], cwd=running.folder, env=clean, capture_output=True, check=True
        )
        assert isinstance(json.loads(done.stdout), list)
        # A web process that is started with it listens on a port of its own.
        assert not [
            line for line in (running.state / "env").read_text().splitlines() if line.startswith("PORT=")
        ]

    def test_other_accounts_of_the_machine_get_nothing(self, running: Dev) -> None:
        assert second_account.asked_by(running.ports["postgres"]) == second_account.SASL
        for name in ("env", "signing-key.pem", "pubsub.sqlite", "postgres/server.log"):
            assert (running.state / name).exists()
            assert second_account.reads(running.state / name) == "PermissionError"
        url = f"http://127.0.0.1:{running.ports['pubsub']}/v1/projects/local/topics"
        assert httpx.get(url, trust_env=False).status_code == 404

    def test_every_command_finds_it_by_its_folder(self, running: Dev) -> None:
        done = running.run("executions", "list", "--json")
        assert (done.returncode, isinstance(json.loads(done.stdout), list)) == (0, True)
        assert running.run("check").stdout.endswith("5 tasks, nothing to mend\n")
        assert (
            running.run("dev", "--tick", SWEEP.path).returncode == 0
        )  # by itself the first comes within a minute
        wait_until(lambda: running.succeeded(SWEEP.name))
        for auth in ("oidc", "off"):
            done = running.run("doctor", "--json", TASKS_PUSH_AUTH=auth)
            report = json.loads(done.stdout)
            assert [one for one in report["findings"] if one["severity"] != "note"] == [], report
            assert "receiver-dev" in {one["code"] for one in report["findings"]}
            assert done.returncode == 0

    @pytest.mark.slow
    def test_a_task_is_enqueued_right_after_its_save(self, running: Dev) -> None:
        """Although `receiver dev`, which sets PYTHONUNBUFFERED, takes six seconds to load it."""
        gate, reloads = running.folder / "loads", running.log().count("receiving pushes")
        late = f"while os.environ.get('PYTHONUNBUFFERED') and not Path({str(gate)!r}).exists(): pass\n"
        fresh = "@task\nasync def fresh() -> int:\n    return 7\ntasks.append(TaskRoute(fresh))\n"
        opening = threading.Timer(6, gate.touch)
        opening.start()
        running.plugin.write_text(PLUGIN + late + fresh)
        done = running.run("enqueue", "fresh", "--wait", "20", TASKS_MODULES="plug")
        opening.join()
        assert (done.returncode, "not published" in done.stderr) == (0, False), done.stderr
        running.plugin.write_text(PLUGIN)
        running.says("receiving pushes", reloads + 2)

    def test_a_save_reloads_and_a_syntax_error_keeps_the_tasks_from_before(self, running: Dev) -> None:
        reloads = running.log().count("receiving pushes")
        running.plugin.write_text(PLUGIN + "x = (\n")
        running.says("waiting for the next save; the tasks from before go on")
        assert "SyntaxError: '(' was never closed" in running.log()
        running.publish("greet", "from before")
        wait_until(lambda: running.succeeded("greet", "from before"), running.log)
        running.plugin.write_text(PLUGIN.replace("Hello", "Goodbye"))
        running.says("receiving pushes", reloads + 1)
        running.publish("greet", "Grace")
        wait_until(
            lambda: [row for row in running.succeeded("greet") if row["return_value"] == '"Goodbye, Grace!"']
        )
        running.plugin.write_text(PLUGIN)
        running.says("receiving pushes", reloads + 2)

    def test_a_save_costs_what_is_running_none_of_its_deliveries(self, running: Dev) -> None:
        gate, reloads = running.folder / "held", running.log().count("receiving pushes")
        running.publish("holds", str(gate))
        wait_until(
            lambda: [row for row in running.executions("holds", str(gate)) if row["status"] == "RUNNING"]
        )
        running.plugin.write_text(PLUGIN + "# saved")
        running.says("receiving pushes", reloads + 1)
        wait_until(
            lambda: [row for row in running.executions("holds", str(gate)) if row["fence"] > 1], running.log
        )
        messages = sqlite3.connect(running.state / "pubsub.sqlite")
        assert messages.execute(
            "SELECT attempts FROM unacked WHERE subscription LIKE '%holds%'"
        ).fetchall() == [(0,)]
        gate.touch()
        (row,) = wait_until(lambda: running.succeeded("holds", str(gate)), running.log)
        assert row["attempt"] == 1

    def test_a_renamed_task_is_given_what_waits_under_its_former_name(self, running: Dev) -> None:
        gate, reloads = running.folder / "renamed", running.log().count("receiving pushes")
        running.publish("holds", str(gate))
        wait_until(
            lambda: [row for row in running.executions("holds", str(gate)) if row["status"] == "RUNNING"]
        )
        renamed = PLUGIN.replace("def holds", "def grasps")
        running.plugin.write_text(renamed.replace("TaskRoute(holds)", "TaskRoute(grasps, aliases=['holds'])"))
        running.says("receiving pushes", reloads + 1)
        gate.touch()
        wait_until(lambda: running.succeeded("holds", str(gate)), running.log)
        running.plugin.write_text(PLUGIN)
        running.says("receiving pushes", reloads + 2)

    def test_a_tick_fires_a_scheduled_task_now(self, running: Dev) -> None:
        done = running.run("dev", "--tick", "cleanup")
        assert done.returncode == 0, done
        assert done.stdout.startswith("fired cleanup, message ")
        (row,) = wait_until(lambda: running.succeeded("cleanup"))
        message = done.stdout.split()[-1]
        assert row["task_id"] == f"scheduled-cleanup-{message}"

    @pytest.mark.parametrize(
        ("name", "said"),
        [("nobody", "there is no task nobody; there are: cleanup"), ("greet", "has no schedule")],
    )
    def test_a_tick_of_what_has_no_schedule_is_one_line(self, running: Dev, name: str, said: str) -> None:
        done = running.run("dev", "--tick", name)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert said in done.stderr

    def test_a_second_one_in_the_folder_is_one_line(self, running: Dev) -> None:
        assert running.process is not None
        assert f"is running in this folder already (process {running.process.pid})" in running.refuses()

    @pytest.mark.slow
    def test_a_receiver_that_ends_by_itself_is_started_again(self, running: Dev) -> None:
        starts = running.log().count("receiving pushes")
        running.publish("dies")
        running.says("error: the receiver ended (exit code 3); it is started again")
        running.says("receiving pushes", starts + 1)
        assert running.run("push", "greet", "--args", '["Ada"]').returncode == 0


class TestStarting:
    @pytest.mark.slow
    def test_a_plugin_that_is_broken_at_first_is_tried_again(self, dev: Dev) -> None:
        dev.plugin.write_text("x = (\n")
        dev.start()
        dev.says("waiting for the next save\n")
        assert dev.log().count("error: ") == 1
        dev.plugin.write_text(PLUGIN)
        dev.says("receiving pushes")
        assert dev.end() == 0

    @pytest.mark.parametrize("which", ["receiver", "pubsub", "postgres"])
    @pytest.mark.slow
    def test_a_port_that_is_taken_is_one_line(self, dev: Dev, which: str) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", dev.ports[which]))
            taken.listen()
            assert f"error: port {dev.ports[which]} (" in dev.refuses()
        assert not dev.marked()

    def test_a_data_folder_of_another_postgresql_is_one_line(self, dev: Dev) -> None:
        data = dev.state / "postgres" / "data"
        data.mkdir(parents=True)
        (data / "PG_VERSION").write_text("13\n")
        assert "was made by PostgreSQL 13" in dev.refuses()
        assert not dev.marked()

    @pytest.mark.slow
    def test_messages_that_cannot_be_read_are_one_line(self, dev: Dev) -> None:
        (dev.state / "pubsub.sqlite").write_bytes(b"no database, but long enough to be taken for one" * 100)
        done = dev.run("dev", "--modules", "plug")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "delete it, and its messages are forgotten" in done.stderr

    def test_a_variable_that_is_wrong_is_one_line(self, dev: Dev) -> None:
        done = dev.run("dev", TASKS_FAULT_DROP_RATE="2")
        assert done.returncode == 2
        assert done.stderr == "error: TASKS_FAULT_DROP_RATE is '2'; use a number from 0 to 1\n"

    def test_without_a_run_there_is_nothing_to_tick(self, dev: Dev) -> None:
        assert "no receiver dev has run in this folder" in dev.run("dev", "--tick", "cleanup").stderr


class TestEnding:
    @pytest.mark.slow
    def test_messages_and_ports_are_kept_until_the_next_run(self, dev: Dev) -> None:
        ports = dev.ports
        dev.start()
        dev.says("receiving pushes")
        dev.publish("waits", str(dev.folder / "gate"))
        dev.says("500 waits")
        assert dev.end() == 0
        kept = sqlite3.connect(dev.state / "pubsub.sqlite").execute("SELECT attempts FROM unacked").fetchall()
        assert len(kept) == 1
        assert kept[0][0] >= 1
        late = dev.run("push", "greet", "--args", '["Ada"]')
        assert (late.returncode, late.stderr.count("\n")) == (2, 1)
        assert "start what does (`receiver dev`)" in late.stderr
        (dev.folder / "gate").touch()
        dev.start()
        wait_until(lambda: "receiving pushes" in dev.log())
        (row,) = wait_until(lambda: dev.succeeded("waits"), dev.log)
        assert row["attempt"] == kept[0][0] + 1
        assert dev.ports == ports
        assert dev.end(signal.SIGTERM) == 0
        assert not sqlite3.connect(dev.state / "pubsub.sqlite").execute("SELECT * FROM unacked").fetchall()

    @pytest.mark.slow
    def test_a_killed_one_takes_everything_along(self, dev: Dev) -> None:
        """And the next one starts at once, on the same ports."""
        dev.start()
        dev.says("receiving pushes")
        assert len(dev.marked()) >= 4
        assert dev.end(signal.SIGKILL) == -signal.SIGKILL
        dev.start()
        dev.says("receiving pushes")
        assert dev.end() == 0


class TestDebug:
    @pytest.mark.slow
    def test_a_breakpoint_has_the_terminal_and_no_deadline_ends_it(self, dev: Dev) -> None:
        dev.plugin.write_text(
            PLUGIN.replace("    return f", "    breakpoint()\n    return f").replace(
                "TaskRoute(greet)", "TaskRoute(greet, timeout=1)"
            )
        )
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(dev.folder)
            os.execve(sys.executable, [*dev.argv, "--debug"], dev.environ)  # noqa: S606 - the child of a fork
        shown = bytearray()

        def reads(text: bytes) -> None:
            end = time.monotonic() + PATIENCE
            while text not in shown:
                assert time.monotonic() < end, shown.decode()
                try:
                    shown.extend(os.read(terminal, 4096))
                except OSError:  # nobody has the terminal any more
                    raise AssertionError(shown.decode()) from None

        try:
            reads(b"receiving pushes")
            pushing = subprocess.Popen(
                [*RECEIVER, "push", "greet", "--args", '["Ada"]'],
                cwd=dev.folder,
                env=dev.environ,
                stdout=subprocess.PIPE,
                text=True,
            )
            reads(b"(Pdb) ")
            began = time.monotonic()
            os.write(terminal, b"name\n")
            reads(b"'Ada'")
            while (
                time.monotonic() < began + 1.2
            ):  # past the task's own timeout: time itself is what is tested
                time.sleep(0.05)
            os.write(terminal, b"c\n")
            assert pushing.communicate(timeout=PATIENCE)[0] == "200 The task completed.\n"
            os.write(terminal, b"\x03")
            reads(b"stopped")
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            wait_until(lambda: not dev.marked(), shown.decode)
        finally:
            for left in dev.marked():
                os.kill(left, signal.SIGKILL)
            os.close(terminal)

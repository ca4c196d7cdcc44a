"""Listings on a terminal of 80 columns: a line each, and every id whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg
import pytest

from tests.stage.commands import Commands, clean_environ
from tests.stage.terminal import shown

Show = Callable[..., list[str]]

GOOD, BAD = "0199a7c2-7c1f-7d4e-8a52-5a3d1c9e0b01", "0199a7c2-7c1f-7d4e-8a52-5a3d1c9e0b02"
LOST = "0199a7c2-7c1f-7d4e-8a52-5a3d1c9e0b03"
LONG = "scheduled-shop_tasks.maintenance.cleanup_of_everything_that_is_old-12345678901234567"
ERROR = "the article 4711 is sold out, and it will not come back before the first of the month"
ROWS = f"""
INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, final, attempt, fence,
                             enqueued_at, started_at, finished_at, error_type, error_message, error_traceback, metadata)
VALUES
    ('{GOOD}', 'greet', 'shop.greet', 'gyrinx', '["{"x" * 200}"]', '{{}}', 'SUCCESSFUL', true, 1, 1, now() - interval '1 h',
     now(), now(), NULL, NULL, NULL, '{{"tenant": "acme"}}'),
    ('{BAD}', 'send_the_welcome_email', 'shop.send_the_welcome_email', 'gyrinx', '[]', '{{}}', 'FAILED', true, 3, 3,
     now() - interval '1 h', now(), now(), 'shop.errors.OutOfStock', '{ERROR}', 'Traceback ...', NULL),
    ('{LONG}', 'cleanup', 'shop.cleanup', 'gyrinx', '[]', '{{}}', 'READY', false, 0, 0, now(), NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, final, attempt, fence,
                             enqueued_at, started_at, finished_at, error_type, error_message, dead_letters, dead_lettered_at)
VALUES ('{LOST}', 'send_the_welcome_email', 'shop.send_the_welcome_email', 'gyrinx', '[]', '{{}}', 'FAILED', true, 3, 3,
        now() - interval '2 h', now(), now(), 'shop.errors.OutOfStock', '{ERROR}', 1, now());
INSERT INTO rejected_messages (key, namespace, reason, detail, body, task_name, count, first_seen, last_seen)
VALUES ('a 12345678901234567', 'gyrinx', 'unknown_task', '{ERROR}', '', 'send_the_welcome_email', 3, now(), now())
"""  # noqa: S608 - constants
PLUGIN = """
from receiver import TaskRoute, task

@task
async def send_the_welcome_email(name: str = "you") -> None: ...

@task
async def greet(name: str) -> None: ...

tasks = [TaskRoute(greet), TaskRoute(send_the_welcome_email, schedule="30 2 * * *", schedule_timezone="Europe/Berlin",
                   kill_switch="ENABLE_THE_WELCOME_EMAIL")]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shop")
    (made / "shop.py").write_text(PLUGIN)
    return made


@pytest.fixture(scope="module")
def environ(shared_database_url: str) -> dict[str, str]:
    async def insert() -> None:
        connection = await asyncpg.connect(shared_database_url)
        try:
            await connection.execute(ROWS)
        finally:
            await connection.close()

    asyncio.run(insert())
    return clean_environ() | {"DATABASE_URL": shared_database_url, "TASKS_MODULES": "shop"}


@pytest.fixture
def show(environ: dict[str, str], folder: Path) -> Show:
    def run(*arguments: str, **env: str) -> list[str]:
        return shown(*arguments, cwd=folder, env=environ | env)

    return run


def line_of(lines: list[str], id_: str) -> str:
    """The line that has this id whole."""
    (found,) = [line for line in lines if line.startswith(f"{id_} ") or line == id_]
    return found


def test_executions_fit_the_terminal_and_their_ids_can_be_copied(show: Show) -> None:
    lines = show("executions", "list", "--limit", "2", "--status", "failed")
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["TASK", "ID", "TASK", "STATUS", "RESULT", "OR", "E…"]
    assert " FAILED, final " in line_of(lines, BAD)
    assert line_of(lines, BAD).endswith(" OutOfStock:…")
    assert lines[-2] == "(left out here: ATTEMPT, ENQUEUED, TOOK; --wide has them)"


def test_an_id_that_is_longer_than_the_terminal_is_whole(show: Show) -> None:
    lines = show("executions", "list")
    assert " READY" in line_of(lines, LONG)
    assert max(len(line_of(lines, id_)) for id_ in (GOOD, BAD)) <= 80


def test_wide_cuts_nothing(show: Show) -> None:
    lines = show("executions", "list", "--wide")
    assert "TOOK" in lines[0]
    assert " tenant=acme " in line_of(lines, GOOD)
    assert "send_the_welcome_email  FAILED, final  3        20" in line_of(lines, BAD)
    assert line_of(lines, BAD).endswith(f"OutOfStock: {ERROR}")


def test_dead_letters_fit_too(show: Show) -> None:
    lines = show("dead-letters", "list")
    assert max(map(len, lines)) <= 80
    assert line_of(lines, LOST).endswith(" OutOfStock:…")
    assert line_of(show("dead-letters", "list", "--wide"), LOST).endswith(f" OutOfStock: {ERROR}")


def test_rejected_messages_and_tasks_fit_too(show: Show) -> None:
    lines = show("rejected", "list")
    assert max(map(len, lines)) <= 80
    assert "unknown_task" in line_of(lines, "12345678901234567")
    lines = show("check")
    assert max(len(line) for line in lines if not line.startswith("warning: ")) <= 80
    assert "30 2 * * *" in line_of(lines, "send_the_welcome_email")
    (warning,) = [line for line in lines if line.startswith("warning: ")]
    assert "02:30 comes twice" in warning
    assert "02:30 is missing" in warning
    assert any(line.startswith("shop") or "shop.send_the" in line for line in show("check", "--wide"))


def test_an_execution_is_shown_with_values_that_can_be_copied(show: Show) -> None:
    lines = show("executions", "show", GOOD)
    assert any(line.split() == ["task_id", GOOD] for line in lines)
    assert any("x" * 200 in line for line in lines)


def test_it_says_where_its_log_lines_are(environ: dict[str, str], folder: Path, show: Show) -> None:
    lines = show("executions", "show", BAD, GCP_PROJECT_ID="shop-prod")
    (link,) = [line.removeprefix("Cloud Logging: ") for line in lines if line.startswith("Cloud Logging: ")]
    address = urlsplit(link)
    assert (address.hostname, address.path.split(";")[0]) == ("console.cloud.google.com", "/logs/query")
    assert parse_qs(address.query) == {"project": ["shop-prod"]}
    query = unquote(address.path.split(";query=")[1])
    assert query.splitlines() == [
        line for line in lines if line.startswith(("resource", "json", "timestamp"))
    ]
    assert query.splitlines()[1] == f'jsonPayload.task_id="{BAD}"'
    assert [line.split("=")[0] for line in query.splitlines()[2:]] == ["timestamp>", "timestamp<"]
    done = Commands(folder, environ)("executions", "show", BAD, "--json", GCP_PROJECT_ID="shop-prod")
    assert json.loads(done.stdout)["logs"] == {"query": query, "link": link}


def test_a_local_record_has_no_lines_in_the_cloud(show: Show) -> None:
    lines = show("executions", "show", BAD, GCP_PROJECT_ID="local", PUBSUB_EMULATOR_HOST="127.0.0.1:1")
    assert not [line for line in lines if "Cloud Logging" in line]

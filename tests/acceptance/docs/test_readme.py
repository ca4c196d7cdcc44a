"""The README is true: its commands run in order in an empty folder, and `make demo` in a clone of it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stage.commands import clean_environ
from tests.stage.page_run import play
from tests.stage.pages import blocks
from tests.stage.record import Record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def clone(source: Path, target: Path) -> None:
    """A copy of what git tracks or would track, as a clone of the next commit would be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=source,
        check=True,
        capture_output=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def test_the_readme_can_be_followed(
    project_root: Path, place: Path, database_url: str, empty_database_url: str
) -> None:
    shown = play(
        [(project_root / "README.md").read_text()], place, record=database_url, empty=empty_database_url
    )
    assert "1 passed" in shown
    assert "send_welcome_email" in shown
    assert "SUCCESSFUL" in shown


SIGNED_UP = """
import asyncio, os
from sqlalchemy.ext.asyncio import create_async_engine
from sign_up import sign_up

async def main():
    engine = create_async_engine(os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+asyncpg:"))
    print(await sign_up(engine, "ada"))
    try:
        await sign_up(engine, "ada")
    except Exception as error:
        print(type(error).__name__)
    await engine.dispose()

asyncio.run(main())
"""


async def test_the_user_and_the_task_are_there_or_neither(
    project_root: Path, tmp_path: Path, database_url: str
) -> None:
    """The second user is refused at COMMIT, after the task was enqueued."""
    for extra, code in blocks((project_root / "README.md").read_text(), "python"):
        (tmp_path / extra.split('"')[1]).write_text(code)
    record = Record(database_url)
    await record.fetch("CREATE TABLE users (name text UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    try:
        env = clean_environ() | {
            "DATABASE_URL": database_url,
            "GCP_PROJECT_ID": "local",
            "TASKS_MODULES": "shop_tasks",
        }
        env |= {"PUBSUB_EMULATOR_HOST": "127.0.0.1:9"}
        argv = [sys.executable, "-c", SIGNED_UP]
        done = await asyncio.to_thread(
            subprocess.run, argv, cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        task_id, refused = done.stdout.split()
        assert refused == "IntegrityError"
        assert await record.fetch("SELECT name FROM users") == [{"name": "ada"}]
        assert await record.fetch("SELECT task_id FROM task_executions") == [{"task_id": task_id}]
    finally:
        await record.fetch("DROP TABLE users")


def test_the_demo_runs_in_a_fresh_clone_and_leaves_only_its_environment(
    project_root: Path, tmp_path: Path
) -> None:
    home = tmp_path / "clone"
    clone(project_root, home)
    kept = (
        "PATH",
        "HOME",
        "LANG",
        "PIP_",
        "PYENV_",
        "SSL_",
        "REQUESTS_",
        "COVERAGE_",
        "http",
        "HTTP",
        "TMPDIR",
    )
    environ = {name: value for name, value in os.environ.items() if name.startswith(kept)}
    done = subprocess.run(
        ["make", "demo"], cwd=home, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ pushes, each as the contract says", done.stdout, re.MULTILINE), done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    subprocess.run(["git", "init", "-q", "."], cwd=home, check=True, capture_output=True)
    status = subprocess.run(
        ["git", "status", "--short", "--ignored"], cwd=home, check=True, capture_output=True, text=True
    )
    ignored = {line[3:] for line in status.stdout.splitlines() if line.startswith("!!")}
    assert [
        name for name in ignored if not name.startswith((".venv", ".receiver")) and "__pycache__" not in name
    ] == []


def test_it_is_short(project_root: Path) -> None:
    assert (project_root / "README.md").read_text().count("\n") <= 150

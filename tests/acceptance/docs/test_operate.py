"""The pages for who is called at night are true: what they let one type is typed, in a place where something has gone wrong.

The place is a `receiver dev` with tasks that fail, a message that was rejected, and what a page calls `$ID` and `$MESSAGE`.
`receiver doctor` finds something: exit code 1. Queries are run as the owner of the record, or of the copy for staging. Commands for Google's cloud are run by `test_deploy.py`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from receiver.local_postgres import files
from tests.stage.commands import ROOT, clean_environ
from tests.stage.pages import DOCS, OWN_TESTS, Block, missing, read

TASKS = """
from receiver import PermanentError, TaskRoute, task

@task
async def send_welcome_email(user_id: str) -> dict[str, str]:
    return {"sent_to": user_id}

@task
async def charge(order: int) -> None:
    raise ConnectionError("the bank is away") if order else PermanentError("no such order")

@task
async def cleanup_old_data() -> int:
    return 0

tasks = [
    TaskRoute(send_welcome_email),
    TaskRoute(charge, max_attempts=1, kill_switch="ENABLE_CHARGE"),
    TaskRoute(cleanup_old_data, schedule="0 3 * * *"),
]
"""
RECEIVER = """#!/bin/sh
{python} -P -m receiver "$@"
code=$?
if [ "$1" = doctor ] && [ $code -eq 1 ]; then exit 0; fi
exit $code
"""
PAGES = [page for page, by in OWN_TESTS.items() if by.endswith("::test_what_a_page_says_works_at_night")]
START_TIMEOUT = 60

pytestmark = pytest.mark.slow


class Place:
    """A folder with a `receiver dev` in which things have gone wrong."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        programs = folder / "bin"
        programs.mkdir()
        (programs / "receiver").write_text(RECEIVER.format(python=sys.executable))
        (programs / "receiver").chmod(0o755)
        (folder / "shop_tasks.py").write_text(TASKS)
        self._environ = clean_environ() | {
            "PATH": f"{programs}:{files.find().bin}:{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}:{folder}",
        }
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._dev = subprocess.Popen(
                [sys.executable, "-P", "-m", "receiver", "dev", "--modules", "shop_tasks"],
                cwd=folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def begin(self) -> None:
        """Waits until it receives, and lets a message be rejected and an execution fail for good: `$MESSAGE` and `$ID`."""
        end = time.monotonic() + START_TIMEOUT
        while "receiving pushes" not in self._log.read_text():
            assert self._dev.poll() is None, self._log.read_text()
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.05)
        (self.record,) = re.findall(
            r"^DATABASE_URL=(.*)$", (self._folder / ".receiver" / "env").read_text(), re.MULTILINE
        )
        self.staging = urlunsplit(urlsplit(self.record)._replace(path="/staging"))
        for statement in ("CREATE DATABASE staging", "CREATE ROLE serving", "CREATE ROLE shop"):
            self.query(statement, self.record)
        self.run("receiver push charge || true; receiver enqueue charge --args '[1]' --wait 30 || true")
        (rejected,) = json.loads(self.run("receiver rejected list --json"))
        (failed,) = json.loads(self.run("receiver executions list --status failed --json"))
        self._environ |= {
            "ID": failed["task_id"],
            "MESSAGE": rejected["key"].rpartition(" ")[2],
            "PRODUCTION_URL": self.record,
            "STAGING_URL": self.staging,
        }

    def run(self, script: str) -> str:
        """What a piece of shell prints."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self._folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def query(self, statements: str, url: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statements)

    def end(self) -> None:
        self._dev.send_signal(signal.SIGINT)
        self._dev.wait(40)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="receiver-docs-", dir="/tmp"))
    folder.chmod(0o755)
    made = Place(folder)
    try:
        made.begin()
        yield made
    finally:
        made.end()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_says_works_at_night(place: Place, page: str) -> None:
    found = read((DOCS / page).read_text())
    for block, below in zip_longest(found, found[1:]):
        if block.language == "sh":
            shown = place.run(block.code)
            assert missing(expected(below), shown) == [], shown
        elif block.language == "sql":
            place.query(block.code, place.staging if "staging" in block.code else place.record)


def expected(below: Block | None) -> str:
    """What the page says that a piece of shell shows."""
    return below.code if below is not None and below.language == "text" else ""

"""The pages on local work and on testing are true: what they show is run as it stands there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import google_fake
from tests.acceptance.local.test_testing import plugin_arguments
from tests.stage.commands import clean_environ
from tests.stage.pages import commands, shown_in, written

pytestmark = pytest.mark.slow


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of the page's reader, which PostgreSQL's account can enter."""
    made = Path(tempfile.mkdtemp(prefix="receiver-docs-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.parametrize(
    ("page", "modules", "passed"),
    [
        ("testing.md", ["shop_tasks.py", "conftest.py", "test_good_days.py", "test_bad_days.py"], 9),
        ("tasks.md", ["orders.py", "test_orders.py", "tenants.py", "test_tenants.py"], 3),
    ],
)
def test_the_tests_of_a_page_pass(
    project_root: Path, tmp_path: Path, page: str, modules: list[str], passed: int
) -> None:
    assert written((project_root / "docs" / page).read_text(), tmp_path) == modules
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", *plugin_arguments()],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": f"{project_root}:{tmp_path}", "TASKS_MODULES": modules[0].removesuffix(".py")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{passed} passed" in done.stdout


def test_the_page_on_provisioning_works(project_root: Path, tmp_path: Path) -> None:
    """Its commands run in order, in one shell as it were, and show what the page says that they show."""
    page = (project_root / "docs" / "operate" / "provisioning.md").read_text()
    written(page, tmp_path)
    said: list[str] = []
    with google_fake.running() as google:
        environ = clean_environ() | {
            "PATH": f"{programs(tmp_path)}:{os.environ['PATH']}",
            "PUBSUB_EMULATOR_HOST": google.host,
            "TASKS_SCHEDULER_ENDPOINT": google.url,
        }
        for code, lines in shown_in(page):
            said += [line for line in code.splitlines() if line.startswith("export ")]
            done = subprocess.run(
                ["sh", "-e", "-c", "\n".join([*said, code])],
                cwd=tmp_path,
                env=environ,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            output = iter(done.stdout.splitlines())
            missing = [line for line in lines if not any(found.startswith(line) for found in output)]
            assert not missing, done.stdout
            for (
                subscription
            ) in google.pubsub.subscriptions.values():  # somebody's hand, before the next piece
                if subscription["name"].endswith("send_welcome_email-sub"):
                    subscription["ackDeadlineSeconds"] = 10


def programs(folder: Path) -> Path:
    """A folder in which `receiver` and `python` are those of this suite."""
    made = folder / "bin"
    made.mkdir()
    for name, arguments in (("receiver", "-m receiver"), ("python", "")):
        (made / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (made / name).chmod(0o755)
    return made


def played(page: str, folder: Path, project_root: Path) -> str:
    """The first terminal stays open, the second one's commands are run in it; what they print."""
    written(page, folder)
    environ = clean_environ() | {
        "PYTHONPATH": f"{project_root}:{folder}",
        "PATH": f"{programs(folder)}:{os.environ['PATH']}",
    }
    log = folder / "log"
    with log.open("wb") as output:
        first = subprocess.Popen(
            ["sh", "-c", "exec " + commands(page, "first terminal")],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        end = time.monotonic() + 40
        while "receiving pushes" not in log.read_text():
            assert first.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        second = subprocess.run(
            ["bash", "-m", "-e", "-c", commands(page, "second terminal")],
            cwd=folder,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        first.send_signal(signal.SIGINT)
        first.wait(40)
    assert second.returncode == 0, second.stdout + second.stderr + log.read_text()
    return second.stdout


def test_the_page_on_local_work_works(project_root: Path, folder: Path) -> None:
    shown = played((project_root / "docs" / "local.md").read_text(), folder, project_root)
    assert "200 The task completed." in shown
    assert "fired cleanup_old_data" in shown
    assert "send_welcome_email" in shown
    assert "dev--gyrinx.tasks--shop_tasks.send_welcome_email" in shown

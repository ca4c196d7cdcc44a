"""The page on provisioning is true: what it shows is run as it stands there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import google_fake
from tests.stage.commands import clean_environ
from tests.stage.pages import read, written

pytestmark = pytest.mark.slow


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


def shown_in(text: str) -> list[tuple[str, list[str]]]:
    """Each piece of shell, with the lines that the page says it shows."""
    pieces: list[tuple[str, list[str]]] = []
    for block in read(text):
        if block.language == "sh":
            pieces.append((block.code, []))
        elif block.language == "text":
            pieces[-1][1].extend(block.code.splitlines())
    return pieces


def programs(folder: Path) -> Path:
    """A folder in which `receiver` and `python` are those of this suite."""
    made = folder / "bin"
    made.mkdir()
    for name, arguments in (("receiver", "-m receiver"), ("python", "")):
        (made / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (made / name).chmod(0o755)
    return made

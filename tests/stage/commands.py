"""The command `receiver` as a process of its own: what it is given, and what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tests.stage import warm

Done: TypeAlias = subprocess.CompletedProcess[str]

ROOT = Path(__file__).resolve().parents[2]
RECEIVER = (sys.executable, "-P", "-m", "receiver")
SETTINGS = (
    "TASKS_",
    "DATABASE_",
    "GCP_",
    "CLOUD_RUN_",
    "SCHEDULER_",
    "K_",
    "PORT",
    "PUBSUB_",
    "GOOGLE_",
    "ENABLE_",
)
"""How the variables begin that a command reads."""  # fmt: skip


def clean_environ() -> dict[str, str]:
    """This process's environment without any setting; this checkout's `receiver` is found from every folder."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    return clean | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def run_command(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str],
    program: tuple[str, ...] = RECEIVER,
    timeout: float = 60,
) -> Done:
    """A command with these arguments, to its end; nothing is to be read on standard input.

    `receiver` is a warm process (`tests.stage.warm`), every other program starts cold.
    """
    begin = warm.start if program == RECEIVER else subprocess.Popen[str]
    argv = [*program, *arguments]
    with begin(
        argv,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return Done(argv, process.returncode, stdout, stderr)


@dataclass(frozen=True, slots=True)
class Commands:
    """Runs commands in a folder; variables of one call are its keywords."""

    folder: Path
    environ: Mapping[str, str]

    def __call__(self, *arguments: str, **env: str) -> Done:
        return run_command(*arguments, cwd=self.folder, env={**self.environ, **env})


def one_line(done: Done, code: int = 2) -> str:
    """The one line on standard error of a command that refused."""
    assert done.returncode == code, done
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr

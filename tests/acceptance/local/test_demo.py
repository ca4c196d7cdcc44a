"""The way of a message in `receiver demo`: lines in a pipe, a live table on a terminal."""

from __future__ import annotations

import os
import pty
import re
import time
from pathlib import Path

import pytest

from tests.stage.commands import RECEIVER, clean_environ, run_command

EXPECTED = [
    "enqueue, push, record: greet published",
    "enqueue, push, record: greet push 1: 200 acked",
    "a retry: flaky published",
    "a retry: flaky push 1: 500",
    "a retry: flaky push 2: 200 acked",
    "a dead letter: stranded published",
    *[f"a dead letter: stranded push {number}: 500" for number in range(1, 6)],
    "a dead letter: stranded push 6: 200 its dead letter is in the record",
    "a scheduled firing: cleanup published",
    "a scheduled firing: cleanup push 1: 200 acked",
]


@pytest.fixture
def environ() -> dict[str, str]:
    return clean_environ() | {"TERM": "xterm", "COLUMNS": "120"}


@pytest.mark.slow
def test_in_a_pipe_each_step_is_a_line(environ: dict[str, str], tmp_path: Path) -> None:
    began = time.monotonic()
    done = run_command("demo", cwd=tmp_path, env=environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < 30
    assert [line for line in done.stdout.splitlines() if line in EXPECTED] == EXPECTED
    assert re.search(r"[0-9a-f-]{36} +flaky +SUCCESSFUL +2", done.stdout)
    assert re.search(r"[0-9a-f-]{36} +stranded +FAILED, final +5", done.stdout)


@pytest.mark.slow  # what it shows is in test_cli.py::TestDemo
def test_on_a_terminal_it_is_a_table_that_lives(environ: dict[str, str], tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execve(RECEIVER[0], [*RECEIVER, "demo"], environ)  # noqa: S606 - the child of a fork
    shown = bytearray()
    try:
        while chunk := os.read(terminal, 65536):
            shown.extend(chunk)
    except OSError:
        pass  # nobody has the terminal any more
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown.decode()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert text.count("its dead letter is in the record") >= 1
    assert re.search(r"stranded +500 500 500 +on its way", text), (
        "the table was there while the message was on its way"
    )
    assert re.search(r"a retry +flaky +500 200 +acked", text)

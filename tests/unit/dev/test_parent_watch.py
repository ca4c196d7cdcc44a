"""A process that was started with a ParentPipe ends with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from receiver.dev.processes import ParentPipe

HOLDS = """
import os, subprocess, sys
read, write = os.pipe()
code = "from receiver.dev.parent_watch import end_with; end_with({}); print('up', flush=True); import time; time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", code.format(read)], pass_fds=(read,))
print(child.pid, flush=True)
child.wait()
"""


def test_what_is_started_is_the_command(tmp_path: Path, project_root: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(project_root)}
    with closing(ParentPipe()) as parent:
        process = parent.start(["--version"], folder=tmp_path, environ=environ, stdout=subprocess.PIPE)
        output, _ = process.communicate()
    assert (process.returncode, output.startswith(b"receiver, version ")) == (0, True)


def test_a_killed_holder_takes_it_along(project_root: Path) -> None:
    """The pipe's reader is its grandchild here: it has the holder's standard output, which ends when both have ended."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS], cwd=project_root, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert "up" in {holder.stdout.readline().strip(), holder.stdout.readline().strip()}
        holder.send_signal(signal.SIGKILL)
        assert holder.stdout.read() == ""
    assert holder.returncode == -signal.SIGKILL

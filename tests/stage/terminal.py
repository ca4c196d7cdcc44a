"""A command on a terminal of a given width, and what it shows there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.stage import warm
from tests.stage.commands import RECEIVER


def shown(
    *arguments: str, cwd: Path, env: Mapping[str, str], columns: int = 80, typed: str = ""
) -> list[str]:
    """The lines of a command's output, without colours. What is typed waits for the command's questions."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environ = {name: value for name, value in env.items() if name != "COLUMNS"} | {"TERM": "xterm-256color"}
    process = warm.start(
        [*RECEIVER, *arguments], cwd=cwd, env=environ, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    os.write(master, typed.encode())
    output = b""
    with suppress(OSError):  # the terminal is gone when its last user ends
        while piece := os.read(master, 65536):
            output += piece
    os.close(master)
    process.wait(60)
    return re.sub(r"\x1b\[[0-9;]*m", "", output.decode()).replace("\r\n", "\n").splitlines()

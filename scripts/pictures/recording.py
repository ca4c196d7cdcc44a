"""What a real `receiver dev` and a second terminal beside it show, kept as text: `python -m scripts.pictures --record`.

It takes half a minute: the second attempt of `charge_card` waits for Pub/Sub's backoff. The ids, ports and times are those of
that run; the temporary folder is called `~/shop`.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from contextlib import closing
from pathlib import Path
from typing import Final, Self

RECORDED: Final = Path(__file__).with_name("dev.txt")
COLUMNS: Final = 100
PATIENCE: Final = 90.0
"""Seconds for each thing that is waited for."""

TASKS: Final = """\
from receiver import TaskContext, TaskRoute, task


@task
async def send_welcome_email(user_id: str) -> dict[str, str]:
    return {"sent_to": user_id}


@task
async def charge_card(ctx: TaskContext, order_id: int) -> str:
    if ctx.attempt == 1:
        raise ConnectionError("the bank does not answer")
    return "paid"


@task
async def delete_old_carts() -> int:
    return 3


tasks = [
    TaskRoute(send_welcome_email),
    TaskRoute(charge_card),
    TaskRoute(delete_old_carts, schedule="0 3 * * *"),
]
"""

COMMANDS: Final = {
    "receiver enqueue send_welcome_email --args '[\"ada\"]' --wait 30": "200 send_welcome_email",
    "receiver enqueue charge_card --args '[17]' --wait 60": "200 charge_card",
    "receiver dev --tick delete_old_carts": "200 delete_old_carts",
}
"""What is typed into the second terminal, and what the first one shows at its end."""


class Recorded:
    """A command on a terminal of its own, and its output so far."""

    def __init__(self, command: str, folder: Path) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {sys.executable} -P -m {command}"],
            cwd=folder,
            env={**kept, "TERM": "xterm-256color", "TASKS_MODULES": "shop_tasks"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.output = ""

    def read_until(self, words: str | None) -> Self:
        """Reads until these words are there; None: until the command ends.

        Raises:
            TimeoutError: they did not come.
        """
        end = time.monotonic() + PATIENCE
        while words is None or words not in self.output:
            if not select.select([self._master], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError(f"{words!r} did not come:\n{self.output}")
            try:
                self.output += os.read(self._master, 65536).decode()
            except OSError:  # its last user has ended
                if words is None:
                    break
                raise
        return self

    def close(self) -> None:
        """Ctrl-C; and SIGKILL when that does not end it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._master)


def record() -> str:
    """Both terminals, an empty line between them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "shop_tasks.py").write_text(TASKS)
        second = list[str]()
        with closing(Recorded("receiver dev", folder)) as first:
            first.read_until("receiving pushes")
            for command, answer in COMMANDS.items():
                with closing(Recorded(command, folder)) as other:
                    second += [f"$ {command}", *shown(other.read_until(None).output)]
                first.read_until(answer)
        lines = ["$ receiver dev", *shown(first.output), "", *second]
        return "\n".join(lines).replace(str(folder), "~/shop") + "\n"


def shown(output: str) -> list[str]:
    """The lines that are on the screen in the end, without colours: a spinner is not."""
    lines = [""]
    for piece in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r\n|\n|\r|[^\x1b\r\n]+", output):
        if piece in {"\r\n", "\n"}:
            lines.append("")
        elif piece == "\x1b[1A":
            lines.pop()
        elif piece == "\x1b[2K":
            lines[-1] = ""
        elif not piece.startswith(("\x1b", "\r")):
            lines[-1] += piece
    return [line.rstrip() for line in lines if line]

"""Starts `receiver` as a separate process: for `receiver dev` and the demo.

Invariant: no such process outlives this one (`ParentPipe`), and every one ends by SIGTERM first, as on Cloud Run.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from subprocess import DEVNULL
from typing import IO, TYPE_CHECKING, Final

import httpx

from receiver.dev.parent_watch import STOP_TIMEOUT
from receiver.errors import ConfigurationError
from receiver.hosts import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

PROJECT: Final = "local"
EMAIL: Final = "pubsub-push@local.iam.gserviceaccount.com"
START_TIMEOUT: Final = 20.0
"""Seconds until /health must answer; it takes about one."""

START_POLL: Final = 0.02
"""Seconds between two requests to a receiver that is starting."""


class ParentPipe:
    """A pipe that closes when this process ends, in any way. Processes started with it end then too."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def close(self) -> None:
        """Ends everything that was started with it."""
        os.close(self._write)
        os.close(self._read)

    def start(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        environ: Mapping[str, str],
        stdin: int | None = DEVNULL,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        foreground: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Starts `receiver` with these arguments. In the foreground it gets the terminal's signals."""
        return subprocess.Popen(
            # -P: the working folder is searched for plugins only.
            [sys.executable, "-P", "-m", "receiver.dev.parent_watch", str(self._read), *arguments],
            cwd=folder,
            env=environ,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(self._read,),
            start_new_session=not foreground,
        )


def answers(process: subprocess.Popen[bytes], url: str, within: float = math.inf) -> bool:
    """Waits until /health answers. False when the process ends before, or after `within` seconds."""
    end = time.monotonic() + within
    with httpx.Client(trust_env=False) as client:
        while process.poll() is None and time.monotonic() < end:
            try:
                if client.get(f"{url}/health", timeout=5).is_success:
                    return True
            except httpx.TransportError:
                pass
            time.sleep(START_POLL)
    return False


def stop(process: subprocess.Popen[bytes], within: float) -> int:
    """Ends a process by SIGTERM, or by SIGKILL after `within` seconds; returns its exit code."""
    process.terminate()
    try:
        return process.wait(within)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


@contextmanager
def serving(url: str, environ: Mapping[str, str], folder: Path, log: Path) -> Iterator[None]:
    """A receiver in its own process, for the time of the block.

    Args:
        url: where it answers, by its PORT.
        folder: its working folder.
        log: the file of its output.

    Raises:
        ConfigurationError: it ended instead, with its last lines; or it does not answer.
    """
    with closing(ParentPipe()) as parent, log.open("wb") as output:
        process = parent.start(
            ["serve", "--host", LOOPBACK],
            folder=folder,
            environ=environ,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            if not answers(process, url, START_TIMEOUT):
                written = log.read_text(errors="replace").strip()
                raise ConfigurationError(f"the receiver did not start: {written[-2000:]}")
            yield
        finally:
            stop(process, STOP_TIMEOUT)

"""Starts `receiver` as a separate process: for `receiver dev`, the demo and tests.

Invariant: no such process outlives this one (`ParentPipe`), and every one ends by SIGTERM first, as on Cloud Run.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from subprocess import DEVNULL
from typing import IO, TYPE_CHECKING, Final, Self

import httpx

from receiver.emulator.push_client import Pusher
from receiver.errors import ConfigurationError
from receiver.hosts import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from receiver.emulator.signer import Signer

PROJECT: Final = "local"
EMAIL: Final = "pubsub-push@local.iam.gserviceaccount.com"
SHARES_RESERVED: Final = sys.platform == "linux"
"""Whether a process can listen on a port that this one keeps reserved. Elsewhere the port is freed right before the start."""

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


class Instance:
    """One receiver process on loopback.

    Args:
        database_url: a migrated database.
        modules: `TASKS_MODULES`.
        signer: signs the tokens of pushes to it; None for `TASKS_PUSH_AUTH=off`.
        certs_url: where the signer's certificates are served.
        folder: its working folder, where plugin modules are found.
        env: further variables.
        port: None for a free one, which stays reserved until `close`.
    """

    def __init__(
        self,
        *,
        database_url: str,
        modules: str,
        signer: Signer | None,
        certs_url: str | None,
        folder: Path,
        env: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        self._reserved = _reserved() if port is None else None
        self.port: int = port or (self._reserved.getsockname()[1] if self._reserved else 0)
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.signer = signer
        self.environ = _environ(self.url, database_url, modules, certs_url, env or {})
        self._folder = folder
        self._log = tempfile.NamedTemporaryFile(prefix="receiver-", suffix=".log", delete=False)  # noqa: SIM115 - closed by stop()
        self._client = httpx.Client(limits=httpx.Limits(max_connections=200))
        self._process: subprocess.Popen[bytes] | None = None
        self._parent = ParentPipe()

    def start(self) -> None:
        """Starts the process and waits until it answers.

        Raises:
            ConfigurationError: it ended instead, with its last lines; or it does not answer.
        """
        self.launch()
        if not answers(self.process, self.url, START_TIMEOUT):
            ended = self.process.poll() is not None
            what = "did not start" if ended else f"does not answer at {self.url}"
            raise ConfigurationError(f"the receiver {what}: {self.log().strip()[-2000:]}")

    def launch(self) -> None:
        """Starts the process without waiting for anything."""
        if self._reserved is not None and not SHARES_RESERVED:
            self._reserved.close()
        self._process = self._parent.start(
            ["serve", "--host", LOOPBACK, "--port", str(self.port)],
            folder=self._folder,
            environ=self.environ,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process, once started."""
        if self._process is None:
            raise ConfigurationError("the receiver has not been started")
        return self._process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def log(self) -> str:
        """Its output so far."""
        return Path(self._log.name).read_text(errors="replace")

    def pusher(self) -> Pusher:
        """Pushes to it, as Pub/Sub would."""
        return Pusher(self._client, self.url, self.url, EMAIL, self.signer)

    def get(self, path: str) -> httpx.Response:
        """A GET, for /health and /ready."""
        return self._client.get(self.url + path, timeout=10)

    def terminate(self) -> None:
        """Sends SIGTERM and does not wait."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self, timeout: float = 30.0) -> int:
        """Ends it by SIGTERM, or SIGKILL if it does not end in time; returns its exit code."""
        return stop(self.process, timeout)

    def kill(self) -> None:
        """SIGKILL: what Cloud Run does after its ten seconds, or the machine at any time."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Ends it, and removes its files."""
        if self._process is not None:
            self.stop()
        self._parent.close()
        if self._reserved is not None:
            self._reserved.close()
        self._client.close()
        self._log.close()
        Path(self._log.name).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _reserved() -> socket.socket:
    """A socket bound to a free loopback port: the system gives the port to no other process.

    It does not listen. On Linux the receiver's socket may listen there, because both have SO_REUSEADDR.
    """
    reserved = socket.socket()
    reserved.bind((LOOPBACK, 0))
    # Set after bind(), or bind() might choose a port that another socket shares.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return reserved


def _environ(
    url: str, database_url: str, modules: str, certs_url: str | None, env: Mapping[str, str]
) -> dict[str, str]:
    """This process's environment, with the instance's settings in place of its own."""
    ours = ("TASKS_", "DATABASE_", "GCP_PROJECT_ID", "CLOUD_RUN_", "SCHEDULER_", "K_", "PORT", "PUBSUB_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    auth = {"TASKS_OIDC_CERTS_URL": certs_url} if certs_url else {"TASKS_PUSH_AUTH": "off"}
    return {
        **clean,
        "GCP_PROJECT_ID": PROJECT,
        "CLOUD_RUN_SERVICE_URL": url,
        "TASKS_SERVICE_ACCOUNT": EMAIL,
        "DATABASE_URL": database_url,
        "TASKS_MODULES": modules,
        "PYTHONUNBUFFERED": "1",
        **auth,
        **env,
    }

"""One receiver process on loopback, as tests start, ask, stop and kill it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx

from receiver.dev.processes import EMAIL, PROJECT, START_TIMEOUT, ParentPipe, answers, stop
from receiver.emulator.push_client import Pusher
from receiver.emulator.signer import Signer
from receiver.errors import ConfigurationError
from receiver.hosts import LOOPBACK

SHARES_RESERVED: Final = sys.platform == "linux"
"""Whether a process can listen on a port that this one keeps reserved. Elsewhere the port is freed right before the start."""


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

"""A real `receiver serve` as a process of its own on loopback: for the demo, for `receiver dev`, for tests.

Whoever starts it stops it; it ends by SIGTERM, as on Cloud Run, and its exit code is the receiver's. It never outlives its
starter (`receiver.dev.parent_watch`), and nobody takes its port between two of its runs.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx

from receiver.emulator.push_client import Pusher
from receiver.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from receiver.emulator.signer import Signer

PROJECT = "local"
EMAIL = "pubsub-push@local.iam.gserviceaccount.com"
SHARES_RESERVED = sys.platform == "linux"
"""Whether a port can be kept from others and listened on; elsewhere it is let go right before the start."""

START_TIMEOUT = 20.0
"""Seconds until /health must answer; it takes about one."""


class Instance:
    """One receiver process.

    Args:
        database_url: a migrated database.
        modules: `TASKS_MODULES`.
        signer: whose tokens it is sent; None for `TASKS_PUSH_AUTH=off`.
        certs_url: where the signer's certificates are served.
        folder: its working folder, where plugin modules are found.
        env: further variables.
        port: None for a free one, which stays its own until it is closed.
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
        self.url = f"http://127.0.0.1:{self.port}"
        self.signer = signer
        self.environ = _environ(self.url, database_url, modules, certs_url, env or {})
        self._folder = folder
        self._log = tempfile.NamedTemporaryFile(prefix="receiver-", suffix=".log", delete=False)  # noqa: SIM115 - closed by stop()
        self._client = httpx.Client(limits=httpx.Limits(max_connections=200))
        self._process: subprocess.Popen[bytes] | None = None
        self._tether, self._held = os.pipe()

    def start(self) -> None:
        """Starts the process and waits until it answers.

        Raises:
            ConfigurationError: it ended instead, with its last lines; or it does not answer.
        """
        self.launch()
        end = time.monotonic() + START_TIMEOUT
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise ConfigurationError(f"the receiver did not start: {self.log().strip()[-2000:]}")
            try:
                if self._client.get(f"{self.url}/health", timeout=1).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                time.sleep(0.02)
        raise ConfigurationError(f"the receiver does not answer at {self.url}: {self.log().strip()[-2000:]}")

    def launch(self) -> None:
        """Starts the process without waiting for anything."""
        if self._reserved is not None and not SHARES_RESERVED:
            self._reserved.close()
        serve = ["serve", "--host", "127.0.0.1", "--port", str(self.port)]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "receiver.dev.parent_watch", str(self._tether), *serve],
            cwd=self._folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=(self._tether,),
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
        """What it has printed."""
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
        process = self.process
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
        return process.wait()

    def kill(self) -> None:
        """SIGKILL: what Cloud Run does after its ten seconds, or the machine at any time."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Ends it, and removes what it left."""
        if self._process is not None:
            self.stop()
        for descriptor in (self._held, self._tether):
            os.close(descriptor)
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
    """A socket that is bound to a loopback port and does not listen: nobody else is given the port.

    On Linux another socket may listen on it all the same when both have SO_REUSEADDR, as the receiver's has.
    """
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    held.setsockopt(
        socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
    )  # after bind(): it must not choose one that is shared
    return held


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _environ(
    url: str, database_url: str, modules: str, certs_url: str | None, env: Mapping[str, str]
) -> dict[str, str]:
    """This process's environment without the settings it may hold, and with those of the instance."""
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

"""The official Pub/Sub emulator: one that already runs, or the one of an installed Cloud SDK on a port of its own."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from receiver.contract.encode import encode_payload
from receiver.emulator import in_thread
from receiver.emulator.signer import Signer
from receiver.local_postgres.server import free_port

BINARY = Path("platform/pubsub-emulator/bin/cloud-pubsub-emulator")
PLACES = (
    Path("/usr/lib/google-cloud-sdk"),
    Path("/usr/share/google-cloud-sdk"),
    Path("/opt/google-cloud-sdk"),
)
"""Where packages put a Cloud SDK. `.ci/run` looks in the same: where it finds one, no test may be skipped."""

START_TIMEOUT = 60.0
"""Seconds until the emulator must answer: a Java machine starts, on a shared one in about five."""


class NoEmulatorError(Exception):
    """There is none on this machine; the message says what was looked for."""


@dataclass(frozen=True, slots=True)
class Emulator:
    """The REST API of one emulator, in one project. `signs`: whether its pushes carry the tokens they should."""

    client: httpx.Client
    host: str
    project: str
    signs: bool = False

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One request below the project."""
        url = f"http://{self.host}/v1/projects/{self.project}/{path}"
        response = self.client.request(method, url, json=body, timeout=30)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def topic(self, name: str) -> str:
        self.call("PUT", f"topics/{name}")
        return f"projects/{self.project}/topics/{name}"

    def publish(self, topic: str, data: bytes) -> str:
        """Publishes one message and returns its id."""
        message = {"data": base64.b64encode(data).decode()}
        return str(self.call("POST", f"topics/{topic}:publish", {"messages": [message]})["messageIds"][0])

    def enqueue(self, topic: str, task_id: str, task: str, *args: Any) -> str:
        """Publishes a task."""
        return self.publish(topic, encode_payload(task_id, task, list(args), {}, None))

    def pull(self, subscription: str) -> list[dict[str, Any]]:
        """The messages that wait now."""
        body = {"maxMessages": 10, "returnImmediately": True}
        found = self.call("POST", f"subscriptions/{subscription}:pull", body).get("receivedMessages", [])
        return [received["message"] for received in found]


def find() -> Path:
    """The emulator of an installed Cloud SDK.

    Raises:
        NoEmulatorError: there is none, or no Java to run it.
    """
    gcloud = shutil.which("gcloud")
    roots = [Path(os.environ["CLOUDSDK_ROOT_DIR"])] if os.environ.get("CLOUDSDK_ROOT_DIR") else []
    roots += [Path(gcloud).resolve().parent.parent] if gcloud else []
    roots += [*PLACES, Path.home() / "google-cloud-sdk"]
    for root in roots:
        if (root / BINARY).is_file():
            if shutil.which("java") is None:
                raise NoEmulatorError(f"the Pub/Sub emulator in {root} needs Java, and there is none")
            return root / BINARY
    raise NoEmulatorError(
        "PUBSUB_EMULATOR_HOST is not set, and no Cloud SDK with the Pub/Sub emulator is installed"
    )


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """The host and port of an emulator, for the time of the block.

    Raises:
        NoEmulatorError: there is none on this machine.
    """
    if host := os.environ.get("PUBSUB_EMULATOR_HOST"):
        yield host
        return
    binary, port = find(), free_port()
    log = folder / "emulator.log"
    argv = [str(binary), "--host=127.0.0.1", f"--port={port}"]
    with log.open("wb") as output:
        # A session of its own: the script's Java machine ends with it.
        process = subprocess.Popen(
            argv, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            _await(f"http://127.0.0.1:{port}/", process, log)
            yield f"127.0.0.1:{port}"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def offered(place: str, folder: Path, signer: Signer | None = None) -> Iterator[str]:
    """Host and port of the local Pub/Sub (`ours`), or of the official emulator; without that, the test is skipped."""
    if place == "ours":
        with in_thread.running(signer) as beside:
            yield beside.host
        return
    with ExitStack() as stack:
        try:
            host = stack.enter_context(running(folder))
        except NoEmulatorError as reason:
            pytest.skip(str(reason))
        yield host


BOTH: Final = ["ours", pytest.param("official", marks=[pytest.mark.emulator, pytest.mark.slow])]
"""The places of `offered`, as parameters."""


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_TIMEOUT
    while time.monotonic() < end and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(url, timeout=5).is_success:
                return
        time.sleep(0.05)
    raise AssertionError(f"the Pub/Sub emulator does not answer: {log.read_text(errors='replace')[-2000:]}")

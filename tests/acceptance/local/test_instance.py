"""A receiver that another process starts: its port is nobody else's, and it does not outlive whoever started it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stage.instance import SHARES_RESERVED
from tests.stage.receivers import PLUGIN, new_instance
from tests.stage.record import MODULE
from tests.stage.waiting import eventually

OWNER = """
import sys, time
from pathlib import Path
from tests.stage.instance import Instance

instance = Instance(
    database_url=sys.argv[1], modules=sys.argv[2], signer=None, certs_url=None, folder=Path(sys.argv[3])
)
instance.start()
print(instance.pid, instance.port, flush=True)
time.sleep(600)
"""


def test_it_ends_with_a_starter_that_is_killed(database_url: str, project_root: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, database_url, MODULE, str(PLUGIN)],
        env=os.environ | {"PYTHONPATH": str(project_root)},
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        pid, port = map(int, owner.stdout.readline().split())
        owner.send_signal(signal.SIGKILL)

    def ended() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    try:
        asyncio.run(eventually(ended))
        with socket.create_server(("127.0.0.1", port)):
            pass
    finally:
        if not ended():
            os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(not SHARES_RESERVED, reason="needs Linux's SO_REUSEADDR")
def test_nobody_takes_its_port_before_or_between_its_runs(database_url: str, folder: Path) -> None:
    instance = new_instance(database_url, None, None, folder)
    try:
        assert is_taken(instance.port)
        for _ in range(2):
            instance.start()
            assert instance.get("/health").status_code == 200
            instance.kill()
            assert is_taken(instance.port)
    finally:
        instance.close()


def is_taken(port: int) -> bool:
    """Whether nobody else can listen there, although nobody answers."""
    with socket.socket() as other:
        assert other.connect_ex(("127.0.0.1", port)) != 0
    with socket.socket() as other:
        try:
            other.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False

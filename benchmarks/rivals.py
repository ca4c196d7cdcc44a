"""Who competes: how each is installed and started, and where its record can be counted.

All of them get the same deliveries, check the same tokens and run the same task; what else each does stands in its own
module under `peers`. Every one is a process of its own on loopback with a database of its own.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import asyncpg

from benchmarks.ground import AUDIENCE, CHECKOUT, HERE, Ground, environment
from benchmarks.load import PATH, delivery
from receiver.dev.processes import EMAIL
from receiver.local_postgres.server import free_port
from receiver.record.database import Database
from receiver.record.migrations import upgrade

if TYPE_CHECKING:
    from collections.abc import Mapping

PEERS = HERE / "peers"
_REFUSAL = re.compile(r"\b([45]\d\d) [^:\n]*: ([^\n\x1b\"]+)")
"""The receiver's line for a delivery that was not acked: status, task, why."""

START_PATIENCE = 60.0
"""Seconds in which a rival must record its first delivery."""


@dataclass(frozen=True, slots=True)
class Rival:
    """One competitor.

    Attributes:
        name: as the table calls it.
        requirements: of its environment.
        arguments: what its interpreter runs; `{port}` is replaced.
        table: where it records a delivery with status SUCCESSFUL; None for one that records nothing.
        checkout: whether it is this checkout's receiver.
        environ: variables beyond the common ones.
    """

    name: str
    requirements: Path
    arguments: tuple[str, ...]
    table: str | None
    checkout: bool = False
    environ: tuple[tuple[str, str], ...] = ()


RECEIVER = Rival(
    "receiver",
    CHECKOUT / "requirements" / "runtime.txt",
    ("-m", "receiver", "serve", "--host", "127.0.0.1", "--port", "{port}"),
    "task_executions",
    checkout=True,
)
NULL = Rival("null app", PEERS / "by_hand.txt", (str(PEERS / "null.py"), "{port}"), None)
BY_HAND = Rival("asyncpg by hand", PEERS / "by_hand.txt", (str(PEERS / "by_hand.py"), "{port}"), "executions")
CAREFUL = Rival("FastAPI + ORM", PEERS / "careful.txt", (str(PEERS / "careful.py"), "{port}"), "executions")
DJANGO = Rival(
    "Django view",
    PEERS / "django_view.txt",
    (
        "-m",
        "gunicorn",
        "--chdir",
        str(PEERS),
        "--workers",
        "2",
        "--threads",
        "8",
        "--log-level",
        "warning",
        "--bind",
        "127.0.0.1:{port}",
        "django_view:application",
    ),
    "executions",
)
ALL = (RECEIVER, NULL, BY_HAND, CAREFUL, DJANGO)


@dataclass(frozen=True, slots=True)
class Running:
    """A started rival. `started_in`: seconds from its start to the first recorded 200; `log`: what it has printed."""

    rival: Rival
    url: str
    pid: int
    database: str
    started_in: float
    log: IO[bytes]

    def printed(self) -> int:
        """Bytes that it has printed so far."""
        return os.fstat(self.log.fileno()).st_size

    def refusals(self, since: int) -> str:
        """What it has said of deliveries that it refused, counted, since it had printed so many bytes."""
        text = os.pread(self.log.fileno(), self.printed() - since, since).decode(errors="replace")
        reasons = Counter(f"{status} {why}" for status, why in _REFUSAL.findall(text))
        return ", ".join(f"{many} x {why}" for why, many in reasons.most_common(5)) or "it does not say why"


def new_database(ground: Ground, name: str) -> str:
    """An empty database's address; one of that name is dropped first."""

    async def make() -> None:
        connection = await asyncpg.connect(ground.postgres.url())
        try:
            await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()

    asyncio.run(make())
    return ground.postgres.url(name)


@contextmanager
def started(
    rival: Rival,
    ground: Ground,
    *,
    database: str | None = None,
    first: int = 0,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """The rival, for the time of the block.

    Args:
        database: one that is prepared already; otherwise an empty one is made for it.
        first: the id of the delivery that tells when it is up.
        environ: further variables.
    """
    python = environment(rival.requirements.stem, rival.requirements, checkout=rival.checkout)
    url = database or new_database(ground, rival.name.replace(" ", "_"))
    if rival.checkout and database is None:
        upgrade(Database.of(url))
    port = free_port()
    command = [str(python), *(part.replace("{port}", str(port)) for part in rival.arguments)]
    clean = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    log = tempfile.TemporaryFile()  # noqa: SIM115 - closed below; a pipe that nobody reads would stop a server that logs
    begun = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=PEERS / "plugin",
        env={**clean, **_settings(ground, url), **dict(rival.environ), **(environ or {})},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        took = _first_recorded(process, port, ground.token(), first, begun)
        yield Running(rival, f"http://127.0.0.1:{port}", process.pid, url, took, log)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def rest(running: Running) -> None:
    """Returns when what the last load has left in flight is done: it holds its places, and the next load would be refused some."""
    sql = f"SELECT count(*) * CASE WHEN bool_or(status = 'RUNNING') THEN -1 ELSE 1 END FROM {running.rival.table}"
    before, end = -1, time.perf_counter() + START_PATIENCE
    while time.perf_counter() < end:
        now = asyncio.run(_fetch(running.database, sql))
        if now == before >= 0:
            return
        before = now
        time.sleep(0.05)
    raise RuntimeError(f"{running.rival.name} still works a minute after its load")


def recorded(running: Running) -> int:
    """Deliveries that its record calls SUCCESSFUL."""
    return int(
        asyncio.run(
            _fetch(
                running.database, f"SELECT count(*) FROM {running.rival.table} WHERE status = 'SUCCESSFUL'"
            )
        )
    )


def connections(running: Running) -> int:
    """How many connections it holds to its database now."""
    sql = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    return int(asyncio.run(_fetch(running.database, sql)))


def record_bytes(running: Running) -> int:
    """What a row of the receiver's record takes on disk, with its indexes and the room that updates leave."""
    rows = "(SELECT count(*) FROM task_executions)"
    return asyncio.run(_fetch(running.database, f"SELECT pg_total_relation_size('task_executions') / {rows}"))


def wal(ground: Ground) -> int:
    """Bytes of write-ahead log that the server has written so far."""
    return int(
        asyncio.run(_fetch(ground.postgres.url(), "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))
    )


async def _fetch(url: str, sql: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        value: int = await connection.fetchval(sql)
        return value
    finally:
        await connection.close()


def _settings(ground: Ground, database: str) -> dict[str, str]:
    return {
        "DATABASE_URL": database,
        "GCP_PROJECT_ID": "local",
        "CLOUD_RUN_SERVICE_URL": AUDIENCE,
        "TASKS_SERVICE_ACCOUNT": EMAIL,
        "TASKS_OIDC_CERTS_URL": ground.certs_url,
        "TASKS_MODULES": "bench_tasks",
        "AUDIENCE": AUDIENCE,
        "EMAIL": EMAIL,
        "CERTS_URL": ground.pems_url,
    }


def _first_recorded(
    process: subprocess.Popen[bytes], port: int, token: str, number: int, begun: float
) -> float:
    """Seconds until one delivery, sent again and again, is answered with 200."""
    body = delivery(number)
    head = [f"POST {PATH} HTTP/1.1", f"host: 127.0.0.1:{port}", f"authorization: Bearer {token}"]
    head += ["content-type: application/json", f"content-length: {len(body)}", "connection: close", "", ""]
    request = "\r\n".join(head).encode() + body
    while time.perf_counter() - begun < START_PATIENCE:
        if process.poll() is not None:
            raise RuntimeError(f"it ended with exit code {process.returncode}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(request)
                if connection.recv(64).startswith(b"HTTP/1.1 200"):
                    return time.perf_counter() - begun
        except OSError:
            pass
        time.sleep(0.002)
    raise RuntimeError("it has not recorded a delivery within a minute")

"""Prepares `receiver dev`: its folder, its ports, a migrated PostgreSQL, and the receiver's environment.

A port, a folder or a variable that cannot be used ends it with one line, before anything is started.

Next: `receiver.dev.session` runs with what is prepared here.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from receiver.dev.folder import ENV_FILE, FOLDER_NAME, PORTS_FILE, Folder, Ports
from receiver.dev.local_routes import LocalProject
from receiver.dev.processes import EMAIL, PROJECT
from receiver.emulator.api import OIDC_CERTS_PATH
from receiver.emulator.faults import FaultSettings
from receiver.emulator.in_thread import listening
from receiver.errors import ConfigurationError
from receiver.hosts import LOOPBACK
from receiver.local_postgres.server import Postgres
from receiver.record import migrations
from receiver.record.database import Database
from receiver.settings import Settings

DEFAULT_PORTS: Final = Ports(receiver=8080, pubsub=8085, postgres=5433)
"""The first ports to try: Cloud Run's, the official emulator's, PostgreSQL's own plus one."""

IGNORED: Final = frozenset(
    {
        "CLOUD_RUN_SERVICE_URL",
        "DATABASE_AUTH",
        "DATABASE_PASSWORD",
        "DATABASE_PASSWORD_FILE",
        "DATABASE_URL",
        "K_REVISION",
        "K_SERVICE",
        "PUBSUB_EMULATOR_HOST",
        "TASKS_OIDC_CERTS_URL",
        "TASKS_SERVICE_ACCOUNT",
    }
)
"""Variables that are ignored, so that a laptop's tasks never run on another machine's database."""

KEPT: Final = ("TASKS_DB_SCHEMA", "TASKS_MODULES", "TASKS_PUSH_AUTH", "TASKS_SUBSCRIPTIONS")
"""Variables of the receiver's that other processes must have like it."""

PORTS_TRIED: Final = 200
PORT_WAIT: Final = 3.0
"""Seconds to wait for the ports of a run that was just killed."""

SHUTDOWN_GRACE: Final = "2"
"""Seconds: the default of TASKS_SHUTDOWN_GRACE here, because a save waits for it."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared session.

    Attributes:
        working: the folder of the plugins.
        folder: its `.receiver`.
        environ: the receiver's.
        project: where its topics and subscriptions are.
        listener: the local Pub/Sub's open socket.
        secret: the path before those of its API.
        lines: what to print at the start.
    """

    working: Path
    folder: Folder
    environ: Mapping[str, str]
    project: LocalProject
    faults: FaultSettings
    listener: socket.socket
    secret: str
    lines: tuple[str, ...]


@contextmanager
def prepared(working: Path, environ: Mapping[str, str]) -> Iterator[Prepared]:
    """Locks the folder, starts PostgreSQL and migrates it, for the time of the block.

    Args:
        working: the folder in which plugins are found and `.receiver` is kept.
        environ: the variables to start from; missing ones get defaults.

    Raises:
        ConfigurationError: one line on what to change.
        LocalPostgresError: likewise.
    """
    given = {name: value for name, value in environ.items() if name not in IGNORED}
    faults = FaultSettings.from_environ(given)
    settings = Settings.from_environ(given)
    folder = Folder(working)
    folder.make()
    with folder.locked():
        ports = _ports(folder, given)
        folder.keep_ports(ports)
        former = dict[str, str]()
        with suppress(ConfigurationError):  # nothing that others may have written
            former = folder.environ()
        password = urlsplit(former.get("DATABASE_URL", "")).password
        secret = former.get("PUBSUB_EMULATOR_HOST", "").partition("/")[2] or secrets.token_hex(16)
        with (
            listening(ports.pubsub) as listener,
            Postgres(folder.data(), port=ports.postgres, fsync=True, password=password) as postgres,
        ):
            database = Database.of(postgres.url(), schema=settings.db_schema)
            migrations.upgrade(database, environment=settings.environment)
            project = LocalProject(
                settings.project_id or PROJECT,
                settings.environment,
                settings.namespace,
                f"http://{LOOPBACK}:{ports.receiver}",
                EMAIL,
            )
            shared = _shared(given, project, ports, postgres.url(), secret)
            folder.keep_environ(shared)
            own = {"TASKS_SHUTDOWN_GRACE": SHUTDOWN_GRACE, **given, **shared, "PORT": str(ports.receiver)}
            own["PYTHONUNBUFFERED"] = "1"
            lines = (
                f"receiver      {project.url}/tasks/pubsub/",
                f"Pub/Sub       http://{LOOPBACK}:{ports.pubsub}",
                f"PostgreSQL    {LOOPBACK}:{ports.postgres}",
                f"environment   {FOLDER_NAME}/{ENV_FILE}  (for a process that enqueues: whole addresses, with their secrets)",
                *(["faults        on (TASKS_FAULT_*)"] if faults.any else []),
            )
            yield Prepared(working, folder, own, project, faults, listener, secret, lines)


def _shared(
    given: Mapping[str, str], project: LocalProject, ports: Ports, database_url: str, secret: str
) -> dict[str, str]:
    """The variables for the receiver, and for processes that enqueue or push. Not PORT: a web process has its own."""
    shared = {
        "DATABASE_URL": database_url,
        "GCP_PROJECT_ID": project.id,
        "PUBSUB_EMULATOR_HOST": f"{LOOPBACK}:{ports.pubsub}/{secret}",
        "TASKS_ENVIRONMENT": project.environment,
        "TASKS_NAMESPACE": project.namespace,
        "CLOUD_RUN_SERVICE_URL": project.url,
        "TASKS_SERVICE_ACCOUNT": project.email,
        "TASKS_OIDC_CERTS_URL": f"http://{LOOPBACK}:{ports.pubsub}{OIDC_CERTS_PATH}",
    }
    return shared | {name: given[name] for name in KEPT if given.get(name)}


def _ports(folder: Folder, environ: Mapping[str, str]) -> Ports:
    """The ports of the last run, so that a web process keeps its settings; else free ones. PORT wins over both."""
    text = environ.get("PORT", "").strip()
    wanted, known = int(text) if text.isdigit() else 0, folder.ports()
    receiver = wanted or (known.receiver if known else _first_free(DEFAULT_PORTS.receiver))
    pubsub = known.pubsub if known else _first_free(DEFAULT_PORTS.pubsub, receiver)
    postgres = known.postgres if known else _first_free(DEFAULT_PORTS.postgres, receiver, pubsub)
    anew = f"delete {folder.path / PORTS_FILE} to have new ports chosen"
    for port, who in ((pubsub, "the local Pub/Sub"), (postgres, "PostgreSQL")):
        if port == receiver:
            raise ConfigurationError(
                f"PORT is {receiver}, and {who} listens there; set PORT to another, or {anew}"
            )
        _await_free(port, who, anew)
    _await_free(receiver, "the receiver", "set PORT to another")
    return Ports(receiver, pubsub, postgres)


def _first_free(favourite: int, *others: int) -> int:
    """The first free port from here on. Not any free port: the system may give that to another program meanwhile."""
    for port in range(favourite, favourite + PORTS_TRIED):
        if port not in others and is_free(port):
            return port
    raise ConfigurationError(f"the ports from {favourite} to {favourite + PORTS_TRIED - 1} are all taken")


def _await_free(port: int, who: str, mend: str) -> None:
    end = time.monotonic() + PORT_WAIT
    while not is_free(port):
        if time.monotonic() > end:
            raise ConfigurationError(
                f"port {port} (for {who}) is taken by another program; stop that one, or {mend}"
            )
        time.sleep(0.05)


def is_free(port: int) -> bool:
    """Whether the port is free now."""
    try:
        listening(port).close()
    except OSError:
        return False
    return True

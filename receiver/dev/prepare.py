"""What `receiver dev` stands on: its folder, its ports, a migrated PostgreSQL, and the environment that follows.

A port, a folder or a variable that is not as it must be ends it with one line, before anything is started.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from receiver.dev.folder import STATE, Folder, Ports
from receiver.dev.local_routes import Place
from receiver.dev.processes import EMAIL, PROJECT
from receiver.emulator.api import OIDC_CERTS_PATH
from receiver.emulator.faults import FaultSettings
from receiver.emulator.in_thread import listening
from receiver.errors import ConfigurationError
from receiver.local_postgres.server import Postgres
from receiver.parsers import LOOPBACK
from receiver.record import migrations
from receiver.settings import Settings

FAVOURITES: Final = Ports(receiver=8080, pubsub=8085, postgres=5433)
"""The first ports that are tried: Cloud Run's, the official emulator's, the one beside PostgreSQL's own."""

OURS: Final = frozenset(
    {
        "CLOUD_RUN_SERVICE_URL",
        "DATABASE_PASSWORD",
        "DATABASE_URL",
        "K_REVISION",
        "K_SERVICE",
        "PUBSUB_EMULATOR_HOST",
        "TASKS_OIDC_CERTS_URL",
        "TASKS_SERVICE_ACCOUNT",
    }
)
"""Variables that are not believed: they are about another place, and a laptop's tasks must not run on its database."""

TRIES: Final = 200
PATIENCE: Final = 3.0
"""Seconds to wait for the ports of a run that was killed a moment ago."""

GRACE: Final = "2"
"""Seconds of TASKS_SHUTDOWN_GRACE unless it is set: who saves a file waits for the reload."""


@dataclass(frozen=True, slots=True)
class Ground:
    """Everything is prepared.

    Attributes:
        working: where plugins are found.
        environ: of the receiver.
        place: where its topics and subscriptions live.
        listener: the local Pub/Sub's open socket.
        lines: what to tell whoever started it.
    """

    working: Path
    folder: Folder
    environ: Mapping[str, str]
    place: Place
    faults: FaultSettings
    listener: socket.socket
    lines: tuple[str, ...]


@contextmanager
def prepared(working: Path, environ: Mapping[str, str]) -> Iterator[Ground]:
    """Takes the folder, starts PostgreSQL and brings its tables up to date, for the time of the block.

    Args:
        working: the folder in which plugins are found and `.receiver` is kept.
        environ: the variables to start from; what is missing is filled in.

    Raises:
        ConfigurationError: one line on what to change.
        LocalPostgresError: likewise.
    """
    given = {name: value for name, value in environ.items() if name not in OURS}
    faults = FaultSettings.from_environ(given)
    settings = Settings.from_environ(given)
    folder = Folder(working)
    folder.make()
    with folder.locked():
        ports = _ports(folder, given)
        folder.keep_ports(ports)
        with (
            _listening(ports.pubsub) as listener,
            Postgres(folder.data(), port=ports.postgres, fsync=True) as postgres,
        ):
            migrations.upgrade(postgres.url())
            place = Place(
                settings.project_id or PROJECT,
                settings.environment,
                settings.namespace,
                f"http://{LOOPBACK}:{ports.receiver}",
                EMAIL,
            )
            shared = _shared(given, place, ports, postgres.url())
            file = folder.keep_environ(shared)
            own = {"TASKS_SHUTDOWN_GRACE": GRACE, **given, **shared, "PORT": str(ports.receiver)}
            own["PYTHONUNBUFFERED"] = "1"
            lines = (
                f"receiver      {place.url}/tasks/pubsub/",
                f"Pub/Sub       http://{LOOPBACK}:{ports.pubsub}",
                f"PostgreSQL    {postgres.url()}",
                f"environment   {_short(file, working)}  (for a process that enqueues)",
                *(["faults        on (TASKS_FAULT_*)"] if faults.any else []),
            )
            yield Ground(working, folder, own, place, faults, listener, lines)


def _shared(given: Mapping[str, str], place: Place, ports: Ports, database_url: str) -> dict[str, str]:
    """What a process that enqueues, or pushes, has to know; the receiver has it too. Not PORT: a web process has its own."""
    shared = {
        "DATABASE_URL": database_url,
        "GCP_PROJECT_ID": place.project,
        "PUBSUB_EMULATOR_HOST": f"{LOOPBACK}:{ports.pubsub}",
        "TASKS_ENVIRONMENT": place.environment,
        "TASKS_NAMESPACE": place.namespace,
        "CLOUD_RUN_SERVICE_URL": place.url,
        "TASKS_SERVICE_ACCOUNT": place.email,
        "TASKS_OIDC_CERTS_URL": f"http://{LOOPBACK}:{ports.pubsub}{OIDC_CERTS_PATH}",
    }
    if given.get("TASKS_MODULES"):
        shared["TASKS_MODULES"] = given["TASKS_MODULES"]
    return shared


def _ports(folder: Folder, environ: Mapping[str, str]) -> Ports:
    """Those of the last run, so that a web process keeps its settings; else free ones. PORT wins over both."""
    wanted = environ.get("PORT", "").strip()
    known = folder.ports()
    if known is None:
        receiver = int(wanted) if wanted.isdigit() and int(wanted) else _first_free(FAVOURITES.receiver)
        pubsub = _first_free(FAVOURITES.pubsub, receiver)
        chosen = Ports(receiver, pubsub, _first_free(FAVOURITES.postgres, receiver, pubsub))
    else:
        receiver = int(wanted) if wanted.isdigit() and int(wanted) else known.receiver
        chosen = Ports(receiver, known.pubsub, known.postgres)
    if receiver in (chosen.pubsub, chosen.postgres):
        who = "the local Pub/Sub" if receiver == chosen.pubsub else "PostgreSQL"
        raise ConfigurationError(
            f"PORT is {receiver}, and {who} listens there; set PORT to another, "
            f"or delete {folder.path / STATE} to have new ports chosen"
        )
    for what, port, other in (
        ("the receiver's", chosen.receiver, "set PORT to another"),
        ("the local Pub/Sub's", chosen.pubsub, f"delete {folder.path / STATE} to have new ports chosen"),
        ("PostgreSQL's", chosen.postgres, f"delete {folder.path / STATE} to have new ports chosen"),
    ):
        if not _becomes_free(port):
            raise ConfigurationError(
                f"port {port} ({what}) is taken by another program; stop that one, or {other}"
            )
    return chosen


def _first_free(favourite: int, *others: int) -> int:
    """The favourite or one of the next. None is from the range that the system hands to anybody meanwhile."""
    candidates = (port for port in range(favourite, favourite + TRIES) if port not in others)
    found = next(filter(is_free, candidates), None)
    if found is None:
        raise ConfigurationError(f"the ports from {favourite} to {favourite + TRIES - 1} are all taken")
    return found


def _becomes_free(port: int) -> bool:
    end = time.monotonic() + PATIENCE
    while not is_free(port):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def is_free(port: int) -> bool:
    """Whether somebody could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    try:
        listener = listening(port)
    except OSError as error:
        raise ConfigurationError(
            f"port {port} (the local Pub/Sub's) cannot be listened on ({error.strerror})"
        ) from error
    with listener:
        yield listener


def _short(file: Path, working: Path) -> Path:
    return file.relative_to(working) if file.is_relative_to(working) else file

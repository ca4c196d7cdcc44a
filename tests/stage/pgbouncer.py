"""A real PgBouncer in transaction mode, in front of a PostgreSQL: what `TASKS_DB_PREPARED_STATEMENTS=off` is for.

Debian's package puts the program into /usr/sbin. It refuses to run as root, so root gives it to an account without
rights. `SETTINGS` are those that docs/operate/pooler.md names; a test compares.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from receiver.local_postgres.server import free_port
from tests.stage.servers import LocalServer

ACCOUNT: Final = "nobody"
START_TIMEOUT: Final = 30.0
"""Seconds until it must listen; it takes a tenth of one."""

SETTINGS: Final = {
    "pool_mode": "transaction",
    "default_pool_size": "5",
    "max_client_conn": "200",
    "query_wait_timeout": "3",
    "server_login_retry": "1",
}


class NoPgBouncerError(Exception):
    """There is none on this machine."""


def program() -> str:
    """Where it is.

    Raises:
        NoPgBouncerError: nowhere.
    """
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise NoPgBouncerError("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    return found


@contextmanager
def pooling(server: LocalServer) -> Iterator[int]:
    """A PgBouncer before this server, for the time of the block; gives its port on 127.0.0.1.

    Every database of the server goes by its own name. Whoever connects is believed; the pooler knows the server's password.
    """
    path, port = program(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="receiver-pgbouncer-"))
    folder.chmod(0o755)  # it is read by another account
    users, config, log = folder / "users.txt", folder / "pgbouncer.ini", folder / "log"
    users.write_text(f'"postgres" "{urlsplit(server.url()).password}"\n')
    lines = {
        **SETTINGS,
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "trust",
        "auth_file": users,
    }
    config.write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\n"
        + "".join(f"{name} = {value}\n" for name, value in lines.items())
    )
    account = pwd.getpwnam(ACCOUNT) if os.geteuid() == 0 else None
    who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [path, str(config)], stdout=output, stderr=output, stdin=subprocess.DEVNULL, **who
        )  # type: ignore[call-overload]  # mypy cannot see into the options
    try:
        _listens(process, port, log)
        yield port
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder)


def through(url: str, port: int) -> str:
    """The same database, by way of the PgBouncer on this port."""
    head, _, name = url.rpartition("/")
    return f"{head.rpartition(':')[0]}:{port}/{name}"


def _listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_TIMEOUT
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError(f"pgbouncer does not listen: {log.read_text()}")

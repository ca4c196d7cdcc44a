"""What every rival stands on: one PostgreSQL that really syncs its commits, one signing key, an environment each.

The server's memory settings are those of a small Cloud SQL instance; `fsync` and `synchronous_commit` are on, because a
recorded delivery is one that survives the machine.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from receiver.dev.processes import EMAIL
from receiver.emulator.in_thread import serve_certificates
from receiver.emulator.signer import Signer
from receiver.local_postgres.server import Postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
CHECKOUT = HERE.parent
WORK = HERE / ".work"
AUDIENCE = "https://receiver.example"
SETTINGS = {
    "max_connections": "120",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30min",
}


@dataclass(frozen=True, slots=True)
class Ground:
    """A running PostgreSQL, and what signs and checks tokens."""

    postgres: Postgres
    signer: Signer
    certs_url: str

    def token(self) -> str:
        """A push token, good for an hour: Pub/Sub too sends one with many messages."""
        return self.signer.token(AUDIENCE, EMAIL)


@contextmanager
def ground() -> Iterator[Ground]:
    """All of it, for the time of the block."""
    WORK.mkdir(exist_ok=True)
    signer = Signer.create()
    with Postgres(settings=SETTINGS, fsync=True) as postgres, serve_certificates(signer) as certs_url:
        try:
            yield Ground(postgres, signer, certs_url)
        except Exception:
            _explain(postgres)
            raise


def _explain(postgres: Postgres) -> None:
    """What PostgreSQL has to say, before its log goes with its folder: it may have been stopped, or lost its files to somebody's broom."""
    lives = Path(f"/proc/{postgres.pid}").exists()
    try:
        last = "\n".join((postgres.folder / "server.log").read_text(errors="replace").splitlines()[-8:])
    except OSError as error:
        last = f"its log is gone: {error}"
    print(f"PostgreSQL {'still runs' if lives else 'is gone'}; its last lines:\n{last}", file=sys.stderr)


def environment(name: str, requirements: Path, *, checkout: bool = False) -> Path:
    """The interpreter of an environment of its own, made when its requirements have changed.

    Args:
        requirements: what pip installs into it.
        checkout: whether this checkout's package belongs to it too.
    """
    folder = WORK / "environments" / name
    python = folder / "bin" / "python"
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    stamp = folder / ".installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"making an environment for {name} ...", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(requirements)], check=True)
        subprocess.run([str(python), "-m", "compileall", "-qq", str(folder / "lib")], check=False)
        stamp.write_text(wanted)
    if checkout:
        site = next((folder / "lib").glob("python*/site-packages"))
        (site / "receiver-checkout.pth").write_text(f"{CHECKOUT}\n")
    return python

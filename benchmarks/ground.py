"""What every rival stands on: one PostgreSQL that really syncs its commits, one signing key, an environment each.

The server's memory settings are those of a small Cloud SQL instance; `fsync` and `synchronous_commit` are on, because a
recorded delivery is one that survives the machine.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import venv
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization

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
    """A running PostgreSQL, and what signs and checks tokens.

    Attributes:
        certs_url: the signer's public key as Google's v3 address has it.
        pems_url: the same as its v1 address has it, `{key id: PEM}`, which google-auth reads.
    """

    postgres: Postgres
    signer: Signer
    certs_url: str
    pems_url: str

    def token(self) -> str:
        """A push token, good for an hour: Pub/Sub too sends one with many messages."""
        return self.signer.token(AUDIENCE, EMAIL)


@contextmanager
def ground() -> Iterator[Ground]:
    """All of it, for the time of the block."""
    WORK.mkdir(exist_ok=True)
    signer = Signer.create()
    with (
        Postgres(settings=SETTINGS, fsync=True) as postgres,
        serve_certificates(signer) as certs_url,
        _served(json.dumps(pems(signer)).encode()) as pems_url,
    ):
        try:
            yield Ground(postgres, signer, certs_url, pems_url)
        except Exception:
            _explain(postgres)
            raise


def pems(signer: Signer) -> dict[str, str]:
    """Its public key as google-auth takes it."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = signer.key.public_key().public_bytes(serialization.Encoding.PEM, form)
    return {signer.kid: pem.decode()}


@contextmanager
def _served(body: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


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
    folder = WORK / "environments" / f"{name}-{sys.version_info.major}.{sys.version_info.minor}"
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

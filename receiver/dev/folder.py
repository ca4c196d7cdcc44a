"""`.receiver`: what `receiver dev` keeps in a working folder, and how other commands find the one that runs.

The folder ignores itself, so that nothing of it is ever committed. One `dev` runs in a folder at a time: it holds a lock
on the folder that ends with its process, however that ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from receiver.errors import ConfigurationError
from receiver.local_postgres import files as binaries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NAME: Final = ".receiver"
ENV: Final = "env"
KEY: Final = "signing-key.pem"
STATE: Final = "dev.json"
LOCK: Final = "lock"
DATA: Final = "postgres"
MESSAGES: Final = "pubsub.sqlite"

ROOTS_PLACE: Final = Path("/var/tmp")  # noqa: S108 - the folder in it is PostgreSQL's, which refuses one of another account
"""Where PostgreSQL's data goes when root works in a folder that nobody else may enter; it survives a restart."""


class Ports(msgspec.Struct, frozen=True):
    """Where things listen, the same from run to run."""

    receiver: int
    pubsub: int
    postgres: int


class Folder:
    """The folder below a working folder; made when first needed."""

    def __init__(self, working: Path) -> None:
        self.path = working / NAME

    def make(self) -> None:
        """Makes it, ignored by git.

        Raises:
            ConfigurationError: it cannot be made.
        """
        try:
            self.path.mkdir(exist_ok=True)
            (self.path / ".gitignore").write_text("*\n")
        except OSError as error:
            raise ConfigurationError(
                f"{self.path}: {error.strerror}; run in a folder that can be written"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The folder is this process's for the time of the block, or until the process ends.

        Raises:
            ConfigurationError: another `receiver dev` has it.
        """
        with (self.path / LOCK).open("a+b", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                owner = file.read(32).decode(errors="replace").strip() or "?"
                raise ConfigurationError(
                    f"receiver dev is running in this folder already (process {owner}); stop it first"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()).encode())
            yield

    def ports(self) -> Ports | None:
        """The ports of the last run; None when there was none, or its note is damaged."""
        try:
            return msgspec.json.decode((self.path / STATE).read_bytes(), type=Ports)
        except (OSError, msgspec.DecodeError):
            return None

    def keep_ports(self, ports: Ports) -> None:
        """Notes them for the next run."""
        (self.path / STATE).write_bytes(msgspec.json.encode(ports))

    def keep_environ(self, environ: Mapping[str, str]) -> Path:
        """Writes what another process needs, as a file that a shell can source and dotenv readers read."""
        file = self.path / ENV
        lines = [f"{name}={shlex.quote(value)}" for name, value in environ.items()]
        file.write_text(
            "\n".join(["# Written by receiver dev: set -a; . .receiver/env; set +a", *lines]) + "\n"
        )
        return file

    def environ(self) -> dict[str, str]:
        """What `keep_environ` wrote; empty when nothing runs or ran here."""
        try:
            text = (self.path / ENV).read_text()
        except OSError:
            return {}
        pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
        return {name: "".join(shlex.split(value)) for name, value in pairs}

    def data(self) -> Path:
        """Where PostgreSQL keeps its data: here, or where its account can go when root's folder shuts it out."""
        account = binaries.find().account
        if account is None or binaries.enters(account, self.path):
            return self.path / DATA
        identity = hashlib.sha256(str(self.path.absolute()).encode()).hexdigest()[:16]
        return ROOTS_PLACE / f"receiver-dev-{identity}"

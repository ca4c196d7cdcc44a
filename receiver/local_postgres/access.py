"""Who may use a local PostgreSQL: its own user alone. Every account of a machine reaches a loopback port.

Invariants: nobody logs in without the password, a random one. Its file, the rules for logins and the log stand beside the data, in
a folder that belongs to this user: not even the account that PostgreSQL runs as (root borrows one) can change them. A link, or
a folder of another user, is refused: in a shared place everybody can make one first. Next: `receiver.local_postgres.server`.
"""

from __future__ import annotations

import os
import secrets
import stat
from typing import TYPE_CHECKING, Final

from receiver.local_postgres.files import LocalPostgresError

if TYPE_CHECKING:
    from pathlib import Path

RULES: Final = "local all all scram-sha-256\nhost all,replication all all scram-sha-256\n"
"""pg_hba.conf. The server is told to use this one, and not the one of its data folder, which trusts everybody."""

LOG: Final = "server.log"
PASSWORD_BYTES: Final = 16
DOOR: Final = 0o711
"""Root's folder: the server's account passes through it to the data, and nobody lists it."""


def take(folder: Path) -> None:
    """Makes a folder this user's alone.

    Raises:
        LocalPostgresError: it is a link, or another user's.
    """
    me = os.geteuid()
    try:
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise LocalPostgresError(f"{folder} is not a folder of yours ({error.strerror}); remove it") from None
    try:
        if os.fstat(place).st_uid != me:
            raise LocalPostgresError(f"{folder} belongs to another user; remove it, or choose another folder")
        os.fchmod(place, stat.S_IRWXU if me else DOOR)
    finally:
        os.close(place)


def write(path: Path, text: str, mode: int = 0o600) -> None:
    """Writes a file anew. A link that stands there is replaced, never followed."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123 - by descriptor
        os.fchmod(file.fileno(), mode)
        file.write(text)
    draft.replace(path)


def new_password() -> str:
    """One that fits into an address as it is."""
    return secrets.token_hex(PASSWORD_BYTES)

"""Why PostgreSQL's programs did not do as they were told: one line, from what they wrote."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from receiver.hosts import LOOPBACK

if TYPE_CHECKING:
    from pathlib import Path


def of_server(written: str, data: Path, port: int = 0) -> str:
    """Why the server did not start."""
    if "could not bind" in written:
        return f"port {port} on {LOOPBACK} is taken; choose another, or stop the program that listens there"
    if 'lock file "postmaster.pid" already exists' in written or "shared memory block" in written:
        return (
            f"{data} is in use by another PostgreSQL; stop that one "
            "(or remove its postmaster.pid when no such process runs)"
        )
    lines = reversed(written.splitlines())
    last = next((line for line in lines if re.search("ERROR|FATAL|PANIC", line)), "")
    return f"PostgreSQL did not start in {data}: {last or 'see server.log there'}"


def of_initdb(written: str, data: Path) -> str:
    """Why there is no data folder."""
    reason = next((line for line in written.splitlines() if "error:" in line), written.strip()[-300:])
    return f"{data} could not be made into a PostgreSQL folder: {reason}"

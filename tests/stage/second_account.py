"""A real second account of this machine: what it can read, and what a server asks it for. Only root can become one."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Final

NAME: Final = "daemon"
"""Not `nobody`: root's PostgreSQL runs as that."""

BECOMES: Final = """
import os, pathlib, socket, struct, sys  # before it becomes somebody who may not read the library
uid, gid = int(sys.argv[1]), int(sys.argv[2])
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(gid); os.setuid(uid)
"""
ASKS: Final = """
body = struct.pack("!i", 196608) + b"user\\0postgres\\0database\\0postgres\\0\\0"
with socket.socket() as server:
    server.settimeout(20)
    server.connect(("127.0.0.1", int(sys.argv[3])))
    server.sendall(struct.pack("!i", len(body) + 4) + body)
    kind, length, method = struct.unpack("!cii", server.recv(9, socket.MSG_WAITALL))
    print(kind.decode(), method)
"""
READS: Final = """
try:
    print(len(pathlib.Path(sys.argv[3]).read_bytes()), "bytes")
except OSError as error:
    print(type(error).__name__)
"""
SASL: Final = "R 10\n"
"""The server wants a password, by SCRAM. `R 0` would be: come in."""


def asked_by(port: int) -> str:
    """What PostgreSQL on this port says to a second account (without root: to this one) that comes as `postgres`."""
    return _run(ASKS, str(port))


def reads(path: Path) -> str:
    """What comes of its reading a file. Without root there is no second account: what it should be."""
    return _run(READS, str(path)).strip() if os.geteuid() == 0 else "PermissionError"


def _run(code: str, argument: str) -> str:
    account = pwd.getpwnam(NAME)
    argv = [sys.executable, "-I", "-c", BECOMES + code, str(account.pw_uid), str(account.pw_gid), argument]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout

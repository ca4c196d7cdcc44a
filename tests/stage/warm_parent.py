"""The parent of warm processes (`tests.stage.warm`): it has imported what they need, and forks one for each request.

    python -P -m tests.stage.warm_parent 5

Descriptor 5 is a socket: a message is a request as JSON, with the descriptors that the new process gets. Each fork has a
supervisor in between, which waits for it and says its pid and then its exit status. This process has one thread and
serves nobody; it ends when the other end of its socket is closed.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from fcntl import F_DUPFD_CLOEXEC, fcntl
from typing import Any, BinaryIO, NoReturn, TextIO, cast

from receiver.cli import COMMANDS
from tests.stage import authorities, warm

# The serving path, and what commands import only when they need it. Nothing that the product looks for in `sys.modules`:
# tenacity, opentelemetry, gevent. Not `receiver.models`, which reads the environment.
MODULES = (
    *(f"receiver.cli.{name.replace('-', '_')}" for name in COMMANDS),
    "httptools",
    "httpx",
    "uvloop",
    "receiver.cli.here",
    "receiver.cli.listing",
    "receiver.cli.terminal",
    "receiver.enqueue.transactions",
    "receiver.record.migrations",
    "receiver.record.task_pool",
    "receiver.record.task_transaction",
    "receiver.serving.process",
    "receiver.sweep.sweeper",
    # What applications bring along.
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.orm",
)
LARGEST = 1 << 20


def serve(control: socket.socket) -> dict[str, Any] | None:
    """Forks; returns in each child, with its request, and at the end."""
    while True:
        message, given, *_ = socket.recv_fds(control, LARGEST, 32)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not message:
            return None
        if os.fork() == 0:
            control.close()
            return supervise(json.loads(message), given)
        for descriptor in given:
            os.close(descriptor)


def supervise(request: dict[str, Any], given: list[int]) -> dict[str, Any]:
    """Forks the process itself, in which it returns, and says what becomes of it."""
    status, *descriptors = given
    pid = os.fork()
    if pid == 0:
        os.close(status)
        become(request, descriptors)
        return request
    for descriptor in descriptors:
        os.close(descriptor)
    with suppress(OSError):  # nobody listens any more
        os.write(status, json.dumps(pid).encode())
        os.write(status, json.dumps(os.waitpid(pid, 0)[1]).encode())
    os._exit(0)


def become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Takes on what a new process is given."""
    if request["session"]:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    above = max(*descriptors, *request["descriptors"]) + 1
    moved = [fcntl(descriptor, F_DUPFD_CLOEXEC, above) for descriptor in descriptors]
    os.closerange(3, above)
    for source, target in zip(moved, request["descriptors"], strict=True):
        os.dup2(source, target)
        os.close(source)
    environ = request["environ"]
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    os.chdir(request["folder"])
    own = [entry for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [*own, *(entry for entry in sys.path if entry != str(warm.ROOT))]
    importlib.invalidate_caches()
    sys.dont_write_bytecode = bool(environ.get("PYTHONDONTWRITEBYTECODE"))
    is_unbuffered = bool(environ.get("PYTHONUNBUFFERED"))
    sys.stdin = open(0, closefd=False, encoding=sys.stdin.encoding)  # noqa: SIM115 - for the life of the process
    sys.stdout = writer(1, sys.stdout, is_unbuffered=is_unbuffered)
    sys.stderr = writer(2, sys.stderr, is_unbuffered=is_unbuffered, is_line_buffered=True)


def writer(
    descriptor: int, former: TextIO, *, is_unbuffered: bool, is_line_buffered: bool = False
) -> io.TextIOWrapper:
    """A standard stream as the interpreter makes it."""
    raw = io.FileIO(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        cast("BinaryIO", raw) if is_unbuffered else io.BufferedWriter(raw),
        encoding=former.encoding,
        errors=former.errors,
        line_buffering=is_line_buffered or raw.isatty(),
        write_through=is_unbuffered,
    )


def main() -> dict[str, Any] | None:
    """The request of a child; None in the parent, at its end."""
    control = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is its starter's business
    for name in MODULES:
        importlib.import_module(name)
    authorities.read_once()
    gc.freeze()  # the collector of a child need not touch, and so copy, what is there already
    with control:
        return serve(control)


def run(*arguments: str) -> NoReturn:
    """`python arguments`, of a module or a script.

    It ends without taking the modules apart: each page of theirs would have to be copied first.
    """
    code: object = None
    is_module = arguments[0] == "-m"
    program, *sys.argv[1:] = arguments[is_module:]
    sys.argv[0] = program
    try:
        if is_module:
            if not hasattr(sys.modules.get(program), "__path__"):  # of a package its __main__ runs
                sys.modules.pop(program, None)  # a new interpreter has it not: runpy would warn
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, os.path.dirname(program))  # noqa: PTH120 - as the interpreter does
            runpy.run_path(program, run_name="__main__")
    except SystemExit as leaving:
        code = leaving.code
    except Exception:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stderr.flush()
    try:
        sys.stdout.flush()
    except OSError:
        code = 120
    if code is not None and not isinstance(code, int):
        os.write(2, f"{code}\n".encode())
        code = 1
    os._exit(code or 0)


if __name__ == "__main__" and (request := main()) is not None:
    run(*request["arguments"])

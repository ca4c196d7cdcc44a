"""A forked child of the process: it is nobody's receiver.

A task may start processes of its own, with `multiprocessing` or `os.fork`. The child begins as a copy: it would survive
SIGTERM as the server does, listen on its port after its end, hold its connections open, and share those to the
database. So in a child signals do what they do by default, every socket named to `withhold` is the null device, and code
that gets out of its task there ends the child (`end_if_child`): what a child does never answers for its parent.

A child that is started afresh (`spawn`, `forkserver`, `subprocess`) inherits none of this.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import NoReturn

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
"""Those that the server handles."""

_withheld: weakref.WeakSet[socket.socket | asyncio.BaseTransport] = weakref.WeakSet()
"""Of the process, as forking is; what is closed and forgotten falls out of it by itself."""

_parent = 0
"""The process that is guarded, 0 while there is none."""


def withhold(connection: socket.socket | asyncio.BaseTransport) -> None:
    """From now on no child has this socket, or the one under this transport."""
    _withheld.add(connection)


def guard(loop: asyncio.AbstractEventLoop) -> None:
    """Guards this process; once, in the thread of its loop. For a process that is ours: its children lose its sockets."""
    global _parent  # noqa: PLW0603 - one process, one answer
    _parent = os.getpid()
    thread = threading.get_ident()
    former = threading.local()

    def before() -> None:
        # A signal that meets the child before its handlers are its own would be lost: it waits.
        former.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def in_parent() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, former.mask)

    def in_child() -> None:
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, former.mask)
        _silence()
        if threading.get_ident() == thread:
            loop.call_soon(_astray)  # should it come back to its copy of the loop: it has no business there

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)


def end_if_child(error: BaseException | None) -> None:
    """Ends this process if it is a child of the guarded one, as a process ends by itself: with its error said.

    Args:
        error: what its code ended with.
    """
    if _parent in {0, os.getpid()}:
        return
    code = 0
    if error is not None:
        code = error.code if type(error) is SystemExit and type(error.code) is int else 1
        if not issubclass(type(error), SystemExit):
            sys.excepthook(type(error), error, None)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)


def _silence() -> None:
    """Puts the null device in the place of every socket: whatever still holds one writes nowhere, and reads the end."""
    null = os.open(os.devnull, os.O_RDWR)
    for held in list(_withheld):
        descriptor = _descriptor(held)
        if descriptor >= 0:
            os.dup2(null, descriptor, inheritable=False)
    os.close(null)


def _descriptor(held: socket.socket | asyncio.BaseTransport) -> int:
    """Of what is open; -1 otherwise. A closed transport may still tell a number that is somebody else's by now."""
    if isinstance(held, socket.socket):
        return held.fileno()
    if held.is_closing():
        return -1
    under = held.get_extra_info("socket")
    return -1 if under is None else int(under.fileno())


def _astray() -> NoReturn:
    os._exit(1)

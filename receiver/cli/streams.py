"""The standard streams of every command.

A container or a script may start a command with a stream closed, on a full disk, in a pipe without a reader (`| head`), or
in an encoding without arrows. None of that is a traceback: a lost output is one line, a character that the encoding lacks
is escaped. `receiver.cli.main` prepares the streams once, before anything else.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Final, TextIO

from receiver.errors import OutputLost, PipeClosed

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STANDARD: Final = 3
"""Descriptors 0, 1 and 2."""


def prepare() -> None:
    """Gives every missing stream the null device, and standard output its own errors."""
    _fill_gaps()
    found: tuple[TextIO | None, ...] = (sys.stdin, sys.stdout, sys.stderr)
    stdin, stdout, stderr = found
    if stdin is None:
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115 - by descriptor, for the life of the process
    if stderr is None:
        sys.stderr = open(2, "w", closefd=False, encoding="utf-8")  # noqa: SIM115 - likewise
    raw = _Output(1, "w", closefd=False)
    is_unbuffered = isinstance(stdout, io.TextIOWrapper) and stdout.write_through  # PYTHONUNBUFFERED
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding="utf-8" if stdout is None else stdout.encoding,
        errors="backslashreplace",
        line_buffering=is_unbuffered or raw.isatty(),
    )


def abandon_output() -> None:
    """Discards buffered output: the interpreter would try to print it again at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _fill_gaps() -> None:
    """Opens the null device where a standard descriptor is closed.

    Otherwise the first socket would take its number: libuv aborts on that, and prints would go to the socket.
    """
    opened = os.open(os.devnull, os.O_RDWR)
    while opened < STANDARD:
        opened = os.open(os.devnull, os.O_RDWR)
    os.close(opened)


class _Output(io.FileIO):
    """Standard output that raises our errors (`OutputLost`)."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Writes some of it; the buffer above writes the rest."""
        try:
            return super().write(data)
        except BrokenPipeError:
            raise PipeClosed from None
        except OSError as error:
            raise OutputLost(f"standard output cannot be written ({error.strerror})") from error

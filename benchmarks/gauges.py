"""What a server costs: CPU seconds and memory of its processes, and its connections to the database.

Read from /proc, so on Linux only. A server may be a tree of processes (gunicorn); the tree counts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds used so far, resident bytes now (shared pages counted once a process), open files, threads."""

    cpu: float
    memory: int
    files: int
    threads: int


def usage(pid: int) -> Usage:
    """Of a process and everything below it."""
    cpu, memory, files, threads = 0.0, 0, 0, 0
    for each in family(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            cpu += (int(fields[11]) + int(fields[12])) / TICKS
            threads += int(fields[17])
            memory += int(Path(f"/proc/{each}/statm").read_text().split()[1]) * PAGE
            files += len(list(Path(f"/proc/{each}/fd").iterdir()))
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    return Usage(cpu, memory, files, threads)


def family(pid: int) -> list[int]:
    """The process and its descendants."""
    found = [pid]
    for each in found:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found

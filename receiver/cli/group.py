"""`receiver group KEY`: follows a group to its end, with a bar on a terminal and plain lines elsewhere."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from receiver.cli import arguments, terminal
from receiver.reading.groups import Group, find_group
from receiver.record.connections import RecordConnection
from receiver.record.database import Database
from receiver.record.whose import Whose
from receiver.text import MAX_KEY_BYTES, is_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from receiver.settings import Settings

INTERVAL = 0.5
"""Seconds between two looks."""


@click.command("group")
@click.argument("key")
@click.option("--once", is_flag=True, help="Look once, and do not follow.")
@click.option("--timeout", metavar="DURATION", help="Give up after this time, with exit code 1.")
@click.option("--json", "as_json", is_flag=True, help="Print where it stands at the end, as JSON.")
def command(*, key: str, once: bool, timeout: str | None, as_json: bool) -> None:
    """Follow the executions of a group until every one is final; exit 0 when all succeeded, 1 otherwise."""
    settings = arguments.settings()
    seconds = None if timeout is None else arguments.duration("--timeout", timeout).total_seconds()
    if not is_key(key):
        terminal.fail(f"a group's key is text of 1 to {MAX_KEY_BYTES} bytes")
    with nullcontext(lambda _: None) if as_json or once else _shown() as show:
        group = asyncio.run(_follow(settings, key, 0.0 if once else seconds, show))
    if as_json:
        terminal.print_json(group)
    elif once:
        click.echo(line(group))
    if not group.total:
        terminal.fail("no execution has this group key")
    sys.exit(0 if group.complete and not group.failed else 1)


def line(group: Group) -> str:
    """Where a group stands."""
    counts = {
        "successful": group.successful,
        "failed": group.failed,
        "running": group.running,
        "ready": group.ready,
    }
    states = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    ended = "complete" if group.complete else "not complete"
    return f"{group.total} executions, {ended}" + (f": {states}" if states else "")


async def _follow(
    settings: Settings, key: str, seconds: float | None, show: Callable[[Group], None]
) -> Group:
    """Polls until the group is complete, turns out to be empty, or the time is over."""
    connection = RecordConnection(Database.configured(settings), "receiver group")
    end = None if seconds is None else time.monotonic() + seconds
    try:
        while True:
            group = await find_group(connection, key, whose=Whose.of(settings))
            show(group)
            if group.complete or not group.total or (end is not None and time.monotonic() >= end):
                return group
            await asyncio.sleep(INTERVAL)
    finally:
        await connection.close()


@contextmanager
def _shown() -> Iterator[Callable[[Group], None]]:
    """A bar that moves, on a terminal; else a line whenever something has changed."""
    if not sys.stdout.isatty():
        last = ""

        def say(group: Group) -> None:
            nonlocal last
            if group.total and (now := line(group)) != last:
                click.echo(now)
                last = now

        yield say
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=terminal.console()) as progress:
        bar = progress.add_task("", total=None)

        def draw(group: Group) -> None:
            states = f"{group.running} running, {group.failed} failed"
            done = group.successful + group.failed
            progress.update(bar, total=group.total or None, completed=done, description=states)

        yield draw

"""`receiver sweep`: one sweep of the whole table, now."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec

from receiver.cli import arguments, terminal
from receiver.sweep import sweeper

if TYPE_CHECKING:
    from receiver.sweep.sweeper import Swept

NOUNS = {
    "published": "published",
    "forgotten": "published again: forgotten by Pub/Sub",
    "stranded": "published again: its lease ran out over an hour ago",
    "failed": "not published; still owed",
    "replayed": "rejected as unknown before, and published again",
    "finalised": "failed, now final",
    "pruned": "final, removed",
    "rejected": "rejected, removed",
    "kept": "final, kept: rows of the application refer to it",
}


@click.command("sweep")
@click.option(
    "--within",
    metavar="DURATION",
    default="10m",
    show_default=True,
    help="How long it may take; the next sweep does the rest.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(*, within: str, as_json: bool) -> None:
    """Publish due executions, publish lost messages again, and prune, once; exit 1 when something is left."""
    around = arguments.surroundings(lambda note: click.echo(f"note: {note}", err=True))
    time = arguments.duration("--within", within)
    swept = asyncio.run(sweeper.sweep(around, within=time, everywhere=True))
    if as_json:
        terminal.print_json(swept)
    else:
        for line in lines(swept):
            click.echo(line)
    if swept.failed or not swept.complete:
        sys.exit(1)


def lines(swept: Swept) -> list[str]:
    """The counts, a line for each kind of work."""
    counts: dict[str, Any] = msgspec.to_builtins(swept)
    said = [f"{counts[name]:>8} {noun}" for name, noun in NOUNS.items() if counts[name]]
    if not swept.complete:
        said.append("the time was not enough; sweep again")
    return said or ["nothing to publish, nothing to delete"]

"""`receiver sweep`: one sweep now, of everything, by whoever calls it."""

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
    "stranded": "published again: nobody renews its lease",
    "failed": "not published; still owed",
    "replayed": "rejected as unknown before, and published again",
    "finalised": "failed, and final now",
    "pruned": "final, and removed",
    "rejected": "rejected, and removed",
    "kept": "final, and kept: the application refers to it",
}


@click.command("sweep")
@click.option(
    "--within",
    metavar="DURATION",
    default="10m",
    show_default=True,
    help="How long it may take; the rest is left to the next.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(*, within: str, as_json: bool) -> None:
    """Publish what is owed, publish again what was forgotten, and prune, once; exit 1 when something is left."""
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
    """What was done, a line for each kind of thing."""
    counts: dict[str, Any] = msgspec.to_builtins(swept)
    said = [f"{counts[name]:>8} {noun}" for name, noun in NOUNS.items() if counts[name]]
    if not swept.complete:
        said.append("the time was not enough; sweep again")
    return said or ["nothing was owed, and nothing is over"]

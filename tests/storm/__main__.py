"""`python -m tests.storm`: the whole storm, its table, and exit code 1 when a promise was broken."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import click

from tests.storm import table
from tests.storm.plan import FULL, SHORT
from tests.storm.storm import storm

MOST_LINES = 50


@click.command()
@click.option("--seed", type=int, help="Repeats the weather of an earlier storm.")
@click.option("--short", is_flag=True, help="The suite's form of it: half a minute.")
@click.option(
    "--markdown",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="Put the newest three whole storms, this one with them, between the <!-- storm --> marks of this page.",
)
@click.option("--write-only", is_flag=True, help="No storm: only --markdown, from those that were kept.")
@click.option(
    "--keep", type=click.Path(file_okay=False, path_type=Path), help="A folder for the receivers' logs."
)
def main(
    seed: int | None, *, short: bool, markdown: Path | None, write_only: bool, keep: Path | None
) -> None:
    """Kill, freeze, cut and flood receivers, and balance the books."""
    if not write_only:
        seed = random.randrange(2**32) if seed is None else seed
        print(f"seed {seed}", flush=True)
        if keep is not None:
            keep.mkdir(parents=True)  # an old storm's notes would be read as this one's
        report = asyncio.run(storm(SHORT if short else FULL, seed, say=print, keep=keep))
        print(table.markdown([table.rows(report)]))
        for line in report.balance.wrong[:MOST_LINES]:
            print(f"BROKEN: {line}")
        if report.balance.wrong:
            sys.exit(1)
        if not short:
            table.keep(report)
    if markdown is not None:
        table.write(markdown)


main()

"""`receiver doctor`: what would fail in production, why it matters, and the command that mends it."""

from __future__ import annotations

import asyncio
import os
import sys

import click

from receiver.cli import terminal
from receiver.cli.here import is_dev
from receiver.doctor.examination import examine
from receiver.doctor.findings import SKIPPABLE, Check


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--max-instances",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="Instances that there may be.  [default: the service's own]",
)
@click.option("--service", metavar="NAME", help="The Cloud Run service.  [default: found by its URL]")
@click.option(
    "--region", metavar="REGION", help="Where that is.  [default: as its URL or SCHEDULER_LOCATION]"
)
@click.option(
    "--skip",
    "skipped",
    type=click.Choice([check.value for check in SKIPPABLE]),
    multiple=True,
    help="Do not look at this (may be repeated).",
)
def command(
    *,
    as_json: bool,
    max_instances: int | None,
    service: str | None,
    region: str | None,
    skipped: tuple[str, ...],
) -> None:
    """Say what would fail in production, why it matters, and what mends it. Nothing is changed.

    Exit code 0: everything was seen, and there is nothing worse than notes. 1: there are warnings, or something could not be
    seen. 2: there are errors.
    """
    found = asyncio.run(
        examine(
            os.environ,
            max_instances=max_instances,
            service=service,
            region=region,
            skipped=frozenset(Check(name) for name in skipped),
            dev=is_dev(os.environ),
        )
    )
    if as_json:
        terminal.print_json(found.as_json())
    else:
        console = terminal.console()
        for text, style in found.lines():
            console.print(terminal.line(text), style=style, soft_wrap=True)
    sys.exit(found.exit_code)

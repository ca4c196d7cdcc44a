"""`make bench`: runs the studies, prints their tables, and writes results and chart into an ignored folder."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from benchmarks import load, report
from benchmarks.ground import WORK, ground
from benchmarks.studies import STUDIES, Plan

QUICK = Plan(seconds=2, rounds=1, rows=(0, 100_000))
FULL = Plan(seconds=8, rounds=5, rows=(0, 1_000_000, 10_000_000))


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(STUDIES)))
@click.option("--quick", is_flag=True, help="Seconds instead of an hour: to see that it runs, not to quote.")
@click.option("--seconds", type=click.IntRange(1), help="Seconds of load a round.")
@click.option("--rounds", type=int, help="Rounds for each competitor.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=WORK / "results", help="Where the results go."
)
def main(names: tuple[str, ...], *, quick: bool, seconds: int | None, rounds: int | None, out: Path) -> None:
    """Answer the named questions, or all of them."""
    plan = QUICK if quick else FULL
    plan = Plan(seconds or plan.seconds, rounds or plan.rounds, plan.rows)
    console, found, questions = (
        Console(),
        {},
        {name: (study.__doc__ or "").strip() for name, study in STUDIES.items()},
    )
    try:
        with ground() as place:
            for name in names or STUDIES:
                console.print(f"[dim]{name} ...[/dim]")
                found[name] = STUDIES[name](place, plan)
                report.show(console, name, questions[name], found[name])
                report.write(out, found, questions)
    except load.NoWrk as missing:
        sys.exit(f"error: {missing}")
    console.print(f"results: {out}/results.json, results.md" + (", chart.png" if "peers" in found else ""))


main()

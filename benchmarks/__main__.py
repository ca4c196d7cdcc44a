"""`make bench`: runs the studies, prints their tables, and writes results and chart into an ignored folder.

All of them take about half an hour on two quiet cores. `BENCH_ARGS="--publish"` then puts tables and chart into `docs/`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from benchmarks import load, report
from benchmarks.ground import WORK, ground
from benchmarks.studies import STUDIES, Plan

QUICK = Plan(seconds=2, rounds=1, rows=(0, 100_000), minutes=1)
FULL = Plan(seconds=5, rounds=5, rows=(0, 10_000_000), minutes=1)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(STUDIES)))
@click.option("--quick", is_flag=True, help="A few minutes: to see that it runs, not to quote.")
@click.option("--seconds", type=click.IntRange(1), help="Seconds of load a round.")
@click.option("--rounds", type=int, help="Rounds for each competitor.")
@click.option("--minutes", type=click.IntRange(1), help="Minutes of endurance.")
@click.option("--publish", is_flag=True, help="Put tables and chart into docs/ afterwards.")
@click.option("--markdown", is_flag=True, help="Put those of the last run into docs/, and measure nothing.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=WORK / "results", help="Where the results go."
)
def main(
    names: tuple[str, ...],
    *,
    quick: bool,
    seconds: int | None,
    rounds: int | None,
    minutes: int | None,
    publish: bool,
    markdown: bool,
    out: Path,
) -> None:
    """Answer the named questions, or all of them."""
    if markdown:
        report.publish(out)
        return
    plan = QUICK if quick else FULL
    plan = Plan(seconds or plan.seconds, rounds or plan.rounds, plan.rows, minutes or plan.minutes)
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
    console.print(f"results: {out}/results.json, results.md" + (", chart.svg" if "peers" in found else ""))
    if publish:
        report.publish(out)


main()

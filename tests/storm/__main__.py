"""`python -m tests.storm`: the whole storm, its table, and exit code 1 when a promise was broken."""

from __future__ import annotations

import asyncio
import random
import sys

import click

from tests.storm.storm import FULL, SHORT, Report, storm


@click.command()
@click.option("--seed", type=int, help="Repeats the weather of an earlier storm.")
@click.option("--short", is_flag=True, help="The suite's form of it: half a minute.")
def main(seed: int | None, *, short: bool) -> None:
    """Kill, freeze, cut and flood receivers, and balance the books."""
    seed = random.randrange(2**32) if seed is None else seed
    print(f"seed {seed}", flush=True)
    report = asyncio.run(storm(SHORT if short else FULL, seed, say=print))
    print(table(report))
    for line in report.balance.wrong[:50]:
        print(f"BROKEN: {line}")
    sys.exit(1 if report.balance.wrong else 0)


def table(report: Report) -> str:
    """The storm as Markdown."""
    found = report.balance
    rows = [
        ("seed, seconds, messages", f"{report.seed}, {report.seconds:.0f}, {report.messages}"),
        (
            "answers by status (0: none)",
            ", ".join(f"{code}: {n}" for code, n in sorted(report.deliveries.items())),
        ),
        ("killed at a named point", f"{sum(report.kills.values())} at {len(report.kills)} points"),
        *((f"- {name}", str(n)) for name, n in sorted(report.kills.items())),
        *((name, str(n)) for name, n in sorted(report.faults.items())),
        (
            "processes that ended, by exit code",
            ", ".join(f"{code}: {n}" for code, n in sorted(report.exits.items())),
        ),
        ("executions by status", ", ".join(f"{name}: {n}" for name, n in sorted(found.statuses.items()))),
        ("enqueued by other tasks", str(found.children)),
        ("claimed more than once", str(found.retried)),
        ("leases that ran out", str(found.expired)),
        ("plain effects that happened more than once", str(found.plain_twice)),
        ("promises broken", str(len(found.wrong))),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


main()

"""`python -m tests.soak`: exit code 1 when something was not flat, or the books do not balance."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from tests.soak.chart import write
from tests.soak.flat import BOUNDS, MIB, grown
from tests.soak.soak import soak

OUT = Path(__file__).resolve().parents[2] / ".venv" / ".cache" / "soak"


@click.command()
@click.option("--minutes", type=float, default=20.0, show_default=True)
@click.option("--rate", type=float, help="Messages a second.  [default: half of what is in reach]")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=OUT, show_default=True)
def main(minutes: float, rate: float | None, out: Path) -> None:
    """One receiver at half its capacity: memory, connections, file descriptors and threads stay flat."""
    report = asyncio.run(soak(minutes * 60, rate, say=lambda line: print(line, flush=True)))
    write(out, report)
    last = report.samples[-1]
    print(
        f"{report.done} messages; answers {dict(report.answers)}; at the end {last.memory / MIB:.0f} MiB, {last.connections}"
        f" connections, {last.files} file descriptors, {last.threads} threads"
    )
    for what in BOUNDS:
        print(
            f"{what} grew in the second half by {grown(report.samples, what) / (MIB if what == 'memory' else 1):.2f}"
        )
    print(f"results: {out}/soak.json, soak.svg")
    for line in report.wrong:
        print(f"BROKEN: {line}")
    sys.exit(1 if report.wrong else 0)


main()

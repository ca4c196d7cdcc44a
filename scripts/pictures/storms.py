"""What storms injected and what came of it, from the table of docs/trust/storm.md: the sums of the storms that stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from scripts.pictures.svg import Picture

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "trust" / "storm.md"

FAULTS: Final = {
    "processes killed (SIGKILL)": r"SIGKILLs$",
    "connections cut": r"TCP cuts: ",
    "calls that succeeded, reported as timeouts": r"calls that succeeded, ",
    "PostgreSQL restarted (immediate)": r"immediate restarts of PostgreSQL",
    "processes stopped for longer than a lease": r"SIGSTOPs ",
    "connection slots or pools used up": r"connection slots |slow tasks that take all",
}
"""What the picture calls it, and the rows of the table that it is the sum of."""

OUTCOMES: Final = {
    "executions, all final": r"executions by status, all final",
    "leases that ran out": r"leases that ran out",
    "plain effects that happened again, as they may": r"plain effects that happened more than once",
    "lost, doubled, overlapping, stale, stuck or leaked": r"lost, doubled, overlapping",
}

LABELS: Final = 376
BARS: Final = 394
STEP: Final = 28
WIDTH: Final = 800


def rows(page: str) -> dict[str, list[int]]:
    """Each row of the table: for each storm the sum of the counts in its cell (`FAILED: 953, SUCCESSFUL: 11245`)."""
    table = page.partition("<!-- storm -->\n")[2].partition("<!-- /storm -->")[0]
    found = dict[str, list[int]]()
    for line in table.replace("**", "").splitlines()[2:]:
        name, *cells = (cell.strip() for cell in line.strip("|").split(" | "))
        found[name] = [sum(map(int, re.findall(r"\b\d+\b", cell))) for cell in cells]
    return found


def sums(named: dict[str, str], page: str) -> dict[str, int]:
    """Each name with the sum of its rows, over all storms.

    Raises:
        ValueError: the table has no such row.
    """
    table = rows(page)
    found = dict[str, int]()
    for name, pattern in named.items():
        counts = [sum(counts) for row, counts in table.items() if re.match(pattern, row)]
        if not counts:
            raise ValueError(f"no row of {PAGE.name} is {pattern!r}")
        found[name] = sum(counts)
    return found


def storm() -> Picture:
    """docs/trust/storm.md."""
    page = PAGE.read_text()
    faults, outcomes = sums(FAULTS, page), sums(OUTCOMES, page)
    seconds = rows(page)["seconds"]
    outcome_at = 88 + STEP * len(faults) + 34
    picture = Picture(
        WIDTH,
        outcome_at + STEP * len(outcomes) + 12,
        "What storms injected, and what came of it: "
        + ", ".join(f"{name}: {number}" for name, number in (faults | outcomes).items()),
    )
    head = f"{len(seconds)} storms, {round(sum(seconds) / 60)} minutes in all"
    picture.words(24, 32, head, bold=True, size=14, at="start")
    picture.words(LABELS, 66, "injected", colour="dim", at="end")
    most = max(faults.values())
    for number, (name, count) in enumerate(faults.items()):
        y = 80 + STEP * number
        picture.words(LABELS, y + 14, name, at="end")
        length = max(2.0, count / most * (WIDTH - BARS - 90))
        picture.box(BARS, y, length, STEP - 8, line="blue", fill="blue")
        picture.words(BARS + length + 10, y + 14, f"{count:,}", at="start")
    picture.line([(24, outcome_at - 26), (WIDTH - 24, outcome_at - 26)], dashed=True)
    picture.words(LABELS, outcome_at, "what came of it", colour="dim", at="end")
    for number, (name, count) in enumerate(outcomes.items()):
        y = outcome_at + 14 + STEP * number
        last = number == len(outcomes) - 1
        picture.words(LABELS, y + 14, name, at="end", bold=last)
        colour = ("red" if count else "green") if last else "ink"
        picture.words(BARS, y + 14, f"{count:,}", at="start", bold=last, colour=colour)
    return picture

"""What storms came to, as the table of docs/trust/storm.md: a column a storm.

The results of whole storms are kept as JSON beside the caches, so that the page's table is written from what was measured
and by nobody's hand.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.storm.plan import Report
from tests.storm.plugin.storm_points import POINTS

RESULTS: Final = Path(__file__).resolve().parents[2] / ".venv" / ".cache" / "storms"
COLUMNS: Final = 3
"""Storms on the page."""

BLOCK: Final = re.compile(r"(<!-- storm -->\n).*?(<!-- /storm -->)", re.DOTALL)

Rows = dict[str, str]


def rows(report: Report) -> Rows:
    """One storm, line by line."""
    found = report.balance
    return {
        "seed": str(report.seed),
        "seconds": f"{report.seconds:.0f}",
        "messages, and those of the crowd": f"{report.messages}, {report.crowd}",
        "clocks of the three receivers": ", ".join(f"{round(skew):+d} s" for skew in report.skews),
        "**SIGKILLs**": f"**{report.exits[-signal.SIGKILL]}**",
        "of them at named points of the path": f"{report.kills.total()} at {len(report.kills)} points",
        **{f"— {name}": str(report.kills[name]) for name in POINTS},
        **dict(sorted((name, str(count)) for name, count in report.faults.items())),
        **{f"— {name}": str(count) for name, count in sorted(report.effects.items())},
        **{
            f"calls that succeeded, reported as timeouts: {_CALLS[name]}": str(report.lies[name])
            for name in _CALLS
        },
        "deliveries that Pub/Sub saw, by status (0: no answer)": _by(report.deliveries),
        "the crowd's, ten times the capacity": _by(report.crowded),
        "each receiver answers again after the crowd, within": f"{report.recovered:.1f} s",
        "/health asked of living receivers, all 200; the slowest": f"{report.asked}, {report.slowest:.2f} s",
        "largest memory of a receiver": f"{report.memory / 2**20:.0f} MiB",
        "everything delivered after the last fault, within": f"{report.drained:.0f} s",
        "executions by status, all final": _by(found.statuses),
        "enqueued by other tasks, in their transactions": str(found.children),
        "runs of tasks; executions claimed more than once": f"{found.runs}, {found.retried}",
        "leases that ran out": str(found.expired),
        "tasks that found their pool empty": str(found.pool_empty),
        "code that ran on beside its successor, its lease lost": str(found.overlapped),
        "plain effects that happened more than once": str(found.plain_twice),
        "**lost, doubled, overlapping, stale, stuck, leaked**": f"**{len(found.wrong)}**",
    }


_CALLS: Final = {"ledger": "the ledger's", "commit": "a task's COMMIT", "publisher": "the publisher's"}


def _by(counted: Mapping[Any, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counted.items()))


def markdown(storms: Sequence[Rows]) -> str:
    """One table; a line that a storm has not is a blank there."""
    names = list(dict.fromkeys(name for storm in storms for name in storm))
    lines = ["|" + " |" * (len(storms) + 1), "|" + "---|" * (len(storms) + 1)]
    lines += ["| " + " | ".join([name, *(storm.get(name, "") for storm in storms)]) + " |" for name in names]
    return "\n".join(lines)


def keep(report: Report) -> None:
    """Keeps a whole storm's result for the page."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{report.seed}.json").write_text(json.dumps(rows(report), ensure_ascii=False))


def write(page: Path) -> None:
    """Puts the newest kept storms into a page, between `<!-- storm -->` and `<!-- /storm -->`.

    Raises:
        ValueError: there is no such place on the page.
    """
    newest = sorted(RESULTS.glob("*.json"), key=lambda file: file.stat().st_mtime)[-COLUMNS:]
    table = markdown([json.loads(file.read_text()) for file in newest])
    written, count = BLOCK.subn(lambda found: f"{found[1]}{table}\n{found[2]}", page.read_text())
    if count != 1:
        raise ValueError(f"{page} has no <!-- storm --> block")
    page.write_text(written)

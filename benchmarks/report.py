"""What a run found: tables on the terminal, JSON and Markdown in a folder, and one chart that can be read on white and on black."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Rows = list[dict[str, Any]]

DOCS = Path(__file__).parent.parent / "docs"
START, END = "<!-- measured -->", "<!-- /measured -->"
INK, PALE, STRONG = "#768390", "#8b949e", "#4c8dff"
"""The chart's colours."""
ON_PAPER = "What one core carries, and what a million tasks cost, from the CPU and the bytes of one delivery."


def machine() -> dict[str, Any]:
    """Where and when it was measured."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) // 1024**2
    cores = len(Path("/proc/cpuinfo").read_text().split("processor\t")) - 1
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": cores,
        "cpu": model,
        "memory GiB": memory,
        "python": platform.python_version(),
        "revision": revision.stdout.strip(),
    }


def show(console: Console, name: str, question: str, rows: Rows) -> None:
    """One table on the terminal."""
    console.print(f"\n[bold]{name}[/bold]: {question}")
    table = Table(box=None, pad_edge=False)
    columns = _columns(rows)
    for column in columns:
        table.add_column(column, justify="left" if column == "" else "right", overflow="fold")
    for row in rows:
        table.add_row(*(text(row.get(column)) for column in columns))
    console.print(table)


def write(folder: Path, found: dict[str, Rows], questions: dict[str, str]) -> None:
    """`results.json`, `results.md`, the shorter `page.md`, and `chart.svg` when the peers were measured."""
    folder.mkdir(parents=True, exist_ok=True)
    about = machine()
    (folder / "results.json").write_text(json.dumps({"machine": about, "studies": found}, indent=1) + "\n")
    where = _where(about)
    for file, shown in (("results.md", found), ("page.md", found | _shorter(found))):
        parts = [f"Measured {where}, revision {about['revision']}.", ""]
        for name, rows in shown.items():
            parts += [f"**{name}**: {questions.get(name, ON_PAPER)}", "", *markdown(rows), ""]
        (folder / file).write_text("\n".join(parts))
    if "peers" in found:
        _chart(folder / "chart.svg", found["peers"], where)


def _shorter(found: dict[str, Rows]) -> dict[str, Rows]:
    """A row for all statements of one asker, instead of one for each; and what follows from the figures."""
    askers: dict[str, Rows] = {}
    for row in found.get("indexes", []):
        if "without it" not in row["statement"] and row[""] != "build":
            askers.setdefault(row[""], []).append(row)
    rows: Rows = []
    for asker, asked in askers.items():
        slowest = max(asked, key=lambda row: row.get("ms", float("inf")))
        rows.append(
            {
                "": asker,
                "statements": len(asked),
                "that read a table": sum("Seq Scan of task_exec" in row["plan"] for row in asked),
                "the slowest": slowest["statement"],
                "its ms": slowest.get("ms"),
                "its blocks": slowest.get("blocks"),
            }
        )
    shorter = {"indexes": rows} if rows else {}
    return shorter | ({"on paper": _on_paper(found["concurrency"])} if "concurrency" in found else {})


def _on_paper(rows: Rows) -> Rows:
    """From what one delivery costs: what one core carries, and what a million cost."""
    found: Rows = []
    for row in rows:
        ours, servers = row["receiver CPU ms each"], row["PostgreSQL CPU ms each"]
        found.append(
            {
                "in flight": row["in flight"],
                "one vCPU of receivers/s": 1e3 / ours,
                "one vCPU of PostgreSQL/s": 1e3 / servers,
                "a million: receiver vCPU s": ours * 1e3,
                "PostgreSQL vCPU s": servers * 1e3,
                "WAL GB": row["WAL bytes each"] / 1e3,
            }
        )
    return found


def publish(folder: Path) -> None:
    """Puts the tables between the marks of `docs/trust/speed.md`, and the chart among the pictures."""
    _put(DOCS / "trust" / "speed.md", (folder / "page.md").read_text().strip())
    if (chart := folder / "chart.svg").exists():
        shutil.copyfile(chart, DOCS / "pictures" / "speed.svg")


def _put(page: Path, text: str) -> None:
    before, start, rest = page.read_text().partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{page} has no place for the tables: {START} and {END}")
    page.write_text(f"{before}{start}\n{text}\n{end}{after}")


def _where(about: dict[str, Any]) -> str:
    return f"{about['date']}, {about['cores']} cores ({about['cpu']}), {about['memory GiB']} GiB, Python {about['python']}"


def markdown(rows: Rows) -> list[str]:
    """The lines of one table."""
    columns = _columns(rows)
    lines = [
        "| " + " | ".join(columns) + " |",
        "|" + "|".join("---" if c == "" else "---:" for c in columns) + "|",
    ]
    return lines + ["| " + " | ".join(text(row.get(column)) for column in columns) + " |" for row in rows]


def text(value: object) -> str:
    """A cell: three significant digits below a thousand, whole numbers above."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _columns(rows: Rows) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def _chart(path: Path, rows: Rows, where: str) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - only who draws pays for it

    mpl.use("svg")
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "receiver", "font.family": "sans-serif"}
    mpl.rcParams |= dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    )
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after its backend is chosen

    measured = [row for row in rows if row.get("deliveries/s") and row[""] != "null app"][::-1]
    figure, axes = plt.subplots(figsize=(8, 0.55 * len(measured) + 1.2))
    rates = [row["deliveries/s"] for row in measured]
    bars = axes.barh(
        [row[""] for row in measured],
        rates,
        color=[STRONG if row[""] == "receiver" else PALE for row in measured],
    )
    axes.bar_label(bars, labels=[f" {text(rate)}" for rate in rates])
    axes.set_xlim(0, max(rates) * 1.15)
    axes.set_xlabel("verified, recorded deliveries a second")
    axes.spines[["top", "right"]].set_visible(False)
    figure.text(0.01, 0.01, where, fontsize=7)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, transparent=True, metadata={"Date": None})

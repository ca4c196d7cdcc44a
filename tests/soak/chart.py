"""The soak as a picture and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.report import machine
from tests.soak.flat import BOUNDS, MIB, grown
from tests.soak.soak import Report


def write(folder: Path, report: Report) -> None:
    """`soak.json` and `soak.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    about = machine()
    found = {
        "machine": about,
        "seconds": report.seconds,
        "rate": report.rate,
        "capacity": report.capacity,
        "messages": report.done,
        "answers": dict(report.answers),
        "grown in the second half": {what: grown(report.samples, what) for what in BOUNDS},
        "bounds": BOUNDS,
        "wrong": report.wrong,
        "samples": [asdict(sample) for sample in report.samples],
    }
    (folder / "soak.json").write_text(json.dumps(found, indent=1) + "\n")
    _draw(folder / "soak.png", report, f"{about['date']}, {about['cores']} cores, Python {about['python']}")


def _draw(path: Path, report: Report, where: str) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - only who draws pays for it

    mpl.use("svg" if path.suffix == ".svg" else "agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after its backend is chosen

    minutes = [sample.at / 60 for sample in report.samples]
    curves: dict[str, list[float]] = {
        "memory, MiB": [sample.memory / MIB for sample in report.samples],
        "connections to PostgreSQL": [sample.connections for sample in report.samples],
        "file descriptors": [sample.files for sample in report.samples],
        "threads": [sample.threads for sample in report.samples],
    }
    figure, axes = plt.subplots(len(curves), 1, sharex=True, figsize=(8, 8))
    for axis, (name, values) in zip(axes, curves.items(), strict=True):
        axis.plot(minutes, values, linewidth=1.2)
        axis.set_ylim(0, max(values) * 1.3)
        axis.set_title(name, loc="left", fontsize=9)
        axis.grid(visible=True, alpha=0.3)
    axes[-1].set_xlabel("minutes")
    figure.suptitle(
        f"One receiver, {report.done} messages at {report.rate:.0f} a second ({where})", fontsize=10
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)

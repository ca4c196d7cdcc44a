"""The soak as a picture and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks.report import machine
from scripts.pictures.svg import Picture
from tests.soak.flat import BOUNDS, MIB, grown
from tests.soak.soak import Report

WIDTH: Final = 780
TOP: Final = 44
LEFT: Final = 60
EACH: Final = 150
HIGH: Final = 104
"""Pixels: the picture, the head above its charts, where they begin, the room for each, and its height."""


def write(folder: Path, report: Report) -> None:
    """`soak.json` and `soak.svg`."""
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
    where = f"{about['date']}, {about['cores']} cores, Python {about['python']}"
    (folder / "soak.svg").write_text(str(_draw(report, where)))


def _draw(report: Report, where: str) -> Picture:
    curves: dict[str, list[float]] = {
        "memory, MiB": [sample.memory / MIB for sample in report.samples],
        "connections to PostgreSQL": [sample.connections for sample in report.samples],
        "file descriptors": [sample.files for sample in report.samples],
        "threads": [sample.threads for sample in report.samples],
    }
    title = f"One receiver, {report.done} messages at {report.rate:.0f} a second ({where})"
    picture = Picture(WIDTH, TOP + EACH * len(curves) + 30, title)
    picture.words(WIDTH / 2, 30, title, bold=True)
    last = report.samples[-1].at
    for number, (name, values) in enumerate(curves.items()):
        bottom, most = TOP + EACH * (number + 1) - 20.0, max(values) * 1.3
        picture.words(LEFT, bottom - HIGH - 8, name, size=12, at="start")
        for share in (0.0, 0.5, 1.0):
            y = bottom - HIGH * share
            picture.line([(LEFT, y), (WIDTH - 20, y)], dashed=share > 0)
            picture.words(LEFT - 8, y + 4, f"{most * share:.0f}", colour="dim", size=11, at="end")
        picture.line(
            [
                (LEFT + (WIDTH - 20 - LEFT) * sample.at / last, bottom - HIGH * value / most)
                for sample, value in zip(report.samples, values, strict=True)
            ],
            colour="blue",
        )
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = LEFT + (WIDTH - 20 - LEFT) * share
        picture.words(x, picture.height - 32, f"{last * share / 60:.3g}", colour="dim", size=11)
    picture.words(WIDTH / 2, picture.height - 12, "minutes", colour="dim", size=12)
    return picture

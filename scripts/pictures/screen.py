"""A recorded terminal as a picture: a window for each terminal, one above the other."""

from __future__ import annotations

import re
from typing import Final

from scripts.pictures.svg import Picture

LINE: Final = 18
CHARACTER: Final = 7.3
"""Pixels: a monospaced font of size 12 has 7.23."""

MARGIN: Final = 14
TITLE: Final = 30

COLOURS: Final = {
    r"^\d\d:\d\d:\d\d |^    .*|\bINFO\b": "dim",
    r"\bERROR\b|\b500\b": "red",
    r"\b200\b|\bSUCCESSFUL\b": "green",
    r"^(?:receiver|Pub/Sub|PostgreSQL|environment|tasks)(?=  )": "blue",
}
"""What is coloured. The recording has no colours of its own: `receiver dev` prints none."""

COLOURED: Final = re.compile("|".join(f"({pattern})" for pattern in COLOURS))


def screen(title: str, recorded: str) -> Picture:
    """The picture of terminals: text as `scripts.pictures.recording` keeps it."""
    windows = [window.splitlines() for window in recorded.rstrip("\n").split("\n\n")]
    width = round(CHARACTER * max(len(line) for window in windows for line in window)) + 4 * MARGIN
    heights = [TITLE + LINE * len(window) + MARGIN for window in windows]
    picture = Picture(width, sum(heights) + MARGIN * (len(windows) + 1), title)
    y = float(MARGIN)
    for number, (window, height) in enumerate(zip(windows, heights, strict=True)):
        picture.box(MARGIN, y, width - 2 * MARGIN, height)
        name = "first terminal" if number == 0 else "second terminal"
        picture.words(width / 2, y + 19, name, colour="dim", size=12)
        for place, line in enumerate(window):
            picture.code(2 * MARGIN, y + TITLE + LINE * (place + 1) - 4, coloured(line))
        y += height + MARGIN
    return picture


def coloured(line: str) -> list[tuple[str, str]]:
    """The parts of a line, each with its colour."""
    if line.startswith("$ "):
        return [("$ ", "dim"), (line[2:], "blue")]
    parts, at = list[tuple[str, str]](), 0
    colours = list(COLOURS.values())
    for found in COLOURED.finditer(line):
        parts += [(line[at : found.start()], "ink"), (found[0], colours[(found.lastindex or 1) - 1])]
        at = found.end()
    return [(text, colour) for text, colour in [*parts, (line[at:], "ink")] if text]

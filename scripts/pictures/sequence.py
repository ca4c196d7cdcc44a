"""Who tells whom what, in order, from top to bottom: a lane for each, an arrow for each message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from scripts.pictures.svg import Picture

LANE: Final = 190
STEP: Final = 40
TOP: Final = 74
MARGIN: Final = 105


@dataclass(frozen=True)
class Tell:
    """An arrow from one lane to another, or to itself: a note. `colour`: of the arrow. `dashed`: an answer."""

    by: str
    to: str
    what: str
    colour: str = "ink"
    dashed: bool = False


@dataclass(frozen=True)
class Die:
    """The end of a lane: what it was doing stops here."""

    who: str
    what: str


@dataclass(frozen=True)
class Pass:
    """Time passes; or a heading between two parts."""

    what: str


Steps = list[Tell | Die | Pass]


def sequence(title: str, lanes: list[str], steps: Steps) -> Picture:
    """The picture of these steps."""
    height = TOP + STEP * len(steps) + 26
    picture = Picture(2 * MARGIN + LANE * (len(lanes) - 1), height, title)
    places = {lane: MARGIN + LANE * number for number, lane in enumerate(lanes)}
    ends = dict.fromkeys(lanes, height - 16.0)
    for number, step in enumerate(steps):
        if isinstance(step, Die):
            ends[step.who] = TOP + STEP * number + 8.0
    for lane, x in places.items():
        picture.line([(x, 52), (x, ends[lane])], dashed=True)
        picture.box(x - 78, 18, 156, 34)
        picture.words(x, 40, lane, bold=True)
    for number, step in enumerate(steps):
        _draw(picture, places, step, TOP + STEP * number + 8)
    return picture


def _draw(picture: Picture, places: dict[str, int], step: Tell | Die | Pass, y: float) -> None:
    match step:
        case Pass(what):
            picture.line([(16, y), (picture.width - 16, y)], dashed=True)
            width = 7.2 * len(what) + 20
            picture.box(picture.width / 2 - width / 2, y - 12, width, 24, fill="ground", line="ground")
            picture.words(picture.width / 2, y + 4, what, colour="dim", size=12)
        case Die(who, what):
            x = places[who]
            for side in (-1, 1):
                picture.line([(x - 7, y - 7 * side), (x + 7, y + 7 * side)], colour="red")
            picture.words(x + 14, y + 4, what, colour="red", size=12, at="start")
        case Tell(by, to, what, colour, dashed) if by == to:
            x = places[by]
            width = 6.6 * len(what) + 22
            picture.box(x - width / 2, y - 15, width, 26, line=colour)
            picture.words(x, y + 3, what, size=12)
        case Tell(by, to, what, colour, dashed):
            start, end = places[by], places[to]
            inset = 4 if start < end else -4
            picture.line([(start + inset, y), (end - inset, y)], colour=colour, dashed=dashed, head=True)
            # Between the first two lanes, or a third one would cross the words.
            picture.words(start + (LANE if start < end else -LANE) / 2, y - 7, what, size=12)

"""Which deaths are to be died: so many at each named point, in an order that the seed decides, evenly over the time.

A life draws one death. If it ends otherwise, because it was killed from outside or its point was never passed, its death
goes back among the others: so each point gets its quota, however rarely it is passed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Death:
    """At which point, at which passing of it, and not before which moment (by `time.monotonic()`, the machine's)."""

    point: str
    passings: int
    not_before: float


class Deck:
    """The deaths that are left.

    Args:
        points: their names, and the most passings of each before it kills.
        each: deaths a point.
        seconds: over which they are spread.
    """

    def __init__(
        self,
        points: dict[str, int],
        each: int,
        seconds: float,
        chance: random.Random,
        clock: Callable[[], float],
    ) -> None:
        self._most = points
        self._chance = chance
        self._clock = clock
        self._left = [point for point in points for _ in range(each)]
        self._all = len(self._left)
        self._out = 0
        self._died = 0
        self._step = seconds / max(self._all, 1)
        self._begun = clock()
        chance.shuffle(self._left)

    @property
    def left(self) -> int:
        """Deaths that have not been died."""
        return self._all - self._died

    def draw(self) -> Death | None:
        """The next death; None when all are dealt."""
        if not self._left:
            return None
        moment = self._begun + self._step * (self._died + self._out)
        self._out += 1
        point = self._left.pop()
        return Death(point, self._chance.randint(1, self._most[point]), moment)

    def died(self, _: Death) -> None:
        """It was died."""
        self._out -= 1
        self._died += 1

    def put_back(self, death: Death) -> None:
        """It was not."""
        self._out -= 1
        self._left.insert(self._chance.randrange(len(self._left) + 1), death.point)

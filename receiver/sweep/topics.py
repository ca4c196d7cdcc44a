"""What a sweep has found out about topics: which take nothing now, and which have had their turn.

Their rows are left to a later sweep, so that one topic that refuses everything, or does not answer, or has a million rows, keeps no
other one waiting.

Next: `receiver.sweep.owed` asks before it takes and before it publishes.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from receiver.enqueue.publisher import ALONE, is_of_one
from receiver.errors import GoogleRefused

if TYPE_CHECKING:
    from receiver.errors import GoogleError

TURN: Final = 10_000
"""Rows of one topic that are published before all others have had their turn."""

MOST_OUT: Final = 3
"""Topics that do not answer before Pub/Sub itself counts as away, when none has answered."""


class Topics:
    """Each is named by the path of its task.

    Attributes:
        out: topics that take nothing now, and why.
        answers: whether Pub/Sub has answered at all, be it with a refusal.
    """

    def __init__(self) -> None:
        self.out: dict[str, GoogleError] = {}
        self.answers = False
        self._turns = Counter[str]()
        self._refused: dict[str, tuple[str, int]] = {}

    @property
    def left(self) -> list[str]:
        """Those whose rows are not to be taken now."""
        return [*self.out, *(path for path, count in self._turns.items() if count >= TURN)]

    @property
    def outage(self) -> str | None:
        """Why Pub/Sub itself counts as away, if it does."""
        if self.answers or len(self.out) < MOST_OUT:
            return None
        return self.why

    @property
    def why(self) -> str | None:
        """Why a topic is out, if Pub/Sub has never answered."""
        return None if self.answers or not self.out else str(next(iter(self.out.values())))

    def next_turn(self) -> bool:
        """All others have had their turn. False when no topic waits for its next one."""
        waited = any(count >= TURN for count in self._turns.values())
        self._turns.clear()
        return waited

    def took(self, path: str) -> None:
        """A row was published."""
        self.answers = True
        self._turns[path] += 1
        self._refused.pop(path, None)

    def failed(self, path: str, why: GoogleError) -> None:
        """A row was not."""
        if isinstance(why, GoogleRefused):
            self.answers = True
        if not is_of_one(why):
            self.out[path] = why
            return
        line, count = self._refused.get(path, ("", 0))
        count = count + 1 if line == str(why) else 1
        self._refused[path] = (str(why), count)
        if count >= ALONE:
            self.out[path] = why

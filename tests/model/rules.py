"""What the statements and the programs are like: the numbers of the product, smaller, and its mends.

A mend is a part of the protocol that somebody found missing. Each can be left out, and then the model has to find the fault
again: `tests/model/test_faults.py` does that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MENDS: Final = {
    "commits_are_terminated": "no COMMIT is cancelled: that would end its wait for the standby, and show what no standby has",
    "looks_wait": "what rests on a look ends with a write that waits for the standby",
    "read_backs_wait": "so does the search for a claim whose answer was lost: code begins because of it",
    "looks_until_gone": "a claim without an answer is looked for until its backend is gone",
    "strays_mark_nothing": "what comes to a row that was owed again may be an old message: its claim does not say that Pub/Sub has it",
    "takeovers_count_nothing": "an attempt that is taken over did not end, and does not count",
    "tokens": "whoever owns a row names its claim's token, besides the fence",
    "marks_name_the_time": "a mark changes only a row that still carries the time that its publisher had set",
    "ended_leases_stay_ended": "a renewal changes only a lease that has not ended",
}
"""Each mend, and what it says."""


@dataclass(frozen=True)
class Rules:
    """The protocol.

    Attributes:
        mends: those that are in force.
        synchronous: a commit waits for the standby.
        max_attempts: of each task; None: no limit.
        suspect, crashed: as in `receiver.record.sql.crashes`, smaller.
        whole: explores every snapshot; otherwise only those that can make a difference (docs/trust/model.md).
    """

    mends: frozenset[str] = frozenset(MENDS)
    synchronous: bool = True
    max_attempts: int | None = 2
    suspect: int = 1
    crashed: int = 2
    whole: bool = False

    def has(self, mend: str) -> bool:
        """Whether it is in force."""
        return mend in self.mends

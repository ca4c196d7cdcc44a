"""The history of an execution: from, to, at, why. It is derived, never stored.

An attempt that did not succeed has its row in `task_attempts`. The one that succeeded, or still runs, is in the execution's
row. Together they tell every change of state, so that the happy path costs no third write.

Invariant: the chain has no gap. Each transition starts in the state in which the one before it ended, the first one starts
from nothing, and the last one ends in the row's status. A change that the tables do not date (a replay) has no time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

from receiver.endings.outcomes import AttemptEnding
from receiver.tasks.call import TaskResultStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from receiver.reading.queries import Attempt, Execution

READY, RUNNING, FAILED, SUCCESSFUL = TaskResultStatus

WHY_LIMIT = 300
"""Characters of an error that a line of history quotes; `task_attempts` holds the whole."""


NAMED = 3
"""Neighbours that a line of history names; `--json` has all."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state. `from_` is None for the first one; `at` is None when the record has no time for it."""

    from_: str | None
    to: str
    at: datetime | None
    why: str

    def as_json(self) -> dict[str, str | None]:
        """`{from, to, at, why}`, the time in RFC 3339, spelled as the row's own."""
        return {
            "from": self.from_,
            "to": self.to,
            "at": _stamp(self.at) if self.at is not None else None,
            "why": self.why,
        }


def history(execution: Execution, attempts: Sequence[Attempt]) -> list[Transition]:
    """Every change of state of an execution, in order.

    Args:
        execution: its row.
        attempts: its lines of `task_attempts`, in any order, read in the same snapshot.
    """
    chain = _Chain()
    deferred = (
        None if execution.dead_letters else execution.run_after
    )  # else that is the pause after the dead letter
    enqueued = "enqueued" if deferred is None else f"enqueued, to run after {_stamp(deferred)}"
    chain.go(READY, execution.enqueued_at, enqueued)
    ended = sorted(attempts, key=lambda attempt: attempt.fence)
    for attempt in ended:
        _tell(chain, attempt)
    if execution.fence > (ended[-1].fence if ended else 0) and execution.started_at is not None:
        chain.start(execution.attempt, execution.started_at)
    _arrive(chain, execution)
    return chain.told


class _Chain:
    """The transitions so far; `go` continues from the last one."""

    def __init__(self) -> None:
        self.told: list[Transition] = []

    @property
    def state(self) -> str | None:
        return self.told[-1].to if self.told else None

    def go(self, to: str, at: datetime | None, why: str) -> None:
        self.told.append(Transition(self.state, to, at, why))

    def start(self, attempt: int, at: datetime | None) -> None:
        """→ RUNNING, by way of READY after a failure: a redelivery is the retry."""
        if self.state == FAILED:
            self.go(READY, at, "delivered again")
        self.go(RUNNING, at, f"attempt {attempt} started")


def _tell(chain: _Chain, attempt: Attempt) -> None:
    """How one attempt of `task_attempts` began and ended."""
    ending = AttemptEnding(attempt.ending)
    if ending is not AttemptEnding.REJECTED:
        chain.start(attempt.attempt, attempt.started_at)
    elif chain.state != READY:
        chain.go(READY, None, "put back")
    match ending:
        case AttemptEnding.FAILED:
            chain.go(FAILED, attempt.ended_at, _error(attempt))
        case AttemptEnding.TIMED_OUT:
            chain.go(FAILED, attempt.ended_at, f"timed out: {_brief(attempt.error_message)}")
        case AttemptEnding.REJECTED:
            chain.go(FAILED, attempt.ended_at, f"could not start: {_brief(attempt.error_message)}")
        case AttemptEnding.LEASE_EXPIRED:
            chain.go(READY, attempt.ended_at, f"lease expired{_on(attempt)}{_beside(attempt)}")
        case AttemptEnding.HANDED_BACK:
            why = "on shutdown" if attempt.error_message is None else f"({attempt.error_message})"
            chain.go(READY, attempt.ended_at, f"handed back {why}{_on(attempt)}; not counted")
        case _ as never:
            assert_never(never)


def _arrive(chain: _Chain, execution: Execution) -> None:
    """From the end of the last attempt to the row's status."""
    match execution.status:
        case TaskResultStatus.RUNNING | TaskResultStatus.SUCCESSFUL if chain.state != RUNNING:
            chain.start(execution.attempt, execution.started_at)
        case TaskResultStatus.READY if _since(chain, execution.dead_lettered_at):
            until = "" if execution.run_after is None else f", not before {_stamp(execution.run_after)}"
            chain.go(READY, execution.dead_lettered_at, f"given up by Pub/Sub; to be published again{until}")
        case TaskResultStatus.READY if chain.state != READY:
            chain.go(READY, None, "put back")
        case TaskResultStatus.FAILED if chain.state != FAILED:
            chain.go(FAILED, execution.finished_at, _error(execution))
    if execution.status == SUCCESSFUL:
        switch = execution.skipped_by
        chain.go(
            SUCCESSFUL, execution.finished_at, f"not run: {switch} is off" if switch else "the task returned"
        )
    if execution.status == FAILED and execution.final:
        last, letter = chain.told.pop(), execution.dead_lettered_at
        by = "" if letter is None or last.at is None or letter < last.at else "; given up by Pub/Sub"
        chain.told.append(replace(last, why=f"{last.why}{by}; final"))


def _since(chain: _Chain, letter: datetime | None) -> bool:
    """Whether it became a dead letter after the last change of state: one that has run since keeps the time of its dead letter."""
    last = chain.told[-1].at
    return letter is not None and (last is None or letter >= last)


def _stamp(moment: datetime) -> str:
    """RFC 3339 with `Z`, as msgspec writes the row's times: in one document they can be compared as text."""
    return moment.isoformat().replace("+00:00", "Z")


def _error(source: Attempt | Execution) -> str:
    """The error in one short line."""
    parts = [part for part in (source.error_type, source.error_message) if part]
    return _brief(": ".join(parts)) or "failed"


def _brief(text: str | None) -> str:
    line = " ".join((text or "").split())
    return line if len(line) <= WHY_LIMIT else line[: WHY_LIMIT - 3] + "..."


def _on(attempt: Attempt) -> str:
    return f" on {attempt.instance}" if attempt.instance else ""


def _beside(attempt: Attempt) -> str:
    """The neighbours of an execution whose process died."""
    if not attempt.beside:
        return ""
    named, more = attempt.beside[:NAMED], len(attempt.beside) - NAMED
    return f"; beside it ran {', '.join(named)}{f' and {more} more' if more > 0 else ''}"

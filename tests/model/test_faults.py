"""Without its mend each fault is found again. A model that finds none of them would prove nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tests.model.model import Model, Scene
from tests.model.rules import MENDS, Rules
from tests.model.state import Left


def without(*mends: str) -> frozenset[str]:
    """The mends that are left."""
    assert set(mends) <= set(MENDS)
    return frozenset(MENDS) - set(mends)


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        mends: those that prevent it.
        scene: where it happens without them.
        violated: the end of its trace.
        shows: a step of its trace.
    """

    name: str
    mends: tuple[str, ...]
    left: Left
    violated: str
    shows: str
    enqueued: str = ""
    effects: bool = False
    rules: Rules = field(default_factory=Rules)

    def scene(self, *, mended: bool) -> Scene:
        """The scene, with these mends or without."""
        rules = self.rules
        mends = rules.mends if mended else without(*self.mends)
        rules = Rules(mends, rules.synchronous, rules.max_attempts, rules.suspect, rules.crashed)
        return Scene(self.name, self.left, enqueued=self.enqueued, effects=self.effects, rules=rules)


FAULTS = (
    Fault(
        "a false 200 after a cancelled COMMIT",
        ("commits_are_terminated", "looks_wait"),
        Left(deliveries=1, silences=1),
        "200 only for what is final or owed",
        "settlements.settle_with_effects is cancelled in its COMMIT",
        effects=True,
    ),
    Fault(
        "a 200 that rests on a look at what no standby has",
        ("looks_wait",),
        Left(deliveries=2, restarts=1),
        "200 only for what is final or owed",
        "primary restarts; what its log had is visible",
    ),
    Fault(
        "an enqueue that rests on a look at what no standby has",
        ("looks_wait",),
        Left(restarts=1),
        "an enqueue is accepted only once its row is on the standby",
        "primary restarts; what its log had is visible",
        enqueued="insert",
    ),
    Fault(
        "code that begins by a claim that no standby has",
        ("read_backs_wait",),
        Left(deliveries=2, redeliveries=1, restarts=1, failovers=1),
        "two run at once",
        "finds its claim by its token",
    ),
    Fault(
        "FAILED by a claim whose late COMMIT became visible",
        ("takeovers_count_nothing", "looks_until_gone"),
        Left(deliveries=2, silences=1),
        "FAILED with no attempt left",
        "claims.claim becomes visible",
        rules=Rules(max_attempts=1),
    ),
    Fault(
        "FAILED as crashed by a claim whose late COMMIT became visible",
        ("looks_until_gone",),
        Left(deliveries=2, silences=1),
        "FAILED with no attempt left",
        "claims.claim becomes visible",
        rules=Rules(crashed=1),
    ),
    Fault(
        "equal fences after an asynchronous failover",
        ("tokens",),
        Left(deliveries=2, redeliveries=1, failovers=1, hand_backs=1),
        "only its owner changes a row that runs",
        "standby is promoted, without what it has not got",
        rules=Rules(synchronous=False),
    ),
    Fault(
        "a late mark that swallows a dead letter's wake",
        ("marks_name_the_time",),
        Left(dead_letters=1),
        "then it is owed",
        "outbox.mark_published commits",
        enqueued="insert",
    ),
    Fault(
        "a late mark that swallows a replay",
        ("marks_name_the_time",),
        Left(deliveries=1, replays=1),
        "then it is owed",
        "outbox.mark_published commits",
        enqueued="insert",
        rules=Rules(max_attempts=1),
    ),
    Fault(
        "a renewal that revives a lease",
        ("ended_leases_stay_ended",),
        Left(deliveries=1, expiries=1, beats=1),
        "a lease that has ended never lives again",
        "heartbeat of a at 1 begins; leases.renew takes its locks",
    ),
    Fault(
        "a late claim that is handed back when its message is a dead letter",
        ("strays_mark_nothing",),
        Left(deliveries=1, silences=1, dead_letters=1),
        "then it is owed",
        "leases.hand_back commits",
        enqueued="insert",
    ),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_without_its_mend_the_fault_is_found_and_with_it_there_is_none(fault: Fault) -> None:
    found = Model(fault.scene(mended=False)).explore()
    assert found.trace is not None
    assert fault.violated in found.trace.splitlines()[-1]
    assert fault.shows in found.trace
    assert Model(fault.scene(mended=True)).explore().trace is None


def test_every_mend_has_a_fault() -> None:
    assert {mend for fault in FAULTS for mend in fault.mends} == set(MENDS)


def test_a_cancelled_commit_alone_is_survived_because_looks_wait() -> None:
    """Two mends for one fault: what a cancelled COMMIT shows is on no standby, until a look has waited for that."""
    left = Left(deliveries=2, silences=1, failovers=1)
    rules = Rules(without("commits_are_terminated"))
    found = Model(Scene("cancelled", left, effects=True, rules=rules)).explore()
    assert found.trace is None
    assert (
        "settlements.settle_with_effects is cancelled in its COMMIT: visible, and on no standby"
        in found.places
    )


def test_a_trace_is_a_step_a_line_and_ends_with_what_is_violated() -> None:
    (fault,) = [fault for fault in FAULTS if fault.name == "a late mark that swallows a dead letter's wake"]
    assert Model(fault.scene(mended=False)).explore().trace == TRACE.strip("\n")


TRACE = """
  1 enqueue of a outbox.insert takes its locks
  2 enqueue of a outbox.insert commits
  3 enqueue of a publishes
  4 message of a becomes a dead letter
  5 dead letter of a is delivered
  6 dead letter of a dead_letters.take_back takes its locks
  7 dead letter of a dead_letters.take_back commits
  8 enqueue of a outbox.mark_published takes its locks
  9 enqueue of a outbox.mark_published commits
violated: not final, not with Pub/Sub: then it is owed
"""

"""What must hold: in every state, at every change of a row, and at every answer.

`docs/trust/model.md` says them in words. A violation is raised where it is seen; the explorer prints how it came about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.model.rules import Rules
    from tests.model.state import Actor, Messages, Row, World
    from tests.model.statements import Statement


class Violation(Exception):
    """An invariant does not hold. The message says which; `doing` says what somebody was doing, if that is what must not be."""

    doing: str | None = None


def moved(statement: Statement, old: Row, new: Row, actor: Actor, rules: Rules) -> None:
    """Of every change of a row."""
    if old.final and (new.status, new.final) != (old.status, True) and not statement.operators:
        raise Violation("what is final never changes")
    if statement.owners and old.token != actor.token:
        raise Violation("only its owner changes a row that runs: the fences of two owners are equal")
    if new.fence < old.fence:
        raise Violation("a fence never decreases")
    runs_on = old.status == new.status == "RUNNING" and old.fence == new.fence
    if runs_on and new.lives and not old.lives:
        raise Violation("a lease that has ended never lives again")


def begun(world: World, actor: Actor) -> None:
    """Of every beginning of a task's code."""
    row = world.rows[actor.row]
    if not actor.past and (row.status != "RUNNING" or row.token != actor.token):
        raise Violation("code begins only as the owner of a row that runs")


def told(world: World, row: int, rules: Rules) -> None:
    """Of every 200."""
    kept = world.standby[row] if rules.synchronous else world.rows[row]
    if not kept.final and not kept.is_owed:
        where = "on the standby, " if rules.synchronous else ""
        raise Violation(f"200 only for what is final or owed: {where}the row is {_said(kept)}")


def check(world: World, rules: Rules, *, lossy: bool) -> None:
    """Of every state.

    Args:
        lossy: an asynchronous standby was promoted: what it had not got is gone, and only that nothing is mixed up is asked.
    """
    for number, (row, known) in enumerate(zip(world.rows, world.known, strict=True)):
        if row.effects > 1:
            raise Violation("a task's writes commit at most once")
        if row.effects and row.status != "SUCCESSFUL":
            raise Violation("a task's writes commit together with SUCCESSFUL, or not at all")
        if row.why == "exhausted" and not known.began and not known.killed:
            raise Violation("FAILED with no attempt left: it has begun, or its process was killed")
        if lossy:
            continue
        with_pubsub = is_with_pubsub(world, number, world.messages[number])
        if not _is_safe(row, with_pubsub=with_pubsub, absent=not known.acked) and not known.set_aside:
            raise Violation("not final, not with Pub/Sub: then it is owed")
        if known.acked and rules.synchronous:
            kept = world.standby[number]
            if not _is_safe(kept, with_pubsub=with_pubsub, absent=False) and not known.set_aside:
                raise Violation("what was acked is final or owed on the standby too")
        if _overlap(world, number):
            raise Violation("two run at once: then the lease of one is over")


def is_with_pubsub(world: World, row: int, messages: Messages) -> bool:
    """Whether Pub/Sub has a message of it, or waits for the answer to one."""
    if messages.waiting or messages.dead:
        return True
    return any(actor.carries and actor.row == row for actor in world.actors)


def _is_safe(row: Row, *, with_pubsub: bool, absent: bool) -> bool:
    """Whether it has ended, or somebody will run it. `absent`: nobody was told that there is such an execution.

    One that is RUNNING runs, or the patrol publishes it an hour after its lease (`sweeping.take_lost`). For a READY or FAILED one
    the patrol's week does not count.
    """
    if row.status == "absent":
        return absent or with_pubsub
    return row.final or with_pubsub or not row.published or row.status == "RUNNING"


def _overlap(world: World, row: int) -> bool:
    runs = [a for a in world.actors if a.row == row and a.place == "running" and not a.past and not a.late]
    return len(runs) > 1


def _said(row: Row) -> str:
    return row.status + (", published" if row.published else "")

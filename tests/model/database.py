"""PostgreSQL, as the model needs it: snapshots, row locks, commits that wait for a standby, and answers that are lost.

A statement is sent by an actor, which waits for its answer. It takes a snapshot (seen), then its locks (held), then it commits.
With a synchronous standby a commit becomes visible once the standby has it. Who gives up earlier leaves a statement that may end
later, or never: its client is gone, and its answer too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

from tests.model.invariants import moved
from tests.model.rules import Rules
from tests.model.state import DEAD, Actor, Row, Step, World
from tests.model.statements import Statement

Answered = Callable[[World, Actor, tuple[int, ...]], Iterator[World]]
Silent = Callable[[World, Actor], Iterator[World]]


@dataclass(frozen=True, eq=False)
class Sends:
    """A place of a program where a statement is sent.

    Attributes:
        answered: goes on once it is known to be committed; the rows that moved are given.
        silent: goes on when there will be no answer.
    """

    statement: Statement
    answered: Answered
    silent: Silent


Place = Sends | Callable[[World, Actor], Iterator[Step]]
"""A place of a program: a statement is sent there, or the actor does something by itself."""


@cache
def may(statement: Statement, row: Row, actor: Actor, rules: Rules) -> bool:
    """Whether the statement's guard lets it change this version."""
    return statement.guard(row, actor, rules)


@cache
def becomes(statement: Statement, row: Row, actor: Actor, rules: Rules) -> Row:
    """The version that the statement makes of this one. Raises Violation when that must not be."""
    version = statement.change(row, actor, rules)
    moved(statement, row, version, actor, rules)
    return version


def statement_steps(world: World, actor: Actor, place: Sends, rules: Rules) -> Iterator[Step]:
    """What may happen next to the statement that an actor has sent, or to one whose client has gone."""
    statement = place.statement
    match actor.stage:
        case "sent":
            yield from _begins(world, actor, place, rules)
        case "seen":
            yield from _locks(world, actor, actor.rows, place, rules)
        case "held":
            yield from _commits(world, actor, place, rules)
        case "cut":
            for after in place.silent(*freed(world, actor)):
                yield Step(actor, f"{statement.name}: the connection broke", after)
            return
    if not actor.late and world.left.silences:
        yield from _given_up(world.spend("silences"), actor, place, rules)


def _begins(world: World, actor: Actor, place: Sends, rules: Rules) -> Iterator[Step]:
    """Takes its snapshot, and its locks in the same step if it reads nothing but what it locks.

    Then an old snapshot can only say no, and that is what the statement would have said if it had taken its locks at once, earlier.
    """
    statement = place.statement
    sees = actor if statement.sees is None else actor.but(seen=statement.sees(world))
    rows = tuple(row for row in _named(world, actor) if may(statement, world.rows[row], sees, rules))
    if rows and (rules.whole or statement.sees is not None):
        seen = sees.but(stage="seen", rows=rows)
        yield Step(actor, f"{statement.name} takes its snapshot", world.with_actor(actor, seen))
    else:
        yield from _locks(world, actor, rows, place, rules)


def _locks(world: World, actor: Actor, rows: tuple[int, ...], place: Sends, rules: Rules) -> Iterator[Step]:
    """Locks what its snapshot has found and still fits. Nothing to lock: it ends at once."""
    statement = place.statement
    taken = world.locked(actor)
    if statement.waits and not taken.isdisjoint(rows):
        return
    held = tuple(r for r in rows if r not in taken and may(statement, world.rows[r], actor, rules))
    if held:
        locking = actor.but(stage="held", rows=held)
        yield Step(actor, f"{statement.name} takes its locks", world.with_actor(actor, locking))
    elif not actor.late:
        for after in place.answered(*freed(world, actor), ()):
            yield Step(actor, f"{statement.name} finds nothing to change", after)


def _commits(world: World, actor: Actor, place: Sends, rules: Rules) -> Iterator[Step]:
    """The changes become visible, and are on the standby if it is synchronous. The client learns it in the same step."""
    name = place.statement.name
    after = shown(world, actor, place.statement, rules)
    if rules.synchronous:
        after = after.with_rows(after.rows, after.rows)
    if actor.late:
        yield Step(actor, f"{name} becomes visible", after.with_actor(actor, None))
        return
    for known in place.answered(*freed(after, actor), actor.rows):
        yield Step(actor, f"{name} commits", known)


def _named(world: World, actor: Actor) -> tuple[int, ...]:
    return tuple(range(len(world.rows))) if actor.row < 0 else (actor.row,)


def freed(world: World, actor: Actor) -> tuple[World, Actor]:
    """The actor without a statement under way."""
    if actor.stage == "sent":
        return world, actor
    without = actor.but(stage="sent", rows=(), seen=None)
    return world.with_actor(actor, without), without


def shown(world: World, actor: Actor, statement: Statement, rules: Rules) -> World:
    """With the statement's changes visible on the primary."""
    rows = list(world.rows)
    for row in actor.rows:
        rows[row] = becomes(statement, rows[row], actor, rules)
    return world.with_rows(tuple(rows), world.standby)


def _given_up(world: World, actor: Actor, place: Sends, rules: Rules) -> Iterator[Step]:
    """Its client does not wait any longer. What was sent ends now, or later, or (cancelled in its COMMIT) at once and badly."""
    name = place.statement.name
    for after in place.silent(*freed(world, actor)):
        yield Step(actor, f"{name} gets no answer, and was not done", after)
        late = after.with_actor(None, actor.but(late=True))
        yield Step(actor, f"{name} gets no answer, and goes on", late)
    if actor.stage == "held" and not rules.has("commits_are_terminated"):
        visible = shown(world, actor, place.statement, rules)
        for after in place.silent(*freed(visible, actor)):
            yield Step(actor, f"{name} is cancelled in its COMMIT: visible, and on no standby", after)


def looked(world: World, rules: Rules, mend: str = "looks_wait") -> World:
    """After a look, before anything rests on it: a write that waits has taken what was seen to the standby."""
    if rules.synchronous and rules.has(mend):
        return world.with_rows(world.rows, world.rows)
    return world


def died(world: World, gone: list[Actor]) -> Iterator[World]:
    """The clients of these have died. What they have sent ends now, or later."""
    kept = world._replace(actors=tuple(actor for actor in world.actors if actor not in gone))
    sent = [actor for actor in gone if actor.stage in ("seen", "held")]
    for fates in product((False, True), repeat=len(sent)):
        after = kept
        for actor, goes_on in zip(sent, fates, strict=True):
            if goes_on:
                after = after.with_actor(None, actor.but(late=True, instance=DEAD))
        yield after


def server_steps(world: World, statement_of: Callable[[Actor], Statement], rules: Rules) -> Iterator[Step]:
    """What may happen to the server itself."""
    if not rules.synchronous and world.standby != world.rows:
        yield Step("standby", "catches up", world.with_rows(world.rows, world.rows))
    if world.left.failovers:
        after = cut(world.spend("failovers"))
        what = "is promoted" if rules.synchronous else "is promoted, without what it has not got"
        yield Step("standby", what, after.with_rows(world.standby, world.standby))
    if world.left.restarts:
        held = [actor for actor in world.actors if actor.stage == "held"]
        for fates in product((False, True), repeat=len(held)):
            after = world.spend("restarts")
            for actor, logged in zip(held, fates, strict=True):
                if logged:
                    after = shown(after, actor, statement_of(actor), rules)
            what = "restarts; what its log had is visible" if any(fates) else "restarts"
            yield Step("primary", what, cut(after))


def cut(world: World) -> World:
    """With every connection broken: no statement goes on, and no answer comes."""
    for actor in world.actors:
        if actor.late:
            world = world.with_actor(actor, None)
        elif actor.stage in ("seen", "held"):
            world = world.with_actor(actor, actor.but(stage="cut", rows=()))
    return world

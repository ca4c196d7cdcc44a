"""Whoever gives messages to Pub/Sub: enqueuers, sweeps, and operators who replay. Each takes its rows, publishes, and marks them.

While Pub/Sub is asked no statement is under way, and no row is locked.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model import invariants, statements
from tests.model.database import Place, Sends, looked
from tests.model.rules import Rules
from tests.model.state import Actor, Step, World
from tests.model.statements import Statement


class Publishers:
    """Their programs: what happens at each place."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.places: dict[str, Place] = {
            "insert": Sends(statements.INSERT, self._inserted, self._unsure),
            "insert in a transaction": Sends(statements.INSERT_ON, self._inserted, self._over),
            "replay": Sends(statements.REPLAY, self._replayed, self._over),
            "take owed": self._takes(statements.TAKE_OWED),
            "take named": self._takes(statements.TAKE_OWED),
            "take undelivered": self._takes(statements.TAKE_UNDELIVERED),
            "take lost": self._takes(statements.TAKE_LOST),
            "finalise": Sends(statements.FINALISE, self._done, self._over),
            "load": self._load,
            "publish": self._publish,
            "mark": Sends(statements.MARK_PUBLISHED, self._done, self._over),
            "postpone": Sends(statements.POSTPONE, self._done, self._over),
        }

    def _takes(self, statement: Statement) -> Sends:
        return Sends(statement, self._took, self._over)

    def _inserted(self, world: World, actor: Actor, rows: tuple[int, ...]) -> Iterator[World]:
        """The enqueue is accepted: the row is there, by this statement or by an earlier one without an answer."""
        if not rows:
            if world.rows[actor.row].status == "absent":
                return
            world = looked(world, self._rules)
        kept = world.standby if self._rules.synchronous else world.rows
        if kept[actor.row].status == "absent":
            raise invariants.Violation("an enqueue is accepted only once its row is on the standby")
        known = world.known[actor.row].but(acked=True)
        yield world.with_actor(actor, actor.but(place="publish")).with_known(actor.row, known)

    def _unsure(self, world: World, actor: Actor) -> Iterator[World]:
        """It is inserted again, under the same id."""
        yield world

    def _replayed(self, world: World, actor: Actor, rows: tuple[int, ...]) -> Iterator[World]:
        if not rows:
            yield world.with_actor(actor, None)
            return
        yield world.with_actor(actor, actor.but(place="take named"))

    def _took(self, world: World, actor: Actor, rows: tuple[int, ...]) -> Iterator[World]:
        if not rows:
            yield world.with_actor(actor, None)
        for row in rows:  # its batch, a row each: what becomes of one says nothing of another
            taken = actor.but(place="load", row=row)
            world = world.with_actor(actor if row == rows[0] else None, taken)
        if rows:
            yield world

    def _load(self, world: World, actor: Actor) -> Iterator[Step]:
        """What the message is made of, if the row still is its publisher's."""
        if world.rows[actor.row].until == actor.until:
            yield Step(actor, "loads its row", world.with_actor(actor, actor.but(place="publish")))
        else:
            yield Step(actor, "finds that its row has moved on", world.with_actor(actor, None))

    def _publish(self, world: World, actor: Actor) -> Iterator[Step]:
        messages = world.messages[actor.row]
        more = world.with_messages(actor.row, messages.but(waiting=messages.waiting + 1))
        yield Step(actor, "publishes", more.with_actor(actor, actor.but(place="mark")))
        if not world.left.brownouts:
            return
        for what, after in (("cannot publish", world), ("publishes, and is not told", more)):
            spent = after.spend("brownouts")
            # An enqueuer leaves the row to the sweep.
            then = None if actor.role == "enqueue" else actor.but(place="postpone")
            yield Step(actor, what, spent.with_actor(actor, then))

    def _done(self, world: World, actor: Actor, rows: tuple[int, ...]) -> Iterator[World]:
        yield world.with_actor(actor, None)

    def _over(self, world: World, actor: Actor) -> Iterator[World]:
        """It ends; what it has taken is another sweep's after its time."""
        yield world.with_actor(actor, None)

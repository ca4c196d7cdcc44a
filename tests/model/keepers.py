"""Those who look after leases and messages: the heartbeat, the search for lost claims, and who receives dead letters."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model import invariants, statements
from tests.model.database import Place, Sends, looked
from tests.model.rules import Rules
from tests.model.state import Actor, Step, World


class Keepers:
    """Their programs: what happens at each place."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.places: dict[str, Place] = {
            "renew": Sends(statements.RENEW, self._done, self._over),
            "shorten": Sends(statements.SHORTEN_LEASES, self._done, self._over),
            "look": self._look,
            "hand back a lost claim": Sends(statements.HAND_BACK, self._done, self._again),
            "take back": Sends(statements.TAKE_BACK, self._taken_back, self._not_taken_back),
        }

    def _done(self, world: World, actor: Actor, rows: tuple[int, ...]) -> Iterator[World]:
        yield world.with_actor(actor, None)

    def _over(self, world: World, actor: Actor) -> Iterator[World]:
        yield world.with_actor(actor, None)

    def _again(self, world: World, actor: Actor) -> Iterator[World]:
        yield world.with_actor(actor, actor.but(place="look"))

    def _look(self, world: World, actor: Actor) -> Iterator[Step]:
        """For a claim without an answer: once its backend is gone, nothing can come any more."""
        row = world.rows[actor.row]
        if row.status == "RUNNING" and row.token == actor.token:
            found = actor.but(place="hand back a lost claim", fence=row.fence)
            yield Step(actor, "finds it", world.with_actor(actor, found))
        elif not self._rules.has("looks_until_gone") or not is_under_way(world, actor.token):
            yield Step(actor, "finds nothing, and looks no more", world.with_actor(actor, None))

    def _taken_back(self, world: World, actor: Actor, rows: tuple[int, ...]) -> Iterator[World]:
        """200: the row is owed again, or final; of no row, the message is kept."""
        row = world.rows[actor.row]
        if not rows and row.status == "absent":
            known = world.known[actor.row].but(set_aside=True)
            yield world.with_known(actor.row, known).with_actor(actor, None)
            return
        if not rows and not row.final:  # locked
            yield from self._not_taken_back(world, actor)
            return
        if not rows:
            world = looked(world, self._rules)
        invariants.told(world, actor.row, self._rules)
        known = world.known[actor.row].but(acked=True)
        yield world.with_known(actor.row, known).with_actor(actor, None)

    def _not_taken_back(self, world: World, actor: Actor) -> Iterator[World]:
        messages = world.messages[actor.row]
        yield world.with_messages(actor.row, messages.but(dead=messages.dead + 1)).with_actor(actor, None)


def is_under_way(world: World, token: int) -> bool:
    """Whether a claim with this token may still become visible."""
    return any(actor.late and actor.token == token and actor.place == "claim" for actor in world.actors)

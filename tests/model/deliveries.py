"""A delivery, from its claim to its answer (`receiver.record.claimer`, `receiver.delivery.runner`, `receiver.record.ledger`).

An instance holds one delivery of an execution at most. What it answers to a second one meanwhile changes nothing, but for a look
at the record when its own lease is over (`beside`).
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model import invariants, statements
from tests.model.database import Place, Sends, looked
from tests.model.rules import Rules
from tests.model.state import Actor, Row, Step, World
from tests.model.statements import counted, crashes, is_used_up


class Deliveries:
    """Their program: what happens at each place."""

    def __init__(self, rules: Rules, *, effects: bool) -> None:
        self._rules = rules
        self._effects = effects
        self.places: dict[str, Place] = {
            "keep": Sends(statements.KEEP_MESSAGE, self._kept, self.nacked),
            "claim": Sends(statements.CLAIM, self._claimed, self._unanswered),
            "verdict": self._verdict,
            "defer": Sends(statements.DEFER, self._ended, self.nacked),
            "exhaust": Sends(statements.EXHAUST, self._ended, self.nacked),
            "find": self._find,
            "running": self._running,
            "settle": Sends(statements.SETTLE, self._settled, self._unrecorded),
            "fate": self._fate,
            "commit": Sends(statements.SETTLE_WITH_EFFECTS, self._committed, self._contested),
            "contest": Sends(statements.SETTLE, self._settled, self._unrecorded),
            "hand back": Sends(statements.HAND_BACK, self._handed_back, self.nacked),
            "not understood": self._not_understood,
            "reject": Sends(statements.FAIL_READY, self._rejected, self.nacked),
        }

    # --- answers to Pub/Sub

    def acked(self, world: World, actor: Actor) -> Iterator[World]:
        """200."""
        invariants.told(world, actor.row, self._rules)
        yield world.with_known(actor.row, world.known[actor.row].but(acked=True)).with_actor(actor, None)

    def nacked(self, world: World, actor: Actor) -> Iterator[World]:
        """429 or 500: Pub/Sub has the message again."""
        messages = world.messages[actor.row]
        if actor.carries:
            world = world.with_messages(actor.row, messages.but(waiting=messages.waiting + 1))
        yield world.with_actor(actor, None)

    def _looked_and_acked(self, world: World, actor: Actor) -> Iterator[World]:
        """200, because of what a look has seen."""
        return self.acked(looked(world, self._rules), actor)

    # --- the claim

    def _kept(self, world: World, actor: Actor, rows: tuple[int, ...]) -> Iterator[World]:
        yield world.with_actor(actor, actor.but(place="claim"))

    def _claimed(self, world: World, actor: Actor, rows: tuple[int, ...]) -> Iterator[World]:
        if rows:
            yield self._begun(world, actor)
        else:
            yield world.with_actor(actor, actor.but(place="verdict"))

    def _begun(self, world: World, actor: Actor) -> World:
        """Its code begins."""
        row = world.rows[actor.row]
        runs = actor.but(place="running", fence=row.fence, attempt=row.attempt)
        invariants.begun(world, runs)
        known = world.known[actor.row].but(began=True, killed=False)  # that it has begun says enough
        return world.with_actor(actor, runs).with_known(actor.row, known)

    def _unanswered(self, world: World, actor: Actor) -> Iterator[World]:
        yield world.with_actor(actor, actor.but(place="find"))

    def _find(self, world: World, actor: Actor) -> Iterator[Step]:
        """`find_claimed`: by the token. Not found, it is answered 500 and looked for again (`tests.model.lost_claims`)."""
        row = world.rows[actor.row]
        if row.status == "RUNNING" and row.token == actor.token:
            seen = looked(world, self._rules, "read_backs_wait")
            yield Step(actor, "finds its claim by its token, and begins", self._begun(seen, actor))
            return
        hunter = Actor("lost claim", "look", actor.instance, actor.row, token=actor.token)
        for after in self.nacked(world, actor):
            yield Step(actor, "does not find its claim: 500", after.with_actor(None, hunter))

    def _verdict(self, world: World, actor: Actor) -> Iterator[Step]:
        row, rules = world.rows[actor.row], self._rules
        match verdict(row, actor, rules):
            case "done":
                for after in self._looked_and_acked(world, actor):
                    yield Step(actor, "sees that it is final: 200", after)
            case "not due":
                yield Step(actor, "sees that it is not due", _at(world, actor, "defer"))
            case "exhausted":
                yield Step(actor, "sees that no attempt is left", _at(world, actor, "exhaust"))
            case "suspect":
                if any(a.suspect and a.instance == actor.instance for a in world.actors):
                    for after in self.nacked(world, actor):
                        yield Step(actor, "finds another suspect running: 429", after)
                else:
                    suspect = actor.but(place="claim", suspect=True)
                    yield Step(
                        actor, "is a suspect, and has the place for one", world.with_actor(actor, suspect)
                    )
            case _:
                for after in self.nacked(world, actor):
                    yield Step(actor, "is busy or locked: 429", after)

    def _ended(self, world: World, actor: Actor, rows: tuple[int, ...]) -> Iterator[World]:
        """Deferred or exhausted, if the row moved."""
        return self.acked(world, actor) if rows else self.nacked(world, actor)

    # --- the run

    def _running(self, world: World, actor: Actor) -> Iterator[Step]:
        if actor.past:
            for after in self.nacked(world, actor):
                yield Step(actor, "stops, because its lease is over: 500", after)
        well = actor.but(place="commit" if self._effects else "settle", outcome="succeeded")
        yield Step(actor, "returns", world.with_actor(actor, well), sends=True)
        ill = actor.but(place="settle", outcome="failed")
        yield Step(actor, "raises", world.with_actor(actor, ill), sends=True)
        if world.left.hand_backs:
            stops = world.spend("hand_backs")
            yield Step(actor, "stops, because its instance does", _at(stops, actor, "hand back"), sends=True)

    def _settled(self, world: World, actor: Actor, rows: tuple[int, ...]) -> Iterator[World]:
        if not rows:
            yield _at(world, actor, "fate")
            return
        row = world.rows[actor.row]
        yield from self.acked(world, actor) if row.final else self.nacked(world, actor)

    def _unrecorded(self, world: World, actor: Actor) -> Iterator[World]:
        """It is repeated, or answered 500 in the end."""
        yield world
        yield from self.nacked(world, actor)

    def _fate(self, world: World, actor: Actor) -> Iterator[Step]:
        """`find_status`: what the row says of a settlement that moved nothing."""
        row, ours = world.rows[actor.row], world.rows[actor.row].fence == actor.fence
        contested = actor.outcome == "contested"
        if ours and row.status == "RUNNING":
            yield Step(
                actor,
                "finds its row locked, and tries again",
                _at(world, actor, "contest" if contested else "settle"),
            )
            return
        same = "SUCCESSFUL" if contested or actor.outcome == "succeeded" else "FAILED"
        if ours and row.status == same and row.final:
            for after in self._looked_and_acked(world, actor):
                yield Step(actor, "finds that it is settled: 200", after)
            return
        for after in self.nacked(world, actor):
            yield Step(actor, "finds another end, or another owner: 500", after)

    def _committed(self, world: World, actor: Actor, rows: tuple[int, ...]) -> Iterator[World]:
        return self.acked(world, actor) if rows else self.nacked(world, actor)

    def _contested(self, world: World, actor: Actor) -> Iterator[World]:
        """No answer to COMMIT: a FAILED is tried, which moves the row only if that COMMIT was not done."""
        yield world.with_actor(actor, actor.but(place="contest", outcome="contested"))

    def _handed_back(self, world: World, actor: Actor, rows: tuple[int, ...]) -> Iterator[World]:
        return self.nacked(world, actor)

    # --- messages that nobody understands

    def _not_understood(self, world: World, actor: Actor) -> Iterator[Step]:
        if world.rows[actor.row].final:
            for after in self._looked_and_acked(world, actor):
                yield Step(actor, "is not understood, and sees that it is final: 200", after)
            return
        yield Step(actor, "is not understood", _at(world, actor, "reject"))

    def _rejected(self, world: World, actor: Actor, rows: tuple[int, ...]) -> Iterator[World]:
        """400, or 200 when it came often enough: then it is kept where it can be replayed."""
        yield from self.nacked(world, actor)
        known = world.known[actor.row].but(set_aside=True)
        yield world.with_known(actor.row, known).with_actor(actor, None)


def verdict(row: Row, actor: Actor, rules: Rules) -> str:
    """Why a claim moved nothing, by the row's version a moment later (`verdicts.VERDICTS`)."""
    if row.status == "absent" or (row.status == "RUNNING" and row.lives and not row.final):
        return "busy"
    if row.final:
        return "done"
    if row.status == "READY" and not row.due:
        return "not due"
    out = rules.max_attempts is not None and counted(row, rules) >= rules.max_attempts
    if out or is_used_up(row, actor, rules):
        return "exhausted"
    return "suspect" if crashes(row, actor) >= rules.suspect and not actor.suspect else "busy"


def beside(world: World, actor: Actor, rules: Rules, deliveries: Deliveries) -> Iterator[Step]:
    """A second message comes while the instance holds the execution, and its lease is over: is it done?"""
    messages = world.messages[actor.row]
    if actor.past and messages.waiting and world.rows[actor.row].final:
        second = Actor("second message", "verdict", actor.instance, actor.row)
        there = world.with_messages(actor.row, messages.but(waiting=messages.waiting - 1))
        for after in deliveries.acked(looked(there.with_actor(None, second), rules), second):
            yield Step(second, "sees that it is final: 200", after)


def _at(world: World, actor: Actor, place: str) -> World:
    return world.with_actor(actor, actor.but(place=place))

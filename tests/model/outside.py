"""What nobody asks for: Pub/Sub delivers, time passes, processes die or stand still, and who works begins to work."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

from tests.model.database import died
from tests.model.state import DEAD, Actor, Row, Step, World, put

NAMES = "abc"


def pubsub_steps(world: World, instances: int, first: str) -> Iterator[Step]:
    """Deliveries, redeliveries and dead letters. `first`: the place where a delivery begins."""
    left = world.left
    for row, messages in enumerate(world.messages):
        there = {a.instance: a for a in world.actors if a.role == "delivery" and a.row == row and not a.late}
        if messages.waiting:
            fewer = world.with_messages(row, messages.but(waiting=messages.waiting - 1))
            for instance in range(1, instances + 1):
                if left.deliveries and instance not in there:
                    yield from _delivered(fewer.spend("deliveries"), instance, row, first)
            if left.dead_letters:
                dead = world.with_messages(
                    row, messages.but(waiting=messages.waiting - 1, dead=messages.dead + 1)
                )
                yield Step(f"message of {NAMES[row]}", "becomes a dead letter", dead.spend("dead_letters"))
        if messages.dead and not any(a.role == "dead letter" and a.row == row for a in world.actors):
            taken = world.with_messages(row, messages.but(dead=messages.dead - 1))
            actor = Actor("dead letter", "take back", row=row, carries=True)
            yield Step(actor, "is delivered", taken.with_actor(None, actor))
        if left.redeliveries:
            again = world.with_messages(row, messages.but(waiting=messages.waiting + 1)).spend("redeliveries")
            for actor in there.values():
                if actor.carries:
                    waits = again.with_actor(actor, actor.but(carries=False))
                    yield Step(actor, "takes too long for Pub/Sub: its message comes again", waits)


def _delivered(world: World, instance: int, row: int, first: str) -> Iterator[Step]:
    actor = Actor("delivery", first, instance, row, token=_fresh(world, row), carries=True)
    yield Step(actor, "is delivered", world.with_actor(None, actor), sends=True)
    if world.left.rejections:
        refused = actor.but(place="not understood")
        yield Step(refused, "is delivered", world.spend("rejections").with_actor(None, refused))


def _fresh(world: World, row: int) -> int:
    """A token that nobody knows who has to do with this row."""
    known = {world.rows[row].token, world.standby[row].token}
    known.update(actor.token for actor in world.actors if actor.row == row)
    return next(number for number in range(1, 99) if number not in known)


def time_steps(world: World) -> Iterator[Step]:
    """Leases end, rows fall due, and the times of publishers are over."""
    for number, row in enumerate(world.rows):
        if not row.due:
            yield Step(NAMES[number], "falls due", _aged(world, number, due=True))
        if row.until and not row.free:
            holds = any(a.until == row.until and a.row in (number, -1) and not a.late for a in world.actors)
            if not holds or world.left.expiries:
                after = world.spend("expiries") if holds else world
                yield Step(
                    NAMES[number], "is free to be published by others", _aged(after, number, free=True)
                )
        if row.status == "RUNNING" and row.lives:
            yield from _lease_ends(world, number, row)


def _lease_ends(world: World, number: int, row: Row) -> Iterator[Step]:
    """Free of charge where nobody is left who would renew it. Whoever is there has stood still for that long."""
    if any(a.place == "renew" and a.stage == "held" and a.row == number for a in world.actors):
        return  # a renewal that has its lock is decided, and nobody else can have the row
    owners = [a for a in world.actors if a.row == number and a.token == row.token and not a.late]
    if not owners:
        yield Step(NAMES[number], "loses its lease, which nobody renews", _aged(world, number, lives=False))
    elif world.left.expiries:
        after = _aged(world.spend("expiries"), number, lives=False)
        known = after.known[number]
        after = after.with_known(number, known.but(killed=not known.began))
        for owner in owners:
            after = after.with_actor(owner, owner.but(past=True))
        yield Step(NAMES[number], "loses its lease: its process stood still", after)


def _aged(world: World, number: int, **changes: bool) -> World:
    """Time passes for the standby's version too, if it is the same one."""
    row = world.rows[number]
    aged = row.but(**changes)
    rows = put(world.rows, number, aged)
    if world.standby is world.rows:
        return world.with_rows(rows, rows)
    return world.with_rows(
        rows, put(world.standby, number, aged) if world.standby[number] is row else world.standby
    )


def death_steps(world: World, instances: int) -> Iterator[Step]:
    """A process is killed, or exits in order while code still runs. Its messages come again, to processes of other names."""
    left = world.left
    if not left.crashes and not left.exits:
        return
    for instance in range(1, instances + 1):
        gone = [actor for actor in world.actors if actor.instance == instance and not actor.late]
        if gone and left.crashes:
            for after in _dead(world.spend("crashes"), instance, gone, killed=True):
                yield Step(f"instance {instance}", "is killed", after)
        if gone and left.exits and all(actor.place == "running" for actor in gone):
            exits = world.spend("exits")
            for actor in gone:
                leaves = Actor("exit", "shorten", instance, actor.row, fence=actor.fence, token=actor.token)
                exits = exits.with_actor(None, leaves)
            for after in _dead(exits, instance, gone, killed=False):
                yield Step(f"instance {instance}", "exits, and code goes on to its end", after)


def _dead(world: World, instance: int, gone: list[Actor], *, killed: bool) -> Iterator[World]:
    for actor in gone:
        messages, known = world.messages[actor.row], world.known[actor.row]
        if actor.carries:
            world = world.with_messages(actor.row, messages.but(waiting=messages.waiting + 1))
        if killed and not known.began:
            world = world.with_known(actor.row, known.but(killed=True))
    rows = _orphaned(world.rows, instance)
    standby = rows if world.standby is world.rows else _orphaned(world.standby, instance)
    for after in died(world.with_rows(rows, standby), gone):
        late = [actor for actor in after.actors if actor.late and actor.instance == instance]
        yield reduce(lambda there, actor: there.with_actor(actor, actor.but(instance=DEAD)), late, after)


def _orphaned(rows: tuple[Row, ...], instance: int) -> tuple[Row, ...]:
    return tuple(row.but(owner=DEAD) if row.owner == instance else row for row in rows)


def work_steps(world: World) -> Iterator[Step]:
    """Sweeps, patrols, operators and heartbeats begin."""
    left = world.left
    if not (left.sweeps or left.replays or left.patrols or left.beats):
        return
    busy = {actor.role for actor in world.actors if not actor.late}
    if left.sweeps and "sweep" not in busy:
        sweep = Actor("sweep", "take owed", until=_time(world))
        yield Step(sweep, "begins", world.spend("sweeps").with_actor(None, sweep), sends=True)
    for row, messages in enumerate(world.messages):
        if left.replays and "operator" not in busy:
            yield from _work(world, "replays", "operator", row, ("replay", "take undelivered"))
        # Days later: Pub/Sub has forgotten what nobody has acked.
        forgotten = not messages.waiting and not messages.dead and not any(a.row == row for a in world.actors)
        if left.patrols and forgotten and "patrol" not in busy:
            yield from _work(world, "patrols", "patrol", row, ("take lost", "finalise"))
    if left.beats and "heartbeat" not in busy:
        for runs in world.actors:
            if runs.role == "delivery" and runs.place == "running" and not runs.late:
                beat = Actor(
                    "heartbeat", "renew", runs.instance, runs.row, fence=runs.fence, token=runs.token
                )
                yield Step(beat, "begins", world.spend("beats").with_actor(None, beat), sends=True)


def _work(world: World, kind: str, role: str, row: int, places: tuple[str, ...]) -> Iterator[Step]:
    for place in places:
        actor = Actor(role, place, row=row, until=_time(world))
        yield Step(actor, "begins", world.spend(kind).with_actor(None, actor), sends=True)


def _time(world: World) -> int:
    """A time that nobody has set."""
    known = {actor.until for actor in world.actors}
    known |= {version.until for rows in (world.rows, world.standby) for version in rows}
    return next(number for number in range(1, 9) if number not in known)

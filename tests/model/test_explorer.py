"""The explorer sees what a statement of one step would hide, and leaves out nothing but names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.model import scenes
from tests.model.database import Sends, statement_steps
from tests.model.explorer import Explored, explore
from tests.model.invariants import Violation
from tests.model.model import Model
from tests.model.rules import Rules
from tests.model.state import Actor, Known, Left, Messages, Row, Step, World
from tests.model.statements import Statement

TAKEN, WAITS = 0, 1
"""Two rows: one that runs and has the only place, and one that waits for it while it is not published."""


def _ends(world: World, actor: Actor, rows: tuple[int, ...] = ()) -> Iterator[World]:
    yield world.with_actor(actor, None)


HOLD = Statement(
    "hold",
    guard=lambda row, actor, _: row.status == "READY" and row.published and actor.seen == "RUNNING",
    change=lambda row, actor, _: row.but(published=False),
    sees=lambda world: world.rows[TAKEN].status,
)
FREE = Statement(
    "free",
    guard=lambda row, actor, _: row.status == "RUNNING",
    change=lambda row, actor, _: row.but(status="SUCCESSFUL", final=True),
)
WAKE = Statement(
    "wake",
    guard=lambda row, actor, _: row.status == "READY" and not row.published,
    change=lambda row, actor, _: row.but(published=True),
)


def toy(*, atomic: bool) -> Explored:
    """Somebody holds the second row because the first one runs; somebody ends the first one, and then wakes the second.

    Args:
        atomic: a statement that has its snapshot is the only one under way, until it has committed.
    """
    places = {"hold": Sends(HOLD, _ends, _ends), "wake": Sends(WAKE, _ends, _ends)}

    def freed(world: World, actor: Actor, rows: tuple[int, ...]) -> Iterator[World]:
        yield world.with_actor(actor, actor.but(place="wake", row=WAITS))

    places["free"] = Sends(FREE, freed, _ends)

    def steps(world: World) -> Iterator[Step]:
        under_way = [actor for actor in world.actors if actor.stage != "sent"]
        for actor in under_way if atomic and under_way else world.actors:
            yield from statement_steps(world, actor, places[actor.place], Rules())

    def check(world: World) -> None:
        if not world.actors and world.rows[TAKEN].final and not world.rows[WAITS].published:
            raise Violation("whoever waits is woken")

    rows = (Row(status="RUNNING", fence=1), Row(status="READY", published=True))
    nothing = (Messages(),) * 2, (Known(),) * 2
    world = World(rows, rows, *nothing, (), Left())
    world = world.with_actor(None, Actor("holder", "hold", row=WAITS))
    world = world.with_actor(None, Actor("owner", "free", row=TAKEN))
    return explore(world, steps, lambda same: same, check)


def test_a_statement_that_reads_without_a_lock_loses_a_wake_that_one_step_would_hide() -> None:
    found = toy(atomic=False)
    assert found.trace is not None
    lines = [line[4:] for line in found.trace.splitlines()]
    assert lines[0] == "holder of b hold takes its snapshot"
    assert lines.index("owner of b wake finds nothing to change") < lines.index("holder of b hold commits")
    assert found.trace.endswith("violated: whoever waits is woken")
    assert toy(atomic=True).trace is None


def test_what_differs_in_names_alone_is_explored_once_and_nothing_else_is_left_out() -> None:
    one = Model(scenes.of(replace(scenes.LATE_CLAIMS, left=Left(deliveries=2, silences=1)), 2))
    every = Model(one.scene)
    every.same = lambda world: world
    found, all_of_them = one.explore(), every.explore()
    assert 2 * found.states < all_of_them.states
    assert found.places.keys() == all_of_them.places.keys()
    assert found.depth == all_of_them.depth

"""The whole model: which steps a state has, and which states are the same but for names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.model import invariants
from tests.model.database import Place, Sends, server_steps, statement_steps
from tests.model.deliveries import Deliveries, beside
from tests.model.explorer import Explored, explore
from tests.model.invariants import Violation
from tests.model.keepers import Keepers
from tests.model.outside import death_steps, pubsub_steps, time_steps, work_steps
from tests.model.publishers import Publishers
from tests.model.rules import Rules
from tests.model.state import Actor, Known, Left, Messages, Row, Step, World
from tests.model.statements import Statement
from tests.model.symmetry import Symmetry


@dataclass(frozen=True)
class Scene:
    """What is explored: how many of each, what may go wrong, and how it begins.

    Attributes:
        enqueued: the place where an enqueuer writes each row; "": its message is there, and nobody knows a row.
        effects: tasks write through `ctx`.
        foreign: messages come from a topic that is not a task's own.
        left: how much of each kind may happen.
    """

    name: str
    left: Left
    rows: int = 1
    instances: int = 2
    enqueued: str = ""
    effects: bool = False
    foreign: bool = False
    rules: Rules = field(default_factory=Rules)


class Model:
    """A scene, with its programs."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._rules = scene.rules
        self._deliveries = Deliveries(scene.rules, effects=scene.effects)
        self.programs = (self._deliveries.places, Publishers(scene.rules).places, Keepers(scene.rules).places)
        self.places: dict[str, Place] = {
            name: place for each in self.programs for name, place in each.items()
        }
        self.same = Symmetry(scene.rows, scene.instances).same

    def first(self) -> World:
        """The state in which it begins."""
        scene = self.scene
        waiting = 0 if scene.enqueued else 1
        rows = (Row(),) * scene.rows
        messages, known = (Messages(waiting=waiting),) * scene.rows, (Known(),) * scene.rows
        world = World(rows, rows, messages, known, (), scene.left)
        for row in range(scene.rows if scene.enqueued else 0):
            world = world.with_actor(None, Actor("enqueue", scene.enqueued, row=row, until=1))
        return self.same(world)

    def steps(self, world: World) -> Iterator[Step]:
        """Everything that may happen next."""
        for step in self._steps(world):
            if not step.sends or self._rules.whole:
                yield step
                continue
            # What the statement does first belongs to its sending, unless a lock is in its way.
            (sent,) = [actor for actor in step.world.actors if actor not in world.actors]
            place = self.places[sent.place]
            assert isinstance(place, Sends), place
            begins = list(statement_steps(step.world, sent, place, self._rules))
            for begun in begins:
                yield Step(step.who, f"{step.what}; {begun.what}", begun.world)
            if not begins:
                yield step

    def explore(self, *, most: int | None = None) -> Explored:
        """Every state of the scene."""
        return explore(self.first(), self.steps, self.same, self._check, most=most)

    def _steps(self, world: World) -> Iterator[Step]:
        rules, instances = self._rules, self.scene.instances
        for actor in world.actors:
            try:
                yield from self._goes_on(world, actor)
            except Violation as violation:
                violation.doing = f"{actor} at the place {actor.place!r}, and its next step must not be"
                raise
        yield from pubsub_steps(world, instances, "keep" if self.scene.foreign else "claim")
        yield from time_steps(world)
        yield from death_steps(world, instances)
        yield from work_steps(world)
        yield from server_steps(world, self._statement, rules)

    def _goes_on(self, world: World, actor: Actor) -> Iterator[Step]:
        place = self.places[actor.place]
        if isinstance(place, Sends):
            yield from statement_steps(world, actor, place, self._rules)
        else:
            yield from place(world, actor)
        if actor.past and not actor.late and actor.role == "delivery":
            yield from beside(world, actor, self._rules, self._deliveries)

    def _statement(self, actor: Actor) -> Statement:
        place = self.places[actor.place]
        assert isinstance(place, Sends), place
        return place.statement

    def _check(self, world: World) -> None:
        lossy = not self._rules.synchronous and world.left.failovers < self.scene.left.failovers
        invariants.check(world, self._rules, lossy=lossy)

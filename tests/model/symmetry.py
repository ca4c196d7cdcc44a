"""States that differ in names alone: which row is called a, and which instance is the first.

All rows begin alike, and so do all instances. So what can follow one of such states can follow each of them, under other names,
and one is enough. This halves the states for two instances, and again for two rows.
"""

from __future__ import annotations

from tests.model.shared import number
from tests.model.state import Actor, Row, World


class Renaming:
    """Other names for rows and instances: the new name of each, in the order of the old ones."""

    def __init__(self, rows: tuple[int, ...], instances: tuple[int, ...]) -> None:
        self._rows = rows
        self._old = tuple(rows.index(row) for row in range(len(rows)))
        self._moves_rows = rows != tuple(range(len(rows)))
        self._instances = dict(enumerate(instances, 1))
        self._actors: dict[Actor, Actor] = {}
        self._versions: dict[Row, Row] = {}

    def of(self, world: World) -> World:
        """The state under these names."""
        rows = self._renamed(world.rows)
        standby = rows if world.standby is world.rows else self._renamed(world.standby)
        messages, known = world.messages, world.known
        if self._moves_rows:
            messages = tuple(messages[old] for old in self._old)
            known = tuple(known[old] for old in self._old)
        actors = world.actors
        if actors:
            actors = tuple(sorted([self._actor(actor) for actor in actors], key=number))
        return World(rows, standby, messages, known, actors, world.left)

    @staticmethod
    def order(world: World) -> list[int]:
        """By which the states of one kind are compared."""
        values = (*world.rows, *world.standby, *world.messages, *world.known, *world.actors)
        return [value.n for value in values]

    def _renamed(self, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        versions = [self._version(row) for row in rows]
        return tuple([versions[old] for old in self._old])

    def _version(self, row: Row) -> Row:
        found = self._versions.get(row)
        if found is None:
            found = self._versions[row] = row.but(owner=self._instances.get(row.owner, row.owner))
        return found

    def _actor(self, actor: Actor) -> Actor:
        found = self._actors.get(actor)
        if found is None:
            row = actor.row if actor.row < 0 else self._rows[actor.row]
            held = tuple(sorted(self._rows[each] for each in actor.rows))
            instance = self._instances.get(actor.instance, actor.instance)
            found = self._actors[actor] = actor.but(row=row, rows=held, instance=instance)
        return found

"""States that differ in names alone: which row is called a, and which instance is the first.

All rows begin alike, and so do all instances. So what can follow one of such states can follow each of them, under other names,
and one is enough. This halves the states for two instances, and again for two rows.
"""

from __future__ import annotations

from itertools import pairwise, permutations

from tests.model.shared import number
from tests.model.state import Actor, Row, World

Key = tuple[int, int, int, int]


class Symmetry:
    """All names that so many rows and instances may have."""

    def __init__(self, rows: int, instances: int) -> None:
        numbers = range(1, instances + 1)
        self._groups = [
            [Renaming(order, others) for order in permutations(range(rows))]
            for others in permutations(numbers)
        ]

    def same(self, world: World) -> World:
        """The one that stands for all that differ from this one in names alone: the first, of those whose rows are in order."""
        chosen, best = world, None
        for group in self._groups:
            keys = group[0].keys(world)
            for renaming in group:
                if renaming.sorts(keys):
                    other = renaming.of(world)
                    values = (*other.rows, *other.standby, *other.messages, *other.known, *other.actors)
                    order = [value.n for value in values]
                    if best is None or order < best:
                        chosen, best = other, order
        return chosen


class Renaming:
    """Other names for rows and instances: the new name of each, in the order of the old ones."""

    def __init__(self, rows: tuple[int, ...], instances: tuple[int, ...]) -> None:
        self._rows = rows
        self._old = tuple(rows.index(row) for row in range(len(rows)))
        self._instances = dict(enumerate(instances, 1))
        self._actors: dict[Actor, Actor] = {}
        self._versions: dict[Row, Row] = {}

    def keys(self, world: World) -> list[Key]:
        """By which its rows are sorted, in their old order."""
        parts = zip(world.rows, world.standby, world.messages, world.known, strict=True)
        return [(self._version(row).n, self._version(kept).n, m.n, known.n) for row, kept, m, known in parts]

    def sorts(self, keys: list[Key]) -> bool:
        """Whether the rows are in order under these names."""
        old = self._old
        return all(keys[one] <= keys[other] for one, other in pairwise(old))

    def of(self, world: World) -> World:
        """The state under these names."""
        rows = self._renamed(world.rows)
        standby = rows if world.standby is world.rows else self._renamed(world.standby)
        messages = tuple([world.messages[old] for old in self._old])
        known = tuple([world.known[old] for old in self._old])
        actors = tuple(sorted([self._actor(actor) for actor in world.actors], key=number))
        return World(rows, standby, messages, known, actors, world.left)

    def _renamed(self, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        return tuple([self._version(rows[old]) for old in self._old])

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

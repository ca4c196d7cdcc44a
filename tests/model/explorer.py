"""Explores every state that can be reached, breadth first, so that the first way to a violation is a shortest one.

Only the state before each one is kept. The steps between them are taken again when the way is told.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.model.invariants import Violation
from tests.model.state import Step, World

Next = Callable[[World], Iterator[Step]]
Same = Callable[[World], World]
Check = Callable[[World], None]


@dataclass(slots=True)
class Explored:
    """What an exploration found.

    Attributes:
        states: how many.
        depth: steps to the furthest of them.
        places: how often each thing happened: names without who did it.
        trace: the shortest way to a violation, a step a line; None when every state is as it must be.
    """

    states: int = 0
    depth: int = 0
    places: Counter[str] = field(default_factory=Counter)
    trace: str | None = None


def explore(first: World, steps: Next, same: Same, check: Check, *, most: int | None = None) -> Explored:
    """Every state that can be reached from the first one, or about as many as `most`, or up to the first violation.

    Args:
        same: the state that stands for all that are like this one.
        check: raises Violation.
    """
    gc.disable()  # there are no circles to find, and looking for them takes a third of the time
    try:
        return _explored(first, steps, same, check, most)
    finally:
        gc.enable()


def _explored(first: World, steps: Next, same: Same, check: Check, most: int | None) -> Explored:
    came: dict[World, World | None] = {first: None}
    found = Explored()
    frontier, depth = [first], 0
    while frontier and (most is None or len(came) < most):
        found.depth, depth = depth, depth + 1
        beyond: list[World] = []
        for world in frontier:
            try:
                for step in steps(world):
                    found.places[step.what] += 1
                    if step.world in came:
                        continue
                    after = same(step.world)
                    if after not in came:
                        came[after] = world
                        beyond.append(after)
                        check(after)
            except Violation as violation:
                found.trace = _told(came, world, steps, same, check, violation)
                found.depth = depth
                found.states = len(came)
                return found
        frontier = beyond
    found.states = len(came)
    return found


def _told(
    came: dict[World, World | None], end: World, steps: Next, same: Same, check: Check, violation: Violation
) -> str:
    """The way there, in one set of names from its beginning: the states that were kept may be called otherwise."""
    way = [end]
    while (before := came[way[-1]]) is not None:
        way.append(before)
    here = way.pop()
    lines = []
    while way:
        wanted = way.pop()
        step = next(step for step in steps(here) if same(step.world) == wanted)
        lines.append(f"{step.who} {step.what}")
        here = step.world
    lines.append(_last(here, steps, check))
    return "\n".join(
        [*(f"{number:3} {line}" for number, line in enumerate(lines, 1)), f"violated: {violation}"]
    )


def _last(world: World, steps: Next, check: Check) -> str:
    """The step that leads to what must not be, or that must not be itself."""
    done = ""
    try:
        for step in steps(world):
            done = f"{step.who} {step.what}"
            check(step.world)
    except Violation as violation:
        return violation.doing or done
    return done

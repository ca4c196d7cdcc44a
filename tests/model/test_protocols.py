"""Every state of every scene is as it must be; and the scenes are no empty stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from tests.model import scenes
from tests.model.explorer import Explored
from tests.model.model import Model, Scene
from tests.model.statements import STATEMENTS

HAPPENS = (
    "becomes a dead letter",
    "begins",
    "cannot publish",
    "claims.claim becomes visible",
    "claims.claim gets no answer, and goes on",
    "claims.claim gets no answer, and was not done",
    "claims.claim: the connection broke",
    "does not find its claim: 500",
    "exits, and code goes on to its end",
    "falls due",
    "finds another end, or another owner: 500",
    "finds another suspect running: 429",
    "finds its claim by its token, and begins",
    "finds its row locked, and tries again",
    "finds that it is settled: 200",
    "finds that its row has moved on",
    "is a suspect, and has the place for one",
    "is busy or locked: 429",
    "is free to be published by others",
    "is killed",
    "is promoted",
    "is promoted, without what it has not got",
    "loses its lease, which nobody renews",
    "loses its lease: its process stood still",
    "publishes, and is not told",
    "restarts; what its log had is visible",
    "sees that it is final: 200",
    "sees that it is not due",
    "sees that no attempt is left",
    "settlements.settle_with_effects becomes visible",
    "stops, because its lease is over: 500",
    "takes too long for Pub/Sub: its message comes again",
)
"""What has to happen somewhere, besides that every transition commits: most faults need one of these."""

PAIRS = (scenes.SUSPECTS, scenes.TRANSACTIONS, scenes.LEAVING)
"""Where two rows meet: a suspect beside another, a batch, an exit with both."""


def explored(chosen: Iterable[Scene]) -> tuple[int, Counter[str]]:
    """How many states these scenes have, and what happened in them. Fails with the shortest way to what must not be."""
    states, places = 0, Counter[str]()
    for scene in chosen:
        found: Explored = Model(scene).explore()
        assert found.trace is None, f"{scene.name}:\n{found.trace}"
        states += found.states
        places += found.places
    return states, places


def happened(places: Counter[str]) -> set[str]:
    """What happened, one by one: a step may send a statement, and be its first step too."""
    return {part for what in places for part in what.split("; ")} | set(places)


@pytest.mark.parametrize(
    ("pairs", "most"),
    [
        pytest.param(PAIRS, 15_000, id="one row, but where it takes two"),
        pytest.param(scenes.SCENES, 50_000, id="always two", marks=pytest.mark.slow),
    ],
)
def test_the_protocols_hold_with_two_rows(pairs: tuple[Scene, ...], most: int) -> None:
    states, places = explored(scenes.of(scene, 1 + (scene in pairs)) for scene in scenes.SCENES)
    assert states > most
    assert {f"{name} commits" for name in STATEMENTS} - happened(places) == set()
    assert set(HAPPENS) - happened(places) == set()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_protocols_hold_with_three_rows() -> None:
    states, _ = explored(scenes.of(scene, 3) for scene in scenes.SCENES)
    assert states > 150_000


def test_with_one_row_the_protocols_hold_for_snapshots_of_any_age() -> None:
    """Elsewhere a statement that reads only what it locks takes its snapshot and its locks in one step."""
    states, places = explored(scenes.whole(scene) for scene in (scenes.OUTBOX, scenes.LATE_CLAIMS))
    assert states > 1_000
    assert "claims.claim takes its snapshot" in places

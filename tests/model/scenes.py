"""What is explored, and how much of it: a row or two in `make test`, two and three in `make test-all`, more by `make model`.

Everything at once would be too much for any bound. So each scene has what belongs together, and faults of a few kinds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tests.model.model import Scene
from tests.model.rules import Rules
from tests.model.state import Left

DELIVERIES: Final = Scene(
    "deliveries, a killed and a frozen process, a duplicate",
    Left(deliveries=3, crashes=1, expiries=1, redeliveries=1),
)
ANSWERS: Final = Scene(
    "writes through ctx, a lost answer, a restart of the primary",
    Left(deliveries=2, silences=1, restarts=1),
    effects=True,
)
STANDBY: Final = Scene(
    "writes through ctx, a lost answer, a failover to the synchronous standby",
    Left(deliveries=2, silences=1, failovers=1),
    effects=True,
)
ASYNCHRONOUS: Final = Scene(
    "an asynchronous standby is promoted",
    Left(deliveries=2, failovers=1, redeliveries=1, hand_backs=1),
    rules=Rules(synchronous=False),
)
LATE_CLAIMS: Final = Scene(
    "one attempt, claims without an answer, a killed process",
    Left(deliveries=2, silences=1, crashes=1, expiries=1),
    rules=Rules(max_attempts=1),
)
OUTBOX: Final = Scene(
    "enqueues, a sweep, and Pub/Sub away",
    Left(deliveries=2, sweeps=1, brownouts=1),
    enqueued="insert",
)
DEAD_LETTERS: Final = Scene(
    "dead letters, a replay, a sweep, and Pub/Sub away",
    Left(deliveries=1, dead_letters=1, replays=1, sweeps=1, brownouts=1),
)
NOT_DUE: Final = Scene(
    "one message too many, which comes while a dead letter's pause lasts",
    Left(deliveries=1, dead_letters=1, sweeps=1, brownouts=1),
    enqueued="insert in a transaction",
)
SUSPECTS: Final = Scene(
    "a killed process, and what becomes of those that it ran",
    Left(deliveries=4, crashes=1),
)
PATROL: Final = Scene(
    "claims without an answer whose messages are dead letters, and a patrol",
    Left(deliveries=2, silences=1, dead_letters=1, patrols=1),
)
TRANSACTIONS: Final = Scene(
    "enqueues in a caller's transaction, a frozen process",
    Left(deliveries=2, expiries=1),
    enqueued="insert in a transaction",
)
LEAVING: Final = Scene(
    "foreign messages, heartbeats, exits, rejections, a patrol",
    Left(deliveries=2, rejections=1, exits=1, hand_backs=1, beats=1, patrols=1),
    foreign=True,
)

SCENES: Final = (
    DELIVERIES,
    ANSWERS,
    STANDBY,
    ASYNCHRONOUS,
    LATE_CLAIMS,
    OUTBOX,
    DEAD_LETTERS,
    NOT_DUE,
    SUSPECTS,
    PATROL,
    TRANSACTIONS,
    LEAVING,
)
"""Each with one row; `of` makes more of it."""


def of(scene: Scene, rows: int, **more: int) -> Scene:
    """The scene with so many rows, and so much more of these kinds."""
    left = scene.left.but(**{kind: getattr(scene.left, kind) + count for kind, count in more.items()})
    return replace(scene, rows=rows, left=left)


def whole(scene: Scene) -> Scene:
    """The scene in which every statement takes three steps, whatever it reads."""
    return replace(scene, rules=replace(scene.rules, whole=True))

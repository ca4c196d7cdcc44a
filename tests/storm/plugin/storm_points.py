"""Where a process of the storm may die, and where it is lied to: `TASKS_SETUP=storm_points:install`.

A point is a place on the path of a delivery. Each process is told by its environment at which point, and at which passing
of it, it kills itself (SIGKILL: nothing is tidied up), and how often a statement that succeeded is reported as a connection
that broke. Before it dies it writes the point's name, one byte-for-byte line, to a file that outlives it.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import signal
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from receiver import app
from receiver.enqueue import owed, transactions
from receiver.enqueue.publications import Publisher
from receiver.errors import GoogleUnavailable
from receiver.executions.lanes import ConnectionFailed, Lane
from receiver.executions.ledger import Ledger
from receiver.executions.transaction import TaskTransaction
from receiver.google.pubsub import Pubsub
from receiver.runner import Runner

POINTS = (
    "before the claim",
    "claim sent",
    "after the claim",
    "before the task",
    "after the task",
    "before the settlement",
    "settlement sent",
    "after the settlement",
    "before the commit",
    "commit sent",
    "after the commit",
    "before the answer",
    "after the answer",
    "before the outbox's row",
    "after the outbox's row",
    "before the publish",
    "publish sent",
    "after the publish",
)


class Point:
    """The one at which this process dies."""

    def __init__(self) -> None:
        self.name = os.environ.get("STORM_POINT", "")
        self.left = int(os.environ.get("STORM_PASSINGS", "0"))
        self.log = os.environ.get("STORM_KILLS", "")

    def passing(self, name: str) -> None:
        """Dies here when it is time."""
        if name != self.name:
            return
        self.left -= 1
        if self.left == 0:
            self.die()

    def die(self) -> None:
        """Says where, and goes."""
        log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, f"{self.name}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    async def soon(self, name: str) -> None:
        """Dies while what was just begun is on its way."""
        if name == self.name:
            await asyncio.sleep(random.random() * 0.003)
            self.passing(name)


def install() -> None:
    """Puts the points into the receiver's own methods. There is none of this in the receiver itself."""
    point = Point()
    _around(Ledger, "claim", point, "before the claim", "after the claim", during="claim sent")
    _around(Runner, "run", point, "before the task", "after the task")
    _around(
        Ledger, "settle", point, "before the settlement", "after the settlement", during="settlement sent"
    )
    _around(TaskTransaction, "commit", point, "before the commit", "after the commit", during="commit sent")
    _around(transactions, "put", point, "before the outbox's row", "after the outbox's row")
    _around(Publisher, "publish", point, "before the publish", "after the publish", during="publish sent")
    _before(app, "reply", point, "before the answer")
    _before(app, "Delivered", point, "after the answer")
    owed.YOUNG = timedelta(seconds=float(os.environ["STORM_YOUNG"]))  # type: ignore[misc]  # a minute is long in a storm
    rate = float(os.environ.get("STORM_LIES", "0"))
    if rate:
        chance = random.Random(int(os.environ["STORM_SEED"]))
        _lie(rate, chance)
        _lie_of_publishing(rate, chance)


def _around(owner: Any, name: str, point: Point, before: str, after: str, *, during: str = "") -> None:
    original: Callable[..., Awaitable[Any]] = getattr(owner, name)

    @functools.wraps(original)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        point.passing(before)
        dying = asyncio.ensure_future(point.soon(during)) if during == point.name else None
        result = await original(*args, **kwargs)
        if dying is not None:
            dying.cancel()
        point.passing(after)
        return result

    setattr(owner, name, wrapped)


def _before(owner: Any, name: str, point: Point, at: str) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        point.passing(at)
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def _lie(rate: float, chance: random.Random) -> None:
    """A statement that the database has done is reported as a connection that broke."""
    original = Lane.fetch

    async def fetch(self: Lane, statement: str, *arguments: Any) -> Any:
        rows = await original(self, statement, *arguments)
        if chance.random() < rate:
            self.drop()
            raise ConnectionFailed("so it seems")
        return rows

    Lane.fetch = fetch  # type: ignore[method-assign]


def _lie_of_publishing(rate: float, chance: random.Random) -> None:
    """What Pub/Sub has taken is reported as unanswered."""
    original = Pubsub.publish

    async def publish(self: Pubsub, topic: str, messages: Any) -> list[str]:
        ids = await original(self, topic, messages)
        if chance.random() < rate:
            raise GoogleUnavailable("so it seems")
        return ids

    Pubsub.publish = publish  # type: ignore[method-assign]

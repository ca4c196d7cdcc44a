"""Where a process of the storm may die, and where it is lied to: `TASKS_SETUP=storm_points:install`.

A point is a place on the path of a delivery. Each process is told by its environment at which point, at which passing of it,
and from which moment on it kills itself (SIGKILL: nothing is tidied up), and how often a call that succeeded is reported
as a timeout. Before it dies it leaves its point's name in a file that outlives it.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from receiver.delivery.runner import Runner
from receiver.enqueue import transactions
from receiver.enqueue.publisher import Publisher
from receiver.errors import GoogleUnavailable
from receiver.google.pubsub import Pubsub
from receiver.record import task_transaction
from receiver.record.claimer import Claimer
from receiver.record.connections import RecordConnection
from receiver.record.ledger import Ledger
from receiver.record.sql import outbox, sweeping
from receiver.record.sqlstates import ConnectionFailed
from receiver.record.task_transaction import CommitUnknown, TaskTransaction
from receiver.serving import push_door
from receiver.sweep import owed

OFTEN, SELDOM = 4, 1
"""Passings before a point kills, at most: what only one message in ten passes should not be waited for."""

POINTS = {
    "before the claim": OFTEN,
    "claim sent": OFTEN,
    "after the claim": OFTEN,
    "before the task": OFTEN,
    "before the effect": OFTEN,
    "after the effect": OFTEN,
    "after the task": OFTEN,
    "before the settlement": OFTEN,
    "settlement sent": OFTEN,
    "after the settlement": OFTEN,
    "before the commit": OFTEN,
    "commit sent": OFTEN,
    "after the commit": OFTEN,
    "before the answer": OFTEN,
    "after the answer": OFTEN,
    "before the outbox's row": SELDOM,
    "after the outbox's row": SELDOM,
    "before the publish": SELDOM,
    "publish sent": SELDOM,
    "after the publish": SELDOM,
    "before the mark": SELDOM,
    "after the mark": SELDOM,
}


class Point:
    """The one at which this process dies."""

    def __init__(self) -> None:
        self.name = os.environ.get("STORM_POINT", "")
        self.left = int(os.environ.get("STORM_PASSINGS", "0"))
        self.not_before = float(os.environ.get("STORM_NOT_BEFORE", "0"))
        self.note = os.environ.get("STORM_NOTE", "")

    def passing(self, name: str) -> None:
        """Dies here when it is time."""
        if name != self.name or time.monotonic() < self.not_before:
            return
        self.left -= 1
        if self.left == 0:
            self.die()

    def die(self) -> None:
        """Says where, and goes."""
        append(self.note, self.name)
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()  # it may be delivered an instruction later: none of ours runs until then

    async def soon(self, name: str) -> None:
        """Dies while what was just begun is on its way."""
        await asyncio.sleep(random.random() * 0.003)
        self.passing(name)


point = Point()
fences: dict[str, int] = {}
"""By task_id, what runs here. An instance has one run of an execution at most."""


def append(file: str, line: str) -> None:
    """One short line, appended at once, so that lines of several processes never mix."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def install() -> None:
    """Puts the points into the receiver's own methods. There is none of this in the receiver itself."""
    _around(Claimer, "claim", "before the claim", "after the claim", during="claim sent")
    _remember_fences()
    _around(Runner, "run", "before the task", "after the task")
    _around(Ledger, "settle", "before the settlement", "after the settlement", during="settlement sent")
    _around(TaskTransaction, "commit", "before the commit", "after the commit", during="commit sent")
    _before(transactions, "put", "before the outbox's row")
    _before(transactions, "_watch", "after the outbox's row")
    _around(Publisher, "publish", "before the publish", "after the publish", during="publish sent")
    _around(outbox, "mark_published", "before the mark", "after the mark")
    _before(push_door, "reply", "before the answer")
    _before(push_door, "Delivered", "after the answer")
    # A minute is long in a storm, and two are longer: so long the rows of a sweeper that died would stay its own, and
    # those of a sick topic postponed. And a primary that has lost its standby is given up before ten seconds are over.
    outbox.ENQUEUER = timedelta(seconds=float(os.environ["STORM_YOUNG"]))  # type: ignore[misc]
    soon = timedelta(seconds=float(os.environ["STORM_SWEEP_LEASE"]))
    owed.TAKEN = owed.AGAIN = soon  # type: ignore[misc]
    (sweeping.postpone.__kwdefaults__ or {})["least"] = soon
    task_transaction.COMMIT_DEADLINE = float(os.environ["STORM_COMMIT"])
    if os.environ.get("STORM_LIES"):
        Liar(os.environ["STORM_LIES"]).install()


def _around(owner: Any, name: str, before: str, after: str, *, during: str = "") -> None:
    original: Callable[..., Awaitable[Any]] = getattr(owner, name)

    @functools.wraps(original)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        point.passing(before)
        dying = asyncio.ensure_future(point.soon(during)) if during and during == point.name else None
        result = await original(*args, **kwargs)
        if dying is not None:
            dying.cancel()
        point.passing(after)
        return result

    setattr(owner, name, wrapped)


def _before(owner: Any, name: str, at: str) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        point.passing(at)
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def _remember_fences() -> None:
    original = Runner.run

    @functools.wraps(original)
    async def run(self: Runner, claimed: Any, admitted: Any) -> Any:
        fences[claimed.task_id] = claimed.fence
        return await original(self, claimed, admitted)

    Runner.run = run  # type: ignore[method-assign]


class Liar:
    """Lets a call succeed, and reports what the real code reports for one that is out of time. Each lie is noted.

    Args:
        rates: `ledger=0.004,commit=0.01,publisher=0.05`.
    """

    def __init__(self, rates: str) -> None:
        self._rates = {name: float(rate) for name, rate in (each.split("=") for each in rates.split(","))}
        self._chance = random.Random(int(os.environ["STORM_SEED"]))
        self._told = os.environ["STORM_LIES_TOLD"]

    def install(self) -> None:
        """Around the ledger's statements, a task's COMMIT, and the publisher's requests."""
        fetch, commit, publish = RecordConnection.fetch, TaskTransaction._commit, Pubsub.publish

        async def lying_fetch(connection: RecordConnection, statement: str, *arguments: Any) -> Any:
            rows = await fetch(connection, statement, *arguments)
            if self._lies("ledger"):
                connection.drop()
                raise ConnectionFailed("the connection broke during a statement (TimeoutError)")
            return rows

        async def lying_commit(transaction: TaskTransaction, connection: Any) -> None:
            await commit(transaction, connection)
            if self._lies("commit"):
                raise CommitUnknown("no answer to COMMIT")

        async def lying_publish(pubsub: Pubsub, topic: str, messages: Any) -> list[str]:
            ids = await publish(pubsub, topic, messages)
            if self._lies("publisher"):
                raise GoogleUnavailable("Pub/Sub has not answered in time")
            return ids

        RecordConnection.fetch = lying_fetch  # type: ignore[method-assign,assignment]
        TaskTransaction._commit = lying_commit  # type: ignore[method-assign,assignment]
        Pubsub.publish = lying_publish  # type: ignore[method-assign,assignment]

    def _lies(self, what: str) -> bool:
        if self._chance.random() >= self._rates[what]:
            return False
        append(self._told, what)
        return True

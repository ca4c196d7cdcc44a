"""Replays that an operator asks for: executions and rejected messages, by their ids or all that fit a filter.

Many are published in batches, so many a second as asked: what failed together would otherwise come back together.

Invariant: an execution is replayed at most once by one call, also when it fails again meanwhile.

Next: `receiver.record.sql.replaying` says which rows, `receiver.sweep.owed` publishes them.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from receiver.record.in_parts import written
from receiver.record.sql import rejected, replaying, sweeping
from receiver.sweep.owed import BATCH, TAKEN, PublishedCounts, parts
from receiver.sweep.replays import REPLAY_BYTES, REPLAY_MESSAGES
from receiver.text import is_storable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from receiver.record.database import Executor
    from receiver.record.sql.rejected import RejectedRow
    from receiver.record.sql.replaying import Filter
    from receiver.record.whose import Whose
    from receiver.sweep.owed import Owed
    from receiver.sweep.replays import Replays

WHY: Final = {
    "SUCCESSFUL": "it succeeded, and never runs again; enqueue another",
    "RUNNING": "it is running; if it fails, Pub/Sub delivers it again",
}
"""Why an execution is not replayed, by its status."""

NOBODY: Final = "there is no execution and no rejected message with this id"


@dataclass(slots=True)
class Told:
    """What a replay did.

    Attributes:
        executions: published again.
        messages: rejected messages, published again.
        owed: left to the sweeper: not due yet, or Pub/Sub could not be reached.
        failures: ids that could not be replayed, each with the reason.
        more: the limit was reached; there may be more.
        outage: why Pub/Sub could not be reached. The rest was not tried.
    """

    executions: int = 0
    messages: int = 0
    owed: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    more: bool = False
    outage: str | None = None


class Pace:
    """Lets through so many a second. The first batch goes at once."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._next = time.monotonic()

    async def take(self, count: int) -> None:
        """Waits until those before have had their time."""
        now = time.monotonic()
        await asyncio.sleep(max(0.0, self._next - now))
        self._next = max(self._next, now) + count / self._rate


class OperatorReplays:
    """The replays of one receiver.

    Args:
        rate: executions or messages a second.
        limit: how many at most.
        dry_run: counts only.
    """

    def __init__(
        self,
        executor: Executor,
        owed: Owed,
        replays: Replays,
        *,
        whose: Whose,
        rate: float,
        limit: int,
        dry_run: bool,
    ) -> None:
        self._executor = executor
        self._owed = owed
        self._replays = replays
        self._whose = whose
        self._pace = Pace(rate)
        self._batch = max(1, min(BATCH, int(rate)))
        self._left = limit
        self._dry_run = dry_run
        self.told = Told()

    async def named(self, ids: Sequence[str]) -> None:
        """Each id is an execution's, or else a rejected message's."""
        known = [id_ for id_ in ids if is_storable(id_)]
        states = await replaying.find_states(self._executor, known, whose=self._whose)
        good = [id_ for id_, (_, replayable) in states.items() if replayable]
        for start in range(0, len(good), self._batch):
            await self._executions(good[start : start + self._batch])
            if self.told.outage:
                return
        rest = [id_ for id_ in known if id_ not in states]
        found = await rejected.find_rejected(self._executor, rest, whose=self._whose) if rest else []
        await self._messages(found)
        seen = {name for one in found for name in (one.key, one.key.rpartition(" ")[2])} | states.keys()
        self.told.failures |= {id_: WHY[status] for id_, (status, good) in states.items() if not good}
        self.told.failures |= {id_: NOBODY for id_ in ids if id_ not in seen}

    async def failed(self, wanted: Filter) -> None:
        """The executions that failed for good and fit the filter, the oldest first."""
        now = await replaying.find_now(self._executor)
        after: tuple[datetime | None, str] = (now - wanted.since if wanted.since else None, "")
        while found := await replaying.find_failed(
            self._executor, wanted, whose=self._whose, after=after, limit=self._part(self._batch)
        ):
            after = found[-1]
            await self._executions([task_id for _, task_id in found])
            if self._ends(len(found)):
                return

    async def undelivered(self, wanted: Filter) -> None:
        """The executions that fit the filter and wait for a message that Pub/Sub may not have any more."""
        blocks, _ = await sweeping.find_blocks(self._executor)
        before = await replaying.find_now(self._executor)
        for part in parts((0, blocks + 1)):
            if self._dry_run:
                self.told.executions += await replaying.count_undelivered(
                    self._executor, wanted, part, whose=self._whose, before=before
                )
                continue
            while True:
                terms: dict[str, Any] = {"whose": self._whose, "before": before}
                limit, failing = self._part(self._batch), self.told.failures
                found = await replaying.find_undelivered(
                    self._executor, wanted, part, failing=failing, limit=limit, **terms
                )
                take = partial(
                    replaying.take_undelivered, self._executor, wanted=wanted, lease=TAKEN, **terms
                )
                taken, failed = await self._owed.taken(take, found)
                self.told.failures |= {task_id: str(why) for task_id, why in failed.items()}
                if not taken and not failed:
                    break
                if not taken:
                    continue
                await self._pace.take(len(taken))
                self._count(await self._owed.publish(taken), len(taken))
                if self._ends(len(taken)):
                    return

    async def rejected_for(self, reason: str, task_name: str | None) -> None:
        """The messages that were rejected for this reason and never replayed, of this task if one is given."""
        after = ""
        while found := await rejected.find_rejected_for(
            self._executor,
            reason,
            whose=self._whose,
            task_name=task_name,
            after=after,
            limit=self._part(min(self._batch, REPLAY_MESSAGES)),
            size=REPLAY_BYTES,
        ):
            after = found[-1].key
            await self._messages(found)
            if self._ends(len(found)):
                return

    async def _executions(self, task_ids: Sequence[str]) -> None:
        if self._dry_run:
            self.told.executions += len(task_ids)
            return
        await self._pace.take(len(task_ids))
        replay = partial(replaying.replay, self._executor, whose=self._whose)
        parts, failed = await written(replay, task_ids)
        moved = set().union(*parts)
        self.told.failures |= {task_id: str(why) for task_id, why in failed.items()}
        self._count(await self._owed.publish_these(sorted(moved)), len(moved))

    async def _messages(self, found: Sequence[RejectedRow]) -> None:
        if self._dry_run:
            self.told.messages += len(found)
        elif found:
            await self._pace.take(len(found))
            replayed = await self._replays.replay(found)
            self.told.messages += len(replayed.keys)
            self.told.failures |= replayed.failures
            self.told.outage = replayed.outage

    def _count(self, given: PublishedCounts, moved: int) -> None:
        published = given.published + given.forgotten + given.stranded
        self.told.executions += published
        self.told.owed += moved - published
        self.told.outage = given.outage

    def _part(self, most: int) -> int:
        return min(most, self._left)

    def _ends(self, done: int) -> bool:
        """Whether this was the last part: the limit is reached, or Pub/Sub cannot be."""
        self._left -= done
        self.told.more = self._left <= 0
        return self.told.more or self.told.outage is not None

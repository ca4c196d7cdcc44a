"""Deletes what the record no longer needs, in steps, the oldest first.

Invariants: a step is one short statement on at most `PRUNE_ROWS` rows. A row to which the application's rows refer stays, and
only it. FAILED rows that nothing will try again become final here, before they are deleted.

Next: `receiver.record.sql.pruning`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from receiver.errors import ItemRefused
from receiver.record.sql import pruning, rejected
from receiver.telemetry.events import Emit, ReceiverTrouble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from receiver.record.database import Executor
    from receiver.record.whose import Whose

PRUNE_ROWS: Final = 500
"""Rows of one statement: it locks them for tens of milliseconds only."""

SWEEP_PATH: Final = "receiver.maintenance.sweep"
"""The sweep's own path and name (`receiver.maintenance`), as it stands in people's records."""

FIRINGS: Final = timedelta(days=1)
"""How long executions of the sweep itself are kept. A late duplicate would only sweep once more."""


@dataclass(frozen=True, slots=True)
class PrunedCounts:
    """What a step did, as counts. `kept`: rows to which the application's rows refer."""

    finalised: int = 0
    pruned: int = 0
    rejected: int = 0
    kept: int = 0

    def __add__(self, other: PrunedCounts) -> PrunedCounts:
        """Both together."""
        return PrunedCounts(
            self.finalised + other.finalised,
            self.pruned + other.pruned,
            self.rejected + other.rejected,
            self.kept + other.kept,
        )


class Pruning:
    """The pruning of one receiver's rows."""

    def __init__(self, executor: Executor, *, whose: Whose, emit: Emit) -> None:
        self._executor = executor
        self._whose = whose
        self._emit = emit

    async def prune(self, older: timedelta) -> AsyncIterator[PrunedCounts]:
        """Deletes what ended longer ago than `older`, step by step."""
        async for step in self._outdated(older):
            yield step
        seen = PRUNE_ROWS
        while seen == PRUNE_ROWS:
            seen = await rejected.prune_rejected(
                self._executor, whose=self._whose, older=older, limit=PRUNE_ROWS
            )
            yield PrunedCounts(rejected=seen)

    async def prune_sweeps(self) -> AsyncIterator[PrunedCounts]:
        """Deletes the executions of old sweeps: one a minute would bury everything else."""
        seen = PRUNE_ROWS
        while seen == PRUNE_ROWS:
            found = await pruning.find_firings(
                self._executor,
                whose=self._whose,
                task_name=SWEEP_PATH,
                task_path=SWEEP_PATH,
                older=FIRINGS,
                limit=PRUNE_ROWS,
            )
            gone = await self._prune([row.task_id for row in found], FIRINGS)
            seen = len(found) if gone.pruned else 0
            yield gone

    async def _outdated(self, older: timedelta) -> AsyncIterator[PrunedCounts]:
        after = None
        while found := await pruning.find_outdated(
            self._executor, whose=self._whose, older=older, limit=PRUNE_ROWS, after=after
        ):
            after = found[-1]
            open_ = [row.task_id for row in found if not row.final]
            if open_:
                moved = await pruning.finalise(self._executor, open_, whose=self._whose, older=older)
                yield PrunedCounts(finalised=len(moved))
            yield await self._prune([row.task_id for row in found if row.final], older)

    async def _prune(self, task_ids: Sequence[str], older: timedelta) -> PrunedCounts:
        kept: list[str] = []
        pruned = await self._halved(task_ids, older, kept) if task_ids else 0
        if kept:
            why = f"rows of the application refer to {len(kept)}; give their foreign key ON DELETE CASCADE or SET NULL"
            self._emit(ReceiverTrouble("executions not pruned", why, kept[0]))
        return PrunedCounts(pruned=pruned, kept=len(kept))

    async def _halved(self, task_ids: Sequence[str], older: timedelta, kept: list[str]) -> int:
        """Deletes the rows and returns how many; the refused ones are found by halving."""
        try:
            return len(await pruning.prune(self._executor, task_ids, whose=self._whose, older=older))
        except ItemRefused:
            if len(task_ids) == 1:
                kept.extend(task_ids)
                return 0
        half = len(task_ids) // 2
        first = await self._halved(task_ids[:half], older, kept)
        return first + await self._halved(task_ids[half:], older, kept)

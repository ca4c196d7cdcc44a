"""Retention: deletes what is older than the settings or its task (`TaskRoute(keep=…)`) allow, in steps, the oldest first.

Invariants: a step is one short statement on at most `PRUNE_ROWS` rows. A row to which the application's rows refer stays, and
only it. FAILED rows that nothing will try again become final here, before they are deleted.

Next: `receiver.record.sql.pruning`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from receiver.errors import ItemRefused
from receiver.record.in_parts import by_reason, written
from receiver.record.sql import pruning, rejected
from receiver.sweep.owed import parts
from receiver.telemetry.events import Emit, ReceiverTrouble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from receiver.record.database import Executor
    from receiver.record.sql.pruning import Outdated
    from receiver.record.whose import Whose
    from receiver.settings import Settings
    from receiver.tasks.registry import Registry

PRUNE_ROWS: Final = 500
"""Rows of one statement: it locks them for tens of milliseconds only."""

SWEEP_PATH: Final = "receiver.maintenance.sweep"
"""The sweep's own path and name (`receiver.maintenance`), as it stands in people's records."""

FIRINGS: Final = timedelta(days=1)
"""How long executions of the sweep itself are kept. A late duplicate would only sweep once more."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long final executions are kept after their end.

    Attributes:
        successful: SUCCESSFUL ones; rejected messages too.
        failed: FAILED ones.
        own: by path, those of tasks that say it themselves (`TaskRoute(keep=...)`), whatever their ending.
    """

    successful: timedelta
    failed: timedelta
    own: Mapping[str, timedelta] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings, registry: Registry, *, older: timedelta | None = None) -> Retention:
        """By the settings and the routes. `older` replaces both settings; a task's own stands."""
        own = {path: route.keep for route in registry.declared if route.keep for path in route.paths}
        if older is not None:
            return cls(older, older, own)
        return cls(settings.retention, settings.retention_failed or settings.retention, own)

    @property
    def longest(self) -> timedelta:
        """Nothing is kept longer."""
        return max(self.successful, self.failed, *self.own.values())

    @property
    def is_one(self) -> bool:
        """Whether all rows are kept equally long."""
        return {self.successful, self.failed, *self.own.values()} == {self.successful}


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

    async def prune(self, retention: Retention, part: tuple[int, int]) -> AsyncIterator[PrunedCounts]:
        """Deletes what is kept no longer, step by step.

        An index finds what is older than the longest retention. If some rows are kept shorter, they are looked for in `part`.

        Args:
            part: of the table: its first block, and the one after its last.
        """
        async for step in self._outdated(retention.longest):
            yield step
        if not retention.is_one:
            async for step in self._outdated_in(retention, part):
                yield step
        seen = PRUNE_ROWS
        while seen == PRUNE_ROWS:
            seen = await rejected.prune_rejected(
                self._executor, whose=self._whose, older=retention.successful, limit=PRUNE_ROWS
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
            async for step in self._end(found):
                yield step

    async def _outdated_in(self, retention: Retention, part: tuple[int, int]) -> AsyncIterator[PrunedCounts]:
        for blocks in parts(part):
            after = ""
            while found := await pruning.find_outdated_in(
                self._executor,
                blocks,
                whose=self._whose,
                successful=retention.successful,
                failed=retention.failed,
                own=retention.own,
                limit=PRUNE_ROWS,
                after=after,
            ):
                after = found[-1].task_id
                async for step in self._end(found):
                    yield step

    async def _end(self, found: Sequence[Outdated]) -> AsyncIterator[PrunedCounts]:
        """Makes final what is not, and deletes the rest; each statement with its rows' own time as its guard."""
        for older in sorted({row.older for row in found}):
            open_ = [row.task_id for row in found if row.older == older and not row.final]
            if open_:
                finalise = partial(pruning.finalise, self._executor, whose=self._whose, older=older)
                moved, failed = await written(finalise, open_, patient=False)
                self._tell(failed)
                yield PrunedCounts(finalised=sum(len(each) for each in moved))
            yield await self._prune([row.task_id for row in found if row.older == older and row.final], older)

    async def _prune(self, task_ids: Sequence[str], older: timedelta) -> PrunedCounts:
        prune = partial(pruning.prune, self._executor, whose=self._whose, older=older)
        pruned, failed = await written(prune, task_ids, patient=False)
        kept = [task_id for task_id, why in failed.items() if isinstance(why, ItemRefused)]
        if kept:
            why = f"rows of the application refer to {len(kept)}; give their foreign key ON DELETE CASCADE or SET NULL"
            self._emit(ReceiverTrouble("executions not pruned", why, kept[0]))
        self._tell({task_id: why for task_id, why in failed.items() if task_id not in kept})
        return PrunedCounts(pruned=sum(len(each) for each in pruned), kept=len(kept))

    def _tell(self, failed: Mapping[str, Exception]) -> None:
        """Of rows that a trigger of the application fails, by what it says."""
        for why, ids in by_reason(failed).items():
            self._emit(ReceiverTrouble("executions not pruned", f"{len(ids)}: {why}", min(ids)))

"""What the record no longer needs: removed in steps, the oldest first.

Invariants: a step is one short statement on at most `STEP` rows; a row that another one refers to stays, and only it.
FAILED rows that nothing will try again become final here, before they go.

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

STEP: Final = 500
"""Rows of one statement: tens of milliseconds, so that nobody who wants one of them notices."""

SWEEP_PATH: Final = "receiver.maintenance.sweep"
"""The sweep's own path and name (`receiver.maintenance`), as it stands in people's records."""

FIRINGS: Final = timedelta(days=1)
"""How long the sweeps themselves are remembered. A late duplicate of one would only sweep once more."""


@dataclass(frozen=True, slots=True)
class Gone:
    """What a step came to. `kept`: rows that the application's own refer to."""

    finalised: int = 0
    pruned: int = 0
    rejected: int = 0
    kept: int = 0

    def __add__(self, other: Gone) -> Gone:
        """Both together."""
        return Gone(
            self.finalised + other.finalised,
            self.pruned + other.pruned,
            self.rejected + other.rejected,
            self.kept + other.kept,
        )


class Pruning:
    """The end of what one receiver recorded."""

    def __init__(self, executor: Executor, *, namespace: str, emit: Emit) -> None:
        self._executor = executor
        self._namespace = namespace
        self._emit = emit

    async def prune(self, older: timedelta) -> AsyncIterator[Gone]:
        """Removes what ended longer ago than `older`, step by step, until there is no more."""
        async for step in self._outdated(older):
            yield step
        seen = STEP
        while seen == STEP:
            seen = await rejected.prune_rejected(
                self._executor, namespace=self._namespace, older=older, limit=STEP
            )
            yield Gone(rejected=seen)

    async def prune_sweeps(self) -> AsyncIterator[Gone]:
        """Removes what the sweeps of former days recorded of themselves: one a minute would bury everything else."""
        seen = STEP
        while seen == STEP:
            found = await pruning.find_firings(
                self._executor,
                namespace=self._namespace,
                task_name=SWEEP_PATH,
                task_path=SWEEP_PATH,
                older=FIRINGS,
                limit=STEP,
            )
            gone = await self._prune([row.task_id for row in found], FIRINGS)
            seen = len(found) if gone.pruned else 0
            yield gone

    async def _outdated(self, older: timedelta) -> AsyncIterator[Gone]:
        after = None
        while found := await pruning.find_outdated(
            self._executor, namespace=self._namespace, older=older, limit=STEP, after=after
        ):
            after = found[-1]
            open_ = [row.task_id for row in found if not row.final]
            if open_:
                moved = await pruning.finalise(self._executor, open_, namespace=self._namespace, older=older)
                yield Gone(finalised=len(moved))
            yield await self._prune([row.task_id for row in found if row.final], older)

    async def _prune(self, task_ids: Sequence[str], older: timedelta) -> Gone:
        kept: list[str] = []
        pruned = await self._halved(task_ids, older, kept) if task_ids else 0
        if kept:
            why = f"rows of the application refer to {len(kept)}; give their foreign key ON DELETE CASCADE or SET NULL"
            self._emit(ReceiverTrouble("executions not pruned", why, kept[0]))
        return Gone(pruned=pruned, kept=len(kept))

    async def _halved(self, task_ids: Sequence[str], older: timedelta, kept: list[str]) -> int:
        """How many are gone. What is refused is found by halving, the others go."""
        try:
            return len(await pruning.prune(self._executor, task_ids, namespace=self._namespace, older=older))
        except ItemRefused:
            if len(task_ids) == 1:
                kept.extend(task_ids)
                return 0
        half = len(task_ids) // 2
        first = await self._halved(task_ids[:half], older, kept)
        return first + await self._halved(task_ids[half:], older, kept)

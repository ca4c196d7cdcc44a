"""The tasks that every rival runs: the cheapest there is, so that what is measured is what stands around it."""

from __future__ import annotations

from typing import Any

from receiver import TaskRoute, task


@task
async def add(*parts: Any) -> int:
    """Two numbers, or one text of any length."""
    return len(parts)


tasks = [TaskRoute(add)]

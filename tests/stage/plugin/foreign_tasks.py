"""A task that takes messages of another topic, in a service of its own."""

from __future__ import annotations

from typing import Any

from receiver import TaskContext, TaskRoute, task


@task
async def take(ctx: TaskContext, data: bytes) -> dict[str, Any]:
    return {"size": len(data), "data": data[:20].decode(errors="replace"), "attributes": dict(ctx.attributes)}


tasks = [TaskRoute(take, topic="projects/storage/topics/uploads", service="heavy")]

"""The receiver's own task: `sweep`, scheduled like any other, so that it works at zero instances.

Its path is stored in users' records, so this module and its function keep their names. Messages name it by the full path; short
names belong to the plugins. Every registry includes `ROUTES`, and the runner is given `contexts`, because a sweep needs
the settings of its instance.

Next: `receiver.sweep.sweeper` does the work. It imports HTTP and Google's credentials, so a thread loads it at the first sweep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from types import ModuleType
from typing import Any, Final, TypeVar

from receiver.settings import Settings
from receiver.tasks.registry import Registry
from receiver.tasks.route import TaskRoute
from receiver.tasks.task import TaskContext, task
from receiver.telemetry.events import Emit

F = TypeVar("F", bound="Callable[..., object]")

MARGIN: Final = timedelta(seconds=8)
"""How long before the task's deadline a sweep stops: its last statement may take 5 s."""


class MaintenanceContext(TaskContext):
    """The context of a built-in task; its parameters are those of `receiver.sweep.sweeper.Surroundings`."""

    def __init__(self, settings: Settings, registry: Registry, emit: Emit, **known: Any) -> None:
        super().__init__(**known)
        self.settings = settings
        self.registry = registry
        self.emit = emit


def _named_by_path(function: F) -> F:
    """Names the function by its full path: what messages, ids of firings and the registry use."""
    function.__name__ = f"{function.__module__}.{function.__qualname__}"
    return function


@task
@_named_by_path
async def sweep(ctx: TaskContext) -> object:
    """Publishes due executions, publishes again messages that Pub/Sub no longer keeps, and prunes; returns the counts (`Swept`)."""
    if not isinstance(ctx, MaintenanceContext):
        raise TypeError("sweep is the receiver's own; by hand it is `receiver sweep`")
    sweeper = await asyncio.to_thread(_sweeper)
    around = sweeper.Surroundings(ctx.settings, ctx.registry, ctx.emit)
    swept: object = await sweeper.sweep(around, within=ctx.remaining - MARGIN)
    return swept


def _sweeper() -> ModuleType:
    from receiver.sweep import sweeper  # noqa: PLC0415 - imports HTTP and Google's credentials: 0.2 s

    return sweeper


SWEEP: Final = TaskRoute(
    sweep,
    schedule="* * * * *",
    # Longer than a minute: after a long outage there is much to publish. Two sweeps at once do no harm.
    ack_deadline=120,
    # No retry: the next minute brings another.
    max_attempts=1,
)

ROUTES: Final = (SWEEP,)
"""The routes that every registry has besides those of the plugins."""

_PATHS: Final = frozenset(route.path for route in ROUTES)


def is_built_in(route: TaskRoute) -> bool:
    """Whether the route is the receiver's own."""
    return route.path in _PATHS


def contexts(settings: Settings, registry: Registry, emit: Emit) -> dict[str, Callable[..., TaskContext]]:
    """What makes the context of each built-in task, by the task's path."""
    return dict.fromkeys(_PATHS, partial(MaintenanceContext, settings, registry, emit))

"""What the receiver does for itself: `sweep`, a scheduled task like any other, so that it works at zero instances.

Its route is in every registry, under its full path only, in messages too: short names are the plugins'. It is given what other tasks have no business with: the settings of its instance, and what the
registry knows. The work is the enqueue client's, which stands above this room and imports HTTP and Google's credentials: it is
loaded by name, at the first sweep, in a thread.

Next: `receiver.sweep.sweeper`.
"""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from receiver.tasks.route import TaskRoute
from receiver.tasks.task import TaskContext, task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from receiver.settings import Settings

F = TypeVar("F", bound="Callable[..., object]")

MARGIN: Final = timedelta(seconds=8)
"""Left of the task's time when a sweep gives up what is under way: its last statement may take 5 s."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What maintenance needs of the process that it runs in.

    Attributes:
        paths: the path of the task that each name, path and alias means.
        emit: where events go (`receiver.telemetry.events.Emit`).
    """

    settings: Settings
    paths: Mapping[str, str] = field(repr=False)
    emit: Callable[[Any], None] = field(repr=False)


class MaintenanceContext(TaskContext):
    """The context of a built-in task."""

    def __init__(self, around: Surroundings, **known: Any) -> None:
        super().__init__(**known)
        self.around = around


def _named_by_path(function: F) -> F:
    """The name is what messages, ids of firings and the registry say: the full path is nobody else's."""
    function.__name__ = f"{function.__module__}.{function.__qualname__}"
    return function


@task
@_named_by_path
async def sweep(ctx: TaskContext) -> object:
    """Publishes what is owed, publishes again what Pub/Sub has forgotten, and prunes; returns the counts (`Swept`)."""
    if not isinstance(ctx, MaintenanceContext):
        raise TypeError("sweep is the receiver's own; by hand it is `receiver sweep`")
    sweeper = await asyncio.to_thread(importlib.import_module, "receiver.sweep.sweeper")
    swept: object = await sweeper.sweep(ctx.around, within=ctx.remaining - MARGIN)
    return swept


SWEEP: Final = TaskRoute(
    sweep,
    schedule="* * * * *",
    # Longer than a minute: after a long outage there is much to publish. The next firing does no harm beside it.
    ack_deadline=120,
    # One that failed is not repeated: the next minute brings another.
    max_attempts=1,
)

ROUTES: Final = (SWEEP,)
"""The routes that every registry has."""

_PATHS: Final = frozenset(route.path for route in ROUTES)


def is_built_in(route: TaskRoute) -> bool:
    """Whether the route is the receiver's own."""
    return route.path in _PATHS

"""The registry finds the route of a message, and reads its arguments as the function takes them.

Invariant: the registry does not change after the start, and no message causes an import. No name, path or alias belongs
to two routes.

Next: `receiver.delivery.push` finds and binds here before anything is claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from receiver.contract.convert import Unfit
from receiver.errors import PluginError, Rejected, RejectionReason
from receiver.settings import Settings
from receiver.tasks import plugins
from receiver.tasks.context import Around
from receiver.tasks.route import TaskRoute
from receiver.text import by_length, clean


class Registry:
    """All routes of this receiver, found by any of their names.

    Args:
        routes: in the order in which plugins declare them.
        modules: the plugin modules they come from, for `undeclared`.
        around: what encloses each run (`TASKS_AROUND`), the outermost first.
        built_in: the receiver's own routes; they come after the declared ones.

    Raises:
        PluginError: two routes share a name, path or alias.
    """

    def __init__(
        self,
        routes: Sequence[TaskRoute],
        modules: Sequence[str] = (),
        *,
        around: Sequence[Around] = (),
        built_in: Sequence[TaskRoute] = (),
    ) -> None:
        by_name: dict[str, TaskRoute] = {}
        for route in (*routes, *built_in):
            for name in sorted(route.names, key=by_length):  # the message names the shortest
                other = by_name.setdefault(name, route)
                if other is not route:
                    raise PluginError(_clash(name, other, route, built_in))
        self.declared = tuple(routes)
        self.routes = (*routes, *built_in)
        self.modules = tuple(modules)
        self.around = tuple(around)
        self._by_name = by_name

    def __repr__(self) -> str:
        return f"<Registry of {len(self.declared)} routes>"

    def including(self, built_in: Sequence[TaskRoute]) -> Registry:
        """This registry with the receiver's own routes (`receiver.maintenance.ROUTES`)."""
        return Registry(self.declared, self.modules, around=self.around, built_in=built_in)

    def with_timeout(self, seconds: float) -> Registry:
        """The same tasks, each with this timeout: a debugger stops them for long."""
        routes = [replace(route, timeout=seconds) for route in self.declared]
        return Registry(routes, self.modules, around=self.around)

    @property
    def paths(self) -> dict[str, str]:
        """For each name, path and alias: the path of its task."""
        return {name: route.path for name, route in self._by_name.items()}

    def find(self, task_name: str) -> TaskRoute | None:
        """The route with this name, path or alias, or None."""
        return self._by_name.get(task_name)

    def bind(
        self, route: TaskRoute, args: list[Any], kwargs: dict[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments as the route's function takes them, without its context: converted to its annotations. Does not call it.

        Raises:
            Rejected: bad_arguments, with the reason and without any of the values.
        """
        why = route.shape.mismatch(args, kwargs)
        if why is None:
            try:
                return route.forms.received(args, kwargs)
            except Unfit as error:
                why = error.detail
        raise Rejected(RejectionReason.BAD_ARGUMENTS, f"{route.name}: {clean(why, 500)}")


def load(settings: Settings) -> Registry:
    """Runs `TASKS_SETUP`, imports the plugin modules and `TASKS_AROUND`, and registers the routes.

    Raises:
        PluginError: a plugin cannot be loaded, or two routes share a name.
    """
    found = plugins.collect(settings)
    return Registry(found.routes, found.modules, around=found.around)


def undeclared(registry: Registry) -> list[str]:
    """Paths of the `@task` functions of the plugin modules that no route declares, sorted."""
    return plugins.undeclared(registry.modules, frozenset(route.path for route in registry.routes))


def _clash(name: str, first: TaskRoute, second: TaskRoute, built_in: Sequence[TaskRoute]) -> str:
    if first.path == second.path:
        return f"two routes declare {first.path}; keep one TaskRoute for it"
    if second in built_in:
        return (
            f"{first.path} is known as {name!r}, as is the receiver's own {second.path}; "
            "rename the function, or drop the alias"
        )
    return (
        f"{first.path} and {second.path} are both known as {name!r}; rename one function, or drop the alias"
    )

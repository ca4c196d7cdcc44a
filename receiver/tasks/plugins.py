"""Plugin modules and entry points: they are imported once, at start, and their lists of routes are read.

An error in a plugin becomes one line that names the module, the error and, where known, the file and line in the plugin.
Invariant: only `TASKS_SETUP`, `TASKS_MODULES` and installed entry points decide what is imported.

Next: `receiver.tasks.registry` makes the routes findable.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final, cast, get_origin, get_type_hints

from receiver.errors import ConfigurationError, PluginError
from receiver.settings import Settings
from receiver.tasks.context import Around
from receiver.tasks.route import TaskRoute
from receiver.tasks.task import Task

GROUP: Final = "receiver.tasks"
"""The entry point group of installed plugins."""

_LISTS: Final = ("tasks", "task_routes")


@dataclass(frozen=True, slots=True)
class Plugins:
    """The routes that the plugins declare, each once, the names of the plugin modules, and what encloses each run."""

    routes: tuple[TaskRoute, ...]
    modules: tuple[str, ...]
    around: tuple[Around, ...] = ()


def collect(settings: Settings) -> Plugins:
    """Runs `TASKS_SETUP` once, imports every plugin module and reads its list of routes, then imports `TASKS_AROUND`.

    Raises:
        PluginError: one line: no plugins, a module that cannot be imported, or a list with other things than routes.
        ConfigurationError: the working folder does not exist any more.
    """
    _look_here()
    if settings.setup is not None:
        _set_up(settings.setup)
    origin = "TASKS_MODULES" if settings.modules else f"entry points {GROUP}"
    sources: list[tuple[str, str | None]] = [(name, None) for name in settings.modules] or _entry_points()
    if not sources:
        raise PluginError(
            "there are no plugins: set TASKS_MODULES to modules with a `tasks` list, such as shop.tasks, "
            f"or install a package with an entry point in group {GROUP}"
        )
    # A module named twice is loaded once. Two modules may have the same list; its routes count once.
    routes = {id(route): route for module, name in sources for route in _routes(module, name, origin)}
    around = tuple(_around(entry) for entry in settings.around)
    return Plugins(tuple(routes.values()), tuple(dict.fromkeys(module for module, _ in sources)), around)


def undeclared(modules: Sequence[str], declared: frozenset[str]) -> list[str]:
    """Paths of the Tasks in these modules, or in modules below them, that are not among `declared`; sorted."""
    homes = tuple(f"{module}." for module in modules)
    loaded = [sys.modules[module] for module in modules if module in sys.modules]
    values = (value for module in loaded for value in list(vars(module).values()))
    tasks = (value for value in values if isinstance(value, Task))
    return sorted({task.path for task in tasks if f"{task.func.__module__}.".startswith(homes)} - declared)


def _look_here() -> None:
    """Plugins may be in the working folder. It comes last, so that a `queue.py` there does not hide Python's own."""
    try:
        here = str(Path.cwd())
    except FileNotFoundError:
        raise ConfigurationError("the working folder is gone; change to one that is there") from None
    if here not in sys.path:
        sys.path.append(here)


def _entry_points() -> list[tuple[str, str | None]]:
    import importlib.metadata  # noqa: PLC0415 - takes 3 % of a start; not needed with TASKS_MODULES

    found: set[tuple[str, str | None]] = set()
    for point in importlib.metadata.entry_points(group=GROUP):
        match = point.pattern.match(point.value)
        if match is None:
            raise PluginError(
                f"entry point {point.name!r} in group {GROUP} is {point.value!r}; write module or module:tasks"
            )
        found.add((match["module"], match["attr"] or None))
    return sorted(found, key=lambda source: (source[0], source[1] or ""))


def _found(entry: str, origin: str) -> object:
    """What `module:attribute` names."""
    name, _, attribute = entry.partition(":")
    module = _import(name, origin)
    try:
        found: object = functools.reduce(getattr, attribute.split("."), module)
    except AttributeError:
        raise PluginError(f"{origin}: module {name} has no {attribute}") from None
    return found


def _around(entry: str) -> Around:
    found = _found(entry, "TASKS_AROUND")
    if not callable(found) or not _makes_manager(found) or not _takes_one(found):
        raise PluginError(
            f"TASKS_AROUND: {entry} makes no async context manager of a run: write a function of the context alone, decorated with "
            "contextlib.asynccontextmanager, or annotated to return an AbstractAsyncContextManager"
        )
    return cast("Around", found)


def _makes_manager(made: Callable[..., object]) -> bool:
    """Whether it says that it returns an async context manager. Names that are not there are believed."""
    if isinstance(made, type):
        return hasattr(made, "__aenter__")
    if hasattr(made, "__wrapped__"):
        return not inspect.isgeneratorfunction(
            inspect.unwrap(made)
        )  # it may be decorated with contextmanager
    if not inspect.isfunction(made):
        return True
    try:
        returns = get_type_hints(made).get("return")
    except NameError:
        return True
    return hasattr(get_origin(returns) or returns, "__aenter__")


def _takes_one(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # a builtin does not tell
        return True
    return True


def _set_up(setup: str) -> None:
    name = setup.partition(":")[0]
    function = _found(setup, "TASKS_SETUP")
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise PluginError(f"TASKS_SETUP: {setup} is no plain function; it is called once, without arguments")
    try:
        function()
    except (Exception, SystemExit) as error:
        raise PluginError(_one_line(f"TASKS_SETUP: {setup} failed", error, name)) from error


def _routes(module: str, attribute: str | None, origin: str) -> list[TaskRoute]:
    loaded = _import(module, origin)
    wanted = _LISTS if attribute is None else (attribute,)
    # A submodule called `tasks` is no declaration: it appears in its package's namespace by being imported.
    present = {name: vars(loaded)[name] for name in wanted if name in vars(loaded)}
    lists = {name: value for name, value in present.items() if not isinstance(value, ModuleType)}
    if not lists:
        hint = f"; did you mean {module}.tasks?" if present else ""
        raise PluginError(f"{origin}: {module} has no {' or '.join(wanted)} list of TaskRoute{hint}")
    if len(lists) > 1:
        raise PluginError(f"{origin}: {module} has both a tasks and a task_routes list; keep one")
    ((name, value),) = lists.items()
    if not isinstance(value, list | tuple):
        raise PluginError(f"{origin}: {module}.{name} is {_kind(value)}; write a list of TaskRoute")
    for index, item in enumerate(value):
        if not isinstance(item, TaskRoute):
            raise PluginError(
                f"{origin}: {module}.{name}[{index}] is {_kind(item)}; wrap each task in TaskRoute(...)"
            )
    return list(value)


def _import(name: str, origin: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            missing = name if error.name == name else f"{name} (there is no {error.name})"
            raise PluginError(f"{origin}: there is no module {missing} on the import path") from None
        raise PluginError(_one_line(f"{origin}: cannot import {name}", error, name)) from error
    except (Exception, SystemExit) as error:
        raise PluginError(_one_line(f"{origin}: cannot import {name}", error, name)) from error


def _one_line(what: str, error: BaseException, module: str) -> str:
    try:
        message = " ".join(str(error).split())[:300]
    except Exception:  # noqa: BLE001 - a plugin's exception may fail to describe itself
        message = ""
    if isinstance(error, SyntaxError):
        message = error.msg
    place = _place(error, module)
    return (
        f"{what}: {type(error).__name__}"
        + (f": {message}" if message else "")
        + (f" ({place})" if place else "")
    )


def _place(error: BaseException, module: str) -> str | None:
    """File and line: of a syntax error itself, else of the last frame in the plugin's own package."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    home = module.partition(".")[0]
    place = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] == home:
            place = f"{frame.f_code.co_filename}:{line}"
    return place


def _kind(value: object) -> str:
    if isinstance(value, Task):
        return f"the task {value.name}"
    return f"the class {value.__name__}" if isinstance(value, type) else f"of type {type(value).__name__}"

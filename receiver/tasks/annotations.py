"""Annotations, resolved: a text becomes the object that it names, in the module of its function.

A name that only a type checker imports becomes a stand-in, so that the rest of the annotation is known. Django and others have
a `TaskContext` too: `is_context` knows ours by its class, or by its name when only a type checker imports it.

Next: `receiver.tasks.signature` finds the context, `receiver.tasks.forms` converts the other parameters.
"""

from __future__ import annotations

import builtins
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Final, Union, get_args, get_origin

from receiver.tasks.context import TaskContext


class Unresolved(Exception):
    """The annotation cannot be evaluated; the message names what is missing."""


class _StandIn(type):
    """A name that is not there at run time. Its attributes and items stand for nothing either."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _stand_in(name)

    def __getitem__(cls, item: Any) -> Any:
        return cls

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002 - whatever it is called with
        return cls


class _Names(dict[str, Any]):
    """The names of a module, of Python and of `typing`, and stand-ins for all others."""

    def __init__(self, scope: Mapping[str, Any]) -> None:
        super().__init__(vars(builtins) | dict(scope))
        self.missing: list[str] = []

    def __missing__(self, name: str) -> Any:
        if name in typing.__all__:  # linters move its imports to where only a type checker sees them
            return getattr(typing, name)
        self.missing.append(name)
        return _stand_in(name)


def _stand_in(name: str) -> Any:
    return TaskContext if name == TaskContext.__name__ else type.__call__(_StandIn, name, (), {})


def resolved(annotation: Any, scope: Mapping[str, Any]) -> Any:
    """The annotation without texts.

    Args:
        scope: the names of its function's module.

    Raises:
        Unresolved: a name is missing, or it is no annotation.
    """
    found, missing = _evaluated(annotation, scope)
    if missing:
        raise Unresolved(f"names {', '.join(missing)}, which only a type checker imports")
    return found


def is_context(annotation: Any, scope: Mapping[str, Any]) -> bool:
    """Whether the annotation is `TaskContext`; in `Annotated` and beside None too.

    Raises:
        ValueError: it has a TaskContext in it, but is not one. The message is the end of a sentence about the parameter.
    """
    try:
        found, _ = _evaluated(annotation, scope)
    except Unresolved:
        return False
    members = _members(found)
    ours = [each for each in members if each is TaskContext]
    if ours and len(members) == 1:
        return True
    if ours or _holds_context(found):
        raise ValueError(
            "is annotated with something else than a plain TaskContext; write `ctx: TaskContext`"
        )
    return False


def _evaluated(annotation: Any, scope: Mapping[str, Any]) -> tuple[Any, list[str]]:
    names = _Names(scope)
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    while True:
        try:
            found = typing.get_type_hints(holder, {}, names, include_extras=True)["it"]
        except Exception as error:  # noqa: BLE001 - an annotation may be any code
            # Python 3.14 evaluates with a copy of the names, which finds no stand-in: it is put there for another try.
            if isinstance(error, NameError) and error.name is not None and error.name not in names:
                names[error.name] = names[error.name]
                continue
            raise Unresolved(f"cannot be read: {type(error).__name__}: {error}") from None
        return found, list(dict.fromkeys(names.missing))


def _members(annotation: Any) -> list[Any]:
    """The members of a union without None, or the annotation itself; without `Annotated`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in _UNIONS:
        return [
            member
            for each in get_args(annotation)
            for member in _members(each)
            if member is not types.NoneType
        ]
    return [annotation]


_UNIONS: Final = (Union, types.UnionType)


def _holds_context(annotation: Any) -> bool:
    if isinstance(annotation, type) and get_origin(annotation) is None:
        # Its module, because a subclass of the receiver's own is made by the receiver.
        return issubclass(annotation, TaskContext)
    return any(_holds_context(each) for each in get_args(annotation))

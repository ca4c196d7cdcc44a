"""The signature of a task's function, read once at declaration.

`describe` refuses functions that cannot be tasks, and says how to call the others. The signature that counts is the one that is
called: a decorator's `def wrapper(user_id)`, not what it wraps. Of a `def wrapper(*args, **kwargs)` nobody knows what it passes on, and
what it adds: it takes any arguments, and those that are the wrapped function's own are checked and converted as such.

Next: `receiver.tasks.shape` and `receiver.tasks.forms` check and convert arguments.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter, Signature
from typing import Any

from receiver.tasks.annotations import is_context
from receiver.tasks.forms import Forms
from receiver.tasks.shape import POSITIONAL, VARIADIC, Shape


class NotATask(ValueError):
    """The object cannot be a task's function; the message says why, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Description:
    """How a task's function is called."""

    function: Callable[..., Any]
    is_async: bool
    takes_context: bool
    shape: Shape
    forms: Forms


def describe(func: object) -> Description:
    """Describes a function, or the function of a Task (ours, Django's, anything with `.func`).

    Raises:
        NotATask: it is not a function, has no name, is a method or a generator, or its TaskContext cannot be given.
    """
    function = _underlying(func)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise NotATask("is a generator; a task returns its result")
    try:
        own, wrapped = _signatures(function)
    except (TypeError, ValueError):
        raise NotATask("has no signature that Python can read; wrap it in a def") from None
    plain = inspect.unwrap(function)
    generics = {each.__name__: each for each in getattr(plain, "__type_params__", ())}
    scope = getattr(plain, "__globals__", {}) | generics
    parameters = list(own.parameters.values())
    expected = _merged(parameters, list(wrapped.parameters.values())) if wrapped is not None else parameters
    context = _context(expected, scope)
    if inspect.isfunction(function) and _is_method(function, expected):
        raise NotATask("is a method, and a message has no object to call it on; write a function")
    return Description(
        function=function,
        is_async=_is_async(function),
        takes_context=context is not None,
        # A keyword must not repeat the context, which the receiver fills in.
        shape=Shape(
            [each for each in parameters if context is None or each.name != context.name],
            frozenset(
                each.name
                for each in expected
                if each is context and each.kind is not Parameter.POSITIONAL_ONLY
            ),
        ),
        forms=Forms(
            [each for each in expected if each is not context],
            (wrapped or own).return_annotation,
            scope,
            decorated=wrapped is not None,
        ),
    )


def _underlying(func: object) -> Callable[..., Any]:
    if isinstance(func, functools.partial):
        raise NotATask("is a partial, which has no name of its own; write a def")
    function: Any = func if inspect.isroutine(func) else getattr(func, "func", func)
    if isinstance(function, functools.partial):
        raise NotATask("wraps a partial, which has no name of its own; write a def")
    if not callable(function) or isinstance(function, type):
        raise NotATask("is not a function")
    if inspect.ismethod(function):
        raise NotATask("is a method, and a message has no object to call it on; write a function")
    names = [getattr(function, attribute, None) for attribute in ("__name__", "__qualname__", "__module__")]
    if not all(isinstance(name, str) and name for name in names):
        raise NotATask("has no name of its own; write a def")
    if names[0] == "<lambda>":
        raise NotATask("is a lambda, which has no name of its own; write a def")
    return function  # type: ignore[no-any-return]  # checked above


def _is_method(function: Callable[..., Any], parameters: list[Parameter]) -> bool:
    """Whether a class's body defines it, and it takes the object or the class."""
    home = function.__qualname__.rpartition(".")[0]
    return (
        bool(home)
        and not home.endswith("<locals>")
        and bool(parameters)
        and parameters[0].name in {"self", "cls"}
    )


def _is_async(function: Callable[..., Any]) -> bool:
    call = getattr(type(function), "__call__", None)  # noqa: B004 - a decorator may be a class with an async __call__
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def _signatures(function: Callable[..., Any]) -> tuple[Signature, Signature | None]:
    """The signature that is called. If it takes what it passes on (`*args, **kwargs`), also that of the function it wraps."""
    wrapped = getattr(function, "__wrapped__", None)
    try:
        own = _signature(function)
    except ValueError:
        if wrapped is None:
            raise
        return _signatures(wrapped)  # a decorator in C, such as functools.cache, passes everything on
    if wrapped is None or not any(each.kind in VARIADIC for each in own.parameters.values()):
        return own, None
    inner, further = _signatures(wrapped)
    return own, further or inner


def _signature(function: Callable[..., Any]) -> Signature:
    # There, annotations that only a type checker imports would raise. As text, those of a local class would lead nowhere.
    if sys.version_info >= (3, 14):  # pragma: no cover
        import annotationlib  # noqa: PLC0415 - new in 3.14

        return inspect.signature(
            function, follow_wrapped=False, annotation_format=annotationlib.Format.FORWARDREF
        )
    return inspect.signature(function, follow_wrapped=False)


def _merged(own: list[Parameter], inner: list[Parameter]) -> list[Parameter]:
    """The parameters of a decorator's function, with the wrapped function's in the place of `*args` and `**kwargs`."""
    named = {each.name for each in own if each.kind not in VARIADIC}
    passed = [each for each in inner if each.name not in named]
    return sorted([each for each in own if each.name in named] + passed, key=lambda each: each.kind)


def _context(parameters: list[Parameter], scope: Mapping[str, Any]) -> Parameter | None:
    """The parameter that is given the TaskContext."""
    found = None
    for index, each in enumerate(parameters):
        try:
            if not is_context(each.annotation, scope):
                continue
        except ValueError as error:
            raise NotATask(f"has a parameter {each.name} that {error}") from None
        if index or each.kind not in POSITIONAL:
            raise NotATask(
                f"has its TaskContext in the wrong place ({each.name}); it is the first positional parameter"
            )
        found = each
    return found

"""The signature of a task's function, read once at declaration.

`describe` refuses functions that cannot be tasks, and says how to call the others. At every delivery `Shape.mismatch`
says whether the arguments fit, without calling the function. Invariant: `mismatch` is None exactly when a call with these
arguments would reach the function's first line.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from dataclasses import dataclass
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_CONTEXT: Final = "TaskContext"
_POSITIONAL: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


class NotATask(ValueError):
    """The object cannot be a task's function; the message says why, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Description:
    """How a task's function is called."""

    function: Callable[..., Any]
    is_async: bool
    takes_context: bool
    shape: Shape


def describe(func: object) -> Description:
    """Describes a function, or the function of a Task (ours, Django's, anything with `.func`).

    Raises:
        NotATask: it is not a function, has no name, is a generator, or takes its TaskContext in the wrong place.
    """
    function = _underlying(func)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise NotATask("is a generator; a task returns its result")
    try:
        parameters = list(_signature(function).parameters.values())
    except (TypeError, ValueError):
        raise NotATask("has no signature that Python can read; wrap it in a def") from None
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    contexts = [
        index for index, parameter in enumerate(parameters) if _is_context(parameter.annotation, scope)
    ]
    if contexts and (contexts != [0] or parameters[0].kind not in _POSITIONAL):
        stray = parameters[contexts[-1]].name
        raise NotATask(
            f"has its TaskContext in the wrong place ({stray}); it is the first positional parameter"
        )
    # A keyword must not repeat an argument that the call fills in: `ctx`, and `self` of a bound method.
    taken = (
        {parameters[0].name} if contexts and parameters[0].kind is Parameter.POSITIONAL_OR_KEYWORD else set()
    )
    if inspect.ismethod(function):
        first = next(iter(_signature(function.__func__).parameters.values()))
        taken |= {first.name} if first.kind is Parameter.POSITIONAL_OR_KEYWORD else set()
    return Description(
        function=function,
        is_async=_is_async(function),
        takes_context=bool(contexts),
        shape=Shape(parameters[1:] if contexts else parameters, frozenset(taken)),
    )


class Shape:
    """The arguments that a function takes. Precomputed: each delivery needs only a few set operations to check them.

    Args:
        parameters: those that a message fills, without the context.
        taken: names that no keyword may have, even when the function takes `**kwargs`.
    """

    __slots__ = ("_any_keyword", "_filled", "_keywords", "_least", "_most", "_owed", "_signature", "_taken")

    def __init__(self, parameters: Sequence[Parameter], taken: frozenset[str] = frozenset()) -> None:
        kinds = {parameter.kind for parameter in parameters}
        positional = [parameter for parameter in parameters if parameter.kind in _POSITIONAL]
        required = [parameter.name for parameter in parameters if _is_required(parameter)]
        only = {parameter.name for parameter in positional if parameter.kind is Parameter.POSITIONAL_ONLY}
        named = [parameter.name for parameter in positional]
        self._signature = Signature(parameters)
        self._taken = taken
        self._any_keyword = Parameter.VAR_KEYWORD in kinds
        self._most = sys.maxsize if Parameter.VAR_POSITIONAL in kinds else len(positional)
        self._least = sum(name in only for name in required)
        self._keywords = frozenset(
            parameter.name
            for parameter in parameters
            if parameter.kind in {Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY}
        )
        # By the number of positional arguments: the names they fill, and the names that keywords must fill.
        counts = range(len(named) + 1)
        self._filled = [frozenset(named[:count]) - only for count in counts]
        self._owed = [frozenset(required) - frozenset(named[:count]) for count in counts]

    @property
    def first(self) -> object:
        """The annotation of the first argument; None without one."""
        parameters = list(self._signature.parameters.values())
        return parameters[0].annotation if parameters else None

    def mismatch(self, args: Sequence[object], kwargs: Mapping[str, object]) -> str | None:
        """None when the arguments fit; otherwise one sentence that says why not. It may quote a keyword's name."""
        count = len(args)
        if self._least <= count <= self._most:
            given = kwargs.keys()
            index = min(count, len(self._owed) - 1)
            if not given:
                if not self._owed[index]:
                    return None
            elif (
                self._owed[index] <= given
                and self._filled[index].isdisjoint(given)
                and (self._taken.isdisjoint(given) if self._any_keyword else given <= self._keywords)
            ):
                return None
        return self._why(args, kwargs)

    def _why(self, args: Sequence[object], kwargs: Mapping[str, object]) -> str:
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            return str(error)
        return "a keyword names an argument that the receiver fills in"


def _underlying(func: object) -> Callable[..., Any]:
    if isinstance(func, functools.partial):
        raise NotATask("is a partial, which has no name of its own; write a def")
    function = func if inspect.isroutine(func) else getattr(func, "func", func)
    if isinstance(function, functools.partial):
        raise NotATask("wraps a partial, which has no name of its own; write a def")
    if not callable(function) or isinstance(function, type):
        raise NotATask("is not a function")
    names = [getattr(function, attribute, None) for attribute in ("__name__", "__qualname__", "__module__")]
    if not all(isinstance(name, str) and name for name in names):
        raise NotATask("has no name of its own; write a def")
    if names[0] == "<lambda>":
        raise NotATask("is a lambda, which has no name of its own; write a def")
    return function


def _is_async(function: Callable[..., Any]) -> bool:
    call = getattr(type(function), "__call__", None)  # noqa: B004 - a decorator may be a class with an async __call__
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def _signature(function: Callable[..., Any]) -> Signature:
    if sys.version_info >= (
        3,
        14,
    ):  # pragma: no cover - there, annotations that only a type checker imports would raise
        import annotationlib  # noqa: PLC0415 - new in 3.14

        return inspect.signature(function, annotation_format=annotationlib.Format.STRING)
    return inspect.signature(function)


def _is_context(annotation: object, scope: Mapping[str, object]) -> bool:
    """Whether an annotation means `receiver.TaskContext`, as a class or as text that may not be importable at run time."""
    if isinstance(annotation, str):
        dotted = annotation.strip("'\" ")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", dotted):
            return False
        root, *rest = dotted.split(".")
        if root not in scope:
            return dotted.rpartition(".")[2] == _CONTEXT
        annotation = functools.reduce(lambda value, name: getattr(value, name, None), rest, scope[root])
    # By name and package: Django has a class of the same name.
    home = getattr(annotation, "__module__", None)
    return (
        isinstance(annotation, type)
        and annotation.__name__ == _CONTEXT
        and isinstance(home, str)
        and home.partition(".")[0] == "receiver"
    )


def _is_required(parameter: Parameter) -> bool:
    variadic = parameter.kind in {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}
    return not variadic and parameter.default is Parameter.empty

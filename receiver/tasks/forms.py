"""The forms of a task's parameters and of its result: a call is checked and a delivery converted by the same ones.

They are made at their first use, because an annotation may name what its module defines later. A parameter that is plain JSON, or
has no annotation, is not looked at when a message is delivered: what older code enqueued still runs.

Next: `receiver.tasks.task` encodes a call, `receiver.tasks.registry` converts a delivery.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from inspect import Parameter
from typing import (
    Any,
    Final,
    NamedTuple,
    Never,
    NoReturn,
    Optional,
    ParamSpecArgs,
    ParamSpecKwargs,
    Unpack,
    get_args,
    get_origin,
)

from receiver.contract.convert import Form, Unfit, is_written, to_json
from receiver.contract.difference import difference, infinite, obstacle
from receiver.contract.message import check_arguments
from receiver.errors import Rejected
from receiver.tasks.annotations import Unresolved, resolved
from receiver.tasks.shape import POSITIONAL, Shape

_ANY: Final = Form(Any)
_OF_MANY: Final = (ParamSpecArgs, ParamSpecKwargs)
_OF_NOTHING: Final = (NoReturn, Never)


class Position(NamedTuple):
    """Where an argument goes, and how it travels: a parameter, or an item of `*args` or `**kwargs`.

    Attributes:
        problem: why its values are left as they are, as the end of a sentence; None if they are converted.
    """

    name: str
    form: Form = _ANY
    problem: str | None = None


@dataclass(eq=False)
class Forms:
    """How the arguments and the result of one function travel.

    Attributes:
        parameters: those that a message fills.
        returns: the annotation of the result.
        scope: the names of the function's module.
        decorated: a decorator takes any arguments. Those that are not the function's own are the decorator's, and stay plain JSON.
    """

    parameters: Sequence[Parameter]
    returns: Any
    scope: Mapping[str, Any]
    decorated: bool = field(default=False, kw_only=True)

    def received(self, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a message, as the function's annotations say.

        Raises:
            Unfit: one of them does not fit. Text and detail begin with the parameter.
        """
        if not self._converts:
            return args, kwargs
        places = iter(self._places(args, kwargs))
        read = [_read(value, next(places)) for value in args]
        return read, {name: _read(value, next(places)) for name, value in kwargs.items()}

    def encoded(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[bytes, bytes]:
        """The arguments of a call as JSON text: `args` and `kwargs`.

        Raises:
            TypeError: the task would not get one of them as it is. One line that begins with the parameter.
        """
        given = list(zip(self._places(args, kwargs), (*args, *kwargs.values()), strict=True))
        try:
            texts = to_json(args), to_json(kwargs)
            positional, named = check_arguments(*texts)
        except Rejected as rejected:
            raise TypeError(f"no message can carry the arguments: {rejected.detail}") from None
        except Exception as error:  # noqa: BLE001 - writes values of any class
            found = (obstacle(value, place.name) for place, value in given)
            raise TypeError(next(filter(None, found), f"the arguments are not JSON: {error}")) from None
        for (place, value), sent in zip(given, (*positional, *named.values()), strict=True):
            why = _misfit(place, value, sent)
            if why is not None:
                raise TypeError(why)
        return texts

    def returned(self, value: Any) -> Any:
        """The JSON value of a result, as the function's annotation says.

        Raises:
            Unfit: it does not fit: other code returned it.
        """
        return self._result.form.received(value)

    @cached_property
    def takes_bytes(self) -> bool:
        """Whether the first parameter is annotated `bytes`: then the data of a foreign message need not be JSON."""
        return bool(self._slots) and self._slots[0][1].form.annotation in (bytes, bytes | None)

    def problems(self) -> Iterator[tuple[str, bool]]:
        """A line for each annotation by which nothing can be converted, and whether the task cannot do without."""
        for parameter, place in self._slots:
            if place.problem is not None:
                needed = place.form.fault is not None and parameter.default is Parameter.empty
                yield f"parameter {place.name} {place.problem}", needed
        result = self._result
        if result.problem is not None:
            unknown = result.form.unknown
            yield f"its result {result.problem}", unknown is not None and not is_written(unknown)

    @cached_property
    def _slots(self) -> list[tuple[Parameter, Position]]:
        """The parameters. What no message can carry is the decorator's to give."""
        slots = [(each, self._position(each.name, each.annotation, each.default)) for each in self.parameters]
        return [slot for slot in slots if not (self.decorated and slot[1].form.unknown is not None)]

    @cached_property
    def _result(self) -> Position:
        result = self._position("result", self.returns)
        annotation = result.form.annotation
        if get_origin(annotation) in {Awaitable, Coroutine}:  # a `def` that returns what is awaited
            return self._position("result", get_args(annotation)[-1])
        return result

    def _position(self, name: str, annotation: Any, default: Any = Parameter.empty) -> Position:
        if annotation is Parameter.empty or annotation is Any:
            return Position(name)
        try:
            found = resolved(annotation, self.scope)
        except Unresolved as error:
            return Position(name, problem=f"{error}: it is left as plain JSON")
        if isinstance(found, _OF_MANY) or found in _OF_NOTHING or get_origin(found) is Unpack:
            return Position(name)
        if default is None:
            with suppress(TypeError):
                found = Optional[found]  # noqa: UP045 - of any annotation
        form = Form(found)
        return Position(name, form, form.fault)

    @cached_property
    def _converts(self) -> bool:
        return not all(place.form.plain for _, place in self._slots)

    @cached_property
    def _own(self) -> Shape:
        return Shape([parameter for parameter, _ in self._slots])

    @cached_property
    def _positional(self) -> list[Position]:
        return [place for parameter, place in self._slots if parameter.kind in POSITIONAL]

    @cached_property
    def _named(self) -> dict[str, Position]:
        only = {Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY}
        return {place.name: place for parameter, place in self._slots if parameter.kind in only}

    @cached_property
    def _variadic(self) -> dict[Any, Position]:
        return {parameter.kind: place for parameter, place in self._slots}

    def _places(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Position]:
        """Where each argument goes, those of `kwargs` last."""
        if self.decorated and not self._own.fits(args, kwargs):
            positional = list[Position]()
            rest = Position("args")
        else:
            positional = self._positional
            rest = self._variadic.get(Parameter.VAR_POSITIONAL, Position("args"))
        more = self._variadic.get(Parameter.VAR_KEYWORD, Position("kwargs"))
        over = len(args) - len(positional)
        return [
            *positional[: len(args)],
            *(rest._replace(name=f"{rest.name}[{index}]") for index in range(over)),
            *(self._named.get(name) or more._replace(name=f"{more.name}[{name!r}]") for name in kwargs),
        ]


def _read(value: Any, place: Position) -> Any:
    if place.form.plain:
        return value
    try:
        return place.form.received(value)
    except Unfit as error:
        raise Unfit(f"{place.name}: {error}", f"{place.name}: {error.detail}") from None


def _misfit(place: Position, given: Any, sent: Any) -> str | None:
    """Why the task would not get what was given, after it has become JSON; None when it will."""
    try:
        received = place.form.received(sent)
    except Unfit as error:
        if isinstance(given, bool) and place.form.plain:  # it is an int to a type checker, and true in JSON
            return _misfit(place, int(given), int(given))
        return infinite(given, place.name) or f"{place.name}: {error}"
    why = difference(given, received, place.name)
    return why if why is None or place.problem is None else f"{place.name} {place.problem}"

"""Typed values to JSON and back: the arguments and the result of a task, by the annotations of its function.

`to_json` writes any value that ordinary code passes or returns. A `Form` reads a JSON value as one annotation says. msgspec does the
work. It is strict as a type checker is: an int will do for a float, text will not do for an int.

Invariant: the wire format is plain JSON, as the reference has it. A form whose annotation is plain JSON changes no value.

Next: `receiver.tasks.forms` has the forms of a function's parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from types import GenericAlias
from typing import Any, Final, get_args, get_origin

import msgspec
import msgspec.inspect

from receiver.contract.collisions import collide

_SUBCLASSED: Final = (str, int, float)
"""JSON's types whose subclasses are read and written too, such as Django's safe strings."""

_WRITTEN: Final[dict[type, Any]] = {
    str: str.__str__,
    int: int,
    float: float,
    bytes: bytes,
    Decimal: str,
    PurePath: str,
    datetime: datetime.isoformat,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: lambda value: timedelta(value.days, value.seconds, value.microseconds),
    Mapping: dict,
    Sequence: list,
    AbstractSet: list,
}
"""What msgspec does not write, and how it is made plain: subclasses of what it knows, paths, SQLAlchemy's rows, views."""


COLLISIONS: Final = "has different values of the same hash, of which a set would take hours to make"


class Unfit(ValueError):
    """A value does not fit the annotation.

    Attributes:
        detail: the reason without any of the value: for logs, and for the record of rejected messages.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.detail = detail


def to_json(value: Any) -> bytes:
    """The value as JSON text. Bytes are base64, times ISO 8601, enums their value, dataclasses and models objects.

    NaN and infinity become null, as JSON has neither.

    Raises:
        TypeError, ValueError, RecursionError: some part of it is no data, such as an open file.
    """
    return _ENCODER.encode(value)


def to_plain(value: Any) -> Any:
    """The value as lists, dicts, text and numbers, as `to_json` writes them; NaN stays NaN."""
    return msgspec.to_builtins(
        value, enc_hook=lambda part: None if type(part) is msgspec.Raw else _plain(part)
    )


class Form:
    """One annotation: whether a JSON value has to be converted for it, and how.

    Args:
        annotation: with its names resolved.

    Attributes:
        fault: why no JSON value can be converted to it, as the end of a sentence; values are left as they are then. None if they can.
        unknown: the class in it that the fault is about, if it is one.
        plain: every value of it is JSON already, so that a delivery need not look at it. True when there is a fault.
    """

    __slots__ = ("_hashes", "_holder", "annotation", "fault", "plain", "unknown")

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        self.fault: str | None = None
        self.unknown: type | None = None
        self._holder: type[msgspec.Struct] | None = None
        try:
            info = msgspec.inspect.type_info(annotation)
            self.unknown = _unknown(info)
        except Exception as error:  # noqa: BLE001 - msgspec looks at classes of any library
            self.fault = _worded(error)
        if self.unknown is not None:
            self.fault = (
                f"has a {self.unknown.__qualname__}, which no message can carry: pass what it is made of, "
                "such as its id, a dataclass or a dict"
            )
        self.plain = self.fault is not None or _is_plain(info)
        self._hashes = self.fault is None and _hashes(info)
        if self.fault is None and annotation is not Any:
            # A struct's fields are analysed once, those of another type at every conversion.
            self._holder = msgspec.defstruct("Holder", [("value", annotation)], array_like=True)

    def received(self, value: Any) -> Any:
        """The JSON value as the annotation says; as it is when there is a fault.

        Raises:
            Unfit: it does not fit.
        """
        if self._holder is None:
            return value
        if self._hashes and collide(value):
            raise Unfit(COLLISIONS, COLLISIONS)
        try:
            held: Any = msgspec.convert([value], self._holder, dec_hook=_made, str_keys=True)
        except Exception as error:  # noqa: BLE001 - a validator of the application may raise anything
            raise _unfit(error) from None
        return held.value


def is_written(kind: type) -> bool:
    """Whether `to_json` writes values of a class that a `Form` does not know: rows and views, numpy's."""
    return kind.__module__ == "numpy" or issubclass(kind, tuple(_WRITTEN))


def _plain(value: Any) -> Any:
    """A value that msgspec does not know, as one that it knows."""
    kind = type(value)
    if _is_model(kind):
        return value.model_dump(mode="json", by_alias=True)
    if kind.__module__ == "numpy":  # scalars and arrays
        return value.tolist()
    # msgspec knows these: one that comes here is a key, and JSON's are text.
    if not isinstance(value, list | tuple | dict | set | frozenset):
        for known, write in _WRITTEN.items():
            if isinstance(value, known):
                return write(value)
    raise TypeError(f"a {kind.__qualname__} is not JSON")


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_plain)


def _made(kind: Any, value: Any) -> Any:
    """A value of a type that msgspec does not know. Raises what that type raises."""
    if kind is object:
        return value
    base = get_origin(kind) or kind
    if base is Iterable:
        items = GenericAlias(list, get_args(kind) or (Any,))
        return msgspec.convert(value, items, dec_hook=_made, str_keys=True)
    if _is_model(kind):  # by way of JSON: there, a strict model takes text for a date
        return kind.model_validate_json(msgspec.json.encode(value))
    wanted = next((each for each in _SUBCLASSED if issubclass(base, each)), str)  # a path is made of text
    return base(msgspec.convert(value, wanted))


def _is_known(kind: Any) -> bool:
    """Whether `_made` makes it."""
    return kind in {object, Iterable} or _is_model(kind) or issubclass(kind, (*_SUBCLASSED, PurePath))


def _is_model(kind: Any) -> bool:
    """Whether it is a class of pydantic's models, which is never imported here."""
    return hasattr(kind, "model_validate_json")


def _parts(node: Any) -> list[Any]:
    """The types inside a type, as `msgspec.inspect` describes it: items, keys, the members of unions, the types of fields."""
    values = [getattr(node, name) for name in node.__struct_fields__]
    flat = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]
    fields = [part.type if isinstance(part, msgspec.inspect.Field) else part for part in flat]
    return [part for part in fields if isinstance(part, msgspec.inspect.Type)]


def _all_of(root: Any) -> Iterator[Any]:
    """The described type and all that are inside it, each once."""
    todo, seen = [root], set[int]()
    while todo:
        node = todo.pop()
        if id(node) in seen:  # a class may contain itself
            continue
        seen.add(id(node))
        yield node
        todo += _parts(node)


def _unknown(root: Any) -> type | None:
    """A class in the described type that msgspec accepts, and neither it nor `_made` can make."""
    custom = (each.cls for each in _all_of(root) if isinstance(each, msgspec.inspect.CustomType))
    return next((kind for kind in custom if not _is_known(kind)), None)


def _hashes(root: Any) -> bool:
    """Whether the described type has sets, or mappings, of what is no text. A model of pydantic's may have some."""
    inspect = msgspec.inspect
    for each in _all_of(root):
        match each:
            case inspect.SetType(item_type=member) | inspect.FrozenSetType(item_type=member):
                pass
            case inspect.DictType(key_type=member):
                pass
            case inspect.CustomType(cls=kind) if _is_model(kind):
                return True
            case _:
                continue
        if not isinstance(
            member, inspect.StrType | inspect.BytesType | inspect.EnumType | inspect.LiteralType
        ):
            return True
    return False


def _is_plain(node: Any) -> bool:  # noqa: PLR0911 - a table: one line a kind
    """Whether every JSON value that this described type takes is the Python value already. A float may then be given as an int."""
    inspect = msgspec.inspect
    match node:
        case inspect.AnyType() | inspect.NoneType() | inspect.BoolType():
            return True
        case inspect.CustomType():
            return node.cls is object
        case inspect.IntType() | inspect.FloatType() | inspect.StrType():
            return all(getattr(node, name) is None for name in node.__struct_fields__)
        case inspect.ListType(min_length=None, max_length=None):
            return _is_plain(node.item_type)
        case inspect.DictType(
            key_type=inspect.StrType() | inspect.AnyType(), min_length=None, max_length=None
        ):
            return _is_plain(node.key_type) and _is_plain(node.value_type)
        case inspect.UnionType():
            return all(_is_plain(each) for each in node.types)
        case _:
            return False


def _worded(error: Exception) -> str:
    """Why msgspec refuses a type, as the end of a sentence that begins with the parameter."""
    text = " ".join(str(error).split())
    if "Type unions may not contain more than one" in text or "custom type may not contain" in text:
        return (
            "is a union whose members look alike in JSON: use one of them, or msgspec structs with tags "
            "(class Car(msgspec.Struct, tag=True))"
        )
    return f"cannot be read from JSON: {text[:200]}"


def _unfit(error: Exception) -> Unfit:
    """Why msgspec, a validator or a class of the application refuses a value."""
    reason = " ".join(str(error).split())[:300]
    reason = reason.replace("`$[0]", "`").removesuffix(" in ``").removesuffix(" - at ``")
    own = error if not isinstance(error, msgspec.ValidationError) else error.__cause__
    if own is not None:  # its text may hold the value
        return Unfit(f"{type(own).__name__}: {reason}", f"refused by a {type(own).__name__}")
    quoting = next((each for each in _QUOTING if reason.startswith(each)), None)
    return Unfit(reason, quoting or reason)


_QUOTING: Final = ("Invalid enum value", "Invalid value", "Object contains unknown field")
"""How msgspec's messages begin that go on with a part of the value."""

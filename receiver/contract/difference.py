"""Refuses an argument that would arrive as another value, and says in words what would differ.

Invariant: `difference` is None only when the task gets an equal value, except that a sequence may arrive as a list.

Next: `receiver.tasks.forms` refuses calls by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from receiver.contract.convert import to_json
from receiver.contract.counting import MAX_DEPTH
from receiver.text import is_storable

_JSON: Final = (str, int, float, list, dict, type(None))


def difference(given: Any, received: Any, place: str, depth: int = 0) -> str | None:
    """The first part of a value that would not arrive as it was given, and why; None when there is none.

    Args:
        place: the argument's name; the answer begins with it.
    """
    if _is_equal(given, received):
        return None
    mine, theirs = _parts(given, place), _parts(received, place)
    is_list = isinstance(given, Sequence) and isinstance(received, list)
    alike = (
        is_list or type(given) is type(received) or (isinstance(given, dict) and isinstance(received, dict))
    )
    if depth > MAX_DEPTH or mine is None or theirs is None or not alike or mine.keys() != theirs.keys():
        return _changed(given, received, place)
    differences = (difference(part, theirs[name], name, depth + 1) for name, part in mine.items())
    return next(filter(None, differences), None)


def infinite(value: Any, place: str, depth: int = 0) -> str | None:
    """The first number in a value that is NaN or infinite, which becomes null, and why that is no good; None when there is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{place} is {value}, which JSON does not have"
    if depth > MAX_DEPTH:
        return None
    found = (infinite(part, name, depth + 1) for name, part in (_parts(value, place) or {}).items())
    return next(filter(None, found), None)


def obstacle(value: Any, place: str, depth: int = 0) -> str | None:
    """The first part of a value that cannot be written as JSON, and why; None when all of it can."""
    if depth > MAX_DEPTH:
        return f"{place[:60]}... is nested more than {MAX_DEPTH} levels deep, or contains itself"
    try:
        to_json(value)
    except Exception as error:  # noqa: BLE001 - writes values of any class
        obstacles = (obstacle(part, name, depth + 1) for name, part in (_parts(value, place) or {}).items())
        return next(filter(None, obstacles), None) or _unwritable(value, place, error)
    return None


def _is_equal(given: Any, received: Any) -> bool:
    try:
        return bool(given == received) or bool(given != given and received != received)  # noqa: PLR0124 - NaN is equal to NaN here
    except Exception:  # noqa: BLE001 - of any class: an array has no truth
        return False


def _parts(value: Any, place: str) -> dict[str, Any] | None:
    """The parts of a container or of an object with fields, by their places; None when it has none."""
    if isinstance(value, dict):
        return {f"{place}[{key!r}]": part for key, part in value.items()}
    if isinstance(value, Sequence):
        texts = isinstance(value, str | bytes | bytearray | memoryview)
        return None if texts else {f"{place}[{index}]": part for index, part in enumerate(value)}
    kind = type(value)
    names = getattr(kind, "__struct_fields__", None) or getattr(kind, "__dataclass_fields__", None)
    if names is None:
        names = [each.name for each in getattr(kind, "__attrs_attrs__", ())] or None
    return None if names is None else {f"{place}.{name}": getattr(value, name, None) for name in names}


def _changed(given: Any, received: Any, place: str) -> str:
    kind = type(given).__qualname__
    if isinstance(given, float) and (why := infinite(given, place)) is not None:
        return why
    if isinstance(given, dict) and isinstance(received, dict):
        how = "lose some of its" if len(received) < len(given) else "arrive with other"
        return _key_fault(given, place) or f"{place} would {how} keys: annotate it as what it is"
    if isinstance(given, _JSON) or not isinstance(received, _JSON):
        other = type(received).__qualname__
        arrives = f"another {kind}" if kind == other else f"a {other}"
        return f"{place} is a {kind} and would arrive as {arrives}: pass that, or annotate the parameter otherwise"
    return (
        f"{place} is a {kind}, which is not JSON: pass text, numbers, lists or dicts, "
        "or annotate the parameter as what it is"
    )


def _unwritable(value: Any, place: str, error: Exception) -> str:
    if isinstance(value, str) and not is_storable(value):
        return f"{place} holds a lone surrogate, which no message can carry"
    if isinstance(value, dict) and (fault := _key_fault(value, place)) is not None:
        return fault
    if isinstance(error, TypeError):
        return f"{place} is a {type(value).__qualname__}, which no message can carry: pass what it is made of, such as its id"
    return f"{place} is not JSON: {' '.join(str(error).split())[:200]}"


def _key_fault(value: dict[Any, Any], place: str) -> str | None:
    """The first key that is not JSON's."""
    for key in value:
        if not isinstance(key, str):
            return f"{place} has the key {key!r}; JSON's keys are text"
        if not is_storable(key):
            return f"{place} holds a lone surrogate, which no message can carry"
    return None

"""Values that exist once: two that are equal are the same object, so that comparing and hashing them costs nothing.

A model holds millions of states, and they are made of few different rows and actors.
"""

from __future__ import annotations

from itertools import count
from operator import attrgetter
from typing import Any, Self

_numbers = count()


class Shared(type):
    """The metaclass of such values. Their fields are given by position or by name, and have to be hashable."""

    def __init__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> None:
        super().__init__(name, bases, space)
        cls._made: dict[tuple[Any, ...], Any] = {}

    def __call__(cls, *args: Any, **named: Any) -> Any:
        if named or len(args) < len(cls.__slots__):  # type: ignore[attr-defined]  # every value has slots
            value = super().__call__(*args, **named)
            args = tuple(getattr(value, name) for name in cls.__slots__)  # type: ignore[attr-defined]  # as above
        found = cls._made.get(args)
        if found is None:
            found = cls._made[args] = super().__call__(*args)
            object.__setattr__(found, "n", next(_numbers))
        return found


class Value(metaclass=Shared):
    """A value: a frozen dataclass with slots and without `eq`.

    Attributes:
        n: its number: values are ordered as they were first made.
    """

    __slots__ = ("n",)

    n: int

    def but(self, **changes: Any) -> Self:
        """The value that differs in these fields."""
        key = (self, *changes.items())
        found: Self | None = _changed.get(key)
        if found is None:
            fields = tuple(changes.get(name, getattr(self, name)) for name in self.__slots__)
            found = _changed[key] = type(self)(*fields)
        return found


_changed: dict[tuple[Any, ...], Any] = {}

number = attrgetter("n")

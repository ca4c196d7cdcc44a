"""The arguments that a function takes: how many, and of which names.

Invariant: `mismatch` is None exactly when a call with these arguments would reach the function's first line. It calls nothing.

Next: `receiver.tasks.registry` refuses a delivery by it, `receiver.tasks.task` a call.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from inspect import Parameter, Signature
from typing import Any, Final

HIDDEN: Final = "[redacted]"
"""What stands for a value that nobody is shown."""

POSITIONAL: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
VARIADIC: Final = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


class Shape:
    """The arguments that a function takes. Precomputed: each delivery needs only a few set operations to check them.

    Args:
        parameters: those that a message fills, without the context.
        taken: names that no keyword may have, even when the function takes `**kwargs`.
    """

    __slots__ = ("_any_keyword", "_filled", "_keywords", "_least", "_most", "_owed", "_parameters", "_taken")

    def __init__(self, parameters: Sequence[Parameter], taken: frozenset[str] = frozenset()) -> None:
        kinds = {parameter.kind for parameter in parameters}
        positional = [parameter for parameter in parameters if parameter.kind in POSITIONAL]
        required = [
            parameter.name
            for parameter in parameters
            if parameter.default is Parameter.empty and parameter.kind not in VARIADIC
        ]
        only = {parameter.name for parameter in positional if parameter.kind is Parameter.POSITIONAL_ONLY}
        named = [parameter.name for parameter in positional]
        self._parameters = parameters
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

    def mismatch(self, args: Sequence[object], kwargs: Mapping[str, object]) -> str | None:
        """None when the arguments fit; otherwise one sentence that says why not. It may quote a keyword's name."""
        if self.fits(args, kwargs):
            return None
        try:
            Signature(self._parameters).bind(*args, **kwargs)
        except TypeError as error:
            return str(error)
        return "a keyword names an argument that the receiver fills in"

    @property
    def names(self) -> list[str]:
        """The names of the parameters, in their order."""
        return [parameter.name for parameter in self._parameters]

    def hidden(self, names: Collection[str], args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments with `HIDDEN` for those of these parameters; for all, when they do not fit: who knows which is which.

        The name of `*args` or `**kwargs` stands for all that it takes.
        """
        if not isinstance(args, list) or not isinstance(kwargs, dict) or not self.fits(args, kwargs):
            return HIDDEN, HIDDEN
        kinds = {parameter.kind: parameter.name for parameter in self._parameters}
        rest, others = kinds.get(Parameter.VAR_POSITIONAL), kinds.get(Parameter.VAR_KEYWORD)
        places = [parameter.name for parameter in self._parameters if parameter.kind in POSITIONAL]
        places += [rest or ""] * (len(args) - len(places))
        return (
            [HIDDEN if name in names else value for name, value in zip(places, args, strict=False)],
            {
                name: HIDDEN if (name if name in self._keywords else others) in names else value
                for name, value in kwargs.items()
            },
        )

    def fits(self, args: Sequence[object], kwargs: Mapping[str, object]) -> bool:
        """Whether the arguments fit."""
        count = len(args)
        if not self._least <= count <= self._most:
            return False
        given = kwargs.keys()
        index = min(count, len(self._owed) - 1)
        if not given:
            return not self._owed[index]
        return (
            self._owed[index] <= given
            and self._filled[index].isdisjoint(given)
            and (self._taken.isdisjoint(given) if self._any_keyword else given <= self._keywords)
        )

"""The items of a statement, as the rows of a table `i`: from arrays, or from plain parameters when there is one item.

While little goes on, each delivery is alone. Arrays, and plans for many rows, would cost it a third of PostgreSQL's time. So the
statements of a delivery have two forms, made of one text: only what stands for `i` differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from receiver.record.database import Executor


class OneOrSeveral(NamedTuple):
    """The two forms of a statement. Their parameters have one order; those of `several` are arrays.

    >>> OneOrSeveral.of("SELECT i.id FROM {items}", "id text, fence bigint").one
    'SELECT i.id FROM (SELECT $1::text AS id, $2::bigint AS fence) AS i'
    """

    one: str
    several: str

    @classmethod
    def of(cls, text: str, columns: str) -> OneOrSeveral:
        """Both forms of a text that names `{items}`. `columns` are theirs, with their types."""
        return cls(text.format(items=one_row(columns)), text.format(items=rows(columns)))

    async def fetch(
        self, executor: Executor, items: Sequence[tuple[Any, ...]]
    ) -> Sequence[Mapping[str, Any]]:
        """Runs it for these rows."""
        if len(items) == 1:
            return await executor.fetch(self.one, *items[0])
        return await executor.fetch(self.several, *map(list, zip(*items, strict=True)))


def one_row(columns: str, first: int = 1) -> str:
    """SQL: the parameters from `first` on, as one row of these columns."""
    typed = [each.split() for each in columns.split(",")]
    selected = (f"${number}::{kind} AS {name}" for number, (name, kind) in enumerate(typed, first))
    return f"(SELECT {', '.join(selected)}) AS i"


def rows(columns: str, first: int = 1) -> str:
    """SQL: the arrays from `first` on, as rows of these columns."""
    typed = [each.split() for each in columns.split(",")]
    arrays = (f"${number}::{kind}[]" for number, (_, kind) in enumerate(typed, first))
    return f"unnest({', '.join(arrays)}) AS i({', '.join(name for name, _ in typed)})"

"""The items of a statement, as the rows of a table `i`: from arrays, or from plain parameters when there is one item.

While little goes on, each delivery and each enqueue is alone. Arrays, and plans for many rows, would cost it a third of
PostgreSQL's time. So their statements have two forms, made of one text: only what stands for `i` differs.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from receiver.record.database import Executor


class OneOrSeveral(NamedTuple):
    """The two forms of a statement. Their parameters have one order; those of the items are arrays in `several`.

    >>> OneOrSeveral.of("SELECT i.id FROM {items}", "id text, key.fence bigint").one
    'SELECT i.id FROM (SELECT $1::text AS id, $2::bigint AS fence) AS i'
    """

    one: str
    several: str
    values: Callable[[Any], tuple[Any, ...]]

    @classmethod
    def of(cls, text: str, columns: str, first: int = 1) -> OneOrSeveral:
        """Both forms of a text that names `{items}`, whose parameters begin at `first`.

        Args:
            columns: the attributes of an item, with their types in PostgreSQL.
        """
        one, several = (text.format(items=source(columns, first)) for source in (one_row, rows))
        return cls(one, several, values(columns))

    async def fetch(
        self, executor: Executor, items: Sequence[Any], *before: Any
    ) -> Sequence[Mapping[str, Any]]:
        """Runs it for these items, if there are any; `before` are the parameters before theirs."""
        if not items:
            return []
        if len(items) == 1:
            return await executor.fetch(self.one, *before, *self.values(items[0]))
        return await executor.fetch(self.several, *before, *transposed(map(self.values, items)))


def values(columns: str) -> Callable[[Any], tuple[Any, ...]]:
    """What reads an item: its values for these columns."""
    return attrgetter(*(path for path, _, _ in _typed(columns)))


def transposed(items: Iterable[tuple[Any, ...]]) -> Iterator[list[Any] | None]:
    """A list for each column. None for one without a value, as most of a success are: `unnest` fills it up, and asyncpg looks at each value."""
    for column in zip(*items, strict=True):
        yield None if column.count(None) == len(column) else list(column)


def one_row(columns: str, first: int = 1) -> str:
    """SQL: the parameters from `first` on, as one row of these columns."""
    selected = (
        f"${number}::{kind} AS {name}" for number, (_, name, kind) in enumerate(_typed(columns), first)
    )
    return f"(SELECT {', '.join(selected)}) AS i"


def rows(columns: str, first: int = 1) -> str:
    """SQL: the arrays from `first` on, as rows of these columns."""
    typed = _typed(columns)
    arrays = (f"${number}::{kind}[]" for number, (_, _, kind) in enumerate(typed, first))
    return f"unnest({', '.join(arrays)}) AS i({', '.join(name for _, name, _ in typed)})"


def _typed(columns: str) -> list[tuple[str, str, str]]:
    """The attribute, the name and the type of each."""
    pairs = [each.split() for each in columns.split(",")]
    return [(path, path.rpartition(".")[2], kind) for path, kind in pairs]

"""What listings share: options, the read of the record, tables. The columns stand with each command."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import click

from receiver.cli import arguments, terminal
from receiver.reading import queries
from receiver.record.whose import Whose

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from rich.table import Table
    from rich.text import Text
    from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")
F = TypeVar("F", bound="Callable[..., None]")

LONGEST = 10_000
"""Rows of the longest listing; for more use SQL."""

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def options(command: F) -> F:
    """`--namespace`, `--limit` and `--json`."""
    limit = click.option(
        "--limit",
        type=click.IntRange(1, LONGEST),
        default=queries.LISTED,
        show_default=True,
        help="How many at most.",
    )
    namespace = click.option(
        "--namespace",
        metavar="NAME",
        help="Those of another receiver that shares the database.  [default: $TASKS_NAMESPACE]",
    )
    return namespace(limit(as_json(command)))


def read(query: Callable[[AsyncConnection, Whose], Awaitable[T]], *, namespace: str | None = None) -> T:
    """What the query finds in the record of `DATABASE_URL`, in one read-only transaction; only rows of `TASKS_ENVIRONMENT`."""
    settings = arguments.settings()
    database = arguments.database(settings)
    whose = Whose(namespace or settings.namespace, settings.environment)

    async def run() -> T:
        async with queries.reading(database) as connection:
            return await query(connection, whose)

    return asyncio.run(run())


def table(rows: Sequence[T], columns: Mapping[str, Callable[[T], Text]]) -> Table:
    """A line for each row; `columns` gives each heading the cell of a row."""
    made = terminal.table(*columns)
    for row in rows:
        made.add_row(*(cell(row) for cell in columns.values()))
    return made


def values(row: Mapping[str, Any]) -> Table:
    """A line for each column of one row."""
    made = terminal.table("COLUMN", "VALUE")
    for name, value in row.items():
        made.add_row(terminal.cell(name), terminal.shown(value))
    return made

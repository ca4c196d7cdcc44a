"""What listings share: options, the read of the record, tables. The columns stand with each command."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import click
from rich.table import Table
from rich.text import Text

from receiver.cli import arguments, terminal
from receiver.reading import queries
from receiver.record.database import Database
from receiver.record.whose import Whose

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")
F = TypeVar("F", bound="Callable[..., None]")

LONGEST = 10_000
"""Rows of the longest listing; for more use SQL."""

GAP, LEAST, KEY = 2, 10, 40
"""Characters: between two columns; kept of a text that is cut; of the longest id for which the other lines leave room."""

wide = click.option("--wide", is_flag=True, help="Cut nothing, whatever the width of the terminal.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def options(command: F) -> F:
    """`--namespace`, `--limit`, `--wide` and `--json`."""
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
    return namespace(limit(wide(as_json(command))))


def read(query: Callable[[AsyncConnection, Whose], Awaitable[T]], *, namespace: str | None = None) -> T:
    """What the query finds in the record of `DATABASE_URL`, in one read-only transaction; only rows of `TASKS_ENVIRONMENT`."""
    settings = arguments.settings()
    database = Database.configured(settings)
    whose = Whose(namespace or settings.namespace, settings.environment)

    async def run() -> T:
        async with queries.reading(database) as connection:
            return await query(connection, whose)

    return asyncio.run(run())


class Columns(Generic[T]):
    """The columns of a listing, the id first: it is never cut, so that it can be copied.

    Args:
        cells: gives each heading the cell of a row.
        cut: headings whose texts are cut where a terminal is narrow, to `LEAST` characters.
        spare: headings that are left out before that, in this order.
        rare: headings that are shown only if a row has something there.
    """

    def __init__(
        self,
        cells: Mapping[str, Callable[[T], Text]],
        *,
        cut: Sequence[str],
        spare: Sequence[str] = (),
        rare: Sequence[str] = (),
    ) -> None:
        self._cells = cells
        self._cut = cut
        self._spare = spare
        self._rare = rare

    def answer(self, rows: Sequence[T], *, as_json: bool, wide: bool, none: str) -> None:
        """Prints the rows, as JSON or a line for each, or that there is none."""
        if as_json:
            terminal.print_json(rows)
        elif rows:
            self.show(rows, wide=wide)
        else:
            click.echo(none)

    def show(self, rows: Sequence[T], *, wide: bool = False) -> None:
        """Prints a line for each row. On a terminal the lines fit it, unless `wide`."""
        made = {name: [cell(row) for row in rows] for name, cell in self._cells.items()}
        made = {name: cells for name, cells in made.items() if name not in self._rare or any(cells)}
        widths = {name: max(len(name), *(cell.cell_len for cell in cells), 0) for name, cells in made.items()}
        console = terminal.console()
        key = next(iter(made))
        if console.is_terminal:  # the line of a longer id is longer, and no other
            widths[key] = max(len(key), *(cell.cell_len for cell in made[key] if cell.cell_len <= KEY), 0)
        fitting = self._fitting(widths, console.width) if console.is_terminal and not wide else widths
        for line in zip(*([Text(name, "bold"), *made[name]] for name in fitting), strict=True):
            for (name, width), cell in zip(fitting.items(), line, strict=True):
                cell.truncate(
                    width if name != key else max(width, cell.cell_len), overflow="ellipsis", pad=True
                )
            shown = Text("  ").join(line)
            shown.rstrip()
            console.print(shown, soft_wrap=True)
        if left_out := [name for name in widths if name not in fitting]:
            console.print(
                f"(left out here: {', '.join(left_out)}; --wide has them)", style="dim", soft_wrap=True
            )

    def _fitting(self, widths: Mapping[str, int], room: int) -> dict[str, int]:
        """The columns that are shown, with their widths."""
        kept = dict(widths)

        def excess(least: int) -> int:
            short = sum(min(width, least) if name in self._cut else width for name, width in kept.items())
            return short + GAP * (len(kept) - 1) - room

        for name in self._spare:
            if name in kept and excess(LEAST) > 0:
                del kept[name]
        longest = max(kept.values())
        while longest > LEAST and excess(longest) > 0:
            longest -= 1
        return {name: min(width, longest) if name in self._cut else width for name, width in kept.items()}


def table(rows: Iterable[T], columns: Mapping[str, Callable[[T], Text]]) -> Table:
    """A row for each; long texts are folded. `columns` gives each heading the cell of a row."""
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in columns:
        made.add_column(heading, overflow="fold")
    for row in rows:
        made.add_row(*(cell(row) for cell in columns.values()))
    return made


def show_values(row: Mapping[str, Any]) -> None:
    """Prints a line for each column of one row. A long value is one line too: a terminal wraps it, and it can be copied."""
    console = terminal.console()
    width = max(map(len, row))
    for name, value in row.items():
        console.print(Text(f"{name:<{width}}  ", "bold") + terminal.shown(value), soft_wrap=True)

"""docs/reference/tables.md has every table and column as the schema has them; another test compares the schema with the migrations."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import Column, Table
from sqlalchemy.dialects import postgresql

from receiver.record.schema import metadata
from tests.stage.pages import DOCS

PAGE = (DOCS / "reference" / "tables.md").read_text()


def type_of(column: Column[object]) -> str:
    """As PostgreSQL's users write it."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy does not type it
    name = str(column.type.compile(dialect=dialect)).lower().removesuffix(' collate "c"')
    return name.replace("timestamp with time zone", "timestamptz") + (" (key)" if column.primary_key else "")


def test_every_table_is_on_the_page() -> None:
    assert re.findall(r"^## (\w+)$", PAGE, re.MULTILINE) == list(metadata.tables)


@pytest.mark.parametrize("table", metadata.tables.values(), ids=lambda table: table.name)
def test_every_column_is_on_the_page_with_its_type(table: Table) -> None:
    section = PAGE.partition(f"\n## {table.name}\n")[2].partition("\n## ")[0]
    shown = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.+) \|$", section, re.MULTILINE)
    assert [row[:3] for row in shown] == [
        (column.name, type_of(column), "yes" if column.nullable else "") for column in table.columns
    ]
    says = {row[0]: row[3] for row in shown}
    for check in (each for each in table.constraints if hasattr(each, "sqltext")):
        one_of = re.fullmatch(r"(\w+) IN \((.*)\)", str(check.sqltext))
        if one_of is not None:
            assert re.findall(r"`([A-Z_]+)`", says[one_of[1]]) == re.findall(r"'(\w+)'", one_of[2])

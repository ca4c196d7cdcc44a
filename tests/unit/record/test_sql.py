"""Statements that change the record stand in `receiver.record.sql`, and every one of them in docs/reference/transitions.md."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Final

from receiver.record.schema import metadata

ROOT: Final = Path(__file__).resolve().parents[3]
SQL: Final = ROOT / "receiver" / "record" / "sql"
TABLES: Final = "|".join(metadata.tables)
CHANGE: Final = re.compile(rf"\b(?:INSERT INTO|UPDATE|DELETE FROM) (?:{TABLES})\b")
SERVICE: Final = (
    "contract",
    "delivery",
    "endings",
    "enqueue",
    "google",
    "reading",
    "record",
    "serving",
    "sweep",
    "tasks",
    "telemetry",
)


def families() -> list[ModuleType]:
    return [import_module(f"receiver.record.sql.{path.stem}") for path in sorted(SQL.glob("[a-z]*.py"))]


def changes(function: FunctionType, module: ModuleType) -> bool:
    """Whether it, or a function of its module that it calls, sends a statement that changes a row."""
    used = [vars(module).get(name) for name in function.__code__.co_names]
    return any(
        changes(each, module)
        if isinstance(each, FunctionType)
        else CHANGE.search(getattr(each, "one", str(each))) is not None
        for each in used
        if not isinstance(each, FunctionType) or each.__module__ == module.__name__
    )


def test_every_transition_is_on_the_page_and_every_row_of_the_page_is_a_transition() -> None:
    found = {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in families()
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_") and changes(function, module)
    }
    page = re.findall(
        r"(?m)^\| `([a-z_.]+)` \|", (ROOT / "docs" / "reference" / "transitions.md").read_text()
    )
    assert sorted(page) == sorted(found)


def test_no_other_room_of_the_service_changes_a_row() -> None:
    elsewhere = [
        path.relative_to(ROOT).as_posix()
        for room in SERVICE
        for path in (ROOT / "receiver" / room).rglob("*.py")
        if SQL not in path.parents and CHANGE.search(path.read_text())
    ]
    assert elsewhere == []

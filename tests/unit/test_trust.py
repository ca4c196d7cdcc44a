"""docs/trust.md maps every promise to the tests that show it; none may be missing on either side."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.stage.promises import unproven

ROOT = Path(__file__).resolve().parents[2]
PROMISED = (
    *(f"**I{number}**" for number in range(1, 10)),
    *(
        f"## {section}"
        for section in (
            "Kill and takeover",
            "Fence",
            "Overrun",
            "Shutdown",
            "Database",
            "Hostile endings",
            "Hostile input",
            "Hostile tokens",
            "Capacity",
            "Frozen CPU",
            "Provisioning",
            "Enqueue",
            "Sweeper",
            "The storm",
            "The soak",
        )
    ),
)


def page() -> str:
    """The page, without the results of storms."""
    return re.sub(
        r"<!-- storm -->.*?<!-- /storm -->", "", (ROOT / "docs" / "trust.md").read_text(), flags=re.DOTALL
    )


def test_every_promise_is_on_the_page() -> None:
    assert [promise for promise in PROMISED if promise not in page()] == []


@pytest.mark.slow
def test_every_line_names_a_test_and_every_test_exists() -> None:
    assert unproven(page(), header="| |") == []


@pytest.mark.parametrize(
    "page", [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"], ids=lambda page: page.name
)
def test_every_row_of_a_table_has_the_cells_of_its_head(page: Path) -> None:
    """Another row is shown as text."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        rows = table.splitlines()
        assert re.fullmatch(r"\|([ :]*-+[ :]*\|)+", rows[1]), rows[:2]
        assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {rows[1].count("|")}, rows[0]

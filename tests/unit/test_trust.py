"""docs/trust/ maps every promise to the tests that show it, and says what they do not cover; none may be missing on either side."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.stage.promises import unproven

ROOT = Path(__file__).resolve().parents[2]
TRUST = ROOT / "docs" / "trust"
PROMISED = {
    "promises.md": [*(f"(I{number})" for number in range(1, 10)), "(I12)", "The model"],
    "faults.md": [
        "Kill and takeover",
        "Fence",
        "Overrun",
        "Revisions",
        "Restore",
        "Shutdown",
        "Database",
        "Frozen CPU",
        "Enqueue",
        "Sweeper",
    ],
    "hostile.md": ["Endings of a task", "Input", "Connections", "Tokens", "Capacity", "Provisioning"],
}
SHOWN = re.compile(r"^\|(?: \|)? Shown by \|\n\|[-|]+\|\n(?:\|.*\n)+", re.MULTILINE)


def sections(page: str) -> dict[str, str]:
    """The sections of a page, by their headings."""
    _, *parts = re.split(r"^## ", (TRUST / page).read_text() + "\n", flags=re.MULTILINE)
    return {part.split("\n", 1)[0]: part for part in parts}


@pytest.mark.parametrize("page", PROMISED)
def test_every_promise_is_on_its_page_with_its_tests_and_what_they_do_not_cover(page: str) -> None:
    found = sections(page)
    for promised in PROMISED[page]:
        (section,) = [text for heading, text in found.items() if heading.endswith(promised)]
        assert SHOWN.search(section), promised
        assert "**Not covered:** " in section or promised == "The model", promised


@pytest.mark.parametrize("page", [*PROMISED, "storm.md", "soak.md"])
def test_every_line_names_a_test_and_every_test_exists(page: str) -> None:
    tables = SHOWN.findall((TRUST / page).read_text() + "\n")
    assert tables
    owed = (unproven(re.sub(r"\A.*\n.*\n", "", table), header="| |") for table in tables)
    assert [line for lines in owed for line in lines] == []


@pytest.mark.parametrize("page", ["storm.md", "soak.md", "model.md"])
def test_each_says_what_it_does_not_show(page: str) -> None:
    assert any(re.match(r"What it does not (cover|show)\n", text) for text in sections(page).values())


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

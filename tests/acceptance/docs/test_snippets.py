"""Every fenced block of the site is run: each page is followed from an empty folder, as a reader does (`tests.stage.page_run`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stage.page_run import play
from tests.stage.pages import DOCS, OWN_TESTS, read

PAGES = [
    name
    for name in sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    if name not in OWN_TESTS
    if any(block.language not in {"text", "bash"} for block in read((DOCS / name).read_text()))
]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_can_be_followed(page: str, place: Path, database_url: str, empty_database_url: str) -> None:
    play([(DOCS / page).read_text()], place, record=database_url, empty=empty_database_url)

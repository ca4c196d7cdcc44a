"""Every fenced block of the site is run: each page is followed from an empty folder, as a reader does (`tests.stage.page_run`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stage.page_run import play
from tests.stage.pages import CHAINS, DOCS, OLD, OWN_TESTS, read

CHAINED = {page for chain in CHAINS for page in chain}
ALONE = [
    name
    for name in sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    if name not in OWN_TESTS and name not in OLD and name not in CHAINED
    if any(block.language not in {"text", "bash"} for block in read((DOCS / name).read_text()))
]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.mark.parametrize("pages", [*((name,) for name in ALONE), *CHAINS], ids=", ".join)
def test_a_page_can_be_followed(
    pages: tuple[str, ...], place: Path, database_url: str, empty_database_url: str
) -> None:
    play([(DOCS / page).read_text() for page in pages], place, record=database_url, empty=empty_database_url)

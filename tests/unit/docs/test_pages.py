"""What a page of the documentation may have in it, seen without running it; `acceptance/docs/test_snippets.py` runs it."""

from __future__ import annotations

import re

import pytest

from tests.stage.pages import CLOUD, DOCS, OWN_TESTS, blocks, faults, missing, read
from tests.stage.promises import TESTS, functions

PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_is_one_that_is_run(page: str) -> None:
    assert faults((DOCS / page).read_text(), page) == []


def test_every_fence_is_read() -> None:
    """One that is indented, or has other marks, would be run by nobody."""
    for page in PAGES:
        text = (DOCS / page).read_text()
        assert len(re.findall(r"^\s*(?:```|~~~)", text, re.MULTILINE)) == 2 * len(read(text)), page


def test_the_tables_of_pages_name_what_there_is() -> None:
    assert sorted({*OWN_TESTS, *CLOUD} - set(PAGES)) == []
    for named in OWN_TESTS.values():
        file, _, name = named.partition("::")
        assert name in functions(TESTS / file), named


@pytest.mark.parametrize(
    ("fence", "why"),
    [
        ("python", "python without a title"),
        ("toml", "toml without a title"),
        ("", "an unknown language: none"),
        ("rust", "an unknown language: rust"),
        ('sh title="second terminal"', "an unknown title: second terminal"),
        ("bash", "bash, but the page is not in CLOUD (tests/stage/pages.py)"),
    ],
)
def test_a_block_that_nothing_would_run_is_told(fence: str, why: str) -> None:
    assert faults(f"# A page\n\n```{fence}\nx\n```\n", "howto/a.md") == [f"howto/a.md:3: {why}"]


def test_blocks_that_are_run_or_shown_are_no_fault() -> None:
    for fence in (
        'python title="a.py"',
        "sh",
        'sh title="first terminal"',
        "sql",
        "text",
        'json title="a.json"',
    ):
        assert faults(f"```{fence}\nx\n```\n", "howto/a.md") == []


def test_what_a_page_shows_is_the_beginning_of_lines_in_order() -> None:
    shown = "READY   1  send\nstarted in 0.31 s\n\nlast line of all\n"
    assert missing("READY 1\nstarted in … s\nlast line\n", shown) == []
    assert missing("started in … s\nREADY\n", shown) == ["READY"]
    assert missing("line\n", shown) == ["line"]
    assert missing("started in 0.3? s\n", shown) == ["started in 0.3? s"]


def test_blocks_of_a_language_come_with_what_follows_its_name() -> None:
    text = '```sh title="a"\none\n```\n\n```text\nno\n```\n\n```sh\ntwo\n```\n'
    assert blocks(text, "sh") == [('title="a"', "one\n"), ("", "two\n")]

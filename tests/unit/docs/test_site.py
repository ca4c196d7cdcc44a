"""The pages hang together, and what programs read beside them is whole. `make docs` builds the site itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.docs.site import ROOT, anchors, prose, script

SITE = script()
DOCS = ROOT / "docs"
NAV = SITE.project()["nav"]
PAGES = sorted(DOCS.rglob("*.md"))


def test_every_page_is_in_the_navigation_once() -> None:
    assert SITE.astray(NAV) == []


def test_a_page_that_the_navigation_forgets_or_makes_up_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.md").touch()
    (tmp_path / "b.md").touch()
    assert SITE.astray([{"One": ["a.md", {"Two": "a.md"}]}, "c.md"], tmp_path) == [
        "docs/b.md is not in the nav of zensical.toml",
        "docs/c.md is in the nav of zensical.toml, and does not exist",
        "docs/a.md is in the nav of zensical.toml twice",
    ]


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file, and a heading of it. A page of the site links to no file outside docs/."""
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", prose(page)):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link}: no such file"
        if DOCS in page.parents:
            assert DOCS in target.parents, f"{link}: not a page of the site"
        if anchor and DOCS / "reference" / "api" not in target.parents:  # its headings come from docstrings
            assert anchor in anchors(target), f"{link}: no such heading"


def test_the_list_of_how_tos_has_each_by_its_title() -> None:
    [groups] = [each["How to"] for each in NAV if "How to" in each]
    wanted = [line for group in groups if isinstance(group, dict) for line in listed(group)]
    page = (DOCS / "howto" / "index.md").read_text()
    assert re.findall(r"^(?:## |- ).*$", page, re.MULTILINE) == wanted


def listed(group: dict[str, list[str]]) -> list[str]:
    """The lines of a group of pages."""
    ((name, pages),) = group.items()
    titles = {page: (DOCS / page).read_text().partition("\n")[0].removeprefix("# ") for page in pages}
    return [f"## {name}", *(f"- [{title}]({page.removeprefix('howto/')})" for page, title in titles.items())]


def test_a_page_begins_with_its_title() -> None:
    assert [page.name for page in PAGES if not page.read_text().startswith("# ")] == []


def test_no_page_loads_anything_from_another_host() -> None:
    own = '<script src="../assets/a.js"></script><a href="https://example.com">there</a><img src="x.svg">'
    assert SITE.foreign(own) == []
    for tag in (
        '<script src="https://cdn.example/a.js">',
        '<link rel="stylesheet" href="//fonts.example/x">',
    ):
        assert SITE.foreign(own + tag) == [tag]


def test_programs_find_every_page(tmp_path: Path) -> None:
    SITE.write_for_programs(tmp_path)
    listed, whole = (tmp_path / "llms.txt").read_text(), (tmp_path / "llms-full.txt").read_text()
    found = dict(re.findall(r"^- \[(.+)\]\((.+\.md)\)", listed, re.MULTILINE))
    names = {page.relative_to(DOCS).as_posix() for page in PAGES}
    assert set(found.values()) == names
    for name in names:
        text = (tmp_path / name).read_text()
        assert text.startswith(f"# {next(title for title, page in found.items() if page == name)}\n")
        assert text in whole
        assert "\n::: " not in text
    assert "## Reference: API\n" in listed


def test_programs_read_docstrings_too() -> None:
    text = SITE.written_out(
        "# Enqueue\n\n::: receiver.enqueue_many\n    options:\n      heading_level: 3\n\n## Next\n"
    )
    assert "## `receiver.enqueue_many(entries: 'Iterable[Entry]'" in text
    assert "Enqueues many calls, of one task or of several" in text
    assert text.endswith("\n## Next\n")
    assert "heading_level" not in text
    assert "### `receiver.Task.using(" in SITE.written_out("::: receiver.Task\n")
    with pytest.raises(AttributeError):
        SITE.written_out("::: receiver.nothing\n")

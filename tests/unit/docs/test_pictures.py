"""The pictures are what their script draws, and can be read on light and on dark."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from scripts.pictures.__main__ import DOCS
from scripts.pictures.recording import RECORDED, shown
from scripts.pictures.stories import STORIES
from scripts.pictures.storms import FAULTS, OUTCOMES, PAGE, sums
from scripts.pictures.svg import DARK, LIGHT
from tests.stage.pages import read
from tests.unit.docs.site import ROOT


@pytest.mark.parametrize("name", STORIES)
def test_a_picture_is_what_the_script_draws(name: str) -> None:
    drawn = str(STORIES[name]())
    assert (DOCS / f"{name}.svg").read_text() == drawn, "run `make pictures`"
    root = ET.fromstring(drawn)  # noqa: S314 - our own
    assert root.get("aria-label")


@pytest.mark.parametrize("name", sorted(path.name for path in DOCS.glob("*.svg")))
def test_a_picture_runs_nothing_and_loads_nothing(name: str) -> None:
    """It is shown on GitHub, and on a site that asks nobody else for anything."""
    text = (DOCS / name).read_text()
    root = ET.fromstring(text)  # noqa: S314 - our own
    assert {element.tag.rpartition("}")[2] for element in root.iter()}.isdisjoint(
        {"script", "foreignObject", "image", "a", "link"}
    )
    for element in root.iter():
        for attribute, value in element.attrib.items():
            local = attribute.rpartition("}")[2]
            assert not local.startswith("on"), f"{local} of {element.tag}"
            assert local not in {"href", "src"} or value.startswith("#"), value
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text


def test_the_pictures_that_pages_show_are_there() -> None:
    """Relative, so that GitHub and the site find them."""
    for page in (ROOT / "README.md", *ROOT.glob("docs/**/*.md")):
        for target in re.findall(r"!\[[^]]*\]\(([^)\s]+)\)", page.read_text()):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"


def test_the_storms_numbers_are_those_of_the_page() -> None:
    """Each is the sum of a row's cells that stand on the page; the last one is the promise."""
    page = PAGE.read_text()
    picture = (DOCS / "storm.svg").read_text()
    for number in (sums(FAULTS, page) | sums(OUTCOMES, page)).values():
        assert f">{number:,}</text>" in picture
    kills = next(line for line in page.splitlines() if line.startswith("| **SIGKILLs**"))
    assert sums(FAULTS, page)["processes killed (SIGKILL)"] == sum(map(int, re.findall(r"\d+", kills)))


def test_a_row_that_the_page_lost_is_told() -> None:
    with pytest.raises(ValueError, match="no row"):
        sums({"earthquakes": "earthquakes"}, PAGE.read_text())


def test_the_recording_begins_as_the_tutorial_does() -> None:
    """What the tutorial shows is compared with a real run; so a recording that has grown old is found."""
    blocks = read((ROOT / "docs" / "start" / "1-run.md").read_text())
    tutorial = next(block.code for block in blocks if block.code.startswith("receiver      http"))
    recorded = RECORDED.read_text().splitlines()[1:]
    for line in tutorial.splitlines():
        if not line.startswith("tasks "):  # those of another project
            pattern = re.escape(line).replace("…", ".*")
            assert any(re.match(pattern, each) for each in recorded), f"{line!r}: run with --record"


def test_a_recording_is_what_stays_on_the_screen() -> None:
    spinner = "id\r\n\x1b[?25l\x1b[32m-\x1b[0m RUNNING\r\x1b[2K\x1b[32m+\x1b[0m RUNNING\r\n\x1b[?25h\r\x1b[1A\x1b[2Kdone\r\n"
    assert shown(spinner) == ["id", "done"]


def brightness(colour: str) -> float:
    """The relative luminance of WCAG 2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("behind", ["ground", "box"])
def test_words_stand_out_from_what_is_behind_them(colours: dict[str, str], behind: str) -> None:
    """4.5 : 1, as WCAG 2 asks of text (level AA)."""
    for name in set(colours) - {"ground", "box", "line"}:
        dark, light = sorted(brightness(colours[each]) + 0.05 for each in (name, behind))
        assert light / dark >= 4.5, f"{name} on {behind}"

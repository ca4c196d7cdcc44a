"""The pictures are what their script draws, and can be read on light and on dark."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from scripts.pictures.__main__ import DOCS
from scripts.pictures.stories import STORIES
from scripts.pictures.svg import DARK, LIGHT


@pytest.mark.parametrize("name", STORIES)
def test_a_picture_is_what_the_script_draws(name: str) -> None:
    drawn = str(STORIES[name]())
    assert (DOCS / f"{name}.svg").read_text() == drawn, "run `make pictures`"
    root = ET.fromstring(drawn)  # noqa: S314 - our own
    assert root.get("aria-label")


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

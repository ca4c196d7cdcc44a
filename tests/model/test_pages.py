"""The model and the pages say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tests.model import invariants, model
from tests.model.rules import MENDS
from tests.model.scenes import SCENES
from tests.model.statements import LEFT_OUT, STATEMENTS

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"


def named(page: str) -> list[str]:
    """What the first column of its tables names."""
    return re.findall(r"(?m)^\| `([a-z_.]+)` \|", (DOCS / page).read_text())


def test_every_transition_of_the_page_is_in_the_model_or_left_out_for_a_reason() -> None:
    assert sorted(named("reference/transitions.md")) == sorted([*STATEMENTS, *LEFT_OUT])


def test_the_page_of_the_model_lists_its_mends_and_what_it_leaves_out() -> None:
    assert sorted(named("trust/model.md")) == sorted([*MENDS, *LEFT_OUT])


def test_the_page_of_the_model_says_every_invariant_and_every_scene() -> None:
    page = " ".join((DOCS / "trust" / "model.md").read_text().split())
    source = " ".join(Path(invariants.__file__).read_text().split())
    said = re.findall(r'Violation\(f?"([^"{:]+)', source)
    assert len(said) > 10
    assert [words for words in said if words not in page] == []
    assert [scene.name for scene in SCENES if scene.name not in page] == []


def test_every_place_of_a_program_is_a_name_of_its_own() -> None:
    """The programs share one table of places."""
    one = model.Model(SCENES[0])
    assert len(one.places) == sum(map(len, one.programs))

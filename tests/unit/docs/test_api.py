"""Every public name is on a page of docs/reference/api/, which shows its docstring."""

from __future__ import annotations

import importlib
import re

import pytest

from tests.stage.pages import DOCS
from tests.stage.surface import MODULES
from tests.unit.docs.site import script

SITE = script()
SHOWN = {
    found: page.name
    for page in sorted((DOCS / "reference" / "api").glob("*.md"))
    for found in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE)
}


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_on_a_page(module: str) -> None:
    if module in SHOWN:  # with all that it has
        return
    loaded = importlib.import_module(module)
    assert loaded.__all__
    lacking = [name for name in loaded.__all__ if f"{module}.{name}" not in SHOWN]
    assert [name for name in lacking if getattr(loaded, name).__module__ not in SHOWN] == []


@pytest.mark.parametrize("path", SHOWN)
def test_what_a_page_shows_exists_and_says_something(path: str) -> None:
    assert (SITE.named(path).__doc__ or "").strip()

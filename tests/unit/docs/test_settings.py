"""docs/reference/settings.md has every variable, as the source describes it."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise

from receiver.settings import _FIELDS, VARIABLES, Settings
from tests.stage.pages import DOCS


def test_every_variable_is_documented_as_it_is() -> None:
    """docs/reference/settings.md is the table of variables, with the defaults that are used and the meanings of the source."""
    meanings = meanings_of_settings()
    page = (DOCS / "reference" / "settings.md").read_text()
    rows = [row.strip("| ").split(" | ", 2) for row in page.splitlines() if row.startswith("| `")]
    assert [row[:2] for row in rows] == [
        [f"`{one.name}`", f"`{one.default}`" if one.default else ""] for one in VARIABLES
    ]
    assert {name.strip("`"): meaning for name, _, meaning in rows if name.strip("`") in meanings} == meanings
    assert all(meaning for *_, meaning in rows)


def meanings_of_settings() -> dict[str, str]:
    """What stands below each field of `Settings` that a variable is read into, by the variable."""
    [root] = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(root, ast.ClassDef)
    found = {}
    for declared, below in pairwise(root.body):
        variable = _FIELDS.get(ast.unparse(declared.target)) if isinstance(declared, ast.AnnAssign) else None
        if variable is not None:
            assert isinstance(below, ast.Expr)
            found[variable.name] = ast.literal_eval(below.value)
    assert len(found) == len(_FIELDS)
    return found

"""docs/reference/settings.md has every variable, as the source describes it."""

from __future__ import annotations

import ast
import inspect
import re
from itertools import pairwise
from pathlib import Path

import pytest

from receiver.emulator.faults import FaultSettings
from receiver.errors import SettingError
from receiver.parsers import Unreadable
from receiver.settings import _FIELDS, LEAST_RETENTION, VARIABLES, Settings
from receiver.variables import FAULT, Variable
from tests.stage.pages import DOCS


def test_every_variable_is_documented_as_it_is() -> None:
    """docs/reference/settings.md is the table of variables: defaults that are used, values that are allowed, meanings of the source."""
    meanings = meanings_of_settings()
    page = (DOCS / "reference" / "settings.md").read_text()
    rows = [row.strip("| ").split(" | ", 3) for row in page.splitlines() if row.startswith("| `")]
    assert [row[:3] for row in rows] == [
        [f"`{one.name}`", f"`{one.default}`" if one.default else "", allowed(one)] for one in VARIABLES
    ]
    assert {name.strip("`"): meaning for name, *_, meaning in rows if name.strip("`") in meanings} == meanings
    assert all(meaning for *_, meaning in rows)


def allowed(variable: Variable) -> str:
    """What the parser says that it accepts, when it gets what no variable accepts."""
    if variable.name.startswith(FAULT):
        with pytest.raises(SettingError) as refused:
            FaultSettings.from_environ({variable.name: "?"})
        text = refused.value.allowed
    elif variable.parse in {str, Path}:
        return "a path" if variable.parse is Path else "any text"
    else:
        with pytest.raises(Unreadable) as unreadable:
            variable.parse("\0")
        text = str(unreadable.value)
    text = re.sub(r"^use (a (whole number|number|duration|size) .*?(?=\S+ to \S+$))?", "", text)
    if variable.name.startswith("TASKS_RETENTION"):  # its least value is checked later, to say why
        text = text.replace("1s", f"{LEAST_RETENTION.days}d")
    return text.partition(", such as")[0]


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

"""Names that are going still work, and say what to use instead, until the version that they said."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
from pathlib import Path

import pytest

from receiver.deprecation import deprecated
from receiver.testing import Registry

VERSION = tuple(int(part) for part in importlib.metadata.version("pubsub-task-receiver").split(".")[:2])


def test_the_old_path_warns_and_gives_the_same_class() -> None:
    sys.modules.pop("receiver.registry", None)
    with pytest.warns(DeprecationWarning, match=r"import Registry from receiver\.testing") as warned:
        import receiver.registry as old  # noqa: PLC0415 - its import is the subject
    assert old.Registry is Registry
    assert warned[0].filename == __file__, "who imports it is told"


def former() -> None:
    deprecated("shop.former", "call shop.present", since=(1, 9))


def test_a_warning_names_what_to_use_and_when_the_name_goes_and_stands_at_the_caller() -> None:
    said = "^shop.former is deprecated since 1.9 and goes with 1.11: call shop.present$"
    with pytest.warns(DeprecationWarning, match=said) as warned:
        former()
    assert [one.filename for one in warned] == [__file__]


def test_no_name_stays_longer_than_it_said(project_root: Path) -> None:
    """The version that a name goes with fails here until the name is gone."""
    found = {}
    for path in (project_root / "receiver").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "deprecated"
            ):
                keywords = {one.arg: one.value for one in node.keywords}
                since = ast.literal_eval(keywords["since"])
                found[ast.literal_eval(node.args[0])] = since
    assert "receiver.registry" in found
    assert [
        name for name, (major, minor) in found.items() if (major, minor + 2) <= VERSION or since > VERSION
    ] == []

"""The house keeps its shape: what neither ruff nor import-linter can see."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Final

import grimp
import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
ROOM_LINES: Final = 300

LARGE_MODULES: Final = {"settings.py": "one table of every variable"}
"""Modules that may be larger, each with the reason."""

DEPRECATED_PATHS: Final = {"registry.py"}
"""Modules that stay importable for one minor version, and hold nothing of their own."""

IMPORTS_BY_NAME: Final = {
    "tasks/plugins.py": "loads the users' modules",
    "tasks/call.py": "loads the class of a recorded exception, which may be a user's",
    "cli/__init__.py": "loads a command of its own room when it is called",
}
"""Modules that import by a name in a string, each with the reason."""


@cache
def trees() -> dict[str, ast.Module]:
    """Each module of `receiver`, parsed."""
    found = sorted((ROOT / "receiver").rglob("*.py"))
    return {path.relative_to(ROOT / "receiver").as_posix(): ast.parse(path.read_text()) for path in found}


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    """Each module of `receiver` with those that it imports anywhere in its code, under TYPE_CHECKING too."""
    graph = grimp.build_graph("receiver", cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def in_circles(arrows: dict[str, set[str]]) -> set[str]:
    """The names that import themselves by way of others."""
    reached: dict[str, set[str]] = {}
    for start, imported in arrows.items():
        found, todo = set[str](), list(imported)
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo += arrows.get(name, ())
        reached[start] = found
    return {name for name, found in reached.items() if name in found}


def test_no_class_name_stands_for_two_things() -> None:
    places = defaultdict(list)
    for path, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path)
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_no_module_name_stands_for_two_things() -> None:
    """A command and a family of statements are called like what they serve, `app.py` is what uvicorn expects, a new project's are its own."""
    places = defaultdict(list)
    for path in trees().keys() - DEPRECATED_PATHS:
        name = Path(path).stem
        apart = path.startswith(("cli/", "record/sql/", "init/templates/"))
        if not (apart or name.startswith("__") or name == "app"):
            places[name].append(path)
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_no_module_is_imported_by_a_name_in_a_string() -> None:
    """import-linter does not see such an import."""
    importers = {"import_module", "__import__", "resolve_name"}
    by_name = {
        path
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.Attribute)
        and (node.id if isinstance(node, ast.Name) else node.attr) in importers
    }
    assert by_name == IMPORTS_BY_NAME.keys()


def test_no_module_imports_itself_by_way_of_others(arrows: dict[str, set[str]]) -> None:
    assert in_circles(arrows) == set()


def test_no_room_imports_itself_by_way_of_others(arrows: dict[str, set[str]]) -> None:
    rooms = defaultdict[str, set[str]](set)
    for module, imported in arrows.items():
        here = room(module)
        rooms[here] |= {room(other) for other in imported} - {here}
    assert in_circles(rooms) == set()


def room(module: str) -> str:
    """`receiver.record` for `receiver.record.sql.claims`."""
    return ".".join(module.split(".")[:2])


def test_a_module_has_at_most_300_lines_or_a_reason() -> None:
    large = {
        path for path in trees() if len((ROOT / "receiver" / path).read_text().splitlines()) > ROOM_LINES
    }
    assert large == LARGE_MODULES.keys()


def test_modules_are_nouns_that_say_what_they_hold() -> None:
    vague = {"utils", "util", "helpers", "helper", "manager", "managers", "base", "common", "misc"}
    assert [path for path in trees() if Path(path).stem in vague] == []


def test_a_suppression_carries_its_reason() -> None:
    reasoned = re.compile(r"# noqa: [A-Z0-9, ]+ - \S|# type: ignore\[[a-z, -]+\]\s+# \S")
    bare = [
        f"{path}:{number}"
        for path in trees()
        for number, line in enumerate((ROOT / "receiver" / path).read_text().splitlines(), start=1)
        if re.search(r"# (noqa|type: ignore)", line) and not reasoned.search(line)
    ]
    assert bare == []


def test_the_project_names_no_place_of_the_machine_it_was_made_on() -> None:
    # The folder of the checkout, and the one that it stands in unless that is one of the system's own.
    places = [f"{ROOT}/"] + [f"{ROOT.parent}/"] * (len(ROOT.parent.parts) > 1 and ROOT.parent.name != "tmp")
    for path in trees():
        text = (ROOT / "receiver" / path).read_text()
        assert not [place for place in [*places, "shared/"] if place in text], path

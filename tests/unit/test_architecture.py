"""The house keeps its shape: imports run one way, every room says what it is for, and none outgrows itself."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import __file__ as conftest

ROOT = Path(conftest).parent.parent
MODULES = sorted((ROOT / "receiver").rglob("*.py"))
ROOM = 300
"""Lines. What outgrows them is two rooms."""

OUTGROWN = {
    "receiver/local_postgres/server.py": "one life of one PostgreSQL: installed, started, watched and stopped",
}
"""Rooms that may be larger, each with the reason."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_imports_run_one_way(tmp_path: Path) -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--config", ROOT / "pyproject.toml", "--cache-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_every_room_stands_on_a_layer() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = [each for each in settings["tool"]["importlinter"]["contracts"] if each["type"] == "layers"]
    layered = {
        room.strip(" ()") for layer in contract["layers"] for room in layer.replace("|", ":").split(":")
    }
    assert {"cli", "serving", "delivery", "record", "tasks", "contract", "settings", "errors"} <= layered


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_opens_with_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    assert docstring.split("\n")[0].rstrip()[-1] in ".:?;" or "\n" in docstring


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.name not in {"__init__.py", "__main__.py"}], ids=name
)
def test_a_module_postpones_its_annotations(path: Path) -> None:
    assert "\nfrom __future__ import annotations\n" in path.read_text()


def test_a_room_has_at_most_300_lines_or_a_reason() -> None:
    grown = {name(path) for path in MODULES if len(path.read_text().splitlines()) > ROOM}
    assert sorted(grown - OUTGROWN.keys()) == []
    assert sorted(OUTGROWN.keys() - grown) == [], "these need their exception no more"


def test_modules_are_nouns_that_say_what_they_hold() -> None:
    vague = {"utils", "util", "helpers", "helper", "manager", "managers", "base", "common", "misc"}
    assert not [name(path) for path in MODULES if path.stem in vague]


def test_a_suppression_carries_its_code() -> None:
    for path in MODULES:
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            for bare in ("# noqa", "# type: ignore"):
                if bare in line:
                    mark = line.partition(bare)[2]
                    assert mark.startswith((":", "[")), f"{name(path)}:{number}: {bare} without its code"


def test_the_project_names_no_place_of_the_machine_it_was_made_on() -> None:
    # The folder of the checkout, and the one that it stands in unless that is one of the system's own.
    places = [f"{ROOT}/"] + [f"{ROOT.parent}/"] * (len(ROOT.parent.parts) > 1 and ROOT.parent.name != "tmp")
    for path in MODULES:
        text = path.read_text()
        assert not [place for place in places if place in text], name(path)
        assert "shared/" not in text, name(path)

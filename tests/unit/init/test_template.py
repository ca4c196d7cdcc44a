from __future__ import annotations

import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from receiver.init.source import DISTRIBUTION, given
from receiver.init.template import ProjectFile, rendered

EVERYTHING = frozenset({"fastapi", "github"})
TAG = "git+https://example.com/receiver.git@v7.1.0"


def of(*features: str, name: str = "my_shop", place: str = "index") -> dict[str, str]:
    return {file.path: file.content.decode() for file in rendered(name, frozenset(features), given(place))}


def test_every_template_is_in_a_project(project_root: Path) -> None:
    templates = project_root / "receiver" / "init" / "templates"
    there = {path.relative_to(templates).as_posix() for path in templates.rglob("*") if path.is_file()}
    there = {path for path in there if "__pycache__" not in path}
    assert {path.replace("my_shop", "project_name") for path in of(*EVERYTHING)} == there


@pytest.mark.parametrize("features", [(), ("fastapi",), ("github",), ("fastapi", "github")])
@pytest.mark.parametrize("place", ["index", TAG])
def test_nothing_of_the_template_shows(features: tuple[str, ...], place: str) -> None:
    """Nor is a part left for which the project has no use."""
    text = "\n".join(chain.from_iterable(of(*features, place=place).items()))
    assert not re.search(r"project.name|RECEIVER|# \[/?\w+\]$", text, re.MULTILINE)
    assert ("fastapi" in text.lower()) == ("fastapi" in features)
    assert ("install --yes --no-install-recommends git" in text) == (place == TAG)


def test_the_project_declares_what_it_needs_and_where_its_tasks_are() -> None:
    declared = tomllib.loads(of("fastapi", place=TAG)["pyproject.toml"])
    project = declared["project"]
    assert project["name"] == "my-shop"
    assert project["dependencies"][0] == f"{DISTRIBUTION} @ {TAG}"
    assert project["optional-dependencies"]["dev"][0] == f"{DISTRIBUTION}[local] @ {TAG}"
    assert project["entry-points"]["receiver.tasks"] == {"my_shop": "my_shop.tasks"}


@pytest.mark.parametrize("features", [(), tuple(EVERYTHING)])
def test_the_scripts_are_shell(features: tuple[str, ...]) -> None:
    files = of(*features)
    for path in ("deploy/setup.sh", "deploy/deploy.sh"):
        assert files[path].startswith("#!/usr/bin/env bash\n")
        assert "\nset -euo pipefail\n" in files[path]
        said = subprocess.run(["bash", "-n"], input=files[path], capture_output=True, text=True, check=True)
        assert said.stderr == ""


def test_a_wheel_is_copied_into_the_project(tmp_path: Path) -> None:
    wheel = tmp_path / "pubsub_task_receiver-7.1.0-py3-none-any.whl"
    wheel.write_bytes(b"\xff a wheel")
    (*_, last) = rendered("my_shop", frozenset(), given(str(wheel)))
    assert last == ProjectFile(f"vendor/{wheel.name}", b"\xff a wheel", "the receiver")

"""What a type checker tells a plugin's author; `tasks.py` beside this is what it is asked about."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mypy import api

DECLARED = """
from receiver import TaskContext, task

@task
def ship(order: int, *, express: bool = False) -> str:
    return ""

@task
async def bill(order: int, customer: str = "") -> dict[str, int]:
    return {}

@task
async def audit(ctx: TaskContext, order: int) -> None: ...
"""


def checked(root: Path, file: Path) -> list[str]:
    """What mypy says of a file, with this project's configuration."""
    # A cache of its own: another mypy may be running.
    cache = root / ".venv" / ".cache" / "mypy-typing"
    options = ["--config-file", str(root / "pyproject.toml"), "--cache-dir", str(cache), "--no-error-summary"]
    out, err, _ = api.run([*options, str(file)])
    assert err == ""
    return out.splitlines()


def test_every_wrong_call_is_an_error_and_nothing_else_is(project_root: Path) -> None:
    assert checked(project_root, project_root / "tests" / "typing" / "tasks.py") == []


def test_a_wrong_call_is_found_out_by_name(project_root: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(f"{DECLARED}\nship('1', express=1)\n")
    lines = checked(project_root, plugin)
    assert len(lines) == 2
    assert 'Argument 1 to "__call__" of "Task" has incompatible type "str"; expected "int"' in lines[0]
    assert (
        'Argument "express" to "__call__" of "Task" has incompatible type "int"; expected "bool"' in lines[1]
    )


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("ship", "Task[[order: int, *, express: bool =], str]"),
        ("bill", "Task[[order: int, customer: str =], Coroutine[Any, Any, dict[str, int]]]"),
        ("audit", "Task[[ctx: TaskContext, order: int], Coroutine[Any, Any, None]]"),
        ("ship.func", "def (order: int, *, express: bool =) -> str"),
        ("ship(1)", "str"),
    ],
)
def test_a_task_keeps_the_types_of_its_function(
    project_root: Path, tmp_path: Path, expression: str, expected: str
) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(f"{DECLARED}\nreveal_type({expression})\n")
    (line,) = checked(project_root, plugin)
    revealed = re.search(r'Revealed type is "(.*)"', line)
    assert revealed is not None
    assert re.sub(r"\b(receiver\.tasks|receiver\.contexts|typing|builtins)\.", "", revealed[1]) == expected

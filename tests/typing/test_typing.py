"""What a type checker tells a plugin's author. `make check` has it read `tasks.py` beside this; here its words are read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mypy import api

PLUGIN = """
from receiver import TaskContext, task

@task
def ship(order: int, *, express: bool = False) -> str:
    return ""

@task
async def bill(order: int, customer: str = "") -> dict[str, int]:
    return {}

@task
async def audit(ctx: TaskContext, order: int) -> None: ...

reveal_type(ship)
reveal_type(bill)
reveal_type(audit)
reveal_type(ship.func)
reveal_type(ship(1))
ship('1', express=1)
"""
REVEALED = [
    "Task[[order: int, *, express: bool =], str]",
    "Task[[order: int, customer: str =], Coroutine[Any, Any, dict[str, int]]]",
    "Task[[ctx: TaskContext, order: int], Coroutine[Any, Any, None]]",
    "def (order: int, *, express: bool =) -> str",
    "str",
]


@pytest.mark.slow
def test_a_task_keeps_the_types_of_its_function_and_a_wrong_call_is_told_by_name(
    project_root: Path, tmp_path: Path
) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)
    # A cache of its own: another mypy may be running.
    cache = project_root / ".venv" / ".cache" / "mypy-typing"
    options = ["--config-file", str(project_root / "pyproject.toml"), "--cache-dir", str(cache)]
    out, err, _ = api.run([*options, "--no-error-summary", str(plugin)])
    assert err == ""
    revealed = re.findall(r'Revealed type is "(.*)"', out)
    assert [re.sub(r"\b(receiver(\.\w+)*|typing|builtins)\.", "", line) for line in revealed] == REVEALED
    wrong = [line for line in out.splitlines() if ": error: " in line]
    assert len(wrong) == 2
    assert 'Argument 1 to "__call__" of "Task" has incompatible type "str"; expected "int"' in wrong[0]
    assert (
        'Argument "express" to "__call__" of "Task" has incompatible type "int"; expected "bool"' in wrong[1]
    )

"""A working folder with modules that are called like Python's own: every command runs, and plugins are found there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from receiver.record.schema_check import HEAD
from tests.acceptance.local.test_dev import Dev, dev
from tests.stage.commands import clean_environ, run_command

__all__ = ["dev"]

Run = Callable[..., str]
SHADOWS = ("queue", "logging", "json", "email", "click")
PLUGIN = """
import queue
from receiver import TaskRoute

def set_up(): print(queue.Queue.__name__, "is Python's")
def greet(name: str): ...

tasks = [TaskRoute(greet)]
"""
SCRIPT = str(Path(sys.executable).with_name("receiver"))
SAFE = {"PYTHONSAFEPATH": "1"}
STARTS: dict[str, tuple[list[str], dict[str, str]]] = {
    "script": ([SCRIPT], {}),
    "script, safe path": ([SCRIPT], SAFE),
    "-P -m receiver": ([sys.executable, "-P", "-m", "receiver"], {}),
    "-m receiver, safe path": ([sys.executable, "-m", "receiver"], SAFE),
}


def shadow(folder: Path) -> None:
    """Modules that end whoever imports them."""
    for name in SHADOWS:
        (folder / f"{name}.py").write_text(
            f"raise SystemExit('{name}.py of the working folder was imported')\n"
        )


@pytest.fixture(
    params=[
        name if name in {"script", "-m receiver"} else pytest.param(name, marks=pytest.mark.slow)
        for name in STARTS
    ]
)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """What a command prints in such a folder, which holds the plugin `shop` too."""
    shadow(tmp_path)
    (tmp_path / "shop.py").write_text(PLUGIN)
    start, safe = STARTS[request.param]

    def call(*arguments: str, **env: str) -> str:
        environ = clean_environ() | safe | env
        done = run_command(*arguments, program=tuple(start), cwd=tmp_path, env=environ)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return call


def test_plugins_and_the_setup_are_found_there(run: Run) -> None:
    printed = run("check", "--json", TASKS_MODULES="shop", TASKS_SETUP="shop:set_up")
    said, _, report = printed.partition("\n")
    assert said == "Queue is Python's"
    assert "shop.greet" in [route["path"] for route in json.loads(report)["routes"]]


def test_commands_without_plugins_take_nothing_from_it(run: Run, empty_database_url: str) -> None:
    assert run("migrate", DATABASE_URL=empty_database_url) == f"migrated: nothing → {HEAD}\n"
    assert run("executions", "list", "--json", DATABASE_URL=empty_database_url) == "[]\n"
    assert run("dev", "--help").startswith("Usage: receiver dev")
    assert run("push", "--help").startswith("Usage: receiver push")


@pytest.mark.slow
def test_the_processes_of_dev_take_nothing_from_it(dev: Dev) -> None:
    shadow(dev.folder)
    dev.start()
    dev.says("receiving pushes")
    assert dev.run("push", "greet", "--args", '["Ada"]').stdout == "200 The task completed.\n"
    assert dev.end() == 0

"""What a plugin may import, and how little an import brings with it."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import receiver

MODULES = "import json, sys; print(json.dumps(sorted(sys.modules)))"


def loaded(statement: str, *, cwd: Path) -> set[str]:
    """The names of the modules that a fresh interpreter has after a statement."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{statement}\n{MODULES}"],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    names: list[str] = json.loads(done.stdout)
    return set(names)


def below(modules: set[str], *packages: str) -> set[str]:
    return {
        name for name in modules for package in packages if name == package or name.startswith(f"{package}.")
    }


def test_the_public_names_are_these() -> None:
    assert receiver.__all__ == [
        "PermanentError",
        "Task",
        "TaskContext",
        "TaskResult",
        "TaskRoute",
        "aenqueue_many",
        "configure",
        "enqueue_many",
        "task",
    ]


@pytest.mark.parametrize("name", receiver.__all__)
def test_a_public_name_is_there_and_documented(name: str) -> None:
    public = getattr(receiver, name)
    assert public.__doc__
    assert public.__module__.startswith("receiver.")


def test_a_star_import_brings_the_public_names_only() -> None:
    scope: dict[str, Any] = {}
    exec("from receiver import *", scope)  # noqa: S102 - what a plugin may write
    assert set(scope) - {"__builtins__"} == set(receiver.__all__)


def test_declaring_tasks_loads_no_server_no_database_and_no_terminal(project_root: Path) -> None:
    modules = loaded("import receiver", cwd=project_root)
    assert "receiver.tasks" in modules
    heavy = ("sqlalchemy", "starlette", "httpx", "click", "rich", "asyncpg", "alembic", "google", "uvicorn")
    assert below(modules, *heavy) == set()


def test_fetching_the_keys_that_google_signs_with_loads_no_client_of_http(project_root: Path) -> None:
    """Httpx takes a fifth of a start, and its own command rich and pygments besides."""
    fetch = "certificates.Certificates('http://127.0.0.1:1/').ready()"
    modules = loaded(
        f"import asyncio; from receiver.delivery import certificates; asyncio.run({fetch})", cwd=project_root
    )
    assert "urllib.request" in modules
    assert below(modules, "httpx", "rich", "google") == set()


WORKSHOP = ("cli", "demo", "dev", "testing", "testkit", "emulator", "local_postgres", "doctor", "provision")


def test_serving_loads_nothing_that_only_commands_need(project_root: Path) -> None:
    modules = loaded("import receiver.app, receiver.serving.process", cwd=project_root)
    assert {"receiver.delivery.push", "starlette", "uvicorn"} <= modules
    assert (
        below(modules, *(f"receiver.{room}" for room in WORKSHOP), "receiver.enqueue", "receiver.sweep")
        == set()
    )
    assert below(modules, "alembic", "sqlalchemy", "httpx", "rich") == set()
    assert below(modules, "receiver.reading") == set()


def test_what_serves_asks_for_no_terminal_library_itself(project_root: Path) -> None:
    # uvicorn loads click for a command of its own; here only our own imports count.
    ours = below(loaded("import receiver.app, receiver.serving.process", cwd=project_root), "receiver")
    for name in sorted(ours):
        source = inspect.getsource(importlib.import_module(name))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                asked = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                asked = {(node.module or "").partition(".")[0]}
            else:
                continue
            assert not asked & {"click", "rich"}, name

"""Pages that promise something name the tests that show it, a line of a table each; `unproven` finds what they owe."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def unproven(page: str, *, header: str) -> list[str]:
    """The lines of the page's tables that name no test, and the tests that they name and that do not exist.

    Args:
        page: Markdown; a test is written as `folder/test_file.py::test_name`.
        header: how the lines above the tables' bodies begin, which name none.
    """
    missing = []
    for line in page.splitlines():
        if not line.startswith("| ") or line.startswith(header):
            continue
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", line)
        if not named:
            missing.append(line)
        for file, name in named:
            path = TESTS / file
            if not path.is_file() or name not in functions(path):
                missing.append(f"{file}::{name}")
    return missing


@cache
def functions(path: Path) -> set[str]:
    """The names of the test functions of a file."""
    tree = ast.parse(path.read_text())
    return {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    } | {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }

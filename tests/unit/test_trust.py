"""docs/trust.md maps every promise to the tests that show it; none may be missing on either side."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROMISED = (
    *(f"**I{number}**" for number in range(1, 10)),
    *(
        f"## {section}"
        for section in (
            "Kill and takeover",
            "Fence",
            "Overrun",
            "Shutdown",
            "Database",
            "Hostile endings",
            "Hostile input",
            "Hostile tokens",
            "Capacity",
            "Frozen CPU",
            "Provisioning",
            "Enqueue",
            "Sweeper",
        )
    ),
)


def functions(path: Path) -> set[str]:
    """The names of the test functions of a file."""
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    } | {
        target.id
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }


def page() -> str:
    return (ROOT / "docs" / "trust.md").read_text()


def test_every_promise_is_on_the_page() -> None:
    assert [promise for promise in PROMISED if promise not in page()] == []


def test_every_line_names_a_test_and_every_test_exists() -> None:
    missing = []
    for line in page().splitlines():
        if not line.startswith("| ") or line.startswith("| |"):
            continue
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", line)
        if not named:
            missing.append(line)
        for file, name in named:
            path = ROOT / "tests" / file
            if not path.is_file() or name not in functions(path):
                missing.append(f"{file}::{name}")
    assert missing == []

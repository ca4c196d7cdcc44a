"""docs/operate/threats.md: who can reach what, and which test shows what stops them; and what can be seen in the sources alone."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from tests.stage.promises import unproven

ROOT = Path(__file__).resolve().parents[2]
SURFACES = (
    "The push endpoint",
    "Pub/Sub's topics",
    "/health, /ready and /tasks/status",
    "The database",
    "The enqueue client and provisioning",
    "The laptop",
    "The image, and what is installed",
    "The log",
    "What it does not protect from",
)

FROM_TABLES = (
    "receiver/record/connections.py: _opened",  # the settings that make a commit wait for the standbys, all constants
    "receiver/record/database.py: begin_with",  # the settings of connections and of migrations, all constants
    "receiver/record/sql/claims.py: _claim",  # its two sources of rows, both constants
    "receiver/testkit/faulty.py: advance",  # its own table of columns; only the test kit calls it
)


def page() -> str:
    return (ROOT / "docs" / "operate" / "threats.md").read_text()


def test_every_surface_is_on_the_page() -> None:
    assert tuple(re.findall(r"^## (.*)$", page(), re.MULTILINE)) == SURFACES


def test_every_line_of_the_page_names_a_test_and_every_test_exists() -> None:
    assert unproven(page(), header="| They could |") == []


def test_the_policy_says_how_to_report_and_what_is_supported() -> None:
    policy = (ROOT / "SECURITY.md").read_text()
    assert {"## Reporting", "## Supported versions"} <= set(policy.splitlines())
    assert "docs/operate/threats.md" in policy


@cache
def sources() -> list[tuple[Path, ast.Module]]:
    paths = sorted((ROOT / "receiver").rglob("*.py"))
    return [(path.relative_to(ROOT), ast.parse(path.read_text())) for path in paths]


def test_nothing_executes_data() -> None:
    """No pickle, no eval, no shell: a message is JSON, and stays data."""
    found = []
    for path, tree in sources():
        for node in ast.walk(tree):
            modules = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            found += [
                f"{path}: {name}" for name in modules if name in {"pickle", "marshal", "shelve", "dill"}
            ]
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in {"eval", "exec"}
            ):
                found.append(f"{path}:{node.lineno}: {node.func.id}")
            if isinstance(node, ast.keyword) and node.arg == "shell":
                found.append(f"{path}: shell")
    assert found == []


def test_no_statement_is_made_of_values() -> None:
    """A statement may be put together from constants of its module, and from nothing that a caller gave."""
    found = []
    for path, tree in sources():
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.JoinedStr) and _is_sql(node):
                    values = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
                    named = [value.id for value in values if isinstance(value, ast.Name)]
                    if len(named) < len(values) or not all(name.isupper() for name in named):
                        found.append(f"{path}: {function.name}")
    assert sorted(found) == sorted(FROM_TABLES)


def _is_sql(text: ast.JoinedStr) -> bool:
    constant = "".join(str(part.value) for part in text.values if isinstance(part, ast.Constant))
    return re.match(r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|SET|WITH|BEGIN|LOCK)\s", constant) is not None

"""docs/reference/log.md has every line that the service writes, and every field of one."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import receiver
from receiver.contract.failure import Failure
from receiver.endings.outcomes import Failed
from receiver.settings import Settings
from receiver.telemetry import formats, logs
from receiver.telemetry.events import Delivered
from tests.stage.pages import DOCS

PAGE = (DOCS / "reference" / "log.md").read_text()
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def column(section: str) -> list[str]:
    """What the first column of the section's table names."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [line.partition(" | ")[0] for line in text.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def said(kind: str) -> Iterator[str]:
    """The first argument of each such event that the code makes. `…` is what is only known then."""
    for path in Path(receiver.__file__).parent.rglob("*.py"):
        text = path.read_text()
        if f"{kind}(" not in text:
            continue
        tree = ast.parse(text)
        texts = {
            target.id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == kind:
                first = node.args[0]
                yield text_of(texts[first.id] if isinstance(first, ast.Name) else first)


def text_of(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    assert isinstance(node, ast.JoinedStr)
    parts = ["…" if isinstance(part, ast.FormattedValue) else text_of(part) for part in node.values]
    return "".join(parts)


@pytest.mark.parametrize(
    ("kind", "section"), [("ReceiverTrouble", "Lines of trouble"), ("ServiceState", "Lines of the service")]
)
def test_every_line_is_on_the_page(kind: str, section: str) -> None:
    assert sorted(set(said(kind))) == sorted(column(section))


def test_every_field_of_a_delivery_is_on_the_page() -> None:
    failure = Failure("builtins.ValueError", "no", "Traceback")
    event = Delivered(Failed(failure), 500, 0.1, "charge", "id", 1, "m", TRACE, None, {"a": "b"})
    _, _, fields = logs._delivered(event)
    assert sorted({*fields, "trace"} - {"trace"}) == sorted(column("Lines of deliveries"))
    line = formats.JsonFormatter(Settings(project_id="shop")).line(40, "500 charge: Failed", 1.0, fields)
    everywhere = set(json.loads(line)) - {*fields}
    assert sorted(everywhere) == sorted(column("Fields of every line"))


def test_a_success_has_no_field_that_is_not_on_the_page() -> None:
    """It is written from a struct of its own."""
    encoded = {field.encode_name for field in msgspec.structs.fields(formats._Success)}
    assert encoded <= {*column("Lines of deliveries"), *column("Fields of every line")}

"""What docs/operate/promises.md says that stays is still there: whatever was public at an earlier commit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.stage.surface import MODULES, surface

ROOT = Path(__file__).resolve().parents[2]
EARLIER = sorted((ROOT / "tests" / "wheels").glob("*/public.txt"))

GONE: dict[str, str] = {}
"""Lines that are public no more, each with the version that it went with; two minor versions had warned of it."""


@pytest.mark.parametrize("path", EARLIER, ids=lambda path: path.parent.name)
def test_what_was_public_is_still_there(path: Path) -> None:
    lines = set(path.read_text().splitlines())
    assert len(lines) > 400
    assert sorted(lines - surface() - GONE.keys()) == []


def test_each_wheel_has_its_public_names_beside_it() -> None:
    wheels = {wheel.parent for wheel in (ROOT / "tests" / "wheels").glob("*/*.whl")}
    assert wheels == {path.parent for path in EARLIER} != set()


@pytest.mark.parametrize(
    "line",
    [
        "name receiver.TaskContext.connection",
        "parameter receiver.TaskRoute(max_attempts)",
        "command receiver dead-letters replay",
        "option receiver executions list --since",
        "variable TASKS_LEASE_SECONDS",
        "column task_executions.return_value",
        "value receiver.errors.RejectionReason.UNKNOWN_TASK = unknown_task",
        "field of a message enqueued_at",
        "field of the log task_id",
        "path /tasks/pubsub/",
        "parameter receiver.enqueue.PubSubBackend(settings)",
    ],
)
def test_of_each_kind_something_is_watched(line: str) -> None:
    assert line in surface()


def test_whatever_the_pages_of_the_api_list_is_watched() -> None:
    pages = (ROOT / "docs" / "reference" / "api").glob("*.md")
    listed = {name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)}
    whole = {*MODULES, "receiver.settings.Settings"}  # of the last, one member
    assert {name for name in listed - whole if f"name {name}" not in surface()} == set()

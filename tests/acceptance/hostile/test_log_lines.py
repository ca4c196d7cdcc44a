"""Whatever code does behind the receiver's back, the log of Cloud Run is one JSON object a line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.acceptance.conftest import Start
from tests.stage.executions import make_effects
from tests.stage.instance import Instance
from tests.stage.receivers import message
from tests.stage.waiting import eventually
from tests.stage.wire import push

SAYS = {
    "thread": "uncaught exception: in thread a\nb: ValueError: ugly",
    "__del__": "uncaught exception: in Falling.__del__: ValueError: ugly",
    "task": "uncaught exception: Task exception was never retrieved: ValueError: ugly",
    "callback": "uncaught exception: Exception in callback",
    "warning": "UserWarning: ugly",
    "never awaited": "coroutine 'raise_later' was never awaited",
    "no record": "log record lost: ValueError",
    "log": "ugly",
}


@pytest.fixture(scope="module")
def instance(begin_shared: Start, shared_database_url: str) -> Instance:
    make_effects(shared_database_url)
    return begin_shared(shared_database_url, {"K_SERVICE": "tasks", "PYTHONWARNINGS": "default"})


def entries(log: str) -> list[dict[str, Any]]:
    """Every line of the log, each an object with what Cloud Logging looks for."""
    found = [json.loads(line) for line in log.split("\n") if line]
    assert all({"severity", "message", "time"} <= set(entry) for entry in found)
    return found


@pytest.mark.parametrize("how", SAYS)
async def test_what_nobody_caught_is_one_line(instance: Instance, label: str, how: str) -> None:
    before = len(instance.log())
    assert (await push(instance, message("mutter", label, how=how))).status == 200

    def said() -> list[dict[str, Any]]:
        return [entry for entry in entries(instance.log()[before:]) if SAYS[how] in entry["message"]]

    (entry,) = await eventually(said)
    assert entry["severity"] == ("WARNING" if how in {"warning", "never awaited"} else "ERROR")
    if entry["message"].startswith("uncaught"):
        assert "ValueError: ugly" in entry["stack_trace"]


def test_the_whole_life_of_an_instance_is_json(begin: Start, database_url: str) -> None:
    instance = begin(database_url, {"K_SERVICE": "tasks"})
    assert instance.stop() == 0
    said = [entry["message"] for entry in entries(instance.log())]
    assert said[-1] == "stopped"

"""Typed arguments and results, all the way: call, row, message, run, record, and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pydantic
import pytest
from django.utils.safestring import SafeString, mark_safe
from sqlalchemy import Row, text

from receiver import TaskContext, TaskRoute, task
from receiver.tasks.registry import Registry
from receiver.testkit.queue import TaskQueue, running


class Colour(Enum):
    RED = "red"


class Customer(pydantic.BaseModel):
    name: str
    born: date | None = None


@dataclass
class Order:
    id: UUID
    lines: list[tuple[str, Decimal]]
    customer: Customer | None = None


ORDER = Order(UUID(int=7), [("ink", Decimal("1.50"))], Customer(name="Ada", born=date(1815, 12, 10)))


@task
async def echoed(order: Order, *, at: datetime, colour: Colour = Colour.RED, data: bytes = b"") -> Order:
    assert order == ORDER
    assert (at.tzinfo, colour, data) == (UTC, Colour.RED, b"\0\xff")
    return order


@task
def defaulted(day: date = date(2026, 1, 2), ratio: float = 0.5) -> tuple[date, float]:
    return day, ratio


@task
async def rows(ctx: TaskContext, what: str) -> Any:
    connection = await ctx.connection()
    found = await connection.execute(text("SELECT 1 AS id, 'Ada' AS name"))
    match what:
        case "row":
            row: Row[Any] = found.one()
            return row
        case "rows":
            return found.all()
        case _:
            return found.mappings().one()


@task
def returned(kind: str) -> Any:
    made: dict[str, Any] = {
        "safe": mark_safe("<b>x</b>"),
        "numpy": {"n": np.int64(3), "x": np.float32(0.5), "all": np.arange(3)},
        "model": Customer(name="Ada"),
        "path": [Path("a/b")],
    }
    assert kind != "safe" or isinstance(made[kind], SafeString)
    return made[kind]


@pytest.fixture
def queue(database_url: str) -> Iterator[TaskQueue]:
    routes = [
        TaskRoute(echoed),
        TaskRoute(defaulted, schedule="0 3 * * *"),
        TaskRoute(rows),
        TaskRoute(returned),
    ]
    with running(database_url, Registry(routes)) as made:
        yield made


def test_arguments_and_result_arrive_as_they_were_given(queue: TaskQueue) -> None:
    result = echoed.enqueue(ORDER, at=datetime.now(UTC), data=b"\0\xff")
    (ended,) = queue.deliver_all()
    assert ended.acked, queue.executions
    result.refresh()
    assert result.return_value == ORDER
    assert echoed.get_result(result.id).return_value == ORDER
    assert result.value["id"] == str(ORDER.id), "the wire is plain JSON"


def test_a_message_of_another_publisher_is_converted_or_refused(queue: TaskQueue) -> None:
    at = datetime.now(UTC)
    assert queue.push(echoed, ORDER, at=at, data=b"\0\xff").status == 200
    wire = {
        "id": str(ORDER.id),
        "lines": [["ink", "1.50"]],
        "customer": {"name": "Ada", "born": "1815-12-10"},
    }
    assert queue.push("echoed", wire, at=at.isoformat(), data="AP8=").status == 200
    assert queue.push("echoed", wire, at="soon", data="AP8=").status == 400
    assert queue.push("echoed", {**wire, "id": 7}, at=at.isoformat()).status == 400


def test_a_firing_has_the_defaults(queue: TaskQueue) -> None:
    fired = queue.tick(defaulted)
    assert fired.status == 200
    assert defaulted.get_result(fired.task_id).return_value == (date(2026, 1, 2), 0.5)
    result = defaulted.enqueue(date(2026, 2, 3), 2)
    queue.deliver_all()
    result.refresh()
    assert result.return_value == (date(2026, 2, 3), 2)


@pytest.mark.parametrize(
    ("declared", "argument", "value"),
    [
        (rows, "row", [1, "Ada"]),
        (rows, "rows", [[1, "Ada"]]),
        (rows, "mapping", {"id": 1, "name": "Ada"}),
        (returned, "safe", "<b>x</b>"),
        (returned, "numpy", {"n": 3, "x": 0.5, "all": [0, 1, 2]}),
        (returned, "model", {"name": "Ada", "born": None}),
        (returned, "path", ["a/b"]),
    ],
)
def test_what_ordinary_code_returns_is_no_failure(
    queue: TaskQueue, declared: Any, argument: str, value: Any
) -> None:
    result = declared.enqueue(argument)
    queue.deliver_all()
    result.refresh()
    assert result.status == "SUCCESSFUL", result.errors
    assert result.return_value == value

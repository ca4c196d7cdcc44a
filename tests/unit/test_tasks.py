"""`@task` adds a name to a function and takes nothing from it."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
import time_machine

from receiver import Task, TaskContext, task
from receiver.errors import DeclarationError
from receiver.tasks import Transaction


class Off:
    """Nobody has called the task off, until somebody does."""

    requested = False


class Begun:
    """Stands for the task's transaction, which needs a database."""

    async def connection(self) -> Any:
        return "the connection"

    async def session(self) -> Any:
        return "the session"


NOW = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)


def context(transaction: Transaction | None = None, cancellation: Off | None = None) -> TaskContext:
    return TaskContext(
        task_id="order-7",
        attempt=2,
        message_id="m-1",
        deadline=NOW + timedelta(seconds=90),
        cancellation=cancellation or Off(),
        transaction=transaction,
    )


@task
def ship(order: int, *, express: bool = False) -> str:
    """Ships an order."""
    return f"{order} {'express' if express else 'by land'}"


@task
async def bill(order: int) -> int:
    """Bills an order."""
    return order * 2


def test_a_task_is_called_as_its_function() -> None:
    assert ship(7, express=True) == "7 express"
    assert ship(7) == ship.func(7) == "7 by land"


async def test_an_async_task_is_awaited_as_its_function() -> None:
    assert await bill(4) == 8


def test_wrong_arguments_are_the_functions_own_type_error() -> None:
    with pytest.raises(TypeError, match=r"ship\(\) missing 1 required positional argument"):
        ship()  # type: ignore[call-arg] # that is the point


def test_an_error_of_the_function_passes_through() -> None:
    @task
    def broken() -> None:
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        broken()


def test_a_task_keeps_name_documentation_and_signature() -> None:
    shown = cast("Any", ship)
    assert shown.__name__ == "ship"
    assert shown.__qualname__ == "ship"
    assert shown.__module__ == __name__
    assert shown.__doc__ == "Ships an order."
    assert shown.__wrapped__ is ship.func
    assert inspect.signature(ship) == inspect.signature(ship.func)
    assert list(inspect.signature(ship).parameters) == ["order", "express"]


def test_a_task_knows_its_name_and_path() -> None:
    assert (ship.name, ship.path) == ("ship", f"{__name__}.ship")
    assert repr(ship) == f"<Task {__name__}.ship>"

    @task
    def inner() -> None: ...

    assert inner.path.endswith("test_a_task_knows_its_name_and_path.<locals>.inner")


def test_attributes_of_the_function_stay_visible() -> None:
    def tagged() -> None: ...

    cast("Any", tagged).owner = "billing"
    assert cast("Any", task(tagged)).owner == "billing"


@pytest.mark.parametrize("thing", [7, None, "ship", object()])
def test_what_is_no_function_is_refused_at_its_declaration(thing: Any) -> None:
    with pytest.raises(DeclarationError, match="@task takes a function, not "):
        task(thing)


def test_the_decorator_makes_a_task() -> None:
    assert isinstance(ship, Task)


def test_a_context_says_which_execution_this_is() -> None:
    ctx = context()
    assert (ctx.task_id, ctx.attempt, ctx.message_id) == ("order-7", 2, "m-1")
    assert ctx.deadline == NOW + timedelta(seconds=90)


def test_the_time_left_shrinks_to_nothing_and_not_below() -> None:
    with time_machine.travel(NOW, tick=False) as clock:
        ctx = context()
        assert ctx.remaining == timedelta(seconds=90)
        clock.shift(60)
        assert ctx.remaining == timedelta(seconds=30)
        clock.shift(60)
        assert ctx.remaining == timedelta(0)


def test_a_context_hears_at_once_that_its_task_is_called_off() -> None:
    cancellation = Off()
    ctx = context(cancellation=cancellation)
    assert not ctx.cancelled
    cancellation.requested = True
    assert ctx.cancelled


async def test_connection_and_session_are_those_of_the_transaction() -> None:
    ctx = context(Begun())
    assert cast("Any", await ctx.connection()) == "the connection"
    assert cast("Any", await ctx.session()) == "the session"


@pytest.mark.parametrize("name", ["connection", "session"])
def test_a_def_task_is_told_at_the_call_to_use_its_task_id(name: str) -> None:
    with pytest.raises(TypeError, match=r"ctx\.task_id \('order-7'\) as the idempotency key"):
        getattr(context(), name)()

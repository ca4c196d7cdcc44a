"""`@task` adds a name to a function and takes nothing from it."""

from __future__ import annotations

import inspect
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, cast

import pytest
import time_machine

from receiver import Task, TaskContext, task
from receiver.errors import DeclarationError
from receiver.tasks.context import Transaction


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


def test_arguments_that_do_not_fit_are_refused_where_they_are_given() -> None:
    with pytest.raises(TypeError, match=r"test_task\.ship: missing a required argument: 'order'"):
        ship.entry()  # type: ignore[call-arg] # that is the point
    with pytest.raises(TypeError, match="slow"):
        ship.entry(7, slow=True)  # type: ignore[call-arg] # likewise
    assert ship.entry(7, express=True).kwargs == {"express": True}


def test_the_context_is_not_the_callers_to_give() -> None:
    @task
    async def audit(ctx: TaskContext, order: int) -> None: ...

    assert audit.entry(7).args == (7,)
    with pytest.raises(TypeError, match="too many positional arguments"):
        audit.entry(cast("Any", context()), 7)  # type: ignore[call-arg] # that is the point


def test_a_generator_is_found_out_when_it_is_enqueued() -> None:
    @task
    def stream() -> Any:
        yield 1

    with pytest.raises(TypeError, match="is a generator"):
        stream.entry()


def test_calls_with_options_read_the_signature_once() -> None:
    @task
    def never_called_without_options(order: int) -> None: ...

    first = never_called_without_options.using(label="a")
    first.entry(1)
    assert never_called_without_options.using(label="b")._described is first._described


def test_options_are_of_a_copy_and_add_up() -> None:
    urgent = ship.using(group_key="g")
    both = urgent.using(label="l", run_after=timedelta(seconds=5))
    assert (both.entry(1).options.group_key, both.entry(1).options.label) == ("g", "l")
    assert urgent.entry(1).options.label is None
    assert ship.entry(1).options.group_key is None
    assert both(1) == ship(1)
    assert (both.name, both.path) == (ship.name, ship.path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"run_after": datetime.max.replace(tzinfo=timezone(-timedelta(hours=5)))}, "beyond the calendar"),
        ({"run_after": datetime(2026, 1, 1)}, "has no zone"),  # noqa: DTZ001 - that is what is refused
        ({"group_key": ""}, "group_key is ''"),
        ({"group_key": "x" * 256}, "1 to 255 bytes"),
        ({"label": "a\0"}, "without NUL"),
        ({"label": "\ud800"}, "label is"),
        ({"traceparent": "00-1-2-3"}, "W3C's form"),
    ],
)
def test_an_option_that_cannot_be_stored_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ship.using(**options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"run_after": 60}, "run_after is a int; use an aware datetime, or a timedelta"),
        ({"run_after": date(2026, 1, 1)}, "run_after is a date"),
        ({"group_key": 5}, "group_key is a int; use text"),
        ({"label": 5}, "label is a int"),
        ({"traceparent": b"00"}, "traceparent is a bytes"),
    ],
)
def test_an_option_of_another_kind_is_refused_where_it_is_given(options: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        ship.using(**options)


def test_a_def_task_is_told_how_to_enqueue_another() -> None:
    with pytest.raises(TypeError, match=r"use ship\.enqueue\(\.\.\.\)"):
        context().enqueue(ship, 7)

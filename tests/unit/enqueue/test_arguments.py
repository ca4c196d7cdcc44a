"""What no message could carry is refused where it is called, in one line that names the place."""

from __future__ import annotations

import enum
import json
import math
import uuid
from collections import OrderedDict, defaultdict
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from receiver.contract.counting import MAX_DEPTH
from receiver.contract.encode import encode_envelope
from receiver.contract.message import arguments_of
from receiver.enqueue.arguments import row_of
from receiver.enqueue.publisher import message_of
from receiver.google.pubsub import MAX_DATA
from receiver.record.sql.outbox import NewRow, OutboxRow
from receiver.tasks.running import Running, running
from receiver.tasks.task import Task, task
from tests.stage.messages import decode

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-11111111111111111111111111111111-2222222222222222-00"


@task
def anything(*args: Any, **kwargs: Any) -> None: ...


def row(*args: Any, **kwargs: Any) -> NewRow:
    return row_of(anything.entry(*args, **kwargs))


def refused(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(TypeError) as caught:
        row(*args, **kwargs)
    line = str(caught.value)
    assert line.startswith(f"{anything.path}: ")
    assert "\n" not in line
    assert len(line) < 400
    return line


class Safe(str):
    """As Django's template strings are."""

    __slots__ = ()


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    BIG = 3


class Point(NamedTuple):
    x: int
    y: int


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (None, None),
        (True, True),
        (-7, -7),
        (2**64, 2**64),
        (1.5, 1.5),
        (1e308, 1e308),
        ("grüße \U0001f600", "grüße \U0001f600"),
        (r"a \u0000 in letters", r"a \u0000 in letters"),
        ([1, [2, {"a": None}]], [1, [2, {"a": None}]]),
        ((1, (2,)), [1, [2]]),
        (Point(1, 2), [1, 2]),
        (Safe("x"), "x"),
        ({Safe("k"): 1}, {"k": 1}),
        (Size.BIG, 3),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (defaultdict(int, a=1), {"a": 1}),
    ],
)
def test_json_is_taken_as_it_is(value: Any, stored: Any) -> None:
    made = row(value, named=value)
    assert json.loads(made.args) == [stored]
    assert json.loads(made.kwargs) == {"named": stored}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (datetime.now(UTC), "args[0] is a datetime, which is not JSON"),
        (date(2026, 1, 1), "args[0] is a date"),
        (timedelta(1), "args[0] is a timedelta"),
        (uuid.uuid4(), "args[0] is a UUID"),
        (Decimal("1.5"), "args[0] is a Decimal"),
        (b"x", "args[0] is a bytes"),
        ({1, 2}, "args[0] is a set"),
        (Colour.RED, "args[0] is a Colour"),
        (object(), "args[0] is a object"),
        (anything, "args[0] is a Task"),
        (math.nan, "args[0] is nan, which JSON does not have"),
        (-math.inf, "args[0] is -inf"),
        ([1, {"when": [date(2026, 1, 1)]}], "args[0][1]['when'][0] is a date"),
        ({1: "a"}, "args[0] has the key 1; JSON's keys are text"),
        ({None: "a"}, "args[0] has the key None"),
        ({"a": {2.5: 1}}, "args[0]['a'] has the key 2.5"),
        ("\ud800", "args[0] holds a lone surrogate"),
        ({"\ud800": 1}, "args[0] holds a lone surrogate"),
        ("a\0b", "a NUL character in args or kwargs"),
        ({"a\0": 1}, "a NUL character in args or kwargs"),
        pytest.param(10**5000, "args[0] is not JSON", id="huge"),
    ],
)
def test_anything_else_is_refused_with_its_place(value: Any, says: str) -> None:
    assert says in refused(value)
    assert says.replace("args[0]", "kwargs['k']") in refused(k=value)


def test_what_contains_itself_or_is_too_deep_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert "contains itself" in refused(endless)
    deep: Any = 1
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    assert "more than 200 levels deep" in refused(deep)


def test_more_than_a_message_holds_is_refused() -> None:
    assert len(row("x" * (MAX_DATA - 3000)).args) == MAX_DATA - 3000 + 4
    assert "a message holds 10000000" in refused("x" * MAX_DATA)
    assert "store them somewhere" in refused(k=["x" * MAX_DATA])


def test_a_task_of_the_running_script_is_refused() -> None:
    def stray() -> None: ...

    stray.__module__, stray.__qualname__ = "__main__", "stray"
    with pytest.raises(TypeError, match=r"__main__\.stray is defined in the script that runs"):
        row_of(task(stray).entry())


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text()
    | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.tuples(inner)
    ),
    max_leaves=8,
)


def listed(value: Any) -> Any:
    """The value with lists for its tuples."""
    if isinstance(value, list | tuple):
        return [listed(each) for each in value]
    return {key: listed(each) for key, each in value.items()} if isinstance(value, dict) else value


@given(st.lists(json_values, max_size=3), st.dictionaries(st.text(), json_values, max_size=3))
def test_whatever_passes_arrives_equal_and_is_taken_by_the_receiver(
    args: list[Any], kwargs: dict[str, Any]
) -> None:
    try:
        made = row_of(anything.entry(*args, **kwargs))
    except TypeError:
        return
    sent = OutboxRow(
        made.task_id, made.task_name, made.task_path, made.args, made.kwargs, datetime.now(UTC), made.trace
    )
    message = message_of(sent, environment="dev")
    delivery = decode(encode_envelope(message.data, "1", datetime.now(UTC), "s"))
    assert arguments_of(delivery) == (listed(args), listed(kwargs))


def test_ids_are_new_and_grow() -> None:
    ids = [row().task_id for _ in range(100)]
    assert ids == sorted(set(ids))
    assert all(uuid.UUID(each).version == 7 for each in ids)


def test_a_row_says_which_task_and_what_was_asked_for() -> None:
    made = row_of(anything.using(group_key="g", label="l", traceparent=TRACE).entry())
    assert (made.task_name, made.task_path) == ("anything", anything.path)
    assert (made.group_key, made.label, made.trace, made.run_after, made.delay) == (
        "g",
        "l",
        TRACE,
        None,
        None,
    )


def test_a_moment_is_kept_in_utc_and_a_time_from_now_on_is_the_databases() -> None:
    east = datetime(2026, 11, 23, 20, tzinfo=timezone(timedelta(hours=2)))
    at = row_of(anything.using(run_after=east).entry())
    assert (at.run_after, at.delay) == (datetime(2026, 11, 23, 18, tzinfo=UTC), None)
    later = row_of(anything.using(run_after=timedelta(minutes=5)).entry())
    assert (later.run_after, later.delay) == (None, timedelta(minutes=5))


def traced(declared: Task[..., Any] = anything) -> str | None:
    return row_of(declared.entry()).trace


def test_a_trace_is_the_given_one_or_opentelemetrys_or_the_running_deliverys() -> None:
    assert traced() is None
    before = running.set(Running("t-1", "ship", 1, OTHER))
    try:
        assert traced() == OTHER
        span = NonRecordingSpan(
            SpanContext(
                0x0AF7651916CD43DD8448EB211C80319C,
                0xB7AD6B7169203331,
                is_remote=False,
                trace_flags=TraceFlags(1),
            )
        )
        with trace.use_span(span):
            assert traced() == TRACE
            assert traced(anything.using(traceparent=OTHER)) == OTHER
        assert traced() == OTHER
    finally:
        running.reset(before)

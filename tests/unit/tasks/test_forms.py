"""What a caller gives, a message carries, and the function gets: equal, or refused in one line."""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack
from uuid import UUID

import pydantic
import pytest

from receiver import Task, TaskContext, TaskRoute, task
from receiver.contract.message import check_arguments
from receiver.errors import Rejected
from receiver.tasks.registry import Registry

if TYPE_CHECKING:
    from somewhere import Elsewhere  # type: ignore[import-not-found]  # only a type checker would look for it

U = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
DAY = date(2026, 1, 2)


class Colour(Enum):
    RED = "red"


@dataclass
class Animal:
    name: str


@dataclass
class Dog(Animal):
    tricks: int = 0


@dataclass(eq=False)
class Loose:
    """Two of them are never equal."""

    parts: list[Any]


class Point(NamedTuple):
    x: int
    y: int


class Options(TypedDict):
    depth: int


class Customer(pydantic.BaseModel):
    name: str


class Socket:
    """No message can carry one."""


def sent(declared: Task[..., Any], *args: Any, **kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    """What the function gets of this call, as the receiver would call it."""
    entry = declared.entry(*args, **kwargs)
    return delivered(declared, *check_arguments(*entry.encoded))


def delivered(
    declared: Task[..., Any], args: list[Any], kwargs: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """What the function gets of a message with these arguments."""
    route = TaskRoute(declared)
    return Registry([route]).bind(route, args, kwargs)


def refused(declared: Task[..., Any], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(TypeError) as caught:
        declared.entry(*args, **kwargs)
    line = str(caught.value)
    assert line.startswith(f"{declared.path}: ")
    assert "\n" not in line
    return line.removeprefix(f"{declared.path}: ")


@task
def typed(
    day: date,
    /,
    who: Animal,
    colour: Colour = Colour.RED,
    *paths: Path,
    customer: Customer | None = None,
    at: datetime = None,  # type: ignore[assignment]  # noqa: RUF013 - as much older code has it
    **sums: Decimal,
) -> None: ...


def test_each_argument_arrives_as_its_parameter_says() -> None:
    now = datetime.now(UTC)
    got = sent(
        typed,
        DAY,
        Animal("Rex"),
        Colour.RED,
        Path("a"),
        Path("b"),
        total=Decimal("1.50"),
    )
    assert got == ([DAY, Animal("Rex"), Colour.RED, Path("a"), Path("b")], {"total": Decimal("1.50")})
    got = sent(typed, DAY, who=Animal("Rex"), customer=Customer(name="Ada"), at=now, a=Decimal(1))
    assert got == (
        [DAY],
        {"who": Animal("Rex"), "customer": Customer(name="Ada"), "at": now, "a": Decimal(1)},
    )
    assert sent(typed, DAY, Animal("Rex"), customer=None, at=None) == (
        [DAY, Animal("Rex")],
        {"customer": None, "at": None},
    )


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        (("2026-01-02", Animal("a")), {}, "day is a str and would arrive as a date"),
        ((3, Animal("a")), {}, "day: Expected `date`, got `int`"),
        ((DAY, {"name": "a"}), {}, "who is a dict and would arrive as a Animal"),
        ((DAY, Dog("Rex", 3)), {}, "who is a Dog and would arrive as a Animal"),
        ((DAY, Dog("Rex")), {}, "who is a Dog and would arrive as a Animal"),
        ((DAY, Animal("a"), "blue"), {}, "colour: Invalid enum value 'blue'"),
        ((DAY, Animal("a"), Colour.RED, Path("a"), 7), {}, "paths[1]: Expected `str`, got `int`"),
        ((DAY, Animal("a")), {"total": "x"}, "sums['total']: "),
        ((DAY, Animal("a")), {"customer": {"nam": 1}}, "customer: ValidationError: "),
        ((DAY, Animal(Socket())), {}, "who.name is a Socket, which no message can carry"),  # type: ignore[arg-type]
        ((datetime.now(UTC), Animal("a")), {}, "day: Invalid RFC3339 encoded date"),
    ],
)
def test_what_does_not_fit_its_parameter_is_refused_at_the_call(
    args: tuple[Any, ...], kwargs: dict[str, Any], says: str
) -> None:
    assert refused(typed, *args, **kwargs).startswith(says)


@pytest.mark.parametrize(
    ("args", "kwargs", "detail"),
    [
        (["secret", {"name": "a"}], {}, "typed: day: Invalid RFC3339 encoded date"),
        (["2026-01-02", {"name": 7}], {}, "typed: who: Expected `str`, got `int` - at `.name`"),
        (["2026-01-02", {"name": "a"}, "secret"], {}, "typed: colour: Invalid enum value"),
        (
            ["2026-01-02", {"name": "a"}],
            {"customer": {"secret": 1}},
            "typed: customer: refused by a ValidationError",
        ),
        (["2026-01-02"], {}, "typed: missing a required argument: 'who'"),
    ],
)
def test_what_does_not_fit_is_a_rejection_without_the_value(
    args: list[Any], kwargs: dict[str, Any], detail: str
) -> None:
    with pytest.raises(Rejected) as caught:
        delivered(typed, args, kwargs)
    assert (caught.value.reason, caught.value.detail) == ("bad_arguments", detail)


@task
def plain(n: int, x: float, name: str, rows: list[dict[str, Any]]) -> None: ...


def test_plain_json_is_checked_at_the_call() -> None:
    assert sent(plain, 1, 2, "a", [{}]) == ([1, 2, "a", [{}]], {})
    assert sent(plain, n=True, x=2.5, name="a", rows=[]) == (
        [],
        {"n": True, "x": 2.5, "name": "a", "rows": []},
    )
    assert sent(plain, 2**70, 2**53, "a", []) == ([2**70, 2**53, "a", []], {})
    assert refused(plain, "1", 2, "a", []) == "n: Expected `int`, got `str`"
    assert refused(plain, 1.0, 2, "a", []) == "n: Expected `int`, got `float`"
    assert refused(plain, 1, "2", "a", []) == "x: Expected `float`, got `str`"
    assert refused(plain, 1, 2, None, []) == "name: Expected `str`, got `null`"
    assert refused(plain, 1, float("nan"), "a", []) == "x is nan, which JSON does not have"
    assert refused(plain, 1, 2**53 + 1, "a", []).startswith("x is a int and would arrive as a float")
    assert refused(plain, 1, 2, "a", [{"when": DAY}]).startswith(
        "rows[0]['when'] is a date, which is not JSON"
    )


@dataclass
class Price:
    amount: float
    days: list[date] = field(default_factory=list)


@task
def priced(prices: dict[int, Price]) -> None: ...


def test_the_fields_of_an_argument_are_named_where_json_has_no_such_number_or_key() -> None:
    nan = {1: Price(2.5, [DAY]), 2: Price(float("nan"), [DAY])}
    assert refused(priced, nan) == "prices[2].amount is nan, which JSON does not have"
    assert (
        refused(priced, {"1": Price(2.5)}) == "prices would arrive with other keys: annotate it as what it is"
    )


def test_plain_json_that_older_code_enqueued_still_runs_whatever_it_is() -> None:
    args = ["1", None, 3, {"a": 1}]
    got = delivered(plain, args, {})
    assert got[0] is args, "and costs nothing"


@task
def loose(one: Any, two, *, three: object = None) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - that is what is tested
    ...


def test_without_an_annotation_arguments_are_plain_json() -> None:
    assert sent(loose, (1, (2,)), [{"a": None}], three=Point(1, 2)) == (
        [[1, [2]], [{"a": None}]],
        {"three": [1, 2]},
    )
    assert refused(loose, DAY, 1).startswith("one is a date, which is not JSON")
    assert refused(loose, 1, {DAY: 1}).startswith("two has the key datetime.date(2026, 1, 2)")
    assert refused(loose, 1, 2, three={1}).startswith("three is a set, which is not JSON")


@task
def containers(
    sequence: Sequence[date] = (),
    iterable: Iterable[Path] = (),
    mapping: Mapping[UUID, Colour] | None = None,
    pair: tuple[int, date] | None = None,
    tags: frozenset[str] = frozenset(),
    options: Options | None = None,
    part: Loose | None = None,
    data: bytes = b"",
    wait: timedelta = timedelta(0),
) -> None: ...


@pytest.mark.parametrize(
    "given",
    [
        {"sequence": [DAY]},
        {"iterable": [Path("a")]},
        {"mapping": {U: Colour.RED}},
        {"pair": (1, DAY)},
        {"tags": frozenset({"a", "b"})},
        {"options": {"depth": 1}},
        {"data": b"\0\xff"},
        {"wait": timedelta(microseconds=-1)},
    ],
)
def test_containers_arrive_equal(given: dict[str, Any]) -> None:
    assert sent(containers, **given) == ([], given)


def test_a_sequence_may_arrive_as_a_list_and_what_has_no_equal_is_compared_by_its_parts() -> None:
    assert sent(containers, sequence=(DAY,)) == ([], {"sequence": [DAY]})
    (_, got) = sent(containers, part=Loose([1, (2,)]))
    assert got["part"].parts == [1, [2]]
    assert refused(containers, part=Loose([DAY])).startswith("part.parts[0] is a date, which is not JSON")
    assert refused(containers, options={"depth": 1, "more": 2}).startswith(
        "options would lose some of its keys"
    )


def test_what_is_done_to_an_object_after_the_call_changes_nothing() -> None:
    rows: list[dict[str, Any]] = [{"a": 1}]
    entry = plain.entry(1, 2, "a", rows)
    rows.append({})
    assert json.loads(entry.encoded[0])[3] == [{"a": 1}]


@task
def unresolved(one: Elsewhere, two: list[Elsewhere], when: date) -> None: ...


def test_a_name_that_only_a_type_checker_imports_leaves_its_parameter_plain_and_is_told() -> None:
    assert sent(unresolved, {"a": 1}, [2], DAY) == ([{"a": 1}, [2], DAY], {})
    why = "names Elsewhere, which only a type checker imports: it is left as plain JSON"
    assert refused(unresolved, Animal("Rex"), [2], DAY) == f"one {why}"
    assert list(TaskRoute(unresolved).forms.problems()) == [
        (f"parameter one {why}", False),
        (f"parameter two {why}", False),
    ]


def with_db(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(Socket(), *args, **kwargs)

    return wrapper


@task
@with_db
def saved(db: Socket, day: date, *, n: int = 0) -> None: ...


@task
@with_db
def guessed(db: Any, day: date) -> None: ...


def test_what_a_decorator_supplies_is_not_the_callers() -> None:
    """It is known by its annotation: no message carries it. Otherwise arguments that are not the function's own stay plain."""
    assert sent(saved, DAY, n=1) == ([DAY], {"n": 1})
    assert sent(saved, day=DAY) == ([], {"day": DAY})
    assert list(TaskRoute(saved).forms.problems()) == []
    assert sent(guessed, 7) == ([7], {})
    assert sent(guessed, day=DAY) == ([], {"day": DAY})
    assert refused(guessed, DAY).startswith("args[0] is a date, which is not JSON")


@task
def impossible(
    ctx: TaskContext,
    socket: Socket,
    spare: Socket | None = None,
    either: Animal | Customer = Animal("a"),  # noqa: B008 - never called
) -> Socket:
    return socket


def test_annotations_that_say_nothing_are_told() -> None:
    found = [(line.partition(":")[0], needed) for line, needed in TaskRoute(impossible).forms.problems()]
    assert found == [
        ("parameter socket has a Socket, which no message can carry", True),
        ("parameter spare has a Socket, which no message can carry", False),
        ("parameter either is a union whose members look alike in JSON", False),
        ("its result has a Socket, which no message can carry", True),
    ]
    assert sent(impossible, {"a": 1}) == ([{"a": 1}], {})
    alike = refused(impossible, {}, either=Animal("a"))
    assert alike.startswith("either is a union whose members look alike in JSON: use one of them")


@pytest.mark.parametrize(
    ("annotation", "value", "result"),
    [
        (date, "2026-01-02", DAY),
        (Coroutine[Any, Any, date], "2026-01-02", DAY),
        (Awaitable[date], "2026-01-02", DAY),
        (list[Animal], [{"name": "a"}], [Animal("a")]),
        (None, None, None),
        (Any, {"a": 1}, {"a": 1}),
        (Socket, {"a": 1}, {"a": 1}),
    ],
)
def test_a_result_is_read_as_annotated(annotation: Any, value: Any, result: Any) -> None:
    def function() -> Any: ...

    function.__annotations__["return"] = annotation
    assert task(function).returned(value) == result


def test_a_result_of_other_code_is_told() -> None:
    def function() -> date: ...  # type: ignore[empty-body]  # never called

    with pytest.raises(
        ValueError, match="returned something else than its annotation says: Expected `date`, got `int`"
    ):
        task(function).returned(3)


def test_what_packs_many_arguments_is_not_checked() -> None:
    def packed(*args: int, **kwargs: Unpack[Options]) -> None: ...

    assert sent(task(packed), 1, depth=2) == ([1], {"depth": 2})

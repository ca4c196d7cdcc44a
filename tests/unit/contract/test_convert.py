"""A value is written as JSON, and read as its annotation says."""

from __future__ import annotations

import enum
from collections import ChainMap, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar
from uuid import UUID

import attrs
import msgspec
import numpy as np
import pydantic
import pytest

from receiver.contract.convert import Form, Unfit, to_json, to_plain

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    BIG = 3


class Point(NamedTuple):
    x: int
    y: float = 0.0


class Address(TypedDict):
    city: str
    since: NotRequired[date]


@dataclass
class Node:
    name: str
    children: list[Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order(Generic[T]):
    id: UUID
    due: datetime | None = None
    files: tuple[Path, ...] = ()
    extra: T | None = None


@dataclass
class Positive:
    n: int

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError(f"{self.n} is negative")


@attrs.frozen
class Parcel:
    weight: Decimal


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    name: str


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    a: int = 0


class Customer(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    name: str
    born: date | None = None
    full: str = pydantic.Field("", alias="fullName")


class UserId(str):
    """As a library that gives ids a type."""

    __slots__ = ()


U = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
NOON = datetime(2026, 1, 2, 12, 30, 1, 5, tzinfo=UTC)

TYPED: list[tuple[Any, Any]] = [
    (date, date(2026, 1, 2)),
    (datetime, NOON),
    (datetime, NOON.replace(tzinfo=None)),
    (datetime, NOON.astimezone(timezone(timedelta(hours=-3)))),
    (time, time(1, 2, 3, 4)),
    (timedelta, timedelta(days=-3, microseconds=1)),
    (UUID, U),
    (Decimal, Decimal("1.10")),
    (Decimal, Decimal(10) ** 400),
    (Colour, Colour.RED),
    (Size, Size.BIG),
    (Literal["a", 1], "a"),
    (bytes, b"\0\xff"),
    (Path, Path("a/b")),
    (PurePosixPath, PurePosixPath("/")),
    (Path | None, None),
    (Node, Node("a", [Node("b")])),
    (list[Node] | None, [Node("b")]),
    (Order[date], Order(id=U, due=NOON, files=(Path("x"),), extra=date(2026, 1, 2))),
    (Address, {"city": "Wien", "since": date(2026, 1, 2)}),
    (Point, Point(1, 2.5)),
    (tuple[int, date], (1, date(2026, 1, 2))),
    (tuple[int, ...], (1, 2)),
    (set[UUID], {U}),
    (frozenset[str], frozenset({"a"})),
    (dict[int, date], {1: date(2026, 1, 2)}),
    (dict[UUID, list[Colour]], {U: [Colour.RED]}),
    (Mapping[str, date], {"a": date(2026, 1, 2)}),
    (Iterable[date], [date(2026, 1, 2)]),
    (Sequence[Path], [Path("a")]),
    (Parcel, Parcel(Decimal("0.5"))),
    (Cat | Dog, Dog("Rex")),
    (list[Cat | Dog], [Cat(9), Dog("Rex")]),
    (Customer, Customer(name="Ada", born=date(1815, 12, 10), fullName="Ada L.")),
    (list[Customer] | None, [Customer(name="Ada", fullName="")]),
    (Order[Customer], Order(id=U, extra=Customer(name="Ada", fullName=""))),
    (UserId, UserId("u1")),
    (date | int | None, 3),
    (Annotated[int, msgspec.Meta(gt=0)], 3),
]


@pytest.mark.parametrize(("annotation", "value"), TYPED, ids=str)
def test_a_value_comes_back_equal_and_of_its_type(annotation: Any, value: Any) -> None:
    form = Form(annotation)
    assert form.fault is None
    assert not form.plain
    received = form.received(msgspec.json.decode(to_json(value)))
    assert received == value
    assert type(received) is type(value)


@pytest.mark.parametrize(
    "annotation",
    [
        *(Any, object, None, bool, int, float, str, list, dict, int | None, str | int | float | bool | None),
        *(list[int], dict[str, Any], dict[str, list[str | None]], Sequence[object], Mapping[str, object]),
    ],
)
def test_what_is_json_already_need_not_be_converted(annotation: Any) -> None:
    form = Form(annotation)
    assert form.fault is None
    assert form.plain


@pytest.mark.parametrize(
    ("annotation", "value", "reason", "detail"),
    [
        (int, "1", "Expected `int`, got `str`", None),
        (float, "1", "Expected `float`, got `str`", None),
        (int, 1.5, "Expected `int`, got `float`", None),
        (date, "tomorrow", "Invalid RFC3339 encoded date", None),
        (UUID, "u", "Invalid UUID", None),
        (bytes, "no base64", "Invalid base64 encoded string", None),
        (bytes, {"a": 1}, "Expected `bytes`, got `object`", None),
        (
            Node,
            {"name": "a", "children": [{"name": 7}]},
            "Expected `str`, got `int` - at `.children[0].name`",
            None,
        ),
        (Node, {}, "Object missing required field `name`", None),
        (dict[int, str], {"secret": "a"}, "Expected `int`, got `str` - at `key`", None),
        (Colour, "secret", "Invalid enum value 'secret'", "Invalid enum value"),
        (Literal["a"], "secret", "Invalid enum value 'secret'", "Invalid enum value"),
        (Cat | Dog, {"type": "secret"}, "Invalid value 'secret' - at `.type`", "Invalid value"),
        (Closed, {"secret": 1}, "Object contains unknown field `secret`", "Object contains unknown field"),
        (Positive, {"n": -7}, "ValueError: -7 is negative", "refused by a ValueError"),
        (Customer, {"name": 7}, "ValidationError: ", "refused by a ValidationError"),
        (list[Path], [7], "Expected `str`, got `int`", None),
        (UserId, 7, "Expected `str`, got `int`", None),
    ],
)
def test_what_does_not_fit_is_refused_and_the_detail_has_nothing_of_the_value(
    annotation: Any, value: Any, reason: str, detail: str | None
) -> None:
    with pytest.raises(Unfit) as caught:
        Form(annotation).received(value)
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)
    assert caught.value.detail == (detail or str(caught.value))
    assert "secret" not in caught.value.detail


class Connection:
    """What no message can carry."""


@dataclass
class Holding:
    inner: list[Connection]


@pytest.mark.parametrize(
    ("annotation", "says"),
    [
        (Connection, "has a Connection, which no message can carry"),
        (list[Connection] | None, "has a Connection"),
        (Holding, "has a Connection"),
        (Node | Positive, "is a union whose members look alike in JSON"),
        (str | date, "is a union whose members look alike in JSON"),
        (str | Path, "is a union whose members look alike in JSON"),
        (complex, "has a complex"),
    ],
)
def test_an_annotation_that_no_json_value_fits_says_so_and_changes_nothing(
    annotation: Any, says: str
) -> None:
    form = Form(annotation)
    assert form.fault is not None
    assert form.fault.startswith(says)
    assert form.plain
    assert form.received({"a": 1}) == {"a": 1}


class Safe(str):
    __slots__ = ()

    def __str__(self) -> str:
        return self


class Moment(datetime):
    """As pendulum's."""


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Safe("x"), "x"),
        ({Safe("k"): [Safe("v")]}, {"k": ["v"]}),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.bool_(True), True),  # noqa: FBT003 - numpy's way
        (np.array([[1, 2]]), [[1, 2]]),
        (np.datetime64("2026-01-02"), "2026-01-02"),
        (Path("a/b"), "a/b"),
        (Moment(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        (Customer(name="Ada", fullName="A"), {"name": "Ada", "born": None, "fullName": "A"}),
        (range(2), [0, 1]),
        (deque([1]), [1]),
        ({"a": 1}.keys(), ["a"]),
        (ChainMap({"a": 1}), {"a": 1}),
    ],
)
def test_what_ordinary_code_returns_is_written(value: Any, plain: Any) -> None:
    assert msgspec.json.decode(to_json(value)) == plain
    assert to_plain(value) == plain


@pytest.mark.parametrize("value", [object(), open, {(1, 2): 3}, (each for each in "ab"), 1j, [Connection()]])
def test_what_is_no_data_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        to_json(value)

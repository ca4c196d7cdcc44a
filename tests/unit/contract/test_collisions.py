"""Values that were chosen for their hashes hold up no process; honest ones are as they were."""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import pydantic
import pytest

from receiver.contract.convert import Form, Unfit

SAME = 2**61 - 1
"""Python's hash of a number is the remainder by this one."""

CHOSEN = [SAME * factor for factor in range(10, 3010)]


@dataclass
class Order:
    items: frozenset[int]


class Model(pydantic.BaseModel):
    items: set[UUID]


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (set[int], CHOSEN),
        (frozenset[Decimal], [str(each) for each in CHOSEN]),
        (set[UUID], [str(UUID(int=each)) for each in CHOSEN]),
        (set[int | UUID], ["text", *CHOSEN]),
        (set[tuple[int, int]], [[each, 0] for each in CHOSEN]),
        (set[tuple[int, ...]], [[each, *range(30)] for each in CHOSEN]),
        (dict[int, str], {str(each): "" for each in CHOSEN}),
        (dict[str, set[int]], {"a": CHOSEN}),
        (Order, {"items": CHOSEN}),
        (Model, {"items": [str(UUID(int=each)) for each in CHOSEN]}),
    ],
    ids=["int", "Decimal", "UUID", "union", "tuple", "long tuple", "keys", "values", "field", "model"],
)
def test_a_set_of_values_with_one_hash_is_not_made(annotation: Any, value: Any) -> None:
    with pytest.raises(Unfit, match="the same hash") as refused:
        Form(annotation).received(value)
    assert str(SAME * 10) not in refused.value.detail


def test_honest_values_are_taken() -> None:
    chance = random.Random(20261128)
    ids = {UUID(int=chance.getrandbits(128)) for _ in range(3000)}
    numbers = {chance.randrange(-(2**100), 2**100) for _ in range(3000)}
    assert Form(set[UUID]).received([str(each) for each in ids]) == ids
    assert Form(set[int]).received(list(numbers)) == numbers
    assert Form(dict[int, int]).received({str(each): 1 for each in numbers}) == dict.fromkeys(numbers, 1)
    assert Form(set[tuple[int, int]]).received([[each, 7] for each in numbers]) == {(n, 7) for n in numbers}
    assert Form(set[int]).received([5] * 3000) == {5}  # what comes often collides with nothing
    assert Form(list[int]).received(CHOSEN) == CHOSEN  # no set is made of it


class Prices(pydantic.BaseModel):
    prices: list[Decimal]
    names: list[str]


def test_ordinary_values_that_share_a_hash_here_and_there_are_taken() -> None:
    powers = [2.0**exponent for exponent in range(-100, 100)]  # there are 61 hashes of these
    assert Form(set[float]).received(powers) == {*powers}
    spelt = [text for each in range(50) for text in (f"{each}", f"{each}.00")]
    names = [f"name {each}" for each in range(40)]
    found = Form(Prices).received(
        {"prices": spelt, "names": ["sNaN", *names]}
    )  # Decimal reads it, and has no hash
    assert found == Prices(prices=[Decimal(each) for each in spelt], names=["sNaN", *names])

"""A batch that fails because of a row is written in parts, with no more statements than it takes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from receiver.errors import ItemRefused
from receiver.record.in_parts import written
from receiver.record.sqlstates import StatementCancelled


class Table:
    """Where numbers are written. `statements`: how many it was asked for."""

    def __init__(self, refused: Sequence[int] = (), slow: Sequence[int] = ()) -> None:
        self.refused, self.slow = set(refused), set(slow)
        self.rows: set[int] = set()
        self.statements = 0

    async def write(self, numbers: Sequence[int]) -> None:
        self.statements += 1
        if self.slow.intersection(numbers):
            raise StatementCancelled("slow")
        if self.refused.intersection(numbers):
            raise ItemRefused("23503", "a row refers to it")
        self.rows.update(numbers)


@pytest.mark.parametrize("kept", [0, 137, 499])
async def test_one_row_of_five_hundred_is_found_by_halves(kept: int) -> None:
    table = Table(refused=[kept])
    _, failed = await written(table.write, range(500))
    assert list(failed) == [kept]
    assert table.rows == set(range(500)) - {kept}
    assert table.statements <= 19


async def test_a_slow_row_is_met_twice_only() -> None:
    """Each meeting costs a timeout: once with the others, and once alone."""
    table = Table(slow=[3])
    _, failed = await written(table.write, range(50))
    assert list(failed) == [3]
    assert table.rows == set(range(50)) - {3}
    assert table.statements == 51


async def test_who_is_not_patient_leaves_the_others_after_one_slow_row() -> None:
    table = Table(slow=range(50), refused=[50])
    _, failed = await written(table.write, range(50), patient=False)
    assert (len(failed), table.statements) == (1, 2)


async def test_what_is_because_of_no_row_is_raised() -> None:
    async def write(_: Sequence[int]) -> None:
        raise OSError("no network")

    with pytest.raises(OSError, match="no network"):
        await written(write, range(4))

"""The values of a JSON text are counted before it is decoded, whatever its strings hold."""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

import msgspec
import pytest

from receiver.contract.counting import (
    COUNTED_FROM,
    MAX_VALUES,
    count_levels,
    count_values,
    growth,
    measure,
    outline,
)
from receiver.contract.envelope import open_arguments
from receiver.contract.message import check_arguments
from receiver.errors import Rejected

TEXTS = [
    "",
    "a",
    ",",
    "[",
    '"',
    "\\",
    '\\"',
    '",',
    "a,b",
    "[{,",
    'x"',
    "\\\\,",
    "\n,\t",
    ",\b",
    "[\f",
    ",\r",
    "\n",
    "\u20ac",
    "/",
    "é,",
    ":",
    '","',
    '":"',
]


def parts(value: Any) -> int:
    """Commas and openings of its JSON text that stand outside strings."""
    if isinstance(value, dict | list):
        inner = list(value.values()) if isinstance(value, dict) else value
        return 1 + max(len(inner) - 1, 0) + sum(map(parts, inner))
    return 0


def drawn(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(5 if depth < 4 else 2)
    if kind == 0:
        return chance.choice(TEXTS) + chance.choice(TEXTS)
    if kind == 1:
        return chance.choice([0, 1.5, None, True, -1e300])
    if kind == 2:
        return {f"{chance.choice(TEXTS)}{number}": drawn(chance, depth + 1) for number in range(3)}
    return [drawn(chance, depth + 1) for _ in range(chance.randrange(4))]


def levels(value: Any) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value
    return 1 + max(map(levels, inner), default=0) if isinstance(value, dict | list) else 0


def test_what_stands_in_strings_is_not_counted() -> None:
    chance = random.Random(16)
    for _ in range(2_000):
        value = [drawn(chance) for _ in range(4)]
        for _ in range(chance.randrange(20)):
            value = (
                [chance.choice(TEXTS), value] if chance.random() < 0.5 else [{chance.choice(TEXTS): value}]
            )
        text = json.dumps(value, ensure_ascii=chance.random() < 0.5).encode().replace(b"/", b"\\/")
        assert (count_values(outline(text)), count_levels(outline(text))) == (parts(value), levels(value)), (
            text
        )


def test_no_text_is_measured_too_small() -> None:
    """Few commas and brackets are counted in strings too; many are not."""
    chance = random.Random(28)
    for many in (1, 10, 100, 1_000):
        value = [drawn(chance) for _ in range(many)]
        values, deep = measure(json.dumps(value).encode(), b"{}")
        assert values >= parts(value)
        assert deep >= levels(value)
    assert (values, deep) == (parts(value) + 1, levels(value))


@pytest.mark.parametrize("text", [b'["%b"]' % (b"a,b\\n" * 1_000_000), b'["%b"]' % (b"[{" * 1_000_000)])
def test_a_long_string_is_one_value(text: bytes) -> None:
    assert measure(text) == (1, 1)


@pytest.mark.parametrize("unit", [b"1", b"[]", b'{"":{}}', b'","', b'{"a,":"b,"}', b'"\\","'])
def test_more_than_are_allowed_are_refused(unit: bytes) -> None:
    text = b"[" + b",".join([unit] * (MAX_VALUES + 2)) + b"]"
    with pytest.raises(Rejected, match="more than 500000 values"):
        check_arguments(text, b"{}")


DEEP = b"[%b]" % b",".join([b"[" * 199 + b"]" * 199] * 20_000)


@pytest.mark.parametrize("text", [DEEP, b"[" * 201 + b"]" * 9_000_000], ids=["many", "no JSON"])
def test_nobody_waits_for_how_deep_a_text_is_that_is_refused_anyway(text: bytes) -> None:
    """That took a second of CPU, on the loop."""
    begun = time.process_time()
    with pytest.raises(Rejected):
        check_arguments(text, b"{}")
    assert time.process_time() - begun < 0.5


def test_as_many_as_are_allowed_are_read() -> None:
    text = b"[" + b",".join([b"7"] * (MAX_VALUES - 1)) + b"]"
    assert check_arguments(text, b"{}") == ([7] * (MAX_VALUES - 1), {})


@pytest.mark.parametrize("number", [b"1e400", b"-1e309", b"9" * 400 + b".5"])
def test_a_number_that_no_float_holds_is_refused_in_a_large_text_too(number: bytes) -> None:
    for many in (1, 10_000):
        with pytest.raises(Rejected, match="Number out of range"):
            open_arguments(b"[" + b"1.5," * many + number + b"]", b"{}")


def test_a_large_text_has_the_same_numbers() -> None:
    """They are read by other code than those of a small one."""
    chance = random.Random(16)
    numbers = [f"{chance.uniform(-10, 10) * 10.0 ** chance.randrange(-320, 300)!r}" for _ in range(5000)]
    numbers += ["1E5", "1e+5", "-0.0", "0.1e-400", "1e308", "4.9e-324", str(10**400), str(2**64)]
    text = f"[{','.join(numbers)}]".encode()
    assert open_arguments(text, b"{}")[0] == msgspec.json.decode(text)


@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize("one", ["a", "\xe9", "\u20ac", "\u4e2d", "\U0001f600"], ids=ascii)
def test_a_string_takes_no_more_than_is_expected(one: str, *, escaped: bool) -> None:
    """One character decides how wide all others of its string are."""
    for value in ("x" * 10_000 + one, one * 5_000):
        text = json.dumps([value], ensure_ascii=escaped).encode()
        ([read], _) = check_arguments(text, b"{}")
        assert sys.getsizeof(read) <= len(text) + growth(text, escaped=escaped) + 100
    assert growth(b'["' + b"x" * 10_000 + b'"]', escaped=False) == 0


def test_room_is_taken_for_what_is_no_longer_small() -> None:
    """Eighty texts of 60 KB at once would take 200 MB."""
    taken: list[tuple[int, int]] = []
    text = b"[%b]" % b",".join([b'{"":{}}'] * (COUNTED_FROM // 8))
    check_arguments(text, b"{}", lambda *what: taken.append(what))
    [(values, grown)] = taken
    assert values >= 2 * (COUNTED_FROM // 8)
    assert grown == 0

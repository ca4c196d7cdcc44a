"""Bad days come at their rates, repeatably, and lose nothing for good."""

from __future__ import annotations

import pytest

from receiver.emulator.faults import Faults, FaultSettings
from receiver.errors import SettingError


async def days(settings: FaultSettings, count: int = 200) -> list[tuple[int | None, int]]:
    """For each delivery, what Pub/Sub hears and how often the endpoint was called."""
    faults = Faults(settings)
    told = []
    for _ in range(count):
        calls = 0

        async def deliver() -> int:
            nonlocal calls
            calls += 1
            return 200

        heard = await faults.around(deliver)
        told.append((heard, calls))
    return told


async def test_by_default_every_day_is_good() -> None:
    assert FaultSettings.from_environ({}) == FaultSettings()
    assert not FaultSettings().any
    assert set(await days(FaultSettings())) == {(200, 1)}


async def test_a_seed_means_the_same_bad_days() -> None:
    mixed = FaultSettings(duplicate_rate=0.3, failure_rate=0.3, drop_rate=0.3, seed=7)
    first = await days(mixed)
    assert first == await days(mixed)
    assert first != await days(FaultSettings(duplicate_rate=0.3, failure_rate=0.3, drop_rate=0.3, seed=8))
    assert len(set(first)) > 3


async def test_rates_are_shares() -> None:
    duplicated = await days(FaultSettings(duplicate_rate=0.25, seed=1), 1000)
    assert 200 < sum(calls == 2 for _, calls in duplicated) < 300
    assert {heard for heard, _ in duplicated} == {200}


async def test_a_failure_happens_after_the_work() -> None:
    assert set(await days(FaultSettings(failure_rate=1))) == {(503, 1)}


async def test_a_dropped_delivery_is_late_once() -> None:
    assert set(await days(FaultSettings(drop_rate=1))) == {(None, 0)}

    async def deliver() -> int:
        return 200

    assert await Faults(FaultSettings(drop_rate=1)).around(deliver, late_before=True) == 200


async def test_latency_delays_and_changes_nothing() -> None:
    assert set(await days(FaultSettings(latency_seconds=0.001, latency_jitter=0.001), 5)) == {(200, 1)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DUPLICATE_RATE", "2"),
        ("FAILURE_RATE", "-0.1"),
        ("DROP_RATE", "often"),
        ("LATENCY_SECONDS", "601"),
        ("LATENCY_JITTER", "nan"),
        ("SEED", "x"),
    ],
)
def test_what_is_no_rate_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(SettingError, match=f"TASKS_FAULT_{name}"):
        FaultSettings.from_environ({f"TASKS_FAULT_{name}": value})


def test_all_can_be_set() -> None:
    names = ("DUPLICATE_RATE", "FAILURE_RATE", "DROP_RATE", "LATENCY_SECONDS", "LATENCY_JITTER", "SEED")
    read = FaultSettings.from_environ({f"TASKS_FAULT_{name}": "1" for name in names})
    assert read == FaultSettings(1, 1, 1, 1, 1, 1)
    assert read.any

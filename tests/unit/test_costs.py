"""docs/costs.md shows what scripts/costs.py computes, from figures that are near those of docs/trust/speed.md."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def script() -> Any:
    """scripts/costs.py; scripts/ is no package."""
    spec = importlib.util.spec_from_file_location("costs", ROOT / "scripts" / "costs.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["costs"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


costs = script()


def test_the_page_shows_what_the_script_computes() -> None:
    """After a change: `python scripts/costs.py --write`."""
    page = costs.PAGE.read_text()
    assert costs.filled(page) == page


def test_the_text_of_the_page_has_the_figures_of_its_tables() -> None:
    page = costs.PAGE.read_text()
    assert f"{costs.dollars(costs.database(costs.PRICES))} a month" in page
    assert f"{costs.use(costs.Task()).postgres_share:.2%}".replace("%", " %") in page
    for place in (0, 1):  # the receiver's CPU, PostgreSQL's
        assert " / ".join(f"{figures[place]:g}" for figures in costs.MEASURED.values()) in page


def test_what_was_measured_is_near_what_is_reckoned_with() -> None:
    """Rounded up, and not by far. If the page on speed has other figures now, change `MEASURED`, and write the page."""
    rows = re.findall(
        r"^\| (\d+) \| [\d,]+ \| [\d,]+ \| ([\d.,]+) \| ([\d.,]+) \| [\d.]+ \|$",
        (ROOT / "docs" / "trust" / "speed.md").read_text(),
        re.MULTILINE,
    )
    seen = {
        int(at): (float(ours.replace(",", "")) / 1000, float(postgres.replace(",", "")) / 1000)
        for at, ours, postgres in rows
    }
    assert seen.keys() >= costs.MEASURED.keys()
    for at, reckoned in costs.MEASURED.items():
        for measured, used in zip(seen[at], reckoned, strict=True):
            assert used / 3 < measured < used * 1.5, (at, measured, used)


def test_a_small_message_is_billed_as_a_kilobyte_twice() -> None:
    one = costs.use(costs.Task(tasks=1_000_000, message_bytes=300))
    assert one.pubsub_tib * costs.TIB == 2_000 * 1_000_000
    many = costs.use(costs.Task(tasks=1_000_000, message_bytes=300, batch=1_000))
    assert many.pubsub_tib * costs.TIB == 1_300 * 1_000_000


def test_tasks_that_meet_share_an_instance_and_lone_ones_pay_their_time() -> None:
    sweeps = costs.MONTH / 60 * costs.SWEEP_SECONDS
    lone = costs.use(costs.Task(tasks=1_000))
    assert lone.instance_seconds - sweeps == pytest.approx(1_000 * 0.2, rel=0.001)
    crowded = costs.use(costs.Task(tasks=40 * costs.MONTH, cpu_ms=1))  # eight in flight
    assert crowded.instance_seconds - sweeps == pytest.approx(costs.MONTH, rel=0.001)


def test_more_than_an_instance_has_is_more_instances() -> None:
    by_requests = costs.use(costs.Task(tasks=10 * costs.MONTH, seconds=48, cpu_ms=0))
    assert by_requests.instances == pytest.approx(10)
    by_cpu = costs.use(costs.Task(tasks=10 * costs.MONTH, cpu_ms=600))
    assert by_cpu.instances == pytest.approx(10, rel=0.01)


def test_what_is_free_is_not_charged() -> None:
    assert costs.charge(costs.PRICES, "request", 2_000_000) == 0
    assert costs.charge(costs.PRICES, "request", 3_000_000) == pytest.approx(0.40)


def test_numbers_of_a_reader_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert costs.main(["--tasks", "3e6", "--price", "request=1"]) == 0
    assert f"$ {3e6 + costs.MONTH / 60 - 2e6:,.0f}".replace("$ ", "$") in capsys.readouterr().out
    with pytest.raises(SystemExit):
        costs.main(["--price", "beer=1"])


def test_every_price_says_where_it_stands_and_what_was_read() -> None:
    for name, price in costs.PRICES.items():
        assert "https://" in price.source, name
        assert price.read, name

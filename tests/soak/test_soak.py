"""The soak can fail, and a few seconds of it run in `make test-all`; `make soak` is the long one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.soak import pace
from tests.soak.chart import write
from tests.soak.flat import MIB, Sample, uneven
from tests.soak.soak import SAMPLES, Report, soak


def steady(seconds: int = 1200) -> list[Sample]:
    """What wavers and does not grow, after a first half that grew."""
    return [
        Sample(
            at=float(at),
            memory=80 * MIB + min(at, seconds // 2) * 20_000 + (at % 7) * MIB,
            connections=7 + at % 2,
            files=30 + at % 3,
            threads=12,
            done=at * 500,
            slowest=0.1,
        )
        for at in range(5, seconds + 1, 5)
    ]


def test_what_wavers_is_flat() -> None:
    assert uneven(steady()) == []


@pytest.mark.parametrize(
    ("what", "each_second"), [("memory", 30 * 500), ("connections", 1 / 60), ("files", 1 / 60), ("threads", 1 / 60)]
)  # fmt: skip
def test_what_grows_is_found(what: str, each_second: float) -> None:
    """Thirty bytes of each delivery; one connection, file or thread a minute."""
    samples = [
        dataclasses.replace(sample, **{what: int(getattr(sample, what) + sample.at * each_second)})
        for sample in steady()
    ]
    (line,) = uneven(samples)
    assert line.startswith(f"{what} grew by ")


def test_the_chart_has_a_curve_for_each_of_the_four(tmp_path: Path) -> None:
    write(tmp_path, Report(rate=500.0, seconds=1200.0, done=600_000, samples=steady()))
    root = ET.fromstring((tmp_path / "soak.svg").read_text())  # noqa: S314 - our own
    curves = [
        path for path in root.iterfind(".//{*}path") if len(path.get("d", "").split(" L")) == len(steady())
    ]
    assert len(curves) == 4
    assert "600000 messages at 500 a second" in root.get("aria-label", "")


@pytest.mark.slow
async def test_a_rate_that_is_out_of_reach_ends_in_time_and_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "LATE", 0.0)
    report = await soak(1.0, 1e6)
    assert report.wrong[-1].startswith("too weak a load: ")
    assert report.seconds == 1.0


@pytest.mark.slow
async def test_a_short_soak_balances() -> None:
    report = await soak(4.0, 50.0)
    assert [line for line in report.wrong if "grew" not in line] == []  # four seconds are all warming up
    assert report.done == 200
    assert report.answers == {200: 210, 500: 10}
    assert len(report.samples) >= SAMPLES - 5

"""One soak: a database, a receiver, its load, and what was seen of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.gauges import usage
from receiver.emulator.in_thread import serve_certificates
from receiver.emulator.signer import Signer
from receiver.local_postgres.server import Postgres
from receiver.record.database import Database
from receiver.record.migrations import upgrade
from tests.soak.flat import Sample, uneven
from tests.soak.pace import Pace
from tests.stage.instance import Instance
from tests.stage.record import Record

PLUGIN: Final = Path(__file__).parent / "plugin"
OUT_OF_REACH: Final = 1e6
"""Messages a second: whoever is free sends."""
CALIBRATION: Final = 10.0
"""Seconds in which it is found out what is in reach, and `pace.LATE` for each half. The second half counts."""
SAMPLES: Final = 240
"""Looks in a soak, one every five seconds of twenty minutes."""
BALANCE: Final = """
SELECT count(*)::int AS recorded, count(*) FILTER (WHERE status = 'SUCCESSFUL')::int AS successful,
       (SELECT count(*)::int FROM effects) AS effects,
       count(*) FILTER (WHERE task_name = 'transactional')::int AS transactional
FROM task_executions
"""


@dataclass(slots=True)
class Report:
    """What was found. Every line of `wrong` is a broken promise."""

    rate: float = 0.0
    capacity: float | None = None
    seconds: float = 0.0
    done: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


async def soak(seconds: float, rate: float | None, say: Callable[[str], None] = lambda _: None) -> Report:
    """Half the capacity, or `rate`, for so many seconds."""
    report = Report(seconds=seconds)
    signer = Signer.create()
    with Postgres(settings={"max_wal_size": "4GB"}) as postgres, serve_certificates(signer) as certs_url:
        await asyncio.to_thread(upgrade, Database.of(postgres.url()))
        record = Record(postgres.url())
        await record.fetch("CREATE TABLE effects (number bigint)")
        instance = Instance(
            database_url=postgres.url(),
            modules="soak_tasks",
            signer=signer,
            certs_url=certs_url,
            folder=PLUGIN,
        )
        with instance:
            pace = Pace(instance.port, instance.pusher().headers())
            if rate is None:
                report.capacity = await _capacity(pace)
                rate = report.capacity / 2
                say(f"{report.capacity:.0f} deliveries a second are in reach")
            report.rate = rate
            say(f"{rate:.0f} a second, for {seconds:g} s")
            before = pace.done
            # One less than would fit: the last would see connections that are closed already.
            looking = asyncio.create_task(
                _look(report, pace, instance, record, every=seconds / (SAMPLES + 1))
            )
            try:
                await pace.keep(rate, seconds)
            finally:
                looking.cancel()
            if looking.done():
                looking.result()
        report.done, report.answers = pace.done - before, pace.answers
        (found,) = await record.fetch(BALANCE)
    report.wrong += uneven(report.samples)
    if report.done < 0.9 * rate * seconds:
        report.wrong.append(f"too weak a load: {report.done} of {rate * seconds:.0f} messages")
    if not pace.done == found["recorded"] == found["successful"]:
        report.wrong.append(f"{pace.done} messages had their 200; the record says {found}")
    if found["effects"] != found["transactional"]:
        report.wrong.append(f"effects are lost or doubled: {found}")
    return report


async def _capacity(pace: Pace) -> float:
    """Deliveries a second that receiver and sender together come to on this machine."""
    await pace.keep(OUT_OF_REACH, CALIBRATION / 2)
    before, begun = pace.done, time.monotonic()
    await pace.keep(OUT_OF_REACH, CALIBRATION / 2)
    return (pace.done - before) / (time.monotonic() - begun)


async def _look(report: Report, pace: Pace, instance: Instance, record: Record, *, every: float) -> None:
    """A sample every so often, until cancelled."""
    begun, before = time.monotonic(), pace.done
    connection = await record.connect()
    try:
        for number in range(SAMPLES):
            await asyncio.sleep(begun + every * (number + 1) - time.monotonic())
            held = usage(instance.pid)
            open_ones = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'receiver%'"
            )
            slowest, pace.slowest = pace.slowest, 0.0
            report.samples.append(
                Sample(
                    time.monotonic() - begun,
                    held.memory,
                    open_ones,
                    held.files,
                    held.threads,
                    pace.done - before,
                    slowest,
                )
            )
    finally:
        await connection.close()

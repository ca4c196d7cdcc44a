"""Rules for the record: can it be used, are there connections for every instance, and does anything wait too long?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from receiver.doctor.cloud_run import UNKNOWN_SERVICE
from receiver.doctor.findings import Check, Finding, Rule, Severity, judged
from receiver.doctor.record_look import PATIENT, SWEEPS, RecordSeen, Sweeps, Waiting
from receiver.errors import DatabaseUnavailable
from receiver.maintenance import SWEEP
from receiver.record.ledger import LEDGER_CONNECTIONS
from receiver.record.schema_check import TABLES
from receiver.record.sqlstates import NotConnected

NEVER_USED: Final = Sweeps(untouched=True, ended=None)
"""Of a namespace without any execution."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many instances there may be, and the connections in the pool of each. `known`: not Cloud Run's default."""

    instances: int
    pool: int
    known: bool
    flags: str = UNKNOWN_SERVICE

    @property
    def each(self) -> int:
        """Connections of one instance at most: the ledger's, the heartbeat's, and the pool's."""
        return LEDGER_CONNECTIONS + 1 + self.pool

    @property
    def needed(self) -> int:
        """Connections of all instances at most."""
        return self.instances * self.each

    @property
    def words(self) -> str:
        """The number of instances, and where it is from."""
        return f"{self.instances} instances" + ("" if self.known else " (Cloud Run's default)")


@dataclass(frozen=True, slots=True)
class RecordAndFleet:
    """The record, and the instances that are to use it."""

    record: RecordSeen
    fleet: Fleet

    @property
    def major(self) -> int:
        """PostgreSQL's major version."""
        return self.record.version // 10000

    @property
    def fitting(self) -> int:
        """How many instances the database has connections for."""
        return self.record.connections // self.fleet.each

    @property
    def is_crowded(self) -> bool:
        """Whether all instances together may need more connections than there are."""
        return self.fleet.needed > self.record.connections

    def schema(self) -> Iterator[Mapping[str, str]]:
        """The reason why the tables cannot be used, and what to do."""
        if self.record.schema is not None:
            what, _, mend = str(self.record.schema).partition("; ")
            state = self.record.schema.state
            yield {"what": what, "mend": "receiver migrate" if state == "not migrated" else mend or state}

    def hidden(self) -> Iterator[Mapping[str, str]]:
        """Tables that row level security may hide; without the right to use them `schema` says more."""
        if self.record.schema is None and (tables := self.record.filtered):
            disabled = " ".join(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;" for table in tables)
            yield {"tables": ", ".join(tables), "sql": disabled}

    def sweeps(self) -> Iterator[str]:
        """The reason to think that no sweeps run."""
        swept = self.record.sweeps
        if swept is None or (swept.ended is not None and swept.ended <= PATIENT):
            return
        if swept.failure is not None:
            yield f"the last sweep failed: {swept.failure}"
        elif swept.untouched:
            yield "no sweep and no task has ever run"
        else:
            yield f"no sweep has succeeded for {SWEEPS.total_seconds() / 60:g} minutes"


def _counted(waiting: Waiting, one: str, many: str, **more: str) -> list[Mapping[str, str]]:
    """The item of the finding, if any rows wait."""
    if not waiting.count:
        return []
    return [
        {"count": f"{waiting.count} {one if waiting.count == 1 else many}", "time": _time(waiting), **more}
    ]


def _time(waiting: Waiting) -> str:
    seconds = waiting.since.total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


UNAVAILABLE_RULES: Final[tuple[Rule[DatabaseUnavailable], ...]] = (
    Rule(
        Severity.ERROR,
        "database-refuses",
        lambda seen: isinstance(seen, NotConnected),
        "the database refuses the connection: {seen}",
        "a service with the same address and password is refused as well",
        "check DATABASE_URL and DATABASE_PASSWORD",
    ),
    Rule(
        Severity.ERROR,
        "database-unreachable",
        lambda seen: not isinstance(seen, NotConnected),
        "the database cannot be reached from here: {seen}",
        "a service in the same place answers every push 500",
        "check DATABASE_URL; where the database is private, run this as a job in its network (docs/deploy.md)",
    ),
)

RECORD_RULES: Final[tuple[Rule[RecordAndFleet], ...]] = (
    Rule(
        Severity.ERROR,
        "postgresql-version",
        lambda seen: seen.major < 14,  # noqa: PLR2004 - what the words say
        "PostgreSQL is version {seen.major}",
        "statements need 14 or newer",
        "upgrade the database",
    ),
    Rule(
        Severity.ERROR,
        "schema",
        RecordAndFleet.schema,
        "{item[what]}",
        "the service refuses to start",
        "{item[mend]}",
    ),
    Rule(
        Severity.ERROR,
        "read-only",
        lambda seen: seen.record.read_only,
        "the database takes no writes",
        "nothing can be claimed: every push is answered 500",
        "point DATABASE_URL at the primary, or unset default_transaction_read_only",
    ),
    Rule(
        Severity.WARNING,
        "synchronous-commit",
        lambda seen: seen.record.synchronous_commit in ("off", "local"),
        "synchronous_commit is {seen.record.synchronous_commit} for {seen.record.role}",
        "a crash or failover may undo what an application has committed, with the tasks that it enqueued in there",
        "psql -c 'ALTER ROLE \"{seen.record.role}\" SET synchronous_commit = on'",
    ),
    Rule(
        Severity.WARNING,
        "privileges",
        lambda seen: [", ".join(seen.record.undeletable)] if seen.record.undeletable else False,
        "{seen.record.role} may not prune {item}",
        "old rows are never removed, and the tables grow",
        f"psql -c 'GRANT DELETE ON {', '.join(TABLES)} TO \"{{seen.record.role}}\"'",
    ),
    Rule(
        Severity.WARNING,
        "row-level-security",
        RecordAndFleet.hidden,
        "row level security may hide rows of {item[tables]} from {seen.record.role}",
        "a push whose row a policy hides or refuses is not answered 200, or its row is never published or pruned",
        "psql -c '{item[sql]}'",
    ),
    Rule(
        Severity.WARNING,
        "invalid-index",
        lambda seen: list(seen.record.invalid),
        "the index {item} is not valid: its build was interrupted, or goes on now",
        "it costs every write and serves no query",
        "receiver migrate",
    ),
    Rule(
        Severity.WARNING,
        "connections",
        lambda seen: seen.is_crowded and seen.fitting > 0,
        "{seen.fleet.words} of {seen.fleet.each} connections each need {seen.fleet.needed}; the database has "
        "{seen.record.connections} for this role, {seen.record.in_use} in use now",
        "beyond that PostgreSQL refuses connections, and pushes are answered 429",
        "gcloud run services update {seen.fleet.flags} --max-instances {seen.fitting}",
    ),
    Rule(
        Severity.ERROR,
        "connections",
        lambda seen: seen.is_crowded and seen.fitting == 0,
        "one instance needs {seen.fleet.each} connections; the database has {seen.record.connections} for this role, "
        "{seen.record.in_use} in use now",
        "not even one instance fits",
        "export TASKS_DB_POOL_SIZE=1, or raise max_connections to {seen.fleet.needed} and more",
    ),
    Rule(
        Severity.WARNING,
        "schemas",
        lambda seen: [", ".join(seen.record.schemas)] if len(seen.record.schemas) > 1 else [],
        "there are records in several schemas of the database: {item}",
        "the search path of each connection decides to which a task is written, and where it is looked for",
        "export TASKS_DB_SCHEMA, for the receiver and for whoever enqueues",
    ),
    Rule(
        lambda seen, _: Severity.NOTE if seen.record.sweeps == NEVER_USED else Severity.WARNING,
        "sweeper",
        RecordAndFleet.sweeps,
        "{item}",
        "deferred tasks, and tasks that a crash left unpublished, wait until the sweeper runs",
        f"receiver provision --apply --only {SWEEP.name}",
    ),
    Rule(
        lambda seen, _: (
            Severity.WARNING if seen.record.sweeps and seen.record.sweeps.untouched else Severity.NOTE
        ),
        "environments",
        lambda seen: [", ".join(seen.record.others)] if seen.record.others else [],
        "there are executions of this receiver in other environments: {item}",
        "they are neither published nor shown nor pruned from here",
        "if they are yours, export TASKS_ENVIRONMENT; in a copy of their database, delete them (docs/standbys.md)",
    ),
    Rule(
        Severity.WARNING,
        "owed",
        lambda seen: _counted(seen.record.owed, "execution is", "executions are"),
        "{item[count]} due and not published, the first for {item[time]}",
        "nothing delivers them until the sweeper runs",
        "receiver sweep",
    ),
    Rule(
        Severity.WARNING,
        "expired-leases",
        lambda seen: _counted(seen.record.expired, "execution has", "executions have"),
        "{item[count]} lost the instance, the first {item[time]} ago, and no other took over",
        "Pub/Sub no longer delivers them, or every delivery is refused; the sweeper publishes them again after an hour",
        "receiver executions list --status RUNNING",
    ),
    Rule(
        Severity.WARNING,
        "crashed",
        lambda seen: _counted(seen.record.crashed, "execution has", "executions have"),
        "{item[count]} ended the process again and again, the first {item[time]} ago",
        "each death takes down what runs beside it; mostly it is memory, or a library in C",
        "receiver executions list --error Crashed",
    ),
    Rule(
        Severity.WARNING,
        "given-up",
        lambda seen: _counted(seen.record.given_up.get(False, Waiting()), "execution was", "executions were"),
        "{item[count]} given up by Pub/Sub with no end yet, the first for {item[time]}",
        "its deliveries were refused too often (an outage, or no room on the instances); the sweeper publishes it again",
        "receiver dead-letters list",
    ),
    Rule(
        Severity.WARNING,
        "given-up",
        lambda seen: _counted(seen.record.given_up.get(True, Waiting()), "execution is", "executions are"),
        "{item[count]} FAILED for good because Pub/Sub gave up, the first for {item[time]}",
        "no attempt was left, or its route has no max_attempts; nothing tries it again unless an operator does",
        "receiver dead-letters list",
    ),
    Rule(
        Severity.WARNING,
        "rejected",
        lambda seen: [
            item
            for reason, waiting in seen.record.rejected.items()
            for item in _counted(waiting, "message is", "messages are", reason=reason)
        ],
        "{item[count]} kept as {item[reason]}, the first for {item[time]}",
        "they could not become executions, and wait until an operator looks at them",
        "receiver rejected list",
    ),
    Rule(
        Severity.WARNING,
        "rejected-not-kept",
        lambda seen: [{"count": count, "reason": reason} for reason, count in seen.record.unkept.items()],
        "only counted as {item[reason]}, because there was no room to keep more: {item[count]}",
        "more than TASKS_MAX_REJECTED_BYTES came within an hour; what is only counted cannot be replayed",
        "receiver rejected list; then stop who publishes them, or raise TASKS_MAX_REJECTED_BYTES",
    ),
)


def judge_record(seen: RecordSeen, fleet: Fleet) -> list[Finding]:
    """Findings about the record."""
    return judged(Check.DATABASE, RECORD_RULES, RecordAndFleet(seen, fleet))

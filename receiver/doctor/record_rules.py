"""Rules for the record: can it be used, are there connections for every instance, and does anything wait too long?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from receiver.doctor.cloud_run import UNKNOWN_SERVICE
from receiver.doctor.findings import Check, Findings, Severity
from receiver.doctor.record_look import PATIENT, SWEEPS, RecordSeen, Sweeps, Waiting
from receiver.errors import DatabaseUnavailable
from receiver.maintenance import SWEEP
from receiver.reading.queries import NEWEST
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


def judge_unavailable(error: DatabaseUnavailable) -> Findings:
    """A record that could not be looked at: is it away, or does it refuse us?"""
    found = Findings(Check.DATABASE)
    if isinstance(error, NotConnected):
        found.error(
            "database-refuses",
            f"the database refuses the connection: {error}",
            "a service with the same address and password is refused as well",
            "check DATABASE_URL and DATABASE_PASSWORD",
        )
    else:
        found.error(
            "database-unreachable",
            f"the database cannot be reached from here: {error}",
            "a service in the same place answers every push 500",
            "check DATABASE_URL; where the database is private, run this as a job in its network (docs/operate/commands.md)",
        )
    return found


def judge_record(record: RecordSeen, fleet: Fleet) -> Findings:
    """Findings about the record."""
    found = Findings(Check.DATABASE)
    _judge_tables(found, record)
    _judge_role(found, record)
    _judge_connections(found, record, fleet)
    _judge_sweeps(found, record)
    _judge_rows(found, record)
    _judge_messages(found, record)
    return found


def _judge_tables(found: Findings, record: RecordSeen) -> None:
    major = record.version // 10000
    if major < 14:  # noqa: PLR2004 - as the words say
        found.error(
            "postgresql-version",
            f"PostgreSQL is version {major}",
            "statements need 14 or newer",
            "upgrade the database",
        )
    if record.schema is not None:
        what, _, mend = str(record.schema).partition("; ")
        state = record.schema.state
        mend = "receiver migrate" if state == "not migrated" else mend or state
        found.error("schema", what, "the service refuses to start", mend)
    if record.read_only:
        found.error(
            "read-only",
            "the database takes no writes",
            "nothing can be claimed: every push is answered 500",
            "point DATABASE_URL at the primary, or unset default_transaction_read_only",
        )
    for index in record.invalid:
        found.warning(
            "invalid-index",
            f"the index {index} is not valid: its build was interrupted, or goes on now",
            "it costs every write and serves no query",
            "receiver migrate",
        )
    if len(record.schemas) > 1:
        found.warning(
            "schemas",
            f"there are records in several schemas of the database: {', '.join(record.schemas)}",
            "the search path of each connection decides to which a task is written, and where it is looked for",
            "export TASKS_DB_SCHEMA, for the receiver and for whoever enqueues",
        )


def _judge_role(found: Findings, record: RecordSeen) -> None:
    if record.synchronous_commit in {"off", "local"}:
        found.warning(
            "synchronous-commit",
            f"synchronous_commit is {record.synchronous_commit} for {record.role}",
            "a crash or failover may undo what an application has committed, with the tasks that it enqueued in there",
            f"psql -c 'ALTER ROLE \"{record.role}\" SET synchronous_commit = on'",
        )
    if record.undeletable:
        found.warning(
            "privileges",
            f"{record.role} may not prune {', '.join(record.undeletable)}",
            "old rows are never removed, and the tables grow",
            f"psql -c 'GRANT DELETE ON {', '.join(TABLES)} TO \"{record.role}\"'",
        )
    # Without the right to use the tables, their schema's finding says more.
    if record.filtered and record.schema is None:
        disabled = " ".join(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;" for table in record.filtered)
        found.warning(
            "row-level-security",
            f"row level security may hide rows of {', '.join(record.filtered)} from {record.role}",
            "a push whose row a policy hides or refuses is not answered 200, or its row is never published or pruned",
            f"psql -c '{disabled}'",
        )


def _judge_connections(found: Findings, record: RecordSeen, fleet: Fleet) -> None:
    """All instances together may need more connections than there are."""
    each = LEDGER_CONNECTIONS + 1 + fleet.pool  # one is the heartbeat's
    needed, fitting = fleet.instances * each, record.connections // each
    default = "" if fleet.known else " (Cloud Run's default)"
    has = f"the database has {record.connections} for this role, {record.in_use} in use now"
    if needed > record.connections and fitting:
        found.warning(
            "connections",
            f"{fleet.instances} instances{default} of {each} connections each need {needed}; {has}",
            "beyond that PostgreSQL refuses connections, and pushes are answered 429",
            f"gcloud run services update {fleet.flags} --max-instances {fitting}",
        )
    elif needed > record.connections:
        found.error(
            "connections",
            f"one instance needs {each} connections; {has}",
            "not even one instance fits",
            f"export TASKS_DB_POOL_SIZE=1, or raise max_connections to {needed} and more",
        )


def _judge_sweeps(found: Findings, record: RecordSeen) -> None:
    swept = record.sweeps
    if swept is not None and (swept.ended is None or swept.ended > PATIENT):
        what = f"no sweep has succeeded for {SWEEPS.total_seconds() / 60:g} minutes"
        if swept.failure is not None:
            what = f"the last sweep failed: {swept.failure}"
        elif swept.untouched:
            what = "no sweep and no task has ever run"
        found.add(
            Severity.NOTE if swept == NEVER_USED else Severity.WARNING,
            "sweeper",
            what,
            "deferred tasks, and tasks that a crash left unpublished, wait until the sweeper runs",
            f"receiver provision --apply --only {SWEEP.name}",
        )
    if record.others:
        found.add(
            Severity.WARNING if swept is not None and swept.untouched else Severity.NOTE,
            "environments",
            f"there are executions of this receiver in other environments: {', '.join(record.others)}",
            "they are neither published nor shown nor pruned from here",
            "if they are yours, export TASKS_ENVIRONMENT; in a copy of their database, delete them (docs/operate/copies.md)",
        )


def _judge_rows(found: Findings, record: RecordSeen) -> None:
    unended, failed = (record.given_up.get(final, Waiting()) for final in (False, True))
    if record.owed.count:
        found.warning(
            "owed",
            f"{_counted(record.owed, 'execution is', 'executions are')} due and not published, the first for "
            f"{_time(record.owed)}",
            "nothing delivers them until the sweeper runs",
            "receiver sweep",
        )
    if record.expired.count:
        found.warning(
            "expired-leases",
            f"{_counted(record.expired, 'execution has', 'executions have')} lost the instance, the first "
            f"{_time(record.expired)} ago, and no other took over",
            "Pub/Sub no longer delivers them, or every delivery is refused; the sweeper publishes them again after an hour",
            "receiver executions list --status RUNNING",
        )
    if record.sweeps is not None and record.sweeps.stranded:
        found.warning(
            "expired-leases",
            f"{_counted(Waiting(record.sweeps.stranded), 'execution had', 'executions had')} lost the instance for an hour when a sweep "
            "found and published them again",
            "Pub/Sub no longer delivered them, or every delivery was refused",
            "receiver executions list --status RUNNING",
        )
    if record.crashed.count:
        found.warning(
            "crashed",
            f"{_counted(record.crashed, 'execution has', 'executions have')} ended the process again and again, the first "
            f"{_time(record.crashed)} ago",
            "each death takes down what runs beside it; mostly it is memory, or a library in C",
            "receiver executions list --error Crashed",
        )
    if unended.count:
        found.warning(
            "given-up",
            f"{_counted(unended, 'execution was', 'executions were')} given up by Pub/Sub with no end yet, the first "
            f"for {_time(unended)}",
            "its deliveries were refused too often (an outage, or no room on the instances); the sweeper publishes it again",
            "receiver dead-letters list",
        )
    if failed.count:
        found.warning(
            "given-up",
            f"{_counted(failed, 'execution is', 'executions are')} FAILED for good because Pub/Sub gave up, the first "
            f"for {_time(failed)}",
            "no attempt was left, or its route has no max_attempts; nothing tries it again unless an operator does",
            "receiver dead-letters list",
        )


def _judge_messages(found: Findings, record: RecordSeen) -> None:
    for reason, waiting in record.rejected.items():
        found.warning(
            "rejected",
            f"{_counted(waiting, 'message is', 'messages are')} kept as {reason}, the first for {_time(waiting)}",
            "they could not become executions, and wait until an operator looks at them",
            "receiver rejected list",
        )
    for reason, count in record.unkept.items():
        found.warning(
            "rejected-not-kept",
            f"only counted as {reason}, because there was no room to keep more: {count}",
            "more than TASKS_MAX_REJECTED_BYTES came within an hour; what is only counted cannot be replayed",
            "receiver rejected list; then stop who publishes them, or raise TASKS_MAX_REJECTED_BYTES",
        )


def _counted(waiting: Waiting, one: str, many: str) -> str:
    least = "at least " if waiting.at_least or waiting.count == NEWEST else ""
    return f"{least}{waiting.count} {one if waiting.count == 1 else many}"


def _time(waiting: Waiting) -> str:
    seconds = waiting.since.total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"

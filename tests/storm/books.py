"""The books: what the database itself noted while the storm was on, and what must be true when it is over.

A trigger on the record writes down every change that must never be: a fence that falls, a claim while a lease lives, a
final row that changes. It stands in the storm's database only; the receiver has no such table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from receiver.maintenance import SWEEP

STAGE: Final = """
CREATE TABLE effects (label text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE violations (task_id text NOT NULL, what text NOT NULL, was jsonb NOT NULL, became jsonb NOT NULL);

CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.fence < OLD.fence THEN
        INSERT INTO violations VALUES (NEW.task_id, 'a fence fell', to_jsonb(OLD), to_jsonb(NEW));
    END IF;
    IF OLD.final AND (NEW.status, NEW.fence, NEW.return_value, NEW.attempt) IS DISTINCT FROM
                     (OLD.status, OLD.fence, OLD.return_value, OLD.attempt) THEN
        INSERT INTO violations VALUES (NEW.task_id, 'a final row changed', to_jsonb(OLD), to_jsonb(NEW));
    END IF;
    IF NEW.fence > OLD.fence AND OLD.status = 'RUNNING' AND OLD.lease_expires_at > clock_timestamp() THEN
        INSERT INTO violations VALUES (NEW.task_id, 'two live leases', to_jsonb(OLD), to_jsonb(NEW));
    END IF;
    IF OLD.status = 'RUNNING' AND NEW.status <> 'RUNNING' AND NEW.fence <> OLD.fence THEN
        INSERT INTO violations VALUES (NEW.task_id, 'settled by a stale owner', to_jsonb(OLD), to_jsonb(NEW));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER watch AFTER UPDATE ON task_executions FOR EACH ROW EXECUTE FUNCTION watch();
"""


@dataclass(frozen=True, slots=True)
class Expected:
    """One execution that must be in the record at the end: its id, its task, and whether it succeeds."""

    task_id: str
    task: str
    succeeds: bool

    @property
    def transactional(self) -> bool:
        """Whether its effects go through `ctx`."""
        return self.task not in ("plain", "threaded")


@dataclass(slots=True)
class Balance:
    """What came of it. Every line of `wrong` is a broken promise."""

    wrong: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    children: int = 0
    plain_twice: int = 0
    retried: int = 0
    expired: int = 0

    def check(self, good: object, what: str) -> None:
        """Notes a promise that was not kept."""
        if not good:
            self.wrong.append(what)


async def balance(record: Any, expected: Sequence[Expected], marks: Counter[str]) -> Balance:
    """Compares the record, the effects and the marks with what was sent."""
    found = Balance()
    rows = {row["task_id"]: row for row in await record.fetch("SELECT * FROM task_executions")}
    effects = Counter(row["label"] for row in await record.fetch("SELECT label FROM effects"))
    for one in expected:
        row = rows.get(one.task_id)
        found.check(row is not None, f"lost: {one.task} {one.task_id} has no row")
        if row is None:
            continue
        found.statuses[row["status"]] += 1
        found.retried += row["fence"] > 1
        wanted = "SUCCESSFUL" if one.succeeds else "FAILED"
        found.check(
            row["final"] and row["status"] == wanted,
            f"{one.task} {one.task_id} is {row['status']}{' final' if row['final'] else ''}, attempt {row['attempt']}",
        )
        if one.transactional:
            found.check(
                effects[one.task_id] == (row["status"] == "SUCCESSFUL"),
                f"{one.task} {one.task_id}: {row['status']} with {effects[one.task_id]} effects",
            )
        else:
            found.check(marks[one.task_id] >= 1, f"{one.task} {one.task_id} never ran")
            found.plain_twice += marks[one.task_id] > 1
    _children(found, rows, effects, expected)
    for row in await record.fetch("SELECT task_id, what, was, became FROM violations"):
        found.wrong.append(f"{row['what']}: {row['task_id']}: {row['was']} -> {row['became']}")
    (counted,) = await record.fetch(
        "SELECT count(*)::int AS n FROM task_attempts WHERE ending = 'LEASE_EXPIRED'"
    )
    found.expired = counted["n"]
    return found


def _children(
    found: Balance, rows: dict[str, Any], effects: Counter[str], expected: Sequence[Expected]
) -> None:
    """What tasks enqueued: one for each parent that succeeded, once; and nothing that nobody sent."""
    sent = {one.task_id for one in expected}
    others = [row for task_id, row in rows.items() if task_id not in sent and row["task_name"] != SWEEP.name]
    children = Counter(row["args"] for row in others)
    for one in expected:
        if one.task == "parent":
            label = f"{one.task_id}-child"
            born = children.pop(f'["{label}"]', 0)
            found.check(born == one.succeeds, f"parent {one.task_id} has {born} children")
            found.check(effects[label] == one.succeeds, f"child {label} happened {effects[label]} times")
            found.children += born
    found.check(not children, f"nobody sent {list(children)[:5]}")
    for row in others:
        found.check(row["final"] and row["status"] == "SUCCESSFUL", f"child {row['args']} is {row['status']}")

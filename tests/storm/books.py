"""The books: what was noted while the storm was on, and what must be true when it is over.

A trigger on the record writes down every change that must never be: a fence that falls, a claim while a lease lives, a
final row that changes. It stands in the storm's database only; the receiver has no such table. The tasks themselves note when their code
begins and ends, and write their fence into their effects and results: what a stale owner has written bears another
fence than the row.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from receiver.maintenance import SWEEP

STAGE: Final = """
CREATE TABLE effects (label text NOT NULL, fence bigint NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE violations (task_id text NOT NULL, what text NOT NULL, was jsonb NOT NULL, became jsonb NOT NULL);

CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.fence < OLD.fence THEN
        INSERT INTO violations VALUES (NEW.task_id, 'a fence fell', to_jsonb(OLD), to_jsonb(NEW));
    END IF;
    IF OLD.final AND (NEW.status, NEW.fence, NEW.return_value::text, NEW.attempt) IS DISTINCT FROM
                     (OLD.status, OLD.fence, OLD.return_value::text, OLD.attempt) THEN
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

STUCK: Final = """
SELECT task_id FROM task_executions
WHERE status = 'RUNNING' AND lease_expires_at < clock_timestamp() AND task_path <> 'receiver.maintenance.sweep'
"""


@dataclass(frozen=True, slots=True)
class Expected:
    """One execution that must be in the record at the end: its id, its task, and whether it succeeds (None: either way)."""

    task_id: str
    task: str
    succeeds: bool | None

    @property
    def transactional(self) -> bool:
        """Whether its effects go through `ctx`."""
        return self.task not in ("plain", "threaded", "crowd")


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a task's code, by the machine's clock; one whose process died ended then, or later."""

    task_id: str
    fence: int
    begun: float
    ended: float


@dataclass(slots=True)
class Balance:
    """What came of it. Every line of `wrong` is a broken promise."""

    wrong: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    children: int = 0
    runs: int = 0
    plain_twice: int = 0
    retried: int = 0
    expired: int = 0
    overlapped: int = 0
    pool_empty: int = 0

    def check(self, good: object, what: str) -> None:
        """Notes a promise that was not kept."""
        if not good:
            self.wrong.append(what)


def runs_of(lines: Sequence[str], deaths: Mapping[int, float], now: float) -> list[Run]:
    """The runs that the tasks noted.

    Args:
        lines: `begun task_id fence pid time`, and the same with `ended`.
        deaths: when each process was known to have ended.
        now: the end of what has neither ended nor died.
    """
    begun: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    runs = []
    for line in lines:
        what, task_id, under, process, moment = line.split(" ")
        key = (task_id, int(under), int(process))
        if what == "begun":
            begun[key].append(float(moment))
        else:
            runs.append(Run(task_id, int(under), begun[key].pop(), float(moment)))
    for (task_id, fence, pid), times in begun.items():
        runs += [Run(task_id, fence, time, deaths.get(pid, now)) for time in times]
    return runs


async def balance(
    record: Any,
    expected: Sequence[Expected],
    marks: Counter[str],
    runs: Sequence[Run] = (),
    acks: Mapping[str, float] | None = None,
) -> Balance:
    """Compares the record, the effects, the marks and the runs with what was sent.

    Args:
        acks: by execution, when it was first answered 200.
    """
    found = Balance()
    ran = {run.task_id for run in runs}
    rows = {row["task_id"]: row for row in await record.fetch("SELECT * FROM task_executions")}
    effects: dict[str, list[int]] = defaultdict(list)
    for row in await record.fetch("SELECT label, fence FROM effects"):
        effects[row["label"]].append(row["fence"])
    for one in expected:
        row = rows.get(one.task_id)
        found.check(row is not None, f"lost: {one.task} {one.task_id} has no row")
        if row is None:
            continue
        found.statuses[row["status"]] += 1
        found.retried += row["fence"] > 1
        wanted = {True: {"SUCCESSFUL"}, False: {"FAILED"}, None: {"SUCCESSFUL", "FAILED"}}[one.succeeds]
        found.check(
            row["final"] and row["status"] in wanted,
            f"{one.task} {one.task_id} is {row['status']}{' final' if row['final'] else ''}, attempt {row['attempt']}",
        )
        found.check(
            row["status"] != "FAILED" or one.task_id in ran, f"{one.task} {one.task_id} failed, and never ran"
        )
        _check_fences(found, one.task, row)
        if one.transactional:
            _check_effects(found, f"{one.task} {one.task_id}", row, effects[one.task_id])
        else:
            found.check(marks[one.task_id] >= 1, f"{one.task} {one.task_id} never ran")
            found.plain_twice += marks[one.task_id] > 1
    _children(found, rows, effects, expected)
    for row in await record.fetch("SELECT task_id, what, was, became FROM violations"):
        found.wrong.append(f"{row['what']}: {row['task_id']}: {row['was']} -> {row['became']}")
    found.wrong += [f"stuck: {row['task_id']} is RUNNING past its lease" for row in await record.fetch(STUCK)]
    attempts = await record.fetch("SELECT task_id, fence, ending, error_message FROM task_attempts")
    expired = {(row["task_id"], row["fence"]) for row in attempts if row["ending"] == "LEASE_EXPIRED"}
    found.expired = len(expired)
    found.pool_empty = sum("no connection" in (row["error_message"] or "") for row in attempts)
    found.runs = len(runs)
    _overlaps(found, runs, expired)
    for run in runs:
        found.check(
            (acks or {}).get(run.task_id, run.begun) >= run.begun or (run.task_id, run.fence) in expired,
            f"again: {run.task_id} began under fence {run.fence} after it was answered 200",
        )
    return found


def _check_effects(found: Balance, name: str, row: Mapping[str, Any], fences: Sequence[int]) -> None:
    """One effect if it succeeded, none if not; and the effect is that of the owner who settled."""
    wanted = [row["fence"]] if row["status"] == "SUCCESSFUL" else []
    found.check(len(fences) == len(wanted), f"{name}: {row['status']} with {len(fences)} effects")
    if len(fences) == len(wanted):
        found.check(list(fences) == wanted, f"{name}: effect of fence {fences}, settled by {row['fence']}")


def _check_fences(found: Balance, task: str, row: Mapping[str, Any]) -> None:
    """The outcome bears the fence of the run that made it; another one was written over by a stale owner."""
    said = row["return_value"] if row["status"] == "SUCCESSFUL" else row["error_message"]
    if row["final"] and said is not None and said.isdigit():
        found.check(
            int(said) == row["fence"],
            f"stale: {task} {row['task_id']} has the outcome of fence {said}, and fence {row['fence']}",
        )


def _overlaps(found: Balance, runs: Sequence[Run], expired: set[tuple[str, int]]) -> None:
    """No two runs of one execution at once, unless the record says that the first one's lease had run out."""
    by_task: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_task[run.task_id].append(run)
    for task_id, several in by_task.items():
        several.sort(key=lambda run: (run.fence, run.begun))
        for former, later in itertools.combinations(several, 2):
            if former.fence == later.fence:
                found.wrong.append(f"overlap: {task_id} ran twice under fence {former.fence}")
            elif former.ended > later.begun:
                found.overlapped += 1
                found.check(
                    (task_id, former.fence) in expired,
                    f"overlap: {task_id} ran under fences {former.fence} and {later.fence} at once",
                )


def _children(
    found: Balance,
    rows: Mapping[str, Mapping[str, Any]],
    effects: Mapping[str, Sequence[int]],
    expected: Sequence[Expected],
) -> None:
    """What tasks enqueued: one for each parent that succeeded, once; and nothing that nobody sent."""
    sent = {one.task_id for one in expected}
    others: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for task_id, row in rows.items():
        if task_id not in sent and row["task_name"] != SWEEP.name:
            others[row["args"]].append(row)
    for one in expected:
        if one.task == "parent":
            label = f"{one.task_id}-child"
            born = others.pop(f'["{label}"]', [])
            found.check(len(born) == one.succeeds, f"parent {one.task_id} has {len(born)} children")
            found.children += len(born)
            for child in born:
                found.check(
                    child["final"] and child["status"] == "SUCCESSFUL", f"child {label} is {child['status']}"
                )
                _check_effects(found, f"child {label}", child, effects.get(label, ()))
    found.check(not others, f"nobody sent {list(others)[:5]}")

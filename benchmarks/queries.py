"""Every statement that asks the record anything, with arguments as they come: what `indexes` explains.

The texts are the receiver's own, and so are the settings under which each is planned: the ledger and the sweeper never scan and
plan once for all calls (`connections.SERVER_SETTINGS`), listings and the doctor are planned as PostgreSQL likes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID, uuid4

from sqlalchemy import DateTime
from sqlalchemy.dialects import postgresql

from benchmarks.mail import send_mail
from receiver import TaskRoute, maintenance
from receiver.doctor import record_look
from receiver.doctor import record_questions as doctor
from receiver.endings.calls import ClaimKey
from receiver.reading import dead_letters, groups, newest, queries
from receiver.reading.rejected import rejections
from receiver.record import schema_check
from receiver.record.connections import SERVER_SETTINGS
from receiver.record.sql import (
    claims,
    crashes,
    leases,
    outbox,
    rejected,
    replaying,
    settlements,
    sweeping,
    verdicts,
)
from receiver.record.sql import pruning as prune
from receiver.record.sql.claims import ClaimItem
from receiver.record.sql.settlements import SettleItem
from receiver.record.whose import Whose
from receiver.sweep import owed, pruning, sweeper
from receiver.tasks.call import TaskResultStatus

if TYPE_CHECKING:
    from sqlalchemy import Select
    from sqlalchemy.ext.asyncio import AsyncConnection

    from receiver.record.database import Executor

WHOSE = Whose("gyrinx", "dev")
TOKEN = UUID("7f3c5a38-9d7b-4d56-8f35-6ad2cb4f0000")
"""Of the claims whose rows `filling` writes."""
PLANNED_ANEW: Mapping[str, str] = {"jit": "on"}
RETENTION = timedelta(days=30)
BATCH = 80


@dataclass(frozen=True, slots=True)
class Question:
    """One statement with its arguments. `asker`: who asks; `settings`: of its connection."""

    asker: str
    name: str
    statement: str
    arguments: tuple[Any, ...] = ()
    settings: Mapping[str, str] | None = None


def questions(rows: int, blocks: int) -> list[Question]:
    """All of them, for a record that `filling` filled with so many rows and that has so many blocks."""
    return [*_ledger(rows), *_sweeper(blocks), *_prune(), *_replays(), *_operators()]


ROUTE = TaskRoute(send_mail)


def items(ids: Sequence[str], route: TaskRoute = ROUTE) -> list[ClaimItem]:
    """What a claim of these is made of."""
    now = datetime.now(UTC)
    return [ClaimItem(each, route, b"[1, 2]", b"{}", now, None, 500) for each in ids]


async def claim(executor: Executor, claimed: Sequence[ClaimItem]) -> list[ClaimKey]:
    """Claims them as the ledger does; those that it got."""
    lease = timedelta(seconds=60)
    token = uuid4()
    found = await claims.claim(executor, claimed, token=token, whose=WHOSE, owner="bench", lease=lease)
    return [row.key for row in found.values() if row.key is not None]


class _Noting:
    """A connection that notes what it is asked, and knows of no rows."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[Any, ...]]] = []

    async def fetch(self, statement: str, *arguments: Any) -> list[Mapping[str, Any]]:
        self.asked.append((statement, arguments))
        return []


def _asked(act: Callable[[Executor], Awaitable[Any]]) -> list[tuple[str, tuple[Any, ...]]]:
    """What a function of `receiver.record.sql` sends."""
    noting = _Noting()

    async def ask() -> None:
        await act(noting)

    asyncio.run(ask())
    return noting.asked


def _ledger(rows: int) -> list[Question]:
    made: list[Question] = []

    def asks(names: str, act: Callable[[Executor], Awaitable[Any]]) -> None:
        for name, (statement, arguments) in zip(names.split("; "), _asked(act), strict=False):
            made.append(Question("ledger", name, statement, arguments, SERVER_SETTINGS))

    running = [f"running-{number}" for number in range(1, BATCH + 1)]
    waiting = [f"waiting-{number}" for number in range(1, BATCH + 1)]
    keys = [ClaimKey(each, 1, TOKEN) for each in running]
    taken = [
        sweeping.Held(each, "shop.tasks.mail", "READY", published=False, until=datetime.now(UTC), weight=0)
        for each in waiting
    ]
    done = items([f"01900000-{rows // 2:012d}"])
    asks("claim, 80 new; verdicts", lambda e: claim(e, items([f"new-{number}" for number in range(BATCH)])))
    asks("claim, 80 READY", lambda e: claim(e, items(waiting)))
    asks(
        "settle, 80",
        lambda e: settlements.settle(e, [SettleItem(key, "shop.send", return_value="2") for key in keys]),
    )
    asks(
        "settle, 80 failed",
        lambda e: settlements.settle(
            e,
            [
                SettleItem(key, "shop.send", ending="FAILED", error_type="E", error_message="m")
                for key in keys
            ],
        ),
    )
    asks("renew, 80", lambda e: leases.renew(e, keys, lease=timedelta(seconds=60)))
    asks("hand back, 80", lambda e: leases.hand_back(e, keys, instance="bench"))
    asks("find claimed", lambda e: claims.find_claimed(e, items(running), uuid4()))
    asks("find settled", lambda e: settlements.find_status(e, keys))
    asks("is done", lambda e: verdicts.is_done(e, done[0].task_id, ROUTE, whose=WHOSE))
    asks("defer", lambda e: claims.defer(e, "deferred-1"))
    asks("exhaust", lambda e: crashes.exhaust(e, "stranded-1", 1, owner="bench"))
    asks("publish: mark", lambda e: outbox.mark_published(e, taken))
    asks("publish: find ours", lambda e: outbox.find_ours(e, taken))
    made.append(
        Question(
            "ledger",
            "rejection: look up",
            rejected.IS_FINAL,
            (done[0].task_id, *WHOSE, [done[0].route.name]),
            SERVER_SETTINGS,
        )
    )
    return made


def _sweeper(blocks: int) -> list[Question]:
    def asks(name: str, statement: str, *arguments: Any) -> Question:
        return Question("sweeper", name, statement, arguments, SERVER_SETTINGS)

    part = sweeper.part_of(blocks, blocks // sweeper.PATROL // 2)
    lost = (*WHOSE, owed.STRANDED, timedelta(days=14))
    return [
        asks("find owed", sweeping.FIND_OWED, *WHOSE, [], [], owed.BATCH),
        asks("take owed", sweeping.TAKE_OWED, *WHOSE, ["owed-1", "owed-2", "running-1"], owed.TAKEN),
        asks(
            "patrol of 16 MB",
            sweeping.FIND_LOST,
            *lost,
            (part[0], 0),
            (part[0] + owed.BLOCKS, 0),
            [],
            owed.BATCH,
        ),
        asks("find blocks", sweeping.FIND_BLOCKS),
        asks(
            "known now",
            rejected.FIND_KNOWN_NOW,
            *WHOSE,
            1000,
            10**6,
            ["task_1", "task_2"],
            5,
            timedelta(0),
            RETENTION,
            [],
        ),
    ]


def _prune() -> list[Question]:
    def asks(name: str, statement: str, *arguments: Any) -> Question:
        return Question("prune", name, statement, arguments, SERVER_SETTINGS)

    route = maintenance.SWEEP
    first, end = f"scheduled-{route.name}-", f"scheduled-{route.name}."
    ids = [f"01900000-{number:012d}" for number in range(1, 1 + pruning.PRUNE_ROWS)]
    older = RETENTION - timedelta(hours=1)
    return [
        asks("find outdated", prune.FIND_OUTDATED, *WHOSE, older, pruning.PRUNE_ROWS, None, "", prune.WALK),
        asks(
            "find outdated, none",
            prune.FIND_OUTDATED,
            *WHOSE,
            RETENTION,
            pruning.PRUNE_ROWS,
            None,
            "",
            prune.WALK,
        ),
        asks("remove 500", prune.PRUNE, *WHOSE, ids, older),
        asks("finalise 500", prune.FINALISE, *WHOSE, ids, older),
        asks(
            "find firings",
            prune.FIND_FIRINGS,
            *WHOSE,
            first,
            end,
            pruning.FIRINGS,
            pruning.PRUNE_ROWS,
            route.path,
        ),
        asks("remove rejected", rejected.PRUNE_REJECTED, *WHOSE, timedelta(days=20), pruning.PRUNE_ROWS),
    ]


def _replays() -> list[Question]:
    def asks(name: str, statement: str, *arguments: Any) -> Question:
        return Question("replay", name, statement, arguments, SERVER_SETTINGS)

    failed = [f"01900000-{number:012d}" for number in range(1007, 100_007, 1000)]
    return [
        asks("replay 99", replaying.REPLAY, *WHOSE, failed),
        asks("find states", replaying.FIND_STATES, *WHOSE, failed),
        asks("find failed", replaying.FIND_FAILED, *WHOSE, None, None, "ValueError", None, "", 100),
        asks("find rejected", rejected.FIND_REJECTED, *WHOSE, ["77"]),
        asks("rejected for", rejected.FIND_REJECTED_FOR, *WHOSE, 100, 10**6, "unknown_task", None, ""),
        asks("mark replayed", rejected.MARK_REPLAYED, *WHOSE, ["projects/p/subscriptions/s 77"]),
    ]


def _operators() -> list[Question]:
    def asks(name: str, statement: str, *arguments: Any, asker: str = "operator") -> Question:
        return Question(asker, name, statement, arguments, PLANNED_ANEW)

    def listed(names: str, query: Callable[[AsyncConnection], Awaitable[Any]]) -> list[Question]:
        return [asks(*pair) for pair in zip(names.split("; "), _texts(query), strict=False)]

    def standing(status: TaskResultStatus) -> Callable[[AsyncConnection], Awaitable[Any]]:
        return lambda c: newest.executions(c, WHOSE, status=status)

    day = timedelta(days=1)
    return [
        *listed("list", lambda c: newest.executions(c, WHOSE, besides=[maintenance.SWEEP.path])),
        *listed("list --status READY; READY, not published; how far", standing(TaskResultStatus.READY)),
        *listed("list --status RUNNING", standing(TaskResultStatus.RUNNING)),
        *listed("list --status SUCCESSFUL", standing(TaskResultStatus.SUCCESSFUL)),
        *listed("list --status FAILED", standing(TaskResultStatus.FAILED)),
        *listed(
            "now; list --status FAILED --since 1d",
            lambda c: newest.executions(c, WHOSE, status=TaskResultStatus.FAILED, since=day),
        ),
        *listed("list --task, a usual one", lambda c: newest.executions(c, WHOSE, task="task_7")),
        *listed("list --task, nobody's", lambda c: newest.executions(c, WHOSE, task="gone")),
        *listed("now; list --task --since 1d", lambda c: newest.executions(c, WHOSE, task="gone", since=day)),
        *listed("list, of nobody", lambda c: newest.others(c, WHOSE)),
        *listed("show", lambda c: queries.execution(c, "01900000-000000001007")),
        *listed("show: attempts", lambda c: queries.attempts(c, "01900000-000000001007")),
        *listed("unfinished (provision); unfinished of 32 MB", lambda c: queries.unfinished(c, WHOSE)),
        *listed("rejected list", lambda c: rejections(c, whose=WHOSE)),
        *listed("rejected: count", lambda c: queries.rejected_count(c, whose=WHOSE)),
        *listed("dead-letters list", lambda c: dead_letters.given_up(c, WHOSE)),
        asks("group of 1 000", groups.FIND_GROUP, "import-3", *WHOSE, groups.MOST_UNITS),
        asks("/ready", schema_check.LOOK, schema_check.NEEDED),
        asks("owed", doctor.OWED, *WHOSE, record_look.PATIENT, asker="doctor"),
        asks("expired leases", doctor.EXPIRED, *WHOSE, record_look.PATIENT, asker="doctor"),
        asks("crashed", doctor.CRASHED, *WHOSE, record_look.LATELY, asker="doctor"),
        asks("given up", doctor.GIVEN_UP, *WHOSE, asker="doctor"),
        asks("rejected", doctor.REJECTED, *WHOSE, asker="doctor"),
        asks("other environments", doctor.OTHERS, *WHOSE, asker="doctor"),
        asks(
            "last sweeps",
            doctor.SWEPT,
            *WHOSE,
            maintenance.SWEEP.path,
            record_look.SWEEPS,
            owed.STRANDED,
            asker="doctor",
        ),
        asks("server", doctor.SERVER, asker="doctor"),
    ]


class _Listening:
    """A connection that notes its queries. There are no rows, and the table has one block."""

    def __init__(self) -> None:
        self.queries: list[Select[Any]] = []

    async def execute(self, query: Select[Any]) -> _Listening:
        self.queries.append(query)
        return self

    def mappings(self) -> _Listening:
        return self

    def first(self) -> None:
        return None

    def scalar_one_or_none(self) -> None:
        return None

    def scalar_one(self) -> Any:
        [column] = self.queries[-1].selected_columns
        return datetime.now(UTC) if isinstance(column.type, DateTime) else 1

    scalar = scalar_one

    def __iter__(self) -> Any:
        return iter(())


def _texts(query: Callable[[AsyncConnection], Awaitable[Any]]) -> list[str]:
    """What a function of `receiver.reading` sends, with its values written into it."""
    listening = _Listening()

    async def ask() -> None:
        await query(cast("AsyncConnection", listening))

    asyncio.run(ask())
    return [
        str(one.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True}))  # type: ignore[no-untyped-call]  # SQLAlchemy's dialects carry no types
        for one in listening.queries
    ]


def literal(value: object) -> str:
    """A value as a constant whose type the statement gives."""
    match value:
        case None:
            return "NULL"
        case timedelta():
            return f"'{value.total_seconds()} seconds'"
        case (int(), int()):  # a place in the table
            return f"'({value[0]},{value[1]})'"
        case list() | tuple():
            return "'{" + ",".join(map(_element, value)) + "}'"
        case bytes():  # JSON, as it goes to the driver
            return literal(value.decode())
        case _:
            return "'" + str(value).replace("'", "''") + "'"


def _element(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        value = value.decode()
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"').replace("'", "''") + '"'

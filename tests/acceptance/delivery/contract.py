"""The contract of the push endpoint, as one table: every ending with its status, its sentence and its row.

`ENDINGS` are the rows that people read (the table of docs/reference/answers.md is `markdown()`), `CASES` the ways in which each is brought
about. `test_contract` plays every case against a real process; an ending without a case is an error there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from receiver.emulator import push_client as pusher
from receiver.errors import RejectionReason as Reason
from tests.acceptance.delivery import scenarios as play
from tests.acceptance.delivery.scenarios import FAILED, LEFT_RUNNING, SUCCESSFUL, Scenario, push, with_row
from tests.stage import malformed, tokens


@dataclass(frozen=True, slots=True)
class Ending:
    """One row of the contract."""

    title: str
    status: int
    pubsub: str
    row: str


RETURNED = Ending("the task returned", 200, "acks", "SUCCESSFUL, `return_value`, final")
DUPLICATE = Ending("a duplicate of a final execution", 200, "acks", "unchanged, the function is not called")
SWITCHED_OFF = Ending(
    "the task's kill switch is off",
    200,
    "acks",
    "SUCCESSFUL, final, `skipped_by` names the switch; the function is not called",
)
FINAL_FAILURE = Ending(
    "`PermanentError`, `max_attempts` used up, or a result that cannot be stored",
    200,
    "acks",
    "FAILED, final",
)
CRASHED = Ending(
    "its process died under it five times, the last three while it was the only suspect of its instance",
    200,
    "acks",
    "FAILED, final, `error_type` `Crashed`",
)
NOT_DUE = Ending(
    "delivered before its `run_after`",
    200,
    "acks",
    "READY, `published_at` cleared: the sweeper publishes it when it is due",
)
REJECTED = Ending(
    "malformed envelope or payload, unknown task, arguments that do not fit the function, a `task_id` that belongs to "
    "another task",
    400,
    "nacks",
    "FAILED if a READY row exists, and has these arguments where they do not fit; the message is kept in `rejected_messages`",
)
NOT_ITS_OWN = Ending(
    "comes by a subscription that is not its task's own, with `TASKS_SUBSCRIPTIONS=own`",
    400,
    "nacks",
    "unchanged; the message is kept in `rejected_messages`",
)
SET_ASIDE = Ending(
    "the same message rejected at least `TASKS_MAX_REJECTIONS` times over at least `TASKS_REJECTION_GRACE`",
    200,
    "acks",
    "kept in `rejected_messages`, replayable",
)
GIVEN_UP = Ending(
    "a dead letter: Pub/Sub has given the message up, and the record knows it",
    200,
    "acks",
    "READY and owed again, or FAILED and final when no attempt is left or `max_attempts` is not set; a running one goes "
    "on; a message without a row is kept in `rejected_messages`",
)
TOO_LARGE = Ending("larger than `TASKS_MAX_BODY_BYTES`", 400, "nacks", "not kept")
FORBIDDEN = Ending("OIDC token missing, bad, or not ours", 403, "nacks", "nothing is read or written")
BUSY = Ending("the same execution is running elsewhere", 429, "nacks, backs off", "unchanged")
SUSPECT = Ending(
    "its process died under it twice or more, and another such execution runs on this instance",
    429,
    "nacks, backs off",
    "unchanged",
)
NO_ROOM = Ending(
    "no database connection in time, PostgreSQL out of slots, no thread in time, more in flight than "
    "`TASKS_MAX_CONCURRENCY` or `TASKS_MAX_INFLIGHT_BYTES`",
    429,
    "nacks, backs off",
    "unchanged",
)
NO_CONNECTION = Ending(
    "no connection for the task in time, from `ctx.connection()` or `ctx.session()` (`TASKS_DB_POOL_SIZE`)",
    429,
    "nacks, backs off",
    "READY, the attempt not counted",
)
RAISED = Ending(
    "the task raised or ran out of time",
    500,
    "nacks, backs off",
    "FAILED with error and traceback; a redelivery is a retry",
)
UNRECORDED = Ending(
    "the outcome could not be committed, or the database is down",
    500,
    "nacks, backs off",
    "unchanged; or still RUNNING until its lease ends",
)

ENDINGS: Final = (
    RETURNED, DUPLICATE, SWITCHED_OFF, FINAL_FAILURE, CRASHED, NOT_DUE, REJECTED, NOT_ITS_OWN, SET_ASIDE, GIVEN_UP, TOO_LARGE,
    FORBIDDEN, BUSY, SUSPECT, NO_ROOM, NO_CONNECTION, RAISED, UNRECORDED,
)  # fmt: skip

OPENING, CLOSING = "<!-- contract -->", "<!-- /contract -->"


def markdown() -> str:
    """The table as docs/reference/answers.md shows it, between its two markers."""
    head = ["| What happened | Status | Pub/Sub | The row |", "|---|---|---|---|"]
    lines = [f"| {e.title} | {e.status} | {e.pubsub} | {e.row} |" for e in ENDINGS]
    return "\n".join([OPENING, *head, *lines, CLOSING])


class Profile(Enum):
    """The receivers that cases share, by what is special in their environment."""

    USUAL = "usual"
    TIGHT = "tight"
    FRAGILE = "fragile"
    OWN = "own"


ENVIRONMENTS: Final[Mapping[Profile, Mapping[str, str]]] = {
    # Two rejections are enough, but not within the grace: nothing malformed is ever acked here.
    Profile.USUAL: {"TASKS_MAX_REJECTIONS": "2", "ACCEPTANCE_SWITCH": "Off"},
    Profile.TIGHT: {
        "TASKS_THREADS": "1",
        "TASKS_MAX_CONCURRENCY": "3",
        "TASKS_MAX_INFLIGHT_BYTES": "1MiB",
        "TASKS_MAX_BODY_BYTES": "1MiB",
        "TASKS_DB_POOL_TIMEOUT": "0.3",
        "TASKS_DB_POOL_SIZE": "1",
        "TASKS_MAX_REJECTIONS": "3",
        "TASKS_REJECTION_GRACE": "0.3",
    },
    Profile.OWN: {"TASKS_SUBSCRIPTIONS": "own"},
    Profile.FRAGILE: {},  # its PostgreSQL is its own, and is halted and filled up
}


@dataclass(frozen=True, slots=True)
class Case:
    """One way to an ending.

    Attributes:
        text: the whole body of the answer.
        row: columns that the execution must have; None when there must be no row.
        attempts: endings of its recorded attempts.
        calls: how often the function ran.
        rejected: why the message is kept, None when it is not; `count` how often it came.
    """

    name: str
    ending: Ending
    text: str
    scenario: Scenario
    row: Mapping[str, Any] | None = None
    attempts: tuple[str, ...] = ()
    calls: int = 0
    rejected: Reason | None = None
    count: int | None = 1
    profile: Profile = field(default=Profile.USUAL)


def _row(status: str, *, final: bool, attempt: int, **columns: Any) -> dict[str, Any]:
    return {"status": status, "final": final, "attempt": attempt, **columns}


def _done(value: Any = None, attempt: int = 1, **columns: Any) -> dict[str, Any]:
    return _row("SUCCESSFUL", final=True, attempt=attempt, return_value=value, **columns)


def _returned(name: str, scenario: Scenario, row: Mapping[str, Any], **more: Any) -> Case:
    return Case(name, RETURNED, "The task completed.", scenario, row, **({"calls": 1} | more))


def _duplicate(name: str, scenario: Scenario, row: Mapping[str, Any], **more: Any) -> Case:
    return Case(name, DUPLICATE, "The task was already completed.", scenario, row, **more)


def _final(name: str, scenario: Scenario, attempt: int = 1, **columns: Any) -> Case:
    row = _row("FAILED", final=True, attempt=attempt, **columns)
    text = "The task failed and will not be retried."
    return Case(name, FINAL_FAILURE, text, scenario, row, ("FAILED",) * attempt, calls=attempt)


def _given_up(
    name: str, scenario: Scenario, row: Mapping[str, Any] | None, attempts: tuple[str, ...] = (), **more: Any
) -> Case:
    return Case(name, GIVEN_UP, "The dead letter is recorded.", scenario, row, attempts, **more)


def _rejected(
    name: str, scenario: Scenario, why: Reason | None, row: Mapping[str, Any] | None = None, **more: Any
) -> Case:
    return Case(name, REJECTED, "The message was rejected.", scenario, row, rejected=why, **more)


def _not_its_own(name: str, scenario: Scenario, row: Mapping[str, Any] | None = None) -> Case:
    return Case(
        name,
        NOT_ITS_OWN,
        "The message was rejected.",
        scenario,
        row,
        rejected=Reason.WRONG_SUBSCRIPTION,
        profile=Profile.OWN,
    )


def _full(name: str, scenario: Scenario, profile: Profile = Profile.TIGHT) -> Case:
    return Case(name, NO_ROOM, "The service is at capacity.", scenario, profile=profile)


def _raised(name: str, scenario: Scenario, attempt: int = 1, ending: str = "FAILED", **columns: Any) -> Case:
    row = _row("FAILED", final=False, attempt=attempt, **columns)
    return Case(name, RAISED, "The task failed.", scenario, row, (ending,) * attempt, calls=attempt)


def _unrecorded(name: str, scenario: Scenario, row: Mapping[str, Any] | None = None, **more: Any) -> Case:
    text = "The outcome could not be recorded."
    return Case(name, UNRECORDED, text, scenario, row, profile=Profile.FRAGILE, **more)


_PATH: Final = "acceptance_tasks"
_FORMER: Final[dict[str, Any]] = {"task_name": "renamed", "task_path": f"{_PATH}.renamed"}
_UNFIT: Final = play.body_of(lambda s: pusher.message("succeed", kwargs={"nobody": 1}, task_id=s.label))
_UNKNOWN: Final = push("nobody_knows")

CASES: Final = (
    _returned("async task", push("succeed", value=[1, "a", None]), _done([1, "a", None])),
    _returned("async task returning nothing", push("succeed"), _done()),
    _returned("sync task", push("succeed_in_thread", value={"a": 1}), _done({"a": 1})),
    _returned("undecorated async function", push("undecorated", value=1), _done(1)),
    _returned("undecorated sync function", push("undecorated_in_thread", value=1), _done(1)),
    _returned("by path", push(f"{_PATH}.succeed", value=1), _done(1, task_name="succeed", task_path=f"{_PATH}.succeed")),
    _returned("by former name", push("former_name", value=1), _done(1, **_FORMER)),
    _returned("by former path", push("former_tasks.renamed", value=1), _done(1, **_FORMER)),
    _returned("by positional arguments", play.positional, _done(7)),
    _returned("with a transaction", play.written(1), _done()),
    _returned("a row enqueued before", with_row(push("succeed"), "succeed"), _done()),
    _returned("a row that is due", with_row(push("succeed"), "succeed", run_after_in=-1, published_at_in=-1), _done()),
    _returned("a row under a former path", with_row(
        push("renamed"), "renamed", task_path="former_tasks.renamed"), _done(task_path="former_tasks.renamed")),
    _returned("retry of a failure", push("fail_once", times=2), _done("printed", 2), attempts=("FAILED",), calls=2),
    _returned("after a lease ran out", with_row(push("succeed"), "succeed", **LEFT_RUNNING), _done(attempt=2),
              attempts=("LEASE_EXPIRED",)),
    _returned("a time is stored as text", push("return_something", kind="time"), _done("2026-01-02T03:04:05Z")),
    _returned("message without task_id", play.without_task_id, _done()),
    _returned("unknown fields are ignored", play.body_of(play.spelled({"priority": 7})), _done()),
    _returned("after the database came back", play.back_again, _done(), profile=Profile.FRAGILE),
    _returned("the database restarts under the settlement", play.restarted_while_running, _done("waited"),
              profile=Profile.FRAGILE),
    _returned("a firing's id is not extended twice", play.replayed_firing, _done(), calls=0),

    _duplicate("late duplicate", push("succeed", times=3), _done(), calls=1),
    _duplicate("late duplicate of a final failure", push("give_up", times=2),
               _row("FAILED", final=True, attempt=1), attempts=("FAILED",), calls=1),
    _duplicate("late duplicate of a removed task", with_row(_UNKNOWN, "nobody_knows", **SUCCESSFUL), _done()),
    _duplicate("late duplicate of a removed task, by path", with_row(
        push(f"{_PATH}.nobody_knows"), "nobody_knows", **SUCCESSFUL), _done()),
    _duplicate("late duplicate that no longer fits", with_row(_UNFIT, "succeed", **SUCCESSFUL), _done()),
    _duplicate("late duplicate by a former name that no longer fits", with_row(
        play.from_an_alias, "renamed", **SUCCESSFUL), _done()),
    _duplicate("late duplicate that has become malformed", with_row(
        play.body_of(play.spelled({"enqueued_at": "yesterday"})), "succeed", **SUCCESSFUL), _done()),
    _duplicate("late duplicate while switched off", with_row(push("switched"), "switched", **SUCCESSFUL), _done()),
    _duplicate("late duplicate before its run_after", with_row(
        push("succeed"), "succeed", **SUCCESSFUL, run_after_in=3600), _done()),
    _duplicate("scheduled firing delivered twice", play.scheduled(1), _done()),
    _duplicate("each firing is an execution of its own", play.scheduled(3), _done()),

    Case("kill switch", SWITCHED_OFF, "The task is switched off.", push("switched"),
         _done(skipped_by="ACCEPTANCE_SWITCH")),

    _final("PermanentError", push("give_up"), error_type="receiver.errors.PermanentError"),
    _final("last attempt", push("try_twice", times=2), 2, error_type="ValueError"),
    *(_final(f"result with {kind}", push("return_something", kind=kind), error_type="ResultNotStorable")
      for kind in ("NUL", "object", "large", "surrogate", "NaN")),
    Case("attempts found used up", FINAL_FAILURE, "The task has no attempts left.",
         with_row(push("try_twice"), "try_twice", **FAILED),
         _row("FAILED", final=True, attempt=2, error_message="out of paper")),
    Case("last attempt, after a lease ran out in it", FINAL_FAILURE, "The task failed and will not be retried.",
         with_row(push("try_twice"), "try_twice", **LEFT_RUNNING), _row("FAILED", final=True, attempt=2, crashes=1),
         ("LEASE_EXPIRED", "FAILED"), calls=1),

    Case("its fifth crash", CRASHED, "The task ended its process repeatedly and will not be retried.",
         with_row(push("succeed"), "succeed", **LEFT_RUNNING, crashes=4),
         _row("FAILED", final=True, attempt=2, error_type="Crashed", crashes=5), ("LEASE_EXPIRED",)),

    Case("before its run_after", NOT_DUE, "The task is not due yet and will be delivered later.",
         with_row(push("succeed"), "succeed", run_after_in=3600, published_at_in=-1),
         _row("READY", final=False, attempt=0, published_at=None)),

    *(_rejected(f"malformed: {name}", play.poison(body), None, count=2) for name, body in malformed.CASES),
    _rejected("unknown task", _UNKNOWN, Reason.UNKNOWN_TASK),
    _rejected("unknown task, enqueued", with_row(_UNKNOWN, "nobody_knows"), Reason.UNKNOWN_TASK,
              _row("FAILED", final=False, attempt=0, error_type="Rejected"), attempts=("REJECTED",)),
    _rejected("unfit arguments", _UNFIT, Reason.BAD_ARGUMENTS),
    _rejected("unfit arguments, enqueued", with_row(_UNFIT, "succeed", kwargs='{"nobody":1}'),
              Reason.BAD_ARGUMENTS, _row("FAILED", final=False, attempt=0, error_type="Rejected"),
              attempts=("REJECTED",)),
    _rejected("unfit arguments that are not the row's", with_row(_UNFIT, "succeed"), Reason.BAD_ARGUMENTS,
              _row("READY", final=False, attempt=0)),
    _rejected("unfit arguments by a former name, enqueued", with_row(
        play.from_an_alias, "renamed", args='["too","many","now"]'),
              Reason.BAD_ARGUMENTS, _row("FAILED", final=False, attempt=0), attempts=("REJECTED",)),
    _rejected("malformed payload, enqueued", with_row(
        play.body_of(play.spelled({"enqueued_at": "yesterday"})), "succeed"),
        Reason.MALFORMED_PAYLOAD, _row("FAILED", final=False, attempt=0), attempts=("REJECTED",)),
    _rejected("too many arguments", play.body_of(
        lambda s: pusher.message("succeed", [1, 2, 3], task_id=s.label)), Reason.BAD_ARGUMENTS),
    _rejected("the context is not an argument", push("know", ctx=1), Reason.BAD_ARGUMENTS),
    _rejected("a number that nobody can read", play.unreadable_number, Reason.MALFORMED_PAYLOAD),
    _rejected("another task's id", with_row(push("succeed"), "fail"), Reason.FOREIGN_TASK_ID,
              _row("READY", final=False, attempt=0, task_name="fail")),
    _rejected("another task's id, final", with_row(push("succeed"), "fail", **SUCCESSFUL), Reason.FOREIGN_TASK_ID,
              _done(task_name="fail")),
    _rejected("another module's task of that name", with_row(push("succeed"), "succeed", task_path="other.succeed"),
              Reason.FOREIGN_TASK_ID, _row("READY", final=False, attempt=0)),
    _rejected("another namespace's id", with_row(push("succeed"), "succeed", namespace="other"),
              Reason.FOREIGN_TASK_ID, _row("READY", final=False, attempt=0)),
    _rejected("often enough, not for long enough", push("nobody_knows", times=4), Reason.UNKNOWN_TASK, count=4),

    _returned("by its own subscription", play.by("succeed"), _done(), profile=Profile.OWN),
    _returned("by an alias's subscription", play.by("former_tasks.renamed", "renamed"), _done(**_FORMER),
              profile=Profile.OWN),
    _not_its_own("by another task's subscription", with_row(play.by("fail", "succeed"), "succeed"),
                 _row("READY", final=False, attempt=0)),
    _rejected("malformed payload by no task's subscription, enqueued", with_row(
        play.body_of(play.spelled({"enqueued_at": "yesterday"})), "succeed"),
        Reason.MALFORMED_PAYLOAD, _row("READY", final=False, attempt=0), profile=Profile.OWN),
    _not_its_own("by no task's subscription", push("succeed")),
    _not_its_own("an unknown task by a task's subscription", play.by("fail", "nobody_knows")),
    _not_its_own("by its subscription's name in another project", play.by("succeed", project="other")),
    Case("a dead letter by a subscription of its name in another project", NOT_ITS_OWN, "The message was rejected.",
         play.dead_letter_of("other"), rejected=Reason.WRONG_SUBSCRIPTION, profile=Profile.OWN),
    Case("unknown, by nobody's subscription", REJECTED, "The message was rejected.", _UNKNOWN,
         rejected=Reason.UNKNOWN_TASK, profile=Profile.OWN),
    _given_up("a dead letter of a READY one, own", with_row(play.dead_letter, "succeed", published_at_in=-1),
              _row("READY", final=False, attempt=0, published_at=None, dead_letters=1), profile=Profile.OWN),

    Case("rejected often and long enough", SET_ASIDE, "The message was rejected repeatedly and has been set aside.",
         play.until_acked, rejected=Reason.UNKNOWN_TASK, count=None, profile=Profile.TIGHT),

    _given_up("a dead letter of a READY one", with_row(play.dead_letter, "succeed", published_at_in=-1),
              _row("READY", final=False, attempt=0, published_at=None, dead_letters=1)),
    _given_up("a dead letter of a running one", with_row(
        play.dead_letter, "succeed", **LEFT_RUNNING | {"lease_expires_at_in": 60}, published_at_in=-1),
        _row("RUNNING", final=False, attempt=2, published_at=None)),
    _given_up("a dead letter of a failed one", with_row(play.dead_letter, "succeed", **FAILED),
              _row("FAILED", final=True, attempt=2, error_message="out of paper")),
    _given_up("a dead letter without a row", play.dead_letter, None, rejected=Reason.DEAD_LETTER),
    _duplicate("a dead letter of a final one", with_row(play.dead_letter, "succeed", **SUCCESSFUL), _done()),

    Case("announced", TOO_LARGE, "The message is too large.", play.announced_too_large),

    *(Case(f"token: {name}", FORBIDDEN, "Forbidden.", play.hostile(build)) for name, build in tokens.CASES),

    Case("duplicate while running", BUSY, "The task is already running.", play.while_running,
         _done("waited"), calls=1),
    Case("duplicate while running elsewhere", BUSY, "The task is already running.", with_row(
        push("succeed"), "succeed", **LEFT_RUNNING | {"lease_expires_at_in": 60}),
        _row("RUNNING", final=False, attempt=2)),

    Case("beside another suspect", SUSPECT, "The service is at capacity.", play.two_suspects,
         _row("READY", final=False, attempt=0, crashes=2)),

    _full("concurrency", play.beside("wait", "succeed", others=3)),
    _full("bytes in flight", play.beside("wait", "wait", others=1, size=400_000)),
    _full("threads", play.beside("wait_in_thread", "wait_in_thread", others=1)),
    _full("a connection of the ledger", play.pool_timeout),
    _full("a table that stays locked", play.locked_out, Profile.USUAL),
    _full("PostgreSQL's slots", play.out_of_slots, Profile.FRAGILE),

    Case("a connection for the task", NO_CONNECTION, "The service is at capacity.",
         play.beside("hold_connection", "hold_connection", others=1), _row("READY", final=False, attempt=0),
         ("HANDED_BACK",), profile=Profile.TIGHT),

    _raised("async task raises", push("fail"), error_type="ValueError", error_message="out of paper \\x00"),
    _raised("sync task raises", push("fail_in_thread"), error_type="ValueError"),
    _raised("a retry raises too", push("fail", times=3), 3),
    _raised("an attempt is left", push("try_twice")),
    _raised("a transaction is rolled back", play.written(0, fail=True)),
    _raised("async task out of time", push("exceed"), ending="TIMED_OUT", error_type="TimedOut"),
    _raised("sync task out of time", push("exceed_in_thread"), ending="TIMED_OUT", error_type="TimedOut"),
    Case("a task that does not stop", RAISED, "The task ran out of time.", play.abandoned,
         _row("FAILED", final=False, attempt=1), ("TIMED_OUT",), calls=1),

    _unrecorded("database down", play.database_down),
    _unrecorded("a dead letter while the database is down", play.database_down_for_a_dead_letter),
    _unrecorded("database down under a running task", play.down_while_running,
                _row("RUNNING", final=False, attempt=1), calls=1),
)  # fmt: skip

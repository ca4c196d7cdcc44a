"""What the two tables say about an execution, told in order."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.endings.outcomes import AttemptEnding
from receiver.reading.history import WHY_LIMIT, Transition, history
from receiver.reading.queries import Attempt, Execution

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ROW = Execution(
    task_id="e1",
    task_name="greet",
    task_path="shop.greet",
    namespace="shop",
    environment="dev",
    args=[],
    kwargs={},
    status="READY",
    final=False,
    attempt=0,
    fence=0,
    enqueued_at=START,
)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def row(**columns: Any) -> Execution:
    return dataclasses.replace(ROW, **columns)


def attempt(fence: int, ending: str, **columns: Any) -> Attempt:
    usual: dict[str, Any] = {
        "attempt": fence,
        "started_at": at(10 * fence),
        "ended_at": at(10 * fence + 5),
        "error_type": "ValueError",
        "error_message": "boom",
        "instance": "box-1",
    }
    return Attempt(task_id="e1", fence=fence, ending=ending, **(usual | columns))


def told(execution: Execution, *attempts: Attempt) -> list[tuple[str | None, str, datetime | None, str]]:
    return [(step.from_, step.to, step.at, step.why) for step in history(execution, attempts)]


def test_an_execution_that_waits_was_only_enqueued() -> None:
    assert told(ROW) == [(None, "READY", START, "enqueued")]


def test_a_deferred_execution_says_until_when() -> None:
    assert told(row(run_after=at(60)))[0][3] == "enqueued, to run after 2026-03-01T12:01:00Z"


def test_a_dead_letter_puts_it_back() -> None:
    """`run_after` is the pause until it is published again, and not what the caller asked for."""
    put_back = row(fence=1, attempt=1, dead_letters=1, dead_lettered_at=at(90), run_after=at(150))
    assert told(put_back, attempt(1, "FAILED"))[0][3] == "enqueued"
    assert told(put_back, attempt(1, "FAILED"))[-1] == (
        "FAILED",
        "READY",
        at(90),
        "given up by Pub/Sub; to be published again, not before 2026-03-01T12:02:30Z",
    )


def test_a_dead_letter_of_before_the_last_run_does_not_put_it_back_again() -> None:
    handed_back = row(fence=1, attempt=0, dead_letters=1, dead_lettered_at=at(1), run_after=at(9))
    last = told(handed_back, attempt(1, "HANDED_BACK", error_message=None))[-1]
    assert last == ("RUNNING", "READY", at(15), "handed back on shutdown on box-1; not counted")


@pytest.mark.parametrize(
    ("letter", "why"),
    [(at(90), "ValueError: boom; given up by Pub/Sub; final"), (at(1), "ValueError: boom; final")],
)
def test_a_failure_that_a_dead_letter_made_final_says_so(letter: datetime, why: str) -> None:
    failed = row(status="FAILED", final=True, fence=1, attempt=1, dead_letters=1, dead_lettered_at=letter)
    assert told(failed, attempt(1, "FAILED"))[-1][3] == why


def test_the_running_attempt_is_read_from_the_row() -> None:
    running = row(status="RUNNING", attempt=1, fence=1, started_at=at(1))
    assert told(running)[1:] == [("READY", "RUNNING", at(1), "attempt 1 started")]


def test_the_attempt_that_succeeded_is_read_from_the_row() -> None:
    done = row(status="SUCCESSFUL", final=True, attempt=1, fence=1, started_at=at(1), finished_at=at(2))
    assert told(done)[1:] == [
        ("READY", "RUNNING", at(1), "attempt 1 started"),
        ("RUNNING", "SUCCESSFUL", at(2), "the task returned"),
    ]


def test_a_skipped_execution_names_its_switch() -> None:
    done = row(
        status="SUCCESSFUL",
        final=True,
        attempt=1,
        fence=1,
        started_at=at(1),
        finished_at=at(2),
        skipped_by="ENABLE_IT",
    )
    assert told(done)[-1] == ("RUNNING", "SUCCESSFUL", at(2), "not run: ENABLE_IT is off")


def test_a_retry_goes_from_failed_to_running_by_way_of_ready() -> None:
    done = row(status="SUCCESSFUL", final=True, attempt=2, fence=2, started_at=at(20), finished_at=at(21))
    assert told(done, attempt(1, "FAILED")) == [
        (None, "READY", START, "enqueued"),
        ("READY", "RUNNING", at(10), "attempt 1 started"),
        ("RUNNING", "FAILED", at(15), "ValueError: boom"),
        ("FAILED", "READY", at(20), "delivered again"),
        ("READY", "RUNNING", at(20), "attempt 2 started"),
        ("RUNNING", "SUCCESSFUL", at(21), "the task returned"),
    ]


def test_a_failure_that_is_final_says_so() -> None:
    failed = row(status="FAILED", final=True, attempt=1, fence=1, started_at=at(10), finished_at=at(15))
    assert told(failed, attempt(1, "FAILED"))[-1] == ("RUNNING", "FAILED", at(15), "ValueError: boom; final")


def test_a_time_out_says_so() -> None:
    failed = row(status="FAILED", attempt=1, fence=1, started_at=at(10), finished_at=at(15))
    ended = attempt(1, "TIMED_OUT", error_type="TimedOut", error_message="it did not end within 3 s")
    assert told(failed, ended)[-1] == ("RUNNING", "FAILED", at(15), "timed out: it did not end within 3 s")


def test_a_lease_that_expired_makes_it_ready_for_the_next_owner() -> None:
    running = row(status="RUNNING", attempt=2, fence=2, started_at=at(15))
    assert told(running, attempt(1, "LEASE_EXPIRED"))[2:] == [
        ("RUNNING", "READY", at(15), "lease expired on box-1"),
        ("READY", "RUNNING", at(15), "attempt 2 started"),
    ]


def test_what_was_handed_back_is_ready_and_its_attempt_starts_again() -> None:
    """The next attempt has the same number: the one handed back does not count."""
    handed_back = attempt(1, "HANDED_BACK", error_type=None, error_message=None)
    assert told(row(fence=1), handed_back)[2:] == [
        ("RUNNING", "READY", at(15), "handed back on shutdown on box-1; not counted")
    ]
    again = row(status="RUNNING", attempt=1, fence=2, started_at=at(20))
    assert told(again, handed_back)[3:] == [("READY", "RUNNING", at(20), "attempt 1 started")]


def test_a_rejected_execution_never_ran() -> None:
    failed = row(status="FAILED", fence=1, finished_at=at(15))
    rejected = attempt(1, "REJECTED", attempt=0, started_at=None, error_message="unknown_task: no such route")
    assert told(failed, rejected)[1:] == [
        ("READY", "FAILED", at(15), "could not start: unknown_task: no such route")
    ]


def test_attempts_used_up_by_an_owner_that_vanished_end_as_failed() -> None:
    failed = row(
        status="FAILED",
        final=True,
        attempt=1,
        fence=1,
        started_at=at(10),
        finished_at=at(99),
        error_type="AttemptsExhausted",
        error_message="1 of 1 attempts used up",
    )
    assert told(failed, attempt(1, "LEASE_EXPIRED"))[2:] == [
        ("RUNNING", "READY", at(15), "lease expired on box-1"),
        ("READY", "FAILED", at(99), "AttemptsExhausted: 1 of 1 attempts used up; final"),
    ]


def test_a_failure_put_back_by_an_operator_is_ready_at_a_time_nobody_kept() -> None:
    assert told(row(attempt=1, fence=1), attempt(1, "FAILED"))[-1] == ("FAILED", "READY", None, "put back")


def test_an_error_is_quoted_in_one_bounded_line() -> None:
    long = attempt(1, "FAILED", error_message="first\nsecond " + "x" * 5000)
    why = told(row(status="FAILED", attempt=1, fence=1, finished_at=at(15)), long)[-1][3]
    assert why.startswith("ValueError: first second xxx")
    assert len(why) == WHY_LIMIT


def test_the_json_form_has_from_to_at_and_why() -> None:
    assert Transition(None, "READY", START, "enqueued").as_json() == {
        "from": None,
        "to": "READY",
        "at": "2026-03-01T12:00:00Z",
        "why": "enqueued",
    }
    assert Transition("FAILED", "READY", None, "put back").as_json()["at"] is None


@given(st.lists(st.sampled_from(list(AttemptEnding)), max_size=8), st.data())
def test_a_history_is_one_chain_from_nowhere_to_the_rows_status(
    endings: list[AttemptEnding], data: st.DataObject
) -> None:
    """Whatever the lines say, and in whatever order they come, no step starts where the one before did not end."""
    lines = [attempt(number, ending) for number, ending in enumerate(endings, start=1)]
    status = data.draw(st.sampled_from(["READY", "RUNNING", "SUCCESSFUL", "FAILED"]))
    execution = row(
        status=status,
        final=status == "SUCCESSFUL" or (status == "FAILED" and data.draw(st.booleans())),
        attempt=len(lines),
        fence=len(lines) + data.draw(st.integers(0, 1)),
        started_at=None if status == "READY" else data.draw(st.none() | st.just(at(500))),
        finished_at=at(600) if status in {"SUCCESSFUL", "FAILED"} else None,
    )
    steps = history(execution, data.draw(st.permutations(lines)))
    assert steps[0].from_ is None
    assert [step.from_ for step in steps[1:]] == [step.to for step in steps[:-1]]
    assert steps[-1].to == status
    allowed = {
        (None, "READY"),
        ("READY", "RUNNING"),
        ("READY", "FAILED"),
        ("RUNNING", "READY"),
        ("RUNNING", "SUCCESSFUL"),
        ("RUNNING", "FAILED"),
        ("FAILED", "READY"),
    }
    assert {(step.from_, step.to) for step in steps} <= allowed


def test_attempts_are_told_by_their_fences_in_whatever_order_they_come() -> None:
    lines = [attempt(2, "FAILED"), attempt(3, "TIMED_OUT"), attempt(1, "LEASE_EXPIRED")]
    failed = row(status="FAILED", attempt=3, fence=3, started_at=at(30), finished_at=at(35))
    assert [step.why for step in history(failed, lines) if step.to == "RUNNING"] == [
        "attempt 1 started",
        "attempt 2 started",
        "attempt 3 started",
    ]


@pytest.mark.parametrize("ending", list(AttemptEnding))
def test_every_line_of_task_attempts_is_told(ending: AttemptEnding) -> None:
    assert at(15) in [step.at for step in history(ROW, [attempt(1, ending)])]

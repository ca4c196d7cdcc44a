"""A delivery grows richer, from Delivery to Call to Claimed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from receiver import TaskRoute
from receiver.contract.failure import Failure
from receiver.contract.message import Delivery
from receiver.endings.calls import Call, Claimed
from receiver.endings.outcomes import AttemptEnding, Failed

FAILURE = Failure("ValueError", "no", None)


def pay(card: str) -> None: ...


def delivery(task_id: str = "pay-1") -> Delivery:
    return Delivery(
        message_id="m-1",
        publish_time=None,
        subscription="projects/p/subscriptions/s",
        delivery_attempt=None,
        attributes={},
        task_id=task_id,
        task_name="pay",
        args=b'["4111"]',
        kwargs=b"{}",
        enqueued_at=datetime(2026, 1, 1, tzinfo=UTC),
        traceparent=None,
    )


class Released:
    """A lease that was given back."""

    expired = True

    def watch(self, lost: Callable[[], None]) -> None:
        lost()

    def keep(self) -> None: ...

    def give_back(self) -> None: ...


TOKEN = uuid4()


def claimed(*, attempt: int = 1, **route: Any) -> Claimed:
    call = Call(delivery(), TaskRoute(pay, **route), 1000.0, ["4111"], {"pin": "0000"})
    return Claimed(call, fence=7, token=TOKEN, attempt=attempt, lease=Released())


def test_a_deadline_counts_from_the_arrival_of_the_request() -> None:
    assert claimed(timeout=12.5).call.deadline == 1012.5
    assert claimed(ack_deadline=100).call.deadline == 1090.0


def test_a_claim_is_named_by_task_id_fence_and_token() -> None:
    claim = claimed()
    assert claim.task_id == "pay-1"
    assert claim.key == ("pay-1", 7, TOKEN)


def test_a_failure_before_the_last_attempt_is_not_final() -> None:
    assert claimed(attempt=2, max_attempts=3).failed(FAILURE) == Failed(
        FAILURE, AttemptEnding.FAILED, final=False
    )


@pytest.mark.parametrize("attempt", [3, 4])
def test_a_failure_of_the_last_attempt_is_final(attempt: int) -> None:
    outcome = claimed(attempt=attempt, max_attempts=3).failed(FAILURE, AttemptEnding.TIMED_OUT)
    assert outcome == Failed(FAILURE, AttemptEnding.TIMED_OUT, final=True)


def test_without_max_attempts_only_what_says_so_is_final() -> None:
    assert not claimed(attempt=1_000_000).failed(FAILURE).final
    assert claimed().failed(FAILURE, final=True).final


def test_arguments_do_not_show_when_a_call_is_printed() -> None:
    shown = repr(Call(delivery(), TaskRoute(pay), 0.0, ["s3cret"], {"pin": "s3cret"}))
    assert "s3cret" not in shown


def test_nothing_is_changed_on_the_way() -> None:
    claim = claimed()
    with pytest.raises(AttributeError):
        claim.fence = 8  # type: ignore[misc] # that is the point
    with pytest.raises(AttributeError):
        claim.call.arrived = 0.0  # type: ignore[misc] # that is the point


def test_arguments_that_lead_back_to_their_call_are_collected() -> None:
    """A task may put its context, which knows the claim, into one of its own arguments."""

    class Mark:
        """What can be referred to weakly."""

    def circle() -> weakref.ref[Mark]:
        data: dict[str, Any] = {"mark": Mark()}
        call = Call(delivery(), TaskRoute(pay), 1000.0, [data], {})
        data["claim"] = Claimed(call, fence=1, token=TOKEN, attempt=1, lease=Released())
        return weakref.ref(data["mark"])

    mark = circle()
    gc.collect()
    assert mark() is None

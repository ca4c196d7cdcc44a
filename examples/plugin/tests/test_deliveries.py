"""What Pub/Sub does on good and on bad days, on a real PostgreSQL: the receiver's test kit."""

from __future__ import annotations

import pytest
from example_tasks.images import resize_image
from example_tasks.mail import send_welcome_email
from example_tasks.maintenance import cleanup_old_data
from example_tasks.payments import charge

from receiver.testing import TaskQueue


def test_a_welcome_email_goes_out_once(task_queue: TaskQueue) -> None:
    task_queue.push(send_welcome_email, "42", language="de")
    task_queue.redeliver_last()  # Pub/Sub may always deliver twice
    (execution,) = task_queue.executions
    assert (execution.attempt, execution.return_value) == (1, {"user_id": "42", "subject": "Willkommen"})


def test_images_are_resized_in_order(task_queue: TaskQueue) -> None:
    for image in ("cat.png", "dog.png"):
        task_queue.enqueue(resize_image, image, [320])
    assert all(delivered.acked for delivered in task_queue.deliver_all())
    assert [execution.args[0] for execution in task_queue.executions] == ["cat.png", "dog.png"]


def test_a_charge_has_the_same_key_after_a_crash(task_queue: TaskQueue) -> None:
    """The provider knows the key: the second run charges nobody twice. A crash costs no attempt."""
    task_queue.crash_next()
    first = task_queue.push(charge, "A-1", 1999)
    assert first.status == 0
    assert task_queue.redeliver_last().status == 429  # the lease of the instance that died still holds
    task_queue.advance(61)
    assert task_queue.redeliver_last().acked
    (execution,) = task_queue.executions
    assert (execution.attempt, execution.return_value["reference"]) == (1, f"ch_{first.task_id[-12:]}")


def test_a_provider_that_stays_down_gets_three_tries(task_queue: TaskQueue) -> None:
    task_queue.enqueue(charge, "A-1", 1999, card="card_timeout")
    assert [task_queue.deliver_all()[0].status for _ in range(3)] == [500, 500, 200]
    assert task_queue.executions[0].final


def test_the_nightly_cleanup_can_be_switched_off(
    task_queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENABLE_CLEANUP", "off")
    task_queue.tick(cleanup_old_data)
    monkeypatch.setenv("ENABLE_CLEANUP", "on")
    task_queue.tick(cleanup_old_data)
    skipped, cleaned = task_queue.executions
    assert skipped.skipped_by == "ENABLE_CLEANUP"
    assert cleaned.return_value["deleted"] == 0

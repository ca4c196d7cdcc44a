"""What Pub/Sub does to the tasks on good and on bad days: the fixture `task_queue`, on a real PostgreSQL."""

from __future__ import annotations

import asyncio

import pytest
from project_name.tasks import delete_old_orders, place_order, send_welcome_email

from receiver.testing import TaskQueue


def test_a_task_is_its_function() -> None:
    sent = asyncio.run(send_welcome_email("ada", language="fr"))
    assert sent == {"sent_to": "ada", "subject": "Bienvenue"}


def test_a_welcome_email_goes_out_once(task_queue: TaskQueue) -> None:
    task_queue.push(send_welcome_email, "ada")
    task_queue.redeliver_last()  # Pub/Sub may always deliver twice
    (execution,) = task_queue.executions
    assert (execution.status, execution.attempt) == ("SUCCESSFUL", 1)


def test_an_instance_that_dies_leaves_no_half_order(task_queue: TaskQueue) -> None:
    task_queue.crash_next()
    task_queue.push(place_order, "ink")  # the order was written, and is rolled back
    task_queue.advance(61)  # its lease runs out: another instance may take over
    assert all(delivered.acked for delivered in task_queue.deliver_all())
    order, mail = task_queue.executions
    assert (order.status, order.return_value) == ("SUCCESSFUL", order.task_id)
    assert mail.args == ["the buyer of ink"]  # enqueued once, with the order


def test_an_order_of_nothing_is_final(task_queue: TaskQueue) -> None:
    task_queue.push(place_order, "")
    assert task_queue.executions[0].status == "FAILED"
    assert task_queue.pending == []


def test_old_orders_are_deleted_at_night(task_queue: TaskQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    task_queue.tick(delete_old_orders)
    monkeypatch.setenv("ENABLE_DELETE_OLD_ORDERS", "off")
    task_queue.tick(delete_old_orders)
    deleted, skipped = task_queue.executions
    assert deleted.return_value == 0
    assert skipped.skipped_by == "ENABLE_DELETE_OLD_ORDERS"

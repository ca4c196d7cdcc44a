"""An unacked message is always in one place, and found without looking at the rest."""

from __future__ import annotations

import time

from receiver.emulator.backlog import Backlog, PubsubMessage, Unacked


def unacked(number: int = 1) -> Unacked:
    return Unacked(PubsubMessage(message_id=str(number)))


def test_messages_are_taken_in_order_each_once() -> None:
    backlog = Backlog()
    first, second = unacked(1), unacked(2)
    for one in (first, second):
        backlog.add(one, 0)
    assert backlog.take(0) is first
    assert backlog.take(0) is second
    assert backlog.take(0) is None
    assert (len(backlog), list(backlog), backlog.next_due()) == (2, [first, second], None)


def test_one_that_was_put_back_waits_for_its_time() -> None:
    backlog, one = Backlog(), unacked()
    backlog.add(one, 0)
    backlog.take(0)
    backlog.put_back(one, 5)
    assert (backlog.take(4.9), backlog.next_due()) == (None, 5)
    assert backlog.take(5) is one
    assert (backlog.take(5), backlog.next_due()) == (None, None)


def test_one_that_was_removed_is_nowhere_any_more() -> None:
    backlog = Backlog()
    waiting, leased = unacked(1), unacked(2)
    backlog.add(waiting, 5)
    backlog.add(leased, 0)
    backlog.put_back(leased, 5, "2-1")
    for one in (waiting, leased):
        backlog.remove(one)
    assert (backlog.take(10), backlog.next_due(), backlog.leased(["2-1"]), len(backlog)) == (
        None,
        None,
        [],
        0,
    )


def test_a_lease_is_known_by_its_id_until_it_runs_out() -> None:
    backlog, one = Backlog(), unacked()
    backlog.add(one, 0)
    backlog.take(0)
    backlog.put_back(one, 5, "1-1")
    assert backlog.leased(["1-1", "1-2", "2-1", "unknown"]) == [one]
    backlog.put_back(one, 8, "1-1")
    assert backlog.take(7) is None
    assert backlog.take(8) is one
    backlog.put_back(one, 8)
    assert backlog.leased(["1-1"]) == []


def test_a_hundred_thousand_messages_cost_no_more_than_ten() -> None:
    backlog = Backlog()
    for number in range(100_000):
        backlog.add(unacked(number), 0)
    began = time.perf_counter()
    for _ in range(1000):
        taken = backlog.take(0)
        assert taken is not None
        backlog.put_back(taken, 1e9)
        backlog.next_due()
    assert time.perf_counter() - began < 10  # looking at each of them takes minutes

"""An unacked message is always in one place, and found without looking at the rest."""

from __future__ import annotations

import time

import pytest

from receiver.emulator.backlog import Backlog, PubsubMessage, Subscription, Unacked, seconds


def unacked(number: int = 1) -> Unacked:
    return Unacked(PubsubMessage(message_id=str(number)))


def test_messages_are_taken_in_order_and_counted() -> None:
    backlog = Backlog()
    first, second = unacked(1), unacked(2)
    backlog.add([first, second])
    assert backlog.take(0) is first
    assert backlog.take(0) is second
    assert backlog.take(0) is None
    assert (first.attempts, len(backlog), list(backlog)) == (1, 2, [first, second])


def test_one_that_was_put_back_waits_for_its_time() -> None:
    backlog, one = Backlog(), unacked()
    backlog.add([one])
    backlog.take(0)
    backlog.put_back(one, until=5)
    assert (backlog.take(4.9), backlog.next_due()) == (None, 5)
    assert backlog.take(5) is one
    assert one.attempts == 2
    backlog.put_back(one)
    assert backlog.next_due() == 0
    assert backlog.take(5) is one
    assert backlog.next_due() is None


def test_one_that_was_removed_is_nowhere_any_more() -> None:
    backlog = Backlog()
    ready, waiting, leased = unacked(1), unacked(2), unacked(3)
    backlog.add([waiting, leased, ready])
    for _ in range(2):
        backlog.take(0)
    backlog.put_back(waiting, until=5)
    ack_id = backlog.lease(leased, 5)
    for one in (ready, waiting, leased):
        backlog.remove(one)
    assert (backlog.take(10), backlog.lapsed(10), backlog.leased([ack_id]), len(backlog)) == (None, [], [], 0)


def test_a_lease_is_known_by_its_id_until_it_runs_out() -> None:
    backlog, one = Backlog(), unacked()
    backlog.add([one])
    backlog.take(0)
    ack_id = backlog.lease(one, 5)
    assert backlog.leased([ack_id, "unknown"]) == [one]
    backlog.extend(one, 8)
    assert (backlog.lapsed(7), backlog.take(7)) == ([], None)
    assert backlog.lapsed(8) == [one]
    backlog.put_back(one)
    assert backlog.leased([ack_id]) == []


def test_a_hundred_thousand_messages_cost_no_more_than_ten() -> None:
    backlog = Backlog()
    backlog.add(unacked(number) for number in range(100_000))
    began = time.perf_counter()
    for _ in range(1000):
        taken = backlog.take(0)
        assert taken is not None
        backlog.put_back(taken, until=1e9)
        backlog.next_due()
    assert time.perf_counter() - began < 10  # looking at each of them takes minutes


def subscription(**fields: object) -> Subscription:
    return Subscription("projects/p/subscriptions/s", {"topic": "projects/p/topics/t", **fields})


@pytest.mark.parametrize(
    ("policy", "waits"),
    [
        (None, [0, 0, 0]),
        ({}, [10, 20, 40]),
        ({"minimumBackoff": "1s", "maximumBackoff": "3s"}, [1, 2, 3]),
        ({"minimumBackoff": "0s", "maximumBackoff": "3s"}, [0, 0, 0]),
    ],
)
def test_the_backoff_doubles_between_its_bounds(policy: dict[str, str] | None, waits: list[float]) -> None:
    one = subscription() if policy is None else subscription(retryPolicy=policy)
    assert [one.backoff(attempts) for attempts in (1, 2, 3)] == waits
    assert one.backoff(10_000) <= 600


def test_what_a_subscription_does_not_say_is_pubsubs_default() -> None:
    one = subscription()
    assert (one.ack_deadline, one.push_endpoint, one.dead_letter) == (10, "", None)
    assert subscription(deadLetterPolicy={"deadLetterTopic": "t"}).dead_letter == ("t", 5)


def test_a_duration_is_seconds() -> None:
    assert seconds("1.5s") == 1.5
    for text in ("10", "m", "xs"):
        with pytest.raises(ValueError, match=r"duration|convert"):
            seconds(text)

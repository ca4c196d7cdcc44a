"""A message is owed until it is acked or buried, whatever happens to the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from receiver.emulator.backlog import PubsubMessage, Unacked
from receiver.emulator.broker import Broker
from receiver.emulator.subscriptions import Subscription
from receiver.errors import ConfigurationError
from tests.unit.emulator.clock import Clock

TOPIC, DEAD = "projects/p/topics/t", "projects/p/topics/dead"
NAME, LETTERS = "projects/p/subscriptions/s", "projects/p/subscriptions/letters"


def made(file: Path | None = None, clock: Clock | None = None, **fields: Any) -> tuple[Broker, Subscription]:
    broker = Broker(file, clock=clock or Clock())
    for topic in (TOPIC, DEAD):
        broker.put_topic(topic, {"name": topic})
    broker.put_subscription(NAME, {"name": NAME, "topic": TOPIC, **fields})
    broker.put_subscription(LETTERS, {"name": LETTERS, "topic": DEAD})
    return broker, broker.subscriptions[NAME]


def take(broker: Broker, subscription: Subscription) -> Unacked:
    owed = broker.take(subscription)
    assert owed is not None
    return owed


def test_every_subscription_of_the_topic_owes_what_is_published() -> None:
    broker, one = made()
    broker.put_subscription("projects/p/subscriptions/two", {"topic": TOPIC})
    ids = broker.publish(TOPIC, [PubsubMessage("YQ=="), PubsubMessage("Yg==")])
    assert len(set(ids)) == 2
    for subscription in (one, broker.subscriptions["projects/p/subscriptions/two"]):
        assert [owed.message.message_id for owed in subscription.backlog] == ids
    assert len(broker.subscriptions[LETTERS].backlog) == 0


def test_messages_and_attempts_survive_the_process(tmp_path: Path) -> None:
    file = tmp_path / "messages"
    broker, subscription = made(file, retryPolicy={"minimumBackoff": "1s"})
    broker.publish(TOPIC, [PubsubMessage("YQ==", {"a": "1"}, "key"), PubsubMessage("Yg==")])
    first, second = take(broker, subscription), take(broker, subscription)
    broker.nack(subscription, first)
    broker.ack(subscription, second)
    del broker  # killed: nothing is closed

    again = Broker(file)
    (owed,) = again.subscriptions[NAME].backlog
    assert (owed.message, owed.attempts) == (first.message, 1)
    assert again.subscriptions[NAME].body["retryPolicy"] == {"minimumBackoff": "1s"}
    assert set(again.topics) == {TOPIC, DEAD}
    assert again.take(again.subscriptions[NAME]) is owed
    again.close()


def test_a_nacked_message_waits_for_its_backoff() -> None:
    clock = Clock()
    broker, subscription = made(clock=clock, retryPolicy={"minimumBackoff": "2s", "maximumBackoff": "9s"})
    broker.publish(TOPIC, [PubsubMessage("YQ==")])
    broker.nack(subscription, take(broker, subscription))
    clock.now += 1.9
    assert broker.take(subscription) is None
    clock.now += 0.1
    broker.nack(subscription, take(broker, subscription))
    clock.now += 3.9
    assert broker.take(subscription) is None
    clock.now += 0.1
    assert take(broker, subscription).attempts == 3


def test_a_message_whose_deliveries_are_used_up_becomes_a_dead_letter() -> None:
    broker, subscription = made(deadLetterPolicy={"deadLetterTopic": DEAD, "maxDeliveryAttempts": 5})
    broker.publish(TOPIC, [PubsubMessage("YQ==", {"a": "1"})])
    for _ in range(5):
        owed = take(broker, subscription)
        broker.nack(subscription, owed)
    assert len(subscription.backlog) == 0
    (letter,) = broker.subscriptions[LETTERS].backlog
    assert letter.message.message_id != owed.message.message_id
    assert letter.message.data == "YQ=="
    assert letter.message.attributes == {
        "a": "1",
        "CloudPubSubDeadLetterSourceDeliveryCount": "5",
        "CloudPubSubDeadLetterSourceSubscription": "s",
        "CloudPubSubDeadLetterSourceSubscriptionProject": "p",
        "CloudPubSubDeadLetterSourceTopicPublishTime": owed.message.publish_time,
    }


def test_without_its_dead_letter_topic_a_message_is_owed_on() -> None:
    broker, subscription = made(deadLetterPolicy={"deadLetterTopic": DEAD})
    broker.delete_topic(DEAD)
    broker.publish(TOPIC, [PubsubMessage("YQ==")])
    for _ in range(7):
        broker.nack(subscription, take(broker, subscription))
    assert len(subscription.backlog) == 1


def test_a_lease_that_runs_out_is_a_nack() -> None:
    clock = Clock()
    broker, subscription = made(
        clock=clock, deadLetterPolicy={"deadLetterTopic": DEAD, "maxDeliveryAttempts": 5}
    )
    broker.publish(TOPIC, [PubsubMessage("YQ==")])
    for _ in range(5):
        broker.lease(subscription, take(broker, subscription))
        assert broker.take(subscription) is None
        clock.now += 10
    assert broker.take(subscription) is None
    assert len(broker.subscriptions[LETTERS].backlog) == 1


def test_a_lease_can_be_extended() -> None:
    clock = Clock()
    broker, subscription = made(clock=clock)
    broker.publish(TOPIC, [PubsubMessage("YQ==")])
    owed = take(broker, subscription)
    broker.lease(subscription, owed)
    broker.lease(subscription, owed, 60)
    clock.now += 59
    assert broker.take(subscription) is None
    clock.now += 1
    assert broker.take(subscription) is owed


def test_what_was_held_back_costs_no_attempt() -> None:
    clock = Clock()
    broker, subscription = made(clock=clock)
    broker.publish(TOPIC, [PubsubMessage("YQ==")])
    owed = take(broker, subscription)
    broker.give_back(subscription, owed)
    assert (owed.attempts, owed.late) == (0, False)
    broker.give_back(subscription, take(broker, subscription), late=True)
    assert broker.take(subscription) is None
    clock.now += 1
    assert (take(broker, subscription).attempts, owed.late) == (1, True)


def test_a_deleted_topic_leaves_its_subscription_and_a_deleted_subscription_owes_nothing(
    tmp_path: Path,
) -> None:
    broker, subscription = made(tmp_path / "messages")
    broker.publish(TOPIC, [PubsubMessage("YQ==")])
    broker.delete_topic(TOPIC)
    assert (subscription.settings.topic, len(subscription.backlog)) == ("_deleted-topic_", 1)
    broker.delete_subscription(NAME)
    broker.close()
    again = Broker(tmp_path / "messages")
    assert NAME not in again.subscriptions
    again.put_topic(TOPIC, {"name": TOPIC})
    again.put_subscription(NAME, {"topic": TOPIC})
    assert len(again.subscriptions[NAME].backlog) == 0
    again.close()


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "messages"
    file.write_bytes(b"not what it should be" * 200)
    with pytest.raises(ConfigurationError, match=r"messages: .*delete it"):
        Broker(file)

"""A subscription's settings: defaults, bounds and the backoff."""

from __future__ import annotations

import msgspec
import pytest

from receiver.emulator.subscriptions import DeadLetterPolicy, SubscriptionSettings, seconds


def settings(**fields: object) -> SubscriptionSettings:
    return msgspec.convert({"topic": "projects/p/topics/t", **fields}, SubscriptionSettings)


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
    one = settings() if policy is None else settings(retryPolicy=policy)
    assert [one.backoff(attempts) for attempts in (1, 2, 3)] == waits
    assert one.backoff(10_000) <= 600


def test_what_a_subscription_does_not_say_is_pubsubs_default() -> None:
    one = settings()
    assert (one.ack_deadline, one.push_config.push_endpoint, one.dead_letter_policy) == (10, "", None)
    assert settings(deadLetterPolicy={"deadLetterTopic": "t"}).dead_letter_policy == DeadLetterPolicy("t", 5)


def test_a_duration_is_seconds() -> None:
    assert seconds("1.5s") == 1.5
    for text in ("10", "m", "xs"):
        with pytest.raises(ValueError, match=r"duration|convert"):
            seconds(text)

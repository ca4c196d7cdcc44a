"""A topic that refuses every message, while it is sick."""

from __future__ import annotations

from collections.abc import Sequence

from receiver.emulator.backlog import PubsubMessage
from receiver.emulator.broker import Broker
from receiver.emulator.rules import ApiError


class Sickness:
    """Around a broker's `publish`. `refused`: how many requests."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.sick = False
        self.refused = 0

    def befall(self, broker: Broker) -> None:
        """From now on that topic may be sick."""
        publish = broker.publish

        def refusing(topic: str, messages: Sequence[PubsubMessage]) -> list[str]:
            if self.sick and topic == self.topic:
                self.refused += 1
                raise ApiError("the topic is sick")
            return publish(topic, messages)

        broker.publish = refusing  # type: ignore[method-assign]

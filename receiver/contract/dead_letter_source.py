"""Where a dead letter comes from. Pub/Sub publishes a copy with an id of its own, and says the rest in four attributes.

Next: `receiver.delivery.dead_letter` finds the execution by it; `receiver.sweep.replays` publishes it to the topic.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from receiver.contract.message import Pushed

PREFIX: Final = "CloudPubSubDeadLetterSource"


class DeadLetterSource(msgspec.Struct, frozen=True):
    """The source of a dead letter.

    Attributes:
        subscription: the one that gave the message up, without its `project`.
        published_at: when the message was published there, in UTC, to the millisecond.
        attributes: those of the message itself.
    """

    project: str
    subscription: str
    published_at: datetime | None
    attributes: dict[str, str]

    @classmethod
    def of(cls, attributes: Mapping[str, str]) -> DeadLetterSource:
        """The source that these attributes name. What is missing or not readable is "" or None."""
        try:
            moment = datetime.fromisoformat(attributes.get(f"{PREFIX}TopicPublishTime", ""))
            published_at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            published_at = None
        return cls(
            attributes.get(f"{PREFIX}SubscriptionProject", ""),
            attributes.get(f"{PREFIX}Subscription", "").rpartition("/")[2],
            published_at,
            {name: value for name, value in attributes.items() if not name.startswith(PREFIX)},
        )


def attributes_of(subscription: str, publish_time: str, deliveries: int) -> dict[str, str]:
    """What Pub/Sub adds to the attributes of a dead letter of this subscription, by its full name."""
    _, project, _, name = subscription.split("/", 3)
    return {
        f"{PREFIX}DeliveryCount": str(deliveries),
        f"{PREFIX}Subscription": name,
        f"{PREFIX}SubscriptionProject": project,
        f"{PREFIX}TopicPublishTime": publish_time,
    }


def restored(pushed: Pushed) -> Pushed:
    """A dead letter as its source delivered it, but for its id."""
    source = DeadLetterSource.of(pushed.attributes)
    return msgspec.structs.replace(
        pushed,
        subscription=f"projects/{source.project}/subscriptions/{source.subscription}",
        publish_time=source.published_at,
        attributes=source.attributes,
    )

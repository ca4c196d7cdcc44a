"""The tasks that take messages of topics that are not ours, by the subscriptions that deliver them.

Invariant: what comes by such a subscription is never read as one of our payloads, whatever it looks like, also when its task is gone:
anybody may publish there. It is recognised by the subscription's name alone, never by its content.

Next: `receiver.delivery.push` asks at every delivery, `receiver.sweep.replays` for rejected messages.
"""

from __future__ import annotations

from collections.abc import Iterable

from receiver.contract.foreign_data import foreign_delivery, foreign_id
from receiver.contract.identity import Identity
from receiver.contract.message import Delivery, Pushed
from receiver.errors import Rejected, RejectionReason
from receiver.tasks import naming
from receiver.tasks.route import TaskRoute


class ForeignTopics:
    """The foreign topics of one receiver's tasks."""

    def __init__(self, routes: Iterable[TaskRoute], environment: str, namespace: str) -> None:
        self._mark = f"/{naming.foreign_prefix(environment, namespace)}"
        by_path: dict[str, TaskRoute] = {}
        for route in routes:
            if route.topic is not None:
                by_path = {**dict.fromkeys(route.former_paths, route), **by_path, route.path: route}
        self._routes = {
            naming.foreign_subscription_name(environment, namespace, path): route
            for path, route in by_path.items()
        }

    def deliver(self, subscription: str) -> bool:
        """Whether a subscription, by its full name, is one of ours on a foreign topic."""
        return self._mark in subscription

    def find(self, subscription: str) -> TaskRoute | None:
        """The route that gets its messages; None when its task is gone."""
        return self._routes.get(subscription.rpartition("/")[2])

    def identity(self, pushed: Pushed) -> Identity:
        """The execution that a message means, whatever its data is."""
        route = self.find(pushed.subscription)
        path = pushed.subscription.rpartition(self._mark)[2].removesuffix(naming.subscription_name(""))
        names = frozenset({path}) if route is None else route.names
        return Identity(foreign_id(pushed), names, pushed.message_id, pushed.delivery_attempt)

    def delivery(self, pushed: Pushed) -> tuple[Delivery, TaskRoute]:
        """The message as a delivery to its task.

        Raises:
            Rejected: unknown_task.
        """
        route = self.find(pushed.subscription)
        if route is None:
            raise Rejected(
                RejectionReason.UNKNOWN_TASK, "no route takes messages of this foreign subscription"
            )
        return foreign_delivery(pushed, route.name, raw=route.forms.takes_bytes), route

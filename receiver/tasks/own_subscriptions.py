"""Which subscription may bring the messages of which task, with `TASKS_SUBSCRIPTIONS=own`.

A message names its task, and the subscription that brings it is Pub/Sub's word. With `any`, the default, whoever may publish to one
topic may run every task. With `own` a message runs only the task that its subscription belongs to.

Next: `receiver.delivery.push` asks at every delivery, `receiver.sweep.replays` before it publishes a rejected message again.
"""

from __future__ import annotations

from collections.abc import Iterable

from receiver.errors import Rejected, RejectionReason, SettingError
from receiver.settings import Settings, Subscriptions
from receiver.tasks import naming
from receiver.tasks.route import TaskRoute


class OwnSubscriptions:
    """The subscriptions of one environment: each task's own, those of its aliases, and those on its `topic`."""

    def __init__(self, routes: Iterable[TaskRoute], settings: Settings) -> None:
        whose = settings.environment, settings.namespace
        parent = f"projects/{settings.project_id}/subscriptions/"
        self._routes: dict[str, TaskRoute] = {}
        for route in routes:
            for path in route.paths:
                self._routes[parent + naming.subscription_name(naming.topic_name(*whose, path))] = route
                if route.topic is not None:
                    self._routes[parent + naming.foreign_subscription_name(*whose, path)] = route

    @classmethod
    def of(cls, settings: Settings, routes: Iterable[TaskRoute]) -> OwnSubscriptions | None:
        """Those of the routes; None when any subscription will do.

        Raises:
            SettingError: the project is not set.
        """
        if settings.subscriptions is Subscriptions.ANY:
            return None
        if settings.project_id is None:
            raise SettingError(
                "GCP_PROJECT_ID", None, "TASKS_SUBSCRIPTIONS=own needs the project of the subscriptions"
            )
        return cls(routes, settings)

    def has(self, subscription: str, route: TaskRoute | None) -> bool:
        """Whether a subscription, by its full name, belongs to the route. None: to no task that is known."""
        return self._routes.get(subscription) is route

    def require(self, subscription: str, route: TaskRoute | None) -> None:
        """Returns if the subscription belongs to the route.

        Raises:
            Rejected: wrong_subscription.
        """
        if not self.has(subscription, route):
            task = "an unknown task" if route is None else route.name
            raise Rejected(
                RejectionReason.WRONG_SUBSCRIPTION,
                f"TASKS_SUBSCRIPTIONS is own, and {subscription or 'no subscription'} is not one of {task}'s",
            )

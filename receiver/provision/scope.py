"""Which part of a project is ours: one environment of one namespace, and what its resources are called.

Invariant: `contains` is the fence that every change passes. It is true only for names that begin as this environment's
do, so that whatever else lives in the project cannot even be named by a plan.

Next: `receiver.provision.desired` names resources with it, `receiver.provision.observed` keeps only what it contains.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from receiver.errors import SettingError
from receiver.provision.ownership import Owner
from receiver.settings import Settings
from receiver.tasks import naming


@dataclass(frozen=True, slots=True)
class Scope:
    """One environment of one namespace in one project. `service` is the service's host, which owns the resources."""

    project: str
    location: str
    environment: str
    namespace: str
    service: str

    @classmethod
    def of(cls, settings: Settings) -> Scope:
        """The scope that the settings describe.

        Raises:
            SettingError: the project or the service's URL is not set.
        """
        if settings.project_id is None:
            raise SettingError(
                "GCP_PROJECT_ID", None, "set it to the Google Cloud project, such as gyrinx-prod"
            )
        if settings.service_url is None:
            raise SettingError(
                "CLOUD_RUN_SERVICE_URL", None, "set it to the service's URL, which subscriptions push to"
            )
        return cls(
            project=settings.project_id,
            location=settings.scheduler_location,
            environment=settings.environment,
            namespace=settings.namespace,
            service=urlsplit(settings.service_url).netloc,
        )

    @property
    def owner(self) -> Owner:
        """Who its resources say they belong to."""
        return Owner(self.environment, self.namespace, self.service)

    def topic(self, path: str) -> str:
        """The full name of a task's topic."""
        return self._topic(naming.topic_name(self.environment, self.namespace, path))

    def subscription(self, path: str) -> str:
        """The full name of a task's push subscription."""
        topic = naming.topic_name(self.environment, self.namespace, path)
        return self._subscription(naming.subscription_name(topic))

    def job(self, path: str) -> str:
        """The full name of a task's scheduler job."""
        name = naming.scheduler_job_name(self.environment, self.namespace, path)
        return f"{self.jobs_parent}/jobs/{name}"

    @property
    def dead_letter_topic(self) -> str:
        """The full name of the topic for what could not be delivered."""
        return self._topic(naming.dead_letter_topic_name(self.environment, self.namespace))

    @property
    def dead_letter_subscription(self) -> str:
        """The full name of its pull subscription, without which dead letters would be lost."""
        topic = naming.dead_letter_topic_name(self.environment, self.namespace)
        return self._subscription(naming.subscription_name(topic))

    @property
    def jobs_parent(self) -> str:
        """The location that scheduler jobs live in."""
        return f"projects/{self.project}/locations/{self.location}"

    def contains(self, name: str) -> bool:
        """Whether a full resource name begins as this environment's do."""
        prefix = naming.topic_prefix(self.environment, self.namespace)
        jobs = naming.scheduler_job_prefix(self.environment, self.namespace)
        return name in {self.dead_letter_topic, self.dead_letter_subscription} or name.startswith(
            (self._topic(prefix), self._subscription(prefix), f"{self.jobs_parent}/jobs/{jobs}")
        )

    def _topic(self, name: str) -> str:
        return f"projects/{self.project}/topics/{name}"

    def _subscription(self, name: str) -> str:
        return f"projects/{self.project}/subscriptions/{name}"

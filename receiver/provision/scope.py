"""The part of a project that is ours, one environment of one namespace; the names and marks of its resources.

Topics and subscriptions have labels, scheduler jobs a description: environment, namespace, and the service that receives the
pushes. Two services that share environment and namespace by mistake therefore do not undo each other's work.

Invariants: every change passes `contains`, which is true only for names that begin as this environment's do. Two scopes never
have the same labels or description, unless environment, namespace and service are the same.

Next: `receiver.provision.desired` names resources with it, `receiver.provision.observed` keeps only what it contains.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from receiver.errors import SettingError
from receiver.provision.resources import Kind
from receiver.tasks import naming

if TYPE_CHECKING:
    from receiver.provision.resources import Resource
    from receiver.settings import Settings

ENVIRONMENT_LABEL: Final = "receiver-environment"
NAMESPACE_LABEL: Final = "receiver-namespace"
SERVICE_LABEL: Final = "receiver-service"

LABEL_LIMIT: Final = 63
"""Characters of a label's key or value: Google's limit. Allowed are lower case, digits, `_` and `-`."""

_DIGITS: Final = 10
_PLAIN: Final = re.compile(rf"[a-z0-9_-]{{1,{LABEL_LIMIT}}}", re.ASCII)
_SHORTENED: Final = re.compile(rf"-[0-9a-f]{{{_DIGITS}}}\Z")
_DESCRIPTION: Final = re.compile(r"receiver (\S+) of (\S+); kept by `receiver provision`")


class Belongs(Enum):
    """The owner of a resource, as one scope sees it."""

    OURS = "ours"
    UNOWNED = "unowned"
    FORMER_SERVICES = "another service's"
    OTHERS = "another receiver's"


@dataclass(frozen=True, slots=True)
class Scope:
    """One environment of one namespace in one project. `service` is the service's host, with its port if it has one."""

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
                "GCP_PROJECT_ID", None, "set it to the Google Cloud project, such as shop-prod"
            )
        return cls(
            project=settings.project_id,
            location=settings.scheduler_location,
            environment=settings.environment,
            namespace=settings.namespace,
            service=urlsplit(service_url(settings)).netloc,
        )

    @property
    def labels(self) -> dict[str, str]:
        """The labels of its topics and subscriptions."""
        return {
            ENVIRONMENT_LABEL: label(self.environment),
            NAMESPACE_LABEL: label(self.namespace),
            SERVICE_LABEL: label(self.service),
        }

    @property
    def description(self) -> str:
        """The description of its scheduler jobs, at most 500 characters."""
        return (
            f"receiver {self.environment}--{self.namespace} of {self.service}; kept by `receiver provision`"
        )

    def topic(self, path: str) -> str:
        """The full name of a task's topic."""
        return self._topic(naming.topic_name(self.environment, self.namespace, path))

    def subscription(self, path: str) -> str:
        """The full name of a task's push subscription."""
        topic = naming.topic_name(self.environment, self.namespace, path)
        return self._subscription(naming.subscription_name(topic))

    def foreign_subscription(self, path: str) -> str:
        """The full name of a task's push subscription on a topic that is not its own."""
        return self._subscription(naming.foreign_subscription_name(self.environment, self.namespace, path))

    def own_topic(self, found: Resource) -> str:
        """The own topic of the task that a topic or subscription of ours is for. Only the name tells: its topic may be gone, or foreign."""
        if found.kind is Kind.TOPIC:
            return found.name
        path = found.id.removesuffix(naming.subscription_name(""))
        if self.is_foreign(found):
            foreign = naming.foreign_prefix(self.environment, self.namespace)
            path = naming.topic_prefix(self.environment, self.namespace) + path.removeprefix(foreign)
        return self._topic(path)

    def is_foreign(self, found: Resource) -> bool:
        """Whether it is a subscription of ours on a topic that is not a task's own."""
        return found.id.startswith(naming.foreign_prefix(self.environment, self.namespace))

    def job(self, path: str) -> str:
        """The full name of a task's scheduler job."""
        name = naming.scheduler_job_name(self.environment, self.namespace, path)
        return f"{self.jobs_parent}/jobs/{name}"

    @property
    def dead_letter_topic(self) -> str:
        """The full name of the topic for messages that could not be delivered."""
        return self._topic(naming.dead_letter_topic_name(self.environment, self.namespace))

    @property
    def dead_letter_subscription(self) -> str:
        """The full name of its subscription, which pushes them to the service."""
        topic = naming.dead_letter_topic_name(self.environment, self.namespace)
        return self._subscription(naming.subscription_name(topic))

    @property
    def jobs_parent(self) -> str:
        """The location of its scheduler jobs."""
        return f"projects/{self.project}/locations/{self.location}"

    def contains(self, name: str) -> bool:
        """Whether a full resource name begins as this environment's do."""
        prefix = naming.topic_prefix(self.environment, self.namespace)
        foreign = naming.foreign_prefix(self.environment, self.namespace)
        jobs = naming.scheduler_job_prefix(self.environment, self.namespace)
        return name in {self.dead_letter_topic, self.dead_letter_subscription} or name.startswith(
            (
                self._topic(prefix),
                self._subscription(prefix),
                self._subscription(foreign),
                f"{self.jobs_parent}/jobs/{jobs}",
            )
        )

    def whose(self, found: Resource) -> Belongs:
        """The owner that a resource names. Without any of our marks it has none."""
        named = _owner(found)
        if named is None:
            return Belongs.UNOWNED
        is_job = found.kind is Kind.JOB
        ours = (f"{self.environment}--{self.namespace}", self.service) if is_job else (*self.labels.values(),)
        if named == ours:
            return Belongs.OURS
        return Belongs.FORMER_SERVICES if named[:-1] == ours[:-1] else Belongs.OTHERS

    def _topic(self, name: str) -> str:
        return f"projects/{self.project}/topics/{name}"

    def _subscription(self, name: str) -> str:
        return f"projects/{self.project}/subscriptions/{name}"


def service_url(settings: Settings) -> str:
    """The service's URL. Raises SettingError when it is not set."""
    if settings.service_url is None:
        raise SettingError(
            "CLOUD_RUN_SERVICE_URL", None, "set it to the service's URL, which subscriptions push to"
        )
    return settings.service_url


def owner_of(found: Resource) -> str:
    """The owner that a resource names, for people."""
    owner = _owner(found)
    return "nobody" if owner is None else f"{'--'.join(owner[:-1])} of {owner[-1]}"


def _owner(found: Resource) -> tuple[str, ...] | None:
    """Environment and namespace (of a job in one text), and the service that a resource names. None without any of our marks."""
    if found.kind is Kind.JOB:
        match = _DESCRIPTION.match(found.body.get("description", ""))
        return None if match is None else match.groups()
    labels = found.body.get("labels", {})
    marks = tuple(labels.get(key, "?") for key in (ENVIRONMENT_LABEL, NAMESPACE_LABEL, SERVICE_LABEL))
    return marks if set(marks) != {"?"} else None


def label(value: str) -> str:
    """The value as a label's value. A value that is not allowed there, or looks shortened, ends in ten hex digits of its SHA-256.

    Different values stay different.
    """
    if _PLAIN.fullmatch(value) and not _SHORTENED.search(value):
        return value
    slug = re.sub(r"[^a-z0-9_-]", "-", value.lower())[: LABEL_LIMIT - _DIGITS - 1]
    return f"{slug}-{hashlib.sha256(value.encode()).hexdigest()[:_DIGITS]}"

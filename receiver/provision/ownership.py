"""Who a resource says it belongs to: labels on topics and subscriptions, the description of a scheduler job.

An owner is an environment of a namespace, and the service that receives its pushes: two services that share both by mistake
do not undo each other's work. A resource without any of our marks is nobody's.

Invariant: two owners never have the same labels or the same description. Google's labels know only lower case, digits, `_`
and `-`, 63 of them; a value that is anything else, or that looks shortened, is shortened and ends in ten hex digits of its SHA-256.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

ENVIRONMENT: Final = "receiver-environment"
NAMESPACE: Final = "receiver-namespace"
SERVICE: Final = "receiver-service"

LABEL_LIMIT: Final = 63
"""Characters of a label's key or value."""

_DIGITS: Final = 10
_PLAIN: Final = re.compile(rf"[a-z0-9_-]{{1,{LABEL_LIMIT}}}", re.ASCII)
_SHORTENED: Final = re.compile(rf"-[0-9a-f]{{{_DIGITS}}}\Z")
_DESCRIPTION: Final = re.compile(
    r"receiver (?P<receiver>\S+) of (?P<service>\S+); kept by `receiver provision`"
)


class Belongs(Enum):
    """Whose a resource is, from where one owner stands."""

    OURS = "ours"
    NOBODYS = "nobody's"
    FORMER_SERVICES = "another service's"
    OTHERS = "another receiver's"


@dataclass(frozen=True, slots=True)
class Owner:
    """An environment of a namespace, and the host (with its port, if any) of the service that it pushes to."""

    environment: str
    namespace: str
    service: str

    @property
    def labels(self) -> dict[str, str]:
        """What its topics and subscriptions carry."""
        return {
            ENVIRONMENT: label(self.environment),
            NAMESPACE: label(self.namespace),
            SERVICE: label(self.service),
        }

    @property
    def description(self) -> str:
        """What its scheduler jobs are described as, at most 500 characters."""
        return (
            f"receiver {self.environment}--{self.namespace} of {self.service}; kept by `receiver provision`"
        )

    def of_labels(self, labels: Mapping[str, Any]) -> Belongs:
        """Whose a topic or subscription with these labels is."""
        found = {key: labels[key] for key in self.labels if key in labels}
        if not found:
            return Belongs.NOBODYS
        if found == self.labels:
            return Belongs.OURS
        ours = self.labels
        same_receiver = all(found.get(key) == ours[key] for key in (ENVIRONMENT, NAMESPACE))
        return Belongs.FORMER_SERVICES if same_receiver else Belongs.OTHERS

    def of_description(self, description: str) -> Belongs:
        """Whose a scheduler job with this description is."""
        found = _DESCRIPTION.match(description)
        if found is None:
            return Belongs.NOBODYS
        if found["receiver"] != f"{self.environment}--{self.namespace}":
            return Belongs.OTHERS
        return Belongs.OURS if found["service"] == self.service else Belongs.FORMER_SERVICES


def owner_of_labels(labels: Mapping[str, Any]) -> str:
    """The owner that labels name, for people."""
    receiver = f"{labels.get(ENVIRONMENT, '?')}--{labels.get(NAMESPACE, '?')}"
    return f"{receiver} of {labels.get(SERVICE, '?')}"


def owner_of_description(description: str) -> str:
    """The owner that a description names, for people."""
    return description.partition(";")[0].removeprefix("receiver ")


def label(value: str) -> str:
    """A value of our own as the value of a label; different ones stay different."""
    if _PLAIN.fullmatch(value) and not _SHORTENED.search(value):
        return value
    slug = re.sub(r"[^a-z0-9_-]", "-", value.lower())[: LABEL_LIMIT - _DIGITS - 1]
    return f"{slug}-{hashlib.sha256(value.encode()).hexdigest()[:_DIGITS]}"

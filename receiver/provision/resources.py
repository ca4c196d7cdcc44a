"""What is provisioned: topics, subscriptions, scheduler jobs and grants, as Google's REST APIs write them.

A `Resource` is a kind, a full name and a body; the same value stands for what should be and for what is.
Next: `receiver.provision.fields` says in which fields two of them differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What a resource is. The order is the one in which resources are made; they are deleted in the other."""

    TOPIC = "topic"
    SUBSCRIPTION = "subscription"
    JOB = "scheduler job"
    GRANT = "grant"


@dataclass(frozen=True, slots=True)
class Resource:
    """A topic, subscription or scheduler job: `name` is its full name, `body` its REST resource without the name."""

    kind: Kind
    name: str
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The last part of the name."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Grant:
    """One member's role on one resource; `target` is the resource's full name."""

    target: str
    role: str
    member: str

    @property
    def kind(self) -> Kind:
        """Always a grant."""
        return Kind.GRANT

    @property
    def name(self) -> str:
        """What tells this grant from any other."""
        return f"{self.target} {self.role} {self.member}"

    @property
    def id(self) -> str:
        """For people."""
        return f"{self.role} on {self.target.rpartition('/')[2]} to {self.member}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A resource that should be there.

    Args:
        item: the resource or grant.
        needs: full names of resources that must be there first.
        former: the task that this is a former name of. Such a resource is kept up to date while it is there, never made.
    """

    item: Resource | Grant
    needs: tuple[str, ...] = ()
    former: str | None = None


def kind_of(name: str) -> Kind:
    """The kind of a resource with this full name."""
    match name.split("/"):
        case ["projects", _, "topics", _]:
            return Kind.TOPIC
        case ["projects", _, "subscriptions", _]:
            return Kind.SUBSCRIPTION
        case ["projects", _, "locations", _, "jobs", _]:
            return Kind.JOB
        case _:
            raise ValueError(f"{name!r} names no topic, subscription or scheduler job")

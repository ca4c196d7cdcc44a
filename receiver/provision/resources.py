"""Topics, subscriptions, scheduler jobs and grants, as Google's REST APIs write them.

Desired and observed resources have the same type.
Next: `receiver.provision.fields` says in which fields two resources differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Final


class Kind(StrEnum):
    """The kind of a resource. Resources are created in this order, and deleted in the opposite one."""

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

    kind: ClassVar[Kind] = Kind.GRANT
    target: str
    role: str
    member: str

    @property
    def name(self) -> str:
        """Different for different grants."""
        return f"{self.target} {self.role} {self.member}"

    @property
    def id(self) -> str:
        """The grant in words."""
        return f"{self.role} on {self.target.rpartition('/')[2]} to {self.member}"

    @property
    def is_public(self) -> bool:
        """Whether it gives the role to everybody."""
        return self.member in EVERYBODY

    @property
    def removal(self) -> str:
        """The command that takes it away from a topic."""
        _, project, _, topic = self.target.split("/")
        return (
            f"gcloud pubsub topics remove-iam-policy-binding {topic} --project {project} "
            f"--member={self.member} --role={self.role}"
        )

    def is_in(self, policy: Mapping[str, Any]) -> bool:
        """Whether a policy gives it, without a condition."""
        return any(
            binding.get("role") == self.role
            and self.member in binding.get("members", ())
            and not binding.get("condition")
            for binding in policy.get("bindings", ())
        )

    def added_to(self, policy: Mapping[str, Any]) -> dict[str, Any]:
        """The policy with this grant added, without a condition. Nothing else changes."""
        bindings = [dict(binding) for binding in policy.get("bindings", [])]
        for binding in bindings:
            if binding.get("role") == self.role and not binding.get("condition"):
                binding["members"] = sorted({*binding.get("members", []), self.member})
                break
        else:
            bindings.append({"role": self.role, "members": [self.member]})
        return {**policy, "bindings": bindings}


EVERYBODY: Final = frozenset({"allUsers", "allAuthenticatedUsers"})
"""Members that stand for everybody, and for everybody with a Google account."""


def grants_in(target: str, policy: Mapping[str, Any]) -> tuple[Grant, ...]:
    """All roles that a policy gives, with or without a condition."""
    bindings = policy.get("bindings", ())
    return tuple(
        Grant(target, str(binding.get("role")), str(member))
        for binding in bindings
        for member in binding.get("members", ())
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """A resource that should be there.

    Args:
        item: the resource or grant.
        needs: full names of resources that must be there first.
        former: the task that this is a former name of. Such a resource is kept up to date while it is there, never made.
        note: what is special about it, for people.
        unless: full names of resources in whose place it would stand: it is not made while one of them is there.
    """

    item: Resource | Grant
    needs: tuple[str, ...] = ()
    former: str | None = None
    note: str = ""
    unless: tuple[str, ...] = ()


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

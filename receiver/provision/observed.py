"""What is there: the topics, subscriptions and scheduler jobs of one environment, as Google lists them.

Listing a whole project takes one request for a thousand resources, and finds what nothing wants any more. The lists are read
side by side; policies, for grants, one by one within a bound. What is outside the scope is dropped here and never seen again.

Next: `receiver.provision.planning`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from receiver.errors import GoogleError
from receiver.provision.crew import SIDE_BY_SIDE, each
from receiver.provision.explanations import explained
from receiver.provision.resources import Grant, Kind, Resource
from receiver.provision.scope import Scope

if TYPE_CHECKING:
    from receiver.provision.cloud import Cloud

ALL_KINDS: Final = frozenset({Kind.TOPIC, Kind.SUBSCRIPTION, Kind.JOB})


@dataclass(frozen=True, slots=True)
class Observed:
    """Resources by their full names, and for grants the policies of their targets."""

    by_name: Mapping[str, Resource] = field(default_factory=dict)
    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, resources: Iterable[Resource]) -> Observed:
        """Of these resources."""
        return cls({one.name: one for one in resources})

    @property
    def resources(self) -> tuple[Resource, ...]:
        """All of them, by name."""
        return tuple(self.by_name[name] for name in sorted(self.by_name))

    def __contains__(self, name: str) -> bool:
        return name in self.by_name

    def find(self, name: str) -> Resource | None:
        """The resource with this full name, or None."""
        return self.by_name.get(name)

    def has(self, grant: Grant) -> bool:
        """Whether the member has the role there, without a condition."""
        policy = self.policies.get(grant.target, {})
        return any(
            binding.get("role") == grant.role
            and grant.member in binding.get("members", ())
            and not binding.get("condition")
            for binding in policy.get("bindings", ())
        )

    def with_(self, name: str, found: Resource | None) -> Observed:
        """The same with one resource as it was found just now; None: it is not there."""
        rest = {known: one for known, one in self.by_name.items() if known != name}
        return Observed(rest if found is None else {**rest, name: found}, self.policies)


async def observe(
    cloud: Cloud,
    scope: Scope,
    kinds: frozenset[Kind] = ALL_KINDS,
    targets: Iterable[str] = (),
    *,
    side_by_side: int = SIDE_BY_SIDE,
) -> Observed:
    """Lists what is there.

    Args:
        kinds: which kinds to look at; what is left out is taken to be absent.
        targets: full names whose policies to read as well; one that is not there has none.

    Raises:
        GoogleError: a list or a policy could not be read.
    """
    asked = [kind for kind in Kind if kind in kinds]
    pages = await each(asked, lambda kind: cloud.listed(kind, scope), side_by_side)
    ours = {one.name: one for page in pages for one in page if scope.contains(one.name)}

    async def policy(target: str) -> tuple[str, Mapping[str, Any]]:
        try:
            return target, await cloud.policy(target)
        except GoogleError as error:
            who = target.rpartition("/")[2]
            raise explained(error, f"read who may use {who}", Kind.GRANT, scope) from error

    there = [name for name in targets if name in ours or not name.startswith(f"projects/{scope.project}/")]
    return Observed(ours, dict(await each(there, policy, side_by_side)))

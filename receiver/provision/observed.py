"""The observed state: the topics, subscriptions and scheduler jobs of one environment, as Google lists them.

A list takes one request for a thousand resources, and also has those that no task needs any more. Lists and policies are
read at the same time. Resources outside the scope are left out.

Next: `receiver.provision.planning`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from receiver.errors import GoogleError, GoogleForbidden, GoogleMissing
from receiver.provision.google_admin import GoogleAdmin, explained
from receiver.provision.resources import Grant, Kind, Resource, grants_in
from receiver.provision.scope import Scope

ALL_KINDS: Final = frozenset({Kind.TOPIC, Kind.SUBSCRIPTION, Kind.JOB})


@dataclass(frozen=True, slots=True)
class Observed:
    """Resources by their full names, and the policies of topics and of the resources that grants are on.

    `unseen`: why the policies of topics could not be read.
    """

    by_name: Mapping[str, Resource] = field(default_factory=dict)
    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unseen: tuple[str, ...] = ()

    @classmethod
    def of(cls, resources: Iterable[Resource]) -> Observed:
        """These resources."""
        return cls({one.name: one for one in resources})

    @property
    def resources(self) -> tuple[Resource, ...]:
        """All of them, by name."""
        return tuple(self.by_name[name] for name in sorted(self.by_name))

    def find(self, name: str) -> Resource | None:
        """The resource with this full name, or None."""
        return self.by_name.get(name)

    def roles_on(self, item: Resource) -> tuple[Grant, ...]:
        """Who has which role on it, if it is a topic."""
        return grants_in(item.name, self.policies.get(item.name, {})) if item.kind is Kind.TOPIC else ()

    def any_on(self, topic: str | None, names: Iterable[str]) -> bool:
        """Whether one of these subscriptions is there, on this topic."""
        return any(name in self.by_name and self.by_name[name].body.get("topic") == topic for name in names)

    def with_(self, name: str, found: Resource | None) -> Observed:
        """A copy with one resource as it was just read; None: it does not exist."""
        rest = {known: one for known, one in self.by_name.items() if known != name}
        return replace(self, by_name=rest if found is None else {**rest, name: found})


async def observe(
    admin: GoogleAdmin, scope: Scope, kinds: frozenset[Kind] = ALL_KINDS, targets: Iterable[str] = ()
) -> Observed:
    """Lists the resources of the scope.

    Args:
        kinds: the kinds to list; the others count as absent.
        targets: full names whose policies to read as well; one that is not there has none.

    Raises:
        GoogleError: a list or a policy could not be read.
    """
    asked = [kind for kind in Kind if kind in kinds]
    pages = await admin.each(asked, lambda kind: admin.resources(kind, scope))
    ours = {one.name: one for page in pages for one in page if scope.contains(one.name)}

    async def policy(target: str) -> tuple[str, Mapping[str, Any]]:
        try:
            return target, await admin.policy(target)
        except GoogleError as error:
            who = target.rpartition("/")[2]
            raise explained(error, f"read who may use {who}", Kind.GRANT, scope) from error

    there = [name for name in targets if name in ours or not name.startswith(f"projects/{scope.project}/")]
    return Observed(ours, dict(await admin.each(there, policy)))


async def with_publishers(observed: Observed, admin: GoogleAdmin, names: Iterable[str]) -> Observed:
    """The same, with the policies of these topics: who may publish. An emulator has none, and an editor of Pub/Sub may not read them."""
    left = [name for name in names if name in observed.by_name and name not in observed.policies]
    if admin.is_emulated:
        return observed

    async def policy(name: str) -> tuple[str, Mapping[str, Any]]:
        try:
            return name, await admin.policy(name, waits=False)
        except GoogleMissing:
            return name, {}

    try:
        # One first: where it may not be read, the others may not either.
        read = [pair for part in (left[:1], left[1:]) for pair in await admin.each(part, policy)]
    except GoogleForbidden as error:
        why = f"who may publish to the topics: {error}; to read that, roles/pubsub.admin is needed"
        return replace(observed, unseen=(why,))
    return replace(observed, policies={**observed.policies, **dict(read)})

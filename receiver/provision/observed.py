"""The observed state: the topics, subscriptions and scheduler jobs of one environment, as Google lists them.

A list takes one request for a thousand resources, and also has those that no task needs any more. Lists and policies are
read at the same time. Resources outside the scope are left out.

Next: `receiver.provision.planning`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from receiver.errors import GoogleError
from receiver.provision.google_admin import explained
from receiver.provision.resources import Kind, Resource

if TYPE_CHECKING:
    from receiver.provision.google_admin import GoogleAdmin
    from receiver.provision.resources import Grant
    from receiver.provision.scope import Scope

ALL_KINDS: Final = frozenset({Kind.TOPIC, Kind.SUBSCRIPTION, Kind.JOB})


@dataclass(frozen=True, slots=True)
class Observed:
    """Resources by their full names, and the policies of the resources that grants are on."""

    by_name: Mapping[str, Resource] = field(default_factory=dict)
    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, resources: Iterable[Resource]) -> Observed:
        """These resources."""
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
        return grant.is_in(self.policies.get(grant.target, {}))

    def with_(self, name: str, found: Resource | None) -> Observed:
        """A copy with one resource as it was just read; None: it does not exist."""
        rest = {known: one for known, one in self.by_name.items() if known != name}
        return Observed(rest if found is None else {**rest, name: found}, self.policies)


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

"""Google's APIs as provisioning asks for them: one door for four kinds of resource.

Next: `receiver.google` sends the requests. What Google says on top of a resource (times, states) stays in its body.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from receiver.errors import GoogleError, GoogleMissing
from receiver.google.client import GoogleClient
from receiver.google.endpoints import Endpoints
from receiver.provision.admin import PubsubResources
from receiver.provision.cloud_scheduler import SchedulerJobs
from receiver.provision.explanations import explained
from receiver.provision.iam import Iam
from receiver.provision.resources import Kind, Resource, kind_of
from receiver.provision.scope import Scope


class Cloud:
    """What is there, and how it is changed.

    Args:
        client: closed by whoever made it.
        is_emulated: Pub/Sub is an emulator, which cannot change every field.
    """

    def __init__(self, client: GoogleClient, endpoints: Endpoints, *, is_emulated: bool = False) -> None:
        self.is_emulated = is_emulated
        self._pubsub = PubsubResources(client, endpoints.pubsub)
        self._jobs = SchedulerJobs(client, endpoints.scheduler)
        self._iam = Iam(client, endpoints)

    async def listed(self, kind: Kind, scope: Scope) -> list[Resource]:
        """Everything of a kind in the scope's project, or for jobs its location; other people's as well.

        Raises:
            GoogleError: with a line that says what to do.
        """
        try:
            if kind is Kind.JOB:
                found = await self._jobs.listed(scope.jobs_parent)
            else:
                found = await self._pubsub.listed(
                    scope.project, "topics" if kind is Kind.TOPIC else "subscriptions"
                )
        except GoogleError as error:
            raise explained(error, f"list the {kind}s of project {scope.project}", kind, scope) from error
        return [_resource(kind, body) for body in found]

    async def get(self, name: str) -> Resource | None:
        """The resource of this full name, or None."""
        kind = kind_of(name)
        try:
            body = await (self._jobs if kind is Kind.JOB else self._pubsub).get(name)
        except GoogleMissing:
            return None
        return _resource(kind, body)

    async def create(self, item: Resource) -> None:
        """Makes it."""
        await (self._jobs if item.kind is Kind.JOB else self._pubsub).create(item.name, item.body)

    async def update(self, item: Resource, body: Mapping[str, Any], mask: tuple[str, ...]) -> None:
        """Changes what the mask names to what the body says of it."""
        await (self._jobs if item.kind is Kind.JOB else self._pubsub).update(item.name, body, mask)

    async def delete(self, item: Resource) -> None:
        """Deletes it."""
        await (self._jobs if item.kind is Kind.JOB else self._pubsub).delete(item.name)

    async def policy(self, target: str) -> Mapping[str, Any]:
        """Who may do what with a resource."""
        return await self._iam.policy(target)

    async def set_policy(self, target: str, policy: Mapping[str, Any]) -> None:
        """Writes a policy back that was read before."""
        await self._iam.set_policy(target, policy)

    async def project_number(self, scope: Scope) -> str:
        """The number of the scope's project."""
        try:
            return await self._iam.project_number(scope.project)
        except GoogleError as error:
            raise explained(error, f"read the number of project {scope.project}", None, scope) from error


def _resource(kind: Kind, body: Mapping[str, Any]) -> Resource:
    return Resource(kind, str(body["name"]), {key: value for key, value in body.items() if key != "name"})

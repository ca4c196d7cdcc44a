"""Who may do what with a topic, a subscription or a service account; and a project's number, by which Google's own accounts
are called.

A policy is read with its etag and written back with it, so that two writers never undo each other's: the slower one gets
GoogleConflict and reads again. Version 3 is asked for, because a policy read as an older one loses its conditions when it is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from receiver.provision.admin import PATIENCE

if TYPE_CHECKING:
    from receiver.google.client import GoogleClient
    from receiver.google.endpoints import Endpoints

VERSION: Final = 3
"""Of policies: the first that carries conditions."""


class Iam:
    """Policies of resources by their full names: `projects/{project}/topics/{topic}`, `projects/-/serviceAccounts/{email}`."""

    def __init__(self, client: GoogleClient, endpoints: Endpoints) -> None:
        self._client = client
        self._endpoints = endpoints

    async def policy(self, resource: str) -> dict[str, Any]:
        """The policy with its etag. Raises GoogleMissing: there is no such resource."""
        params = {"options.requestedPolicyVersion": str(VERSION)}
        # The IAM API wants a POST for reading a service account's; Pub/Sub a GET.
        method = "POST" if _is_account(resource) else "GET"
        found: dict[str, Any] = await self._client.request(
            method, f"{self._url(resource)}:getIamPolicy", params=params, retries=PATIENCE, repeatable=True
        )
        return found

    async def set_policy(self, resource: str, policy: Mapping[str, Any]) -> None:
        """Writes a policy back. Raises GoogleConflict when it has changed since it was read."""
        await self._client.request(
            "POST",
            f"{self._url(resource)}:setIamPolicy",
            body={"policy": {**policy, "version": VERSION}},
            retries=PATIENCE,
            repeatable=True,  # the etag makes the second of two the same a conflict
        )

    async def project_number(self, project: str) -> str:
        """The number of a project. Raises GoogleForbidden, also where there is no such project."""
        url = f"{self._endpoints.resource_manager}/projects/{quote(project, safe=':')}"
        found = await self._client.request("GET", url, retries=PATIENCE)
        return str(found["name"]).removeprefix("projects/")

    def _url(self, resource: str) -> str:
        base = self._endpoints.iam if _is_account(resource) else self._endpoints.pubsub
        return f"{base}/{quote(resource, safe='/:@')}"


def _is_account(resource: str) -> bool:
    return "/serviceAccounts/" in resource


def with_member(policy: Mapping[str, Any], role: str, member: str) -> dict[str, Any]:
    """The policy with one more member of a role, who has it without a condition; everything else as it was."""
    bindings = [dict(binding) for binding in policy.get("bindings", [])]
    for binding in bindings:
        if binding.get("role") == role and not binding.get("condition"):
            binding["members"] = sorted({*binding.get("members", []), member})
            break
    else:
        bindings.append({"role": role, "members": [member]})
    return {**policy, "bindings": bindings}

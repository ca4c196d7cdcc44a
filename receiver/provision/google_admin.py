"""Google's administrative calls, thin: topics, subscriptions, scheduler jobs, policies and services, by their full names.

Bodies are Google's own REST resources. A `Resource` keeps the name apart; what Google adds (times, states) stays in its body.
Next: `receiver.google.client` sends the requests; `explained` and `reason` say what to do about a refusal.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

from httpx import codes

from receiver.errors import (
    GoogleConflict,
    GoogleError,
    GoogleForbidden,
    GoogleMissing,
    GoogleRefused,
    GoogleUnavailable,
)
from receiver.provision.resources import Kind, Resource, kind_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from receiver.google.client import GoogleClient
    from receiver.google.endpoints import Endpoints
    from receiver.provision.patience import Patience
    from receiver.provision.scope import Scope

T = TypeVar("T")
R = TypeVar("R")

SIDE_BY_SIDE: Final = 10
"""Requests at once. Pub/Sub and Cloud Scheduler allow some hundred administrative requests a second or a minute."""

QUOTA_RETRIES: Final = 8
"""Tries after the first: about half a minute, for quotas that are counted by the minute."""

PAGES: Final = {"topics": 1000, "subscriptions": 1000, "jobs": 500, "services": 100}
"""The size of a page, by collection: the APIs' limits."""

POLICY_VERSION: Final = 3
"""The first version with conditions. A policy read in an older version loses its conditions when it is written back."""

_NEEDS: Final = {
    Kind.TOPIC: ("pubsub", "roles/pubsub.editor"),
    Kind.SUBSCRIPTION: ("pubsub", "roles/pubsub.editor"),
    Kind.JOB: ("cloudscheduler", "roles/cloudscheduler.admin"),
    Kind.GRANT: ("iam", "roles/pubsub.admin, and roles/iam.serviceAccountAdmin on the push account"),
    None: ("cloudresourcemanager", "roles/browser"),
}
"""The API that must be enabled, and the role that an account needs, for each kind; None: the project."""

_KINDS: Final = {"topics": Kind.TOPIC, "subscriptions": Kind.SUBSCRIPTION, "jobs": Kind.JOB}


class GoogleAdmin:
    """Reads and changes resources.

    Args:
        client: closed by the caller; with `QUOTA_RETRIES`, unless somebody waits for it.
        is_emulated: Pub/Sub is an emulator, which cannot change every field.
        side_by_side: requests at once.
        patience: waits for new accounts and roles; None: a refusal is raised at once.
    """

    def __init__(
        self,
        client: GoogleClient,
        endpoints: Endpoints,
        *,
        is_emulated: bool = False,
        side_by_side: int = SIDE_BY_SIDE,
        patience: Patience | None = None,
    ) -> None:
        self.is_emulated = is_emulated
        self._client = client
        self._side_by_side = side_by_side
        self._patience = patience
        self._bases = {
            "topics": endpoints.pubsub,
            "subscriptions": endpoints.pubsub,
            "jobs": endpoints.scheduler,
            "serviceAccounts": endpoints.iam,
            "services": endpoints.run,
            "projects": endpoints.resource_manager,
        }

    async def each(self, items: Iterable[T], act: Callable[[T], Awaitable[R]]) -> list[R]:
        """What `act` returns for each item, in their order, side by side. The first exception cancels the others."""
        turns = asyncio.Semaphore(self._side_by_side)

        async def one(item: T) -> R:
            async with turns:
                return await act(item)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(item)) for item in items]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def resources(self, kind: Kind, scope: Scope) -> list[Resource]:
        """All resources of a kind in the scope's project (jobs: in its location), also other owners'.

        Raises:
            GoogleError: with a line that says what to do.
        """
        parent, collection = f"projects/{scope.project}", f"{kind}s"
        if kind is Kind.JOB:
            parent, collection = scope.jobs_parent, "jobs"
        try:
            found = await self.listed(parent, collection)
        except GoogleError as error:
            raise explained(error, f"list the {kind}s of project {scope.project}", kind, scope) from error
        return [_resource(kind, body) for body in found]

    async def get(self, name: str) -> Resource | None:
        """The topic, subscription or job of this full name, or None."""
        try:
            return _resource(kind_of(name), await self.read(name))
        except GoogleMissing:
            return None

    async def create(self, item: Resource) -> None:
        """Makes it. Raises GoogleConflict, also when an answer was lost and the repeated request finds it made."""
        if item.kind is Kind.JOB:
            parent, _, _ = item.name.rpartition("/")
            await self._ask("POST", parent, body={"name": item.name, **item.body}, repeatable=True)
        else:
            await self._ask("PUT", item.name, body=dict(item.body))

    async def update(self, item: Resource, body: Mapping[str, Any], mask: tuple[str, ...]) -> None:
        """Sets the fields that the mask names to their values in the body; a field that is not there is removed.

        A paused job stays paused.
        """
        named, fields = {"name": item.name, **body}, ",".join(mask)
        if item.kind is Kind.JOB:
            await self._ask("PATCH", item.name, body=named, params={"updateMask": fields})
        else:
            update = {item.kind.value: named, "updateMask": fields}
            await self._ask("PATCH", item.name, body=update)

    async def delete(self, item: Resource) -> None:
        """Deletes it. Raises GoogleMissing."""
        await self._ask("DELETE", item.name)

    async def policy(self, name: str, *, waits: bool = True) -> dict[str, Any]:
        """The policy of a topic, subscription, account or service, with its etag. Raises GoogleMissing.

        Args:
            waits: for a role that may be new.
        """
        # IAM wants a POST to read an account's policy, the other APIs a GET.
        method = "POST" if "/serviceAccounts/" in name else "GET"
        params = {"options.requestedPolicyVersion": str(POLICY_VERSION)}
        found: dict[str, Any] = await self._ask(
            method, name, ":getIamPolicy", waits=waits, params=params, repeatable=True
        )
        return found

    async def set_policy(self, name: str, policy: Mapping[str, Any]) -> None:
        """Writes a policy back. Raises GoogleConflict when it has changed since it was read, by its etag."""
        body = {"policy": {**policy, "version": POLICY_VERSION}}
        await self._ask("POST", name, ":setIamPolicy", body=body, repeatable=True)

    async def project_number(self, scope: Scope) -> str:
        """The number of the scope's project, by which Google's own accounts are called."""
        try:
            found = await self.read(f"projects/{scope.project}")
        except GoogleError as error:
            raise explained(error, f"read the number of project {scope.project}", None, scope) from error
        return str(found["name"]).removeprefix("projects/")

    async def read(self, name: str) -> dict[str, Any]:
        """The body of this full name. Raises GoogleMissing."""
        found: dict[str, Any] = await self._ask("GET", name)
        return found

    async def listed(self, parent: str, collection: str) -> list[dict[str, Any]]:
        """All bodies of a collection, page by page. A page of Google's may be short, or empty."""
        found: list[dict[str, Any]] = []
        params = {"pageSize": str(PAGES[collection])}
        while True:
            page = await self._ask("GET", f"{parent}/{collection}", params=params)
            found += page.get(collection, [])
            if not (token := page.get("nextPageToken")):
                return found
            params["pageToken"] = token

    async def _ask(
        self, method: str, name: str, verb: str = "", *, waits: bool = True, **request: Any
    ) -> Any:
        """One request about a resource, `…/topics/t`, or a collection, `…/topics`, which has an odd number of parts."""
        parts = name.split("/")
        collection = parts[-1] if len(parts) % 2 else parts[-2]
        kind = Kind.GRANT if verb else _KINDS.get(collection)
        url = f"{self._bases[collection]}/{quote(name, safe='/:@')}{verb}"
        tries = 0
        while True:
            try:
                return await self._client.request(method, url, **request)
            except GoogleRefused as refused:
                patience, (_, role) = self._patience if waits else None, _NEEDS[kind]
                if patience is None or not await patience.waited(refused, tries, role):
                    raise
            tries += 1


def _resource(kind: Kind, body: Mapping[str, Any]) -> Resource:
    return Resource(kind, str(body["name"]), {key: value for key, value in body.items() if key != "name"})


def explained(error: GoogleError, doing: str, kind: Kind | None, scope: Scope) -> GoogleError:
    """The same error, with a message that names the failed action, the reason, and what to do."""
    line = f"cannot {doing}: {reason(error, kind, scope)}"
    match error:
        case GoogleRefused():
            return type(error)(error.status, error.reason, line)
        case GoogleUnavailable():
            return GoogleUnavailable(line)
        case _:  # no credentials: says what to do already
            return error


def reason(error: GoogleError, kind: Kind | None, scope: Scope) -> str:
    """Google's words, and what to do. `kind` is the requested kind; None for the project."""
    said, project = str(error), scope.project
    api, role = _NEEDS[kind]
    match error:
        case GoogleForbidden() if "API has not been used" in said or "it is disabled" in said:
            return f"its API is not enabled: gcloud services enable {api}.googleapis.com --project {project}"
        case GoogleForbidden(status=codes.UNAUTHORIZED):
            remedy = "log in again: gcloud auth application-default login"
        case GoogleForbidden() if "actAs" in said:
            remedy = "the account that provisions needs roles/iam.serviceAccountUser on the push account"
        case GoogleForbidden():
            remedy = f"the account that provisions needs {role}"
        case GoogleMissing() if kind is Kind.JOB:
            remedy = (
                f"is SCHEDULER_LOCATION {scope.location} a region of Cloud Scheduler? "
                f"gcloud scheduler locations list --project {project}; or use --skip-scheduler"
            )
        case GoogleMissing() if kind is Kind.SUBSCRIPTION:
            remedy = "a topic that is another's (TaskRoute(topic=...)) is never made here: make it, then apply again"
        case GoogleMissing() if kind is Kind.GRANT:
            remedy = "is TASKS_SERVICE_ACCOUNT an account that exists?"
        case GoogleRefused() if kind is Kind.GRANT and "does not exist" in said:
            remedy = (
                "if that is Pub/Sub's own account: gcloud beta services identity create "
                f"--service pubsub.googleapis.com --project {project}; then apply again"
            )
        case GoogleConflict() | GoogleUnavailable():
            remedy = "try again"
        case _:
            return said
    return f"{said}; {remedy}"

"""Google's side, looked at: what is provisioned, who may do what, and the service as it is deployed. Nothing is changed.

Next: `receiver.doctor.resources` and `receiver.doctor.service` judge what is seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from receiver.doctor.cloud_run import CloudRunService, service_of
from receiver.errors import GoogleError, GoogleForbidden, GoogleMissing
from receiver.provision.desired import PushTarget, desired, desired_grants
from receiver.provision.google_admin import GoogleAdmin, explained
from receiver.provision.observed import Observed, observe
from receiver.provision.planning import Plan, plan
from receiver.provision.resources import Grant, Kind, Wanted
from receiver.provision.scope import Scope

if TYPE_CHECKING:
    from receiver.google.client import GoogleClient
    from receiver.google.endpoints import Endpoints
    from receiver.settings import Settings
    from receiver.tasks.route import TaskRoute


INVOKER: Final = "roles/run.invoker"


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What is there of some kinds, and the plan that leads from it to what should be."""

    plan: Plan
    observed: Observed


@dataclass(frozen=True, slots=True)
class Roles:
    """Grants that should be there and are not, and what could not be read."""

    missing: tuple[Grant, ...]
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Deployed:
    """The service; `invokers` is None where its policy may not be read."""

    service: CloudRunService
    invokers: frozenset[str] | None


class View:
    """One look at one environment.

    Args:
        push: how pushes should be made.
        client: closed by whoever made it.
    """

    def __init__(
        self,
        routes: Sequence[TaskRoute],
        scope: Scope,
        push: PushTarget,
        client: GoogleClient,
        endpoints: Endpoints,
    ) -> None:
        self._scope = scope
        self._push = push
        self._wanted = desired(routes, scope, push)
        self._admin = GoogleAdmin(client, endpoints)

    async def provisioned(self, *kinds: Kind) -> Provisioned:
        """What is there of these kinds. Raises GoogleError."""
        observed = await observe(self._admin, self._scope, frozenset(kinds))
        wanted = [one for one in self._wanted if one.item.kind in kinds]
        return Provisioned(plan(wanted, observed, self._scope), observed)

    async def roles(self) -> Roles:
        """Which roles Pub/Sub's own account lacks, on what is there. Raises GoogleError."""
        number = await self._admin.project_number(self._scope)
        grants = [
            one
            for one in desired_grants(self._wanted, self._scope, self._push, number)
            if one.former is None and isinstance(one.item, Grant)
        ]
        found = dict(await self._admin.each(grants, self._policy))
        policies = {target: one for target, one in found.items() if isinstance(one, Mapping)}
        seen = Observed(policies=policies)
        return Roles(
            tuple(
                one.item
                for one in grants
                if isinstance(one.item, Grant) and one.item.target in policies and not seen.has(one.item)
            ),
            tuple(dict.fromkeys(one for one in found.values() if isinstance(one, str))),
        )

    async def _policy(self, one: Wanted) -> tuple[str, Mapping[str, Any] | str | None]:
        """The policy of a grant's target, why it cannot be read, or None where there is no such resource: that is said elsewhere."""
        target = one.item.target if isinstance(one.item, Grant) else one.item.name
        try:
            return target, await self._admin.policy(target)
        except GoogleMissing:
            return target, None
        except GoogleForbidden as error:
            return target, str(
                explained(error, f"read who may use {target.rpartition('/')[2]}", Kind.GRANT, self._scope)
            )


async def deployed(
    admin: GoogleAdmin, settings: Settings, service: str | None, region: str | None
) -> Deployed | str:
    """The Cloud Run service that the settings mean, or why it cannot be told which that is.

    Args:
        service: its name, if it is known; else it is found by its address.
        region: where it is; else the address says it, or it is taken to be where the scheduler's jobs are.

    Raises:
        GoogleError: Cloud Run cannot be asked.
    """
    where = region or region_of(settings.service_url) or settings.scheduler_location
    parent = f"projects/{settings.project_id}/locations/{where}"
    if service is not None:
        try:
            found = service_of(await admin.read(f"{parent}/services/{service}"))
        except GoogleMissing:
            return f"there is no service {service} in {where}; say where with --region"
    else:
        services = [service_of(body) for body in await admin.listed(parent, "services")]
        sought = next((one for one in services if settings.service_url in one.urls), None)
        if sought is None:
            return f"no service in {where} answers at {settings.service_url}; name it with --service and --region"
        found = sought
    try:
        policy = await admin.policy(found.name)
    except GoogleForbidden:
        return Deployed(found, None)
    bindings = [one for one in policy.get("bindings", []) if not one.get("condition")]
    return Deployed(
        found,
        frozenset(
            member for one in bindings if one.get("role") == INVOKER for member in one.get("members", [])
        ),
    )


def region_of(url: str | None) -> str | None:
    """The region in an address `https://SERVICE-NUMBER.REGION.run.app`; the other form has none."""
    match (urlsplit(url or "").hostname or "").split("."):
        case [_, region, "run", "app"] if "-" in region:
            return region
        case _:
            return None


def refusal(error: GoogleError, scope: Scope) -> str:
    """Why Cloud Run could not be asked, and what to do."""
    way = "; whoever looks needs roles/run.viewer" if isinstance(error, GoogleForbidden) else ""
    return f"cannot read the Cloud Run service of project {scope.project}: {error}{way}"

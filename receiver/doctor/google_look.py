"""Reads Google's side for the doctor: the resources, the policies, and the deployed service. Read only.

Next: `receiver.doctor.resource_rules` and `receiver.doctor.service_rules` check it.
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
from receiver.provision.resources import Grant, Kind, grants_in
from receiver.provision.scope import Scope

if TYPE_CHECKING:
    from receiver.settings import Settings
    from receiver.tasks.route import TaskRoute

INVOKER: Final = "roles/run.invoker"


@dataclass(frozen=True, slots=True)
class Provisioned:
    """The observed resources of some kinds, and the plan from them to the desired state."""

    plan: Plan
    observed: Observed


@dataclass(frozen=True, slots=True)
class Roles:
    """Grants that are missing, those on topics that everybody has, and policies that could not be read."""

    missing: tuple[Grant, ...]
    public: tuple[Grant, ...] = ()
    unseen: tuple[str, ...] = ()


class GoogleLook:
    """Looks at the resources of these routes. `push`: how pushes should be made."""

    def __init__(
        self, admin: GoogleAdmin, routes: Sequence[TaskRoute], scope: Scope, push: PushTarget
    ) -> None:
        self._admin = admin
        self._scope = scope
        self._push = push
        self._wanted = desired(routes, scope, push)

    async def provisioned(self, *kinds: Kind) -> Provisioned:
        """The resources of these kinds. Raises GoogleError."""
        observed = await observe(self._admin, self._scope, frozenset(kinds))
        wanted = [one for one in self._wanted if one.item.kind in kinds]
        return Provisioned(plan(wanted, observed, self._scope), observed)

    async def roles(self) -> Roles:
        """The roles that Pub/Sub's own account lacks on existing resources, and those that everybody has on topics.

        Raises GoogleError.
        """
        number = await self._admin.project_number(self._scope)
        wanted = desired_grants(self._wanted, self._scope, self._push, number)
        grants = [one.item for one in wanted if one.former is None and isinstance(one.item, Grant)]
        missing, public, unseen = [], [], dict[str, None]()
        topics = [one.item.name for one in self._wanted if one.item.kind is Kind.TOPIC]
        names = list(dict.fromkeys([*(grant.target for grant in grants), *topics]))
        policies = dict(zip(names, await self._admin.each(names, self._policy), strict=True))
        for name, policy in policies.items():
            if isinstance(policy, str):
                unseen[policy] = None
            elif policy is not None:
                missing += [grant for grant in grants if grant.target == name and not grant.is_in(policy)]
                public += [grant for grant in grants_in(name, policy) if name in topics and grant.is_public]
        return Roles(tuple(missing), tuple(public), tuple(unseen))

    async def _policy(self, name: str) -> Mapping[str, Any] | str | None:
        """A policy, or why it cannot be read. None: the resource is missing, which `provisioned` reports."""
        try:
            return await self._admin.policy(name)
        except GoogleMissing:
            return None
        except GoogleForbidden as error:
            doing = f"read who may use {name.rpartition('/')[2]}"
            return str(explained(error, doing, Kind.GRANT, self._scope))


async def find_service(
    admin: GoogleAdmin, settings: Settings, name: str | None, region: str | None
) -> tuple[CloudRunService, frozenset[str] | None] | str:
    """The Cloud Run service of the settings, and who may call it (None: not readable); or why it is not known.

    Args:
        name: of the service, if it is known; else it is found by its address.
        region: where it is; else the address says it, or it is taken to be where the scheduler's jobs are.
    """
    where = region or region_of(settings.service_url) or settings.scheduler_location
    parent = f"projects/{settings.project_id}/locations/{where}"
    try:
        if name is not None:
            found = service_of(await admin.read(f"{parent}/services/{name}"))
        else:
            services = [service_of(body) for body in await admin.listed(parent, "services")]
            there = [one for one in services if settings.service_url in one.urls]
            if not there:
                return f"no service in {where} answers at {settings.service_url}; name it with --service and --region"
            found = there[0]
    except GoogleMissing:
        return f"there is no service {name} in {where}; say where with --region"
    except GoogleError as error:
        way = (
            "; the account that runs the doctor needs roles/run.viewer"
            if isinstance(error, GoogleForbidden)
            else ""
        )
        return f"cannot read the Cloud Run service of project {settings.project_id}: {error}{way}"
    try:
        policy = await admin.policy(found.name)
    except GoogleForbidden:
        return found, None
    bindings = [one for one in policy.get("bindings", []) if not one.get("condition")]
    members = [one.get("members", []) for one in bindings if one.get("role") == INVOKER]
    return found, frozenset(member for each in members for member in each)


def region_of(url: str | None) -> str | None:
    """The region in an address `https://SERVICE-NUMBER.REGION.run.app`; the other form has no region."""
    match (urlsplit(url or "").hostname or "").split("."):
        case [_, region, "run", "app"] if "-" in region:
            return region
        case _:
            return None

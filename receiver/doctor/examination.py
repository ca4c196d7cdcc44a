"""One examination: everything is looked at side by side, each part within its time, and then judged.

Invariants: no part waits longer than its limit, and a part that fails does not keep another from being seen. A part that could
not be seen is in the diagnosis, and never taken to be good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from receiver.delivery.certificates import Certificates
from receiver.doctor import record_look
from receiver.doctor.cloud_run import DEFAULT_MAX_INSTANCES
from receiver.doctor.findings import Check, Diagnosis, Finding, Findings, Unseen
from receiver.doctor.google_look import GoogleLook, find_service
from receiver.doctor.record_rules import Fleet, judge_record, judge_unavailable
from receiver.doctor.resource_rules import judge_resources, judge_roles
from receiver.doctor.service_rules import Deployed, judge_service
from receiver.doctor.setting_rules import Configuration, judge_settings
from receiver.doctor.task_rules import Declared, judge_tasks
from receiver.errors import ConfigurationError, DatabaseUnavailable, GoogleError
from receiver.google.client import GoogleClient
from receiver.google.endpoints import Endpoints
from receiver.provision.desired import PushTarget
from receiver.provision.google_admin import GoogleAdmin
from receiver.provision.resources import Kind
from receiver.provision.scope import Scope
from receiver.record.database import Database
from receiver.record.whose import Whose
from receiver.settings import PushAuth

if TYPE_CHECKING:
    from receiver.doctor.record_look import RecordSeen
    from receiver.settings import Settings

PART_LIMIT: Final = timedelta(seconds=10)
"""For each part of the examination. All run at the same time, so that it takes about this long at most."""

GOOGLE_RETRIES: Final = 1
"""Retries of a request to Google: the doctor reports a problem instead of waiting for its end."""


async def examine(
    environ: Mapping[str, str],
    *,
    max_instances: int | None = None,
    service: str | None = None,
    region: str | None = None,
    skipped: frozenset[Check] = frozenset(),
    dev: bool = False,
) -> Diagnosis:
    """Looks at every part, and returns the diagnosis.

    Args:
        max_instances: of the service. Default: those of the deployed service, else Cloud Run's default.
        service, region: name and place of the service; else it is found by its address.
        skipped: what not to look at.
        dev: whether the environment is that of a `receiver dev`: one instance, which provisions for itself.
    """
    configuration = replace(Configuration.read(environ), dev=dev)
    settings = configuration.settings
    client = GoogleClient(retries=GOOGLE_RETRIES)
    examination = _Examination(
        environ,
        settings,
        GoogleAdmin(client, Endpoints.of(settings)),
        Declared.load(settings, environ),
        max_instances or (1 if dev else None),
        service or settings.service_name,
        region,
        judge_settings(configuration),
    )
    skipped |= _absent_in_stand_in(settings) | (frozenset({Check.PUBSUB}) if dev else frozenset())
    try:
        await examination.look(skipped)
    finally:
        await client.close()
    examination.judge()
    return Diagnosis.of(examination.findings, examination.unseen, skipped)


@dataclass(slots=True)
class _Examination:
    """What was seen and found so far. Each look adds to it."""

    environ: Mapping[str, str]
    settings: Settings
    admin: GoogleAdmin
    declared: Declared
    max_instances: int | None
    service_name: str | None
    region: str | None
    findings: list[Finding]
    unseen: list[Unseen] = field(default_factory=list)
    record: RecordSeen | None = None
    deployed: dict[str | None, Deployed] = field(default_factory=dict)
    """By the services' names in routes; None is the main one's."""

    async def look(self, skipped: frozenset[Check]) -> None:
        """Looks at all parts side by side, but for those skipped."""
        looks: dict[Check, Callable[[], Awaitable[None]]] = {
            Check.DATABASE: self._record,
            Check.CERTIFICATES: self._certificates,
            Check.PUBSUB: partial(self._provisioned, Check.PUBSUB, Kind.TOPIC, Kind.SUBSCRIPTION),
            Check.SCHEDULER: partial(self._provisioned, Check.SCHEDULER, Kind.JOB),
            Check.ROLES: self._roles,
            Check.SERVICE: self._services,
        }
        async with asyncio.TaskGroup() as group:
            for check, look in looks.items():
                if check not in skipped:
                    group.create_task(self._part(check, look))

    async def _part(self, check: Check, look: Callable[[], Awaitable[None]]) -> None:
        """One look; it is unseen when it fails, or does not end in its time."""
        try:
            async with asyncio.timeout(PART_LIMIT.total_seconds()):
                await look()
        except TimeoutError:
            self.unseen.append(Unseen(check, f"no answer within {PART_LIMIT.total_seconds():g} s"))
        except (GoogleError, ConfigurationError) as error:
            self.unseen.append(Unseen(check, str(error)))

    async def _record(self) -> None:
        try:
            self.record = await record_look.look(Database.configured(self.settings), Whose.of(self.settings))
        except DatabaseUnavailable as error:
            self.findings += judge_unavailable(error)

    async def _certificates(self) -> None:
        if self.settings.push_auth is PushAuth.OFF:
            return
        failures = ["no answer in time"]
        good = await Certificates(self.settings.certs_url, failures.append).ready()
        if not good:
            found = Findings(Check.CERTIFICATES)
            why = "without them no token can be checked, and every push is answered 403"
            found.error("certificates-unreachable", failures[-1], why, f"curl -sS {self.settings.certs_url}")
            self.findings += found

    def _google(self) -> GoogleLook:
        """How to look at the provisioned resources. Raises ConfigurationError when the desired state is not known."""
        scope, push = Scope.of(self.settings), PushTarget.of(self.settings)
        if self.declared.failure is not None:
            raise ConfigurationError("what should be there is not known: the plugins cannot be loaded")
        return GoogleLook(self.admin, self.declared.routes, scope, push)

    async def _provisioned(self, check: Check, *kinds: Kind) -> None:
        self.findings += judge_resources(check, await self._google().provisioned(*kinds))

    async def _roles(self) -> None:
        roles = await self._google().roles()
        self.findings += judge_roles(roles)
        self.unseen += [Unseen(Check.ROLES, line) for line in roles.unseen]

    async def _services(self) -> None:
        """Each service; only the main one may be named by an option."""
        Scope.of(self.settings)  # raises SettingError where the project or the address is missing
        for name, url in ((None, self.settings.service_url), *self.settings.service_urls):
            settings = replace(self.settings, service_url=url)
            options = (self.service_name, self.region) if name is None else (None, None)
            found = await find_service(self.admin, settings, *options)
            if isinstance(found, str):
                self.unseen.append(Unseen(Check.SERVICE, found))
            else:
                self.deployed[name] = Deployed(*found, settings, self.environ)

    def judge(self) -> None:
        """Applies the rules that need the deployed service, or several parts."""
        services = {name: deployed.service for name, deployed in self.deployed.items()}
        for declared in self.declared.by_service(services):
            self.findings += judge_tasks(declared)
        for deployed in self.deployed.values():
            self.findings += judge_service(deployed)
        if self.record is not None:
            # Each service has its instances: together they use up the connections.
            limits = [service.max_instances for service in services.values()]
            known = self.max_instances or (None not in limits and sum(filter(None, limits)))
            some = sum(limit or DEFAULT_MAX_INSTANCES for limit in limits or [None])
            fleet = Fleet(known or some, self.settings.db_pool_size, known=bool(known))
            if (service := services.get(None)) is not None:
                fleet = replace(fleet, flags=service.flags)
            self.findings += judge_record(self.record, fleet)
            self.unseen += [Unseen(Check.DATABASE, line) for line in self.record.unseen]


def _absent_in_stand_in(settings: Settings) -> frozenset[Check]:
    """The checks for which a stand-in has nothing. The real API is never looked at together with a stand-in for the other."""
    if settings.pubsub_emulator is not None and settings.scheduler_endpoint is None:
        return frozenset({Check.SCHEDULER, Check.ROLES, Check.SERVICE})
    if settings.pubsub_emulator is None and settings.scheduler_endpoint is not None:
        return frozenset({Check.PUBSUB, Check.ROLES})
    return frozenset()

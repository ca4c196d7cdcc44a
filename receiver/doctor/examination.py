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
from typing import TYPE_CHECKING, Final, TypeVar

import httpx

from receiver.delivery.certificates import Certificates
from receiver.doctor import record_look
from receiver.doctor.cloud_run import DEFAULT_MAX_INSTANCES
from receiver.doctor.findings import Check, Diagnosis, Finding, Rule, Severity, Unseen, judged
from receiver.doctor.google_look import GoogleLook, Provisioned, Roles, find_service
from receiver.doctor.record_rules import Fleet, judge_record
from receiver.doctor.resource_rules import RESOURCE_RULES, ROLE_RULES
from receiver.doctor.service_rules import SERVICE_RULES, Deployed
from receiver.doctor.setting_rules import SETTING_RULES, Configuration
from receiver.doctor.task_rules import TASK_RULES, Declared
from receiver.doctor.unavailable_rules import UNAVAILABLE_RULES
from receiver.errors import DatabaseUnavailable, GoogleError, SettingError
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

T = TypeVar("T")

PART_LIMIT: Final = timedelta(seconds=10)
"""For each part of the examination. All run at the same time, so that it takes about this long at most."""

GOOGLE_RETRIES: Final = 1
"""Retries of a request to Google: the doctor reports a problem instead of waiting for its end."""


CERTIFICATE_RULES: Final[tuple[Rule[Mapping[str, str]], ...]] = (
    Rule(
        Severity.ERROR,
        "certificates-unreachable",
        lambda _: True,
        "{seen[why]}",
        "without them no token can be checked, and every push is answered 403",
        "curl -sS {seen[url]}",
    ),
)


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
    examination = _Examination(
        environ,
        settings,
        Declared.load(settings, environ),
        max_instances or (1 if dev else None),
        service or settings.service_name,
        region,
        skipped | _absent_in_stand_in(settings) | (frozenset({Check.PUBSUB}) if dev else frozenset()),
        judged(Check.CONFIGURATION, SETTING_RULES, configuration),
    )
    return await examination.diagnosis()


@dataclass(slots=True)
class _Examination:
    environ: Mapping[str, str]
    settings: Settings
    declared: Declared
    max_instances: int | None
    service_name: str | None
    region: str | None
    skipped: frozenset[Check]
    findings: list[Finding]
    unseen: list[Unseen] = field(default_factory=list)

    async def diagnosis(self) -> Diagnosis:
        """Looks at all parts, then applies the rules: many rules need the deployed service."""
        client = GoogleClient(most_retries=GOOGLE_RETRIES)
        admin = GoogleAdmin(client, Endpoints.of(self.settings))
        try:
            async with asyncio.TaskGroup() as group:
                record = group.create_task(self._part(Check.DATABASE, self._record))
                group.create_task(self._part(Check.CERTIFICATES, self._certificates))
                services = group.create_task(self._part(Check.SERVICE, partial(self._services, admin)))
                google = self._google(admin)
                if google is not None:
                    kinds = partial(google.provisioned, Kind.TOPIC, Kind.SUBSCRIPTION)
                    group.create_task(
                        self._part(Check.PUBSUB, partial(self._provisioned, Check.PUBSUB, kinds))
                    )
                    jobs = partial(google.provisioned, Kind.JOB)
                    group.create_task(
                        self._part(Check.SCHEDULER, partial(self._provisioned, Check.SCHEDULER, jobs))
                    )
                    group.create_task(self._part(Check.ROLES, partial(self._roles, google.roles)))
        finally:
            await client.close()
        self._judge(services.result() or {}, record.result())
        return Diagnosis.of(self.findings, self.unseen, self.skipped)

    async def _part(self, check: Check, look: Callable[[], Awaitable[T]]) -> T | None:
        """The result of `look`; None when the part is skipped, or could not be seen in its time."""
        if check in self.skipped:
            return None
        try:
            async with asyncio.timeout(PART_LIMIT.total_seconds()):
                return await look()
        except TimeoutError:
            self.unseen.append(Unseen(check, f"no answer within {PART_LIMIT.total_seconds():g} s"))
        except (GoogleError, SettingError) as error:
            self.unseen.append(Unseen(check, str(error)))
        return None

    async def _record(self) -> RecordSeen | None:
        database = Database.configured(self.settings)
        try:
            return await record_look.look(database, Whose.of(self.settings))
        except DatabaseUnavailable as error:
            self.findings += judged(Check.DATABASE, UNAVAILABLE_RULES, error)
        return None

    async def _certificates(self) -> None:
        if self.settings.push_auth is PushAuth.OFF:
            return
        failures = ["no answer in time"]
        async with httpx.AsyncClient() as client:
            certificates = Certificates(self.settings.certs_url, lambda: client, failures.append)
            try:
                good = await certificates.ready()
            finally:
                await certificates.close()
        if not good:
            seen = {"url": self.settings.certs_url, "why": failures[-1]}
            self.findings += judged(Check.CERTIFICATES, CERTIFICATE_RULES, seen)

    def _google(self, admin: GoogleAdmin) -> GoogleLook | None:
        """How to look at the provisioned resources; None when the desired state is not known."""
        why = "what should be there is not known: the plugins cannot be loaded"
        try:
            scope, push = Scope.of(self.settings), PushTarget.of(self.settings)
            if self.declared.failure is None:
                return GoogleLook(admin, self.declared.routes, scope, push)
        except SettingError as error:
            why = str(error)
        parts = (Check.PUBSUB, Check.SCHEDULER, Check.ROLES)
        self.unseen += [Unseen(check, why) for check in parts if check not in self.skipped]
        return None

    async def _provisioned(self, check: Check, look: Callable[[], Awaitable[Provisioned]]) -> None:
        self.findings += judged(check, RESOURCE_RULES, await look())

    async def _roles(self, look: Callable[[], Awaitable[Roles]]) -> None:
        roles = await look()
        self.findings += judged(Check.ROLES, ROLE_RULES, roles)
        self.unseen += [Unseen(Check.ROLES, line) for line in roles.unseen]

    async def _services(self, admin: GoogleAdmin) -> dict[str | None, Deployed]:
        """The services that can be seen, by their names in routes; None is the main one's."""
        Scope.of(self.settings)  # raises SettingError where the project or the address is missing
        seen: dict[str | None, Deployed] = {}
        for name, url in ((None, self.settings.service_url), *self.settings.service_urls):
            settings = replace(self.settings, service_url=url)
            main = name is None
            found = await find_service(
                admin, settings, self.service_name if main else None, self.region if main else None
            )
            if isinstance(found, str):
                self.unseen.append(Unseen(Check.SERVICE, found))
            else:
                seen[name] = Deployed(*found, settings, self.environ)
        return seen

    def _judge(self, seen: Mapping[str | None, Deployed], record: RecordSeen | None) -> None:
        services = {name: deployed.service for name, deployed in seen.items()}
        for declared in self.declared.by_service(services):
            self.findings += judged(Check.TASKS, TASK_RULES, declared)
        for deployed in seen.values():
            self.findings += judged(Check.SERVICE, SERVICE_RULES, deployed)
        if record is not None:
            # Each service has its instances: together they use up the connections.
            limits = [service.max_instances for service in services.values()]
            known = self.max_instances or (None not in limits and sum(filter(None, limits)))
            some = sum(limit or DEFAULT_MAX_INSTANCES for limit in limits or [None])
            fleet = Fleet(known or some, self.settings.db_pool_size, known=bool(known))
            if (service := services.get(None)) is not None:
                fleet = replace(fleet, flags=service.flags)
            self.findings += judge_record(record, fleet)
            self.unseen += [Unseen(Check.DATABASE, line) for line in record.unseen]


def _absent_in_stand_in(settings: Settings) -> frozenset[Check]:
    """The checks for which a stand-in has nothing. The real API is never looked at together with a stand-in for the other."""
    if settings.pubsub_emulator is not None and settings.scheduler_endpoint is None:
        return frozenset({Check.SCHEDULER, Check.ROLES, Check.SERVICE})
    if settings.pubsub_emulator is None and settings.scheduler_endpoint is not None:
        return frozenset({Check.PUBSUB, Check.ROLES})
    return frozenset()

"""One examination: everything is looked at side by side, each part within its time, and then judged.

Invariants: no part waits for longer than its limit, and none that fails keeps another from being seen; what could not be seen is
in the report, never taken for good.

Next: `receiver.doctor.rendering`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import httpx

from receiver import maintenance
from receiver.delivery.certificates import Certificates
from receiver.doctor import database, environment, resources, service, tasks
from receiver.doctor import database_look as record
from receiver.doctor import google_look as cloud
from receiver.doctor.findings import Check, Finding, Report, Severity, Unseen
from receiver.errors import DatabaseUnavailable, GoogleError, PluginError, SettingError
from receiver.google.client import GoogleClient
from receiver.google.endpoints import Endpoints
from receiver.provision.desired import PushTarget
from receiver.provision.google_admin import GoogleAdmin
from receiver.provision.resources import Kind
from receiver.provision.scope import Scope
from receiver.record.database import Database
from receiver.settings import PushAuth, require_database
from receiver.tasks import registry

if TYPE_CHECKING:
    from receiver.doctor.cloud_run import CloudRunService
    from receiver.settings import Settings
    from receiver.tasks.route import TaskRoute

T = TypeVar("T")

LIMIT: Final = timedelta(seconds=10)
"""For each part of the examination. All go on at the same time, so that this is about how long it takes at most."""

RETRIES: Final = 1
"""Of a request to Google: the doctor tells of a trouble, it does not wait until it is over."""

SKIPPABLE: Final = (
    Check.DATABASE,
    Check.CERTIFICATES,
    Check.PUBSUB,
    Check.SCHEDULER,
    Check.ROLES,
    Check.SERVICE,
)
"""What may be left out."""


@dataclass(frozen=True, slots=True)
class Options:
    """What an examination is told.

    Args:
        max_instances: of the service; else as it is deployed, else Cloud Run's default.
        service, region: name and place of the service; else they are found by its address.
        skipped: what not to look at.
        limit: for each part.
    """

    max_instances: int | None = None
    service: str | None = None
    region: str | None = None
    skipped: frozenset[Check] = frozenset()
    limit: timedelta = LIMIT


@dataclass(frozen=True, slots=True)
class Plugins:
    """What is declared; None where the plugins cannot be loaded, and then why."""

    routes: tuple[TaskRoute, ...] | None
    undeclared: tuple[str, ...] = ()
    failure: str = ""


async def examine(environ: Mapping[str, str], options: Options) -> Report:
    """Looks at everything, and says what it found."""
    settings, found = environment.read(environ)
    return await Examination(settings, environ, options, _plugins(settings), found).report()


def _plugins(settings: Settings) -> Plugins:
    try:
        known = registry.load(settings).including(maintenance.ROUTES)
    except PluginError as error:
        return Plugins(None, failure=str(error))
    return Plugins(known.routes, tuple(registry.undeclared(known)))


class Examination:
    """One run. `found`: what is known already."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        options: Options,
        plugins: Plugins,
        found: list[Finding],
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._options = options
        self._plugins = plugins
        self._findings = [*found, *environment.judge(settings, environ)]
        self._unseen: list[Unseen] = []
        self._skipped = {*options.skipped, *_without(settings)}

    async def report(self) -> Report:
        """Everything, judged."""
        client = GoogleClient(most_retries=RETRIES)
        try:
            async with asyncio.TaskGroup() as group:
                look = group.create_task(self._part(Check.DATABASE, self._database))
                group.create_task(self._part(Check.CERTIFICATES, self._certificates))
                deployed = group.create_task(self._part(Check.SERVICE, lambda: self._service(client)))
                view = self._view(client)
                pubsub = group.create_task(
                    self._part(
                        Check.PUBSUB,
                        partial(view.provisioned, Kind.TOPIC, Kind.SUBSCRIPTION) if view else None,
                    )
                )
                jobs = group.create_task(
                    self._part(Check.SCHEDULER, partial(view.provisioned, Kind.JOB) if view else None)
                )
                roles = group.create_task(self._part(Check.ROLES, view.roles if view else None))
        finally:
            await client.close()
        self._judge_service(deployed.result(), look.result())
        for check, part in ((Check.PUBSUB, pubsub), (Check.SCHEDULER, jobs)):
            seen = part.result()
            if seen is not None:
                self._findings += resources.judge(seen, check)
        given = roles.result()
        if given is not None:
            self._findings += resources.judge_roles(given)
            self._unseen += [Unseen(Check.ROLES, line) for line in given.unseen]
        return Report.of(self._findings, self._unseen, tuple(self._skipped))

    async def _part(self, check: Check, look: Callable[[], Awaitable[T]] | None) -> T | None:
        """What `look` sees within its time; None when it is left out, or when it saw nothing, which is then noted."""
        if check in self._skipped or look is None:
            return None
        try:
            async with asyncio.timeout(self._options.limit.total_seconds()):
                return await look()
        except TimeoutError:
            why = f"no answer within {self._options.limit.total_seconds():g} s"
            self._unseen.append(Unseen(check, why))
        except (GoogleError, SettingError) as error:
            self._unseen.append(Unseen(check, str(error)))
        return None

    async def _database(self) -> record.Look | None:
        url = require_database(self._settings)
        place = Database.of(url, prepared_statements=self._settings.db_prepared_statements)
        try:
            return await record.look(place, self._settings.namespace)
        except record.Refused as error:
            self._findings.append(database.refused(error))
        except DatabaseUnavailable as error:
            self._findings.append(database.unreachable(error))
        return None

    async def _certificates(self) -> None:
        if self._settings.push_auth is PushAuth.OFF:
            return
        failures: list[str] = []
        async with httpx.AsyncClient() as client:
            certificates = Certificates(self._settings.certs_url, lambda: client, failures.append)
            try:
                good = await certificates.ready()
            finally:
                await certificates.close()
        if not good:
            self._findings.append(certificates_missing(self._settings.certs_url, failures))

    def _view(self, client: GoogleClient) -> cloud.View | None:
        """How Google's side can be looked at; None where it is not known what should be there, which is then noted."""
        try:
            scope, push = Scope.of(self._settings), PushTarget.of(self._settings)
        except SettingError as error:
            self._blind(str(error))
            return None
        if self._plugins.routes is None:
            self._blind("what should be there is not known: the plugins cannot be loaded")
            return None
        return cloud.View(self._plugins.routes, scope, push, client, Endpoints.of(self._settings))

    def _blind(self, why: str) -> None:
        parts = {Check.PUBSUB, Check.SCHEDULER, Check.ROLES} - self._skipped
        self._unseen += [Unseen(check, why) for check in Check if check in parts]

    async def _service(self, client: GoogleClient) -> cloud.Deployed | None:
        scope = Scope.of(self._settings)
        admin = GoogleAdmin(client, Endpoints.of(self._settings))
        name = self._options.service or self._settings.service_name
        try:
            found = await cloud.deployed(admin, self._settings, name, self._options.region)
        except GoogleError as error:
            found = cloud.refusal(error, scope)
        if isinstance(found, str):
            self._unseen.append(Unseen(Check.SERVICE, found))
            return None
        return found

    def _judge_service(self, deployed: cloud.Deployed | None, look: record.Look | None) -> None:
        """What stands on the service as it is deployed, or does without."""
        there = None if deployed is None else deployed.service
        if self._plugins.routes is None:
            self._findings.append(tasks.broken(self._plugins.failure))
        else:
            self._findings += tasks.judge(
                self._plugins.routes, self._plugins.undeclared, self._environ, there
            )
        if look is not None:
            self._findings += database.judge(look, self._fleet(there))
            self._unseen += [Unseen(Check.DATABASE, line) for line in look.unseen]
        if deployed is not None:
            self._findings += service.judge(
                deployed.service, deployed.invokers, self._settings, self._environ
            )

    def _fleet(self, there: CloudRunService | None) -> database.Fleet:
        told = self._options.max_instances
        deployed = None if there is None else there.max_instances
        return database.Fleet(
            told or deployed or service.DEFAULT_MAX_INSTANCES,
            self._settings.db_pool_size,
            known=told is not None or deployed is not None,
            **({} if there is None else {"flags": there.flags}),
        )


def certificates_missing(url: str, failures: Sequence[str]) -> Finding:
    """No certificates from there."""
    why = failures[-1] if failures else "no answer in time"
    return Finding(
        Check.CERTIFICATES,
        Severity.ERROR,
        "certificates-unreachable",
        why,
        "without them no token can be checked, and every push is answered 403",
        f"curl -sS {url}",
    )


def _without(settings: Settings) -> frozenset[Check]:
    """What a stand-in has nothing of. The real one is never looked at together with it."""
    if settings.pubsub_emulator is not None and settings.scheduler_endpoint is None:
        return frozenset({Check.SCHEDULER, Check.ROLES, Check.SERVICE})
    if settings.pubsub_emulator is None and settings.scheduler_endpoint is not None:
        return frozenset({Check.PUBSUB, Check.ROLES})
    return frozenset()

"""One run of provisioning: plan, apply, look again.

    wanted = await wanted_by(registry, admin, scope, push, options)
    run = ProvisionRun(admin, scope, options, wanted, ask)
    plan = await run.plan();  results = await run.apply(plan, tell);  left = await run.remaining()

`receiver doctor` finds what this would change.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from receiver.errors import ConfigurationError, SettingError
from receiver.provision.applying import Result, apply
from receiver.provision.desired import PushTarget, desired, desired_grants
from receiver.provision.observed import ALL_KINDS, Observed, observe, with_publishers
from receiver.provision.planning import Delete, Needed, Plan, plan, removal
from receiver.provision.resources import Grant, Kind, Wanted

if TYPE_CHECKING:
    from receiver.provision.google_admin import GoogleAdmin
    from receiver.provision.scope import Scope
    from receiver.settings import Settings
    from receiver.tasks.registry import Registry
    from receiver.tasks.route import TaskRoute


@dataclass(frozen=True, slots=True)
class ProvisionOptions:
    """The part of the state that a run looks at.

    Args:
        kinds: the kinds of resource; others are left alone.
        only: names of tasks, with their dead letters; empty for all.
        grant: also the roles of Pub/Sub's own account.
        take_over: resources of another service with our environment and namespace are ours: the service has moved.
        prune: delete the topics and subscriptions that no task needs.
        resume: give subscriptions that are paused their push endpoint again.
    """

    kinds: frozenset[Kind] = ALL_KINDS
    only: tuple[str, ...] = ()
    grant: bool = False
    take_over: bool = False
    prune: bool = False
    resume: bool = False


async def wanted_by(
    registry: Registry, admin: GoogleAdmin, scope: Scope, push: PushTarget, options: ProvisionOptions
) -> tuple[Wanted, ...]:
    """The desired state. When roles are to be granted, Google is asked for the project's number.

    Raises:
        ConfigurationError: `options.only` names a task that does not exist.
    """
    wanted = desired(_chosen(registry, options.only), scope, push)
    grants: Sequence[Wanted] = ()
    if options.grant:
        number = await admin.project_number(scope)
        grants = tuple(desired_grants(wanted, scope, push, number))
    return (*(one for one in wanted if one.item.kind in options.kinds), *grants)


async def needed_by_record(settings: Settings, scope: Scope) -> Needed:
    """The topics of all executions that are not final. A row keeps its task's path even after that task was removed.

    Raises:
        ConfigurationError: no database is set.
        SchemaError, DatabaseUnavailable: the record cannot be asked.
    """
    # SQLAlchemy and the driver take long to load, and only --prune needs them.
    from receiver.reading import queries  # noqa: PLC0415 - as above
    from receiver.record.database import Database  # noqa: PLC0415 - as above
    from receiver.record.whose import Whose  # noqa: PLC0415 - as above

    try:
        database = Database.configured(settings)
    except SettingError as error:
        raise ConfigurationError(
            f"--prune asks the record first whether executions still need what it deletes: {error}"
        ) from None
    async with queries.reading(database) as connection:
        counts = await queries.unfinished(connection, Whose(scope.namespace, scope.environment))
    return {
        scope.topic(path): f"{'1 execution is' if count == 1 else f'{count} executions are'} not final yet; "
        f"see `receiver executions list --task {path}`"
        for path, count in counts.items()
    }


@dataclass(frozen=True, slots=True)
class ProvisionRun:
    """Plans, applies and looks again.

    Args:
        wanted: the desired state; None deletes everything of the environment.
        ask: asks the record what it still needs; called only when topics or subscriptions would be pruned.
    """

    admin: GoogleAdmin
    scope: Scope
    options: ProvisionOptions
    wanted: Sequence[Wanted] | None
    ask: Callable[[], Awaitable[Needed]]

    async def plan(self) -> Plan:
        """The changes from the observed to the desired state.

        Raises:
            GoogleError: the resources could not be read.
            ConfigurationError, SchemaError, DatabaseUnavailable: the record has to be asked, and cannot be.
        """
        return await self._planned(await self._observed())

    async def apply(self, made: Plan, tell: Callable[[Result], None] = lambda _: None) -> tuple[Result, ...]:
        """Makes the changes of a plan, and no others."""
        return await apply(made, self.admin, self.scope, tell)

    async def remaining(self) -> Plan:
        """The plan after the changes. Google's lists may be old, so each resource that seems to differ is read once more."""
        observed = await self._observed()
        made = self._decided(observed, {})
        doubtful = [entry.item.name for entry in made.changes if not isinstance(entry.item, Grant)]
        read = await self.admin.each(doubtful, self.admin.get)
        for name, found in zip(doubtful, read, strict=True):
            observed = observed.with_(name, found)
        return await self._planned(observed)

    async def _observed(self) -> Observed:
        wanted = [one.item for one in self.wanted or ()]
        targets = [item.target for item in wanted if isinstance(item, Grant)]
        topics = [item.name for item in wanted if item.kind is Kind.TOPIC]
        observed = await observe(self.admin, self.scope, self.options.kinds, targets)
        return await with_publishers(observed, self.admin, topics)

    async def _planned(self, observed: Observed) -> Plan:
        made = self._decided(observed, {})
        is_pruning = any(
            isinstance(change, Delete) and change.item.kind is not Kind.JOB for change in made.changes
        )
        if self.options.prune and is_pruning:
            made = self._decided(observed, await self.ask())
        return made

    def _decided(self, observed: Observed, needed: Needed) -> Plan:
        options = self.options
        if self.wanted is None:
            return removal(observed, self.scope, take_over=options.take_over)
        return plan(
            self.wanted,
            observed,
            self.scope,
            take_over=options.take_over,
            prune=needed if options.prune else None,
            orphans=not options.only,
            resume=options.resume,
        )


def _chosen(registry: Registry, names: Sequence[str]) -> tuple[TaskRoute, ...]:
    if not names:
        return registry.routes
    chosen = {}
    for name in names:
        route = registry.find(name)
        if route is None:
            known = ", ".join(sorted(route.name for route in registry.routes))
            raise ConfigurationError(f"--only {name}: there is no such task; there are: {known or 'none'}")
        chosen[route.path] = route
    return tuple(chosen.values())

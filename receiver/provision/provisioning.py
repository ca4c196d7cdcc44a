"""One run: a goal is fixed, planned against what is there, applied, and looked at again.

`receiver provision` and `receiver doctor` both stand on this: what provisioning plans, doctor finds.

    goal = provisioning_goal(wanted, scope, options)      or    removal_goal(scope, options)
    run = Run(cloud, scope, goal, ask)
    plan = await run.plan();  results = await run.apply(plan, tell);  left = await run.remaining()
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from receiver.errors import ConfigurationError
from receiver.provision.applying import Result, apply
from receiver.provision.crew import SIDE_BY_SIDE, each
from receiver.provision.desired import Push, desired, desired_grants
from receiver.provision.observed import ALL_KINDS, Observed, observe
from receiver.provision.planning import Delete, Needed, Plan, plan, removal
from receiver.provision.resources import Grant, Kind, Wanted
from receiver.provision.scope import Scope

if TYPE_CHECKING:
    from receiver.provision.cloud import Cloud
    from receiver.tasks.registry import Registry
    from receiver.tasks.route import TaskRoute

NOTHING_NEEDED = Needed({})


@dataclass(frozen=True, slots=True)
class Options:
    """What a run looks at.

    Args:
        kinds: the kinds of resource; others are left alone.
        only: names of tasks, with their dead letters; empty for all.
        grant: also the roles of Pub/Sub's own account.
        take_over: resources of another service with our environment and namespace are ours: the service has moved.
        prune: delete orphaned topics and subscriptions.
    """

    kinds: frozenset[Kind] = ALL_KINDS
    only: tuple[str, ...] = ()
    grant: bool = False
    take_over: bool = False
    prune: bool = False


@dataclass(frozen=True, slots=True)
class Goal:
    """What to reach: which kinds and policies to look at, and the plan for what was seen and what the record needs."""

    kinds: frozenset[Kind]
    targets: tuple[str, ...]
    prunes: bool
    decide: Callable[[Observed, Needed], Plan]


async def wanted_by(
    registry: Registry, cloud: Cloud, scope: Scope, push: Push, options: Options
) -> tuple[Wanted, ...]:
    """What should be there. Asks Google for the project's number when roles are to be granted.

    Raises:
        ConfigurationError: there is no such task as `options.only` names.
    """
    wanted = desired(_chosen(registry, options.only), scope, push)
    grants: Sequence[Wanted] = ()
    if options.grant:
        number = await cloud.project_number(scope)
        grants = tuple(desired_grants(wanted, scope, push, number))
    return (*(one for one in wanted if one.item.kind in options.kinds), *grants)


def provisioning_goal(wanted: Sequence[Wanted], scope: Scope, options: Options) -> Goal:
    """Everything wanted is there, and nothing orphaned that can be deleted."""

    def decide(observed: Observed, needed: Needed) -> Plan:
        return plan(
            wanted,
            observed,
            scope,
            take_over=options.take_over,
            prune=needed if options.prune else None,
            orphans=not options.only,
        )

    targets = tuple(one.item.target for one in wanted if isinstance(one.item, Grant))
    return Goal(options.kinds, targets, options.prune, decide)


def removal_goal(scope: Scope, options: Options) -> Goal:
    """Nothing of ours is there any more."""

    def decide(observed: Observed, _: Needed) -> Plan:
        return removal(observed, scope, take_over=options.take_over)

    return Goal(options.kinds, targets=(), prunes=False, decide=decide)


class Run:
    """Plans, applies and looks again.

    Args:
        ask: asks the record what it still needs; called only when orphans would be deleted.
        side_by_side: requests at once.
    """

    def __init__(
        self,
        cloud: Cloud,
        scope: Scope,
        goal: Goal,
        ask: Callable[[], Awaitable[Needed]],
        *,
        side_by_side: int = SIDE_BY_SIDE,
    ) -> None:
        self._cloud = cloud
        self._scope = scope
        self._goal = goal
        self._ask = ask
        self._side_by_side = side_by_side

    async def plan(self) -> Plan:
        """What leads from what is there to the goal.

        Raises:
            GoogleError: what is there could not be read.
            SettingError, SchemaError, DatabaseUnavailable: orphans are to be deleted, and the record cannot be asked.
        """
        return await self._planned(await self._observed())

    async def apply(self, made: Plan, tell: Callable[[Result], None] = lambda _: None) -> tuple[Result, ...]:
        """Carries a plan out, and nothing else."""
        return await apply(made, self._cloud, self._scope, tell, side_by_side=self._side_by_side)

    async def remaining(self) -> Plan:
        """The plan as it is now. Google's lists may lag behind: what seems to differ is read once more by itself."""
        observed = await self._observed()
        made = self._goal.decide(observed, NOTHING_NEEDED)
        doubtful = [entry.item.name for entry in made.changes if not isinstance(entry.item, Grant)]
        read = await each(doubtful, self._cloud.get, self._side_by_side)
        for name, found in zip(doubtful, read, strict=True):
            observed = observed.with_(name, found)
        return await self._planned(observed)

    async def _observed(self) -> Observed:
        goal = self._goal
        return await observe(
            self._cloud, self._scope, goal.kinds, goal.targets, side_by_side=self._side_by_side
        )

    async def _planned(self, observed: Observed) -> Plan:
        made = self._goal.decide(observed, NOTHING_NEEDED)
        pruned = {Kind.TOPIC, Kind.SUBSCRIPTION}
        if self._goal.prunes and any(
            isinstance(change, Delete) and change.item.kind in pruned for change in made.changes
        ):
            made = self._goal.decide(observed, await self._ask())
        return made


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

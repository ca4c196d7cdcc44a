"""Makes a plan come true: exactly its changes, kind after kind, many of a kind side by side.

A change that fails stops no other, except those that need what it would have made. Other writers are expected: what is made
already, just as planned, is done; what somebody changes at the same moment is read back and tried again; what then still differs
is named.

Invariant: no request is sent for anything that `planning.is_within` does not allow.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from receiver.errors import GoogleConflict, GoogleError, GoogleMissing, GoogleRefused
from receiver.provision.cloud import Cloud
from receiver.provision.crew import SIDE_BY_SIDE, each
from receiver.provision.explanations import reason
from receiver.provision.fields import Difference, differences, mask, merged
from receiver.provision.iam import with_member
from receiver.provision.ownership import Belongs
from receiver.provision.planning import Change, Create, Delete, Give, Plan, Update, belongs, is_within
from receiver.provision.resources import Kind
from receiver.provision.scope import Scope

TRIES: Final = 5
"""Times that a change is tried against other writers."""

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 2.0
"""Seconds: what the bound of the pauses between those tries doubles from, and where that ends. Each pause is any part of its bound
(full jitter), so that two who collide do not meet again."""

ABORTED: Final = "ABORTED"
"""Google's reason for a conflict that the next try may not meet."""


@dataclass(frozen=True, slots=True)
class Done:
    """It is as planned. `note`: what was unusual about it."""

    change: Change
    note: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """It is not as planned, and why. `lost`: it is another owner's by now, so that nothing may be hung on it."""

    change: Change
    why: str
    lost: bool = False


Result: TypeAlias = Done | Failed


async def apply(
    plan: Plan,
    cloud: Cloud,
    scope: Scope,
    tell: Callable[[Result], None] = lambda _: None,
    *,
    side_by_side: int = SIDE_BY_SIDE,
) -> tuple[Result, ...]:
    """Carries the plan's changes out; a result for each, in the order in which they ended. `tell` hears of each at once."""
    results: list[Result] = []
    failed: set[str] = set()
    for stage in _stages(plan.changes):

        async def carry(change: Change) -> None:
            missing = [name for name in _needs(change) if name in failed]
            if missing:
                result: Result = Failed(change, f"not tried: it needs {missing[0].rpartition('/')[2]}")
            else:
                result = await _carried(change, cloud, scope)
            if isinstance(result, Failed) and (result.lost or isinstance(change, Create)):
                failed.add(change.item.name)
            results.append(result)
            tell(result)

        await each(stage, carry, side_by_side)
    return tuple(results)


def _stages(changes: Iterable[Change]) -> list[list[Change]]:
    stages: dict[tuple[bool, Kind], list[Change]] = {}
    for change in changes:
        stages.setdefault((isinstance(change, Delete), change.item.kind), []).append(change)
    return list(stages.values())


def _needs(change: Change) -> tuple[str, ...]:
    return () if isinstance(change, Delete) else change.needs


async def _carried(change: Change, cloud: Cloud, scope: Scope) -> Result:
    if not is_within(change, scope):
        raise AssertionError(
            f"{change.item.name} is not this environment's"
        )  # planning never lets it come to this
    try:
        match change:
            case Create():
                return await _made(change, cloud)
            case Give():
                return await _given(change, cloud)
            case Update():
                return await _updated(change, cloud, scope)
            case Delete():
                return await _deleted(change, cloud)
    except GoogleError as error:
        return Failed(change, reason(error, change.item.kind, scope))


async def _made(change: Create, cloud: Cloud) -> Result:
    async def read_back(error: GoogleConflict) -> Result | None:
        found = await cloud.get(change.item.name)
        if found is None:
            return None if error.reason == ABORTED else Failed(change, f"{error}: plan again")
        left = differences(change.item, found)
        if left:
            return Failed(change, f"made by somebody else at the same moment, and differs in {_named(left)}")
        return Done(change, "made by somebody else at the same moment, just like this")

    return await _against_others(change, lambda: cloud.create(change.item), read_back)


async def _updated(change: Update, cloud: Cloud, scope: Scope) -> Result:
    item, latest = change.item, change.found
    fields = mask(item.kind, change.differences)

    async def update() -> None:
        await cloud.update(item, merged(item, latest, fields), fields)

    async def read_back(_: GoogleConflict) -> Result | None:
        nonlocal latest
        found = await cloud.get(item.name)
        if found is None:
            return Failed(change, "deleted by somebody else at the same moment: plan again")
        latest = found
        if belongs(found, scope) not in {Belongs.OURS, belongs(change.found, scope)}:
            return Failed(change, "somebody else made it theirs at the same moment: plan again", lost=True)
        if differences(item, found):
            return None
        return Done(change, "changed by somebody else at the same moment, to just this")

    try:
        result = await _against_others(change, update, read_back)
    except GoogleMissing:
        return Failed(change, "deleted by somebody else since the plan was made: plan again")
    except GoogleRefused as error:
        if cloud.is_emulated and item.kind is not Kind.JOB:
            return await _emulated(change, fields, error, cloud)
        raise
    if isinstance(result, Failed) and (left := differences(item, latest)):
        return replace(result, why=f"{result.why}; it differs in {_named(left)}")
    return result


async def _emulated(change: Update, fields: tuple[str, ...], refusal: GoogleRefused, cloud: Cloud) -> Result:
    """The official emulator refuses whole updates for fields that it cannot change: the others are changed one by one."""
    refused: dict[str, str] = {fields[0]: refusal.message} if len(fields) == 1 else {}
    for field in fields if len(fields) > 1 else ():
        try:
            await cloud.update(change.item, merged(change.item, change.found, (field,)), (field,))
        except GoogleRefused as error:
            refused[field] = error.message
    if not refused:
        return Done(change, "field by field")
    (first, *_) = refused.values()
    changed = [field for field in fields if field not in refused]
    done = f"; changed: {', '.join(changed)}" if changed else ""
    return Failed(change, f"the emulator cannot change {', '.join(refused)} ({first}){done}")


async def _deleted(change: Delete, cloud: Cloud) -> Result:
    async def read_back(_: GoogleConflict) -> Result | None:
        return None

    try:
        return await _against_others(change, lambda: cloud.delete(change.item), read_back)
    except GoogleMissing:
        return Done(change, "it was gone already")


async def _given(change: Give, cloud: Cloud) -> Result:
    grant = change.item

    async def give() -> None:
        policy = await cloud.policy(grant.target)
        await cloud.set_policy(grant.target, with_member(policy, grant.role, grant.member))

    async def read_back(_: GoogleConflict) -> Result | None:
        return None  # `give` begins with reading

    return await _against_others(change, give, read_back)


async def _against_others(
    change: Change,
    act: Callable[[], Awaitable[None]],
    read_back: Callable[[GoogleConflict], Awaitable[Result | None]],
) -> Result:
    """Acts, and after a conflict reads back: what it came to by then, or None when it is worth another try."""
    for attempt in range(TRIES):
        if attempt:
            bound = min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE)
            await asyncio.sleep(random.uniform(0, bound))  # noqa: S311 - spreads writers, keeps no secret
        try:
            await act()
        except GoogleConflict as error:
            verdict = await read_back(error)
            if verdict is not None:
                return verdict
        else:
            return Done(change)
    return Failed(change, f"somebody else kept changing it through {TRIES} tries: try again")


def _named(left: Iterable[Difference]) -> str:
    return ", ".join(str(difference) for difference in left)

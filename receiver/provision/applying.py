"""Applies a plan: exactly its changes, kind after kind, many of a kind side by side.

A change that fails stops only the changes that need it. Other writers are expected. A resource that somebody made just as
planned is done. A resource that somebody changes at the same moment is read back and tried again; at the end the fields that still
differ are named.

Invariant: no request is sent for anything that `planning.is_within` does not allow.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from receiver.errors import GoogleConflict, GoogleError, GoogleMissing, GoogleRefused
from receiver.provision.fields import Difference, differences, mask, merged
from receiver.provision.google_admin import GoogleAdmin, reason
from receiver.provision.planning import Change, Create, Delete, Give, Plan, Update, is_within
from receiver.provision.resources import Kind
from receiver.provision.scope import Belongs, Scope

TRIES: Final = 5
"""Times that a change is tried against other writers."""

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 2.0
"""Seconds between those tries: a bound that doubles from the first to the longest. Each pause is a random part of its bound, so that
two writers who collide do not meet again."""

ABORTED: Final = "ABORTED"
"""Google's reason for a conflict that may be over at the next try."""


@dataclass(frozen=True, slots=True)
class ChangeDone:
    """It is as planned. `note`: what was unusual about it."""

    change: Change
    note: str = ""


@dataclass(frozen=True, slots=True)
class ChangeFailed:
    """It is not as planned. `lost`: another owner has taken it, so that changes that need it are not tried."""

    change: Change
    why: str
    lost: bool = False


Result: TypeAlias = ChangeDone | ChangeFailed


async def apply(
    plan: Plan,
    admin: GoogleAdmin,
    scope: Scope,
    tell: Callable[[Result], None] = lambda _: None,
) -> tuple[Result, ...]:
    """Makes the plan's changes. Returns a result for each, in the order in which they ended; `tell` gets each at once."""
    results: list[Result] = []
    failed: set[str] = set()
    for stage in _stages(plan.changes):

        async def carry(change: Change) -> None:
            missing = [name for name in _needs(change) if name in failed]
            if missing:
                result: Result = ChangeFailed(change, f"not tried: it needs {missing[0].rpartition('/')[2]}")
            else:
                result = await _carried(change, admin, scope)
            if isinstance(result, ChangeFailed) and (result.lost or isinstance(change, Create)):
                failed.add(change.item.name)
            results.append(result)
            tell(result)

        await admin.each(stage, carry)
    return tuple(results)


def _stages(changes: Iterable[Change]) -> list[list[Change]]:
    stages: dict[tuple[bool, Kind], list[Change]] = {}
    for change in changes:
        stages.setdefault((isinstance(change, Delete), change.item.kind), []).append(change)
    return list(stages.values())


def _needs(change: Change) -> tuple[str, ...]:
    return () if isinstance(change, Delete) else change.needs


async def _carried(change: Change, admin: GoogleAdmin, scope: Scope) -> Result:
    if not is_within(change, scope):
        raise AssertionError(
            f"{change.item.name} is not this environment's"
        )  # planning never lets it come to this
    try:
        match change:
            case Create():
                return await _made(change, admin)
            case Give():
                return await _given(change, admin)
            case Update():
                return await _updated(change, admin, scope)
            case Delete():
                return await _deleted(change, admin)
    except GoogleError as error:
        return ChangeFailed(change, reason(error, change.item.kind, scope))


async def _made(change: Create, admin: GoogleAdmin) -> Result:
    async def read_back(error: GoogleConflict) -> Result | None:
        found = await admin.get(change.item.name)
        if found is None:
            return None if error.reason == ABORTED else ChangeFailed(change, f"{error}: plan again")
        left = differences(change.item, found)
        if left:
            return ChangeFailed(
                change, f"made by somebody else at the same moment, and differs in {_named(left)}"
            )
        return ChangeDone(change, "made by somebody else at the same moment, just like this")

    return await _against_others(change, lambda: admin.create(change.item), read_back)


async def _updated(change: Update, admin: GoogleAdmin, scope: Scope) -> Result:
    item, latest = change.item, change.found
    fields = mask(item.kind, change.differences)

    async def update() -> None:
        await admin.update(item, merged(item, latest, fields), fields)

    async def read_back(_: GoogleConflict) -> Result | None:
        nonlocal latest
        found = await admin.get(item.name)
        if found is None:
            return ChangeFailed(change, "deleted by somebody else at the same moment: plan again")
        latest = found
        if scope.whose(found) not in {Belongs.OURS, scope.whose(change.found)}:
            return ChangeFailed(
                change, "somebody else made it theirs at the same moment: plan again", lost=True
            )
        if differences(item, found):
            return None
        return ChangeDone(change, "changed by somebody else at the same moment, to just this")

    try:
        result = await _against_others(change, update, read_back)
    except GoogleMissing:
        return ChangeFailed(change, "deleted by somebody else since the plan was made: plan again")
    except GoogleRefused as error:
        if admin.is_emulated and item.kind is not Kind.JOB:
            return await _emulated(change, fields, error, admin)
        raise
    if isinstance(result, ChangeFailed) and (left := differences(item, latest)):
        return replace(result, why=f"{result.why}; it differs in {_named(left)}")
    return result


async def _emulated(
    change: Update, fields: tuple[str, ...], refusal: GoogleRefused, admin: GoogleAdmin
) -> Result:
    """The official emulator refuses whole updates for fields that it cannot change: the others are changed one by one."""
    refused: dict[str, str] = {fields[0]: refusal.message} if len(fields) == 1 else {}
    for field in fields if len(fields) > 1 else ():
        try:
            await admin.update(change.item, merged(change.item, change.found, (field,)), (field,))
        except GoogleRefused as error:
            refused[field] = error.message
    if not refused:
        return ChangeDone(change, "field by field")
    (first, *_) = refused.values()
    changed = [field for field in fields if field not in refused]
    done = f"; changed: {', '.join(changed)}" if changed else ""
    return ChangeFailed(change, f"the emulator cannot change {', '.join(refused)} ({first}){done}")


async def _deleted(change: Delete, admin: GoogleAdmin) -> Result:
    async def read_back(_: GoogleConflict) -> Result | None:
        return None

    try:
        return await _against_others(change, lambda: admin.delete(change.item), read_back)
    except GoogleMissing:
        return ChangeDone(change, "it was gone already")


async def _given(change: Give, admin: GoogleAdmin) -> Result:
    grant = change.item

    async def give() -> None:
        policy = await admin.policy(grant.target)
        await admin.set_policy(grant.target, grant.added_to(policy))

    async def read_back(_: GoogleConflict) -> Result | None:
        return None  # `give` begins with reading

    return await _against_others(change, give, read_back)


async def _against_others(
    change: Change,
    act: Callable[[], Awaitable[None]],
    read_back: Callable[[GoogleConflict], Awaitable[Result | None]],
) -> Result:
    """Acts. After a conflict `read_back` says what has become of it, or None for another try."""
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
            return ChangeDone(change)
    return ChangeFailed(change, f"somebody else kept changing it through {TRIES} tries: try again")


def _named(left: Iterable[Difference]) -> str:
    return ", ".join(str(difference) for difference in left)

"""Applies a plan: exactly its changes, kind after kind, many of a kind side by side.

A change that fails stops only the changes that need it. Other writers are expected. A resource that another writer made just
as planned is done. A resource that another writer changes at the same moment is read back and tried again; at the end the fields that still
differ are named.

Invariant: no request is sent for anything that `planning.is_within` does not allow.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from receiver.errors import GoogleConflict, GoogleError, GoogleMissing, GoogleRefused
from receiver.provision.fields import Difference, differences, mask, merged
from receiver.provision.google_admin import GoogleAdmin, reason
from receiver.provision.planning import Change, Create, Delete, Give, Plan, Update, is_within
from receiver.provision.resources import Kind, Resource
from receiver.provision.scope import Belongs, Scope

CONFLICT_TRIES: Final = 5
"""Times that a change is tried against other writers."""

FIRST_CONFLICT_PAUSE, LONGEST_CONFLICT_PAUSE = 0.25, 2.0
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
            needed = () if isinstance(change, Delete) else change.needs
            missing = [name for name in needed if name in failed]
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


async def _carried(change: Change, admin: GoogleAdmin, scope: Scope) -> Result:
    """Makes one change, and returns its result."""
    if not is_within(change, scope):
        raise AssertionError(f"{change.item.name} is not this environment's")  # planning leaves such out
    try:
        return await _tried(change, admin, scope)
    except GoogleMissing as error:
        if isinstance(change, Delete):
            return ChangeDone(change, "it was deleted already")
        if isinstance(change, Update):
            return ChangeFailed(change, "another writer deleted it after the plan was made: plan again")
        return ChangeFailed(change, reason(error, change.item.kind, scope))
    except GoogleError as error:
        is_emulated = admin.is_emulated and change.item.kind is not Kind.JOB
        if isinstance(change, Update) and isinstance(error, GoogleRefused) and is_emulated:
            return await _field_by_field(change, error, admin)
        return ChangeFailed(change, reason(error, change.item.kind, scope))


async def _tried(change: Change, admin: GoogleAdmin, scope: Scope) -> Result:
    """Makes one change. After a conflict with another writer the resource is read, and the change tried again if that may help."""
    for attempt in range(CONFLICT_TRIES):
        if attempt:
            bound = min(FIRST_CONFLICT_PAUSE * 2**attempt, LONGEST_CONFLICT_PAUSE)
            await asyncio.sleep(random.uniform(0, bound))  # noqa: S311 - spreads writers, keeps no secret
        try:
            await _sent(change, admin)
        except GoogleConflict as conflict:
            read = await _read_back(change, conflict, admin, scope)
            if isinstance(read, ChangeDone | ChangeFailed):
                return read
            change = read
        else:
            return ChangeDone(change)
    left = differences(change.item, change.found) if isinstance(change, Update) else ()
    differs = f"; it differs in {_named(left)}" if left else ""
    return ChangeFailed(
        change, f"another writer changed it during each of {CONFLICT_TRIES} tries: try again{differs}"
    )


async def _sent(change: Change, admin: GoogleAdmin) -> None:
    match change:
        case Create(item=item):
            await admin.create(item)
        case Give(item=grant):
            await admin.set_policy(grant.target, grant.added_to(await admin.policy(grant.target)))
        case Update(item=item, found=found):
            fields = mask(item.kind, change.differences)
            await admin.update(item, merged(item, found, fields), fields)
        case Delete(item=item):
            await admin.delete(item)


async def _read_back(
    change: Change, conflict: GoogleConflict, admin: GoogleAdmin, scope: Scope
) -> Change | Result:
    """The result of a change after a conflict, or the change to try again."""
    match change:
        case Create():
            return _made_by_others(change, await admin.get(change.item.name), conflict)
        case Update():
            return _changed_by_others(change, await admin.get(change.item.name), scope)
        case Give() | Delete():
            return change


def _made_by_others(change: Create, found: Resource | None, conflict: GoogleConflict) -> Change | Result:
    if found is None:
        return change if conflict.reason == ABORTED else ChangeFailed(change, f"{conflict}: plan again")
    if left := differences(change.item, found):
        return ChangeFailed(
            change, f"another writer made it at the same moment; it differs in {_named(left)}"
        )
    return ChangeDone(change, "another writer made it already, with the same values")


def _changed_by_others(change: Update, found: Resource | None, scope: Scope) -> Change | Result:
    if found is None:
        return ChangeFailed(change, "another writer deleted it at the same moment: plan again")
    left = differences(change.item, found)
    if scope.whose(found) not in {Belongs.OURS, scope.whose(change.found)}:
        why = f"another writer took it at the same moment: plan again; it differs in {_named(left)}"
        return ChangeFailed(change, why, lost=True)
    if left:
        return replace(change, found=found)
    return ChangeDone(change, "another writer made this change already")


async def _field_by_field(change: Update, refusal: GoogleRefused, admin: GoogleAdmin) -> Result:
    """The official emulator refuses whole updates for fields that it cannot change: the others are changed one by one."""
    fields = mask(change.item.kind, change.differences)
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


def _named(left: Iterable[Difference]) -> str:
    return ", ".join(str(difference) for difference in left)

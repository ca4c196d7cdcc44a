"""Applies a plan: exactly its changes, kind after kind, many of a kind side by side.

A change that fails stops only the changes that need it. Other writers are expected. A resource that another writer made just
as planned is done. A resource that another writer changes at the same moment is read back and tried again; at the end the fields that still
differ are named.

Invariants: no request is sent for anything that `planning.is_within` does not allow. Right before a resource is changed or deleted
it is read, and it is left alone when it has another owner by then.
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
from receiver.provision.scope import Belongs, Scope, owner_of

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
    except GoogleError as error:
        if isinstance(error, GoogleMissing) and isinstance(change, Update | Delete):
            return _gone(change)
        return ChangeFailed(change, reason(error, change.item.kind, scope))


async def _tried(change: Change, admin: GoogleAdmin, scope: Scope) -> Result:
    """Makes one change. After a conflict with another writer it is tried again if that may help.

    Neither Pub/Sub nor Cloud Scheduler has an etag, and a prompt may have waited for hours since the plan. So a resource is
    read right before its request: what happens between the two is not seen. A policy has an etag.
    """
    conflict: GoogleConflict | None = None
    for attempt in range(CONFLICT_TRIES + 1):
        looked: Change | Result = change
        if not isinstance(change, Give) and (conflict is not None or not isinstance(change, Create)):
            looked = _now(change, await admin.get(change.item.name), scope, conflict)
        if isinstance(looked, ChangeDone | ChangeFailed):
            return looked
        change = looked
        if attempt == CONFLICT_TRIES:
            break
        try:
            return await _sent(change, admin)
        except GoogleConflict as error:
            conflict = error
            bound = min(FIRST_CONFLICT_PAUSE * 2**attempt, LONGEST_CONFLICT_PAUSE)
            await asyncio.sleep(random.uniform(0, bound))  # noqa: S311 - spreads writers, keeps no secret
    left = f"; it differs in {_named(change.differences)}" if isinstance(change, Update) else ""
    return ChangeFailed(
        change, f"another writer changed it during each of {CONFLICT_TRIES} tries: try again{left}"
    )


async def _sent(change: Change, admin: GoogleAdmin) -> Result:
    match change:
        case Create(item=item):
            await admin.create(item)
        case Give(item=grant):
            await admin.set_policy(grant.target, grant.added_to(await admin.policy(grant.target)))
        case Update(item=item, found=found):
            fields = mask(item.kind, change.differences)
            if admin.is_emulated and item.kind is not Kind.JOB:
                return await _field_by_field(change, fields, admin)
            await admin.update(item, merged(item, found, fields), fields)
        case Delete(item=item):
            await admin.delete(item)
    return ChangeDone(change)


def _gone(change: Update | Delete) -> Result:
    if isinstance(change, Delete):
        return ChangeDone(change, "it was deleted already")
    return ChangeFailed(change, "another writer deleted it after the plan was made: plan again")


def _now(
    change: Create | Update | Delete, found: Resource | None, scope: Scope, conflict: GoogleConflict | None
) -> Change | Result:
    """The change against the resource as it is now, or its result when nothing is to be sent."""
    if isinstance(change, Create):
        return _made_by_others(change, found, conflict)
    if found is None:
        return _gone(change)
    # Another owner than the plan said, and not this service.
    planned = change.found if isinstance(change, Update) else change.item
    is_others = scope.whose(found) is not Belongs.OURS and owner_of(found) != owner_of(planned)
    if isinstance(change, Update):
        return _update_of(change, found, is_others=is_others)
    why = f"by now it belongs to {owner_of(found)}; it is not deleted"
    return ChangeFailed(change, why) if is_others else change


def _update_of(change: Update, found: Resource, *, is_others: bool) -> Change | Result:
    """The planned fields that still differ: the labels are those of now, so that none is dropped."""
    planned = {difference.field for difference in change.differences}
    left = tuple(one for one in differences(change.item, found) if one.field in planned or one.fixed)
    if is_others:
        why = f"by now it belongs to {owner_of(found)}: plan again; it differs in {_named(left)}"
        return ChangeFailed(change, why, lost=True)
    if any(one.fixed for one in left):
        return ChangeFailed(
            change, f"another writer made it anew, with {_named(left)}: plan again", lost=True
        )
    if not left:
        return ChangeDone(change, "another writer made this change already")
    return replace(change, found=found, differences=left)


def _made_by_others(
    change: Create, found: Resource | None, conflict: GoogleConflict | None
) -> Change | Result:
    if found is None:
        is_over = conflict is None or conflict.reason == ABORTED
        return change if is_over else ChangeFailed(change, f"{conflict}: plan again")
    if left := differences(change.item, found):
        return ChangeFailed(
            change, f"another writer made it at the same moment; it differs in {_named(left)}"
        )
    return ChangeDone(change, "another writer made it already, with the same values")


async def _field_by_field(change: Update, fields: Iterable[str], admin: GoogleAdmin) -> Result:
    """The official emulator refuses whole updates for fields that it cannot change: each field is changed alone."""
    refused: dict[str, str] = {}
    changed = []
    for field in fields:
        try:
            await admin.update(change.item, merged(change.item, change.found, (field,)), (field,))
            changed.append(field)
        except GoogleRefused as error:
            if isinstance(error, GoogleMissing | GoogleConflict):
                raise
            refused[field] = error.message
    if not refused:
        return ChangeDone(change)
    (first, *_) = refused.values()
    done = f"; changed: {', '.join(changed)}" if changed else ""
    return ChangeFailed(change, f"the emulator cannot change {', '.join(refused)} ({first}){done}")


def _named(left: Iterable[Difference]) -> str:
    return ", ".join(str(difference) for difference in left)

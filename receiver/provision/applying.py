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

DELETED: Final = "another writer deleted it after the plan was made: plan again"

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
            return ChangeFailed(change, DELETED)
        return ChangeFailed(change, reason(error, change.item.kind, scope))
    except GoogleError as error:
        return ChangeFailed(change, reason(error, change.item.kind, scope))


async def _tried(change: Change, admin: GoogleAdmin, scope: Scope) -> Result:
    """Makes one change. After a conflict with another writer it is tried again if that may help."""
    looked = await _as_it_is_now(change, admin, scope)
    for attempt in range(CONFLICT_TRIES):
        if isinstance(looked, ChangeDone | ChangeFailed):
            return looked
        change = looked
        try:
            return await _sent(change, admin)
        except GoogleConflict as conflict:
            bound = min(FIRST_CONFLICT_PAUSE * 2**attempt, LONGEST_CONFLICT_PAUSE)
            await asyncio.sleep(random.uniform(0, bound))  # noqa: S311 - spreads writers, keeps no secret
            looked = await _as_it_is_now(change, admin, scope, conflict)
    if isinstance(looked, ChangeDone | ChangeFailed):
        return looked
    left = f"; it differs in {_named(looked.differences)}" if isinstance(looked, Update) else ""
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
            try:
                await admin.update(item, merged(item, found, fields), fields)
            except GoogleRefused as refusal:
                is_emulated = admin.is_emulated and item.kind is not Kind.JOB
                if isinstance(refusal, GoogleMissing | GoogleConflict) or not is_emulated:
                    raise
                return await _field_by_field(change, refusal, admin)
        case Delete(item=item):
            await admin.delete(item)
    return ChangeDone(change)


async def _as_it_is_now(
    change: Change, admin: GoogleAdmin, scope: Scope, conflict: GoogleConflict | None = None
) -> Change | Result:
    """The change against the resource as it is right before the request, or its result when nothing is to be sent.

    Between the plan and its changes a prompt may have waited for hours. Neither Pub/Sub nor Cloud Scheduler has an etag: what
    happens between this look and the request is not seen.
    """
    match change:
        case Update():
            return _update_of(change, await admin.get(change.item.name), scope)
        case Delete():
            return _delete_of(change, await admin.get(change.item.name), scope)
        case Create() if conflict is not None:
            return _made_by_others(change, await admin.get(change.item.name), conflict)
        case _:  # a policy has an etag
            return change


def _is_others(found: Resource, planned: Resource, scope: Scope) -> bool:
    """Whether it has another owner now than the plan said, and that is not this service."""
    return scope.whose(found) is not Belongs.OURS and owner_of(found) != owner_of(planned)


def _update_of(change: Update, found: Resource | None, scope: Scope) -> Change | Result:
    """The planned fields that still differ: the labels are those of now, so that none is dropped."""
    if found is None:
        return ChangeFailed(change, DELETED)
    planned = {difference.field for difference in change.differences}
    left = tuple(one for one in differences(change.item, found) if one.field in planned or one.fixed)
    if _is_others(found, change.found, scope):
        why = f"by now it belongs to {owner_of(found)}: plan again; it differs in {_named(left)}"
        return ChangeFailed(change, why, lost=True)
    if any(one.fixed for one in left):
        return ChangeFailed(
            change, f"another writer made it anew, with {_named(left)}: plan again", lost=True
        )
    if not left:
        return ChangeDone(change, "another writer made this change already")
    return replace(change, found=found, differences=left)


def _delete_of(change: Delete, found: Resource | None, scope: Scope) -> Change | Result:
    if found is None:
        return ChangeDone(change, "it was deleted already")
    if _is_others(found, change.item, scope):
        return ChangeFailed(change, f"by now it belongs to {owner_of(found)}; it is not deleted")
    return change


def _made_by_others(change: Create, found: Resource | None, conflict: GoogleConflict) -> Change | Result:
    if found is None:
        return change if conflict.reason == ABORTED else ChangeFailed(change, f"{conflict}: plan again")
    if left := differences(change.item, found):
        return ChangeFailed(
            change, f"another writer made it at the same moment; it differs in {_named(left)}"
        )
    return ChangeDone(change, "another writer made it already, with the same values")


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

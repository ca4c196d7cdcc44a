"""A plan and its results, for people (`+ ~ -` lines, each with its style on a terminal) and for programs (JSON values)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

from receiver.provision.applying import ChangeDone, ChangeFailed, Result
from receiver.provision.planning import (
    Change,
    ChangeRefused,
    Create,
    Delete,
    Entry,
    Give,
    Kept,
    Paused,
    Plan,
    Unchanged,
    Update,
)
from receiver.provision.scope import Scope

_SIGNS: Final[dict[type[Entry], tuple[str, str, str]]] = {
    Create: ("+", "green", "create"),
    Give: ("+", "green", "grant"),
    Update: ("~", "yellow", "update"),
    Delete: ("-", "red", "delete"),
    ChangeRefused: ("!", "bold red", "refused"),
    Kept: ("=", "dim", "kept"),
    Paused: ("=", "yellow", "paused"),
    Unchanged: (" ", "dim", "unchanged"),
}


Line: TypeAlias = tuple[str, str]
"""A line of text, and its style on a terminal."""


def lines(plan: Plan) -> list[Line]:
    """One line for each change, and one for each field of an update. Other resources have their reason."""
    entries = (*plan.changes, *plan.refused, *plan.paused, *plan.kept)
    unseen = [(f"? {why}", "cyan") for why in plan.unseen]
    return [*(line for entry in entries for line in _lines(entry)), *unseen]


def summary(plan: Plan) -> str:
    """How many of each, the unchanged counted only."""
    made = plan.changes
    counts = {
        "to create": sum(isinstance(change, Create | Give) for change in made),
        "to change": sum(isinstance(change, Update) for change in made),
        "to delete": sum(isinstance(change, Delete) for change in made),
        "unchanged": plan.unchanged,
        "refused": len(plan.refused),
        "paused": len(plan.paused),
        "kept": len(plan.kept),
    }
    seldom = {"refused", "paused", "kept"}
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count or what not in seldom)


def progress(result: Result, number: int, total: int) -> Line:
    """One change that has ended."""
    sign, style, _ = _SIGNS[type(result.change)]
    head = f"[{number:{len(str(total))}}/{total}] {sign} {result.change.item.kind} {result.change.item.id}"
    match result:
        case ChangeDone(note=note):
            return (f"{head}: {note}" if note else head, style)
        case ChangeFailed(why=why):
            return (f"{head}: failed: {why}", "bold red")


def as_json(plan: Plan, scope: Scope) -> dict[str, Any]:
    """The plan as JSON values. `settled` is true when nothing has to change."""
    return {
        "project": scope.project,
        "location": scope.location,
        "environment": scope.environment,
        "namespace": scope.namespace,
        "service": scope.service,
        "settled": plan.is_settled,
        "changes": [_as_json(change) for change in plan.changes],
        "refused": [_as_json(entry) for entry in plan.refused],
        "paused": [_as_json(entry) for entry in plan.paused],
        "kept": [_as_json(entry) for entry in plan.kept],
        "unchanged": plan.unchanged,
        "unseen": plan.unseen,
    }


def results_as_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """What became of each change."""
    return [
        {
            **_named(result.change),
            "done": isinstance(result, ChangeDone),
            "note": result.note if isinstance(result, ChangeDone) else result.why,
        }
        for result in results
    ]


def _lines(entry: Change | ChangeRefused | Paused | Kept) -> Iterator[Line]:
    sign, style, _ = _SIGNS[type(entry)]
    match entry:
        case Create(note=why) | Delete(why=why) if why:
            after = f" ({why})"
        case Update(adopted=True):
            after = " (had no owner)"
        case ChangeRefused(why=why) | Paused(why=why) | Kept(why=why):
            after = f": {why}"
        case _:
            after = ""
    yield f"{sign} {entry.item.kind} {entry.item.id}{after}", style
    if isinstance(entry, Update):
        for role in entry.roles:
            yield f"    {role.member} has {role.role} on it", style
        for difference in entry.differences:
            yield f"    {difference}", style


def _named(entry: Entry) -> dict[str, Any]:
    return {"action": _SIGNS[type(entry)][2], "kind": entry.item.kind.value, "name": entry.item.name}


def _as_json(entry: Change | ChangeRefused | Paused | Kept) -> dict[str, Any]:
    match entry:
        case Create(item=item):
            return {**_named(entry), "body": item.body}
        case Give():
            return _named(entry)
        case Update(differences=differences, adopted=adopted, roles=roles):
            fields = [{"field": one.field, "old": one.old, "new": one.new} for one in differences]
            kept = [{"role": role.role, "member": role.member} for role in roles]
            return {**_named(entry), "adopted": adopted, "fields": fields, "roles": kept}
        case Delete(why=why) | ChangeRefused(why=why) | Paused(why=why) | Kept(why=why):
            return {**_named(entry), "why": why}

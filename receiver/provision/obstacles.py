"""Why a resource that is there must not be changed, and what to do about it. Pure.

Next: `receiver.provision.planning` makes entries of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from receiver.provision.fields import held_by
from receiver.provision.scope import Belongs, Scope, owner_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from receiver.provision.resources import Grant, Resource

_WAYS: Final = {
    Belongs.OTHERS: "choose another TASKS_NAMESPACE or TASKS_ENVIRONMENT",
    Belongs.FORMER_SERVICES: "if this service has moved from there, use --take-over",
}


def to_wanted(found: Resource, scope: Scope, roles: Sequence[Grant], *, take_over: bool) -> str | None:
    """Why a resource that tasks need is left as it is.

    Args:
        roles: who has which role on it, if it is a topic.
    """
    whose = scope.whose(found)
    if whose is Belongs.OTHERS or (whose is Belongs.FORMER_SERVICES and not take_over):
        return f"it belongs to {owner_of(found)}; {_WAYS[whose]}"
    if public := next((role for role in roles if role.is_public), None):
        return f"{public.member} has {public.role} on it; {public.removal}"
    if whose is Belongs.UNOWNED and (held := held_by(found)):
        # It may have been made for us to take it. Whether it was is for people to say, by our labels.
        what = "; ".join(f"it has {one.field} {one.old} ({one.fixed})" for one in held)
        labels = ",".join(f"{key}={value}" for key, value in scope.labels.items())
        return (
            f"no owner, and {what}. If that is meant, make it this service's: "
            f"gcloud pubsub topics update {found.id} --project {scope.project} --update-labels={labels}"
        )
    return None


def to_orphan(found: Resource, scope: Scope, *, take_over: bool) -> str | None:
    """Why a resource that no task needs is left alone."""
    whose = scope.whose(found)
    if whose is Belongs.OURS or (whose is Belongs.FORMER_SERVICES and take_over):
        return None
    if whose is Belongs.UNOWNED:
        return "it names no owner; delete it by hand if it is not needed"
    return f"it belongs to {owner_of(found)}"


def anew(item: Resource) -> str:
    """What to do about a subscription with fields that Google cannot change. People must decide: deleting loses messages."""
    project = item.name.split("/")[1]
    return (
        f"Pub/Sub cannot change that: `gcloud pubsub subscriptions delete {item.id} --project {project}` "
        "loses the messages that wait in it; apply then creates it again"
    )

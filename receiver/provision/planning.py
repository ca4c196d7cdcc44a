"""The plan: the resources to create, change and delete, so that the observed state becomes the desired one.

Pure. Every resource gets one of the values below, so that a plan can be read before anything happens.

Invariants: a change names only what `Scope.contains`, or a wanted grant. Another owner's resource is never changed. A resource
is deleted only when it says that it is ours. The plan of a state that equals the desired one holds no change.

Next: `receiver.provision.rendering` shows it, `receiver.provision.applying` makes it so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from receiver.provision.fields import Difference, differences, held_by
from receiver.provision.observed import Observed
from receiver.provision.resources import Grant, Kind, Resource, Wanted, kind_of
from receiver.provision.scope import Belongs, Scope, owner_of


@dataclass(frozen=True, slots=True)
class Create:
    """It is not there. `note`: what is special about it."""

    item: Resource
    needs: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Give:
    """A member lacks a role."""

    item: Grant
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Update:
    """It exists, and differs. `adopted`: it had no owner until now; `roles`: who has which role on such a topic, and keeps it."""

    item: Resource
    found: Resource
    differences: tuple[Difference, ...]
    needs: tuple[str, ...] = ()
    adopted: bool = False
    roles: tuple[Grant, ...] = ()


@dataclass(frozen=True, slots=True)
class Delete:
    """It is there and ours, and no task needs it."""

    item: Resource
    why: str


@dataclass(frozen=True, slots=True)
class ChangeRefused:
    """It should change, and must not or cannot. `why` also says what to do."""

    item: Resource | Grant
    why: str


@dataclass(frozen=True, slots=True)
class Kept:
    """No task needs it, and it stays. A plan with such entries is settled all the same."""

    item: Resource
    why: str


@dataclass(frozen=True, slots=True)
class Paused:
    """Somebody has emptied the push endpoint of this subscription, Google's way to pause one. It stays so.

    Other fields of it may differ: then it has an `Update` as well.
    """

    item: Resource
    why: ClassVar[str] = "paused: it has no push endpoint, and its messages wait; --resume gives it one again"


@dataclass(frozen=True, slots=True)
class Unchanged:
    """It is as it should be."""

    item: Resource | Grant


Needed: TypeAlias = Mapping[str, str]
"""Full names of topics that executions in the record still need although no task has them, each with the reason."""

Change: TypeAlias = Create | Give | Update | Delete
Entry: TypeAlias = Change | ChangeRefused | Kept | Paused | Unchanged


@dataclass(frozen=True, slots=True)
class Plan:
    """Every resource that is wanted or is within the scope, each with what happens to it. `unseen`: what could not be looked at."""

    entries: tuple[Entry, ...]
    unseen: tuple[str, ...] = ()

    @property
    def changes(self) -> tuple[Change, ...]:
        """In order: made and changed from topics to grants, then deleted from grants to topics."""
        order = list(Kind)
        made = [entry for entry in self.entries if isinstance(entry, Create | Give | Update)]
        gone = [entry for entry in self.entries if isinstance(entry, Delete)]
        made.sort(key=lambda entry: order.index(entry.item.kind))
        gone.sort(key=lambda entry: -order.index(entry.item.kind))
        return (*made, *gone)

    @property
    def refused(self) -> tuple[ChangeRefused, ...]:
        """The resources that must not or cannot be changed."""
        return tuple(entry for entry in self.entries if isinstance(entry, ChangeRefused))

    @property
    def kept(self) -> tuple[Kept, ...]:
        """The resources that no task needs and that are kept."""
        return tuple(entry for entry in self.entries if isinstance(entry, Kept))

    @property
    def paused(self) -> tuple[Paused, ...]:
        """The subscriptions that an operator has paused."""
        return tuple(entry for entry in self.entries if isinstance(entry, Paused))

    @property
    def unchanged(self) -> int:
        """How many are as they should be."""
        return sum(isinstance(entry, Unchanged) for entry in self.entries)

    @property
    def is_settled(self) -> bool:
        """Whether the observed state equals the desired one."""
        return not self.changes and not self.refused


def plan(
    wanted: Sequence[Wanted],
    observed: Observed,
    scope: Scope,
    *,
    take_over: bool = False,
    prune: Needed | None = None,
    orphans: bool = True,
    resume: bool = False,
) -> Plan:
    """The changes from `observed` to `wanted`.

    Args:
        take_over: resources of another service with our environment and namespace count as ours: the service has moved.
        prune: delete the topics and subscriptions that no task needs, except these. None: delete none.
        orphans: also look at what is not wanted; False when `wanted` holds only some of the tasks.
        resume: give subscriptions that are paused their push endpoint again.
    """
    asked = {"take_over": take_over, "pruning": prune is not None, "resume": resume}
    entries = list(
        _without_needs(entry for one in wanted for entry in _of_wanted(one, observed, scope, **asked))
    )
    if orphans:
        names = {one.item.name for one in wanted}
        entries += [
            _of_orphan(found, scope, prune, take_over=take_over)
            for found in observed.resources
            if found.name not in names and scope.contains(found.name)
        ]
    return Plan(tuple(entries), observed.unseen)


def removal(observed: Observed, scope: Scope, *, take_over: bool = False) -> Plan:
    """Deletes everything that is ours in this environment."""
    why = f"environment {scope.environment} is removed"
    ours = [found for found in observed.resources if scope.contains(found.name)]
    return Plan(tuple(_deleted(found, scope, why, take_over=take_over) for found in ours))


def _of_wanted(
    one: Wanted, observed: Observed, scope: Scope, *, take_over: bool, pruning: bool, resume: bool
) -> Iterator[Entry]:
    item = one.item
    if isinstance(item, Grant):
        yield from _of_grant(one, item, observed)
        return
    found = observed.find(item.name)
    if found is None:
        if one.former is None and not observed.any_on(item.body.get("topic"), one.unless):
            yield Create(item, one.needs, one.note)
        return
    roles = observed.roles_on(item)
    why = _why_refused(found, scope, roles, take_over=take_over)
    if why is not None:
        yield ChangeRefused(item, why)
        return
    changed = differences(item, found)
    if what := "; ".join(f"{each} ({each.fixed})" for each in changed if each.fixed is not None):
        if one.former is not None:
            yield Kept(found, f"a former name of {one.former}, and of no more use: {what}")
            return
        # People must decide: deleting loses messages.
        delete = f"gcloud pubsub subscriptions delete {item.id} --project {scope.project}"
        loses = f"`{delete}` loses the messages that wait in it; apply then creates it again"
        yield ChangeRefused(item, f"{what}. Pub/Sub cannot change that: {loses}")
        return
    adopted = scope.whose(found) is Belongs.UNOWNED
    if paused := not resume and not adopted and _is_paused(found, scope):
        changed = tuple(each for each in changed if not each.field.startswith("pushConfig."))
        yield Paused(item)
    if changed:
        yield Update(item, found, changed, one.needs, adopted, roles if adopted else ())
    elif one.former is not None and pruning:
        yield Kept(item, f"{one.former} is still known by this name (its aliases)")
    elif not paused:
        yield Unchanged(item)


def _of_grant(one: Wanted, item: Grant, observed: Observed) -> Iterator[Entry]:
    if item.is_in(observed.policies.get(item.target, {})):
        yield Unchanged(item)
    elif one.former is None or observed.find(item.target) is not None:
        yield Give(item, one.needs)


def _why_refused(found: Resource, scope: Scope, roles: Sequence[Grant], *, take_over: bool) -> str | None:
    """Why a resource that tasks need must not be changed, and what to do. `roles`: who has which role on it, if it is a topic."""
    whose = scope.whose(found)
    if whose is Belongs.OTHERS:
        return f"it belongs to {owner_of(found)}; choose another TASKS_NAMESPACE or TASKS_ENVIRONMENT"
    if whose is Belongs.FORMER_SERVICES and not take_over:
        return f"it belongs to {owner_of(found)}; if this service has moved from there, use --take-over"
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


def _deleted(found: Resource, scope: Scope, why: str, *, take_over: bool) -> Delete | Kept:
    """Deletes a resource that no task needs, if it is ours."""
    whose = scope.whose(found)
    if whose is Belongs.OURS or (whose is Belongs.FORMER_SERVICES and take_over):
        return Delete(found, why)
    if whose is Belongs.UNOWNED:
        return Kept(found, "it names no owner; delete it by hand if it is not needed")
    return Kept(found, f"it belongs to {owner_of(found)}")


def _is_paused(found: Resource, scope: Scope) -> bool:
    """Whether a subscription has no push endpoint. That of the dead letters had none before the receiver took them."""
    is_push = found.kind is Kind.SUBSCRIPTION and found.name != scope.dead_letter_subscription
    return is_push and not found.body.get("pushConfig", {}).get("pushEndpoint")


def _without_needs(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Refuses the resources that need a refused one. In `entries` a resource comes before those that need it.

    Otherwise a subscription of ours would take the messages of another owner's topic, and a role would be given on it.
    """
    refused: set[str] = set()
    for entry in entries:
        judged = entry
        needs = entry.needs if isinstance(entry, Create | Give | Update) else ()
        if missing := next((name for name in needs if name in refused), None):
            what = f"{kind_of(missing)} {missing.rpartition('/')[2]}"
            judged = ChangeRefused(entry.item, f"it needs {what}, which is refused")
        if isinstance(judged, ChangeRefused):
            refused.add(judged.item.name)
        yield judged


def _of_orphan(found: Resource, scope: Scope, prune: Needed | None, *, take_over: bool) -> Entry:
    is_job = found.kind is Kind.JOB
    why = "no task has this schedule" if is_job else "no task uses it"
    entry = _deleted(found, scope, why, take_over=take_over)
    if is_job or isinstance(entry, Kept):
        return entry
    if prune is None:
        rejected = ", and what its topic goes on to send is rejected" if scope.is_foreign(found) else ""
        return Kept(found, f"{why}{rejected}; --prune deletes it")
    still = prune.get(scope.own_topic(found))
    return entry if still is None else ChangeRefused(found, still)


def is_within(entry: Change, scope: Scope) -> bool:
    """Whether a change stays inside the scope. Checked once more right before it is sent."""
    if isinstance(entry.item, Grant):
        target = entry.item.target
        return scope.contains(target) or target.startswith("projects/-/serviceAccounts/")
    return scope.contains(entry.item.name) and kind_of(entry.item.name) is entry.item.kind

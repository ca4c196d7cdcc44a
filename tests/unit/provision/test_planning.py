from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from receiver import TaskRoute
from receiver.provision import rendering
from receiver.provision.desired import desired_grants
from receiver.provision.fields import merged
from receiver.provision.observed import Observed
from receiver.provision.planning import (
    ChangeRefused,
    Create,
    Delete,
    Give,
    Kept,
    Needed,
    Paused,
    Plan,
    Unchanged,
    Update,
    is_within,
    plan,
    removal,
)
from receiver.provision.resources import Grant, Kind, Resource, Wanted
from receiver.provision.scope import Scope
from tests.unit.provision.world import (
    ACCOUNT,
    CLEAN,
    HERE,
    MAIL,
    PUSH,
    SCOPE,
    as_listed,
    changed,
    clean_up,
    resources,
    send_mail,
    settled,
    wanted,
)

P = "projects/shop-prod"
MAIL_TOPIC = f"{P}/topics/prod--shop.tasks--{HERE}.send_mail"
MAIL_SUBSCRIPTION = f"{P}/subscriptions/prod--shop.tasks--{HERE}.send_mail-sub"
OLD_TOPIC = f"{P}/topics/prod--shop.tasks--old.gone"
OLD_SUBSCRIPTION = f"{P}/subscriptions/prod--shop.tasks--old.gone-sub"
OLD_JOB = f"{P}/locations/europe-west2/jobs/prod--shop-scheduler--old-gone"
FORMER = replace(SCOPE, service="shop-old.a.run.app")
FOREIGN = replace(SCOPE, namespace="shop-2", service="other.a.run.app")


def topic(name: str, owner: Scope | None = SCOPE) -> Resource:
    return Resource(Kind.TOPIC, name, {"labels": owner.labels} if owner else {})


def subscription(name: str, owner: Scope | None = SCOPE) -> Resource:
    return Resource(
        Kind.SUBSCRIPTION, name, {"topic": OLD_TOPIC} | ({"labels": owner.labels} if owner else {})
    )


def job(name: str, owner: Scope | None = SCOPE) -> Resource:
    return Resource(Kind.JOB, name, {"description": owner.description} if owner else {})


def with_(observed: Observed, *found: Resource) -> Observed:
    return Observed({**observed.by_name, **{one.name: one for one in found}}, observed.policies)


def entry(made: Plan, name: str) -> object:
    (found,) = (one for one in made.entries if one.item.name == name)
    return found


def test_in_an_empty_project_everything_is_made_topics_first() -> None:
    made = plan(wanted(), Observed(), SCOPE)
    assert all(isinstance(change, Create) for change in made.changes)
    assert [change.item.kind for change in made.changes] == [Kind.TOPIC] * 3 + [Kind.SUBSCRIPTION] * 3 + [
        Kind.JOB
    ]
    assert not made.is_settled


def test_what_is_as_it_should_be_is_counted_and_nothing_else() -> None:
    made = plan(wanted(), settled(), SCOPE)
    assert made.is_settled
    assert (made.changes, made.refused, made.kept, made.unchanged) == ((), (), (), 7)


def test_drift_is_an_update_of_those_fields() -> None:
    observed = settled()
    drifted = changed(observed.by_name[MAIL_SUBSCRIPTION], ackDeadlineSeconds=10)
    made = plan(wanted(), with_(observed, drifted), SCOPE)
    (change,) = made.changes
    assert isinstance(change, Update)
    assert not change.adopted
    assert [str(one) for one in change.differences] == ["ackDeadlineSeconds: 10 → 60"]
    assert made.unchanged == 6


def paused(**fields: object) -> Observed:
    """A task's subscription whose push endpoint somebody has emptied."""
    return with_(settled(), changed(settled().by_name[MAIL_SUBSCRIPTION], pushConfig={}, **fields))


def test_a_paused_subscription_stays_paused_and_is_shown() -> None:
    made = plan(wanted(), paused(), SCOPE)
    assert isinstance(entry(made, MAIL_SUBSCRIPTION), Paused)
    assert made.changes == ()
    assert made.is_settled


def test_other_fields_of_a_paused_subscription_are_kept_up_to_date() -> None:
    made = plan(wanted(), paused(ackDeadlineSeconds=10), SCOPE)
    (change,) = made.changes
    assert isinstance(change, Update)
    assert [one.field for one in change.differences] == ["ackDeadlineSeconds"]
    assert [one.item.name for one in made.paused] == [MAIL_SUBSCRIPTION]


def test_a_paused_subscription_pushes_again_when_told() -> None:
    made = plan(wanted(), paused(), SCOPE, resume=True)
    (change,) = made.changes
    assert isinstance(change, Update)
    assert [one.field for one in change.differences] == [
        "pushConfig.pushEndpoint",
        "pushConfig.oidcToken.serviceAccountEmail",
        "pushConfig.oidcToken.audience",
    ]
    assert made.paused == ()


def test_a_pull_subscription_that_names_no_owner_is_no_pause() -> None:
    made = plan(wanted(), paused(labels=None), SCOPE)
    assert isinstance(entry(made, MAIL_SUBSCRIPTION), Update)


def test_todays_pull_subscription_of_the_dead_letters_becomes_a_push_one() -> None:
    pulled = changed(settled().by_name[SCOPE.dead_letter_subscription], pushConfig={})
    change = entry(plan(wanted(), with_(settled(), pulled), SCOPE), SCOPE.dead_letter_subscription)
    assert isinstance(change, Update)
    assert {one.field.partition(".")[0] for one in change.differences} == {"pushConfig"}


def test_what_is_nobodys_and_has_exactly_our_name_is_adopted() -> None:
    observed = with_(settled(), topic(MAIL_TOPIC, owner=None))
    change = entry(plan(wanted(), observed, SCOPE), MAIL_TOPIC)
    assert isinstance(change, Update)
    assert change.adopted


@pytest.mark.parametrize("member", ["allUsers", "allAuthenticatedUsers"])
@pytest.mark.parametrize("owner", [SCOPE, None])
def test_a_topic_that_everybody_may_publish_to_is_refused_with_all_that_needs_it(
    member: str, owner: Scope | None
) -> None:
    observed = with_(settled(), topic(MAIL_TOPIC, owner=owner)).with_(MAIL_SUBSCRIPTION, None)
    policy = {"bindings": [{"role": "roles/pubsub.publisher", "members": ["user:a@b.c", member]}]}
    made = plan(wanted(), replace(observed, policies={MAIL_TOPIC: policy}), SCOPE)
    refused = {one.item.name: one.why for one in made.refused}
    assert refused.keys() == {MAIL_TOPIC, MAIL_SUBSCRIPTION}
    assert refused[MAIL_TOPIC] == (
        f"{member} has roles/pubsub.publisher on it; gcloud pubsub topics remove-iam-policy-binding "
        f"prod--shop.tasks--{HERE}.send_mail --project shop-prod --member={member} --role=roles/pubsub.publisher"
    )


def test_a_topic_without_an_owner_that_others_hold_is_not_adopted() -> None:
    key, schema = "projects/evil/locations/eu/keyRings/r/cryptoKeys/k", "projects/evil/schemas/s"
    held = changed(topic(MAIL_TOPIC, owner=None), kmsKeyName=key, schemaSettings={"schema": schema})
    made = plan(wanted(), with_(settled(), held), SCOPE)
    refused = entry(made, MAIL_TOPIC)
    assert isinstance(refused, ChangeRefused)
    assert f"it has kmsKeyName {key} (" in refused.why
    assert f"it has schemaSettings.schema {schema} (" in refused.why
    assert refused.why.endswith(",".join(f"{key}={value}" for key, value in SCOPE.labels.items()))
    ours = changed(topic(MAIL_TOPIC), kmsKeyName=key)
    assert isinstance(entry(plan(wanted(), with_(settled(), ours), SCOPE), MAIL_TOPIC), Unchanged)


def test_who_may_publish_to_an_adopted_topic_is_said() -> None:
    observed = with_(settled(), topic(MAIL_TOPIC, owner=None))
    policy = {"bindings": [{"role": "roles/pubsub.publisher", "members": ["user:a@b.c"]}]}
    made = plan(wanted(), replace(observed, policies={MAIL_TOPIC: policy}), SCOPE)
    assert [text for text, _ in rendering.lines(made)][:2] == [
        f"~ topic prod--shop.tasks--{HERE}.send_mail (had no owner)",
        "    user:a@b.c has roles/pubsub.publisher on it",
    ]
    assert rendering.as_json(made, SCOPE)["changes"][0]["roles"] == [
        {"role": "roles/pubsub.publisher", "member": "user:a@b.c"}
    ]


@pytest.mark.parametrize("take_over", [False, True])
def test_another_owners_resource_is_refused_whatever_is_asked(*, take_over: bool) -> None:
    mine = resources(wanted(CLEAN))
    (its_job,) = (one for one in mine if one.kind is Kind.JOB)
    foreign = [topic(MAIL_TOPIC, FOREIGN), changed(as_listed(its_job), description=FOREIGN.description)]
    made = plan(wanted(), with_(settled(), *foreign), SCOPE, take_over=take_over)
    assert made.changes == ()
    assert [refused.why.partition(";")[0] for refused in made.refused] == [
        f"it belongs to prod--shop-2 of {FOREIGN.labels['receiver-service']}",
        "it belongs to prod--shop-2 of other.a.run.app",
    ]


def test_nothing_is_hung_on_what_is_refused() -> None:
    """A subscription of ours would take another owner's messages, a job fire into its tasks, a role be given on it."""
    foreign = Observed.of([topic(MAIL_TOPIC, FOREIGN), topic(SCOPE.dead_letter_topic, FORMER)])
    grants = desired_grants(wanted(), SCOPE, PUSH, "42")
    made = plan((*wanted(), *grants), foreign, SCOPE)
    *made_here, given = made.changes
    assert [change.item.name for change in made_here] == [
        f"{P}/topics/prod--shop.tasks--{HERE}.clean_up",
        SCOPE.job(CLEAN.path),
    ]
    assert isinstance(given, Give)
    assert given.item.target == f"projects/-/serviceAccounts/{ACCOUNT}"
    letters = entry(made, SCOPE.dead_letter_subscription)
    assert isinstance(letters, ChangeRefused)
    assert letters.why == "it needs topic prod--shop.dead-letters, which is refused"


def test_the_same_receivers_other_service_is_refused_until_it_is_taken_over() -> None:
    observed = with_(settled(), topic(MAIL_TOPIC, FORMER))
    refused = entry(plan(wanted(), observed, SCOPE), MAIL_TOPIC)
    assert isinstance(refused, ChangeRefused)
    assert refused.why.endswith("if this service has moved from there, use --take-over")
    taken = entry(plan(wanted(), observed, SCOPE, take_over=True), MAIL_TOPIC)
    assert isinstance(taken, Update)
    assert [one.field for one in taken.differences] == ["labels.receiver-service"]


@pytest.mark.parametrize(
    "fields", [{"topic": "_deleted-topic_"}, {"filter": "x"}, {"detached": True}, {"cloudStorageConfig": {}}]
)
def test_what_cannot_be_patched_is_refused_with_the_way_out(fields: dict[str, object]) -> None:
    observed = settled()
    wrong = changed(observed.by_name[MAIL_SUBSCRIPTION], ackDeadlineSeconds=10, **fields)
    made = plan(wanted(), with_(observed, wrong), SCOPE)
    assert made.changes == ()
    (refused,) = made.refused
    assert next(iter(fields)) in refused.why
    command = f"`gcloud pubsub subscriptions delete {wrong.id} --project shop-prod`"
    assert command in refused.why
    assert not made.is_settled


def test_an_orphaned_job_of_ours_is_deleted_and_no_other() -> None:
    others = [job(f"{OLD_JOB}-{number}", owner) for number, owner in enumerate((None, FORMER, FOREIGN))]
    made = plan(wanted(), with_(settled(), job(OLD_JOB), *others), SCOPE)
    assert [(type(one), one.item.name) for one in made.changes] == [(Delete, OLD_JOB)]
    assert [one.item.name for one in made.kept] == [one.name for one in others]


def test_orphaned_topics_and_subscriptions_are_reported_and_only_pruned_when_asked() -> None:
    observed = with_(settled(), topic(OLD_TOPIC), subscription(OLD_SUBSCRIPTION))
    made = plan(wanted(), observed, SCOPE)
    assert made.is_settled
    assert {one.item.name: one.why for one in made.kept} == {
        OLD_TOPIC: "no task uses it; --prune deletes it",
        OLD_SUBSCRIPTION: "no task uses it; --prune deletes it",
    }
    pruned = plan(wanted(), observed, SCOPE, prune={})
    assert [one.item.name for one in pruned.changes] == [OLD_SUBSCRIPTION, OLD_TOPIC]


def test_pruning_is_refused_while_executions_need_them() -> None:
    observed = with_(settled(), topic(OLD_TOPIC), subscription(OLD_SUBSCRIPTION))
    made = plan(wanted(), observed, SCOPE, prune={OLD_TOPIC: "2 executions are not final yet"})
    assert made.changes == ()
    assert {one.item.name for one in made.refused} == {OLD_TOPIC, OLD_SUBSCRIPTION}
    assert {one.why for one in made.refused} == {"2 executions are not final yet"}


def test_pruning_leaves_what_is_nobodys_or_anothers() -> None:
    observed = with_(settled(), topic(OLD_TOPIC, None), subscription(OLD_SUBSCRIPTION, FOREIGN))
    made = plan(wanted(), observed, SCOPE, prune={})
    assert made.changes == ()
    assert [one.item.name for one in made.kept] == [OLD_SUBSCRIPTION, OLD_TOPIC]


def test_what_an_alias_names_is_kept_current_and_never_pruned() -> None:
    old = TaskRoute(clean_up)
    moved = TaskRoute(send_mail, aliases=[clean_up.path], ack_deadline=99)
    observed = settled(old)
    made = plan(wanted(moved), observed, SCOPE, prune={})
    assert not [one for one in made.changes if isinstance(one, Delete)]
    updated = entry(made, f"{P}/subscriptions/prod--shop.tasks--{HERE}.clean_up-sub")
    assert isinstance(updated, Update)
    assert [str(one) for one in updated.differences] == ["ackDeadlineSeconds: 300 → 99"]
    kept = entry(made, f"{P}/topics/prod--shop.tasks--{HERE}.clean_up")
    assert isinstance(kept, Kept)
    assert kept.why == f"{send_mail.path} is still known by this name (its aliases)"
    assert not [
        one for one in plan(wanted(moved), Observed(), SCOPE).changes if "clean_up" in one.item.name
    ], "a former name is given nothing new"


def test_a_former_names_subscription_without_its_topic_is_kept_as_it_is() -> None:
    moved = TaskRoute(send_mail, aliases=["old.gone"])
    lost = changed(subscription(OLD_SUBSCRIPTION), topic="_deleted-topic_")
    made = plan(wanted(moved), with_(settled(MAIL), lost), SCOPE)
    assert isinstance(entry(made, OLD_SUBSCRIPTION), Kept)


def test_with_only_some_tasks_wanted_nothing_is_an_orphan() -> None:
    observed = with_(settled(), topic(OLD_TOPIC), job(OLD_JOB))
    made = plan(wanted(MAIL), observed, SCOPE, orphans=False)
    assert [one.item.name for one in made.entries if not isinstance(one, Unchanged)] == []


def test_grants_are_given_where_they_are_missing() -> None:
    grant = Grant(MAIL_SUBSCRIPTION, "roles/pubsub.subscriber", "serviceAccount:a@b")
    held = {"bindings": [{"role": grant.role, "members": ["user:x@y", grant.member]}]}
    conditional = {"bindings": [{**held["bindings"][0], "condition": {"expression": "false"}}]}
    asked = [Wanted(grant)]
    assert isinstance(plan(asked, Observed(), SCOPE, orphans=False).changes[0], Give)
    assert isinstance(
        plan(asked, Observed({}, {grant.target: conditional}), SCOPE, orphans=False).changes[0], Give
    )
    assert plan(asked, Observed({}, {grant.target: held}), SCOPE, orphans=False).is_settled


def test_removal_deletes_all_that_is_ours_jobs_first_and_nothing_else() -> None:
    others = [topic(OLD_TOPIC, None), job(OLD_JOB, FORMER), topic(f"{P}/topics/orders")]
    made = removal(with_(settled(), *others), SCOPE)
    assert [one.item.kind for one in made.changes] == [Kind.JOB] + [Kind.SUBSCRIPTION] * 3 + [Kind.TOPIC] * 3
    assert all(isinstance(one, Delete) for one in made.changes)
    assert [one.item.name for one in made.kept] == [OLD_JOB, OLD_TOPIC]
    assert removal(Observed(), SCOPE).is_settled


# Neighbours whose names nearly begin like ours, and whose owners are nearly ours.
scopes = st.sampled_from(
    [
        SCOPE,
        Scope("shop-prod", "europe-west2", "prod", "shop-scheduler-", SCOPE.service),
        Scope("shop-prod", "europe-west2", "prod-", "shop", SCOPE.service),
        Scope("shop-prod", "europe-west2", "p.d", "shop", SCOPE.service),
        Scope("shop-prod", "europe-west2", "p-d", "shop", SCOPE.service),
        Scope("shop-prod", "us-central1", "prod", "shop", SCOPE.service),
        Scope("shop-prod", "europe-west2", "prod", "shop", "elsewhere.run.app"),
        Scope("shop-prod", "europe-west2", "prod", "shop2", SCOPE.service),
    ]
)
paths = st.sampled_from([send_mail.path, clean_up.path, "scheduler--x.y", "x", "old.gone"])


@st.composite
def neighbours(draw: st.DrawFn) -> Resource:
    """A resource of some scope: its name is that scope's, its owner some scope's or nobody's."""
    scope, owner, path = draw(scopes), draw(st.none() | scopes), draw(paths)
    name = draw(
        st.sampled_from(
            [
                scope.topic(path),
                scope.subscription(path),
                scope.job(path),
                scope.dead_letter_topic,
                scope.dead_letter_subscription,
                scope.topic(path) + "-debug",
                f"{P}/topics/{path}",
            ]
        )
    )
    body: dict[str, object] = {"topic": draw(st.sampled_from([scope.topic(path), "_deleted-topic_"]))}
    if owner is not None:
        body |= {"labels": owner.labels, "description": owner.description}
    kind = Kind.JOB if "/jobs/" in name else Kind.TOPIC if "/topics/" in name else Kind.SUBSCRIPTION
    return Resource(kind, name, body)


@given(
    st.lists(neighbours(), max_size=12),
    scopes,
    st.lists(st.sampled_from([MAIL, CLEAN]), unique_by=id),
    st.fixed_dictionaries({"take_over": st.booleans(), "prunes": st.booleans()}),
)
@example(
    [job(Scope("shop-prod", "europe-west2", "p-d", "shop", "h").job("x"))],
    SCOPE,
    [MAIL],
    {"take_over": True, "prunes": True},
)
def test_nothing_outside_the_environment_is_ever_touched(
    found: Sequence[Resource],
    scope: Scope,
    routes: list[TaskRoute],
    asked_for: dict[str, bool],
) -> None:
    observed, take_over = Observed.of(found), asked_for["take_over"]
    asked = wanted(*routes, scope=scope) if routes else ()
    exact = {one.item.name for one in asked}
    prune: Needed | None = {} if asked_for["prunes"] else None
    for made in (
        plan(asked, observed, scope, take_over=take_over, prune=prune),
        removal(observed, scope, take_over=take_over),
    ):
        for change in made.changes:
            assert scope.contains(change.item.name)
            assert is_within(change, scope)
            there = observed.find(change.item.name)
            if isinstance(change, Create):
                assert there is None
            elif isinstance(change, Delete):
                assert there is not None
                assert _says(there) in _ours(scope, there, take_over=take_over)
            elif isinstance(change, Update):
                assert there is not None
                assert change.item.name in exact
                assert _says(there) in {None, *_ours(scope, there, take_over=take_over)}


def _says(found: Resource) -> object:
    """Who it names as its owner."""
    if found.kind is Kind.JOB:
        return found.body.get("description")
    labels = found.body.get("labels")
    return tuple(sorted(labels.items())) if labels else None


def _ours(scope: Scope, found: Resource, *, take_over: bool) -> set[object]:
    services = {scope.service, "elsewhere.run.app", SCOPE.service} if take_over else {scope.service}
    owners = [replace(scope, service=service) for service in services]
    if found.kind is Kind.JOB:
        return {owner.description for owner in owners}
    return {tuple(sorted(owner.labels.items())) for owner in owners}


@given(st.lists(neighbours(), max_size=12), st.booleans())
def test_a_plan_carried_out_leaves_nothing_to_plan(found: Sequence[Resource], take_over: bool) -> None:  # noqa: FBT001 - drawn
    observed = Observed.of(found)
    made = plan(wanted(), observed, SCOPE, take_over=take_over, prune={})
    there = dict(observed.by_name)
    for change in made.changes:
        if isinstance(change, Delete):
            del there[change.item.name]
        elif isinstance(change, Create):
            there[change.item.name] = change.item
        elif isinstance(change, Update):
            body = {**change.found.body, **merged(change.item, change.found, tuple(change.item.body))}
            there[change.item.name] = Resource(change.item.kind, change.item.name, body)
    again = plan(wanted(), Observed(there), SCOPE, take_over=take_over, prune={})
    assert again.changes == ()
    assert {one.item.name for one in again.refused} == {one.item.name for one in made.refused}

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from receiver import TaskRoute
from receiver.errors import GoogleError, GoogleForbidden, GoogleMissing
from receiver.google import client as google_client
from receiver.provision import applying, rendering
from receiver.provision.applying import ChangeDone, ChangeFailed, apply
from receiver.provision.desired import desired_grants
from receiver.provision.google_admin import GoogleAdmin
from receiver.provision.observed import observe
from receiver.provision.planning import Delete, Needed, Plan
from receiver.provision.provisioning import ProvisionOptions, ProvisionRun
from receiver.provision.resources import Kind, Resource, Wanted
from receiver.provision.scope import Scope
from tests.google_fake import GoogleFake
from tests.unit.provision.world import (
    ACCOUNT,
    CLEAN,
    HERE,
    MAIL,
    PUSH,
    ROUTES,
    SCOPE,
    send_mail,
    wanted,
)

P = "projects/shop-prod"
TOPIC = f"{P}/topics/prod--shop.tasks--{HERE}.send_mail"
SUBSCRIPTION = f"{P}/subscriptions/prod--shop.tasks--{HERE}.send_mail-sub"
JOB = SCOPE.job(CLEAN.path)
AGENT = "serviceAccount:service-415104041262@gcp-sa-pubsub.iam.gserviceaccount.com"


@pytest.fixture(autouse=True)
def _no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried again soon."""
    monkeypatch.setattr(applying, "FIRST_CONFLICT_PAUSE", 0.001)
    monkeypatch.setattr(google_client, "FIRST_PAUSE", 0.001)


async def nothing_needed() -> Needed:
    return {}


def run_for(
    admin: GoogleAdmin, found: Sequence[Wanted], options: ProvisionOptions | None = None, scope: Scope = SCOPE
) -> ProvisionRun:
    return ProvisionRun(admin, scope, options or ProvisionOptions(), found, nothing_needed)


async def applied(run: ProvisionRun) -> dict[str, str]:
    """Applies the plan; what was unusual about it, by the last part of the name."""
    results = await run.apply(await run.plan())
    notes = {
        result.change.item.id: result.note if isinstance(result, ChangeDone) else f"FAILED {result.why}"
        for result in results
    }
    return {name: note for name, note in notes.items() if note}


async def test_everything_is_made_once_and_a_second_plan_is_empty(
    admin: GoogleAdmin, google: GoogleFake
) -> None:
    run = run_for(admin, wanted())
    assert await applied(run) == {}
    assert (await run.remaining()).is_settled
    again = await run.plan()
    assert (again.changes, again.unchanged) == ((), 7)
    google.calls.clear()
    assert await applied(run) == {}
    assert google.writes() == []


async def test_drift_is_mended_and_what_others_set_stays(admin: GoogleAdmin, google: GoogleFake) -> None:
    run = run_for(admin, wanted())
    await applied(run)
    google.pubsub.topics[TOPIC]["labels"] = {"team": "core"}
    drifted = google.pubsub.subscriptions[SUBSCRIPTION]
    drifted |= {
        "ackDeadlineSeconds": 10,
        "expirationPolicy": {"ttl": "86400s"},
        "enableMessageOrdering": True,
    }
    del drifted["retryPolicy"]
    drifted["pushConfig"]["noWrapper"] = {"writeMetadata": True}
    google.scheduler.jobs[JOB] |= {"schedule": "0 4 * * *", "timeZone": "UTC", "state": "PAUSED"}
    google.calls.clear()

    assert await applied(run) == {}
    assert google.writes() == [f"PATCH /v1/{TOPIC}", f"PATCH /v1/{SUBSCRIPTION}", f"PATCH /v1/{JOB}"]
    assert (await run.remaining()).is_settled
    assert google.pubsub.topics[TOPIC]["labels"] == {"team": "core", **SCOPE.labels}
    mended = google.pubsub.subscriptions[SUBSCRIPTION]
    assert mended["retryPolicy"] == {"minimumBackoff": "5s", "maximumBackoff": "120s"}
    assert mended["enableMessageOrdering"] is True
    assert "noWrapper" not in mended["pushConfig"]
    assert google.scheduler.jobs[JOB]["state"] == "PAUSED", "an operator's pause is no drift"


async def test_names_that_need_escaping_in_an_address_survive_it(
    admin: GoogleAdmin, google: GoogleFake
) -> None:
    item = Resource(Kind.TOPIC, f"{P}/topics/prod--shop.tasks--a%41+c~d", {})
    await admin.create(item)
    assert item.name in google.pubsub.topics
    assert await admin.get(item.name) is not None
    await admin.delete(item)
    assert google.pubsub.topics == {}


async def test_lists_are_read_page_by_page(admin: GoogleAdmin, google: GoogleFake) -> None:
    for number in range(2100):
        google.pubsub.topics[f"{P}/topics/t{number:04}"] = {"name": f"{P}/topics/t{number:04}"}
    assert len(await admin.resources(Kind.TOPIC, SCOPE)) == 2100
    assert google.calls == [f"GET /v1/{P}/topics"] * 3


async def test_what_is_outside_the_environment_is_not_even_seen(
    admin: GoogleAdmin, google: GoogleFake
) -> None:
    await applied(run_for(admin, wanted()))
    ours = set(google.everything())
    for name in (f"{P}/topics/orders", f"{P}/topics/prod--shop2.tasks--a"):
        google.pubsub.topics[name] = {"name": name}
    assert set((await observe(admin, SCOPE)).by_name) == ours


async def test_unchanged_resources_cost_three_lists_and_the_policy_of_each_topic(
    admin: GoogleAdmin, google: GoogleFake
) -> None:
    run = run_for(admin, wanted())
    await applied(run)
    google.calls.clear()
    await run.plan()
    topics = [SCOPE.topic(route.path) for route in ROUTES]
    assert sorted(google.calls) == sorted(
        [
            f"GET /v1/{P}/locations/europe-west2/jobs",
            f"GET /v1/{P}/subscriptions",
            f"GET /v1/{P}/topics",
            *(f"GET /v1/{name}:getIamPolicy" for name in (*topics, SCOPE.dead_letter_topic)),
        ]
    )


async def test_where_policies_may_not_be_read_the_plan_says_so_and_asks_no_further(
    admin: GoogleAdmin, google: GoogleFake
) -> None:
    run = run_for(admin, wanted())
    await applied(run)
    google.calls.clear()
    google.fail(":getIamPolicy", 403, "PERMISSION_DENIED", "User not authorized", times=99)
    made = await run.plan()
    assert made.is_settled
    (line,) = [text for text, _ in rendering.lines(made)]
    assert line == (
        "? who may publish to the topics: User not authorized; to read that, roles/pubsub.admin is needed"
    )
    assert sum(":getIamPolicy" in call for call in google.calls) == 1


async def test_a_squatted_topic_is_taken_without_what_lets_others_in(
    admin: GoogleAdmin, google: GoogleFake
) -> None:
    script = {"javascriptUdf": {"functionName": "f", "code": "function f(m) { return m; }"}}
    google.pubsub.topics[TOPIC] = {
        "name": TOPIC,
        "ingestionDataSourceSettings": {"cloudStorage": {"bucket": "theirs"}},
        "messageTransforms": [script],
    }
    google.pubsub.subscriptions[SUBSCRIPTION] = {
        "name": SUBSCRIPTION,
        "topic": TOPIC,
        "messageTransforms": [script],
    }
    run = run_for(admin, wanted(MAIL))
    assert await applied(run) == {}
    assert google.pubsub.topics[TOPIC].keys() == {"name", "labels", "state"}
    assert "messageTransforms" not in google.pubsub.subscriptions[SUBSCRIPTION]
    assert (await run.remaining()).is_settled


async def test_a_topic_that_everybody_may_publish_to_gets_no_subscription(
    admin: GoogleAdmin, google: GoogleFake
) -> None:
    google.pubsub.topics[TOPIC] = {"name": TOPIC}
    google.policies.write(TOPIC, [{"role": "roles/pubsub.publisher", "members": ["allUsers"]}])
    run = run_for(admin, wanted(MAIL))
    await applied(run)
    assert "labels" not in google.pubsub.topics[TOPIC]
    assert SUBSCRIPTION not in google.pubsub.subscriptions
    assert not (await run.remaining()).is_settled


async def test_requests_go_side_by_side_within_a_bound(admin: GoogleAdmin, google: GoogleFake) -> None:
    google.latency = 0.02
    many = [Wanted(Resource(Kind.TOPIC, SCOPE.topic(f"t{number}"), {})) for number in range(40)]
    await applied(run_for(admin, many))
    assert 2 < google.most_in_flight <= 10


async def test_a_failing_item_stops_only_what_needs_it(admin: GoogleAdmin, google: GoogleFake) -> None:
    google.fail(f"PUT .*{re.escape(TOPIC)}$", 400, "INVALID_ARGUMENT", "no such luck")
    run = run_for(admin, wanted())
    assert await applied(run) == {
        TOPIC.rpartition("/")[2]: "FAILED no such luck",
        SUBSCRIPTION.rpartition("/")[2]: f"FAILED not tried: it needs {TOPIC.rpartition('/')[2]}",
    }
    left = await run.remaining()
    assert [change.item.name for change in left.changes] == [TOPIC, SUBSCRIPTION]
    assert left.unchanged == 5


async def test_a_half_applied_plan_is_finished_by_the_next_run(
    admin: GoogleAdmin, google: GoogleFake
) -> None:
    google.fail("PUT .*-sub$|POST .*jobs", 403, "PERMISSION_DENIED", "not you", times=4)
    run = run_for(admin, wanted())
    notes = await applied(run)
    assert len(notes) == 4
    assert "FAILED not you; the account that provisions needs roles/cloudscheduler.admin" in notes.values()
    assert "FAILED not you; the account that provisions needs roles/pubsub.editor" in notes.values()
    google.calls.clear()
    assert await applied(run) == {}
    assert len(google.writes()) == 4
    assert (await run.remaining()).is_settled


async def test_one_that_somebody_else_made_just_like_this_is_done(
    admin: GoogleAdmin, google: GoogleFake
) -> None:
    run = run_for(admin, wanted())
    body = {"name": TOPIC, "labels": SCOPE.labels}
    google.before(f"PUT .*{re.escape(TOPIC)}$", lambda: google.pubsub.topics.update({TOPIC: body}))
    assert await applied(run) == {
        TOPIC.rpartition("/")[2]: "another writer made it already, with the same values"
    }
    assert (await run.remaining()).is_settled


async def test_one_that_somebody_else_made_differently_is_told_field_by_field(
    admin: GoogleAdmin, google: GoogleFake
) -> None:
    def meanwhile() -> None:
        (other,) = (
            one.item for one in wanted(TaskRoute(send_mail, ack_deadline=77)) if one.item.name == SUBSCRIPTION
        )
        assert isinstance(other, Resource)
        google.pubsub.subscriptions[SUBSCRIPTION] = {
            "name": SUBSCRIPTION,
            **other.body,
            "ackDeadlineSeconds": 77,
        }

    google.before(f"PUT .*{re.escape(SUBSCRIPTION)}$", meanwhile)
    notes = await applied(run_for(admin, wanted(MAIL)))
    (note,) = notes.values()
    assert note.startswith(
        "FAILED another writer made it at the same moment; it differs in ackDeadlineSeconds: 77 → 60"
    )
    assert google.pubsub.subscriptions[SUBSCRIPTION]["ackDeadlineSeconds"] == 77, (
        "the plan said create, not change"
    )


@pytest.mark.parametrize("verb", ["PUT", "PATCH", "DELETE"])
async def test_a_conflict_that_passes_is_tried_again(
    admin: GoogleAdmin, google: GoogleFake, verb: str
) -> None:
    run = run_for(admin, wanted(MAIL), ProvisionOptions(prune=True))
    if verb != "PUT":
        await applied(run)
    if verb == "PATCH":
        google.pubsub.subscriptions[SUBSCRIPTION]["ackDeadlineSeconds"] = 10
    if verb == "DELETE":
        run = ProvisionRun(admin, SCOPE, ProvisionOptions(), None, nothing_needed)
    google.fail(f"{verb} .*{re.escape(SUBSCRIPTION)}$", 409, "ABORTED", "concurrent", times=3)
    assert await applied(run) == {}
    assert (await run.remaining()).is_settled


async def test_a_conflict_that_never_passes_names_the_fields_that_differ(
    admin: GoogleAdmin, google: GoogleFake
) -> None:
    run = run_for(admin, wanted(MAIL))
    await applied(run)
    google.pubsub.subscriptions[SUBSCRIPTION]["ackDeadlineSeconds"] = 10

    def meanwhile() -> None:
        google.pubsub.subscriptions[SUBSCRIPTION]["ackDeadlineSeconds"] += 1

    google.before(f"PATCH .*{re.escape(SUBSCRIPTION)}$", meanwhile, times=99)
    google.fail(f"PATCH .*{re.escape(SUBSCRIPTION)}$", 409, "ABORTED", "concurrent", times=99)
    (note,) = (await applied(run)).values()
    assert note == (
        "FAILED another writer changed it during each of 5 tries: try again; it differs in ackDeadlineSeconds: 15 → 60"
    )


async def test_an_update_that_somebody_else_made_is_done(admin: GoogleAdmin, google: GoogleFake) -> None:
    run = run_for(admin, wanted(MAIL))
    await applied(run)
    google.pubsub.subscriptions[SUBSCRIPTION]["ackDeadlineSeconds"] = 10
    pattern = f"PATCH .*{re.escape(SUBSCRIPTION)}$"
    google.before(pattern, lambda: google.pubsub.subscriptions[SUBSCRIPTION].update(ackDeadlineSeconds=60))
    google.fail(pattern, 409, "ABORTED", "concurrent")
    (note,) = (await applied(run)).values()
    assert note == "another writer made this change already"


async def test_one_that_somebody_else_adopts_at_the_same_moment_is_theirs(
    admin: GoogleAdmin, google: GoogleFake
) -> None:
    google.pubsub.topics[TOPIC] = {"name": TOPIC}
    theirs = replace(SCOPE, service="other.a.run.app").labels
    google.before(f"PATCH .*{re.escape(TOPIC)}$", lambda: google.pubsub.topics[TOPIC].update(labels=theirs))
    google.fail(f"PATCH .*{re.escape(TOPIC)}$", 409, "ABORTED", "concurrent")
    notes = await applied(run_for(admin, wanted(MAIL)))
    assert notes[TOPIC.rpartition("/")[2]] == (
        f"FAILED by now it belongs to prod--shop of {theirs['receiver-service']}: plan again; it differs in "
        f"labels.receiver-service: {theirs['receiver-service']} → {SCOPE.labels['receiver-service']}"
    )
    assert notes[SUBSCRIPTION.rpartition("/")[2]] == f"FAILED not tried: it needs {TOPIC.rpartition('/')[2]}"
    assert google.pubsub.topics[TOPIC]["labels"] == theirs


@pytest.mark.parametrize("take_over", [False, True])
async def test_what_another_service_takes_while_a_prompt_waits_is_not_deleted(
    admin: GoogleAdmin, google: GoogleFake, *, take_over: bool
) -> None:
    theirs = replace(SCOPE, service="other.a.run.app")
    third = replace(SCOPE, service="third.a.run.app")
    await applied(run_for(admin, wanted(), scope=theirs if take_over else SCOPE))
    run = ProvisionRun(admin, SCOPE, ProvisionOptions(take_over=take_over), None, nothing_needed)
    made = await run.plan()
    google.pubsub.topics[TOPIC]["labels"] = third.labels
    google.pubsub.subscriptions[SUBSCRIPTION]["labels"] = third.labels
    google.scheduler.jobs[JOB]["description"] = third.description
    results = await run.apply(made)
    kept = {one.change.item.name: one.why for one in results if isinstance(one, ChangeFailed)}
    assert kept.keys() == google.everything().keys() == {TOPIC, SUBSCRIPTION, JOB}
    assert kept[TOPIC] == (
        f"by now it belongs to prod--shop of {third.labels['receiver-service']}; it is not deleted"
    )
    assert len(results) == len(made.changes) == 7


async def test_what_another_service_takes_while_a_prompt_waits_is_not_changed(
    admin: GoogleAdmin, google: GoogleFake
) -> None:
    run = run_for(admin, wanted(MAIL))
    await applied(run)
    google.pubsub.subscriptions[SUBSCRIPTION]["ackDeadlineSeconds"] = 10
    made = await run.plan()
    google.pubsub.subscriptions[SUBSCRIPTION]["labels"] = replace(SCOPE, service="other.a.run.app").labels
    before = google.everything()
    (result,) = await run.apply(made)
    assert isinstance(result, ChangeFailed)
    assert result.why.startswith("by now it belongs to prod--shop of other-a-run-app-")
    assert google.everything() == before


async def test_a_label_that_is_set_while_a_prompt_waits_is_kept(
    admin: GoogleAdmin, google: GoogleFake
) -> None:
    google.pubsub.topics[TOPIC] = {"name": TOPIC, "labels": {"team": "mail"}}
    run = run_for(admin, wanted(MAIL))
    made = await run.plan()
    google.pubsub.topics[TOPIC]["labels"] = {"team": "post", "cost": "7"}
    await run.apply(made)
    assert google.pubsub.topics[TOPIC]["labels"] == {"team": "post", "cost": "7", **SCOPE.labels}


async def test_only_what_was_planned_is_changed(admin: GoogleAdmin, google: GoogleFake) -> None:
    """An operator pauses it while the prompt waits: it stays paused."""
    run = run_for(admin, wanted(MAIL))
    await applied(run)
    google.pubsub.subscriptions[SUBSCRIPTION]["ackDeadlineSeconds"] = 10
    made = await run.plan()
    google.pubsub.subscriptions[SUBSCRIPTION]["pushConfig"] = {}
    await run.apply(made)
    there = google.pubsub.subscriptions[SUBSCRIPTION]
    assert (there["ackDeadlineSeconds"], there["pushConfig"]) == (60, {})


async def test_one_that_is_made_anew_on_another_topic_is_not_changed(
    admin: GoogleAdmin, google: GoogleFake
) -> None:
    run = run_for(admin, wanted(MAIL))
    await applied(run)
    google.pubsub.subscriptions[SUBSCRIPTION]["ackDeadlineSeconds"] = 10
    made = await run.plan()
    google.pubsub.subscriptions[SUBSCRIPTION]["topic"] = f"{P}/topics/orders"
    (result,) = await run.apply(made)
    assert isinstance(result, ChangeFailed)
    assert result.why.startswith("another writer made it anew, with topic: ")
    assert google.pubsub.subscriptions[SUBSCRIPTION]["ackDeadlineSeconds"] == 10


async def test_one_that_is_deleted_under_an_update_is_told(admin: GoogleAdmin, google: GoogleFake) -> None:
    run = run_for(admin, wanted(MAIL))
    await applied(run)
    google.pubsub.subscriptions[SUBSCRIPTION]["ackDeadlineSeconds"] = 10
    pattern = f"PATCH .*{re.escape(SUBSCRIPTION)}$"
    google.before(pattern, lambda: google.pubsub.subscriptions.pop(SUBSCRIPTION))
    (note,) = (await applied(run)).values()
    assert note == "FAILED another writer deleted it after the plan was made: plan again"


async def test_what_is_gone_before_it_is_deleted_is_done(admin: GoogleAdmin, google: GoogleFake) -> None:
    await applied(run_for(admin, wanted(CLEAN)))
    google.before(f"DELETE .*{re.escape(JOB)}$", lambda: google.scheduler.jobs.pop(JOB))
    run = run_for(admin, wanted(MAIL))
    assert await applied(run) == {JOB.rpartition("/")[2]: "it was deleted already"}


async def test_429_is_waited_out(admin: GoogleAdmin, google: GoogleFake) -> None:
    google.fail("PUT .*/topics/", 429, "RESOURCE_EXHAUSTED", "quota", times=6)
    run = run_for(admin, wanted())
    assert await applied(run) == {}
    assert (await run.remaining()).is_settled


async def test_a_lost_answer_is_no_error(admin: GoogleAdmin, google: GoogleFake) -> None:
    """The request is sent again, and the conflict is read back as one's own work."""
    google.fail(f"PUT .*{re.escape(TOPIC)}$", 503, "UNAVAILABLE", "try later")
    google.before(
        f"PUT .*{re.escape(TOPIC)}$",
        lambda: google.pubsub.topics.update({TOPIC: {"name": TOPIC, "labels": SCOPE.labels}}),
    )
    run = run_for(admin, wanted())
    assert set(await applied(run)) == {TOPIC.rpartition("/")[2]}
    assert (await run.remaining()).is_settled


async def refusal(run: ProvisionRun) -> GoogleError:
    with pytest.raises(GoogleError) as refused:
        await run.plan()
    return refused.value


@pytest.mark.parametrize(
    ("pattern", "code", "said", "line"),
    [
        (
            "/topics$",
            403,
            "User not authorized to perform this action.",
            (
                "cannot list the topics of project shop-prod: User not authorized to perform this action.; "
                "the account that provisions needs roles/pubsub.editor"
            ),
        ),
        (
            "/jobs$",
            403,
            "Cloud Scheduler API has not been used in project shop-prod before or it is disabled. Enable it by ...",
            (
                "cannot list the scheduler jobs of project shop-prod: its API is not enabled: "
                "gcloud services enable cloudscheduler.googleapis.com --project shop-prod"
            ),
        ),
        (
            "/subscriptions$",
            401,
            "Request had invalid authentication credentials.",
            (
                "cannot list the subscriptions of project shop-prod: Request had invalid authentication credentials.; "
                "log in again: gcloud auth application-default login"
            ),
        ),
    ],
)
async def test_what_cannot_be_read_is_one_line_that_says_what_to_do(
    admin: GoogleAdmin, google: GoogleFake, pattern: str, code: int, said: str, line: str
) -> None:
    google.fail(f"GET .*{pattern}", code, "PERMISSION_DENIED", said, times=2)
    error = await refusal(run_for(admin, wanted()))
    assert isinstance(error, GoogleForbidden)
    assert str(error) == line


async def test_a_location_that_cloud_scheduler_does_not_have_is_named(admin: GoogleAdmin) -> None:
    mars = Scope("shop-prod", "mars", "prod", "shop", SCOPE.service)
    error = await refusal(run_for(admin, wanted(scope=mars), scope=mars))
    assert isinstance(error, GoogleMissing)
    assert "is SCHEDULER_LOCATION mars a region of Cloud Scheduler?" in str(error)
    assert str(error).endswith("or use --skip-scheduler")


async def test_a_lagging_list_is_looked_through(admin: GoogleAdmin, google: GoogleFake) -> None:
    """Lists may show what was before: what seems to differ is read by itself."""
    run = run_for(admin, wanted())
    await applied(run)
    hidden = google.pubsub.subscriptions.pop(SUBSCRIPTION)
    google.before(
        f"GET .*{re.escape(SUBSCRIPTION)}$",
        lambda: google.pubsub.subscriptions.update({SUBSCRIPTION: hidden}),
    )
    assert (await run.remaining()).is_settled


async def test_what_is_orphaned_goes_and_neighbours_stay_byte_for_byte(
    admin: GoogleAdmin, google: GoogleFake
) -> None:
    near = [
        Scope("shop-prod", "europe-west2", "prod", "shop-scheduler-", SCOPE.service),
        Scope("shop-prod", "europe-west2", "prod-", "shop", SCOPE.service),
        Scope("shop-prod", "europe-west2", "staging", "shop", SCOPE.service),
    ]
    for scope in near:
        assert await applied(run_for(admin, wanted(scope=scope), scope=scope)) == {}
    google.pubsub.topics[f"{P}/topics/orders"] = {"name": f"{P}/topics/orders"}
    before = google.everything()

    await applied(run_for(admin, wanted()))
    await applied(run_for(admin, wanted(MAIL), ProvisionOptions(prune=True)))
    assert not [
        name for name in google.everything() if "clean_up" in name or "clean-up" in name if name not in before
    ]
    removal = ProvisionRun(admin, SCOPE, ProvisionOptions(), None, nothing_needed)
    assert await applied(removal) == {}
    assert (await removal.remaining()).is_settled
    assert google.everything() == before


async def test_orphans_are_pruned_only_after_the_record_was_asked(
    admin: GoogleAdmin, google: GoogleFake
) -> None:
    await applied(run_for(admin, wanted()))
    asked = []

    async def ask() -> Needed:
        asked.append("record")
        return {SCOPE.topic(CLEAN.path): "1 execution is not final yet"}

    made = await ProvisionRun(admin, SCOPE, ProvisionOptions(prune=True), wanted(MAIL), ask).plan()
    assert [change.item.kind for change in made.changes] == [Kind.JOB]
    assert len(made.refused) == 2
    assert asked == ["record"]
    assert (await ProvisionRun(admin, SCOPE, ProvisionOptions(), wanted(MAIL), ask).plan()).refused == ()
    assert asked == ["record"]


async def test_roles_are_given_beside_those_that_are_there(admin: GoogleAdmin, google: GoogleFake) -> None:
    account = f"projects/-/serviceAccounts/{ACCOUNT}"
    condition = {"title": "for now", "expression": "request.time < timestamp('2030-01-01T00:00:00Z')"}
    theirs: list[dict[str, Any]] = [
        {"role": "roles/iam.serviceAccountTokenCreator", "members": ["user:a@b.c"], "condition": condition},
        {"role": "roles/iam.serviceAccountUser", "members": ["user:a@b.c"]},
    ]
    google.policies.write(account, theirs)
    everything = (
        *wanted(MAIL),
        *desired_grants(wanted(MAIL), SCOPE, PUSH, await admin.project_number(SCOPE)),
    )
    run = run_for(admin, everything, ProvisionOptions(grant=True))
    assert await applied(run) == {}
    assert (await run.remaining()).is_settled
    assert google.policies.bindings(account) == [
        *theirs,
        {"role": "roles/iam.serviceAccountTokenCreator", "members": [AGENT]},
    ]
    assert google.policies.bindings(SUBSCRIPTION) == [{"role": "roles/pubsub.subscriber", "members": [AGENT]}]
    assert google.policies.bindings(SCOPE.dead_letter_topic) == [
        {"role": "roles/pubsub.publisher", "members": [AGENT]}
    ]
    again = await run.plan()
    assert (again.changes, again.unchanged) == ((), 7)


async def test_an_account_that_does_not_exist_is_named(admin: GoogleAdmin, google: GoogleFake) -> None:
    everything = (*wanted(MAIL), *desired_grants(wanted(MAIL), SCOPE, PUSH, "415104041262"))
    google.fail("serviceAccounts", 404, "NOT_FOUND", "Unknown service account")
    assert str(await refusal(run_for(admin, everything, ProvisionOptions(grant=True)))) == (
        f"cannot read who may use {ACCOUNT}: Unknown service account; "
        "is TASKS_SERVICE_ACCOUNT an account that exists?"
    )


async def test_pubsubs_own_account_that_is_not_there_yet_is_told_how_it_comes_to_be(
    admin: GoogleAdmin, google: GoogleFake
) -> None:
    everything = (*wanted(MAIL), *desired_grants(wanted(MAIL), SCOPE, PUSH, "415104041262"))
    said = f"Service account {AGENT.partition(':')[2]} does not exist."
    google.fail(f"{re.escape(SUBSCRIPTION)}:setIamPolicy", 400, "INVALID_ARGUMENT", said)
    (note,) = (await applied(run_for(admin, everything, ProvisionOptions(grant=True)))).values()
    assert note == (
        f"FAILED {said}; if that is Pub/Sub's own account: gcloud beta services identity create "
        "--service pubsub.googleapis.com --project shop-prod; then apply again"
    )


async def test_a_policy_that_changes_in_between_is_read_again(admin: GoogleAdmin, google: GoogleFake) -> None:
    everything = (*wanted(MAIL), *desired_grants(wanted(MAIL), SCOPE, PUSH, "415104041262"))
    theirs = {"role": "roles/pubsub.viewer", "members": ["user:a@b.c"]}
    google.before(
        f"POST .*{re.escape(SUBSCRIPTION)}:setIamPolicy",
        lambda: google.policies.write(SUBSCRIPTION, [theirs]),
    )
    run = run_for(admin, everything, ProvisionOptions(grant=True))
    assert await applied(run) == {}
    assert google.policies.bindings(SUBSCRIPTION) == [
        theirs,
        {"role": "roles/pubsub.subscriber", "members": [AGENT]},
    ]


async def test_a_change_outside_the_environment_is_never_sent(admin: GoogleAdmin, google: GoogleFake) -> None:
    foreign = Plan((Delete(Resource(Kind.TOPIC, f"{P}/topics/orders"), "by mistake"),))
    with pytest.raises(AssertionError, match="orders is not this environment's"):
        await apply(foreign, admin, SCOPE)
    assert google.calls == []


async def test_each_result_is_told_as_it_comes(admin: GoogleAdmin, google: GoogleFake) -> None:
    told: list[ChangeDone | ChangeFailed] = []
    run = run_for(admin, wanted())
    assert await run.apply(await run.plan(), told.append) == tuple(told)
    assert len(told) == 7
    assert {route.path for route in ROUTES} == {send_mail.path, CLEAN.path}

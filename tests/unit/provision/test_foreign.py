"""Topics that are not a task's own, and services beside the main one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from receiver import TaskRoute
from receiver.errors import SettingError
from receiver.provision import rendering
from receiver.provision.applying import ChangeFailed
from receiver.provision.desired import PushTarget, desired, desired_grants
from receiver.provision.google_admin import GoogleAdmin
from receiver.provision.observed import Observed
from receiver.provision.planning import ChangeRefused, Create, Delete, Needed, plan, removal
from receiver.provision.provisioning import ProvisionOptions, ProvisionRun
from receiver.provision.resources import Kind, Resource
from receiver.settings import Settings
from tests.google_fake import GoogleFake
from tests.unit.provision.world import (
    ACCOUNT,
    HERE,
    PUSH,
    SCOPE,
    URL,
    as_listed,
    changed,
    clean_up,
    resources,
    send_mail,
)

UPLOADS = "projects/storage/topics/uploads"
NAME = f"projects/shop-prod/subscriptions/prod--shop.foreign--{HERE}.send_mail-sub"
OWN = f"projects/shop-prod/subscriptions/prod--shop.tasks--{HERE}.send_mail-sub"
FORMER = "projects/shop-prod/subscriptions/prod--shop.foreign--old.place.send_mail-sub"
HEAVY = "https://heavy-abc-ew.a.run.app"
ROUTE = TaskRoute(send_mail, topic=UPLOADS, topic_filter='attributes.eventType = "OBJECT_FINALIZE"')
TWO = replace(PUSH, services={"heavy": HEAVY})


def body(name: str, route: TaskRoute, push: PushTarget = PUSH) -> dict[str, object]:
    (found,) = (one for one in resources(desired((route,), SCOPE, push)) if one.name == name)
    return dict(found.body)


def there(route: TaskRoute) -> Observed:
    return Observed.of(as_listed(one) for one in resources(desired((route,), SCOPE, PUSH)))


def test_a_foreign_topic_has_a_subscription_of_ours_beside_the_tasks_own() -> None:
    made = body(NAME, ROUTE)
    assert made == body(OWN, ROUTE) | {"topic": UPLOADS, "filter": ROUTE.topic_filter}
    assert "filter" not in body(NAME, TaskRoute(send_mail, topic=UPLOADS))
    agent = "serviceAccount:service-7@gcp-sa-pubsub.iam.gserviceaccount.com"
    grants = [one.item for one in desired_grants(desired((ROUTE,), SCOPE, PUSH), SCOPE, PUSH, "7")]
    assert f"{NAME} roles/pubsub.subscriber {agent}" in [grant.name for grant in grants]
    assert not [grant for grant in grants if grant.name.startswith(UPLOADS)]


def test_the_foreign_topic_itself_is_never_made_changed_or_deleted() -> None:
    topic = Resource(Kind.TOPIC, UPLOADS, {"labels": SCOPE.labels})
    nothing, everything = Observed(), Observed({**there(ROUTE).by_name, UPLOADS: topic})
    for made in (
        plan(desired((ROUTE,), SCOPE, PUSH), nothing, SCOPE),
        plan((), everything, SCOPE, prune={}, take_over=True),
        removal(everything, SCOPE, take_over=True),
    ):
        assert made.changes
        assert UPLOADS not in [change.item.name for change in made.changes]


def test_another_topic_or_filter_is_refused_with_the_way_out() -> None:
    for fields in ({"topic": "projects/storage/topics/others"}, {"filter": None}):
        found = changed(there(ROUTE).by_name[NAME], **fields)
        made = plan(desired((ROUTE,), SCOPE, PUSH), Observed({**there(ROUTE).by_name, NAME: found}), SCOPE)
        (refused,) = made.refused
        assert f"gcloud pubsub subscriptions delete {NAME.rpartition('/')[2]}" in refused.why


def test_a_renamed_tasks_former_subscription_stays_and_gets_no_second_beside_it() -> None:
    renamed = TaskRoute(send_mail, topic=UPLOADS, aliases=["old.place.send_mail"])
    wanted = desired((renamed,), SCOPE, PUSH)
    former = Resource(Kind.SUBSCRIPTION, FORMER, body(NAME, renamed))
    made = plan(wanted, Observed.of([former]), SCOPE)
    assert NAME not in [change.item.name for change in made.changes]
    assert FORMER not in [change.item.name for change in made.changes]
    other = changed(former, topic="projects/storage/topics/others")
    assert NAME in [change.item.name for change in plan(wanted, Observed.of([other]), SCOPE).changes]
    assert NAME in [change.item.name for change in plan(wanted, Observed(), SCOPE).changes]


def test_pruning_takes_a_foreign_subscription_unless_executions_of_its_task_are_open() -> None:
    found = Observed.of([there(ROUTE).by_name[NAME]])
    (kept,) = plan((), found, SCOPE).kept
    assert kept.why == "no task uses it, and what its topic goes on to send is rejected; --prune deletes it"
    assert [type(entry) for entry in plan((), found, SCOPE, prune={}).entries] == [Delete]
    needed = {SCOPE.topic(send_mail.path): "1 execution is not final yet"}
    assert [type(entry) for entry in plan((), found, SCOPE, prune=needed).entries] == [ChangeRefused]


def test_a_task_of_another_service_is_pushed_there_with_its_audience() -> None:
    heavy = TaskRoute(send_mail, service="heavy", topic=UPLOADS)
    config = {
        "pushEndpoint": f"{HEAVY}/tasks/pubsub/",
        "oidcToken": {"serviceAccountEmail": ACCOUNT, "audience": HEAVY},
    }
    assert body(OWN, heavy, TWO)["pushConfig"] == body(NAME, heavy, TWO)["pushConfig"] == config
    beside = body(OWN.replace("send_mail", "clean_up"), TaskRoute(clean_up), TWO)
    assert beside["pushConfig"]["pushEndpoint"] == f"{URL}/tasks/pubsub/"  # type: ignore[index]
    with pytest.raises(
        SettingError, match=r"^TASKS_SERVICE_URLS is not set; add heavy=https://\.\.\., where"
    ):
        desired((heavy,), SCOPE, PUSH)


def test_the_plan_says_whose_topic_and_which_service_a_new_subscription_is_for() -> None:
    heavy = TaskRoute(send_mail, service="heavy", topic=UPLOADS)
    made = plan(desired((heavy,), SCOPE, TWO), Observed(), SCOPE)
    lines = [text for text, _ in rendering.lines(made) if "send_mail-sub" in text]
    assert lines == [
        f"+ subscription {OWN.rpartition('/')[2]} (pushes to heavy)",
        f"+ subscription {NAME.rpartition('/')[2]} (of {UPLOADS}, pushes to heavy)",
    ]
    assert isinstance(made.changes[0], Create)


def test_the_services_follow_from_the_settings_and_pubsub_pushes_to_https_only() -> None:
    base = {
        "GCP_PROJECT_ID": "shop-prod",
        "CLOUD_RUN_SERVICE_URL": URL,
        "TASKS_SERVICE_ACCOUNT": ACCOUNT,
        "TASKS_SERVICE_URLS": f"heavy={HEAVY}",
    }
    assert PushTarget.of(Settings.from_environ(base)) == TWO
    plain = base | {"TASKS_SERVICE_URLS": "heavy=http://127.0.0.1:1"}
    with pytest.raises(SettingError, match=r"^TASKS_SERVICE_URLS is 'http://127\.0\.0\.1:1'; .* https"):
        PushTarget.of(Settings.from_environ(plain))


async def test_google_makes_it_once_the_other_topic_is_there(admin: GoogleAdmin, google: GoogleFake) -> None:
    uploads = "projects/shop-prod/topics/uploads"
    taking = TaskRoute(send_mail, topic=uploads, topic_filter="attributes:eventType")
    wanted = desired((taking,), SCOPE, PUSH)

    async def nothing_needed() -> Needed:
        return {}

    run = ProvisionRun(admin, SCOPE, ProvisionOptions(), wanted, nothing_needed)
    results = await run.apply(await run.plan())
    (failed,) = [one for one in results if isinstance(one, ChangeFailed)]
    assert failed.change.item.name == NAME
    assert failed.why.endswith("is never made here: make it, then apply again")
    await admin.create(Resource(Kind.TOPIC, uploads, {"labels": {"whose": "storage"}}))
    await run.apply(await run.plan())
    assert (await run.remaining()).is_settled
    assert google.pubsub.subscriptions[NAME]["topic"] == uploads
    assert google.pubsub.topics[uploads]["labels"] == {"whose": "storage"}

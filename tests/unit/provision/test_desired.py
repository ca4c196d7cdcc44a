from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver import TaskRoute
from receiver.dev.scheduler import scheduled_message
from receiver.errors import SettingError
from receiver.provision.desired import PushTarget, desired, desired_grants
from receiver.provision.resources import Grant, Kind, Resource
from receiver.provision.scope import Scope
from receiver.settings import Settings
from tests.unit.provision.world import (
    ACCOUNT,
    CLEAN,
    HERE,
    MAIL,
    PUSH,
    SCOPE,
    URL,
    resources,
    send_mail,
    wanted,
)

P = "projects/shop-prod"
LABELS = {
    "receiver-environment": "prod",
    "receiver-namespace": "shop",
    "receiver-service": SCOPE.labels["receiver-service"],
}


def body(name: str, *routes: TaskRoute) -> Any:
    (found,) = (item.body for item in resources(wanted(*routes)) if item.name == name)
    return found


def test_a_route_has_a_topic_and_a_push_subscription() -> None:
    topic = f"{P}/topics/prod--shop.tasks--{HERE}.send_mail"
    assert body(topic) == {"labels": LABELS}
    assert body(f"{P}/subscriptions/prod--shop.tasks--{HERE}.send_mail-sub") == {
        "topic": topic,
        "pushConfig": {
            "pushEndpoint": f"{URL}/tasks/pubsub/",
            "oidcToken": {"serviceAccountEmail": ACCOUNT, "audience": URL},
        },
        "ackDeadlineSeconds": 60,
        "retryPolicy": {"minimumBackoff": "5s", "maximumBackoff": "120s"},
        "deadLetterPolicy": {
            "deadLetterTopic": f"{P}/topics/prod--shop.dead-letters",
            "maxDeliveryAttempts": 100,
        },
        "messageRetentionDuration": "604800s",
        "expirationPolicy": {},
        "labels": LABELS,
    }


def test_dead_letters_are_pushed_by_a_subscription_of_their_own() -> None:
    assert body(f"{P}/topics/prod--shop.dead-letters") == {"labels": LABELS}
    letters = body(f"{P}/subscriptions/prod--shop.dead-letters-sub")
    assert letters["topic"] == f"{P}/topics/prod--shop.dead-letters"
    assert (
        letters["pushConfig"]
        == body(f"{P}/subscriptions/prod--shop.tasks--{HERE}.send_mail-sub")["pushConfig"]
    )
    assert "deadLetterPolicy" not in letters
    assert letters["expirationPolicy"] == {}
    assert [one.name for one in resources(desired((), SCOPE, PUSH))] == [
        f"{P}/topics/prod--shop.dead-letters",
        f"{P}/subscriptions/prod--shop.dead-letters-sub",
    ]


def test_a_scheduled_route_has_a_job_with_the_references_payload() -> None:
    job = body(f"{P}/locations/europe-west2/jobs/prod--shop-scheduler--{HERE.replace('.', '-')}-clean_up")
    payload = json.loads(base64.b64decode(job["pubsubTarget"].pop("data")))
    assert payload == {"task_id": "scheduled-clean_up", "task_name": "clean_up", "args": [], "kwargs": {}}
    assert job == {
        "description": "receiver prod--shop of shop-abc-ew.a.run.app; kept by `receiver provision`",
        "schedule": "0 3 * * *",
        "timeZone": "Europe/London",
        "pubsubTarget": {
            "topicName": f"{P}/topics/prod--shop.tasks--{HERE}.clean_up",
            "attributes": {"task_name": "clean_up"},
        },
        "retryConfig": {
            "retryCount": 3,
            "minBackoffDuration": "5s",
            "maxBackoffDuration": "3600s",
            "maxRetryDuration": "0s",
        },
    }
    assert [one.item.kind for one in wanted(MAIL)].count(Kind.JOB) == 0


def test_locally_a_firing_carries_the_same_message() -> None:
    (job,) = (item for item in resources(wanted(CLEAN)) if item.kind is Kind.JOB)
    firing = scheduled_message("clean_up")
    assert (firing.data, firing.attributes) == (
        job.body["pubsubTarget"]["data"],
        job.body["pubsubTarget"]["attributes"],
    )


def test_a_resource_needs_what_it_points_to() -> None:
    names = {one.item.name for one in wanted()}
    for one in wanted():
        assert set(one.needs) <= names
        text = json.dumps(one.item.body) if isinstance(one.item, Resource) else ""
        assert set(one.needs) == {name for name in names if f'"{name}"' in text}


def test_a_former_name_keeps_its_resources_current_and_gets_no_new_ones() -> None:
    moved = TaskRoute(send_mail, aliases=["old.place.send_mail", "mail_out"], ack_deadline=60)
    assert moved.former_paths == {"old.place.send_mail", "mail_out", f"{HERE}.mail_out"}
    found = {one.item.name: one for one in wanted(moved)}
    old = found[f"{P}/subscriptions/prod--shop.tasks--old.place.send_mail-sub"]
    assert isinstance(old.item, Resource)
    assert old.former == send_mail.path
    assert old.item.body["ackDeadlineSeconds"] == 60
    assert old.item.body["topic"] == f"{P}/topics/prod--shop.tasks--old.place.send_mail"
    assert found[f"{P}/topics/prod--shop.tasks--{HERE}.send_mail"].former is None


def test_the_roles_are_those_that_dead_letters_and_tokens_need() -> None:
    agent = "serviceAccount:service-415104041262@gcp-sa-pubsub.iam.gserviceaccount.com"
    grants = [one.item for one in desired_grants(wanted(MAIL), SCOPE, PUSH, "415104041262")]
    assert grants == [
        Grant(f"{P}/topics/prod--shop.dead-letters", "roles/pubsub.publisher", agent),
        Grant(f"{P}/subscriptions/prod--shop.tasks--{HERE}.send_mail-sub", "roles/pubsub.subscriber", agent),
        Grant(f"projects/-/serviceAccounts/{ACCOUNT}", "roles/iam.serviceAccountTokenCreator", agent),
    ]


@given(st.lists(st.from_regex(r"[A-Za-z_.]{1,300}", fullmatch=True), min_size=2, max_size=2, unique=True))
def test_two_paths_never_share_a_resource(paths: list[str]) -> None:
    one, other = paths
    assert SCOPE.topic(one) != SCOPE.topic(other)
    assert SCOPE.subscription(one) != SCOPE.subscription(other)
    assert SCOPE.job(one) != SCOPE.job(other)


BASE = {
    "GCP_PROJECT_ID": "shop-prod",
    "CLOUD_RUN_SERVICE_URL": URL,
    "TASKS_SERVICE_ACCOUNT": ACCOUNT,
}


def test_how_pushes_are_made_follows_from_the_settings() -> None:
    assert PushTarget.of(Settings.from_environ(BASE)) == PUSH
    fewer = Settings.from_environ({**BASE, "TASKS_MAX_DELIVERY_ATTEMPTS": "5"})
    assert PushTarget.of(fewer).max_delivery_attempts == 5


def test_without_authentication_pushes_carry_no_token_and_only_an_emulator_takes_them() -> None:
    off = {**BASE, "TASKS_PUSH_AUTH": "off", "PUBSUB_EMULATOR_HOST": "127.0.0.1:8085"}
    push = PushTarget.of(Settings.from_environ(off))
    assert push.account is None
    (made, *_) = (one for one in resources(desired((MAIL,), SCOPE, push)) if "send_mail-sub" in one.name)
    assert "oidcToken" not in made.body["pushConfig"]
    assert not [
        one for one in desired_grants(wanted(MAIL), SCOPE, push, "1") if "serviceAccounts" in one.item.name
    ]
    with pytest.raises(SettingError, match=r"^TASKS_PUSH_AUTH is 'off'"):
        PushTarget.of(Settings.from_environ({**BASE, "TASKS_PUSH_AUTH": "off"}))


@pytest.mark.parametrize("name", ["CLOUD_RUN_SERVICE_URL", "TASKS_SERVICE_ACCOUNT"])
def test_what_is_missing_is_named(name: str) -> None:
    rest = {key: value for key, value in BASE.items() if key != name}
    with pytest.raises(SettingError, match=rf"^{name} is not set"):
        PushTarget.of(Settings.from_environ(rest))


def test_pubsub_itself_pushes_to_https_only() -> None:
    local = {**BASE, "CLOUD_RUN_SERVICE_URL": "http://127.0.0.1:8080"}
    with pytest.raises(SettingError, match=r"^CLOUD_RUN_SERVICE_URL is 'http://127\.0\.0\.1:8080'; .* https"):
        PushTarget.of(Settings.from_environ(local))
    emulated = Settings.from_environ({**local, "PUBSUB_EMULATOR_HOST": "127.0.0.1:8085"})
    assert PushTarget.of(emulated).url == "http://127.0.0.1:8080"


def test_an_environment_with_dots_keeps_its_jobs_apart() -> None:
    dotted = Scope("shop-prod", "europe-west2", "a.b", "shop", "h")
    dashed = Scope("shop-prod", "europe-west2", "a-b", "shop", "h")
    assert dotted.job("x.y") != dashed.job("x.y")
    assert dotted.description != dashed.description

from __future__ import annotations

import base64
from typing import Any

import pytest

from receiver.provision.fields import FIELDS, differences, mask, merged
from receiver.provision.resources import Kind, Resource
from tests.unit.provision.world import CLEAN, MAIL, as_listed, changed, resources, wanted

SUBSCRIPTION = next(one for one in resources(wanted(MAIL)) if one.name.endswith("send_mail-sub"))
TOPIC = next(one for one in resources(wanted(MAIL)) if one.name.endswith("send_mail"))
JOB = next(one for one in resources(wanted(CLEAN)) if one.kind is Kind.JOB)

SCRIPT = {"javascriptUdf": {"functionName": "f", "code": "function f(m) { return m; }"}}


def shown(item: Resource, found: Resource) -> list[str]:
    return [str(difference) for difference in differences(item, found)]


@pytest.mark.parametrize("item", resources(wanted()), ids=lambda item: item.id)
def test_what_google_lists_of_it_does_not_differ(item: Resource) -> None:
    assert differences(item, item) == ()
    assert differences(item, as_listed(item)) == ()


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"ackDeadlineSeconds": 10}, "ackDeadlineSeconds: 10 → 60"),
        (
            {"retryPolicy": {"minimumBackoff": "5.5s", "maximumBackoff": "120s"}},
            "retryPolicy.minimumBackoff: 5.5s → 5s",
        ),
        ({"expirationPolicy": {"ttl": "86400s"}}, "expirationPolicy: after 86400s idle → never"),
        ({"expirationPolicy": None}, "expirationPolicy: after 31 idle days (default) → never"),
        ({"messageRetentionDuration": "600s"}, "messageRetentionDuration: 600s → 604800s"),
        ({"topic": "_deleted-topic_"}, f"topic: _deleted-topic_ → {TOPIC.name}"),
        ({"filter": 'attributes.a = "b"'}, 'filter: attributes.a = "b" → none'),
        ({"detached": True}, "detached: yes → none"),
        ({"bigqueryConfig": {"table": "t"}}, "bigqueryConfig: set → none"),
        (
            {"messageTransforms": [SCRIPT, {"aiInference": {}}]},
            "messageTransforms: javascriptUdf; aiInference → none",
        ),
        (
            {"pushConfig": {**SUBSCRIPTION.body["pushConfig"], "attributes": {"x-goog-version": "v1beta1"}}},
            "pushConfig.attributes.x-goog-version: v1beta1 → none",
        ),
    ],
)
def test_drift_of_a_subscription_is_one_line(fields: dict[str, Any], line: str) -> None:
    assert shown(SUBSCRIPTION, changed(SUBSCRIPTION, **fields)) == [line]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"ingestionDataSourceSettings": {"awsKinesis": {}}},
            "ingestionDataSourceSettings: awsKinesis → none",
        ),
        ({"messageTransforms": [SCRIPT]}, "messageTransforms: javascriptUdf → none"),
        ({"messageTransforms": [{**SCRIPT, "disabled": True}]}, "messageTransforms: javascriptUdf → none"),
    ],
)
def test_what_lets_others_into_a_topic_is_one_line(fields: dict[str, Any], line: str) -> None:
    assert shown(TOPIC, changed(TOPIC, **fields)) == [line]
    assert merged(TOPIC, changed(TOPIC, **fields), tuple(fields)) == {}, "it is taken away"


def test_what_an_operator_has_chosen_for_a_topic_of_ours_stays() -> None:
    chosen = {
        "kmsKeyName": "projects/keys/locations/eu/keyRings/r/cryptoKeys/k",
        "schemaSettings": {"schema": "projects/shop-prod/schemas/s"},
        "messageStoragePolicy": {"allowedPersistenceRegions": ["europe-west2"]},
        "ingestionDataSourceSettings": {"platformLogsSettings": {"severity": "INFO"}},
    }
    assert differences(TOPIC, changed(TOPIC, **chosen)) == ()


def test_drift_of_where_it_pushes_is_told_field_by_field() -> None:
    push = {"pushEndpoint": "https://old/tasks/pubsub/", "noWrapper": {"writeMetadata": True}}
    assert shown(SUBSCRIPTION, changed(SUBSCRIPTION, pushConfig=push)) == [
        "pushConfig.pushEndpoint: https://old/tasks/pubsub/ → https://shop-abc-ew.a.run.app/tasks/pubsub/",
        "pushConfig.oidcToken.serviceAccountEmail: none → push@shop-prod.iam.gserviceaccount.com",
        "pushConfig.oidcToken.audience: none → https://shop-abc-ew.a.run.app",
        "pushConfig.noWrapper: with metadata → none",
    ]


def test_a_missing_retry_policy_is_drift() -> None:
    """Without one Pub/Sub tries again at once."""
    assert shown(SUBSCRIPTION, changed(SUBSCRIPTION, retryPolicy=None)) == [
        "retryPolicy.minimumBackoff: none → 5s",
        "retryPolicy.maximumBackoff: none → 120s",
    ]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"schedule": "0 4 * * *"}, "schedule: 0 4 * * * → 0 3 * * *"),
        ({"timeZone": "Etc/UTC"}, "timeZone: UTC → Europe/London"),
        ({"retryConfig": {**JOB.body["retryConfig"], "retryCount": 0}}, "retryConfig.retryCount: 0 → 3"),
        ({"description": None}, f"description: none → {JOB.body['description']}"),
        ({"state": "UPDATE_FAILED"}, "state: UPDATE_FAILED → none"),
    ],
)
def test_drift_of_a_job_is_one_line(fields: dict[str, Any], line: str) -> None:
    assert shown(JOB, changed(as_listed(JOB), **fields)) == [line]


def test_a_jobs_payload_is_shown_as_its_text() -> None:
    target = {**JOB.body["pubsubTarget"], "data": base64.b64encode(b"\xffold").decode()}
    (line,) = shown(JOB, changed(JOB, pubsubTarget=target))
    assert line == (
        'pubsubTarget.data: \\xffold → {"task_id":"scheduled-clean_up","task_name":"clean_up","args":[],"kwargs":{}}'
    )


@pytest.mark.parametrize("state", ["PAUSED", "DISABLED", "ENABLED"])
def test_whether_a_job_is_paused_is_not_ours_to_change(state: str) -> None:
    assert differences(JOB, changed(JOB, state=state)) == ()


def test_utc_has_many_names() -> None:
    utc = changed(JOB, timeZone="UTC")
    for name in ("utc", "Etc/UTC", "GMT", None):
        assert differences(utc, changed(JOB, timeZone=name)) == ()


def test_a_mask_names_each_top_level_field_once() -> None:
    found = changed(SUBSCRIPTION, pushConfig={}, retryPolicy=None, labels=None)
    assert mask(Kind.SUBSCRIPTION, differences(SUBSCRIPTION, found)) == (
        "pushConfig",
        "retryPolicy",
        "labels",
    )


def test_a_failed_update_of_a_job_is_repeated_whole() -> None:
    names = mask(Kind.JOB, differences(JOB, changed(JOB, state="UPDATE_FAILED")))
    assert names == ("description", "schedule", "timeZone", "pubsubTarget", "retryConfig")


def test_labels_of_others_survive_an_update() -> None:
    found = changed(TOPIC, labels={"team": "core", "receiver-service": "old"})
    assert merged(TOPIC, found, ("labels",)) == {"labels": {"team": "core", **TOPIC.body["labels"]}}


@pytest.mark.parametrize("kind", list(FIELDS))
@pytest.mark.parametrize("item", resources(wanted()), ids=lambda item: item.id)
def test_applying_what_the_mask_names_removes_every_difference(kind: Kind, item: Resource) -> None:
    if item.kind is not kind:
        return
    found = Resource(kind, item.name, {"topic": item.body["topic"]} if "topic" in item.body else {})
    names = mask(kind, differences(item, found))
    patched = {**found.body, **merged(item, found, names)}
    assert differences(item, Resource(kind, item.name, patched)) == ()

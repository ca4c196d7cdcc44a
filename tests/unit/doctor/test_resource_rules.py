from __future__ import annotations

from typing import Any

import pytest

from receiver import TaskRoute
from receiver.doctor.findings import Check, Severity
from receiver.doctor.google_look import Provisioned, Roles
from receiver.doctor.resource_rules import judge_resources, judge_roles
from receiver.provision.desired import PushTarget, desired
from receiver.provision.observed import Observed
from receiver.provision.planning import plan
from receiver.provision.resources import Grant, Kind
from tests.unit.doctor.judging import codes, provisioned
from tests.unit.provision import world


class TestResources:
    def drifted(self, **fields: Any) -> dict[str, str]:
        """What is said when the first push subscription has these fields instead."""
        settled = world.settled()
        name = world.SCOPE.subscription(world.send_mail.path)
        found = settled.find(name)
        assert found is not None
        seen = settled.with_(name, world.changed(found, **fields))
        return codes(provisioned(seen))

    def test_what_is_as_provisioned_is_no_finding(self) -> None:
        assert self.drifted() == {}

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"pushConfig": {}}, {"paused": "WARNING"}),
            ({"pushConfig": {}, "labels": None}, {"pulled": "ERROR", "drift": "NOTE"}),
            ({"ackDeadlineSeconds": 10}, {"ack-deadline": "WARNING"}),
            ({"retryPolicy": None}, {"backoff": "WARNING"}),
            ({"deadLetterPolicy": None}, {"dead-letters": "WARNING"}),
            ({"expirationPolicy": {"ttl": "2678400s"}}, {"expiration": "WARNING"}),
            ({"messageRetentionDuration": "600s"}, {"retention": "WARNING"}),
            (
                {"labels": {"receiver-environment": "prod", "receiver-namespace": "else"}},
                {"not-ours": "ERROR"},
            ),
            ({"filter": "x"}, {"not-ours": "ERROR"}),
        ],
    )
    def test_a_field_is_worth_what_it_breaks(self, fields: dict[str, Any], expected: dict[str, str]) -> None:
        assert self.drifted(**fields) == expected

    def test_a_token_that_nobody_checks_is_no_finding(self) -> None:
        """Without push authentication the subscriptions may keep theirs."""
        off = PushTarget(world.URL, None, 100)
        made = plan(desired(world.ROUTES, world.SCOPE, off), world.settled(), world.SCOPE)
        assert any("oidcToken" in str(one) for one in made.entries)
        assert judge_resources(Check.PUBSUB, Provisioned(made, world.settled())) == []

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({}, {}),
            ({"state": "PAUSED"}, {"job-paused": "WARNING"}),
            ({"state": "DISABLED"}, {"job-disabled": "ERROR"}),
            ({"status": {}}, {}),
            ({"status": {"message": "fine"}}, {}),
            ({"status": {"code": 5}}, {"job-failing": "ERROR"}),
            ({"schedule": "1 1 1 1 1"}, {"schedule": "ERROR"}),
            ({"timeZone": "Asia/Tokyo"}, {"schedule": "ERROR"}),
            ({"pubsubTarget": {}}, {"job-target": "ERROR", "drift": "NOTE"}),
        ],
    )
    def test_jobs(self, fields: dict[str, Any], expected: dict[str, str]) -> None:
        settled = world.settled()
        (job,) = [one for one in settled.resources if one.kind is Kind.JOB]
        seen = settled.with_(job.name, world.changed(job, **fields))
        found = provisioned(seen, check=Check.SCHEDULER)
        assert codes(found) == expected

    def test_a_job_that_cloud_scheduler_disabled_cannot_be_resumed(self) -> None:
        settled = world.settled()
        (job,) = [one for one in settled.resources if one.kind is Kind.JOB]
        for state, verb in (("PAUSED", "resume"), ("DISABLED", "delete")):
            seen = settled.with_(job.name, world.changed(job, state=state))
            (found,) = provisioned(seen, check=Check.SCHEDULER)
            assert found.mend.startswith(f"gcloud scheduler jobs {verb} {job.id} ")

    def test_what_nothing_needs_is_told_from_what_still_fires(self) -> None:
        seen = world.settled()
        found = provisioned(seen, world.MAIL)
        assert codes(found) == {"orphan": "WARNING", "kept": "NOTE"}
        assert {one.mend for one in found if one.code == "kept"} == {"receiver provision --prune --apply"}

    def test_what_is_somebody_elses_is_looked_at_and_not_pruned(self) -> None:
        settled = world.settled()
        for one in settled.resources:
            fields: dict[str, Any] = {"description": ""} if one.kind is Kind.JOB else {"labels": {}}
            settled = settled.with_(one.name, world.changed(one, **fields))
        found = provisioned(settled, world.MAIL)
        mends = {one.mend.rpartition(" --project")[0] for one in found if one.code == "kept"}
        assert mends
        assert all(mend.startswith("gcloud ") and " describe " in mend for mend in mends), mends

    def test_a_firing_without_its_topic_is_mended_by_provisioning(self) -> None:
        settled = world.settled()
        (job,) = [one for one in settled.resources if one.kind is Kind.JOB]
        for code, mend in ((5, "receiver provision --apply"), (7, "gcloud scheduler jobs run ")):
            seen = settled.with_(job.name, world.changed(job, status={"code": code}))
            (found,) = provisioned(seen, check=Check.SCHEDULER)
            assert found.mend.startswith(mend)

    def test_nothing_there_is_one_finding_a_kind(self) -> None:
        found = provisioned(Observed())
        assert [(one.code, one.severity) for one in found] == [("missing", Severity.ERROR)] * 3

    def test_roles_are_told_one_by_one(self) -> None:
        agent = "serviceAccount:agent@x"
        missing = (
            Grant("projects/p/topics/t", "roles/pubsub.publisher", agent),
            *(Grant(f"projects/p/subscriptions/{n}", "roles/pubsub.subscriber", agent) for n in range(5)),
            Grant("projects/-/serviceAccounts/push@x", "roles/iam.serviceAccountTokenCreator", agent),
        )
        found = judge_roles(Roles(missing))
        assert [one.severity.name for one in found] == ["WARNING", "WARNING", "NOTE"]
        assert found[1].what.endswith("roles/pubsub.subscriber on 0, 1, 2 and 2 more")

    def test_a_topic_that_everybody_may_publish_to_is_an_error(self) -> None:
        public = Grant("projects/p/topics/t", "roles/pubsub.publisher", "allUsers")
        (found,) = judge_roles(Roles((), (public,)))
        assert (found.code, found.severity) == ("public-topic", Severity.ERROR)
        assert found.what == "there is roles/pubsub.publisher on t to allUsers"
        assert found.mend.startswith("gcloud pubsub topics remove-iam-policy-binding t --project p ")


def test_a_subscription_on_another_topic_is_known_missing_moved_and_left_over() -> None:
    own, taking = TaskRoute(world.send_mail), TaskRoute(world.send_mail, topic="projects/q/topics/uploads")
    name = world.SCOPE.foreign_subscription(world.send_mail.path)
    there = world.settled(taking)
    found = there.find(name)
    assert found is not None
    moved = there.with_(name, world.changed(found, topic="projects/q/topics/others"))
    assert [
        (one.code, name.rpartition("/")[2] in one.what) for one in provisioned(world.settled(own), taking)
    ] == [("missing", True)]
    assert codes(provisioned(moved, taking)) == {"not-ours": "ERROR"}
    (kept,) = provisioned(there, own)
    assert (kept.code, "its topic goes on to send" in kept.what) == ("kept", True)

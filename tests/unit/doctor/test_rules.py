"""The doctor's rules as tables: values in, findings out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from receiver import TaskRoute, task
from receiver.cli import COMMANDS
from receiver.doctor.cloud_run import CloudRunService, service_of
from receiver.doctor.examination import CERTIFICATE_RULES
from receiver.doctor.findings import Check, Diagnosis, Finding, Severity, Unseen, judged
from receiver.doctor.google_look import Provisioned, Roles, region_of
from receiver.doctor.record_look import LoginRefused, RecordSeen, Sweeps, Waiting
from receiver.doctor.record_rules import RECORD_RULES, UNAVAILABLE_RULES, Fleet, judge_record
from receiver.doctor.resource_rules import RESOURCE_RULES, ROLE_RULES
from receiver.doctor.service_rules import SERVICE_RULES, Deployed
from receiver.doctor.setting_rules import SETTING_RULES, Configuration
from receiver.doctor.task_rules import TASK_RULES, Declared
from receiver.errors import DatabaseUnavailable, GoogleUnavailable, SchemaError
from receiver.provision.desired import PUBLISHER
from receiver.provision.observed import Observed
from receiver.provision.planning import plan
from receiver.provision.resources import Grant, Kind
from receiver.settings import Settings
from tests.unit.provision import world

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
GOOD = {
    "GCP_PROJECT_ID": "shop-prod",
    "CLOUD_RUN_SERVICE_URL": "https://shop-1.europe-west2.run.app",
    "TASKS_SERVICE_ACCOUNT": "push@shop-prod.iam.gserviceaccount.com",
    "DATABASE_URL": "postgresql://receiver@db/shop",
    "TASKS_ENVIRONMENT": "prod",
    "TASKS_NAMESPACE": "shop",
}
SERVICE = CloudRunService(
    name="projects/shop-prod/locations/europe-west2/services/shop",
    urls=(GOOD["CLOUD_RUN_SERVICE_URL"],),
    timeout=timedelta(seconds=300),
    concurrency=80,
    max_instances=10,
    cpu_always=False,
    ingress="INGRESS_TRAFFIC_INTERNAL_ONLY",
    invoker_checked=True,
    environment={**GOOD, "DATABASE_PASSWORD": None},
)
WELL = RecordSeen(
    version=160004,
    role="receiver",
    connections=97,
    in_use=3,
    owed=Waiting(),
    expired=Waiting(),
    rejected={},
    sweeps=Sweeps(untouched=False, ended=MINUTE),
)
FLEET = Fleet(instances=9, pool=5, known=True)


def codes(found: Sequence[Finding]) -> dict[str, str]:
    return {one.code: one.severity.name for one in found}


@task
def quick() -> None: ...


@task
def slow() -> None: ...


def configured(environ: dict[str, str]) -> list[Finding]:
    return judged(Check.CONFIGURATION, SETTING_RULES, Configuration.read(environ))


def declared(
    *routes: TaskRoute,
    undeclared: tuple[str, ...] = (),
    environ: dict[str, str] | None = None,
    service: CloudRunService | None = None,
) -> list[Finding]:
    return judged(Check.TASKS, TASK_RULES, Declared(routes, undeclared, environ=environ, service=service))


def deployed(
    there: CloudRunService, invokers: frozenset[str] | None, environ: dict[str, str]
) -> list[Finding]:
    seen = Deployed(there, invokers, Settings.from_environ(GOOD), environ)
    return judged(Check.SERVICE, SERVICE_RULES, seen)


def provisioned(seen: Observed, *routes: TaskRoute, check: Check = Check.PUBSUB) -> list[Finding]:
    made = plan(world.wanted(*routes), seen, world.SCOPE)
    return judged(check, RESOURCE_RULES, Provisioned(made, seen))


class TestConfiguration:
    @pytest.mark.parametrize(
        ("changed", "expected"),
        [
            ({}, {}),
            ({"DATABASE_URL": ""}, {"setting-missing": "ERROR"}),
            ({"TASKS_THREADS": "0"}, {"setting-refused": "ERROR"}),
            ({"TASKS_PUSH_AUTH": "off"}, {"push-auth-off": "WARNING"}),
            ({"K_SERVICE": "shop", "TASKS_PUSH_AUTH": "off"}, {"setting-refused": "ERROR"}),
            ({"TASKS_OIDC_CERTS_URL": "https://keys.example/certs"}, {"certificates-elsewhere": "WARNING"}),
            (
                {"TASKS_OIDC_CERTS_URL": "https://googleapis.com.evil.example/"},
                {"certificates-elsewhere": "WARNING"},
            ),
            ({"TASKS_OIDC_CERTS_URL": "http://127.0.0.1:1/"}, {"certificates-elsewhere": "NOTE"}),
            ({"PUBSUB_EMULATOR_HOST": "127.0.0.1:1"}, {"stand-in": "NOTE"}),
        ],
    )
    def test_what_is_said(self, changed: dict[str, str], expected: dict[str, str]) -> None:
        assert codes(configured(GOOD | changed)) == expected

    def test_every_bad_value_is_named_and_none_of_a_secret(self) -> None:
        bad = {
            "TASKS_THREADS": "0",
            "PORT": "x",
            "DATABASE_URL": "mysql://u:hunter2@h/d",
            "TASKS_LEASE_SECOND": "1",
        }
        settings = Configuration.read(GOOD | bad).settings
        refused = [one for one in configured(GOOD | bad) if one.code == "setting-refused"]
        assert sorted(one.what.split()[0] for one in refused) == sorted(bad)
        assert settings == replace(
            Settings.from_environ({**GOOD, "DATABASE_URL": ""}), instance=settings.instance
        )
        assert "hunter2" not in str(refused)

    def test_everything_that_is_missing_is_named(self) -> None:
        found = configured({})
        assert [one.what.split()[0] for one in found if one.code == "setting-missing"] == [
            "GCP_PROJECT_ID",
            "CLOUD_RUN_SERVICE_URL",
            "TASKS_SERVICE_ACCOUNT",
            "DATABASE_URL",
        ]


class TestTasks:
    @pytest.mark.parametrize(
        ("options", "there", "expected"),
        [
            ({}, None, {}),
            ({"ack_deadline": 600}, None, {}),
            ({"ack_deadline": 600}, SERVICE, {"timeout-over-request": "ERROR"}),
            ({"ack_deadline": 300}, SERVICE, {}),
            ({"ack_deadline": 600}, replace(SERVICE, timeout=timedelta(seconds=540)), {}),
            (
                {"ack_deadline": 600},
                replace(SERVICE, timeout=timedelta(seconds=539)),
                {"timeout-over-request": "ERROR"},
            ),
            ({"ack_deadline": 600}, replace(SERVICE, cpu_always=True), {"timeout-over-request": "WARNING"}),
            ({"ack_deadline": 60, "timeout": 900}, None, {"timeout-over-ack-deadline": "WARNING"}),
            ({"ack_deadline": 60, "timeout": 900}, SERVICE, {"timeout-over-ack-deadline": "WARNING"}),
            ({"ack_deadline": 60, "timeout": 900}, replace(SERVICE, cpu_always=True), {}),
        ],
    )
    def test_timeouts(
        self, options: dict[str, Any], there: CloudRunService | None, expected: dict[str, str]
    ) -> None:
        assert codes(declared(TaskRoute(slow, **options), service=there)) == expected

    def test_the_timeout_that_is_proposed_is_one_that_cloud_run_has(self) -> None:
        (found,) = declared(TaskRoute(slow, ack_deadline=600), service=SERVICE)
        assert found.mend.endswith("--region europe-west2 --project shop-prod --timeout 540")

    def test_a_kill_switch_is_the_services_where_that_is_known(self) -> None:
        route = TaskRoute(slow, kill_switch="ENABLE_SLOW")
        assert codes(declared(route, environ={"ENABLE_SLOW": "off"})) == {"kill-switch-off": "WARNING"}
        assert declared(route, environ={"ENABLE_SLOW": "off"}, service=SERVICE) == []
        off = replace(SERVICE, environment={"ENABLE_SLOW": "No"})
        assert codes(declared(route, service=off)) == {"kill-switch-off": "WARNING"}

    def test_a_task_without_a_route_is_named(self) -> None:
        (found,) = declared(undeclared=("shop.tasks.forgotten",))
        assert (found.code, "TaskRoute(forgotten)" in found.mend) == ("task-undeclared", True)


class TestDatabase:
    @pytest.mark.parametrize(
        ("seen", "expected"),
        [
            (WELL, {}),
            (replace(WELL, read_only=True), {"read-only": "ERROR"}),
            (replace(WELL, schema=SchemaError("it is old; run `receiver migrate`")), {"schema": "ERROR"}),
            (replace(WELL, version=130011), {"postgresql-version": "ERROR"}),
            (
                replace(WELL, undeletable=("task_attempts",)),
                {"privileges": "WARNING"},
            ),
            (replace(WELL, connections=90), {}),
            (replace(WELL, connections=89), {"connections": "WARNING"}),
            (replace(WELL, connections=9), {"connections": "ERROR"}),
            (replace(WELL, owed=Waiting(3, HOUR)), {"owed": "WARNING"}),
            (replace(WELL, expired=Waiting(3, HOUR)), {"expired-leases": "WARNING"}),
            (replace(WELL, rejected={"unknown_task": Waiting(1, HOUR)}), {"rejected": "WARNING"}),
            (replace(WELL, sweeps=Sweeps(untouched=False, ended=None)), {"sweeper": "WARNING"}),
            (replace(WELL, sweeps=Sweeps(untouched=False, ended=11 * MINUTE)), {"sweeper": "WARNING"}),
            (replace(WELL, sweeps=Sweeps(untouched=True, ended=None)), {"sweeper": "NOTE"}),
            (replace(WELL, owed=None, expired=None, rejected=None, sweeps=None), {}),
        ],
    )
    def test_what_is_said(self, seen: RecordSeen, expected: dict[str, str]) -> None:
        assert codes(judge_record(seen, FLEET)) == expected

    def test_a_database_that_cannot_be_asked_is_one_finding(self) -> None:
        for error, code in (
            (DatabaseUnavailable("no answer"), "database-unreachable"),
            (LoginRefused("no such role"), "database-refuses"),
        ):
            (found,) = judged(Check.DATABASE, UNAVAILABLE_RULES, error)
            assert (found.code, str(error) in found.what) == (code, True)

    def test_what_is_proposed_fits(self) -> None:
        seen = replace(WELL, connections=47)
        (found,) = judge_record(seen, replace(FLEET, instances=100, known=False))
        assert "100 instances (Cloud Run's default) of 10 connections each need 1000" in found.what
        assert found.mend.endswith("--max-instances 4")


class TestService:
    @pytest.mark.parametrize(
        ("there", "invokers", "expected"),
        [
            (SERVICE, {"allUsers"}, {}),
            (SERVICE, None, {}),
            (replace(SERVICE, invoker_checked=False), set(), {}),
            (SERVICE, set(), {"invoker-checked": "ERROR"}),
            (SERVICE, {f"serviceAccount:{GOOD['TASKS_SERVICE_ACCOUNT']}"}, {"invoker-checked": "WARNING"}),
            (replace(SERVICE, ingress="INGRESS_TRAFFIC_ALL"), None, {"ingress-open": "NOTE"}),
            (replace(SERVICE, concurrency=81), None, {"concurrency": "WARNING"}),
            (replace(SERVICE, cpu_always=True), None, {"cpu-always": "NOTE"}),
            (replace(SERVICE, urls=("https://other.run.app",)), None, {"service-url": "WARNING"}),
        ],
    )
    def test_what_is_said(
        self, there: CloudRunService, invokers: set[str] | None, expected: dict[str, str]
    ) -> None:
        admitted = None if invokers is None else frozenset(invokers)
        assert codes(deployed(there, admitted, GOOD)) == expected

    @pytest.mark.parametrize(
        ("there", "here", "severity", "mend"),
        [
            ({"TASKS_NAMESPACE": "other"}, {}, Severity.ERROR, "--update-env-vars TASKS_NAMESPACE=shop"),
            (
                {"CLOUD_RUN_SERVICE_URL": "https://x"},
                {},
                Severity.ERROR,
                "--update-env-vars CLOUD_RUN_SERVICE_URL=https",
            ),
            ({}, {"TASKS_MODULES": "a,b"}, Severity.WARNING, "--update-env-vars '^|^TASKS_MODULES=a,b'"),
            ({"TASKS_THREADS": "9"}, {}, Severity.WARNING, "--update-env-vars TASKS_THREADS=32"),
        ],
    )
    def test_settings_that_differ(
        self, there: dict[str, str], here: dict[str, str], severity: Severity, mend: str
    ) -> None:
        (found,) = deployed(replace(SERVICE, environment=GOOD | there), None, GOOD | here)
        assert (found.code, found.severity) == ("setting-differs", severity)
        assert mend in found.mend

    @pytest.mark.parametrize(
        ("there", "here"),
        [
            (
                {"DATABASE_URL": "postgresql://a:hunter2@b/c"},
                {},
            ),  # nobody's to show, and often another way to the same
            ({"TASKS_STATUS": "off"}, {}),  # the default, said
            ({"TASKS_THREADS": None}, {"TASKS_THREADS": "9"}),  # from a secret
            ({"CLOUD_RUN_SERVICE_URL": GOOD["CLOUD_RUN_SERVICE_URL"] + "/"}, {}),
            ({"PORT": "9090", "OWN": "1"}, {"K_SERVICE": "x"}),
        ],
    )
    def test_settings_that_do_not(self, there: dict[str, str | None], here: dict[str, str]) -> None:
        assert deployed(replace(SERVICE, environment=GOOD | there), None, GOOD | here) == []

    @pytest.mark.parametrize(
        ("url", "region"),
        [
            ("https://shop-415104041262.europe-west2.run.app", "europe-west2"),
            ("https://shop-abc-ew.a.run.app", None),
            ("https://tasks.shop.example", None),
            (None, None),
        ],
    )
    def test_an_address_says_where_the_service_is(self, url: str | None, region: str | None) -> None:
        assert region_of(url) == region


class TestServicesAsGoogleWritesThem:
    NAME = "projects/p/locations/l/services/s"

    def test_what_is_left_out_is_cloud_runs_default(self) -> None:
        found = service_of({"name": self.NAME})
        assert (found.timeout, found.concurrency, found.max_instances, found.cpu_always) == (
            timedelta(seconds=300),
            80,
            None,
            False,
        )

    @pytest.mark.parametrize(
        ("resources", "always"), [(None, False), ({"cpuIdle": True}, False), ({"limits": {"cpu": "1"}}, True)]
    )
    def test_billing_is_read_from_the_container_that_serves(
        self,
        resources: dict[str, Any] | None,
        always: bool,  # noqa: FBT001 - a column of the table
    ) -> None:
        serving = {"ports": [{"containerPort": 8080}]} | (
            {} if resources is None else {"resources": resources}
        )
        found = service_of({"name": self.NAME, "template": {"containers": [{"name": "proxy"}, serving]}})
        assert found.cpu_always is always

    def test_the_lower_of_two_limits_holds(self) -> None:
        body = {
            "name": self.NAME,
            "template": {"scaling": {"maxInstanceCount": 9}},
            "scaling": {"maxInstanceCount": 4},
        }
        assert service_of(body).max_instances == 4

    def test_what_is_written_in_another_way_is_one_error(self) -> None:
        with pytest.raises(GoogleUnavailable, match="in a way that is not known"):
            service_of({"name": self.NAME, "template": {"timeout": "soon"}})


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
            ({"pushConfig": {}}, {"endpoint": "ERROR", "audience": "ERROR", "account": "ERROR"}),
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
        found = judged(Check.ROLES, ROLE_RULES, Roles(missing))
        assert [one.severity.name for one in found] == ["WARNING", "WARNING", "NOTE"]
        assert found[1].what.endswith("roles/pubsub.subscriber on 0, 1, 2 and 2 more")


class TestDiagnosis:
    @pytest.mark.parametrize(
        ("severities", "unseen", "code"),
        [
            ([], 0, 0),
            ([Severity.NOTE], 0, 0),
            ([], 1, 1),
            ([Severity.WARNING], 0, 1),
            ([Severity.ERROR], 1, 2),
        ],
    )
    def test_the_exit_code_is_that_of_the_worst(
        self, severities: list[Severity], unseen: int, code: int
    ) -> None:
        findings = [Finding(Check.TASKS, severity, "c", "what", "why", "mend") for severity in severities]
        assert Diagnosis.of(findings, [Unseen(Check.ROLES, "why")] * unseen).exit_code == code

    def test_the_worst_comes_first(self) -> None:
        order = [(Check.SERVICE, Severity.NOTE), (Check.ROLES, Severity.ERROR), (Check.TASKS, Severity.ERROR)]
        diagnosis = Diagnosis.of([Finding(check, severity, "c", "", "", "") for check, severity in order])
        assert [one.check for one in diagnosis.findings] == [Check.TASKS, Check.ROLES, Check.SERVICE]


def test_mends_name_commands_that_there_are() -> None:
    """Whatever `receiver ...` a mend proposes can be typed."""
    everything = [
        judge_record(
            replace(
                WELL,
                schema=SchemaError("a; b"),
                owed=Waiting(1),
                expired=Waiting(1),
                rejected={"r": Waiting(1)},
                sweeps=Sweeps(untouched=False, ended=None),
            ),
            FLEET,
        ),
        judged(Check.TASKS, TASK_RULES, Declared(failure="x")),
        judged(Check.ROLES, ROLE_RULES, Roles((Grant("t", PUBLISHER, "m"),))),
    ]
    named = {one.mend.split()[1] for found in everything for one in found if one.mend.startswith("receiver ")}
    assert {"executions", "provision", "check", "migrate", "rejected", "sweep"} <= named
    assert named <= {*COMMANDS}


TABLES = (
    SETTING_RULES,
    TASK_RULES,
    UNAVAILABLE_RULES,
    RECORD_RULES,
    CERTIFICATE_RULES,
    RESOURCE_RULES,
    ROLE_RULES,
    SERVICE_RULES,
)


def test_every_code_is_on_the_page_and_nothing_else(project_root: Path) -> None:
    said = {rule.code for table in TABLES for rule in table}
    page = (project_root / "docs" / "doctor.md").read_text()
    assert sorted(said) == sorted(re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE))

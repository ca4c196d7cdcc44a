"""`receiver doctor` as it is called: against a real PostgreSQL, Google's stand-in and the local Pub/Sub."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from receiver.cli import receiver
from receiver.emulator import in_thread
from receiver.errors import ReceiverError
from receiver.local_postgres.server import free_port
from receiver.maintenance import SWEEP
from tests import google_fake
from tests.google_fake import GoogleFake
from tests.stage.commands import SETTINGS
from tests.stage.record import Record
from tests.stage.servers import as_role, login

PLUGIN = """
from receiver import TaskRoute, task

@task
async def send_mail(to: str) -> None: ...

@task
def clean_up() -> None: ...

@task
def forgotten() -> None: ...

tasks = [
    TaskRoute(send_mail, ack_deadline=60),
    TaskRoute(clean_up, schedule="0 3 * * *", kill_switch="ENABLE_CLEANUP"),
]
"""
MAIL = "prod--shop.tasks--doctor_shop.send_mail"
CLEAN_JOB = "projects/shop-prod/locations/europe-west2/jobs/prod--shop-scheduler--doctor_shop-clean_up"
SERVICE = "projects/shop-prod/locations/europe-west2/services/receiver"
URL = "https://receiver-415104041262.europe-west2.run.app"
INVOKE = [{"role": "roles/run.invoker", "members": ["allUsers"]}]
SWEPT = """
INSERT INTO task_executions (task_id, task_name, task_path, namespace, environment, args, kwargs, status, final, enqueued_at,
                             published_at, started_at, finished_at, attempt, fence)
VALUES ('scheduled-receiver.maintenance.sweep-1', 'receiver.maintenance.sweep', 'receiver.maintenance.sweep', 'shop', 'prod',
        '[]', '{}', 'SUCCESSFUL', true, now(), now(), now(), now(), 1, 1)
"""

Run = Callable[..., "Seen"]


class Seen:
    """How the command ended."""

    def __init__(self, code: int, stdout: str, stderr: str = "") -> None:
        self.code = code
        self.stdout = stdout
        self.stderr = stderr

    @property
    def report(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.stdout)
        assert read["exit_code"] == self.code
        return read

    @property
    def codes(self) -> dict[str, str]:
        """Each code that was found, with its severity."""
        return {one["code"]: one["severity"] for one in self.report["findings"]}

    def finding(self, code: str) -> dict[str, str]:
        (one,) = [one for one in self.report["findings"] if one["code"] == code]
        found: dict[str, str] = one
        return found


@pytest.fixture
def google() -> Iterator[GoogleFake]:
    """Google's stand-in, with the service deployed as the docs say."""
    with google_fake.running() as fake:
        fake.run.deploy(SERVICE, URL, scaling={"maxInstanceCount": 5}, env=environment(PLACE))
        fake.policies.write(SERVICE, INVOKE)
        yield fake


PLACE = {
    "GCP_PROJECT_ID": "shop-prod",
    "CLOUD_RUN_SERVICE_URL": URL,
    "TASKS_SERVICE_ACCOUNT": "push@shop-prod.iam.gserviceaccount.com",
    "TASKS_ENVIRONMENT": "prod",
    "TASKS_NAMESPACE": "shop",
    "TASKS_SUBSCRIPTIONS": "own",
    "TASKS_MODULES": "doctor_shop",
}


def environment(variables: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Variables as Cloud Run writes them."""
    return {name: {"value": value} for name, value in variables.items()}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a command of `receiver` in this process, with these variables and no other of ours."""
    (tmp_path / "doctor_shop.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    hidden: dict[str, str | None] = {name: None for name in os.environ if name.startswith(SETTINGS)}

    def call(*arguments: str, env: Mapping[str, str]) -> Seen:
        ran = CliRunner().invoke(receiver, arguments, env=hidden | PLACE | dict(env))
        if ran.exception is not None and not isinstance(ran.exception, SystemExit | ReceiverError):
            raise ran.exception
        return Seen(ran.exit_code, ran.stdout, ran.stderr)

    yield call
    sys.modules.pop("doctor_shop", None)


@pytest.fixture
def well(google: GoogleFake, database_url: str, certs_url: str) -> dict[str, str]:
    """The variables that lead to the stand-in, the record, and certificates."""
    return {
        "PUBSUB_EMULATOR_HOST": google.host,
        "TASKS_SCHEDULER_ENDPOINT": google.url,
        "DATABASE_URL": database_url,
        "TASKS_OIDC_CERTS_URL": certs_url,
    }


@pytest.fixture
def provisioned(run: Run, google: GoogleFake, well: dict[str, str], record: Record) -> dict[str, str]:
    """Everything as it should be, a sweep just done."""
    assert run("provision", "--apply", "--yes", "--grant", env=well).code == 0
    asyncio.run(record.fetch(SWEPT))
    return well


def test_what_is_well_is_said_in_few_words(run: Run, provisioned: dict[str, str], google: GoogleFake) -> None:
    google.calls.clear()
    seen = run("doctor", "--json", env=provisioned)
    assert seen.codes == {"stand-in": "note", "certificates-elsewhere": "note", "task-undeclared": "warning"}
    assert (seen.report["unseen"], seen.report["skipped"]) == ([], [])
    assert google.writes() == []
    people = run("doctor", env=provisioned)
    assert people.code == 1
    assert people.stdout.splitlines()[0] == (
        "warning  tasks: doctor_shop.forgotten is a task without a route; it has no topic, and a message for it is rejected"
    )
    assert people.stdout.splitlines()[1].strip().startswith("-> add TaskRoute(forgotten)")
    assert people.stdout.splitlines()[-1] == "0 errors, 1 warning, 2 notes"
    assert "\x1b" not in people.stdout


def test_drift_of_every_sort_is_found_with_the_command_that_mends_it(
    run: Run, provisioned: dict[str, str], google: GoogleFake
) -> None:
    subscription = google.pubsub.subscriptions[f"projects/shop-prod/subscriptions/{MAIL}-sub"]
    subscription["pushConfig"]["oidcToken"]["audience"] = "https://elsewhere"
    subscription["pushConfig"]["oidcToken"]["serviceAccountEmail"] = "other@shop-prod.iam.gserviceaccount.com"
    del subscription["deadLetterPolicy"], subscription["retryPolicy"]
    google.policies.write(subscription["name"], [])
    topic = google.pubsub.topics[f"projects/shop-prod/topics/{MAIL}"]
    topic["ingestionDataSourceSettings"] = {"cloudStorage": {"bucket": "theirs"}}
    google.policies.write(topic["name"], [{"role": "roles/pubsub.publisher", "members": ["allUsers"]}])
    google.scheduler.jobs[CLEAN_JOB]["state"] = "PAUSED"
    google.scheduler.jobs[CLEAN_JOB]["status"] = {"code": 7, "message": "Permission\ndenied"}
    seen = run("doctor", "--json", env=provisioned)
    assert seen.code == 2
    found = seen.codes
    assert {name: found[name] for name in ("audience", "account", "dead-letters", "backoff")} == {
        "audience": "error",
        "account": "error",
        "dead-letters": "warning",
        "backoff": "warning",
    }
    (pushes,) = [one for one in seen.report["findings"] if one["code"] == "audience"]
    assert "https://elsewhere → " + URL in pushes["what"]
    assert pushes["mend"] == "receiver provision --apply"
    assert found["ingestion"] == found["public-topic"] == "error"
    assert seen.finding("public-topic")["what"] == f"there is roles/pubsub.publisher on {MAIL} to allUsers"
    assert found["role-missing"] == "warning"
    assert f"{MAIL}-sub" in seen.finding("role-missing")["what"]
    assert seen.finding("role-missing")["mend"] == "receiver provision --grant --apply"
    assert seen.finding("job-paused")["mend"].startswith(
        "gcloud scheduler jobs resume prod--shop-scheduler--"
    )
    assert "code 7 (Permission denied)" in seen.finding("job-failing")["what"]

    # What it says mends it does.
    google.policies.write(topic["name"], [])
    assert run("provision", "--apply", "--yes", "--grant", env=provisioned).code == 0
    assert not {"audience", "account", "dead-letters", "backoff", "role-missing", "ingestion"} & set(
        run("doctor", "--json", env=provisioned).codes
    )


def test_nothing_provisioned_is_said_kind_by_kind(run: Run, well: dict[str, str]) -> None:
    seen = run("doctor", "--json", env=well)
    missing = [one for one in seen.report["findings"] if one["code"] == "missing"]
    assert [(one["check"], one["what"].split()[:4]) for one in missing] == [
        ("pubsub", ["there", "are", "no", "4"]),
        ("pubsub", ["there", "are", "no", "4"]),
        ("scheduler", ["there", "are", "no", "2"]),
    ]
    assert seen.codes["sweeper"] == "note", "nothing has run at all"
    assert seen.report["unseen"] == [], "roles on what is not there are nobody's to miss"


def test_the_service_as_it_is_deployed_is_held_against_the_settings(
    run: Run, provisioned: dict[str, str], google: GoogleFake
) -> None:
    google.run.deploy(
        SERVICE,
        URL,
        timeout="20s",
        maxInstanceRequestConcurrency=200,
        ingress="INGRESS_TRAFFIC_ALL",
        env=environment(
            PLACE | {"TASKS_SERVICE_ACCOUNT": "other@x.iam.gserviceaccount.com", "ENABLE_CLEANUP": "off"}
        ),
    )
    google.policies.write(SERVICE, [])
    seen = run("doctor", "--json", env=provisioned | {"ENABLE_CLEANUP": "on"})
    flags = "receiver --region europe-west2 --project shop-prod"
    assert seen.finding("kill-switch-off")["mend"] == (
        f"gcloud run services update {flags} --remove-env-vars ENABLE_CLEANUP"
    )
    assert seen.finding("setting-differs")["severity"] == "error"
    assert seen.finding("concurrency")["mend"] == f"gcloud run services update {flags} --concurrency 80"
    assert seen.finding("invoker-checked")["severity"] == "error"
    assert seen.finding("ingress-open")["severity"] == "note"
    over = [one for one in seen.report["findings"] if one["code"] == "timeout-over-request"]
    assert {one["what"].split()[0] for one in over} == {"send_mail", "clean_up", SWEEP.name}
    assert over[0]["mend"].startswith(f"gcloud run services update {flags} --timeout ")
    # 100 instances where the service names none, and the test's server takes 200.
    assert seen.finding("connections")["mend"].startswith(
        f"gcloud run services update {flags} --max-instances 1"
    )
    assert "connections" not in run("doctor", "--json", "--max-instances", "2", env=provisioned).codes


def test_further_services_are_looked_at_as_well(
    run: Run, provisioned: dict[str, str], google: GoogleFake
) -> None:
    """What one of them lacks is named with its own command; the connections are those of all."""
    heavy, url = SERVICE.replace("/receiver", "/heavy"), URL.replace("//", "//heavy-")
    urls = {"TASKS_SERVICE_URLS": f"heavy={url}"}
    missing = run("doctor", "--json", env=provisioned | urls)
    assert [one["why"].partition(";")[0] for one in missing.report["unseen"]] == [
        f"no service in europe-west2 answers at {url}"
    ]
    google.run.deploy(
        heavy,
        url,
        maxInstanceRequestConcurrency=200,
        scaling={"maxInstanceCount": 30},
        env=environment(PLACE | urls),
    )
    google.policies.write(heavy, INVOKE)
    seen = run("doctor", "--json", env=provisioned | urls)
    assert seen.report["unseen"] == []
    flags = "heavy --region europe-west2 --project shop-prod"
    assert seen.finding("concurrency")["mend"] == f"gcloud run services update {flags} --concurrency 80"
    assert seen.finding("setting-differs")["what"].startswith("TASKS_SERVICE_URLS is not set in receiver, ")
    assert "35 instances" in seen.finding("connections")["what"]


def test_a_service_that_is_not_there_is_told_apart_from_one_that_is_healthy(
    run: Run, provisioned: dict[str, str]
) -> None:
    for arguments, why in (
        (["--service", "nope"], "there is no service nope in europe-west2; say where with --region"),
        (
            ["--region", "us-central1"],
            f"no service in us-central1 answers at {URL}; name it with --service and --region",
        ),
        (["--service", "receiver"], None),
    ):
        seen = run("doctor", "--json", *arguments, env=provisioned)
        assert [one["why"] for one in seen.report["unseen"]] == [why][: why is not None]


def test_a_database_behind_is_found_and_migrating_mends_it(
    run: Run, provisioned: dict[str, str], empty_database_url: str
) -> None:
    behind = provisioned | {"DATABASE_URL": empty_database_url}
    seen = run("doctor", "--json", env=behind)
    assert (seen.code, seen.finding("schema")["mend"]) == (2, "receiver migrate")
    assert run("migrate", env=behind).code == 0
    assert "schema" not in run("doctor", "--json", env=behind).codes


WAITING = (
    """
    INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, enqueued_at, finished_at, error_type,
                                 dead_letters)
    VALUES ('given up while it ran', 'send_mail', 'doctor_shop.send_mail', 'shop', '[]', '{}', 'FAILED', now() - interval '30 minutes',
            now() - interval '20 minutes', 'ValueError', 1)
    """,
    """
    INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, enqueued_at)
    VALUES ('owed', 'send_mail', 'doctor_shop.send_mail', 'shop', '[]', '{}', 'READY', now() - interval '1 hour')
    """,
    """
    INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, enqueued_at, published_at,
                                 started_at, attempt, fence, claim_token, lease_owner, lease_expires_at)
    VALUES ('lost', 'send_mail', 'doctor_shop.send_mail', 'shop', '[]', '{}', 'RUNNING', now() - interval '2 days', NULL, now(), 1, 1,
            gen_random_uuid(), 'somebody', now() - interval '2 days')
    """,
    """
    INSERT INTO task_executions (task_id, task_name, task_path, namespace, args, kwargs, status, enqueued_at, run_after,
                                 dead_letters, dead_lettered_at)
    VALUES ('given up', 'send_mail', 'doctor_shop.send_mail', 'shop', '[]', '{}', 'READY', now() - interval '2 days',
            now() + interval '1 hour', 3, now() - interval '1 day')
    """,
    """
    INSERT INTO rejected_messages (key, body, reason, detail, namespace, count, first_seen, last_seen)
    VALUES ('k', '', 'unknown_task', 'nope', 'shop', 5, now() - interval '3 hours', now())
    """,
    "UPDATE task_executions SET environment = 'prod' WHERE namespace = 'shop'",
    "UPDATE rejected_messages SET environment = 'prod' WHERE namespace = 'shop'",
    "UPDATE task_executions SET finished_at = now() - interval '14 minutes' WHERE task_path = 'receiver.maintenance.sweep'",
)


def test_what_waits_in_the_record_is_counted(run: Run, provisioned: dict[str, str], record: Record) -> None:
    for statement in WAITING:
        asyncio.run(record.fetch(statement))
    seen = run("doctor", "--json", env=provisioned)
    assert seen.code == 1
    assert "2 executions are due and not published, the first for 1 h" in seen.finding("owed")["what"]
    assert "the first 2 d ago" in seen.finding("expired-leases")["what"]
    assert "1 message is kept as unknown_task, the first for 3 h" in seen.finding("rejected")["what"]
    assert (
        "1 execution was given up by Pub/Sub with no end yet, the first for 1 d"
        in seen.finding("given-up")["what"]
    )
    assert seen.codes["sweeper"] == "warning"
    elsewhere = run("doctor", "--json", env=provisioned | {"TASKS_NAMESPACE": "other"})
    assert not {"owed", "expired-leases", "rejected"} & set(elsewhere.codes)


def test_a_role_without_rights_is_told_what_it_lacks(
    run: Run, provisioned: dict[str, str], record: Record
) -> None:
    asyncio.run(record.fetch(login("poor") + " CONNECTION LIMIT 3"))
    try:
        url = as_role(provisioned["DATABASE_URL"], "poor")
        seen = run("doctor", "--json", env=provisioned | {"DATABASE_URL": url})
        assert "may not read receiver_alembic_version" in seen.finding("schema")["what"]
        assert seen.finding("connections")["severity"] == "error", (
            "three connections are too few for one instance"
        )
        for grant in (
            "GRANT SELECT ON receiver_alembic_version TO poor",
            "GRANT SELECT, INSERT, UPDATE ON task_executions, task_attempts, rejected_messages TO poor",
        ):
            asyncio.run(record.fetch(grant))
        seen = run("doctor", "--json", env=provisioned | {"DATABASE_URL": url})
        assert "schema" not in seen.codes
        assert "GRANT DELETE ON task_executions" in seen.finding("privileges")["mend"]
    finally:
        asyncio.run(record.fetch("DROP OWNED BY poor"))
        asyncio.run(record.fetch("DROP ROLE poor"))


def test_a_database_that_refuses_and_one_that_takes_no_writes(
    run: Run, provisioned: dict[str, str], record: Record
) -> None:
    url = provisioned["DATABASE_URL"]
    name = url.rpartition("/")[2].partition("?")[0]
    gone = run("doctor", "--json", env=provisioned | {"DATABASE_URL": url.replace(name, "nowhere")})
    assert 'database "nowhere" does not exist' in gone.finding("database-refuses")["what"]
    assert "synchronous-commit" not in run("doctor", "--json", env=provisioned).codes
    asyncio.run(record.fetch(f"ALTER DATABASE {name} SET synchronous_commit = off"))
    asyncio.run(record.fetch(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    seen = run("doctor", "--json", env=provisioned)
    assert (seen.codes["read-only"], seen.codes["synchronous-commit"]) == ("error", "warning")


def test_where_nothing_can_be_reached_everything_is_named_and_nothing_raised(run: Run) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    seen = run(
        "doctor",
        "--json",
        env={
            "PUBSUB_EMULATOR_HOST": nowhere,
            "TASKS_SCHEDULER_ENDPOINT": f"http://{nowhere}",
            "TASKS_OIDC_CERTS_URL": f"http://{nowhere}/certs",
            "DATABASE_URL": f"postgresql://nobody:secret@{nowhere}/none",
        },
    )
    assert seen.code == 2
    assert {one["check"] for one in seen.report["unseen"]} == {"pubsub", "scheduler", "roles", "service"}
    assert {"database-unreachable", "certificates-unreachable"} <= set(seen.codes)
    assert "secret" not in seen.stdout


def test_what_may_not_be_read_is_said_with_the_role_and_the_rest_is_seen(
    run: Run, provisioned: dict[str, str], google: GoogleFake
) -> None:
    google.fail("GET /v1/projects/shop-prod/subscriptions$", 403, "PERMISSION_DENIED", "no", times=9)
    google.fail(":getIamPolicy", 403, "PERMISSION_DENIED", "no", times=99)
    google.fail("GET /v2/", 403, "PERMISSION_DENIED", "no", times=9)
    google.scheduler.jobs[CLEAN_JOB]["state"] = "PAUSED"
    seen = run("doctor", "--json", env=provisioned)
    why = {one["check"]: one["why"] for one in seen.report["unseen"]}
    assert why["pubsub"].endswith("no; the account that provisions needs roles/pubsub.editor")
    assert why["service"].endswith("no; the account that runs the doctor needs roles/run.viewer")
    assert "roles/pubsub.admin" in why["roles"]
    assert seen.codes["job-paused"] == "warning"


def test_values_that_are_not_allowed_are_all_named_and_the_rest_is_looked_at(
    run: Run, provisioned: dict[str, str]
) -> None:
    broken = provisioned | {
        "TASKS_THREADS": "many",
        "TASKS_RETENTION": "1d",
        "TASKS_LEASE_SECOND": "5",
        "TASKS_MODULES": "gone",
    }
    seen = run("doctor", "--json", env=broken)
    refused = [one["what"] for one in seen.report["findings"] if one["code"] == "setting-refused"]
    assert sorted(line.partition(" is ")[0] for line in refused) == [
        "TASKS_LEASE_SECOND",
        "TASKS_RETENTION",
        "TASKS_THREADS",
    ]
    assert "there is no module gone" in seen.finding("plugins-broken")["what"]
    assert {one["check"] for one in seen.report["unseen"]} == {"pubsub", "scheduler", "roles"}
    assert "schema" not in seen.codes


def test_of_a_stand_in_for_pubsub_alone_only_that_is_looked_at(
    run: Run, database_url: str, certs_url: str
) -> None:
    with in_thread.running() as local:
        env = {
            "PUBSUB_EMULATOR_HOST": local.host,
            "DATABASE_URL": database_url,
            "TASKS_OIDC_CERTS_URL": certs_url,
        }
        assert run("provision", "--apply", "--yes", env=env).code == 0
        seen = run("doctor", "--json", env=env)
    assert seen.report["skipped"] == ["scheduler", "roles", "service"]
    assert seen.report["unseen"] == []
    assert not [one for one in seen.report["findings"] if one["check"] == "pubsub"]


def test_the_names_that_programs_read_stay(run: Run, well: dict[str, str]) -> None:
    skips = [
        word
        for check in ("database", "certificates", "pubsub", "scheduler", "roles", "service")
        for word in ("--skip", check)
    ]
    report = run("doctor", "--json", *skips, env=well).report
    assert list(report) == ["exit_code", "errors", "warnings", "notes", "findings", "unseen", "skipped"]
    assert report["skipped"] == ["database", "certificates", "pubsub", "scheduler", "roles", "service"]
    for one in report["findings"]:
        assert list(one) == ["check", "severity", "code", "what", "why", "mend"]

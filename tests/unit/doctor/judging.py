"""What the doctor finds in a shop in which everything is well, unless a test changes it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from receiver import TaskRoute, task
from receiver.doctor.cloud_run import CloudRunService
from receiver.doctor.findings import Check, Finding
from receiver.doctor.google_look import Provisioned
from receiver.doctor.record_look import RecordSeen, Sweeps, Waiting
from receiver.doctor.record_rules import Fleet
from receiver.doctor.resource_rules import judge_resources
from receiver.doctor.service_rules import Deployed, judge_service
from receiver.doctor.setting_rules import Configuration, judge_settings
from receiver.doctor.task_rules import Declared, judge_tasks
from receiver.provision.observed import Observed
from receiver.provision.planning import plan
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
    "TASKS_SUBSCRIPTIONS": "own",
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
def slow() -> None: ...


def configured(environ: dict[str, str]) -> list[Finding]:
    return judge_settings(Configuration.read(environ))


def declared(
    *routes: TaskRoute,
    undeclared: tuple[str, ...] = (),
    environ: dict[str, str] | None = None,
    service: CloudRunService | None = None,
) -> list[Finding]:
    return judge_tasks(Declared(routes, undeclared, environ=environ, service=service))


def deployed(
    there: CloudRunService, invokers: frozenset[str] | None, environ: dict[str, str]
) -> list[Finding]:
    return judge_service(Deployed(there, invokers, Settings.from_environ(GOOD), environ))


def provisioned(seen: Observed, *routes: TaskRoute, check: Check = Check.PUBSUB) -> list[Finding]:
    made = plan(world.wanted(*routes), seen, world.SCOPE)
    return judge_resources(check, Provisioned(made, seen))

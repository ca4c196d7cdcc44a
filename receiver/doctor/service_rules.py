"""Rules for the deployed Cloud Run service: does it accept pushes, and does it run with the right settings?"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from receiver.doctor.findings import Check, Findings, Severity
from receiver.settings import VARIABLES

if TYPE_CHECKING:
    from receiver.doctor.cloud_run import CloudRunService
    from receiver.settings import Settings
    from receiver.variables import Variable

IDENTITY: Final = frozenset(
    {
        "GCP_PROJECT_ID",
        "CLOUD_RUN_SERVICE_URL",
        "TASKS_SERVICE_ACCOUNT",
        "TASKS_SERVICE_URLS",
        "TASKS_ENVIRONMENT",
        "TASKS_NAMESPACE",
    }
)
"""Subscriptions, topics and tokens are made of these. A service with other values refuses its pushes."""

_OF_THE_PLATFORM: Final = frozenset({"PORT", "K_SERVICE", "K_REVISION"})
_LOCAL: Final = ("TASKS_FAULT_", "TASKS_SCHEDULER_ENDPOINT", "PUBSUB_EMULATOR_HOST")


@dataclass(frozen=True, slots=True)
class Deployed:
    """The service, and the settings that it is compared with.

    Attributes:
        invokers: members that may call it; None: its policy cannot be read.
        settings: as they are meant, read from `environ`.
    """

    service: CloudRunService
    invokers: frozenset[str] | None
    settings: Settings
    environ: Mapping[str, str]


def judge_service(seen: Deployed) -> Findings:
    """Whether pushes arrive, and whether the service runs with the settings that are meant."""
    service, settings, found = seen.service, seen.settings, Findings(Check.SERVICE)
    update = f"gcloud run services update {service.flags}"
    _judge_address(found, seen)
    if service.http2:
        found.error(
            "container-protocol",
            f"Cloud Run speaks HTTP/2 to the container of {service.id} (its port is named h2c)",
            "the receiver speaks HTTP/1: no push arrives",
            f"{update} --no-use-http2",
        )
    if service.ingress == "INGRESS_TRAFFIC_ALL":
        found.note(
            "ingress-open",
            "the whole internet reaches the service",
            "only the token keeps strangers out",
            f"{update} --ingress internal",
        )
    _judge_callers(found, seen)
    if service.concurrency > settings.max_concurrency:
        found.warning(
            "concurrency",
            f"Cloud Run sends {service.concurrency} requests at once to an instance that takes "
            f"{settings.max_concurrency} (TASKS_MAX_CONCURRENCY)",
            "the others are answered 429, which slows the whole subscription",
            f"{update} --concurrency {settings.max_concurrency}",
        )
    if service.cpu_always:
        found.note(
            "cpu-always",
            "the service has CPU outside requests (instance-based billing)",
            "long timeouts need it; with the sweep of every minute an instance is always up, and paid for",
            f"{update} --cpu-throttling",
        )
    for one, there, here in _differing(seen):
        is_identity = one.name in IDENTITY
        found.add(
            Severity.ERROR if is_identity else Severity.WARNING,
            "setting-differs",
            f"{one.name} is {there or 'not set'} in {service.id}, {here or 'not set'} here",
            "each refuses the pushes that are made for the other"
            if is_identity
            else "the other findings are about the settings here, not about the service's",
            f"{update} {_set(one.name, here)}",
        )
    return found


def _judge_address(found: Findings, seen: Deployed) -> None:
    """Pushes may be addressed to none of the service's own addresses."""
    service, url = seen.service, seen.settings.service_url
    if url in {None, *service.urls}:
        return
    mend = f"export CLOUD_RUN_SERVICE_URL={next(iter(service.urls), 'URL')}"
    if service.ingress == "INGRESS_TRAFFIC_INTERNAL_ONLY":
        found.error(
            "domain-internal",
            f"CLOUD_RUN_SERVICE_URL is {url}, and {service.id} takes internal requests only",
            "a push counts as internal only at the service's own address; at a custom domain Cloud Run refuses it",
            mend,
        )
    else:
        found.warning(
            "service-url",
            f"CLOUD_RUN_SERVICE_URL is {url}; {service.id} answers at {', '.join(service.urls)}",
            "unless it is a custom domain of the service, pushes go elsewhere, with an audience that the service refuses",
            mend,
        )


def _judge_callers(found: Findings, seen: Deployed) -> None:
    """Cloud Run may let only some callers through to the receiver."""
    if not seen.service.invoker_checked or seen.invokers is None or "allUsers" in seen.invokers:
        return
    mend = f"gcloud run services add-iam-policy-binding {seen.service.flags} --member allUsers --role roles/run.invoker"
    if f"serviceAccount:{seen.settings.service_account}" in seen.invokers:
        found.warning(
            "invoker-checked",
            "Cloud Run checks callers itself, and the push account is admitted",
            "it may hand the token on without its signature, and the receiver would refuse every push",
            mend,
        )
    else:
        found.error(
            "invoker-checked",
            "Cloud Run checks callers itself, and the push account is not admitted",
            "pushes are answered 403 before they arrive, unless the account has roles/run.invoker from the project",
            mend,
        )


def _differing(seen: Deployed) -> Iterator[tuple[Variable, str, str]]:
    """The variables that differ, with their values there and here. Secrets and variables of the platform or a laptop are left out."""
    for one in VARIABLES:
        there = seen.service.environment.get(one.name, "")
        here = seen.environ.get(one.name, "").strip() or one.default or ""
        if one.secret or one.name in _OF_THE_PLATFORM or one.name.startswith(_LOCAL):
            continue
        # None: it comes from a secret. Plain http is only for emulators.
        if there is None or here.startswith("http://"):
            continue
        there = there.strip() or one.default or ""
        if there.rstrip("/") != here.rstrip("/"):
            yield one, there, here


def _set(name: str, value: str) -> str:
    """The flag that sets a variable. gcloud splits at commas unless another separator is named."""
    if not value:
        return f"--remove-env-vars {name}"
    return f"--update-env-vars {shlex.quote(('^|^' if ',' in value else '') + f'{name}={value}')}"

"""The Cloud Run service as it is deployed, judged: does it let pushes in, and does it run with the settings that are meant?"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from receiver.doctor.findings import Check, Finding, Severity
from receiver.doctor.google_look import INVOKER
from receiver.settings import VARIABLES

if TYPE_CHECKING:
    from receiver.doctor.cloud_run import CloudRunService
    from receiver.settings import Settings

DEFAULT_MAX_INSTANCES: Final = 100
"""Cloud Run's, where a service names none."""

IDENTITY: Final = frozenset(
    {
        "GCP_PROJECT_ID",
        "CLOUD_RUN_SERVICE_URL",
        "TASKS_SERVICE_ACCOUNT",
        "TASKS_ENVIRONMENT",
        "TASKS_NAMESPACE",
    }
)
"""What subscriptions, topics and tokens are made of: a service that has others refuses its pushes."""

_SECRET: Final = frozenset({"DATABASE_URL", "DATABASE_PASSWORD"})
_OF_THE_PLATFORM: Final = frozenset({"PORT", "K_SERVICE", "K_REVISION"})
_LOCAL: Final = ("TASKS_FAULT_", "TASKS_SCHEDULER_ENDPOINT", "PUBSUB_EMULATOR_HOST")

_finding = partial(Finding, Check.SERVICE)


def judge(
    service: CloudRunService, invokers: frozenset[str] | None, settings: Settings, environ: Mapping[str, str]
) -> list[Finding]:
    """Findings about the service.

    Args:
        invokers: who may call it; None when that could not be seen.
        environ: the settings' own, to be held against the service's.
    """
    return [
        *_address(service, settings),
        *_entrance(service, invokers, settings),
        *_capacity(service, settings),
        *_environment(service, environ),
    ]


def _address(service: CloudRunService, settings: Settings) -> list[Finding]:
    if settings.service_url is None or settings.service_url in service.urls:
        return []
    return [
        _finding(
            Severity.WARNING,
            "service-url",
            f"CLOUD_RUN_SERVICE_URL is {settings.service_url}; {service.id} answers at {', '.join(service.urls)}",
            "unless that is a domain of the service's own, pushes go elsewhere, with an audience that it refuses",
            f"export CLOUD_RUN_SERVICE_URL={service.urls[0] if service.urls else 'URL'}",
        )
    ]


def _entrance(service: CloudRunService, invokers: frozenset[str] | None, settings: Settings) -> list[Finding]:
    found = []
    if service.ingress == "INGRESS_TRAFFIC_ALL":
        found.append(
            _finding(
                Severity.NOTE,
                "ingress-open",
                "anybody on the internet reaches the service",
                "only the token keeps strangers out",
                f"gcloud run services update {service.flags} --ingress internal",
            )
        )
    if service.ingress == "INGRESS_TRAFFIC_NONE":
        found.append(
            _finding(
                Severity.ERROR,
                "ingress-closed",
                "the service lets nobody in",
                "no push arrives",
                f"gcloud run services update {service.flags} --ingress internal",
            )
        )
    if not service.invoker_checked or invokers is None or "allUsers" in invokers:
        return found
    member = f"serviceAccount:{settings.service_account}"
    admitted = member in invokers
    found.append(
        _finding(
            Severity.WARNING if admitted else Severity.ERROR,
            "invoker-checked",
            f"Cloud Run checks callers itself, and the push account {'is' if admitted else 'is not'} admitted",
            "it may hand the token on without its signature, and the receiver would refuse every push"
            if admitted
            else f"pushes are answered 403 before they arrive, unless the account has {INVOKER} from the project",
            f"gcloud run services add-iam-policy-binding {service.flags} --member allUsers --role {INVOKER}",
        )
    )
    return found


def _capacity(service: CloudRunService, settings: Settings) -> list[Finding]:
    found = []
    if service.concurrency > settings.max_concurrency:
        found.append(
            _finding(
                Severity.WARNING,
                "concurrency",
                f"Cloud Run sends {service.concurrency} requests at once to an instance that takes "
                f"{settings.max_concurrency} (TASKS_MAX_CONCURRENCY)",
                "what is over is answered 429, which slows the whole subscription",
                f"gcloud run services update {service.flags} --concurrency {settings.max_concurrency}",
            )
        )
    if service.cpu_always:
        found.append(
            _finding(
                Severity.NOTE,
                "cpu-always",
                "the service has CPU outside requests (instance-based billing)",
                "long timeouts need it; with the sweep of every minute an instance is always up, and paid for",
                f"gcloud run services update {service.flags} --cpu-throttling",
            )
        )
    return found


def _environment(service: CloudRunService, environ: Mapping[str, str]) -> list[Finding]:
    """The service's variables against those that this look was made with."""
    defaults = {one.name: one.default or "" for one in VARIABLES}
    found = []
    for name, default in defaults.items():
        if name in _SECRET | _OF_THE_PLATFORM or name.startswith(_LOCAL):
            continue
        if service.environment.get(name, "") is None:  # from a secret
            continue
        there = (service.environment.get(name) or "").strip() or default
        here = environ.get(name, "").strip() or default
        # Plain http is for stand-ins: no service can agree with one.
        if there.rstrip("/") == here.rstrip("/") or here.startswith("http://"):
            continue
        found.append(
            _finding(
                Severity.ERROR if name in IDENTITY else Severity.WARNING,
                "setting-differs",
                f"{name} is {_said(there)} in {service.id}, {_said(here)} here",
                "the service refuses pushes that are made for the other"
                if name in IDENTITY
                else "what is said here is said of other settings than the service's",
                f"gcloud run services update {service.flags} {_set(name, here)}",
            )
        )
    return found


def _said(value: str) -> str:
    return value or "not set"


def _set(name: str, value: str) -> str:
    """The flag that sets a variable; gcloud parts several at commas, unless told otherwise."""
    if not value:
        return f"--remove-env-vars {name}"
    return f"--update-env-vars {shlex.quote(('^|^' if ',' in value else '') + f'{name}={value}')}"

"""Rules for the deployed Cloud Run service: does it accept pushes, and does it run with the right settings?"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from receiver.doctor.findings import Rule, Severity
from receiver.settings import VARIABLES

if TYPE_CHECKING:
    from receiver.doctor.cloud_run import CloudRunService
    from receiver.settings import Settings

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
_UPDATE: Final = "gcloud run services update {seen.service.flags}"


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

    @property
    def checks_callers(self) -> bool:
        """Whether it is known that Cloud Run lets only some callers through to the receiver."""
        known = self.service.invoker_checked and self.invokers is not None
        return known and "allUsers" not in (self.invokers or ())

    @property
    def admits_pushes(self) -> bool:
        """Whether Cloud Run lets the push account through."""
        return f"serviceAccount:{self.settings.service_account}" in (self.invokers or ())

    @property
    def is_elsewhere(self) -> bool:
        """Whether pushes are addressed to none of the service's own addresses."""
        return self.settings.service_url not in {None, *self.service.urls}

    @property
    def is_internal(self) -> bool:
        """Whether only internal requests are let through."""
        return self.service.ingress == "INGRESS_TRAFFIC_INTERNAL_ONLY"

    @property
    def urls(self) -> str:
        """Every address of the service."""
        return ", ".join(self.service.urls)

    @property
    def url(self) -> str:
        """One address of the service."""
        return next(iter(self.service.urls), "URL")

    def differing(self) -> Iterator[Mapping[str, str]]:
        """The variables whose values differ. Secrets and variables of the platform or a laptop are not compared."""
        for one in VARIABLES:
            there = self.service.environment.get(one.name, "")
            here = self.environ.get(one.name, "").strip() or one.default or ""
            if one.secret or one.name in _OF_THE_PLATFORM or one.name.startswith(_LOCAL):
                continue
            # None: it comes from a secret. Plain http is only for emulators.
            if there is None or here.startswith("http://"):
                continue
            there = there.strip() or one.default or ""
            if there.rstrip("/") != here.rstrip("/"):
                yield {
                    "name": one.name,
                    "there": there or "not set",
                    "here": here or "not set",
                    "why": "each refuses the pushes that are made for the other"
                    if one.name in IDENTITY
                    else "the other findings are about the settings here, not about the service's",
                    "flag": _set(one.name, here),
                }


def _set(name: str, value: str) -> str:
    """The flag that sets a variable. gcloud splits at commas unless another separator is named."""
    if not value:
        return f"--remove-env-vars {name}"
    return f"--update-env-vars {shlex.quote(('^|^' if ',' in value else '') + f'{name}={value}')}"


SERVICE_RULES: Final[tuple[Rule[Deployed], ...]] = (
    Rule(
        Severity.WARNING,
        "service-url",
        lambda seen: seen.is_elsewhere and not seen.is_internal,
        "CLOUD_RUN_SERVICE_URL is {seen.settings.service_url}; {seen.service.id} answers at {seen.urls}",
        "unless it is a custom domain of the service, pushes go elsewhere, with an audience that the service refuses",
        "export CLOUD_RUN_SERVICE_URL={seen.url}",
    ),
    Rule(
        Severity.ERROR,
        "domain-internal",
        lambda seen: seen.is_elsewhere and seen.is_internal,
        "CLOUD_RUN_SERVICE_URL is {seen.settings.service_url}, and {seen.service.id} takes internal requests only",
        "a push counts as internal only at the service's own address; at a custom domain Cloud Run refuses it",
        "export CLOUD_RUN_SERVICE_URL={seen.url}",
    ),
    Rule(
        Severity.ERROR,
        "container-protocol",
        lambda seen: seen.service.http2,
        "Cloud Run speaks HTTP/2 to the container of {seen.service.id} (its port is named h2c)",
        "the receiver speaks HTTP/1: no push arrives",
        f"{_UPDATE} --no-use-http2",
    ),
    Rule(
        Severity.NOTE,
        "ingress-open",
        lambda seen: seen.service.ingress == "INGRESS_TRAFFIC_ALL",
        "the whole internet reaches the service",
        "only the token keeps strangers out",
        f"{_UPDATE} --ingress internal",
    ),
    Rule(
        Severity.WARNING,
        "invoker-checked",
        lambda seen: seen.checks_callers and seen.admits_pushes,
        "Cloud Run checks callers itself, and the push account is admitted",
        "it may hand the token on without its signature, and the receiver would refuse every push",
        "gcloud run services add-iam-policy-binding {seen.service.flags} --member allUsers --role roles/run.invoker",
    ),
    Rule(
        Severity.ERROR,
        "invoker-checked",
        lambda seen: seen.checks_callers and not seen.admits_pushes,
        "Cloud Run checks callers itself, and the push account is not admitted",
        "pushes are answered 403 before they arrive, unless the account has roles/run.invoker from the project",
        "gcloud run services add-iam-policy-binding {seen.service.flags} --member allUsers --role roles/run.invoker",
    ),
    Rule(
        Severity.WARNING,
        "concurrency",
        lambda seen: seen.service.concurrency > seen.settings.max_concurrency,
        "Cloud Run sends {seen.service.concurrency} requests at once to an instance that takes "
        "{seen.settings.max_concurrency} (TASKS_MAX_CONCURRENCY)",
        "the others are answered 429, which slows the whole subscription",
        f"{_UPDATE} --concurrency {{seen.settings.max_concurrency}}",
    ),
    Rule(
        Severity.NOTE,
        "cpu-always",
        lambda seen: seen.service.cpu_always,
        "the service has CPU outside requests (instance-based billing)",
        "long timeouts need it; with the sweep of every minute an instance is always up, and paid for",
        f"{_UPDATE} --cpu-throttling",
    ),
    Rule(
        lambda _, item: Severity.ERROR if item["name"] in IDENTITY else Severity.WARNING,
        "setting-differs",
        Deployed.differing,
        "{item[name]} is {item[there]} in {seen.service.id}, {item[here]} here",
        "{item[why]}",
        f"{_UPDATE} {{item[flag]}}",
    ),
)

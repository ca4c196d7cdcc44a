"""Rules for the environment: all values that are not allowed, and the variables that are missing to serve.

A variable with a wrong value counts as unset, so that the other parts can still be looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from receiver.doctor.findings import Check, Findings, Severity
from receiver.errors import SettingError
from receiver.hosts import is_loopback
from receiver.settings import PushAuth, Settings, Subscriptions

_MENDS: Final = {
    "GCP_PROJECT_ID": "export GCP_PROJECT_ID=$(gcloud config get-value project)",
    "CLOUD_RUN_SERVICE_URL": (
        "export CLOUD_RUN_SERVICE_URL=$(gcloud run services describe SERVICE --region REGION --format 'value(status.url)')"
    ),
    "TASKS_SERVICE_ACCOUNT": "export TASKS_SERVICE_ACCOUNT=ACCOUNT@PROJECT.iam.gserviceaccount.com",
    "DATABASE_URL": "export DATABASE_URL=postgresql://USER@HOST/DATABASE",
}


@dataclass(frozen=True, slots=True)
class Configuration:
    """The environment as it was read. `refused`: the variables that could not be; `dev`: it is that of a `receiver dev`."""

    settings: Settings
    environ: Mapping[str, str]
    refused: tuple[SettingError, ...] = ()
    dev: bool = False

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Configuration:
        """The settings, with the default for each variable that cannot be read."""
        left = dict(environ)
        refused: list[SettingError] = []
        while True:
            try:
                return cls(Settings.from_environ(left), environ, tuple(refused))
            except SettingError as error:
                if left.pop(error.variable, None) is None:
                    raise
                refused.append(error)

    @property
    def missing(self) -> list[str]:
        """The unset variables that the service needs to start (`serving.instance.require_serving`)."""
        settings = self.settings
        values = {"DATABASE_URL": settings.database_url}
        if settings.push_auth is PushAuth.OIDC:
            values = {
                "GCP_PROJECT_ID": settings.project_id,
                "CLOUD_RUN_SERVICE_URL": settings.service_url,
                "TASKS_SERVICE_ACCOUNT": settings.service_account,
            } | values
        return [name for name, value in values.items() if value is None]


def judge_settings(seen: Configuration) -> Findings:
    """What is wrong with the variables, and what is not as in production."""
    settings, found = seen.settings, Findings(Check.CONFIGURATION)
    for one in seen.refused:
        shown = " is ".join(filter(None, (one.variable, one.value)))
        found.error("setting-refused", shown, "no command and no service starts with it", one.allowed)
    for name in seen.missing:
        why = "the service refuses to start without it"
        found.error("setting-missing", f"{name} is not set", why, _MENDS[name])
    if seen.dev:
        found.note(
            "receiver-dev",
            "this is the `receiver dev` of this folder (.receiver/env)",
            "it makes its topics and subscriptions itself; nothing of the cloud is looked at",
            "export the variables of the place that is meant",
        )
        return found
    certs_host = urlsplit(settings.certs_url).hostname or ""
    if settings.push_auth is PushAuth.OFF:
        found.warning(
            "push-auth-off",
            "TASKS_PUSH_AUTH is off",
            "everybody who reaches the service can run its tasks",
            "unset TASKS_PUSH_AUTH",
        )
    elif not certs_host.endswith(".googleapis.com"):
        found.add(
            Severity.NOTE if is_loopback(certs_host) else Severity.WARNING,
            "certificates-elsewhere",
            f"TASKS_OIDC_CERTS_URL leads to {certs_host}",
            "that host decides who may push",
            "unset TASKS_OIDC_CERTS_URL",
        )
    if settings.subscriptions is Subscriptions.ANY:
        found.note(
            "subscriptions-any",
            "TASKS_SUBSCRIPTIONS is any",
            "whoever may publish to one topic of this environment can run every task",
            "export TASKS_SUBSCRIPTIONS=own, unless subscriptions of your own making push to the service",
        )
    if settings.pubsub_emulator is not None:
        found.note(
            "stand-in",
            f"Pub/Sub is a stand-in at {settings.pubsub_emulator}",
            "the real Pub/Sub is not looked at",
            "unset PUBSUB_EMULATOR_HOST TASKS_SCHEDULER_ENDPOINT",
        )
    return found

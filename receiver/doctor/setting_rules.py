"""Rules for the environment: all values that are not allowed, and the variables that are missing to serve.

A variable with a wrong value counts as unset, so that the other parts can still be looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from receiver.doctor.findings import Rule, Severity
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

    @property
    def certs_host(self) -> str:
        """The host of the signing certificates."""
        return urlsplit(self.settings.certs_url).hostname or ""


SETTING_RULES: Final[tuple[Rule[Configuration], ...]] = (
    Rule(
        Severity.ERROR,
        "setting-refused",
        lambda seen: [
            {"shown": " is ".join(filter(None, (one.variable, one.value))), "allowed": one.allowed}
            for one in seen.refused
        ],
        "{item[shown]}",
        "no command and no service starts with it",
        "{item[allowed]}",
    ),
    Rule(
        Severity.ERROR,
        "setting-missing",
        lambda seen: [{"name": name, "mend": _MENDS[name]} for name in seen.missing],
        "{item[name]} is not set",
        "the service refuses to start without it",
        "{item[mend]}",
    ),
    Rule(
        Severity.WARNING,
        "push-auth-off",
        lambda seen: seen.settings.push_auth is PushAuth.OFF and not seen.dev,
        "TASKS_PUSH_AUTH is off",
        "everybody who reaches the service can run its tasks",
        "unset TASKS_PUSH_AUTH",
    ),
    Rule(
        Severity.NOTE,
        "subscriptions-any",
        lambda seen: seen.settings.subscriptions is Subscriptions.ANY and not seen.dev,
        "TASKS_SUBSCRIPTIONS is any",
        "whoever may publish to one topic of this environment can run every task",
        "export TASKS_SUBSCRIPTIONS=own, unless subscriptions of your own making push to the service",
    ),
    Rule(
        lambda seen, _: Severity.NOTE if is_loopback(seen.certs_host) else Severity.WARNING,
        "certificates-elsewhere",
        lambda seen: (
            seen.settings.push_auth is PushAuth.OIDC
            and not seen.certs_host.endswith(".googleapis.com")
            and not seen.dev
        ),
        "TASKS_OIDC_CERTS_URL leads to {seen.certs_host}",
        "that host decides who may push",
        "unset TASKS_OIDC_CERTS_URL",
    ),
    Rule(
        Severity.NOTE,
        "receiver-dev",
        lambda seen: seen.dev,
        "this is the `receiver dev` of this folder (.receiver/env)",
        "it makes its topics and subscriptions itself; nothing of the cloud is looked at",
        "export the variables of the place that is meant",
    ),
    Rule(
        Severity.NOTE,
        "stand-in",
        lambda seen: seen.settings.pubsub_emulator is not None and not seen.dev,
        "Pub/Sub is a stand-in at {seen.settings.pubsub_emulator}",
        "the real Pub/Sub is not looked at",
        "unset PUBSUB_EMULATOR_HOST TASKS_SCHEDULER_ENDPOINT",
    ),
)

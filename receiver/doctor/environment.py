"""The environment, judged: every value that is not allowed, not only the first, and what is missing to serve.

A variable that cannot be read is taken for unset, so that everything else can still be looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

from receiver.doctor.findings import Check, Finding, Severity
from receiver.errors import SettingError
from receiver.parsers import is_loopback
from receiver.settings import PushAuth, Settings, require_serving

_MENDS: Final = {
    "GCP_PROJECT_ID": "export GCP_PROJECT_ID=$(gcloud config get-value project)",
    "CLOUD_RUN_SERVICE_URL": (
        "export CLOUD_RUN_SERVICE_URL=$(gcloud run services describe SERVICE --region REGION --format 'value(status.url)')"
    ),
    "TASKS_SERVICE_ACCOUNT": "export TASKS_SERVICE_ACCOUNT=ACCOUNT@PROJECT.iam.gserviceaccount.com",
    "DATABASE_URL": "export DATABASE_URL=postgresql://USER@HOST/DATABASE",
}
_STAND_INS: Final[dict[str, dict[str, Any]]] = {
    "GCP_PROJECT_ID": {"project_id": "missing"},
    "CLOUD_RUN_SERVICE_URL": {"service_url": "https://missing"},
    "TASKS_SERVICE_ACCOUNT": {"service_account": "missing@missing"},
    "DATABASE_URL": {"database_url": "postgresql://missing/missing"},
}
"""What takes a missing value's place while the next one is looked for."""


def read(environ: Mapping[str, str]) -> tuple[Settings, list[Finding]]:
    """The settings, with the default for each variable that cannot be read, and a finding for each of those."""
    left = dict(environ)
    found: list[Finding] = []
    while True:
        try:
            return Settings.from_environ(left), found
        except SettingError as error:
            if left.pop(error.variable, None) is None:
                raise
            found.append(_refused(error))


def judge(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    """What settings that can be read leave to be desired."""
    return [*_missing(settings), *_risky(settings), *_defaults(settings, environ)]


def _refused(error: SettingError) -> Finding:
    shown = error.variable if error.value is None else f"{error.variable} is {error.value}"
    return Finding(
        Check.CONFIGURATION,
        Severity.ERROR,
        "setting-refused",
        shown,
        "no command and no service starts with it",
        error.allowed,
    )


def _missing(settings: Settings) -> list[Finding]:
    found: list[Finding] = []
    while True:
        try:
            require_serving(settings)
        except SettingError as error:
            what = f"{error.variable} is not set"
            found.append(
                Finding(
                    Check.CONFIGURATION,
                    Severity.ERROR,
                    "setting-missing",
                    what,
                    "the service refuses to start without it",
                    _MENDS[error.variable],
                )
            )
            settings = replace(settings, **_STAND_INS[error.variable])
        else:
            return found


def _risky(settings: Settings) -> list[Finding]:
    found = []
    if settings.push_auth is PushAuth.OFF:
        found.append(
            Finding(
                Check.CONFIGURATION,
                Severity.WARNING,
                "push-auth-off",
                "TASKS_PUSH_AUTH is off",
                "whoever reaches the service can run its tasks",
                "unset TASKS_PUSH_AUTH",
            )
        )
    host = urlsplit(settings.certs_url).hostname or ""
    local = is_loopback(host)
    if settings.push_auth is PushAuth.OIDC and not host.endswith(".googleapis.com"):
        found.append(
            Finding(
                Check.CONFIGURATION,
                Severity.NOTE if local else Severity.WARNING,
                "certificates-elsewhere",
                f"TASKS_OIDC_CERTS_URL leads to {host}",
                "whoever answers there decides who may push",
                "unset TASKS_OIDC_CERTS_URL",
            )
        )
    if settings.pubsub_emulator is not None:
        found.append(
            Finding(
                Check.CONFIGURATION,
                Severity.NOTE,
                "stand-in",
                f"Pub/Sub is a stand-in at {settings.pubsub_emulator}",
                "nothing is said about the real one",
                "unset PUBSUB_EMULATOR_HOST TASKS_SCHEDULER_ENDPOINT",
            )
        )
    return found


def _defaults(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    unset = [
        f"{name} ({value})"
        for name, value in (
            ("TASKS_ENVIRONMENT", settings.environment),
            ("TASKS_NAMESPACE", settings.namespace),
        )
        if not environ.get(name, "").strip()
    ]
    if not unset or not (settings.service_url or "").startswith("https://"):
        return []
    return [
        Finding(
            Check.CONFIGURATION,
            Severity.NOTE,
            "setting-default",
            f"left at the default: {', '.join(unset)}",
            "every topic, subscription and job is called after them, and two services with the same would share them",
            "export TASKS_ENVIRONMENT=ENVIRONMENT TASKS_NAMESPACE=NAMESPACE",
        )
    ]

"""The environment, read once into a frozen `Settings`. Each variable is declared here, once (of `TASKS_FAULT_*` only the names).

Every variable is checked when it is read: a value that is not allowed stops the start with one line that names the
variable, the value, and what is allowed. A blank value counts as unset. The database's address and password appear in no
message and no repr. What only some commands need is asked for by them (`require_serving`, `Database.configured`).

Next: the rooms above take a `Settings`, or the few values of it that they need, through their constructors.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from receiver import parsers
from receiver.errors import SettingError
from receiver.hosts import is_loopback
from receiver.parsers import duration, integer, size
from receiver.variables import FAULT, Variable, refuse_typos, setting, shown

PUSH_PATH: Final = "/tasks/pubsub/"
"""Where Pub/Sub pushes to; part of one of the two audiences that we accept."""

SUBSCRIPTION_RETENTION: Final = timedelta(days=7)
"""How long Pub/Sub keeps a message that is not acked: its default."""

DEAD_LETTER_RETENTION: Final = timedelta(days=7)
"""How long Pub/Sub keeps the message after that, as a dead letter."""

LEAST_RETENTION: Final = SUBSCRIPTION_RETENTION + DEAD_LETTER_RETENTION + timedelta(days=1)
"""How long the record must know what is final."""

_LONGEST_RETENTION: Final = timedelta(days=3650)

_CLOUD_RUN_GRACE: Final = timedelta(seconds=8)
"""Cloud Run kills 10 s after SIGTERM. Handing back what has stopped takes part of the rest."""

_ZERO, _SECOND, _HOUR, _DAY = timedelta(0), timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
_MIB: Final = 1024**2


class DatabaseAuth(StrEnum):
    """What a login to the database shows."""

    PASSWORD = "password"  # noqa: S105 - the word, not a password
    IAM = "iam"


class PushAuth(StrEnum):
    """How a push proves that it is ours."""

    OIDC = "oidc"
    OFF = "off"


class Subscriptions(StrEnum):
    """The subscriptions that may bring a task's messages."""

    ANY = "any"
    OWN = "own"


class PublishMode(StrEnum):
    """Who publishes what this process enqueues, and whether its calls wait for that."""

    INLINE = "inline"
    """This process; calls wait a quarter of a second at most."""
    BACKGROUND = "background"
    """This process; calls do not wait. Needs CPU between requests."""
    SWEEPER = "sweeper"
    """The sweeper, within a minute."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, checked. Sizes are bytes, durations are timedelta. Below each stands what docs/reference/settings.md says of it.

    Attributes:
        instance: the name of this process in the record, new with each `Settings`.
    """

    project_id: str | None = setting("GCP_PROJECT_ID", parsers.project)
    """the Google Cloud project; required to serve"""
    service_url: str | None = setting("CLOUD_RUN_SERVICE_URL", parsers.service_url)
    """the service's URL, https or http on loopback; required to serve"""
    service_urls: tuple[tuple[str, str], ...] = setting("TASKS_SERVICE_URLS", parsers.service_urls, "")
    """name=URL of each further service that runs tasks, comma-separated; see TaskRoute(service=)"""
    service_account: str | None = setting("TASKS_SERVICE_ACCOUNT", parsers.account)
    """service account in the tokens of pushes; required to serve"""
    environment: str = setting("TASKS_ENVIRONMENT", parsers.environment, "dev")
    """prefix of every resource name"""
    namespace: str = setting("TASKS_NAMESPACE", parsers.namespace, "gyrinx")
    """middle part of every resource name; gyrinx is no more than the default: set your application's name, once"""
    scheduler_location: str = setting("SCHEDULER_LOCATION", parsers.region, "europe-west2")
    """region of the Cloud Scheduler jobs"""
    database_url: str | None = setting("DATABASE_URL", parsers.dsn, secret=True)
    """postgresql:// address of the record; required to serve"""
    database_password: str | None = setting("DATABASE_PASSWORD", parsers.password, secret=True)
    """password of the record, such as from a secret; replaces the one in DATABASE_URL"""
    database_password_file: Path | None = setting("DATABASE_PASSWORD_FILE", Path)
    """file with that password; read again when a login is refused"""
    database_auth: DatabaseAuth = setting("DATABASE_AUTH", parsers.choice(DatabaseAuth), "password")
    """password, or iam: a token of the service account for each new connection"""
    db_schema: str | None = setting("TASKS_DB_SCHEMA", parsers.db_schema)
    """schema of the record's tables; unset: the first of the search path"""
    modules: tuple[str, ...] = setting("TASKS_MODULES", parsers.modules, "")
    """plugin modules, comma-separated, installed or in the working folder; unset: entry points in group receiver.tasks"""
    setup: str | None = setting("TASKS_SETUP", parsers.entry)
    """module:callable run once before plugins load, such as django:setup"""
    around: tuple[str, ...] = setting("TASKS_AROUND", parsers.entries, "")
    """module:callable, comma-separated: async context managers around each run"""
    push_auth: PushAuth = setting("TASKS_PUSH_AUTH", parsers.choice(PushAuth), "oidc")
    """oidc, or off outside Cloud Run"""
    push_auth_off_anywhere: bool = setting("TASKS_PUSH_AUTH_OFF_ANYWHERE", parsers.flag, "off")
    """on lets a receiver with TASKS_PUSH_AUTH=off listen on other addresses than loopback: all who reach them run tasks"""
    subscriptions: Subscriptions = setting("TASKS_SUBSCRIPTIONS", parsers.choice(Subscriptions), "any")
    """any, or own: a task takes only messages that come by a subscription of its own"""
    certs_url: str = setting(
        "TASKS_OIDC_CERTS_URL", parsers.certificates_url, "https://www.googleapis.com/oauth2/v3/certs"
    )
    """where the public keys are that Google signs with, as a set of JSON web keys"""
    publish: PublishMode = setting("TASKS_PUBLISH", parsers.choice(PublishMode), "inline")
    """inline: a call waits for Pub/Sub, 0.25 s at most; background: never; sweeper: this process publishes nothing"""
    # Cloud SQL allows 100 connections in all by default; anything near 500 is a slip.
    db_pool_size: int = setting("TASKS_DB_POOL_SIZE", integer(1, 500), "5")
    """connections that tasks of one instance may borrow"""
    db_pool_timeout: timedelta = setting(
        "TASKS_DB_POOL_TIMEOUT", duration(_SECOND / 1000, 300 * _SECOND), "5s"
    )
    """how long a claim or a task waits for a connection"""
    db_prepared_statements: bool = setting("TASKS_DB_PREPARED_STATEMENTS", parsers.flag, "on")
    """off for a pooler that does not support them"""
    # 1000 is Cloud Run's own limit.
    max_concurrency: int = setting("TASKS_MAX_CONCURRENCY", integer(1, 1000), "80")
    """deliveries in flight on one instance"""
    max_inflight_bytes: int = setting("TASKS_MAX_INFLIGHT_BYTES", size(1, 32 * 1024 * _MIB), "64MiB")
    """all bodies in flight on one instance"""
    threads: int = setting("TASKS_THREADS", integer(1, 1000), "32")
    """threads for def tasks on one instance"""
    lease: timedelta = setting("TASKS_LEASE_SECONDS", duration(_SECOND, _HOUR), "60")
    """how long a claim holds without a heartbeat"""
    shutdown_grace: timedelta = setting("TASKS_SHUTDOWN_GRACE", duration(_ZERO, _HOUR), "8")
    """how long tasks may go on after SIGTERM"""
    max_rejections: int = setting("TASKS_MAX_REJECTIONS", integer(1, 1_000_000), "5")
    """rejections of one message before it may be acked"""
    rejection_grace: timedelta = setting("TASKS_REJECTION_GRACE", duration(_ZERO, 31 * _DAY), "900s")
    """time since the first rejection of a message before it may be acked"""
    max_rejected_bytes: int = setting("TASKS_MAX_REJECTED_BYTES", size(1, 1024 * 1024 * _MIB), "128MiB")
    """rejected messages that are kept in an hour, for each reason; more are only counted"""
    # Pub/Sub's own limits.
    max_delivery_attempts: int = setting("TASKS_MAX_DELIVERY_ATTEMPTS", integer(5, 100), "100")
    """deliveries before a dead letter, 5 to 100"""
    # Pub/Sub's largest message has 10 MB, which is 13.3 MiB in base64, and its attributes. 32 MiB is Cloud Run's limit for an HTTP/1 body.
    max_body_bytes: int = setting("TASKS_MAX_BODY_BYTES", size(1, 32 * _MIB), "14MiB")
    """largest push body that is read; Pub/Sub's own limit needs 14 MiB"""
    # A result is held in memory and sent in a batch.
    max_result_bytes: int = setting("TASKS_MAX_RESULT_BYTES", size(1, 64 * _MIB), "1MiB")
    """largest result that is stored"""
    retention: timedelta = setting("TASKS_RETENTION", duration(_SECOND, _LONGEST_RETENTION), "30d")
    """how long final rows are kept, 15d at least"""
    retention_failed: timedelta | None = setting(
        "TASKS_RETENTION_FAILED", duration(_SECOND, _LONGEST_RETENTION)
    )
    """the same for FAILED rows; unset: TASKS_RETENTION"""
    status: bool = setting("TASKS_STATUS", parsers.flag, "off")
    """on serves GET /tasks/status?group=KEY"""
    pubsub_emulator: str | None = setting("PUBSUB_EMULATOR_HOST", parsers.local_host)
    """local only: host:port of an emulator, here or in a private network"""
    scheduler_endpoint: str | None = setting("TASKS_SCHEDULER_ENDPOINT", parsers.local_url)
    """local only: stands in for Cloud Scheduler and IAM"""
    port: int = setting("PORT", integer(0, 65535), "8080")
    """port to listen on; 0 lets the system choose"""
    service_name: str | None = setting("K_SERVICE", str)
    """set by Cloud Run: the service's name"""
    revision: str | None = setting("K_REVISION", str)
    """set by Cloud Run: the revision's name"""
    instance: str = field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    )

    @property
    def on_cloud_run(self) -> bool:
        """Whether this process is an instance of a Cloud Run service."""
        return self.service_name is not None

    @property
    def on_loopback_only(self) -> bool:
        """Whether only this machine may push, because pushes need no token."""
        return self.push_auth is PushAuth.OFF and not self.push_auth_off_anywhere

    @property
    def audiences(self) -> frozenset[str]:
        """What a push token may be made for: the URL of a service, or its push endpoint.

        Each service accepts those of all: they share one record, one push account and one file of settings, so that a token for
        one of them may do no more at another.
        """
        urls = [url for url in (self.service_url, *dict(self.service_urls).values()) if url]
        return frozenset({*urls, *(url + PUSH_PATH for url in urls)})

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Reads and checks every variable.

        Raises:
            SettingError: a misspelt variable, a value that is not allowed, alone, beside the others or on Cloud Run.
        """
        refuse_typos(environ, VARIABLES)
        settings = cls(**{name: variable.read(environ) for name, variable in _FIELDS.items()})
        _check_together(settings)
        if settings.on_cloud_run:
            _check_on_cloud_run(environ, settings)
        return settings


_FIELDS: dict[str, Variable] = {it.name: it.metadata["variable"] for it in fields(Settings) if it.metadata}

VARIABLES: Final = (
    *_FIELDS.values(),
    # `receiver.emulator.faults` reads these.
    *(
        Variable(f"{FAULT}{name}", None)
        for name in (
            "DUPLICATE_RATE",
            "FAILURE_RATE",
            "DROP_RATE",
            "LATENCY_SECONDS",
            "LATENCY_JITTER",
            "SEED",
        )
    ),
)
"""Every variable of ours, in the order of docs/reference/settings.md."""


def environment_and_namespace(environ: Mapping[str, str]) -> tuple[str, str]:
    """The two parts that begin every resource name, checked as `Settings.from_environ` checks them."""
    return _FIELDS["environment"].read(environ), _FIELDS["namespace"].read(environ)


def no_retention(value: object) -> str | None:
    """Why an execution cannot be kept for so long; None when it can."""
    if not isinstance(value, timedelta):
        return "use a timedelta"
    if value > _LONGEST_RETENTION:
        return f"use at most {_days(_LONGEST_RETENTION)}"
    return retention_too_short() if value < LEAST_RETENTION else None


def retention_too_short() -> str:
    """What is allowed instead, and why."""
    return (
        f"use {_days(LEAST_RETENTION)} or more: Pub/Sub keeps a message for {_days(SUBSCRIPTION_RETENTION)} and its dead "
        f"letter for {_days(DEAD_LETTER_RETENTION)} more, and what comes back after its record was pruned would run again"
    )


def _check_together(settings: Settings) -> None:
    """Refuses values that are allowed alone and not together."""
    url = urlsplit(settings.service_url or "")
    if url.scheme == "http" and not is_loopback(url.hostname or "") and settings.pubsub_emulator is None:
        raise SettingError(
            "CLOUD_RUN_SERVICE_URL",
            settings.service_url,
            "use https://host, or http://host on loopback; only an emulator (PUBSUB_EMULATOR_HOST) pushes elsewhere",
        )
    if settings.max_inflight_bytes < settings.max_body_bytes:
        raise SettingError(
            "TASKS_MAX_INFLIGHT_BYTES",
            str(settings.max_inflight_bytes),
            f"it must be TASKS_MAX_BODY_BYTES ({settings.max_body_bytes}) or more, or a large message never fits",
        )
    for name in ("retention", "retention_failed"):
        kept: timedelta | None = getattr(settings, name)
        if kept is not None and kept < LEAST_RETENTION:
            raise SettingError(_FIELDS[name].name, _days(kept), retention_too_short())


def _check_on_cloud_run(environ: Mapping[str, str], settings: Settings) -> None:
    """Refuses what is for laptops and tests, and a grace that Cloud Run does not give."""
    if settings.push_auth is PushAuth.OFF:
        raise SettingError("TASKS_PUSH_AUTH", "off", "on Cloud Run (K_SERVICE is set) only oidc is allowed")
    for name in sorted(environ):
        value = environ[name].strip()
        if value and (name in {"TASKS_SCHEDULER_ENDPOINT", "PUBSUB_EMULATOR_HOST"} or name.startswith(FAULT)):
            allowed = "it is for local use and tests: unset it on Cloud Run (K_SERVICE is set)"
            raise SettingError(name, shown(value), allowed)
    if is_loopback(urlsplit(settings.certs_url).hostname or ""):
        allowed = "who signs pushes is not this machine: unset it on Cloud Run (K_SERVICE is set)"
        raise SettingError("TASKS_OIDC_CERTS_URL", shown(settings.certs_url), allowed)
    if settings.shutdown_grace > _CLOUD_RUN_GRACE:
        grace = f"{settings.shutdown_grace.total_seconds():g}"
        raise SettingError("TASKS_SHUTDOWN_GRACE", grace, "use 8 or less: Cloud Run kills 10 s after SIGTERM")


def _days(time: timedelta) -> str:
    return f"{time / timedelta(days=1):.4g}d"

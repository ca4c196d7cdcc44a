"""The environment, read once into a frozen `Settings`.

Every variable is checked when it is read: a value that is not allowed stops the start with one line that names the
variable, the value, and what is allowed. A blank value counts as unset. The database's address and password appear in no
message and no repr. What only some commands need (`require_serving`, `require_database`) is asked for by them.

Next: the rooms above take a `Settings`, or the few values of it that they need, through their constructors.
"""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeVar

from receiver import refusals, variables
from receiver.errors import SettingError
from receiver.refusals import DEAD_LETTER_RETENTION, LEAST_RETENTION, SUBSCRIPTION_RETENTION
from receiver.variables import VARIABLES, Unreadable, Variable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "DEAD_LETTER_RETENTION",
    "LEAST_RETENTION",
    "SUBSCRIPTION_RETENTION",
    "VARIABLES",
    "PushAuth",
    "Serving",
    "Settings",
    "Variable",
    "environment_and_namespace",
    "require_database",
    "require_serving",
]

T = TypeVar("T")

PUSH_PATH: Final = "/tasks/pubsub/"
"""Where Pub/Sub pushes to; part of one of the two audiences we accept."""

KIB: Final = 1024
MIB: Final = 1024**2
_SECOND, _HOUR, _DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
_HIDDEN: Final = "(hidden)"


class PushAuth(StrEnum):
    """How a push proves that it is ours."""

    OIDC = "oidc"
    OFF = "off"


_project = variables.text(
    r"([a-z0-9.-]{1,63}:)?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "use a project id, such as gyrinx-prod"
)
_account = variables.text(
    r"[^@\s,;\"'<>\\\x00-\x1f\x7f-\U0010ffff]+@[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?",
    "use a service account's address, such as pubsub-invoker@project.iam.gserviceaccount.com",
)
_location = variables.text(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", "use a region, such as europe-west2")
# 40 each leaves at least 161 of a topic's 251 characters to the task's path.
_PART = r"[A-Za-z](?:(?!--)[A-Za-z0-9_.-]){0,39}"
_PART_ALLOWED = "use a letter, then up to 39 letters, digits, `_`, `.` or `-`, without `--`"
_environment = variables.text(rf"(?![Gg][Oo][Oo][Gg]){_PART}", f"{_PART_ALLOWED}, not beginning with goog")
_namespace = variables.text(_PART, _PART_ALLOWED)


def _new_instance() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, checked. Sizes are bytes, durations are timedelta; `VARIABLES` says what each means."""

    project_id: str | None = None
    service_url: str | None = None
    service_account: str | None = None
    environment: str = "dev"
    namespace: str = "gyrinx"
    scheduler_location: str = "europe-west2"
    database_url: str | None = field(default=None, repr=False)
    database_password: str | None = field(default=None, repr=False)
    modules: tuple[str, ...] = ()
    setup: str | None = None
    push_auth: PushAuth = PushAuth.OIDC
    certs_url: str = "https://www.googleapis.com/oauth2/v1/certs"
    db_pool_size: int = 5
    db_pool_timeout: timedelta = 5 * _SECOND
    db_prepared_statements: bool = True
    max_concurrency: int = 80
    max_inflight_bytes: int = 64 * MIB
    threads: int = 32
    lease: timedelta = 60 * _SECOND
    shutdown_grace: timedelta = 8 * _SECOND
    max_rejections: int = 5
    rejection_grace: timedelta = 900 * _SECOND
    max_delivery_attempts: int = 100
    max_body_bytes: int = 20 * MIB
    max_result_bytes: int = 1 * MIB
    retention: timedelta = 30 * _DAY
    status: bool = False
    pubsub_emulator: str | None = None
    scheduler_endpoint: str | None = None
    port: int = 8080
    on_cloud_run: bool = False
    service_name: str | None = None
    revision: str | None = None
    instance: str = field(default_factory=_new_instance)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Reads and checks every variable.

        Raises:
            SettingError: for the first value that is not allowed, a misspelt `TASKS_` variable, or a local-only
                setting on Cloud Run.
        """
        refusals.typos(environ)
        read = _Reader(environ)
        settings = cls(
            project_id=read.optional("GCP_PROJECT_ID", _project),
            service_url=read.optional("CLOUD_RUN_SERVICE_URL", variables.service_url),
            service_account=read.optional("TASKS_SERVICE_ACCOUNT", _account),
            environment=read("TASKS_ENVIRONMENT", _environment),
            namespace=read("TASKS_NAMESPACE", _namespace),
            scheduler_location=read("SCHEDULER_LOCATION", _location),
            database_url=read.optional("DATABASE_URL", variables.dsn, secret=True),
            database_password=read.password("DATABASE_PASSWORD"),
            modules=read.optional("TASKS_MODULES", variables.modules) or (),
            setup=read.optional("TASKS_SETUP", variables.entry),
            push_auth=read("TASKS_PUSH_AUTH", _push_auth),
            certs_url=read("TASKS_OIDC_CERTS_URL", variables.certificates_url),
            # Cloud SQL allows 100 connections in all by default; anything near 500 is a slip.
            db_pool_size=read("TASKS_DB_POOL_SIZE", variables.integer(1, 500)),
            db_pool_timeout=read("TASKS_DB_POOL_TIMEOUT", variables.duration(_SECOND / 1000, 300 * _SECOND)),
            db_prepared_statements=read("TASKS_DB_PREPARED_STATEMENTS", variables.flag),
            # 1000 is Cloud Run's own limit.
            max_concurrency=read("TASKS_MAX_CONCURRENCY", variables.integer(1, 1000)),
            max_inflight_bytes=read("TASKS_MAX_INFLIGHT_BYTES", variables.size(1, 32 * 1024 * MIB)),
            threads=read("TASKS_THREADS", variables.integer(1, 1000)),
            lease=read("TASKS_LEASE_SECONDS", variables.duration(_SECOND, _HOUR)),
            shutdown_grace=read("TASKS_SHUTDOWN_GRACE", variables.duration(0 * _SECOND, _HOUR)),
            max_rejections=read("TASKS_MAX_REJECTIONS", variables.integer(1, 1_000_000)),
            rejection_grace=read("TASKS_REJECTION_GRACE", variables.duration(0 * _SECOND, 31 * _DAY)),
            # Pub/Sub's own limits.
            max_delivery_attempts=read("TASKS_MAX_DELIVERY_ATTEMPTS", variables.integer(5, 100)),
            # 32 MiB is Cloud Run's limit for an HTTP/1 body.
            max_body_bytes=read("TASKS_MAX_BODY_BYTES", variables.size(1, 32 * MIB)),
            # jsonb itself ends at 255 MiB; a result is also held in memory and sent in a batch.
            max_result_bytes=read("TASKS_MAX_RESULT_BYTES", variables.size(1, 64 * MIB)),
            retention=read("TASKS_RETENTION", variables.duration(_SECOND, 3650 * _DAY)),
            status=read("TASKS_STATUS", variables.flag),
            pubsub_emulator=read.optional("PUBSUB_EMULATOR_HOST", variables.local_host),
            scheduler_endpoint=read.optional("TASKS_SCHEDULER_ENDPOINT", variables.local_url),
            port=read("PORT", variables.integer(0, 65535)),
            on_cloud_run=read.raw("K_SERVICE") is not None,
            service_name=read.raw("K_SERVICE"),
            revision=read.raw("K_REVISION"),
        )
        refusals.contradictions(settings)
        if settings.on_cloud_run:
            refusals.local_only(environ, settings)
        return settings


@dataclass(frozen=True, slots=True)
class Serving:
    """What `serve` cannot do without. With push authentication off the first three may be "" and `audiences` empty."""

    project_id: str
    service_url: str
    service_account: str
    database_url: str = field(repr=False)
    audiences: frozenset[str]


def require_serving(settings: Settings) -> Serving:
    """The settings that serving needs, all present.

    Raises:
        SettingError: names the first missing variable and what it is for.
    """
    google = (
        (settings.project_id, "GCP_PROJECT_ID", "set it to the Google Cloud project, such as gyrinx-prod"),
        (
            settings.service_url,
            "CLOUD_RUN_SERVICE_URL",
            "set it to this service's URL, the audience of push tokens",
        ),
        (
            settings.service_account,
            "TASKS_SERVICE_ACCOUNT",
            "set it to the account whose tokens pushes carry",
        ),
    )
    for value, variable, purpose in google:
        if value is None and settings.push_auth is PushAuth.OIDC:
            raise SettingError(variable, None, purpose)
    url = settings.service_url
    return Serving(
        project_id=settings.project_id or "",
        service_url=url or "",
        service_account=settings.service_account or "",
        database_url=require_database(settings),
        audiences=frozenset({url, url + PUSH_PATH}) if url else frozenset(),
    )


def require_database(settings: Settings) -> str:
    """The database's address, with `DATABASE_PASSWORD` in it when that is set.

    Raises:
        SettingError: there is none.
    """
    if settings.database_url is None:
        raise SettingError(
            "DATABASE_URL", None, "set it to the record's database, such as postgresql://user@host/name"
        )
    if settings.database_password is None:
        return settings.database_url
    return variables.with_password(settings.database_url, settings.database_password)


def environment_and_namespace(environ: Mapping[str, str]) -> tuple[str, str]:
    """The two parts that begin every resource name, checked as `Settings.from_environ` checks them."""
    read = _Reader(environ)
    return read("TASKS_ENVIRONMENT", _environment), read("TASKS_NAMESPACE", _namespace)


_DEFAULTS: Final = {variable.name: variable.default for variable in VARIABLES}


@dataclass(frozen=True, slots=True)
class _Reader:
    """Looks a variable up, parses it, and names it when that fails."""

    environ: Mapping[str, str]

    def raw(self, name: str) -> str | None:
        return self.environ.get(name, "").strip() or None

    def __call__(self, name: str, parse: Callable[[str], T]) -> T:
        return self._parsed(name, self.raw(name) or _DEFAULTS[name], parse, secret=False)

    def optional(self, name: str, parse: Callable[[str], T], *, secret: bool = False) -> T | None:
        value = self.raw(name)
        return None if value is None else self._parsed(name, value, parse, secret=secret)

    def password(self, name: str) -> str | None:
        # Blanks may be part of a password; the newline that a secret was saved with is not.
        if self.raw(name) is None:
            return None
        return self._parsed(name, self.environ[name].rstrip("\r\n"), variables.password, secret=True)

    def _parsed(self, name: str, value: str, parse: Callable[[str], T], *, secret: bool) -> T:
        try:
            return parse(value)
        except Unreadable as error:
            shown = _HIDDEN if secret else refusals.shown(value)
            raise SettingError(name, shown, str(error)) from None


def _push_auth(value: str) -> PushAuth:
    try:
        return PushAuth(value.lower())
    except ValueError:
        raise Unreadable("use oidc, or off outside Cloud Run") from None

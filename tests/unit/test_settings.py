from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.errors import SettingError
from receiver.hosts import is_loopback
from receiver.record.database import Database
from receiver.serving.instance import require_serving
from receiver.settings import (
    VARIABLES,
    DatabaseAuth,
    PushAuth,
    Settings,
    environment_and_namespace,
)
from tests.stage.cases import case

SERVING = {
    "GCP_PROJECT_ID": "gyrinx-prod",
    "CLOUD_RUN_SERVICE_URL": "https://gyrinx-xyz123-ew.a.run.app/",
    "TASKS_SERVICE_ACCOUNT": "pubsub-invoker@project.iam.gserviceaccount.com",
    "DATABASE_URL": "postgresql://app@db/gyrinx",
}


def plain(settings: Settings) -> dict[str, object]:
    return {
        item.name: getattr(settings, item.name)
        for item in dataclasses.fields(settings)
        if item.name != "instance"
    }


def refused(**environ: str) -> SettingError:
    with pytest.raises(SettingError) as caught:
        Settings.from_environ(environ)
    assert "\n" not in str(caught.value)
    return caught.value


def test_an_empty_environment_gives_the_defaults() -> None:
    assert plain(Settings.from_environ({})) == plain(Settings())


def test_a_blank_value_counts_as_unset() -> None:
    for variable in VARIABLES:
        assert plain(Settings.from_environ({variable.name: " "})) == plain(Settings()), variable


GOOD = [
    ("GCP_PROJECT_ID", "gyrinx-prod", "project_id", "gyrinx-prod"),
    ("GCP_PROJECT_ID", "example.com:old-project", "project_id", "example.com:old-project"),
    ("CLOUD_RUN_SERVICE_URL", "https://a.run.app/", "service_url", "https://a.run.app"),
    ("CLOUD_RUN_SERVICE_URL", "http://localhost:8080", "service_url", "http://localhost:8080"),
    ("CLOUD_RUN_SERVICE_URL", "http://127.9.8.7:1", "service_url", "http://127.9.8.7:1"),
    ("CLOUD_RUN_SERVICE_URL", "http://[::1]:80", "service_url", "http://[::1]:80"),
    (
        "TASKS_SERVICE_URLS",
        "heavy=https://h.run.app/, gpu=https://g",
        "service_urls",
        (("heavy", "https://h.run.app"), ("gpu", "https://g")),
    ),
    ("TASKS_SERVICE_ACCOUNT", "a@localhost", "service_account", "a@localhost"),
    ("TASKS_ENVIRONMENT", "prod", "environment", "prod"),
    ("TASKS_ENVIRONMENT", "a" * 40, "environment", "a" * 40),
    ("TASKS_NAMESPACE", "goog-is-fine-here", "namespace", "goog-is-fine-here"),
    ("SCHEDULER_LOCATION", "us-central1", "scheduler_location", "us-central1"),
    ("DATABASE_URL", "postgres://u:p@h/db\n", "database_url", "postgres://u:p@h/db"),
    ("DATABASE_URL", "postgresql+asyncpg://u@h:5432/db?sslmode=require", "database_url", None),
    ("DATABASE_URL", "postgresql://u:p,w@h1,h2/db?target_session_attrs=read-write", "database_url", None),
    (
        "DATABASE_URL",
        "postgresql://u:p@h1:5432,h-2.x:5433/db?target_session_attrs=read-write",
        "database_url",
        None,
    ),
    ("DATABASE_URL", "postgresql+psycopg://u:p@/db?host=/cloudsql/P:R:I", "database_url", None),
    ("DATABASE_URL", "postgresql+psycopg2://u:p@h/db?connect_timeout=10&keepalives=1", "database_url", None),
    ("DATABASE_PASSWORD", " s3cret \r\n", "database_password", " s3cret "),
    ("DATABASE_PASSWORD_FILE", "/secrets/password", "database_password_file", Path("/secrets/password")),
    ("DATABASE_AUTH", "IAM", "database_auth", DatabaseAuth.IAM),
    ("TASKS_MODULES", "a.tasks, b ,,a.tasks", "modules", ("a.tasks", "b", "a.tasks")),
    ("TASKS_SETUP", "django:setup", "setup", "django:setup"),
    ("TASKS_AROUND", "shop.tenants:tenant, shop:flags,", "around", ("shop.tenants:tenant", "shop:flags")),
    ("TASKS_PUSH_AUTH", "OFF", "push_auth", PushAuth.OFF),
    ("TASKS_PUSH_AUTH_OFF_ANYWHERE", "on", "push_auth_off_anywhere", True),
    ("TASKS_MAX_REJECTED_BYTES", "1GiB", "max_rejected_bytes", 1024**3),
    ("TASKS_OIDC_CERTS_URL", "http://127.0.0.1:99/certs?x=1", "certs_url", "http://127.0.0.1:99/certs?x=1"),
    ("TASKS_DB_POOL_SIZE", "1", "db_pool_size", 1),
    ("TASKS_DB_POOL_SIZE", "500", "db_pool_size", 500),
    ("TASKS_DB_POOL_TIMEOUT", "0.25", "db_pool_timeout", timedelta(milliseconds=250)),
    ("TASKS_DB_PREPARED_STATEMENTS", "No", "db_prepared_statements", False),
    ("TASKS_DB_SCHEMA", "Tenant-7", "db_schema", "Tenant-7"),
    ("TASKS_MAX_CONCURRENCY", "1000", "max_concurrency", 1000),
    ("TASKS_MAX_INFLIGHT_BYTES", "1GiB", "max_inflight_bytes", 1024**3),
    ("TASKS_THREADS", "1", "threads", 1),
    ("TASKS_LEASE_SECONDS", "1", "lease", timedelta(seconds=1)),
    ("TASKS_LEASE_SECONDS", "1h", "lease", timedelta(hours=1)),
    ("TASKS_SHUTDOWN_GRACE", "0", "shutdown_grace", timedelta(0)),
    ("TASKS_MAX_REJECTIONS", "100", "max_rejections", 100),
    ("TASKS_REJECTION_GRACE", "15m", "rejection_grace", timedelta(minutes=15)),
    ("TASKS_MAX_DELIVERY_ATTEMPTS", "5", "max_delivery_attempts", 5),
    ("TASKS_MAX_BODY_BYTES", "32MiB", "max_body_bytes", 32 * 1024**2),
    ("TASKS_MAX_RESULT_BYTES", "64KiB", "max_result_bytes", 64 * 1024),
    ("TASKS_RETENTION", "15d", "retention", timedelta(days=15)),
    ("TASKS_RETENTION", "90d", "retention", timedelta(days=90)),
    ("TASKS_RETENTION_FAILED", "365d", "retention_failed", timedelta(days=365)),
    ("TASKS_STATUS", "1", "status", True),
    ("PUBSUB_EMULATOR_HOST", "localhost:8085", "pubsub_emulator", "localhost:8085"),
    ("PUBSUB_EMULATOR_HOST", "http://[::1]:8085/", "pubsub_emulator", "[::1]:8085"),
    ("PUBSUB_EMULATOR_HOST", "pubsub:8085", "pubsub_emulator", "pubsub:8085"),
    ("PUBSUB_EMULATOR_HOST", f"[::1]:8085/{'0a' * 16}/", "pubsub_emulator", f"[::1]:8085/{'0a' * 16}"),
    ("PUBSUB_EMULATOR_HOST", "host.docker.internal:8085", "pubsub_emulator", "host.docker.internal:8085"),
    ("PUBSUB_EMULATOR_HOST", "192.168.1.7:8085", "pubsub_emulator", "192.168.1.7:8085"),
    (
        "PUBSUB_EMULATOR_HOST",
        "host.containers.internal:8085",
        "pubsub_emulator",
        "host.containers.internal:8085",
    ),
    ("PUBSUB_EMULATOR_HOST", "pubsub.shop.svc:8085", "pubsub_emulator", "pubsub.shop.svc:8085"),
    ("PUBSUB_EMULATOR_HOST", "a.b.svc.cluster.local:8085", "pubsub_emulator", "a.b.svc.cluster.local:8085"),
    ("PUBSUB_EMULATOR_HOST", "0.0.0.0:8085", "pubsub_emulator", "0.0.0.0:8085"),
    ("PUBSUB_EMULATOR_HOST", "[::]:8085", "pubsub_emulator", "[::]:8085"),
    ("PUBSUB_EMULATOR_HOST", "[fd00::7]:8085", "pubsub_emulator", "[fd00::7]:8085"),
    ("TASKS_SCHEDULER_ENDPOINT", "http://127.0.0.1:8086/", "scheduler_endpoint", "http://127.0.0.1:8086"),
    ("PORT", "65535", "port", 65535),
    ("K_SERVICE", "receiver", "service_name", "receiver"),
    ("K_SERVICE", "receiver", "on_cloud_run", True),
    ("K_REVISION", "receiver-00001", "revision", "receiver-00001"),
]


def test_a_good_value_is_read() -> None:
    for variable, value, name, expected in GOOD:
        with case(variable, value):
            read = getattr(Settings.from_environ({variable: value}), name)
            assert read == (value if expected is None else expected)


BAD = {
    "GCP_PROJECT_ID": ["Gyrinx", "a b", "-a", "a" * 64, "projéct"],
    "CLOUD_RUN_SERVICE_URL": [
        "gyrinx.run.app", "http://gyrinx.run.app", "https://a.run.app/path", "https://a.run.app?x=1", "https://",
        "https://a.run.app/#x", "https://u:hunter2@a.run.app", "https://a b", "https://a:0", "https://a:x",
        "https://a..-", "https://[::1", "ftp://localhost", "https://a\nb", "http://receiver:8080", "http://10.0.0.1:8080",
    ],
    "TASKS_SERVICE_URLS": ["heavy", "https://a", "Heavy=https://a", "a=https://a,a=https://b", "a=https://a/b", "a=http://a.b"],
    "TASKS_SERVICE_ACCOUNT": ["nobody", "a@", "@b", "a b@c", "a@b@c", "é@b"],
    "TASKS_ENVIRONMENT": ["goog", "Google", "1a", "a--b", "a" * 41, "é", "a b", "-"],
    "TASKS_NAMESPACE": ["1a", "a--b", "a" * 41, "a/b", "a\nb"],
    "SCHEDULER_LOCATION": ["Europe", "europe_west2", "2"],
    "DATABASE_URL": [
        "hunter2", "mysql://u:hunter2@h/db", "postgresql:hunter2", "postgresql://u:hunter2/@h/db",
        "postgresql://u:hunter2#@h/db", "postgresql://u:hunter2@h/db#x", "postgresql://u:hunter2@h:x/db", "postgresql://u:hunter2@h:0/db",
        "postgresql://u:hunter2@h/db?sslmode=yes", "postgresql://u:hunter2 @h/db", "postgresql://u:hunter2é@h/db",
        "postgresql://[hunter2@h/db", "postgresql://u:hunter2@h1:1,h2:x/db", "postgresql://u:hunter2@h1:x,h2:2/db",
        "postgresql://u:hunter2@h/db?sslmode=require&", "postgresql://u:hunter2@h/db?channel_binding=require",
    ],
    "DATABASE_PASSWORD": ["hunter2\x00", "hunter2\udcff"],
    "DATABASE_AUTH": ["on", "token"],
    "TASKS_MODULES": ["my-plugin", "a:b", "a..b", ".a", "a b"],
    "TASKS_SETUP": ["django", "django:", ":setup", "dj-ango:setup", "a:b:c"],
    "TASKS_AROUND": ["shop", "shop:tenant,flags", ":tenant"],
    "TASKS_PUSH_AUTH": ["on", "none"],
    "TASKS_PUSH_AUTH_OFF_ANYWHERE": ["anywhere"],
    "TASKS_MAX_REJECTED_BYTES": ["0", "2000GiB"],
    "TASKS_OIDC_CERTS_URL": ["http://example.com/certs", "certs", "https://u@h/certs"],
    "TASKS_DB_POOL_SIZE": ["0", "501", "-1", "+1", "1.5", "five", "1_0", "\u0661"],
    "TASKS_DB_POOL_TIMEOUT": ["0", "301", "1w", "-1", "nan", "inf", "1e3", "s"],
    "TASKS_DB_PREPARED_STATEMENTS": ["maybe", "2"],
    "TASKS_DB_SCHEMA": ["pg_temp", 'a"b', "a.b", "1a", "a" * 64, "é"],
    "TASKS_MAX_CONCURRENCY": ["0", "1001"],
    "TASKS_MAX_INFLIGHT_BYTES": ["0", "1MB", "-1", "33GiB", "1.5MiB"],
    "TASKS_THREADS": ["0", "1001"],
    "TASKS_LEASE_SECONDS": ["0.9", "3601", "9" * 40],
    "TASKS_SHUTDOWN_GRACE": ["-1", "61m"],
    "TASKS_MAX_REJECTIONS": ["0", "1000001"],
    "TASKS_REJECTION_GRACE": ["32d"],
    "TASKS_MAX_DELIVERY_ATTEMPTS": ["4", "101", "many"],
    "TASKS_MAX_BODY_BYTES": ["0", "33MiB"],
    "TASKS_MAX_RESULT_BYTES": ["0", "65MiB"],
    "TASKS_RETENTION": ["0", "1d", "14.99d", "3651d", "forever"],
    "TASKS_STATUS": ["enabled"],
    "PUBSUB_EMULATOR_HOST": [
        "localhost", "8085", "pubsub.example.com:8085", "localhost:0", "localhost:x", "https://localhost:8085", "localhost:8085/v1",
        "localhost:8085?x", "u@localhost:8085", "ftp://localhost:1", "local host:1", "8.8.8.8:8085", "169.254.169.254:80",
        "metadata.google.internal:80", "2130706433:8085", "0x7f000001:8085", "a.svc.cluster.local.example.com:1", "x.cluster.local:1",
        "pubsub.shop:1", "host.a.b.internal:1", "svc.example:1", ".svc:1",
    ],
    "TASKS_SCHEDULER_ENDPOINT": [
        "localhost:8086", "https://localhost:8086", "http://scheduler:8086", "http://localhost:8086/v1", "http://localhost?x",
    ],
    "PORT": ["65536", "http", "-1"],
}  # fmt: skip


def test_a_bad_value_is_refused_in_one_line_that_names_variable_and_what_is_allowed() -> None:
    for variable, value in [(variable, value) for variable, values in BAD.items() for value in values]:
        with case(variable, value):
            error = refused(**{variable: value})
            assert error.variable == variable
            assert str(error).startswith(f"{variable} is ")
            assert error.allowed.startswith(("use ", "its sslmode can be ", "percent-encode "))
            assert "hunter2" not in str(error)
            assert "hunter2" not in repr(error.__cause__)


def outcome(**environ: str) -> Settings | SettingError:
    try:
        return Settings.from_environ(environ)
    except SettingError as error:
        return error


@given(st.text(min_size=1))
def test_any_text_is_either_a_value_or_a_setting_error_of_one_line(value: str) -> None:
    for variable in BAD:
        error = outcome(**{variable: value})
        if isinstance(error, SettingError):
            assert error.variable == variable
            assert len(str(error).splitlines()) == 1


odd = st.text(":/@?#[]% \né0", max_size=5)


@given(odd, odd)
def test_no_part_of_a_database_address_reaches_a_message(before: str, after: str) -> None:
    found = outcome(DATABASE_URL=f"postgresql://u:{before}hunter2{after}@h/db")
    assert "hunter2" not in str(found)
    assert "hunter2" not in repr(found)


def test_secrets_appear_in_no_repr() -> None:
    environ = {**SERVING, "DATABASE_URL": "postgresql://u:hunter2@h/db", "DATABASE_PASSWORD": "hunter3"}
    settings = Settings.from_environ(environ)
    assert "hunter" not in repr(settings)


def test_a_long_value_is_cut_in_the_message() -> None:
    assert len(refused(GCP_PROJECT_ID="A" * 5000).value or "") == 80


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("TASKS_SERVICE_ACOUNT", "TASKS_SERVICE_ACCOUNT"),
        ("TASKS_MODULE", "TASKS_MODULES"),
        ("TASKS_LEASE_SECOND", "TASKS_LEASE_SECONDS"),
        ("TASKS_FAULT_DROPRATE", "TASKS_FAULT_DROP_RATE"),
    ],
)
def test_a_misspelt_variable_is_refused_with_what_was_meant(misspelt: str, meant: str) -> None:
    error = refused(**{misspelt: "hunter2"})
    assert f"did you mean {meant}?" in str(error)
    assert "hunter2" not in str(error)


def test_a_variable_of_the_application_may_begin_with_tasks() -> None:
    assert Settings.from_environ({"TASKS_WE_DO_FOR_FUN": "x", "OTHER": "y"}) is not None


def test_an_unknown_fault_is_refused_with_the_known_ones() -> None:
    assert "DUPLICATE_RATE" in str(refused(TASKS_FAULT_EARTHQUAKE="1"))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TASKS_FAULT_DROP_RATE", "0"),
        ("PUBSUB_EMULATOR_HOST", "localhost:8085"),
        ("TASKS_SCHEDULER_ENDPOINT", "http://localhost:8086"),
        ("TASKS_OIDC_CERTS_URL", "http://127.0.0.1:8081/certs"),
        ("TASKS_OIDC_CERTS_URL", "https://localhost/certs"),
    ],
)
def test_what_is_for_tests_is_refused_on_cloud_run_only(variable: str, value: str) -> None:
    assert Settings.from_environ({variable: value}) is not None
    assert Settings.from_environ({variable: " ", "K_SERVICE": "receiver"}) is not None
    assert "unset it on Cloud Run" in str(refused(**{variable: value, "K_SERVICE": "receiver"}))


def test_beside_an_emulator_the_service_is_a_neighbour_too() -> None:
    """As in a compose file: the emulator pushes to http://receiver:8080, and nothing of it leaves that network."""
    beside = {"CLOUD_RUN_SERVICE_URL": "http://receiver:8080/", "PUBSUB_EMULATOR_HOST": "pubsub:8085"}
    assert Settings.from_environ(beside).service_url == "http://receiver:8080"
    assert refused(**beside, K_SERVICE="receiver").variable == "PUBSUB_EMULATOR_HOST"
    public = {**beside, "CLOUD_RUN_SERVICE_URL": "http://gyrinx.run.app"}
    assert refused(**public).variable == "CLOUD_RUN_SERVICE_URL"


def test_push_authentication_cannot_be_off_on_cloud_run() -> None:
    off = {"TASKS_PUSH_AUTH": "off", "K_SERVICE": "receiver"}
    assert refused(**off).variable == "TASKS_PUSH_AUTH"
    assert refused(**off, TASKS_PUSH_AUTH_OFF_ANYWHERE="on").variable == "TASKS_PUSH_AUTH"


def test_each_reading_is_an_instance_of_its_own() -> None:
    assert Settings.from_environ({}).instance != Settings.from_environ({}).instance


def test_a_push_is_meant_for_the_service_url_or_the_endpoint() -> None:
    settings = Settings.from_environ(SERVING)
    require_serving(settings)
    url = "https://gyrinx-xyz123-ew.a.run.app"
    assert settings.service_url == url
    assert settings.audiences == {url, f"{url}/tasks/pubsub/"}
    both = Settings.from_environ(SERVING | {"TASKS_SERVICE_URLS": "heavy=https://h.run.app"})
    assert both.audiences == settings.audiences | {"https://h.run.app", "https://h.run.app/tasks/pubsub/"}


@pytest.mark.parametrize("missing", sorted(SERVING))
def test_serving_names_the_variable_that_is_missing(missing: str) -> None:
    settings = Settings.from_environ({name: value for name, value in SERVING.items() if name != missing})
    required = Database.configured if missing == "DATABASE_URL" else require_serving
    with pytest.raises(SettingError, match=f"^{missing} is not set; set it to "):
        required(settings)


def test_without_push_authentication_nothing_but_the_database_is_needed() -> None:
    settings = Settings(push_auth=PushAuth.OFF, database_url="postgresql://h/db")
    require_serving(settings)
    assert settings.audiences == frozenset()


def test_the_names_prefix_is_read_as_the_settings_read_it() -> None:
    assert environment_and_namespace({}) == ("dev", "gyrinx")
    assert environment_and_namespace({"TASKS_ENVIRONMENT": "prod", "TASKS_NAMESPACE": "shop"}) == (
        "prod",
        "shop",
    )
    with pytest.raises(SettingError, match="TASKS_ENVIRONMENT"):
        environment_and_namespace({"TASKS_ENVIRONMENT": "goog"})


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("LOCALHOST", True), ("127.0.0.1", True), ("::1", True), ("10.0.0.1", False), ("localhost.evil", False)],
)
def test_loopback_is_the_machine_itself(host: str, loopback: bool) -> None:  # noqa: FBT001 - an expectation
    assert is_loopback(host) is loopback


def test_a_body_that_never_fits_in_flight_is_refused_at_the_start() -> None:
    with pytest.raises(SettingError, match=r"TASKS_MAX_INFLIGHT_BYTES is '1048576'; .*TASKS_MAX_BODY_BYTES"):
        Settings.from_environ({"TASKS_MAX_INFLIGHT_BYTES": "1MiB"})


def test_a_grace_that_cloud_run_does_not_give_is_refused_there() -> None:
    assert Settings.from_environ({"TASKS_SHUTDOWN_GRACE": "60"}).shutdown_grace.total_seconds() == 60
    with pytest.raises(SettingError, match=r"TASKS_SHUTDOWN_GRACE is '60'; use 8 or less"):
        Settings.from_environ({"TASKS_SHUTDOWN_GRACE": "60", "K_SERVICE": "receiver"})


def test_a_retention_below_what_pubsub_may_bring_back_is_refused_with_the_reason() -> None:
    """What comes back after its record was pruned would run again."""
    with pytest.raises(
        SettingError, match=r"TASKS_RETENTION is '14d'; use 15d or more: .* 7d .* would run again"
    ):
        Settings.from_environ({"TASKS_RETENTION": "14d"})

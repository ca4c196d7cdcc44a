"""The table of environment variables, and how the text of one becomes a value.

Each parser takes the text (never blank, already stripped) and returns the value, or raises `Unreadable` with what would
be accepted. None of them sees the variable's name, and none puts the text into its message: `receiver.settings`
adds the name and decides how much of the value may be shown.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, quote, urlsplit

from receiver.hosts import is_loopback, is_near

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Variable:
    """One row of the documented table: `default` is written as one would set it, "" where there is none."""

    name: str
    default: str
    meaning: str


VARIABLES: Final = (
    Variable("GCP_PROJECT_ID", "", "the Google Cloud project; required to serve"),
    Variable("CLOUD_RUN_SERVICE_URL", "", "the service's URL, https or http on loopback; required to serve"),
    Variable("TASKS_SERVICE_ACCOUNT", "", "the account whose tokens pushes carry; required to serve"),
    Variable("TASKS_ENVIRONMENT", "dev", "prefix of every resource name"),
    Variable("TASKS_NAMESPACE", "gyrinx", "middle part of every resource name"),
    Variable("SCHEDULER_LOCATION", "europe-west2", "region of the Cloud Scheduler jobs"),
    Variable("DATABASE_URL", "", "postgresql:// address of the record; required to serve"),
    Variable(
        "DATABASE_PASSWORD",
        "",
        "its password, when it comes apart, from a secret; wins over one in the address",
    ),
    Variable(
        "TASKS_MODULES",
        "",
        "plugin modules, comma-separated, installed or in the working folder; unset: entry points in group receiver.tasks",
    ),
    Variable("TASKS_SETUP", "", "module:callable run once before plugins load, such as django:setup"),
    Variable("TASKS_PUSH_AUTH", "oidc", "oidc, or off outside Cloud Run"),
    Variable(
        "TASKS_OIDC_CERTS_URL", "https://www.googleapis.com/oauth2/v1/certs", "where signing certificates are"
    ),
    Variable("TASKS_DB_POOL_SIZE", "5", "connections that tasks may borrow"),
    Variable("TASKS_DB_POOL_TIMEOUT", "5s", "how long a claim or a task waits for a connection"),
    Variable("TASKS_DB_PREPARED_STATEMENTS", "on", "off for poolers that cannot"),
    Variable("TASKS_MAX_CONCURRENCY", "80", "deliveries in flight on one instance"),
    Variable("TASKS_MAX_INFLIGHT_BYTES", "64MiB", "their bodies together, on one instance"),
    Variable("TASKS_THREADS", "32", "threads for def tasks on one instance"),
    Variable("TASKS_LEASE_SECONDS", "60", "how long a claim holds without a heartbeat"),
    Variable("TASKS_SHUTDOWN_GRACE", "8", "how long work may finish after SIGTERM"),
    Variable("TASKS_MAX_REJECTIONS", "5", "rejections of one message before it may be acked"),
    Variable("TASKS_REJECTION_GRACE", "900s", "and how long they must have gone on"),
    Variable("TASKS_MAX_DELIVERY_ATTEMPTS", "100", "deliveries until a message is a dead letter, 5 to 100"),
    Variable("TASKS_MAX_BODY_BYTES", "20MiB", "largest push body that is read"),
    Variable("TASKS_MAX_RESULT_BYTES", "1MiB", "largest result that is stored"),
    Variable("TASKS_RETENTION", "30d", "how long final rows are kept, 15d at least"),
    Variable("TASKS_STATUS", "off", "on serves GET /tasks/status?group=KEY"),
    Variable("TASKS_FAULT_DUPLICATE_RATE", "", "local only: share of messages delivered twice"),
    Variable("TASKS_FAULT_FAILURE_RATE", "", "local only: share of deliveries answered with an error"),
    Variable("TASKS_FAULT_DROP_RATE", "", "local only: share of deliveries lost"),
    Variable("TASKS_FAULT_LATENCY_SECONDS", "", "local only: delay of every delivery"),
    Variable("TASKS_FAULT_LATENCY_JITTER", "", "local only: random part of that delay"),
    Variable("TASKS_FAULT_SEED", "", "local only: makes the faults repeatable"),
    Variable("TASKS_SCHEDULER_ENDPOINT", "", "local only: stands in for Cloud Scheduler and IAM"),
    Variable(
        "PUBSUB_EMULATOR_HOST", "", "local only: host:port of an emulator, here or in a private network"
    ),
    Variable("PORT", "8080", "port to listen on; 0 lets the system choose"),
    Variable("K_SERVICE", "", "set by Cloud Run: the service's name"),
    Variable("K_REVISION", "", "set by Cloud Run: the revision's name"),
)

_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)([smhd]?)", re.ASCII)
_SIZE = re.compile(r"([0-9]{1,15})(B|KiB|MiB|GiB)?", re.ASCII)
_INTEGER = re.compile(r"[0-9]{1,15}", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", re.ASCII)
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {None: 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_FLAGS = {
    "on": True,
    "true": True,
    "1": True,
    "yes": True,
    "off": False,
    "false": False,
    "0": False,
    "no": False,
}
_SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_DSN_SCHEMES = tuple(
    base + driver for base in ("postgresql", "postgres") for driver in ("", "+asyncpg", "+psycopg")
)


class Unreadable(ValueError):
    """The text is not a value of the wanted kind; the message says what is, as the end of a sentence."""


def text(pattern: str, allowed: str) -> Callable[[str], str]:
    """A parser for text that matches the whole of `pattern` (ASCII)."""
    compiled = re.compile(pattern, re.ASCII)

    def parse(value: str) -> str:
        if not compiled.fullmatch(value):
            raise Unreadable(allowed)
        return value

    return parse


def integer(low: int, high: int) -> Callable[[str], int]:
    """A parser for a whole number from `low` to `high`, both included."""

    def parse(value: str) -> int:
        if not _INTEGER.fullmatch(value) or not low <= int(value) <= high:
            raise Unreadable(f"use a whole number from {low} to {high}")
        return int(value)

    return parse


def duration(low: timedelta, high: timedelta) -> Callable[[str], timedelta]:
    """A parser for `90s`, `15m`, `2h`, `30d` or plain seconds, from `low` to `high`, both included."""
    allowed = (
        f"use a duration such as 90s, 15m, 2h, 30d or plain seconds, from {_brief(low)} to {_brief(high)}"
    )

    def parse(value: str) -> timedelta:
        match = _DURATION.fullmatch(value)
        seconds = float(match[1]) * _UNITS[match[2]] if match else -1.0
        if not low.total_seconds() <= seconds <= high.total_seconds():
            raise Unreadable(allowed)
        return timedelta(seconds=seconds)

    return parse


def size(low: int, high: int) -> Callable[[str], int]:
    """A parser for plain bytes, `64KiB`, `20MiB` or `1GiB`, from `low` to `high` bytes, both included."""

    def parse(value: str) -> int:
        match = _SIZE.fullmatch(value)
        count = int(match[1]) * _BYTES[match[2]] if match else -1
        if not low <= count <= high:
            raise Unreadable(f"use a size such as 20MiB, 64KiB or plain bytes, from {low} to {high} bytes")
        return count

    return parse


def flag(value: str) -> bool:
    """`on`, `true`, `yes`, `1` or `off`, `false`, `no`, `0`, in any case."""
    found = _FLAGS.get(value.lower())
    if found is None:
        raise Unreadable("use on or off")
    return found


def service_url(value: str) -> str:
    """The address of a service without path: https, or http nearby. Its trailing slash is dropped.

    Whether http may leave this machine depends on who pushes (`receiver.refusals`).
    """
    allowed = "use https://host, or http://host on loopback, without path or query"
    parts = _web_address(value, is_near)
    if parts is None or parts.path not in {"", "/"} or parts.query:
        raise Unreadable(allowed)
    return value.rstrip("/")


def certificates_url(value: str) -> str:
    """An address to fetch from: https, or http on loopback."""
    if _web_address(value) is None:
        raise Unreadable("use an https address, or http on loopback")
    return value


def local_host(value: str) -> str:
    """`host:port` nearby, as `PUBSUB_EMULATOR_HOST` is written; `http://` before it is dropped."""
    host = value.removeprefix("http://").rstrip("/")
    parts = _web_address(f"http://{host}", is_near)
    if parts is None or parts.path or parts.query or not parts.port:
        raise Unreadable("use host:port here or in a private network, such as 127.0.0.1:8085 or pubsub:8085")
    return host


def local_url(value: str) -> str:
    """The address of a stand-in on this machine, without path. Its trailing slash is dropped."""
    parts = _web_address(value)
    if parts is None or parts.scheme != "http" or parts.path not in {"", "/"} or parts.query:
        raise Unreadable("use http://host:port on loopback, such as http://127.0.0.1:8086")
    return value.rstrip("/")


def modules(value: str) -> tuple[str, ...]:
    """Dotted module names, separated by commas; blanks between commas are skipped."""
    names = tuple(name for part in value.split(",") if (name := part.strip()))
    if not all(_is_dotted(name) for name in names):
        raise Unreadable("use dotted module names separated by commas, such as shop.tasks,billing.tasks")
    return names


def entry(value: str) -> str:
    """`module:callable`, both dotted names."""
    module, colon, attribute = value.partition(":")
    if not (colon and _is_dotted(module) and _is_dotted(attribute)):
        raise Unreadable("use module:callable, such as django:setup")
    return value


def dsn(value: str) -> str:
    """The address of a PostgreSQL database, as SQLAlchemy, libpq and Cloud SQL users write it.

    Nothing of the text is ever part of the error: any piece of a mistyped address may be the password. So the driver
    must not meet a parameter without a value, which it quotes.
    """
    parts = _split(value)
    if parts is None or parts.scheme not in _DSN_SCHEMES or not value.partition(":")[2].startswith("//"):
        raise Unreadable(
            "use postgresql://user:password@host:5432/database (also postgres://, +asyncpg, +psycopg); "
            "percent-encode special characters of the password"
        )
    if parts.fragment or not re.fullmatch(r"([^&=]+=[^&]*(&|$))*", parts.query):
        raise Unreadable("percent-encode # as %23, ? as %3F and other characters of the password alike")
    if any(mode not in _SSLMODES for mode in re.findall(r"(?:^|&)sslmode=([^&]*)", parts.query)):
        raise Unreadable(f"its sslmode can be {', '.join(_SSLMODES)}")
    return value


def password(value: str) -> str:
    """Any text that the protocol can carry: it ends strings at NUL, and quoting needs what UTF-8 can encode."""
    if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise Unreadable("use UTF-8 text without NUL")
    return value


def with_password(address: str, secret: str) -> str:
    """The database address with `secret` in place of its own; user, host and query stay."""
    scheme, _, rest = address.partition("://")
    authority = re.match(r"[^/?]*", rest)
    end = authority.end() if authority else 0
    user, _, host = rest[:end].rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}:{quote(secret, safe='')}@{host}{rest[end:]}"


def _web_address(value: str, plain: Callable[[str], bool] = is_loopback) -> SplitResult | None:
    """The parts of an address: https, or http to a host that `plain` lets have it."""
    parts = _split(value)
    if parts is None or not parts.hostname or "@" in parts.netloc or "#" in value:
        return None
    if not (_HOST.fullmatch(parts.hostname) or _is_ip(parts.hostname)):
        return None
    if parts.scheme == "https" or (parts.scheme == "http" and plain(parts.hostname)):
        return parts
    return None


def _split(value: str) -> SplitResult | None:
    """The parts of an address, or None when it has blanks, controls, bad brackets or a bad port."""
    if not value.isprintable() or not value.isascii() or " " in value:
        return None
    try:
        parts = urlsplit(value)
        usable = parts.port != 0
    except ValueError:  # its text quotes the address, so nothing of it goes further
        return None
    return parts if usable else None


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _brief(value: timedelta) -> str:
    seconds = value.total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"

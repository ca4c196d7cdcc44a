"""How the text of an environment variable, or of a command's option, becomes a value.

Each parser takes text that is not blank, and returns the value or raises `Unreadable` with what would be accepted. No parser
knows the variable's name, and none puts the text into its message, because it may be secret.

Next: `receiver.settings` has the table of variables; it adds the name, and decides how much of the value may be shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from typing import Final, TypeVar
from urllib.parse import SplitResult, urlsplit

from receiver.hosts import ip, is_loopback, is_near
from receiver.text import is_storable

E = TypeVar("E", bound=StrEnum)

_DURATION: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)([smhd]?)")
_SIZE: Final = re.compile(r"([0-9]{1,15})(B|KiB|MiB|GiB)?")
_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_SECRET_PATH: Final = re.compile(r"(/[0-9a-f]{32})?")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {None: 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_ON, _OFF = frozenset({"on", "true", "yes", "1"}), frozenset({"off", "false", "no", "0"})
_SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_DSN_SCHEMES = tuple(
    base + driver
    for base in ("postgresql", "postgres")
    for driver in ("", "+asyncpg", "+psycopg", "+psycopg2")
)
_FURTHER_HOSTS = re.compile(r"(?<=[\w\].-])(,[\w.-]+(:[1-9]\d*)?)+(?=[/?]|$)")
"""Of an address of several servers, as in `//h1:5432,h2:5432/db`. No @ follows: it is no part of a password."""


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


project = text(
    r"([a-z0-9.-]{1,63}:)?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "use a project id, such as shop-prod"
)
account = text(
    r"[^@\s,;\"'<>\\\x00-\x1f\x7f-\U0010ffff]+@[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?",
    "use a service account's address, such as pubsub-invoker@project.iam.gserviceaccount.com",
)
region = text(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", "use a region, such as europe-west2")
service_name = text(
    r"[a-z][a-z0-9-]{0,39}", "use name=https://host; a name is a lower-case letter, then letters, digits or -"
)
# 40 each leaves at least 161 of a topic's 251 characters to the task's path.
_PART = r"[A-Za-z](?:(?!--)[A-Za-z0-9_.-]){0,39}"
_PART_ALLOWED = "use a letter, then up to 39 letters, digits, `_`, `.` or `-`, without `--`"
environment = text(rf"(?![Gg][Oo][Oo][Gg]){_PART}", f"{_PART_ALLOWED}, not beginning with goog")
namespace = text(_PART, _PART_ALLOWED)
db_schema = text(r"(?!pg_)[A-Za-z_][\w-]{0,62}", "use a letter, then letters, digits, `_` or `-`; not pg_...")


def choice(kind: type[E]) -> Callable[[str], E]:
    """A parser for the values of an enumeration, in any case."""
    *others, last = kind

    def parse(value: str) -> E:
        try:
            return kind(value.lower())
        except ValueError:
            raise Unreadable(f"use {', '.join(others)} or {last}") from None

    return parse


def integer(low: int, high: int) -> Callable[[str], int]:
    """A parser for a whole number from `low` to `high`, both included."""

    def parse(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,15}", value) or not low <= int(value) <= high:
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
    allowed = (
        f"use a size such as 20MiB, 64KiB or plain bytes, from {_brief_size(low)} to {_brief_size(high)}"
    )

    def parse(value: str) -> int:
        match = _SIZE.fullmatch(value)
        count = int(match[1]) * _BYTES[match[2]] if match else -1
        if not low <= count <= high:
            raise Unreadable(allowed)
        return count

    return parse


def flag(value: str) -> bool:
    """`on`, `true`, `yes`, `1` or `off`, `false`, `no`, `0`, in any case."""
    if value.lower() not in _ON | _OFF:
        raise Unreadable("use on or off")
    return value.lower() in _ON


def service_url(value: str) -> str:
    """The address of a service without path: https, or http to a near host. Its trailing slash is dropped.

    Whether http may leave this machine depends on who pushes (`receiver.settings`).
    """
    _web_address(
        value, "use https://host, or http://host on loopback, without path or query", is_near, bare=True
    )
    return value.rstrip("/")


def service_urls(value: str) -> tuple[tuple[str, str], ...]:
    """`name=https://host`, separated by commas, as pairs; each name once."""
    pairs = [each.strip().partition("=")[::2] for each in value.split(",") if each.strip()]
    if not all(url for _, url in pairs):
        raise Unreadable(
            "use name=https://host, such as heavy=https://receiver-heavy-123.europe-west2.run.app"
        )
    if len(dict(pairs)) < len(pairs):
        raise Unreadable("use name=https://host,name=https://host, each name once")
    return tuple((service_name(name), service_url(url)) for name, url in pairs)


def certificates_url(value: str) -> str:
    """An address to fetch from: https, or http on loopback."""
    _web_address(value, "use an https address, or http on loopback")
    return value


def local_host(value: str) -> str:
    """`host:port` of a near host, as `PUBSUB_EMULATOR_HOST` is written; `http://` before it is dropped.

    The secret of the local Pub/Sub may follow as a path.
    """
    host = value.removeprefix("http://").rstrip("/")
    allowed = (
        "use host:port here or in a private network, such as 127.0.0.1:8085, pubsub:8085, "
        "pubsub.shop.svc.cluster.local:8085 or host.containers.internal:8085"
    )
    parts = _web_address(f"http://{host}", allowed, is_near)
    if not _SECRET_PATH.fullmatch(parts.path) or parts.query or not parts.port:
        raise Unreadable(allowed)
    return host


def local_url(value: str) -> str:
    """The address of a stand-in on this machine, without path. Its trailing slash is dropped."""
    allowed = "use http://host:port on loopback, such as http://127.0.0.1:8086"
    if _web_address(value, allowed, bare=True).scheme != "http":
        raise Unreadable(allowed)
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


def entries(value: str) -> tuple[str, ...]:
    """Several of `entry`, separated by commas; blanks between commas are skipped."""
    try:
        return tuple(entry(part.strip()) for part in value.split(",") if part.strip())
    except Unreadable:
        raise Unreadable("use module:callable, comma-separated, such as shop.tenants:tenant") from None


def dsn(value: str) -> str:
    """The address of a PostgreSQL database, as SQLAlchemy, libpq and Cloud SQL users write it.

    Any piece of a mistyped address may be the password, so no piece of it is part of an error. The driver's error quotes
    a parameter without a value; such an address is refused here.
    """
    parts = _split(_FURTHER_HOSTS.sub("", value))
    if parts is None or parts.scheme not in _DSN_SCHEMES or not value.partition(":")[2].startswith("//"):
        raise Unreadable(
            "use postgresql://user:password@host:5432/database (also postgres://, +asyncpg, +psycopg); "
            "percent-encode special characters of the password"
        )
    if parts.fragment or not re.fullmatch(r"([^&=]+=[^&]*(&(?!$)|$))*", parts.query):
        raise Unreadable("percent-encode # as %23, ? as %3F and other characters of the password alike")
    if any(mode not in _SSLMODES for mode in re.findall(r"(?:^|&)sslmode=([^&]*)", parts.query)):
        raise Unreadable(f"its sslmode can be {', '.join(_SSLMODES)}")
    if "channel_binding=require" in parts.query.split("&"):
        raise Unreadable(
            "use sslmode=verify-full in place of channel_binding=require, which the driver does not have"
        )
    return value


def password(value: str) -> str:
    """Any text that PostgreSQL's protocol can carry."""
    if not value or not is_storable(value):
        raise Unreadable("use UTF-8 text without NUL")
    return value


def _web_address(
    value: str, allowed: str, plain: Callable[[str], bool] = is_loopback, *, bare: bool = False
) -> SplitResult:
    """The parts of an address: https, or http to a host for which `plain` is true; `bare`: without path and query."""
    parts = _split(value)
    if parts is None or not parts.hostname or "@" in parts.netloc or "#" in value:
        raise Unreadable(allowed)
    is_host = _HOST.fullmatch(parts.hostname) or ip(parts.hostname)
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and plain(parts.hostname))
    if not (is_host and is_safe) or (bare and (parts.path not in {"", "/"} or parts.query)):
        raise Unreadable(allowed)
    return parts


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


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _brief(value: timedelta) -> str:
    seconds = value.total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


def _brief_size(count: int) -> str:
    unit = max((unit for unit in _BYTES if unit and count % _BYTES[unit] == 0), key=_BYTES.__getitem__)
    return f"{count // _BYTES[unit]}{unit}"

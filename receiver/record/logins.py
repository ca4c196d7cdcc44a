"""How a new connection logs in: with which role and password, and what is done when PostgreSQL refuses it.

The text of `DATABASE_PASSWORD_FILE` and the token of `DATABASE_AUTH=iam` are kept, and read again when a login is refused. A
password from a variable stays what it is while the process lives. Once it has been refused for `LASTING`,
`on_lasting_refusal` is called: only a new process gets the new secret.

Invariant: a token is sent over TLS, through a socket, or to this machine.

All pools of a process share one `Login`, whatever their threads and event loops. Next: `receiver.record.database`.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

from receiver import hosts, parsers
from receiver.errors import GoogleError, SettingError
from receiver.record.sqlstates import LoginRefused, NotConnected, is_login_refused
from receiver.record.tls import DEMANDED
from receiver.settings import DatabaseAuth, Settings
from receiver.variables import HIDDEN

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

T = TypeVar("T")

LASTING: Final = 60.0
"""Seconds for which logins have to be refused before an instance gives up: role and secret are changed in two steps."""

SCOPE: Final = "https://www.googleapis.com/auth/sqlservice.login"
"""What a token may do that Cloud SQL takes as a password: log in, and nothing else."""

TOKEN_TIMEOUT: Final = 5.0
"""Seconds for a token; the metadata server answers in milliseconds."""

_ACCOUNT_END: Final = ".gserviceaccount.com"
"""Cloud SQL's name of a service account's role ends before it."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What a login shows. None: what the address, `PGPASSWORD` or `~/.pgpass` say."""

    user: str | None = None
    password: str | None = field(default=None, repr=False)


class Secret(Protocol):
    """Where the password comes from. `renewable`: whether it may change while the process lives."""

    renewable: bool

    async def read(self) -> Credential:
        """What the next login shows."""

    async def read_again(self) -> Credential:
        """The same after a refusal, from its source."""


class FixedPassword:
    """A password from a variable, or what the address has."""

    renewable = False

    def __init__(self, password: str | None = None) -> None:
        self._credential = Credential(password=password)

    async def read(self) -> Credential:
        """Always the same."""
        return self._credential

    read_again = read


class PasswordFile:
    """A password in a file, such as a mounted secret. Reading it may be a request of its own, so a thread reads it.

    Raises:
        SettingError: the file cannot be read now, or holds no password.
    """

    renewable = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._credential = self._read()

    async def read(self) -> Credential:
        """As it was last read."""
        return self._credential

    async def read_again(self) -> Credential:
        """As it is now; as it was when it cannot be read."""
        try:
            self._credential = await asyncio.to_thread(self._read)
        except SettingError:
            return self._credential
        return self._credential

    def _read(self) -> Credential:
        try:
            text = self._path.read_text(errors="surrogateescape").rstrip("\r\n")
            return Credential(password=parsers.password(text))
        except OSError as error:
            why = f"the file cannot be read ({error.strerror})"
        except parsers.Unreadable as error:
            why = f"the file does not hold a password; {error}"
        raise SettingError("DATABASE_PASSWORD_FILE", str(self._path), why)


class LoginToken:
    """A token of this process's service account, as Cloud SQL's IAM login takes it.

    Args:
        user: the role; None for the service account's own.
    """

    renewable = True

    def __init__(self, user: str | None) -> None:
        from receiver.google.credentials import AccessToken  # noqa: PLC0415 - imports google-auth: slow, and only this login needs it

        self._user = user
        self._token = AccessToken(SCOPE)

    async def read(self) -> Credential:
        """The token, until shortly before its end.

        Raises:
            NotConnected: there is none.
        """
        try:
            async with asyncio.timeout(TOKEN_TIMEOUT):
                token, account = await asyncio.to_thread(self._token.fetch)
        except TimeoutError:
            raise NotConnected(f"no token for the login within {TOKEN_TIMEOUT:g} s") from None
        except GoogleError as error:
            raise NotConnected(f"no token for the login: {error}") from error
        user = self._user or account
        if user is None:
            raise NotConnected(
                "no role for the login: write sa%40project.iam@ before the host in DATABASE_URL"
            )
        return Credential(user.removesuffix(_ACCOUNT_END), token)

    async def read_again(self) -> Credential:
        """A new token, where the metadata server has one."""
        self._token.forget()
        return await self.read()


class Login:
    """The logins of one process: counted, and tried once more when the secret has changed.

    Attributes:
        on_lasting_refusal: called once, in any thread, when a secret that cannot change has been refused for `LASTING`.
    """

    def __init__(self, secret: Secret | None = None) -> None:
        self._secret = secret or FixedPassword()
        self._refused_since: float | None = None
        self.on_lasting_refusal: Callable[[], None] | None = None

    async def run(self, connect: Callable[[Credential], Awaitable[T]]) -> T:
        """The connection that `connect` makes.

        Raises:
            LoginRefused: PostgreSQL refuses the role or its password, also after it was read again.
        """
        credential = await self._secret.read()
        try:
            made = await connect(credential)
        except asyncpg.PostgresError as error:
            if not is_login_refused(error):
                raise
            again = await self._secret.read_again()
            if again == credential:
                raise self._refused(error) from error
            try:
                made = await connect(again)
            except asyncpg.PostgresError as second:
                if not is_login_refused(second):
                    raise
                raise self._refused(second) from second
        self._refused_since = None
        return made

    def _refused(self, error: asyncpg.PostgresError) -> LoginRefused:
        now = time.monotonic()
        since = self._refused_since = self._refused_since or now
        if now - since >= LASTING and not self._secret.renewable:
            tell, self.on_lasting_refusal = self.on_lasting_refusal, None
            if tell is not None:
                tell()
        words = re.sub(' "[^"]*"', "", str(error.args[0]))  # names stay out of logs
        return LoginRefused(f"PostgreSQL refuses the login: {words}")


@lru_cache(maxsize=4)
def login_of(settings: Settings) -> Login:
    """The login that the settings describe. The same settings give the same one, to all pools of a process.

    Raises:
        SettingError: the password's file cannot be read, two variables name a password, or a token would be sent in clear.
    """
    if settings.database_password is not None and settings.database_password_file is not None:
        raise SettingError(
            "DATABASE_PASSWORD_FILE",
            str(settings.database_password_file),
            "unset it or DATABASE_PASSWORD: one of them has the password",
        )
    if settings.database_auth is DatabaseAuth.IAM:
        if settings.database_password is not None or settings.database_password_file is not None:
            allowed = "unset DATABASE_PASSWORD and DATABASE_PASSWORD_FILE: the password is a token then"
            raise SettingError("DATABASE_AUTH", "iam", allowed)
        parts = urlsplit(settings.database_url or "")
        named = unquote(parts.username or "") or parse_qs(parts.query).get("user", [""])[-1]
        return Login(LoginToken(named or None))
    if settings.database_password_file is not None:
        return Login(PasswordFile(settings.database_password_file))
    return Login(FixedPassword(settings.database_password))


def encrypted(url: str) -> str:
    """The address with `sslmode=require`, unless it asks for more or leads to a socket or this machine.

    Raises:
        SettingError: it asks for less.
    """
    parts = urlsplit(url)
    asked = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    host = asked.get("host") or parts.hostname or ""
    if "," in parts.netloc.rpartition("@")[2]:  # of several servers, the first may be this machine
        host = ""
    if host.startswith("/") or hosts.is_loopback(host) or asked.get("sslmode") in DEMANDED:
        return url
    if "sslmode" in asked:
        allowed = "use sslmode=require, verify-ca or verify-full: DATABASE_AUTH=iam sends a token"
        raise SettingError("DATABASE_URL", HIDDEN, allowed)
    return f"{url}{'&' if parts.query else '?'}sslmode=require"

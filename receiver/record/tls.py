"""Why a TLS connection to PostgreSQL failed, in one line: what is wrong, and what to change in `DATABASE_URL`.

The driver's own words name neither the parameter nor the remedy. Next: `receiver.record.database` raises `TlsFailed`.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg

from receiver.errors import DatabaseUnavailable

OTHER_HOST = (62, 64)
"""OpenSSL's codes for a certificate that does not name the host, or the address, that was asked for."""

NOT_VALID_NOW = (9, 10)
"""OpenSSL's codes for a certificate, the server's or a CA's, that is not valid yet or has expired."""

FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
"""The parameters of `DATABASE_URL` that name files. The driver also reads them from `PGSSLROOTCERT` and the like."""


DEMANDED = ("require", "verify-ca", "verify-full")
"""The values of `sslmode` with which no connection goes without TLS."""


class TlsFailed(DatabaseUnavailable):
    """There is no TLS connection. The message may be shown to anybody, as on /ready: it holds no name and no path."""


def may_go_without(error: Exception, dsn: str) -> bool:
    """Whether the peer cut the connection when it was asked for TLS, and TLS is only preferred.

    The driver goes on without TLS after a No. Some proxies that encrypt by themselves hang up instead.
    """
    return _is_cut(error) and _asked(dsn).get("sslmode") == "prefer"


def explained(error: Exception, dsn: str) -> str | None:
    """Why there is no TLS connection and what to do; None when the error is about something else."""
    asked = _asked(dsn)
    why = None
    match error:
        case ssl.SSLCertVerificationError(verify_code=code) if code in OTHER_HOST:
            why = (
                "the database's certificate is for another host; put the host name of the certificate into DATABASE_URL, or "
                "check the CA alone with sslmode=verify-ca"
            )
        case ssl.SSLCertVerificationError(verify_code=code) if code in NOT_VALID_NOW:
            why = f"the database's certificate, or its CA's in sslrootcert, is not valid now ({error.verify_message}); renew it"
        case ssl.SSLCertVerificationError():
            why = (
                f"the database's certificate is refused ({error.verify_message}); in DATABASE_URL sslrootcert has to name the "
                "file of the CA that signed it"
            )
        case ssl.SSLError():
            why = (
                f"TLS with the database failed ({error.reason or 'not a certificate and its key'}); check sslrootcert, sslcert "
                "and sslkey in DATABASE_URL"
            )
        case FileNotFoundError() | PermissionError() | IsADirectoryError() | NotADirectoryError():
            for name in FILES:
                variable = f"PG{name.upper()}"
                path = asked.get(name) or os.environ.get(variable)
                if path and (Path(path).is_dir() or not os.access(path, os.R_OK)):
                    where = "DATABASE_URL" if name in asked else variable
                    why = f"the file of {name} cannot be read; check its path in {where}, and its permissions"
        case asyncpg.ClientConfigurationError() if "root certificate" in str(error):
            why = (
                f"sslmode={asked.get('sslmode')} needs the server's CA; add sslrootcert=FILE to DATABASE_URL"
            )
        case ConnectionError() if "SSL upgrade" in str(error):
            why = "the database's server has no TLS; turn it on there (ssl=on)"
        case _ if _is_cut(error) and asked["sslmode"] in DEMANDED:
            why = (
                "the connection to the database is cut when TLS begins; behind a proxy that encrypts by itself, such as Cloud "
                "SQL's, set sslmode=disable in DATABASE_URL"
            )
    return why


def _asked(dsn: str) -> dict[str, str]:
    """The parameters of the address; `sslmode` as the driver finds it."""
    asked = {name: values[-1] for name, values in parse_qs(urlsplit(dsn).query).items()}
    return {"sslmode": os.environ.get("PGSSLMODE", "prefer")} | asked


def _is_cut(error: Exception) -> bool:
    """Whether the peer hung up before it had answered anything."""
    return isinstance(error, ConnectionResetError) or "connection_lost" in str(error)

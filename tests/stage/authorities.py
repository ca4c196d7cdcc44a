"""httpx reads the certificates of all authorities for each client, 40 ms of CPU. Here they are read once a process."""

from __future__ import annotations

import os
import ssl
from functools import cache
from typing import Any

import httpx
from httpx._transports import default


@cache
def _kept(*_environ: str | None, trust_env: bool) -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=trust_env)


def _context(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:  # noqa: FBT001, FBT002 - httpx's signature
    if verify is not True or cert is not None:
        return httpx.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env)
    return _kept(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"), trust_env=trust_env)


def read_once() -> None:
    """From now on, in this process and its forks."""
    default.create_ssl_context = _context  # type: ignore[attr-defined]  # imported there from httpx._config
    _context()

"""What the environment says of the way to Google: `HTTPS_PROXY` or `ALL_PROXY`, and `SSL_CERT_FILE` or `SSL_CERT_DIR`.

Requests and the fetch of Google's keys both ask here. `NO_PROXY` is for whoever connects: `urllib.request.proxy_bypass`.
"""

from __future__ import annotations

import os
import ssl
from urllib.parse import urlsplit
from urllib.request import getproxies

import certifi

from receiver.errors import GoogleUnavailable


def proxy() -> str | None:
    """The address of the proxy for https.

    Raises:
        GoogleUnavailable: it speaks something else than HTTP, such as SOCKS.
    """
    named = getproxies()
    found = named.get("https") or named.get("all")
    if not found:
        return None
    address = found if "://" in found else f"http://{found}"
    scheme = urlsplit(address).scheme
    if scheme not in {"http", "https"}:
        raise GoogleUnavailable(f"a {scheme} proxy is not supported: name an HTTP proxy in HTTPS_PROXY")
    return address


def authorities() -> ssl.SSLContext:
    """TLS that trusts the environment's authorities, else those that certifi knows."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    file = file or (None if folder else certifi.where())
    return ssl.create_default_context(cafile=file, capath=None if file else folder)

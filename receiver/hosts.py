"""Which hosts are this machine, and which are near it. Nothing is looked up: what a name says decides.

Plain http, and no token, goes to such a host alone. Next: `receiver.parsers` reads addresses with it, `receiver.google.client`
asks before each request.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

LOOPBACK: Final = "127.0.0.1"
"""Where servers on this machine listen."""

_NEAR: Final = re.compile(
    r"[a-z]([a-z0-9_-]*[a-z0-9])?"  # of a compose file, or a pod
    r"|([a-z0-9-]+\.)+svc(\.cluster\.local)?"  # Kubernetes' services
    r"|host\.[a-z0-9-]+\.internal",  # the machine below: host.docker.internal, host.containers.internal (podman), ...
    re.IGNORECASE,
)
"""Names that no public name server answers for: `internal` is kept for private use, and there is no top-level domain `svc`."""

_PRIVATE: Final = tuple(
    ipaddress.ip_network(each) for each in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)
"""RFC 1918 and RFC 4193. Not link-local: a cloud's metadata server answers there."""


def is_loopback(host: str) -> bool:
    """True for `localhost`, 127.0.0.0/8 and ::1: traffic that never leaves the machine. Nothing is looked up."""
    address = ip(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def is_near(host: str) -> bool:
    """True for this machine, a private address, or a name of compose, Kubernetes or a container's machine: no host of the internet.

    Nothing is looked up. 0.0.0.0 is this machine, as the emulator's own instructions write it. `metadata.google.internal` is not
    near: a request there could ask for a token.
    """
    address = ip(host)
    if address is None:
        return _NEAR.fullmatch(host) is not None
    return address.is_loopback or address.is_unspecified or any(address in network for network in _PRIVATE)


def ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that is written there; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None

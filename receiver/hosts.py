"""How near a host is, by its name alone: nothing is looked up.

Next: `receiver.variables` reads addresses by it, `receiver.google.client` sends no token to what is near.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

_NEIGHBOUR: Final = re.compile(r"[A-Za-z]([A-Za-z0-9_-]*[A-Za-z0-9])?", re.ASCII)
_DOCKERS: Final = "host.docker.internal"
"""What a container calls the machine that it runs on."""

_PRIVATE: Final = tuple(
    ipaddress.ip_network(each) for each in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)
"""RFC 1918 and RFC 4193. Link-local is none of them: a cloud's metadata answers there."""


def is_loopback(host: str) -> bool:
    """True for `localhost`, 127.0.0.0/8 and ::1: traffic that never leaves the machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_near(host: str) -> bool:
    """Loopback, a private address, or a name without a dot, as a compose file gives: no host of the internet."""
    if is_loopback(host) or host.lower() == _DOCKERS:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return _NEIGHBOUR.fullmatch(host) is not None
    return any(address in network for network in _PRIVATE)

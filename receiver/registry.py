"""Deprecated: import `Registry` from `receiver.testing`."""

from __future__ import annotations

from receiver.deprecation import deprecated
from receiver.tasks.registry import Registry, load

__all__ = ["Registry", "load"]

deprecated("receiver.registry", "import Registry from receiver.testing", since=(0, 1))

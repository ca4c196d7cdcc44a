"""Deprecated: import `Registry` from `receiver.testing`. Goes with the next minor version."""

from __future__ import annotations

import warnings

from receiver.tasks.registry import Registry, load

__all__ = ["Registry", "load"]

warnings.warn(
    "receiver.registry goes with the next minor version: import Registry from receiver.testing",
    DeprecationWarning,
    stacklevel=2,
)

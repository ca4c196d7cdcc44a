"""The old import path of Registry works, and says where it went."""

from __future__ import annotations

import importlib
import sys

import pytest

from receiver.testing import Registry


def test_the_old_path_warns_and_gives_the_same_class() -> None:
    sys.modules.pop("receiver.registry", None)
    with pytest.warns(DeprecationWarning, match=r"import Registry from receiver\.testing"):
        old = importlib.import_module("receiver.registry")
    assert old.Registry is Registry

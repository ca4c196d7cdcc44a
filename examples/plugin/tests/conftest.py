"""Which tasks the fixture `task_queue` delivers. A plugin that is installed needs none of this: it is found."""

from __future__ import annotations

import pytest
from example_tasks import tasks

from receiver.testing import Registry


@pytest.fixture(scope="session")
def receiver_registry() -> Registry:
    return Registry(tasks)

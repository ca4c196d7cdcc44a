"""One receiver with the hostile tasks for the tests of a module that leave it as they found it."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import Start
from tests.stage.executions import make_effects
from tests.stage.instance import Instance
from tests.stage.record import Record


@pytest.fixture(scope="module")
def shared_record(shared_database_url: str) -> Record:
    """What stands in its database, which has a table for effects."""
    make_effects(shared_database_url)
    return Record(shared_database_url)


@pytest.fixture(scope="module")
def shared(begin_shared: Start, shared_record: Record) -> Instance:
    """Its process."""
    return begin_shared(shared_record.url)

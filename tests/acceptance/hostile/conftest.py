"""Receivers that run hostile tasks, on databases that have a table for effects."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from receiver.dev.processes import Instance
from receiver.emulator.signer import Signer
from tests.acceptance.hostile.wire import MODULE, Marks

PLUGIN = Path(__file__).parent / "plugin"


class Begin(Protocol):
    """Starts a receiver with the hostile plugin; it ends with whoever asked."""

    def __call__(
        self,
        database_url: str,
        env: Mapping[str, str] | None = None,
        *,
        certs_url: str | None = None,
        port: int | None = None,
    ) -> Instance: ...


def _beginner(running: ExitStack, signer: Signer, own_certs_url: str, folder: Path) -> Begin:
    def begin(
        database_url: str,
        env: Mapping[str, str] | None = None,
        *,
        certs_url: str | None = None,
        port: int | None = None,
    ) -> Instance:
        instance = Instance(
            database_url=database_url,
            modules=MODULE,
            signer=signer,
            certs_url=certs_url or own_certs_url,
            folder=PLUGIN,
            env={"ACCEPTANCE_FOLDER": str(folder), **(env or {})},
            port=port,
        )
        return running.enter_context(instance)

    return begin


@pytest.fixture
def begin(signer: Signer, certs_url: str, folder: Path) -> Iterator[Begin]:
    """For one test."""
    with ExitStack() as running:
        yield _beginner(running, signer, certs_url, folder)


@pytest.fixture(scope="module")
def begin_shared(signer: Signer, certs_url: str, folder: Path) -> Iterator[Begin]:
    """For the tests of a module that leave the receiver as they found it."""
    with ExitStack() as running:
        yield _beginner(running, signer, certs_url, folder)


@pytest.fixture(scope="session")
def marks(folder: Path) -> Marks:
    """What tasks left behind."""
    return Marks(folder)


@pytest.fixture
def label(request: pytest.FixtureRequest) -> str:
    """A name of this test's own: its task_id and its mark."""
    return uuid.uuid4().hex

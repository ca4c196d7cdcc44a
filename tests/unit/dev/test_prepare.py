"""Ports are the last run's, or the favourites, or the next that are free."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from receiver.dev import prepare
from receiver.dev.folder import Folder, Ports
from receiver.errors import ConfigurationError
from receiver.local_postgres.server import free_port


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    made.make()
    return made


def test_a_first_run_takes_what_is_free_from_the_favourites_on(folder: Folder) -> None:
    chosen = prepare._ports(folder, {})
    for port, favourite in zip(
        (chosen.receiver, chosen.pubsub, chosen.postgres), (8080, 8085, 5433), strict=True
    ):
        assert favourite <= port < favourite + prepare.PORTS_TRIED
    assert len({chosen.receiver, chosen.pubsub, chosen.postgres}) == 3


def test_a_port_in_use_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not prepare.is_free(port)
        assert prepare._first_free(port) > port
        assert prepare._first_free(port, port + 1) > port + 1


def test_the_last_runs_ports_are_taken_again_and_PORT_wins(folder: Folder) -> None:  # noqa: N802 - the variable's name
    known = Ports(free_port(), free_port(), free_port())
    folder.keep_ports(known)
    assert prepare._ports(folder, {}) == known
    wanted = free_port()
    assert prepare._ports(folder, {"PORT": str(wanted)}) == Ports(wanted, known.pubsub, known.postgres)


def test_a_port_that_another_part_has_is_refused(folder: Folder) -> None:
    known = Ports(free_port(), free_port(), free_port())
    folder.keep_ports(known)
    with pytest.raises(ConfigurationError, match=r"PORT is \d+, .* the local Pub/Sub listens there"):
        prepare._ports(folder, {"PORT": str(known.pubsub)})


def test_a_port_that_stays_taken_is_named(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "PORT_WAIT", 0.1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        folder.keep_ports(Ports(free_port(), taken.getsockname()[1], free_port()))
        with pytest.raises(ConfigurationError, match=r"for the local Pub/Sub.*delete .*dev\.json"):
            prepare._ports(folder, {})

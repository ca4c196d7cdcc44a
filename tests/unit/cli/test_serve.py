"""Where `receiver serve` listens."""

from __future__ import annotations

import pytest

from receiver.cli.serve import _host
from receiver.errors import SettingError
from receiver.serving.app import create_app
from receiver.settings import Settings

OFF = {"TASKS_PUSH_AUTH": "off"}
ANYWHERE = OFF | {"TASKS_PUSH_AUTH_OFF_ANYWHERE": "on"}


@pytest.mark.parametrize("asked", [None, "127.0.0.1", "::1", "localhost"])
def test_without_tokens_it_listens_on_loopback(asked: str | None) -> None:
    assert _host(asked, Settings.from_environ(OFF)) == (asked or "127.0.0.1")


@pytest.mark.parametrize("asked", ["0.0.0.0", "::", "10.0.0.7", "tasks.example"])
def test_and_refuses_other_addresses_in_one_line(asked: str) -> None:
    with pytest.raises(SettingError) as refused:
        _host(asked, Settings.from_environ(OFF))
    assert str(refused.value) == (
        f"TASKS_PUSH_AUTH is 'off'; everybody who reaches {asked} could run tasks: "
        "use --host 127.0.0.1, or set TASKS_PUSH_AUTH_OFF_ANYWHERE=on"
    )


@pytest.mark.parametrize("environ", [{}, ANYWHERE])
@pytest.mark.parametrize("asked", [None, "10.0.0.7"])
def test_with_tokens_or_when_told_so_it_listens_where_it_is_asked_to(
    environ: dict[str, str], asked: str | None
) -> None:
    assert _host(asked, Settings.from_environ(environ)) == (asked or "0.0.0.0")


def test_another_server_is_not_known_to_listen_on_loopback() -> None:
    with pytest.raises(SettingError, match="another server may listen anywhere"):
        create_app(Settings.from_environ(OFF))

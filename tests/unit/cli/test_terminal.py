"""What commands print never steers a terminal, whoever wrote it."""

from __future__ import annotations

import json

import pytest

from receiver.cli import _told, terminal
from receiver.cli.provision import _Session
from receiver.errors import ConfigurationError
from receiver.provision.provisioning import ProvisionOptions
from receiver.provision.resources import Kind
from receiver.provision.scope import Scope
from receiver.settings import Settings

STEERING = "\x1b]0;x\x07 \x9b31m \x7f \x85 \u202e\u2066\u200f\u061c \u2028 \x00"
HOSTILE = f"one\r\ntwo {STEERING} three"
HARMLESS = "é ü 漢字 🙂 \u00a0"


def harmless(shown: str) -> bool:
    return all(each.isprintable() or each == "\u00a0" for each in shown)


def test_json_for_a_terminal_says_the_same_and_steers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    value = {HOSTILE: [HOSTILE, HARMLESS]}
    terminal.print_json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value
    assert harmless(printed.replace("\n", ""))
    assert HARMLESS in printed


def test_a_line_stays_one_line() -> None:
    assert harmless(terminal.line(HOSTILE + HARMLESS))
    assert HARMLESS in terminal.line(HARMLESS)


def test_several_lines_steer_nothing_either() -> None:
    assert terminal.clean("one\n\ttwo") == "one\n\ttwo"
    assert harmless(terminal.clean(STEERING))


def test_an_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("K_SERVICE", raising=False)
    assert harmless(_told(ConfigurationError(HOSTILE)))
    with pytest.raises(SystemExit):
        terminal.fail(HOSTILE)
    assert harmless(capsys.readouterr().err.removesuffix("\n"))


def test_a_line_of_a_plan_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings.from_environ(
        {"GCP_PROJECT_ID": "shop", "CLOUD_RUN_SERVICE_URL": "https://shop.run.app"}
    )
    session = _Session(
        settings,
        Scope.of(settings),
        ProvisionOptions(),
        changes=False,
        waits=False,
        yes=False,
        as_json=False,
    )
    session._print((f"~ {Kind.TOPIC} {HOSTILE}", ""))
    assert harmless(capsys.readouterr().out.removesuffix("\n"))

"""A call's metadata: small, text to text; what is none is no reason to refuse a message."""

from __future__ import annotations

from typing import Any

import pytest

from receiver import task
from receiver.contract.metadata import METADATA_ATTRIBUTE, encode_metadata, read_metadata
from receiver.emulator.push_client import message
from receiver.enqueue.arguments import row_of
from receiver.tasks.running import Running, running
from tests.stage.messages import decode


@task
async def ship() -> None: ...


def test_what_is_given_arrives() -> None:
    given = {"tenant": "acme", "who": "\U0001f600"}
    body = message("ship", attributes={METADATA_ATTRIBUTE: encode_metadata(given)})
    assert decode(body).metadata == given
    assert decode(message("ship")).metadata is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"a": 1}', '{"a": "b"}' + " " * 1024, "\ud800", '{"a": "\\u0000"}', '{"\\u0000": "a"}'],
)
def test_what_is_none_is_left_out(text: str) -> None:
    """Nor what a row cannot hold."""
    assert read_metadata({METADATA_ATTRIBUTE: text}) is None


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"a": 1}, "maps text to text; it has a key or value of type int"),
        ({1: "a"}, "maps text to text; it has a key or value of type int"),
        ([("a", "b")], "maps text to text; it is of type list"),
        ({"a": "\0"}, "NUL or a lone surrogate"),
        ({"\ud800": "a"}, "NUL or a lone surrogate"),
        ({"a": "x" * 1024}, "metadata has 1032 bytes as JSON, of at most 1024"),
        ({"a": "\xe4" * 510}, "metadata has 1028 bytes as JSON"),
    ],
)
def test_what_no_message_can_carry_is_refused_where_it_is_given(given: Any, why: str) -> None:
    with pytest.raises((TypeError, ValueError), match=why):
        ship.using(metadata=given)


def test_a_call_in_a_task_has_the_tasks_and_its_own() -> None:
    assert row_of(ship.entry()).metadata is None
    before = running.set(Running("t-1", "ship", 1, None, {"tenant": "acme", "user": "ada"}))
    try:
        assert row_of(ship.entry()).metadata == '{"tenant":"acme","user":"ada"}'
        own = ship.using(metadata={"user": "bob"}).entry()
        assert row_of(own).metadata == '{"tenant":"acme","user":"bob"}'
        with pytest.raises(TypeError, match=r"ship: metadata has 1040 bytes as JSON"):
            row_of(ship.using(metadata={"more": "x" * 1000}).entry())
    finally:
        running.reset(before)

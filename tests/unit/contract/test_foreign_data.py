"""The data of a foreign message becomes one argument, whatever it is."""

from __future__ import annotations

import pytest

from receiver.contract.foreign_data import foreign_delivery, foreign_id, recalled
from receiver.contract.message import Pushed, arguments_of
from receiver.errors import Rejected


def pushed(data: bytes, message_id: str = "17", subscription: str = "projects/p/subscriptions/s") -> Pushed:
    return Pushed(message_id, None, subscription, None, {"a": "b"}, data)


@pytest.mark.parametrize("data", [b"1, 2", b"1],[2", b" ", b"", b"{}x"])
def test_json_data_is_one_value_or_none_at_all(data: bytes) -> None:
    if not data:
        assert arguments_of(foreign_delivery(pushed(data), "take", raw=False)) == ([], {})
        return
    with pytest.raises(Rejected, match=r"^malformed_payload"):
        arguments_of(foreign_delivery(pushed(data), "take", raw=False))


@pytest.mark.parametrize(("data", "raw"), [(b"\x00\xff", True), (b"", True), (b'{"a": 1}', False)])
def test_a_row_gives_back_what_the_message_gave(data: bytes, *, raw: bool) -> None:
    first = foreign_delivery(pushed(data), "take", raw=raw)
    bare = foreign_delivery(pushed(b"1"), "take", raw=False)
    again = recalled(bare, first.args, {"a": "b"})
    assert (arguments_of(again), again.foreign, again.recorded) == (arguments_of(first), {"a": "b"}, True)


def test_an_id_is_of_one_message_and_one_subscription() -> None:
    ids = {foreign_id(pushed(b"", message, name)) for message in ("1", "2") for name in ("s", "t")}
    assert len(ids) == 4
    assert foreign_id(pushed(b"x")) == foreign_id(pushed(b"y"))

from __future__ import annotations

import json

import pytest

from receiver.contract.encode import encode_payload


def test_the_payload_of_a_scheduled_message_has_no_enqueued_at() -> None:
    assert json.loads(encode_payload("scheduled-n", "n")) == {
        "task_id": "scheduled-n",
        "task_name": "n",
        "args": [],
        "kwargs": {},
    }


def test_an_argument_that_no_json_can_hold_is_a_plain_error() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        encode_payload("t", "n", ["\ud800"])
    with pytest.raises(TypeError):
        encode_payload("t", "n", [object()])

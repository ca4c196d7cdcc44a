from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.contract.encode import encode_envelope, encode_payload
from receiver.contract.identity import MAX_REJECTION_KEY_BYTES, identify, rejection_key
from receiver.contract.message import Delivery, arguments_of
from receiver.errors import Rejected, RejectionReason
from tests.stage import malformed
from tests.stage.cases import case
from tests.stage.messages import decode

PUBLISHED = datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC)
ENQUEUED = datetime(2026, 3, 1, 12, 30, 14, tzinfo=UTC)


def body(payload: bytes | None = None, message_id: str = "17", **attributes: str) -> bytes:
    if payload is None:
        payload = encode_payload("id-1", "send", [1, "a"], {"k": None}, ENQUEUED)
    return encode_envelope(payload, message_id, PUBLISHED, "projects/p/subscriptions/s", attributes)


def payload(**fields: Any) -> bytes:
    return body(json.dumps({"task_id": "id-1", "task_name": "send"} | fields).encode())


class TestDecode:
    def test_everything_a_push_says_is_in_the_delivery(self) -> None:
        sent = encode_envelope(
            encode_payload("id-1", "send", [1, "a"], {"k": None}, ENQUEUED),
            "17",
            PUBLISHED,
            "s",
            {"a": "b"},
            4,
        )
        assert decode(sent) == Delivery(
            message_id="17",
            publish_time=PUBLISHED,
            subscription="s",
            delivery_attempt=4,
            attributes={"a": "b"},
            task_id="id-1",
            task_name="send",
            args=b'[1,"a"]',
            kwargs=b'{"k":null}',
            enqueued_at=ENQUEUED,
            traceparent=None,
        )

    @pytest.mark.parametrize("names", [("messageId", "publishTime"), ("message_id", "publish_time")])
    def test_either_spelling_of_id_and_publish_time_is_enough(self, names: tuple[str, str]) -> None:
        message = {
            "data": malformed.data(b'{"task_name":"n"}'),
            names[0]: "5",
            names[1]: "2026-03-01T12:30:15.25Z",
        }
        delivery = decode(json.dumps({"message": message, "subscription": "s"}).encode())
        assert (delivery.message_id, delivery.publish_time) == ("5", PUBLISHED)

    def test_unknown_fields_are_ignored(self) -> None:
        assert decode(payload(priority=3, note="\0")).task_id == "id-1"
        assert decode(malformed.envelope(more={"x": ["\0"]})).task_id == "t"

    def test_absent_and_null_fields_of_the_envelope_are_defaults(self) -> None:
        message = {
            "data": malformed.data(b'{"task_name":"n"}'),
            "messageId": "5",
            "attributes": None,
            "orderingKey": None,
        }
        delivery = decode(json.dumps({"message": message, "deliveryAttempt": None}).encode())
        assert delivery.subscription == ""
        assert delivery.attributes == {}
        assert (delivery.publish_time, delivery.enqueued_at, delivery.delivery_attempt) == (None, None, None)
        assert (delivery.args, delivery.kwargs, arguments_of(delivery)) == (b"[]", b"{}", ([], {}))

    def test_arguments_are_kept_as_the_text_that_arrived(self) -> None:
        text = b'{"task_name":"n","args":[1.50, 1e2,  "\\u00e9"],"kwargs":{"a":1,"a":2}}'
        delivery = decode(body(text))
        assert delivery.args == b'[1.50, 1e2,  "\\u00e9"]'
        assert delivery.kwargs == b'{"a":1,"a":2}'
        assert arguments_of(delivery) == ([1.5, 100.0, "é"], {"a": 2})

    @pytest.mark.parametrize(
        "text",
        [
            '["\\\\u0000"]',
            '["\\\\\\\\u0000"]',
            '["\\u0001"]',
            '["u0000"]',
            '["\\\\\\"u0000"]',
            '["\\ud83d\\ude00"]',
        ],
    )
    def test_text_that_only_looks_like_a_nul_or_a_lone_surrogate_is_fine(self, text: str) -> None:
        assert arguments_of(decode(body(b'{"task_name":"n","args":%s}' % text.encode())))[0] == json.loads(
            text
        )

    @given(st.integers(0, 12))
    def test_an_escaped_nul_is_refused_and_an_escaped_backslash_is_not(self, backslashes: int) -> None:
        text = b'["' + b"\\" * backslashes + b'u0000"]'
        sent = body(b'{"task_name":"n","args":%s}' % text)
        if backslashes % 2:
            with pytest.raises(Rejected, match="NUL"):
                decode(sent)
        else:
            assert decode(sent).args == text

    @pytest.mark.parametrize(
        "text",
        [b"[" * 200 + b"]" * 200, b"[" + b"[[],{}]," * 1000 + b'"[[["]', b'{"a":' * 199 + b"[]" + b"}" * 199],
    )
    def test_nesting_of_two_hundred_levels_is_fine_however_wide(self, text: bytes) -> None:
        name = b"args" if text.startswith(b"[") else b"kwargs"
        assert decode(body(b'{"task_name":"n","%s":%s}' % (name, text))).task_name == "n"

    @given(
        st.recursive(st.just(()), lambda inner: st.lists(inner, min_size=1).map(tuple), max_leaves=40),
        st.integers(195, 205),
    )
    def test_depth_is_counted_exactly(self, shape: object, depth: int) -> None:
        def levels(value: object) -> int:
            assert isinstance(value, tuple)
            return 1 + max(map(levels, value), default=0)

        around = depth - levels(shape)
        text = b'["[{",' * around + json.dumps(shape).encode() + b"]" * around
        sent = body(b'{"task_name":"n","args":%s}' % text)
        if depth > 200:
            with pytest.raises(Rejected, match="200 levels"):
                decode(sent)
        else:
            assert decode(sent).args == text

    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ("2026-03-01T12:30:14Z", ENQUEUED),
            ("2026-03-01T13:30:14+01:00", ENQUEUED),
            ("2026-03-01T12:30:14", ENQUEUED),
            ("2026-03-01T12:30:14.000001999Z", ENQUEUED + timedelta(microseconds=2)),
            (None, PUBLISHED),
            ("0001-01-01T00:00:00Z", PUBLISHED),
            ("9999-12-31T23:59:59.999999Z", PUBLISHED),
            ("2099-01-01T00:00:00Z", PUBLISHED),  # of a clock that runs ahead
        ],
    )
    def test_enqueued_at_is_utc_and_never_later_than_the_publish_time(
        self, written: str | None, meant: datetime
    ) -> None:
        delivery = decode(payload(enqueued_at=written))
        assert delivery.enqueued_at == meant
        assert delivery.enqueued_at is not None
        assert delivery.enqueued_at.utcoffset() == timedelta(0)

    def test_a_trace_context_is_taken_from_the_attributes_only_when_it_is_one(self) -> None:
        parent = f"00-{'a' * 32}-{'b' * 16}-01"
        assert decode(body(googclient_traceparent=parent)).traceparent == parent
        assert decode(body(googclient_traceparent=parent + "\n")).traceparent is None

    def test_ten_megabytes_of_arguments_are_decoded(self) -> None:
        text = "x" * 10_000_000
        assert arguments_of(decode(body(encode_payload("t", "n", [text]))))[0] == [text]


class TestIdentity:
    def test_gos_zero_time_is_no_time(self) -> None:
        """A client that never set `enqueued_at` sends it: decoded or refused, the firing has the same identity."""
        unset = {"task_id": "scheduled-clean", "task_name": "clean", "enqueued_at": "0001-01-01T00:00:00Z"}
        delivery = decode(payload(**unset))
        assert delivery.task_id == "scheduled-clean-17"
        found = identify(payload(**unset, args="no list"))
        assert found is not None
        assert found.task_id == delivery.task_id

    def test_a_scheduled_firing_is_an_execution_of_its_own(self) -> None:
        delivery = decode(body(encode_payload("scheduled-clean", "clean")))
        assert (delivery.task_id, delivery.enqueued_at) == ("scheduled-clean-17", PUBLISHED)

    @pytest.mark.parametrize(
        ("task_id", "enqueued_at"),
        [
            ("scheduled-clean", ENQUEUED),
            ("scheduled-clean-17", None),
            ("scheduled-other", None),
            ("Scheduled-clean", None),
            ("clean", None),
        ],
    )
    def test_only_the_exact_scheduled_form_is_extended(
        self, task_id: str, enqueued_at: datetime | None
    ) -> None:
        delivery = decode(body(encode_payload(task_id, "clean", enqueued_at=enqueued_at)))
        assert delivery.task_id == task_id

    def test_a_message_without_task_id_is_known_by_its_message_id(self) -> None:
        assert decode(body(encode_payload(None, "n"), message_id="42")).task_id == "42"

    @pytest.mark.parametrize("task_id", ["i", "i" * 255, "é" * 127, "any text; really\n\x1b[31m"])
    def test_a_task_id_is_any_text_of_1_to_255_bytes(self, task_id: str) -> None:
        assert decode(payload(task_id=task_id)).task_id == task_id

    def test_the_limit_of_a_task_id_is_in_bytes(self) -> None:
        with pytest.raises(Rejected, match="255 bytes"):
            decode(payload(task_id="é" * 128))


class TestMalformed:
    def test_every_shape_of_the_table_is_rejected_and_counted_under_one_key(self) -> None:
        for name, sent in malformed.CASES:
            with case(name):
                with pytest.raises(Rejected) as caught:
                    decode(sent)
                assert caught.value.reason in {
                    RejectionReason.MALFORMED_ENVELOPE,
                    RejectionReason.MALFORMED_PAYLOAD,
                }
                assert caught.value.detail.isprintable()
                assert caught.value.__context__ is None
                assert rejection_key(sent)

    def test_the_table_is_large_and_its_names_are_unique(self) -> None:
        names = [name for name, _ in malformed.CASES]
        assert len(names) >= 60
        assert len(set(names)) == len(names)

    @pytest.mark.parametrize(
        ("sent", "reason"),
        [
            (b"{", "malformed_envelope"),
            (malformed.envelope(messageId=None), "malformed_envelope"),
            (malformed.envelope(data="%"), "malformed_envelope"),
            (malformed.envelope(data=""), "malformed_payload"),
            (malformed.payload(b"{}"), "malformed_payload"),
            (malformed.field("args", b"{}"), "malformed_payload"),
            (malformed.field("kwargs", b"[]"), "malformed_payload"),
        ],
    )
    def test_the_reason_says_which_layer_is_malformed(self, sent: bytes, reason: str) -> None:
        with pytest.raises(Rejected) as caught:
            decode(sent)
        assert caught.value.reason == reason

    def test_the_detail_names_the_place_and_never_the_content(self) -> None:
        with pytest.raises(Rejected) as caught:
            decode(malformed.envelope(attributes={"secret-name": 5, "b": "secret-value"}))
        assert "attributes" in caught.value.detail
        assert "secret" not in caught.value.detail


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)
SOUND = body()


def survives(sent: bytes) -> None:
    """Either a delivery whose every text can be stored, or a rejection; never anything else."""
    key = rejection_key(sent)
    assert len(key.encode()) <= MAX_REJECTION_KEY_BYTES
    assert "\0" not in key
    try:
        delivery = decode(sent)
    except Rejected:
        return
    args, kwargs = arguments_of(delivery)
    assert isinstance(args, list)
    assert isinstance(kwargs, dict)
    assert "\\u0000" not in json.dumps([args, kwargs]).replace("\\\\", "")
    assert "\0" not in delivery.task_id + delivery.task_name + delivery.message_id + delivery.subscription
    assert 1 <= len(delivery.task_id.encode()) <= 255
    for moment in (delivery.publish_time, delivery.enqueued_at):
        assert moment is None or moment.utcoffset() == timedelta(0)


class TestAnything:
    @given(st.binary())
    def test_arbitrary_bytes(self, sent: bytes) -> None:
        survives(sent)
        survives(malformed.payload(sent))

    @given(JSON)
    def test_arbitrary_json(self, value: object) -> None:
        text = json.dumps(value).encode()
        survives(text)
        survives(malformed.payload(text))

    @given(st.sampled_from(["task_id", "task_name", "args", "kwargs", "enqueued_at"]), JSON)
    def test_arbitrary_payload_fields(self, name: str, value: object) -> None:
        survives(malformed.field(name, json.dumps(value).encode()))

    @given(
        st.sampled_from(
            ["data", "messageId", "message_id", "publishTime", "publish_time", "attributes", "orderingKey"]
        ),
        JSON,
    )
    def test_arbitrary_message_fields(self, name: str, value: object) -> None:
        survives(malformed.envelope(**{name: value}))

    @given(st.data())
    def test_mutated_envelopes(self, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, len(SOUND)))
        end = data.draw(st.integers(start, min(len(SOUND), start + 8)))
        survives(SOUND[:start] + data.draw(st.binary(max_size=8)) + SOUND[end:])

    @given(st.data())
    def test_mutated_payloads(self, data: st.DataObject) -> None:
        sound = encode_payload("id-1", "send", [1, "a"], {"k": None}, ENQUEUED)
        start = data.draw(st.integers(0, len(sound)))
        end = data.draw(st.integers(start, min(len(sound), start + 8)))
        survives(malformed.payload(sound[:start] + data.draw(st.binary(max_size=8)) + sound[end:]))


STORABLE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
ARGUMENT = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | STORABLE,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(STORABLE, inner, max_size=4),
    max_leaves=10,
)


@given(
    task_id=STORABLE.filter(lambda text: 1 <= len(text.encode()) <= 255),
    args=st.lists(ARGUMENT, max_size=4),
    kwargs=st.dictionaries(STORABLE, ARGUMENT, max_size=4),
    enqueued_at=st.datetimes(datetime(1970, 1, 2), datetime(2026, 2, 1), timezones=st.timezones()),  # noqa: DTZ001 - hypothesis adds zones
    attributes=st.dictionaries(STORABLE, STORABLE, max_size=3),
    attempt=st.none() | st.integers(0, 100),
)
def test_what_is_encoded_is_decoded_again(
    task_id: str,
    args: list[object],
    kwargs: dict[str, object],
    enqueued_at: datetime,
    attributes: dict[str, str],
    attempt: int | None,
) -> None:
    text = encode_payload(task_id, "send", args, kwargs, enqueued_at)
    delivery = decode(encode_envelope(text, "17", PUBLISHED, "s", attributes, attempt))
    assert arguments_of(delivery) == (args, kwargs)
    assert (delivery.task_id, delivery.enqueued_at) == (task_id, enqueued_at.astimezone(UTC))
    assert (delivery.attributes, delivery.delivery_attempt, delivery.publish_time) == (
        attributes,
        attempt,
        PUBLISHED,
    )

"""A frozen table of malformed push bodies: every one must be a 400, never a 500, and leave nothing behind.

`CASES` is a list of (name, body). Bodies stay under 3 MB, so that each can also be posted over HTTP.
"""

from __future__ import annotations

import base64
import json
from typing import Any

SUBSCRIPTION = "projects/p/subscriptions/s"


def data(payload: bytes) -> str:
    return base64.b64encode(payload).decode()


def envelope(**message: Any) -> bytes:
    """An envelope that is sound except for what is given."""
    usual = {"data": data(b'{"task_id":"t","task_name":"n"}'), "messageId": "1", "attributes": {}}
    return json.dumps({"message": usual | message, "subscription": SUBSCRIPTION}).encode()


def payload(raw: bytes) -> bytes:
    """A sound envelope around these bytes."""
    return envelope(data=data(raw))


def field(name: str, value: bytes) -> bytes:
    """A sound envelope around a payload with one field, spelt like this, put over the sound ones."""
    fields = {b"task_id": b'"t"', b"task_name": b'"n"', b"args": b"[]", b"kwargs": b"{}"} | {
        name.encode(): value
    }
    return payload(b"{" + b",".join(b'"%s":%s' % pair for pair in fields.items()) + b"}")


def within(raw: bytes) -> bytes:
    """A sound envelope in whose text the marker @ is replaced."""
    return envelope(orderingKey="@").replace(b"@", raw)


CASES: list[tuple[str, bytes]] = [
    # the body
    ("empty body", b""),
    ("white space", b" \n\t"),
    ("no JSON", b"hello"),
    ("half a document", envelope()[:-1]),
    ("two documents", envelope() * 2),
    ("trailing comma", envelope()[:-1] + b",}"),
    ("single quotes", envelope().replace(b'"', b"'")),
    ("form data", b"message=1&subscription=2"),
    ("XML", b"<message/>"),
    ("NUL bytes", bytes(100)),
    ("byte order mark", b"\xef\xbb\xbf" + envelope()),
    ("UTF-16", envelope().decode().encode("utf-16")),
    ("invalid UTF-8 alone", b"\xff\xfe\xfd"),
    ("gzip", b"\x1f\x8b\x08\x00\x00\x00\x00\x00"),
    ("a list", b"[]"),
    ("a string", b'"message"'),
    ("a number", b"1"),
    ("null", b"null"),
    ("true", b"true"),
    ("NaN", b"NaN"),
    ("brackets without end", b"[" * 200_000),
    ("objects without end", b'{"message":' * 100_000),
    ("depth hidden in an unknown field", envelope()[:-1] + b',"x":' + b"[" * 300_000 + b"]" * 300_000 + b"}"),
    # the envelope
    ("empty object", b"{}"),
    ("no message", b'{"subscription":"s"}'),
    ("message null", b'{"message":null,"subscription":"s"}'),
    ("message a string", b'{"message":"m","subscription":"s"}'),
    ("message a list", b'{"message":[],"subscription":"s"}'),
    ("message empty", b'{"message":{},"subscription":"s"}'),
    ("unwrapped payload", b'{"task_id":"t","task_name":"n","args":[],"kwargs":{}}'),
    ("subscription a number", envelope().replace(json.dumps(SUBSCRIPTION).encode(), b"7")),
    ("subscription a list", envelope().replace(json.dumps(SUBSCRIPTION).encode(), b"[]")),
    ("subscription too long", envelope().replace(SUBSCRIPTION.encode(), b"s" * 1000)),
    ("subscription with NUL", envelope().replace(SUBSCRIPTION.encode(), b"s\\u0000")),
    ("message id missing", envelope(messageId=None)),
    ("message id empty", envelope(messageId="")),
    ("message id a number", envelope(messageId=1)),
    ("message id a list", envelope(messageId=["1"])),
    ("message id with NUL", envelope(messageId="1\0")),
    ("message id too long", envelope(messageId="1" * 256)),
    ("message id too long in bytes", envelope(messageId="é" * 128)),
    ("other spelling of the id a number", envelope(message_id=1)),
    ("publish time a number", envelope(publishTime=1)),
    ("publish time no time", envelope(publishTime="yesterday")),
    ("publish time empty", envelope(publishTime="")),
    ("publish time outside the calendar", envelope(publishTime="0001-01-01T00:00:00+23:59")),
    ("publish time in month 13", envelope(publish_time="2026-13-01T00:00:00Z")),
    ("attributes a list", envelope(attributes=[])),
    ("attributes a string", envelope(attributes="a")),
    ("attribute a number", envelope(attributes={"a": 1})),
    ("attribute null", envelope(attributes={"a": None})),
    ("attribute with NUL", envelope(attributes={"a": "\0"})),
    ("attribute name with NUL", envelope(attributes={"\0": "a"})),
    ("ordering key a number", envelope(orderingKey=1)),
    ("ordering key with NUL", envelope(orderingKey="\0")),
    ("ordering key a lone surrogate", within(b"\\ud800")),
    ("ordering key a reversed pair", within(b"\\udc00\\ud800")),
    ("ordering key no UTF-8", within(b"\xff")),
    ("ordering key an overlong encoding", within(b"\xc0\xaf")),
    ("ordering key an encoded surrogate", within(b"\xed\xa0\x80")),
    ("ordering key a bad escape", within(b"\\q")),
    ("ordering key half an escape", within(b"\\u12")),
    ("ordering key a raw newline", within(b"\n")),
    ("unknown field no UTF-8", envelope()[:-1] + b',"x":"\xff"}'),
    ("delivery attempt a string", envelope()[:-1] + b',"deliveryAttempt":"5"}'),
    ("delivery attempt a fraction", envelope()[:-1] + b',"deliveryAttempt":1.5}'),
    ("delivery attempt true", envelope()[:-1] + b',"deliveryAttempt":true}'),
    ("delivery attempt negative", envelope()[:-1] + b',"deliveryAttempt":-1}'),
    ("delivery attempt beyond an int4", envelope()[:-1] + b',"deliveryAttempt":2147483648}'),
    ("delivery attempt of 5000 digits", envelope()[:-1] + b',"deliveryAttempt":' + b"9" * 5000 + b"}"),
    # data
    ("data missing", envelope(data=None)),
    ("data empty", envelope(data="")),
    ("data a number", envelope(data=1)),
    ("data a list", envelope(data=[])),
    ("data the payload itself", envelope(data={"task_name": "n"})),
    ("data no base64", envelope(data="%%%")),
    ("data without padding", envelope(data="YQ")),
    ("data with a space", envelope(data="Y Q==")),
    ("data with a newline", envelope(data="YQ==\n")),
    ("data in the URL alphabet", envelope(data="_w==")),
    ("data padded twice", envelope(data="YQ==YQ==")),
    ("data encoded twice", envelope(data=data(data(b'{"task_name":"n"}').encode()))),
    # the payload
    ("payload no JSON", payload(b"hello")),
    ("payload white space", payload(b"  ")),
    ("payload no UTF-8", payload(b'{"task_name":"\xff"}')),
    ("payload with a byte order mark", payload(b'\xef\xbb\xbf{"task_name":"n"}')),
    ("payload in UTF-16", payload('{"task_name":"n"}'.encode("utf-16"))),
    ("payload pickled", payload(b"\x80\x04\x95\x0b\x00\x00\x00.")),
    ("payload a list", payload(b"[]")),
    ("payload a string", payload(b'"n"')),
    ("payload null", payload(b"null")),
    ("payload a number", payload(b"0")),
    ("payload empty", payload(b"{}")),
    ("payload half", payload(b'{"task_name":"n"')),
    ("payload twice", payload(b'{"task_name":"n"}{"task_name":"n"}')),
    ("payload brackets without end", payload(b"[" * 100_000)),
    ("unknown payload field no UTF-8", field("x", b'"\xff"')),
    ("task_name missing", payload(b'{"task_id":"t"}')),
    *[
        (f"{name} {value.decode('ascii', 'replace'):.24}", field(name, value))
        for name, values in {
            "task_name": [b"null", b"1", b"[]", b"{}", b"true", b'""', b'"a\\u0000b"', b'"\\ud800"', b'"' + b"n" * 501 + b'"'],
            "task_id": [b"null", b"1", b"[]", b"{}", b"false", b'""', b'"a\\u0000b"', b'"\\udfff"', b'"' + b"i" * 256 + b'"'],
            "args": [b"null", b"{}", b'"a"', b"1", b"true", b"[1,]", b"[,]", b"[1 2]", b"[NaN]", b"[Infinity]", b"[-Infinity]",
                     b"[01]", b"[.5]", b"[1.]", b"[+1]", b"[0x1]", b"[1e]", b"[1e400]", b"[-1e1000000]", b"[undefined]", b"['a']",
                     b"[" + b"9" * 5000 + b"]", b'["a\\u0000b"]', b'["\\\\\\u0000"]', b'[{"\\u0000":1}]', b'["\\ud800"]',
                     b'["\\ud800x"]', b'["\\udc00\\ud800"]', b'["\\ud800\\ud800"]', b'["\xff"]', b'["\n"]', b'["\x00"]',
                     b'["\\x"]', b'["\\u00zz"]'],
            "kwargs": [b"null", b"[]", b'"a"', b"1", b'{"a"}', b'{"a":}', b"{1:2}", b'{"a":1,}', b'{"a\\u0000":1}',
                       b'{"a":"\\u0000"}', b'{"a":{"b":["\\u0000"]}}', b'{"\\ud800":1}', b'{"a":NaN}', b'{"a":1e999}'],
            "enqueued_at": [b"1", b'""', b'"now"', b"[]", b"true", b'"2026-01-01"', b'"2026-02-30T00:00:00Z"',
                            b'"2026-01-01T25:00:00Z"', b'"9999-12-31T23:59:59-23:59"', b'"\\u0000"'],
        }.items()
        for value in values
    ],
    ("args 201 deep", field("args", b"[" * 201 + b"]" * 201)),
    ("kwargs 201 deep", field("kwargs", b'{"a":' * 200 + b"{}" + b"}" * 200)),
    ("args mixed 300 deep", field("args", b'[{"a":' * 150 + b"1" + b"}]" * 150)),
    ("args 100 000 deep", field("args", b"[" * 100_000 + b"]" * 100_000)),
    ("args deep behind a long string", field("args", b'["' + b'[\\"' * 1000 + b'",' + b"[" * 205 + b"]" * 205 + b"]")),
    ("scheduled id too long once extended", payload(json.dumps(
        {"task_id": "scheduled-" + "n" * 245, "task_name": "n" * 245}).encode())),
]  # fmt: skip

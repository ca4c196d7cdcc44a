"""Whatever the bytes are, the answer is a 400 and nothing stays behind; large ones fit under the cap for bytes in flight."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver import TaskRoute
from receiver.contract.identity import rejection_key
from receiver.contract.message import arguments_of
from receiver.emulator import push_client as pusher
from receiver.errors import Rejected
from receiver.tasks.registry import Registry
from tests.acceptance.conftest import Start
from tests.stage import malformed
from tests.stage.instance import Instance
from tests.stage.messages import decode
from tests.stage.receivers import Marks, memory, message, reset_peak
from tests.stage.record import Record
from tests.stage.wire import healthy, push

MIB = 1024 * 1024
GENERATED, EDITED, OVER_HTTP = 300, 9_300, 400
"""Bodies made of hostile values, bodies made by editing known ones, and those posted to a process: 10 000 in all."""

TOLERANCE = 24 * MIB
"""What a warmed-up process may grow by over hundreds of bad bodies: allocator noise, not one body of the larger ones."""

INFLIGHT = 64 * MIB
"""TASKS_MAX_INFLIGHT_BYTES as it is by default."""

COPIES = 8
"""Copies of its body that a delivery of one long text may hold at its worst: as it streams in, whole, its base64 decoded,
args as JSON, as Python's text, as SQL text, in the driver's buffer, and one for the allocator."""


async def takes(label: str, *args: Any, **kwargs: Any) -> None: ...


REGISTRY = Registry([TaskRoute(takes)])


@pytest.fixture
def instance(shared: Instance) -> Instance:
    return shared


@pytest.fixture(autouse=True)
def unexpected(instance: Instance) -> Iterator[None]:
    """No body may lead to an error of the receiver's own."""
    before = len(instance.log())
    yield
    assert instance.process.poll() is None
    assert "internal error" not in instance.log()[before:]


# --- bodies ---------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=True)
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(["\0", "\ud800", "1e999999", "x" * 5000, "scheduled-takes"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
payload_fields = st.fixed_dictionaries(
    {},
    optional={
        name: json_values | usual
        for name, usual in {
            "task_id": st.text(max_size=300),
            "task_name": st.just("takes"),
            "args": st.lists(json_values, max_size=4),
            "kwargs": st.dictionaries(st.sampled_from(["label", "x", "\0"]), json_values, max_size=3),
            "enqueued_at": st.datetimes().map(lambda moment: moment.isoformat()),
        }.items()
    },
)


def dumped(value: object) -> bytes:
    """JSON as a careless client writes it: NaN, lone surrogates and all."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


envelope_fields = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("messageId", "message_id", "publishTime", "attributes", "orderingKey", "data", "unknown"),
        json_values,
    ),
)


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A sound body with some of its fields, and some of its bytes, changed."""
    fields = {"task_id": "t", "task_name": "takes", "args": ["a"]} | draw(payload_fields)
    text = draw(spoilt(dumped(fields)))
    envelope = {"data": base64.b64encode(text).decode(), "messageId": "1"} | draw(envelope_fields)
    return draw(spoilt(dumped({"message": envelope, "subscription": draw(st.just("s") | json_values)})))


def spoilt(text: bytes) -> st.SearchStrategy[bytes]:
    """The text as it is, cut, with a few bytes put over, or with a piece of it repeated."""
    places = st.integers(0, max(len(text) - 1, 0))
    return st.one_of(
        st.just(text),
        places.map(lambda at: text[:at]),
        st.tuples(places, st.binary(max_size=4)).map(
            lambda cut: text[: cut[0]] + cut[1] + text[cut[0] + 1 :]
        ),
        st.tuples(places, st.integers(1, 300)).map(
            lambda cut: text[: cut[0]] + text[cut[0] :][:1] * cut[1] + text[cut[0] :]
        ),
    )


def received(body: bytes) -> bool:
    """Whether the path would take the body as far as the claim. Anything but a Rejected is a 500, and fails the test."""
    try:
        delivery = decode(body)
        route = REGISTRY.find(delivery.task_name)
        if route is None:
            return False
        REGISTRY.bind(route, *arguments_of(delivery))
    except Rejected as found:
        rejected = found
    else:
        json.dumps([delivery.task_id, delivery.task_name, delivery.attributes]).encode()
        assert "\0" not in delivery.task_id + delivery.message_id + delivery.subscription
        delivery.args.decode()
        return True
    assert len(rejected.detail) <= 500
    rejected.detail.encode()
    assert "\0" not in rejected.detail
    assert rejection_key(body).isprintable()
    return False


@pytest.mark.slow
@settings(max_examples=GENERATED, suppress_health_check=list(HealthCheck))
@given(mangled() | st.binary(max_size=300) | json_values.map(dumped))
def test_a_body_of_hostile_values_is_a_delivery_or_a_rejection(body: bytes) -> None:
    received(body)


SEEDS = [body for _, body in malformed.CASES if len(body) < 5000]
SEEDS += [
    pusher.message("takes", ["a"], {"x": {"y": [1, 2.5, None, "z"]}}),
    pusher.scheduled_message("takes"),
]
PIECES = [b"\0", b'"', b"\\", b"\\u0000", b"\\ud800", b"\xff", b"[" * 300, b"]" * 300, b"{", b"}", b"9" * 400, b"e9", b"-", b",", b":",
          b"null", b"NaN", b"1e999", b'"message_id":', b"A" * 7, b"=", b"\n", b"\xed\xa0\x80", b"\xc0\xaf"]  # fmt: skip
Edit = tuple[int, int, bytes]


def edited(seed: bytes, edits: list[Edit], *, within: bool) -> bytes:
    """The seed, or the payload within it, with pieces put over some of its bytes: (where, how many, piece)."""
    if within:
        try:
            envelope = json.loads(seed)
            envelope["message"]["data"] = malformed.data(
                edited(base64.b64decode(envelope["message"]["data"]), edits, within=False)
            )
            return json.dumps(envelope).encode()
        except (ValueError, TypeError, KeyError, RecursionError):
            pass  # a seed without a payload
    for where, length, piece in edits:
        at = where % (len(seed) + 1)
        seed = seed[:at] + piece + seed[at + length :]
    return seed


edits = st.lists(
    st.tuples(st.integers(0, 4999), st.integers(0, 5), st.sampled_from(PIECES) | st.binary(max_size=2)),
    min_size=1,
    max_size=3,
)


@pytest.mark.slow
@settings(max_examples=EDITED, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(SEEDS), edits, st.booleans())
def test_a_body_with_pieces_put_over_it_is_a_delivery_or_a_rejection(
    seed: bytes,
    changes: list[Edit],
    within: bool,  # noqa: FBT001 - Hypothesis gives it by place
) -> None:
    received(edited(seed, changes, within=within))


# --- over HTTP ------------------------------------------------------------------------------------------------------


def edited_at_random(count: int) -> list[bytes]:
    """So many edited bodies that must be refused."""
    found: list[bytes] = []
    while len(found) < count:
        changes = [
            (random.randrange(5000), random.randrange(6), random.choice(PIECES))
            for _ in range(random.randint(1, 3))
        ]
        body = edited(random.choice(SEEDS), changes, within=random.random() < 0.5)
        if not received(body):
            found.append(body)
    return found


@pytest.mark.slow
async def test_bad_bodies_are_400_over_http_and_leave_no_memory_behind(
    instance: Instance, shared_record: Record
) -> None:
    """Kept, each counted under its key; the same body again and again makes no second row."""
    bodies = [body for _, body in malformed.CASES] + edited_at_random(OVER_HTTP)
    random.shuffle(bodies)
    await posted(instance, bodies)
    before = memory(instance)
    for _ in range(2):
        await posted(instance, bodies)
    assert memory(instance) - before < TOLERANCE
    (kept,) = await shared_record.fetch(
        "SELECT count(*)::int AS rows, min(count) AS least FROM rejected_messages"
    )
    assert kept["rows"] == len({rejection_key(body) for body in bodies})
    assert kept["least"] >= 3
    await healthy(instance)


async def posted(instance: Instance, bodies: list[bytes]) -> None:
    """Posts them all, eight at a time; each must be refused as malformed."""
    waiting = list(bodies)

    async def post() -> None:
        while waiting:
            body = waiting.pop()
            answer = await push(instance, body)
            assert (answer.status, answer.text) == (400, "The message was rejected."), (answer, body[:500])

    await asyncio.gather(*(post() for _ in range(8)))


def with_args(args: bytes, label: str) -> bytes:
    """A push of `plain` with this JSON for its arguments."""
    return malformed.payload(b'{"task_id":"%s","task_name":"plain","args":%s}' % (label.encode(), args))


@pytest.mark.parametrize(
    "number", [b"1e400", b"-1e1000000", b"1e131072", b"9" * 5000, b"1e-20000", b"0." + b"1" * 20_000]
)
async def test_a_number_that_nothing_holds_is_refused_or_stored(
    instance: Instance, label: str, number: bytes
) -> None:
    """Never a 500, and never another number than was sent."""
    answer = await push(instance, with_args(b'["%s",%s]' % (label.encode(), number), label))
    assert answer.status in {200, 400}


# --- large ----------------------------------------------------------------------------------------------------------

TEN = 10 * 1000 * 1000


@pytest.mark.slow
async def test_arguments_of_ten_megabytes_two_hundred_at_once_stay_under_the_cap(
    begin: Start, database_url: str, label: str, marks: Marks
) -> None:
    """Each is served or told to come back, neighbours are served, and memory stays within a multiple of the cap."""
    instance = begin(database_url, {"TASKS_MAX_INFLIGHT_BYTES": str(INFLIGHT)})
    await push(instance, message("plain", f"{label}-warm"))
    ballast = "b" * TEN
    bodies = [message("plain", f"{label}-{number}", ballast=ballast) for number in range(4)]
    start = memory(instance)
    reset_peak(instance)
    gate = asyncio.Semaphore(40)  # sockets under way at once: each buffers its own copy on this side

    async def send(number: int) -> int:
        async with gate:
            return (await push(instance, bodies[number % 4], patience=100)).status

    sending = asyncio.gather(*(send(number) for number in range(200)))
    beside = [
        (await push(instance, message("plain", f"{label}-beside-{number}"))).status for number in range(20)
    ]
    statuses = await sending
    assert set(statuses) <= {200, 429}
    assert 200 in statuses
    assert set(beside) <= {200, 429}
    assert memory(instance, "VmHWM") - start < COPIES * INFLIGHT
    assert (await push(instance, message("plain", f"{label}-after"))).status == 200
    assert marks.calls(f"{label}-after") == 1


def test_large_bodies_are_decoded_without_the_garbage_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    collections = 0

    def count(phase: str, _: dict[str, int]) -> None:
        nonlocal collections
        collections += phase == "start"

    body = with_args(b"[" + b"[]," * 200_000 + b"0]", "t")
    gc.callbacks.append(count)
    try:
        delivery = decode(body)
    finally:
        gc.callbacks.remove(count)
    assert len(arguments_of(delivery)[0]) == 200_001
    assert collections < 20  # each walk is one generation: with collections on there are hundreds
    assert gc.isenabled()

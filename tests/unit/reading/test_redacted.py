"""What people see of executions and messages with sensitive arguments."""

from __future__ import annotations

import base64
import json
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from receiver.contract.encode import encode_envelope
from receiver.contract.envelope import open_envelope
from receiver.emulator.push_client import message
from receiver.reading import redacted
from receiver.reading.queries import Execution
from receiver.tasks.registry import Registry
from receiver.tasks.route import TaskRoute

SECRET = "ada@example.com"


def invite(name: str, email: str) -> None: ...


def greet(name: str) -> None: ...


def take(data: dict[str, Any]) -> None: ...


ROUTES = Registry([
    TaskRoute(invite, redact=["email"], aliases=["old.invite"]),
    TaskRoute(greet),
    TaskRoute(take, redact=["data"], topic="projects/p/topics/uploads"),
])  # fmt: skip
OPEN = Registry([TaskRoute(greet)])


def execution(name: str, *args: Any, **kwargs: Any) -> Execution:
    now = datetime.now(UTC)
    return Execution(
        task_id="a", task_name=name.rpartition(".")[2], task_path=name, namespace="n", environment="dev",
        args=list(args), kwargs=kwargs, status="READY", final=False, attempt=0, fence=0, enqueued_at=now,
    )  # fmt: skip


def shown(body: bytes) -> bytes:
    """The data of a pushed body."""
    return bytes(open_envelope(body).message.data or b"")


@pytest.mark.parametrize(("name", "args", "kwargs", "seen"), [
    (f"{__name__}.invite", ["Ada", SECRET], {}, ["Ada", "[redacted]"]),
    ("old.invite", ["Ada", SECRET], {}, ["Ada", "[redacted]"]),
    (f"{__name__}.greet", ["Ada"], {}, ["Ada"]),
    ("gone.invite_them", ["Ada", SECRET], {"email": SECRET}, redacted.UNKNOWN),
])  # fmt: skip
def test_an_execution_is_shown_as_its_declaration_allows(
    name: str, args: Any, kwargs: Any, seen: Any
) -> None:
    found = execution(name, *args, **kwargs)
    if name.startswith("gone"):
        assert redacted.execution(found, ROUTES).kwargs == redacted.UNKNOWN
    assert redacted.execution(found, ROUTES).args == seen
    assert SECRET not in repr(redacted.execution(found, ROUTES))
    assert redacted.execution(found, None).args == redacted.UNKNOWN
    assert found.args == args, "what is stored stays as it is"


def test_what_was_cut_is_hidden_whole() -> None:
    """Nobody knows any more which argument is which."""
    found = replace(execution(f"{__name__}.invite"), args=f'["Ada", "{SECRET}... (cut after 4000 characters)')
    seen = redacted.execution(found, ROUTES)
    assert (seen.args, seen.kwargs) == ("[redacted]", "[redacted]")


def test_a_rejected_message_hides_them_too() -> None:
    body = message("invite", ["Ada"], {"email": SECRET}, attributes={"k": "v"})
    told = json.loads(shown(redacted.message(body, "invite", ROUTES)))
    assert (told["task_name"], told["args"], told["kwargs"]) == ("invite", ["Ada"], {"email": "[redacted]"})
    assert open_envelope(redacted.message(body, "invite", ROUTES)).message.attributes == {"k": "v"}
    assert SECRET.encode() not in shown(redacted.message(body, "invite", None))
    misfit = message("invite", ["Ada", SECRET, 3])
    assert SECRET.encode() not in shown(redacted.message(misfit, "invite", ROUTES))


def test_a_message_of_a_foreign_topic_is_hidden_as_a_whole() -> None:
    body = encode_envelope(msgspec.json.encode({"email": SECRET}), "1", datetime.now(UTC), "s", {})
    for registry in (ROUTES, None):
        assert shown(redacted.message(body, "take", registry)) == b"[redacted]"


SENT = msgspec.json.encode({"task_name": "invite", "args": ["Ada"], "kwargs": {"email": SECRET}})


def enveloped(data: bytes) -> bytes:
    return encode_envelope(data, "1", datetime.now(UTC), "s", {})


DAMAGED = {
    "the payload alone, as a subscription without metadata pushes it": SENT,
    "base64 that is none": enveloped(SENT).replace(b'"data":"', b'"data":"!'),
    "a payload that breaks off": enveloped(SENT[:-1]),
    "its task is a number": enveloped(SENT.replace(b'"invite"', b"5")),
    "its task is no UTF-8": enveloped(SENT.replace(b"invite", b"\xff")),
    "nested too deeply": enveloped(SENT.replace(b'["Ada"]', b"[" * 2_000_000 + b"]" * 2_000_000)),
}


@pytest.mark.parametrize("body", DAMAGED.values(), ids=DAMAGED)
def test_what_is_damaged_is_hidden_while_any_task_has_sensitive_arguments(body: bytes) -> None:
    for registry in (ROUTES, None):
        seen = redacted.message(body, None, registry)
        assert b"[redacted]" in (seen if seen == b"[redacted]" else shown(seen))
        assert base64.b64encode(SENT)[:40] not in seen
    assert redacted.message(body, None, OPEN) is body


@pytest.mark.parametrize("registry", [ROUTES, None, OPEN], ids=["sensitive tasks", "unknown", "open tasks"])
@pytest.mark.parametrize("where", ["data", "envelope"])
def test_so_many_values_that_they_were_refused_are_not_decoded_to_be_shown(
    where: str, registry: Registry | None
) -> None:
    """As values they would take 300 MB."""
    payload = b'{"task_name":"greet","args":[%s]}' % b",".join([b'{"":{}}'] * 1_200_000)
    body = enveloped(payload) if where == "data" else payload
    tracemalloc.start()
    try:
        seen = redacted.message(body, "greet", registry)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * len(body)
    if registry is OPEN:
        assert seen is body
    else:
        assert (seen if where == "envelope" else shown(seen)) == b"[redacted]"


def test_what_has_no_sensitive_task_is_not_decoded_further_than_its_name() -> None:
    body = enveloped(b'{"task_name":"greet","args":[%s]}' % b",".join([b'{"":{}}'] * 150_000))
    tracemalloc.start()
    try:
        assert redacted.message(body, "greet", ROUTES) is body
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * len(body)


@pytest.mark.parametrize("body", [message("greet", ["Ada"]), message("nobody", ["Ada"])])
def test_whatever_is_nobodys_secret_is_shown_as_it_is(body: bytes) -> None:
    assert redacted.message(body, None, ROUTES) is body

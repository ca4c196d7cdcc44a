"""Keys rotate, their server fails or lies: no push that is not ours ever gets in, and no good one stays out for long."""

from __future__ import annotations

import asyncio
import functools
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest

from receiver.delivery.certificates import FETCH_TIMEOUT, REFRESH_INTERVAL
from receiver.dev.processes import EMAIL
from receiver.emulator import push_client as pusher
from receiver.emulator.signer import Signer
from tests.acceptance.conftest import Start
from tests.stage.instance import Instance
from tests.stage.receivers import Marks, message
from tests.stage.slow import some_quick
from tests.stage.tokens import forged
from tests.stage.waiting import eventually
from tests.stage.wire import Answer, healthy, push

HOUR = 3600


class CertificateServer(ThreadingHTTPServer):
    """Answers as it is told, and counts who asks. `silent`: takes a request and never answers until it is cleared."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/certs"
        self.status = 200
        self.body = b""
        self.headers: dict[str, str] = {}
        self.fetches = 0
        self.elsewhere = 0
        self.talking = threading.Event()
        self.talking.set()

    def answer(self, *signers: Signer, **headers: str) -> None:
        """From now on: the certificates of these signers."""
        self.say(
            200,
            msgspec.json.encode({"keys": [key for each in signers for key in each.keys()["keys"]]}),
            **headers,
        )

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        """From now on: this."""
        self.status, self.body = status, body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: CertificateServer

    def do_GET(self) -> None:
        server = self.server
        if self.path != "/certs":
            server.elsewhere += 1
        server.fetches += 1
        server.talking.wait(60)
        self.send_response(server.status)
        for name, value in server.headers.items():
            self.send_header(name, value)
        if "content-length" not in server.headers:
            self.send_header("content-length", str(len(server.body)))
        self.end_headers()
        self.wfile.write(server.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's signature
        """Says nothing."""


@contextmanager
def serving() -> Iterator[CertificateServer]:
    server = CertificateServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.talking.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def certificates(signer: Signer) -> Iterator[CertificateServer]:
    """Google's certificates, with the usual signer's at first."""
    with serving() as server:
        server.answer(signer)
        yield server


@pytest.fixture
def begin(begin: Start, door: Mapping[str, str]) -> Start:
    """The same, by each door."""
    return functools.partial(begin, env=door)


@pytest.fixture(scope="module")
def newer() -> Signer:
    return Signer.create()


async def push_as(instance: Instance, signer: Signer, label: str, *, kid: str | None = None) -> Answer:
    """A push with a token of this signer, under another key id if one is given; never the same token twice."""
    header = {} if kid is None else {"kid": kid}
    token = forged(signer, instance.url, EMAIL, header=header, sub=uuid.uuid4().hex)
    return await push(instance, message("plain", label), token=token)


async def pass_time(instance: Instance, signer: Signer, seconds: float) -> None:
    """The instance's certificates are older by so much."""
    body = pusher.message("pass_time", [seconds])
    assert (await push(instance, body, token=signer.token(instance.url, EMAIL))).status == 200


async def warm(certificates: CertificateServer) -> None:
    """The instance has fetched its first keys."""
    await eventually(lambda: certificates.fetches >= 1)


async def test_keys_rotate_and_no_valid_token_is_refused(
    begin: Start,
    database_url: str,
    certificates: CertificateServer,
    signer: Signer,
    newer: Signer,
    label: str,
) -> None:
    instance = begin(database_url, certs_url=certificates.url)
    assert (await push_as(instance, signer, f"{label}-old")).status == 200
    certificates.answer(signer, newer)
    assert (
        await push_as(instance, newer, f"{label}-new")
    ).status == 200  # unknown at first: one fetch, waited for
    assert certificates.fetches == 2
    answers = [await push_as(instance, each, f"{label}-{n}") for n, each in enumerate((signer, newer) * 10)]
    assert {answer.status for answer in answers} == {200}
    assert certificates.fetches == 2


@some_quick("outage", ["silent", "refusing", "garbage", "redirecting"])
async def test_an_hours_outage_costs_nothing_while_keys_are_known(
    begin: Start,
    database_url: str,
    certificates: CertificateServer,
    signer: Signer,
    newer: Signer,
    label: str,
    outage: str,
) -> None:
    instance = begin(database_url, certs_url=certificates.url)
    assert (await push_as(instance, signer, f"{label}-before")).status == 200
    match outage:
        case "silent":
            certificates.talking.clear()
        case "refusing":
            certificates.say(503, b"not now")
        case "garbage":
            certificates.say(200, b"<html>")
        case _:
            certificates.say(302, location=certificates.url.replace("/certs", "/elsewhere"))
    await pass_time(instance, signer, HOUR)
    answers = await asyncio.gather(*(push_as(instance, signer, f"{label}-{n}") for n in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert (
        max(answer.seconds for answer in answers) < FETCH_TIMEOUT
    )  # nobody waits for the fetch in the background
    await eventually(lambda: certificates.fetches == 2)
    assert (await push_as(instance, newer, f"{label}-unknown")).status == 403
    assert certificates.elsewhere == 0
    certificates.answer(signer, newer)
    certificates.talking.set()
    await pass_time(instance, signer, REFRESH_INTERVAL + 1)
    assert (await push_as(instance, newer, f"{label}-after")).status == 200


@some_quick(
    "lie",
    [
        "garbage",
        "empty",
        "a list",
        "no certificates",
        "redirect to good ones",
        "server error with good ones",
        "cut short",
        "too large",
        "silent",
        "compressed",
    ],
)
async def test_a_start_without_good_certificates_lets_nobody_in_and_recovers(
    begin: Start,
    database_url: str,
    certificates: CertificateServer,
    signer: Signer,
    marks: Marks,
    label: str,
    lie: str,
) -> None:
    good = msgspec.json.encode(signer.keys())
    match lie:
        case "garbage":
            certificates.say(200, b"\xff<html>")
        case "empty":
            certificates.say(200)
        case "a list":
            certificates.say(200, b"[" + good + b"]")
        case "no certificates":
            certificates.say(200, msgspec.json.encode({"keys": [{"kid": signer.kid, "kty": "RSA"}]}))
        case "redirect to good ones":
            with_good = certificates.url.replace("/certs", "/good")
            certificates.say(302, good, location=with_good)
        case "server error with good ones":
            certificates.say(500, good)
        case "cut short":
            certificates.say(200, good[:-20], content_length=str(len(good)))
        case "too large":
            certificates.say(200, good[:-1] + b',"x":"' + b"x" * 1_100_000 + b'"}')
        case "compressed":
            certificates.say(200, good, content_encoding="br")
        case _:
            certificates.talking.clear()
    instance = begin(database_url, certs_url=certificates.url)
    answer = await push_as(instance, signer, label)
    assert (answer.status, answer.text) == (403, "Forbidden.")
    assert answer.seconds < FETCH_TIMEOUT + 1
    assert marks.calls(label) == 0
    assert certificates.elsewhere == 0
    await healthy(instance)
    assert instance.get("/ready").status_code == 503
    certificates.answer(signer)
    certificates.talking.set()

    async def recovered() -> bool:
        return (await push_as(instance, signer, label)).status == 200

    await eventually(recovered)  # without any key it asks once a second
    assert instance.get("/ready").status_code == 200


@pytest.mark.slow
async def test_a_flood_of_unknown_key_ids_causes_one_fetch_in_thirty_seconds(
    begin: Start,
    database_url: str,
    certificates: CertificateServer,
    signer: Signer,
    newer: Signer,
    label: str,
) -> None:
    instance = begin(database_url, certs_url=certificates.url)
    await warm(certificates)

    async def flood(wave: int) -> None:
        answers = await asyncio.gather(
            *(push_as(instance, newer, label, kid=f"{wave}-{number}") for number in range(60))
        )
        assert {answer.status for answer in answers} == {403}

    await flood(0)
    assert certificates.fetches == 2
    await flood(0)
    assert certificates.fetches == 2
    assert (await push_as(instance, signer, f"{label}-good")).status == 200
    for step in (1, 2):
        await pass_time(instance, signer, REFRESH_INTERVAL + 1)
        await flood(step)
        assert certificates.fetches == 2 + step
    assert (await push_as(instance, signer, f"{label}-still-good")).status == 200

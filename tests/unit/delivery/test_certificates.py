from __future__ import annotations

import asyncio
import hashlib
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from receiver.delivery.certificates import MIN_KEY_BITS, Certificates
from receiver.emulator.signer import Signer
from tests.stage.cloud_certificates import on_cloud_run
from tests.stage.http_proxy import proxied

SIGNERS = [Signer.create(), Signer.create()]
OLD, NEW = SIGNERS
HOUR = 3600.0


def key_set(*signers: Signer, **others: dict[str, object]) -> bytes:
    """The answer with the keys of these signers, and others by their id."""
    more = [{"kid": kid, **fields} for kid, fields in others.items()]
    return json.dumps({"keys": [key for signer in signers for key in signer.keys()["keys"]] + more}).encode()


def public(signer: Signer) -> rsa.RSAPublicKey:
    return signer.key.public_key()


class Source(ThreadingHTTPServer):
    """Google's certificate address, on loopback, answering what it is told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.fetches = 0
        self.status = 200
        self.headers: dict[str, str] = {}
        self.go_on = threading.Event()
        self.go_on.set()
        self.fetched = threading.Event()
        self.slow = ""
        self.whole = threading.Event()
        self.answer(OLD)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/certs"

    def answer(self, *signers: Signer) -> None:
        self.body = key_set(*signers)
        self.status = 200
        self.headers = {}

    def fail(self, status: int = 503, body: bytes = b"secret", **headers: str) -> None:
        self.status, self.body, self.headers = status, body, headers


class Answer(BaseHTTPRequestHandler):
    server: Source

    def do_GET(self) -> None:
        self.server.fetches += 1
        self.server.fetched.set()
        self.server.go_on.wait(10)
        try:
            self.send_response(self.server.status)
            for name, value in self.server.headers.items():
                self.send_header(name.replace("_", "-"), value)
            if self.server.slow == "head":
                self.flush_headers()
                self.drip(b"x")
                self.wfile.write(b": x\r\n")
            self.end_headers()
            if self.server.slow == "body":
                self.drip(b" ")
            self.wfile.write(self.server.body)
        except OSError:
            pass  # the fetch was given up, which is what some tests are about

    def drip(self, byte: bytes) -> None:
        self.wfile.write(byte)
        while not self.server.whole.wait(0.01):
            self.wfile.write(byte)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's signature
        pass


@pytest.fixture
def source() -> Iterator[Source]:
    server = Source()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.go_on.set()
    server.whole.set()
    server.shutdown()
    thread.join()
    server.server_close()


class Clocks:
    def __init__(self) -> None:
        self.wall = time.time()
        self.monotonic = 50.0

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def failures() -> list[str]:
    return []


@pytest.fixture
async def certificates(source: Source, clocks: Clocks, failures: list[str]) -> AsyncIterator[Certificates]:
    made = Certificates(source.url, failures.append, lambda: clocks.wall, lambda: clocks.monotonic)
    yield made
    await made.close()


async def settled(certificates: Certificates) -> None:
    """Wait for the fetch in the background, if there is one."""
    await certificates._join()


class TestLoading:
    async def test_the_first_key_waits_for_the_first_fetch_and_later_ones_do_not(
        self, certificates: Certificates, source: Source
    ) -> None:
        before = certificates.loaded
        assert await certificates.key(OLD.kid) == public(OLD)
        assert (before, certificates.loaded) == (False, True)
        for _ in range(10):
            assert await certificates.key(OLD.kid) == public(OLD)
        assert source.fetches == 1

    async def test_callers_at_the_same_time_share_one_fetch(
        self, certificates: Certificates, source: Source
    ) -> None:
        answers = await asyncio.gather(*(certificates.key(OLD.kid) for _ in range(50)), certificates.ready())
        assert [answer for answer in answers if answer not in (public(OLD), True)] == []
        assert source.fetches == 1

    async def test_ready_loads_once_and_then_only_says_so(
        self, certificates: Certificates, source: Source
    ) -> None:
        assert await certificates.ready()
        assert await certificates.ready()
        assert source.fetches == 1

    async def test_without_keys_a_failing_source_is_asked_once_a_second(
        self, certificates: Certificates, source: Source, clocks: Clocks, failures: list[str]
    ) -> None:
        source.fail()
        for _ in range(5):
            assert not await certificates.ready()
            assert await certificates.key(OLD.kid) is None
        assert source.fetches == 1
        source.answer(OLD)
        clocks.pass_(1)
        assert await certificates.key(OLD.kid) == public(OLD)
        assert failures == ["certificates not fetched from 127.0.0.1: status 503 (no keys yet)"]

    async def test_a_cancelled_caller_does_not_end_the_fetch_for_others(
        self, certificates: Certificates, source: Source
    ) -> None:
        source.go_on.clear()
        first = asyncio.create_task(certificates.key(OLD.kid))
        second = asyncio.create_task(certificates.key(OLD.kid))
        await asyncio.to_thread(source.fetched.wait)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        source.go_on.set()
        assert await second == public(OLD)
        assert source.fetches == 1


class TestUnknownKeys:
    async def test_a_rotated_key_is_found_after_one_fetch(
        self, certificates: Certificates, source: Source
    ) -> None:
        await certificates.ready()
        source.answer(OLD, NEW)
        assert await certificates.key(NEW.kid) == public(NEW)
        assert await certificates.key(OLD.kid) == public(OLD)
        assert source.fetches == 2

    async def test_a_key_that_is_withdrawn_is_gone_after_the_next_fetch(
        self, certificates: Certificates, source: Source
    ) -> None:
        await certificates.ready()
        source.answer(NEW)
        assert await certificates.key(NEW.kid) == public(NEW)
        assert await certificates.key(OLD.kid) is None

    async def test_a_flood_of_unknown_ids_causes_one_fetch_in_thirty_seconds(
        self, certificates: Certificates, source: Source, clocks: Clocks
    ) -> None:
        await certificates.ready()
        for second in range(60):
            answers = await asyncio.gather(*(certificates.key(f"{second}-{n}") for n in range(20)))
            assert set(answers) == {None}
            clocks.pass_(1)
        assert source.fetches == 3

    async def test_an_unknown_id_that_caused_the_first_load_has_had_its_fetch(
        self, certificates: Certificates, source: Source, clocks: Clocks
    ) -> None:
        assert await certificates.key("unknown") is None
        assert await certificates.key("unknown") is None
        assert source.fetches == 1
        clocks.pass_(30)
        assert await certificates.key("unknown") is None
        assert source.fetches == 2

    async def test_a_flood_during_an_outage_causes_no_more(
        self, certificates: Certificates, source: Source, clocks: Clocks
    ) -> None:
        await certificates.ready()
        source.fail()
        clocks.pass_(2 * HOUR)
        for _ in range(60):
            assert await certificates.key("unknown") is None
            assert await certificates.key(OLD.kid) == public(OLD)
            await settled(certificates)
            clocks.pass_(1)
        assert source.fetches == 3


class TestFreshness:
    async def test_keys_are_fetched_anew_after_an_hour(
        self, certificates: Certificates, source: Source, clocks: Clocks
    ) -> None:
        await certificates.ready()
        clocks.pass_(HOUR - 1)
        await certificates.key(OLD.kid)
        await settled(certificates)
        assert source.fetches == 1
        clocks.pass_(1)
        await certificates.key(OLD.kid)
        await settled(certificates)
        assert source.fetches == 2

    async def test_stale_keys_serve_while_the_refresh_runs(
        self, certificates: Certificates, source: Source, clocks: Clocks
    ) -> None:
        await certificates.ready()
        source.go_on.clear()
        clocks.pass_(10 * HOUR)
        for _ in range(5):
            assert await certificates.key(OLD.kid) == public(OLD)
            assert await certificates.ready()
        source.go_on.set()
        await settled(certificates)
        assert source.fetches == 2

    async def test_an_hour_of_outage_leaves_known_keys_working_and_is_asked_after_every_thirty_seconds(
        self, certificates: Certificates, source: Source, clocks: Clocks
    ) -> None:
        await certificates.ready()
        source.fail()
        clocks.pass_(HOUR)
        for _ in range(3600 // 10):
            assert await certificates.key(OLD.kid) == public(OLD)
            await settled(certificates)
            clocks.pass_(10)
        assert source.fetches == 1 + 3600 // 30

    @pytest.mark.parametrize("clock", ["wall", "monotonic"])
    async def test_either_clock_alone_makes_keys_stale(
        self, certificates: Certificates, source: Source, clocks: Clocks, clock: str
    ) -> None:
        await certificates.ready()
        setattr(clocks, clock, getattr(clocks, clock) + 5 * HOUR)
        assert await certificates.key(OLD.kid) == public(OLD)
        await settled(certificates)
        assert source.fetches == 2

    async def test_a_wall_clock_set_back_does_not_keep_keys_fresh(
        self, certificates: Certificates, source: Source, clocks: Clocks
    ) -> None:
        await certificates.ready()
        clocks.pass_(HOUR)
        clocks.wall -= 24 * HOUR
        await certificates.key(OLD.kid)
        await settled(certificates)
        assert source.fetches == 2


class TestThreads:
    @pytest.mark.parametrize("part", ["head", "body"])
    async def test_a_fetch_that_drips_has_no_other_beside_it(
        self,
        certificates: Certificates,
        source: Source,
        clocks: Clocks,
        monkeypatch: pytest.MonkeyPatch,
        part: str,
    ) -> None:
        before = {*threading.enumerate()}

        def fetching() -> list[threading.Thread]:
            added = {*threading.enumerate()} - before
            return [each for each in added if each.name == "certificates"]

        monkeypatch.setattr("receiver.delivery.certificates.FETCH_TIMEOUT", 0.1)
        source.slow = part
        try:
            for _ in range(4):
                assert not await certificates.ready()
                assert len(fetching()) <= 1
                clocks.pass_(1)
            for thread in fetching():  # it ends by itself, at the end of its time
                thread.join(5)
            assert fetching() == []
        finally:
            source.slow = ""
            source.whole.set()
        for thread in fetching():
            thread.join(5)
        assert await certificates.key(OLD.kid) == public(OLD)

    async def test_tasks_that_take_all_threads_of_the_loop_do_not_keep_it_from_starting(
        self, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("receiver.delivery.certificates.FETCH_TIMEOUT", 2.0)
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        done = threading.Event()
        task = asyncio.create_task(asyncio.to_thread(done.wait))
        await asyncio.sleep(0)
        try:
            assert await certificates.ready()
        finally:
            done.set()
            await task


BIG = b'{"x":"' + b"x" * (1024 * 1024) + b'"}'
TINY_KEY = MIN_KEY_BITS // 2
KEY = OLD.keys()["keys"][0]


class TestBadAnswers:
    @pytest.mark.parametrize(
        ("status", "body", "headers", "failure"),
        [
            (500, b"secret", {}, "status 500"),
            (404, b"secret", {}, "status 404"),
            (204, b"", {}, "status 204"),
            (301, b"", {"location": "/certs"}, "status 301"),
            (302, b"", {"location": "http://attacker.example/"}, "status 302"),
            (200, b"", {}, "not a set of JSON web keys"),
            (200, b"<html>", {}, "not a set of JSON web keys"),
            (200, b"[]", {}, "not a set of JSON web keys"),
            (200, b"\xff", {}, "not a set of JSON web keys"),
            (200, b'{"k":"\xff"}', {}, "not a set of JSON web keys"),
            (200, b'{"a":1}', {}, "not a set of JSON web keys"),
            (200, b'{"keys":{}}', {}, "not a set of JSON web keys"),
            (200, b'{"keys":[{"kid":1}]}', {}, "no usable RSA key"),
            (
                200,
                b'{"k":"-----BEGIN CERTIFICATE-----"}',
                {},
                "not a set of JSON web keys",
            ),
            (200, b"[" * 100_000, {}, "not a set of JSON web keys"),
            (200, b"{}", {}, "not a set of JSON web keys"),
            (200, b'{"keys":[]}', {}, "no usable RSA key"),
            (200, b'{"keys":[{"kid":"k","kty":"RSA"}]}', {}, "no usable RSA key"),
            (200, key_set(replace(OLD, kid="")), {}, "no usable RSA key"),
            (200, BIG, {}, "answer over 1048576 bytes"),
            (200, b"\x1f\x8b", {"content_encoding": "gzip"}, "compressed answer"),
            (200, b"{", {"content_length": "50"}, "not a set of JSON web keys"),
        ],
    )
    async def test_a_bad_answer_is_a_failed_fetch_and_the_last_good_keys_stay(
        self,
        certificates: Certificates,
        source: Source,
        clocks: Clocks,
        failures: list[str],
        status: int,
        body: bytes,
        headers: dict[str, str],
        failure: str,
    ) -> None:
        source.fail(status, body, **headers)
        assert await certificates.key(OLD.kid) is None
        source.answer(OLD)
        clocks.pass_(1)
        assert await certificates.ready()
        source.fail(status, body, **headers)
        clocks.pass_(HOUR)
        assert await certificates.key(NEW.kid) is None
        assert await certificates.key(OLD.kid) == public(OLD)
        assert source.fetches == 3
        assert failures == [
            f"certificates not fetched from 127.0.0.1: {failure} (no keys yet)",
            f"certificates not fetched from 127.0.0.1: {failure} (1 known keys kept)",
        ]

    @pytest.mark.parametrize(
        "fields",
        [
            {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
            {**KEY, "kty": "EC"},
            {**KEY, "n": Signer(rsa.generate_private_key(65537, TINY_KEY), "").keys()["keys"][0]["n"]},
            {**KEY, "n": ""},
            {**KEY, "n": "\u00fc"},
            {**KEY, "e": "AA"},
            {"kty": "RSA"},
            {**KEY, "n": None},
            {**KEY, "use": "enc"},
            {**KEY, "use": None},
            {**KEY, "alg": "RS512"},
        ],
        ids=[
            *(
                "elliptic",
                "of another kind",
                "1024 bits",
                "no n",
                "n no base64",
                "e zero",
                "neither",
                "n null",
            ),
            *("to encrypt", "use null", "of another algorithm"),
        ],
    )
    async def test_keys_that_are_not_strong_rsa_are_left_out(
        self, certificates: Certificates, source: Source, fields: dict[str, object]
    ) -> None:
        source.body = key_set(OLD, other={**fields, "kid": "other"})
        assert await certificates.key("other") is None
        assert await certificates.key(OLD.kid) == public(OLD)

    @pytest.mark.parametrize("odd", [b'"key"', b"1", b"null", b"[]", b'{"kid":1}', b'{"kid":"\xff"}'])
    async def test_an_entry_that_is_no_key_does_not_spoil_the_others(
        self, certificates: Certificates, source: Source, odd: bytes
    ) -> None:
        source.body = source.body.replace(b"[", b"[" + odd + b",", 1)
        assert await certificates.key(OLD.kid) == public(OLD)

    async def test_a_key_that_says_neither_its_use_nor_its_algorithm_counts(
        self, certificates: Certificates, source: Source
    ) -> None:
        bare: dict[str, object] = {
            name: value for name, value in KEY.items() if name not in {"use", "alg", "kid"}
        }
        source.body = key_set(bare=bare)
        assert await certificates.key("bare") == public(OLD)

    async def test_a_slow_answer_is_given_up(
        self, certificates: Certificates, source: Source, failures: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("receiver.delivery.certificates.FETCH_TIMEOUT", 0.05)
        source.go_on.clear()
        assert await certificates.key(OLD.kid) is None
        assert failures == ["certificates not fetched from 127.0.0.1: TimeoutError (no keys yet)"]

    async def test_nobody_listening_is_a_failed_fetch(self, failures: list[str]) -> None:
        assert not await Certificates("http://127.0.0.1:1/certs", failures.append).ready()
        assert failures == ["certificates not fetched from 127.0.0.1: ConnectionRefusedError (no keys yet)"]

    async def test_failures_need_no_listener(self, source: Source) -> None:
        source.fail()
        assert not await Certificates(source.url).ready()


def hashed(authority: Path, folder: Path) -> None:
    """The file in this folder, by the name that `openssl rehash` gives it."""
    subject = x509.load_pem_x509_certificate(authority.read_bytes()).subject.public_bytes()[2:]
    digest = hashlib.sha1(subject, usedforsecurity=False).digest()
    (folder / f"{digest[3::-1].hex()}.0").symlink_to(authority)


class TestEnvironment:
    @pytest.mark.parametrize("name", ["HTTPS_PROXY", "ALL_PROXY"])
    async def test_a_proxy_is_asked_for_an_https_address_however_it_is_written(
        self, monkeypatch: pytest.MonkeyPatch, failures: list[str], name: str
    ) -> None:
        with proxied(monkeypatch) as seen:
            for each in {"HTTPS_PROXY", "ALL_PROXY"} - {name}:
                monkeypatch.delenv(each, raising=False)
                monkeypatch.delenv(each.lower(), raising=False)
            monkeypatch.setenv(name, os.environ["HTTP_PROXY"])
            for url in ("https://keys.invalid/certs", "HTTPS://keys.invalid/certs"):
                assert not await Certificates(url, failures.append).ready()
        assert seen == ["keys.invalid:443"] * 2
        assert failures == ["certificates not fetched from keys.invalid: OSError (no keys yet)"] * 2

    async def test_no_proxy_is_asked_for_loopback(
        self, monkeypatch: pytest.MonkeyPatch, certificates: Certificates
    ) -> None:
        with proxied(monkeypatch) as seen:
            assert await certificates.ready()
        assert seen == []

    async def test_authorities_are_read_from_a_folder_too(
        self, monkeypatch: pytest.MonkeyPatch, source: Source, tmp_path: Path
    ) -> None:
        environ = on_cloud_run(source.url)
        hashed(Path(environ["SSL_CERT_FILE"]), tmp_path)
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        for folder, trusted in ((tmp_path, True), (tmp_path / "none", False)):
            monkeypatch.setenv("SSL_CERT_DIR", str(folder))
            monkeypatch.setenv("no_proxy", "*")
            assert await Certificates(environ["TASKS_OIDC_CERTS_URL"]).ready() is trusted


class TestClosing:
    @pytest.fixture
    def waiting(self, certificates: Certificates) -> Callable[[], Awaitable[object]]:
        return lambda: certificates.key(OLD.kid)

    async def test_close_cancels_a_fetch_and_whoever_waits_has_no_key(
        self, certificates: Certificates, source: Source, waiting: Callable[[], Awaitable[object]]
    ) -> None:
        source.go_on.clear()
        waiter = asyncio.ensure_future(waiting())
        await asyncio.to_thread(source.fetched.wait)
        await certificates.close()
        assert await waiter is None
        source.go_on.set()  # the thread has its answer too late

    async def test_after_close_nothing_is_fetched(self, certificates: Certificates, source: Source) -> None:
        await certificates.close()
        assert not await certificates.ready()
        assert source.fetches == 0


async def test_after_a_day_without_an_answer_no_key_is_believed(
    certificates: Certificates, source: Source, clocks: Clocks, failures: list[str]
) -> None:
    """Google may have withdrawn one. The next answer that comes brings them back."""
    await certificates.ready()
    source.fail()
    clocks.pass_(24 * HOUR)
    assert await certificates.key(OLD.kid) == public(OLD)
    await settled(certificates)
    clocks.pass_(1)
    assert await certificates.key(OLD.kid) is None
    assert not await certificates.ready()
    assert not certificates.loaded
    assert failures[-1].endswith("(no keys yet)")
    source.answer(OLD)
    clocks.pass_(1)
    assert await certificates.key(OLD.kid) == public(OLD)

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections.abc import AsyncIterator, Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from hypothesis import given
from hypothesis import strategies as st

from receiver.delivery.certificates import Certificates
from receiver.delivery.verifier import REMEMBERED_TOKENS, NoVerifier, TokenFault, Verifier
from receiver.emulator.in_thread import serve_certificates
from receiver.emulator.signer import Signer, segment
from receiver.errors import Forbidden
from tests.stage import tokens
from tests.stage.cases import case
from tests.stage.tokens import bearer, forged

AUDIENCE = "https://receiver-xyz-ew.a.run.app"
ENDPOINT = AUDIENCE + "/tasks/pubsub/"
EMAIL = "pubsub-invoker@project.iam.gserviceaccount.com"
SIGNER = Signer.create()


class Clock:
    """The wall clock, moved forward on demand."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Counting(Certificates):
    """The real certificates, counting how often a key is asked for."""

    asked = 0

    async def key(self, kid: str) -> RSAPublicKey | None:
        self.asked += 1
        return await super().key(kid)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve_certificates(SIGNER) as served:
        yield served


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def certificates(url: str) -> AsyncIterator[Counting]:
    made = Counting(url)
    yield made
    await made.close()


@pytest.fixture
def verifier(certificates: Counting, clock: Clock) -> Verifier:
    return Verifier(certificates, {AUDIENCE, ENDPOINT}, EMAIL, clock)


async def fault(verifier: Verifier, headers: tokens.Headers) -> TokenFault:
    """Why the headers are refused; the refusal carries nothing of them."""
    with pytest.raises(Forbidden) as caught:
        await verifier.verify(headers)
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    return TokenFault(caught.value.reason)


class TestOurs:
    @pytest.mark.parametrize("audience", [AUDIENCE, ENDPOINT])
    @pytest.mark.parametrize("issuer", ["https://accounts.google.com", "accounts.google.com"])
    async def test_a_token_of_our_push_account_is_let_in(
        self, verifier: Verifier, audience: str, issuer: str
    ) -> None:
        await verifier.verify(bearer(forged(SIGNER, audience, EMAIL, iss=issuer)))

    @pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER"])
    async def test_the_scheme_is_written_in_any_case_among_other_headers(
        self, verifier: Verifier, scheme: bytes
    ) -> None:
        token = SIGNER.token(AUDIENCE, EMAIL).encode()
        await verifier.verify(
            [(b"host", b"x"), (b"authorization", scheme + b" " + token), (b"from", b"noreply@google.com")]
        )

    @pytest.mark.parametrize(
        ("issued", "expires"),
        [(0, 3600), (-3595, 5), (-3600, -8), (8, 3600), (0.5, 3600.5), (-86_000, 300)],
    )
    async def test_times_hold_within_ten_seconds_of_skew(
        self, verifier: Verifier, issued: float, expires: float
    ) -> None:
        now = time.time()
        await verifier.verify(bearer(forged(SIGNER, AUDIENCE, EMAIL, iat=now + issued, exp=now + expires)))

    @pytest.mark.parametrize("header", [{"typ": "at+jwt"}, {"x5u": "https://elsewhere.example"}])
    async def test_header_fields_that_mean_nothing_here_are_ignored(
        self, verifier: Verifier, header: dict[str, object]
    ) -> None:
        await verifier.verify(bearer(forged(SIGNER, AUDIENCE, EMAIL, header=header)))
        await verifier.verify(bearer(forged(SIGNER, AUDIENCE, EMAIL, header=header, omit=("typ",))))


class TestHostile:
    async def test_every_form_of_the_catalogue_is_forbidden_and_leaves_no_trace(
        self, verifier: Verifier, capfd: pytest.CaptureFixture[str]
    ) -> None:
        for name, build in tokens.CASES:
            with case(name):
                headers = build(SIGNER, AUDIENCE, EMAIL)
                for _ in range(2):
                    reason = await fault(verifier, headers)
                    assert reason is not TokenFault.UNVERIFIABLE, "every known form has a reason of its own"
                assert not verifier._verified
                assert capfd.readouterr() == ("", "")

    def test_the_catalogue_is_large_and_its_names_are_unique(self) -> None:
        names = [name for name, _ in tokens.CASES]
        assert len(names) >= 60
        assert len(set(names)) == len(names)

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("no Authorization header", TokenFault.MISSING),
            ("two equal Authorization headers", TokenFault.REPEATED),
            ("scheme Basic", TokenFault.NOT_BEARER),
            ("token over 8 KiB, well signed", TokenFault.TOO_LONG),
            ("four segments", TokenFault.NOT_A_JWT),
            ("signature removed by Google", TokenFault.SIGNATURE_REMOVED),
            ("header nested without end", TokenFault.BAD_HEADER),
            ("header over its cap", TokenFault.BAD_HEADER),
            ("typ a list", TokenFault.BAD_HEADER),
            ("well signed, alg ['RS256']", TokenFault.BAD_ALGORITHM),
            ("kid missing", TokenFault.BAD_KEY_ID),
            ("crit empty", TokenFault.CRITICAL_EXTENSION),
            ("claims a list", TokenFault.BAD_CLAIMS),
            ("iss 'https://accounts.google.com/'", TokenFault.WRONG_ISSUER),
            ("aud a list with ours", TokenFault.WRONG_AUDIENCE),
            ("email in upper case", TokenFault.WRONG_EMAIL),
            ("email_verified 'true'", TokenFault.EMAIL_NOT_VERIFIED),
            ("email_verified 1", TokenFault.EMAIL_NOT_VERIFIED),
            ("exp true", TokenFault.BAD_TIMES),
            ("exp in milliseconds", TokenFault.BAD_TIMES),
            ("expired beyond the skew", TokenFault.EXPIRED),
            ("issued beyond the skew", TokenFault.NOT_YET_VALID),
            ("lives for two days", TokenFault.BAD_LIFETIME),
            ("ends before it begins", TokenFault.BAD_LIFETIME),
            ("unknown kid", TokenFault.UNKNOWN_KEY),
            ("signed by a stranger under our kid", TokenFault.BAD_SIGNATURE),
            ("spare bits of the signature's last character changed", TokenFault.BAD_SIGNATURE),
        ],
    )
    async def test_the_log_is_told_what_was_wrong(
        self, verifier: Verifier, name: str, reason: TokenFault
    ) -> None:
        assert await fault(verifier, dict(tokens.CASES)[name](SIGNER, AUDIENCE, EMAIL)) is reason

    def test_a_removed_signature_says_what_to_change(self) -> None:
        assert "--allow-unauthenticated --ingress internal" in TokenFault.SIGNATURE_REMOVED

    async def test_a_token_meant_for_others_is_refused_without_asking_for_a_certificate(
        self, verifier: Verifier, certificates: Counting
    ) -> None:
        await fault(verifier, bearer(SIGNER.token("https://other.example", EMAIL)))
        await fault(verifier, bearer(SIGNER.token(AUDIENCE, "other@example")))
        assert certificates.asked == 0

    async def test_claims_that_two_parsers_read_differently_are_refused(self, verifier: Verifier) -> None:
        claims = SIGNER.claims(AUDIENCE, EMAIL) | {"n": 1}
        text = json.dumps(claims).replace('"n": 1', '"n": 1e400')
        header = json.dumps({"alg": "RS256", "kid": SIGNER.kid}).encode()
        await fault(verifier, bearer(SIGNER.sign(header, text.encode())))

    async def test_a_repeated_claim_cannot_smuggle_another_value_in(self, verifier: Verifier) -> None:
        claims = json.dumps(SIGNER.claims(AUDIENCE, EMAIL))
        header = json.dumps({"alg": "RS256", "kid": SIGNER.kid}).encode()
        text = claims[:-1] + ', "email": "other@example"}'
        assert await fault(verifier, bearer(SIGNER.sign(header, text.encode()))) is TokenFault.WRONG_EMAIL

    @given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=40))
    def test_arbitrary_segments_are_forbidden(self, header: bytes, claims: bytes, signature: bytes) -> None:
        async def attempt() -> None:
            verifier = Verifier(Certificates("http://127.0.0.1:1"), [AUDIENCE], EMAIL)
            await fault(verifier, bearer(f"{segment(header)}.{segment(claims)}.{segment(signature)}"))
            await fault(verifier, [(b"authorization", header), (b"x", claims)])

        asyncio.run(attempt())

    async def test_whatever_fails_inside_is_a_refusal_that_quotes_nothing(
        self, verifier: Verifier, certificates: Counting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def broken(kid: str) -> str:
            raise RecursionError(kid)

        monkeypatch.setattr(certificates, "key", broken)
        with pytest.raises(Forbidden) as caught:
            await verifier.verify(bearer(SIGNER.token(AUDIENCE, EMAIL)))
        assert caught.value.reason == TokenFault.UNVERIFIABLE
        assert SIGNER.kid not in "".join(traceback.format_exception(caught.value))

    async def test_a_cancelled_request_stays_cancelled(
        self, verifier: Verifier, certificates: Counting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(certificates, "key", lambda _kid: asyncio.Event().wait())
        request = asyncio.create_task(verifier.verify(bearer(SIGNER.token(AUDIENCE, EMAIL))))
        await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request


class TestRemembering:
    async def test_a_known_token_costs_no_certificate(
        self, verifier: Verifier, certificates: Counting
    ) -> None:
        headers = bearer(SIGNER.token(AUDIENCE, EMAIL))
        for _ in range(100):
            await verifier.verify(headers)
        assert certificates.asked == 1

    async def test_a_known_token_is_refused_once_it_has_expired(
        self, verifier: Verifier, clock: Clock
    ) -> None:
        headers = bearer(forged(SIGNER, AUDIENCE, EMAIL, lifetime=100))
        await verifier.verify(headers)
        clock.ahead = 105
        await verifier.verify(headers)
        clock.ahead = 112
        assert await fault(verifier, headers) is TokenFault.EXPIRED
        assert await fault(verifier, headers) is TokenFault.EXPIRED
        assert not verifier._verified

    async def test_remembering_one_token_lets_no_similar_one_in(self, verifier: Verifier) -> None:
        token = SIGNER.token(AUDIENCE, EMAIL)
        await verifier.verify(bearer(token))
        for similar in (token + "A", token[:-1], token.swapcase(), token + ".", " " + token, token + " "):
            await fault(verifier, bearer(similar))

    async def test_only_the_latest_used_tokens_are_remembered(
        self, verifier: Verifier, certificates: Counting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert REMEMBERED_TOKENS == 1024
        monkeypatch.setattr("receiver.delivery.verifier.REMEMBERED_TOKENS", 3)
        first, *others = [bearer(forged(SIGNER, AUDIENCE, EMAIL, n=n)) for n in range(4)]
        for headers in (first, others[0], others[1], first, others[2]):
            await verifier.verify(headers)
        assert len(verifier._verified) == 3
        assert certificates.asked == 4
        await verifier.verify(first)
        assert certificates.asked == 4
        await verifier.verify(others[0])
        assert certificates.asked == 5


class TestOutage:
    async def test_without_certificates_nobody_is_let_in(self) -> None:
        verifier = Verifier(Certificates("http://127.0.0.1:1/certs"), [AUDIENCE], EMAIL)
        reason = await fault(verifier, bearer(SIGNER.token(AUDIENCE, EMAIL)))
        assert reason is TokenFault.NO_CERTIFICATES

    @pytest.mark.parametrize(("audiences", "email"), [([], EMAIL), ([""], EMAIL), ([AUDIENCE], "")])
    def test_a_verifier_with_nothing_to_check_cannot_be_made(
        self, certificates: Counting, audiences: list[str], email: str
    ) -> None:
        with pytest.raises(ValueError, match="nothing to check"):
            Verifier(certificates, audiences, email)


async def test_without_push_auth_every_push_is_let_in() -> None:
    await NoVerifier().verify([])
    await NoVerifier().verify(bearer("x"))

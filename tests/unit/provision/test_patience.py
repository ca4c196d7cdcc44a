"""New accounts and roles: provisioning waits until Google knows them, says so, and not for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from receiver.errors import GoogleForbidden
from receiver.google.client import GoogleClient
from receiver.google.endpoints import Endpoints
from receiver.provision import patience as module
from receiver.provision.desired import desired_grants
from receiver.provision.google_admin import QUOTA_RETRIES, GoogleAdmin
from receiver.provision.patience import Patience
from receiver.provision.provisioning import ProvisionRun
from tests.google_fake import GoogleFake
from tests.google_fake.discovery import Refused
from tests.google_fake.server import Trouble
from tests.unit.provision.test_applying import applied, run_for
from tests.unit.provision.world import ACCOUNT, PUSH, SCOPE, wanted

NO_ACCOUNT = Refused(400, "INVALID_ARGUMENT", f"Service account {ACCOUNT} does not exist.")
NO_ROLE = Refused(403, "PERMISSION_DENIED", "User not authorized to perform this action.")

ACT_AS = Refused(403, "PERMISSION_DENIED", "iam.serviceAccounts.actAs is denied")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.001)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
async def patient(google: GoogleFake, told: list[str]) -> AsyncIterator[GoogleAdmin]:
    """Waits."""
    client = GoogleClient(retries=QUOTA_RETRIES)
    there = Endpoints(f"{google.url}/v1", f"{google.url}/v1", f"{google.url}/v3", f"{google.url}/v1")
    yield GoogleAdmin(client, there, patience=Patience(told.append))
    await client.close()


def whole(admin: GoogleAdmin) -> ProvisionRun:
    """With the roles of Pub/Sub's own account."""
    return run_for(admin, (*wanted(), *desired_grants(wanted(), SCOPE, PUSH, "415104041262")))


@pytest.mark.parametrize(
    ("asked", "answer", "role"),
    [
        (r"GET .*/topics$", NO_ROLE, "roles/pubsub.editor"),
        (r"POST .*/jobs$", NO_ROLE, "roles/cloudscheduler.admin"),
        (r"PUT .*/subscriptions/", NO_ACCOUNT, ""),
        (r"PUT .*/subscriptions/", ACT_AS, "roles/iam.serviceAccountUser on the push account"),
        (r"POST .*/serviceAccounts/.*:setIamPolicy", NO_ACCOUNT, ""),
    ],
)
async def test_it_waits_until_a_new_account_or_role_is_known_and_says_so_once(
    patient: GoogleAdmin, google: GoogleFake, told: list[str], asked: str, answer: Refused, role: str
) -> None:
    google.troubles = [Trouble(asked, answer, times=3)]
    run = whole(patient)
    assert await applied(run) == {}
    assert (await run.remaining()).is_settled
    [line] = told
    what = "5 min until the account is known" if answer is NO_ACCOUNT else f"2 min until {role} is in force"
    assert line == f"waiting up to {what}, if it is new; --no-wait does not wait: {answer.message}"


async def test_it_does_not_wait_for_ever(
    patient: GoogleAdmin, google: GoogleFake, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_FOR_ACCOUNT", timedelta(seconds=0.02))
    google.troubles = [Trouble(r"PUT .*/subscriptions/", NO_ACCOUNT, times=1000)]
    notes = await applied(run_for(patient, wanted()))
    assert notes
    assert all("does not exist" in note for note in notes.values())
    assert len(told) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Refused(401, "UNAUTHENTICATED", "Request had invalid authentication credentials."),
        Refused(400, "INVALID_ARGUMENT", "The ack deadline is out of range."),
        Refused(403, "PERMISSION_DENIED", "Request had insufficient authentication scopes."),
        Refused(403, "PERMISSION_DENIED", "This API method requires billing to be enabled."),
        Refused(
            403, "PERMISSION_DENIED", "Request is prohibited by organization's policy. vpcServiceControls"
        ),
    ],
)
async def test_it_does_not_wait_for_a_mistake(
    patient: GoogleAdmin, google: GoogleFake, told: list[str], answer: Refused
) -> None:
    google.troubles = [Trouble(r"PUT .*/topics/.*dead-letters", answer, times=5)]
    assert await applied(whole(patient))
    assert told == []


async def test_without_patience_a_refusal_comes_at_once(admin: GoogleAdmin, google: GoogleFake) -> None:
    google.troubles = [Trouble(r"GET .*/topics$", NO_ROLE, times=1000)]
    with pytest.raises(GoogleForbidden, match=r"the account that provisions needs roles/pubsub\.editor"):
        await run_for(admin, wanted()).plan()
    assert len(google.calls) < 10

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from receiver.google.client import GoogleClient
from receiver.google.endpoints import Endpoints
from receiver.provision.google_admin import QUOTA_RETRIES, GoogleAdmin
from tests import google_fake
from tests.google_fake import GoogleFake


@pytest.fixture
def google() -> Iterator[GoogleFake]:
    """Google's stand-in, empty. What it was asked must be what the discovery documents describe."""
    with google_fake.running() as fake:
        yield fake


@pytest.fixture
async def admin(google: GoogleFake) -> AsyncIterator[GoogleAdmin]:
    """The stand-in as provisioning sees it."""
    client = GoogleClient(retries=QUOTA_RETRIES)
    url = google.url
    yield GoogleAdmin(client, Endpoints(f"{url}/v1", f"{url}/v1", f"{url}/v3", f"{url}/v1"))
    await client.close()

from __future__ import annotations

import pytest

from receiver.doctor.google_look import region_of


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://shop-415104041262.europe-west2.run.app", "europe-west2"),
        ("https://shop-abc-ew.a.run.app", None),
        ("https://tasks.shop.example", None),
        (None, None),
    ],
)
def test_an_address_says_where_the_service_is(url: str | None, region: str | None) -> None:
    assert region_of(url) == region

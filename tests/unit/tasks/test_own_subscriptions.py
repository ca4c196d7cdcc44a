"""Which subscription may bring which task's messages."""

from __future__ import annotations

from dataclasses import replace

import pytest

from receiver import TaskRoute
from receiver.errors import Rejected, RejectionReason, SettingError
from receiver.settings import Settings, Subscriptions
from receiver.tasks.own_subscriptions import OwnSubscriptions

OWN = Settings(project_id="shop-prod", environment="prod", namespace="shop", subscriptions=Subscriptions.OWN)
PREFIX = "projects/shop-prod/subscriptions/prod--shop"


def send_mail(data: bytes = b"") -> None: ...


def clean_up() -> None: ...


HERE = send_mail.__module__
MAIL = TaskRoute(send_mail, aliases=["former", "old.mail"], topic="projects/other/topics/orders")
CLEAN = TaskRoute(clean_up)


def test_any_subscription_costs_nothing() -> None:
    assert OwnSubscriptions.of(Settings(project_id="shop-prod"), [MAIL]) is None


def test_the_project_must_be_known() -> None:
    with pytest.raises(SettingError, match="GCP_PROJECT_ID is not set"):
        OwnSubscriptions.of(replace(OWN, project_id=None), [MAIL])


@pytest.mark.parametrize("kind", ["tasks", "foreign"])
@pytest.mark.parametrize("path", [f"{HERE}.send_mail", f"{HERE}.former", "former", "old.mail"])
def test_its_own_an_aliass_and_those_of_its_topic_may(kind: str, path: str) -> None:
    own = OwnSubscriptions.of(OWN, [MAIL, CLEAN])
    assert own is not None
    own.require(f"{PREFIX}.{kind}--{path}-sub", MAIL)


@pytest.mark.parametrize(
    ("subscription", "route"),
    [
        (f"{PREFIX}.tasks--{HERE}.clean_up-sub", MAIL),
        (f"{PREFIX}.foreign--{HERE}.clean_up-sub", CLEAN),
        (f"{PREFIX}.tasks--{HERE}.clean_up-sub", None),
        (f"{PREFIX}.tasks--{HERE}.send_mail-sub".replace("shop-prod", "another"), MAIL),
        (f"{PREFIX}.tasks--{HERE}.send_mail-sub".replace("prod--", "staging--"), MAIL),
        (f"{PREFIX}.tasks--{HERE}.send_mail-sub".rpartition("/")[2], MAIL),
        ("", MAIL),
    ],
)
def test_no_other_may(subscription: str, route: TaskRoute | None) -> None:
    own = OwnSubscriptions.of(OWN, [MAIL, CLEAN])
    assert own is not None
    with pytest.raises(Rejected) as refused:
        own.require(subscription, route)
    assert refused.value.reason is RejectionReason.WRONG_SUBSCRIPTION


def test_an_unknown_task_by_an_unknown_subscription_is_only_unknown() -> None:
    """A later revision may know both: the message is kept as unknown, and replayed then."""
    own = OwnSubscriptions.of(OWN, [MAIL, CLEAN])
    assert own is not None
    own.require(f"{PREFIX}.tasks--{HERE}.new-sub", None)

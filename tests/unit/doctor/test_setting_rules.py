from __future__ import annotations

from dataclasses import replace

import pytest

from receiver.doctor.setting_rules import Configuration
from receiver.errors import SettingError
from receiver.record.database import Database
from receiver.serving.instance import require_serving
from receiver.settings import Settings
from tests.unit.doctor.judging import GOOD, codes, configured


class TestConfiguration:
    @pytest.mark.parametrize(
        ("changed", "expected"),
        [
            ({}, {}),
            ({"DATABASE_URL": ""}, {"setting-missing": "ERROR"}),
            ({"TASKS_THREADS": "0"}, {"setting-refused": "ERROR"}),
            ({"TASKS_PUSH_AUTH": "off"}, {"push-auth-off": "WARNING"}),
            ({"K_SERVICE": "shop", "TASKS_PUSH_AUTH": "off"}, {"setting-refused": "ERROR"}),
            ({"TASKS_SUBSCRIPTIONS": "any"}, {"subscriptions-any": "NOTE"}),
            ({"TASKS_OIDC_CERTS_URL": "https://keys.example/certs"}, {"certificates-elsewhere": "WARNING"}),
            (
                {"TASKS_OIDC_CERTS_URL": "https://googleapis.com.evil.example/"},
                {"certificates-elsewhere": "WARNING"},
            ),
            ({"TASKS_OIDC_CERTS_URL": "http://127.0.0.1:1/"}, {"certificates-elsewhere": "NOTE"}),
            ({"PUBSUB_EMULATOR_HOST": "127.0.0.1:1"}, {"stand-in": "NOTE"}),
        ],
    )
    def test_what_is_said(self, changed: dict[str, str], expected: dict[str, str]) -> None:
        assert codes(configured(GOOD | changed)) == expected

    def test_every_bad_value_is_named_and_none_of_a_secret(self) -> None:
        bad = {
            "TASKS_THREADS": "0",
            "PORT": "x",
            "DATABASE_URL": "mysql://u:hunter2@h/d",
            "TASKS_LEASE_SECOND": "1",
        }
        settings = Configuration.read(GOOD | bad).settings
        refused = [one for one in configured(GOOD | bad) if one.code == "setting-refused"]
        assert sorted(one.what.split()[0] for one in refused) == sorted(bad)
        assert settings == replace(
            Settings.from_environ({**GOOD, "DATABASE_URL": ""}), instance=settings.instance
        )
        assert "hunter2" not in str(refused)

    def test_everything_that_is_missing_is_named(self) -> None:
        found = configured({})
        assert [one.what.split()[0] for one in found if one.code == "setting-missing"] == [
            "GCP_PROJECT_ID",
            "CLOUD_RUN_SERVICE_URL",
            "TASKS_SERVICE_ACCOUNT",
            "DATABASE_URL",
        ]

    @pytest.mark.parametrize("push_auth", ["oidc", "off"])
    @pytest.mark.parametrize("name", GOOD)
    def test_what_is_missing_is_what_serving_refuses(self, name: str, push_auth: str) -> None:
        environ = {**GOOD, "TASKS_PUSH_AUTH": push_auth, name: ""}
        try:
            settings = Settings.from_environ(environ)
            require_serving(settings)
            Database.configured(settings)
            refused = []
        except SettingError as error:
            refused = [error.variable]
        assert Configuration.read(environ).missing == refused

"""A request enqueues, and the queue has it once the request's transaction has committed."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from project_name.web import app

from receiver.testing import TaskQueue


def test_a_new_user_gets_one_mail(
    task_queue: TaskQueue, receiver_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", receiver_database_url)
    with TestClient(app) as client:
        mail = client.post("/users/ada").json()["task"]
        assert client.post("/users/ada").status_code == 409  # no second user, and no second mail
        assert [delivered.status for delivered in task_queue.deliver_all()] == [200]
        assert client.get(f"/mails/{mail}").json() == {"status": "SUCCESSFUL", "attempts": 1}

"""A Django view under gunicorn that records its tasks through the ORM, as frameworks on `django.tasks` do."""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import django
from django.conf import settings

if TYPE_CHECKING:
    from django.http import HttpRequest

dsn = urlsplit(os.environ["DATABASE_URL"])
settings.configure(
    SECRET_KEY="benchmark",  # noqa: S106 - it signs nothing
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    MIDDLEWARE=["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": dsn.path.lstrip("/"),
            "USER": dsn.username,
            "PASSWORD": dsn.password,
            "HOST": dsn.hostname,
            "PORT": dsn.port,
            "CONN_MAX_AGE": None,
        }
    },
)
django.setup()

from django.core.wsgi import get_wsgi_application  # noqa: E402 - Django has to be set up first
from django.db import connection, models, transaction  # noqa: E402 - as above
from django.http import HttpResponse  # noqa: E402 - as above
from django.urls import path  # noqa: E402 - as above
from django.utils import timezone  # noqa: E402 - as above
from django.views.decorators.csrf import csrf_exempt  # noqa: E402 - as above
from google.auth import jwt  # noqa: E402 - as above

with urlopen(os.environ["CERTS_URL"]) as answer:  # noqa: S310 - a loopback address of our own
    certs = json.load(answer)


class Execution(models.Model):
    """A run of a task."""

    task_id = models.CharField(max_length=255, primary_key=True)
    task_name = models.TextField()
    args = models.JSONField()
    kwargs = models.JSONField()
    status = models.CharField(max_length=20)
    attempt = models.IntegerField(default=0)
    result = models.JSONField(null=True)
    error = models.TextField(null=True)  # noqa: DJ001 - null is "none"
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        """Its table."""

        app_label = "bench"
        db_table = "executions"


class Transition(models.Model):
    """A change of state: the framework being succeeded writes one for each."""

    id = models.BigAutoField(primary_key=True)
    task_id = models.CharField(max_length=255, db_index=True)
    from_status = models.CharField(max_length=20)
    to_status = models.CharField(max_length=20)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Its table."""

        app_label = "bench"
        db_table = "transitions"


def make_tables() -> None:
    """Both, unless they are there. One worker after another: gunicorn ends when a worker cannot start."""
    with connection.schema_editor() as editor:
        editor.execute("SELECT pg_advisory_xact_lock(1)")
        there = connection.introspection.table_names()
        for model in (Execution, Transition):
            if model._meta.db_table not in there:
                editor.create_model(model)


def add(*parts: Any) -> int:
    """The task."""
    return len(parts)


TASKS = {"add": add}


@csrf_exempt
def push(request: HttpRequest) -> HttpResponse:
    """One delivery."""
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    try:
        claims = jwt.decode(token, certs=certs, audience=os.environ["AUDIENCE"])
    except ValueError:
        return HttpResponse(status=403)
    if claims["email"] != os.environ["EMAIL"]:
        return HttpResponse(status=403)
    task = json.loads(base64.b64decode(json.loads(request.body)["message"]["data"]))
    with transaction.atomic():
        row, _ = Execution.objects.select_for_update().get_or_create(
            task_id=task["task_id"],
            defaults={
                "task_name": task["task_name"],
                "args": task["args"],
                "kwargs": task["kwargs"],
                "status": "READY",
            },
        )
        if row.status == "SUCCESSFUL":
            return HttpResponse("ok")
        Transition.objects.create(task_id=row.task_id, from_status=row.status, to_status="RUNNING")
        row.status, row.attempt, row.started_at = "RUNNING", row.attempt + 1, timezone.now()
        row.save()
    try:
        row.result = TASKS[task["task_name"]](*task["args"], **task["kwargs"])
        row.status = "SUCCESSFUL"
    except Exception as error:  # noqa: BLE001 - whatever a task raises is its failure
        row.status, row.error = "FAILED", repr(error)
    row.finished_at = timezone.now()
    with transaction.atomic():
        row.save()
        Transition.objects.create(task_id=row.task_id, from_status="RUNNING", to_status=row.status)
    return HttpResponse("ok", status=200 if row.status == "SUCCESSFUL" else 500)


urlpatterns = [path("tasks/pubsub/", push)]
make_tables()
application = get_wsgi_application()

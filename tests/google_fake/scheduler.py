"""Scheduler jobs, with Cloud Scheduler's limits, defaults and refusals."""

from __future__ import annotations

import re
from typing import Any

from receiver.tasks.schedule import ScheduleError, check_schedule
from tests.google_fake.discovery import Call, Refused
from tests.google_fake.paging import page

NAME = re.compile(r"(projects/([^/]+)/locations/[^/]+)/jobs/[A-Za-z0-9_-]{1,500}")
RETRY = {
    "maxRetryDuration": "0s",
    "minBackoffDuration": "5s",
    "maxBackoffDuration": "3600s",
    "maxDoublings": 5,
}
FIXED = {"name"}


class Scheduler:
    """What is there, by full name, in the locations that are there."""

    def __init__(self, locations: tuple[str, ...]) -> None:
        self.locations = locations
        self.jobs: dict[str, dict[str, Any]] = {}

    def answer(self, call: Call) -> dict[str, Any]:
        location = call.name.split("/")[3]
        if location not in self.locations:
            raise Refused(404, "NOT_FOUND", f"Location '{location}' is not a valid location.")
        match call.method.rpartition(".")[2]:
            case "list":
                start = f"{call.name}/jobs/"
                found = [self.jobs[name] for name in sorted(self.jobs) if name.startswith(start)]
                return page("jobs", found, call.query, 500)
            case "create":
                name = call.body.get("name", "")
                if not name.startswith(f"{call.name}/jobs/"):
                    raise _invalid("Job name must be in the parent.")
                if name in self.jobs:
                    raise Refused(409, "ALREADY_EXISTS", f"Job {name} already exists.")
                self.jobs[name] = _checked(dict(call.body))
                return self.jobs[name]
            case "get":
                return self._found(call.name)
            case "patch":
                changed = _patched(self._found(call.name), call)
                self.jobs[call.name] = _checked(changed)
                return self.jobs[call.name]
            case "delete":
                self._found(call.name)
                del self.jobs[call.name]
                return {}
            case "pause":
                self._found(call.name)["state"] = "PAUSED"
                return self.jobs[call.name]
            case verb:
                raise Refused(501, "UNIMPLEMENTED", f"nobody has taught this {verb}")

    def _found(self, name: str) -> dict[str, Any]:
        if name not in self.jobs:
            raise Refused(404, "NOT_FOUND", "Job not found.")
        return self.jobs[name]


def _patched(current: dict[str, Any], call: Call) -> dict[str, Any]:
    mask = [field for field in call.query.get("updateMask", "").split(",") if field]
    if not mask or FIXED & set(mask):
        raise _invalid("An update needs a mask, without the name.")
    changed = dict(current)
    for field in mask:
        assert "." not in field, "nobody has taught this masks of fields in fields"
        changed.pop(field, None)
        changed |= {field: call.body[field]} if field in call.body else {}
    return changed


def _checked(job: dict[str, Any]) -> dict[str, Any]:
    name = NAME.fullmatch(job["name"])
    if name is None:
        raise _invalid(f"Job name must match {NAME.pattern}")
    if len(job.get("description", "")) > 500:
        raise _invalid("The description is longer than 500 characters.")
    try:
        check_schedule(job.get("schedule", ""))
    except ScheduleError as error:
        raise _invalid(f"Schedule or time zone is invalid: {error}") from None
    targets = [field for field in ("pubsubTarget", "httpTarget", "appEngineHttpTarget") if field in job]
    if len(targets) != 1:
        raise _invalid("A job has exactly one target.")
    if targets == ["pubsubTarget"]:
        target = job["pubsubTarget"]
        if not re.fullmatch(rf"projects/{re.escape(name[2])}/topics/[^/]+", target.get("topicName", "")):
            raise _invalid("The topic must be projects/PROJECT/topics/TOPIC, in the job's own project.")
        if not target.get("data") and not target.get("attributes"):
            raise _invalid("Pubsub message must contain either non-empty data, or at least one attribute.")
    retry = RETRY | job.get("retryConfig", {})
    if not 0 <= retry.get("retryCount", 0) <= 5:
        raise _invalid("The retry count must be 0 to 5.")
    state = "PAUSED" if job.get("state") == "PAUSED" else "ENABLED"
    return {
        "timeZone": "UTC",
        **job,
        "retryConfig": retry,
        "state": state,
        "scheduleTime": "2030-01-01T00:00:00Z",
    }


def _invalid(message: str) -> Refused:
    return Refused(400, "INVALID_ARGUMENT", message)

"""The stand-in's door: real HTTP on loopback, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.google_fake.discovery import Call, Refused, Undescribed, described
from tests.google_fake.iam import Policies
from tests.google_fake.pubsub import Pubsub
from tests.google_fake.run import CloudRun
from tests.google_fake.scheduler import Scheduler

NUMBERS = {"shop-prod": "415104041262"}
"""Projects, and their numbers."""


@dataclass
class Trouble:
    """Something that happens to requests whose `VERB /path` matches: an answer, or what somebody else does just before it."""

    pattern: str
    answer: Refused | None = None
    before: Callable[[], object] | None = None
    times: int = 1


@dataclass
class GoogleFake:
    """What the stand-in knows, and what it was asked. `host` is what PUBSUB_EMULATOR_HOST takes."""

    host: str = ""
    pubsub: Pubsub = field(default_factory=Pubsub)
    scheduler: Scheduler = field(default_factory=lambda: Scheduler(("europe-west2", "us-central1")))
    run: CloudRun = field(default_factory=CloudRun)
    policies: Policies = field(default_factory=Policies)
    calls: list[str] = field(default_factory=list)
    """`VERB /path` of every request."""
    undescribed: list[str] = field(default_factory=list)
    """What no discovery document describes. A test that leaves something here has failed."""
    troubles: list[Trouble] = field(default_factory=list)
    latency: float = 0.0
    """Seconds before an answer."""
    in_flight: int = 0
    most_in_flight: int = 0

    @property
    def url(self) -> str:
        """What TASKS_SCHEDULER_ENDPOINT takes."""
        return f"http://{self.host}"

    def fail(self, pattern: str, code: int, status: str, message: str = "because", times: int = 1) -> None:
        """The next requests that match are answered like this."""
        self.troubles.append(Trouble(pattern, Refused(code, status, message), times=times))

    def before(self, pattern: str, act: Callable[[], object], times: int = 1) -> None:
        """Just before the next requests that match, somebody else does something."""
        self.troubles.append(Trouble(pattern, before=act, times=times))

    def writes(self) -> list[str]:
        """Every request that may change something."""
        return [call for call in self.calls if not call.startswith("GET ") and ":getIamPolicy" not in call]

    def everything(self) -> dict[str, Any]:
        """A copy of all that is there, by full name."""
        there = self.pubsub.topics | self.pubsub.subscriptions | self.scheduler.jobs
        copied: dict[str, Any] = json.loads(json.dumps(there))
        return copied

    async def answer(self, request: Request) -> Response:
        """One request."""
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.latency:
                await asyncio.sleep(self.latency)
            body = await request.body()
            path = request.url.path
            self.calls.append(f"{request.method} {path}")
            return _json(self._answered(request.method, path, dict(request.query_params), body))
        except Undescribed as error:
            self.undescribed.append(f"{request.method} {request.url.path}: {error.message}")
            return _error(error)
        except Refused as error:
            return _error(error)
        finally:
            self.in_flight -= 1

    def _answered(self, verb: str, path: str, query: dict[str, str], body: bytes) -> dict[str, Any]:
        api = _api(path)
        call = described(api, verb, path, query, body)
        self._trouble(f"{verb} {path}")
        match api:
            case "cloudresourcemanager.v3":
                return self._project(call)
            case "cloudscheduler.v1":
                return self.scheduler.answer(call)
            case "run.v2" if not call.method.endswith("IamPolicy"):
                return self.run.answer(call)
            case _ if call.method.endswith("IamPolicy"):
                return self._policy(call)
            case _:
                return self.pubsub.answer(call)

    def _trouble(self, asked: str) -> None:
        for trouble in self.troubles:
            if trouble.times and re.search(trouble.pattern, asked):
                trouble.times -= 1
                if trouble.before is not None:
                    trouble.before()
                if trouble.answer is not None:
                    raise trouble.answer

    def _project(self, call: Call) -> dict[str, Any]:
        project = call.name.removeprefix("projects/")
        if project not in NUMBERS:
            raise Refused(403, "PERMISSION_DENIED", "The caller does not have permission")
        return {"name": f"projects/{NUMBERS[project]}", "projectId": project, "state": "ACTIVE"}

    def _policy(self, call: Call) -> dict[str, Any]:
        there = self.pubsub.topics | self.pubsub.subscriptions | self.run.services
        if "/serviceAccounts/" not in call.name and call.name not in there:
            raise Refused(404, "NOT_FOUND", f"Resource not found (resource={call.name}).")
        return self.policies.answer(call)


def _api(path: str) -> str:
    if path.startswith("/v3/"):
        return "cloudresourcemanager.v3"
    if path.startswith("/v2/"):
        return "run.v2"
    if "/serviceAccounts/" in path:
        return "iam.v1"
    return "cloudscheduler.v1" if "/locations/" in path else "pubsub.v1"


def _json(value: object, code: int = 200) -> Response:
    return Response(json.dumps(value), code, media_type="application/json")


def _error(error: Refused) -> Response:
    return _json(
        {"error": {"code": error.code, "message": error.message, "status": error.status}}, error.code
    )


class _Server(uvicorn.Server):
    """Ends at once when told, where uvicorn's own looks up ten times a second."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", lifespan="off"))
        self._loop = asyncio.new_event_loop()
        self._told = asyncio.Event()

    async def main_loop(self) -> None:
        await self._told.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def run_on(self, listener: socket.socket) -> None:
        self._loop.run_until_complete(self.serve([listener]))
        self._loop.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._told.set)


@contextlib.contextmanager
def running() -> Iterator[GoogleFake]:
    """A stand-in on a free port, for the time of the block.

    Raises:
        AssertionError: at the end, when something was asked that no discovery document describes.
    """
    fake = GoogleFake()
    # With its protocol named, asyncio turns Nagle's algorithm off: every answer would wait 40 ms else.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    fake.host = f"127.0.0.1:{listener.getsockname()[1]}"
    methods = ["GET", "PUT", "POST", "PATCH", "DELETE"]
    server = _Server(Starlette(routes=[Route("/{path:path}", fake.answer, methods=methods)]))
    thread = threading.Thread(target=server.run_on, args=[listener], name="Google's stand-in", daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.stop()
        thread.join(30)
        listener.close()
    if fake.undescribed:
        raise AssertionError("Google describes no such request: " + "; ".join(fake.undescribed))

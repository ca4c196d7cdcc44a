"""Receiver processes: how they are started, what is pushed to them, and the marks that their tasks leave."""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from receiver.emulator import push_client
from receiver.emulator.push_client import Pusher
from receiver.emulator.signer import Signer
from tests.stage.cloud_certificates import on_cloud_run
from tests.stage.instance import Instance
from tests.stage.record import MODULE, Record
from tests.stage.servers import LocalServer
from tests.stage.waiting import PATIENCE, eventually
from tests.stage.warm import WarmInstance
from tests.stage.wire import Answer, answers, post, push

PLUGIN = Path(__file__).parent / "plugin"
"""The folder of all plugins that tests run."""


def new_instance(
    database_url: str,
    signer: Signer | None,
    certs_url: str | None,
    folder: Path,
    env: Mapping[str, str] | None = None,
    modules: str = MODULE,
    port: int | None = None,
) -> Instance:
    """A receiver that has not been started, a warm process; its tasks leave their marks in `folder`."""
    cloud = on_cloud_run(certs_url) if certs_url and "K_SERVICE" in (env or {}) else {}
    return WarmInstance(
        database_url=database_url,
        modules=modules,
        signer=signer,
        certs_url=certs_url,
        folder=PLUGIN,
        env={"MARKS_FOLDER": str(folder), **cloud, **(env or {})},
        port=port,
    )


def new_label() -> str:
    """A task_id that nobody has."""
    return uuid.uuid4().hex


def message(task: str, label: str, **kwargs: object) -> bytes:
    """The push of a task under a label, which is its id too."""
    return push_client.message(task, kwargs={"label": label, **kwargs}, task_id=label)


@dataclass(frozen=True)
class Marks:
    """What the tasks left behind, and the gates that they wait at."""

    folder: Path

    def calls(self, label: str) -> int:
        """How often the function was called."""
        return self._size(label)

    async def called(self, *labels: str, times: int = 1) -> None:
        """Returns once each was called so often."""
        await eventually(lambda: all(self.calls(label) >= times for label in labels))

    def let_go(self, *labels: str) -> None:
        """Ends the tasks that wait under these labels."""
        for label in labels:
            (self.folder / f"{label}.open").touch()

    def count(self, label: str, what: str = "starts") -> int:
        """How often one of `fault_tasks` started (`starts`), came to its gate (`ready`), had its plain effect (`effects`)."""
        return self._size(f"{label}.{what}")

    async def ready(self, label: str, start: int = 1) -> None:
        """Returns when so many starts of it have come to their gates."""
        await eventually(lambda: self.count(label, "ready") >= start)

    def open_gate(self, label: str, start: int = 1) -> None:
        """Lets one start of it go."""
        (self.folder / f"{label}.open.{start}").touch()

    def _size(self, name: str) -> int:
        marks = self.folder / name
        return marks.stat().st_size if marks.exists() else 0


@dataclass(frozen=True, slots=True)
class Stage:
    """One receiver with its surroundings. `label` names what one test pushes: task_id, marks, everything."""

    instance: Instance
    record: Record
    folder: Path
    postgres: LocalServer
    label: str

    @property
    def pusher(self) -> Pusher:
        return self.instance.pusher()

    @property
    def marks(self) -> Marks:
        return Marks(self.folder)

    async def push(self, body: bytes) -> Answer:
        """Pushes as Pub/Sub would, with a good token."""
        return await push(self.instance, body)

    async def raw(self, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> Answer:
        """Pushes with these very headers."""
        return await asyncio.to_thread(post, self.instance, headers, body)

    def calls(self, label: str | None = None) -> int:
        """How often the function was called with this label."""
        return self.marks.calls(label or self.label)

    async def called(self, label: str | None = None, *, times: int = 1) -> None:
        """Returns once the function has been called."""
        await self.marks.called(label or self.label, times=times)

    def let_go(self, label: str | None = None) -> None:
        """Ends the task that waits under this label."""
        self.marks.let_go(label or self.label)


@dataclass(eq=False)
class Receiver:
    """One receiver process that may be killed and frozen, and the pushes that are under way to it."""

    instance: Instance
    marks: Marks
    pushes: list[asyncio.Task[Answer]] = field(default_factory=list)
    sent: int = 0

    async def push(self, body: bytes, *, patience: float = PATIENCE) -> Answer:
        """One push, as Pub/Sub sends it: after `patience` seconds it goes away (TimeoutError)."""

        def count() -> None:
            self.sent += 1

        return await push(self.instance, body, patience=patience, on_sent=count)

    def begin(self, body: bytes) -> asyncio.Task[Answer]:
        """The same, under way."""
        self.pushes.append(asyncio.create_task(self.push(body)))
        return self.pushes[-1]

    async def running(self, task: str, label: str, start: int = 1) -> asyncio.Task[Answer]:
        """A push whose task has come to its gate."""
        answer = self.begin(message(task, label))
        await self.marks.ready(label, start)
        return answer

    def signal(self, sig: signal.Signals) -> None:
        self.instance.process.send_signal(sig)

    def kill(self) -> None:
        self.instance.kill()

    async def exited(self, *, within: float = PATIENCE) -> int:
        """Its exit code, once it has one."""
        await eventually(lambda: self.instance.process.poll() is not None, patience=within)
        return self.instance.process.wait()

    async def logged(self, text: str, *, within: float = PATIENCE) -> str:
        """Its log, once it contains this; when it never does, the failure shows the log."""
        try:
            await eventually(lambda: text in self.instance.log(), patience=within)
        except AssertionError as error:
            code = self.instance.process.poll()
            raise AssertionError(f"{error}; exit code {code}, log:\n{self.instance.log()}") from None
        return self.instance.log()

    async def started(self) -> None:
        """Returns when it, and not somebody else on its port, answers."""
        await self.logged("receiving pushes")
        await eventually(lambda: answers(self.instance.port))

    def close(self) -> None:
        """Ends it in whatever state it is."""
        for push_under_way in self.pushes:
            push_under_way.cancel()
        if self.instance.process.poll() is None:
            self.signal(signal.SIGKILL)  # also ends a process that is stopped
        self.instance.close()


def launched(database_url: str, marks: Marks, env: Mapping[str, str]) -> Receiver:
    """A receiver of `fault_tasks`, unsigned, that may not answer yet."""
    made = new_instance(database_url, None, None, marks.folder, env, "fault_tasks")
    made.launch()
    return Receiver(made, marks)


def memory(instance: Instance, what: str = "VmRSS") -> int:
    """Bytes that the process holds now (VmRSS), or held at most (VmHWM)."""
    for line in Path(f"/proc/{instance.pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc does not say {what}")


def reset_peak(instance: Instance) -> None:
    """VmHWM starts anew from what is held now."""
    Path(f"/proc/{instance.pid}/clear_refs").write_text("5")

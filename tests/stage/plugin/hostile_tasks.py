"""Tasks that do their worst, and ordinary ones that run beside them and must never notice."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from datetime import datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
from sqlalchemy import text

from receiver import TaskContext, TaskRoute, task

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(os.environ.get("MARKS_FOLDER", "."))
UGLY = 'ugly \n{"severity":"INFO"}\r\n\x1b[31m\u2028\ud800\0'
HUGE = 50 * 1024 * 1024
"""Characters of what is huge."""


def note(label: str) -> None:
    """One call more."""
    with (FOLDER / label).open("a") as marks:
        marks.write("x")


def is_open(label: str) -> bool:
    return (FOLDER / f"{label}.open").exists()


# --- ordinary ones ------------------------------------------------------------------------------------------------


@task
async def plain(label: str, ballast: object = None) -> str:
    note(label)
    return "done"


@task
async def effect(ctx: TaskContext, label: str, seconds: float = 0.0) -> str:
    """Writes one line through `ctx`; `seconds` pass while its transaction is open."""
    connection = await ctx.connection()
    await connection.execute(text("INSERT INTO effects VALUES (:label)"), {"label": label})
    note(label)
    await asyncio.sleep(seconds)
    return "written"


@task
async def gated_effect(ctx: TaskContext, label: str) -> str:
    connection = await ctx.connection()
    await connection.execute(text("INSERT INTO effects VALUES (:label)"), {"label": label})
    note(label)
    while not is_open(label):  # noqa: ASYNC110 - the gate is a file that another process makes
        await asyncio.sleep(0.01)
    return "written"


@task
async def gated(label: str, ballast: object = None) -> str:
    note(label)
    while not is_open(label):  # noqa: ASYNC110 - the gate is a file that another process makes
        await asyncio.sleep(0.01)
    return "done"


@task
def gated_in_thread(label: str) -> str:
    note(label)
    while not is_open(label):
        time.sleep(0.01)
    return "done"


@task
async def pass_time(seconds: float) -> int:
    """The certificates grow older by so much: an hour that nobody has to wait for. Tokens stay as good as they are."""
    moved = 0
    gc.unfreeze()  # the server has frozen what it began with, and what is frozen is not listed
    for found in gc.get_objects():
        if type(found).__name__ == "Certificates":
            before = found.clock
            found.clock = lambda before=before: before() + seconds
            moved += 1
    return moved


@task
async def use_the_loop(label: str) -> list[str]:
    """What asyncio offers must work in a task: it calls off itself and what it started."""
    note(label)
    seen = []
    try:
        async with asyncio.timeout(0.02):
            await asyncio.Event().wait()
    except TimeoutError:
        seen.append("timeout")
    try:
        await asyncio.wait_for(asyncio.Event().wait(), 0.02)
    except TimeoutError:
        seen.append("wait_for")
    child = asyncio.create_task(asyncio.Event().wait())
    await asyncio.sleep(0)
    child.cancel()
    await asyncio.wait({child}, timeout=1)
    seen.append("cancelled" if child.cancelled() else "still there")
    try:
        async with asyncio.TaskGroup() as tasks_of_ours:
            tasks_of_ours.create_task(asyncio.Event().wait())
            raise ValueError("the group ends")
    except ExceptionGroup:
        seen.append("group")
    return seen


# --- how a task may end -------------------------------------------------------------------------------------------


class Mute(Exception):
    """Neither `str` nor `repr` can be had of it."""

    def __str__(self) -> str:
        raise SystemExit("from __str__")

    def __repr__(self) -> str:
        raise KeyboardInterrupt("from __repr__")


class Sealed(Exception):
    """Nothing can be set on it, and whoever asks it for anything is sorry."""

    def __setattr__(self, name: str, value: object) -> None:
        raise SystemExit("from __setattr__")

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit("from __getattribute__")


class Liar(Exception):
    """Its class is not what it says."""

    @property  # type: ignore[misc]  # a class that cannot be asked is the point
    def __class__(self) -> type:
        raise KeyboardInterrupt("from __class__")


def leave() -> NoReturn:
    sys.exit("the task wants to leave")


def interrupt() -> NoReturn:
    raise KeyboardInterrupt("the task presses ^C")


def close_generator() -> NoReturn:
    raise GeneratorExit("the task closes itself")


def cancel() -> NoReturn:
    raise asyncio.CancelledError("the task cancels itself")


def recur() -> NoReturn:
    recur()


def stop_iterating() -> NoReturn:
    raise StopIteration("no more")


def stop_iterating_async() -> NoReturn:
    raise StopAsyncIteration("no more")


def mute() -> NoReturn:
    raise Mute


def sealed() -> NoReturn:
    raise Sealed


def liar() -> NoReturn:
    raise Liar


def group() -> NoReturn:
    raise BaseExceptionGroup("several", [ValueError("one"), ExceptionGroup("inner", [Mute()]), SystemExit(3)])


def wide_group() -> NoReturn:
    shared: BaseException = SystemExit("leaf")
    for _ in range(30):
        shared = BaseExceptionGroup("doubled", [shared, shared])
    raise shared


def bad_text() -> NoReturn:
    raise ValueError("a\0b \ud800 \x1b[31mred\x1b[0m\r\n500 forged: line\n\u2028end")


def huge_message() -> NoReturn:
    raise ValueError("x" * HUGE)


def huge_traceback() -> NoReturn:
    """Notes, a chain and a line of source that are megabytes each."""
    line = "raise ValueError(" + repr("y" * (HUGE // 10)) + ")"
    for _ in range(10):
        try:
            exec(compile(line, "generated", "exec"))  # noqa: S102 - generated code is the point
        except ValueError as error:
            error.add_note("n" * (HUGE // 10))
            last = error
    raise RuntimeError("z" * HUGE) from last


def huge_name() -> NoReturn:
    raise type("N" * 1_000_000, (Exception,), {})("named at length")


def chained_in_a_ring() -> NoReturn:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def change_surroundings() -> NoReturn:
    for name in [name for name in os.environ if name.startswith(("TASKS_", "DATABASE_", "CLOUD_RUN_"))]:
        del os.environ[name]
    os.chdir("/")
    sys.setrecursionlimit(900)
    raise ValueError("left a mess")


def leave_in_a_thread() -> NoReturn:
    thread = threading.Thread(target=sys.exit, args=(3,))
    thread.start()
    thread.join()
    raise ValueError("the thread has left")


def leak_threads() -> NoReturn:
    for _ in range(50):
        threading.Thread(target=threading.Event().wait, args=(30,), daemon=True).start()
    raise ValueError("leaked")


RAISES: dict[str, Callable[[], NoReturn]] = {
    made.__name__: made
    for made in (
        leave, interrupt, close_generator, cancel, recur, stop_iterating, stop_iterating_async, mute, sealed, liar, group,
        wide_group, bad_text, huge_message, huge_traceback, huge_name, chained_in_a_ring, change_surroundings,
        leave_in_a_thread, leak_threads,
    )
}  # fmt: skip


@task
async def fail(label: str, how: str) -> None:
    note(label)
    RAISES[how]()


@task
def fail_in_thread(label: str, how: str) -> None:
    note(label)
    RAISES[how]()


# --- what a task may return ---------------------------------------------------------------------------------------


class Nowhere(tzinfo):
    """A zone without a name; what it says of a time is left to others."""

    def dst(self, moment: datetime | None) -> None: ...

    def tzname(self, moment: datetime | None) -> None: ...


class Grudging(Nowhere):
    """Encoding a time in it raises what no encoder expects."""

    def utcoffset(self, moment: datetime | None) -> NoReturn:
        raise SystemExit("from utcoffset")


class Complaining(Nowhere):
    """Encoding a time in it raises an ordinary exception, whose text cannot be had."""

    def utcoffset(self, moment: datetime | None) -> NoReturn:
        raise Mute


def cyclic() -> object:
    loop: list[object] = []
    loop.append(loop)
    return loop


def deep() -> object:
    value: object = []
    for _ in range(100_000):
        value = [value]
    return value


RETURNS: dict[str, Callable[[], object]] = {
    "cyclic": cyclic,
    "deep": deep,
    "huge": lambda: "x" * HUGE,
    "NUL": lambda: {"a": "b\0c"},
    "NUL in a key": lambda: {"a\0": 1},
    "surrogate": lambda: "\ud800",
    "NaN is null in JSON, a huge number cannot be read": lambda: msgspec.Raw(b"1e1000000"),
    "custom object": object,
    "grudging": lambda: datetime(2026, 1, 1, tzinfo=Grudging()),
    "complaining": lambda: [datetime(2026, 1, 1, tzinfo=Complaining())],
    "keys of no type": lambda: {(1, 2): 3},
    "generator": lambda: (number for number in range(3)),
    "raw that is no JSON": lambda: msgspec.Raw(b"{nonsense"),
    "raw that is no UTF-8": lambda: msgspec.Raw(b'"\xff"'),
    "raw that is too deep for PostgreSQL": lambda: msgspec.Raw(b"[" * 100_000 + b"]" * 100_000),
}


@task
async def give(label: str, what: str) -> object:
    note(label)
    return RETURNS[what]()


@task
def give_in_thread(label: str, what: str) -> object:
    note(label)
    return RETURNS[what]()


@task
async def give_with_effect(ctx: TaskContext, label: str, what: str) -> object:
    connection = await ctx.connection()
    await connection.execute(text("INSERT INTO effects VALUES (:label)"), {"label": label})
    note(label)
    return RETURNS[what]()


# --- what a task may do to its process -----------------------------------------------------------------------------


def cancel_itself_and_return() -> None:
    current = asyncio.current_task()
    assert current is not None
    current.cancel()


DISTURBS: dict[str, Callable[[], None]] = {made.__name__: made for made in (cancel_itself_and_return,)}


@task
async def disturb(label: str, how: str) -> str:
    note(label)
    DISTURBS[how]()
    return "disturbed"


class Falling:
    """Raises when it is collected, and when anybody looks at it."""

    def __repr__(self) -> NoReturn:
        raise SystemExit("from __repr__")

    def __del__(self) -> None:
        raise ValueError(UGLY)


def raise_ugly(*_: object) -> NoReturn:
    raise ValueError(UGLY)


async def raise_later() -> NoReturn:
    raise ValueError(UGLY)


def raise_in_a_thread() -> None:
    thread = threading.Thread(target=raise_ugly, name="a\nb")
    thread.start()
    thread.join()


def drop_a_failed_task() -> None:
    asyncio.get_running_loop().create_task(raise_later(), name="dropped\ntask")


def raise_in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(raise_ugly, Falling)


def log_what_is_no_record() -> None:
    logging.getLogger("task").handle(
        logging.makeLogRecord({"levelno": 40, "created": float("nan"), "msg": UGLY})
    )


MUTTERS: dict[str, Callable[[], object]] = {
    "thread": raise_in_a_thread,
    "__del__": Falling,
    "task": drop_a_failed_task,
    "callback": raise_in_a_callback,
    "warning": lambda: warnings.warn(UGLY, stacklevel=1),
    "never awaited": raise_later,
    "no record": log_what_is_no_record,
    "log": lambda: logging.getLogger("task").error(UGLY),
}


@task
async def mutter(label: str, how: str) -> None:
    note(label)
    MUTTERS[how]()


# --- children of the process ---------------------------------------------------------------------------------------


def sleep_on() -> None:
    time.sleep(600)


@task
def terminate_a_child(label: str) -> int | None:
    note(label)
    child = multiprocessing.get_context("fork").Process(target=sleep_on)
    child.start()
    child.terminate()
    child.join(20)
    child.kill()
    return child.exitcode


@task
def terminate_a_pool(label: str) -> list[int]:
    """A pool whose workers are busy when it is terminated: each has to obey its signal."""
    note(label)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pids = [pool.apply(os.getpid) for _ in range(4)]
        pool.apply_async(sleep_on)
    return pids


@task
def leave_a_child(label: str) -> int | None:
    note(label)
    child = multiprocessing.get_context("fork").Process(target=sleep_on)
    child.start()
    return child.pid


def exit_at_once() -> None:
    os._exit(7)


def crash() -> None:
    ctypes.string_at(0)


def close_every_descriptor() -> None:
    os.closerange(3, 4096)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


DIES: dict[str, Callable[[], None]] = {
    made.__name__: made for made in (exit_at_once, crash, close_every_descriptor, kill_itself)
}


@task
async def die(label: str, how: str) -> None:
    note(label)
    DIES[how]()


@task
def die_in_thread(label: str, how: str) -> None:
    note(label)
    DIES[how]()


@task
async def die_soon(label: str) -> None:
    """Dies when what came with it is running too."""
    note(label)
    await asyncio.sleep(0.3)
    exit_at_once()


@task
async def take_a_while(label: str) -> None:
    """Runs for longer than `die_soon`."""
    note(label)
    await asyncio.sleep(0.4)


tasks = [
    TaskRoute(plain),
    TaskRoute(effect),
    TaskRoute(gated),
    TaskRoute(gated_effect),
    TaskRoute(gated_in_thread),
    TaskRoute(pass_time),
    TaskRoute(use_the_loop, timeout=5),
    TaskRoute(fail),
    TaskRoute(fail_in_thread),
    TaskRoute(give),
    TaskRoute(give_in_thread),
    TaskRoute(give_with_effect),
    TaskRoute(disturb),
    TaskRoute(mutter),
    TaskRoute(terminate_a_child),
    TaskRoute(terminate_a_pool),
    TaskRoute(leave_a_child),
    TaskRoute(die, max_attempts=2),
    TaskRoute(die_in_thread, max_attempts=2),
    TaskRoute(die_soon, max_attempts=3),
    TaskRoute(take_a_while, max_attempts=3),
]

"""The receiver of `receiver dev`: a process of its own, started, watched and stopped; it never outlives its starter."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, Process
from typing import TYPE_CHECKING, Final

import httpx

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

STOP_TIMEOUT: Final = 12.0
"""Seconds for the receiver to end: its grace and what comes after."""

BREAKPOINT: Final = "receiver.dev.parent_watch.stand_still"
"""What breakpoint() calls with --debug, unless PYTHONBREAKPOINT says something else."""

POLL: Final = 0.03
"""Seconds between two looks at whether it answers yet."""


class Tether:
    """A pipe that closes with this process. `descriptor` is its read end, which children are given."""

    def __init__(self) -> None:
        self.descriptor, self._held = os.pipe()

    def close(self) -> None:
        """Lets go: whoever still hangs on it ends."""
        os.close(self._held)
        os.close(self.descriptor)

    async def start(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        environ: Mapping[str, str],
        stdin: int | None = DEVNULL,
        stdout: int | None = None,
        stderr: int | None = None,
        foreground: bool = False,
    ) -> Process:
        """Starts `receiver` with these arguments. In the foreground it shares the terminal's signals."""
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # the working folder is where plugins are looked for, and nothing else
            "-m",
            "receiver.dev.parent_watch",
            str(self.descriptor),
            *arguments,
            cwd=folder,
            env=dict(environ),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(self.descriptor,),
            start_new_session=not foreground,
        )


class Child:
    """One run of the receiver."""

    def __init__(self, process: Process, url: str) -> None:
        self._process = process
        self._url = url

    @classmethod
    async def start(
        cls, tether: Tether, *, folder: Path, environ: Mapping[str, str], host: str, url: str, debug: bool
    ) -> Child:
        """Starts it and does not wait. With `debug` it has no deadlines, and the terminal."""
        # Whoever stands at a breakpoint and presses Ctrl-C wants the end, not another prompt of pdb's.
        own = {"PYTHONBREAKPOINT": BREAKPOINT, **environ} if debug else environ
        process = await tether.start(
            ["serve", "--host", host, *(["--no-deadlines"] if debug else [])],
            folder=folder,
            environ=own,
            stdin=None if debug else DEVNULL,
            foreground=debug,
        )
        return cls(process, url)

    async def ready(self) -> bool:
        """Whether it answers, once it does; False if it ends before."""
        async with httpx.AsyncClient(trust_env=False) as client:
            while self._process.returncode is None:
                try:
                    if (await client.get(f"{self._url}/health", timeout=5)).is_success:
                        return True
                except httpx.TransportError:
                    await asyncio.sleep(POLL)
        return False

    async def ended(self) -> int:
        """Its exit code, once it has ended."""
        return await self._process.wait()

    async def stop(self) -> None:
        """Ends it by SIGTERM, or by SIGKILL if it does not end in time."""
        if self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()

    def kill(self) -> None:
        """SIGKILL, for whoever presses Ctrl-C twice."""
        if self._process.returncode is None:
            self._process.kill()

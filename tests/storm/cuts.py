"""A proxy to the database that also cuts a connection in the middle of a statement."""

from __future__ import annotations

import threading
from typing import Any, Final

from tests.stage.proxy import Fault, Proxy

STATEMENTS: Final = b"QPB"
"""How a message begins that holds a statement or its arguments (Query, Parse, Bind). A connection's first begins with a length."""

PATIENCE: Final = 8.0
"""Seconds that a cut may wait for its statement: a receiver that is dead sends none."""


class CuttingProxy(Proxy):
    """`cut_amid`: the next statement, whosever it is, arrives in half, and its connection ends."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._halving: list[threading.Event] = []

    def cut_amid(self) -> bool:
        """Whether it happened, within `PATIENCE`."""
        fired = threading.Event()

        async def arm() -> None:
            self._halving.append(fired)

        async def disarm() -> None:
            if fired in self._halving:
                self._halving.remove(fired)

        self._call(arm)
        fired.wait(PATIENCE)
        self._call(disarm)
        return fired.is_set()

    def lose_reply(self, needle: bytes) -> bool:
        """Whether a reply to such a statement was lost, within `PATIENCE`."""
        fault = self.lose_reply_to(needle)
        fault.fired.wait(PATIENCE)
        self._call(lambda: self._disarm(fault))
        return fault.fired.is_set()

    async def _disarm(self, fault: Fault) -> None:
        if fault in self._faults:
            self._faults.remove(fault)
        for link in self._links:
            if link.losing is fault:
                link.losing = None

    def _sent(self, link: Any, chunk: bytes) -> bool:
        if self._halving and chunk[0] in STATEMENTS:
            fired = self._halving.pop()
            link.server.write(chunk[: len(chunk) // 2])
            link.cut()
            fired.set()
            return False
        return super()._sent(link, chunk)
